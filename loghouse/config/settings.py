"""node.yaml: one file of settings to frozen dataclasses, every mistake reported at once.

Each setting is declared once, on its dataclass: how its value is read, what the example shows, and the
comment above it. `example_text` prints that declaration, so the example cannot differ from what `load`
accepts.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from loghouse.config.declaring import declare, example_of, group, paths_of
from loghouse.config.reading import Reading, read_content
from loghouse.config.strict_yaml import compose
from loghouse.config.values import (
    UNLIMITED,
    Address,
    count_between,
    one_of,
    read_address,
    read_addresses,
    read_age,
    read_boolean,
    read_file,
    read_folder,
    read_name,
    read_path,
    read_place,
    read_quotas,
    read_servers,
    read_subject,
    seconds_between,
    size_between,
)
from loghouse.errors import ConfigError
from loghouse.limits import (
    COLD_READ_RATE_DEFAULT,
    GIB,
    KIB,
    LOGS_MAX,
    MIB,
    PAYLOAD_SIZE_MAX,
    PROPOSALS_SIZE_MAX,
    RECORD_SIZE_MAX,
    RESERVE_SIZE_DEFAULT,
    SCRUB_RATE_DEFAULT,
    SEGMENT_SIZE_DEFAULT,
    SEGMENT_SIZE_MIN,
    UINT64_MAX,
)
from loghouse.shares import SubjectQuota

SEGMENT_SIZE_MAX: Final = 1 * GIB  # one segment is preallocated, mapped and trimmed as a whole
RESERVE_SIZE_MAX: Final = 1 * GIB
SCRUB_RATE_MAX: Final = 1 * GIB
COLD_READ_RATE_MAX: Final = 16 * GIB
DRAIN_SECONDS_MAX: Final = 600
KEEP_DELETED_SECONDS_MAX: Final = 31_622_400  # a year
LOG_FORMATS: Final = ("text", "json")
NETWORKS: Final = ("local", "lan", "wan")
LOG_LEVELS: Final = ("debug", "info", "warn", "error", "critical")

# --- the settings ---------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class TLSConfig:
    """Certificates of this node; every client must show one of the same CA."""

    ca: Path = declare(read_file, "Who signs nodes and clients.", example="certs/ca.pem", live=True)
    certificate: Path = declare(
        read_file,
        "This node, signed by the CA (`loghouse certs node`).",
        example="certs/node-1.pem",
        live=True,
    )
    key: Path = declare(read_file, "Its private key.", example="certs/node-1.key", live=True)
    denylist: Path | None = declare(
        read_file,
        "Certificates that count no more: `loghouse certs deny` makes the lines.",
        None,
        example="certs/denylist",
        live=True,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientTLSConfig:
    """Certificates of a client; its common name is the subject that the policy names."""

    ca: Path = declare(read_file, "Who signs the nodes.", example="certs/ca.pem")
    certificate: Path = declare(read_file, "This client.", example="certs/root.pem")
    key: Path = declare(read_file, "Its private key.", example="certs/root.key")


@dataclass(frozen=True, slots=True, kw_only=True)
class ACLConfig:
    """Who may do what; what no rule allows is refused."""

    model: Path = declare(read_file, "The casbin model.", example="certs/model.conf", live=True)
    policy: Path = declare(
        read_file,
        "The rules: p, SUBJECT, LOG or *, produce | consume | admin | manage",
        example="certs/policy.csv",
        live=True,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class StorageConfig:
    """How the log lies on the disk; sizes in bytes."""

    segment_size: int = declare(
        size_between(SEGMENT_SIZE_MIN, SEGMENT_SIZE_MAX),
        "Bytes in one segment file of a log that has grown: disk is taken and given back in such steps.",
        SEGMENT_SIZE_DEFAULT,
    )
    reserve_size: int = declare(
        size_between(0, RESERVE_SIZE_MAX),
        "Bytes kept back, so that a full disk can still be trimmed and shut down in order.",
        RESERVE_SIZE_DEFAULT,
    )
    scrub_rate: int = declare(
        size_between(64 * KIB, SCRUB_RATE_MAX, zero="0"),
        "Bytes a second at which sealed segments are read once a day to find damage; 0: never.",
        SCRUB_RATE_DEFAULT,
        live=True,
    )
    cold_read_rate: int = declare(
        size_between(1 * MIB, COLD_READ_RATE_MAX, zero="0"),
        "Bytes a second read for all who are far behind, while others append; 0: as many as the node can.",
        COLD_READ_RATE_DEFAULT,
        live=True,
    )
    keep_deleted_seconds: float = declare(
        seconds_between(0, KEEP_DELETED_SECONDS_MAX),
        "How long the files of a log that was deleted are kept: 24h, 7d, ...",
        86400.0,
        key="keep_deleted",
        live=True,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class RetentionConfig:
    """What a new cluster keeps; 0 means everything. Later changes go through the log itself."""

    size_max: int = declare(
        size_between(1 * MIB, UINT64_MAX, zero=UNLIMITED),
        "Trim the oldest segments beyond this many bytes: 100GiB, ...",
        0,
        example="unlimited",
        key="bytes",
    )
    age_max_seconds: int = declare(
        read_age,
        "Trim segments whose records are all older than this: 12h, 7d, ...",
        0,
        example="unlimited",
        key="age",
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class LimitsConfig:
    """Bounds on what clients may ask for, in bytes."""

    record_size_max: int = declare(
        size_between(1, PAYLOAD_SIZE_MAX),
        "The largest record a producer may append.",
        RECORD_SIZE_MAX,
        key="record_bytes_max",
        live=True,
    )
    proposals_size_max: int = declare(
        size_between(PAYLOAD_SIZE_MAX, 4 * GIB),
        "Bytes waiting to become durable, at most; producers beyond it wait.",
        PROPOSALS_SIZE_MAX,
        key="proposals_bytes_max",
        live=True,
    )
    replicas_max: int = declare(
        count_between(1, LOGS_MAX), "Logs on this node; fewer, if it may not open 5 files for each.", 2000
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpConfig:
    """Who may ask what over HTTP."""

    loopback_subject: str = declare(
        read_subject,
        "On a loopback address, whom the policy takes everyone for; left out: nobody.",
        "",
        example="console",
    )
    metrics_are_open: bool = declare(
        read_boolean,
        "On any other address, with true: /metrics asks for no certificate.",
        False,
        key="open_metrics",
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class LoggingConfig:
    """What the node writes about itself."""

    format: str = declare(
        one_of(*LOG_FORMATS), "text for people, json (one object a line) for machines.", "text"
    )
    level: str = declare(
        one_of(*LOG_LEVELS),
        "The least important line written: debug, info, warn, error, critical.",
        "info",
        live=True,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class ShutdownConfig:
    """How the node stops."""

    drain_seconds: float = declare(
        seconds_between(0, DRAIN_SECONDS_MAX),
        "After SIGTERM, how long requests under way may take to finish.",
        10.0,
        live=True,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class TimingConfig:
    """How patient the nodes are with each other; the same on every node."""

    network: str = declare(
        one_of(*NETWORKS),
        "local: one machine; lan: one site, a dead leader is replaced in 1 to 3 s; wan: several, 5 to 15 s.",
        "lan",
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeConfig:
    """All settings of one node. Every path is absolute."""

    path: Path = field()
    name: str = declare(read_name, "This node's name, in no other node's file.", example="node-1", key="node")
    cluster: str = declare(read_name, "The cluster's name, the same on every node.", example="loghouse")
    data_dir: Path = declare(
        read_folder, "Where the log lives. Paths start from this file's folder.", example="data"
    )
    listen: Address = declare(read_address, "Where clients connect.", example="127.0.0.1:8400")
    advertise: Address | None = declare(
        read_address,
        "The address others are told to dial; needed when listen is 0.0.0.0 or [::]. Default: listen.",
        None,
        example="node-1.example:8400",
    )
    grpc_listen: Address | None = declare(
        read_address, "A second door for gRPC alone.", None, example="127.0.0.1:8401"
    )
    http_listen: Address | None = declare(
        read_address,
        "HTTP: health, metrics, console. Without TLS on a loopback address, on any other with certificates.",
        None,
        example="127.0.0.1:8480",
        shown=True,
    )
    tls: TLSConfig | None = group(
        TLSConfig, "Certificates: `loghouse certs` makes them.", optional=True, shown=True
    )
    plaintext: bool = declare(
        read_boolean,
        "With true: no TLS and no identities, for everyone on this machine; only on a loopback address.",
        False,
    )
    plaintext_subject: str = declare(
        read_subject, "With plaintext, whom the policy takes everyone for.", "root"
    )
    acl: ACLConfig = group(
        ACLConfig, "Who may do what; what no rule allows is refused.", required=True, shown=True
    )
    bootstrap: bool = declare(
        read_boolean, "An empty data_dir starts a new cluster. Default: true when join is empty.", True
    )
    join: tuple[Address, ...] = declare(
        read_addresses,
        "Addresses of all nodes of the cluster, the same list on each; [] for a node alone.",
        (),
        example="[]",
    )
    host: str = declare(
        read_place,
        "The machine this node is on, when several nodes share one: a log has no two replicas on it.",
        "",
        example="machine-7",
    )
    rack: str = declare(
        read_place,
        "What else fails as a whole: a log's replicas are on as many of these as there are.",
        "",
        example="rack-b",
    )
    storage: StorageConfig = group(StorageConfig, "The files of the log.", shown=False)
    retention: RetentionConfig = group(RetentionConfig, "What a new cluster keeps of its log.", shown=False)
    limits: LimitsConfig = group(LimitsConfig, "Bounds for clients.", shown=False)
    http: HttpConfig = group(HttpConfig, "Who may ask what at http_listen.", shown=False)
    quotas: Mapping[str, SubjectQuota] = declare(
        read_quotas,
        "What single subjects may use of this node: a name, a beginning (team-*), or all of them (*).",
        example='{"team-*": {in: 10MiB, out: 20MiB, requests: 64, connections: 16}}',
        default_factory=dict,
        live=True,
    )
    audit: Path | None = declare(
        read_path,
        "A line of JSON for each refusal and each act of administration; left out: into the diagnostics.",
        None,
        example="audit.log",
        live=True,
    )
    tracing: bool = declare(
        read_boolean,
        "With true: spans of appends that belong to a trace, by OpenTelemetry (docs/tracing.md).",
        False,
    )
    logging: LoggingConfig = group(LoggingConfig, "The node's own diagnostics.", shown=False)
    shutdown: ShutdownConfig = group(ShutdownConfig, "How the node stops.", shown=False)
    timing: TimingConfig = group(TimingConfig, "Patience among the nodes.", shown=False)

    @property
    def public_address(self) -> Address:
        """The address that others are told to dial."""
        return self.advertise or self.listen

    @property
    def public_grpc_address(self) -> Address | None:
        """The direct gRPC address as others are told to dial it: on all interfaces, at the public host."""
        address = self.grpc_listen
        if address is None or not address.is_wildcard:
            return address
        return Address(self.public_address.host, address.port)


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientConfig:
    """client.yaml: which node to talk to, and as whom."""

    server: tuple[Address, ...] = declare(
        read_servers, "A node of the cluster, or several: host:port,host:port.", example="127.0.0.1:8400"
    )
    cluster: str = declare(
        read_name,
        "The cluster's name, as in node.yaml; left out: the first node that answers says which it is.",
        "",
        example="loghouse",
    )
    tls: ClientTLSConfig | None = group(
        ClientTLSConfig, "As whom; left out: no TLS.", optional=True, shown=True
    )


# --- reading the file -----------------------------------------------------------


def all_paths() -> list[str]:
    """Return the path of every setting of a node.yaml."""
    return paths_of(NodeConfig)


def load(path: str | os.PathLike[str]) -> NodeConfig:
    """Read and check a node.yaml.

    Raises:
        ConfigError: `problems` lists everything that is wrong, not only the first.
    """
    absolute = Path(os.path.abspath(path))
    return parse(read_content(absolute), absolute)


def load_client(path: str | os.PathLike[str]) -> ClientConfig:
    """Read and check a client.yaml.

    Raises:
        ConfigError: As `load`.
    """
    absolute = Path(os.path.abspath(path))
    reading = Reading(absolute.parent, all_paths())
    values = reading.section(ClientConfig, compose(read_content(absolute), absolute), "")
    if reading.problems:
        raise ConfigError(reading.problems)
    return ClientConfig(**values)


def parse(data: bytes | str, path: Path) -> NodeConfig:
    """Check the text of a node.yaml; `path` is absolute, and relative paths start from its folder.

    Raises:
        ConfigError: As `load`.
    """
    reading = Reading(path.parent, all_paths())
    values = reading.section(NodeConfig, compose(data, path), "")
    _check_together(reading, values)
    if reading.problems:
        raise ConfigError(reading.problems)
    values.setdefault("bootstrap", not values.get("join"))
    return NodeConfig(path=path, **values)


def _check_together(reading: Reading, values: Mapping[str, Any]) -> None:
    """Note what is wrong with settings that are right one by one."""
    listen: Address | None = values.get("listen")
    if values.get("plaintext"):
        if "tls" in reading.lines:
            reading.problem("tls", "does not go with plaintext: true; remove one of the two")
        for key in ("listen", "grpc_listen", "http_listen"):
            address = values.get(key)
            if address is not None and not address.is_loopback:
                reading.problem(
                    key,
                    f"{str(address)!r} is not a loopback address, the only kind allowed with plaintext: true",
                )
    elif "tls" not in reading.lines:
        reading.problem("tls", "is missing; it is required unless plaintext: true")
    if listen is not None and listen.is_wildcard and "advertise" not in reading.lines:
        reading.problem(
            "listen",
            f"{str(listen)!r} is every address of this machine, so others cannot be told it; "
            f"add advertise: HOST:{listen.port}",
        )
    advertise: Address | None = values.get("advertise")
    if advertise is not None and (advertise.is_wildcard or advertise.port == 0):
        reading.problem("advertise", f"{str(advertise)!r} cannot be dialled; allowed: a host and port")
    _check_doors(reading, values)
    if values.get("join") and values.get("plaintext"):
        reading.problem("join", "nodes tell each other by their certificates; a cluster needs tls")


def _check_doors(reading: Reading, values: Mapping[str, Any]) -> None:
    """Note which address another one takes."""
    doors = [(key, values[key]) for key in ("listen", "grpc_listen", "http_listen") if values.get(key)]
    for index, (key, door) in enumerate(doors):
        for other, taken in doors[:index]:
            if door.meets(taken):
                reading.problem(key, f"{str(door)!r} is taken by {other}, {taken}; choose another port")


# --- the example ----------------------------------------------------------------


def example_text() -> str:
    """Return a node.yaml with every setting; the ones with a default are commented out and show it."""
    head = [
        "# node.yaml: the settings of one Loghouse node.",
        "# Check it with: loghouse config check node.yaml",
        "# Run it with:   twistd -n loghouse --config node.yaml",
    ]
    return example_of(NodeConfig, head)


def client_example_text() -> str:
    """Return a client.yaml with every setting."""
    head = [
        "# client.yaml: which node the loghouse command talks to, and as whom.",
        "# It is found in the current directory, or named with --config or LOGHOUSE_CONFIG.",
    ]
    return example_of(ClientConfig, head)
