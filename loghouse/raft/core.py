"""The consensus core of one member of one group: `Raft`. Sans-IO; time is ticks; randomness is injected.

How a driver uses it:

    raft = Raft(config, id=1, group=1, seed=seed, reader=log, hard_state=hard_state, rng=rng)
    raft.step(envelope)            # for each message received
    raft.tick(now)                 # at a steady pace
    ticket = raft.propose(proposal, now)
    while (ready := raft.ready()) is not None:
        send ready.messages_now, use ready.committed and ready.read_states
        hand ready to the disk; when it is durable: raft.persisted(ready.token), then
        send ready.messages_after_persist; then look for the next Ready, too
    if raft.has_unnotified_commit: a moment later raft.notify_commit(what raft.commit_index was)

A driver may call `ready()` again before the disk is done: persistence is asynchronous, in order. Nothing
here blocks, and nothing is sent or written by the core itself.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from loghouse.errors import DamageError
from loghouse.protocol.entry import Entry
from loghouse.protocol.hard_state import HardState
from loghouse.protocol.raft_messages import (
    NOBODY,
    AppendEntries,
    AppendEntriesReply,
    Envelope,
    Heartbeat,
    HeartbeatReply,
    InstallSnapshot,
    NoRoom,
    ReadIndex,
    ReadIndexReply,
    RequestVote,
    RequestVoteReply,
    TimeoutNow,
)
from loghouse.raft.ready import TERM_JUMP_MAX, Ready, Role, SoftState
from loghouse.raft.rest import Rest

_FROM_LEADER: Final = (AppendEntries, Heartbeat, InstallSnapshot)
_TO_LEADER: Final = (AppendEntriesReply, HeartbeatReply, NoRoom)


class Raft(Rest):
    """One member of one group.

    Its constructor is that of `Roles`. The last state of `reader` has the configuration to begin with, if
    any. `hard_state` is as last persisted, `commit_index` a lower bound of what is committed, from the log's
    watermark: `Ready.committed` begins behind it. StorageError: hard state and log do not fit each other.

    A lone voter campaigns at once, in the constructor. A member without configuration (a joiner) waits for a
    leader to speak to it.
    """

    def _begin(self) -> None:
        # Role, leader and term as last handed out; no term is -1, so the first Ready has them.
        self._soft_handed = SoftState(Role.FOLLOWER, NOBODY, -1)
        # The method that takes each kind of message; fixed.
        self._steps: dict[type, Callable[[int, Any], None]] = {
            RequestVote: self._on_request_vote,
            RequestVoteReply: self._on_vote_reply,
            AppendEntries: self._on_append_entries,
            AppendEntriesReply: self._on_append_reply,
            Heartbeat: self._on_heartbeat,
            HeartbeatReply: self._on_heartbeat_reply,
            InstallSnapshot: self._on_install_snapshot,
            TimeoutNow: self._on_timeout_now,
            ReadIndex: self._on_read_index,
            ReadIndexReply: self._on_read_index_reply,
            NoRoom: self._on_no_room,
        }
        if self.is_alone and self.may_campaign:
            self._campaign()

    # --- in ---------------------------------------------------------------------------

    def step(self, envelope: Envelope) -> None:
        """Take one message from another member; what does not fit is ignored, and `Metrics` is told why.

        Raises:
            MalformedMessageError: The sender breaks the rules; close its link. Nothing was changed but,
                possibly, the term and leader that the message named.
            DivergenceError, EntryDamagedError: The sender's log contradicts what is committed here or does
                not join it. This member must stop: never skip, never guess.
        """
        source, message = envelope.source, envelope.message
        if envelope.group != self.group or envelope.target != self.id or source in (self.id, NOBODY):
            return self._refuse("not addressed to this member")
        if message.term > self.term:
            if message.term > self.term + TERM_JUMP_MAX:
                return self._refuse("absurd term")
            if not self._take_newer_term(source, message):
                return None
        elif message.term < self.term:
            return self._answer_older_term(source, message)
        if isinstance(message, _FROM_LEADER):
            if self.leader not in (NOBODY, source):
                return self._refuse("second leader of a term")
        elif isinstance(message, _TO_LEADER) and self.role is not Role.LEADER:
            return self._refuse("reply from no follower")
        return self._steps[type(message)](source, message)

    def _take_newer_term(self, source: int, message: Any) -> bool:
        """Follow into a newer term (Raft 5.1); return whether the message is still to be looked at."""
        if isinstance(message, _FROM_LEADER):
            self._become_follower(message.term, source)
            return True
        if isinstance(message, RequestVote):
            return True  # judged where votes are given: the term is taken only with reason
        if isinstance(message, RequestVoteReply) and message.pre_vote and message.granted:
            return True  # carries the term that was asked about
        if isinstance(message, (*_TO_LEADER, RequestVoteReply)) and self.configuration.member(source):
            self._become_follower(message.term, NOBODY)
            return False
        # Hand-overs and reads of a term not heard of yet, and whatever strangers say, are not worth a term.
        self._refuse("newer term without reason")
        return False

    def _answer_older_term(self, source: int, message: Any) -> None:
        """Let the sender of an older term know the newer one, where that matters (Raft 5.1)."""
        if isinstance(message, _FROM_LEADER):
            # Otherwise a member with a newer term, which ignores the leader, would stay alone for ever.
            self._send(source, AppendEntriesReply(term=self.term, success=False, index=0))
        elif isinstance(message, RequestVote):
            self._send(source, RequestVoteReply(term=self.term, granted=False, pre_vote=message.pre_vote))
        else:
            self._refuse("older term")

    def persisted(self, token: int) -> None:
        """Note that everything in the Ready with this token, and in all before it, is durable.

        Late, repeated and skipped tokens are fine: a token covers the ones before it, and writes whose
        entries were cut meanwhile do not count.
        """
        if token > self._token:
            raise ValueError(f"token {token} was never given out; the last is {self._token}")
        self._stalled_ticks = 0
        rose = self._log.persisted(token)
        while self._hard_writes and self._hard_writes[0][0] <= token:
            self._hard_durable = self._hard_writes.popleft()[1]
        if rose:
            self._forget_repaired_damage()
        if self.role is Role.LEADER:
            if rose:
                self._advance_commit()
        elif self.role is Role.CANDIDATE and self._hard_durable == HardState(self.term, self.id):
            self._count_vote(self.id, True)

    def let_go(self) -> None:
        """Be over: what this member held of the node's caches is for others. Nothing else may follow."""
        self._log.let_go()

    # --- out --------------------------------------------------------------------------

    def ready(self) -> Ready | None:
        """Return the work of this turn, or None when there is none. It is handed out once."""
        reads, log = self._reads, self._log
        if reads.waiting or reads.to_ask:
            self._flush_reads()
        if self._progress:
            self._flush_appends()
        hard_state: HardState | None = None
        if self.term != self._hard_handed.term or self.vote != self._hard_handed.vote:
            hard_state = HardState(self.term, self.vote)
        soft_state: SoftState | None = None
        handed = self._soft_handed
        if self.role is not handed.role or self.leader != handed.leader or self.term != handed.term:
            soft_state = SoftState(self.role, self.leader, self.term)
        committed = self._take_committed() if log.delivered_index < log.commit_index else ()
        has_writes = log.has_writes
        if not (
            has_writes
            or committed
            or hard_state
            or soft_state
            or self._messages_now
            or self._messages_after_persist
            or self._read_states
        ):
            return None
        self._token += 1
        snapshot, truncate_after, entries = log.take_writes(self._token) if has_writes else (None, None, ())
        if hard_state is not None:
            self._hard_handed = hard_state
            self._hard_writes.append((self._token, hard_state))
        if soft_state is not None:
            self._soft_handed = soft_state
        ready = Ready(
            token=self._token,
            hard_state=hard_state,
            snapshot=snapshot,
            truncate_after=truncate_after,
            entries=entries,
            messages_now=tuple(self._messages_now),
            messages_after_persist=tuple(self._messages_after_persist),
            committed=committed,
            commit_index=log.commit_index,
            read_states=tuple(self._read_states),
            soft_state=soft_state,
        )
        self._messages_now = []
        self._messages_after_persist = []
        self._read_states = []
        log.release()
        return ready

    def _take_committed(self) -> tuple[Entry, ...]:
        try:
            return self._log.take_committed(self.config.committed_size_max)
        except DamageError as error:
            # From an earlier life, so known only to the disk: delivered once they are mended.
            self._unreadable = error
            return ()
