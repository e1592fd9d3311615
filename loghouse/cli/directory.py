"""`--dir`: a command works on a data directory itself, without a node: an embedded log."""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import AsyncGenerator, Iterator
from types import TracebackType
from typing import Self, Unpack

from loghouse.cli.output import CommandError, ExitCode
from loghouse.client import Batch
from loghouse.client.choice import ReadOptions, choice_of
from loghouse.client.records import batches_in
from loghouse.client.starts import Start
from loghouse.embedded.blocking import EmbeddedLog, open_embedded
from loghouse.embedded.reader import POLL_SECONDS, open_reader
from loghouse.embedded.reads import decoded_range
from loghouse.limits import UINT64_MAX
from loghouse.protocol.entry import checked_entries
from loghouse.protocol.record_range import RecordRange

_CONNECTION = ("server", "cluster", "ca", "cert", "key", "config", "plaintext", "direct", "log")


def add_option(parser: argparse.ArgumentParser, text: str) -> None:
    """Add the option that names the directory."""
    parser.add_argument("--dir", metavar="DATA_DIR", help=text)


def open_directory(args: argparse.Namespace) -> EmbeddedLog:
    """Return the log of the directory, made if there is none.

    Raises:
        CommandError: The options say where to connect, too.
        DataDirectoryError: It is in use, or cannot be used.
    """
    _check_alone(args)
    return open_embedded(args.dir)


class DirectoryReader:
    """Reads a directory that another process may have open; as much of `AsyncClient` as `consume` needs."""

    def __init__(self, args: argparse.Namespace) -> None:
        """Open it; raises as `open_reader` does.

        Raises:
            CommandError: The options say where to connect, too.
        """
        _check_alone(args)
        self._reader = open_reader(args.dir)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._reader.close()

    async def find_range(self, from_: Start, *, follow: bool = False) -> tuple[int, int | None]:
        """Return the first offset to read, and the first not to; see `EmbeddedReads.find_range`."""
        return await asyncio.to_thread(self._reader.find_range, from_, follow=follow)

    async def read_range(
        self, offset: int, end: int | None, *, is_unconfirmed: bool = False
    ) -> AsyncGenerator[Iterator[Batch], None]:
        """Yield the batches of one look at the directory at a time."""
        reader = self._reader
        while end is None or offset < end:
            frames, next_offset = await asyncio.to_thread(reader.fetch, offset)
            if next_offset == offset:
                await asyncio.sleep(POLL_SECONDS)
                continue
            yield batches_in(checked_entries(frames), offset, next_offset, end)
            offset = next_offset

    async def read_answers(
        self, from_: Start = "earliest", **options: Unpack[ReadOptions]
    ) -> AsyncGenerator[Iterator[Batch], None]:
        """Yield what is chosen of one look at the directory at a time; see `AsyncLog.read_answers`."""
        reader, choice = self._reader, choice_of(**options)
        offset, end = await asyncio.to_thread(reader.offsets_of, from_, choice)
        wanted: RecordRange | None = choice.range(offset, UINT64_MAX if end is None else end)
        while wanted is not None and wanted.first < wanted.end:
            if choice.follow and (await asyncio.to_thread(reader.bounds)).next_offset <= wanted.first:
                await asyncio.sleep(POLL_SECONDS)
                continue
            batches, wanted = decoded_range(wanted, await asyncio.to_thread(reader.read_range, wanted))
            yield batches


def _check_alone(args: argparse.Namespace) -> None:
    given = [name for name in _CONNECTION if getattr(args, name, None)]
    if given:
        raise CommandError(f"--dir and --{given[0]} contradict each other", ExitCode.USAGE)
