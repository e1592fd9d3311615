"""What the runner asks of a system of three nodes, and what all of them need."""

import json
import os
import shutil
import subprocess
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

from bench.compare.shape import Shape
from loghouse.limits import MIB
from loghouse.testing.process import Certificates

# Where what is installed stays from one run to the next.
BUILD = Path("build/compare").absolute()
CLIENT_SECONDS_MAX = 300.0
END_SECONDS_MAX = 20.0


class UnavailableError(Exception):
    """A system that cannot be had here; the text says why."""


class Peer(ABC):
    """Three nodes of one system, with TLS, that acknowledge what a majority has on its disks."""

    name: ClassVar[str]
    version: ClassVar[str]
    durability: ClassVar[str]

    @abstractmethod
    def install(self) -> None:
        """Make the programs, unless they are there.

        Raises:
            UnavailableError: They cannot be had.
        """

    @abstractmethod
    def start(self, folder: Path, certificates: Certificates) -> None:
        """Start the nodes, with their data in a folder, and return once they take appends."""

    @abstractmethod
    def append(self, shape: Shape) -> dict[str, float]:
        """Run one client; return `per_second`, and `p50_seconds` and `p99_seconds` of an append."""

    @abstractmethod
    def pids(self) -> Sequence[int]:
        """Of all servers."""

    @abstractmethod
    def stop(self) -> None:
        """End what `start` started, in whatever state it is."""


class Servers:
    """Processes of a peer, each with its output in a file."""

    def __init__(self) -> None:
        self._processes: list[subprocess.Popen[bytes]] = []

    def start(self, command: Sequence[object], output: Path, **environment: str) -> None:
        """Start one more."""
        with open(output, "ab") as file:
            self._processes.append(
                subprocess.Popen(
                    list(map(str, command)), stdout=file, stderr=file, env={**os.environ, **environment}
                )
            )

    @property
    def pids(self) -> list[int]:
        """Of those that were started."""
        return [process.pid for process in self._processes]

    def stop(self) -> None:
        """End all, first in order, then by force."""
        for process in self._processes:
            process.terminate()
        deadline = time.monotonic() + END_SECONDS_MAX
        for process in self._processes:
            try:
                process.wait(max(deadline - time.monotonic(), 0.1))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self._processes.clear()


def build_go(name: str, module: str, version: str, package: str) -> Path:
    """Return the program that a Go package is, built in a module of its own unless it is there.

    Raises:
        UnavailableError: There is no Go, or the module cannot be had or built.
    """
    program = BUILD / f"{name}-{version}"
    if program.exists():
        return program
    if shutil.which("go") is None:
        raise UnavailableError(f"{name}: there is no Go here to build it")
    folder = BUILD / f"{name}-module"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "go.mod").write_text("module compare\n\ngo 1.25\n")
    for words in (["get", f"{module}@{version}"], ["build", "-o", str(program), package]):
        done = subprocess.run(["go", *words], cwd=folder, stderr=subprocess.PIPE, text=True, check=False)
        if done.returncode:
            raise UnavailableError(f"{name}: go {words[0]}: {done.stderr.strip().splitlines()[-1]}")
    return program


def clients_python() -> Path:
    """Return the Python that has the peers' client libraries (`requirements/compare.txt`).

    Raises:
        UnavailableError: They cannot be installed.
    """
    python, wanted = BUILD / "venv/bin/python", Path("requirements/compare.txt")
    stamp = BUILD / "venv/.installed"
    if stamp.exists() and stamp.read_text() == wanted.read_text():
        return python
    subprocess.run([sys.executable, "-m", "venv", BUILD / "venv"], check=True)
    install = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "-r", wanted]
    done = subprocess.run(install, stderr=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        raise UnavailableError(f"client libraries: pip: {done.stderr.strip().splitlines()[-1]}")
    stamp.write_text(wanted.read_text())
    return python


def run_client(system: str, target: str, certificates: Certificates, shape: Shape) -> dict[str, float]:
    """Return what `bench.compare.clients` measured."""
    words = [system, target, certificates.folder, shape.size, shape.window, shape.count]
    command = [clients_python(), "-m", "bench.compare.clients", *map(str, words)]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True, timeout=CLIENT_SECONDS_MAX)
    found: dict[str, float] = json.loads(done.stdout)
    return found


def cpu_seconds(pid: int) -> float:
    """Return the processor time of a process and its threads so far (clock_getcpuclockid)."""
    return time.clock_gettime(~pid << 3 | 2)


def resident_mib(pid: int) -> float:
    """Return the resident memory of a process, in MiB."""
    fields = Path(f"/proc/{pid}/statm").read_text().split()
    return int(fields[1]) * os.sysconf("SC_PAGE_SIZE") / MIB
