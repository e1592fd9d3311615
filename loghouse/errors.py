"""Every error Loghouse raises on purpose, in one tree.

Details are attributes; the text is made from them and tells an operator what
happened, where, and what to do next. `code` is the number on the wire
(`docs/wire_format.md`): append-only, never reused.
"""

from __future__ import annotations

import errno
from collections.abc import Sequence
from copy import copy
from typing import Any, ClassVar, Final, Self


def _again(kind: type[PortableError], args: tuple[Any, ...], attributes: dict[str, Any]) -> PortableError:
    error = kind.__new__(kind, *args)
    error.args = args
    vars(error).update(attributes)
    return error


class PortableError(Exception):
    """An error that is copied, and passed to other processes, with its text and its attributes."""

    def __reduce__(self) -> tuple[Any, ...]:
        return _again, (type(self), self.args, dict(vars(self)))

    def anew(self) -> Self:
        """Return a copy to raise of an error that is kept: itself it would keep the traceback."""
        error = copy(self)
        error.__cause__ = self.__cause__
        return error

    def is_like(self, other: BaseException) -> bool:
        """Whether this is another one, or a copy of it."""
        return type(self) is type(other) and str(self) == str(other)


class LoghouseError(PortableError):
    """Base of every error raised on purpose.

    Attributes:
        may_retry: Whether the same call may be made again as it is: that is safe, and may go well then.
        was_appended: Whether the record is in the log: False certainly not, None nobody can tell here.
    """

    code: ClassVar[int] = 0
    may_retry: bool = False
    was_appended: bool | None = None


# --- requests -----------------------------------------------------------------


class RequestError(LoghouseError):
    """A caller's request was answered with a refusal; nothing was appended unless said otherwise."""

    was_appended: bool | None = False


class InvalidRequestError(RequestError):
    """A field of a request is missing, false or beyond its limit."""

    code = 16

    def __init__(self, field: str, problem: str) -> None:
        super().__init__(f"{field}: {problem}")
        self.field = field
        self.problem = problem


class OffsetOutOfRangeError(RequestError):
    """The offset holds no record: `lowest` is the first readable, `next_offset` the next to be given out."""

    code = 17

    def __init__(self, offset: int, lowest: int, next_offset: int) -> None:
        held = (
            f"{lowest} to {next_offset - 1}"
            if next_offset > lowest
            else f"none yet; the next is {next_offset}"
        )
        super().__init__(f"offset {offset} is out of range; offsets held: {held}")
        self.offset = offset
        self.lowest = lowest
        self.next_offset = next_offset


class NotLeaderError(RequestError):
    """Certainly not appended: only the leader can do this. `leader` is the node to ask, if known."""

    code = 18
    may_retry = True

    def __init__(self, leader: str | None = None) -> None:
        super().__init__(
            f"not the leader; ask {leader}" if leader else "not the leader, and no leader is known; try again"
        )
        self.leader = leader


class UnavailableError(RequestError):
    """Certainly not appended: the node cannot do this now; trying again or elsewhere is safe."""

    code = 19
    may_retry = True


class DeadlineError(UnavailableError, TimeoutError):
    """A client gave up at its deadline; nothing was appended. The text holds the last attempt's failure."""


class ClosedError(UnavailableError):
    """The client, or its producer, is closed; nothing was appended."""

    may_retry = False


class ClientUseError(RequestError, RuntimeError):
    """A client was used where it cannot work: in a forked child, on another loop; nothing was appended."""


class OutcomeUnknownError(RequestError):
    """The record may or may not have been appended; without a producer id a retry may duplicate it."""

    code = 20
    was_appended = None


class ExpectOffsetError(RequestError):
    """`expect_offset` did not hold; nothing was appended."""

    code = 21

    def __init__(self, expected: int, actual: int) -> None:
        super().__init__(f"expected next offset {expected}, but it is {actual}; nothing was appended")
        self.expected = expected
        self.actual = actual


