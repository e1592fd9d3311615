"""The private directory of a running node, where gRPC's socket is: only the node's user may enter it.

A node that is killed leaves its directory behind. Each one holds a file that its node keeps locked; the next
node that starts beside it removes those of its user whose file nobody holds.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import stat
import tempfile
from typing import Final

from loghouse.errors import ConfigError

PREFIX: Final = "loghouse-"
SOCKET_NAME: Final = "grpc"
HELD_NAME: Final = "held"
SOCKET_PATH_SIZE_MAX: Final = 107  # Linux's, of a Unix socket's address
_RANDOM_SIZE: Final = 8  # of the name that `mkdtemp` makes


class PrivateDirectory:
    """A directory that is there as long as its node runs."""

    def __init__(self) -> None:
        """Make it, and remove what dead nodes left there.

        Raises:
            ConfigError: It cannot be made anywhere; says why, and what to set.
        """
        problems = []
        for place in dict.fromkeys((os.environ.get("XDG_RUNTIME_DIR"), tempfile.gettempdir(), "/tmp")):
            if not place:
                continue
            if len(os.fsencode(f"{place}/{PREFIX}/{SOCKET_NAME}")) + _RANDOM_SIZE > SOCKET_PATH_SIZE_MAX:
                problems.append(f"{place}: too long for a socket's path")
                continue
            try:
                self._path, self._held = _make(place)
            except OSError as error:
                problems.append(f"{place}: {error.strerror}")
                continue
            remove_dead(place)
            return
        remedy = "set XDG_RUNTIME_DIR to a directory of this user"
        raise ConfigError([f"no place for gRPC's socket: {', '.join(problems)}; {remedy}"])

    @property
    def socket_path(self) -> str:
        """Where gRPC's socket is to be."""
        return f"{self._path}/{SOCKET_NAME}"

    def close(self) -> None:
        """Remove it with what is in it."""
        _remove(self._path)
        os.close(self._held)


def _make(place: str) -> tuple[str, int]:
    path = tempfile.mkdtemp(prefix=PREFIX, dir=place)
    # Locked before it has its name, so that nobody ever sees it there and free while its node runs.
    made = f"{path}/{HELD_NAME}.new"
    try:
        held = os.open(made, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        fcntl.flock(held, fcntl.LOCK_EX)
        os.rename(made, f"{path}/{HELD_NAME}")
    except OSError:
        with contextlib.suppress(OSError):
            os.unlink(made)
        os.rmdir(path)
        raise
    return path, held


def remove_dead(place: str) -> None:
    """Remove the private directories of killed nodes in a place; what is not one for certain stays."""
    for name in os.listdir(place):
        path = os.path.join(place, name)
        if name.startswith(PREFIX) and _is_ours(path):
            with contextlib.suppress(OSError):
                held = os.open(f"{path}/{HELD_NAME}", os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
                try:
                    fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    _remove(path)
                finally:
                    os.close(held)


def _is_ours(path: str) -> bool:
    try:
        status = os.lstat(path)
        return (
            stat.S_ISDIR(status.st_mode)
            and status.st_uid == os.geteuid()
            and {HELD_NAME} <= set(os.listdir(path)) <= {HELD_NAME, SOCKET_NAME}
        )
    except OSError:
        return False


def _remove(path: str) -> None:
    # No tree: only what a node puts there goes.
    for name in (SOCKET_NAME, HELD_NAME):
        with contextlib.suppress(OSError):
            os.unlink(f"{path}/{name}")
    with contextlib.suppress(OSError):
        os.rmdir(path)
