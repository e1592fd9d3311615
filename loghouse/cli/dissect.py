"""`loghouse dissect`: says what bytes mean, frame by frame: a store file, a capture of the wire, or hex.

It reads only, and goes on as far as it understands; where it stops it says why. `docs/wire_format.md` and
`docs/disk_format.md` explain every field it shows.
"""

from __future__ import annotations

import argparse
import binascii
import dataclasses
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, Final

from loghouse.cli.output import (
    CommandError,
    ExitCode,
    count_text,
    progress_bar,
    time_text,
    write_json,
    write_line,
)
from loghouse.errors import LoghouseError, ProtocolError
from loghouse.limits import (
    ENTRY_HEADER_SIZE,
    ENTRY_SIZE_MAX,
    LINK_HEADER_SIZE,
    MIB,
    STORE_HEADER_SIZE,
    UUID_SIZE,
)
from loghouse.protocol import codec, raft_messages
from loghouse.protocol.entry import HEADER as ENTRY_HEADER
from loghouse.protocol.entry import KINDS, VERSION, EntryKind, crc32c, frame_seed
from loghouse.protocol.framing import HEADER, Frame
from loghouse.storage.store import MAGIC, StoreHeader, newest_watermark
from loghouse.text import visible

INPUT_SIZE_MAX: Final = 64 * MIB  # of hex and captures; store files are read frame by frame
_SHOWN_BYTES_MAX: Final = 32
_BULK_FIELDS: Final = frozenset(("frames", "entries"))


def add_parser(commands: Any) -> None:
    """Add the command to the parser."""
    parser = commands.add_parser(
        "dissect",
        help="explain a store file, or bytes of the wire",
        description="Explain bytes frame by frame: a .store file, a file with frames of the binary "
        "protocol, or hex (spaces and colons do not matter; - reads it from stdin).",
    )
    parser.add_argument("what", metavar="FILE|HEX|-", help="what to explain")
    parser.add_argument(
        "--as",
        dest="form",
        choices=("wire", "entries"),
        help="frames of the binary protocol, or entry frames; default: what fits",
    )
    parser.add_argument(
        "--cluster", type=_uuid, metavar="UUID", help="check entry headers against this cluster"
    )
    parser.add_argument("--group", type=int, default=1, help="... and this group; default 1")
    parser.add_argument("--json", action="store_true", help="print JSON, a line for each frame")
    parser.set_defaults(run=run)


def _uuid(text: str) -> bytes:
    try:
        uuid = bytes.fromhex(text.replace("-", ""))
    except ValueError:
        uuid = b""
    if len(uuid) != UUID_SIZE:
        raise argparse.ArgumentTypeError(f"{text!r} is not a uuid; allowed: 32 hex digits")
    return uuid


def run(args: argparse.Namespace) -> int:
    """Explain; the exit code is DAMAGED when something that should be whole is not."""
    path = Path(args.what)
    if args.what != "-" and _is_file(path):
        with path.open("rb") as file:
            if file.read(len(MAGIC)) == MAGIC and args.form is None:
                return _show(args, _dissect_store(file, str(path)), path.stat().st_size)
            file.seek(0)
            data = file.read(INPUT_SIZE_MAX + 1)
    else:
        data = _read_hex(sys.stdin.read(2 * INPUT_SIZE_MAX) if args.what == "-" else args.what)
    if len(data) > INPUT_SIZE_MAX:
        raise CommandError(f"{args.what}: has more than {INPUT_SIZE_MAX} bytes", ExitCode.USAGE)
    seed = frame_seed(args.cluster, args.group) if args.cluster else None
    if (args.form or _guess(data)) == "wire":
        return _show(args, dissect_wire(data), len(data))
    return _show(args, dissect_entries(data, seed), len(data))


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False  # hex can be longer than a path may be


def _read_hex(text: str) -> bytes:
    digits = "".join(text.split()).replace(":", "").removeprefix("0x")
    try:
        return binascii.unhexlify(digits)
    except (binascii.Error, ValueError) as error:
        problem = f"neither a file nor hex: {error}"
        raise CommandError(f"{text[:40]!r} is {problem}", ExitCode.USAGE) from None


def _guess(data: bytes) -> str:
    """Say what the bytes look like: both headers are fixed, and no entry passes for a known kind."""
    if len(data) < LINK_HEADER_SIZE:
        return "wire"
    length, kind, _, _, _ = HEADER.unpack_from(data)
    is_known = kind in codec.MESSAGES or kind in codec.RAFT_KINDS
    return "wire" if is_known and length <= codec.body_size_max(kind) else "entries"


