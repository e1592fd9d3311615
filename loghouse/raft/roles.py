"""A member's state and its changes of role: what all the other parts of the core stand on.

The core is a chain of small classes, each adding one part of the protocol to those below it:
`Roles` < `Replication` < `Reads` < `Elections` < `Proposals` < `Room` < `Rest` <
`Raft`.
"""

from __future__ import annotations

from collections import deque
from typing import Any

from loghouse.errors import DamageError, StorageError
from loghouse.metrics import NO_METRICS, Metrics
from loghouse.protocol.configuration import Birth, Configuration
from loghouse.protocol.cursors import Cursors
from loghouse.protocol.entry import Buffer, Entry, EntryKind, make_entry
from loghouse.protocol.hard_state import HardState
from loghouse.protocol.raft_messages import NOBODY, Envelope, Message
from loghouse.raft.config import RaftConfig
from loghouse.raft.held_back import HeldBack
from loghouse.raft.progress import Inflights, Progress, ProgressState
from loghouse.raft.raft_log import RaftLog
from loghouse.raft.read_queue import ReadQueue
from loghouse.raft.ready import Chance, Damage, LogReader, ReadState, Role
from loghouse.shares import Budget


class Roles:
    """Term, vote, role, leader, log and outgoing messages of one member."""

    def __init__(
        self,
        config: RaftConfig,
        *,
        id: int,
        group: int,
        seed: int,
        reader: LogReader,
        hard_state: HardState,
        rng: Chance,
        commit_index: int = 0,
        damage: Damage | None = None,
        now: int = 0,
        metrics: Metrics = NO_METRICS,
        caches: Budget | None = None,
    ) -> None:
        self.config = config  # timing and bounds; other bounds when the node's settings change
        self.id = id  # this member's id, u32, from the configuration entry that added it; fixed
        self.group = group  # the group's id, u32; fixed
        self.term = hard_state.term  # the newest term seen; never falls
        self.vote = hard_state.vote  # whom it voted for in `term`; NOBODY again when the term rises
        # Changes with elections and newer terms; between follower and learner, with the configuration.
        self.role = Role.FOLLOWER
        self.leader = NOBODY  # who leads in `term`; NOBODY while that is not known
        self.leader_commit = 0  # what the leader had committed when it last sent entries; may be held here
        self.damage = damage  # what a damaged log once held; None when it is whole, or as long again
        self.disk_is_full = False  # whether the disk has no room for records, as the driver says
        self._unreadable: DamageError | None = None  # damage met since `take_unreadable`
        self._metrics = metrics  # told why messages were ignored; fixed
        self._seed = seed  # the log's frame seed; fixed
        self._rng = rng  # for election timeouts and read ids; fixed
        self._now = now  # wall clock in microseconds since the epoch, as the last tick had it
        # The log: what of it is committed and durable, and its end in memory.
        self._log = RaftLog(reader, commit_index, config.cache_size_max, caches)
        if hard_state.term < self._log.last_term:
            raise StorageError(
                f"group {group}: the hard state has term {hard_state.term}, but the log ends in term "
                f"{self._log.last_term}; the hard state is of another time or another disk"
            )
        self._progress: dict[int, Progress] = {}  # the others, as this leader sees them; else empty
        self._votes: dict[int, bool] = {}  # the answers to this campaign, by voter; emptied by `_reset`
        self._reads = ReadQueue(rng.getrandbits(62))  # wait for their index; `_reset` fails them
        self._read_states: list[ReadState] = []  # reads that ended, for the next Ready
        self._transfer_target = NOBODY  # whom leadership is being handed to; NOBODY: to none
        self._transfer_ticks = 0  # a leader's ticks since a transfer last began
        self._held_back = HeldBack()  # the batch last refused for a bound, of each producer
        # Ticks since the leader was heard, a vote was given or the role changed; on a leader, since it
        # last looked whether a majority answers.
        self._election_elapsed: int
        # Ticks of silence before a campaign; drawn anew by `_reset`, and when the leader's link breaks.
        self._election_timeout: int
        self._heartbeat_elapsed: int  # a leader's ticks since its last heartbeats; begun with its term
        self._stalled_ticks = 0  # ticks that the disk has had work and finished nothing; 0 when it does
        self._term_start_index: int  # the index of the no-op that began this leader's term
        self._commit_to_notify = 0  # followers learn of it even without entries; set by `notify_commit`
        self._token = 0  # the last Ready's; one more with each
        self._hard_handed = hard_state  # term and vote as last handed out to be written
        self._hard_durable = hard_state  # term and vote as they are on disk; follows `persisted`
        self._hard_writes: deque[tuple[int, HardState]] = deque()  # on their way, by token, oldest first
        self._messages_now: list[Envelope] = []  # for the next Ready: may leave at once
        self._messages_after_persist: list[Envelope] = []  # for the next Ready: wait for its writes
        self._voters: frozenset[int] = frozenset()  # the ids that have a vote by `_configuration`
        # The latest configuration, as last taken up by `_refresh_membership`.
        self._configuration: Configuration | None = None
        # The latest configuration, and the one before it with its index; made when it is asked for.
        self._before: tuple[Configuration, Configuration, int] | None = None
        self._refresh_membership()
        self._reset_election_timer()
        self._forget_repaired_damage()
        self._begin()

    def _begin(self) -> None:
        """Do what comes last in the constructor."""

    # --- reading ------------------------------------------------------------------

    @property
    def configuration(self) -> Configuration:
        """The latest configuration in the log, committed or not (Raft 6)."""
        return self._log.state.configuration

    @property
    def configuration_is_committed(self) -> bool:
        """Whether that configuration is committed."""
        return self._log.state.configuration_index <= self._log.commit_index

    @property
    def settled(self) -> tuple[Configuration, int]:
        """The last configuration known to be committed, and its index; may read the disk.

        The one before the latest always is: no leader proposes another before it is (Raft 6).

        Raises:
            DamageError: The disk damaged what tells it.
        """
        state = self._log.state
        if self.configuration_is_committed:
            return state.configuration, state.configuration_index
        if self._before is None or self._before[0] is not state.configuration:
            before = self._log.state_before_configuration()
            self._before = state.configuration, before.configuration, before.configuration_index
        return self._before[1:]

    @property
    def birth(self) -> Birth | None:
        """The group that this log brought into being, once that is committed."""
        birth = self._log.state.birth
        return birth if birth is not None and birth.index <= self._log.commit_index else None

    @property
    def cursors(self) -> Cursors:
        """The cursors after the last entry of the log, committed or not. To look at, not to touch."""
        return self._log.state.cursors

    @property
    def later_index(self) -> int:
        """The index of the last entry of a kind that older readers do not know, 0 when there is none."""
        return self._log.state.later_index

    @property
    def configuration_index(self) -> int:
        """The index of the latest configuration, 0 when there is none."""
        return self._log.state.configuration_index

    @property
    def is_voter(self) -> bool:
        """Whether the latest configuration gives this member a vote."""
        return self.id in self._voters

    @property
    def is_alone(self) -> bool:
        """Whether this member is the only voter."""
        return self._voters == {self.id}

    @property
    def commit_index(self) -> int:
        """The highest index known to be committed."""
        return self._log.commit_index

    @property
    def last_index(self) -> int:
        """The last index of the log, durable or not."""
        return self._log.last_index

    @property
    def durable_index(self) -> int:
        """The highest index durable here and not about to be cut."""
        return self._log.durable_index

    @property
    def next_offset(self) -> int:
        """The offset that the next appended record gets."""
        return self._log.state.next_offset

    @property
    def has_own_commit(self) -> bool:
        """Whether this is a leader that committed an entry of its own term."""
        return self.role is Role.LEADER and self._log.commit_index >= self._term_start_index

    def term_at(self, index: int) -> int:
        """Return the term of an entry of the log; 0 when it is trimmed or not there."""
        return self._log.term_at(index)

    def take_unreadable(self) -> DamageError | None:
        """Return damage that a look at committed entries met since the last call; what needs them waits."""
        unreadable, self._unreadable = self._unreadable, None
        return unreadable

    # --- sending --------------------------------------------------------------------

    def _send(self, target: int, message: Message) -> None:
        """Send a message that promises nothing but its term: now, if that is durable."""
        durable = self._hard_durable
        if durable.term == self.term and durable.vote == self.vote:
            self._messages_now.append(Envelope(self.group, self.id, target, message))
        else:
            self._send_after_persist(target, message)

    def _send_after_persist(self, target: int, message: Message) -> None:
        """Send a message that promises what is being written (Raft thesis 3.8)."""
        self._messages_after_persist.append(Envelope(self.group, self.id, target, message))

    def _refuse(self, reason: str) -> None:
        """Count a message that is ignored."""
        self._metrics.raft_message_refused(reason)

    # --- roles ------------------------------------------------------------------------

    def _become_follower(self, term: int, leader: int) -> None:
        """Follow `leader` (or nobody yet) in `term`, which is not below the own one (Raft 5.1)."""
        assert term >= self.term, "terms never fall"
        if term > self.term:
            self.term = term
            self.vote = NOBODY
        self._reset()
        self.role = Role.FOLLOWER if self.is_voter else Role.LEARNER
        self.leader = leader

    def _reset(self) -> None:
        """Forget what belonged to the last role: votes, followers, reads, a transfer under way."""
        self.leader = NOBODY
        self._votes = {}
        self._progress = {}
        self._transfer_target = NOBODY
        self._read_states += self._reads.fail_all(self.id)
        self._reset_election_timer()

    def _reset_election_timer(self) -> None:
        ticks = self.config.election_ticks
        self._election_elapsed = 0
        self._election_timeout = self._rng.randrange(ticks, 2 * ticks)

    def _forget_repaired_damage(self) -> None:
        """Be a full member again once the durable log is as up to date as the damaged one was."""
        damage = self.damage
        if damage is not None:
            durable_index = self._log.durable_index
            durable = (self._log.term_at(durable_index), durable_index)
            if durable >= (damage.last_term, damage.last_index):
                self.damage = None

    # --- the log's end ------------------------------------------------------------------

    def _append_own(self, kind: int, now: int, payload: Buffer = b"", **more: Any) -> Entry:
        """Append an entry of the own term: index, offset and timestamp follow from the log before it.

        `more` is what else `make_entry` takes.
        """
        assert self.role is Role.LEADER
        state = self._log.state
        entry = make_entry(
            self._seed,
            index=state.index + 1,
            term=self.term,
            kind=kind,
            base_offset=state.next_offset,
            timestamp=max(now, state.timestamp),
            payload=payload,
            **more,
        )
        self._log.append(entry)
        if kind == EntryKind.CONFIGURATION:
            self._refresh_membership()
        return entry

    def _refresh_membership(self) -> None:
        """Take up the latest configuration in the log; it counts from its append (Raft 6)."""
        state = self._log.state
        if state.configuration is self._configuration:
            return
        self._configuration = state.configuration
        self._voters = state.configuration.voters
        if self.role is Role.LEADER:
            self._follow_membership(state.configuration)
        elif self.role in (Role.FOLLOWER, Role.LEARNER):
            self.role = Role.FOLLOWER if self.is_voter else Role.LEARNER

    def _follow_membership(self, configuration: Configuration) -> None:
        """Lead exactly the configuration's members."""
        ids = {member.id for member in configuration.members} - {self.id}
        for id_ in [id_ for id_ in self._progress if id_ not in ids]:
            del self._progress[id_]
        for id_ in sorted(ids - self._progress.keys()):
            self._progress[id_] = Progress(
                next_index=self._log.last_index + 1,
                inflights=Inflights(self.config.inflight_entries_max, self.config.inflight_size_max),
                # A newcomer is not counted as silent before it had a chance to speak.
                active=True,
                state=ProgressState.PROBE,
            )
        if self._transfer_target not in self._voters:
            self._transfer_target = NOBODY
