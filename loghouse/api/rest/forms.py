"""Records, logs and members as JSON, and records from JSON.

Bytes are text where they are UTF-8: `value`, else `value_base64`; one of the two is there. A value that is
longer than the caller wants is cut, and its record says the whole length.
"""

from __future__ import annotations

import json
from base64 import b64decode, b64encode
from collections.abc import Iterable, Mapping
from typing import Any, Final

from loghouse.api.v1 import log_pb2
from loghouse.errors import InvalidRequestError
from loghouse.limits import REST_RECORDS_MAX, UINT32_MAX, UINT64_MAX
from loghouse.protocol.cursor_messages import DescribedCursor

_BATCH_FIELDS: Final = {"records", "expect_offset", "producer_id", "producer_sequence"}
_RECORD_FIELDS: Final = {"value", "value_base64", "key", "key_base64", "headers", "timestamp", "type", "term"}
_HEADER_FIELDS: Final = {"key", "value", "value_base64"}
_NUMBERS: Final = {"timestamp": UINT64_MAX, "term": UINT64_MAX, "type": UINT32_MAX}


# --- to JSON ----------------------------------------------------------------------------


def record_form(record: Any, *, is_text: bool, value_size_max: int) -> dict[str, Any]:
    """Return a record as JSON.

    Args:
        is_text: Bytes are text where that is possible, else always base64.
        value_size_max: How many bytes of the value are shown.
    """
    form: dict[str, Any] = {"offset": record.offset, "timestamp": record.timestamp}
    value = record.value
    if record.HasField("key"):
        _add_bytes(form, "key", record.key, is_text)
    if len(value) > value_size_max:
        form["value_size"] = len(value)
        value = _cut(value, value_size_max)
    _add_bytes(form, "value", value, is_text)
    if record.headers:
        headers = form["headers"] = []
        for header in record.headers:
            shown: dict[str, Any] = {"key": header.key}
            _add_bytes(shown, "value", header.value, is_text)
            headers.append(shown)
    if record.type:
        form["type"] = record.type
    if record.term:
        form["term"] = record.term
    return form


def _add_bytes(form: dict[str, Any], name: str, value: bytes, is_text: bool) -> None:
    if is_text:
        try:
            form[name] = value.decode()
            return
        except UnicodeDecodeError:
            pass
    form[f"{name}_base64"] = b64encode(value).decode()


def _cut(value: bytes, size_max: int) -> bytes:
    """Return the beginning of a value; no character of a text is cut in two."""
    end = size_max
    while end > max(0, size_max - 4) and value[end] & 0xC0 == 0x80:
        end -= 1
    return value[:end]


def cluster_form(reply: Any, *, node: str, version: str, subject: str) -> dict[str, Any]:
    """Return the answer of GetServers as JSON, with what is known of the answering node."""
    return {
        "cluster": reply.cluster_name,
        "cluster_uuid": reply.cluster_uuid.hex(),
        "node": node,
        "version": version,
        "subject": subject,
        "servers": [
            {
                "name": server.id,
                "address": server.rpc_addr,
                "grpc_address": server.grpc_addr,
                "role": server.role,
                "is_leader": server.is_leader,
                "is_alive": server.is_alive,
            }
            for server in reply.servers
        ],
    }


_MEMBER: Final = ("name", "id", "role", "liveness", "is_leader", "match_index", "address", "version")
_STATUS: Final = ("node", "version", "term", "leader", "commit_index", "lowest_offset", "next_offset")


def members_form(reply: Any) -> dict[str, Any]:
    """Return the answer of Status as JSON."""
    return {
        "cluster": reply.cluster_name,
        **{name: getattr(reply, name) for name in _STATUS},
        "members": [{name: getattr(member, name) for name in _MEMBER} for member in reply.members],
        "removed": list(reply.removed),
    }


_SETTINGS: Final = (
    "replicas",
    "retention_bytes",
    "retention_seconds",
    "record_bytes_max",
    "append_bytes_per_second_max",
)
_REPLICA: Final = ("node", "member", "is_leader", "is_alive")


def log_form(log: Any) -> dict[str, Any]:
    """Return a LogDescription as JSON."""
    settings: dict[str, Any] = {name: getattr(log.settings, name) for name in _SETTINGS}
    return {
        "name": log.name,
        "group": log.group,
        "epoch": log.epoch,
        "leader": log.leader,
        "created_at": log.created_at,
        "settings": {**settings, "tags": list(log.settings.tags)},
        "replicas": [{name: getattr(one, name) for name in _REPLICA} for one in log.replicas],
    }


_CURSOR: Final = (
    "epoch",
    "holder",
    "subject",
    "lease_milliseconds",
    "left_milliseconds",
    "waiting_count",
)