def _show(args: argparse.Namespace, found: Iterator[dict[str, Any]], size: int) -> int:
    is_damaged = False
    with progress_bar(size, "B", "reading", is_alone=not sys.stdout.isatty()) as bar:
        for item in found:
            is_damaged = is_damaged or "problem" in item
            bar.update(item["position"] - bar.n)
            if args.json:
                write_json(item)
                continue
            shown = dict(item)
            position, what = shown.pop("position"), shown.pop("what")
            write_line(f"@{position:<8} {what}")
            for name, value in shown.items():
                write_line(f"{'':>10}{name}: {visible(str(value))}")
    return ExitCode.DAMAGED if is_damaged else ExitCode.OK


# --- the wire -----------------------------------------------------------------------


def dissect_wire(data: bytes) -> Iterator[dict[str, Any]]:
    """Yield what each frame of the binary protocol says, up to the first that cannot be followed."""
    position = 0
    while position < len(data):
        if len(data) - position < LINK_HEADER_SIZE:
            yield _problem(position, "frame", f"ends after {len(data) - position} bytes of its header")
            return
        length, kind, flags, group, stream = HEADER.unpack_from(data, position)
        end = position + LINK_HEADER_SIZE + length
        frame = Frame(kind, flags, group, stream, data[position + LINK_HEADER_SIZE : end])
        name, fields = _message_fields(frame)
        item: dict[str, Any] = {
            "position": position,
            "what": f"{name}, kind {kind:#06x}, {length} bytes, group {group}, stream {stream}",
        }
        if flags:
            item["flags"] = f"{flags:#06x}"
        if length > codec.body_size_max(kind):
            yield item | {"problem": f"at most {codec.body_size_max(kind)} bytes are allowed"}
            return
        if end > len(data):
            yield item | {"problem": f"ends after {len(frame.body)} bytes of its body"}
            return
        yield item | fields
        position = end


def _message_fields(frame: Frame) -> tuple[str, dict[str, Any]]:
    """Return a frame's name and fields; a problem is one of them."""
    raft = raft_messages.BY_KIND.get(frame.kind)
    cls = codec.MESSAGES.get(frame.kind)
    name = (raft or cls).__name__ if raft or cls else "unknown"  # type: ignore[union-attr]
    if raft is not None:
        return name, _raft_fields(frame)
    try:
        message = codec.decode(frame)
    except ProtocolError as error:
        return name, {"problem": str(error)}
    if message is None:
        return name, {"body": _plain(frame.body)}
    fields = {field.name: getattr(message, field.name) for field in dataclasses.fields(message)}  # type: ignore[arg-type]
    return name, {key: _field(key, value) for key, value in fields.items()}


def _raft_fields(frame: Frame) -> dict[str, Any]:
    # Entries in it are bound to a cluster we may not know, so they are shown, not decoded with the message.
    cls = raft_messages.BY_KIND[frame.kind]
    fixed = raft_messages.ADDRESS_SIZE + int(cls.WIRE.sizeof())
    if len(frame.body) < fixed:
        return {"problem": f"{len(frame.body)} bytes, at least {fixed} expected"}
    fields: dict[str, Any] = {}
    body = frame.body[raft_messages.ADDRESS_SIZE :]
    for parsed in (raft_messages.ADDRESS.parse(frame.body), cls.WIRE.parse(body)):
        fields |= {key: value for key, value in parsed.items() if not key.startswith("_")}
    rest = frame.body[fixed:]
    if cls is raft_messages.AppendEntries:
        fields["entries"] = _field("entries", rest)
    elif cls is raft_messages.InstallSnapshot:
        fields["state"] = _plain(rest)
    elif rest:
        fields["problem"] = f"{len(rest)} bytes too many"
    return fields


def _field(name: str, value: Any) -> Any:
    if name in _BULK_FIELDS:
        found = [item["what"] + _problem_of(item) for item in dissect_entries(bytes(value), None)]
        return [count_text(len(value), "byte"), *found]
    return _plain(value)


def _problem_of(item: dict[str, Any]) -> str:
    return f" ({item['problem']})" if "problem" in item else ""


