"""What a command writes: results on stdout (text or JSON), progress and problems on stderr."""

from __future__ import annotations

import argparse
import asyncio
import base64
import select
import sys
import threading
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime
from enum import IntEnum
from typing import Any, BinaryIO

from tqdm import tqdm

from loghouse.errors import LoghouseError
from loghouse.limits import MICROSECONDS
from loghouse.text import visible, visible_json


class ExitCode(IntEnum):
    """How every command ends; docs and `loghouse --help` list them."""

    OK = 0
    FAILED = 1
    USAGE = 2
    UNAVAILABLE = 3
    OUTCOME_UNKNOWN = 4
    DAMAGED = 5
    DEGRADED = 6
    INTERRUPTED = 130


EXIT_CODES_TEXT = """exit codes:
  0    done (also when the reader of a pipe has seen enough)
  1    refused or failed
  2    wrong command line, settings or input
  3    not available now; nothing was done, trying again is safe (cluster status: no leader, or no majority;
       consume --cursor: another consumer holds it)
  4    outcome unknown: records may or may not have been appended
  5    damage found
  6    it works, and something needs attention (cluster health, doctor)
  130  interrupted (Ctrl-C)
"""


class CommandError(LoghouseError):
    """A command cannot go on; the text is all that the user sees."""

    def __init__(self, text: str, exit_code: ExitCode = ExitCode.FAILED) -> None:
        super().__init__(text)
        self.exit_code = exit_code


def write_json(value: Mapping[str, Any]) -> None:
    """Write one JSON object on a line of its own."""
    sys.stdout.write(visible_json(value) + "\n")


def write_line(text: str = "") -> None:
    """Write a line of text; what a terminal would obey becomes visible."""
    sys.stdout.write(visible(text, keep="\n") + "\n")


def complain(text: str) -> None:
    """Write a line about a problem to stderr, visible as `write_line`."""
    sys.stderr.write(visible(text, keep="\n") + "\n")


def write_result(args: argparse.Namespace, result: Mapping[str, Any], text: str) -> None:
    """Write what a command did: as JSON with --json, else as text."""
    if args.json:
        write_json(result)
    else:
        write_line(text)


def write_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Write rows under a header, columns aligned."""
    rows = [[visible(cell) for cell in row] for row in rows]
    widths = [max(len(row[column]) for row in [header, *rows]) for column in range(len(header))]
    for row in [header, *rows]:
        cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        write_line("  ".join(cells).rstrip())


def bytes_as_json(name: str, value: bytes) -> dict[str, str]:
    """Return bytes as a JSON field: `name` when they are UTF-8, else `name_base64`."""
    try:
        return {name: value.decode()}
    except UnicodeDecodeError:
        return {f"{name}_base64": base64.b64encode(value).decode()}


def time_text(timestamp: int) -> str:
    """Return microseconds since the epoch as ISO 8601 in UTC."""
    seconds, microseconds = divmod(timestamp, MICROSECONDS)
    try:
        moment = datetime.fromtimestamp(seconds, UTC).replace(microsecond=microseconds)
    except (OverflowError, ValueError, OSError):
        return f"{timestamp} us"
    return moment.isoformat(timespec="microseconds").replace("+00:00", "Z")


def count_text(count: int, noun: str) -> str:
    """Return a count with its noun: `1 record`, `2 records`."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def size_text(size: float) -> str:
    """Return bytes for people: 1234567 is `1.2 MiB`."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size < 1024:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} TiB"


def watch_reader(on_gone: Callable[[], None]) -> None:
    """Call `on_gone`, on a thread, once nobody can read our stdout any more (`loghouse consume -f | head`).

    A command that waits for the next record would otherwise learn it only when it writes that record.
    """
    try:
        descriptor = sys.stdout.fileno()
    except OSError:
        return  # no descriptor, so no pipe
    gone = select.poll()
    gone.register(descriptor, 0)  # errors and hang-ups are reported without being asked for

    def wait() -> None:
        gone.poll()
        on_gone()

    threading.Thread(target=wait, name="reader of stdout", daemon=True).start()


@asynccontextmanager
async def while_read(output: BinaryIO, follows: bool) -> AsyncGenerator[None, None]:
    """Cancel what a block waits for once nobody can read our stdout, and raise BrokenPipeError from it.

    Only the block is cancelled, not what the task does after it: a cursor is to be committed then.

    Args:
        follows: Whether it may wait for long; otherwise nothing is watched, as with any other output.
    """
    loop, task = asyncio.get_running_loop(), asyncio.current_task()
    assert task is not None
    is_inside = is_read = True

    def cancel() -> None:
        nonlocal is_read
        if is_inside:
            is_read = False
            task.cancel()

    def stop() -> None:
        with suppress(RuntimeError):  # the loop is closed: it was over just now
            loop.call_soon_threadsafe(cancel)

    if follows and output is sys.stdout.buffer:
        watch_reader(stop)
    try:
        yield
    except asyncio.CancelledError:
        if is_read:
            raise
        task.uncancel()
        raise BrokenPipeError from None
    finally:
        is_inside = False


def progress_bar(total: int | None, unit: str, description: str, *, is_alone: bool = True) -> tqdm[Any]:
    """Return a progress bar on stderr; silent unless stderr is a terminal.

    Args:
        is_alone: Whether no results go to a terminal meanwhile: a bar would come between them.
    """
    return tqdm(
        total=total,
        unit=unit,
        desc=description,
        unit_scale=True,
        unit_divisor=1024 if unit == "B" else 1000,
        disable=not (is_alone and sys.stderr.isatty()),
        leave=False,
        file=sys.stderr,
    )
