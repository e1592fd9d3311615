from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Codec(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    CODEC_NONE: _ClassVar[Codec]
    CODEC_ZSTD: _ClassVar[Codec]

class Consistency(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    CONSISTENCY_CONFIRMED: _ClassVar[Consistency]
    CONSISTENCY_LOCAL: _ClassVar[Consistency]
CODEC_NONE: Codec
CODEC_ZSTD: Codec
CONSISTENCY_CONFIRMED: Consistency
CONSISTENCY_LOCAL: Consistency

class Header(_message.Message):
    __slots__ = ("key", "value")
    KEY_FIELD_NUMBER: _ClassVar[int]
    VALUE_FIELD_NUMBER: _ClassVar[int]
    key: str
    value: bytes
    def __init__(self, key: _Optional[str] = ..., value: _Optional[bytes] = ...) -> None: ...

class Record(_message.Message):
    __slots__ = ("value", "offset", "term", "type", "key", "headers", "timestamp")
    VALUE_FIELD_NUMBER: _ClassVar[int]
    OFFSET_FIELD_NUMBER: _ClassVar[int]
    TERM_FIELD_NUMBER: _ClassVar[int]
    TYPE_FIELD_NUMBER: _ClassVar[int]
    KEY_FIELD_NUMBER: _ClassVar[int]
    HEADERS_FIELD_NUMBER: _ClassVar[int]
    TIMESTAMP_FIELD_NUMBER: _ClassVar[int]
    value: bytes
    offset: int
    term: int
    type: int
    key: bytes
    headers: _containers.RepeatedCompositeFieldContainer[Header]
    timestamp: int
    def __init__(self, value: _Optional[bytes] = ..., offset: _Optional[int] = ..., term: _Optional[int] = ..., type: _Optional[int] = ..., key: _Optional[bytes] = ..., headers: _Optional[_Iterable[_Union[Header, _Mapping]]] = ..., timestamp: _Optional[int] = ...) -> None: ...

class RecordBatch(_message.Message):
    __slots__ = ("records",)
    RECORDS_FIELD_NUMBER: _ClassVar[int]
    records: _containers.RepeatedCompositeFieldContainer[Record]
    def __init__(self, records: _Optional[_Iterable[_Union[Record, _Mapping]]] = ...) -> None: ...

class EncodedRecords(_message.Message):
    __slots__ = ("records",)
    RECORDS_FIELD_NUMBER: _ClassVar[int]
    records: _containers.RepeatedScalarFieldContainer[bytes]
    def __init__(self, records: _Optional[_Iterable[bytes]] = ...) -> None: ...

class ProduceRequest(_message.Message):
    __slots__ = ("record", "log", "expect_offset", "producer_id", "producer_sequence", "group", "traceparent", "tracestate")
    RECORD_FIELD_NUMBER: _ClassVar[int]
    LOG_FIELD_NUMBER: _ClassVar[int]
    EXPECT_OFFSET_FIELD_NUMBER: _ClassVar[int]
    PRODUCER_ID_FIELD_NUMBER: _ClassVar[int]
    PRODUCER_SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    GROUP_FIELD_NUMBER: _ClassVar[int]
    TRACEPARENT_FIELD_NUMBER: _ClassVar[int]
    TRACESTATE_FIELD_NUMBER: _ClassVar[int]
    record: Record
    log: str
    expect_offset: int
    producer_id: int
    producer_sequence: int
    group: int
    traceparent: str
    tracestate: str
    def __init__(self, record: _Optional[_Union[Record, _Mapping]] = ..., log: _Optional[str] = ..., expect_offset: _Optional[int] = ..., producer_id: _Optional[int] = ..., producer_sequence: _Optional[int] = ..., group: _Optional[int] = ..., traceparent: _Optional[str] = ..., tracestate: _Optional[str] = ...) -> None: ...

class ProduceResponse(_message.Message):
    __slots__ = ("offset",)
    OFFSET_FIELD_NUMBER: _ClassVar[int]
    offset: int
    def __init__(self, offset: _Optional[int] = ...) -> None: ...

class ConsumeRequest(_message.Message):
    __slots__ = ("offset", "log", "group")
    OFFSET_FIELD_NUMBER: _ClassVar[int]
    LOG_FIELD_NUMBER: _ClassVar[int]
    GROUP_FIELD_NUMBER: _ClassVar[int]
    offset: int
    log: str
    group: int
    def __init__(self, offset: _Optional[int] = ..., log: _Optional[str] = ..., group: _Optional[int] = ...) -> None: ...

class ConsumeResponse(_message.Message):
    __slots__ = ("record",)
    RECORD_FIELD_NUMBER: _ClassVar[int]
    record: Record
    def __init__(self, record: _Optional[_Union[Record, _Mapping]] = ...) -> None: ...

class GetServersRequest(_message.Message):
    __slots__ = ("log",)
    LOG_FIELD_NUMBER: _ClassVar[int]
    log: str
    def __init__(self, log: _Optional[str] = ...) -> None: ...

class GetServersResponse(_message.Message):
    __slots__ = ("servers", "cluster_uuid", "cluster_name", "group", "epoch")
    SERVERS_FIELD_NUMBER: _ClassVar[int]
    CLUSTER_UUID_FIELD_NUMBER: _ClassVar[int]
    CLUSTER_NAME_FIELD_NUMBER: _ClassVar[int]
    GROUP_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    servers: _containers.RepeatedCompositeFieldContainer[Server]
    cluster_uuid: bytes
    cluster_name: str
    group: int
    epoch: int
    def __init__(self, servers: _Optional[_Iterable[_Union[Server, _Mapping]]] = ..., cluster_uuid: _Optional[bytes] = ..., cluster_name: _Optional[str] = ..., group: _Optional[int] = ..., epoch: _Optional[int] = ...) -> None: ...

class Server(_message.Message):
    __slots__ = ("id", "rpc_addr", "is_leader", "role", "grpc_addr", "is_alive")
    ID_FIELD_NUMBER: _ClassVar[int]
    RPC_ADDR_FIELD_NUMBER: _ClassVar[int]
    IS_LEADER_FIELD_NUMBER: _ClassVar[int]
    ROLE_FIELD_NUMBER: _ClassVar[int]
    GRPC_ADDR_FIELD_NUMBER: _ClassVar[int]
    IS_ALIVE_FIELD_NUMBER: _ClassVar[int]
    id: str
    rpc_addr: str
    is_leader: bool
    role: str
    grpc_addr: str
    is_alive: bool
    def __init__(self, id: _Optional[str] = ..., rpc_addr: _Optional[str] = ..., is_leader: bool = ..., role: _Optional[str] = ..., grpc_addr: _Optional[str] = ..., is_alive: bool = ...) -> None: ...

class ProduceBatchRequest(_message.Message):
    __slots__ = ("batch", "record_count", "codec", "batch_crc", "log", "expect_offset", "producer_id", "producer_sequence", "group", "traceparent", "tracestate", "cursor")
    BATCH_FIELD_NUMBER: _ClassVar[int]
    RECORD_COUNT_FIELD_NUMBER: _ClassVar[int]
    CODEC_FIELD_NUMBER: _ClassVar[int]
    BATCH_CRC_FIELD_NUMBER: _ClassVar[int]
    LOG_FIELD_NUMBER: _ClassVar[int]
    EXPECT_OFFSET_FIELD_NUMBER: _ClassVar[int]
    PRODUCER_ID_FIELD_NUMBER: _ClassVar[int]
    PRODUCER_SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    GROUP_FIELD_NUMBER: _ClassVar[int]
    TRACEPARENT_FIELD_NUMBER: _ClassVar[int]
    TRACESTATE_FIELD_NUMBER: _ClassVar[int]
    CURSOR_FIELD_NUMBER: _ClassVar[int]
    batch: bytes
    record_count: int
    codec: Codec
    batch_crc: int
    log: str
    expect_offset: int
    producer_id: int
    producer_sequence: int
    group: int
    traceparent: str
    tracestate: str
    cursor: CursorAdvance
    def __init__(self, batch: _Optional[bytes] = ..., record_count: _Optional[int] = ..., codec: _Optional[_Union[Codec, str]] = ..., batch_crc: _Optional[int] = ..., log: _Optional[str] = ..., expect_offset: _Optional[int] = ..., producer_id: _Optional[int] = ..., producer_sequence: _Optional[int] = ..., group: _Optional[int] = ..., traceparent: _Optional[str] = ..., tracestate: _Optional[str] = ..., cursor: _Optional[_Union[CursorAdvance, _Mapping]] = ...) -> None: ...

class CursorAdvance(_message.Message):
    __slots__ = ("name", "epoch", "position")
    NAME_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    POSITION_FIELD_NUMBER: _ClassVar[int]
    name: str
    epoch: int
    position: int
    def __init__(self, name: _Optional[str] = ..., epoch: _Optional[int] = ..., position: _Optional[int] = ...) -> None: ...

class ProduceBatchResponse(_message.Message):
    __slots__ = ("base_offset", "record_count", "timestamp")
    BASE_OFFSET_FIELD_NUMBER: _ClassVar[int]
    RECORD_COUNT_FIELD_NUMBER: _ClassVar[int]
    TIMESTAMP_FIELD_NUMBER: _ClassVar[int]
    base_offset: int
    record_count: int
    timestamp: int
    def __init__(self, base_offset: _Optional[int] = ..., record_count: _Optional[int] = ..., timestamp: _Optional[int] = ...) -> None: ...

class FetchRequest(_message.Message):
    __slots__ = ("offset", "size_max", "log", "group")
    OFFSET_FIELD_NUMBER: _ClassVar[int]
    SIZE_MAX_FIELD_NUMBER: _ClassVar[int]
    LOG_FIELD_NUMBER: _ClassVar[int]
    GROUP_FIELD_NUMBER: _ClassVar[int]
    offset: int
    size_max: int
    log: str
    group: int
    def __init__(self, offset: _Optional[int] = ..., size_max: _Optional[int] = ..., log: _Optional[str] = ..., group: _Optional[int] = ...) -> None: ...

class FetchResponse(_message.Message):
    __slots__ = ("frames", "next_offset", "group")
    FRAMES_FIELD_NUMBER: _ClassVar[int]
    NEXT_OFFSET_FIELD_NUMBER: _ClassVar[int]
    GROUP_FIELD_NUMBER: _ClassVar[int]
    frames: bytes
    next_offset: int
    group: int
    def __init__(self, frames: _Optional[bytes] = ..., next_offset: _Optional[int] = ..., group: _Optional[int] = ...) -> None: ...

class RecordFilter(_message.Message):
    __slots__ = ("keys", "key_prefixes", "headers")
    KEYS_FIELD_NUMBER: _ClassVar[int]
    KEY_PREFIXES_FIELD_NUMBER: _ClassVar[int]
    HEADERS_FIELD_NUMBER: _ClassVar[int]
    keys: _containers.RepeatedScalarFieldContainer[bytes]
    key_prefixes: _containers.RepeatedScalarFieldContainer[bytes]
    headers: _containers.RepeatedCompositeFieldContainer[Header]
    def __init__(self, keys: _Optional[_Iterable[bytes]] = ..., key_prefixes: _Optional[_Iterable[bytes]] = ..., headers: _Optional[_Iterable[_Union[Header, _Mapping]]] = ...) -> None: ...

class ReadRequest(_message.Message):
    __slots__ = ("first", "end", "reverse", "count_max", "size_max", "filter", "consistency", "wait_milliseconds", "log", "group")
    FIRST_FIELD_NUMBER: _ClassVar[int]
    END_FIELD_NUMBER: _ClassVar[int]
    REVERSE_FIELD_NUMBER: _ClassVar[int]
    COUNT_MAX_FIELD_NUMBER: _ClassVar[int]
    SIZE_MAX_FIELD_NUMBER: _ClassVar[int]
    FILTER_FIELD_NUMBER: _ClassVar[int]
    CONSISTENCY_FIELD_NUMBER: _ClassVar[int]
    WAIT_MILLISECONDS_FIELD_NUMBER: _ClassVar[int]
    LOG_FIELD_NUMBER: _ClassVar[int]
    GROUP_FIELD_NUMBER: _ClassVar[int]
    first: int
    end: int
    reverse: bool
    count_max: int
    size_max: int
    filter: RecordFilter
    consistency: Consistency
    wait_milliseconds: int
    log: str
    group: int
    def __init__(self, first: _Optional[int] = ..., end: _Optional[int] = ..., reverse: bool = ..., count_max: _Optional[int] = ..., size_max: _Optional[int] = ..., filter: _Optional[_Union[RecordFilter, _Mapping]] = ..., consistency: _Optional[_Union[Consistency, str]] = ..., wait_milliseconds: _Optional[int] = ..., log: _Optional[str] = ..., group: _Optional[int] = ...) -> None: ...

class ReadResponse(_message.Message):
    __slots__ = ("frames", "next_offset", "group", "lowest", "committed", "is_confirmed")
    FRAMES_FIELD_NUMBER: _ClassVar[int]
    NEXT_OFFSET_FIELD_NUMBER: _ClassVar[int]
    GROUP_FIELD_NUMBER: _ClassVar[int]
    LOWEST_FIELD_NUMBER: _ClassVar[int]
    COMMITTED_FIELD_NUMBER: _ClassVar[int]
    IS_CONFIRMED_FIELD_NUMBER: _ClassVar[int]
    frames: bytes
    next_offset: int
    group: int
    lowest: int
    committed: int
    is_confirmed: bool
    def __init__(self, frames: _Optional[bytes] = ..., next_offset: _Optional[int] = ..., group: _Optional[int] = ..., lowest: _Optional[int] = ..., committed: _Optional[int] = ..., is_confirmed: bool = ...) -> None: ...

class BoundsRequest(_message.Message):
    __slots__ = ("log", "group")
    LOG_FIELD_NUMBER: _ClassVar[int]
    GROUP_FIELD_NUMBER: _ClassVar[int]
    log: str
    group: int
    def __init__(self, log: _Optional[str] = ..., group: _Optional[int] = ...) -> None: ...

class BoundsResponse(_message.Message):
    __slots__ = ("lowest", "next", "group")
    LOWEST_FIELD_NUMBER: _ClassVar[int]
    NEXT_FIELD_NUMBER: _ClassVar[int]
    GROUP_FIELD_NUMBER: _ClassVar[int]
    lowest: int
    next: int
    group: int
    def __init__(self, lowest: _Optional[int] = ..., next: _Optional[int] = ..., group: _Optional[int] = ...) -> None: ...

class FindOffsetRequest(_message.Message):
    __slots__ = ("timestamp", "log", "group")
    TIMESTAMP_FIELD_NUMBER: _ClassVar[int]
    LOG_FIELD_NUMBER: _ClassVar[int]
    GROUP_FIELD_NUMBER: _ClassVar[int]
    timestamp: int
    log: str
    group: int
    def __init__(self, timestamp: _Optional[int] = ..., log: _Optional[str] = ..., group: _Optional[int] = ...) -> None: ...

class FindOffsetResponse(_message.Message):
    __slots__ = ("offset", "timestamp")
    OFFSET_FIELD_NUMBER: _ClassVar[int]
    TIMESTAMP_FIELD_NUMBER: _ClassVar[int]
    offset: int
    timestamp: int
    def __init__(self, offset: _Optional[int] = ..., timestamp: _Optional[int] = ...) -> None: ...

class RegisterProducerRequest(_message.Message):
    __slots__ = ("log", "group")
    LOG_FIELD_NUMBER: _ClassVar[int]
    GROUP_FIELD_NUMBER: _ClassVar[int]
    log: str
    group: int
    def __init__(self, log: _Optional[str] = ..., group: _Optional[int] = ...) -> None: ...

class RegisterProducerResponse(_message.Message):
    __slots__ = ("producer_id",)
    PRODUCER_ID_FIELD_NUMBER: _ClassVar[int]
    producer_id: int
    def __init__(self, producer_id: _Optional[int] = ...) -> None: ...

class StatusRequest(_message.Message):
    __slots__ = ("log",)
    LOG_FIELD_NUMBER: _ClassVar[int]
    log: str
    def __init__(self, log: _Optional[str] = ...) -> None: ...

class StatusResponse(_message.Message):
    __slots__ = ("cluster_uuid", "cluster_name", "node", "version", "term", "leader", "commit_index", "lowest_offset", "next_offset", "members", "removed", "strays", "knows_strays", "problems", "log_count", "waiting_settings")
    CLUSTER_UUID_FIELD_NUMBER: _ClassVar[int]
    CLUSTER_NAME_FIELD_NUMBER: _ClassVar[int]
    NODE_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    TERM_FIELD_NUMBER: _ClassVar[int]
    LEADER_FIELD_NUMBER: _ClassVar[int]
    COMMIT_INDEX_FIELD_NUMBER: _ClassVar[int]
    LOWEST_OFFSET_FIELD_NUMBER: _ClassVar[int]
    NEXT_OFFSET_FIELD_NUMBER: _ClassVar[int]
    MEMBERS_FIELD_NUMBER: _ClassVar[int]
    REMOVED_FIELD_NUMBER: _ClassVar[int]
    STRAYS_FIELD_NUMBER: _ClassVar[int]
    KNOWS_STRAYS_FIELD_NUMBER: _ClassVar[int]
    PROBLEMS_FIELD_NUMBER: _ClassVar[int]
    LOG_COUNT_FIELD_NUMBER: _ClassVar[int]
    WAITING_SETTINGS_FIELD_NUMBER: _ClassVar[int]
    cluster_uuid: bytes
    cluster_name: str
    node: str
    version: str
    term: int
    leader: str
    commit_index: int
    lowest_offset: int
    next_offset: int
    members: _containers.RepeatedCompositeFieldContainer[MemberStatus]
    removed: _containers.RepeatedScalarFieldContainer[str]
    strays: _containers.RepeatedCompositeFieldContainer[StrayLog]
    knows_strays: bool
    problems: _containers.RepeatedCompositeFieldContainer[LogProblem]
    log_count: int
    waiting_settings: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, cluster_uuid: _Optional[bytes] = ..., cluster_name: _Optional[str] = ..., node: _Optional[str] = ..., version: _Optional[str] = ..., term: _Optional[int] = ..., leader: _Optional[str] = ..., commit_index: _Optional[int] = ..., lowest_offset: _Optional[int] = ..., next_offset: _Optional[int] = ..., members: _Optional[_Iterable[_Union[MemberStatus, _Mapping]]] = ..., removed: _Optional[_Iterable[str]] = ..., strays: _Optional[_Iterable[_Union[StrayLog, _Mapping]]] = ..., knows_strays: bool = ..., problems: _Optional[_Iterable[_Union[LogProblem, _Mapping]]] = ..., log_count: _Optional[int] = ..., waiting_settings: _Optional[_Iterable[str]] = ...) -> None: ...

class LogProblem(_message.Message):
    __slots__ = ("log", "node", "reason", "entries")
    LOG_FIELD_NUMBER: _ClassVar[int]
    NODE_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    ENTRIES_FIELD_NUMBER: _ClassVar[int]
    log: str
    node: str
    reason: str
    entries: int
    def __init__(self, log: _Optional[str] = ..., node: _Optional[str] = ..., reason: _Optional[str] = ..., entries: _Optional[int] = ...) -> None: ...

class StrayLog(_message.Message):
    __slots__ = ("group", "name", "size")
    GROUP_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    SIZE_FIELD_NUMBER: _ClassVar[int]
    group: int
    name: str
    size: int
    def __init__(self, group: _Optional[int] = ..., name: _Optional[str] = ..., size: _Optional[int] = ...) -> None: ...

class MemberStatus(_message.Message):
    __slots__ = ("name", "id", "role", "liveness", "is_leader", "match_index", "address", "version")
    NAME_FIELD_NUMBER: _ClassVar[int]
    ID_FIELD_NUMBER: _ClassVar[int]
    ROLE_FIELD_NUMBER: _ClassVar[int]
    LIVENESS_FIELD_NUMBER: _ClassVar[int]
    IS_LEADER_FIELD_NUMBER: _ClassVar[int]
    MATCH_INDEX_FIELD_NUMBER: _ClassVar[int]
    ADDRESS_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    name: str
    id: int
    role: str
    liveness: str
    is_leader: bool
    match_index: int
    address: str
    version: str
    def __init__(self, name: _Optional[str] = ..., id: _Optional[int] = ..., role: _Optional[str] = ..., liveness: _Optional[str] = ..., is_leader: bool = ..., match_index: _Optional[int] = ..., address: _Optional[str] = ..., version: _Optional[str] = ...) -> None: ...

class AddRequest(_message.Message):
    __slots__ = ("name", "learner")
    NAME_FIELD_NUMBER: _ClassVar[int]
    LEARNER_FIELD_NUMBER: _ClassVar[int]
    name: str
    learner: bool
    def __init__(self, name: _Optional[str] = ..., learner: bool = ...) -> None: ...

class AddResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class RemoveRequest(_message.Message):
    __slots__ = ("name",)
    NAME_FIELD_NUMBER: _ClassVar[int]
    name: str
    def __init__(self, name: _Optional[str] = ...) -> None: ...

class RemoveResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class LeaveRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class LeaveResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class TransferRequest(_message.Message):
    __slots__ = ("name", "log")
    NAME_FIELD_NUMBER: _ClassVar[int]
    LOG_FIELD_NUMBER: _ClassVar[int]
    name: str
    log: str
    def __init__(self, name: _Optional[str] = ..., log: _Optional[str] = ...) -> None: ...

class TransferResponse(_message.Message):
    __slots__ = ("leader",)
    LEADER_FIELD_NUMBER: _ClassVar[int]
    leader: str
    def __init__(self, leader: _Optional[str] = ...) -> None: ...

class TrimRequest(_message.Message):
    __slots__ = ("offset", "log", "group")
    OFFSET_FIELD_NUMBER: _ClassVar[int]
    LOG_FIELD_NUMBER: _ClassVar[int]
    GROUP_FIELD_NUMBER: _ClassVar[int]
    offset: int
    log: str
    group: int
    def __init__(self, offset: _Optional[int] = ..., log: _Optional[str] = ..., group: _Optional[int] = ...) -> None: ...

class TrimResponse(_message.Message):
    __slots__ = ("lowest",)
    LOWEST_FIELD_NUMBER: _ClassVar[int]
    lowest: int
    def __init__(self, lowest: _Optional[int] = ...) -> None: ...

class ReloadRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ReloadResponse(_message.Message):
    __slots__ = ("node", "changed", "waiting", "warnings")
    NODE_FIELD_NUMBER: _ClassVar[int]
    CHANGED_FIELD_NUMBER: _ClassVar[int]
    WAITING_FIELD_NUMBER: _ClassVar[int]
    WARNINGS_FIELD_NUMBER: _ClassVar[int]
    node: str
    changed: _containers.RepeatedScalarFieldContainer[str]
    waiting: _containers.RepeatedScalarFieldContainer[str]
    warnings: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, node: _Optional[str] = ..., changed: _Optional[_Iterable[str]] = ..., waiting: _Optional[_Iterable[str]] = ..., warnings: _Optional[_Iterable[str]] = ...) -> None: ...

