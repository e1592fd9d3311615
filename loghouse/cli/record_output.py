"""How `loghouse consume` writes records: lines, raw bytes, JSON lines, hexadecimal, length-prefixed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from loghouse.cli.output import bytes_as_json, time_text
from loghouse.cli.record_input import PREFIX_SIZE
from loghouse.client import Batch, Record
from loghouse.text import visible, visible_json


def as_lines(batch: Batch, *, with_offsets: bool) -> bytes:
    """Return each value and a newline behind it."""
    return _a_line_each(batch, batch.values(), with_offsets)


def as_hexadecimal(batch: Batch, *, with_offsets: bool) -> bytes:
    """Return each value in hexadecimal digits, one a line: never more than text, whatever is in it."""
    return _a_line_each(batch, [value.hex().encode() for value in batch.values()], with_offsets)


def as_raw(batch: Batch, *, with_offsets: bool) -> bytes:
    """Return the values and nothing between them."""
    return b"".join(batch.values())


def as_lengths(batch: Batch, *, with_offsets: bool) -> bytes:
    """Return each value behind its length: 4 bytes, big-endian."""
    return b"".join(part for value in batch.values() for part in (len(value).to_bytes(PREFIX_SIZE), value))


def as_json(batch: Batch, *, with_offsets: bool) -> bytes:
    """Return each record as a JSON object on a line of its own."""
    return b"".join(visible_json(record_as_json(record)).encode() + b"\n" for record in batch)


WRITERS: Final[dict[str, Callable[..., bytes]]] = {
    "lines": as_lines,
    "raw": as_raw,
    "json": as_json,
    "hex": as_hexadecimal,
    "length-prefixed": as_lengths,
}


def record_as_bytes(format_: str, record: Record, *, with_offsets: bool) -> bytes:
    """Return one record as the writer of that format writes it among others."""
    value = record.value
    match format_:
        case "json":
            return visible_json(record_as_json(record)).encode() + b"\n"
        case "raw":
            return value
        case "length-prefixed":
            return len(value).to_bytes(PREFIX_SIZE) + value
        case "hex":
            value = value.hex().encode()
    return b"%d\t%s\n" % (record.offset, value) if with_offsets else value + b"\n"


def for_terminal(text: bytes) -> bytes:
    """Return output so that a terminal only shows it; a pipe and a file get every byte as it is."""
    return visible(text.decode(errors="backslashreplace"), keep="\n\t").encode()


def record_as_json(record: Record) -> dict[str, Any]:
    """Return what `loghouse produce --format json` takes, with the record's offset and time."""
    line: dict[str, Any] = {
        "offset": record.offset,
        "timestamp": record.timestamp,
        "time": time_text(record.timestamp),
        **bytes_as_json("value", record.value),
    }
    if record.key is not None:
        line.update(bytes_as_json("key", record.key))
    if record.headers:
        line["headers"] = [{"key": name, **bytes_as_json("value", value)} for name, value in record.headers]
    return line


def _a_line_each(batch: Batch, texts: list[bytes], with_offsets: bool) -> bytes:
    if with_offsets:
        texts = [b"%d\t%s" % (offset, text) for offset, text in zip(batch.offsets, texts, strict=True)]
    texts.append(b"")
    return b"\n".join(texts)
