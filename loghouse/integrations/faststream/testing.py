"""The test broker: logs in memory, and handlers that run within the call that publishes."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Generator, Iterable, Sequence
from contextlib import contextmanager
from fnmatch import fnmatchcase
from typing import Any, cast
from unittest.mock import MagicMock

from faststream.message import AckStatus

from loghouse.client.fields import headers_of, timestamp_of
from loghouse.client.records import NewRecord, Record
from loghouse.integrations.faststream.broker import LoghouseBroker
from loghouse.integrations.faststream.handling import Handling
from loghouse.integrations.faststream.message import Received
from loghouse.integrations.faststream.private import TestBroker, change_producer
from loghouse.integrations.faststream.producing import LoghouseProducer
from loghouse.integrations.faststream.subscriber import LoghouseSubscriber


class TestLoghouseBroker(TestBroker[LoghouseBroker, Any], broker=LoghouseBroker):  # type: ignore[call-arg]
    """Runs a program's handlers without a cluster.

        test = TestLoghouseBroker(broker)
        async with test:
            await broker.publish(Order(...), "orders")
            handler.mock.assert_called_once_with(...)
            assert test.position("billing", "orders") == 1

    What is published is appended to a log in memory, and every subscriber of that log is called before
    `publish` returns; the error of a handler is the error of `publish`. A record that was not acknowledged is
    not given again, and of several subscribers of a cursor one is called.

    Args:
        brokers: One, or several of a program.
        with_real: Whether the broker's own cluster is used, and handlers only watched.
    """

    __test__ = False

    def __init__(
        self, *brokers: LoghouseBroker, with_real: bool = False, connect_only: bool | None = None
    ) -> None:
        super().__init__(*brokers, with_real=with_real, connect_only=connect_only)
        self._logs: dict[str, list[Record]] = defaultdict(list)
        self._positions: dict[tuple[str, str], int] = defaultdict(int)

    def records(self, log: str) -> list[Record]:
        """Return what a log has."""
        return list(self._logs[log])

    def position(self, cursor: str, log: str) -> int:
        """Return where a cursor stands in a log: the offset of the first record that is not done."""
        return self._positions[cursor, log]

    def advance(self, cursor: str, log: str, position: int) -> None:
        """Move a cursor; it never goes back."""
        self._positions[cursor, log] = max(self._positions[cursor, log], position)

    def append(self, log: str, records: Iterable[NewRecord]) -> list[Record]:
        """Append records to a log, and return them as they are read; no handler is called."""
        held = self._logs[log]
        appended = []
        for new in records:
            # The time of an append is its offset here: no test depends on a clock.
            time = len(held) if new.timestamp is None else timestamp_of("timestamp", new.timestamp)
            appended.append(Record(len(held), time, new.value, new.key, tuple(headers_of(new.headers))))
            held.append(appended[-1])
        return appended

    def subscribers(self) -> list[LoghouseSubscriber]:
        """Return the subscribers of all its brokers."""
        return [cast("LoghouseSubscriber", one) for broker in self.brokers for one in broker.subscribers]

    async def deliver(self, log: str, records: Sequence[NewRecord]) -> list[int]:
        """Append records to a log and have them handled; return their offsets."""
        appended = self.append(log, records)
        called = set()
        for subscriber in self.subscribers():
            if not is_subscribed(subscriber, log) or (subscriber.cursor and subscriber.cursor in called):
                continue
            called.add(subscriber.cursor)
            for part in [appended] if subscriber.is_batch else [[record] for record in appended]:
                await self._handle(subscriber, log, tuple(part))
        return [record.offset for record in appended]

    async def _handle(self, subscriber: LoghouseSubscriber, log: str, records: tuple[Record, ...]) -> None:
        handling = Handling(subscriber, _MemoryConsumer(self, subscriber, log))
        received = Received(log, records, records, handling.acknowledged, subscriber.into)
        try:
            await subscriber.process_message(received)
        finally:
            if received.status is not AckStatus.NACKED:
                await handling.settle(received)

    # --- what FastStream's test broker asks for ---------------------------------------------

    def create_publisher_fake_subscriber(
        self, broker: LoghouseBroker, publisher: Any
    ) -> tuple[LoghouseSubscriber, bool]:
        """Return the subscriber of a publisher's log, and whether it is one of the program's own."""
        for subscriber in self.subscribers():
            if is_subscribed(subscriber, publisher.log) and subscriber.is_batch == publisher.is_batch:
                return subscriber, True
        made = broker.subscriber(publisher.log, batch=publisher.is_batch, persistent=False)
        return made, False

    @contextmanager
    def _patch_producer(self, broker: LoghouseBroker) -> Generator[None, None, None]:
        config = broker.config.broker_config
        producer = _MemoryProducer(self, broker)
        producer.set_encoding(config.fd_config._serializer, config.broker_codec)
        with change_producer(config, producer):
            yield

    async def _fake_connect(self, broker: LoghouseBroker, *args: Any, **kwargs: Any) -> Any:
        return MagicMock(spec=())


def is_subscribed(subscriber: LoghouseSubscriber, log: str) -> bool:
    """Return whether a subscriber gets the records of a log."""
    return any(fnmatchcase(log, name) for name in subscriber.logs)


class _MemoryProducer(LoghouseProducer):
    """Appends to the logs in memory."""

    def __init__(self, test: TestLoghouseBroker, broker: LoghouseBroker) -> None:
        super().__init__(parser=broker._parser, decoder=broker._decoder)
        self._test = test

    async def append(self, log: str, records: Sequence[NewRecord]) -> list[int]:
        return await self._test.deliver(log, records)


class _MemoryConsumer:
    """What a subscriber's cursor is moved by."""

    def __init__(self, test: TestLoghouseBroker, subscriber: LoghouseSubscriber, log: str) -> None:
        self._test = test
        self._subscriber = subscriber
        self._log = log

    def done(self, mark: Any) -> None:
        if self._subscriber.cursor is not None:
            self._test.advance(self._subscriber.cursor, self._log, mark[-1].offset + 1)

    async def emit(self, values: Iterable[Any], done: Any) -> None:
        self.done(done)
        if self._subscriber.into is not None:
            await self._test.deliver(self._subscriber.into.log, list(values))