class LogSettings(_message.Message):
    __slots__ = ("replicas", "retention_bytes", "retention_seconds", "record_bytes_max", "append_bytes_per_second_max", "tags")
    REPLICAS_FIELD_NUMBER: _ClassVar[int]
    RETENTION_BYTES_FIELD_NUMBER: _ClassVar[int]
    RETENTION_SECONDS_FIELD_NUMBER: _ClassVar[int]
    RECORD_BYTES_MAX_FIELD_NUMBER: _ClassVar[int]
    APPEND_BYTES_PER_SECOND_MAX_FIELD_NUMBER: _ClassVar[int]
    TAGS_FIELD_NUMBER: _ClassVar[int]
    replicas: int
    retention_bytes: int
    retention_seconds: int
    record_bytes_max: int
    append_bytes_per_second_max: int
    tags: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, replicas: _Optional[int] = ..., retention_bytes: _Optional[int] = ..., retention_seconds: _Optional[int] = ..., record_bytes_max: _Optional[int] = ..., append_bytes_per_second_max: _Optional[int] = ..., tags: _Optional[_Iterable[str]] = ...) -> None: ...

class LogChanges(_message.Message):
    __slots__ = ("replicas", "retention_bytes", "retention_seconds", "record_bytes_max", "append_bytes_per_second_max", "tags")
    REPLICAS_FIELD_NUMBER: _ClassVar[int]
    RETENTION_BYTES_FIELD_NUMBER: _ClassVar[int]
    RETENTION_SECONDS_FIELD_NUMBER: _ClassVar[int]
    RECORD_BYTES_MAX_FIELD_NUMBER: _ClassVar[int]
    APPEND_BYTES_PER_SECOND_MAX_FIELD_NUMBER: _ClassVar[int]
    TAGS_FIELD_NUMBER: _ClassVar[int]
    replicas: int
    retention_bytes: int
    retention_seconds: int
    record_bytes_max: int
    append_bytes_per_second_max: int
    tags: LogTags
    def __init__(self, replicas: _Optional[int] = ..., retention_bytes: _Optional[int] = ..., retention_seconds: _Optional[int] = ..., record_bytes_max: _Optional[int] = ..., append_bytes_per_second_max: _Optional[int] = ..., tags: _Optional[_Union[LogTags, _Mapping]] = ...) -> None: ...

