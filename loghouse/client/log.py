"""One log of a cluster, as asyncio programs use it."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Iterable, Iterator
from contextlib import aclosing
from dataclasses import replace
from datetime import datetime
from typing import Any, Final, Unpack

from loghouse.api.v1 import log_pb2
from loghouse.client.balancing import Purpose
from loghouse.client.batching import encode_batch_of, encode_record
from loghouse.client.calls import Calls, Make
from loghouse.client.channels import AppendAnswer, Channel
from loghouse.client.choice import Choice, PageOptions, ReadOptions, Trust, choice_of
from loghouse.client.consumer_settings import ConsumerOptions, checked_into, settings_of
from loghouse.client.consuming import AsyncConsumer
from loghouse.client.cursors import Advance, AsyncCursors, advance_of
from loghouse.client.failures import CallFailedError, Effect
from loghouse.client.fields import flag_of, integer_of, moment_of, optional_offset_of, seconds_of, text_of
from loghouse.client.pages import RecordPage, in_order
from loghouse.client.producer_settings import BATCH_SIZE, BUFFER_SIZE, LINGER_MILLISECONDS
from loghouse.client.producing import AsyncProducer
from loghouse.client.range_reading import RangeReader
from loghouse.client.reading import Reader
from loghouse.client.records import Batch, Bounds, Headers, NewRecord, Record
from loghouse.client.starts import Compression, Start, codec_of, start_of
from loghouse.errors import (
    DeadlineError,
    InvalidRequestError,
    OffsetOutOfRangeError,
    ResourceExhaustedError,
)
from loghouse.limits import UINT32_MAX, UINT64_MAX
from loghouse.protocol.client_messages import Produce
from loghouse.protocol.compression import compress
from loghouse.protocol.cursor_messages import CursorOrder, CursorPage
from loghouse.protocol.cursors import CursorChange
from loghouse.protocol.entry import Buffer, Codec, Entry, crc32c, decode_entries

CONFIRM_SECONDS: Final = 5.0
"""How long a reader from an offset on waits to hear where the log ends; several elections."""


class AsyncLog:
    """Appends to and reads from one log. Made by `AsyncClient.log`, and closed with its client.

    Attributes:
        log_name: The log's name; empty means the default one.
        timeout_seconds: How long calls try, unless they are told otherwise.
    """

    def __init__(self, calls: Calls, timeout_seconds: float) -> None:
        self.calls = calls
        self.log_name = calls.log
        self.timeout_seconds = timeout_seconds

    # --- appending ------------------------------------------------------------------------

    async def append(
        self,
        value: bytes,
        *,
        key: bytes | None = None,
        headers: Headers = (),
        timestamp: datetime | int | None = None,
        expect_offset: int | None = None,
        timeout_seconds: float | None = None,
    ) -> int:
        """Append one record and return its offset, once it is durable on a majority.

            offset = await log.append(b"moved", key=b"sensor-7", headers=[("unit", b"mm")])

        Args:
            timestamp: A time of the producer's own (microseconds since the epoch when a number); None takes
                the time at which the leader appends.
            expect_offset: Append only if the record gets this offset.

        Raises:
            ExpectOffsetError: The log's next offset was another; nothing was appended.
            OutcomeUnknownError: The connection or the leadership was lost meanwhile. It was not tried again,
                because that could append twice; `producer()` has no such case.
            DeadlineError, InvalidRequestError, ...: Nothing was appended.
        """
        head, body = encode_record(value, key, headers, timestamp)
        expected = optional_offset_of("expect_offset", expect_offset)
        return (await self._append(head + body, 1, Codec.NONE, expected, timeout_seconds)).base_offset

    async def append_batch(
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
            cursor: Where a cursor of this log goes with them: both are done, or neither. Such a batch is
                tried again after any failure, and appended once.

        Raises:
            As `append`. With a cursor also:
            CursorFencedError, UnknownCursorError: Somebody else has it by now; nothing was appended.
            CursorRewindError: It stands there, or further on, with other records; nothing was appended.
        """
        change = advance_of(cursor)
        payload, record_count = encode_batch_of(values)
        codec = codec_of(compression)
        expected = optional_offset_of("expect_offset", expect_offset)
        packed = compress(payload, codec)
        appended = await self._append(packed, record_count, codec, expected, timeout_seconds, change)
        return range(appended.base_offset, appended.base_offset + appended.record_count)

    async def _append(
        self,
        payload: bytes,
        record_count: int,
        codec: Codec,
        expect_offset: int | None,
        timeout_seconds: float | None,
        cursor: CursorChange | None = None,
    ) -> AppendAnswer:
        request = Produce(
            batch=payload,
            record_count=record_count,
            attributes=codec,
            batch_crc=crc32c(payload),
            expect_offset=expect_offset,
        )

        def make(channel: Channel, seconds: float) -> Awaitable[AppendAnswer]:
            if cursor is not None:
                return channel.append_with_cursor(request, cursor, self.calls.where, seconds)
            return channel.append(request, self.calls.where, seconds)

        return await self.calls.append(
            make, timeout_seconds=self.timeout_of(timeout_seconds), is_safe=cursor is not None
        )

    async def append_encoded(
        self,
        payload: bytes,
        record_count: int,
        *,
        codec: Codec = Codec.NONE,
        cursor: Advance | None = None,
        timeout_seconds: float | None = None,
    ) -> int:
        """Append a serialized batch, compressed by `codec`; return the offset of its first record."""
        change = advance_of(cursor)
        return (await self._append(payload, record_count, codec, None, timeout_seconds, change)).base_offset

    def producer(
        self,
        *,
        linger_ms: float = LINGER_MILLISECONDS,
        batch_bytes: int = BATCH_SIZE,
        compression: Compression = "none",
        buffer_bytes: int = BUFFER_SIZE,
        timeout_seconds: float | None = None,
    ) -> AsyncProducer:
        """Return a producer: it gathers records into batches, and appends each exactly once, in order.

            async with log.producer() as producer:
                for line in lines:
                    await producer.append(line)  # waits only while the buffer is full
                delivery = await producer.append(b"the last one")
                offset = await delivery

        At the block's end everything is acknowledged, or its error raised. It registers a producer id, and
        sends what is not acknowledged again, after any failure and to any server, until the deadline; the
        cluster drops what it has already. A producer is for one program at work, not for one record: the
        cluster remembers the last 4096.

        Args:
            linger_ms: How long a record may wait for others to share its batch.
            batch_bytes: Bytes at which a batch is sent without waiting.
            compression: "zstd" compresses each batch that gets smaller by it.
            buffer_bytes: Bytes not acknowledged yet beyond which `append` waits.
            timeout_seconds: How long a batch is tried, from its first record on.
        """
        return AsyncProducer(
            self.calls,
            linger_ms=linger_ms,
            batch_bytes=batch_bytes,
            codec=codec_of(compression),
            buffer_bytes=buffer_bytes,
            timeout_seconds=self.timeout_of(timeout_seconds),
        )

    # --- reading --------------------------------------------------------------------------

    async def read(
        self, from_: Start = "earliest", **options: Unpack[ReadOptions]
    ) -> AsyncGenerator[Record, None]:
        """Yield records from `from_` on, up to where the log ends now, or for ever with `follow`.

            async for record in log.read("earliest"):
                print(record.offset, record.value)
            async for record in log.read(until=100, reverse=True, limit=10, key=b"sensor-7"):
                print(record.offset)  # of its last ten before offset 100, the last one first

        It goes on at another server when one fails; each record comes once. Leave an endless one by closing
        it (`async with contextlib.aclosing(log.read(follow=True)) as records:`) or by cancelling its task.

        From an offset on it needs no majority: when nobody can confirm where the log ends, it yields what the
        servers that can be reached have committed, and a warning of the logger `loghouse.client` says so.

        Keys and headers are looked for by the server: batches without one that is wanted do not come here.

        Args:
            from_: An offset, "earliest", "latest" (the next record to be appended), or a datetime: the first
                record that the leader appended then or later.
            options: See `ReadOptions`.

        Raises:
            OffsetOutOfRangeError: `from_` is below the lowest offset held, or (without `follow`) beyond the
                next one; or the reader was so slow that its next record has been trimmed.
            DeadlineError: No server answered for that long.
            NotSupportedError: The server is of a version that does not read backwards, nor by key.
        """
        is_reverse = bool(options.get("reverse"))
        answers = self.read_answers(from_, **options)
        async with aclosing(answers):
            async for batches in answers:
                for batch in batches:
                    for record in in_order(batch, is_reverse):
                        yield record

    async def read_batches(
        self, from_: Start = "earliest", **options: Unpack[ReadOptions]
    ) -> AsyncGenerator[Batch, None]:
        """As `read`, whole batches at a time: several times as fast.

            async for batch in log.read_batches():
                total += sum(map(len, batch.values()))

        A batch holds what was appended together, from `from_` on; of a key, the records with that key. With
        `reverse` the last batch comes first, and a batch has its records in the order of the log.
        """
        answers = self.read_answers(from_, **options)
        async with aclosing(answers):
            async for batches in answers:
                for batch in batches:
                    yield batch

    async def newest(self, count: int, **options: Unpack[PageOptions]) -> list[Record]:
        """Return the last `count` records in the order of the log; fewer when there are no more.

            for record in await log.newest(3, key=b"sensor-7"):
                print(record.offset, record.value)

        Args:
            options: Which ones, and whom to ask; see `ReadOptions`.
        """
        count = integer_of("count", count, lowest=1, highest=UINT32_MAX)
        records = [record async for record in self.read(limit=count, reverse=True, **options)]
        return records[::-1]

    async def read_page(self, from_: Start = "earliest", **options: Unpack[ReadOptions]) -> RecordPage:
        """Return what a server gives at once of what `read` would yield, and where to go on.

            page = await log.read_page(0, key=b"sensor-7")
            print(page.records, page.next_offset, page.bounds)

        It may have no record though more are there: then nothing was found up to `next_offset`, which is the
        next `from_`, or with `reverse` the next `until`. For programs that keep their place themselves, and
        for those that want to know how much the server that answered knows.

        Raises:
            As `read`.
        """
        choice = choice_of(**options)
        if choice.follow:
            raise InvalidRequestError("follow", "goes with read; a page is what there is now")
        seconds = self.timeout_of(choice.timeout_seconds)
        reader = self._range_reader(choice, seconds)
        if isinstance(from_, str) and not (choice.is_local or choice.is_reverse):
            reader.between(*await self._offsets_of(from_, choice, seconds))
        else:
            await self._begin(reader, from_, choice, seconds)
        found = await reader.page()
        answer = found.answer
        return RecordPage(
            batches=list(found.batches),
            next_offset=answer.next_offset,
            bounds=Bounds(answer.lowest, answer.committed),
            is_confirmed=answer.is_confirmed,
            is_reverse=choice.is_reverse,
        )

    async def read_answers(
        self, from_: Start = "earliest", **options: Unpack[ReadOptions]
    ) -> AsyncGenerator[Iterator[Batch], None]:
        """As `read_batches`, but the batches of one answer at a time, decoded only as they are taken.

        What `Client` is made of: the decoding is done by the thread that reads.
        """
        choice = choice_of(**options)
        seconds = self.timeout_of(choice.timeout_seconds)
        if choice.is_plain:
            offset, end = await self._offsets_of(from_, choice, seconds)
            is_unconfirmed = end is None and not choice.follow
            ends = [one for one in (end, offset + choice.limit if choice.limit else None) if one is not None]
            answers = self.read_range(
                offset, min(ends, default=None), is_unconfirmed=is_unconfirmed, timeout_seconds=seconds
            )
        else:
            answers = self._read_pages(from_, choice, seconds)
        async with aclosing(answers):
            async for batches in answers:
                yield batches

    async def _read_pages(
        self, from_: Start, choice: Choice, seconds: float
    ) -> AsyncGenerator[Iterator[Batch], None]:
        """Yield the batches of one page at a time."""
        reader = self._range_reader(choice, seconds)
        if choice.is_local or choice.is_reverse:
            await self._begin(reader, from_, choice, seconds)
        else:
            reader.between(*await self._offsets_of(from_, choice, seconds))
        async with aclosing(reader.pages()) as pages:
            async for page in pages:
                yield page.batches

    def _range_reader(self, choice: Choice, seconds: float) -> RangeReader:
        return RangeReader(self.calls, choice.range(0, UINT64_MAX), choice.follow, timeout_seconds=seconds)

    async def _begin(self, reader: RangeReader, from_: Start, choice: Choice, seconds: float) -> None:
        """Tell a reader where to begin; the leader is asked about times alone, the reader finds the end."""
        start = start_of(from_)
        until = await self._until(choice, seconds)
        until = UINT64_MAX if until is None else until
        if isinstance(start, datetime):
            start = await self.find_offset(start, timeout_seconds=seconds)
        if isinstance(start, int):
            reader.between(start, until)
        elif choice.is_reverse and start == "earliest":
            reader.between(None, until)
        else:
            bounds = await reader.bounds()
            reader.between(bounds.lowest if start == "earliest" else bounds.next_offset, until)

    async def _offsets_of(self, from_: Start, choice: Choice, seconds: float) -> tuple[int, int | None]:
        """Return what `find_range` does, up to where the choice ends."""
        offset, end = await self.find_range(from_, follow=choice.follow, timeout_seconds=seconds)
        until = await self._until(choice, seconds)
        ends = [one for one in (end, until) if one is not None]
        return offset, min(ends, default=None)

    async def _until(self, choice: Choice, seconds: float) -> int | None:
        until = choice.until
        if isinstance(until, datetime):
            return await self.find_offset(until, timeout_seconds=seconds)
        return until

    async def read_range(
        self,
        offset: int,
        end: int | None,
        *,
        is_unconfirmed: bool = False,
        timeout_seconds: float | None = None,
    ) -> AsyncGenerator[Iterator[Batch], None]:
        """As `read_answers`, of what `find_range` found.

        Args:
            is_unconfirmed: It found no end, and the log is not followed: end where no server has more.
        """
        if end is not None and offset >= end:
            return
        reader = Reader(
            self.calls,
            offset=offset,
            end=end,
            is_unconfirmed=is_unconfirmed,
            timeout_seconds=self.timeout_of(timeout_seconds),
        )
        async with aclosing(reader.answers()) as answers:
            async for batches in answers:
                yield batches

    async def read_entries(
        self, offset: int, end: int, *, timeout_seconds: float | None = None
    ) -> AsyncGenerator[Iterator[Entry], None]:
        """Yield the entries of one answer at a time as the nodes store them, each checked as it is taken.

        For backups. The first one holds `offset`; entries of other kinds are among them, not all there are.

        Raises:
            EntryError: A frame is damaged, cut off, or of another log.
            OffsetOutOfRangeError: The records at the offset have been trimmed.
            DeadlineError: No server answered for so long.
        """
        seconds = self.timeout_of(timeout_seconds)
        reader = Reader(self.calls, offset=offset, end=end, timeout_seconds=seconds, decode=_entries)
        async with aclosing(reader.answers()) as answers:
            async for entries in answers:
                yield entries

    async def read_state(self, offset: int, *, timeout_seconds: float | None = None) -> bytes:
        """Return the log's replicated state just before the entry that holds an offset, as it is on a disk.

        Of the next offset to be given out it is the state now. For backups, over the binary protocol alone.
        """
        state: bytes = await self._ask(
            lambda channel, seconds: channel.read_state(offset, self.calls.where, seconds), timeout_seconds
        )
        return state

    async def find_range(
        self, from_: Start, *, follow: bool = False, timeout_seconds: float | None = None
    ) -> tuple[int, int | None]:
        """Return the first offset that `read` would give, and the first it would not.

        The latter is None with `follow`, and when an offset is given and no server can confirm where the log
        ends now: what is committed is read nevertheless, as far as the servers that can be reached have it.

        Raises:
            InvalidRequestError: `from_` is nothing to begin at.
            OffsetOutOfRangeError: Without `follow`: it is beyond the next offset.
        """
        from_, follow = start_of(from_), flag_of("follow", follow)
        if isinstance(from_, int) and follow:
            return from_, None
        seconds = self.timeout_of(timeout_seconds)
        try:
            patience = min(seconds, CONFIRM_SECONDS) if isinstance(from_, int) else seconds
            bounds = await self.bounds(timeout_seconds=patience)
        except DeadlineError:
            if isinstance(from_, int):
                return from_, None
            raise
        end = None if follow else bounds.next_offset
        if isinstance(from_, datetime):
            return await self.find_offset(from_, timeout_seconds=timeout_seconds), end
        if not isinstance(from_, int):
            return (bounds.lowest if from_ == "earliest" else bounds.next_offset), end
        if from_ > bounds.next_offset:
            raise OffsetOutOfRangeError(from_, *bounds)
        return from_, end

    async def bounds(
        self, *, consistency: Trust = "confirmed", timeout_seconds: float | None = None
    ) -> Bounds:
        """Return the offsets that the log holds, confirmed by the leader: it counts all that was appended.

        Args:
            consistency: "local": the offsets that some replica knows to be readable, which may be old. No
                leader is needed.
        """
        choice = choice_of(consistency=consistency)
        if choice.is_local:
            return await self._range_reader(choice, self.timeout_of(timeout_seconds)).bounds()
        bounds: Bounds = await self._ask(
            lambda channel, seconds: channel.bounds(self.calls.where, seconds), timeout_seconds
        )
        return bounds

    async def find_offset(self, time: datetime | int, *, timeout_seconds: float | None = None) -> int:
        """Return the first offset that the leader appended at or after a time, or else the next offset.

        Args:
            time: A datetime, or microseconds since the epoch.
        """
        timestamp = max(0, moment_of("time", time))
        offset: int = await self._ask(
            lambda channel, seconds: channel.find_offset(timestamp, self.calls.where, seconds),
            timeout_seconds,
        )
        return offset

    # --- cursors --------------------------------------------------------------------------

    def cursors(self) -> AsyncCursors:
        """Return what moves, lists and changes this log's cursors: positions that it keeps for programs."""
        return AsyncCursors(self._ask_cursor, lambda: self.calls.where.identity)

    def consumer(
        self, name: str, *, into: AsyncLog | None = None, **options: Unpack[ConsumerOptions]
    ) -> AsyncConsumer:
        """Return a consumer of this log: it goes on where its cursor stands, and moves it.

            async with log.consumer("billing") as consumer:
                async for record in consumer:
                    print(record.value)
                    consumer.done(record)  # committed in the background

        One consumer of a cursor is at work at a time; others stand by. However the block is left, what is
        done is committed, and the next one goes on at once.

        Args:
            into: The log that keeps the cursor, and gets what is emitted; None: this one.
            options: See `ConsumerOptions`.
        """
        keeping, settings = checked_into(into, AsyncLog) or self, settings_of(name, **options)
        return AsyncConsumer(self, keeping, settings, keeping.calls.consumers, self.calls.place)

    async def _ask_cursor(
        self, order: CursorOrder, timeout_seconds: float | None, is_safe: bool
    ) -> CursorPage:
        page: CursorPage = await self.calls.call(
            lambda channel, seconds: channel.ask_cursor(order, self.calls.where, seconds),
            purpose=Purpose.APPEND,
            timeout_seconds=self.timeout_of(timeout_seconds),
            is_safe=is_safe,
        )
        return page

    # --- administration -----------------------------------------------------------------------

    async def status(
        self, *, server: str = "", timeout_seconds: float | None = None
    ) -> log_pb2.StatusResponse:
        """Return the log's group as one server sees it: terms, members, who is how far behind.

        Of `default` these are the cluster's. Needs the `admin` permission, as the calls below.

        Args:
            server: The name of the one to ask; any when empty.
        """
        text_of("server", server)
        reply: log_pb2.StatusResponse = await self._administer(
            "Status", log_pb2.StatusRequest(log=self.log_name), timeout_seconds, server=server, is_safe=True
        )
        return reply

    async def transfer(self, name: str = "", *, timeout_seconds: float | None = None) -> str:
        """Hand the log's leadership to another voter (the best candidate), and return who leads now.

        Raises:
            MembershipError: Why not, and what would work.
        """
        request = log_pb2.TransferRequest(name=text_of("name", name), log=self.log_name)
        reply = await self._administer("Transfer", request, timeout_seconds)
        self.calls.balancer.hinted(reply.leader)
        return str(reply.leader)

    async def trim(self, offset: int, *, timeout_seconds: float | None = None) -> int:
        """Let records below an offset go, on every node, and return the lowest offset held now."""
        request = log_pb2.TrimRequest(offset=integer_of("offset", offset), log=self.log_name)
        if self.calls.is_named:
            await self.calls.view(self.timeout_of(timeout_seconds))
            request.group = self.calls.group
        reply = await self._administer("Trim", request, timeout_seconds, is_safe=True)
        return int(reply.lowest)

    # --- common ---------------------------------------------------------------------------

    async def _ask(self, make: Make, timeout_seconds: float | None) -> Any:
        return await self.calls.call(
            make, purpose=Purpose.READ, timeout_seconds=self.timeout_of(timeout_seconds), is_safe=True
        )

    async def _administer(
        self,
        method: str,
        request: Any,
        timeout_seconds: float | None,
        *,
        server: str = "",
        is_safe: bool = False,
        service: str = "cluster",
        calls: Calls | None = None,
    ) -> Any:
        async def make(channel: Channel, seconds: float) -> Any:
            try:
                return await channel.administer(service, method, request, seconds)
            except CallFailedError as error:
                # Too few nodes, too many logs: waiting makes none.
                if service == "logs" and isinstance(error.failure.error, ResourceExhaustedError):
                    raise CallFailedError(replace(error.failure, effect=Effect.REFUSED)) from None
                raise

        return await (calls or self.calls).call(
            make,
            purpose=Purpose.ASK,
            timeout_seconds=self.timeout_of(timeout_seconds),
            is_safe=is_safe,
            server=server,
        )

    def timeout_of(self, timeout_seconds: float | None) -> float:
        """Return how long a call may take, which was told so much.

        Raises:
            InvalidRequestError: It is no time to wait.
        """
        return self.timeout_seconds if timeout_seconds is None else seconds_of(timeout_seconds)


def _entries(seed: int, frames: Buffer, offset: int, next_offset: int, end: int | None) -> Iterator[Entry]:
    return decode_entries(seed, frames)
