"""The asyncio client: everything the cluster serves, on the loop it is used in."""

from __future__ import annotations

import contextlib
import logging
import random
from collections.abc import Iterable, Set
from datetime import timedelta
from types import TracebackType
from typing import Any, Final, Self, TypedDict, Unpack, overload

from loghouse.api.v1 import log_pb2
from loghouse.client.balancing import Balancer, ClusterView
from loghouse.client.channels import Channels
from loghouse.client.consumer_settings import ConsumerOptions, checked_into
from loghouse.client.consumer_settings import settings_of as consumer_settings_of
from loghouse.client.consuming import AsyncConsumer
from loghouse.client.fields import flag_of, seconds_of, text_of
from loghouse.client.group_consuming import AsyncGroupConsumer, wanted_logs
from loghouse.client.log import AsyncLog
from loghouse.client.log_settings import changes_of, names_of, settings_of
from loghouse.client.membership import Membership
from loghouse.client.open_consumers import LEAVE_SECONDS
from loghouse.client.pin import ClusterPin
from loghouse.client.routes import Routes
from loghouse.client.target import Tls, parse_target
from loghouse.client.tracing import calls_class
from loghouse.client.transport import Transport, channel_maker
from loghouse.errors import PermissionDeniedError, UnknownLogError
from loghouse.protocol.entry import DEFAULT_LOG

TIMEOUT_SECONDS: Final = 30.0
_logger: Final = logging.getLogger("loghouse.client")


class ClientOptions(TypedDict, total=False):
    """What a client may be told besides its target. See `connect`."""

    tls: Tls | None
    log: str
    timeout_seconds: float
    is_direct: bool
    transport: Transport
    cluster: str
    tracing: Any


