"""The embedded log as a program uses it: the client's methods, on a directory of its own."""

from __future__ import annotations

import os
import threading
from collections.abc import Coroutine, Iterable
from datetime import datetime
from importlib import import_module
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Self, TypedDict, Unpack

from loghouse.client.batching import encode_batch_of, encode_record
from loghouse.client.choice import Trust
from loghouse.client.consumer_settings import ConsumerOptions, checked_into
from loghouse.client.cursors import Advance, AsyncCursors, BlockingCursors, advance_of
from loghouse.client.fields import integer_of, moment_of, optional_offset_of, seconds_of, text_of
from loghouse.client.producer_settings import BATCH_SIZE, BUFFER_SIZE, LINGER_MILLISECONDS
from loghouse.client.records import Bounds, Headers, NewRecord
from loghouse.client.starts import Compression, codec_of
from loghouse.embedded.lone_node import LoneNode
from loghouse.embedded.producer import EmbeddedProducer
from loghouse.embedded.reads import READ_SIZE_MAX, EmbeddedReads, scanned
from loghouse.embedded.requests import Request
from loghouse.errors import DamageError, OffsetOutOfRangeError, UnknownLogError
from loghouse.limits import MIB, SEGMENT_SIZE_DEFAULT
from loghouse.protocol.compression import compress
from loghouse.protocol.configuration import Retention, encode_trim
from loghouse.protocol.cursor_messages import CursorOrder, CursorPage
from loghouse.protocol.entry import DEFAULT_LOG, Codec, EntryKind
from loghouse.protocol.record_range import ReadPage, RecordRange
from loghouse.storage.files import OsFiles

if TYPE_CHECKING:
    from loghouse.client.blocking_consumer import Consumer

NODE_NAME: Final = "node-1"
CLUSTER_NAME: Final = "loghouse"
TIMEOUT_SECONDS: Final = 30.0
RESERVE_SIZE: Final = 1 * MIB  # a node's is for many elections on a full disk