class SequenceError(RequestError):
    """A producer's sequence leaves a gap, or is older than the batches remembered; nothing was appended."""

    code = 22

    def __init__(self, producer_id: int, sequence: int, expected: int) -> None:
        super().__init__(
            f"producer {producer_id} sent sequence {sequence}, expected {expected}; nothing was appended"
        )
        self.producer_id = producer_id
        self.sequence = sequence
        self.expected = expected


class SequenceReusedError(RequestError):
    """A producer sent other records under a sequence that is in the log; nothing was appended."""

    code = 32

    def __init__(self, producer_id: int, sequence: int) -> None:
        super().__init__(
            f"producer {producer_id} sent other records as sequence {sequence}, which is in the log; nothing "
            "was appended: a retry must send the same bytes, and a new batch the next sequence"
        )
        self.producer_id = producer_id
        self.sequence = sequence


class UnknownProducerError(RequestError):
    """The producer id was never registered, belongs to another subject, or was evicted."""

    code = 23

    def __init__(self, producer_id: int) -> None:
        super().__init__(f"producer {producer_id} is not known for this subject; register again")
        self.producer_id = producer_id


class ResourceExhaustedError(RequestError):
    """A bound was reached; try again later, slower or smaller."""

    code = 24
    may_retry = True

    def __init__(self, resource: str, limit: str) -> None:
        super().__init__(f"{resource}: {limit}")
        self.resource = resource
        self.limit = limit


class QuotaExceededError(ResourceExhaustedError):
    """A subject used more than node.yaml gives it; nothing was done, try again after `retry_milliseconds`."""

    code = 34

    def __init__(self, retry_milliseconds: int, resource: str, limit: str) -> None:
        super().__init__(resource, f"{limit}; try again in {retry_milliseconds / 1000:g} s")
        self.retry_milliseconds = retry_milliseconds
        self.limit = limit

    @property
    def retry_seconds(self) -> float:
        """After how long the same request may be made again."""
        return self.retry_milliseconds / 1000


def short_of(error: BaseException) -> ResourceExhaustedError | None:
    """Return the refusal of a request for which memory or files did not suffice, None for other errors.

    Only where nothing can have been appended yet.
    """
    if isinstance(error, OSError):
        if error.errno not in (errno.EMFILE, errno.ENFILE, errno.ENOMEM):
            return None
        return ResourceExhaustedError("files", f"{error.strerror} on this node; try again, or another node")
    if isinstance(error, MemoryError):
        return ResourceExhaustedError("memory", "this node has none left for it; try again, or another node")
    return None


class DiskFullError(ResourceExhaustedError):
    """No room to preallocate: appends are refused, reads go on, writing resumes when there is space."""

    code = 25

    def __init__(self, directory: str) -> None:
        super().__init__("disk", f"no space left under {directory}; free some, appends resume by themselves")
        self.directory = directory


class PermissionDeniedError(RequestError):
    """The policy does not allow this subject this action on this object."""

    code = 26

    def __init__(self, subject: str, action: str, object_: str) -> None:
        super().__init__(f"{subject!r} is not permitted to {action} {object_!r}")
        self.subject = subject
        self.action = action
        self.object = object_


class UnauthenticatedError(RequestError):
    """No verified client certificate came with the call."""

    code = 27


class UnknownLogError(RequestError):
    """No log of that name is on this cluster."""

    code = 28

    def __init__(self, name: str) -> None:
        super().__init__(f"no log named {name!r} on this cluster")
        self.name = name


class UnknownServiceError(RequestError):
    """Health was asked about a gRPC service that no node has."""

    code = 31

    def __init__(self, name: str) -> None:
        super().__init__(f"no gRPC service named {name!r} here")
        self.name = name


class MembershipError(RequestError):
    """A membership change was refused; the text says why and what would work."""

    code = 29


class NotSupportedError(RequestError):
    """The call is specified, but this version does not serve it."""

    code = 30


class ReloadRefusedError(RequestError):
    """A node read its settings again and found them wrong: it goes on with the old ones, all of them."""

    code = 33


