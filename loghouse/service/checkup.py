"""What `loghouse doctor` looks at: whatever a node needs of its machine and of the others, before they fail.

Each check yields findings; none changes anything but for one small file that is written to time the disk, and
removed again.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import socket
import ssl
import stat
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

from cryptography import x509

from loghouse.auth.certificates import find_expiring
from loghouse.auth.identity import identity_of_certificate
from loghouse.config.settings import NodeConfig, TLSConfig, load
from loghouse.config.values import Address, format_size
from loghouse.errors import ConfigError, IdentityError, LoghouseError
from loghouse.limits import CLOCK_DIFFERENCE_SECONDS_MAX, MIB
from loghouse.net.tls import ALPN
from loghouse.service.peer_clocks import ask_clock
from loghouse.service.proving import credentials_of
from loghouse.service.start_checks import check_start, read_policy

OK: Final = "ok"
WARNING: Final = "warning"
PROBLEM: Final = "problem"

EXPIRY_WARNING: Final = timedelta(days=30)
SYNC_SECONDS_SLOW: Final = 0.05  # of a small write: an append takes as long
SYNC_SECONDS_BAD: Final = 1.0  # elections are lost while a disk takes so long
SYNC_COUNT: Final = 7
ROOM_SEGMENTS: Final = 4  # free for so many: a segment is taken ahead, and a trim needs one
CONNECT_SECONDS_MAX: Final = 3.0
MEMORY_FILE_SYSTEMS: Final = ("tmpfs", "ramfs")
_STA_UNSYNC: Final = 0x40


@dataclass(frozen=True, slots=True)
class Symptom:
    """One thing that was looked at. `remedy` says what to do; empty when all is well."""

    level: str
    area: str
    text: str
    remedy: str = ""


def examine(path: Path) -> Iterator[Symptom]:
    """Look at a node.yaml and at all that a node with it needs; what is wrong first may hide other things."""
    try:
        config = load(path)
    except ConfigError as error:
        for problem in error.problems:
            yield Symptom(PROBLEM, "settings", f"{path}: {problem}", "mend the line, then look again")
        return
    yield Symptom(OK, "settings", f"{path}: node {config.name} of cluster {config.cluster}")
    for check in (_policy, _certificates, _start, _disk, _clock, _peers):
        yield from check(config)


def _policy(config: NodeConfig) -> Iterator[Symptom]:
    try:
        rules = read_policy(config).rules
    except ConfigError as error:
        for problem in error.problems:
            yield Symptom(PROBLEM, "policy", problem, "mend the line")
        return
    for warning in rules.warnings:
        yield Symptom(WARNING, "policy", warning, "mend the rule, or take it out")
    if not rules.count:
        yield Symptom(
            WARNING, "policy", f"{config.acl.policy}: has no rule", "nobody may do anything: add one"
        )
    yield Symptom(OK, "policy", f"{rules.count} rules")


def _certificates(config: NodeConfig) -> Iterator[Symptom]:
    tls = config.tls
    if tls is None:
        yield Symptom(OK, "certificates", "none: plaintext, on loopback alone")
        return
    try:
        credentials_of(config)  # the chain, the names, the key, and both TLS stacks
    except LoghouseError as error:
        yield Symptom(PROBLEM, "certificates", str(error), "`loghouse certs node` makes one that fits")
    else:
        yield Symptom(OK, "certificates", f"{tls.certificate} names this node, and its key and CA fit")
    with contextlib.suppress(LoghouseError):
        now = datetime.now(UTC)
        for expiry in find_expiring([tls.certificate, tls.ca], now=now, within=EXPIRY_WARNING):
            level, verb = (PROBLEM, "expired") if expiry.expires_at <= now else (WARNING, "expires")
            text = (
                f"{expiry.path}: the certificate of {expiry.subject} {verb} on {expiry.expires_at:%Y-%m-%d}"
            )
            yield Symptom(
                level, "certificates", text, "put a new one in its place: nodes read it by themselves"
            )
    with contextlib.suppress(OSError):
        mode = stat.S_IMODE(tls.key.stat().st_mode)
        if mode & 0o077:
            text = f"{tls.key}: others than its owner may use the private key (mode {mode:o})"
            yield Symptom(WARNING, "certificates", text, f"chmod 600 {tls.key}")


def _start(config: NodeConfig) -> Iterator[Symptom]:
    checked = check_start(config)
    for problem in checked.problems:
        if not problem.startswith((str(config.acl.policy), str(config.acl.model))):
            yield Symptom(PROBLEM, "start", problem, "a start would end with this")
    if checked.is_running:
        yield Symptom(OK, "start", "a node runs with these settings: ports and data directory are in use")
    elif not checked.problems:
        yield Symptom(OK, "start", f"data directory and ports are free: {config.listen}")


def _disk(config: NodeConfig) -> Iterator[Symptom]:
    place = config.data_dir if config.data_dir.is_dir() else config.data_dir.parent
    if not place.is_dir():
        return  # told by the start
    kind = file_system_of(place)
    if kind in MEMORY_FILE_SYSTEMS:
        yield Symptom(PROBLEM, "disk", f"{place}: is in memory ({kind})", "choose a data_dir on a disk")
    free = os.statvfs(place).f_bavail * os.statvfs(place).f_frsize
    needed = ROOM_SEGMENTS * config.storage.segment_size + config.storage.reserve_size
    text = f"{place}: {free / MIB:.0f} MiB free"
    if free < needed:
        yield Symptom(
            WARNING, "disk", text, f"make room: at least {format_size(needed)}, or lower the retention"
        )
    else:
        yield Symptom(OK, "disk", text)
    with contextlib.suppress(OSError):
        apart = [one.name for one in os.scandir(place) if one.stat().st_dev != place.stat().st_dev]
        if apart and place == config.data_dir:
            text = f"{place}: on another file system: {', '.join(sorted(apart))}"
            yield Symptom(PROBLEM, "disk", text, "files are moved within it: let it be one file system")
    try:
        seconds = sync_seconds(place)
    except OSError as error:
        yield Symptom(
            PROBLEM, "disk", f"{place}: cannot be written: {error.strerror}", "check owner and mode"
        )
        return
    text = f"a write and its sync take {1000 * seconds:.1f} ms"
    if seconds > SYNC_SECONDS_SLOW:
        level = PROBLEM if seconds > SYNC_SECONDS_BAD else WARNING
        yield Symptom(level, "disk", text, "every append waits for it: use a faster disk, or one of its own")
    else:
        yield Symptom(OK, "disk", text)


def sync_seconds(place: Path) -> float:
    """Return how long a small write and its sync take there, in the middle of some.

    Raises:
        OSError: Nothing can be written there.
    """
    path = place / f".loghouse-doctor-{os.getpid()}"
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        times = []
        for _ in range(SYNC_COUNT):
            begin = time.monotonic()
            os.pwrite(descriptor, b"x" * 4096, 0)
            os.fdatasync(descriptor)
            times.append(time.monotonic() - begin)
        return statistics.median(times)
    finally:
        os.close(descriptor)
        path.unlink()


def file_system_of(place: Path) -> str:
    """Return the kind of the file system that a directory is on; empty when that is not known."""
    kind, best = "", -1
    with contextlib.suppress(OSError):
        for line in Path("/proc/mounts").read_text().splitlines():
            fields = line.split()
            if len(fields) > 2 and place.is_relative_to(fields[1]) and len(fields[1]) >= best:
                kind, best = fields[2], len(fields[1])
    return kind


def _clock(config: NodeConfig, kernel_state: Callable[[], int | None] | None = None) -> Iterator[Symptom]:
    state = (kernel_state or _kernel_clock)()
    if state is None:
        yield Symptom(WARNING, "clock", "it is not known whether anything keeps it right", "run NTP")
    elif state & _STA_UNSYNC:
        remedy = "run NTP (chrony, systemd-timesyncd): append times and certificates go by it"
        yield Symptom(WARNING, "clock", "nothing keeps it right, says the kernel", remedy)
    else:
        yield Symptom(OK, "clock", "it is kept right, says the kernel")


def _kernel_clock() -> int | None:
    """Return the status bits of the kernel's clock; None when it does not tell."""
    buffer = ctypes.create_string_buffer(512)  # struct timex; `modes` 0 reads
    try:
        if ctypes.CDLL(None, use_errno=True).adjtimex(buffer) < 0:
            return None
    except (OSError, AttributeError):
        return None
    # modes, offset, freq, maxerror, esterror, status: an int, four longs, an int.
    long_size = ctypes.sizeof(ctypes.c_long)
    return int.from_bytes(buffer.raw[5 * long_size : 5 * long_size + 4], "little")


