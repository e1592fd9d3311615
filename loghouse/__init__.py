"""Loghouse: a replicated append-only log as a network service."""

__version__ = "0.1.0"
