"""The blocking producer, part by part: what it takes, what it waits for, and how it ends."""

import asyncio
import threading
import warnings
from types import SimpleNamespace

from twisted.trial.unittest import SynchronousTestCase

from loghouse.client import blocking_producer
from loghouse.client.batching import OutgoingBatch, ProducerLedger
from loghouse.client.blocking import connect_blocking
from loghouse.client.blocking_producer import BlockingDelivery, Pending, Producer
from loghouse.client.place import Place
from loghouse.errors import (
    ClosedError,
    InvalidRequestError,
    LoghouseError,
)
from tests.client.test_blocking import Sending, ThreadCase


def settled(base=-1, error=None, count=1):
    batch = OutgoingBatch(due_at=0.0, deadline=0.0)
    batch.base_offset, batch.error, batch.record_count = base, error, count
    return batch


class DeliveryTests(SynchronousTestCase):
    """`BlockingDelivery`."""

    def setUp(self):
        self.pending = Pending(ProducerLedger(100), Place())
        self.waits = []

    def test_settled(self):
        """What is known is told without waiting: the offset at its place, or the error."""
        self.pending.changed = None
        delivery = BlockingDelivery(settled(40), 2, self.pending)
        self.assertEqual((delivery.is_done, delivery.offset(), delivery.offset(1)), (True, 42, 42))
        delivery = BlockingDelivery(settled(error=LoghouseError("no")), 2, self.pending)
        self.assertTrue(delivery.is_done)
        self.assertRaises(LoghouseError, delivery.offset)
        self.assertRaises(InvalidRequestError, delivery.offset, 0)

    def test_waiting(self):
        """It waits as long as it is told; an outcome in time is told, else that it is still tried."""
        for seconds, base in ((None, 5), (2, 5), (2.5, -1)):
            batch = settled()
            delivery = BlockingDelivery(batch, 1, self.pending)
            self.assertFalse(delivery.is_done)

            def wait_for(condition, timeout, batch=batch, base=base):
                self.waits.append((condition(), timeout))
                batch.base_offset = base
                return condition()

            self.pending.changed.wait_for = wait_for
            if base < 0:
                error = self.assertRaises(TimeoutError, delivery.offset, seconds)
                self.assertEqual(str(error), "not acknowledged within 2.5 s; still trying")
            else:
                self.assertEqual(delivery.offset(seconds), base + 1)
            self.assertEqual(self.waits.pop(), (False, seconds))