class CursorHeldError(RequestError):
    """Another holder has the cursor, and was heard within its lease; `milliseconds` are left of that."""

    code = 35

    def __init__(self, milliseconds: int, name: str, holder: str) -> None:
        super().__init__(
            f"cursor {name!r} is held by {holder!r}, whose lease has {milliseconds / 1000:g} s left; wait, "
            "or let that holder release it"
        )
        self.milliseconds = milliseconds
        self.name = name
        self.holder = holder


class CursorFencedError(RequestError):
    """The cursor was acquired, released or set since: it has another epoch now, and nothing was done."""

    code = 36

    def __init__(self, epoch: int, current: int, name: str) -> None:
        super().__init__(
            f"cursor {name!r} has epoch {current} by now, not {epoch}: somebody else acquired or set it; "
            "nothing was done, acquire it again and go on from its position"
        )
        self.epoch = epoch
        self.current = current
        self.name = name


class CursorRewindError(RequestError):
    """A cursor does not go back unless that is asked for, and moves on with records; nothing was done."""

    code = 37

    def __init__(self, position: int, current: int, name: str) -> None:
        super().__init__(
            f"cursor {name!r} stands at {current} and does not go to {position}; nothing was done: a "
            "position rises, with records by one at least, unless a rewind is asked for"
        )
        self.position = position
        self.current = current
        self.name = name


class UnknownCursorError(RequestError):
    """The log has no cursor of that name; nothing was done."""

    code = 38

    def __init__(self, name: str) -> None:
        super().__init__(f"this log has no cursor {name!r}; acquire it, that makes it")
        self.name = name


class TooManyCursorsError(RequestError):
    """The log has as many cursors as it may; nothing was done."""

    code = 39

    def __init__(self, count: int, name: str) -> None:
        super().__init__(
            f"cursor {name!r} would be one more than the {count} that a log has at most; nothing was done: "
            "delete one that nobody uses"
        )
        self.count = count
        self.name = name


class CursorTrimmedError(RequestError):
    """The records at a consumer's position have been trimmed, and it skips nothing unless told to."""

    def __init__(self, name: str, position: int, lowest: int) -> None:
        super().__init__(
            f"cursor {name!r} stands at {position}, but the log begins at {lowest}: what is between was "
            "trimmed before this consumer had it; to go on without it give on_trimmed='earliest' (or "
            f"'latest'), or put the cursor elsewhere: loghouse cursor set {name!r} --position {lowest}"
        )
        self.name = name
        self.position = position
        self.lowest = lowest


class PositionTakenError(RequestError):
    """The row of a database that a consumer was to move holds the position of another consumer."""

    def __init__(self, name: str, owner: str, source: str) -> None:
        super().__init__(
            f"row {name!r} of table loghouse_positions is of {owner}, and this consumer reads {source}: its "
            "position means other records; give process() a name= that no other consumer of this database "
            "has, or, if that log was made anew, delete the row"
        )
        self.name = name
        self.owner = owner
        self.source = source


# --- the wire -----------------------------------------------------------------


class ProtocolError(LoghouseError):
    """The peer broke the wire rules; its link must close."""

    code = 1
    was_appended = False  # of what was sent on the link before, an OutcomeUnknownError tells


class FrameTooLargeError(ProtocolError):
    """A frame header announces more bytes than its kind may have."""

    code = 2

    def __init__(self, kind: int, size: int, size_max: int) -> None:
        super().__init__(f"frame kind {kind:#06x} announces {size} bytes; at most {size_max} are allowed")
        self.kind = kind
        self.size = size
        self.size_max = size_max


class MalformedMessageError(ProtocolError):
    """A frame's body does not parse as its kind says."""

    code = 3


class IdentityError(ProtocolError):
    """The peer is not who it must be: certificate, cluster, node or role do not fit."""

    code = 4


class VersionError(ProtocolError):
    """No common protocol version."""

    code = 5


class PeerTimeoutError(ProtocolError):
    """The peer did not finish a step in its time."""

    code = 6
    may_retry = True


# --- entries and storage -------------------------------------------------------


class EntryError(LoghouseError):
    """Bytes are not a valid entry frame of this log."""

    code = 40
    was_appended = False