class LogTags(_message.Message):
    __slots__ = ("tags",)
    TAGS_FIELD_NUMBER: _ClassVar[int]
    tags: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, tags: _Optional[_Iterable[str]] = ...) -> None: ...

class LogReplica(_message.Message):
    __slots__ = ("node", "member", "is_leader", "is_alive")
    NODE_FIELD_NUMBER: _ClassVar[int]
    MEMBER_FIELD_NUMBER: _ClassVar[int]
    IS_LEADER_FIELD_NUMBER: _ClassVar[int]
    IS_ALIVE_FIELD_NUMBER: _ClassVar[int]
    node: str
    member: int
    is_leader: bool
    is_alive: bool
    def __init__(self, node: _Optional[str] = ..., member: _Optional[int] = ..., is_leader: bool = ..., is_alive: bool = ...) -> None: ...

class LogDescription(_message.Message):
    __slots__ = ("name", "group", "epoch", "settings", "replicas", "leader", "created_at")
    NAME_FIELD_NUMBER: _ClassVar[int]
    GROUP_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    SETTINGS_FIELD_NUMBER: _ClassVar[int]
    REPLICAS_FIELD_NUMBER: _ClassVar[int]
    LEADER_FIELD_NUMBER: _ClassVar[int]
    CREATED_AT_FIELD_NUMBER: _ClassVar[int]
    name: str
    group: int
    epoch: int
    settings: LogSettings
    replicas: _containers.RepeatedCompositeFieldContainer[LogReplica]
    leader: str
    created_at: int
    def __init__(self, name: _Optional[str] = ..., group: _Optional[int] = ..., epoch: _Optional[int] = ..., settings: _Optional[_Union[LogSettings, _Mapping]] = ..., replicas: _Optional[_Iterable[_Union[LogReplica, _Mapping]]] = ..., leader: _Optional[str] = ..., created_at: _Optional[int] = ...) -> None: ...

