"""What a success forgets: a failure after it is the first one again."""

from contextlib import aclosing

from twisted.trial.unittest import SynchronousTestCase

from loghouse.client.batching import Accumulator, ProducerLedger
from loghouse.client.calls import Calls
from loghouse.client.retrying import PAUSE_SECONDS
from loghouse.errors import InvalidRequestError, PermissionDeniedError, UnavailableError
from loghouse.protocol.backoff import Backoff
from tests.client.fake import FakeCase
from tests.fakes.node import BROKEN
from tests.fakes.tasks import asynchronous


class CountedCase(FakeCase):
    """Notes how many failures each pause counts, and lets clocks be moved on."""

    def setUp(self):
        super().setUp()
        self.counted = []
        self.skew = 0.0
        next_seconds, now = Backoff.next_seconds, Calls.now.fget

        def counting(backoff):
            self.counted.append((backoff, backoff.failures))
            return min(next_seconds(backoff), PAUSE_SECONDS)

        self.patch(Backoff, "next_seconds", counting)
        self.patch(Calls, "now", property(lambda calls: now(calls) + self.skew))

    def check(self, rounds, own=None):
        """In each round its first failure was counted as the first by `own`, or by somebody."""
        firsts = {
            backoff: [next((count for one, count in counted if one is backoff), None) for counted in rounds]
            for backoff, _ in rounds[0]
        }
        found = firsts.values() if own is None else [firsts[own]]
        self.assertIn([0] * len(rounds), found)


class ReaderTests(CountedCase):
    """A reader that follows the tail for long meets many failures, each long after the one before."""

    @asynchronous
    async def test_failures_far_apart(self):
        """It does not die of the second, and its pauses begin again."""
        cluster, log = await self.connected(1)
        cluster.add_values(b"a")
        [node] = cluster.nodes
        node.faults["FetchStream"] = [None, *[BROKEN, None] * 5]  # it breaks before each answer
        rounds = []
        async with aclosing(log.read(0, follow=True, timeout_seconds=5.0)) as records:
            await anext(records)
            for number in range(1, 5):
                self.counted.clear()
                cluster.add_values(b"b")
                self.assertEqual((await anext(records)).offset, number)
                rounds.append(list(self.counted))
                self.skew += 10.0
        self.check(rounds)


class ProducerTests(CountedCase):
    """A producer is as patient with the tenth failure as with the first, when appends succeeded between."""

    @asynchronous
    async def test_failures_far_apart(self):
        """Its pauses begin again after each acknowledgement."""
        cluster, log = await self.connected(1)
        [node] = cluster.nodes
        rounds = []
        async with log.producer(linger_ms=0) as producer:
            for number in range(5):
                self.counted.clear()
                node.faults["ProduceBatchStream"] = [BROKEN]
                self.assertEqual(await (await producer.append(b"x")), number)
                rounds.append(list(self.counted))
            self.check(rounds, producer._sending._pauses)


class LedgerTests(SynchronousTestCase):
    """Failures that no delivery told are told by `flush`, the first of each time."""

    def setUp(self):
        self.ledger = ProducerLedger(1000)
        self.accumulator = Accumulator(batch_size=10, linger_seconds=0.0, timeout_seconds=1.0)

    def settled(self, error):
        """Let a batch of one record be settled."""
        batch = self.accumulator.add(b"", b"x" * 20, 0.0)
        self.ledger.take(20)
        batch.error = error
        self.ledger.settle(batch)
        return batch

    def test_one_after_the_other(self):
        """A second failure, after the first was told, is told as well; good ones between change nothing."""
        for error in (UnavailableError("a"), PermissionDeniedError("root", "produce", "default")):
            self.settled(None)
            self.settled(error)
            self.settled(None)
            self.assertIn("1 record was not appended, and nobody was told", self.ledger.unreported())
            self.assertRaises(type(error), self.ledger.raise_unreported)
            self.ledger.raise_unreported()
            self.assertEqual(self.ledger.unreported(), "")

    def test_told_by_its_delivery(self):
        """What a delivery told is not told again, and does not hide what none told."""
        first = self.settled(UnavailableError("a"))
        self.assertRaises(UnavailableError, first.offset, 0)
        self.settled(InvalidRequestError("value", "b"))
        self.assertRaises(InvalidRequestError, self.ledger.raise_unreported)
        first = self.settled(UnavailableError("c"))
        self.settled(InvalidRequestError("value", "d"))
        self.assertRaises(UnavailableError, first.offset, 0)  # while the other one waits behind it
        self.assertRaises(InvalidRequestError, self.ledger.raise_unreported)

    def test_room(self):
        """Room is given back by batches that failed and by those that did not, to the last byte."""
        for _ in range(200):
            self.settled(None)
            self.settled(UnavailableError("a"))
            self.assertEqual(self.ledger.room, 1000)
            self.assertEqual(self.ledger.done, self.ledger.taken)
