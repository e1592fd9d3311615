"""`loghouse produce`: append lines of stdin or of a file, or values, as single records or in batches."""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, Final

from loghouse.api.v1 import log_pb2
from loghouse.cli.output import (
    CommandError,
    ExitCode,
    count_text,
    progress_bar,
    size_text,
    write_json,
    write_line,
)
from loghouse.cli.target import add_options, connect
from loghouse.client.connection import CallError, Connection
from loghouse.config_values import parse_size
from loghouse.limits import KIB, PAYLOAD_SIZE_MAX, RECORDS_PER_BATCH_MAX
from loghouse.protocol.batch import compress, encode_batch
from loghouse.protocol.entry import Codec, crc32c

BATCH_SIZE_DEFAULT: Final = 256 * KIB
READ_SIZE: Final = 256 * KIB
RECORD_OVERHEAD_SIZE: Final = 16  # more than protobuf adds to a value, so a batch never outgrows its size


def add_parser(commands: Any) -> None:
    """Add the command to the parser."""
    parser = commands.add_parser(
        "produce",
        help="append records",
        description="Append records: each line of stdin, of a file, or each --value. "
        "Prints the offsets once everything is durable.",
    )
    source = parser.add_mutually_exclusive_group()
    source.add_argument("--value", action="append", metavar="TEXT", help="append this (may be repeated)")
    source.add_argument("--file", metavar="PATH", help="append every line of a file; - is stdin")
    parser.add_argument(
        "--batch",
        nargs="?",
        type=_batch_size,
        const=BATCH_SIZE_DEFAULT,
        metavar="SIZE",
        help="send batches of about this size (256KiB): much faster for many records",
    )
    parser.add_argument("--codec", choices=["none", "zstd"], default="none", help="compress the batches")
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    add_options(parser)
    parser.set_defaults(run=run)


def _batch_size(text: str) -> int:
    try:
        size = parse_size(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} {error}") from None
    if not 1 <= size <= PAYLOAD_SIZE_MAX:
        raise argparse.ArgumentTypeError(f"{text!r} is out of range; allowed: 1 to {PAYLOAD_SIZE_MAX} bytes")
    return size


@dataclass(slots=True)
class Appended:
    """What has been acknowledged so far: records, bytes of their values, and the offsets they got."""

    record_count: int = 0
    size: int = 0
    first_offset: int | None = None
    last_offset: int | None = None
    seconds: float = 0.0
    ranges: list[range] = field(default_factory=list)  # of offsets; more than one when others append, too

    def note(self, base_offset: int, record_count: int, size: int) -> None:
        """Add one acknowledgement."""
        if self.first_offset is None:
            self.first_offset = base_offset
        self.last_offset = base_offset + record_count - 1
        if self.ranges and self.ranges[-1].stop == base_offset:
            self.ranges[-1] = range(self.ranges[-1].start, base_offset + record_count)
        else:
            self.ranges.append(range(base_offset, base_offset + record_count))
        self.record_count += record_count
        self.size += size


@dataclass(slots=True)
class _Outgoing:
    """Requests as gRPC's thread asks for them; an error of the source ends them and is kept."""

    requests: Iterator[tuple[Any, int, int]]
    sent: deque[tuple[int, int]] = field(default_factory=deque)
    error: Exception | None = None

    def __iter__(self) -> Iterator[Any]:
        try:
            for request, record_count, size in self.requests:
                self.sent.append((record_count, size))
                yield request
        except (OSError, CommandError) as error:
            self.error = error


def run(args: argparse.Namespace) -> int:
    """Append, and print what got which offsets."""
    if args.codec != "none" and not args.batch:
        raise CommandError("--codec goes with --batch: single records are not compressed", ExitCode.USAGE)
    values, total = _values(args)
    appended = Appended()
    with connect(args) as connection, progress_bar(total, "B", "appending") as bar:
        try:
            append(connection, values, appended, args.log, args.batch, Codec[args.codec.upper()], bar.update)
        except (CallError, KeyboardInterrupt) as error:
            _explain(error, appended)
            raise
    _report(appended, args.json)
    return ExitCode.OK


