"""Every path of the JSON API, and the schemas of what goes in and comes out."""

from __future__ import annotations

from typing import Any, Final

from loghouse.api.rest.exchange import EVENTS
from loghouse.api.rest.openapi import ApiRoute, Parameter
from loghouse.auth.policy import Action
from loghouse.limits import (
    REST_ANSWER_SIZE_MAX,
    REST_COUNT_DEFAULT,
    REST_COUNT_MAX,
    REST_RECORDS_MAX,
    UINT32_MAX,
)

_NUMBER: Final = {"type": "integer", "minimum": 0}
_TEXT: Final = {"type": "string"}
_TRUTH: Final = {"type": "boolean"}

_COUNT: Final = Parameter(
    "count",
    {"type": "integer", "minimum": 1, "maximum": REST_COUNT_MAX, "default": REST_COUNT_DEFAULT},
    "How many at most.",
)
_SHAPE: Final = (
    Parameter(
        "encoding",
        {"enum": ["text", "base64"], "default": "text"},
        "text: bytes are text where they are UTF-8, else base64; base64: always base64.",
    ),
    Parameter(
        "value_size_max",
        {"type": "integer", "minimum": 0, "maximum": REST_ANSWER_SIZE_MAX},
        "How many bytes of a value are shown; `value_size` tells the size of one that is cut.",
    ),
)


_CHOICE: Final = (
    Parameter("key", _TEXT, "Only records with this key."),
    Parameter("key_prefix", _TEXT, "Only records with a key that begins so, or with the one of `key`."),
    Parameter("headers", _TEXT, 'Only records with all of these headers: a JSON object, `{"unit":"mm"}`.'),
    Parameter("until", _TEXT, "The first record not to read: an offset, or an ISO 8601 time."),
    Parameter(
        "reverse",
        {"enum": ["false", "true"], "default": "false"},
        "true: the same records, the last one first; go on with `until` at `next_offset`.",
    ),
    Parameter(
        "newest",
        {"type": "integer", "minimum": 1, "maximum": REST_COUNT_MAX},
        "The last so many of the records that are chosen, in the order of the log.",
    ),
    Parameter(
        "consistency",
        {"enum": ["confirmed", "local"], "default": "confirmed"},
        "local: nobody is asked where the log ends; what the node knows may be old.",
    ),
)


def _place(usual: str) -> tuple[Parameter, ...]:
    return (
        Parameter(
            "offset",
            {"type": "string", "pattern": "^([0-9]+|earliest|latest)$", "default": usual},
            "Where to begin: an offset, `earliest` or `latest`.",
        ),
        Parameter(
            "time",
            _TEXT,
            "Where to begin: at the first record appended at this time (microseconds or ISO 8601) or later.",
        ),
        Parameter(
            "last", {"type": "integer", "minimum": 0}, "Where to begin: so many records before the end."
        ),
    )


