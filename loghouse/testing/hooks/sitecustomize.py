"""Python runs this as it starts, in a node under test: its wall clock may be off, and its disk may be full.

Two files say so, whenever they are there; variables of the environment name them:

- CLOCK_FILE: the seconds by which the process's wall clock is off.
- FULL_DISK_FILE: while it is there, entries have no room. What is small and has its place already, such as
  the term and the vote, is still written, as on a disk that is full.
"""

import errno
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any


def _shift_clock(path: Path) -> None:
    wall, wall_ns, gmtime = time.time, time.time_ns, time.gmtime

    def shift() -> int:
        text = path.read_text() if path.exists() else ""
        return int(text or 0)

    time.time = lambda: wall() + shift()
    time.time_ns = lambda: wall_ns() + shift() * 10**9
    time.gmtime = lambda seconds=None: gmtime(time.time() if seconds is None else seconds)


def _fill_disk(path: str) -> None:
    def refusing(write: Callable[..., Any]) -> Callable[..., Any]:
        def write_if_room(fd: int, *args: Any) -> Any:
            if os.path.exists(path) and os.readlink(f"/proc/self/fd/{fd}").endswith((".store", ".index")):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return write(fd, *args)

        return write_if_room

    for name in ("pwrite", "pwritev", "posix_fallocate"):
        setattr(os, name, refusing(getattr(os, name)))


if "CLOCK_FILE" in os.environ:
    _shift_clock(Path(os.environ["CLOCK_FILE"]))
if "FULL_DISK_FILE" in os.environ:
    _fill_disk(os.environ["FULL_DISK_FILE"])