def append(
    connection: Connection,
    values: Iterable[bytes],
    appended: Appended,
    log: str = "",
    batch_size: int | None = None,
    codec: Codec = Codec.NONE,
    progress: Any = None,
) -> None:
    """Append every value, many in flight; `appended` grows with each acknowledgement.

    Raises:
        CallError: The stream broke; what `appended` counts is durable.
        CommandError, OSError: The values could not be read to their end; those before are appended.
    """
    started = time.monotonic()
    if batch_size:
        outgoing = _Outgoing(_batch_requests(values, log, batch_size, codec))
        answers = connection.log.ProduceBatchStream(iter(outgoing))
    else:
        outgoing = _Outgoing(_record_requests(values, log))
        answers = connection.log.ProduceStream(iter(outgoing))
    try:
        with connection.errors():
            for answer in answers:
                record_count, size = outgoing.sent.popleft()
                appended.note(answer.base_offset if batch_size else answer.offset, record_count, size)
                if progress is not None:
                    progress(size)
    finally:
        answers.cancel()
        appended.seconds = time.monotonic() - started
    if outgoing.error is not None:
        raise outgoing.error


def _record_requests(values: Iterable[bytes], log: str) -> Iterator[tuple[Any, int, int]]:
    for value in values:
        yield log_pb2.ProduceRequest(record=log_pb2.Record(value=value), log=log), 1, len(value)


def _batch_requests(
    values: Iterable[bytes], log: str, batch_size: int, codec: Codec
) -> Iterator[tuple[Any, int, int]]:
    records: list[log_pb2.Record] = []
    size = value_size = 0
    for value in values:
        cost = len(value) + RECORD_OVERHEAD_SIZE
        if records and (size + cost > batch_size or len(records) == RECORDS_PER_BATCH_MAX):
            yield _batch_request(records, log, codec), len(records), value_size
            records, size, value_size = [], 0, 0
        records.append(log_pb2.Record(value=value))
        size += cost
        value_size += len(value)
    if records:
        yield _batch_request(records, log, codec), len(records), value_size


def _batch_request(records: list[log_pb2.Record], log: str, codec: Codec) -> log_pb2.ProduceBatchRequest:
    batch = compress(encode_batch(records), codec)
    return log_pb2.ProduceBatchRequest(
        batch=batch,
        record_count=len(records),
        codec=log_pb2.Codec.Name(codec),
        batch_crc=crc32c(batch),
        log=log,
    )


def _values(args: argparse.Namespace) -> tuple[Iterator[bytes], int | None]:
    """Return the values to append, and their bytes where that is known before."""
    if args.value:
        values = [os.fsencode(value) for value in args.value]
        return iter(values), sum(map(len, values))
    if args.file and args.file != "-":
        try:
            descriptor = os.open(args.file, os.O_RDONLY)
            total = os.fstat(descriptor).st_size
            os.read(descriptor, 0)  # a directory opens, and fails here
        except OSError as error:
            raise CommandError(f"--file: {args.file}: {error.strerror}", ExitCode.USAGE) from None
        return lines_of(descriptor, args.file), total
    if sys.stdin.isatty():
        sys.stderr.write("reading lines from the terminal; Ctrl-D ends\n")
    return lines_of(sys.stdin.fileno(), "stdin"), None


def lines_of(descriptor: int, name: str) -> Iterator[bytes]:
    """Yield the lines of a file without their newlines.

    Reads the descriptor itself: gRPC's thread may still sit in a read of stdin when the command ends, and
    Python's buffered stdin would abort the process for that.

    Raises:
        CommandError: A line is longer than any record can be.
    """
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


def _explain(error: BaseException, appended: Appended) -> None:
    """Say on stderr what is certain after a broken stream."""
    if isinstance(error, CallError) and error.is_retryable and not appended.record_count:
        return
    if appended.record_count:
        done = (
            f"{count_text(appended.record_count, 'record')} acknowledged as durable, "
            f"the last at offset {appended.last_offset}"
        )
    else:
        done = "no record was acknowledged"
    unsure = not isinstance(error, CallError) or error.is_outcome_unknown
    tail = "; those sent after may or may not have been appended" if unsure else ""
    sys.stderr.write(f"{done}{tail}\n")


def _report(appended: Appended, as_json: bool) -> None:
    if as_json:
        write_json(
            {
                "records": appended.record_count,
                "bytes": appended.size,
                "first_offset": appended.first_offset,
                "last_offset": appended.last_offset,
                "seconds": round(appended.seconds, 6),
            }
        )
    elif not appended.record_count:
        write_line("nothing to append")
    else:
        rate = appended.size / appended.seconds if appended.seconds else 0.0
        offsets = (
            f"offset {appended.first_offset}"
            if appended.record_count == 1
            else f"offsets {appended.first_offset} to {appended.last_offset}"
        )
        write_line(
            f"appended {count_text(appended.record_count, 'record')} ({size_text(appended.size)}), "
            f"{offsets}, in {appended.seconds:.3f} s ({size_text(rate)}/s)"
        )