class CreateLogRequest(_message.Message):
    __slots__ = ("name", "settings", "on")
    NAME_FIELD_NUMBER: _ClassVar[int]
    SETTINGS_FIELD_NUMBER: _ClassVar[int]
    ON_FIELD_NUMBER: _ClassVar[int]
    name: str
    settings: LogSettings
    on: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, name: _Optional[str] = ..., settings: _Optional[_Union[LogSettings, _Mapping]] = ..., on: _Optional[_Iterable[str]] = ...) -> None: ...

class CreateLogResponse(_message.Message):
    __slots__ = ("log",)
    LOG_FIELD_NUMBER: _ClassVar[int]
    log: LogDescription
    def __init__(self, log: _Optional[_Union[LogDescription, _Mapping]] = ...) -> None: ...

class AlterLogRequest(_message.Message):
    __slots__ = ("name", "changes")
    NAME_FIELD_NUMBER: _ClassVar[int]
    CHANGES_FIELD_NUMBER: _ClassVar[int]
    name: str
    changes: LogChanges
    def __init__(self, name: _Optional[str] = ..., changes: _Optional[_Union[LogChanges, _Mapping]] = ...) -> None: ...

class AlterLogResponse(_message.Message):
    __slots__ = ("log",)
    LOG_FIELD_NUMBER: _ClassVar[int]
    log: LogDescription
    def __init__(self, log: _Optional[_Union[LogDescription, _Mapping]] = ...) -> None: ...