ROUTES: Final = (
    ApiRoute(name="get_openapi", path="/openapi.json", summary="This document."),
    ApiRoute(
        name="get_cluster",
        path="/cluster",
        summary="The answering node, who asks, and the nodes of the cluster.",
        reply="Cluster",
    ),
    ApiRoute(
        name="get_members",
        path="/members",
        summary="The members of a log's group (of the default log, if none is named) and how far each is.",
        action=Action.ADMIN,
        parameters=(Parameter("log", _TEXT, "The log's name."),),
        reply="Members",
        statuses=(404,),
    ),
    ApiRoute(
        name="get_logs",
        path="/logs",
        summary="The logs that the caller may see, by name, a page at a time.",
        parameters=(_COUNT, Parameter("after", _TEXT, "The logs whose names come after this one.")),
        reply="Logs",
    ),
    ApiRoute(
        name="get_log",
        path="/logs/{log}",
        summary="One log: its settings, its replicas and its leader.",
        reply="Log",
        statuses=(404,),
    ),
    ApiRoute(
        name="get_bounds",
        path="/logs/{log}/bounds",
        summary="The lowest readable offset and the next one, confirmed by the leader.",
        action=Action.CONSUME,
        reply="Bounds",
        statuses=(404,),
    ),
    ApiRoute(
        name="get_offset",
        path="/logs/{log}/offset",
        summary="The first offset appended at a time or later; the next one, with time 0, if none is.",
        action=Action.CONSUME,
        parameters=(Parameter("time", _TEXT, "Microseconds since the epoch, or ISO 8601.", is_needed=True),),
        reply="FoundOffset",
        statuses=(404,),
    ),
    ApiRoute(
        name="get_records",
        path="/logs/{log}/records",
        summary="Records from a place on, and where to go on.",
        action=Action.CONSUME,
        parameters=(*_place("earliest"), *_CHOICE, _COUNT, *_SHAPE),
        reply="Records",
        statuses=(404, 416),
    ),
    ApiRoute(
        name="follow_records",
        path="/logs/{log}/follow",
        summary="Records from a place on as server-sent events: `records`, `skipped`, and last `problem`. "
        "The header Last-Event-ID goes on behind the last event.",
        action=Action.CONSUME,
        parameters=(
            *_place("latest"),
            *_SHAPE,
            Parameter(
                "live",
                {"enum": ["false", "true"], "default": "false"},
                "true: for people; what is too fast is skipped, and `skipped` events say how much.",
            ),
        ),
        media_type=EVENTS,
        statuses=(404,),
    ),
    ApiRoute(
        name="get_cursors",
        path="/logs/{log}/cursors",
        summary="The cursors that a log keeps, by name, a page at a time, as its leader knows them.",
        action=Action.CONSUME,
        parameters=(_COUNT, Parameter("after", _TEXT, "The cursors whose names come after this one.")),
        reply="Cursors",
        statuses=(404, 501),
    ),
    ApiRoute(
        name="get_cursor",
        path="/logs/{log}/cursor",
        summary="One cursor: where it stands, who holds it, and how far it is behind.",
        action=Action.CONSUME,
        parameters=(Parameter("name", _TEXT, "The cursor's name.", is_needed=True),),
        reply="Cursor",
        statuses=(404, 501),
    ),
    ApiRoute(
        name="append_records",
        method="POST",
        path="/logs/{log}/records",
        summary="Append records in one batch; answered once a majority has them on disk.",
        action=Action.PRODUCE,
        parameters=(
            Parameter("key", _TEXT, "With application/octet-stream: the record's key."),
            Parameter("expect_offset", _NUMBER, "With application/octet-stream: as in `Append`."),
        ),
        body="Append",
        reply="Appended",
        status=201,
        statuses=(404, 409, 412, 415, 504, 507),
    ),
    ApiRoute(
        name="register_producer",
        method="POST",
        path="/logs/{log}/producers",
        summary="Get a producer id, for appends that are done exactly once.",
        action=Action.PRODUCE,
        reply="Producer",
        status=201,
        statuses=(404, 504),
    ),
)


def _object(fields: dict[str, Any], *optional: str) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": fields,
        "required": [name for name in fields if name not in optional],
        "additionalProperties": False,
    }


def _list(items: dict[str, Any], **bounds: int) -> dict[str, Any]:
    return {"type": "array", "items": items, **bounds}


def _named(name: str) -> dict[str, str]:
    return {"$ref": f"#/components/schemas/{name}"}


_BASE64: Final = {"type": "string", "contentEncoding": "base64"}
_BOUNDS: Final = _object({"lowest": _NUMBER, "next": _NUMBER})
_HEADER: Final = _object({"key": _TEXT, "value": _TEXT, "value_base64": _BASE64}, "value", "value_base64")
_VALUES: Final = {"key": _TEXT, "key_base64": _BASE64, "value": _TEXT, "value_base64": _BASE64}
_MORE: Final = {
    "headers": _list(_named("Header")),
    "type": {**_NUMBER, "maximum": UINT32_MAX},
    "term": _NUMBER,
}

