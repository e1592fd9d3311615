"""A consumer that writes: it reads orders, and appends one invoice for each.

`invoice_naively` has a bug that no test sees while all nodes are well. An append whose connection breaks may
have been carried out or not (`OutcomeUnknownError`): appended again, the invoice may be there twice.
`invoice_once` has it not: its producer numbers what it appends, and the log takes each number once.
"""

from collections.abc import Awaitable, Callable
from contextlib import aclosing

from loghouse.client import AsyncClient, AsyncProducer, Record
from loghouse.errors import OutcomeUnknownError

Invoice = Callable[[Record], Awaitable[None]]


async def bill(log: AsyncClient, order_count: int, invoice: Invoice) -> None:
    """Read from the log's beginning until so many orders were there, and write an invoice for each."""
    async with aclosing(log.read("earliest", follow=True)) as records:
        async for record in records:
            if record.key == b"order":
                await invoice(record)
                order_count -= 1
                if not order_count:
                    return


def invoice_naively(log: AsyncClient) -> Invoice:
    """Return what writes an invoice, and tries again until it was told that the invoice is there."""

    async def invoice(order: Record) -> None:
        while True:
            try:
                await log.append(order.value, key=b"invoice")
            except OutcomeUnknownError:
                continue  # the bug: it may be there
            return

    return invoice


def invoice_once(producer: AsyncProducer) -> Invoice:
    """Return what writes an invoice by a producer, which tries again by itself, and never writes twice."""

    async def invoice(order: Record) -> None:
        delivery = await producer.append(order.value, key=b"invoice")
        await delivery

    return invoice
