"""What a client is made of, with spans or without. OpenTelemetry is imported for those with spans alone."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from loghouse.client.calls import Calls
from loghouse.client.connection import Connection
from loghouse.client.grpc_channel import GrpcChannel
from loghouse.client.sending import Sending
from loghouse.errors import InvalidRequestError


def calls_class(tracing: Any) -> Callable[..., Calls]:
    """Return what makes the calls of a client.

    Args:
        tracing: False: no spans. True: to the provider of the program; or to a TracerProvider.

    Raises:
        InvalidRequestError: It is something else, or OpenTelemetry is not installed.
    """
    if tracing is False:
        return Calls
    try:
        from loghouse.client.traced import TracedCalls, tracer_of
    except ImportError as error:
        text = f"needs OpenTelemetry ({error}); pip install 'loghouse[otel]'"
        raise InvalidRequestError("tracing", text) from None
    return partial(TracedCalls, tracer=tracer_of(tracing))


def connection_class(tracing: Any) -> type[Connection]:
    """Return the connections of a client."""
    if tracing is False:
        return Connection
    from loghouse.client.traced import TracedConnection

    return TracedConnection


def grpc_channel_class(tracing: Any) -> Callable[..., GrpcChannel]:
    """Return what makes the gRPC channels of a client."""
    if tracing is False:
        return GrpcChannel
    from loghouse.client.traced import TracedGrpcAppends, TraceMetadata

    return partial(GrpcChannel, interceptors=[TraceMetadata()], make_appends=TracedGrpcAppends)


def sending_class(calls: Calls, plain: type[Sending]) -> Callable[..., Sending]:
    """Return what sends the batches of a producer with these calls; `plain` where there are no spans."""
    if calls.tracer is None:
        return plain
    from loghouse.client.traced import TracedSending

    return TracedSending
