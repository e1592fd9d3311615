"""The embedded log against SQLite and a bare file: records of 100 bytes, durable when their call returns.

python -m bench.embedded [--rounds N] [--only batches|alone|threads|reading|import]

SQLite keeps a write-ahead log and syncs it at each commit (synchronous=FULL). The bare file is appended to
and synced (fdatasync) with nothing around the records. BENCH_DIR names the disk; `--rounds 1` is short.
"""

import os
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import loghouse
from bench.measure import Table, arguments, finish, median, scratch

RECORD = b"x" * 100
BATCH = [b"%0100d" % number for number in range(1000)]
BATCHES = 200  # 20 MB: the log's segments have grown, SQLite has moved its log into the table several times
ALONE = 400
THREADS = 8
EACH = 60
READ_BATCHES = 300
IMPORTS = 15
IMPORT = (
    "import time; begin = time.process_time(); import loghouse; loghouse.open; "
    "print(time.process_time() - begin)"
)


def timed(count: int, work: Callable[[], object]) -> float:
    """Return how many records a second `work` does, which does `count`."""
    begin = time.perf_counter()
    work()
    return count / (time.perf_counter() - begin)


class Database:
    """SQLite as a log: a table with a number for each record."""

    def __init__(self, path: Path) -> None:
        self.path = path
        with self.connect() as connection:
            connection.execute("CREATE TABLE events (number INTEGER PRIMARY KEY, value BLOB NOT NULL)")
        connection.close()

    def connect(self) -> sqlite3.Connection:
        connection = sqlite3.connect(self.path, timeout=60, isolation_level=None)
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=FULL")
        return connection

    @staticmethod
    def append(connection: sqlite3.Connection, values: list[bytes]) -> None:
        connection.execute("BEGIN IMMEDIATE")
        connection.executemany("INSERT INTO events (value) VALUES (?)", [(value,) for value in values])
        connection.execute("COMMIT")


