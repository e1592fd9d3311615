"""One channel for each address, kept while somebody uses it, closed when the address is gone.

A channel is what can be asked of one server, whatever it is made of: `BinaryChannel` or `GrpcChannel`.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Callable, Coroutine, Iterable
from typing import Any, Final, Generic, NamedTuple, TypeAlias, TypeVar

from loghouse.client.balancing import ClusterView
from loghouse.client.failures import CallFailedError, CallFailure, Effect, unexpected, unreached
from loghouse.client.records import Bounds
from loghouse.errors import ClosedError, LoghouseError, NotSupportedError
from loghouse.protocol.client_messages import Produce
from loghouse.protocol.cursor_messages import CursorOrder, CursorPage
from loghouse.protocol.cursors import CursorChange
from loghouse.protocol.entry import DEFAULT_GROUP, DEFAULT_LOG, Buffer
from loghouse.protocol.record_range import ReadPage, RecordRange

_T = TypeVar("_T")
_TOLD: Final = (LoghouseError, CallFailedError, AssertionError)


Hinted: TypeAlias = Callable[[str, int], None]
"""Called with the name and the group of a leader, when a node that is not it names it."""


class LogId(NamedTuple):
    """A log as a server is asked about it: by gRPC by its name, by the binary protocol by its group.

    The group is the log's own for ever: one that is made again under its name has another.
    """

    name: str = ""
    group: int = DEFAULT_GROUP

    @property
    def pin(self) -> int:
        """The group that must have the name, where there could be another one: `default` has but one."""
        return self.group if self.group != DEFAULT_GROUP else 0

    @property
    def identity(self) -> str:
        """Its name and its number: `orders#16`."""
        return f"{self.name or DEFAULT_LOG}#{self.group}"


class AppendAnswer(NamedTuple):
    """Where a batch went."""

    base_offset: int
    record_count: int


class FetchAnswer(NamedTuple):
    """Whole entry frames, from the one that holds the offset asked for on, and where to go on."""

    frames: Buffer
    next_offset: int


class AppendStream(ABC):
    """Batches sent one behind the other, and their outcomes in that order."""

    @abstractmethod
    async def write(self, request: Produce) -> None:
        """Send a batch; waits while the server takes no more."""

    @abstractmethod
    async def read(self) -> AppendAnswer:
        """Return the outcome of the next one.

        Raises:
            CallFailedError: It failed, and nothing behind it counts.
        """

    @abstractmethod
    def cancel(self) -> None:
        """Nobody waits any more; what was sent may still be appended."""


class Answers(ABC):
    """A log's frames as they come; the server sends a little ahead of `read`."""

    def take(self) -> FetchAnswer | None:
        """Return what comes next if it is here already, else None: `read` waits for it.

        Raises:
            CallFailedError: The server ended it, or is gone.
        """
        return None

    @abstractmethod
    async def read(self) -> FetchAnswer:
        """Return what comes next, once there is something.

        Raises:
            CallFailedError: The server ended it, or is gone.
        """

    @abstractmethod
    def cancel(self) -> None:
        """Nobody reads any more."""


def refused(text: str) -> CallFailedError:
    """Return the failure of a call that a channel, or a server, does not have."""
    return CallFailedError(CallFailure(error=NotSupportedError(text), effect=Effect.REFUSED))


class Channel(ABC):
    """What can be asked of the server at one address.

    Every call raises CallFailedError when it fails, after `seconds` at the latest.
    """

    def __init__(self, address: str) -> None:
        self.address = address
        self.use_count = 0
        self.is_retired = False

    @abstractmethod
    async def append(self, request: Produce, log: LogId, seconds: float) -> AppendAnswer:
        """Append a batch; the server stops trying after `seconds`, too."""

    @abstractmethod
    async def register_producer(self, log: LogId, seconds: float) -> int:
        """Return a new producer's id."""

    @abstractmethod
    async def bounds(self, log: LogId, seconds: float) -> Bounds:
        """Return the offsets that the log holds, confirmed by the leader."""

    @abstractmethod
    async def find_offset(self, timestamp: int, log: LogId, seconds: float) -> int:
        """Return the first offset appended at or after a time in microseconds, else the next offset."""

    @abstractmethod
    async def read_range(self, wanted: RecordRange, log: LogId, seconds: float) -> ReadPage:
        """Return some of a range."""

    async def append_with_cursor(
        self, request: Produce, cursor: CursorChange, log: LogId, seconds: float
    ) -> AppendAnswer:
        """As `append`, and move a cursor with the batch."""
        raise refused(f"{self.address}: this channel knows no cursors")

    async def ask_cursor(self, order: CursorOrder, log: LogId, seconds: float) -> CursorPage:
        """Have something about a cursor done."""
        raise refused(f"{self.address}: this channel knows no cursors")

    async def read_state(self, offset: int, log: LogId, seconds: float) -> bytes:
        """Return the log's replicated state before the entry that holds an offset, encoded as on a disk."""
        raise refused("the state of a log is read over the binary protocol: leave out transport")

    @abstractmethod
    async def servers(self, seconds: float) -> ClusterView:
        """Return the cluster as this server sees it."""

    @abstractmethod
    async def route(self, name: str, seconds: float) -> ClusterView:
        """Return the servers of a log as this one sees them, with its group."""

    @abstractmethod
    async def administer(self, service: str, method: str, request: Any, seconds: float) -> Any:
        """Make a call of the service `cluster` or `logs` and return its reply, both as generated messages."""

    @abstractmethod
    def appends(self, log: LogId) -> AppendStream:
        """Begin to send batches."""

    @abstractmethod
    def answers(self, offset: int, log: LogId) -> Answers:
        """Begin to read at an offset, and on at the tail."""

    @abstractmethod
    async def close(self) -> None:
        """Close it; calls under way end."""


