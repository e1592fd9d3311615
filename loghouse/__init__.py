"""Loghouse: a replicated append-only log, as a network service and in your program (`loghouse.open`)."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from loghouse.embedded.asynchronous import open_async
    from loghouse.embedded.blocking import open_embedded as open
    from loghouse.embedded.reader import open_reader

__version__ = "0.1.0"
__all__ = ["__version__", "open", "open_async", "open_reader"]


def __getattr__(name: str) -> Any:
    # Imported when it is asked for: `import loghouse` alone costs nothing.
    if name == "open":
        from loghouse.embedded.blocking import open_embedded

        return open_embedded
    if name == "open_async":
        from loghouse.embedded.asynchronous import open_async

        return open_async
    if name == "open_reader":
        from loghouse.embedded.reader import open_reader

        return open_reader
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