def cursor_form(cursor: DescribedCursor) -> dict[str, Any]:
    """Return a cursor as JSON."""
    return {
        "name": cursor.name,
        "position": cursor.position,
        "lag": cursor.known_lag,
        **{name: getattr(cursor, name) for name in _CURSOR},
    }


# --- from JSON --------------------------------------------------------------------------


def batch_from_json(body: bytes) -> log_pb2.ProduceBatchRequest:
    """Return the batch that a body asks to append; for a thread when the body is long.

    Raises:
        InvalidRequestError: It is not as the OpenAPI document says.
    """
    try:
        asked = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise InvalidRequestError("body", f"is not JSON: {error}") from None
    fields = _object("body", asked, _BATCH_FIELDS)
    records = fields.get("records")
    if not isinstance(records, list) or not 1 <= len(records) <= REST_RECORDS_MAX:
        raise InvalidRequestError("records", f"must be a list of 1 to {REST_RECORDS_MAX} records")
    made = [_record(f"records[{number}]", record) for number, record in enumerate(records)]
    return _request(made, fields)


def batch_from_octets(body: bytes, query: Mapping[str, str]) -> log_pb2.ProduceBatchRequest:
    """Return the batch of the one record whose value the body is; the query has its key."""
    record: dict[str, Any] = {"value": body}
    if "key" in query:
        record["key"] = query["key"].encode()
    expect = query.get("expect_offset")
    return _request([record], {} if expect is None else {"expect_offset": number_of("expect_offset", expect)})


def _request(records: list[dict[str, Any]], fields: Mapping[str, Any]) -> log_pb2.ProduceBatchRequest:
    try:
        batch = log_pb2.RecordBatch(records=records)
    except (TypeError, ValueError) as error:
        raise InvalidRequestError("records", str(error)) from None
    request = log_pb2.ProduceBatchRequest(batch=batch.SerializeToString(), record_count=len(records))
    for name, most in (("producer_id", UINT64_MAX), ("producer_sequence", UINT32_MAX)):
        if name in fields:
            setattr(request, name, _number(name, fields[name], most))
    if fields.get("expect_offset") is not None:
        request.expect_offset = _number("expect_offset", fields["expect_offset"], UINT64_MAX)
    return request


def _record(where: str, asked: Any) -> dict[str, Any]:
    fields = _object(where, asked, _RECORD_FIELDS)
    record: dict[str, Any] = {"value": _bytes(where, fields, "value")}
    if any(fields.get(name) is not None for name in ("key", "key_base64")):
        record["key"] = _bytes(where, fields, "key")
    for name, most in _NUMBERS.items():
        if name in fields:
            record[name] = _number(f"{where}.{name}", fields[name], most)
    headers = fields.get("headers")
    if headers is not None:
        if not isinstance(headers, list):
            raise InvalidRequestError(f"{where}.headers", "must be a list")
        record["headers"] = [_header(f"{where}.headers[{n}]", one) for n, one in enumerate(headers)]
    return record


def _header(where: str, asked: Any) -> dict[str, Any]:
    fields = _object(where, asked, _HEADER_FIELDS)
    key = fields.get("key")
    if not isinstance(key, str):
        raise InvalidRequestError(f"{where}.key", "must be a text")
    return {"key": key, "value": _bytes(where, fields, "value")}


def _object(where: str, asked: Any, known: Iterable[str]) -> Mapping[str, Any]:
    if not isinstance(asked, dict):
        raise InvalidRequestError(where, "must be an object")
    for name in asked:
        if name not in known:
            raise InvalidRequestError(
                f"{where}.{name[:64]}", f"is unknown; known: {', '.join(sorted(known))}"
            )
    return asked


def _bytes(where: str, fields: Mapping[str, Any], name: str) -> bytes:
    text, encoded = fields.get(name), fields.get(f"{name}_base64")
    if text is not None and encoded is not None:
        raise InvalidRequestError(f"{where}.{name}", f"is there twice: as text and as {name}_base64")
    try:
        if isinstance(encoded, str):
            return b64decode(encoded, validate=True)
        if isinstance(text, str):
            return text.encode()
    except ValueError as error:  # half a surrogate pair is a UnicodeEncodeError, which is one
        raise InvalidRequestError(f"{where}.{name}", str(error)) from None
    if text is None and encoded is None:
        return b""
    raise InvalidRequestError(
        f"{where}.{name}", "must be a text; bytes go as base64, with _base64 behind the name"
    )


def _number(where: str, value: Any, most: int) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= most:
        raise InvalidRequestError(where, f"must be a number from 0 to {most}")
    return value


def number_of(name: str, text: str, most: int = UINT64_MAX) -> int:
    """Return the number in a query; raises InvalidRequestError when there is none in range."""
    if not (text.isascii() and text.isdigit() and len(text) <= 20) or int(text) > most:
        raise InvalidRequestError(name, f"must be a number from 0 to {most}")
    return int(text)
