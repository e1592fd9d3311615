"""What a subscriber gets: a record, or those of one batch, and the message that FastStream makes of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final

from faststream.message import AckStatus, StreamMessage, decode_message

from loghouse.client.records import Record

CONTENT_TYPE: Final = "content-type"
CORRELATION_ID: Final = "correlation_id"
REPLY_TO: Final = "reply_to"


def _nothing(received: Received) -> None:
    """Do nothing: who received it keeps no cursor."""


@dataclass(slots=True, eq=False)
class Received:
    """One record, or the records of one batch, on the way through a subscriber: FastStream's raw message.

    Attributes:
        log: The log that the records are of.
        records: They, in order; exactly one unless the subscriber takes batches.
        mark: What part of its consumer calls it: the record or the batch, to be told when it is done.
        on_ack: Called once, when it is acknowledged.
        into: The publisher whose answers go into its log in one step with the cursor; None: there is none.
        status: What became of it; None: it is being handled, or nobody said.
        answers: The encoded answers for `into` so far.
        is_over: Whether its answers are on their way, so that no further one goes along.
    """

    log: str
    records: tuple[Record, ...]
    mark: Any = None
    on_ack: Callable[[Received], None] = _nothing
    into: Any = None
    status: AckStatus | None = None
    answers: list[Any] = field(default_factory=list)
    is_over: bool = False

    @property
    def offset(self) -> int:
        """The offset of the first record."""
        return self.records[0].offset

    @property
    def key(self) -> bytes | None:
        """The key of the first record."""
        return self.records[0].key

    def settle(self, status: AckStatus) -> None:
        """Say what became of it; only the first time counts."""
        if self.status is None:
            self.status = status
            if status is not AckStatus.NACKED:
                self.on_ack(self)

    def reset(self) -> None:
        """Forget what became of it, to be handled once more."""
        self.status = None
        self.answers = []


class LoghouseMessage(StreamMessage[Received]):
    """A record as handlers see it: FastStream's message, with what a log adds.

    `headers` are texts by name where they are UTF-8, else bytes; of a name that comes twice the last one.
    `raw_message.records` has all of them as they are.
    """

    @property
    def log(self) -> str:
        """The log that it is of."""
        return self.raw_message.log

    @property
    def record(self) -> Record:
        """The record; the first one of a batch."""
        return self.raw_message.records[0]

    @property
    def offset(self) -> int:
        """Its offset; the first one of a batch."""
        return self.record.offset

    @property
    def key(self) -> bytes | None:
        """Its key, None if it has none; the first one of a batch."""
        return self.record.key

    @property
    def timestamp(self) -> int:
        """Microseconds since the epoch: what its producer gave, else when the leader appended it."""
        return self.record.timestamp

    async def ack(self) -> None:
        """This record and all before it are handled: the cursor may pass it."""
        self.raw_message.settle(AckStatus.ACKED)
        await super().ack()

    async def nack(self) -> None:
        """Handle it again, after a pause and before anything behind it."""
        self.raw_message.settle(AckStatus.NACKED)
        await super().nack()

    async def reject(self) -> None:
        """Pass it for good. It stays in the log, where nothing marks it."""
        self.raw_message.settle(AckStatus.REJECTED)
        await super().reject()


async def parse_record(received: Received) -> StreamMessage[Received]:
    """Return the message of a record."""
    record = received.records[0]
    headers = _headers_of(record)
    return LoghouseMessage(
        raw_message=received,
        body=record.value,
        headers=headers,
        reply_to=_text_of(headers, REPLY_TO),
        content_type=_text_of(headers, CONTENT_TYPE) or None,
        correlation_id=_text_of(headers, CORRELATION_ID) or None,
        message_id=f"{received.log}-{record.offset}",
    )


async def parse_batch(received: Received) -> StreamMessage[Received]:
    """Return the message of a batch; its headers, reply log and correlation are the first record's."""
    records = received.records
    batch_headers = [_headers_of(record) for record in records]
    headers = batch_headers[0]
    return LoghouseMessage(
        raw_message=received,
        body=[record.value for record in records],
        headers=headers,
        batch_headers=batch_headers,
        reply_to=_text_of(headers, REPLY_TO),
        content_type=_text_of(headers, CONTENT_TYPE) or None,
        correlation_id=_text_of(headers, CORRELATION_ID) or None,
        message_id=f"{received.log}-{records[0].offset}-{records[-1].offset}",
    )


async def decode_record(message: StreamMessage[Any]) -> Any:
    """Return what a record's value means, by its content type."""
    return decode_message(message)


# FastStream knows a subscriber of batches by the name of its decoder.
async def decode_batch(message: StreamMessage[Any]) -> list[Any]:
    """Return what each value of a batch means, by its own content type."""
    received: Received = message.raw_message
    return [
        decode_message(await parse_record(Received(received.log, (record,)))) for record in received.records
    ]


def _headers_of(record: Record) -> dict[str, Any]:
    return {name: _text_or_bytes(content) for name, content in record.headers}


def _text_or_bytes(content: bytes) -> str | bytes:
    try:
        return content.decode()
    except UnicodeDecodeError:
        return content


def _text_of(headers: dict[str, Any], name: str) -> str:
    """Return a header that FastStream reads; what is no text is none of its headers."""
    content = headers.get(name, "")
    return content if isinstance(content, str) else ""
