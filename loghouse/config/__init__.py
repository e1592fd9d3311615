"""node.yaml: what may be set, and what it means."""

from loghouse.config.settings import NodeConfig, load

__all__ = ["NodeConfig", "load"]
