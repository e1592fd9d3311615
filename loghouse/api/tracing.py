"""Which service answers the calls of `log.v1.Log`; that with spans is imported only where a node traces."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from loghouse.api.log_service import LogService

if TYPE_CHECKING:
    from loghouse.tracing.spans import Tracer


def log_service_class(tracer: Tracer | None) -> Callable[..., LogService]:
    """Return what makes the service.

    Args:
        tracer: Makes spans of appends; None: nobody traces.
    """
    if tracer is None:
        return LogService
    from loghouse.api.traced_log_service import TracedLogService

    return partial(TracedLogService, tracer=tracer)
