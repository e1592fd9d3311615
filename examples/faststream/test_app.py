"""The tests of `app`: no cluster, no network, milliseconds."""

import asyncio

import app
import pytest
from pydantic import ValidationError

from loghouse.integrations.faststream import TestLoghouseBroker


def test_bill():
    """An order becomes a bill, under its customer's key, and the bill is mailed."""

    async def scenario():
        test = TestLoghouseBroker(app.broker)
        async with test:
            await app.broker.publish(app.Order(customer="ann", cents=300), "orders")
            expected = {"order": 0, "customer": "ann", "cents": 300}
            app.bills.mock.assert_called_once_with(expected)
            app.mail.mock.assert_called_once_with(expected)
            assert [record.key for record in test.records("bills")] == [b"ann"]
            assert test.position("billing", "orders") == 1

    asyncio.run(scenario())


def test_wrong_order():
    """What is no order gets no bill, and the cursor stays before it."""

    async def scenario():
        test = TestLoghouseBroker(app.broker)
        async with test:
            with pytest.raises(ValidationError):
                await app.broker.publish({"customer": "ann", "cents": -1}, "orders")
            assert test.records("bills") == []
            assert test.position("billing", "orders") == 0

    asyncio.run(scenario())
