"""The appends of one binary session: their order, and a node with a bug behind them."""

from types import SimpleNamespace

from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from loghouse.api.v1.log_pb2 import Record
from loghouse.errors import InvalidRequestError, OutcomeUnknownError, UnavailableError
from loghouse.limits import APPEND_COST, BODIES, HOLDING_FREE, HOLDING_STEP, KIB, MIB, Quota
from loghouse.net.appending import PRODUCE_SECONDS_MAX, Appender, Appends
from loghouse.node.gate import Gate
from loghouse.protocol.batch import encode_batch
from loghouse.protocol.client_messages import Produce
from loghouse.replica.api import Appended
from loghouse.shares import Ledger

VALUE_SIZE = 1 * MIB - 100
BATCH = encode_batch([Record(value=bytes(VALUE_SIZE)) for _ in range(4)])


def gate():
    """Return a gate: appends that a session has checked for permission ask no policy any more."""
    return Gate(SimpleNamespace(name="a"), None, clock=lambda: 0.0)


class Link:
    """Nothing goes out on it."""

    def flush(self):
        pass


class LineTests(SynchronousTestCase):
    """A batch that is checked in a thread, and those behind it."""

    def test_given_up_while_checked(self):
        """Whoever stops waiting for a check does not hold back what came behind it."""
        proposed, threads = [], []
        log = SimpleNamespace(
            group=1,
            leader_name="a",
            propose=lambda proposal, appended, failed: proposed.append(proposal.record_count),
        )

        def in_thread(work):
            threads.append(Deferred())
            return threads[-1]

        appender = Appender(gate(), soon=lambda work: work(), scheduler=Clock(), in_thread=in_thread)
        appends = Appends(appender, Link(), SimpleNamespace(is_closed=False), "root")
        self.addCleanup(appends.close)
        appends.take(log, 1, Produce(batch=BATCH, record_count=4))
        appends.take(log, 2, Produce(batch=encode_batch([Record()]), record_count=1))
        self.assertEqual((len(threads), proposed), (1, []))
        appends.forget(1)
        self.assertEqual(proposed, [1])
        threads[0].callback(None)
        self.assertEqual(proposed, [1])


class BugTests(SynchronousTestCase):
    """A node with a bug behind the appender."""

    def test_propose_raises(self):
        """A client is answered also when the node raises where it should not; the diagnostics say why."""
        refused = []
        session = SimpleNamespace(
            is_closed=False, refuse=lambda stream, error: refused.append((stream, type(error)))
        )
        log = SimpleNamespace(group=1, leader_name="a", propose=None)
        appender = Appender(gate(), soon=lambda work: work(), scheduler=Clock(), in_thread=maybeDeferred)
        appends = Appends(appender, Link(), session, "root")
        self.addCleanup(appends.close)
        appends.take(log, 1, Produce(batch=BATCH, record_count=4))
        appends.take(log, 2, Produce(batch=BATCH, record_count=4, expect_offset=0))
        self.assertEqual(refused, [(1, OutcomeUnknownError), (2, OutcomeUnknownError)])
        self.assertEqual(len(self.flushLoggedErrors(TypeError)), 2)


class RefusedTests(SynchronousTestCase):
    """What is refused before it is proposed: too much at a time, and a batch that cannot be checked."""

    def setUp(self):
        self.refused, self.proposed = [], []
        self.session = SimpleNamespace(
            is_closed=False,
            refuse=lambda stream, error: self.refused.append((stream, type(error).__name__, str(error))),
        )
        self.log = SimpleNamespace(
            group=1, leader_name="a", propose=lambda proposal, *outcome: self.proposed.append(proposal)
        )
        self.bodies = Ledger(Quota("bytes", 8 * HOLDING_STEP, HOLDING_STEP))
        self.appender = Appender(
            gate(), soon=lambda work: work(), scheduler=Clock(), in_thread=None, bodies=self.bodies
        )
        self.appends = Appends(self.appender, Link(), self.session, "root")
        self.addCleanup(self.appends.close)

    def take(self, stream, size):
        """Take an append that costs so many bytes, of an entry of its own."""
        batch = encode_batch([Record(value=bytes(size - 64 - APPEND_COST))])
        request = Produce(batch=batch, record_count=1, expect_offset=stream)
        self.appends.take(self.log, stream, request)
        return len(batch) + APPEND_COST

    def test_more_than_its_share(self):
        """Beyond its subject's share an append is refused, and costs nothing; the others stay."""
        first = self.take(1, HOLDING_STEP)
        self.take(2, 64 * KIB)
        self.assertLess(first, HOLDING_FREE + HOLDING_STEP)
        text = f"bytes: 'root' holds {HOLDING_STEP} of its share of {HOLDING_STEP}"
        [(stream, kind, found)] = self.refused
        self.assertEqual((stream, kind), (2, "ResourceExhaustedError"))
        self.assertIn(text, found)
        self.assertEqual((len(self.proposed), self.bodies.held_by("root")), (1, HOLDING_STEP))

    def test_check_fails(self):
        """A batch that is wrong is refused for what is wrong; without memory it may be tried again."""
        for stream, error, expected in (
            (1, InvalidRequestError("batch", "no"), ("InvalidRequestError", "batch: no")),
            (
                2,
                MemoryError(),
                (
                    "ResourceExhaustedError",
                    "memory: this node has none left for it; try again, or another node",
                ),
            ),
        ):

            def check(*what, error=error):
                raise error
                yield

            self.appender.check_batch = check
            self.take(stream, 4 * KIB)
            self.assertEqual(self.refused[-1], (stream, *expected))
        self.assertEqual((self.proposed, self.bodies.held_by("root")), ([], 0))


