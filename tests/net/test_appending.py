"""The appends of one binary session: their order, and a node with a bug behind them."""

from types import SimpleNamespace

from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from loghouse.api.v1.log_pb2 import Record
from loghouse.errors import OutcomeUnknownError
from loghouse.limits import MIB
from loghouse.net.appending import Appender, Appends
from loghouse.node.gate import Gate
from loghouse.protocol.batch import encode_batch
from loghouse.protocol.client_messages import Produce

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