class Opening(Generic[_T]):
    """What is opened once for everybody who waits for it meanwhile.

    Args:
        address: What it leads to; part of the text.
        open_: Opens it.
    """

    def __init__(self, address: str, open_: Callable[[], Coroutine[Any, Any, _T]]) -> None:
        self._address = address
        self._open = open_
        self._task: asyncio.Task[_T] | None = None  # set while it is being opened

    async def wait(self, seconds: float) -> _T:
        """Return what is opened.

        Raises:
            CallFailedError: It cannot be opened, or not in so many seconds.
            UnavailableError: The client is closed.
        """
        task = self._task
        if task is None:
            task = self._task = asyncio.ensure_future(self._open())
            task.add_done_callback(self._ended)
        await asyncio.wait({task}, timeout=seconds)
        if not task.done():
            raise unreached(self._address, f"no connection within {seconds:.3g} s")
        if task.cancelled():
            raise ClosedError("the client is closed")
        return task.result()

    async def cancel(self) -> None:
        """Open nothing any more; whoever waits gets an error."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait({self._task})

    def _ended(self, task: asyncio.Task[_T]) -> None:
        self._task = None
        seen(task)  # whoever wanted it may have gone when it fails


class Lent:
    """A channel for a block: `Channels.lend`. A class, since one is made for every append."""

    __slots__ = ("_address", "_channel", "_channels")

    def __init__(self, channels: Channels, channel: Channel, address: str) -> None:
        self._channels = channels
        self._channel = channel
        self._address = address

    def __enter__(self) -> Channel:
        self._channel.use_count += 1
        return self._channel

    def __exit__(self, _: object, error: BaseException | None, __: object) -> None:
        channel = self._channel
        channel.use_count -= 1
        if channel.is_retired:
            self._channels.returned(channel)
        if isinstance(error, Exception) and not isinstance(error, _TOLD):
            raise CallFailedError(unexpected(error, self._address)) from error


class Channels:
    """The channels of one client, made as they are needed.

    Args:
        make: Makes a channel to an address.
    """

    def __init__(self, make: Callable[[str], Channel]) -> None:
        self._make = make
        self._channels: dict[str, Channel] = {}
        self._closing: set[asyncio.Task[None]] = set()
        self.is_closed = False

    def lend(self, address: str) -> Lent:
        """Give a channel for the block; it is not closed under whoever uses it, except by `close`.

        What is raised in the block and is no error of ours, such as a library's, is a failed call, too: it
        is made again where that is safe, and told as an error of ours.

        Raises:
            UnavailableError: The client is closed.
            CallFailedError: The block failed.
        """
        if self.is_closed:
            raise ClosedError("the client is closed")
        channel = self._channels.get(address)
        if channel is None:
            channel = self._channels[address] = self._make(address)
        return Lent(self, channel, address)

    def returned(self, channel: Channel) -> None:
        """Close a channel that is given back, if the next call dials anew and it was the last one's."""
        if channel.is_retired and not channel.use_count:
            self._close_soon(channel)

    def keep(self, addresses: Iterable[str]) -> None:
        """Close the channels to all other addresses, each once nobody uses it."""
        for address in self._channels.keys() - set(addresses):
            self.retire(address)

    def retire(self, address: str) -> None:
        """Let the next call there dial anew."""
        channel = self._channels.pop(address, None)
        if channel is not None:
            channel.is_retired = True
            if not channel.use_count:
                self._close_soon(channel)

    @property
    def is_used(self) -> bool:
        """Whether there is anything to close."""
        return bool(self._channels or self._closing)

    @property
    def addresses(self) -> set[str]:
        """Where there is a channel to."""
        return set(self._channels)

    async def close(self) -> None:
        """Close everything; calls under way end."""
        self.is_closed = True
        channels, self._channels = list(self._channels.values()), {}
        for channel in channels:
            await channel.close()
        if self._closing:
            await asyncio.gather(*self._closing)

    def _close_soon(self, channel: Channel) -> None:
        if self.is_closed:
            return  # `close` does it
        task = asyncio.ensure_future(channel.close())
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)


def seen(task: asyncio.Future[Any]) -> None:
    """Take the exception of a task that nobody may wait for."""
    if not task.cancelled():
        task.exception()
