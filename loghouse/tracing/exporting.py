"""Where a node's spans go, as OpenTelemetry's own variables in the environment say."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from importlib.metadata import entry_points
from typing import Any, Final

from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor

from loghouse.errors import ConfigError
from loghouse.tracing.spans import Tracer

STOP_SECONDS_MAX: Final = 5.0  # for the last spans
EXPORTERS: Final = "opentelemetry_traces_exporter"
"""The entry points by which exporters are found."""
_OTLP: Final = {"grpc": "otlp_proto_grpc", "http/protobuf": "otlp_proto_http"}


class Export:
    """Sends spans away, in batches and on a thread of its own. What does not fit its queue is dropped.

    Args:
        environment: OTEL_TRACES_EXPORTER names the exporter: otlp by default, console, none, ... How it works
            is said by further variables, which the exporter reads itself.

    Raises:
        ConfigError: There is no such exporter.
    """

    def __init__(self, *, node: str, cluster: str, environment: Mapping[str, str]) -> None:
        self._make_exporter = _exporter_of(environment)
        told = {
            "service.name": environment.get("OTEL_SERVICE_NAME", "loghouse"),
            "service.namespace": cluster,
            "service.instance.id": node,
        }
        self._provider = TracerProvider(resource=Resource.create(told), shutdown_on_exit=False)
        self.tracer = Tracer(self._provider)

    def start(self) -> None:
        """Begin to send; after the process went into the background, for threads do not go with it."""
        if self._make_exporter is not None:
            self._provider.add_span_processor(BatchSpanProcessor(self._make_exporter()))

    def stop(self) -> None:
        """Send what waits, and end; give it up when nobody takes it within `STOP_SECONDS_MAX`."""
        ending = threading.Thread(target=self._provider.shutdown, name="loghouse-spans", daemon=True)
        ending.start()
        ending.join(STOP_SECONDS_MAX)


def _exporter_of(environment: Mapping[str, str]) -> Callable[[], Any] | None:
    name = environment.get("OTEL_TRACES_EXPORTER", "otlp")
    if name == "none":
        return None
    if name == "otlp":
        protocol = environment.get("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc")
        name = _OTLP.get(environment.get("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", protocol), protocol)
    found = {point.name: point for point in entry_points(group=EXPORTERS)}
    if name not in found:
        there = ", ".join(sorted({"none", *found}))
        raise ConfigError(
            [f"tracing: no exporter {name!r} is installed (OTEL_TRACES_EXPORTER); there are: {there}"]
        )
    make: Callable[[], Any] = found[name].load()
    return make
