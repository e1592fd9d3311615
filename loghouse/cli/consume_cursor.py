"""`loghouse consume --cursor`: go on where a cursor stands, and move it behind what was written."""

from __future__ import annotations

import argparse
from contextlib import aclosing
from typing import BinaryIO

from loghouse.cli.options import number
from loghouse.cli.output import CommandError, ExitCode
from loghouse.cli.record_output import WRITERS, for_terminal
from loghouse.cli.selection import Selection, selection_of
from loghouse.client import AsyncClient, Batch

_NOT_WITH = ("last", "until", "reverse", "local", "record_key", "header", "dir")


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add what says that a cursor tells where to begin."""
    parser.add_argument(
        "--cursor",
        metavar="NAME",
        help="begin where this cursor stands, and move it behind what was written; it is made if it is new",
    )
    parser.add_argument(
        "--commit-every",
        type=number("seconds", lowest=0, highest=3600, allowed="0 to 3600"),
        default=1,
        metavar="SECONDS",
        help="with --cursor: how long what was written may wait for its commit (1)",
    )
    parser.add_argument(
        "--wait", action="store_true", help="with --cursor: stand by while another consumer holds it"
    )


def check(args: argparse.Namespace) -> None:
    """Raise CommandError when options do not go with a cursor, or without one."""
    if args.cursor is None:
        if args.wait:
            raise CommandError("--wait goes with --cursor", ExitCode.USAGE)
        return
    for name in _NOT_WITH:
        if getattr(args, name) not in (None, False, []):
            raise CommandError(f"--cursor does not go with --{name.replace('_', '-')}", ExitCode.USAGE)
    if args.start != "earliest":
        raise CommandError(
            "--cursor begins where it stands; to put it elsewhere: loghouse cursor set", ExitCode.USAGE
        )
    if args.count is not None and args.grep is not None:
        raise CommandError("--cursor takes --count or --grep, not both", ExitCode.USAGE)


async def consume(args: argparse.Namespace, log: AsyncClient, output: BinaryIO) -> None:
    """Write records from the cursor on; each is done once it was written and flushed."""
    async with log.consumer(args.cursor, commit_seconds=args.commit_every) as consumer:
        position = await consumer.acquire(wait_seconds=None if args.wait else 0)
        bounds = await log.bounds()
        position = max(position, bounds.lowest)  # a cursor that is new begins there
        ends = [] if args.follow else [bounds.next_offset]
        ends += [] if args.count is None else [position + args.count]
        end = min(ends) if ends else None
        if end is not None and position >= end:
            return
        left = argparse.Namespace(**{**vars(args), "count": None})  # `end` says it
        selection = selection_of(left, output)
        async with aclosing(consumer.batches()) as batches:
            async for batch in batches:
                wanted = batch if end is None else batch.before(end)
                output.write(_text_of(args, selection, wanted, output))
                output.flush()
                consumer.done(wanted)
                if end is not None and batch.next_offset >= end:
                    return


def _text_of(args: argparse.Namespace, selection: Selection | None, batch: Batch, output: BinaryIO) -> bytes:
    if selection is not None:
        return selection.write(batch)
    text = WRITERS[args.format](batch, with_offsets=args.offsets)
    return for_terminal(text) if output.isatty() else text