class AsyncClient(AsyncLog):
    """A client of one cluster, for one event loop, and of one of its logs. See `connect`.

    Every call finds its server by itself, and goes on at another one when that is safe, until it is answered,
    refused, or its time is over. Errors are those of `loghouse.errors`:

    - DeadlineError (also a TimeoutError): time is over, and certainly nothing was appended.
    - OutcomeUnknownError: the record may have been appended. Only appends without a producer end so while
      they have time left; `producer()` tries again, exactly once.
    - every other `RequestError`: the cluster's refusal; nothing was appended.

    A cancelled append may still be carried out.
    """

    def __init__(
        self,
        target: str,
        *,
        tls: Tls | None = None,
        log: str = "",
        timeout_seconds: float = TIMEOUT_SECONDS,
        is_direct: bool = False,
        transport: Transport = "binary",
        cluster: str = "",
        tracing: Any = False,
        rng: random.Random | None = None,
    ) -> None:
        """See `connect`; nothing is dialled before the first call."""
        rng = rng or random.SystemRandom()
        flag_of("is_direct", is_direct)
        text_of("log", log)
        seconds_of(timeout_seconds)
        balancer = Balancer(parse_target(target), rng, is_direct=is_direct, is_grpc=transport == "grpc")
        pin = ClusterPin(text_of("cluster", cluster))
        routes = Routes()
        make_calls = calls_class(tracing)
        channels = Channels(channel_maker(transport, tls, routes.hinted, pin, tracing))
        default = log if log == DEFAULT_LOG else ""
        self.cluster_calls = make_calls(balancer, channels, rng, pin, routes=routes, log=default)
        super().__init__(self.cluster_calls.of_log(log), float(timeout_seconds))

    async def __aenter__(self) -> Self:
        self.cluster_calls.place.check_task()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close every connection; whoever waits for an answer gets an error.

        Consumers that are open first commit what is done and let their cursors go, for at most 10 seconds
        together; the logger `loghouse.client` is told of what could not be committed.
        """
        left = await self.cluster_calls.close_within(LEAVE_SECONDS)
        if left:
            _logger.error("a client was closed before its consumers: %s", left)

    def log(self, name: str) -> AsyncLog:
        """Return one of the cluster's logs, empty: the default one. Nothing is asked before its first use.

            orders = cluster.log("orders")
            offset = await orders.append(b"hello")

        It has the methods of this client that are about a log, and ends with it. It is about the log that has
        the name when it is first used: one that is deleted is an UnknownLogError from then on, also when
        another log gets its name. Ask for that one by this method again.
        """
        return AsyncLog(self.cluster_calls.of_log(text_of("name", name)), self.timeout_seconds)

    # --- groups -------------------------------------------------------------------------------

    @overload
    def consumer(
        self,
        name: str,
        *,
        logs: None = None,
        into: AsyncLog | None = None,
        **options: Unpack[ConsumerOptions],
    ) -> AsyncConsumer: ...

    @overload
    def consumer(
        self,
        name: str,
        *,
        logs: Iterable[str],
        into: AsyncLog | None = None,
        **options: Unpack[ConsumerOptions],
    ) -> AsyncGroupConsumer: ...

    def consumer(
        self,
        name: str,
        *,
        logs: Iterable[str] | None = None,
        into: AsyncLog | None = None,
        **options: Unpack[ConsumerOptions],
    ) -> AsyncConsumer | AsyncGroupConsumer:
        """Return a consumer of this log (`AsyncLog.consumer`); with `logs`, a member of a group.

            async with cluster.consumer("billing", logs="orders-*") as consumer:
                async for record in consumer:
                    print(record.log, record.offset, record.value)
                    consumer.done(record)

        All members of a group have its name and the same logs, which they share: each log is with one member
        at a time, and each has as many as any other, or one more. What a member that died had, the others
        have a lease later; a member that comes gets its share, one that leaves gives it back at once.

        Args:
            name: The group's; each log keeps a cursor of that name. With `into` that log keeps all cursors,
                as "name/log".
            logs: Their names; or a pattern of names, such as "orders-*": logs that are made later are found.
            into: The log that keeps the cursors, and gets what is emitted.
            options: See `ConsumerOptions`. A `holder` is one member's own.

        Raises:
            InvalidRequestError: An option makes no sense.
        """
        if logs is None:
            return super().consumer(name, into=into, **options)
        wanted, settings = wanted_logs(logs), consumer_settings_of(name, **options)
        checked_into(into, AsyncLog)
        holder = self.cursors().holder if settings.holder is None else settings.holder
        membership = Membership(
            settings,
            wanted,
            find_logs=self._log_names,
            open_log=self.log,
            into=into,
            holder=holder,
            spawn=self.cluster_calls.spawn,
        )
        return AsyncGroupConsumer(membership, self.cluster_calls.consumers, holder, self.calls.place)

    async def _log_names(self, expected: Set[str]) -> list[str]:
        """Return the names of all logs; those that are expected are not missing unless they are not there."""
        names = {log.name for log in await self.logs()}
        for name in sorted(expected - names):
            # The list is what one server knows, which may be behind; no description is older than the call.
            with contextlib.suppress(UnknownLogError, PermissionDeniedError):
                await self.describe_log(name)
                names.add(name)
        return sorted(names)

    # --- the cluster ------------------------------------------------------------------------

    async def servers(self, *, timeout_seconds: float | None = None) -> ClusterView:
        """Ask who is in the cluster, and return it: uuid, name, and each server with its role."""
        seconds = self.timeout_of(timeout_seconds)
        await self.cluster_calls.refresh(seconds)
        return await self.cluster_calls.view(seconds)

    async def add(self, name: str, *, learner: bool = False, timeout_seconds: float | None = None) -> None:
        """Let a node in, also one that was removed; a learner reads along and never votes.

        Raises:
            MembershipError: Why not, and what would work.
        """
        request = log_pb2.AddRequest(name=text_of("name", name), learner=flag_of("learner", learner))
        await self._change("Add", request, timeout_seconds)

    async def remove(self, name: str, *, timeout_seconds: float | None = None) -> None:
        """Take a node out of the cluster and keep it out; it need not run.

        Raises:
            MembershipError: Why not, and what would work.
        """
        await self._change("Remove", log_pb2.RemoveRequest(name=text_of("name", name)), timeout_seconds)

    async def leave(self, server: str, *, timeout_seconds: float | None = None) -> None:
        """Tell the server of that name to leave the cluster.

        Raises:
            MembershipError: Why not, and what would work.
        """
        text_of("server", server)
        await self._change("Leave", log_pb2.LeaveRequest(), timeout_seconds, server=server)

    async def reload(
        self, server: str = "", *, timeout_seconds: float | None = None
    ) -> log_pb2.ReloadResponse:
        """Let a server read its settings, certificates and policy again; return what changed, in lines.

        Args:
            server: Its name; any when empty.

        Raises:
            ReloadRefusedError: They are wrong; nothing was changed.
        """
        text_of("server", server)
        reply: log_pb2.ReloadResponse = await self._administer(
            "Reload",
            log_pb2.ReloadRequest(),
            timeout_seconds,
            server=server,
            is_safe=True,
            calls=self.cluster_calls,
        )
        return reply

    async def _change(
        self, method: str, request: Any, timeout_seconds: float | None, *, server: str = ""
    ) -> None:
        await self._administer(method, request, timeout_seconds, server=server, calls=self.cluster_calls)

    # --- which logs there are -----------------------------------------------------------------

    async def create_log(
        self,
        name: str,
        *,
        replicas: int = 3,
        retention_bytes: int = 0,
        retention_age: timedelta | int = 0,
        record_bytes_max: int = 0,
        append_bytes_per_second_max: int = 0,
        tags: Iterable[str] = (),
        on: Iterable[str] = (),
        timeout_seconds: float | None = None,
    ) -> log_pb2.LogDescription:
        """Make a log, wait until it can be appended to, and return what it is.

        A log that is there with these settings is success. Needs the `manage` permission for its name, as the
        calls below that change one.

        Args:
            name: 1 to 63 of a-z, 0-9 and -.
            replicas: How many nodes hold it, at most 5: of 3 one may fail, of 5 two.
            retention_bytes, retention_age: How much of it is kept (in seconds, if a number); 0 keeps all.
            record_bytes_max: The largest record that is taken; 0: the nodes' own limit.
            append_bytes_per_second_max: How fast it may grow; 0: as fast as it can.
            tags: Words for people and their tools.
            on: The names of the nodes that are to hold it; none: chosen by load.

        Raises:
            InvalidRequestError: No name for a log, other settings than it has, or nodes that cannot be meant.
            ResourceExhaustedError: Too many logs, or too few nodes.
        """
        settings = settings_of(
            replicas=replicas,
            retention_bytes=retention_bytes,
            retention_age=retention_age,
            record_bytes_max=record_bytes_max,
            append_bytes_per_second_max=append_bytes_per_second_max,
            tags=tags,
        )
        request = log_pb2.CreateLogRequest(
            name=text_of("name", name), settings=settings, on=names_of("on", on)
        )
        reply = await self._manage("Create", request, timeout_seconds, is_safe=True)
        return _described(reply)

    async def alter_log(
        self,
        name: str,
        *,
        retention_bytes: int | None = None,
        retention_age: timedelta | int | None = None,
        record_bytes_max: int | None = None,
        append_bytes_per_second_max: int | None = None,
        tags: Iterable[str] | None = None,
        timeout_seconds: float | None = None,
    ) -> log_pb2.LogDescription:
        """Change settings of a log while it runs, and return what it is; None leaves one as it is.

        Raises:
            UnknownLogError: There is no such log.
            InvalidRequestError: A setting is not possible, or none is given.
        """
        changes = changes_of(
            retention_bytes=retention_bytes,
            retention_age=retention_age,
            record_bytes_max=record_bytes_max,
            append_bytes_per_second_max=append_bytes_per_second_max,
            tags=tags,
        )
        request = log_pb2.AlterLogRequest(name=text_of("name", name), changes=changes)
        return _described(await self._manage("Alter", request, timeout_seconds, is_safe=True))

    async def delete_log(self, name: str, *, timeout_seconds: float | None = None) -> None:
        """Delete a log with all its records. A log that is made under its name later is another one.

        Raises:
            UnknownLogError: There is no such log.
            InvalidRequestError: It is `default`, which cannot be deleted.
            OutcomeUnknownError: It may or may not be deleted; it was not tried again, for somebody else may
                make another one of that name meanwhile.
        """
        await self._manage("Delete", log_pb2.DeleteLogRequest(name=text_of("name", name)), timeout_seconds)

    async def replace_replica(
        self, name: str, *, lost: str, new: str, timeout_seconds: float | None = None
    ) -> log_pb2.LogDescription:
        """Give a log a replica on the node `new`, for that on the node `lost`, which will not come back.

        Raises:
            UnknownLogError: There is no such log.
            InvalidRequestError: It is not on the lost node, or cannot be placed on the new one.
        """
        request = log_pb2.ReplaceReplicaRequest(
            name=text_of("name", name), lost=text_of("lost", lost), new=text_of("new", new)
        )
        return _described(await self._manage("Replace", request, timeout_seconds))

    async def logs(self, *, timeout_seconds: float | None = None) -> list[log_pb2.LogDescription]:
        """Return the logs by name: those that this client may do anything with, an administrator's all."""
        seconds = self.timeout_of(timeout_seconds)
        found: list[log_pb2.LogDescription] = []
        request = log_pb2.ListLogsRequest()
        while True:
            page = await self._manage("List", request, seconds, is_safe=True)
            found += page.logs
            if not page.next:
                return found
            request.after = page.next

    async def describe_log(
        self, name: str, *, timeout_seconds: float | None = None
    ) -> log_pb2.LogDescription:
        """Return one log: its settings, where it is, and who leads it; empty means the default one.

        Raises:
            UnknownLogError: There is no such log.
        """
        request = log_pb2.DescribeLogRequest(name=text_of("name", name))
        return _described(await self._manage("Describe", request, timeout_seconds, is_safe=True))

    async def _manage(
        self, method: str, request: Any, timeout_seconds: float | None, *, is_safe: bool = False
    ) -> Any:
        return await self._administer(
            method, request, timeout_seconds, is_safe=is_safe, service="logs", calls=self.cluster_calls
        )


