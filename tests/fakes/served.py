"""Fake nodes behind the real servers: gRPC and the binary protocol, on one port of loopback."""

import asyncio
import functools
import threading
import time
from dataclasses import replace
from pathlib import Path

from twisted.internet.asyncioreactor import AsyncioSelectorReactor

from loghouse.api.server import GrpcServer
from loghouse.auth.policy import Authorizer
from loghouse.net.one_port import OnePort, OnePortOptions
from loghouse.runtime.bridge import soon, to_asyncio
from tests.fakes.node import FakeNode

CERTS = Path(__file__).resolve().parent.parent.parent / "certs"


@functools.cache
def authorizer():
    """What the policy of the repository permits: everything to `root`."""
    return Authorizer(CERTS / "model.conf", CERTS / "policy.csv")


class ServedNode(FakeNode):
    """A fake node on a port. Without credentials there is no TLS, and everybody is `root`."""

    knows_producers = True
    tracer = None  # makes spans of appends

    def __init__(self, cluster=None, name="n1", *, credentials=None, reactor=None):
        super().__init__(cluster, name)
        if reactor is None:
            from twisted.internet import reactor
        self._reactor = reactor
        self._credentials = credentials
        self._one_port = None

    async def start(self):
        secured = {}
        if self._credentials is not None:
            secured["check_caller"] = self._credentials.check
        self._one_port = one_port = OnePort(
            self._reactor,
            self,
            authorizer(),
            wall_clock=time.time,
            options=OnePortOptions(tls=self._credentials, anonymous="root", tracer=self.tracer),
            soon=soon(),
        )
        self.shares = one_port.shares
        self._grpc = GrpcServer(
            self,
            authorizer(),
            clock=time.time,
            credentials=self._credentials,
            anonymous="root",
            shares=one_port.shares,
            callers=one_port.callers,
            tracer=self.tracer,
            **secured,
        )
        self._grpc.bind(one_port.grpc_address)
        self.address = f"127.0.0.1:{one_port.bind('127.0.0.1', 0)}"
        one_port.listen()
        self.cut = one_port._listener.abort_all
        await self._grpc.start()
        self.show(address=self.address)
        return self

    async def stop(self):
        """End as a process does that is killed."""
        one_port, self._one_port = self._one_port, None
        if one_port is not None:
            one_port.abort()
            await to_asyncio(one_port.stop_accepting())
            await self._grpc.stop(0)

    def show(self, **fields):
        """Let nodes tell this of it."""
        self.shown = replace(self.shown, **fields)

    @property
    def is_followed(self):
        """Whether somebody follows the log here."""
        return self.shares.followers.held > 0

    @property
    def has_calls(self):
        """Whether gRPC calls are open."""
        return self.shares.calls.held > 0


class ReactorThread:
    """A reactor of its own for fake nodes, beside tests that block theirs; one for all of them."""

    def __init__(self):
        self.loop = asyncio.new_event_loop()
        threading.Thread(target=self._serve, daemon=True).start()
        self.reactor = self.call(AsyncioSelectorReactor, self.loop)

    def _serve(self):
        asyncio.set_event_loop(self.loop)
        self.loop.run_forever()

    def run(self, work):
        """Return what a coroutine returns."""
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(60)

    def call(self, function, *arguments):
        """Return what a function returns."""

        async def run():
            return function(*arguments)

        return self.run(run())


reactor_thread = functools.cache(ReactorThread)
