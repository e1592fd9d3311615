"""Routers: subscribers and publishers that a broker includes later."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from fast_depends.dependencies import Dependant
from faststream.middlewares import AckPolicy

from loghouse.integrations.faststream.message import Received
from loghouse.integrations.faststream.private import (
    EMPTY,
    ArgsContainer,
    BrokerMiddleware,
    BrokerRouter,
    CustomCallable,
    SubscriberRoute,
)
from loghouse.integrations.faststream.registrator import LoghouseRegistrator
from loghouse.integrations.faststream.settings import LoghouseBrokerConfig


class LoghousePublisherRoute(ArgsContainer):
    """A publisher for a `LoghouseRoute`; takes what `broker.publisher` takes."""


class LoghouseRoute(SubscriberRoute):
    """A handler and its subscriber, for `LoghouseRouter(handlers=...)`; takes what `subscriber` takes."""

    def __init__(
        self,
        call: Callable[..., Any],
        *logs: str,
        publishers: Iterable[LoghousePublisherRoute] = (),
        **options: Any,
    ) -> None:
        super().__init__(call, *logs, publishers=publishers, **options)


class LoghouseRouter(LoghouseRegistrator, BrokerRouter[Received, LoghouseBrokerConfig]):
    """Subscribers and publishers for `broker.include_router`.

    Args:
        prefix: Comes before the names of their logs.
        handlers: Handlers that are no decorated functions.
    """

    def __init__(
        self,
        prefix: str = "",
        handlers: Iterable[LoghouseRoute] = (),
        *,
        dependencies: Sequence[Dependant] = (),
        middlewares: Sequence[BrokerMiddleware[Any]] = (),
        routers: Iterable[LoghouseRegistrator] = (),
        parser: CustomCallable | None = None,
        decoder: CustomCallable | None = None,
        include_in_schema: bool | None = None,
        ack_policy: AckPolicy = EMPTY,
    ) -> None:
        super().__init__(
            handlers=handlers,
            config=LoghouseBrokerConfig(
                prefix=prefix,
                ack_policy=ack_policy,
                broker_dependencies=dependencies,
                broker_middlewares=middlewares,
                broker_parser=parser,
                broker_decoder=decoder,
                include_in_schema=include_in_schema,
            ),
            routers=routers,
        )