def _described(reply: Any) -> log_pb2.LogDescription:
    """Return the log that an answer describes."""
    log: log_pb2.LogDescription = reply.log
    return log


def connect(
    target: str,
    *,
    tls: Tls | None = None,
    log: str = "",
    timeout_seconds: float = TIMEOUT_SECONDS,
    is_direct: bool = False,
    transport: Transport = "binary",
    cluster: str = "",
    tracing: Any = False,
) -> AsyncClient:
    """Return a client of the cluster that any of these addresses belongs to, for use with asyncio.

        tls = Tls(ca="ca.pem", certificate="root.pem", key="root.key")
        async with connect("loghouse://a.example:8400,b.example:8400", tls=tls) as log:
            offset = await log.append(b"hello")

    One address is enough to find the others; several let it start while a node is down.

    Args:
        target: Addresses, separated by commas; the port 8400 may be left out.
        tls: The client's certificates; None speaks plaintext, which nodes accept on loopback only.
        log: The log's name; empty means the default one.
        timeout_seconds: How long calls try, unless they are told otherwise.
        is_direct: Call the addresses given and no others: to ask one certain node, or through a forwarded
            port, where the addresses that the nodes tell of cannot be reached.
        transport: "binary" speaks the compact protocol of the nodes' one port, and gRPC for the
            administration only; "grpc" speaks nothing else, for proxies and for ports that serve gRPC alone.
        cluster: The cluster's name, as every node.yaml has it: no node of another one is spoken to, though
            the same CA signed it. When empty, the first node that is reached says which it is.
        tracing: True makes a span of each append, and of each batch of a producer, by OpenTelemetry
            (`loghouse[otel]`), and tells the nodes; they go to the program's TracerProvider, or to one given.

    Raises:
        InvalidRequestError: The target is not understood.
        CertificateError: A certificate cannot be read.
    """
    return AsyncClient(
        target,
        tls=tls,
        log=log,
        timeout_seconds=timeout_seconds,
        is_direct=is_direct,
        transport=transport,
        cluster=cluster,
        tracing=tracing,
    )
