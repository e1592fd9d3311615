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
    """Where one client belongs: the process, and the loop, that it is first used in.

    Before that it has nothing that a fork could spoil: a daemon may make it, fork, and use it then.
    """

    __slots__ = ("_fork_count", "_loop", "_process")

    def __init__(self) -> None:
        self._fork_count = -1
        self._process = 0
        self._loop: asyncio.AbstractEventLoop | None = None

    @property
    def is_elsewhere(self) -> bool:
        """Whether this is a forked child of the process that the client belongs to."""
        return self._fork_count not in (-1, _fork_count)

    def check_process(self) -> None:
        """Raise ClientUseError in a forked child."""
        if self._fork_count < 0:
            self._fork_count, self._process = _fork_count, os.getpid()
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
                "no asyncio loop runs here, and this client needs one: use loghouse.client.deferred.connect "
                "in a Twisted program, and connect_blocking elsewhere"
            )
        if self._loop is not None and loop is not self._loop:
            raise ClientUseError(
                "this client was used on another asyncio loop before, and works only there; make one client "
                "for each loop, or use connect_blocking, which any thread may call"
            )
        self._loop = loop

    def check_task(self) -> None:
        """As `check`, and raise ClientUseError outside of the loop's tasks, where nothing can be awaited."""
        self.check()
        if asyncio.current_task() is None:
            raise ClientUseError(
                "this client waits in asyncio tasks, and this coroutine is in none: in a Twisted program, on "
                "the asyncio reactor too, use loghouse.client.deferred.connect"
            )
