"""Real nodes for tests and benchmarks: `twistd -n loghouse` as a child process, with its own files.

Nothing here waits by sleeping a fixed time: it waits for a condition, with a deadline.
"""

from __future__ import annotations

import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import grpc

from loghouse.api.v1 import log_pb2, log_pb2_grpc
from loghouse.auth.certificates import (
    Issued,
    make_ca,
    make_client_certificate,
    make_node_certificate,
    write_issued,
)
from loghouse.cli.certs import write_policy
from loghouse.limits import GRPC_MESSAGE_SIZE_MAX
from loghouse.testing.forking import ForkedProcess, Forker

DEADLINE_SECONDS: Final = 60.0
POLL_SECONDS: Final = 0.01
CLUSTER: Final = "test"
# Python runs its `sitecustomize` first: it can shift the wall clock of a process, and fill its disk.
HOOKS: Final = Path(__file__).resolve().parent / "hooks"


def wait_until(condition: Callable[[], bool], what: str, seconds_max: float = DEADLINE_SECONDS) -> None:
    """Return once `condition` holds.

    Raises:
        TimeoutError: It did not within `seconds_max`; `what` says what was waited for.
    """
    deadline = time.monotonic() + seconds_max
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"waited {seconds_max:g} s for {what}")
        time.sleep(POLL_SECONDS)


