"""Handles what is in several logs, by as many workers as you start: each log is with one of them at a time.

    python workers.py 'shop-*'

Start several: they share the logs, one more or less each. The logs of one that dies go to the others within
ten seconds; of one that ends, at once. What a worker had begun is handled again: at least once. SIGTERM and
Ctrl-C end it well.
"""

import asyncio
import os
import signal
import sys
from pathlib import Path

from loghouse.client import AsyncClient, Tls, connect


def open_cluster() -> AsyncClient:
    """Return a client of the cluster that the environment names; else of the one that `make run` starts."""
    folder = Path(os.environ.get("CERTS", "dev/certs"))
    tls = Tls(ca=folder / "ca.pem", certificate=folder / "root.pem", key=folder / "root.key")
    return connect(os.environ.get("LOGHOUSE", "loghouse://127.0.0.1:8400"), tls=tls)


async def work(logs: str) -> None:
    """Handle records for ever."""
    async with open_cluster() as cluster, cluster.consumer("workers", logs=logs) as consumer:
        async for record in consumer:
            print(record.log, record.offset, record.value.decode(errors="replace"), flush=True)
            consumer.done(record)  # committed in the background


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    try:
        asyncio.run(work(sys.argv[1]))
    except KeyboardInterrupt:
        sys.exit(130)
