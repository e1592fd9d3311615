"""What the guard makes of grpc's own errors."""

import asyncio

from grpc import aio
from twisted.internet.defer import Deferred
from twisted.trial.unittest import TestCase

from loghouse.api.guard import Guard, Rpc, Shape, _answer
from loghouse.api.v1 import log_pb2
from loghouse.auth.policy import Action
from loghouse.net.callers import Callers
from loghouse.node.gate import Gate
from loghouse.shares import Shares
from tests.fakes.served import authorizer


class ServerStoppedError(aio.BaseError):
    """As grpc's own, which it does not export."""


class EndingContext:
    """A call whose message never comes, for the server stops; nothing of it may be answered any more."""

    def peer(self):
        return "unix:"

    def cancelled(self):
        return False

    async def read(self):
        raise ServerStoppedError("Server already stopped.")


class EndingTests(TestCase):
    """`Guard` while grpc's server stops."""

    def test_server_stopped(self):
        """A call that ends with its server is no failure of the node: no line, no answer, nothing held."""
        shares = Shares()
        gate = Gate(None, authorizer(), clock=lambda: 0.0)
        guard = Guard(gate, anonymous="root", shares=shares, callers=Callers(shares.bodies))

        async def behaviour(call, request):
            raise AssertionError("no request came")

        async def run():
            answer = _answer(
                guard, Rpc(log_pb2.ProduceRequest, Action.PRODUCE, behaviour, Shape.UNARY), "/Produce"
            )
            try:
                await answer(None, EndingContext())
            except asyncio.CancelledError:
                return
            raise AssertionError("the call did not end as cancelled")

        def check(_):
            self.assertEqual(self.flushLoggedErrors(), [])
            self.assertEqual(shares.calls.held, 0)

        return Deferred.fromFuture(asyncio.ensure_future(run())).addCallback(check)
