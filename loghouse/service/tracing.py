"""Whether a node traces: OpenTelemetry is imported only when its settings say so."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from loghouse.config.settings import NodeConfig
from loghouse.errors import ConfigError

if TYPE_CHECKING:
    from loghouse.tracing.exporting import Export


def export_of(config: NodeConfig) -> Export | None:
    """Return what makes spans and sends them away; None where nothing is traced.

    Raises:
        ConfigError: OpenTelemetry, or the exporter that the environment names, is not installed.
    """
    if not config.tracing:
        return None
    try:
        from loghouse.tracing.exporting import Export
    except ImportError as error:
        raise ConfigError(
            [f"tracing: OpenTelemetry is not installed ({error}); pip install 'loghouse[otel]'"]
        ) from None
    return Export(node=config.name, cluster=config.cluster, environment=os.environ)
