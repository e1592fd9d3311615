"""How late the reactor is, and how long garbage collection holds it: everybody who asks this node waits."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Mapping
from typing import Any, Final

from twisted.internet.interfaces import IReactorTime

from loghouse.metrics import SECONDS, Distribution

HEARTBEAT_SECONDS: Final = 0.1


class Delays:
    """Measures, from `start` to `stop`."""

    def __init__(self, clock: IReactorTime, now: Callable[[], float] = time.perf_counter) -> None:
        self._clock = clock  # the reactor; fixed
        self._now = now  # seconds that only rise; fixed
        self.delays = Distribution(SECONDS)  # how late each beat was, in seconds
        self.pauses = Distribution(SECONDS)  # how long each collection took, in seconds
        self._due = 0.0  # when the next beat is to come, by `_now`
        self._call: Any = None  # the next beat; None before `start` and after `stop`
        self._began = 0.0  # when the collection under way began, by `_now`

    def start(self) -> None:
        """Begin."""
        gc.callbacks.append(self._collecting)
        self._wait()

    def stop(self) -> None:
        """End."""
        call, self._call = self._call, None
        if call is not None:
            call.cancel()
            gc.callbacks.remove(self._collecting)

    def _wait(self) -> None:
        self._due = self._now() + HEARTBEAT_SECONDS
        self._call = self._clock.callLater(HEARTBEAT_SECONDS, self._beat)

    def _beat(self) -> None:
        self.delays.observe(max(0.0, self._now() - self._due))
        self._wait()

    def _collecting(self, phase: str, info: Mapping[str, Any]) -> None:
        if not info["generation"]:
            return  # the youngest objects alone: microseconds, hundreds of times a second
        if phase == "start":
            self._began = self._now()
        elif self._began:
            self.pauses.observe(self._now() - self._began)
            self._began = 0.0
