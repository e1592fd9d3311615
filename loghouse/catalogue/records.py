"""The records of the catalogue: one JSON object each, so that the log can be read by people as it is.

    {"kind": "log created", "at": 1764428400000000, "by": "root", "name": "orders", "group": 16, ...}

What a record means is said by its class; `at` (microseconds since the epoch) and `by` (a subject) are for
people: nothing is decided by them, though the time of a log's creation is in its first entry. A reader
ignores fields that it does not know: later versions may write more of them. A kind that it does not know it
must not pass over (`docs/catalogue.md`).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from types import MappingProxyType
from typing import Any, ClassVar, Final, TypeVar

from loghouse.errors import MalformedMessageError
from loghouse.limits import (
    CATALOGUE_RECORD_SIZE_MAX,
    LOG_TAG_SIZE_MAX,
    LOG_TAGS_MAX,
    LOGS_MAX,
    REPLICAS_PER_LOG_MAX,
    REPLICAS_PER_NODE_DEFAULT,
    SUBJECT_SIZE_MAX,
    UINT32_MAX,
    UINT64_MAX,
    UUID_SIZE,
)
from loghouse.protocol.message import check_name, check_text

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class LogSettings:
    """What may be changed of a log while it runs; sizes in bytes, 0 means without limit.

    Attributes:
        replicas: How many nodes hold it.
        retention_bytes, retention_seconds: How much of it is kept.
        record_bytes_max: The largest record that is taken.
        append_bytes_per_second_max: How fast it may grow.
        tags: Words for people and their tools.
    """

    replicas: int = 3
    retention_bytes: int = 0
    retention_seconds: int = 0
    record_bytes_max: int = 0
    append_bytes_per_second_max: int = 0
    tags: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not 1 <= self.replicas <= REPLICAS_PER_LOG_MAX:
            raise ValueError(f"{self.replicas} replicas, allowed: 1 to {REPLICAS_PER_LOG_MAX}")
        sizes = (
            self.retention_bytes,
            self.retention_seconds,
            self.record_bytes_max,
            self.append_bytes_per_second_max,
        )
        if not all(0 <= size <= UINT64_MAX for size in sizes):
            raise ValueError("a limit is not between 0 and 2^64 - 1")
        if len(self.tags) > LOG_TAGS_MAX:
            raise ValueError(f"{len(self.tags)} tags, at most {LOG_TAGS_MAX}")
        for tag in self.tags:
            check_text("tag", tag, LOG_TAG_SIZE_MAX)


@dataclass(frozen=True, slots=True, kw_only=True)
class PlacedReplica:
    """A copy of a log: which member of the log's group it is, and on which node and disk it belongs."""

    member: int
    node: str
    disk_uuid: bytes

    def __post_init__(self) -> None:
        check_name("node", self.node)
        if not 0 < self.member <= UINT32_MAX:
            raise ValueError(f"member id {self.member}, allowed: 1 to 2^32 - 1")
        if len(self.disk_uuid) != UUID_SIZE:
            raise ValueError(f"a disk uuid of {len(self.disk_uuid)} bytes")


def _check_replicas(replicas: Sequence[PlacedReplica]) -> None:
    if not 1 <= len(replicas) <= REPLICAS_PER_LOG_MAX:
        raise ValueError(f"{len(replicas)} replicas, allowed: 1 to {REPLICAS_PER_LOG_MAX}")
    if len({one.member for one in replicas}) < len(replicas):
        raise ValueError("two replicas with one member id")
    if len({one.node for one in replicas}) < len(replicas):
        raise ValueError("two replicas on one node")


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """A part of a log, from an offset on, with the group that holds it. Every log has one span as yet."""

    from_offset: int = 0
    group: int
    replicas: tuple[PlacedReplica, ...]

    def __post_init__(self) -> None:
        if not 0 <= self.from_offset <= UINT64_MAX or not 0 < self.group <= UINT32_MAX:
            raise ValueError(f"a span from offset {self.from_offset} in group {self.group}")
        _check_replicas(self.replicas)


@dataclass(frozen=True, slots=True, kw_only=True)
class CataloguedNode:
    """A node that may hold logs, at most `replicas_max` of them.

    `host` and `rack` are empty when node.yaml does not name them.
    """

    name: str
    disk_uuid: bytes
    host: str = ""
    rack: str = ""
    replicas_max: int = REPLICAS_PER_NODE_DEFAULT

    def __post_init__(self) -> None:
        check_name("node", self.name)
        if len(self.disk_uuid) != UUID_SIZE:
            raise ValueError(f"a disk uuid of {len(self.disk_uuid)} bytes")
        if not 0 <= self.replicas_max <= LOGS_MAX:
            raise ValueError(f"{self.replicas_max} replicas on a node, at most {LOGS_MAX}")
        for what in ("host", "rack"):
            check_text(what, getattr(self, what), SUBJECT_SIZE_MAX)


@dataclass(frozen=True, slots=True, kw_only=True)
class CataloguedLog:
    """A log that exists.

    Attributes:
        epoch: The offset of the record that placed it last; of two routes the one with the higher epoch is
            the newer one.
        next_member: The member id of its next replica: ids are never used again.
        created_at, founders: When it was created, and the replicas that it was born on: its first entry says
            this and nothing else, on every one of them.
    """

    name: str
    settings: LogSettings
    spans: tuple[Span, ...]
    epoch: int
    next_member: int
    created_at: int
    founders: tuple[PlacedReplica, ...]

    @property
    def group(self) -> int:
        """The group that takes its appends."""
        return self.spans[-1].group

    @property
    def replicas(self) -> tuple[PlacedReplica, ...]:
        """The replicas of that group."""
        return self.spans[-1].replicas

    @property
    def nodes(self) -> list[str]:
        """The nodes that these are on."""
        return [one.node for one in self.replicas]


