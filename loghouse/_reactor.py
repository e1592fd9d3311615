"""Install the asyncio reactor, once, on uvloop where it exists.

Imported before anything that imports `twisted.internet.reactor`.
"""

from __future__ import annotations

import asyncio
import sys

from twisted.internet import asyncioreactor

from loghouse.errors import ReactorError


def _new_event_loop() -> asyncio.AbstractEventLoop:
    try:
        import uvloop
    except ImportError:
        return asyncio.new_event_loop()
    loop: asyncio.AbstractEventLoop = uvloop.new_event_loop()
    return loop


def install() -> None:
    """Install the asyncio reactor, or say why we cannot.

    Raises:
        ReactorError: Another reactor is already there.
    """
    if "twisted.internet.reactor" not in sys.modules:
        loop = _new_event_loop()
        asyncio.set_event_loop(loop)
        asyncioreactor.install(loop)
    from twisted.internet import reactor

    if not isinstance(reactor, asyncioreactor.AsyncioSelectorReactor):
        raise ReactorError(
            f"loghouse needs the asyncio reactor, found {type(reactor).__name__}; leave --reactor out"
        )