def _peers(config: NodeConfig) -> Iterator[Symptom]:
    own = {str(config.listen), str(config.public_address)}
    for address in config.join:
        if str(address) not in own:
            found = _peer(config, address)
            yield found
            if found.level == OK and config.http_listen is not None:
                yield _peer_clock(config, Address(address.host, config.http_listen.port))


def context_of(tls: TLSConfig) -> ssl.SSLContext:
    """Return what a node with these files shakes hands with another one by.

    Raises:
        OSError: A file cannot be read.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False  # who it is, is in its certificate's URI
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.verify_flags |= ssl.VerifyFlags.VERIFY_X509_PARTIAL_CHAIN
    context.load_verify_locations(tls.ca)
    context.load_cert_chain(tls.certificate, tls.key)
    return context


def _peer_clock(config: NodeConfig, address: Address) -> Symptom:
    """Compare the clock of a node with this machine's, if it serves HTTP at the port that this one has."""
    tls = config.tls
    assert tls is not None, "a cluster has TLS"
    found = ask_clock(address, None if address.is_loopback else context_of(tls), time.time)
    if found is None or found.node == config.name:
        return Symptom(OK, "clock", f"{address}: no other node's HTTP there, its clock was not compared")
    if abs(found.ahead_seconds) <= CLOCK_DIFFERENCE_SECONDS_MAX:
        return Symptom(OK, "clock", f"{address}: that of {found.node} says the same")
    text = f"{address}: that of {found.node} is {found.text}"
    return Symptom(WARNING, "clock", text, "see which is wrong (`timedatectl` on both), and run NTP there")


