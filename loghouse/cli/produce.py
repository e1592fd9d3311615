"""`loghouse produce`: append values, lines, files, length-prefixed records or JSON lines."""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Final

from loghouse.cli.directory import add_option, open_directory
from loghouse.cli.options import header
from loghouse.cli.output import (
    CommandError,
    ExitCode,
    count_text,
    progress_bar,
    size_text,
    write_json,
    write_line,
)
from loghouse.cli.record_input import READERS, paced
from loghouse.cli.target import add_options, connect
from loghouse.client import Client
from loghouse.client.records import NewRecord
from loghouse.client.starts import Compression
from loghouse.config.values import parse_size
from loghouse.embedded.blocking import EmbeddedLog
from loghouse.errors import LoghouseError, OutcomeUnknownError
from loghouse.limits import KIB, MIB, PAYLOAD_SIZE_MAX

BATCH_SIZE_DEFAULT: Final = 256 * KIB
BUFFER_SIZE: Final = 4 * MIB  # of records not acknowledged yet; each costs more memory than its bytes
RATE_MAX: Final = 1_000_000


def add_parser(commands: Any) -> None:
    """Add the command to the parser."""
    parser = commands.add_parser(
        "produce",
        help="append records",
        description="Append records: each line of stdin or of files, or each --value; see --format for more. "
        "Prints the offsets once everything is durable. Whatever fails meanwhile, each record that is "
        "read is appended exactly once, in order; only a --value may be left uncertain (exit code 4).",
    )
    source = parser.add_mutually_exclusive_group()
    source.add_argument("--value", action="append", metavar="TEXT", help="append this (may be repeated)")
    source.add_argument(
        "--file", action="append", metavar="PATH", help="read this file (may be repeated); - is stdin"
    )
    parser.add_argument(
        "--format",
        choices=READERS,
        default="lines",
        help="lines (default): a record a line; files: a record a file; length-prefixed: 4 bytes of length "
        '(big-endian) before each; json: an object a line, such as {"value": "v", "key": "k", "headers": '
        '{"h": "v"}}, or as consume --json writes them',
    )
    parser.add_argument(
        "--record-key", metavar="TEXT", help="the key of records that bring none of their own"
    )
    parser.add_argument(
        "--header",
        action="append",
        type=header,
        default=[],
        metavar="NAME=TEXT",
        help="a header for every record (may be repeated)",
    )
    parser.add_argument("--rate", type=_rate, metavar="N", help="at most this many records a second")
    parser.add_argument(
        "--batch",
        nargs="?",
        type=size_from(1),
        const=BATCH_SIZE_DEFAULT,
        metavar="SIZE",
        help="send batches of at most about this size (256KiB)",
    )
    parser.add_argument("--codec", choices=["none", "zstd"], default="none", help="compress the batches")
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    add_option(parser, "append to this data directory, without a node (made if it is not there)")
    add_options(parser)
    parser.set_defaults(run=run)