class EntryTruncatedError(EntryError):
    """The frame goes on behind the bytes at hand. `needed` counts bytes from the frame's start."""

    def __init__(self, needed: int) -> None:
        super().__init__(f"the entry frame needs {needed} bytes")
        self.needed = needed


class EntryDamagedError(EntryError):
    """A checksum or a field is wrong."""


class StorageError(LoghouseError):
    """The data directory cannot be used as it is; nothing was modified."""

    code = 48


class DataDirectoryError(StorageError):
    """The data directory is in use, unreadable, of another cluster, or of another version."""


class DirectoryInUseError(DataDirectoryError):
    """A node runs on the data directory."""


class BackupError(StorageError):
    """A backup cannot be made, continued, or restored; the text says what to do. What is there is kept."""


class BackupGapError(BackupError):
    """Records were trimmed that the backup does not have: offsets `missing_from` to `lowest` - 1."""

    def __init__(self, log: str, missing_from: int, lowest: int) -> None:
        super().__init__(
            f"log {log}: offsets {missing_from} to {lowest - 1} were trimmed before this backup got them; "
            "back the log up into another directory (this one stays good up to there), and run it more often"
        )
        self.log = log
        self.missing_from = missing_from
        self.lowest = lowest


class LogReplacedError(BackupError):
    """The log of that name, or what it holds, is another one than was backed up."""


class DamageError(StorageError):
    """Acknowledged data is damaged. Nothing was modified.

    `file` and `position` name the first bad byte; `last_index` and `last_term`
    are the last entry the log is known to have held (0 when not known).
    """

    def __init__(
        self,
        file: str,
        position: int,
        problem: str,
        *,
        last_index: int = 0,
        last_term: int = 0,
        remedy: str = "",
    ) -> None:
        text = f"{file}: damaged at byte {position}: {problem}"
        super().__init__(f"{text}; {remedy}" if remedy else text)
        self.file = file
        self.position = position
        self.problem = problem
        self.last_index = last_index
        self.last_term = last_term


class DiskFailedError(StorageError):
    """A write or sync failed. The node must stop: a failed fsync is never retried."""


# --- consensus ------------------------------------------------------------------


class ConsensusError(LoghouseError):
    """Two members disagree on what is committed: the member must stop before it spreads."""


class DivergenceError(ConsensusError):
    """A leader's entry contradicts one that is committed here. This member must stop."""

    code = 64

    def __init__(self, group: int, index: int, term: int, leader_term: int) -> None:
        super().__init__(
            f"group {group}: the leader has term {leader_term} at index {index}, but this node committed "
            f"term {term} there; one of the two logs was damaged or restored from a copy. Stop this node, "
            f"compare the logs, and wipe the wrong one"
        )
        self.group = group
        self.index = index
        self.term = term
        self.leader_term = leader_term


# --- configuration --------------------------------------------------------------


class ConfigError(LoghouseError):
    """node.yaml is wrong; `problems` lists everything that is."""

    was_appended = False

    def __init__(self, problems: Sequence[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = tuple(problems)


class CertificateError(LoghouseError):
    """A certificate, key or CA file is missing, unreadable, or does not fit."""

    was_appended = False


class ReactorError(LoghouseError):
    """Another reactor than the asyncio one is already installed."""


# --- packages that are not installed ----------------------------------------------

NODE_MODULES: Final = frozenset(
    {
        "OpenSSL",
        "casbin",
        "cryptography",
        "grpc_health",
        "grpc_reflection",
        "prometheus_client",
        "twisted",
        "zope",
    }
)
"""What `loghouse[node]` brings, by the names that Python imports."""


def what_brings(error: ModuleNotFoundError) -> str:
    """Say of a package that is not installed what installs it.

    Raises:
        ModuleNotFoundError: The module is one of ours, which no user can have forgotten.
    """
    package = (error.name or "loghouse").partition(".")[0]
    if package == "loghouse":
        raise error
    if package in NODE_MODULES:
        return f"{package} is not installed; pip install 'loghouse[node]' brings all that a node needs"
    return f"{package} is not installed; pip install loghouse brings it"
