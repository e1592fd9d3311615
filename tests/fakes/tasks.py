"""Tests in asyncio on the reactor's loop."""

import asyncio
import functools
import time

from twisted.internet.defer import Deferred


def asynchronous(method):
    """Run a test's `begin` if it has one, an async test method, its `closers`; no task may be left."""

    @functools.wraps(method)
    def run(self):
        return Deferred.fromFuture(asyncio.ensure_future(_run(self, method), loop=asyncio.get_event_loop()))

    return run


async def nothing():
    """The beginning of tests that have nothing to open."""


async def _run(test, method):
    before = asyncio.all_tasks()
    try:
        await getattr(test, "begin", nothing)()
        await method(test)
    finally:
        for close in reversed(test.closers):
            await close()
    # grpc's own end some turns after their server.
    await until(lambda: not {task for task in asyncio.all_tasks() - before if not task.done()})


async def until(condition, seconds_max=20.0):
    """Give the loop turns until a condition holds."""
    deadline = time.monotonic() + seconds_max
    while not condition():
        if time.monotonic() > deadline:
            names = [task.get_coro() for task in asyncio.all_tasks()]
            ours = [str(name) for name in names if "Aio" not in str(name)]
            raise AssertionError(f"the condition never came; tasks: {ours}")
        await asyncio.sleep(0.001)
