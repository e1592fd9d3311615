"""A core under watch: the oracle hears of everything that it says before anybody else can."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from loghouse.protocol.raft_messages import AppendEntriesReply, Envelope, RequestVoteReply
from loghouse.raft.core import Raft
from loghouse.raft.ready import Ready, Role
from loghouse.replica.driver import RaftDriver
from loghouse.replica.replica import Replica
from loghouse.testing.life import Life
from loghouse.testing.run import Run


class Watch:
    """Tells the oracle what one core says in one life of a process, and says when it comes by a crash point.

    `number` is the member's place in the oracle's books: its id and its disk.
    """

    def __init__(self, cluster: Run, life: Life, number: int, reach: Callable[[str], object]) -> None:
        """Watch nothing yet; `reach` is told of each crash point that the core comes by."""
        self.number = number
        self._cluster = cluster
        self._life = life
        self._reach = reach
        self._raft: Raft | None = None
        # The commit index that leadership began with; -1 once it moved.
        self._led_from = -1
        # The first entry of that leadership.
        self._first_index = 0

    def follow(self, raft: Raft) -> None:
        """Take down what a core says, as soon as it says it."""
        self._raft = raft
        if self._life.is_alive:
            self._cluster.guarded(self._note_beginning, raft)
        ready_of_core = raft.ready

        def ready() -> Ready | None:
            found = ready_of_core()
            if found is not None and self._life.is_alive:
                self._cluster.guarded(self._note, found, raft)
                self._reach_points(found, raft)
            return found

        raft.ready = ready  # type: ignore[method-assign]

    def _note_beginning(self, raft: Raft) -> None:
        """Note what a core begins with as committed: that is served at once, before its first Ready says so.

        A lone voter's disk is the majority: it begins with all that this holds. No Ready may ever tell that
        before somebody reads it: the core is begun anew when its disk is full, and there are waiting readers.
        """
        oracle, number, index = self._cluster.oracle, self.number, raft.commit_index
        committed_before = oracle.committed_index
        oracle.committed_to(number, index, 0)
        if index > committed_before:
            oracle.check_first_commit(number, index)

    def _note(self, ready: Ready, raft: Raft) -> None:
        oracle, number = self._cluster.oracle, self.number
        oracle.stepped(number, raft.term)
        if ready.snapshot is not None:
            oracle.installed(number, ready.snapshot)
        if ready.truncate_after is not None:
            oracle.truncated(number, ready.truncate_after)
        leads = raft.role is Role.LEADER
        if ready.soft_state is not None:
            soft = ready.soft_state
            name = self._life.host.name
            self._cluster.trace.note(f"{name} {soft.role.value} term {soft.term} leader {soft.leader}")
            if soft.role is Role.LEADER:
                self._led_from = oracle.view(number).commit_index
                self._first_index = raft.last_index
                oracle.elected(number, soft.term)
        committed_before = oracle.committed_index
        # A leader commits before it appends what that allows; a follower is told both at once.
        if ready.commit_index <= oracle.view(number).last:
            oracle.committed_to(number, ready.commit_index, raft.term if leads else 0)
        oracle.appended(number, ready.entries)
        oracle.committed_to(number, ready.commit_index, raft.term if leads else 0)
        if leads:
            oracle.check_quorum(number)
        elif ready.commit_index > committed_before:
            oracle.check_first_commit(number, ready.commit_index)
        if ready.committed:
            oracle.applied(number, ready.committed)

    def _reach_points(self, ready: Ready, raft: Raft) -> None:
        if raft.role is not Role.LEADER:
            return
        if ready.soft_state is not None:
            self._reach("elected")
        if ready.commit_index > self._led_from >= 0:
            self._led_from = -1
            self._reach("first_commit")
        elif self._led_from >= 0 and raft.durable_index >= self._first_index:
            self._reach("noop_durable")
        if ready.committed:
            self._reach("committed")

    def sending(self, envelope: Envelope) -> bool:
        """Check a message that is about to leave; False when a dead process sends it, to nobody."""
        if not self._life.is_alive:
            return False
        self._cluster.guarded(self._cluster.oracle.sent, envelope, self.number)
        return True

    def sent(self, envelope: Envelope) -> None:
        """Come by the crash points behind a message that left."""
        message = envelope.message
        if isinstance(message, RequestVoteReply):
            if message.granted and not message.pre_vote:
                self._reach("vote_sent")
        elif isinstance(message, AppendEntriesReply):
            self._reach("acknowledged")
        elif self._raft is not None and self._raft.role is Role.LEADER:
            self._reach("mid_broadcast")


class WatchedReplica(Replica):
    """A `Replica` that differs from the production one in nothing but that it is seen."""

    def __init__(self, open_watch: Callable[[int, Replica], Watch], *args: Any, **settings: Any) -> None:
        self._open_watch = open_watch  # begins to watch a member of that id
        self._watch: Watch | None = None
        super().__init__(*args, **settings)

    def _make_driver(self, id_: int) -> RaftDriver:
        watch = self._watch = self._open_watch(id_, self)
        driver = super()._make_driver(id_)
        watch.follow(driver.raft)
        return driver

    def send(self, envelope: Envelope) -> None:
        """Send a message to another member, or drop it."""
        if self._watch is not None and self._watch.sending(envelope):
            super().send(envelope)
            self._watch.sent(envelope)
