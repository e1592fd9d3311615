"""A channel of the binary protocol: one connection, dialled when it is needed."""

from __future__ import annotations

import asyncio
import ssl
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any, Final

from loghouse.client.balancing import ClusterView, Server
from loghouse.client.channels import (
    Answers,
    AppendAnswer,
    AppendStream,
    Channel,
    FetchAnswer,
    Hinted,
    LogId,
    Opening,
)
from loghouse.client.connection import Asked, Connection, dial
from loghouse.client.failures import unreached
from loghouse.client.following import Following
from loghouse.client.pin import ClusterPin
from loghouse.client.records import Bounds as ClientBounds
from loghouse.protocol.client_messages import (
    Bounds,
    Describe,
    DescribedServer,
    DescribeLog,
    FetchState,
    FindOffset,
    Produce,
    RegisterProducer,
)
from loghouse.protocol.configuration import ROLE_TEXTS
from loghouse.protocol.cursor_messages import (
    CURSOR_FIELDS,
    AskCursor,
    CursorOrder,
    CursorPage,
    ProduceWithCursor,
    page_of,
)
from loghouse.protocol.cursors import CursorChange
from loghouse.protocol.entry import DEFAULT_GROUP
from loghouse.protocol.range_messages import Read
from loghouse.protocol.record_range import ReadPage, RecordRange

DIAL_SECONDS: Final = 3.0
"""How long one connection may take; a black hole is given up then."""


class BinaryChannel(Channel):
    """One connection to one server, dialled anew when it is gone.

    Args:
        hinted: Called with the name and the group of a leader, when a node that is not it names it.
        make_other: Makes the gRPC channel for what the binary protocol does not have.
        pin: The cluster that the server must be of.
        make: The class of its connections, when it is not `Connection` itself.
    """

    def __init__(
        self,
        address: str,
        context: ssl.SSLContext | None,
        hinted: Hinted,
        make_other: Callable[[str], Channel],
        pin: ClusterPin | None = None,
        make: type[Connection] | None = None,
    ) -> None:
        super().__init__(address)
        self._context = context
        self._hinted = hinted
        self._make_other = make_other
        self._pin = pin
        self._make = make
        self._other: Channel | None = None
        self._connection: Connection | None = None
        self._connections: set[Connection] = set()  # those before it, too, while they answer what is open
        self._dialling = Opening(address, self._dial)

    async def append(self, request: Produce, log: LogId, seconds: float) -> AppendAnswer:
        """See `Channel.append`."""
        reply = await self._ask(request.within(_milliseconds(seconds)), log, seconds)
        return AppendAnswer(reply.base_offset, reply.record_count)

    async def append_with_cursor(
        self, request: Produce, cursor: CursorChange, log: LogId, seconds: float
    ) -> AppendAnswer:
        """See `Channel.append_with_cursor`."""
        produce = b"".join(request.within(_milliseconds(seconds)).encode())
        asked = ProduceWithCursor(
            cursor=cursor.name, epoch=cursor.epoch, position=cursor.position, produce=produce
        )
        reply = await self._ask(asked, log, seconds)
        return AppendAnswer(reply.base_offset, reply.record_count)

    async def ask_cursor(self, order: CursorOrder, log: LogId, seconds: float) -> CursorPage:
        """See `Channel.ask_cursor`."""
        asked = AskCursor(**{name: getattr(order, name) for name in CURSOR_FIELDS})
        reply = await self._ask(asked, log, seconds)
        return page_of(reply)

    async def register_producer(self, log: LogId, seconds: float) -> int:
        """See `Channel.register_producer`."""
        return int((await self._ask(RegisterProducer(), log, seconds)).producer_id)

    async def bounds(self, log: LogId, seconds: float) -> ClientBounds:
        """See `Channel.bounds`."""
        reply = await self._ask(Bounds(), log, seconds)
        return ClientBounds(reply.lowest, reply.next_offset)

    async def find_offset(self, timestamp: int, log: LogId, seconds: float) -> int:
        """See `Channel.find_offset`."""
        return int((await self._ask(FindOffset(timestamp=timestamp), log, seconds)).offset)

    async def read_range(self, wanted: RecordRange, log: LogId, seconds: float) -> ReadPage:
        """See `Channel.read_range`."""
        reply = await self._ask(Read.of(wanted), log, seconds)
        return ReadPage(
            frames=reply.frames,
            next_offset=reply.next_offset,
            lowest=reply.lowest,
            committed=reply.committed,
            is_confirmed=bool(reply.is_confirmed),
        )

    async def read_state(self, offset: int, log: LogId, seconds: float) -> bytes:
        """See `Channel.read_state`."""
        return bytes((await self._ask(FetchState(offset=offset), log, seconds)).state)

    async def servers(self, seconds: float) -> ClusterView:
        """See `Channel.servers`."""
        reply = await self._ask(Describe(), LogId(), seconds)
        return ClusterView(
            cluster_uuid=reply.cluster_uuid,
            cluster_name=reply.cluster_name,
            servers=_servers_of(reply.servers),
        )

    async def route(self, name: str, seconds: float) -> ClusterView:
        """See `Channel.route`."""
        connection = await self.connection(seconds)
        reply = await connection.ask(DescribeLog(name=name), DEFAULT_GROUP, seconds)
        return ClusterView(
            cluster_uuid=connection.hello.cluster_uuid,
            cluster_name=connection.hello.cluster_name,
            servers=_servers_of(reply.servers),
            group=reply.group,
            epoch=reply.epoch,
        )

    async def administer(self, service: str, method: str, request: Any, seconds: float) -> Any:
        """See `Channel.administer`; by gRPC."""
        if self._other is None:
            self._other = self._make_other(self.address)
        return await self._other.administer(service, method, request, seconds)

    def appends(self, log: LogId) -> AppendStream:
        """See `Channel.appends`."""
        return _BinaryAppends(self, log.group)

    def answers(self, offset: int, log: LogId) -> Answers:
        """See `Channel.answers`."""
        return _BinaryAnswers(self, offset, log.group)

    async def close(self) -> None:
        """See `Channel.close`."""
        await self._dialling.cancel()
        for connection in list(self._connections):
            await connection.close()
        if self._other is not None:
            await self._other.close()

    async def _ask(self, request: Any, log: LogId, seconds: float) -> Any:
        connection = self._connection
        if connection is None or not connection.is_up:
            connection = await self.connection(seconds)
        return await connection.ask(request, log.group, seconds)

    async def connection(self, seconds: float) -> Connection:
        """Return the connection; everybody who needs one waits for the same dialling.

        Raises:
            CallFailedError: There is none; nothing was asked.
        """
        if self._connection is not None and self._connection.is_up:
            return self._connection
        return await self._dialling.wait(seconds)

    async def _dial(self) -> Connection:
        connection = await dial(
            self.address, self._context, self._hinted, DIAL_SECONDS, self._pin, self._make
        )
        self._connection = connection
        self._connections.add(connection)
        connection.lost.add_done_callback(lambda _: self._connections.discard(connection))
        return connection


