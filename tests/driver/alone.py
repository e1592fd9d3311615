"""A driver by itself: between a core, a log and an owner that the test plays."""

from types import SimpleNamespace
from unittest.mock import Mock

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from loghouse.protocol.entry import EntryKind
from loghouse.protocol.log_state import LogState
from loghouse.raft.ready import Proposal, Ready, Role, Ticket
from loghouse.replica.driver import RaftDriver
from tests.driver.queue import ManualQueue

ELECTION_TICKS = 10


class Entry(SimpleNamespace):
    """An entry as the driver looks at it."""

    def __init__(self, index, *, term=1, kind=EntryKind.RECORDS, payload=b"", size=100):
        super().__init__(
            index=index,
            term=term,
            kind=kind,
            payload=payload,
            size=size,
            timestamp=1000 + index,
            next_offset=10 * index,
        )


class FakeRaft:
    """The core: gives what it was told to give, and remembers what it was asked."""

    def __init__(self):
        self.config = SimpleNamespace(election_ticks=ELECTION_TICKS)
        self.id = 1
        self.role = Role.LEADER
        self.is_alone = False
        self.commit_index = self.durable_index = 5
        self.ready_next = []
        self.is_over = False
        self.error = None
        self.has_unnotified_commit = False
        self.notified = []
        self.ticks, self.steps, self.persisted_tokens, self.transfers = [], [], [], []
        self.ticket = Ticket(index=6, term=1, base_offset=50, record_count=1, timestamp=7)
        self.unreadable = None
        self.read_id = 0

    def ready(self):
        return self.ready_next.pop(0) if self.ready_next else None

    def tick(self, now):
        self.ticks.append(now)

    def let_go(self):
        self.is_over = True

    def step(self, envelope):
        self.steps.append(envelope)
        if self.error is not None:
            raise self.error

    def propose(self, proposal, now):
        if self.error is not None:
            raise self.error
        self.asked = (proposal, now)
        return self.ticket

    propose_configuration = propose

    def read_index(self):
        if self.error is not None:
            raise self.error
        self.read_id += 1
        return self.read_id

    def transfer_leadership(self, target):
        self.transfers.append(target)

    def persisted(self, token):
        self.persisted_tokens.append(token)

    def notify_commit(self, index):
        self.notified.append(index)
        return self.can_notify

    can_notify = True

    def take_unreadable(self):
        unreadable, self.unreadable = self.unreadable, None
        return unreadable


class FakeLog:
    """The log: takes what it is given, or fails with an error."""

    first_offset = 3
    first_index = 1

    def __init__(self):
        self.last_index = 5
        self.done = []
        self.error = None
        self.state = LogState(index=5, term=1, next_offset=50, lowest_offset=4)

    def state_at(self, index):
        return self.state

    def append(self, entries):
        self.work("append", *(entry.index for entry in entries))
        self.last_index = entries[-1].index

    def sync(self, commit_index):
        self.work("sync", commit_index)

    def save_hard_state(self, *, term, vote):
        self.work("vote", term, vote)

    def install_start(self, state):
        self.work("install", state.index)

    def truncate_suffix(self, index):
        self.work("cut", index)

    def work(self, *done):
        if self.error is not None:
            raise self.error
        self.done.append(done)


class EdgeCase(SynchronousTestCase):
    """A driver between a core, a log and an owner that the test plays."""

    def setUp(self):
        self.raft, self.log, self.disk, self.clock = FakeRaft(), FakeLog(), ManualQueue(), Clock()
        self.soons = []
        self.owner = Mock(is_writable=True)
        self.read_ahead = Mock()
        self.driver = RaftDriver(
            self.raft,
            self.log,
            disk=self.disk,
            soon=self.soons.append,
            later=self.clock.callLater,
            wall=lambda: 1.5,
            owner=self.owner,
            read_ahead=self.read_ahead,
        )
        self.told = []

    def turn(self):
        """Let the reactor's turn end."""
        while self.soons:
            self.soons.pop(0)()

    def ready(self, **fields):
        """Return a Ready with these fields."""
        nothing = dict.fromkeys(("hard_state", "snapshot", "truncate_after", "soft_state"))
        none = dict.fromkeys(
            ("entries", "messages_now", "messages_after_persist", "committed", "read_states"), ()
        )
        return Ready(**{**nothing, **none, "token": 1, "commit_index": self.raft.commit_index, **fields})

    def give(self, **fields):
        """Let the core hand out a Ready with these fields."""
        self.raft.ready_next.append(self.ready(**fields))
        self.driver._schedule()

    def appended(self, outcome):
        self.told.append(("appended", outcome.base_offset, outcome.timestamp))

    def failed(self, error):
        self.told.append((type(error), str(error)))

    def propose(self):
        self.driver.propose(Proposal(payload=b"x", record_count=1), self.appended, self.failed)

    def read(self):
        self.driver.read_barrier(lambda index: self.told.append(index), self.failed)
