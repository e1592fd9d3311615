"""`loghouse consume --cursor`: go on where a cursor stands, and move it behind what was written."""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
from collections.abc import AsyncGenerator
from contextlib import aclosing, asynccontextmanager
from typing import BinaryIO

from loghouse.cli.output import CommandError, ExitCode, while_read
from loghouse.cli.record_output import WRITERS, for_terminal
from loghouse.cli.selection import Selection, selection_of
from loghouse.client import AsyncClient, Batch
from loghouse.client.consumer_settings import COMMIT_SECONDS, COMMIT_SECONDS_MAX, ConsumerOptions
from loghouse.config.values import parse_seconds

_NOT_WITH = ("last", "until", "reverse", "local", "record_key", "header", "dir")


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add what says that a cursor tells where to begin."""
    parser.add_argument(
        "--cursor",
        metavar="NAME",
        help="begin where this cursor stands, and move it behind what was written; one that is new is made, "
        "and begins at --from",
    )
    parser.add_argument(
        "--commit-every",
        type=_commit_seconds,
        default=COMMIT_SECONDS,
        metavar="TIME",
        help="with --cursor: how long what was written may wait for its commit (1s); 0: not at all",
    )
    parser.add_argument(
        "--wait", action="store_true", help="with --cursor: stand by while another consumer holds it"
    )


def _commit_seconds(text: str) -> float:
    """Read how long a commit may wait.

    Raises:
        argparse.ArgumentTypeError: It is no time span, or too long a one.
    """
    try:
        parsed = parse_seconds(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} {error}") from None
    if parsed > COMMIT_SECONDS_MAX:
        raise argparse.ArgumentTypeError(f"{text!r} is too long; allowed: 0 to {COMMIT_SECONDS_MAX:g}s")
    return parsed


def check(args: argparse.Namespace) -> None:
    """Raise CommandError when options do not go with a cursor, or without one."""
    if args.cursor is None:
        if args.wait:
            raise CommandError("--wait goes with --cursor", ExitCode.USAGE)
        return
    for name in _NOT_WITH:
        if getattr(args, name) not in (None, False, []):
            raise CommandError(f"--cursor does not go with --{name.replace('_', '-')}", ExitCode.USAGE)
    if args.count is not None and args.grep is not None:
        raise CommandError("--cursor takes --count or --grep, not both", ExitCode.USAGE)


@asynccontextmanager
async def until_terminated() -> AsyncGenerator[None, None]:
    """Let SIGTERM end a block as Ctrl-C does, so that its cursor is committed and let go; then it ends us.

    A supervisor sees the end that it asked for. A second SIGTERM waits for nothing.
    """
    loop, task = asyncio.get_running_loop(), asyncio.current_task()
    assert task is not None
    is_told = False

    def end() -> None:
        nonlocal is_told
        is_told = True
        loop.remove_signal_handler(signal.SIGTERM)
        task.cancel()

    loop.add_signal_handler(signal.SIGTERM, end)
    try:
        yield
    except asyncio.CancelledError:
        if not is_told:
            raise
    finally:
        loop.remove_signal_handler(signal.SIGTERM)
    if is_told:
        os.kill(os.getpid(), signal.SIGTERM)


async def consume(args: argparse.Namespace, log: AsyncClient, output: BinaryIO) -> None:
    """Write records from the cursor on; each is done once it was written and flushed."""
    options: ConsumerOptions = {"from_": args.start, "commit_seconds": args.commit_every}
    async with log.consumer(args.cursor, **options) as consumer, while_read(output, args.follow or args.wait):
        position = await consumer.begin(wait_seconds=None if args.wait else 0)
        bounds = await log.bounds()
        ends = [] if args.follow else [bounds.next_offset]
        ends += [] if args.count is None else [position + args.count]
        end = min(ends) if ends else None
        if end is not None and position >= end and position >= bounds.lowest:
            return  # what was trimmed is an error, though nothing else is there
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
