"""The files and processes of `loghouse demo`: certificates, node.yaml, `twistd loghouse` as children."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import FrameType
from typing import Final

from loghouse.auth.certificates import (
    find_expiring,
    make_ca,
    make_client_certificate,
    make_node_certificate,
    write_issued,
)
from loghouse.cli.certs import CA_FILE, MODEL_FILE, POLICY_FILE, write_policy
from loghouse.cli.output import CommandError, write_line
from loghouse.client import Client, Tls, connect_blocking
from loghouse.config.values import Address
from loghouse.errors import UnavailableError

CLUSTER: Final = "dev"
CLIENTS: Final = ("root", "nobody")
HTTP_PORTS_BEHIND: Final = 80  # the ports for HTTP, behind those of the nodes: 8480 for 8400
START_SECONDS_MAX: Final = 60.0
STOP_SECONDS_MAX: Final = 30.0
LOG_TAIL_LINES: Final = 12
APPEND_SECONDS_MAX: Final = 30.0
ASK_SECONDS: Final = 1.0  # how long a node may take to answer a question before it is asked again
POLL_SECONDS: Final = 0.05
WATCH_SECONDS: Final = 0.2
REFUSAL: Final = "twistd loghouse: cannot start: "  # what the node writes on stderr then


@dataclass(frozen=True, slots=True)
class DemoNode:
    """A node of the demo: its name, where it listens, and the folder of its files."""

    name: str
    listen: Address
    folder: Path

    @property
    def http_listen(self) -> Address:
        """Where it serves HTTP."""
        return Address(self.listen.host, self.listen.port + HTTP_PORTS_BEHIND)

    @property
    def log_path(self) -> Path:
        """Where its diagnostics go."""
        return self.folder / "node.log"


def demo_nodes(folder: Path, listen: Address, node_count: int) -> list[DemoNode]:
    """Return the nodes: one lives in `folder` itself, several below it, on ports from `listen` on."""
    if node_count == 1:
        return [DemoNode("node-1", listen, folder)]
    return [
        DemoNode(f"node-{n + 1}", Address(listen.host, listen.port + n), folder / f"node-{n + 1}")
        for n in range(node_count)
    ]


# --- what is on disk --------------------------------------------------------------


def prepare(folder: Path, nodes: Sequence[DemoNode]) -> None:
    """Make certificates (unless there are good ones), the policy, each node.yaml, and client.yaml.

    Raises:
        CommandError: The folder cannot be written.
        CertificateError: A certificate file in it is broken.
    """
    certs = folder / "certs"
    names = [node.name for node in nodes]
    try:
        certs.mkdir(parents=True, exist_ok=True)
        if _needs_certificates(certs, names):
            _make_certificates(certs, names)
        write_policy(certs)
        for node in nodes:
            node.folder.mkdir(exist_ok=True)
            (node.folder / "node.yaml").write_text(
                _node_yaml(node, nodes, os.path.relpath(certs, node.folder))
            )
        (folder / "client.yaml").write_text(
            f"# Written by `loghouse demo` on each run; `loghouse` commands in the folder above find it.\n"
            f"server: '{','.join(str(node.listen) for node in nodes)}'\n"
            f"cluster: {CLUSTER}\n"
            "tls: {ca: certs/ca.pem, certificate: certs/root.pem, key: certs/root.key}\n"
        )
    except OSError as error:
        raise CommandError(f"{error.filename}: {error.strerror}; choose another folder with --dir") from None


def _needs_certificates(certs: Path, nodes: Sequence[str]) -> bool:
    paths = [certs / f"{name}.pem" for name in (CA_FILE, *nodes, *CLIENTS)]
    if not all(path.exists() and path.with_suffix(".key").exists() for path in paths):
        return True
    return bool(find_expiring(paths, now=datetime.now(UTC), within=timedelta(days=1)))


def _make_certificates(certs: Path, nodes: Sequence[str]) -> None:
    now = datetime.now(UTC)
    ca = make_ca("Loghouse development CA", now=now)
    hosts = ["localhost", "127.0.0.1", "::1"]
    issued = {CA_FILE: ca}
    for name in nodes:
        issued[name] = make_node_certificate(ca, cluster=CLUSTER, node=name, hosts=hosts, now=now)
    for name in CLIENTS:
        issued[name] = make_client_certificate(ca, name=name, now=now)
    for name, made in issued.items():
        write_issued(made, certs / f"{name}.pem", certs / f"{name}.key", may_replace=True)


def _node_yaml(node: DemoNode, nodes: Sequence[DemoNode], certs: str) -> str:
    lines = [
        "# Written by `loghouse demo` on each run. `loghouse config example` explains every setting.",
        f"node: {node.name}\ncluster: {CLUSTER}\ndata_dir: data\nlisten: '{node.listen}'",
        f"tls: {{ca: {certs}/ca.pem, certificate: {certs}/{node.name}.pem, key: {certs}/{node.name}.key}}",
        f"http_listen: '{node.http_listen}'\nhttp: {{loopback_subject: root}}",
        f"acl: {{model: {certs}/{MODEL_FILE}, policy: {certs}/{POLICY_FILE}}}",
    ]
    if len(nodes) > 1:
        addresses = ", ".join(f"'{other.listen}'" for other in nodes)
        lines += [f"join: [{addresses}]", f"bootstrap: {str(node is nodes[0]).lower()}"]
    return "\n".join([*lines, ""])


# --- processes -------------------------------------------------------------------


def check_port(listen: Address) -> None:
    """Raise CommandError unless a node can listen there."""
    family = socket.AF_INET6 if ":" in listen.host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as servers do: TIME_WAIT is no reason
        try:
            probe.bind((listen.host, listen.port))
        except OSError as error:
            raise CommandError(
                f"{listen} cannot be used: {error.strerror}; is another `make run` on? Stop it, or choose "
                "another port with --listen (make run LISTEN=127.0.0.1:8500)"
            ) from None


def _twistd() -> list[str]:
    script = Path(sys.executable).parent / "twistd"
    if script.exists():
        return [sys.executable, str(script)]
    return [sys.executable, "-c", "from twisted.scripts.twistd import run; run()"]


@dataclass(frozen=True, slots=True)
class Running:
    """A node as a child process. Its diagnostics go to its log, from `log_position` on."""

    node: DemoNode
    process: subprocess.Popen[bytes]
    log_position: int

    def why_it_ended(self) -> str:
        """Return the reason it gave, or else the end of what it wrote."""
        with open(self.node.log_path, "rb") as log:
            log.seek(self.log_position)
            lines = log.read().decode(errors="replace").splitlines()
        text = f"{self.node.name} ended with exit code {self.process.returncode}"
        for line in lines:
            if line.startswith(REFUSAL):
                reason = line.removeprefix(REFUSAL)
                if " is in use " in reason:
                    return f"{text}: {reason}"
                return f"{text}: {reason}\nto start over with an empty log: rm -r {shown(self.node.folder)}"
        tail = "\n".join(f"  {line}" for line in lines[-LOG_TAIL_LINES:])
        return f"{text}; {shown(self.node.log_path)} ends:\n{tail}"

    def check(self) -> None:
        """Raise CommandError if it ended."""
        if self.process.poll() is not None:
            raise CommandError(self.why_it_ended())

    def kill(self) -> None:
        """`kill -9`, and wait until it is gone."""
        self.process.kill()
        self.process.wait()


@contextmanager
def interruptible() -> Iterator[None]:
    """Let SIGTERM and SIGHUP end the block as Ctrl-C does."""
    before = {number: signal.signal(number, _interrupt) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, previous in before.items():
            signal.signal(number, previous)


@contextmanager
def run_node(node: DemoNode) -> Iterator[Running]:
    """Run a node as a child while the block runs; then stop it in order, whatever happened."""
    command = [*_twistd(), "--nodaemon", "--pidfile=", "loghouse", "--config", str(node.folder / "node.yaml")]
    with open(node.log_path, "ab") as log:
        position = log.tell()
        # Its own session: Ctrl-C is for us, and we stop the node in order.
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=node.folder, start_new_session=True
        )
    try:
        yield Running(node, process, position)
    finally:
        process.terminate()
        try:
            process.wait(STOP_SECONDS_MAX)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def connect_to(node: DemoNode, folder: Path) -> Client:
    """A client of this node alone, as root, whose certificate is in `folder`.

    By gRPC, as any other language would; the commands printed for the user speak the binary protocol.
    """
    certs = folder / "certs"
    tls = Tls(ca=certs / "ca.pem", certificate=certs / "root.pem", key=certs / "root.key")
    return connect_blocking(
        str(node.listen), tls=tls, timeout_seconds=APPEND_SECONDS_MAX, is_direct=True, transport="grpc"
    )


def wait_until_serving(running: Running, log: Client) -> None:
    """Return once the node answers a read that its leader confirmed."""
    deadline = time.monotonic() + START_SECONDS_MAX
    while True:
        running.check()
        try:
            log.bounds(timeout_seconds=ASK_SECONDS)
            return
        except UnavailableError as error:
            if time.monotonic() > deadline:
                raise CommandError(
                    f"{running.node.name} does not answer after {START_SECONDS_MAX:.0f} s: {error}"
                ) from None


def serve_until_interrupted(nodes: Sequence[Running], say: Callable[[str], None]) -> None:
    """Return at Ctrl-C; a node that ends while others go on is told.

    Raises:
        CommandError: The last node ended by itself.
    """
    left = list(nodes)
    try:
        while True:
            for running in left:
                if running.process.poll() is not None:
                    left.remove(running)
                    if not left:
                        raise CommandError(running.why_it_ended())
                    say(f"{running.why_it_ended()}\nthe others go on; start it again from another terminal:")
                    settings = shown(running.node.folder / "node.yaml")
                    say(f"  {typed('twistd')} -n loghouse --config {settings}")
                    say("or end this, and start all again: what was acknowledged is there")
                    sys.stdout.flush()
                    break
            # Not an event's wait: a signal that raises within its lock ends in an error of that lock.
            time.sleep(WATCH_SECONDS)
    except KeyboardInterrupt:
        write_line()


def typed(command: str) -> str:
    """Return how a command beside this Python is typed: by its name if that is found, else by its path."""
    return command if shutil.which(command) else shown(Path(sys.executable).parent / command)


def shown(path: Path) -> str:
    """Return a path as short as it can be typed from here."""
    try:
        return str(path.relative_to(Path.cwd()))
    except ValueError:
        return str(path)
