"""What brokers, subscribers and publishers are told, and how a broker's lines of log look."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from faststream.exceptions import IncorrectState
from faststream.middlewares import AckPolicy

from loghouse.client.asynchronous import AsyncClient
from loghouse.integrations.faststream.private import (
    EMPTY,
    BrokerConfig,
    ContextRepo,
    DefaultLoggerStorage,
    LoggerProto,
    PublisherSpecificationConfig,
    PublisherUsecaseConfig,
    SubscriberSpecificationConfig,
    SubscriberUsecaseConfig,
    get_broker_logger,
    make_logger_state,
)

_OFFSET_WIDTH = 20  # of all there can be


@dataclass(kw_only=True)
class LoghouseBrokerConfig(BrokerConfig):
    """A broker's, or a router's.

    Attributes:
        connection: The client, while the broker is connected.
    """

    connection: AsyncClient | None = field(default=None, init=False, repr=False)

    @property
    def client(self) -> AsyncClient:
        """The client of a broker that is connected.

        Raises:
            IncorrectState: It is not.
        """
        if self.connection is None:
            raise IncorrectState("the broker is not connected; `await broker.connect()`, or start it")
        return self.connection


@dataclass(kw_only=True)
class LoghouseSubscriberConfig(SubscriberUsecaseConfig):
    """A subscriber's.

    Attributes:
        logs: The logs' names, or one pattern; a broker's or router's prefix comes before each.
        cursor: The cursor's name; None: nothing is remembered.
        from_: Where it begins when nothing is remembered yet.
        options: What the consumer is told beside, as it is told.
        is_batch: Whether whole batches are handled.
        max_workers: How many records are handled at a time.
        retry_seconds: The first pause before a record is handled again.
    """

    logs: tuple[str, ...]
    cursor: str | None
    from_: Any
    options: Mapping[str, Any]
    is_batch: bool
    max_workers: int
    retry_seconds: float

    @property
    def ack_policy(self) -> AckPolicy:
        """What happens to a record whose handler fails: it is handled again, unless another policy is set."""
        for policy in (self._ack_policy, self._outer_config.ack_policy):
            if policy is not EMPTY:
                return AckPolicy(policy)
        return AckPolicy.NACK_ON_ERROR


@dataclass(kw_only=True)
class LoghouseSubscriberSpecificationConfig(SubscriberSpecificationConfig):
    """What AsyncAPI says of a subscriber."""

    logs: tuple[str, ...]


@dataclass(kw_only=True)
class LoghousePublisherConfig(PublisherUsecaseConfig):
    """A publisher's.

    Attributes:
        log: The log that it appends to; a prefix comes before.
        key: The key of records that have none of their own.
        headers: Headers that every record gets, unless it has its own.
        reply_to: The log that answers are asked for in; empty: none.
        is_batch: Whether each element of a list is a record.
    """

    log: str
    key: bytes | None
    headers: Mapping[str, Any]
    reply_to: str
    is_batch: bool


@dataclass(kw_only=True)
class LoghousePublisherSpecificationConfig(PublisherSpecificationConfig):
    """What AsyncAPI says of a publisher."""

    log: str


class LoghouseLoggerStorage(DefaultLoggerStorage):
    """The logger `faststream.access.loghouse`, with a column for the log."""

    __slots__ = ("_log_width",)

    def __init__(self) -> None:
        super().__init__()
        self._log_width = 4

    def register_subscriber(self, params: dict[str, Any]) -> None:
        """Make the column wide enough."""
        self._log_width = max(self._log_width, len(params.get("log", "")))

    def get_logger(self, *, context: ContextRepo) -> LoggerProto:
        """Return the logger, made when it is first asked for."""
        logger = self._get_logger_ref()
        if logger is None:
            logger = get_broker_logger(
                name="loghouse",
                default_context={"log": ""},
                message_id_ln=_OFFSET_WIDTH,
                fmt=(
                    f"%(asctime)s %(levelname)-8s - %(log)-{self._log_width}s | "
                    "%(message_id)-8s - %(message)s"
                ),
                context=context,
                log_level=self.logger_log_level,
            )
            self._logger_ref.add(logger)
        return logger


logger_state = partial(make_logger_state, default_storage_cls=LoghouseLoggerStorage)
DEFAULT_LOG_LEVEL = logging.INFO