SCHEMAS: Final[dict[str, Any]] = {
    "Cluster": _object(
        {
            "cluster": _TEXT,
            "cluster_uuid": _TEXT,
            "node": _TEXT,
            "version": _TEXT,
            "subject": _TEXT,
            "servers": _list(
                _object(
                    {
                        "name": _TEXT,
                        "address": _TEXT,
                        "grpc_address": _TEXT,
                        "role": {"enum": ["voter", "learner", "none"]},
                        "is_leader": _TRUTH,
                        "is_alive": _TRUTH,
                    }
                )
            ),
        }
    ),
    "Members": _object(
        {
            "cluster": _TEXT,
            "node": _TEXT,
            "version": _TEXT,
            "term": _NUMBER,
            "leader": _TEXT,
            "commit_index": _NUMBER,
            "lowest_offset": _NUMBER,
            "next_offset": _NUMBER,
            "members": _list(
                _object(
                    {
                        "name": _TEXT,
                        "id": _NUMBER,
                        "role": {"enum": ["voter", "learner", "none"]},
                        "liveness": _TEXT,
                        "is_leader": _TRUTH,
                        "match_index": _NUMBER,
                        "address": _TEXT,
                        "version": _TEXT,
                    }
                )
            ),
            "removed": _list(_TEXT),
        }
    ),
    "Logs": _object({"logs": _list(_named("Log")), "next": _TEXT}),
    "Log": _object(
        {
            "name": _TEXT,
            "group": _NUMBER,
            "epoch": _NUMBER,
            "leader": _TEXT,
            "created_at": _NUMBER,
            "settings": _object(
                {
                    "replicas": _NUMBER,
                    "retention_bytes": _NUMBER,
                    "retention_seconds": _NUMBER,
                    "record_bytes_max": _NUMBER,
                    "append_bytes_per_second_max": _NUMBER,
                    "tags": _list(_TEXT),
                }
            ),
            "replicas": _list(
                _object({"node": _TEXT, "member": _NUMBER, "is_leader": _TRUTH, "is_alive": _TRUTH})
            ),
        }
    ),
    "Bounds": _BOUNDS,
    "FoundOffset": _object({"offset": _NUMBER, "timestamp": _NUMBER}),
    "Cursor": _object(
        {
            "name": _TEXT,
            "position": _NUMBER,
            "lag": {"type": ["integer", "null"]},
            "epoch": _NUMBER,
            "holder": _TEXT,
            "subject": _TEXT,
            "lease_milliseconds": _NUMBER,
            "left_milliseconds": _NUMBER,
            "waiting_count": _NUMBER,
        }
    ),
    "Cursors": _object({"cursors": _list(_named("Cursor")), "next": _TEXT}),
    "Header": _HEADER,
    "Record": _object(
        {"offset": _NUMBER, "timestamp": _NUMBER, **_VALUES, "value_size": _NUMBER, **_MORE},
        *_VALUES,
        *_MORE,
        "value_size",
    ),
    "Records": _object(
        {
            "records": _list(_named("Record")),
            "next_offset": _NUMBER,
            "bounds": _named("Bounds"),
            "is_confirmed": _TRUTH,
        },
        "is_confirmed",
    ),
    "NewRecord": _object({**_VALUES, "timestamp": _NUMBER, **_MORE}, *_VALUES, *_MORE, "timestamp"),
    "Append": _object(
        {
            "records": _list(_named("NewRecord"), minItems=1, maxItems=REST_RECORDS_MAX),
            "expect_offset": _NUMBER,
            "producer_id": _NUMBER,
            "producer_sequence": {**_NUMBER, "maximum": UINT32_MAX},
        },
        "expect_offset",
        "producer_id",
        "producer_sequence",
    ),
    "Appended": _object({"base_offset": _NUMBER, "record_count": _NUMBER, "timestamp": _NUMBER}),
    "Producer": _object({"producer_id": _NUMBER}),
    "Problem": _object(
        {
            "type": _TEXT,
            "title": _TEXT,
            "status": _NUMBER,
            "reason": _TEXT,
            "detail": _TEXT,
            "instance": _TEXT,
            "remedy": _TEXT,
            "may_retry": _TRUTH,
            "was_appended": {"type": ["boolean", "null"]},
            "details": {"type": "object"},
        },
        "details",
    ),
}
