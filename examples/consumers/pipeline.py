"""Makes a bill of every order: the log `orders` goes into the log `bills`, each record exactly once.

    python pipeline.py

Start it as often as you like: one is at work, the others stand by and take over when it dies. The bills of a
batch and the place behind its orders are appended in one step, so a kill leaves both or neither. Say
`loghouse log create orders` and `loghouse log create bills` first. SIGTERM and Ctrl-C end it well.
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


async def bill_orders() -> None:
    """Write bills for ever."""
    async with open_cluster() as cluster:
        orders, bills = cluster.log("orders"), cluster.log("bills")
        async with orders.consumer("billing", into=bills) as consumer:
            async for batch in consumer.batches():
                await consumer.emit([b"bill of " + order for order in batch.values()])


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))  # the block above commits, and lets the cursor go
    try:
        asyncio.run(bill_orders())
    except KeyboardInterrupt:
        sys.exit(130)
