"""The appends of one raw session are bounded: beyond that it is not read until answers went out."""

from types import SimpleNamespace

from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from loghouse.api.v1.log_pb2 import Record
from loghouse.errors import OutcomeUnknownError
from loghouse.limits import MIB, PRODUCE_IN_FLIGHT_SIZE_MAX
from loghouse.net.appending import AppendDoor, Appends
from loghouse.node_api import Appended
from loghouse.protocol.batch import encode_batch
from loghouse.protocol.client_messages import Produce

VALUE_SIZE = 1 * MIB - 100
BATCH = encode_batch([Record(value=bytes(VALUE_SIZE)) for _ in range(4)])


class Link:
    """Notes what it is told, and whether it may be read."""

    def __init__(self):
        self.is_held = False
        self.answered = []

    def hold_reading(self, reason):
        self.is_held = True

    def release_reading(self, reason):
        assert self.is_held, "released, and was not held"
        self.is_held = False

    def flush(self):
        pass

    def answer(self, stream, reply):
        self.answered.append(stream)


class BoundTests(SynchronousTestCase):
    """`Appends` and the bytes under way."""

    def setUp(self):
        self.clock, self.link, self.waiting = Clock(), Link(), []
        node = SimpleNamespace(name="a", leader_name="a", propose=self.propose)
        door = AppendDoor(node, soon=lambda work: work(), scheduler=self.clock, in_thread=maybeDeferred)
        self.appends = Appends(door, self.link, self.link, "root")
        self.addCleanup(self.appends.close)

    def propose(self, proposal, appended, failed):
        self.waiting.append(appended)

    def take(self, stream):
        self.appends.take(stream, Produce(batch=BATCH, record_count=4))

    def settle(self, place):
        appended = Appended(base_offset=0, record_count=4, timestamp=1, index=1, term=1)
        self.waiting.pop(place)(appended)

    def test_held_until_answered(self):
        """More unanswered bytes than a session may have stop its reading, until answers make room."""
        fitting = PRODUCE_IN_FLIGHT_SIZE_MAX // len(BATCH)
        for stream in range(1, fitting + 1):
            self.take(stream)
            self.assertFalse(self.link.is_held)
        for stream in (fitting + 1, fitting + 2):  # what was read before the hold took effect
            self.take(stream)
            self.assertTrue(self.link.is_held)
        self.settle(0)
        self.assertTrue(self.link.is_held)
        self.settle(0)
        self.assertFalse(self.link.is_held)
        self.settle(0)
        self.assertEqual(self.link.answered, [1, 2, 3])

    def test_cancelled_makes_room(self):
        """An append that nobody waits for any more counts no longer."""
        fitting = PRODUCE_IN_FLIGHT_SIZE_MAX // len(BATCH)
        for stream in range(1, fitting + 2):
            self.take(stream)
        self.assertTrue(self.link.is_held)
        self.appends.forget(2)
        self.assertFalse(self.link.is_held)


class LineTests(SynchronousTestCase):
    """A batch that is checked in a thread, and those behind it."""

    def test_given_up_while_checked(self):
        """Whoever stops waiting for a check does not hold back what came behind it."""
        proposed, threads = [], []
        node = SimpleNamespace(
            name="a",
            leader_name="a",
            propose=lambda proposal, appended, failed: proposed.append(proposal.record_count),
        )

        def in_thread(work):
            threads.append(Deferred())
            return threads[-1]

        door = AppendDoor(node, soon=lambda work: work(), scheduler=Clock(), in_thread=in_thread)
        appends = Appends(door, Link(), SimpleNamespace(is_closed=False), "root")
        self.addCleanup(appends.close)
        appends.take(1, Produce(batch=BATCH, record_count=4))
        appends.take(2, Produce(batch=encode_batch([Record()]), record_count=1))
        self.assertEqual((len(threads), proposed), (1, []))
        appends.forget(1)
        self.assertEqual(proposed, [1])
        threads[0].callback(None)
        self.assertEqual(proposed, [1])


class BugTests(SynchronousTestCase):
    """A node with a bug behind the door."""

    def test_propose_raises(self):
        """A client is answered also when the node raises where it should not; the diagnostics say why."""
        refused = []
        session = SimpleNamespace(
            is_closed=False, refuse=lambda stream, error: refused.append((stream, type(error)))
        )
        node = SimpleNamespace(name="a", leader_name="a", propose=None)
        door = AppendDoor(node, soon=lambda work: work(), scheduler=Clock(), in_thread=maybeDeferred)
        appends = Appends(door, Link(), session, "root")
        self.addCleanup(appends.close)
        appends.take(1, Produce(batch=BATCH, record_count=4))
        appends.take(2, Produce(batch=BATCH, record_count=4, expect_offset=0))
        self.assertEqual(refused, [(1, OutcomeUnknownError), (2, OutcomeUnknownError)])
        self.assertEqual(len(self.flushLoggedErrors(TypeError)), 2)
