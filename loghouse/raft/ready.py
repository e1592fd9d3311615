"""What goes into the core besides messages, and what comes out of it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Final, Protocol

from loghouse.protocol.cursors import CursorChange
from loghouse.protocol.entry import Buffer, Entry, EntryKind
from loghouse.protocol.hard_state import HardState
from loghouse.protocol.log_state import LogState
from loghouse.protocol.raft_messages import Envelope

# A term this far beyond the own one is not counted up to by elections: it is noise or malice.
TERM_JUMP_MAX: Final = 1 << 32
# Indices and offsets from here on are noise as well: counting up must never overflow a u64.
INDEX_MAX: Final = 1 << 63


class Role(Enum):
    """What a member is doing. A learner is a follower that its own latest configuration gives no vote."""

    FOLLOWER = "follower"
    LEARNER = "learner"
    PRE_CANDIDATE = "pre-candidate"
    CANDIDATE = "candidate"
    LEADER = "leader"


class Chance(Protocol):
    """What the core needs of `random.Random` (tests) or `random.SystemRandom` (production)."""

    def randrange(self, start: int, stop: int) -> int:
        """A number from `start` to `stop - 1`."""

    def getrandbits(self, k: int) -> int:
        """A number of `k` bits."""


class EntriesPendingError(Exception):
    """A `LogReader` has not got the entries at hand; it is getting them, and the driver then looks again."""


class EntryHeader(Protocol):
    """What of an entry a retry of it is compared with, and answered from."""

    @property
    def term(self) -> int:
        """The term it was appended in."""

    @property
    def timestamp(self) -> int:
        """When it was appended."""

    @property
    def attributes(self) -> int:
        """How its payload is compressed."""

    @property
    def payload_crc(self) -> int:
        """The checksum of its payload."""


class LogReader(Protocol):
    """The durable log, as far as the core reads it. `storage.Log` is one.

    The core asks only for what it knows to be durable *and* committed, and for the log's first index;
    everything else it still holds in memory.
    """

    @property
    def first_index(self) -> int:
        """The first entry held; 1 in a log that was never trimmed. It may grow at any time."""

    @property
    def last_index(self) -> int:
        """The last entry held; `first_index - 1` when there is none. Read once, at the start."""

    @property
    def record_room(self) -> int:
        """Bytes of records that fit behind the last entry on a full disk; asked only of such a one."""

    def term_at(self, index: int) -> int:
        """The term of an entry from `first_index - 1` (0 for index 0) to `last_index`."""

    def header_at(self, index: int) -> EntryHeader:
        """What the header of an entry from `first_index` to `last_index` says."""

    def entries(self, low: int, high: int, size_max: int) -> list[Entry]:
        """Entries from `low` up to, not including, `high`: at least one, then those that fit `size_max`.

        Fewer are fine. Raises LookupError when `low` was trimmed meanwhile, DamageError when the disk damaged
        it; so do `term_at`, `header_at` and `state_at`. Damage may be mended at any time.
        Raises EntriesPendingError when they must be read from the disk first: `Raft.ready` asks again.
        """

    def state_at(self, index: int) -> LogState:
        """An independent copy of the state after `index`, from `first_index - 1` to `last_index`."""


@dataclass(frozen=True, slots=True)
class SoftState:
    """What a member may forget: its role, its term, and the leader it knows (0: none)."""

    role: Role
    leader: int
    term: int


@dataclass(frozen=True, slots=True)
class Damage:
    """The last entry a damaged log is known to have held (`docs/consensus.md`, Damage).

    The log that the core is given ends before the damage. Until it is, durably, at least as far as this
    again, the member votes by this pair and never campaigns.
    """

    last_index: int
    last_term: int


@dataclass(slots=True, kw_only=True)  # made for every append: not frozen
class Proposal:
    """What a leader is asked to append.

    The payload must have been checked (`batch.check_batch`); it is stored as it is and not copied, so it must
    not change. `attributes` are the entry's: the codec it is compressed by. `payload_crc` is its CRC32C when
    its maker sent one, None to have it computed. `subject` is who proposes: the owner of `producer_id`, when
    that is not 0. `expect_offset` refuses the append unless the first record gets that offset. `cursor` is an
    advance that counts together with the records, and does what a producer's sequence does: a retry of it is
    answered with the original's place.
    """

    payload: Buffer = b""
    record_count: int = 0
    kind: int = EntryKind.RECORDS
    attributes: int = 0
    payload_crc: int | None = None
    producer_id: int = 0
    producer_sequence: int = 0
    subject: str = ""
    expect_offset: int | None = None
    cursor: CursorChange | None = None


@dataclass(slots=True)  # made for every append: not frozen
class Ticket:
    """Where a proposal is in the leader's log.

    It is acknowledged once the entry with this index *and* this term is committed (for a duplicate: the
    original entry). When another term's entry is committed at this index, it certainly was not appended.
    `term` 0: committed, and trimmed or damaged since. `timestamp` 0: it is not known.
    """

    index: int
    term: int
    base_offset: int
    record_count: int
    timestamp: int
    duplicate: bool = False


@dataclass(frozen=True, slots=True)
class ReadState:
    """The end of one `read_index()`: read when the log is committed and durable up to `index`.

    `index` None: no leader confirmed it (leader lost, changed or silent); ask again for a new id.
    """

    id: int
    index: int | None


@dataclass(slots=True, kw_only=True)  # made for every append: not frozen
class Ready:
    """Work for the driver, one turn's worth. Every field may be empty.

    Write, in this order and behind the writes of every earlier Ready: `hard_state` (synced before anything
    that follows), `snapshot` (the log starts behind it: `install_start`), `truncate_after` (keep entries up
    to and including it), `entries`; then sync and call `Raft.persisted(token)` and send
    `messages_after_persist`. The core goes on meanwhile; what piles up is the next Ready.

    `messages_now` may leave at once. `messages_after_persist` (votes, acknowledgements, and whatever carries
    a term that is not durable yet) must wait until everything in this *and every earlier* Ready is
    durable (Raft thesis 3.8, 10.2.1): also when this one has nothing to write.

    `committed` are entries newly known to be committed, in order, each once per start of the core; they may
    not be durable *here* yet. Behind a `snapshot` they go on at its index + 1.

    `commit_index` is the highest index known to be committed, for the log's watermark.

    `soft_state` is there when it changed.
    """

    token: int
    hard_state: HardState | None
    snapshot: LogState | None
    truncate_after: int | None
    entries: tuple[Entry, ...]
    messages_now: tuple[Envelope, ...]
    messages_after_persist: tuple[Envelope, ...]
    committed: tuple[Entry, ...]
    commit_index: int
    read_states: tuple[ReadState, ...]
    soft_state: SoftState | None

    @property
    def must_persist(self) -> bool:
        """Whether there is anything to write."""
        return bool(
            self.entries
            or self.hard_state is not None
            or self.snapshot is not None
            or self.truncate_after is not None
        )

    @property
    def waits_for_disk(self) -> bool:
        """Whether anything here must take its turn behind the writes of earlier ones.

        If not (a commit, a heartbeat), it is done once it was looked at; a later token covers it.
        """
        return self.must_persist or bool(self.messages_after_persist)
