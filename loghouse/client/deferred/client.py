"""The Deferred client: an `AsyncClient` beside a reactor."""

from __future__ import annotations

import weakref
from collections.abc import Iterable
from types import TracebackType
from typing import Any, Self, Unpack, overload

from twisted.internet.defer import Deferred

from loghouse.client.asynchronous import AsyncClient, ClientOptions
from loghouse.client.consumer_settings import ConsumerOptions
from loghouse.client.deferred.consumer import DeferredConsumer, DeferredGroupConsumer
from loghouse.client.deferred.cursors import deferred
from loghouse.client.deferred.log import DeferredLog, inner_of
from loghouse.client.deferred.opened import OpenedClient


class DeferredClient(DeferredLog):
    """A client of one cluster for Twisted programs, and of one of its logs. See `connect`.

    Its methods are those of `AsyncClient`, with the same arguments and the same errors; they give Deferreds.
    To cancel one cancels the call: it fails with Twisted's CancelledError, and an append may still be carried
    out. Only the reactor's thread may call them.
    """

    def __init__(self, target: str, *, reactor: Any = None, **options: Unpack[ClientOptions]) -> None:
        """See `connect`; nothing is dialled before the first call."""
        if reactor is None:
            from twisted.internet import reactor
        self._cluster = AsyncClient(target, **options)
        super().__init__(self._cluster, OpenedClient(self._cluster, reactor))
        self._dropped = weakref.finalize(self, self._opened.close_soon)
        self._dropped.atexit = False

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    def close(self) -> Deferred[None]:
        """Close every connection; whoever waits for an answer gets an error."""
        self._dropped.detach()
        return self._opened.close()

    def log(self, name: str) -> DeferredLog:
        """Return one of the cluster's logs; see `AsyncClient.log`."""
        return DeferredLog(self._cluster.log(name), self._opened, self)

    # --- groups -------------------------------------------------------------------------------

    @overload
    def consumer(
        self,
        name: str,
        *,
        logs: None = None,
        into: DeferredLog | None = None,
        **options: Unpack[ConsumerOptions],
    ) -> DeferredConsumer: ...

    @overload
    def consumer(
        self,
        name: str,
        *,
        logs: Iterable[str],
        into: DeferredLog | None = None,
        **options: Unpack[ConsumerOptions],
    ) -> DeferredGroupConsumer: ...

    def consumer(
        self,
        name: str,
        *,
        logs: Iterable[str] | None = None,
        into: DeferredLog | None = None,
        **options: Unpack[ConsumerOptions],
    ) -> DeferredConsumer | DeferredGroupConsumer:
        """Return a consumer of this log; with `logs`, a member of a group. See `AsyncClient.consumer`."""
        if logs is None:
            return super().consumer(name, into=into, **options)
        made = self._cluster.consumer(name, logs=logs, into=inner_of(into), **options)
        return DeferredGroupConsumer(self._opened, made, self)

    # --- the cluster ------------------------------------------------------------------------

    servers = deferred("DeferredClient", AsyncClient.servers, "Ask who is in the cluster")
    add = deferred("DeferredClient", AsyncClient.add, "Let a node in")
    remove = deferred("DeferredClient", AsyncClient.remove, "Take a node out")
    leave = deferred("DeferredClient", AsyncClient.leave, "Tell a server to leave")
    reload = deferred("DeferredClient", AsyncClient.reload, "Let a server read its settings again")
    create_log = deferred("DeferredClient", AsyncClient.create_log, "Make a log")
    alter_log = deferred("DeferredClient", AsyncClient.alter_log, "Change settings of a log")
    delete_log = deferred("DeferredClient", AsyncClient.delete_log, "Delete a log")
    replace_replica = deferred(
        "DeferredClient", AsyncClient.replace_replica, "Give a log a replica for one that is lost"
    )
    logs = deferred("DeferredClient", AsyncClient.logs, "Return the logs by name")
    describe_log = deferred("DeferredClient", AsyncClient.describe_log, "Return one log")


def connect(target: str, *, reactor: Any = None, **options: Unpack[ClientOptions]) -> DeferredClient:
    """Return a client of the cluster that any of these addresses belongs to, whose calls give Deferreds.

        tls = Tls(ca="ca.pem", certificate="root.pem", key="root.key")
        async with connect("loghouse://a.example:8400,b.example:8400", tls=tls) as log:
            offset = await log.append(b"hello")  # in a coroutine of Twisted; or .addCallback(print)

    On the asyncio reactor the client runs on the reactor's loop, on every other one in a thread of its own.
    When the reactor stops, the client waits until its calls are answered and its producers' records
    acknowledged, for at most 10 seconds, and closes.

    Args:
        reactor: The one that the program runs; None: the one that is installed.
        target, options: As of `loghouse.client.connect`, as are the errors.
    """
    return DeferredClient(target, reactor=reactor, **options)