class DeleteLogRequest(_message.Message):
    __slots__ = ("name",)
    NAME_FIELD_NUMBER: _ClassVar[int]
    name: str
    def __init__(self, name: _Optional[str] = ...) -> None: ...

class DeleteLogResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ReplaceReplicaRequest(_message.Message):
    __slots__ = ("name", "lost", "new")
    NAME_FIELD_NUMBER: _ClassVar[int]
    LOST_FIELD_NUMBER: _ClassVar[int]
    NEW_FIELD_NUMBER: _ClassVar[int]
    name: str
    lost: str
    new: str
    def __init__(self, name: _Optional[str] = ..., lost: _Optional[str] = ..., new: _Optional[str] = ...) -> None: ...

class ReplaceReplicaResponse(_message.Message):
    __slots__ = ("log",)
    LOG_FIELD_NUMBER: _ClassVar[int]
    log: LogDescription
    def __init__(self, log: _Optional[_Union[LogDescription, _Mapping]] = ...) -> None: ...

class ListLogsRequest(_message.Message):
    __slots__ = ("after", "count_max")
    AFTER_FIELD_NUMBER: _ClassVar[int]
    COUNT_MAX_FIELD_NUMBER: _ClassVar[int]
    after: str
    count_max: int
    def __init__(self, after: _Optional[str] = ..., count_max: _Optional[int] = ...) -> None: ...