class DeadlineTests(SynchronousTestCase):
    """An append has a deadline; then its client hears that nobody knows, and its room is given back."""

    def setUp(self):
        self.clock = Clock()
        self.refused = []
        session = SimpleNamespace(
            is_closed=False,
            send=lambda message: None,
            refuse=lambda stream, error: self.refused.append((self.clock.seconds(), stream, str(error))),
            answer=lambda stream, reply: self.answered.append(stream),
        )
        self.answered = []
        self.proposals = []  # what each proposal's outcome is told to
        self.log = SimpleNamespace(
            group=1, leader_name="a", propose=lambda *proposal: self.proposals.append(proposal)
        )
        self.bodies = Ledger(BODIES)
        appender = Appender(
            gate(),
            soon=lambda work: work(),
            scheduler=self.clock,
            in_thread=maybeDeferred,
            bodies=self.bodies,
        )
        self.appends = Appends(appender, Link(), session, "root")

    def take(self, stream, seconds=0.0):
        """Take an append of an entry of its own, so that none waits for another one's outcome."""
        request = Produce(
            batch=encode_batch([Record(value=bytes(VALUE_SIZE // 4))]),  # a small one holds nothing
            record_count=1,
            expect_offset=stream,
            timeout_milliseconds=int(seconds * 1000),
        )
        self.appends.take(self.log, stream, request)

    def test_each_when_it_is_due(self):
        """Each is refused at its own time, whatever the order; none asked for is 30 s, the most is 600 s."""
        for stream, seconds in ((1, 0), (2, 5), (3, 4000), (4, 1), (5, 5)):
            self.take(stream, seconds)
        self.assertGreater(self.bodies.held_by("root"), 5 * VALUE_SIZE // 4)
        for _ in range(601 * 2):
            self.clock.advance(0.5)
        self.assertEqual(
            [(at, stream) for at, stream, _ in self.refused],
            [(1.0, 4), (5.0, 2), (5.0, 5), (30.0, 1), (PRODUCE_SECONDS_MAX, 3)],
        )
        self.assertEqual(self.refused[0][2], "not durable within 1 s; it may still be appended")
        self.assertEqual((self.clock.getDelayedCalls(), self.bodies.held_by("root")), ([], 0))

    def test_late_outcome(self):
        """An outcome behind the deadline is told nobody."""
        self.take(1, 2)
        self.clock.advance(2)
        _, appended, failed = self.proposals[0]
        appended(Appended(base_offset=0, record_count=1, timestamp=1, index=1, term=1))
        failed(UnavailableError("late"))
        self.assertEqual((len(self.refused), self.answered), (1, []))

    def test_durable_in_time(self):
        """What is durable is answered once; its deadline passes, and that of the next one counts."""
        self.take(1, 2)
        self.take(2, 9)
        self.proposals[0][1](Appended(base_offset=0, record_count=1, timestamp=1, index=1, term=1))
        self.clock.advance(8)
        self.assertEqual((self.answered, self.refused), ([1], []))
        self.clock.advance(1)
        self.assertEqual([stream for _, stream, _ in self.refused], [2])

    def test_client_is_gone(self):
        """Nothing is refused behind a close, and no timer is left."""
        self.take(1, 2)
        self.appends.close()
        self.assertEqual((self.clock.getDelayedCalls(), self.bodies.held_by("root")), ([], 0))
        self.clock.advance(5)
        self.assertEqual(self.refused, [])