@dataclass(frozen=True, slots=True, kw_only=True)
class CatalogueRecord:
    """What all records say: when it was decided, and by whom."""

    KIND: ClassVar[str]
    at: int = 0
    by: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeSet(CatalogueRecord):
    """A node may hold logs, or is another one than before: a new disk, host or rack."""

    KIND: ClassVar[str] = "node set"
    node: CataloguedNode


@dataclass(frozen=True, slots=True, kw_only=True)
class LogCreated(CatalogueRecord):
    """A log exists from here on, born on the nodes of its replicas."""

    KIND: ClassVar[str] = "log created"
    name: str
    settings: LogSettings
    spans: tuple[Span, ...]

    def __post_init__(self) -> None:
        check_name("log", self.name)
        if len(self.spans) != 1:
            raise ValueError(f"{len(self.spans)} spans; this version knows logs of one")


@dataclass(frozen=True, slots=True, kw_only=True)
class LogAltered(CatalogueRecord):
    """A log has other settings."""

    KIND: ClassVar[str] = "log altered"
    group: int
    settings: LogSettings


@dataclass(frozen=True, slots=True, kw_only=True)
class LogPlaced(CatalogueRecord):
    """A log's replicas should be these. Its leader makes it so, one voter at a time."""

    KIND: ClassVar[str] = "log placed"
    group: int
    replicas: tuple[PlacedReplica, ...]

    def __post_init__(self) -> None:
        _check_replicas(self.replicas)


@dataclass(frozen=True, slots=True, kw_only=True)
class LogDeleted(CatalogueRecord):
    """A log is no more: the tombstone of its group, without which nobody removes anything."""

    KIND: ClassVar[str] = "log deleted"
    group: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Tombstone:
    """A group whose log was deleted, and when, in microseconds since the epoch."""

    group: int
    at: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint(CatalogueRecord):
    """Everything that the records before it came to, so that these may be trimmed.

    Attributes:
        offset: Its own. One that stands at another offset was made too early, and means nothing.
        next_group: The group of the next log: numbers are never used again.
    """

    KIND: ClassVar[str] = "checkpoint"
    offset: int
    next_group: int
    nodes: tuple[CataloguedNode, ...]
    logs: tuple[CataloguedLog, ...]
    tombstones: tuple[Tombstone, ...]


RECORDS: Final[Mapping[str, type[CatalogueRecord]]] = MappingProxyType(
    {cls.KIND: cls for cls in (NodeSet, LogCreated, LogAltered, LogPlaced, LogDeleted, Checkpoint)}
)


def encode_record(record: CatalogueRecord) -> bytes:
    """Return the value of a record of the catalogue's log."""
    return json.dumps(
        {"kind": record.KIND, **asdict(record)}, default=bytes.hex, separators=(",", ":"), ensure_ascii=False
    ).encode()


def decode_record(value: bytes) -> CatalogueRecord:
    """Parse the value of a record.

    Raises:
        MalformedMessageError: It is none that this version knows; says what is wrong.
    """
    if len(value) > CATALOGUE_RECORD_SIZE_MAX:
        raise MalformedMessageError(f"a record of {len(value)} bytes, at most {CATALOGUE_RECORD_SIZE_MAX}")
    try:
        content = json.loads(value)
        cls = RECORDS.get(content["kind"])
        if cls is None:
            raise ValueError(f"kind {content['kind']!r} is not known to this version")
        return _read(cls, content)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise MalformedMessageError(f"no record of the catalogue: {error}") from error


def _read(cls: type[T], content: Mapping[str, Any]) -> T:
    """Build a class of this module from what JSON says of it; what it has no field for is passed over."""
    values = {}
    for field in fields(cls):  # type: ignore[arg-type]
        if field.name in content:
            values[field.name] = _READERS[str(field.type)](content[field.name])
    return cls(**values)


def _integer(value: Any) -> int:
    if type(value) is not int:
        raise TypeError(f"{value!r} is no integer")
    return value


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r} is no text")
    return value


def _one(cls: type[T]) -> Callable[[Any], T]:
    return lambda value: _read(cls, value)


def _several(read: Callable[[Any], T]) -> Callable[[Any], tuple[T, ...]]:
    return lambda value: tuple(read(one) for one in value)


_READERS: Final[Mapping[str, Callable[[Any], Any]]] = MappingProxyType(
    {
        "int": _integer,
        "str": _text,
        "bytes": lambda value: bytes.fromhex(_text(value)),
        "tuple[str, ...]": _several(_text),
        "LogSettings": _one(LogSettings),
        "CataloguedNode": _one(CataloguedNode),
        "tuple[Span, ...]": _several(_one(Span)),
        "tuple[PlacedReplica, ...]": _several(_one(PlacedReplica)),
        "tuple[CataloguedNode, ...]": _several(_one(CataloguedNode)),
        "tuple[CataloguedLog, ...]": _several(_one(CataloguedLog)),
        "tuple[Tombstone, ...]": _several(_one(Tombstone)),
    }
)