class ListLogsResponse(_message.Message):
    __slots__ = ("logs", "next")
    LOGS_FIELD_NUMBER: _ClassVar[int]
    NEXT_FIELD_NUMBER: _ClassVar[int]
    logs: _containers.RepeatedCompositeFieldContainer[LogDescription]
    next: str
    def __init__(self, logs: _Optional[_Iterable[_Union[LogDescription, _Mapping]]] = ..., next: _Optional[str] = ...) -> None: ...

class DescribeLogRequest(_message.Message):
    __slots__ = ("name",)
    NAME_FIELD_NUMBER: _ClassVar[int]
    name: str
    def __init__(self, name: _Optional[str] = ...) -> None: ...

class DescribeLogResponse(_message.Message):
    __slots__ = ("log",)
    LOG_FIELD_NUMBER: _ClassVar[int]
    log: LogDescription
    def __init__(self, log: _Optional[_Union[LogDescription, _Mapping]] = ...) -> None: ...

class WatchLogsRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class WatchLogsResponse(_message.Message):
    __slots__ = ("offset", "logs", "deleted")
    OFFSET_FIELD_NUMBER: _ClassVar[int]
    LOGS_FIELD_NUMBER: _ClassVar[int]
    DELETED_FIELD_NUMBER: _ClassVar[int]
    offset: int
    logs: _containers.RepeatedCompositeFieldContainer[LogDescription]
    deleted: _containers.RepeatedCompositeFieldContainer[DeletedLog]
    def __init__(self, offset: _Optional[int] = ..., logs: _Optional[_Iterable[_Union[LogDescription, _Mapping]]] = ..., deleted: _Optional[_Iterable[_Union[DeletedLog, _Mapping]]] = ...) -> None: ...

