"""`loghouse consume`: read records from an offset or a time on, and follow the tail."""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing, contextmanager
from datetime import datetime
from typing import Any, BinaryIO

from loghouse.cli import consume_cursor, places
from loghouse.cli.directory import DirectoryReader, add_option
from loghouse.cli.options import header, number
from loghouse.cli.output import CommandError, ExitCode, progress_bar, while_read
from loghouse.cli.record_output import WRITERS, for_terminal
from loghouse.cli.selection import TEMPLATE_ALLOWED, Template, check, choices_of, pattern, selection_of
from loghouse.cli.target import add_options, connect_async, contact
from loghouse.client import AsyncClient, Batch
from loghouse.client.choice import ReadOptions
from loghouse.client.loop_thread import let_calls_end
from loghouse.client.pages import in_order


def add_parser(commands: Any) -> None:
    """Add `consume` and `tail` to the parser."""
    parser = commands.add_parser(
        "consume",
        help="read records",
        description="Read records from an offset or a time on, one value a line. Ends where the log ended "
        "at the start, unless --follow. Checks every checksum of what arrives, and goes on at another node "
        "when one fails.",
    )
    place = parser.add_mutually_exclusive_group()
    place.add_argument(
        "--from",
        "--offset",
        dest="start",
        type=places.start,
        default="earliest",
        metavar="WHERE",
        help="the first record to read: an offset, earliest (default), latest (the next one appended), a "
        "time: 2026-11-23T08:30:00Z (local time without the Z), 08:30 (today), or 2h (so long ago; -2h, too)",
    )
    place.add_argument(
        "--last",
        type=number("a count"),
        metavar="N",
        help="begin so many records before the log's end; of those with --record-key and --header",
    )
    parser.add_argument(
        "--until",
        type=places.until,
        metavar="WHERE",
        help="the first record not to read: an offset, or a time as for --from",
    )
    parser.add_argument("--follow", "-f", action="store_true", help="wait for more, until Ctrl-C")
    parser.add_argument(
        "--count", "-n", type=number("a count"), metavar="N", help="stop after this many records"
    )
    parser.add_argument("--reverse", action="store_true", help="the same records, the last one first")
    consume_cursor.add_options(parser)
    _add_output(parser)
    parser.set_defaults(run=run)
    tail = commands.add_parser(
        "tail",
        help="show the last records, and those that come",
        description="Show the last records of a log, and each one that is appended, until Ctrl-C: as "
        "`loghouse consume --last 10`, and then --follow.",
    )
    tail.add_argument(
        "--last", "-n", type=number("a count"), default=10, metavar="N", help="how many to begin with (10)"
    )
    _add_output(tail)
    tail.set_defaults(run=run, start="earliest", until=None, follow=True, count=None, reverse=False)
    tail.set_defaults(cursor=None, wait=False)


def _add_output(parser: argparse.ArgumentParser) -> None:
    """Add what chooses records and says how they are written, and where to connect."""
    parser.add_argument("--record-key", metavar="TEXT", help="only records with this key")
    parser.add_argument(
        "--header",
        type=header,
        action="append",
        default=[],
        metavar="NAME=TEXT",
        help="only records with this header; several: with all of them",
    )
    parser.add_argument(
        "--local",
        action="store_true",
        help="ask nobody where the log ends: read what one node knows, which may be old, without a majority",
    )
    parser.add_argument(
        "--grep", type=pattern, metavar="REGEX", help="only records in whose value this is found"
    )
    parser.add_argument(
        "--format",
        choices=WRITERS,
        default="lines",
        help="lines (default): a value a line; raw: the values' bytes alone; json: an object a line; "
        "hex: digits, a value a line; length-prefixed: 4 bytes of length (big-endian) before each value",
    )
    parser.add_argument("--json", action="store_true", help="short for --format json")
    parser.add_argument("--offsets", action="store_true", help="put each record's offset and a tab before it")
    parser.add_argument(
        "--template",
        type=Template,
        metavar="TEXT",
        help=f"a line for each record, such as '%%o %%t %%k %%v': {TEMPLATE_ALLOWED.replace('%', '%%')}",
    )
    parser.add_argument("--output", "-o", metavar="PATH", help="write to this file; - is stdout (default)")
    add_option(parser, "read this data directory, without a node; another process may write it meanwhile")
    add_options(parser)


def run(args: argparse.Namespace) -> None:
    """Read and print."""
    if args.json and args.format not in ("lines", "json"):
        raise CommandError(f"--json and --format {args.format} contradict each other", ExitCode.USAGE)
    if args.json:
        args.format = "json"
    if args.offsets and args.format not in ("lines", "hex"):
        raise CommandError("--offsets goes with --format lines or hex", ExitCode.USAGE)
    check(args)
    consume_cursor.check(args)
    with _opened(args.output) as output:
        asyncio.run(_run_to_the_end(args, output))


