"""node.yaml: what may be set, and what it means."""
