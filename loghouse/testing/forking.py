"""Nodes forked from a process that has imported already what every node needs.

Importing is most of what it takes to start a node: more than half a second of processor time. What is
forked is a process like any other, with its own number, signals, files and end; only its command line is
that of the process that it was forked from. A node whose start itself is tested, or whose Python begins in
another way, is run as users run it.
"""

from __future__ import annotations

import atexit
import contextlib
import gc
import importlib
import json
import os
import pkgutil
import runpy
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO, Final

SIZE_MAX: Final = 1 << 20  # bytes of a request: an environment is most of it
POLL_SECONDS: Final = 0.1
_IMPORTED: Final = (
    "twisted.application.app",
    "twisted.application.internet",
    "twisted.application.service",
    "twisted.internet.asyncioreactor",
    "twisted.plugin",
    "twisted.scripts.twistd",
    "uvloop",
)
# What a node does not need, or only with a library that not everybody has.
_LEFT_OUT: Final = tuple(
    f"loghouse.{name}" for name in ("cli", "client", "embedded", "integrations", "tap", "testing", "tracing")
)


class ForkedProcess:
    """A process that was forked for us, as `subprocess.Popen` has it: the part of it that tests use.

    Attributes:
        pid: Its number.
        returncode: How it ended: its exit code, or the negative number of a signal; None while it runs.
    """

    def __init__(self, pid: int, end: int) -> None:
        """Take over a process.

        Args:
            end: A descriptor from which the process that forked it tells how it ended.
        """
        self.pid = pid
        self.returncode: int | None = None
        self._end = end  # closed once it has told
        self._lock = threading.Lock()  # any thread may wait

    def poll(self) -> int | None:
        """Return how it ended; None while it runs."""
        return self._wait(0.0)

    def wait(self, timeout: float | None = None) -> int:
        """Wait until it ends, and return how.

        Raises:
            TimeoutExpired: It did not within `timeout` seconds.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        while (code := self._wait(POLL_SECONDS)) is None:
            if deadline is not None and time.monotonic() > deadline:
                raise subprocess.TimeoutExpired(f"process {self.pid}", timeout or 0.0)
        return code

    def _wait(self, seconds: float) -> int | None:
        with self._lock:
            if self.returncode is None and select.select([self._end], [], [], seconds)[0]:
                told = os.read(self._end, 16)
                os.close(self._end)
                # Nobody told: whoever forked it is gone, and took it along.
                self.returncode = int(told) if told else -signal.SIGKILL
        return self.returncode

    def send_signal(self, number: int) -> None:
        """Send it a signal, unless it has ended."""
        if self.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def kill(self) -> None:
        """`kill -9`; it is gone once `wait` returns."""
        self.send_signal(signal.SIGKILL)

    def terminate(self) -> None:
        """SIGTERM."""
        self.send_signal(signal.SIGTERM)


class Forker:
    """The process that forks nodes for this one, started when the first is wanted; it ends with this one."""

    def __init__(self) -> None:
        self._lock = threading.Lock()  # a request and its answer belong together
        self._socket: socket.socket | None = None  # to the process that forks; None before there is one
        self._process: subprocess.Popen[bytes] | None = None  # that process

    def start(
        self, words: Sequence[str], *, folder: Path, environment: Mapping[str, str], output: BinaryIO
    ) -> ForkedProcess:
        """Run a Python script in a new process.

        Args:
            words: The script's path, and its arguments.
            folder: Where it runs.
            output: Where it writes, both ways.
        """
        request = {"words": list(words), "folder": str(folder), "environment": dict(environment)}
        end, told = os.pipe()
        try:
            with self._lock:
                if self._socket is None:
                    self._process, self._socket = _launch()
                    atexit.register(self.close)
                socket.send_fds(self._socket, [json.dumps(request).encode()], [output.fileno(), told])
                answer = self._socket.recv(SIZE_MAX)
        finally:
            os.close(told)
        if not answer:
            os.close(end)
            raise RuntimeError("the process that forks nodes has ended")
        return ForkedProcess(int(answer), end)

    def close(self) -> None:
        """End the process that forks, and all that it forked."""
        with self._lock:
            if self._socket is not None and self._process is not None:
                self._socket.close()
                self._process.wait()
            self._socket = self._process = None


def _launch() -> tuple[subprocess.Popen[bytes], socket.socket]:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with theirs:
        process = subprocess.Popen(
            [sys.executable, "-m", "loghouse.testing.forking", str(theirs.fileno())],
            stdin=subprocess.DEVNULL,
            pass_fds=[theirs.fileno()],
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        )
    return process, ours


# --- in the process that forks ----------------------------------------------------------------


def _import_all() -> None:
    """Import what a node needs, but for its reactor: that has sockets, which all would share."""
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")  # as `loghouse.tap` has it
    for name in _IMPORTED:
        importlib.import_module(name)
    package = importlib.import_module("loghouse")
    for module in pkgutil.walk_packages(package.__path__, "loghouse."):
        if not module.name.startswith(_LEFT_OUT):
            importlib.import_module(module.name)
    assert "twisted.internet.reactor" not in sys.modules
    gc.collect()
    gc.freeze()


def _serve(asking: socket.socket) -> list[str] | None:
    """Fork whenever asked to; return the words of the script in a forked process, None in this one's end."""
    running: dict[int, tuple[int, int]] = {}  # by a descriptor of the process: its number, and who is told
    while True:
        ready = select.select([asking.fileno(), *running], [], [])[0]
        for descriptor in running.keys() & ready:
            _tell_end(descriptor, *running.pop(descriptor))
        if asking.fileno() in ready:
            request, descriptors, _, _ = socket.recv_fds(asking, SIZE_MAX, 2)
            if not request:
                for descriptor, (pid, told) in running.items():
                    os.kill(pid, signal.SIGKILL)
                    _tell_end(descriptor, pid, told)
                return None
            pid = os.fork()
            output, told = descriptors
            if pid == 0:
                asking.close()
                for number in (told, *running, *(told for _, told in running.values())):
                    os.close(number)
                return _become(json.loads(request), output)
            os.close(output)
            running[os.pidfd_open(pid)] = pid, told
            asking.send(b"%d" % pid)


def _tell_end(descriptor: int, pid: int, told: int) -> None:
    os.close(descriptor)
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    with contextlib.suppress(BrokenPipeError):
        os.write(told, b"%d" % code)
    os.close(told)


def _become(request: dict[str, Any], output: int) -> list[str]:
    """Let this forked process be where, and see the environment, that was asked for; return the words."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.dup2(output, 1)
    os.dup2(output, 2)
    os.close(output)
    os.chdir(request["folder"])
    os.environ.clear()
    os.environ.update(request["environment"])
    return list(request["words"])


def main() -> None:
    """Fork for the process at the other end of a socket, whose descriptor is the only argument."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for who asks, and for what was forked
    asking = socket.socket(fileno=int(sys.argv[1]))
    _import_all()
    words = _serve(asking)
    if words is not None:
        sys.argv = words
        runpy.run_path(words[0], run_name="__main__")


if __name__ == "__main__":
    main()