def free_port() -> int:
    """Return a TCP port of the loopback interface that nobody listened on just now.

    It is below the range from which the kernel takes ports for outgoing connections, so that none of them
    takes it while its node is down.
    """
    lowest = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    rng = random.SystemRandom()
    for _ in range(1000):
        port = rng.randrange(max(1024, lowest // 2), lowest)
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as servers do
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            if port not in _given_ports:
                _given_ports.add(port)
                return port
    raise RuntimeError("no free port below the range of outgoing connections")


_given_ports: set[int] = set()
_forker: Final = Forker()


class Certificates:
    """A CA with node-1 to node-5, root and nobody, as `<name>.pem` and `<name>.key` in a folder."""

    def __init__(self, folder: Path, cluster: str = CLUSTER) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        now = datetime.now(UTC)
        self.authority = make_ca("test CA", now=now)
        self._write("ca", self.authority)
        for number in range(1, 6):
            name = f"node-{number}"
            issued = make_node_certificate(
                self.authority, cluster=cluster, node=name, hosts=["localhost", "127.0.0.1"], now=now
            )
            self._write(name, issued)
        for name in ("root", "nobody"):
            self._write(name, make_client_certificate(self.authority, name=name, now=now))
        write_policy(folder)

    def _write(self, name: str, issued: Issued) -> None:
        write_issued(issued, self.path(name), self.key_path(name))

    def path(self, name: str) -> Path:
        """The certificate's file."""
        return self.folder / f"{name}.pem"

    def key_path(self, name: str) -> Path:
        """The private key's file."""
        return self.folder / f"{name}.key"

    def channel_credentials(self, name: str) -> grpc.ChannelCredentials:
        """gRPC credentials of the client or node `name`."""
        return grpc.ssl_channel_credentials(
            self.path("ca").read_bytes(), self.key_path(name).read_bytes(), self.path(name).read_bytes()
        )


class NodeProcess:
    """One node: its node.yaml, its data directory, and its process while it runs."""

    def __init__(
        self,
        folder: Path,
        certificates: Certificates,
        *,
        name: str = "node-1",
        cluster: str = CLUSTER,
        settings: str = "",
        is_forked: bool = False,
    ) -> None:
        """Write the settings; nothing is started.

        Args:
            settings: More YAML for node.yaml, at the top level.
            is_forked: Each start forks a process that has imported what it needs, unless that start has a
                prefix or its Python other folders to look through.
        """
        self.folder = folder
        self.certificates = certificates
        self.name = name
        self.cluster = cluster
        self.port = free_port()
        self.http_port = 0  # where its settings say that it serves HTTP; 0: nowhere
        self.data_dir = folder / "data"
        self.output_path = folder / "output.log"
        self.process: subprocess.Popen[bytes] | ForkedProcess | None = None
        self._is_forked = is_forked
        # For the next start: more variables, and folders that Python looks through before all others.
        self.environment: dict[str, str] = {}
        self.python_path: tuple[Path, ...] = ()
        folder.mkdir(parents=True, exist_ok=True)
        self.config_path = folder / "node.yaml"
        self._settings = settings
        self.write_config()

    def add_hooks(self) -> None:
        """From the next start on, let `step_clock`, `fill_disk` and `free_disk` work."""
        self.environment |= {"CLOCK_FILE": str(self._clock_path), "FULL_DISK_FILE": str(self._full_disk_path)}
        self.python_path = (HOOKS,)

    @property
    def _clock_path(self) -> Path:
        return self.folder / "clock"

    @property
    def _full_disk_path(self) -> Path:
        return self.folder / "full-disk"

    def step_clock(self, seconds: int) -> None:
        """Let the process's wall clock be off by so many seconds, at once; needs `add_hooks`."""
        temporary = self.folder / "clock.new"
        temporary.write_text(str(seconds))
        temporary.replace(self._clock_path)

    def fill_disk(self) -> None:
        """Leave no room for entries on the node's disk; needs `add_hooks`."""
        self._full_disk_path.touch()

    def free_disk(self) -> None:
        """Give the node's disk its room back."""
        self._full_disk_path.unlink(missing_ok=True)

    def write_config(
        self, *, join: Sequence[str] = (), bootstrap: bool | None = None, advertise: str | None = None
    ) -> None:
        """Write node.yaml, without what is not given; a running node does not see it."""
        certificates = self.certificates
        lines = [
            f"node: {self.name}",
            f"cluster: {self.cluster}",
            f"data_dir: {self.data_dir}",
            f"listen: 127.0.0.1:{self.port}",
            f"tls:\n  ca: {certificates.path('ca')}\n  certificate: {certificates.path(self.name)}",
            f"  key: {certificates.key_path(self.name)}",
            f"acl:\n  model: {certificates.folder}/model.conf\n  policy: {certificates.folder}/policy.csv",
        ]
        if join:
            lines.append(f"join: [{', '.join(repr(address) for address in join)}]")
        if bootstrap is not None:
            lines.append(f"bootstrap: {str(bootstrap).lower()}")
        if advertise is not None:
            lines.append(f"advertise: {advertise!r}")
        self.config_path.write_text("\n".join([*lines, self._settings, ""]))

    @property
    def address(self) -> str:
        """Where clients dial."""
        return f"127.0.0.1:{self.port}"

    def start(self, *, wait: bool = True, prefix: tuple[str, ...] = ()) -> None:
        """Start the process and, unless told not to, wait until it answers a call.

        Args:
            prefix: Words before the command, such as `prlimit --fsize=…`.
        """
        twistd = Path(sys.executable).with_name("twistd")
        node = [sys.executable, twistd, "-n", "--pidfile=", "loghouse", "--config", self.config_path]
        path = os.pathsep.join(filter(None, [*map(str, self.python_path), *sys.path]))
        environment = {**os.environ, **self.environment, "PYTHONPATH": path}
        with open(self.output_path, "ab") as output:
            if self._is_forked and not prefix and not self.python_path:
                self.process = _forker.start(
                    [*map(str, node[1:])], folder=self.folder, environment=environment, output=output
                )
            else:
                self.process = subprocess.Popen(
                    [*prefix, *map(str, node)],
                    stdout=output,
                    stderr=output,
                    cwd=self.folder,
                    env=environment,
                )
        if wait:
            self.wait_serving()

    def wait_serving(self, seconds_max: float = DEADLINE_SECONDS) -> None:
        """Wait until the node answers a call.

        Raises:
            RuntimeError: The process ended instead; the text holds what it wrote.
        """
        with self.channel() as channel:
            stub = log_pb2_grpc.LogStub(channel)  # type: ignore[no-untyped-call]

            def answers() -> bool:
                assert self.process is not None
                if self.process.poll() is not None:
                    raise RuntimeError(f"the node ended with {self.process.returncode}:\n{self.output()}")
                try:
                    stub.Bounds(log_pb2.BoundsRequest(), timeout=5)
                except grpc.RpcError:
                    return False
                return True

            wait_until(answers, "the node to serve", seconds_max)

    def channel(self, subject: str = "root") -> grpc.Channel:
        """A blocking channel to the node as `subject`; it dials again at once after a refusal.

        `grpc.min_reconnect_backoff_ms` stays as it is, 20 s: it is what a handshake may take, not a pause.
        """
        options = [
            ("grpc.max_receive_message_length", GRPC_MESSAGE_SIZE_MAX),
            ("grpc.max_send_message_length", GRPC_MESSAGE_SIZE_MAX),
            ("grpc.initial_reconnect_backoff_ms", 20),
            ("grpc.max_reconnect_backoff_ms", 100),
            ("grpc.use_local_subchannel_pool", 1),
        ]
        return grpc.secure_channel(self.address, self.certificates.channel_credentials(subject), options)

    def output(self) -> str:
        """What the process wrote so far."""
        return self.output_path.read_text(errors="replace") if self.output_path.exists() else ""

    def kill(self) -> None:
        """`kill -9`, and wait until it is gone."""
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def stop(self) -> int:
        """SIGTERM, and return the exit code."""
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        return self.wait()

    def pause(self) -> None:
        """SIGSTOP: the process stands still, its sockets stay open."""
        assert self.process is not None
        self.process.send_signal(signal.SIGSTOP)
        status = Path(f"/proc/{self.process.pid}/stat")
        wait_until(lambda: status.read_text().rpartition(")")[2].split()[0] == "T", "the process to stop")

    def resume(self) -> None:
        """SIGCONT."""
        assert self.process is not None
        self.process.send_signal(signal.SIGCONT)

    @property
    def is_running(self) -> bool:
        """Whether the process was started and has not ended; a paused one runs, too."""
        return self.process is not None and self.process.poll() is None

    @property
    def pid(self) -> int:
        """Of the process."""
        assert self.process is not None
        return self.process.pid

    def wait(self) -> int:
        """Return the exit code once the process ends by itself."""
        assert self.process is not None
        return self.process.wait(DEADLINE_SECONDS)

    def close(self) -> None:
        """End the process in whatever state it is; for cleanups."""
        if self.process is not None and self.process.poll() is None:
            self.kill()

    def anonymous_size(self) -> int:
        """Bytes of private anonymous memory of the running process."""
        assert self.process is not None
        for line in Path(f"/proc/{self.process.pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Anonymous:"):
                return int(line.split()[1]) * 1024
        raise RuntimeError("the kernel gave no Anonymous line")
