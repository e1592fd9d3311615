"""Rest: a member that needs no time while nothing happens in its group (ADR 37).

A member that sleeps is not ticked. Nothing that Raft promises depends on ticks; what is decided here is only
whether somebody would miss them. Who is there, and what a leader says of its log, the driver knows by the
beats of nodes.
"""

from __future__ import annotations

from collections.abc import Set

from loghouse.protocol.raft_messages import HeartbeatReply
from loghouse.raft.progress import Progress, ProgressState
from loghouse.raft.quorum import has_quorum
from loghouse.raft.ready import Role
from loghouse.raft.room import Room


class Rest(Room):
    """Whether time may stand still for a member, and how it goes on."""

    # Since the core began, or was woken; a leader does not sleep before an election timeout of it.
    _awake_ticks = 0

    def tick(self, now: int = 0) -> None:
        """Let one tick pass. See `Elections.tick`."""
        super().tick(now)
        self._awake_ticks += 1

    @property
    def is_at_rest(self) -> bool:
        """Whether nothing is to be written, committed, read or handed over, nor was it for long."""
        log = self._log
        return (
            log.is_released
            and log.commit_index == log.durable_index == log.last_index
            and not log.has_writes
            and not self._is_writing
            and (self.term, self.vote) == (self._hard_handed.term, self._hard_handed.vote)
            and not len(self._reads)
            and not self._transfer_target
            and self.damage is None
            and not self.disk_is_full
        )

    def may_lead_asleep(self, here: Set[int]) -> bool:
        """Whether this is a leader that nobody needs now. It may sleep while that is so.

        Every member that is there holds all of the log and knows that it is committed, and with them there is
        a quorum. One that is away need not keep the others awake: it is told when it is there again.

        Args:
            here: The ids of the members whose nodes are there.
        """
        if self.role is not Role.LEADER or self._awake_ticks < self.config.election_ticks:
            return False
        if not (self.has_own_commit and self.is_at_rest):
            return False
        even = [self.id]
        for id_, progress in self._progress.items():
            if id_ not in here:
                if progress.silent_ticks < 2 * self.config.election_ticks:
                    return False  # its node does not beat, and it answers: it needs heartbeats
            elif self._is_even(progress):
                even.append(id_)
            else:
                return False
        return has_quorum(self._voters, even)

    def _is_even(self, progress: Progress) -> bool:
        return (
            progress.state is ProgressState.REPLICATE
            and progress.match_index == self._log.last_index
            and progress.sent_commit >= self._log.commit_index
            and not progress.no_room_ticks
        )

    def may_follow_asleep(self, said: tuple[int, int] | None) -> bool:
        """Whether this member holds all that there is, and its leader says that nothing happens there.

        Args:
            said: Term and last index of the log that sleeps, by the last beat of the leader's node.
        """
        return (
            self.role in (Role.FOLLOWER, Role.LEARNER)
            and said == (self.term, self._log.last_index)
            and self.is_at_rest
        )

    def missed(self, id: int) -> None:
        """A member's node is not there: a leader that sleeps does not notice that by its silence."""
        progress = self._progress.get(id)
        if progress is not None:
            progress.silent_ticks = max(progress.silent_ticks, 2 * self.config.election_ticks)

    def is_late_reply(self, message: object) -> bool:
        """Whether a message only answers the last heartbeat before this leader slept."""
        return isinstance(message, HeartbeatReply) and message.last_index == self._log.last_index

    def wake(self) -> None:
        """Let time go on: whoever was heard counts as heard until now."""
        self._awake_ticks = 0
        if self.role is Role.LEADER:
            self._election_elapsed = 0  # all have a whole election timeout to answer (etcd#6441)
            self._heartbeat_elapsed = self.config.heartbeat_ticks
        else:
            self._reset_election_timer()
