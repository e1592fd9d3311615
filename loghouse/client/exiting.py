"""Blocking clients that are open when the interpreter ends: what they took is sent first, in a bounded time.

By then the program's own threads have ended, except daemons; the clients' loops go on.
"""

from __future__ import annotations

import atexit
import logging
import os
import time
import warnings
from typing import Final, Protocol

EXIT_SECONDS: Final = 10.0
"""How long all clients together may take at the interpreter's end."""

_logger: Final = logging.getLogger("loghouse.client")


class Open(Protocol):
    """A client that is open."""

    def finish(self, seconds: float) -> None:
        """Send what was taken, and commit what is done, within so many seconds; nobody waits for that yet."""

    def flush(self, until: float) -> str:
        """Wait until everything is acknowledged, or for a moment of the monotonic clock.

        Returns:
            What is left, as a sentence; empty when nothing is.
        """

    def close(self, until: float) -> None:
        """Close it, by then if possible."""


_open: Final[set[Open]] = set()


def opened(client: Open) -> None:
    """Remember a client until it is closed."""
    _open.add(client)


def closed(client: Open) -> None:
    """Forget it."""
    _open.discard(client)


@atexit.register
def flush_all() -> None:
    """Send what is not acknowledged, and close every client."""
    until = time.monotonic() + EXIT_SECONDS
    clients = list(_open)
    try:
        for client in clients:  # together: one that nobody answers takes no time from the others
            client.finish(EXIT_SECONDS)
        for client in clients:
            left = client.flush(until)
            if left:
                text = f"a producer or consumer was not closed before the interpreter ended: {left}"
                _logger.error("%s", text)
                warnings.warn(text, ResourceWarning, stacklevel=1)
    finally:
        for client in clients:
            client.close(until)


os.register_at_fork(after_in_child=_open.clear)  # a child has none of their threads
