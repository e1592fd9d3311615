"""The broker: one client of a cluster, and the subscribers and publishers of a FastStream program."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from types import TracebackType
from typing import Any, Unpack, cast

from fast_depends import Provider, dependency_provider
from fast_depends.dependencies import Dependant
from faststream.message import gen_cor_id
from faststream.middlewares import AckPolicy
from faststream.response import PublishType
from faststream.specification.schema import BrokerSpec

from loghouse.client.asynchronous import AsyncClient, ClientOptions, connect
from loghouse.errors import LoghouseError
from loghouse.integrations.faststream.message import Received
from loghouse.integrations.faststream.private import (
    EMPTY,
    BrokerMiddleware,
    BrokerUsecase,
    CodecProto,
    ContextRepo,
    CustomCallable,
    FastDependsConfig,
    LoggerProto,
    SendableMessage,
)
from loghouse.integrations.faststream.producing import LoghouseProducer
from loghouse.integrations.faststream.registrator import LoghouseRegistrator
from loghouse.integrations.faststream.response import LoghousePublishCommand
from loghouse.integrations.faststream.settings import DEFAULT_LOG_LEVEL, LoghouseBrokerConfig, logger_state

PROTOCOL = "loghouse"


class LoghouseBroker(LoghouseRegistrator, BrokerUsecase[Received, AsyncClient, LoghouseBrokerConfig]):
    """A cluster, as FastStream's programs use it.

        broker = LoghouseBroker("loghouse://a.example:8400,b.example:8400", tls=tls)
        app = FastStream(broker)

    Args:
        target: Addresses of nodes, separated by commas, as `loghouse.client.connect` takes them.
        tls: The client's certificates, and the further options of `connect`.
        graceful_timeout: How many seconds handlers at work may take to end when the broker stops.
        ack_policy: What happens to a record whose handler fails, where a subscriber does not say.
        parser, decoder, codec, middlewares, dependencies, routers, logger, log_level, ...: As of FastStream's
            other brokers.
    """

    def __init__(
        self,
        target: str = "loghouse://localhost:8400",
        *,
        graceful_timeout: float | None = 15.0,
        ack_policy: AckPolicy = EMPTY,
        parser: CustomCallable | None = None,
        decoder: CustomCallable | None = None,
        codec: CodecProto | None = None,
        dependencies: Sequence[Dependant] = (),
        middlewares: Sequence[BrokerMiddleware[Any]] = (),
        routers: Iterable[LoghouseRegistrator] = (),
        logger: LoggerProto | None = EMPTY,
        log_level: int = DEFAULT_LOG_LEVEL,
        apply_types: bool = True,
        serializer: Any = EMPTY,
        provider: Provider | None = None,
        context: ContextRepo | None = None,
        specification_url: str | None = None,
        description: str | None = None,
        tags: Iterable[Any] = (),
        **options: Unpack[ClientOptions],
    ) -> None:
        super().__init__(
            target=target,
            options=options,
            routers=routers,
            config=LoghouseBrokerConfig(
                producer=LoghouseProducer(parser=parser, decoder=decoder),
                broker_middlewares=middlewares,
                broker_parser=parser,
                broker_decoder=decoder,
                broker_codec=codec,
                broker_dependencies=dependencies,
                logger=logger_state(logger=logger, log_level=log_level),
                fd_config=FastDependsConfig(
                    use_fastdepends=apply_types,
                    serializer=serializer,
                    provider=provider or dependency_provider,
                    context=context or ContextRepo(),
                ),
                graceful_timeout=graceful_timeout,
                ack_policy=ack_policy,
                id_generator=gen_cor_id,
                extra_context={"broker": self},
            ),
            specification=BrokerSpec(
                url=[specification_url or target],
                protocol=PROTOCOL,
                protocol_version="1",
                description=description,
                tags=tags,
                security=None,
            ),
        )

    @property
    def client(self) -> AsyncClient:
        """The client of the cluster, for whatever else it can do.

        Raises:
            IncorrectState: The broker is not connected.
        """
        return cast("LoghouseBrokerConfig", self.config).client

    async def _connect(self) -> AsyncClient:
        config = self.config.broker_config
        client = connect(self._connection_kwargs["target"], **self._connection_kwargs["options"])
        try:
            await client.servers()
        except BaseException:
            await client.close()
            raise
        config.connection = client
        producer = cast("LoghouseProducer", config.producer)
        producer.connect(client, config.fd_config._serializer, config.broker_codec)
        return client

    async def start(self) -> None:
        """Connect, and begin to read.

        Raises:
            LoghouseError: No node can be reached, or a subscriber's log is not there or may not be read.
        """
        await self.connect()
        await super().start()

    async def stop(
        self,
        exc_type: type[BaseException] | None = None,
        exc_val: BaseException | None = None,
        exc_tb: TracebackType | None = None,
    ) -> None:
        """Let handlers at work end, commit and release each cursor, append what was published; disconnect."""
        try:
            await super().stop(exc_type, exc_val, exc_tb)
        finally:
            config = self.config.broker_config
            client, config.connection = config.connection, None
            self._connection = None
            if client is not None:
                try:
                    await cast("LoghouseProducer", config.producer).close()
                finally:
                    await client.close()

    async def ping(self, timeout: float | None = 5.0) -> bool:  # noqa: ASYNC109
        """Return whether a node answers within so many seconds. For health checks."""
        client = self.config.broker_config.connection
        if client is None:
            return False
        try:
            await client.servers(timeout_seconds=timeout)
        except LoghouseError:
            return False
        return True

    async def publish(
        self,
        message: SendableMessage,
        log: str,
        *,
        key: bytes | None = None,
        headers: Mapping[str, Any] | None = None,
        correlation_id: str | None = None,
        reply_to: str = "",
        timestamp: datetime | int | None = None,
    ) -> int:
        """Append a record once, and return its offset when it is durable on a majority.

            offset = await broker.publish(Order(...), "orders", key=b"customer-7")

        Args:
            message: Bytes and texts are taken as they are; all else becomes JSON, or what the codec makes.
            reply_to: The log in which an answer is wanted.
            timestamp: A time of its own (microseconds since the epoch when a number); None: when it is
                appended.
        """
        cmd = LoghousePublishCommand(
            message,
            log=log,
            key=key,
            headers=dict(headers or {}),
            correlation_id=correlation_id or self.config.id_generator(),
            reply_to=reply_to,
            timestamp=timestamp,
            _publish_type=PublishType.PUBLISH,
        )
        offset: int = await self._basic_publish(cmd, producer=self.config.producer)
        return offset

    async def publish_batch(  # type: ignore[override]
        self,
        *messages: SendableMessage,
        log: str,
        key: bytes | None = None,
        headers: Mapping[str, Any] | None = None,
        correlation_id: str | None = None,
        reply_to: str = "",
    ) -> list[int]:
        """Append records in this order, each once, and return their offsets when all are durable."""
        if not messages:
            return []
        cmd = LoghousePublishCommand(
            *messages,
            log=log,
            key=key,
            headers=dict(headers or {}),
            correlation_id=correlation_id or self.config.id_generator(),
            reply_to=reply_to,
            _publish_type=PublishType.PUBLISH,
        )
        offsets: list[int] = await self._basic_publish_batch(cmd, producer=self.config.producer)
        return offsets

    async def request(self, message: SendableMessage, log: str, /, timeout: float = 0.5) -> Any:  # noqa: ASYNC109
        """Raise FeatureNotSupportedException: publish with `reply_to`, and subscribe to that log."""
        cmd = LoghousePublishCommand(message, log=log, _publish_type=PublishType.REQUEST)
        return await self._basic_request(cmd, producer=self.config.producer)
