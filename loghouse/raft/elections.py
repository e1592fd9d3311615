"""Elections (Raft 5.2, 5.4.1; thesis 4.2.3, 9.6): time, campaigns and votes."""

from __future__ import annotations

from loghouse.protocol.entry import EntryKind
from loghouse.protocol.raft_messages import NOBODY, RequestVote, RequestVoteReply, TimeoutNow
from loghouse.raft.progress import ProgressState
from loghouse.raft.quorum import has_quorum, vote_result
from loghouse.raft.reads import Reads
from loghouse.raft.ready import Role


class Elections(Reads):
    """Ticks, candidates, and the beginning and end of leadership."""

    # --- time -------------------------------------------------------------------------

    def tick(self, now: int = 0) -> None:
        """Let one tick pass.

        Args:
            now: The wall clock in microseconds since the epoch, if at hand: for timestamps of entries and
                heartbeats only. Nothing is decided by it.
        """
        if now:
            self._now = now
        self._log.tick(self.config.quiet_ticks)
        self._election_elapsed += 1
        self._stalled_ticks = self._stalled_ticks + 1 if self._is_writing else 0
        if self.role is Role.LEADER:
            self._tick_leader()
        else:
            self._tick_follower()

    @property
    def _is_writing(self) -> bool:
        return self._log.is_writing or bool(self._hard_writes)

    @property
    def is_stalled(self) -> bool:
        """Whether the disk has had work for an election timeout and finished nothing."""
        return self._stalled_ticks >= self.config.election_ticks

    def _tick_follower(self) -> None:
        self._read_states += self._reads.tick(self.config.election_ticks)
        timeout = self._election_timeout
        if self.disk_is_full:
            timeout += 2 * self.config.election_ticks  # all who have room come first
        if (self.is_alone or self._election_elapsed >= timeout) and self.may_campaign:
            self._campaign()

    def stand(self) -> None:
        """Campaign now, unless a leader is known: for who is to lead a group that has just begun."""
        is_free = self.role in (Role.FOLLOWER, Role.PRE_CANDIDATE) and self.leader == NOBODY
        if is_free and self.may_campaign:
            self._campaign()

    def leader_link_lost(self, elections: int = 1) -> None:
        """Take the end of the leader's connection for a sign that it is gone: look for another one soon.

        A process that dies takes its connections along; waiting out an election timeout for it is time lost
        (ADR 10). It is a hint, nothing more: the others are asked by pre-vote and refuse while they hear the
        leader, and one heartbeat of it takes the hint back.

        Args:
            elections: Over how many election timeouts to spread who stands: more for a leader of many logs.
        """
        if self.role not in (Role.FOLLOWER, Role.LEARNER) or self.leader == NOBODY:
            return
        ticks = self.config.election_ticks
        self._election_elapsed = max(self._election_elapsed, ticks)
        # Two heartbeats' time for a leader that only lost the connection, then at random as ever.
        first = 2 * self.config.heartbeat_ticks + 1
        begin, share = float(first), float(max(first + 1, elections * ticks) - first)
        # Each voter in a time of its own, with a pause behind it: two that stand at once split the vote. The
        # group's number turns the order, so that not all logs go to one node.
        others = sorted(self._voters - {self.leader})
        if self.id in others:
            turn = (others.index(self.id) + self.group) % len(others)
            share /= len(others)
            begin += turn * share
            share *= 2 / 3
        self._election_timeout = ticks + self._rng.randrange(
            int(begin), max(int(begin) + 1, int(begin + share))
        )

    def _tick_leader(self) -> None:
        if self.is_stalled:
            # Heartbeats would go on for ever while nothing can be committed (hashicorp/raft#503).
            return self._step_down()
        self._transfer_ticks += 1
        if self._transfer_ticks >= self.config.election_ticks:
            self._transfer_target = NOBODY
        if self._election_elapsed >= self.config.election_ticks:
            self._election_elapsed = 0
            active = [id_ for id_, progress in self._progress.items() if progress.active]
            if not has_quorum(self._voters, [*active, self.id]):
                return self._become_follower(self.term, NOBODY)
            for progress in self._progress.values():
                progress.active = False
        self._tick_progress()
        self._heartbeat_elapsed += 1
        if self._heartbeat_elapsed >= self.config.heartbeat_ticks:
            self._heartbeat_elapsed = 0
            self._broadcast_heartbeat()
        return None

    def _tick_progress(self) -> None:
        """Count how long snapshots are unanswered, and how long followers have kept up."""
        for progress in self._progress.values():
            progress.silent_ticks += 1
            progress.no_room_ticks = max(0, progress.no_room_ticks - 1)
            if progress.state is ProgressState.SNAPSHOT:
                progress.waited_ticks += 1
            progress.count_round(self._log.last_index, self.config.election_ticks)

    # --- campaigns ----------------------------------------------------------------------

    @property
    def may_campaign(self) -> bool:
        """Whether this member may stand for election.

        Not without a vote, not while its log is damaged, not while its disk stalls, and not again before its
        last campaign is on disk. One that just lost its vote may still be needed to commit that: it stands,
        without counting itself (thesis 4.2.2, figure 4.6).
        """
        return (
            self.role is not Role.LEADER
            and (self.is_voter or self._was_voter)
            and self.damage is None
            and not self.is_stalled
            and not (self.role is Role.CANDIDATE and self._hard_durable.term < self.term)
        )

    @property
    def _was_voter(self) -> bool:
        """Whether the configuration before the latest, which is not known to be committed, gives a vote."""
        if self.configuration_is_committed:
            return False
        return self.id in self._log.state_before_configuration().configuration.voters

    def _campaign(self, *, transfer: bool = False) -> None:
        """Ask for votes: first whether there would be any, unless that is known."""
        if transfer or self.is_alone:
            self._become_candidate(transfer=transfer)
        else:
            self._become_pre_candidate()

    def _become_pre_candidate(self) -> None:
        """Ask who would vote, without touching term or vote: a cut-off member disturbs nobody."""
        self._reset()
        self.role = Role.PRE_CANDIDATE
        self._votes = {self.id: True}
        for id_ in sorted(self._voters - {self.id}):
            self._send(id_, self._vote_request(self.term + 1, pre_vote=True))

    def _become_candidate(self, *, transfer: bool = False) -> None:
        """Begin a new term with a vote for itself (Raft 5.2)."""
        self._reset()
        self.role = Role.CANDIDATE
        self.term += 1
        self.vote = self.id
        # The own vote counts once it is durable, see `persisted`. The requests wait for it as well: they
        # tell of a log and a vote that a crash must not undo.
        for id_ in sorted(self._voters - {self.id}):
            self._send_after_persist(id_, self._vote_request(self.term, transfer=transfer))

    def _vote_request(self, term: int, *, pre_vote: bool = False, transfer: bool = False) -> RequestVote:
        return RequestVote(
            term=term,
            last_log_index=self._log.last_index,
            last_log_term=self._log.last_term,
            pre_vote=pre_vote,
            transfer=transfer,
        )

    def _count_vote(self, voter: int, granted: bool) -> None:
        """Count a voter's first answer; with a majority, go on."""
        self._votes.setdefault(voter, granted)
        result = vote_result(self._voters, self._votes)
        if result is None:
            return
        if not result:
            self._become_follower(self.term, NOBODY)
        elif self.role is Role.PRE_CANDIDATE:
            self._become_candidate()
        else:
            self._become_leader()

    def _become_leader(self) -> None:
        """Lead: begin the term with a no-op, which commits what is left of older terms (Raft 5.4.2, 8)."""
        assert self.role is Role.CANDIDATE
        self._reset()
        self.role = Role.LEADER
        self.leader = self.id
        self._heartbeat_elapsed = 0
        self._follow_membership(self.configuration)
        for progress in self._progress.values():
            # Unlike a newcomer, each has a whole election timeout to answer.
            progress.active = False
            progress.silent_ticks = self.config.election_ticks
        self._term_start_index = self._log.last_index + 1
        self._append_own(EntryKind.NOOP, self._now)
        self._broadcast_heartbeat()

    # --- votes --------------------------------------------------------------------------

    def _hears_leader(self, candidate: int) -> bool:
        """Whether a leader other than the candidate was heard within the shortest election timeout."""
        return self.leader not in (NOBODY, candidate) and self._election_elapsed < self.config.election_ticks

    def _on_request_vote(self, source: int, message: RequestVote) -> None:
        """Grant or refuse a vote (Raft 5.2, 5.4.1), or say whether it would be granted.

        Learners vote, too, and for candidates they do not know: the candidate's configuration may be newer
        than theirs (Raft 6).
        """
        if message.term > self.term:
            if self._hears_leader(source) and not message.transfer:
                # Raft 6: members that were removed, or cut off, do not disturb a working leader.
                return self._refuse("vote request while there is a leader")
            if not message.pre_vote:
                self._become_follower(message.term, NOBODY)
        up_to_date = (message.last_log_term, message.last_log_index) >= self._vote_pair
        if message.pre_vote:
            granted = up_to_date and message.term > self.term
            term = message.term if granted else self.term
            return self._send(source, RequestVoteReply(term=term, granted=granted, pre_vote=True))
        granted = up_to_date and self.vote in (NOBODY, source)
        if not granted:
            return self._send(source, RequestVoteReply(term=self.term, granted=False))
        self.vote = source
        self._election_elapsed = 0
        return self._send_after_persist(source, RequestVoteReply(term=self.term, granted=True))

    @property
    def _vote_pair(self) -> tuple[int, int]:
        """(term, index) that a candidate's log must reach; a damaged log's is what it once held."""
        pair = (self._log.last_term, self._log.last_index)
        if self.damage is None:
            return pair
        return max(pair, (self.damage.last_term, self.damage.last_index))

    def _on_vote_reply(self, source: int, message: RequestVoteReply) -> None:
        # A pre-vote never counts as a vote, nor the other way round (canonical/raft#196).
        if self.role is Role.PRE_CANDIDATE and message.pre_vote:
            expected_term = self.term + 1 if message.granted else self.term
        elif self.role is Role.CANDIDATE and not message.pre_vote:
            expected_term = self.term
        else:
            return self._refuse("vote not asked for, or too late")
        if message.term != expected_term or source not in self._voters:
            return self._refuse("vote of another term or of no voter")
        return self._count_vote(source, message.granted)

    def _on_timeout_now(self, source: int, message: TimeoutNow) -> None:
        """Campaign at once for the leader that hands over (thesis 3.10)."""
        if source != self.leader or not self.may_campaign:
            return self._refuse("hand-over that does not fit")
        return self._campaign(transfer=True)
