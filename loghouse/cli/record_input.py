"""What `loghouse produce` appends: values, lines, whole files, length-prefixed records, or JSON lines.

Everything is read from descriptors, without a buffer that waits to be full: a line of a pipe is appended when
it is there, not when 8 KiB are.
"""

from __future__ import annotations

import base64
import binascii
import json
import os
import time
from collections.abc import Callable, Iterator
from typing import Any, Final

from loghouse.cli.output import CommandError, ExitCode
from loghouse.client.records import NewRecord
from loghouse.limits import KIB, PAYLOAD_SIZE_MAX

READ_SIZE: Final = 256 * KIB
PREFIX_SIZE: Final = 4  # bytes: the length of a length-prefixed record, big-endian
BURST_SECONDS: Final = 0.05  # what a paced source may catch up at once

_IGNORED: Final = frozenset({"offset", "time"})  # `consume --json` writes them; the cluster gives its own
_ALLOWED: Final = ("value", "value_base64", "key", "key_base64", "headers", "timestamp")


def lines_of(descriptor: int, name: str) -> Iterator[bytes]:
    """Yield the lines of a file without newlines; raises CommandError for one longer than a record can be."""
    rest = b""
    line_number = 1
    while chunk := os.read(descriptor, READ_SIZE):
        lines = (rest + chunk).split(b"\n")
        rest = lines.pop()
        yield from lines
        line_number += len(lines)
        if len(rest) > PAYLOAD_SIZE_MAX:
            raise CommandError(
                f"{name}: line {line_number} has more than {PAYLOAD_SIZE_MAX} bytes; "
                "the lines before it were appended",
                ExitCode.USAGE,
            )
    if rest:
        yield rest


def records_of_lines(descriptor: int, name: str) -> Iterator[NewRecord]:
    """Yield each line as a record; see `lines_of`."""
    for line in lines_of(descriptor, name):
        yield NewRecord(line)


def records_of_file(descriptor: int, name: str) -> Iterator[NewRecord]:
    """Yield the whole file as one record; raises CommandError when it is larger than one can be."""
    chunks: list[bytes] = []
    size = 0
    while chunk := os.read(descriptor, READ_SIZE):
        size += len(chunk)
        if size > PAYLOAD_SIZE_MAX:
            raise CommandError(
                f"{name} has more than {PAYLOAD_SIZE_MAX} bytes, too many for one record; "
                "--format lines appends a record for each line",
                ExitCode.USAGE,
            )
        chunks.append(chunk)
    yield NewRecord(b"".join(chunks))


def records_of_lengths(descriptor: int, name: str) -> Iterator[NewRecord]:
    """Yield records that stand behind their length: 4 bytes, big-endian.

    Raises:
        CommandError: A length is larger than any record, or the file ends within a record.
    """
    buffered = bytearray()
    start = 0  # of the next record, in the file
    while chunk := os.read(descriptor, READ_SIZE):
        buffered += chunk
        position = 0
        while len(buffered) - position >= PREFIX_SIZE:
            size = int.from_bytes(buffered[position : position + PREFIX_SIZE], "big")
            if size > PAYLOAD_SIZE_MAX:
                raise CommandError(
                    f"{name}: the length at byte {start + position} says {size} bytes; at most "
                    f"{PAYLOAD_SIZE_MAX} are allowed. Is it length-prefixed (4 bytes, big-endian)? "
                    "The records before it were appended",
                    ExitCode.USAGE,
                )
            end = position + PREFIX_SIZE + size
            if end > len(buffered):
                break
            yield NewRecord(bytes(buffered[position + PREFIX_SIZE : end]))
            position = end
        start += position
        del buffered[:position]
    if buffered:
        raise CommandError(
            f"{name} ends within the record that begins at byte {start}; the records before it were appended",
            ExitCode.USAGE,
        )


def records_of_json(descriptor: int, name: str) -> Iterator[NewRecord]:
    """Yield a record for each line, a JSON object as `loghouse consume --json` writes them.

    Raises:
        CommandError: A line is no such object; the text names the line and what is wrong.
    """
    for line_number, line in enumerate(lines_of(descriptor, name), 1):
        if not line.strip():
            continue
        try:
            yield record_of_json(line)
        except ValueError as error:
            raise CommandError(
                f"{name}: line {line_number} {error}; the lines before it were appended", ExitCode.USAGE
            ) from None


def record_of_json(line: bytes) -> NewRecord:
    """Return the record that a JSON object tells of.

    Raises:
        ValueError: It is no such object; the text goes on after a name.
    """
    try:
        told = json.loads(line)
    except (ValueError, RecursionError) as error:  # UnicodeDecodeError is a ValueError
        raise ValueError(f"is not JSON ({error})") from None
    if not isinstance(told, dict):
        raise ValueError(f"is not a JSON object such as {{'value': 'text'}}, but {type(told).__name__}")
    unknown = told.keys() - _IGNORED - set(_ALLOWED)
    if unknown:
        raise ValueError(f"has the field {min(unknown)!r}; allowed: {', '.join(_ALLOWED)}")
    timestamp = told.get("timestamp")
    if timestamp is not None and not (type(timestamp) is int and 0 <= timestamp < 2**64):
        raise ValueError("has a timestamp that is no number of microseconds since the epoch")
    return NewRecord(
        _bytes_of(told, "value") or b"", _bytes_of(told, "key"), _headers_of(told.get("headers")), timestamp
    )


def _bytes_of(told: dict[str, Any], name: str) -> bytes | None:
    text, encoded = told.get(name), told.get(f"{name}_base64")
    if text is not None and encoded is not None:
        raise ValueError(f"has both {name} and {name}_base64; give one")
    given = text if encoded is None else encoded
    if given is None:
        return None
    if not isinstance(given, str):
        raise ValueError(f"has a {name} that is no text, but {type(given).__name__}")
    if encoded is None:
        try:
            return given.encode()
        except UnicodeEncodeError:
            raise ValueError(f"has a {name} that is no valid text; {name}_base64 takes any bytes") from None
    try:
        return base64.b64decode(given, validate=True)
    except binascii.Error:
        raise ValueError(f"has a {name}_base64 that is no base64") from None


def _headers_of(told: Any) -> tuple[tuple[str, bytes], ...]:
    if told is None:
        return ()
    if isinstance(told, dict):
        told = [{"key": key, "value": value} for key, value in told.items()]
    if not isinstance(told, list) or not all(
        isinstance(one, dict) and isinstance(one.get("key"), str) for one in told
    ):
        raise ValueError("has headers that are no list of {'key': ..., 'value': ...}, nor an object of texts")
    return tuple((one["key"], _bytes_of(one, "value") or b"") for one in told)


READERS: Final[dict[str, Callable[[int, str], Iterator[NewRecord]]]] = {
    "lines": records_of_lines,
    "files": records_of_file,
    "length-prefixed": records_of_lengths,
    "json": records_of_json,
}


def paced(
    records: Iterator[NewRecord],
    rate: float,
    *,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> Iterator[NewRecord]:
    """Yield records, `rate` a second at most; a source that paused does not catch up with a burst."""
    due = clock()
    for record in records:
        now = clock()
        if due > now:
            sleep(due - now)
        due = max(due, now - BURST_SECONDS) + 1 / rate
        yield record
