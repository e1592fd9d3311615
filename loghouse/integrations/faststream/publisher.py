"""Publishers: what handlers answer, and programs publish, goes into a log."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any, cast

from faststream.message import SourceType
from faststream.response import PublishCommand, PublishType
from faststream.specification.schema import Message, Operation, PublisherSpec

from loghouse.integrations.faststream.message import LoghouseMessage, Received
from loghouse.integrations.faststream.private import (
    FakePublisher,
    ProducerProto,
    PublisherMiddleware,
    PublisherSpecification,
    PublisherUsecase,
    SendableMessage,
    resolve_payloads,
)
from loghouse.integrations.faststream.producing import LoghouseProducer
from loghouse.integrations.faststream.response import LoghousePublishCommand
from loghouse.integrations.faststream.settings import (
    LoghouseBrokerConfig,
    LoghousePublisherConfig,
    LoghousePublisherSpecificationConfig,
)


class LoghousePublisher(PublisherUsecase):
    """Appends to one log. Made by `broker.publisher`; decorates handlers, or is called itself.

    Where a subscriber has it as `into`, what the handler answers is kept until the record is acknowledged,
    and appended in one step with the subscriber's cursor.
    """

    _outer_config: LoghouseBrokerConfig

    def __init__(
        self, config: LoghousePublisherConfig, specification: PublisherSpecification[Any, Any]
    ) -> None:
        super().__init__(config, specification)
        self._log = config.log
        self.key = config.key
        self.headers = dict(config.headers)
        self.reply_to = config.reply_to
        self.is_batch = config.is_batch

    @property
    def log(self) -> str:
        """The log that it appends to."""
        return f"{self._outer_config.prefix}{self._log}"

    async def publish(
        self,
        message: SendableMessage,
        /,
        *,
        key: bytes | None = None,
        headers: Mapping[str, Any] | None = None,
        correlation_id: str | None = None,
        reply_to: str = "",
        timestamp: datetime | int | None = None,
    ) -> Any:
        """Append a record and return its offset, once it is durable; with `batch=True` one for each element.

        In a handler of a subscriber with this publisher as `into` it returns None: the record is appended
        when the one that is handled is acknowledged.
        """
        cmd = LoghousePublishCommand(
            message,
            key=key,
            headers=dict(headers or {}),
            correlation_id=correlation_id or self._outer_config.id_generator(),
            reply_to=reply_to,
            timestamp=timestamp,
            _publish_type=PublishType.PUBLISH,
        )
        return await self._publish(cmd, _extra_middlewares=())

    async def _publish(
        self, cmd: PublishCommand, *, _extra_middlewares: Iterable[PublisherMiddleware]
    ) -> Any:
        """Publish what a handler answered."""
        cmd = LoghousePublishCommand.from_cmd(cmd, batch=self.is_batch)
        cmd.destination = self.log
        cmd.key = self.key if cmd.key is None else cmd.key
        cmd.reply_to = cmd.reply_to or self.reply_to
        cmd.add_headers(self.headers, override=False)
        producer: ProducerProto[Any] = self._outer_config.producer
        received = self._received()
        if received is not None:
            if cmd.body is None:
                return None  # no answer: the cursor alone moves
            producer = _Keeping(cast("LoghouseProducer", self._outer_config.producer), received)
        if self.is_batch:
            return await self._basic_publish_batch(
                cmd, producer=producer, _extra_middlewares=_extra_middlewares
            )
        return await self._basic_publish(cmd, producer=producer, _extra_middlewares=_extra_middlewares)

    def _received(self) -> Received | None:
        """Return what is handled now, if its answers go into this publisher's log with the cursor."""
        message = self._outer_config.context.get_local("message")
        if isinstance(message, LoghouseMessage) and message.source_type is SourceType.CONSUME:
            received = message.raw_message
            if received.into is self and not received.is_over:
                return received
        return None

    async def request(self, message: SendableMessage, /, *, correlation_id: str | None = None) -> Any:
        """Raise FeatureNotSupportedException, as `LoghouseBroker.request`."""
        cmd = LoghousePublishCommand(
            message, log=self.log, correlation_id=correlation_id, _publish_type=PublishType.REQUEST
        )
        return await self._basic_request(cmd, producer=self._outer_config.producer)


class _Keeping(ProducerProto[LoghousePublishCommand]):
    """Keeps encoded answers with the record that they answer."""

    def __init__(self, producer: LoghouseProducer, received: Received) -> None:
        self._parser = producer._parser
        self._decoder = producer._decoder
        self.codec = producer.codec
        self._producer = producer
        self._received = received

    async def publish(self, cmd: LoghousePublishCommand) -> None:
        self._received.answers.append(await self._producer.encode(cmd, cmd.body))

    async def publish_batch(self, cmd: LoghousePublishCommand) -> None:
        for body in cmd.batch_bodies:
            self._received.answers.append(await self._producer.encode(cmd, body))

    async def request(self, cmd: LoghousePublishCommand) -> Any:
        return await self._producer.request(cmd)


class ReplyPublisher(FakePublisher):
    """Appends an answer to the log that its request named."""

    def __init__(self, producer: ProducerProto[Any], log: str) -> None:
        super().__init__(producer=producer)
        self._log = log

    def patch_command(self, cmd: PublishCommand) -> LoghousePublishCommand:
        """Return the answer, on its way to that log."""
        answer = LoghousePublishCommand.from_cmd(super().patch_command(cmd))
        answer.destination = self._log
        return answer


class LoghousePublisherSpecification(
    PublisherSpecification[LoghouseBrokerConfig, LoghousePublisherSpecificationConfig]
):
    """A publisher as AsyncAPI has it."""

    @property
    def _address(self) -> str:
        return f"{self._outer_config.prefix}{self.config.log}"

    @property
    def name(self) -> str:
        """The channel's key."""
        return self.config.title_ or f"{self._address}:Publisher"

    def get_schema(self) -> dict[str, PublisherSpec]:
        """Return the channel."""
        payload = resolve_payloads(self.get_payloads(), "Publisher")
        return {
            self.name: PublisherSpec(
                address=self._address,
                description=self.config.description_,
                operation=Operation(
                    message=Message(title=f"{self.name}:Message", payload=payload), bindings=None
                ),
                bindings=None,
            )
        }
