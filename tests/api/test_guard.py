"""What the guard makes of grpc's own errors."""

import asyncio
from pathlib import Path

from grpc import aio
from twisted.internet.defer import Deferred
from twisted.trial.unittest import TestCase

from loghouse.api.guard import Guard, Rpc, Shape, _answer
from loghouse.api.v1 import log_pb2
from loghouse.auth.policy import Action, Authorizer
from loghouse.net.callers import Callers
from loghouse.node.gate import Gate
from loghouse.shares import Shares
from tests.api.doors import MODEL, POLICY


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
        directory = Path(self.mktemp())
        directory.mkdir()
        (directory / "model.conf").write_text(MODEL)
        (directory / "policy.csv").write_text(POLICY)
        shares = Shares()
        authorizer = Authorizer(directory / "model.conf", directory / "policy.csv")
        gate = Gate(None, authorizer, clock=lambda: 0.0)
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
