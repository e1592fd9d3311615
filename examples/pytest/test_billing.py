"""The tests of `billing`: only a failover shows the bug of `invoice_naively`."""

import asyncio
import random

import pytest

ORDERS = [b"order %d" % number for number in range(40)]


async def order(log):
    """Append all orders."""
    async with log.producer() as producer:
        for value in ORDERS:
            await producer.append(value, key=b"order")


async def invoices_of(log):
    """Return the orders that have an invoice, in the order of the invoices."""
    return [record.value async for record in log.read("earliest") if record.key == b"invoice"]


def test_invoices(loghouse_simulation, bill):
    """Every order gets one invoice. All nodes are well, and so both ways pass."""

    async def scenario(cluster):
        async with cluster.connect() as log:
            await order(log)
            await bill(log, len(ORDERS))
            assert await invoices_of(log) == ORDERS

    loghouse_simulation.run(scenario)


@pytest.mark.loghouse(seeds=10)
def test_failover(loghouse_simulation, bill):
    """Every order gets one invoice, also when the leader dies while they are written."""

    async def scenario(cluster):
        async with cluster.connect() as log:
            await order(log)
            billing = asyncio.ensure_future(bill(log, len(ORDERS)))
            await asyncio.sleep(random.uniform(0.0, 0.3))
            killed = await cluster.kill_leader()
            await billing
            cluster.start(killed)
            assert await invoices_of(log) == ORDERS

    loghouse_simulation.run(scenario)


def test_failover_of_processes(loghouse_cluster, bill):
    """The same with three real nodes: slower, and at a moment that nobody can repeat."""

    async def scenario():
        async with loghouse_cluster.connect() as log:
            await order(log)
            billing = asyncio.ensure_future(bill(log, len(ORDERS)))
            await asyncio.to_thread(loghouse_cluster.kill_leader)
            await billing
            assert await invoices_of(log) == ORDERS

    asyncio.run(scenario())