def size_from(lowest: int) -> Callable[[str], int]:
    """Return what reads the size of a record or a batch from an option."""

    def read(text: str) -> int:
        try:
            size = parse_size(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(f"{text!r} {error}") from None
        if not lowest <= size <= PAYLOAD_SIZE_MAX:
            raise argparse.ArgumentTypeError(
                f"{text!r} is out of range; allowed: {lowest} to {PAYLOAD_SIZE_MAX} bytes"
            )
        return size

    return read


def _rate(text: str) -> float:
    try:
        rate = float(text)
    except ValueError:
        rate = 0.0
    if not 0 < rate <= RATE_MAX:
        raise argparse.ArgumentTypeError(
            f"{text!r} is no rate; allowed: records a second, above 0, at most {RATE_MAX}"
        )
    return rate


@dataclass(slots=True)
class AppendTotals:
    """What has been acknowledged so far: records, bytes of their values, and the offsets they got."""

    record_count: int = 0
    size: int = 0
    first_offset: int | None = None
    last_offset: int | None = None
    seconds: float = 0.0
    ranges: list[range] = field(default_factory=list)  # of offsets; more than one when others append, too

    def note(self, offset: int, size: int) -> None:
        """Add one acknowledged record."""
        if self.first_offset is None:
            self.first_offset = offset
        self.last_offset = offset
        if self.ranges and self.ranges[-1].stop == offset:
            self.ranges[-1] = range(self.ranges[-1].start, offset + 1)
        else:
            self.ranges.append(range(offset, offset + 1))
        self.record_count += 1
        self.size += size


def run(args: argparse.Namespace) -> None:
    """Append, and print what got which offsets."""
    appended = AppendTotals()
    records, total = _records(args)
    if args.rate:
        records = paced(records, args.rate)
    opened = open_directory(args) if args.dir else connect(args)
    with opened as log, progress_bar(total, "B", "appending") as bar:
        try:
            if args.value:
                append_each(log, records, appended)
            else:
                batch_size = args.batch or BATCH_SIZE_DEFAULT
                append(log, records, appended, batch_size, args.codec, bar.update)
        except (LoghouseError, OSError, KeyboardInterrupt) as error:
            _explain(error, appended)
            raise
    _report(appended, args.json)


def append_each(log: Client | EmbeddedLog, records: Iterable[NewRecord], appended: AppendTotals) -> None:
    """Append a few records, one call each; `appended` grows with each acknowledgement.

    Raises:
        OutcomeUnknownError: The last one may or may not have been appended.
        LoghouseError: The last one was not appended.
    """
    started = time.monotonic()
    try:
        for record in records:
            offset = log.append(
                record.value, key=record.key, headers=record.headers, timestamp=record.timestamp
            )
            appended.note(offset, len(record.value))
    finally:
        appended.seconds = time.monotonic() - started


def append(
    log: Client | EmbeddedLog,
    records: Iterable[NewRecord],
    appended: AppendTotals,
    batch_size: int = BATCH_SIZE_DEFAULT,
    compression: Compression = "none",
    progress: Callable[[int], Any] | None = None,
) -> None:
    """Append many records in batches, each exactly once; `appended` grows with each acknowledgement.

    Raises:
        LoghouseError: A batch failed; what `appended` counts is durable.
        CommandError, OSError: The records could not be read to their end; those before are appended.
    """
    started = time.monotonic()
    sent: deque[tuple[Any, int]] = deque()

    def settle() -> None:
        while sent and sent[0][0].is_done:
            delivery, size = sent.popleft()
            appended.note(delivery.offset(), size)
            if progress is not None:
                progress(size)

    try:
        with log.producer(
            batch_bytes=batch_size, buffer_bytes=BUFFER_SIZE, compression=compression
        ) as producer:
            for record in records:
                delivery = producer.append(
                    record.value, key=record.key, headers=record.headers, timestamp=record.timestamp
                )
                sent.append((delivery, len(record.value)))
                settle()
    except BaseException:
        with suppress(LoghouseError):  # of the first record that failed: it is told already
            settle()
        raise
    finally:
        appended.seconds = time.monotonic() - started
    settle()


def _records(args: argparse.Namespace) -> tuple[Iterator[NewRecord], int | None]:
    """Return the records to append, and their bytes where that is known before."""
    if args.value and args.format != "lines":
        raise CommandError(f"--value and --format {args.format} do not go together", ExitCode.USAGE)
    if args.value and args.codec != "none":
        raise CommandError("--codec is for batches; each --value is appended by itself", ExitCode.USAGE)
    if args.value and args.batch:
        raise CommandError("--batch is for batches; each --value is appended by itself", ExitCode.USAGE)
    if args.value:
        values = [os.fsencode(value) for value in args.value]
        return _completed(map(NewRecord, values), args), sum(map(len, values))
    named = args.file or ["-"]
    files = [_opened(path) for path in named]
    sizes = [os.fstat(descriptor).st_size for descriptor, name in files]
    total = sum(sizes) if "-" not in named else None
    return _completed(_read(files, args.format), args), total


def _opened(path: str) -> tuple[int, str]:
    """Return a descriptor to read from, and what to call it."""
    if path == "-":
        if sys.stdin.isatty():
            sys.stderr.write("reading from the terminal; Ctrl-D ends\n")
        return sys.stdin.fileno(), "stdin"
    try:
        descriptor = os.open(path, os.O_RDONLY)
        os.read(descriptor, 0)  # a directory opens, and fails here
    except OSError as error:
        raise CommandError(f"--file: {path}: {error.strerror}", ExitCode.USAGE) from None
    return descriptor, path


def _read(files: Sequence[tuple[int, str]], format_: str) -> Iterator[NewRecord]:
    for descriptor, name in files:
        yield from READERS[format_](descriptor, name)


def _completed(records: Iterator[NewRecord], args: argparse.Namespace) -> Iterator[NewRecord]:
    """Give each record the key and the headers of the command line."""
    key = os.fsencode(args.record_key) if args.record_key is not None else None
    headers = tuple(args.header)
    if key is None and not headers:
        return records
    return (
        record._replace(key=key if record.key is None else record.key, headers=(*record.headers, *headers))
        for record in records
    )


def _explain(error: BaseException, appended: AppendTotals) -> None:
    """Say on stderr what is certain after a failure."""
    is_unsure = isinstance(error, OutcomeUnknownError | KeyboardInterrupt)
    if not appended.record_count and not is_unsure:
        return
    if appended.record_count:
        done = (
            f"{count_text(appended.record_count, 'record')} acknowledged as durable, "
            f"the last at offset {appended.last_offset}"
        )
    else:
        done = "no record was acknowledged"
    tail = "; those sent after may or may not have been appended" if is_unsure else ""
    sys.stderr.write(f"{done}{tail}\n")


def _report(appended: AppendTotals, as_json: bool) -> None:
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