class EmbeddedLog(EmbeddedReads):
    """A log in this process. See `loghouse.open`; any thread may call it.

    Methods, arguments and errors are those of `loghouse.client.Client`. What is appended is durable on the
    directory's disk when the call returns. `timeout_seconds` is taken and checked, and bounds nothing: an
    append takes as long as the disk does.
    """

    def __init__(self, node: LoneNode) -> None:
        """Use `loghouse.open`."""
        self.node = node
        self._consumers: Any = None  # `EmbeddedConsumers`, made by the first consumer

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the log and let the directory go; who follows the log gets ClosedError.

        What is done in a consumer that is open is committed first.
        """
        if self._consumers is not None:
            self._consumers.close()
        self.node.close()

    def log(self, name: str) -> Self:
        """Return the log of that name, as a cluster's client does: there is `default`, which is this one.

        Raises:
            UnknownLogError: It is another name; a cluster has more logs.
        """
        check_only_log(name)
        return self

    # --- appending ------------------------------------------------------------------------

    def append(
        self,
        value: bytes,
        *,
        key: bytes | None = None,
        headers: Headers = (),
        timestamp: datetime | int | None = None,
        expect_offset: int | None = None,
        timeout_seconds: float | None = None,
    ) -> int:
        """Append one record and return its offset, once it is durable.

            offset = log.append(b"moved", key=b"sensor-7", headers=[("unit", b"mm")])

        Threads that append at the same time share a sync.

        Args:
            timestamp: A time of the producer's own (microseconds since the epoch when a number); None takes
                the time of the append.
            expect_offset: Append only if the record gets this offset.

        Raises:
            ExpectOffsetError: The log's next offset was another; nothing was appended.
            DiskFullError: There is no room; nothing was appended. Appends go well again once there is.
            OutcomeUnknownError: The disk failed meanwhile; the log must be opened again.
        """
        return self.node.settle(
            record_request(value, key, headers, timestamp, expect_offset, timeout_seconds)
        )

    def append_batch(
        self,
        values: Iterable[bytes | NewRecord],
        *,
        compression: Compression = "none",
        expect_offset: int | None = None,
        cursor: Advance | None = None,
        timeout_seconds: float | None = None,
    ) -> range:
        """Append records together, all or none, and return their offsets.

        Args:
            values: The records' values, or a `NewRecord` where one has more: at least one, 8 MiB together at
                most.
            cursor: Where a cursor of the log goes with them: both are done, or neither. A second batch with
                the same advance is answered as the first was.

        Raises:
            As `append`. With a cursor also:
            CursorFencedError, UnknownCursorError: Somebody else has it by now; nothing was appended.
            CursorRewindError: It stands there, or further on, with other records; nothing was appended.
        """
        request = batch_request(values, compression, expect_offset, timeout_seconds, cursor)
        base_offset = self.node.settle(request)
        return range(base_offset, base_offset + request.record_count)

    def append_encoded(
        self, payload: bytes, record_count: int, codec: Codec = Codec.NONE, expect_offset: int | None = None
    ) -> int:
        """Append a serialized `RecordBatch`, compressed by `codec`; return the offset of its first record."""
        return self.node.settle(Request(payload, record_count, attributes=codec, expect_offset=expect_offset))

    def producer(
        self,
        *,
        linger_ms: float = LINGER_MILLISECONDS,
        batch_bytes: int = BATCH_SIZE,
        compression: Compression = "none",
        buffer_bytes: int = BUFFER_SIZE,
        timeout_seconds: float | None = None,
    ) -> EmbeddedProducer:
        """Return a producer: it gathers records into batches, and appends each once, in order.

            with log.producer() as producer:
                for line in lines:
                    producer.append(line)  # waits only while the buffer is full

        At the block's end everything is durable, or its error raised.

        Args:
            linger_ms: How long a record may wait for others to share its batch.
            batch_bytes: Bytes at which a batch is appended without waiting.
            compression: "zstd" compresses each batch that gets smaller by it.
            buffer_bytes: Bytes not durable yet beyond which `append` waits.
            timeout_seconds: How long a batch is tried while the disk is full (30 s).
        """
        return EmbeddedProducer(
            self.append_encoded,
            check_process=self.node.check_process,
            linger_ms=linger_ms,
            batch_bytes=batch_bytes,
            codec=codec_of(compression),
            buffer_bytes=buffer_bytes,
            timeout_seconds=TIMEOUT_SECONDS if timeout_seconds is None else timeout_seconds,
        )

    def cursors(self) -> BlockingCursors:
        """Return what moves, lists and changes the log's cursors; see `loghouse.client.AsyncCursors`.

        cursors = log.cursors()
        mine = cursors.acquire("billing")
        for record in log.read(mine.position):
            handle(record)
            cursors.advance("billing", mine.epoch, record.offset + 1)
        """

        async def ask(order: CursorOrder, timeout_seconds: float | None, is_safe: bool) -> CursorPage:
            if timeout_seconds is not None:
                seconds_of(timeout_seconds)
            return self.node.order_cursor(order)

        return BlockingCursors(AsyncCursors(ask), _run)

    def consumer(
        self, name: str, *, into: EmbeddedLog | None = None, **options: Unpack[ConsumerOptions]
    ) -> Consumer:
        """Return a consumer of this log: it goes on where its cursor stands, and moves it.

            with log.consumer("billing") as consumer:
                for record in consumer:
                    print(record.value)
                    consumer.done(record)

        See `loghouse.client.AsyncLog.consumer`. `into` can only be this log.
        """
        checked_into(into, EmbeddedLog)
        self.node.check()
        if self._consumers is None:
            # By its name: it is made of the asyncio form, which is made of this one.
            self._consumers = import_module("loghouse.embedded.consumers").EmbeddedConsumers(self)
        made: Consumer = self._consumers.blocking(self._consumers.log.consumer(name, **options), self)
        return made

    # --- reading --------------------------------------------------------------------------

    def fetch(self, offset: int) -> tuple[bytes, int]:
        """Return whole entry frames from `offset` on, and where to go on; nothing at the log's end.

        Raises:
            OffsetOutOfRangeError: It is below the lowest offset held.
            DamageError: The disk does not give back what was written.
        """
        node = self.node
        driver = node.driver
        if offset >= driver.readable_offset:
            return b"", offset
        try:
            if offset < driver.lowest_offset:
                raise OffsetOutOfRangeError(offset, driver.lowest_offset, driver.readable_offset)
            return node.log.read(offset, READ_SIZE_MAX, driver.readable_index)
        except OffsetOutOfRangeError:
            raise OffsetOutOfRangeError(offset, driver.lowest_offset, driver.readable_offset) from None
        except (DamageError, OSError, MemoryError) as error:
            self._tell_of(error)
            raise

    def read_range(self, wanted: RecordRange) -> ReadPage:
        """Return some of a range; see `EmbeddedReads.read_range`."""
        log, driver = self.node.log, self.node.driver
        try:
            return scanned(log, wanted, driver.lowest_offset, driver.readable_offset, driver.readable_index)
        except (DamageError, OSError, MemoryError) as error:
            self._tell_of(error)
            raise

    def _tell_of(self, error: BaseException) -> None:
        """Have what a read found damaged looked after; raise what it means, if that is another error."""
        told = self.node.replica.damage_control.read_failed(error)
        if told is not error:
            raise told from error

    def wait_for(self, offset: int) -> None:
        """Return once the record at `offset` is readable.

        Raises:
            ClosedError: The log was closed meanwhile.
        """
        told = threading.Event()
        end = self.node.watch(told.set)
        try:
            while self.node.driver.readable_offset <= offset:
                told.wait()
                told.clear()
        finally:
            end()

    def bounds(self, *, consistency: Trust = "confirmed", timeout_seconds: float | None = None) -> Bounds:
        """Return the offsets that the log holds."""
        driver = self.node.driver
        return Bounds(driver.lowest_offset, driver.readable_offset)

    def find_offset(self, time: datetime | int, *, timeout_seconds: float | None = None) -> int:
        """Return the first offset appended at or after a time, or else the next offset.

        Args:
            time: A datetime, or microseconds since the epoch.
        """
        timestamp = max(0, moment_of("time", time))
        driver = self.node.driver
        lowest, next_offset = driver.lowest_offset, driver.readable_offset
        found = self.node.log.find_time(timestamp, driver.readable_index, lowest)
        return found[0] if found is not None else next_offset

    def trim(self, offset: int, *, timeout_seconds: float | None = None) -> int:
        """Let records below an offset go, and return the lowest offset held now."""
        payload = encode_trim(integer_of("offset", offset))
        self.node.settle(Request(payload, 0, kind=EntryKind.TRIM))
        return self.node.driver.lowest_offset


def check_only_log(name: str) -> None:
    """Raise unless a name is that of the one log of a directory, or empty.

    Raises:
        UnknownLogError: It is not.
    """
    if text_of("log", name) not in ("", DEFAULT_LOG):
        raise UnknownLogError(name)


def record_request(
    value: bytes,
    key: bytes | None,
    headers: Headers,
    timestamp: datetime | int | None,
    expect_offset: int | None,
    timeout_seconds: float | None,
) -> Request:
    """Return the request to append one record; errors as `EmbeddedLog.append`."""
    head, body = encode_record(value, key, headers, timestamp)
    if timeout_seconds is not None:
        seconds_of(timeout_seconds)
    expected = optional_offset_of("expect_offset", expect_offset)
    return Request(head + body, 1, expect_offset=expected)


def batch_request(
    values: Iterable[bytes | NewRecord],
    compression: Compression,
    expect_offset: int | None,
    timeout_seconds: float | None,
    cursor: Advance | None = None,
) -> Request:
    """Return the request to append a batch, compressed when that makes it smaller."""
    change = advance_of(cursor)
    payload, record_count = encode_batch_of(values)
    if timeout_seconds is not None:
        seconds_of(timeout_seconds)
    expected = optional_offset_of("expect_offset", expect_offset)
    codec = codec_of(compression)
    if codec is not Codec.NONE:
        packed = compress(payload, codec)
        if len(packed) < len(payload):
            return Request(packed, record_count, attributes=codec, expect_offset=expected, cursor=change)
    return Request(payload, record_count, expect_offset=expected, cursor=change)


def _run(work: Coroutine[Any, Any, Any]) -> Any:
    """Return what a coroutine comes to that waits for nothing: all is done in this thread."""
    try:
        work.send(None)
    except StopIteration as done:
        return done.value
    raise AssertionError("it waits for something")


class OpenOptions(TypedDict, total=False):
    """What opening a directory takes besides its path. See `open_embedded`."""

    name: str
    cluster: str
    segment_size: int
    reserve_size: int
    retention_size: int
    retention_seconds: int


def open_embedded(
    path: str | os.PathLike[str],
    *,
    name: str = NODE_NAME,
    cluster: str = CLUSTER_NAME,
    segment_size: int = SEGMENT_SIZE_DEFAULT,
    reserve_size: int = RESERVE_SIZE,
    retention_size: int = 0,
    retention_seconds: int = 0,
) -> EmbeddedLog:
    """Open the log in a directory, or make one there, and return it. This is `loghouse.open`.

        with loghouse.open("events/") as log:
            offset = log.append(b"moved", key=b"sensor-7")
            for record in log.read("earliest"):
                print(record.offset, record.value)

    The directory is the `data_dir` of a node: `twistd loghouse` serves it later, once this process closed it.
    One process at a time has it open.

    Args:
        path: The directory; made when it is not there, its parents are not.
        name, cluster: What a new directory is called: `name` and `cluster` of the node.yaml that serves it.
        segment_size, reserve_size: Bytes; of files made from now on.
        retention_size, retention_seconds: What a new log keeps; 0 keeps everything.

    Raises:
        DirectoryInUseError: A node or another process has it open.
        DataDirectoryError: It is of a node that has others, or cannot be used.
        DamageError: Acknowledged data is damaged; nothing was modified.
    """
    return EmbeddedLog(
        LoneNode(
            OsFiles(),
            os.path.abspath(path),
            node_name=name,
            cluster_name=cluster,
            segment_size=segment_size,
            reserve_size=reserve_size,
            retention=Retention(size_max=retention_size, age_max_seconds=retention_seconds),
        )
    )
