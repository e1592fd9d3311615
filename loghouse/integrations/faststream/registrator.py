"""`subscriber` and `publisher`, which brokers and routers have alike."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

from fast_depends.dependencies import Dependant
from faststream.exceptions import SetupError
from faststream.middlewares import AckPolicy

from loghouse.client.fields import integer_of, seconds_of, text_of
from loghouse.client.starts import Start
from loghouse.integrations.faststream.message import Received
from loghouse.integrations.faststream.private import (
    EMPTY,
    BrokerMiddleware,
    CallsCollection,
    CodecProto,
    CustomCallable,
    Registrator,
)
from loghouse.integrations.faststream.publisher import LoghousePublisher, LoghousePublisherSpecification
from loghouse.integrations.faststream.settings import (
    LoghouseBrokerConfig,
    LoghousePublisherConfig,
    LoghousePublisherSpecificationConfig,
    LoghouseSubscriberConfig,
    LoghouseSubscriberSpecificationConfig,
)
from loghouse.integrations.faststream.subscriber import LoghouseSubscriber, LoghouseSubscriberSpecification
from loghouse.limits import FASTSTREAM_WORKERS_MAX


class LoghouseRegistrator(Registrator[Received, LoghouseBrokerConfig]):
    """What subscribers and publishers are made by."""

    def subscriber(  # type: ignore[override]
        self,
        *logs: str,
        cursor: str | None = None,
        into: str | LoghousePublisher | None = None,
        from_: Start | None = None,
        batch: bool = False,
        max_workers: int = 1,
        retry_seconds: float = 1.0,
        ack_policy: AckPolicy = EMPTY,
        no_reply: bool = False,
        dependencies: Sequence[Dependant] = (),
        parser: CustomCallable | None = None,
        decoder: CustomCallable | None = None,
        codec: CodecProto | None = None,
        persistent: bool = True,
        title: str | None = None,
        description: str | None = None,
        include_in_schema: bool = True,
        **options: Any,
    ) -> LoghouseSubscriber:
        """Return what has a handler called with the records of a log.

            @broker.subscriber("orders", cursor="billing", into="bills")
            async def bill(order: Order) -> Bill: ...

        Args:
            logs: One log; or with a cursor several of them, or a pattern ("orders-*"), which all subscribers
                of the cursor's name share.
            cursor: The cursor that remembers what is handled. One subscriber of a cursor is at work at a
                time, the others stand by. None: nothing is remembered.
            into: A log, or its publisher, which gets what the handler answers (None: nothing) in one step
                with the cursor, which this log then keeps, of several logs each: exactly once.
            from_: Where a new cursor begins, or reading without one: an offset, "earliest", "latest", or a
                datetime. None: "earliest" with a cursor, "latest" without.
            batch: Whether the handler gets a list, of what was appended together.
            max_workers: How many records are handled at a time; those of one key one after the other.
            retry_seconds: The pause before a record is handled again, the first one; it doubles up to 30 s.
            ack_policy: What happens when the handler fails: the record is handled again, if not given.
            no_reply: Whether no answer goes to the log that a record names (header `reply_to`).
            options: Further ones of the consumer: `on_trimmed`, `commit_seconds`, ...

        Raises:
            SetupError, InvalidRequestError: These do not go together, or make no sense; says which.
        """
        _check(logs, cursor, into, options)
        settings = LoghouseSubscriberConfig(
            logs=logs,
            cursor=cursor,
            from_=("latest" if cursor is None else "earliest") if from_ is None else from_,
            options=options,
            is_batch=batch,
            max_workers=max_workers,
            retry_seconds=seconds_of(retry_seconds, "retry_seconds"),
            no_reply=no_reply,
            _outer_config=cast("LoghouseBrokerConfig", self.config),
            _ack_policy=ack_policy,
        )
        specification = LoghouseSubscriberSpecificationConfig(
            logs=logs, title_=title, description_=description, include_in_schema=include_in_schema
        )
        answers = self.publisher(into, batch=batch) if isinstance(into, str) else into
        made = _subscriber_of(settings, specification, answers)
        super().subscriber(made, persistent=persistent)
        return made.add_call(
            parser_=parser or self._parser,
            decoder_=decoder or self._decoder,
            codec_=codec,
            dependencies_=dependencies,
        )

    def publisher(  # type: ignore[override]
        self,
        log: str,
        *,
        key: bytes | None = None,
        headers: Mapping[str, Any] | None = None,
        reply_to: str = "",
        batch: bool = False,
        persistent: bool = True,
        title: str | None = None,
        description: str | None = None,
        schema: Any = None,
        include_in_schema: bool = True,
    ) -> LoghousePublisher:
        """Return what appends to a log: by its `publish`, or as a decorator what a handler answers.

        Args:
            log: The log.
            key: The key of records that come without one.
            headers: Headers of every record, beside its own.
            reply_to: The log in which answers are wanted.
            batch: Whether each element of a list is a record of its own.
            schema: What AsyncAPI says of the records, where no handler's annotation does.
        """
        config = cast("LoghouseBrokerConfig", self.config)
        made = LoghousePublisher(
            LoghousePublisherConfig(
                log=text_of("log", log),
                key=key,
                headers=headers or {},
                reply_to=reply_to,
                is_batch=batch,
                _outer_config=config,
            ),
            LoghousePublisherSpecification(
                config,
                LoghousePublisherSpecificationConfig(
                    log=log,
                    schema_=schema,
                    title_=title,
                    description_=description,
                    include_in_schema=include_in_schema,
                ),
            ),
        )
        super().publisher(made, persistent=persistent)
        return made

    def include_router(
        self,
        router: LoghouseRegistrator,  # type: ignore[override]
        *,
        prefix: str = "",
        dependencies: Sequence[Dependant] = (),
        middlewares: Sequence[BrokerMiddleware[Any]] = (),
        include_in_schema: bool | None = None,
    ) -> None:
        """Have a router's subscribers and publishers, with a prefix before their logs' names."""
        if not isinstance(router, LoghouseRegistrator):
            raise SetupError(f"a {type(router).__name__} is no LoghouseRouter; it cannot be included here")
        super().include_router(
            router,
            prefix=prefix,
            dependencies=dependencies,
            middlewares=middlewares,
            include_in_schema=include_in_schema,
        )


def _subscriber_of(
    settings: LoghouseSubscriberConfig,
    specification: LoghouseSubscriberSpecificationConfig,
    into: LoghousePublisher | None,
) -> LoghouseSubscriber:
    _check_handling(settings, has_into=into is not None)
    calls = CallsCollection[Received]()
    config = cast("LoghouseBrokerConfig", settings._outer_config)
    documented = LoghouseSubscriberSpecification(config, specification, calls)
    return LoghouseSubscriber(settings, documented, calls, into)


def _check(logs: tuple[str, ...], cursor: str | None, into: object, options: Mapping[str, Any]) -> None:
    """Raise SetupError for logs that cannot be read so."""
    if not logs:
        raise SetupError('a subscriber needs a log: @broker.subscriber("orders")')
    for log in logs:
        text_of("log", log)
    is_group = len(logs) > 1 or "*" in logs[0]
    if len(logs) > 1 and any("*" in log for log in logs):
        raise SetupError("give one pattern, or the names of logs, and not both")
    if cursor is None and (is_group or into is not None or options):
        what = "several logs" if is_group else "`into`" if into is not None else f"`{next(iter(options))}`"
        raise SetupError(f'{what} only with a cursor: @broker.subscriber("{logs[0]}", cursor="...")')


def _check_handling(settings: LoghouseSubscriberConfig, *, has_into: bool) -> None:
    """Raise SetupError for records that cannot be handled so."""
    integer_of("max_workers", settings.max_workers, lowest=1, highest=FASTSTREAM_WORKERS_MAX)
    if settings.max_workers > 1 and settings.is_batch:
        raise SetupError("batches are handled one after the other; leave `max_workers` or `batch` out")
    if settings.max_workers > 1 and settings.ack_policy is AckPolicy.MANUAL:
        raise SetupError(
            "an acknowledgement passes all records before its own, which are still at work with "
            "`max_workers`; leave it or AckPolicy.MANUAL out"
        )
    if has_into and settings.ack_policy is AckPolicy.ACK_FIRST:
        raise SetupError("`into` moves the cursor with the answer, so that nothing can be acknowledged first")
