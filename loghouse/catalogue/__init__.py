"""The catalogue: which nodes and which logs a cluster has, as the fold of a log of its own. Pure."""
