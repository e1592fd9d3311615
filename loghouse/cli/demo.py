"""`loghouse demo`, which `make run` runs: a node, a file through it and back, and what to try next.

Everything it makes is in one folder (./dev): delete the folder to start over.
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import FrameType
from typing import Any, Final

from loghouse.auth.certificates import (
    find_expiring,
    make_ca,
    make_client_certificate,
    make_node_certificate,
    write_issued,
)
from loghouse.cli.certs import CA_FILE, MODEL_FILE, POLICY_FILE, write_policy
from loghouse.cli.consume import read_until
from loghouse.cli.output import (
    CommandError,
    ExitCode,
    count_text,
    progress_bar,
    size_text,
    write_json,
    write_line,
)
from loghouse.cli.produce import BATCH_SIZE_DEFAULT, Appended, append, lines_of
from loghouse.client.connection import CallError, Connection, Credentials
from loghouse.config_values import Address, parse_address

NODE: Final = "node-1"
CLUSTER: Final = "dev"
CLIENTS: Final = ("root", "nobody")
START_SECONDS_MAX: Final = 60.0
STOP_SECONDS_MAX: Final = 30.0
LOG_TAIL_LINES: Final = 12
REFUSAL: Final = "twistd loghouse: cannot start: "  # what the node writes on stderr then


def add_parser(commands: Any) -> None:
    """Add the command to the parser."""
    parser = commands.add_parser(
        "demo",
        help="run a node of your own with certificates, and put a file through it",
        description="Make development certificates and a node.yaml, start the node, append every line of a "
        "file, read all back, compare, and keep serving until Ctrl-C.",
    )
    parser.add_argument("--dir", type=Path, default=Path("dev"), help="where everything is kept (dev)")
    parser.add_argument("--file", type=Path, default=Path("README.md"), help="the file (README.md)")
    parser.add_argument("--listen", type=_address, default=Address("127.0.0.1", 8400), metavar="HOST:PORT")
    parser.add_argument("--once", action="store_true", help="stop after the comparison")
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    parser.set_defaults(run=run)


def _address(text: str) -> Address:
    try:
        address = parse_address(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} {error}") from None
    if not address.is_loopback or not address.port:
        raise argparse.ArgumentTypeError(
            f"{text!r} is not for development certificates; allowed: a port of 127.0.0.1 or localhost"
        )
    return address


def run(args: argparse.Namespace) -> int:
    """Do it all."""
    folder = Path(os.path.abspath(args.dir))
    if not args.file.is_file():
        raise CommandError(
            f"{args.file}: no such file; name one with --file (make run FILE=...)", ExitCode.USAGE
        )
    _check_port(args.listen)
    prepare(folder, args.listen)
    say = (lambda text: None) if args.json else write_line
    with _node(folder) as node, _connection(folder, args.listen) as connection:
        _wait_until_serving(node, connection)
        say(f"node {NODE} serves gRPC on {args.listen} (its diagnostics: {_shown(folder / 'node.log')})")
        result = round_trip(connection, args.file)
        if args.json:
            write_json(result)
        else:
            _print_result(args.file, result)
        if not args.once:
            _print_next(folder)
            sys.stdout.flush()
            _serve_until_interrupted(node)
        say("stopping the node")
    return ExitCode.OK


# --- what is on disk --------------------------------------------------------------


def prepare(folder: Path, listen: Address) -> None:
    """Make certificates (unless there are good ones), the policy, node.yaml and client.yaml in `folder`.

    Raises:
        CommandError: The folder cannot be written.
        CertificateError: A certificate file in it is broken.
    """
    certs = folder / "certs"
    try:
        certs.mkdir(parents=True, exist_ok=True)
        if _needs_certificates(certs):
            _make_certificates(certs)
        write_policy(certs)
        (folder / "node.yaml").write_text(_node_yaml(listen))
        (folder / "client.yaml").write_text(
            f"# Written by `loghouse demo` on each run; `loghouse` commands in the folder above find it.\n"
            f"server: {listen}\n"
            "tls: {ca: certs/ca.pem, certificate: certs/root.pem, key: certs/root.key}\n"
        )
    except OSError as error:
        raise CommandError(f"{error.filename}: {error.strerror}; choose another folder with --dir") from None


def _needs_certificates(certs: Path) -> bool:
    paths = [certs / f"{name}.pem" for name in (CA_FILE, NODE, *CLIENTS)]
    if not all(path.exists() and path.with_suffix(".key").exists() for path in paths):
        return True
    return bool(find_expiring(paths, now=datetime.now(UTC), within=timedelta(days=1)))


def _make_certificates(certs: Path) -> None:
    now = datetime.now(UTC)
    ca = make_ca("Loghouse development CA", now=now)
    hosts = ["localhost", "127.0.0.1", "::1"]
    issued = {CA_FILE: ca, NODE: make_node_certificate(ca, cluster=CLUSTER, node=NODE, hosts=hosts, now=now)}
    for name in CLIENTS:
        issued[name] = make_client_certificate(ca, name=name, now=now)
    for name, made in issued.items():
        write_issued(made, certs / f"{name}.pem", certs / f"{name}.key", may_replace=True)


def _node_yaml(listen: Address) -> str:
    return (
        "# Written by `loghouse demo` on each run. `loghouse config example` explains every setting.\n"
        f"node: {NODE}\ncluster: {CLUSTER}\ndata_dir: data\nlisten: '{listen}'\n"
        f"tls: {{ca: certs/ca.pem, certificate: certs/{NODE}.pem, key: certs/{NODE}.key}}\n"
        f"acl: {{model: certs/{MODEL_FILE}, policy: certs/{POLICY_FILE}}}\n"
    )


# --- the node ---------------------------------------------------------------------


def _check_port(listen: Address) -> None:
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
class _NodeProcess:
    """The node as a child process. Its diagnostics go to `log_path`, from `log_position` on."""

    process: subprocess.Popen[bytes]
    log_path: Path
    log_position: int

    def why_it_ended(self) -> str:
        """Return the reason it gave, or else the end of what it wrote."""
        with open(self.log_path, "rb") as log:
            log.seek(self.log_position)
            lines = log.read().decode(errors="replace").splitlines()
        text = f"the node ended with exit code {self.process.returncode}"
        for line in lines:
            if line.startswith(REFUSAL):
                reason = line.removeprefix(REFUSAL)
                if " is in use " in reason:
                    return f"{text}: {reason}"
                return (
                    f"{text}: {reason}\nto start over with an empty log: rm -r {_shown(self.log_path.parent)}"
                )
        tail = "\n".join(f"  {line}" for line in lines[-LOG_TAIL_LINES:])
        return f"{text}; {_shown(self.log_path)} ends:\n{tail}"


@contextmanager
def _node(folder: Path) -> Iterator[_NodeProcess]:
    """Run the node as a child while the block runs; then stop it in order, whatever happened."""
    command = [*_twistd(), "--nodaemon", "--pidfile=", "loghouse", "--config", str(folder / "node.yaml")]
    log_path = folder / "node.log"
    with open(log_path, "ab") as log:
        position = log.tell()
        # Its own session: Ctrl-C is for us, and we stop the node in order.
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=folder, start_new_session=True
        )
    before = {number: signal.signal(number, _interrupt) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield _NodeProcess(process, log_path, position)
    finally:
        process.terminate()
        try:
            process.wait(STOP_SECONDS_MAX)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        for number, previous in before.items():
            signal.signal(number, previous)


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _connection(folder: Path, listen: Address) -> Connection:
    certs = folder / "certs"
    credentials = Credentials(
        ca_pem=(certs / "ca.pem").read_bytes(),
        certificate_pem=(certs / "root.pem").read_bytes(),
        key_pem=(certs / "root.key").read_bytes(),
    )
    return Connection(str(listen), credentials, timeout_seconds=1.0)


def _wait_until_serving(node: _NodeProcess, connection: Connection) -> None:
    """Return once the node answers a read that its leader confirmed."""
    deadline = time.monotonic() + START_SECONDS_MAX
    pause = threading.Event()
    while True:
        if node.process.poll() is not None:
            raise CommandError(node.why_it_ended())
        try:
            connection.bounds(wait_for_ready=True)
            return
        except CallError as error:
            if time.monotonic() > deadline:
                raise CommandError(
                    f"the node does not answer after {START_SECONDS_MAX:.0f} s: {error}"
                ) from None
            if error.status not in ("UNAVAILABLE", "DEADLINE_EXCEEDED"):
                raise
        pause.wait(0.05)  # nobody could wake us: another process starts


def _serve_until_interrupted(node: _NodeProcess) -> None:
    try:
        node.process.wait()
    except KeyboardInterrupt:
        write_line()
        return
    raise CommandError(node.why_it_ended())


# --- a file there and back ----------------------------------------------------------


def round_trip(connection: Connection, path: Path) -> dict[str, Any]:
    """Append every line of a file, read them all back, and compare; return the figures.

    Raises:
        CommandError: What came back differs.
        CallError: A call failed.
    """
    appended = Appended()
    with progress_bar(path.stat().st_size, "B", "appending") as bar:
        append(connection, _lines(path), appended, "", BATCH_SIZE_DEFAULT, progress=bar.update)
    started = time.monotonic()
    expected = _lines(path)
    with progress_bar(appended.record_count, " records", "reading back") as bar:
        for offsets in appended.ranges:
            for records in read_until(connection, offsets.start, offsets.stop):
                for read in records:
                    line = next(expected, None)
                    if line != read.record.value:
                        raise CommandError(f"offset {read.offset} came back different from the line appended")
                bar.update(len(records))
    if any(True for _ in expected):
        raise CommandError("fewer records came back than lines were appended")
    seconds = time.monotonic() - started
    return {
        "records": appended.record_count,
        "bytes": appended.size,
        "first_offset": appended.first_offset,
        "last_offset": appended.last_offset,
        "append_seconds": round(appended.seconds, 6),
        "read_seconds": round(seconds, 6),
    }


def _lines(path: Path) -> Iterator[bytes]:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        yield from lines_of(descriptor, str(path))
    finally:
        os.close(descriptor)


def _print_result(path: Path, result: dict[str, Any]) -> None:
    if not result["records"]:
        write_line(f"{path} is empty: nothing to append")
        return
    for verb, key in (("appended, durably", "append_seconds"), ("read back and compared", "read_seconds")):
        seconds = result[key] or 1e-6
        write_line(
            f"{verb}: {count_text(result['records'], 'line')} of {path} ({size_text(result['bytes'])}) "
            f"in {seconds:.3f} s: "
            f"{result['records'] / seconds:,.0f} records/s, {size_text(result['bytes'] / seconds)}/s"
        )
    write_line(
        f"offsets {result['first_offset']} to {result['last_offset']}; every byte came back as it went in"
    )


def _print_next(folder: Path) -> None:
    """Print commands that work as they are, in another terminal."""
    command = "loghouse" if shutil.which("loghouse") else _shown(Path(sys.executable).parent / "loghouse")
    config = "" if folder == Path.cwd() / "dev" else f" --config {_shown(folder / 'client.yaml')}"
    certs = _shown(folder / "certs")
    write_line(
        f"\ntry, in another terminal:\n"
        f"  {command} consume{config} --offset 0 --count 5\n"
        f"  {command} consume{config} --offset latest --follow\n"
        f"  {command} produce{config} --value 'hello'\n"
        f"  {command} servers{config}\n"
        f"  {command} produce{config} --value 'hello' --cert {certs}/nobody.pem --key {certs}/nobody.key"
        "   # is refused\n"
        "\nserving until Ctrl-C"
    )


def _shown(path: Path) -> str:
    """Return a path as short as it can be typed from here."""
    try:
        return str(path.relative_to(Path.cwd()))
    except ValueError:
        return str(path)
