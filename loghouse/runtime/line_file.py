"""A file of lines that a thread writes, so that the reactor never waits for its disk."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from queue import Full, Queue
from typing import Final

LINES_WAITING_MAX: Final = 4096  # of some 300 bytes; what comes beyond is dropped, counted and said
MODE: Final = 0o640


class LineFile:
    """Takes lines and appends them, in their order; what cannot be written is counted.

    Args:
        dropped: Makes the line that says how many were dropped before it.
        failed: Called on the thread with what went wrong, once until a line is written again.
    """

    def __init__(
        self, path: Path, dropped: Callable[[int], str], failed: Callable[[OSError], object]
    ) -> None:
        """Open the file, behind what is there.

        Raises:
            OSError: It cannot be.
        """
        self.path = path
        self.dropped_count = 0  # since the last line that said so
        self._lock = threading.Lock()  # of that count; held for no longer than it takes to count
        self._tell_dropped = dropped
        self._failed = failed
        self._has_failed = False
        self._queue: Queue[str | None] = Queue(LINES_WAITING_MAX)
        self._must_reopen = threading.Event()
        self._file = self._open()
        # A daemon: a dead disk must not keep a stopping process alive.
        self._thread = threading.Thread(target=self._work, name="loghouse-audit", daemon=True)
        self._thread.start()

    def write(self, line: str) -> None:
        """Append a line, which has no end of its own; at once, or not at all."""
        try:
            self._queue.put_nowait(line)
        except Full:
            self._count(1)

    def reopen(self) -> None:
        """Open the path anew before the next line: somebody moved the file away."""
        self._must_reopen.set()

    def close(self, seconds_max: float) -> None:
        """Write what waits, for so long at most, and close the file."""
        with suppress(Full):
            self._queue.put(None, timeout=seconds_max)
            self._thread.join(seconds_max)

    def _open(self) -> int:
        return os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, MODE)

    def _work(self) -> None:
        while (line := self._queue.get()) is not None:
            with self._lock:
                count, self.dropped_count = self.dropped_count, 0
            lines = [self._tell_dropped(count), line] if count else [line]
            try:
                self._append("".join(f"{one}\n" for one in lines).encode())
                self._has_failed = False
            except OSError as error:
                self._count(count + 1)
                if not self._has_failed:
                    self._has_failed = True
                    self._failed(error)
        os.close(self._file)

    def _count(self, count: int) -> None:
        with self._lock:
            self.dropped_count += count

    def _append(self, content: bytes) -> None:
        if self._must_reopen.is_set():
            opened = self._open()
            self._must_reopen.clear()
            os.close(self._file)
            self._file = opened
        while content:
            content = content[os.write(self._file, content) :]
