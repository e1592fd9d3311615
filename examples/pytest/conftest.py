"""`--with-bug` runs the tests with the invoices that are written naively."""

import billing
import pytest


def pytest_addoption(parser):
    """Let the command line choose the bug."""
    parser.addoption("--with-bug", action="store_true", help="write invoices naively")


@pytest.fixture
def bill(request):
    """Return what reads so many orders and writes their invoices."""

    async def run(log, order_count):
        if request.config.getoption("--with-bug"):
            await billing.bill(log, order_count, billing.invoice_naively(log))
        else:
            async with log.producer() as producer:
                await billing.bill(log, order_count, billing.invoice_once(producer))

    return run
