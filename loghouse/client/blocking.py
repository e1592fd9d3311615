"""The blocking client: an `AsyncClient` on an event loop of its own, in a thread of its own.

Every call hands a coroutine to that loop and waits, interrupted by Ctrl-C as any wait is: the call is then
cancelled. What is read is decoded by the thread that reads it.
"""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Callable, Coroutine, Iterable, Iterator
from functools import wraps
from types import TracebackType
from typing import Any, Concatenate, ParamSpec, Self, TypeVar, Unpack, overload

from loghouse.client.asynchronous import AsyncClient, ClientOptions
from loghouse.client.blocking_consumer import Consumer, GroupConsumer
from loghouse.client.blocking_producer import OpenClient, Producer
from loghouse.client.choice import ReadOptions
from loghouse.client.consumer_settings import ConsumerOptions, checked_into
from loghouse.client.cursors import Advance, BlockingCursors
from loghouse.client.fields import values_of
from loghouse.client.log import AsyncLog
from loghouse.client.loop_thread import pulled
from loghouse.client.pages import in_order
from loghouse.client.producer_settings import BATCH_SIZE, BUFFER_SIZE, LINGER_MILLISECONDS
from loghouse.client.records import Batch, NewRecord, Record
from loghouse.client.starts import Compression, Start

_P = ParamSpec("_P")
_T = TypeVar("_T")
_A = TypeVar("_A", bound=AsyncLog)


def _waiting(
    method: Callable[Concatenate[_A, _P], Coroutine[Any, Any, _T]], text: str
) -> Callable[Concatenate[Any, _P], _T]:
    """Return the method that runs one of an asyncio client and waits; `text` begins its docstring."""
    owner = "Client" if method.__qualname__.startswith("AsyncClient.") else "BlockingLog"

    @wraps(method)
    def run(self: Any, /, *args: _P.args, **kwargs: _P.kwargs) -> _T:
        result: _T = self._open.thread.run(method(self._client, *args, **kwargs))
        return result

    run.__module__ = __name__
    run.__qualname__ = f"{owner}.{run.__name__}"
    run.__doc__ = f"{text}; see `{method.__qualname__}`."
    return run


class BlockingLog:
    """One of a cluster's logs, for programs without an event loop. Made by `Client.log`, closed with it.

    Its methods are those of `AsyncLog`, with the same arguments and the same errors; any thread may call
    them. `read` and `read_batches` give ordinary iterators.
    """

    def __init__(self, log: AsyncLog, open_: OpenClient, owner: object = None) -> None:
        """Wait for what `log` does; `owner`: the client, which closes itself when it is dropped."""
        self.log_name = log.log_name
        self._client = log
        self._open = open_
        self._owner = owner

    # --- appending ------------------------------------------------------------------------

    append = _waiting(AsyncLog.append, "Append one record and return its offset")

    def append_batch(
        self,
        values: Iterable[bytes | NewRecord],
        *,
        compression: Compression = "none",
        expect_offset: int | None = None,
        cursor: Advance | None = None,
        timeout_seconds: float | None = None,
    ) -> range:
        """Append records together and return their offsets; see `AsyncLog.append_batch`."""
        return self._open.thread.run(
            self._client.append_batch(
                list(values_of(values)),
                compression=compression,
                expect_offset=expect_offset,
                cursor=cursor,
                timeout_seconds=timeout_seconds,
            )
        )

    def producer(
        self,
        *,
        linger_ms: float = LINGER_MILLISECONDS,
        batch_bytes: int = BATCH_SIZE,
        compression: Compression = "none",
        buffer_bytes: int = BUFFER_SIZE,
        timeout_seconds: float | None = None,
    ) -> Producer:
        """Return a producer; see `AsyncLog.producer`.

            with log.producer() as producer:
                for line in lines:
                    producer.append(line)

        Its `append` gives a `BlockingDelivery`.
        """
        return Producer(
            self._open,
            self._client,
            owner=self,
            linger_ms=linger_ms,
            batch_bytes=batch_bytes,
            compression=compression,
            buffer_bytes=buffer_bytes,
            timeout_seconds=timeout_seconds,
        )

    # --- reading --------------------------------------------------------------------------

    def read(self, from_: Start = "earliest", **options: Unpack[ReadOptions]) -> Iterator[Record]:
        """Yield records; see `AsyncLog.read`.

            for record in log.read("earliest"):
                print(record.offset, record.value)

        Leaving the loop ends the reading.
        """
        is_reverse = bool(options.get("reverse"))
        for batch in self.read_batches(from_, **options):
            yield from in_order(batch, is_reverse)

    def read_batches(self, from_: Start = "earliest", **options: Unpack[ReadOptions]) -> Iterator[Batch]:
        """Yield whole batches; see `AsyncLog.read_batches`."""
        answers = self._client.read_answers(from_, **options)
        with contextlib.closing(pulled(self._open.run, answers)) as found:
            for batches in found:
                yield from batches

    newest = _waiting(AsyncLog.newest, "Return the last records in the order of the log")
    read_page = _waiting(AsyncLog.read_page, "Return what a server gives at once, and where to go on")
    bounds = _waiting(AsyncLog.bounds, "Return the offsets that the log holds")
    find_offset = _waiting(AsyncLog.find_offset, "Return the first offset appended at or after a time")

    # --- cursors ------------------------------------------------------------------------------

    def cursors(self) -> BlockingCursors:
        """Return what moves, lists and changes this log's cursors; see `AsyncLog.cursors`."""
        return BlockingCursors(self._client.cursors(), self._open.thread.run)

    def consumer(
        self, name: str, *, into: BlockingLog | None = None, **options: Unpack[ConsumerOptions]
    ) -> Consumer:
        """Return a consumer of this log; see `AsyncLog.consumer`.

        with log.consumer("billing") as consumer:
            for record in consumer:
                print(record.value)
                consumer.done(record)
        """
        made = AsyncLog.consumer(self._client, name, into=_inner_of(into), **options)
        return Consumer(made, self._open, self._client.calls.place, self)

    # --- administration -----------------------------------------------------------------------

    status = _waiting(AsyncLog.status, "Return the log's group as one server sees it")
    transfer = _waiting(AsyncLog.transfer, "Hand the log's leadership over")
    trim = _waiting(AsyncLog.trim, "Let records below an offset go")


