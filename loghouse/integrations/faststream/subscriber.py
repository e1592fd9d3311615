"""Subscribers: handlers are called with the records of a log, and a cursor follows what they have done."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Coroutine, Sequence
from fnmatch import fnmatchcase
from typing import Any, Final

from faststream.exceptions import SetupError
from faststream.message import StreamMessage
from faststream.specification.schema import Message, Operation, SubscriberSpec

from loghouse.errors import LoghouseError
from loghouse.integrations.faststream.following import LogFollower
from loghouse.integrations.faststream.handling import Handling, Mark
from loghouse.integrations.faststream.message import (
    Received,
    decode_batch,
    decode_record,
    parse_batch,
    parse_record,
)
from loghouse.integrations.faststream.private import (
    CallsCollection,
    HandlerCallWrapper,
    SubscriberSpecification,
    SubscriberUsecase,
    process_msg,
    resolve_payloads,
)
from loghouse.integrations.faststream.progress import retry_seconds
from loghouse.integrations.faststream.publisher import LoghousePublisher, ReplyPublisher
from loghouse.integrations.faststream.settings import (
    LoghouseBrokerConfig,
    LoghouseSubscriberConfig,
    LoghouseSubscriberSpecificationConfig,
)

RESTART_SECONDS: Final = 1.0
"""The first pause before a consumer that failed is made anew; doubled each time, up to 30 s."""


class LoghouseSubscriber(SubscriberUsecase[Received]):
    """Calls handlers with records. Made by `broker.subscriber`.

    A consumer that fails, whatever the error, is logged and made anew, so that help by an operator is enough:
    the program need not be started again.
    """

    _outer_config: LoghouseBrokerConfig

    def __init__(
        self,
        config: LoghouseSubscriberConfig,
        specification: SubscriberSpecification[Any, Any],
        calls: CallsCollection[Received],
        into: LoghousePublisher | None,
    ) -> None:
        config.parser = parse_batch if config.is_batch else parse_record
        config.decoder = decode_batch if config.is_batch else decode_record
        super().__init__(config, specification, calls)
        self._config = config
        self.cursor = config.cursor
        self.into = into
        self.is_batch = config.is_batch
        self.max_workers = config.max_workers
        self.retry_seconds = config.retry_seconds
        self._following: LogFollower | None = None  # without a cursor: where it is, until `stop`
        self._task: asyncio.Task[None] | None = None  # reads, from `start` on
        self._wait: asyncio.Future[None] | None = None  # what that waits for, and `stop` cancels
        self._stopping: asyncio.Future[None] | None = None  # ends that, once it has begun
        self.tasks: set[asyncio.Task[Any] | None] = set()  # that handlers run in
        self._iterator: AsyncGenerator[StreamMessage[Received], None] | None = None  # of `get_one`, to `stop`
        self._next: asyncio.Future[Any] | None = None  # what `get_one` waits for, also beyond its time

    @property
    def logs(self) -> tuple[str, ...]:
        """The names of its logs, or one pattern."""
        return tuple(f"{self._outer_config.prefix}{log}" for log in self._config.logs)

    @property
    def is_group(self) -> bool:
        """Whether it shares several logs with others of its cursor's name."""
        return len(self._config.logs) > 1 or "*" in self._config.logs[0]

    def log_of(self, mark: Mark) -> str:
        """Return the log that a record or a batch is of: a group's tells, of which it is."""
        log: str = getattr(mark, "log", self.logs[0])
        return log

    # --- handlers ---------------------------------------------------------------------------

    def __call__(self, func: Any = None, **options: Any) -> Any:
        """Decorate a handler."""
        decorated = super().__call__(func, **options)
        if func is None:
            return lambda later: self._answering(decorated(later))
        return self._answering(decorated)

    def _answering(self, call: HandlerCallWrapper[..., Any]) -> HandlerCallWrapper[..., Any]:
        if self.into is not None and self.into not in call._publishers:
            self.into(call)
        return call

    def _check_publishers(self) -> None:
        if self.into is None:
            return
        if self.is_group and any(fnmatchcase(self.into.log, log) for log in self.logs):
            raise SetupError(
                f"{self.into.log!r} gets the answers and is one of the logs ({', '.join(self.logs)}): they "
                "would be answered without end; give `into` another name"
            )
        for item in self.calls:
            others = [one for one in item.handler._publishers if one is not self.into]
            if self.into.log in [getattr(one, "log", None) for one in others]:
                raise SetupError(
                    f"{item.name} answers into {self.into.log!r} twice, by `into` and by a publisher of its "
                    "own; give that publisher as `into`, or leave it out"
                )

    # --- start and stop ---------------------------------------------------------------------

    async def start(self) -> None:
        """Begin to read. Returns once the logs are known to be there, though another one may hold the cursor.

        Raises:
            LoghouseError: A log is not there, or may not be read.
        """
        self._check_publishers()
        for name in self.logs:
            if "*" not in name:
                await self._outer_config.client.log(name).bounds()
        await self._begin()
        self._stopping = None
        await super().start()
        self._post_start()
        if self.calls:
            self._task = asyncio.create_task(self._run())

    async def stop(self) -> None:
        """Let handlers at work end, for `graceful_timeout` at most; then commit, and release the cursor.

        A handler that ends its own subscriber does not wait for that.
        """
        self.running = False
        if self._stopping is None:
            self._stopping = asyncio.ensure_future(self._stop())
        if asyncio.current_task() not in self.tasks:
            await asyncio.shield(self._stopping)

    async def _stop(self) -> None:
        await super().stop()
        if self._task is not None:
            # Not the task itself: it may be leaving its consumer already, which commits and releases.
            if self._wait is not None:
                self._wait.cancel()
            await asyncio.wait([self._task])
            self._task = None
        if self._next is not None:
            self._next.cancel()
            await asyncio.wait([self._next])
            self._next = None
        if self._iterator is not None:
            await self._iterator.aclose()
            self._iterator = None
        self._following = None

    async def _begin(self) -> None:
        """Without a cursor: find where reading begins, the first time."""
        if self.cursor is None and self._following is None:
            following = LogFollower(self._outer_config.client.log(self.logs[0]), self._config.from_)
            await following.begin()
            self._following = following

    def _consumer(self) -> Any:
        """Return what the next reading is done by."""
        if self._following is not None:
            return self._following
        client: Any = self._outer_config.client
        options = {"from_": self._config.from_, **self._config.options}
        if self.into is not None:
            options["into"] = client.log(self.into.log)
        if self.is_group:
            logs = self.logs[0] if "*" in self.logs[0] else list(self.logs)
            return client.consumer(self.cursor, logs=logs, **options)
        return client.log(self.logs[0]).consumer(self.cursor, **options)

    def _marks(self, consumer: Any) -> AsyncGenerator[Mark, None]:
        """Return what a consumer gives, in the pieces that handlers get."""
        marks: AsyncGenerator[Mark, None] = consumer.batches() if self.is_batch else aiter(consumer)
        return marks

    async def _run(self) -> None:
        """Read until stopped, by one consumer after the other should they fail."""
        failure_count = 0
        while self.running:
            handling = None
            try:
                async with self._consumer() as consumer:
                    handling = Handling(self, consumer)
                    await self._until_stopped(handling.run(self._marks(consumer)))
            except Exception as error:
                failure_count = 1 if handling is not None and handling.handled_count else failure_count + 1
                pause = retry_seconds(RESTART_SECONDS, failure_count)
                self._log(
                    logging.ERROR,
                    f"{error} (cursor {self.cursor!r} of {', '.join(self.logs)}; goes on in {pause:g} s)",
                    self.get_log_context(None),
                    None if isinstance(error, LoghouseError) else error,
                )
                await self._until_stopped(asyncio.sleep(pause))

    async def _until_stopped(self, work: Coroutine[Any, Any, None]) -> None:
        """Await something, or the end of this subscriber."""
        self._wait = asyncio.ensure_future(work)
        if not self.running:
            self._wait.cancel()  # stopped before there was something to wait for
        try:
            await self._wait
        except asyncio.CancelledError:
            if self.running:
                raise
        finally:
            self._wait = None

    # --- without handlers -------------------------------------------------------------------

    async def get_one(self, *, timeout: float = 5) -> StreamMessage[Received] | None:  # noqa: ASYNC109
        """Return the next record, None when there was none for so many seconds; acknowledge it yourself."""
        if self.calls:
            raise SetupError("`get_one` is for subscribers without handlers")
        if self._iterator is None:
            self._iterator = self.__aiter__()
        if self._next is None:
            self._next = asyncio.ensure_future(anext(self._iterator))
        done, _ = await asyncio.wait([self._next], timeout=timeout)
        if not done:
            return None
        ready, self._next = self._next, None
        message: StreamMessage[Received] = ready.result()
        return message

    async def __aiter__(self) -> AsyncGenerator[StreamMessage[Received], None]:
        """Yield messages for ever; acknowledge them yourself."""
        if self.calls:
            raise SetupError("a subscriber with handlers is not iterated")
        context = self._outer_config.context
        parser, decoder = self._get_parser_and_decoder()
        await self._begin()
        async with self._consumer() as consumer:
            handling = Handling(self, consumer)
            async for mark in self._marks(consumer):
                received = handling.receive(mark)
                message = await process_msg(
                    msg=received,
                    middlewares=(one(received, context=context) for one in self._broker_middlewares),
                    parser=parser,
                    decoder=decoder,
                )
                if message is not None:
                    yield message

    # --- what FastStream asks for -----------------------------------------------------------

    def _make_response_publisher(self, message: StreamMessage[Received]) -> Sequence[ReplyPublisher]:
        return (ReplyPublisher(self._outer_config.producer, message.reply_to),)

    def get_log_context(self, message: StreamMessage[Received] | None) -> dict[str, str]:
        """Return what a line of log says beside its text: the log, and as the message's id its offset."""
        if message is None:
            return {"log": ",".join(self.logs), "message_id": ""}
        received = message.raw_message
        return {"log": received.log, "message_id": str(received.offset)}


class LoghouseSubscriberSpecification(
    SubscriberSpecification[LoghouseBrokerConfig, LoghouseSubscriberSpecificationConfig]
):
    """A subscriber as AsyncAPI has it: a channel for each log, or for their pattern."""

    @property
    def channel_labels(self) -> list[str]:
        """The logs."""
        return [f"{self._outer_config.prefix}{log}" for log in self.config.logs]

    def get_schema(self) -> dict[str, SubscriberSpec]:
        """Return the channels."""
        labels = self.channel_labels
        payload = resolve_payloads(self.get_payloads())
        found = {}
        for label in labels:
            name = self._channel_key(label, split=len(labels) > 1)
            found[name] = SubscriberSpec(
                address=label,
                description=self.description,
                operation=Operation(message=Message(title=f"{name}:Message", payload=payload), bindings=None),
                bindings=None,
            )
        return found
