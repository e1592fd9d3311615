"""What appends all that a broker publishes: a producer for each log, so that each record is appended once."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any, Final

from faststream.exceptions import FeatureNotSupportedException

from loghouse.client.asynchronous import AsyncClient
from loghouse.client.producing import AsyncProducer
from loghouse.client.records import NewRecord
from loghouse.errors import InvalidRequestError
from loghouse.integrations.faststream.message import (
    CONTENT_TYPE,
    CORRELATION_ID,
    REPLY_TO,
    decode_record,
    parse_record,
)
from loghouse.integrations.faststream.private import (
    CodecProto,
    CustomCallable,
    DefaultCodec,
    ParserComposition,
    ProducerProto,
)
from loghouse.integrations.faststream.response import LoghousePublishCommand
from loghouse.limits import FASTSTREAM_PRODUCERS_MAX

LINGER_MILLISECONDS: Final = 0.0
"""A publish waits for its offset, so waiting for others to share a batch would only make it slower."""


class LoghouseProducer(ProducerProto[LoghousePublishCommand]):
    """Appends what is published, and returns its offset: FastStream's producer of a broker."""

    def __init__(self, *, parser: CustomCallable | None, decoder: CustomCallable | None) -> None:
        self._parser = ParserComposition(parser, parse_record)
        self._decoder = ParserComposition(decoder, decode_record)
        self.codec: CodecProto = DefaultCodec()
        self._serializer: Any = None
        self._producers: OpenProducers | None = None

    def connect(self, client: AsyncClient, serializer: Any, codec: CodecProto | None) -> None:
        """Append by a client from now on."""
        self.set_encoding(serializer, codec)
        self._producers = OpenProducers(client)

    def set_encoding(self, serializer: Any, codec: CodecProto | None) -> None:
        """Say how values are made of what is published."""
        self._serializer = serializer
        self.codec = codec or DefaultCodec()

    async def close(self) -> None:
        """Wait until all that was published is appended; nothing can be published afterwards."""
        producers, self._producers = self._producers, None
        if producers is not None:
            await producers.close()

    async def publish(self, cmd: LoghousePublishCommand) -> int:
        """Append one record and return its offset, once it is durable on a majority."""
        record = await self.encode(cmd, cmd.body)
        return (await self.append(cmd.destination, [record]))[0]

    async def publish_batch(self, cmd: LoghousePublishCommand) -> list[int]:
        """Append records in their order, each once, and return their offsets."""
        records = [await self.encode(cmd, body) for body in cmd.batch_bodies]
        return await self.append(cmd.destination, records)

    async def request(self, cmd: LoghousePublishCommand) -> Any:
        """Raise FeatureNotSupportedException: a log has no answer of its own to wait for."""
        raise FeatureNotSupportedException(
            "LoghouseBroker has no `request`: publish with `reply_to`, and subscribe to that log"
        )

    async def append(self, log: str, records: Sequence[NewRecord]) -> list[int]:
        """Append encoded records to a log, and return their offsets."""
        if self._producers is None:
            raise InvalidRequestError("broker", "is not connected; `await broker.connect()`, or start it")
        return await self._producers.append(log, records)

    async def encode(self, cmd: LoghousePublishCommand, body: Any) -> NewRecord:
        """Return the record of one body: its value, and the headers by which it can be read again."""
        value, content_type = await self.codec.encode(body, self._serializer)
        headers: dict[str, Any] = {
            CONTENT_TYPE: content_type,
            CORRELATION_ID: cmd.correlation_id,
            REPLY_TO: cmd.reply_to,
        }
        headers |= cmd.headers or {}
        return NewRecord(value, cmd.key, _encoded_headers(headers), cmd.timestamp)


def _encoded_headers(headers: Mapping[str, Any]) -> tuple[tuple[str, bytes], ...]:
    """Return headers as a record has them; those without content are left out."""
    return tuple(
        (name, content if isinstance(content, bytes) else str(content).encode())
        for name, content in headers.items()
        if content not in (None, "")
    )


class _Open:
    """A producer, and how many append by it now."""

    __slots__ = ("producer", "user_count")

    def __init__(self, producer: AsyncProducer) -> None:
        self.producer = producer
        self.user_count = 0


class OpenProducers:
    """A producer for each log that is published to: `FASTSTREAM_PRODUCERS_MAX`, and those at work.

    The logs that replies go to are named by whoever appends, and could be any number.
    """

    def __init__(self, client: AsyncClient) -> None:
        self._client = client
        self._open: OrderedDict[str, _Open] = OrderedDict()  # the one used last is the last

    def __len__(self) -> int:
        return len(self._open)

    async def append(self, log: str, records: Sequence[NewRecord]) -> list[int]:
        """Append records to a log, in order and each once; return their offsets."""
        entry = self._open.get(log)
        if entry is None:
            producer = self._client.log(log).producer(linger_ms=LINGER_MILLISECONDS)
            entry = self._open[log] = _Open(producer)
        self._open.move_to_end(log)
        entry.user_count += 1
        try:
            deliveries = [
                await entry.producer.append(
                    record.value, key=record.key, headers=record.headers, timestamp=record.timestamp
                )
                for record in records
            ]
            return [await delivery for delivery in deliveries]
        finally:
            entry.user_count -= 1
            await self._close_idle()

    async def _close_idle(self) -> None:
        idle = [name for name, entry in self._open.items() if not entry.user_count]
        for name in idle[: max(0, len(self._open) - FASTSTREAM_PRODUCERS_MAX)]:
            await self._open.pop(name).producer.close()

    async def close(self) -> None:
        """Close every one; each waits for what it took."""
        while self._open:
            _, entry = self._open.popitem()
            await entry.producer.close()
