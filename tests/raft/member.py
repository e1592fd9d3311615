"""One member of a group, alone on a bench: messages go in, messages and writes come out."""

from loghouse.protocol.hard_state import HardState
from loghouse.protocol.raft_messages import (
    AppendEntries,
    AppendEntriesReply,
    Envelope,
    Heartbeat,
    HeartbeatReply,
    RequestVote,
    RequestVoteReply,
)
from loghouse.raft.ready import Proposal, Role
from loghouse.testing.memory_log import MemoryLog
from tests.raft.group import GROUP, Group, log_of

RECORD = Proposal(payload=b"x", record_count=1)


class Bench:
    """Member 1; the others are the test. Its disk is fast unless `disk` is set to False."""

    def __init__(self, *, voters=3, learners=0, terms=(), term=None, vote=0, config=None, **fields):
        self.group = Group(0, config=config)
        hard_state = HardState(term if term is not None else max((1, *terms)), vote)
        log = MemoryLog(log_of(terms, voters, learners), hard_state)
        self.node = self.group.start(1, log, **fields)
        self.out()

    @property
    def raft(self):
        return self.node.raft

    @property
    def readies(self):
        return self.node.readies

    def out(self):
        """Everything the member sends now, as (target, message)."""
        self.group.turn(1)
        sent = [(e.target, e.message) for e in self.group.queue]
        self.group.queue.clear()
        return sent

    def hear(self, source, message):
        """Step one message; return what the member sends."""
        self.raft.step(Envelope(GROUP, source, 1, message))
        return self.out()

    def tick(self, ticks=1):
        sent = []
        for _ in range(ticks):
            self.raft.tick()
            sent += self.out()
        return sent

    def restart(self):
        """Lose everything but what is on disk."""
        self.node = self.group.start(1)
        self.group.queue.clear()
        return self

    # --- ways into a role -----------------------------------------------------------

    def campaign(self):
        """Tick until it asks for pre-votes; return what it sends."""
        for _ in range(2 * self.group.config.election_ticks):
            sent = self.tick()
            if self.raft.role is Role.PRE_CANDIDATE:
                return sent
        raise AssertionError(f"no campaign: {self.node.describe()}")

    def candidate(self):
        """Make it a candidate; return what it sends."""
        self.campaign()
        term = self.raft.term + 1
        sent = []
        for voter in sorted(self.raft.configuration.voters - {1}):
            if self.raft.role is not Role.PRE_CANDIDATE:
                break
            sent = self.hear(voter, RequestVoteReply(term=term, granted=True, pre_vote=True))
        assert self.raft.role is Role.CANDIDATE, self.node.describe()
        return sent

    def leader(self):
        """Make it leader; return what it sends."""
        self.candidate()
        sent = []
        for voter in sorted(self.raft.configuration.voters - {1}):
            if self.raft.role is not Role.CANDIDATE:
                break
            sent = self.hear(voter, vote_reply(self.raft.term))
        assert self.raft.role is Role.LEADER, self.node.describe()
        return sent

    def committing_leader(self):
        """Make it leader with everything committed everywhere."""
        self.leader()
        for other in sorted(self.raft.followers):
            self.hear(other, holds(self.raft.term, self.raft.last_index))
        assert self.raft.has_own_commit
        return self

    def terms(self):
        return self.group.terms(1)


def heartbeat(term, commit_index=0, read_round=0):
    return Heartbeat(term=term, commit_index=commit_index, read_round=read_round)


def heartbeat_reply(term, read_round=0, last_index=1 << 40):
    return HeartbeatReply(term=term, read_round=read_round, last_index=last_index)


def append(term, prev_index=0, prev_term=0, entries=(), commit_index=0):
    return AppendEntries(
        term=term,
        prev_log_index=prev_index,
        prev_log_term=prev_term,
        commit_index=commit_index,
        entries=tuple(entries),
    )


def leading(**fields):
    """Return the bench of a leader whose own entry is committed."""
    return Bench(**fields).committing_leader()


def commit(bench):
    """Let the others hold everything."""
    bench.out()
    for other in list(bench.raft.followers):
        bench.hear(other, holds(bench.raft.term, bench.raft.last_index))


def holds(term, index):
    return AppendEntriesReply(term=term, success=True, index=index)


def rejects(term, index, hint_index=0, hint_term=0):
    return AppendEntriesReply(
        term=term, success=False, index=index, hint_index=hint_index, hint_term=hint_term
    )


def ask_vote(term, last_index=1, last_term=1, **fields):
    return RequestVote(term=term, last_log_index=last_index, last_log_term=last_term, **fields)


def vote_reply(term, granted=True, pre_vote=False):
    return RequestVoteReply(term=term, granted=granted, pre_vote=pre_vote)


def only(sent, kind):
    """The messages of one kind, as (target, message)."""
    return [(target, message) for target, message in sent if isinstance(message, kind)]
