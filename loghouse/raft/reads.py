"""ReadIndex (thesis 6.4): an index at which a read sees everything acknowledged before it was asked.

A leader answers only after an entry of its own term is committed, and after a majority of voters answered a
heartbeat sent after the question: so no newer leader can have acknowledged anything it does not know. No
clock is involved. Reads that come while a round of heartbeats runs share the next round.
"""

from __future__ import annotations

from loghouse.errors import ResourceExhaustedError, UnavailableError
from loghouse.protocol.raft_messages import NOBODY, HeartbeatReply, ReadIndex, ReadIndexReply
from loghouse.raft.quorum import has_quorum
from loghouse.raft.ready import ReadState, Role
from loghouse.raft.replication import Replication


class Reads(Replication):
    """Asking, confirming and answering reads."""

    def read_index(self) -> int:
        """Ask for an index that is safe to read at, on any member.

        Returns:
            A fresh id; `Ready.read_states` will have exactly one answer for it.

        Raises:
            UnavailableError: No leader is known.
            ResourceExhaustedError: `reads_max` reads are waiting.
        """
        if self.leader == NOBODY:
            raise UnavailableError("no leader is known; try again")
        if len(self._reads) >= self.config.reads_max:
            raise ResourceExhaustedError("reads", f"{self.config.reads_max} are waiting for the leader")
        id_ = self._reads.new_id()
        if self.role is Role.LEADER:
            self._reads.waiting.append((self.id, id_))
        else:
            self._reads.to_ask.append(id_)
        return id_

    def _flush_reads(self) -> None:
        """Start a round for what waits, or ask the leader. Called once a turn, so reads share rounds."""
        reads = self._reads
        if self.role is Role.LEADER:
            # Before the first commit of its own a leader does not know what was acknowledged (etcd#7331).
            if reads.waiting and not reads.running and self.has_own_commit:
                reads.running, reads.waiting = reads.waiting, []
                reads.round += 1
                reads.round_index = self._log.commit_index
                self._broadcast_heartbeat()
                self._confirm_reads()
        elif reads.to_ask and self.leader != NOBODY:
            self._send(self.leader, ReadIndex(term=self.term, context=reads.ask()))

    def _confirm_reads(self) -> None:
        """Answer the running round once a majority confirmed it: its own vote counts if it has one."""
        reads = self._reads
        if not reads.running:
            return
        confirmed = [id_ for id_, progress in self._progress.items() if progress.read_round >= reads.round]
        if not has_quorum(self._voters, [*confirmed, self.id]):
            return
        running, reads.running = reads.running, []
        for member, context in running:
            if member == self.id:
                self._read_states.append(ReadState(context, reads.round_index))
            else:
                self._send(member, ReadIndexReply(term=self.term, context=context, index=reads.round_index))

    def _on_heartbeat_reply(self, source: int, message: HeartbeatReply) -> None:
        super()._on_heartbeat_reply(source, message)
        self._confirm_reads()

    def _on_read_index(self, source: int, message: ReadIndex) -> None:
        """Queue a follower's question; unanswered, the follower gives up by itself."""
        if source not in self._progress:
            return self._refuse("read from no follower")
        if len(self._reads) >= self.config.reads_max:
            return self._refuse("too many reads")
        self._reads.waiting.append((source, message.context))
        return None

    def _on_read_index_reply(self, source: int, message: ReadIndexReply) -> None:
        if source != self.leader:
            return self._refuse("answer from no leader")
        ids = self._reads.answered(message.context)
        self._read_states += [ReadState(id_, message.index) for id_ in ids]
        return None