async def _run_to_the_end(args: argparse.Namespace, output: BinaryIO) -> None:
    try:
        await _run(args, output)
    finally:
        await let_calls_end()


async def _run(args: argparse.Namespace, output: BinaryIO) -> None:
    """Read and write; ends also when nobody reads our stdout any more, even while it waits for records."""
    if args.dir:
        async with while_read(output, args.follow), DirectoryReader(args) as directory:
            await _read(args, directory, output)
        return
    if args.cursor is not None:
        async with consume_cursor.until_terminated(), connect_async(args) as log:
            await contact(log, args)
            await consume_cursor.consume(args, log, output)
        return
    async with connect_async(args) as log, while_read(output, args.follow):
        await contact(log, args)
        await _read(args, log, output)


@contextmanager
def _opened(path: str | None) -> Iterator[BinaryIO]:
    """Give the file to write to; stdout when none is named."""
    if path is None or path == "-":
        sys.stdout.flush()
        yield sys.stdout.buffer
        return
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666)
    except OSError as error:
        raise CommandError(f"--output: {path}: {error.strerror}", ExitCode.USAGE) from None
    with open(descriptor, "wb") as file:
        yield file


async def _read(args: argparse.Namespace, log: AsyncClient | DirectoryReader, output: BinaryIO) -> None:
    choices, total, end = choices_of(args), None, None
    if choices and args.count == 0:
        return
    if choices:
        answers = await _chosen(args, log, choices)
    else:
        offset, end, is_unconfirmed = await _range(args, log)
        if end is not None and offset >= end:
            return
        total = end - offset if end is not None else None
        answers = log.read_range(offset, end, is_unconfirmed=is_unconfirmed)
    is_terminal = output.isatty()
    # A bar would come between the records of a terminal.
    shows_progress = total is not None and not is_terminal
    selection = selection_of(args, output)
    batches = _batches(answers)
    with progress_bar(total, " records", "reading", is_alone=shows_progress) as bar:
        async with aclosing(batches):
            async for batch in batches:
                wanted = batch if end is None else batch.before(end)
                if selection is not None:
                    output.write(selection.write(in_order(wanted, args.reverse)))
                else:
                    text = WRITERS[args.format](wanted, with_offsets=args.offsets)
                    output.write(for_terminal(text) if is_terminal else text)
                if args.follow:
                    output.flush()  # whoever reads the pipe sees each record as soon as it is here
                if shows_progress:
                    bar.update(len(wanted))
                if end is not None and batch.next_offset >= end:
                    break
                if selection is not None and selection.is_over:
                    break
    output.flush()


async def _batches(answers: AsyncGenerator[Iterator[Batch], None]) -> AsyncGenerator[Batch, None]:
    async with aclosing(answers):
        async for batches in answers:
            for batch in batches:
                yield batch


async def _chosen(
    args: argparse.Namespace, log: AsyncClient | DirectoryReader, choices: ReadOptions
) -> AsyncGenerator[Iterator[Batch], None]:
    """Return the answers with the records that the server chooses."""
    start = args.start
    if args.last is not None:
        start = "latest"
        before: ReadOptions = {**choices, "reverse": True, "limit": args.last}
        if not args.follow:
            before["until"] = args.until
        if args.last:
            async for batch in _batches(log.read_answers(**before)):
                start = batch.offset
    options: ReadOptions = {**choices, "follow": args.follow, "until": args.until}
    if args.count and args.grep is None:
        options["limit"] = args.count
    return log.read_answers(start, **options)


async def _range(
    args: argparse.Namespace, log: AsyncClient | DirectoryReader
) -> tuple[int, int | None, bool]:
    """Return the first offset to read, the first not to read, and whether nobody could tell the log's end."""
    start = args.start
    if args.last is not None:
        following, _ = await log.find_range("latest", follow=False)
        lowest, _ = await log.find_range("earliest", follow=False)
        start = max(lowest, following - args.last)
    offset, end = await log.find_range(start, follow=args.follow)
    is_unconfirmed = end is None and not args.follow
    until = args.until
    if isinstance(until, datetime):
        until, _ = await log.find_range(until, follow=False)
    chooses = args.record_key is not None or args.grep is not None
    count = None if args.count is None or chooses else offset + args.count
    ends = [one for one in (end, until, count) if one is not None]
    end = min(ends) if ends else None
    return offset, end, is_unconfirmed