class Bench:
    """The sides of each comparison, in a directory of their own for each round."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._count = 0

    def _place(self) -> Path:
        self._count += 1
        return self._folder / str(self._count)

    # --- batches of 1,000 -------------------------------------------------------------------

    def batches_embedded(self) -> float:
        with loghouse.open(self._place()) as log:
            log.append_batch(BATCH)
            return timed(1000 * BATCHES, lambda: [log.append_batch(BATCH) for _ in range(BATCHES)])

    def batches_sqlite(self) -> float:
        database = Database(self._place())
        connection = database.connect()
        append = database.append
        append(connection, BATCH)
        return timed(1000 * BATCHES, lambda: [append(connection, BATCH) for _ in range(BATCHES)])

    def batches_bare(self) -> float:
        file = os.open(self._place(), os.O_WRONLY | os.O_CREAT | os.O_APPEND)

        def append() -> None:
            os.write(file, b"".join(BATCH))
            os.fdatasync(file)

        append()
        speed = timed(1000 * BATCHES, lambda: [append() for _ in range(BATCHES)])
        os.close(file)
        return speed

    # --- one at a time ----------------------------------------------------------------------

    def alone_embedded(self) -> float:
        with loghouse.open(self._place()) as log:
            log.append(RECORD)
            return timed(ALONE, lambda: [log.append(RECORD) for _ in range(ALONE)])

    def alone_sqlite(self) -> float:
        database = Database(self._place())
        connection = database.connect()

        def append() -> None:
            connection.execute("INSERT INTO events (value) VALUES (?)", (RECORD,))

        append()
        return timed(ALONE, lambda: [append() for _ in range(ALONE)])

    # --- threads ----------------------------------------------------------------------------

    def threads_embedded(self) -> float:
        with loghouse.open(self._place()) as log:
            log.append(RECORD)
            return self._threads(lambda: lambda: log.append(RECORD))

    def threads_sqlite(self) -> float:
        database = Database(self._place())

        def appender() -> Callable[[], object]:
            connection = database.connect()
            return lambda: connection.execute("INSERT INTO events (value) VALUES (?)", (RECORD,))

        return self._threads(appender)

    def _threads(self, appender: Callable[[], Callable[[], object]]) -> float:
        ready = threading.Barrier(THREADS + 1)

        def run() -> None:
            append = appender()
            ready.wait()
            for _ in range(EACH):
                append()

        threads = [threading.Thread(target=run) for _ in range(THREADS)]
        for thread in threads:
            thread.start()
        ready.wait()
        return timed(THREADS * EACH, lambda: [thread.join() for thread in threads])

    # --- reading ----------------------------------------------------------------------------

    def fill(self) -> None:
        """Make the two logs that are read."""
        self._log = loghouse.open(self._place())
        database = Database(self._place())
        self._connection = database.connect()
        for _ in range(READ_BATCHES):
            self._log.append_batch(BATCH)
            database.append(self._connection, BATCH)

    def empty(self) -> None:
        self._log.close()
        self._connection.close()

    def read_embedded(self) -> float:
        def read() -> None:
            for batch in self._log.read_batches():
                for _ in batch.values():
                    pass

        return timed(1000 * READ_BATCHES, read)

    def records_embedded(self) -> float:
        def read() -> None:
            for _ in self._log.read():
                pass

        return timed(1000 * READ_BATCHES, read)

    def read_sqlite(self) -> float:
        def read() -> None:
            for _ in self._connection.execute("SELECT number, value FROM events ORDER BY number"):
                pass

        return timed(1000 * READ_BATCHES, read)


def imports(folder: str) -> list[float]:
    """Return what importing costs in fresh interpreters; compiled before, as installed packages are."""
    environment = {**os.environ, "PYTHONPYCACHEPREFIX": f"{folder}/compiled"}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    command = [sys.executable, "-c", IMPORT]
    return [float(subprocess.check_output(command, env=environment)) for _ in range(IMPORTS + 1)][1:]


def alternating(count: int, *sides: Callable[[], float]) -> list[list[float]]:
    """Run the sides in turn, each second round backwards: none always comes behind the same one."""
    results: list[list[float]] = [[] for _ in sides]
    for number in range(count):
        for place in range(len(sides))[:: -1 if number % 2 else 1]:
            results[place].append(sides[place]())
    return results


def compare(
    table: Table, name: str, ours: list[float], theirs: list[float], bar: float | None = None
) -> None:
    """Add the median of the ratios, and how far they reach."""
    ratios = [a / b for a, b in zip(ours, theirs, strict=True)]
    table.add(f"{name} ({min(ratios):.3g} to {max(ratios):.3g})", median(ratios), "", bar=bar)


def main() -> None:
    """Measure, and print each figure beside its bar."""
    options = arguments(__doc__)
    table, count = Table(), options.rounds
    with scratch() as folder:
        bench = Bench(Path(folder))
        if options.only in "batches":
            ours, sqlite, bare = alternating(
                count, bench.batches_embedded, bench.batches_sqlite, bench.batches_bare
            )
            table.add("batches of 1,000, embedded", median(ours), "records/s")
            compare(table, "batches of 1,000, of SQLite's", ours, sqlite, 5)
            compare(table, "batches of 1,000, of a bare file's", ours, bare, 0.6)
            compare(table, "batches of 1,000, a bare file of SQLite's", bare, sqlite)
        if options.only in "alone":
            ours, sqlite = alternating(count, bench.alone_embedded, bench.alone_sqlite)
            table.add("one at a time, embedded", median(ours), "records/s")
            compare(table, "one at a time, of SQLite's", ours, sqlite, 1)
        if options.only in "threads":
            ours, sqlite = alternating(count, bench.threads_embedded, bench.threads_sqlite)
            table.add(f"{THREADS} threads, embedded", median(ours), "records/s")
            compare(table, f"{THREADS} threads, of SQLite's", ours, sqlite, 3)
        if options.only in "reading":
            bench.fill()
            ours, records, sqlite = alternating(
                count, bench.read_embedded, bench.records_embedded, bench.read_sqlite
            )
            bench.empty()
            table.add("reading values, embedded", median(ours), "records/s")
            compare(table, "reading values, of SQLite's", ours, sqlite, 5)
            compare(table, "reading records, of SQLite's", records, sqlite)
        if options.only in "import":
            table.add("import, of processor time", median(imports(folder)), "s", bar=0.15, at_most=True)
    finish(table, options)


if __name__ == "__main__":
    main()
