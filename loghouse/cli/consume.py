"""`loghouse consume`: read records from an offset on, and follow the tail."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from typing import Any

from loghouse.cli.output import ExitCode, bytes_as_json, progress_bar, time_text, watch_reader, write_json
from loghouse.cli.target import add_options, connect
from loghouse.client.connection import CallError, Connection, ReadRecord
from loghouse.errors import OffsetOutOfRangeError


def add_parser(commands: Any) -> None:
    """Add the command to the parser."""
    parser = commands.add_parser(
        "consume",
        help="read records",
        description="Read records from an offset on, one value a line. Ends where the log ended "
        "at the start, unless --follow. Checks every checksum of what arrives.",
    )
    parser.add_argument(
        "--offset",
        type=_offset,
        default="earliest",
        metavar="N",
        help="the first record to read: a number, earliest (default) or latest (the next one appended)",
    )
    parser.add_argument("--follow", "-f", action="store_true", help="wait for more, until Ctrl-C")
    parser.add_argument("--count", "-n", type=_count, metavar="N", help="stop after this many records")
    parser.add_argument("--offsets", action="store_true", help="put each record's offset and a tab before it")
    parser.add_argument("--json", action="store_true", help="print each record as a JSON object")
    add_options(parser)
    parser.set_defaults(run=run)


def _offset(text: str) -> int | str:
    if text in ("earliest", "latest"):
        return text
    return _number(text, "a number from 0, earliest, latest")


def _count(text: str) -> int:
    return _number(text, "a number from 0")


def _number(text: str, allowed: str) -> int:
    if not text.isascii() or not text.isdecimal() or int(text) >= 2**64:
        raise argparse.ArgumentTypeError(f"{text!r} is not an offset or count; allowed: {allowed}")
    return int(text)


def run(args: argparse.Namespace) -> int:
    """Read and print."""
    with connect(args) as connection:
        if not args.follow:
            return _read(args, connection)
        is_read = True

        def stop() -> None:
            nonlocal is_read
            is_read = False
            connection.close()

        watch_reader(stop)
        try:
            return _read(args, connection)
        except (CallError, ValueError):  # ValueError: grpc's, for a call on a channel that is closed already
            if is_read:
                raise
            raise BrokenPipeError from None


def _read(args: argparse.Namespace, connection: Connection) -> int:
    lowest, next_offset = connection.bounds(args.log)
    starts = {"earliest": lowest, "latest": next_offset}
    offset = starts.get(args.offset, args.offset)
    if not args.follow and offset > next_offset:
        raise OffsetOutOfRangeError(offset, lowest, next_offset)
    end = None if args.follow else next_offset
    if args.count is not None:
        end = offset + args.count if end is None else min(end, offset + args.count)
    shows_progress = not sys.stdout.isatty() and end is not None
    with progress_bar(end - offset if end is not None else None, " records", "reading") as bar:
        for records in read_until(connection, offset, end, args.log):
            _write(records, args)
            if shows_progress:
                bar.update(len(records))
    return ExitCode.OK


def read_until(
    connection: Connection, offset: int, end: int | None, log: str = ""
) -> Iterator[list[ReadRecord]]:
    """Yield records from `offset` up to, not including, `end`; None never ends.

    Raises:
        CallError, EntryError: As `Connection.read`.
    """
    if end is not None and offset >= end:
        return
    for records in connection.read(offset, log=log):
        if end is not None and records and records[-1].offset >= end - 1:
            yield [record for record in records if record.offset < end]
            return
        yield records


def _write(records: list[ReadRecord], args: argparse.Namespace) -> None:
    if args.json:
        for read in records:
            write_json(_as_json(read))
    else:
        lines = []
        for read in records:
            if args.offsets:
                lines.append(b"%d\t" % read.offset)
            lines.append(read.record.value)
            lines.append(b"\n")
        sys.stdout.flush()
        sys.stdout.buffer.write(b"".join(lines))
    # One answer holds all there was, so whoever reads a pipe sees each record as soon as it is here.
    sys.stdout.flush()


def _as_json(read: ReadRecord) -> dict[str, Any]:
    line: dict[str, Any] = {
        "offset": read.offset,
        "timestamp": read.timestamp,
        "time": time_text(read.timestamp),
        **bytes_as_json("value", read.record.value),
    }
    if read.record.key:
        line.update(bytes_as_json("key", read.record.key))
    if read.record.headers:
        line["headers"] = [
            {"key": header.key, **bytes_as_json("value", header.value)} for header in read.record.headers
        ]
    return line
