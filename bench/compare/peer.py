"""What the runner asks of a system of three nodes, and what all of them need."""

import json
import os
import subprocess
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.compare.install import UnavailableError, clients_python
from bench.compare.shape import LOG, Append
from loghouse.limits import MIB
from loghouse.testing.process import Certificates

CLIENT_SECONDS_MAX = 300.0
END_SECONDS_MAX = 20.0
MEND_SECONDS_MAX = 90.0


class Peer(ABC):
    """Three nodes of one system, with TLS, that acknowledge what a majority has on its disks."""

    name: str
    version: str
    durability: str
    # The kinds of shapes that it does not take part in, and why.
    lacks: Mapping[str, str] = {}

    @abstractmethod
    def install(self) -> None:
        """Make the programs, unless they are there.

        Raises:
            UnavailableError: They cannot be had.
        """

    @abstractmethod
    def start(self, folder: Path, certificates: Certificates) -> None:
        """Start the nodes, with their data in a folder, and return once they take appends to the log."""

    @abstractmethod
    def client(self, job: str, log: str, *numbers: int) -> dict[str, Any]:
        """Run one client process; return what it prints. `bench.compare.jobs` says which jobs there are."""

    def append(self, shape: Append) -> dict[str, float]:
        """Run one client; return `per_second`, and `p50_seconds` and `p99_seconds` of an append."""
        return self.client("append", LOG, shape.size, shape.window, shape.count)

    @abstractmethod
    def pids(self) -> Sequence[int]:
        """Of all servers."""

    @abstractmethod
    def pid_of(self, leader: str) -> int:
        """Of the node that the client calls the leader."""

    @abstractmethod
    def mend(self) -> None:
        """Start the nodes again that were killed, and return once all three take part."""

    @abstractmethod
    def stop(self) -> None:
        """End what `start` started, in whatever state it is."""


@dataclass(slots=True)
class Server:
    """One process of a peer, and how to start it again."""

    command: list[str]
    output: Path
    environment: dict[str, str]
    process: "subprocess.Popen[bytes]"


class Servers:
    """Processes of a peer, each with its output in a file."""

    def __init__(self) -> None:
        self._servers: list[Server] = []

    def start(self, command: Sequence[object], output: Path, **environment: str) -> None:
        """Start one more."""
        words = list(map(str, command))
        self._servers.append(Server(words, output, environment, _begin(words, output, environment)))

    @property
    def pids(self) -> list[int]:
        """Of those that were started, in that order."""
        return [server.process.pid for server in self._servers]

    def revive(self) -> None:
        """Start those again that have ended."""
        for server in self._servers:
            try:
                server.process.wait(0)
            except subprocess.TimeoutExpired:
                continue
            server.process = _begin(server.command, server.output, server.environment)

    def stop(self) -> None:
        """End all, first in order, then by force."""
        for server in self._servers:
            server.process.terminate()
        deadline = time.monotonic() + END_SECONDS_MAX
        for server in self._servers:
            try:
                server.process.wait(max(deadline - time.monotonic(), 0.1))
            except subprocess.TimeoutExpired:
                server.process.kill()
                server.process.wait()
        self._servers.clear()


def _begin(command: list[str], output: Path, environment: Mapping[str, str]) -> "subprocess.Popen[bytes]":
    with open(output, "ab") as file:
        return subprocess.Popen(command, stdout=file, stderr=file, env={**os.environ, **environment})


class Strangers(Peer):
    """A peer whose nodes are processes of `servers`, and whose client is that of `bench.compare.clients`."""

    def __init__(self) -> None:
        self.servers = Servers()
        self.targets: list[str] = []
        self.certificates: Certificates | None = None

    def client(self, job: str, log: str, *numbers: int) -> dict[str, Any]:
        assert self.certificates is not None
        return run_client(
            [clients_python(), "-m", "bench.compare.clients", self.name.lower()],
            [job, ",".join(self.targets), self.certificates.folder, log, *numbers],
        )

    def wait_log(self, log: str = LOG) -> None:
        """Make a log, as soon as the nodes let it, and return once its three replicas take part."""
        deadline = time.monotonic() + MEND_SECONDS_MAX
        while True:
            try:
                self.client("make", log)
                return
            except subprocess.CalledProcessError as error:
                if time.monotonic() > deadline:
                    raise UnavailableError(f"{self.name}: does not start: {error.stderr}") from error

    def pids(self) -> Sequence[int]:
        return self.servers.pids

    def pid_of(self, leader: str) -> int:
        return self.servers.pids[int(leader) - 1]

    def mend(self) -> None:
        self.servers.revive()
        self.wait_log()

    def stop(self) -> None:
        self.servers.stop()


def run_client(program: Sequence[object], words: Sequence[object]) -> dict[str, Any]:
    """Run a client process to its end; return what it printed.

    Raises:
        subprocess.CalledProcessError: It failed; with what it said about it.
    """
    command = [*map(str, program), *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=CLIENT_SECONDS_MAX, check=False)
    if done.returncode:
        raise ClientError(done.returncode, command, done.stdout, done.stderr)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


class ClientError(subprocess.CalledProcessError):
    """A client process that failed; its text has the last line of what it said."""

    def __str__(self) -> str:
        said = self.stderr.strip().splitlines() or ["it says nothing"]
        return f"{' '.join(self.cmd[2:5])}: {said[-1]}"


def cpu_seconds(pid: int) -> float:
    """Return the processor time of a process and its threads so far (clock_getcpuclockid)."""
    return time.clock_gettime(~pid << 3 | 2)


def resident_mib(pid: int) -> float:
    """Return the resident memory of a process, in MiB."""
    fields = Path(f"/proc/{pid}/statm").read_text().split()
    return int(fields[1]) * os.sysconf("SC_PAGE_SIZE") / MIB