def _peer(config: NodeConfig, address: Address) -> Symptom:
    """Shake hands with another node, as this one, and say nothing more."""
    tls = config.tls
    assert tls is not None, "a cluster has TLS"
    try:
        context = context_of(tls)
        context.set_alpn_protocols([ALPN.decode()])
        with (
            socket.create_connection((address.host, address.port), CONNECT_SECONDS_MAX) as plain,
            context.wrap_socket(plain) as shaken,
        ):
            shown = shaken.getpeercert(binary_form=True)
        assert shown is not None
        identity = identity_of_certificate(x509.load_der_x509_certificate(shown))
    except ssl.SSLCertVerificationError as error:
        text = f"{address}: its certificate does not count here: {error.verify_message}"
        return Symptom(PROBLEM, "peers", text, "`loghouse certs node` makes one of the same CA for it")
    except ssl.SSLError as error:
        return Symptom(
            PROBLEM, "peers", f"{address}: speaks no TLS 1.3 of ours: {error.reason}", "is it a node?"
        )
    except OSError as error:
        text = f"{address}: is not reached: {error.strerror or error}"
        return Symptom(WARNING, "peers", text, "start it, or open the port between the two machines")
    except IdentityError as error:
        return Symptom(PROBLEM, "peers", f"{address}: {error}", "is it a node?")
    if not identity.is_node:
        text = f"{address}: shows the certificate of a client, {identity.subject!r}"
        return Symptom(PROBLEM, "peers", text, "`loghouse certs node` makes one for a node")
    if identity.cluster != config.cluster:
        text = f"{address}: is {identity.node} of another cluster, {identity.cluster!r}"
        return Symptom(PROBLEM, "peers", text, f"take it out of `join`, or name its cluster {config.cluster}")
    if identity.node == config.name:
        text = f"{address}: calls itself {identity.node}, as this node does"
        return Symptom(PROBLEM, "peers", text, "give each node a name of its own")
    return Symptom(OK, "peers", f"{address}: is {identity.node} of this cluster")