def _plain(value: Any) -> Any:
    """Return a value as text and JSON can show it."""
    if isinstance(value, bytes | bytearray | memoryview):
        shown = bytes(value[:_SHOWN_BYTES_MAX]).hex()
        return shown if len(value) <= _SHOWN_BYTES_MAX else f"{shown}... ({len(value)} bytes)"
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: _plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, tuple | list):
        return [_plain(item) for item in value]
    return value if isinstance(value, bool | str) or value is None else int(value)


# --- entries --------------------------------------------------------------------------


def dissect_entries(data: bytes, seed: int | None) -> Iterator[dict[str, Any]]:
    """Yield what each entry frame says; without a seed headers are shown unchecked."""
    position = 0
    while position < len(data):
        item = entry_fields(data[position : position + ENTRY_SIZE_MAX], position, seed)
        yield item
        if "problem" in item:
            return
        position += item["length"]


def entry_fields(data: bytes, position: int, seed: int | None) -> dict[str, Any]:
    """Return the fields of the entry frame that `data` begins with; a problem is one of them."""
    if len(data) < ENTRY_HEADER_SIZE:
        return _problem(position, "entry", f"ends after {len(data)} bytes of its header")
    head = ENTRY_HEADER.unpack_from(data)
    header_crc, length, version, kind, attributes, count, index, term = head[:8]
    base_offset, timestamp, producer_id, sequence, payload_crc = head[8:]
    name = EntryKind(kind).name.lower() if kind in KINDS else f"kind {kind}"
    offsets = f", offsets {base_offset} to {base_offset + count - 1}" if count else ""
    item: dict[str, Any] = {
        "position": position,
        "what": f"entry {index}, term {term}, {name}{offsets}, {length} bytes, {time_text(timestamp)}",
        "length": length,
        "header_crc": f"{header_crc:#010x}",
        "payload_crc": f"{payload_crc:#010x}",
    }
    if version != VERSION or not ENTRY_HEADER_SIZE <= length <= ENTRY_SIZE_MAX:
        return _problem(position, "entry", f"no entry frame: version {version}, length {length}")
    if attributes:
        item["attributes"] = f"{attributes:#06x}"
    if producer_id:
        item["producer"] = f"{producer_id}, sequence {sequence}"
    if len(data) < length:
        return item | {"problem": f"ends after {len(data)} of {length} bytes"}
    if seed is None:
        item["header_crc"] += " (not checked: it depends on the cluster; see --cluster)"
    elif crc32c(data[4:ENTRY_HEADER_SIZE], seed) != header_crc:
        return item | {"problem": "header checksum does not match (damaged, or of another log)"}
    if crc32c(memoryview(data)[ENTRY_HEADER_SIZE:length]) != payload_crc:
        return item | {"problem": "payload checksum does not match"}
    return item


def _dissect_store(file: BinaryIO, path: str) -> Iterator[dict[str, Any]]:
    """Yield a store file's header, its watermark, and its entries, one at a time."""
    file.seek(0)
    block = file.read(STORE_HEADER_SIZE)
    try:
        header = StoreHeader.decode(block, path)
    except LoghouseError as error:
        yield _problem(0, "store header", str(error))
        return
    fields = {
        name: _plain(getattr(header, name)) for name in ("cluster", "group", "base_index", "base_offset")
    }
    yield {"position": 0, "what": "store header", **fields, "previous_term": header.previous_term}
    watermark = newest_watermark(block, header.seed)
    if watermark is not None:
        what = f"durable up to entry {watermark.durable_index}, byte {watermark.position}"
        yield {"position": watermark.slot_position, "what": f"watermark: {what}"}
    durable = watermark.position if watermark else 0
    position = STORE_HEADER_SIZE
    while True:
        file.seek(position)
        head = file.read(ENTRY_HEADER_SIZE)
        if not head.strip(b"\0"):
            yield {"position": position, "what": "end: preallocated, or the file's end"}
            return
        size = min(max(int.from_bytes(head[4:8], "big"), ENTRY_HEADER_SIZE), ENTRY_SIZE_MAX)
        item = entry_fields(head + file.read(size - ENTRY_HEADER_SIZE), position, header.seed)
        if "problem" in item and position >= durable:
            # Never acknowledged: a crash may leave this, and the next start cuts it.
            yield item | {"what": f"{item['what']} (torn tail)", "torn": item.pop("problem")}
            return
        yield item
        if "problem" in item:
            return
        position += item["length"]


def _problem(position: int, what: str, problem: str) -> dict[str, Any]:
    return {"position": position, "what": what, "problem": problem}