class DeletedLog(_message.Message):
    __slots__ = ("name", "group")
    NAME_FIELD_NUMBER: _ClassVar[int]
    GROUP_FIELD_NUMBER: _ClassVar[int]
    name: str
    group: int
    def __init__(self, name: _Optional[str] = ..., group: _Optional[int] = ...) -> None: ...

class Cursor(_message.Message):
    __slots__ = ("name", "position", "epoch", "holder", "subject", "lease_milliseconds", "left_milliseconds", "waiting_count", "lag")
    NAME_FIELD_NUMBER: _ClassVar[int]
    POSITION_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    HOLDER_FIELD_NUMBER: _ClassVar[int]
    SUBJECT_FIELD_NUMBER: _ClassVar[int]
    LEASE_MILLISECONDS_FIELD_NUMBER: _ClassVar[int]
    LEFT_MILLISECONDS_FIELD_NUMBER: _ClassVar[int]
    WAITING_COUNT_FIELD_NUMBER: _ClassVar[int]
    LAG_FIELD_NUMBER: _ClassVar[int]
    name: str
    position: int
    epoch: int
    holder: str
    subject: str
    lease_milliseconds: int
    left_milliseconds: int
    waiting_count: int
    lag: int
    def __init__(self, name: _Optional[str] = ..., position: _Optional[int] = ..., epoch: _Optional[int] = ..., holder: _Optional[str] = ..., subject: _Optional[str] = ..., lease_milliseconds: _Optional[int] = ..., left_milliseconds: _Optional[int] = ..., waiting_count: _Optional[int] = ..., lag: _Optional[int] = ...) -> None: ...