class _BinaryAppends(AppendStream):
    """Produce requests, one behind the other on one connection."""

    def __init__(self, channel: BinaryChannel, group: int) -> None:
        self._channel = channel
        self._group = group
        self._connection: Connection | None = None
        self._sent: deque[Asked] = deque()
        self._begun: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def write(self, request: Produce) -> None:
        if self._connection is None:
            self._connection = await self._channel.connection(DIAL_SECONDS)
        await self._connection.drain()
        await self._connection.enter(DIAL_SECONDS)
        self._sent.append(self._connection.begin(request, self._group))
        if not self._begun.done():
            self._begun.set_result(None)

    async def read(self) -> AppendAnswer:
        while not self._sent:
            await self._wait_for_more()
        reply = await asyncio.shield(self._sent[0].answer)
        self._sent.popleft()
        return AppendAnswer(reply.base_offset, reply.record_count)

    async def _wait_for_more(self) -> None:
        """Return once there may be another; raise when the connection went instead."""
        if self._begun.done():
            self._begun = asyncio.get_running_loop().create_future()
        waiting: set[asyncio.Future[None]] = {self._begun}
        if self._connection is not None:
            waiting.add(self._connection.lost)
        await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        if self._connection is not None and self._connection.lost.done() and not self._sent:
            raise unreached(self._channel.address, "the connection is gone")

    def cancel(self) -> None:
        if self._connection is not None:
            for asked in self._sent:
                self._connection.forget(asked)


class _BinaryAnswers(Answers):
    """A Follow."""

    def __init__(self, channel: BinaryChannel, offset: int, group: int) -> None:
        self._channel = channel
        self._offset = offset
        self._group = group
        self._following: Following | None = None

    def take(self) -> FetchAnswer | None:
        return self._following.take() if self._following is not None else None

    async def read(self) -> FetchAnswer:
        if self._following is None:
            connection = await self._channel.connection(DIAL_SECONDS)
            await connection.enter(DIAL_SECONDS)
            self._following = connection.follow(self._offset, self._group)
        return await self._following.read()

    def cancel(self) -> None:
        if self._following is not None:
            self._following.cancel()


def _milliseconds(seconds: float) -> int:
    return min(int(seconds * 1000), 2**32 - 1)


def _servers_of(described: Iterable[DescribedServer]) -> tuple[Server, ...]:
    return tuple(
        Server(
            name=server.name,
            address=server.address,
            grpc_address=server.grpc_address,
            is_leader=server.is_leader,
            role=ROLE_TEXTS[server.role],
            is_alive=server.is_alive,
        )
        for server in described
    )
