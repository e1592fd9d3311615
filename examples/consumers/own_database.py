"""Keeps a table of the bills in the log `bills`: each one has one row, however often it is killed.

    python own_database.py bills.db

The position is a row of the same SQLite database, and moves in the transaction that the bills' rows are in.
The cursor `table` says only who is at work. Say `loghouse log create bills` first. SIGTERM and Ctrl-C end it
well.
"""

import os
import signal
import sqlite3
import sys
from pathlib import Path

from loghouse.client import Batch, Client, Tls, connect_blocking


def open_cluster() -> Client:
    """Return a client of the cluster that the environment names; else of the one that `make run` starts."""
    folder = Path(os.environ.get("CERTS", "dev/certs"))
    tls = Tls(ca=folder / "ca.pem", certificate=folder / "root.pem", key=folder / "root.key")
    return connect_blocking(os.environ.get("LOGHOUSE", "loghouse://127.0.0.1:8400"), tls=tls)


def keep_table(cluster: Client, path: Path) -> None:
    """Put bills into the table for ever."""
    database = sqlite3.connect(path)
    database.execute("CREATE TABLE IF NOT EXISTS bills (number INTEGER, bill BLOB)")

    def insert(batch: Batch) -> None:
        rows = [(record.offset, record.value) for record in batch]
        database.executemany("INSERT INTO bills VALUES (?, ?)", rows)  # `process` commits

    with cluster.log("bills").consumer("table") as consumer:
        consumer.process(database, insert)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    try:
        with open_cluster() as cluster:
            keep_table(cluster, Path(sys.argv[1]))
    except KeyboardInterrupt:
        sys.exit(130)
