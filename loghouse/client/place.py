"""Where a client can be used: in the process that made it, and, for asyncio, on one loop.

A forked child has the parent's connections and none of its threads; a loop's futures wake nobody on another
one. Both would hang or spoil what is the parent's, and so say at once what is wrong.
"""

from __future__ import annotations

import asyncio
import os

from loghouse.errors import ClientUseError

_fork_count = 0


def _forked() -> None:
    global _fork_count
    _fork_count += 1


os.register_at_fork(after_in_child=_forked)


class Place:
    """Where one client belongs: this process, and the first loop that it is used on."""

    __slots__ = ("_fork_count", "_loop", "_process")

    def __init__(self) -> None:
        self._fork_count = _fork_count
        self._process = os.getpid()
        self._loop: asyncio.AbstractEventLoop | None = None

    @property
    def is_elsewhere(self) -> bool:
        """Whether this is a forked child of the process that the client belongs to."""
        return self._fork_count != _fork_count

    def check_process(self) -> None:
        """Raise ClientUseError in a forked child."""
        if self._fork_count != _fork_count:
            raise ClientUseError(
                f"this client belongs to process {self._process}, which forked this one ({os.getpid()}); "
                "make a client in the child, after the fork"
            )

    def check(self) -> None:
        """Raise ClientUseError in a forked child, on another loop, and where no loop runs."""
        loop = asyncio._get_running_loop()
        if loop is self._loop and loop is not None and self._fork_count == _fork_count:
            return  # nearly always, and for every record
        self.check_process()
        if loop is None:
            raise ClientUseError(
                "no asyncio loop runs here, and this client needs one: use connect_blocking, or the asyncio "
                "reactor in a Twisted program"
            )
        if self._loop is not None and loop is not self._loop:
            raise ClientUseError(
                "this client was used on another asyncio loop before, and works only there; make one client "
                "for each loop, or use connect_blocking, which any thread may call"
            )
        self._loop = loop
