"""How one value of node.yaml is read: names, addresses, sizes, time spans, paths.

A reader gets the YAML value and the folder that relative paths start from, and raises ValueError with
what is wrong and what is allowed; `loghouse.config` adds the setting, its line and the value.
"""

from __future__ import annotations

import ipaddress
import math
import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from loghouse.limits import GIB, KIB, MIB, NAME_SIZE_MAX, SUBJECT_SIZE_MAX

Reader = Callable[[object, Path], Any]

_UNIT_BYTES: Final = {
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
_UNIT_SECONDS: Final = {
    "": 1.0,
    "ms": 0.001,
    "s": 1.0,
    "m": 60.0,
    "min": 60.0,
    "h": 3600.0,
    "d": 86400.0,
    "w": 604800.0,
}
_QUANTITY: Final = re.compile(r"([0-9]+(?:\.[0-9]+)?)\s*([a-zA-Z]*)")
_NAME: Final = re.compile(r"[a-z0-9](?:[a-z0-9-]*[a-z0-9])?")
_HOST: Final = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9.-]*[A-Za-z0-9])?")
UINT64_MAX: Final = 2**64 - 1


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
    """Return a number of bytes: `65536`, `64KiB`, `1.5 GB`, or `unlimited` (0).

    Raises:
        ValueError: Says what is allowed.
    """
    allowed = "allowed: a number of bytes, or one with a unit: KiB, MiB, GiB, TiB, kB, MB, GB, TB"
    if text == "unlimited":
        return 0
    if isinstance(text, bool) or not isinstance(text, (int, str)):
        raise ValueError(f"is not a size; {allowed}")
    match = _QUANTITY.fullmatch(str(text).strip())
    if not match or match[2].lower() not in _UNIT_BYTES:
        raise ValueError(f"is not a size; {allowed}")
    unit = _UNIT_BYTES[match[2].lower()]
    size = int(match[1]) * unit if match[1].isdecimal() else int(float(match[1]) * unit)
    if size > UINT64_MAX:
        raise ValueError(f"is beyond 64 bits; {allowed}")
    return size


def parse_seconds(text: object) -> float:
    """Return a time span in seconds: `90`, `90s`, `15m`, `12h`, `7d`, `2w`, `500ms`, or `unlimited` (0).

    Raises:
        ValueError: Says what is allowed.
    """
    allowed = "allowed: a number of seconds, or one with a unit: ms, s, m, h, d, w"
    if text == "unlimited":
        return 0.0
    if isinstance(text, bool) or not isinstance(text, (int, float, str)):
        raise ValueError(f"is not a time span; {allowed}")
    match = _QUANTITY.fullmatch(str(text).strip())
    if not match or match[2].lower() not in _UNIT_SECONDS:
        raise ValueError(f"is not a time span; {allowed}")
    seconds = float(match[1]) * _UNIT_SECONDS[match[2].lower()]
    if not math.isfinite(seconds) or seconds > UINT64_MAX:
        raise ValueError(f"is too long; {allowed}")
    return seconds


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
    return tuple(parse_address(item) for item in listed)


def read_name(value: object, base: Path) -> str:
    """Read the name of a node or cluster."""
    allowed = f"allowed: 1 to {NAME_SIZE_MAX} of a-z, 0-9 and -, not starting or ending with -"
    if not isinstance(value, str) or len(value) > NAME_SIZE_MAX or not _NAME.fullmatch(value):
        raise ValueError(f"is not a name; {allowed}")
    return value


def read_subject(value: object, base: Path) -> str:
    """Read the subject that policy rules name."""
    if (
        not isinstance(value, str)
        or not 0 < len(value.encode()) <= SUBJECT_SIZE_MAX
        or not value.isprintable()
    ):
        raise ValueError(f"is not a subject; allowed: 1 to {SUBJECT_SIZE_MAX} printable characters")
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
    return Path(os.path.abspath(base / Path(value).expanduser()))


def read_folder(value: object, base: Path) -> Path:
    """Read the path of a directory that exists or may be made."""
    path = read_path(value, base)
    if path.exists() and not path.is_dir():
        raise ValueError(f"is not a directory ({path}); allowed: a directory, or a path to make one at")
    return path


def read_file(value: object, base: Path) -> Path:
    """Read the path of a file that this user can read."""
    path = read_path(value, base)
    if not path.is_file():
        raise ValueError(f"names no file ({path}); allowed: a file that exists")
    if not os.access(path, os.R_OK):
        raise ValueError(f"names a file that this user may not read ({path}); allowed: a readable file")
    return path


def size_between(low: int, high: int, *, or_zero: bool = False) -> Reader:
    """Return a reader of sizes in a range, both ends included."""
    allowed = f"allowed: {format_size(low)} to {format_size(high)}" + (", or unlimited" if or_zero else "")

    def read(value: object, base: Path) -> int:
        size = parse_size(value)
        if (low <= size <= high) or (or_zero and size == 0):
            return size
        raise ValueError(f"is out of range; {allowed}")

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
    seconds = parse_seconds(value)
    if seconds and seconds < 1:
        raise ValueError("is too short; allowed: 1s or longer, or unlimited")
    return int(seconds)


def one_of(*allowed: str) -> Reader:
    """Return a reader of one of these words."""

    def read(value: object, base: Path) -> str:
        if not isinstance(value, str) or value not in allowed:
            raise ValueError(f"is not known; allowed: {', '.join(allowed)}")
        return value

    return read


def read_addresses(value: object, base: Path) -> tuple[Address, ...]:
    """Read a list of `host:port`."""
    if value is None:
        return ()
    if not isinstance(value, list):
        raise ValueError("is not a list; allowed: a list of host:port")
    return tuple(parse_address(item) for item in value)
