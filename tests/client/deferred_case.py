"""Fake clusters and Deferred clients of them, on the reactor's own loop and on one in a thread."""

import asyncio
import threading

from twisted.internet import reactor
from twisted.internet.defer import Deferred

from loghouse.client.deferred import connect
from loghouse.runtime.bridge import from_asyncio
from tests.client.fake import FakeCase

SECONDS_MAX = 60


class Plain:
    """The reactor of the tests, and none of asyncio's as far as a client can see. Its stop is the test's."""

    def __init__(self):
        self.triggers = []

    def __getattr__(self, name):
        return getattr(reactor, name)

    def addSystemEventTrigger(self, phase, event, work):
        assert (phase, event) == ("before", "shutdown")
        self.triggers.append(work)
        return work

    def removeSystemEventTrigger(self, trigger):
        self.triggers.remove(trigger)

    def stopping(self):
        """Do what happens before this reactor stops; a Deferred."""
        [trigger] = self.triggers
        return trigger()


def client_threads():
    return [thread for thread in threading.enumerate() if thread.name == "loghouse client"]


class DeferredCase(FakeCase):
    """Tests in coroutines of Twisted."""

    is_plain = False

    def setUp(self):
        super().setUp()
        self.reactor = Plain() if self.is_plain else reactor

    async def tearDown(self):
        for close in reversed(self.closers):
            await from_asyncio(close())
        self.assertEqual(client_threads(), [])

    async def connected(self, count=1, **options):
        """Return a cluster, and a Deferred client of it."""
        cluster = await from_asyncio(self.cluster(count))
        return cluster, self.connect(cluster.target, **options)

    def connect(self, target, **options):
        client = connect(target, reactor=self.reactor, **{"timeout_seconds": 20.0, **options})

        async def close(client=client):
            await client.close().asFuture(asyncio.get_running_loop())

        self.closers.append(close)
        return client

    async def until(self, condition):
        """Give the reactor turns until a condition holds."""
        deadline = reactor.seconds() + SECONDS_MAX
        while not condition():
            self.assertLess(reactor.seconds(), deadline, "the condition never came")
            turn = Deferred()
            reactor.callLater(0.001, turn.callback, None)
            await turn


def in_a_thread(case):
    """Return the tests of a case once more, on a reactor that is none of asyncio's."""
    fields = {"is_plain": True, "__module__": case.__module__, "__doc__": "The same in a thread."}
    return type(case.__name__.replace("Tests", "ThreadTests"), (case,), fields)
