"""How one value of node.yaml is read: names, addresses, sizes, time spans, paths.

A reader gets the YAML value and the folder that relative paths start from, and raises ValueError with
what is wrong and what is allowed; `loghouse.config.settings` adds the setting, its line and the value.
"""

from __future__ import annotations

import ipaddress
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, Final

from loghouse.limits import (
    CONNECTIONS_MAX,
    GIB,
    GRPC_CALLS_MAX,
    KIB,
    MIB,
    NAME_SIZE_MAX,
    QUOTA_RATE_MIN,
    QUOTA_RULES_MAX,
    SUBJECT_SIZE_MAX,
    UINT64_MAX,
)
from loghouse.shares import SubjectQuota

Reader = Callable[[object, Path], Any]

UNLIMITED: Final = "unlimited"
_UNIT_BYTES: Final[Mapping[str, int]] = {
    "": 1,
    "b": 1,
    "kib": KIB,
    "mib": MIB,
    "gib": GIB,
    "tib": 1024 * GIB,
    "kb": 10**3,
    "mb": 10**6,
    "gb": 10**9,
    "tb": 10**12,
}
_UNIT_SECONDS: Final[Mapping[str, Fraction | int]] = {
    "": 1,
    "ms": Fraction(1, 1000),
    "s": 1,
    "m": 60,
    "min": 60,
    "h": 3600,
    "d": 86400,
    "w": 604800,
}
_QUANTITY: Final = re.compile(r"([0-9]{1,20}(?:\.[0-9]{1,20})?)\s*([a-zA-Z]*)")
_NAME: Final = re.compile(r"[a-z0-9](?:[a-z0-9-]*[a-z0-9])?")
_HOST: Final = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9.-]*[A-Za-z0-9])?")


@dataclass(frozen=True, slots=True)
class Address:
    """A TCP address. Port 0 listens on any free port."""

    host: str
    port: int

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"

    @property
    def is_loopback(self) -> bool:
        """True when only this machine can reach it."""
        if self.host == "localhost":
            return True
        return _ip_or_none(self.host) is not None and ipaddress.ip_address(self.host).is_loopback

    @property
    def is_wildcard(self) -> bool:
        """True when it means every interface, which nobody can dial."""
        return _ip_or_none(self.host) is not None and ipaddress.ip_address(self.host).is_unspecified

    def meets(self, other: Address) -> bool:
        """Whether two listeners of one machine collide: one port, and the same address or all of them."""
        if self.port != other.port or self.port == 0:
            return False
        hosts = {"127.0.0.1" if host == "localhost" else host for host in (self.host, other.host)}
        return len(hosts) == 1 or self.is_wildcard or other.is_wildcard


