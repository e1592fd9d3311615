"""node.yaml: one file of settings to frozen dataclasses, every mistake reported at once.

Each setting is declared once, on its dataclass: how its value is read, what the example shows, and the
comment above it. `example_text` prints that declaration, so the example cannot differ from what `load`
accepts.
"""

from __future__ import annotations

import dataclasses
import difflib
import os
import reprlib
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, dataclass, field
from pathlib import Path
from typing import Any, Final

import yaml

from loghouse.config.strict_yaml import (
    MeaningError,
    check_untagged,
    compose,
    is_nothing,
    value_of,
    yaml_problem,
)
from loghouse.config.values import (
    UNLIMITED,
    Address,
    Reader,
    count_between,
    format_size,
    one_of,
    read_address,
    read_addresses,
    read_age,
    read_boolean,
    read_file,
    read_folder,
    read_name,
    read_place,
    read_servers,
    read_subject,
    seconds_between,
    size_between,
)
from loghouse.errors import ConfigError
from loghouse.limits import (
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

FILE_SIZE_MAX: Final = 1 * MIB  # a settings file is a page of text; more is the wrong file
SEGMENT_SIZE_MAX: Final = 1 * GIB  # one segment is preallocated, mapped and trimmed as a whole
RESERVE_SIZE_MAX: Final = 1 * GIB
SCRUB_RATE_MAX: Final = 1 * GIB
DRAIN_SECONDS_MAX: Final = 600
KEEP_DELETED_SECONDS_MAX: Final = 31_622_400  # a year
LOG_FORMATS: Final = ("text", "json")
NETWORKS: Final = ("local", "lan", "wan")
LOG_LEVELS: Final = ("debug", "info", "warn", "error", "critical")

# --- the settings ---------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Setting:
    """How one setting is read and shown. `section` is set when it is a group of settings."""

    comment: str
    read: Reader | None = None
    example: str = ""
    shown: bool = True  # False: the example has it commented out
    section: type[Any] | None = None
    key: str = ""  # in the file; that of its attribute, unless it is given


def _setting(read: Reader, comment: str, default: Any = MISSING, *, example: str = "", key: str = "") -> Any:
    """Declare a setting; one with a default is commented out in the example, which shows the default."""
    setting = _Setting(comment, read, example or _text_of(default), shown=default is MISSING, key=key)
    return field(default=default, metadata={"setting": setting})


def _text_of(default: Any) -> str:
    """Return a default as node.yaml has it."""
    if isinstance(default, bool):
        return str(default).lower()
    return format_size(default) if isinstance(default, int) else str(default).removesuffix(".0")


def _section(
    section: type[Any], comment: str, *, optional: bool = False, required: bool = False, shown: bool
) -> Any:
    """Declare a group: None when an optional one is left out, else made of its defaults."""
    setting = _Setting(comment, section=section, shown=shown)
    if optional:
        return field(default=None, metadata={"setting": setting})
    if required:
        return field(metadata={"setting": setting})
    return field(default_factory=section, metadata={"setting": setting})


@dataclass(frozen=True, slots=True, kw_only=True)
class TLSConfig:
    """Certificates of this node; every client must show one of the same CA."""

    ca: Path = _setting(read_file, "Who signs nodes and clients.", example="certs/ca.pem")
    certificate: Path = _setting(
        read_file, "This node, signed by the CA (`loghouse certs node`).", example="certs/node-1.pem"
    )
    key: Path = _setting(read_file, "Its private key.", example="certs/node-1.key")
    denylist: Path | None = _setting(
        read_file,
        "Certificates that count no more: `loghouse certs deny` makes the lines.",
        None,
        example="certs/denylist",
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientTLSConfig:
    """Certificates of a client; its common name is the subject that the policy names."""

    ca: Path = _setting(read_file, "Who signs the nodes.", example="certs/ca.pem")
    certificate: Path = _setting(read_file, "This client.", example="certs/root.pem")
    key: Path = _setting(read_file, "Its private key.", example="certs/root.key")


@dataclass(frozen=True, slots=True, kw_only=True)
class ACLConfig:
    """Who may do what; what no rule allows is refused."""

    model: Path = _setting(read_file, "The casbin model.", example="certs/model.conf")
    policy: Path = _setting(
        read_file,
        "The rules: p, SUBJECT, LOG or *, produce | consume | admin | manage",
        example="certs/policy.csv",
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class StorageConfig:
    """How the log lies on the disk; sizes in bytes."""

    segment_size: int = _setting(
        size_between(SEGMENT_SIZE_MIN, SEGMENT_SIZE_MAX),
        "Bytes in one segment file of a log that has grown: disk is taken and given back in such steps.",
        SEGMENT_SIZE_DEFAULT,
    )
    reserve_size: int = _setting(
        size_between(0, RESERVE_SIZE_MAX),
        "Bytes kept back, so that a full disk can still be trimmed and shut down in order.",
        RESERVE_SIZE_DEFAULT,
    )
    scrub_rate: int = _setting(
        size_between(64 * KIB, SCRUB_RATE_MAX, zero="0"),
        "Bytes a second at which sealed segments are read once a day to find damage; 0: never.",
        SCRUB_RATE_DEFAULT,
    )
    keep_deleted_seconds: float = _setting(
        seconds_between(0, KEEP_DELETED_SECONDS_MAX),
        "How long the files of a log that was deleted are kept: 24h, 7d, ...",
        86400.0,
        key="keep_deleted",
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class RetentionConfig:
    """What a new cluster keeps; 0 means everything. Later changes go through the log itself."""

    size_max: int = _setting(
        size_between(1 * MIB, UINT64_MAX, zero=UNLIMITED),
        "Trim the oldest segments beyond this many bytes: 100GiB, ...",
        0,
        example="unlimited",
        key="bytes",
    )
    age_max_seconds: int = _setting(
        read_age,
        "Trim segments whose records are all older than this: 12h, 7d, ...",
        0,
        example="unlimited",
        key="age",
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class LimitsConfig:
    """Bounds on what clients may ask for, in bytes."""

    record_size_max: int = _setting(
        size_between(1, PAYLOAD_SIZE_MAX),
        "The largest record a producer may append.",
        RECORD_SIZE_MAX,
        key="record_bytes_max",
    )
    proposals_size_max: int = _setting(
        size_between(PAYLOAD_SIZE_MAX, 4 * GIB),
        "Bytes waiting to become durable, at most; producers beyond it wait.",
        PROPOSALS_SIZE_MAX,
        key="proposals_bytes_max",
    )
    replicas_max: int = _setting(
        count_between(1, LOGS_MAX), "Logs on this node; fewer, if it may not open 5 files for each.", 2000
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class LoggingConfig:
    """What the node writes about itself."""

    format: str = _setting(
        one_of(*LOG_FORMATS), "text for people, json (one object a line) for machines.", "text"
    )
    level: str = _setting(
        one_of(*LOG_LEVELS), "The least important line written: debug, info, warn, error, critical.", "info"
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class ShutdownConfig:
    """How the node stops."""

    drain_seconds: float = _setting(
        seconds_between(0, DRAIN_SECONDS_MAX),
        "After SIGTERM, how long requests under way may take to finish.",
        10.0,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class TimingConfig:
    """How patient the nodes are with each other; the same on every node."""

    network: str = _setting(
        one_of(*NETWORKS),
        "local: one machine; lan: one site, a dead leader is replaced in 1 to 3 s; wan: several, 5 to 15 s.",
        "lan",
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeConfig:
    """All settings of one node. Every path is absolute."""

    path: Path = field()
    name: str = _setting(
        read_name, "This node's name, in no other node's file.", example="node-1", key="node"
    )
    cluster: str = _setting(read_name, "The cluster's name, the same on every node.", example="loghouse")
    data_dir: Path = _setting(
        read_folder, "Where the log lives. Paths start from this file's folder.", example="data"
    )
    listen: Address = _setting(read_address, "Where clients connect.", example="127.0.0.1:8400")
    advertise: Address | None = _setting(
        read_address,
        "The address others are told to dial; needed when listen is 0.0.0.0 or [::]. Default: listen.",
        None,
        example="node-1.example:8400",
    )
    grpc_listen: Address | None = _setting(
        read_address, "A second door for gRPC alone.", None, example="127.0.0.1:8401"
    )
    tls: TLSConfig | None = _section(
        TLSConfig, "Certificates: `loghouse certs` makes them.", optional=True, shown=True
    )
    plaintext: bool = _setting(
        read_boolean,
        "With true: no TLS and no identities, for everyone on this machine; only on a loopback address.",
        False,
    )
    plaintext_subject: str = _setting(
        read_subject, "With plaintext, whom the policy takes everyone for.", "root"
    )
    acl: ACLConfig = _section(
        ACLConfig, "Who may do what; what no rule allows is refused.", required=True, shown=True
    )
    bootstrap: bool = _setting(
        read_boolean, "An empty data_dir starts a new cluster. Default: true when join is empty.", True
    )
    join: tuple[Address, ...] = _setting(
        read_addresses,
        "Addresses of all nodes of the cluster, the same list on each; [] for a node alone.",
        (),
        example="[]",
    )
    host: str = _setting(
        read_place,
        "The machine this node is on, when several nodes share one: a log has no two replicas on it.",
        "",
        example="machine-7",
    )
    rack: str = _setting(
        read_place,
        "What else fails as a whole: a log's replicas are on as many of these as there are.",
        "",
        example="rack-b",
    )
    storage: StorageConfig = _section(StorageConfig, "The files of the log.", shown=False)
    retention: RetentionConfig = _section(
        RetentionConfig, "What a new cluster keeps of its log.", shown=False
    )
    limits: LimitsConfig = _section(LimitsConfig, "Bounds for clients.", shown=False)
    logging: LoggingConfig = _section(LoggingConfig, "The node's own diagnostics.", shown=False)
    shutdown: ShutdownConfig = _section(ShutdownConfig, "How the node stops.", shown=False)
    timing: TimingConfig = _section(TimingConfig, "Patience among the nodes.", shown=False)

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

    server: tuple[Address, ...] = _setting(
        read_servers, "A node of the cluster, or several: host:port,host:port.", example="127.0.0.1:8400"
    )
    cluster: str = _setting(
        read_name,
        "The cluster's name, as in node.yaml; left out: the first node that answers says which it is.",
        "",
        example="loghouse",
    )
    tls: ClientTLSConfig | None = _section(
        ClientTLSConfig, "As whom; left out: no TLS.", optional=True, shown=True
    )


def settings_of(section: type[Any]) -> Iterator[tuple[str, _Setting, bool]]:
    """Yield (attribute, setting, required) of a section, in order."""
    for item in dataclasses.fields(section):
        setting = item.metadata.get("setting")
        if setting is not None:
            setting = dataclasses.replace(setting, key=setting.key or item.name)
            yield item.name, setting, item.default is MISSING and item.default_factory is MISSING


# --- reading the file -----------------------------------------------------------


# Values are shown cut off: a few lines of YAML aliases can stand for billions of items.
_SHOWN: Final = reprlib.Repr()
_SHOWN.maxlevel = 2
_SHOWN.maxlist = 4
_SHOWN.maxstring = 80


class _Reading:
    """One pass over a file: values in, problems collected."""

    def __init__(self, base: Path) -> None:
        self.base = base
        self.problems: list[str] = []
        self.lines: dict[str, int] = {}

    def problem(self, path: str, text: str) -> None:
        """Note a problem at a setting's path."""
        line = self.lines.get(path)
        self.problems.append(f"{path} (line {line}): {text}" if line else f"{path}: {text}")

    def section(self, section: type[Any], node: yaml.Node | None, prefix: str) -> dict[str, Any]:
        """Read a group; return attribute -> value of every setting that is given and right."""
        given = self._children(node, prefix)
        settings = {setting.key: setting for _, setting, _ in settings_of(section)}
        for key in given:
            if key not in settings:
                self.problem(prefix + key, _unknown(key, settings, prefix))
        values: dict[str, Any] = {}
        for attribute, setting, required in settings_of(section):
            path = prefix + setting.key
            child = given.get(setting.key)
            if child is None:
                if required:
                    example = f", such as {setting.key}: {setting.example}" if setting.example else ""
                    self.problem(path, f"is missing; it is required{example}")
            elif setting.section is not None:
                problem_count = len(self.problems)
                inner = self.section(setting.section, child, path + ".")
                if len(self.problems) == problem_count:
                    values[attribute] = setting.section(**inner)
            else:
                self._leaf(values, attribute, setting, child, path)
        return values

    def _leaf(
        self, values: dict[str, Any], attribute: str, setting: _Setting, node: yaml.Node, path: str
    ) -> None:
        assert setting.read is not None
        try:
            value = value_of(node)
        except MeaningError as error:
            self.lines[path] = error.line
            self.problem(path, str(error))
            return
        except (yaml.YAMLError, ValueError, RecursionError) as error:
            self.problem(path, f"is not plain YAML: {yaml_problem(error)}")
            return
        try:
            values[attribute] = setting.read(value, self.base)
        except ValueError as error:
            self.problem(path, f"{_SHOWN.repr(value)} {error}")

    def _check_untagged(self, node: yaml.Node, path: str) -> None:
        try:
            check_untagged(node)
        except MeaningError as error:
            self.lines.setdefault(path, error.line)
            self.problem(path, str(error))

    def _children(self, node: yaml.Node | None, prefix: str) -> dict[str, yaml.Node]:
        if node is None:
            return {}
        where = prefix.rstrip(".") or "the file"
        if not isinstance(node, yaml.MappingNode):
            if not is_nothing(node):
                self.problem(where, "is not a group; allowed: `name: value` lines, indented below it")
            return {}
        self._check_untagged(node, where)
        children: dict[str, yaml.Node] = {}
        for key_node, value_node in node.value:
            key = str(key_node.value) if isinstance(key_node, yaml.ScalarNode) else "?"
            path = prefix + key
            self._check_untagged(key_node, path)
            if key in children:
                first = self.lines[path]
                self.lines[path] = key_node.start_mark.line + 1
                self.problem(path, f"is given twice, first on line {first}; keep one")
                continue
            self.lines[path] = key_node.start_mark.line + 1
            children[key] = value_node
        return children


def _unknown(key: str, settings: Mapping[str, _Setting], prefix: str) -> str:
    close = difflib.get_close_matches(key, settings, n=1)
    if close:
        return f"is not a setting; did you mean {prefix}{close[0]}?"
    for path in all_paths():
        if path.rpartition(".")[2] == key:
            return f"is not a setting here; did you mean {path}?"
    return f"is not a setting; allowed: {', '.join(settings)}"


def all_paths() -> list[str]:
    """Return the path of every setting: `node`, `tls.ca`, ..."""
    paths = []
    for _, setting, _ in settings_of(NodeConfig):
        if setting.section is None:
            paths.append(setting.key)
        else:
            paths.extend(f"{setting.key}.{inner.key}" for _, inner, _ in settings_of(setting.section))
    return paths


def load(path: str | os.PathLike[str]) -> NodeConfig:
    """Read and check a node.yaml.

    Raises:
        ConfigError: `problems` lists everything that is wrong, not only the first.
    """
    absolute = Path(os.path.abspath(path))
    return parse(_read_file(absolute), absolute)


def load_client(path: str | os.PathLike[str]) -> ClientConfig:
    """Read and check a client.yaml.

    Raises:
        ConfigError: As `load`.
    """
    absolute = Path(os.path.abspath(path))
    reading = _Reading(absolute.parent)
    values = reading.section(ClientConfig, compose(_read_file(absolute), absolute), "")
    if reading.problems:
        raise ConfigError(reading.problems)
    return ClientConfig(**values)


def parse(data: bytes | str, path: Path) -> NodeConfig:
    """Check the text of a node.yaml; `path` is absolute, and relative paths start from its folder.

    Raises:
        ConfigError: As `load`.
    """
    reading = _Reading(path.parent)
    values = reading.section(NodeConfig, compose(data, path), "")
    _check_together(reading, values)
    if reading.problems:
        raise ConfigError(reading.problems)
    values.setdefault("bootstrap", not values.get("join"))
    return NodeConfig(path=path, **values)


def _read_file(path: Path) -> bytes:
    try:
        with open(path, "rb") as file:
            data = file.read(FILE_SIZE_MAX + 1)
    except OSError as error:
        raise ConfigError(
            [f"{path}: {error.strerror}; `loghouse config example` prints one to start from"]
        ) from None
    if len(data) > FILE_SIZE_MAX:
        raise ConfigError([f"{path}: has more than {FILE_SIZE_MAX} bytes; this is no settings file"])
    return data


def _check_together(reading: _Reading, values: Mapping[str, Any]) -> None:
    """Note what is wrong with settings that are right one by one."""
    listen: Address | None = values.get("listen")
    if values.get("plaintext"):
        if "tls" in reading.lines:
            reading.problem("tls", "does not go with plaintext: true; remove one of the two")
        for key in ("listen", "grpc_listen"):
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
    second: Address | None = values.get("grpc_listen")
    if second is not None and listen is not None and second.meets(listen):
        reading.problem("grpc_listen", f"{str(second)!r} is taken by listen, {listen}; choose another port")
    if values.get("join") and values.get("plaintext"):
        reading.problem("join", "nodes tell each other by their certificates; a cluster needs tls")


# --- the example ----------------------------------------------------------------


def example_text() -> str:
    """Return a node.yaml with every setting; the ones with a default are commented out and show it."""
    head = [
        "# node.yaml: the settings of one Loghouse node.",
        "# Check it with: loghouse config check node.yaml",
        "# Run it with:   twistd -n loghouse --config node.yaml",
    ]
    return _example(NodeConfig, head)


def client_example_text() -> str:
    """Return a client.yaml with every setting."""
    head = [
        "# client.yaml: which node the loghouse command talks to, and as whom.",
        "# It is found in the current directory, or named with --config or LOGHOUSE_CONFIG.",
    ]
    return _example(ClientConfig, head)


def _example(section: type[Any], head: list[str]) -> str:
    lines = [*head, ""]
    for _, setting, _ in settings_of(section):
        mark = "" if setting.shown else "# "
        lines.append(f"# {setting.comment}")
        if setting.section is None:
            lines += [f"{mark}{setting.key}: {setting.example}", ""]
            continue
        lines.append(f"{mark}{setting.key}:")
        for _, inner, _ in settings_of(setting.section):
            inner_mark = mark if inner.shown else "# "
            lines.append(f"{mark}  # {inner.comment}")
            lines.append(f"{inner_mark}  {inner.key}: {inner.example}")
        lines.append("")
    return "\n".join(lines)