class Client(BlockingLog):
    """A client of one cluster for programs without an event loop. See `connect_blocking`.

    Its methods are those of `AsyncClient`, with the same arguments and the same errors; any thread may call
    them. `read` and `read_batches` give ordinary iterators.
    """

    def __init__(self, target: str, **options: Unpack[ClientOptions]) -> None:
        """See `connect_blocking`; nothing is dialled before the first call."""
        self._cluster = AsyncClient(target, **options)
        super().__init__(self._cluster, OpenClient(self._cluster))
        self._dropped = weakref.finalize(self, self._open.close_soon)
        self._dropped.atexit = False  # then `exiting` closes it

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close every connection and end the thread; whoever waits for an answer gets an error."""
        self._dropped.detach()
        self._open.close()

    def log(self, name: str) -> BlockingLog:
        """Return one of the cluster's logs; see `AsyncClient.log`."""
        return BlockingLog(self._cluster.log(name), self._open, self)

    # --- groups -------------------------------------------------------------------------------

    @overload
    def consumer(
        self,
        name: str,
        *,
        logs: None = None,
        into: BlockingLog | None = None,
        **options: Unpack[ConsumerOptions],
    ) -> Consumer: ...

    @overload
    def consumer(
        self,
        name: str,
        *,
        logs: Iterable[str],
        into: BlockingLog | None = None,
        **options: Unpack[ConsumerOptions],
    ) -> GroupConsumer: ...

    def consumer(
        self,
        name: str,
        *,
        logs: Iterable[str] | None = None,
        into: BlockingLog | None = None,
        **options: Unpack[ConsumerOptions],
    ) -> Consumer | GroupConsumer:
        """Return a consumer of this log; with `logs`, a member of a group. See `AsyncClient.consumer`."""
        if logs is None:
            return super().consumer(name, into=into, **options)
        made = self._cluster.consumer(name, logs=logs, into=_inner_of(into), **options)
        return GroupConsumer(made, self._open, self._cluster.calls.place, self)

    # --- the cluster ------------------------------------------------------------------------

    servers = _waiting(AsyncClient.servers, "Ask who is in the cluster")
    add = _waiting(AsyncClient.add, "Let a node in")
    remove = _waiting(AsyncClient.remove, "Take a node out")
    leave = _waiting(AsyncClient.leave, "Tell a server to leave")
    reload = _waiting(AsyncClient.reload, "Let a server read its settings again")
    create_log = _waiting(AsyncClient.create_log, "Make a log")
    alter_log = _waiting(AsyncClient.alter_log, "Change settings of a log")
    delete_log = _waiting(AsyncClient.delete_log, "Delete a log")
    replace_replica = _waiting(AsyncClient.replace_replica, "Give a log a replica for one that is lost")
    logs = _waiting(AsyncClient.logs, "Return the logs by name")
    describe_log = _waiting(AsyncClient.describe_log, "Return one log")


def _inner_of(into: BlockingLog | None) -> AsyncLog | None:
    found = checked_into(into, BlockingLog)
    return None if found is None else found._client


def connect_blocking(target: str, **options: Unpack[ClientOptions]) -> Client:
    """Return a client of the cluster that any of these addresses belongs to, for use without asyncio.

        tls = Tls(ca="ca.pem", certificate="root.pem", key="root.key")
        with connect_blocking("loghouse://a.example:8400,b.example:8400", tls=tls) as log:
            offset = log.append(b"hello")

    Arguments and errors are those of `connect`.
    """
    return Client(target, **options)