def _ip_or_none(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None


def parse_address(text: object) -> Address:
    """Return the address in `host:port` or `[v6]:port`.

    Raises:
        ValueError: Says what is allowed.
    """
    allowed = "allowed: host:port, such as 127.0.0.1:8400, node-1.example:8400 or [::1]:8400"
    if not isinstance(text, str):
        raise ValueError(f"is not an address; {allowed}")
    host, colon, port = text.rpartition(":")
    if not colon or not host:
        raise ValueError(f"has no {'port' if not colon else 'host'}; {allowed}")
    if not re.fullmatch(r"[0-9]{1,5}", port) or int(port) > 65535:
        raise ValueError(f"has no valid port; ports go from 0 to 65535; {allowed}")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
        valid = isinstance(_ip_or_none(host), ipaddress.IPv6Address)
    else:
        dotted = re.fullmatch(r"[0-9.]+", host)
        valid = _ip_or_none(host) is not None if dotted else bool(_HOST.fullmatch(host)) and len(host) <= 253
    if not valid:
        raise ValueError(f"has no valid host; {allowed}")
    return Address(host, int(port))


def parse_size(text: object) -> int:
    """Return a number of bytes: `65536`, `64KiB`, `1.5 GB`.

    Raises:
        ValueError: Says what is allowed.
    """
    allowed = "allowed: a number of bytes, or one with a unit: KiB, MiB, GiB, TiB, kB, MB, GB, TB"
    size = _quantity(text, _UNIT_BYTES)
    if size is None:
        raise ValueError(f"is not a size; {allowed}")
    if size.denominator != 1:
        raise ValueError("is not a whole number of bytes; write one")
    if size > UINT64_MAX:
        raise ValueError(f"is beyond 64 bits; {allowed}")
    return int(size)


def parse_seconds(text: object) -> float:
    """Return a time span in seconds: `90`, `90s`, `15m`, `12h`, `7d`, `2w`, `500ms`.

    Raises:
        ValueError: Says what is allowed.
    """
    allowed = "allowed: a number of seconds, or one with a unit: ms, s, m, h, d, w"
    seconds = _quantity(text, _UNIT_SECONDS)
    if seconds is None:
        raise ValueError(f"is not a time span; {allowed}")
    if seconds > UINT64_MAX:
        raise ValueError(f"is too long; {allowed}")
    return float(seconds)


def _quantity(text: object, units: Mapping[str, Fraction | int]) -> Fraction | None:
    """Return exactly what a number with a unit stands for, or None when it is none."""
    if isinstance(text, bool) or not isinstance(text, (int, float, str)):
        return None
    match = _QUANTITY.fullmatch(str(text).strip())
    if match is None or match[2].lower() not in units:
        return None
    return Fraction(match[1]) * units[match[2].lower()]


def format_size(size: int) -> str:
    """Return a size as a person writes it: 65536 is `64KiB`."""
    for suffix, unit in (("TiB", 1024 * GIB), ("GiB", GIB), ("MiB", MIB), ("KiB", KIB)):
        if size and size % unit == 0:
            return f"{size // unit}{suffix}"
    return str(size)


def read_address(value: object, base: Path) -> Address:
    """Read `host:port`."""
    return parse_address(value)


def read_servers(value: object, base: Path) -> tuple[Address, ...]:
    """Read `host:port,host:port`, or a list of `host:port`; at least one."""
    listed = [part.strip() for part in value.split(",")] if isinstance(value, str) else value
    if not isinstance(listed, list) or not listed:
        listed = [value]
    return tuple(map(_dialled, listed))


def read_name(value: object, base: Path) -> str:
    """Read the name of a node or cluster."""
    allowed = f"allowed: 1 to {NAME_SIZE_MAX} of a-z, 0-9 and -, not starting or ending with -"
    if not isinstance(value, str) or len(value) > NAME_SIZE_MAX or not _NAME.fullmatch(value):
        raise ValueError(f"is not a name; {allowed}")
    return value


def read_subject(value: object, base: Path) -> str:
    """Read the subject that policy rules name."""
    return _read_text(value, "a subject")


def read_place(value: object, base: Path) -> str:
    """Read what people call a machine or a rack."""
    return _read_text(value, "a place")


def _read_text(value: object, what: str) -> str:
    if (
        not isinstance(value, str)
        or not 0 < len(value.encode()) <= SUBJECT_SIZE_MAX
        or not value.isprintable()
    ):
        raise ValueError(f"is not {what}; allowed: 1 to {SUBJECT_SIZE_MAX} printable characters")
    return value


def read_boolean(value: object, base: Path) -> bool:
    """Read true or false."""
    if not isinstance(value, bool):
        raise ValueError("is neither true nor false; allowed: true, false")
    return value


def read_path(value: object, base: Path) -> Path:
    """Read a path and make it absolute."""
    if not isinstance(value, str) or not value or "\0" in value:
        raise ValueError("is not a path; allowed: a path, relative ones start from this file's folder")
    try:
        path = Path(value).expanduser()
    except RuntimeError:
        raise ValueError("begins with the home of a user whom this machine does not know") from None
    return Path(os.path.abspath(base / path))


def read_folder(value: object, base: Path) -> Path:
    """Read the path of a directory that exists or may be made."""
    path = read_path(value, base)
    if os.path.exists(path) and not path.is_dir():
        raise ValueError(f"is not a directory ({path}); allowed: a directory, or a path to make one at")
    return path


def read_file(value: object, base: Path) -> Path:
    """Read the path of a file that this user can read."""
    path = read_path(value, base)
    if not os.path.isfile(path):
        raise ValueError(f"names no file ({path}); allowed: a file that exists")
    if not os.access(path, os.R_OK):
        raise ValueError(f"names a file that this user may not read ({path}); allowed: a readable file")
    return path


def size_between(low: int, high: int, *, zero: str = "") -> Reader:
    """Return a reader of sizes in a range, both ends included.

    Args:
        low, high: The range.
        zero: How 0 is called, `UNLIMITED` or "0", when it may be given although it is out of range.
    """
    allowed = f"allowed: {format_size(low)} to {format_size(high)}" + (f", or {zero}" if zero else "")

    def read(value: object, base: Path) -> int:
        size = 0 if value == zero == UNLIMITED else parse_size(value)
        if (low <= size <= high) or (zero and size == 0):
            return size
        raise ValueError(f"is out of range; {allowed}")

    return read


def count_between(low: int, high: int) -> Reader:
    """Return a reader of whole numbers in a range, both ends included."""

    def read(value: object, base: Path) -> int:
        if type(value) is int and low <= value <= high:
            return value
        raise ValueError(f"is no number of them; allowed: {low} to {high}")

    return read


def seconds_between(low: float, high: float) -> Reader:
    """Return a reader of time spans in a range, both ends included."""

    def read(value: object, base: Path) -> float:
        seconds = parse_seconds(value)
        if low <= seconds <= high:
            return seconds
        raise ValueError(f"is out of range; allowed: {low:g} to {high:g} seconds")

    return read


def read_age(value: object, base: Path) -> int:
    """Read a time span of whole seconds; 0 is without limit."""
    seconds = 0.0 if value == UNLIMITED else parse_seconds(value)
    if seconds and seconds < 1:
        raise ValueError(f"is too short; allowed: 1s or longer, or {UNLIMITED}")
    if seconds != int(seconds):
        raise ValueError("is not a whole number of seconds; write one")
    return int(seconds)


def one_of(*allowed: str) -> Reader:
    """Return a reader of one of these words."""

    def read(value: object, base: Path) -> str:
        if not isinstance(value, str) or value not in allowed:
            raise ValueError(f"is not known; allowed: {', '.join(allowed)}")
        return value

    return read


def read_quotas(value: object, base: Path) -> Mapping[str, SubjectQuota]:
    """Read what single subjects may use: `{SUBJECT: {in: SIZE, out: SIZE, requests: N, connections: N}}`."""
    if value is None:
        return {}
    if not isinstance(value, dict) or len(value) > QUOTA_RULES_MAX:
        raise ValueError(
            f"is no group of subjects; allowed: at most {QUOTA_RULES_MAX} lines `subject: {{...}}`"
        )
    return {_quota_subject(name): _quota(name, given, base) for name, given in value.items()}


def _quota_subject(name: object) -> str:
    subject = _read_text(name, "a subject")
    if "*" in subject[:-1]:
        raise ValueError(
            f"names {subject!r}, which is no subject; * stands only at the end, for all that begin so"
        )
    return subject


def _quota(name: object, given: object, base: Path) -> SubjectQuota:
    allowed = f"allowed: {', '.join(_QUOTA_READERS)}"
    if not isinstance(given, dict) or not given:
        raise ValueError(f"gives {name!r} no group of bounds; {allowed}")
    values = {}
    for key, value in given.items():
        if not isinstance(key, str) or key not in _QUOTA_READERS:
            raise ValueError(f"gives {name!r} a bound {key!r}, which is none; {allowed}")
        attribute, read = _QUOTA_READERS[key]
        try:
            values[attribute] = read(value, base)
        except ValueError as error:
            raise ValueError(f"gives {name!r} a bound {key}: {value!r}, which {error}") from None
    return SubjectQuota(**values)


_QUOTA_READERS: Final[Mapping[str, tuple[str, Reader]]] = {
    "in": ("bytes_in", size_between(QUOTA_RATE_MIN, UINT64_MAX)),
    "out": ("bytes_out", size_between(QUOTA_RATE_MIN, UINT64_MAX)),
    "requests": ("requests", count_between(1, GRPC_CALLS_MAX)),
    "connections": ("connections", count_between(1, CONNECTIONS_MAX)),
}


def quota_text(quota: SubjectQuota) -> str:
    """Return a quota as node.yaml has it."""
    given = ((key, getattr(quota, attribute)) for key, (attribute, _) in _QUOTA_READERS.items())
    texts = (
        f"{key}: {format_size(value) if key in ('in', 'out') else value}" for key, value in given if value
    )
    return f"{{{', '.join(texts)}}}"


def read_addresses(value: object, base: Path) -> tuple[Address, ...]:
    """Read a list of `host:port`."""
    if value is None:
        return ()
    if not isinstance(value, list):
        raise ValueError("is not a list; allowed: a list of host:port")
    return tuple(map(_dialled, value))


def _dialled(item: object) -> Address:
    address = parse_address(item)
    if address.port == 0 or address.is_wildcard:
        raise ValueError(f"cannot be dialled at {address}; allowed: a host, and a port above 0")
    return address
