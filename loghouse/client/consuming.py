"""The asyncio consumer: it goes on where its cursor stands, and its cursor follows what is done."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Iterable, Iterator
from contextlib import aclosing

from loghouse.client.batching import encode_outputs
from loghouse.client.consumer_base import ConsumerBase
from loghouse.client.consumer_settings import ConsumerSettings, Done, position_behind
from loghouse.client.consumption import ConsumedLog, Consumption
from loghouse.client.database import DatabaseConnection, DatabasePosition
from loghouse.client.keeping import KeepingLog
from loghouse.client.open_consumers import OpenConsumers
from loghouse.client.place import Place
from loghouse.client.records import Batch, NewRecord, Record


class AsyncConsumer(ConsumerBase[Iterator[Batch], Batch, Record]):
    """Consumes a log through a cursor. See `AsyncLog.consumer`; use it as an async context manager.

        async with log.consumer("billing") as consumer:
            async for record in consumer:
                await handle(record)
                consumer.done(record)

    One consumer of a cursor is at work at a time. Others wait, and go on where it stood once it left, or was
    silent for its lease. Whoever lost the cursor gets CursorFencedError from whatever it does next.
    """

    def __init__(
        self,
        log: ConsumedLog,
        into: KeepingLog,
        settings: ConsumerSettings,
        opened: OpenConsumers,
        place: Place,
    ) -> None:
        """Use `AsyncLog.consumer`."""
        self._work = Consumption(log, into, settings, opened.spawn)
        self._keeper = self._work.keeper
        super().__init__(self._work, opened, self._keeper.holder, place)

    # --- what there is to do ----------------------------------------------------------------

    async def acquire(self, *, wait_seconds: float | None = None) -> int:
        """Have the cursor, and return its position; iterating and `emit` do that by themselves.

        One that is new begins at `from_`, which is found now, and committed; from "earliest" it stays at 0
        until it is iterated, or moves by what was emitted.

        Args:
            wait_seconds: How long to stand by while another one holds it; None: for ever, 0: not at all.

        Raises:
            CursorHeldError: Another one holds it still.
        """
        self._check()
        return (await self._keeper.acquire(wait_seconds)).position

    async def begin(self, *, wait_seconds: float | None = None) -> int:
        """Have the cursor, and return the offset where iterating begins; it does that by itself.

        Of a cursor that is new, `from_` is found, and committed. That the records there have been trimmed
        is an error of iterating.

        Args:
            wait_seconds: As of `acquire`.

        Raises:
            CursorHeldError: Another one holds it still.
            OffsetOutOfRangeError: The cursor, or `from_`, is beyond the log's end.
        """
        await self.acquire(wait_seconds=wait_seconds)
        return await self._work.beginning()

    async def answers(self) -> AsyncGenerator[Iterator[Batch], None]:
        """Yield the batches of one answer at a time, decoded only as they are taken."""
        iteration = self._iterate_anew()
        if self._given is not None:
            await self._work.read_from(position_behind(self._given))
        while True:
            answer = await self._work.next_batches()
            self._check_iteration(iteration)
            yield answer

    def batches_in(self, answer: Iterator[Batch]) -> Iterator[Batch]:
        """Yield the batches of an answer; any thread may take them."""
        for batch in answer:
            self._given = batch
            yield batch

    def records_in(self, answer: Iterator[Batch]) -> Iterator[Record]:
        """Yield the records of an answer; any thread may take them."""
        for batch in answer:
            for record in batch:
                self._given = record
                yield record

    # --- what is done -----------------------------------------------------------------------

    def done(self, done: Done | None = None) -> None:
        """This record or batch, and all before it, is handled; it is committed in the background.

        Args:
            done: A record, a batch, or the position behind what is handled; None: what was given last.

        Raises:
            CursorFencedError: Another one has the cursor; it gets this record, too.
            ClientUseError: Nothing was given yet, or this consumer does not have its cursor yet.
        """
        self._check()
        self._keeper.done(position_behind(self._what(done)))

    def check_held(self) -> None:
        """Raise ClientUseError before the cursor was acquired: nothing can be done then. On any thread."""
        self._keeper.held()

    async def commit(self) -> None:
        """Return once everything that is done is durable.

        Raises:
            CursorFencedError: Another one has the cursor; it gets what was not committed.
            DeadlineError: No server answered for so long; it is still tried.
        """
        self._check()
        await self._keeper.commit()

    async def emit(self, values: Iterable[bytes | NewRecord], done: Done | None = None) -> None:
        """Append records to the log that keeps the cursor, and move it behind what they were made of: in one.

        It returns when they are on their way, and waits while more than 4 MiB of them are. They are appended
        in order, exactly once, or the consumer fails; `commit` waits for that.

        Args:
            values: The records' values; none only moves the cursor. 8 MiB together at most.
            done: What they were made of; None: what was given last.

        Raises:
            CursorFencedError: Another one has the cursor: it makes these records anew.
            InvalidRequestError: They are too much for one batch, or that was done before.
            DeadlineError: No server took what was emitted before; these were not taken.
            ResourceExhaustedError: Too many emits wait already; await each one before the next.
        """
        self._check()
        position = position_behind(self._what(done))
        await self.emit_encoded(*encode_outputs(values), position)

    async def emit_encoded(self, payload: bytes, record_count: int, position: int) -> None:
        """As `emit`, a serialized batch and the position behind what it was made of."""
        self._check()
        await self._keeper.acquire()
        if record_count:
            await self._keeper.emit(payload, record_count, position)
        else:
            self._keeper.done(position)

    async def process(
        self,
        connection: DatabaseConnection,
        handler: Callable[[Batch], object],
        *,
        name: str | None = None,
        paramstyle: str = "qmark",
    ) -> None:
        """Handle batches for ever, each in a transaction of a database that holds the position, too.

            await consumer.process(database, lambda batch: database.executemany(INSERT, rows_of(batch)))

        What the handler did and the position are committed together: nothing is skipped and nothing done
        twice, whatever dies. The database's position counts; the cursor follows it, and says who is at work.
        The handler runs on this loop, which waits for the database.

        Args:
            connection: By PEP 249 (`sqlite3`, `psycopg`), not in autocommit mode.
            handler: Called with each batch; its error rolls back, and is raised here.
            name: The row's in the table `loghouse_positions`; None: the cursor's. Consumers of two logs that
                share a database need two.
            paramstyle: The driver's.

        Raises:
            PositionTakenError: The row is that of another log's consumer, or of another cursor's.
            CursorFencedError: Another one has the cursor, or had claimed the row; nothing was committed.
        """
        place = DatabasePosition(
            connection, self.cursor_name if name is None else name, paramstyle=paramstyle
        )
        beginning = await self.begin()
        await self.go_on_from(place.claim(self.epoch, beginning, self.source))
        async with aclosing(self.batches()) as batches:
            async for batch in batches:
                place.handle(handler, batch, self.epoch)
                self.done(batch)

    async def go_on_from(self, position: int) -> None:
        """Take everything before a position as done, and iterate from there."""
        self._check()
        await self._work.read_from(position)
        self.done(position)

    # --- where it is ------------------------------------------------------------------------

    @property
    def source(self) -> str:
        """What positions and epochs are of: the log, by name and number, and the cursor, once it is held."""
        return self._work.source

    @property
    def epoch(self) -> int:
        """What the log knows this holder by: each has a higher one than those before; 0 before that."""
        holding = self._keeper.holding
        return holding.cursor.epoch if holding is not None else 0

    @property
    def position(self) -> int:
        """The next one to do, committed or not; 0 before the cursor was acquired."""
        holding = self._keeper.holding
        return holding.position if holding is not None else 0

    @property
    def committed(self) -> int:
        """The next one to do for who takes over; 0 before the cursor was acquired."""
        holding = self._keeper.holding
        return holding.committed if holding is not None else 0

    @property
    def is_active(self) -> bool:
        """Whether this consumer holds the cursor, as far as it knows."""
        return self._keeper.is_active

    async def lag(self) -> int:
        """Return how many of the log's records are not done."""
        self._check()
        return await self._work.lag()
