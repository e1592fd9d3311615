"""What twistd does for a process, so that it fits a node: pid file, log file, news of a failed start."""

from __future__ import annotations

import os
import stat
import sys
from pathlib import Path
from typing import Any, BinaryIO, Final, cast

from twisted.logger import Logger
from twisted.python.logfile import LogFile

from loghouse.limits import LOG_FILE_SIZE_MAX, LOG_FILES_MAX
from loghouse.text import visible

PID_FILE_DEFAULT: Final = "twistd.pid"


class NotStartedError(Exception):
    """A start failed, and whoever typed the command was told why."""


def settle_pid_file(twistd_options: Any) -> None:
    """Write no pid file in the foreground unless asked to, and never take another program for a node.

    What keeps two nodes off one data directory is its lock. A pid file only says whom to signal; the number
    in that of a killed node may be any process by now, in a container the new node itself.
    """
    if twistd_options["nodaemon"] and twistd_options["pidfile"] == PID_FILE_DEFAULT:
        twistd_options["pidfile"] = ""
    elif twistd_options["pidfile"]:
        path = Path(twistd_options["pidfile"])
        if _is_stale(path):
            path.unlink(missing_ok=True)


def _is_stale(path: Path) -> bool:
    try:
        process_id = int(path.read_bytes())
    except OSError:
        return False
    except ValueError:
        return True  # cut off by a crash
    if process_id == os.getpid():
        return True
    try:
        return b"twistd" not in Path(f"/proc/{process_id}/cmdline").read_bytes()
    except OSError:
        return False  # twistd itself removes the file of a process that is gone


class DiagnosticsFile(LogFile):
    """twistd's log file, rotated by its size; when somebody else moved it, `reopen` begins a new one."""

    logger = Logger()

    def __init__(self, path: str) -> None:
        """Open it, behind what is there.

        Raises:
            OSError: It cannot be.
        """
        self._mode: int | None = None
        directory, name = os.path.split(path)
        super().__init__(  # type: ignore[no-untyped-call]
            name, directory, rotateLength=LOG_FILE_SIZE_MAX, maxRotatedFiles=LOG_FILES_MAX
        )

    def _openFile(self) -> None:  # noqa: N802 - Twisted's name
        is_new = not os.path.exists(self.path)
        # Appending: cut to nothing by `copytruncate`, it goes on at its start, not where it was.
        self._file = cast(BinaryIO, open(self.path, "ab", 0))  # noqa: SIM115 - open as long as the process
        if self._mode is None:
            self._mode = os.fstat(self._file.fileno()).st_mode
        elif is_new:  # by now twistd's umask keeps everybody out
            os.fchmod(self._file.fileno(), stat.S_IMODE(self._mode))
        self.size = self._file.tell()
        self.closed = False

    def reopen(self) -> None:
        """Open the path anew; when that fails, go on with the file at hand."""
        before = self._file
        try:
            self._openFile()
        except OSError as error:
            self.logger.error(
                "{path}: {error}; writing on into the old file", path=self.path, error=str(error)
            )
        else:
            before.close()

    def rotate_or_reopen(self) -> None:
        """Rotate; a file that was moved already is only opened anew."""
        try:
            is_in_place = os.path.samestat(os.stat(self.path), os.fstat(self._file.fileno()))
        except OSError:
            is_in_place = False
        if is_in_place:
            self.rotate()  # type: ignore[no-untyped-call]
        else:
            self.reopen()


class StartNews:
    """Tells whoever typed the command why a daemon did not start.

    By then the daemon's own stderr is /dev/null, and twistd tells no more than 100 bytes.
    """

    def __init__(self) -> None:
        """Keep the terminal's stderr; before the fork."""
        self._stderr = os.dup(2)

    def failed(self, error: Exception) -> NotStartedError:
        """Tell the reason; return what to raise for twistd to tell."""
        os.write(self._stderr, _reason(error).encode())
        self.close()
        return NotStartedError("see the line above")

    def close(self) -> None:
        """Let the terminal go: nobody may wait for a daemon's output to end."""
        stderr, self._stderr = self._stderr, -1
        if stderr >= 0:
            os.close(stderr)


def print_one_line(error: BaseException) -> None:
    """Tell the reason where nothing was forked. By now sys.stderr is a logger, which has had it."""
    if sys.__stderr__ is not None:
        sys.__stderr__.write(_reason(error))


def _reason(error: BaseException) -> str:
    return visible(f"twistd loghouse: cannot start: {error}", keep="\n") + "\n"