class ProducerTests(ThreadCase):
    """`Producer`."""

    def setUp(self):
        super().setUp()
        self.made = []
        case = self

        class Sends(Sending):
            closed_error = ClosedError("the producer is closed")

            def __init__(self, *given, **options):
                super().__init__()
                case.made.append((given, options))
                self.accumulator, self.settled = given[1], options["settled"]

        self.patch(blocking_producer, "Sending", Sends)
        self.client = connect_blocking("h1:1", log="default", timeout_seconds=7)
        self.thread = self.client._open.thread

    def tearDown(self):
        self.client._dropped.detach()

    def producer(self, **options):
        producer = self.client.producer(**{"linger_ms": 100, "batch_bytes": 50, **options})
        self.addCleanup(setattr, producer, "_is_closed", True)
        self.notes = producer._sending.noted
        producer._changed.wait = lambda: self.on_wait(producer)
        self.turn()
        return producer

    def on_wait(self, producer):
        """What happens while it waits: all that it took is acknowledged."""
        self.turn()
        self.settle(producer)
        return True

    def settle(self, producer, error=None):
        offset = 0
        while (batch := producer._accumulator.take(float("inf"))) is not None:
            batch.base_offset, batch.error = (offset, None) if error is None else (-1, error)
            offset += batch.record_count
            producer._ledger.settle(batch)

    def turn(self):
        self.thread.run(asyncio.sleep(0))

    def woken(self):
        self.turn()
        count = self.notes.count("wake")
        self.notes[:] = [note for note in self.notes if note != "wake"]
        return count

    def test_made(self):
        """Its settings reach the accumulator and the sending task."""
        producer = self.producer()
        ((calls, accumulator), options) = self.made[0]
        self.assertEqual((calls, accumulator), (self.client._client.calls, producer._accumulator))
        self.assertEqual(calls.log, "default")
        self.assertEqual(
            {name: options[name] for name in ("window", "lock", "settled")},
            {"window": 8, "lock": producer._changed, "settled": producer._pending.settled},
        )
        self.assertEqual((producer._is_closed, self.notes), (False, ["run"]))

    def test_records(self):
        """The first of a batch, and the one that fills it, wake the sending task; each has its place."""
        producer = self.producer()
        self.thread.run(asyncio.sleep(2.0))
        deliveries = []
        woken = []
        for _ in range(6):
            deliveries.append(producer.append(b"x" * 9))  # 13 bytes in a batch
            woken.append(self.woken())
        self.assertEqual(woken, [1, 0, 0, 1, 0, 0])
        self.assertEqual((producer._ledger.taken, producer._ledger.room), (6, 16 * 2**20 - 6 * 13))
        self.assertEqual(producer._accumulator._full[0].due_at, 2.1)
        producer.append(b"y" * 60)
        self.assertEqual(self.woken(), 1)
        self.settle(producer)
        self.assertEqual([delivery.offset() for delivery in deliveries], [0, 1, 2, 3, 4, 5])

    def test_whole_record(self):
        """Keys, headers and times are taken along."""
        producer = self.producer(batch_bytes=1000)
        producer.append(b"v", key=b"k", headers=[("h", b"1")], timestamp=5)
        batch = producer._accumulator.take(float("inf"))
        encoded = b"".join(batch.pieces)
        for piece in (b"\x0a\x01v", b"k", b"h", b"1"):
            self.assertIn(piece, encoded)
        self.assertRaises(InvalidRequestError, producer.append, "text")
        self.assertEqual(producer._ledger.taken, 1)

    def test_full_buffer(self):
        """While the buffer is full an append waits; the end of the sending task ends that, too."""
        producer = self.producer(buffer_bytes=13)
        waits = []
        producer._changed.wait = lambda: waits.append(self.on_wait(producer))
        producer.append(b"x" * 9)
        self.assertEqual(waits, [])
        producer.append(b"x" * 9)
        self.assertEqual((waits, producer._ledger.room), ([True], 0))

        def end():
            producer._sending.ends.set()
            self.turn()
            self.turn()

        producer._changed.wait = end
        self.assertRaises(ClosedError, producer.append, b"x")
        self.assertEqual(producer._ledger.taken, 2)

    def test_ended(self):
        """A producer that is closed, or whose task has ended, takes nothing."""
        producer = self.producer()
        producer._is_closed = True
        self.assertRaises(ClosedError, producer.append, b"x")
        producer = self.producer()
        producer._sending.ends.set()
        self.turn()
        self.turn()
        self.assertRaises(ClosedError, producer.append, b"x")
        self.assertEqual(producer._ledger.taken, 0)

    def test_flush(self):
        """What is gathered is due at once; the first failure that nobody was told is raised, once."""
        producer = self.producer()
        producer.flush()
        self.assertEqual(self.woken(), 0)
        delivery = producer.append(b"x")
        self.woken()
        due = []
        producer._changed.wait = lambda: (due.append(producer._accumulator.due_at), self.settle(producer))
        producer.flush()
        self.assertEqual((due, delivery.is_done, self.woken()), ([float("-inf")], True, 1))
        producer.append(b"x")
        producer._changed.wait = lambda: self.settle(producer, LoghouseError("no"))
        self.assertRaises(LoghouseError, producer.flush)
        producer.flush()

    def test_flush_is_of_what_was_taken(self):
        """What other threads append meanwhile is not waited for."""
        producer = self.producer()
        producer.append(b"x")
        rounds = []

        def wait():
            rounds.append(1)
            self.settle(producer)
            producer._ledger.take(1)

        producer._changed.wait = wait
        producer.flush()
        self.assertEqual(len(rounds), 1)

    def test_blocks(self):
        """A block's end flushes; its error has the producer's as a note; an interruption does not wait."""
        failure = LoghouseError("no")
        for error, wait_error, waits in (
            (None, None, 1),
            (KeyError("own"), None, 1),
            (KeyError("own"), failure, 1),
            (KeyboardInterrupt(), None, 0),
        ):
            producer = self.producer()
            rounds = []

            def wait(producer=producer, rounds=rounds, wait_error=wait_error):
                rounds.append(1)
                self.settle(producer, wait_error)

            producer._changed.wait = wait
            try:
                with producer as entered:
                    self.assertIs(entered, producer)
                    producer.append(b"x")
                    if error is not None:
                        raise error
            except (KeyError, KeyboardInterrupt) as raised:
                self.assertIs(raised, error)
                notes = ["its producer failed, too: no"] if wait_error else []
                self.assertEqual(getattr(raised, "__notes__", []), notes)
            self.assertEqual(
                (len(rounds), producer._is_closed, producer._running.done()), (waits, True, True)
            )

    def test_close(self):
        """It ends though its flush fails; a second end is none."""
        producer = self.producer()
        producer.append(b"x")
        producer._changed.wait = lambda: self.settle(producer, LoghouseError("no"))
        self.assertRaises(LoghouseError, producer.close)
        self.assertTrue(producer._running.cancelled())
        producer.abort()
        producer.close()
        producer = self.producer()
        self.thread.is_closed = True
        producer.abort()
        self.assertTrue(producer._is_closed)

    def test_elsewhere(self):
        """A forked child ends nothing of its parent's."""
        producer = self.producer()
        producer._pending.place = SimpleNamespace(is_elsewhere=True)
        producer.abort()
        self.turn()
        self.assertFalse(producer._running.done())
        producer._pending.place = Place()

    def test_dropped(self):
        """A warning tells what is left of one that nobody closed, and its task is told to finish."""
        for taken, is_closed, expected in ((3, False, 1), (0, False, 0), (3, True, 0)):
            producer = self.client.producer()
            noted = producer._sending.noted
            for _ in range(taken):
                producer._ledger.take(1)
            producer._is_closed = is_closed
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                producer.__del__()
                producer._is_closed = True
            self.turn()
            self.turn()
            self.assertEqual(len(caught), expected)
            self.assertEqual("finish" in noted, not is_closed)
        self.assertTrue(Producer._is_closed)


class LockTests(SynchronousTestCase):
    """What threads share."""

    def test_settled(self):
        """An outcome is noted under the lock, and wakes everybody who waits."""
        pending = Pending(ProducerLedger(100), Place())
        woken = []
        pending.changed.notify_all = lambda: woken.append(pending.changed._lock.locked())
        pending.settled(settled(0))
        self.assertEqual((woken, pending.ledger.done), ([True], 1))
        self.assertIsInstance(pending.changed, threading.Condition)
