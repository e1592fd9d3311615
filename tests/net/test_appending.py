"""The appends of one binary session: their order, and a node with a bug behind them."""

from types import SimpleNamespace

from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from loghouse.api.v1.log_pb2 import Record
from loghouse.errors import InvalidRequestError, OutcomeUnknownError, UnavailableError
from loghouse.limits import APPEND_COST, BODIES, HOLDING_FREE, HOLDING_STEP, KIB, MIB, Quota
from loghouse.net import appending
from loghouse.net.appending import PRODUCE_SECONDS_MAX, Appender, Appends
from loghouse.node.gate import Gate
from loghouse.protocol.batch import encode_batch
from loghouse.protocol.client_messages import LeaderHint, Produce, ProduceReply
from loghouse.replica.api import Appended
from loghouse.shares import Ledger

VALUE_SIZE = 1 * MIB - 100
BATCH = encode_batch([Record(value=bytes(VALUE_SIZE)) for _ in range(4)])


def gate():
    """Return a gate: appends that a session has checked for permission ask no policy any more."""
    return Gate(SimpleNamespace(name="a", logs={}), None, clock=lambda: 0.0)


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
            record_size_max=0,
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


class AnswerTests(SynchronousTestCase):
    """What a client hears of its appends, and of who leads."""

    def setUp(self):
        self.said, self.flushes, self.threads, self.proposals = [], [], [], []
        self.session = SimpleNamespace(
            is_closed=False,
            answer=lambda stream, reply: self.said.append((stream, reply)),
            refuse=lambda stream, error: self.said.append((stream, str(error))),
            send=lambda message, **where: self.said.append((message, where)),
        )
        self.bodies = Ledger(BODIES)
        self.later = []
        self.appender = Appender(
            gate(),
            soon=self.later.append,
            scheduler=Clock(),
            in_thread=self.in_thread,
            bodies=self.bodies,
        )
        link = SimpleNamespace(flush=lambda: self.flushes.append(len(self.said)))
        self.appends = Appends(self.appender, link, self.session, "root")
        self.addCleanup(self.appends.close)

    def in_thread(self, work):
        self.threads.append(Deferred())
        return self.threads[-1]

    def log(self, group=1, leader="a"):
        return SimpleNamespace(
            group=group,
            record_size_max=0,
            leader_name=leader,
            propose=lambda proposal, *outcome: self.proposals.append((proposal, *outcome)),
        )

    def take(self, stream, log, batch=None):
        batch = encode_batch([Record(value=b"x")]) if batch is None else batch
        self.appends.take(log, stream, Produce(batch=batch, record_count=4 if batch is BATCH else 1))

    def end_turn(self):
        later, self.later[:] = list(self.later), []
        for work in later:
            work()

    def settle(self, number, base_offset):
        appended = Appended(base_offset=base_offset, record_count=1, timestamp=77, index=1, term=1)
        self.proposals[number][1](appended)

    def test_answers(self):
        """Batches of one turn share an entry, two entries at a time; each has its own offset and the time."""
        log = self.log()
        for entry in range(3):
            self.take(2 * entry + 1, log)
            self.take(2 * entry + 2, log)
            self.end_turn()
        self.assertEqual([one[0].record_count for one in self.proposals], [2, 2])
        self.settle(0, 10)
        self.assertEqual(
            self.said,
            [
                (stream, ProduceReply(base_offset=offset, record_count=1, timestamp=77))
                for stream, offset in ((1, 10), (2, 11))
            ],
        )
        self.assertEqual(self.flushes, [2])
        self.end_turn()
        self.assertEqual(len(self.proposals), 3)

    def test_answers_of_many_logs(self):
        """Answers of several logs that one turn brings leave in one write; those of a log alone at once."""
        logs = [self.log(group, leader="b") for group in (1, 7, 8)]
        for stream, log in enumerate(logs, 1):
            self.take(stream, log)
        self.end_turn()
        self.settle(0, 10)
        self.assertEqual(len(self.flushes), 1)
        self.settle(1, 20)
        self.settle(2, 30)
        self.assertEqual((len(self.said), len(self.flushes)), (4, 1))
        self.end_turn()
        self.assertEqual(len(self.flushes), 2)
        hinted = [one[1]["group"] for one in self.said if isinstance(one[0], LeaderHint)]
        self.assertEqual(hinted, [1, 7, 8], "each log has a leader of its own to tell of")
        self.take(4, logs[2])
        self.end_turn()
        self.settle(3, 31)
        self.assertEqual(len(self.flushes), 3)

    def test_who_leads(self):
        """A client is told once of another node that leads a log, and again when that changes."""
        for leader, hints in (("a", 0), ("b", 1), ("b", 1), ("a", 1), ("b", 2), ("", 2), ("c", 3)):
            self.take(1, self.log(7, leader))
            self.end_turn()
            self.settle(-1, 0)
            found = [one for one in self.said if isinstance(one[0], LeaderHint)]
            self.assertEqual(len(found), hints, leader)
            if hints:
                self.assertEqual(found[-1], (LeaderHint(name="c" if hints == 3 else "b"), {"group": 7}))
        self.session.is_closed = True
        self.take(1, self.log(7, "d"))
        self.end_turn()
        self.settle(-1, 0)
        self.assertEqual(len([one for one in self.said if isinstance(one[0], LeaderHint)]), 3)

    def test_slow_check_fails(self):
        """A batch that a thread found wrong is refused at once, and lets what came behind it go on."""
        log = self.log()
        self.take(1, log, BATCH)
        self.take(2, log)
        self.end_turn()
        self.assertEqual((len(self.threads), self.proposals, self.said), (1, [], []))
        self.threads[0].errback(InvalidRequestError("batch", "no"))
        self.assertEqual((self.said, self.flushes), ([(1, "batch: no")], [1]))
        self.end_turn()
        self.assertEqual(len(self.proposals), 1)
        self.take(3, log, BATCH)
        self.threads[1].errback(MemoryError())
        self.assertTrue(self.said[-1][1].startswith("memory: "))

    def test_coming(self):
        """What comes next counts beside what is not answered, until it is there."""
        big = encode_batch([Record(value=bytes(VALUE_SIZE // 2))])
        self.appends.expect(len(big))
        self.take(1, self.log(), big)
        self.end_turn()
        self.appends.expect(4 * MIB)
        held = self.bodies.held_by("root")
        self.assertGreater(held, 4 * MIB)
        self.settle(0, 0)
        self.assertGreater(self.bodies.held_by("root"), 4 * MIB - HOLDING_STEP)
        self.take(2, self.log())
        self.end_turn()
        self.settle(1, 1)
        self.assertEqual(self.bodies.held_by("root"), 0)

    def test_forgotten(self):
        """A client that takes an append back, or is gone, gets no answer, and holds nothing."""
        self.take(1, self.log(), BATCH)
        self.take(2, self.log())
        self.appends.forget(2)
        self.appends.forget(9)
        self.end_turn()
        self.assertEqual(self.proposals, [], "it is not checked yet")
        self.threads[0].callback(None)
        self.end_turn()
        self.assertEqual(len(self.proposals), 1)
        self.appends.close()
        self.settle(0, 0)
        self.assertEqual((self.said, self.bodies.held, self.appends._open), ([], 0, {}))

    def test_bounds(self):
        """These are what clients rely on."""
        self.assertEqual((appending.PRODUCE_SECONDS_DEFAULT, appending.PRODUCE_SECONDS_MAX), (30, 600))
        self.assertEqual(appending.ENTRIES_MAX, 2)


class BugTests(SynchronousTestCase):
    """A node with a bug behind the appender."""

    def test_propose_raises(self):
        """A client is answered also when the node raises where it should not; the diagnostics say why."""
        refused = []
        session = SimpleNamespace(
            is_closed=False, refuse=lambda stream, error: refused.append((stream, type(error)))
        )
        log = SimpleNamespace(group=1, record_size_max=0, leader_name="a", propose=None)
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
            group=1,
            record_size_max=0,
            leader_name="a",
            propose=lambda proposal, *outcome: self.proposed.append(proposal),
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
            group=1,
            record_size_max=0,
            leader_name="a",
            propose=lambda *proposal: self.proposals.append(proposal),
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
