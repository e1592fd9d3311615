"""The address book of a node on its disk: where the others were when this node last heard of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.python.failure import Failure

from loghouse.errors import DiskFullError
from loghouse.runtime.threads import WorkQueue
from loghouse.storage.directory import DataDirectory


class AddressBookFile:
    """The address book of a node on its disk, written once there is room for it."""

    def __init__(self, directory: DataDirectory, disk: WorkQueue, fatal: Callable[[Failure], Any]) -> None:
        self._directory = directory  # holds the file
        self._disk = disk  # the thread that writes
        self._fatal = fatal  # called when the disk fails: the process must end
        # The newest content that found no room; tried again each second until it or a newer one is written.
        self._unwritten: bytes | None = None

    def write(self, content: bytes, done: Callable[[], None]) -> None:
        """Make the address book durable, then call `done`; on a full disk go on without, and write it later.

        It is a cache: of addresses, and of an incarnation that the others remember, too.
        """
        directory, self._unwritten = self._directory, None

        def unwritten(error: BaseException) -> None:
            if not isinstance(error, DiskFullError):
                raise error
            if self._unwritten is None:
                self._unwritten = content  # else a newer one is waiting already
            done()

        self._disk.run(
            lambda: directory.write_members(content),
            lambda _: done(),
            unwritten,
            fatal=lambda error: self._fatal(Failure(error)),
        )

    def read(self) -> bytes:
        """The address book as last written."""
        return self._directory.read_members()

    def look(self) -> None:
        """Try again what found no room; called every second."""
        if self._unwritten is not None:
            self.write(self._unwritten, lambda: None)
