"""A service that bills orders: each order of the log `orders` gets exactly one bill in the log `bills`.

    LOGHOUSE=loghouse://127.0.0.1:8400 CERTS=certs python app.py

Start it as often as you like: one instance is at work, the others stand by. It needs `loghouse[faststream]`,
and the logs: `loghouse log create orders`, and `bills`.
"""

import asyncio
import os
from pathlib import Path

from faststream import FastStream
from pydantic import BaseModel, PositiveInt

from loghouse.client import Tls
from loghouse.integrations.faststream import LoghouseBroker, LoghouseResponse
from loghouse.integrations.faststream.annotations import Logger, LoghouseMessage


class Order(BaseModel):
    """What customers want."""

    customer: str
    cents: PositiveInt


class Bill(BaseModel):
    """What they pay."""

    order: int
    customer: str
    cents: int


def make_broker() -> LoghouseBroker:
    """Return the broker of the cluster that the environment names; without certificates in plaintext."""
    certs = os.environ.get("CERTS")
    tls = None
    if certs is not None:
        folder = Path(certs)
        tls = Tls(ca=folder / "ca.pem", certificate=folder / "root.pem", key=folder / "root.key")
    return LoghouseBroker(os.environ.get("LOGHOUSE", "loghouse://localhost:8400"), tls=tls)


broker = make_broker()
app = FastStream(broker)
bills = broker.publisher("bills", title="Bills")


@broker.subscriber("orders", cursor="billing", into=bills)
async def bill(order: Order, message: LoghouseMessage) -> LoghouseResponse:
    """Bill an order. The bill and the place behind the order are appended in one step, or neither is."""
    made = Bill(order=message.offset, customer=order.customer, cents=order.cents)
    return LoghouseResponse(made, key=order.customer.encode())


@broker.subscriber("bills", cursor="mail", max_workers=4)
async def mail(bill: Bill, logger: Logger) -> None:
    """Mail a bill, up to four at a time: those of a customer in order, perhaps twice, and never not."""
    logger.info("to %s: %d cents for order %d", bill.customer, bill.cents, bill.order)


if __name__ == "__main__":
    asyncio.run(app.run())
