"""A file's way through a log and back: every line a record, compared byte by byte."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from loghouse.cli.consume import read_until
from loghouse.cli.output import CommandError, count_text, progress_bar, size_text
from loghouse.cli.produce import BATCH_SIZE_DEFAULT, Appended, append, lines_of
from loghouse.client.connection import Connection


def round_trip(connection: Connection, path: Path) -> dict[str, Any]:
    """Append every line of a file, read them all back, and compare; return the figures.

    Raises:
        CommandError: What came back differs.
        CallError: A call failed.
    """
    appended = append_file(connection, path)
    seconds = compare_file(connection, path, appended)
    return figures(appended, seconds)


def append_file(connection: Connection, path: Path) -> Appended:
    """Append every line of a file.

    Raises:
        CallError: The call failed.
    """
    appended = Appended()
    with progress_bar(path.stat().st_size, "B", "appending") as bar:
        append(connection, _lines(path), appended, "", BATCH_SIZE_DEFAULT, progress=bar.update)
    return appended


def compare_file(connection: Connection, path: Path, appended: Appended) -> float:
    """Read back what was appended and compare it with the file; return the seconds that took.

    Raises:
        CommandError: What came back differs.
        CallError: A call failed.
    """
    started = time.monotonic()
    expected = _lines(path)
    with progress_bar(appended.record_count, " records", "reading back") as bar:
        for offsets in appended.ranges:
            for records in read_until(connection, offsets.start, offsets.stop):
                for read in records:
                    line = next(expected, None)
                    if line != read.record.value:
                        raise CommandError(f"offset {read.offset} came back different from the line appended")
                bar.update(len(records))
    if any(True for _ in expected):
        raise CommandError("fewer records came back than lines were appended")
    return time.monotonic() - started


def figures(appended: Appended, read_seconds: float) -> dict[str, Any]:
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
