"""A file's way through a log and back: every line a record, compared byte by byte."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from loghouse.cli.output import CommandError, count_text, progress_bar, size_text
from loghouse.cli.produce import AppendTotals, append
from loghouse.cli.record_input import lines_of
from loghouse.client import Batch, Client
from loghouse.client.records import NewRecord


def append_file(log: Client, path: Path) -> AppendTotals:
    """Append every line of a file."""
    appended = AppendTotals()
    with progress_bar(path.stat().st_size, "B", "appending") as bar:
        append(log, map(NewRecord, _lines(path)), appended, progress=bar.update)
    return appended


def compare_file(log: Client, path: Path, appended: AppendTotals) -> float:
    """Read back what was appended and compare it with the file; return the seconds that took.

    Raises:
        CommandError: What came back differs.
        LoghouseError: A call failed.
    """
    started = time.monotonic()
    expected = _lines(path)
    with progress_bar(appended.record_count, " records", "reading back") as bar:
        for offsets in appended.ranges:
            for batch in _read(log, offsets):
                for offset, value in enumerate(batch.values(), batch.offset):
                    if next(expected, None) != value:
                        raise CommandError(f"offset {offset} came back different from the line appended")
                bar.update(len(batch))
    if any(True for _ in expected):
        raise CommandError("fewer records came back than lines were appended")
    return time.monotonic() - started


def _read(log: Client, offsets: range) -> Iterator[Batch]:
    for batch in log.read_batches(offsets.start):
        yield batch.before(offsets.stop)
        if batch.next_offset >= offsets.stop:
            return


def figures(appended: AppendTotals, read_seconds: float) -> dict[str, Any]:
    """Return what is told about a trip."""
    return {
        "records": appended.record_count,
        "bytes": appended.size,
        "first_offset": appended.first_offset,
        "last_offset": appended.last_offset,
        "append_seconds": round(appended.seconds, 6),
        "read_seconds": round(read_seconds, 6),
    }


def _lines(path: Path) -> Iterator[bytes]:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        yield from lines_of(descriptor, str(path))
    finally:
        os.close(descriptor)


def tell_trip(path: Path, result: dict[str, Any], say: Callable[[str], None]) -> None:
    """Say the figures of a round trip."""
    if not result["records"]:
        say(f"{path} is empty: nothing to append")
        return
    for verb, key in (("appended, durably", "append_seconds"), ("read back and compared", "read_seconds")):
        seconds = result[key] or 1e-6
        say(
            f"{verb}: {count_text(result['records'], 'line')} of {path} ({size_text(result['bytes'])}) "
            f"in {seconds:.3f} s: "
            f"{result['records'] / seconds:,.0f} records/s, {size_text(result['bytes'] / seconds)}/s"
        )
    say(f"offsets {result['first_offset']} to {result['last_offset']}; every byte came back as it went in")