class CursorResponse(_message.Message):
    __slots__ = ("cursor", "waiting")
    CURSOR_FIELD_NUMBER: _ClassVar[int]
    WAITING_FIELD_NUMBER: _ClassVar[int]
    cursor: Cursor
    waiting: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, cursor: _Optional[_Union[Cursor, _Mapping]] = ..., waiting: _Optional[_Iterable[str]] = ...) -> None: ...

class AcquireCursorRequest(_message.Message):
    __slots__ = ("log", "group", "name", "holder", "lease_milliseconds")
    LOG_FIELD_NUMBER: _ClassVar[int]
    GROUP_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    HOLDER_FIELD_NUMBER: _ClassVar[int]
    LEASE_MILLISECONDS_FIELD_NUMBER: _ClassVar[int]
    log: str
    group: int
    name: str
    holder: str
    lease_milliseconds: int
    def __init__(self, log: _Optional[str] = ..., group: _Optional[int] = ..., name: _Optional[str] = ..., holder: _Optional[str] = ..., lease_milliseconds: _Optional[int] = ...) -> None: ...

class AdvanceCursorRequest(_message.Message):
    __slots__ = ("log", "group", "name", "epoch", "position", "rewind")
    LOG_FIELD_NUMBER: _ClassVar[int]
    GROUP_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    POSITION_FIELD_NUMBER: _ClassVar[int]
    REWIND_FIELD_NUMBER: _ClassVar[int]
    log: str
    group: int
    name: str
    epoch: int
    position: int
    rewind: bool
    def __init__(self, log: _Optional[str] = ..., group: _Optional[int] = ..., name: _Optional[str] = ..., epoch: _Optional[int] = ..., position: _Optional[int] = ..., rewind: bool = ...) -> None: ...

class HeldCursorRequest(_message.Message):
    __slots__ = ("log", "group", "name", "epoch")
    LOG_FIELD_NUMBER: _ClassVar[int]
    GROUP_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    log: str
    group: int
    name: str
    epoch: int
    def __init__(self, log: _Optional[str] = ..., group: _Optional[int] = ..., name: _Optional[str] = ..., epoch: _Optional[int] = ...) -> None: ...

class NamedCursorRequest(_message.Message):
    __slots__ = ("log", "group", "name")
    LOG_FIELD_NUMBER: _ClassVar[int]
    GROUP_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    log: str
    group: int
    name: str
    def __init__(self, log: _Optional[str] = ..., group: _Optional[int] = ..., name: _Optional[str] = ...) -> None: ...

class SetCursorRequest(_message.Message):
    __slots__ = ("log", "group", "name", "position")
    LOG_FIELD_NUMBER: _ClassVar[int]
    GROUP_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    POSITION_FIELD_NUMBER: _ClassVar[int]
    log: str
    group: int
    name: str
    position: int
    def __init__(self, log: _Optional[str] = ..., group: _Optional[int] = ..., name: _Optional[str] = ..., position: _Optional[int] = ...) -> None: ...

class ListCursorsRequest(_message.Message):
    __slots__ = ("log", "group", "after", "count_max")
    LOG_FIELD_NUMBER: _ClassVar[int]
    GROUP_FIELD_NUMBER: _ClassVar[int]
    AFTER_FIELD_NUMBER: _ClassVar[int]
    COUNT_MAX_FIELD_NUMBER: _ClassVar[int]
    log: str
    group: int
    after: str
    count_max: int
    def __init__(self, log: _Optional[str] = ..., group: _Optional[int] = ..., after: _Optional[str] = ..., count_max: _Optional[int] = ...) -> None: ...

class ListCursorsResponse(_message.Message):
    __slots__ = ("cursors", "next")
    CURSORS_FIELD_NUMBER: _ClassVar[int]
    NEXT_FIELD_NUMBER: _ClassVar[int]
    cursors: _containers.RepeatedCompositeFieldContainer[Cursor]
    next: str
    def __init__(self, cursors: _Optional[_Iterable[_Union[Cursor, _Mapping]]] = ..., next: _Optional[str] = ...) -> None: ...

class DeleteCursorResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...
