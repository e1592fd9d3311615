"""What gathers and what sends, one step at a time: by a clock and a condition that the test moves."""

import asyncio
import gc
import threading
import warnings
from types import SimpleNamespace

from twisted.trial.unittest import SynchronousTestCase

from loghouse.client.batching import Accumulator, ProducerLedger, encode_record
from loghouse.embedded import asynchronous, producer
from loghouse.embedded.asynchronous import AsyncEmbeddedDelivery, AsyncEmbeddedProducer, _TaskRequest
from loghouse.embedded.producer import EmbeddedDelivery, EmbeddedProducer, _Sending
from loghouse.embedded.requests import Request
from loghouse.errors import (
    ClientUseError,
    ClosedError,
    DiskFullError,
    ExpectOffsetError,
    InvalidRequestError,
    LoghouseError,
)
from loghouse.limits import KIB, MIB
from loghouse.protocol.entry import Codec
from tests.embedded.case import EmbeddedTestCase


class Condition:
    """Stands for the condition that who sends waits for: a wait takes its time at once."""

    def __init__(self, case):
        self.case = case
        self.waits = []
        self.told = 0

    def __enter__(self):
        return self

    def __exit__(self, *what):
        pass

    def notify_all(self):
        self.told += 1

    def wait(self, seconds):
        self.waits.append(seconds if seconds is None else round(seconds, 6))
        self.case.waited()
        if seconds is not None:
            self.case.now += seconds

    def wait_for(self, condition, seconds):
        self.wait(seconds)
        return condition()


class SendingTests(SynchronousTestCase):
    """What a producer took, until it is appended."""

    def setUp(self):
        self.now = 100.0
        self.patch(producer, "time", SimpleNamespace(monotonic=lambda: self.now))
        self.accumulator = Accumulator(batch_size=1000, linger_seconds=0.5, timeout_seconds=1.0)
        self.ledger = ProducerLedger(10_000)
        self.outcomes = []  # of the next appends: errors, then the offset
        self.appended = []
        self.waited = lambda: None
        self.sending = self.make(Codec.NONE)

    def make(self, codec):
        made = _Sending(self.append, self.accumulator, self.ledger, codec, lambda: None)
        made.changed = Condition(self)
        return made

    def append(self, payload, record_count, codec):
        self.appended.append((self.now, record_count, codec))
        outcome = self.outcomes.pop(0) if self.outcomes else 7
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    def add(self, value=b"x"):
        head, body = encode_record(value, None, (), None)
        self.ledger.take(len(head) + len(body))
        return self.accumulator.add(head, body, self.now)

    def test_next(self):
        """Without records it waits to be told; one record waits for others; a full batch does not."""
        sending = self.sending
        batches = []
        self.waited = lambda: batches or batches.append(self.add())
        self.assertIs(sending._next(), batches[0])
        self.assertEqual((sending.changed.waits, self.now), ([None, 0.5], 100.5))
        full = [self.add(bytes(900)) for _ in range(2)]
        self.assertIs(sending._next(), full[0])
        self.assertEqual(len(sending.changed.waits), 2)

    def test_ending(self):
        """At the end what is gathered is due at once, and then there is no more to do."""
        batch = self.add()
        self.sending.is_ending = True
        self.assertIs(self.sending._next(), batch)
        self.assertIsNone(self.sending._next())
        self.assertEqual(self.sending.changed.waits, [])

    def test_aborted(self):
        """After an abort nothing is next, whatever is gathered."""
        self.add()
        self.sending.is_aborted = True
        self.assertIsNone(self.sending._next())

    def test_tried_again(self):
        """What may be tried again is, every 0.1 s, while its time is not over; the last error is raised."""
        batch = self.add()
        self.outcomes = [DiskFullError("/a"), DiskFullError("/b"), 5]
        self.assertEqual(self.sending._append(batch), 5)
        self.assertEqual([round(at, 6) for at, _, _ in self.appended], [100.0, 100.1, 100.2])
        self.now = 100.75
        self.outcomes = [DiskFullError(str(number)) for number in range(9)]
        error = self.assertRaises(DiskFullError, self.sending._append, batch)
        self.assertEqual(error.directory, "2")
        self.assertEqual(producer.RETRY_SECONDS, 0.1)

    def test_to_the_last_moment(self):
        """A try that would come at just the end of its time is not made."""
        batch = self.add()
        self.patch(producer, "RETRY_SECONDS", 0.25)
        self.now = 100.75
        self.outcomes = [DiskFullError("/a")]
        self.assertRaises(DiskFullError, self.sending._append, batch)
        self.assertEqual(self.sending.changed.waits, [])

    def test_not_tried_again(self):
        """What cannot go well is not tried again; an abort ends the tries."""
        batch = self.add()
        self.outcomes = [ExpectOffsetError(1, 2)]
        self.assertRaises(ExpectOffsetError, self.sending._append, batch)
        self.outcomes = [DiskFullError("/a"), DiskFullError("/a")]

        def abort():
            self.sending.is_aborted = True

        self.waited = abort
        error = self.assertRaises(ClosedError, self.sending._append, batch)
        self.assertEqual(str(error), "the producer was closed before this was appended")
        self.assertEqual(len(self.appended), 2)

    def test_run(self):
        """Each batch is settled by its offset or error, and counted; what is left at an abort fails."""
        sending = self.make(Codec.ZSTD)
        first = self.add(b"same" * 200)
        second = self.add(bytes(900))
        third = self.add(bytes(900))
        told = []
        EmbeddedDelivery(first, 0, sending).when_done(lambda: told.append(first.base_offset))
        EmbeddedDelivery(first, 0, sending).when_done(lambda: told.append("too"))
        self.outcomes = [5, ExpectOffsetError(1, 2)]
        self.waited = lambda: self.fail("waited")
        settle = sending._settle

        def settled(batch, **outcome):
            settle(batch, **outcome)
            sending.is_aborted = batch is second

        sending._settle = settled
        sending._run()
        self.assertEqual([codec for _, _, codec in self.appended], [Codec.ZSTD, Codec.ZSTD])
        self.assertEqual((first.offset(0), told), (5, [5, "too"]))
        self.assertRaises(ExpectOffsetError, second.offset, 0)
        error = self.assertRaises(ClosedError, third.offset, 0)
        self.assertEqual(str(error), "the producer was closed before this was appended")
        self.assertEqual((self.ledger.done, self.ledger.room, sending.changed.told), (3, 10_000, 3))
        EmbeddedDelivery(first, 0, sending).when_done(lambda: told.append("late"))
        self.assertEqual(told[2:], ["late"])
        self.assertEqual((sending.thread.name, sending.thread.daemon), ("loghouse-producer", True))


class ProducerTests(SynchronousTestCase):
    """A producer with a log that the test plays."""

    def setUp(self):
        self.appended = []
        self.go = threading.Event()
        self.go.set()
        self.is_elsewhere = False

    def append(self, payload, record_count, codec):
        assert self.go.wait(10)
        self.appended.append(record_count)
        return 0

    def check_process(self):
        if self.is_elsewhere:
            raise ClientUseError("elsewhere")

    def make(self, **options):
        settings = {
            "linger_ms": 60_000,
            "batch_bytes": 100,
            "codec": Codec.NONE,
            "buffer_bytes": 1000,
            "timeout_seconds": 30,
        }
        made = EmbeddedProducer(self.append, check_process=self.check_process, **{**settings, **options})
        self.addCleanup(made.abort)
        return made

    def test_settings(self):
        """What makes no sense is refused by name; times are in milliseconds and seconds."""
        for name, value in (
            ("linger_ms", -1),
            ("batch_bytes", 0),
            ("buffer_bytes", 0),
            ("timeout_seconds", 0),
        ):
            error = self.assertRaises(InvalidRequestError, self.make, **{name: value})
            self.assertEqual(error.field, name)
        made = self.make(linger_ms=500, batch_bytes=7, timeout_seconds=3)
        accumulator = made._accumulator
        self.assertEqual(
            (accumulator._linger_seconds, accumulator._batch_size, accumulator._timeout_seconds), (0.5, 7, 3)
        )

    def test_room(self):
        """It has room until as many bytes as the buffer has are on their way."""
        self.go.clear()
        made = self.make(buffer_bytes=90, batch_bytes=1000)
        self.assertTrue(made.has_room)
        made.append(bytes(40))
        self.assertTrue(made.has_room)
        made.append(bytes(60))
        self.assertFalse(made.has_room)
        self.go.set()
        made.flush()
        self.assertTrue(made.has_room)
        self.assertEqual(self.appended, [2])

    def test_just_full(self):
        """A buffer that is full to the byte has no room."""
        self.go.clear()
        size = sum(map(len, encode_record(bytes(40), None, (), None)))
        made = self.make(buffer_bytes=size, batch_bytes=1000)
        made.append(bytes(40))
        self.assertFalse(made.has_room)
        self.go.set()

    def test_full_batches(self):
        """A batch that is full is appended at once, whatever others may wait; places count from 0."""
        made = self.make()
        deliveries = [made.append(bytes(40)) for _ in range(5)]
        self.assertEqual([one.offset(10) for one in deliveries[:4]], [0, 1, 0, 1])
        self.assertFalse(deliveries[4].is_done)
        made.close()
        self.assertEqual(self.appended, [2, 2, 1])

    def test_closed(self):
        """A closed one refuses, and who waits for room is told."""
        self.go.clear()
        made = self.make(buffer_bytes=10, batch_bytes=1000)
        made.append(bytes(20))
        errors = []

        def wait():
            try:
                made.append(b"x")
            except ClosedError as error:
                errors.append(str(error))

        thread = threading.Thread(target=wait)
        thread.start()
        with made._changed:
            made._sending.is_ending = True
            made._changed.notify_all()
        thread.join(10)
        self.assertEqual(errors, ["the producer is closed"])
        self.go.set()
        made.close()
        self.assertRaises(ClosedError, made.append, b"x")

    def test_abort_by_its_own_thread(self):
        """Who is told of an outcome may abort the producer, on the producer's own thread."""
        made = self.make()
        done = threading.Event()
        delivery = made.append(b"x")
        with made._changed:
            delivery.when_done(lambda: (made.abort(), done.set()))
        made._accumulator.hurry()
        with made._changed:
            made._changed.notify_all()
        self.assertTrue(done.wait(10))
        made._sending.thread.join(10)
        self.assertFalse(made._sending.thread.is_alive())

    def test_dropped_after_a_close(self):
        """One that was closed or aborted, or is its parent's, is dropped without a word."""
        for end in ("close", "abort", "elsewhere"):
            made = self.make()
            if end != "close":
                made.append(b"x")
            self._cleanups.clear()
            if end == "elsewhere":
                sending = made._sending
                self.is_elsewhere = True
            else:
                getattr(made, end)()
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                del made
                gc.collect()
            self.assertEqual(caught, [], end)
        self.assertFalse(sending.is_ending)
        with sending.changed:
            sending.is_ending = True
            sending.changed.notify_all()
        sending.thread.join(10)

    def test_abort_elsewhere(self):
        """A forked child ends nothing of its parent's."""
        made = self.make()
        made.append(b"x")
        self.is_elsewhere = True
        made.abort()
        self.assertFalse(made._sending.is_ending)
        self.is_elsewhere = False
        made._sending.is_ending = True
        with made._changed:
            made._changed.notify_all()
        made._sending.thread.join(10)


class TaskTests(EmbeddedTestCase):
    """The form for asyncio, piece by piece."""

    def run_story(self, story):
        loop = asyncio.get_event_loop()
        try:
            asyncio.run(asyncio.wait_for(story(), 30))
        finally:
            asyncio.set_event_loop(loop)

    def test_request(self):
        """It is the request that it was made of; a wake has the thread work, or tells its task, once."""
        worked = []

        async def story():
            like = Request(b"x", 3, attributes=Codec.ZSTD, expect_offset=7)
            request = _TaskRequest(SimpleNamespace(work_on=worked.append), like)
            self.assertEqual(
                (request.payload, request.record_count, request.attributes, request.expect_offset),
                (b"x", 3, Codec.ZSTD, 7),
            )
            request.wake()
            self.assertEqual(worked, [request])
            request.base_offset = 0
            for _ in range(2):
                request.wake()
            await request.future
            await asyncio.sleep(0)
            self.assertEqual(len(worked), 1)
            self.request = request

        self.run_story(story)
        self.request.wake()  # its loop is closed: nobody waits

    def test_closed(self):
        """Two closes are one; behind it everything is refused."""

        async def story():
            log = asynchronous.AsyncEmbeddedLog(self.open())
            await log.close()
            await log.close()
            for call in (log.append(b"x"), log.bounds(), log.find_offset(0), log.trim(0)):
                with self.assertRaises(ClosedError):
                    await call
            with self.assertRaises(ClosedError):
                async for _ in log.read():
                    pass

        self.run_story(story)

    def test_threads(self):
        """One thread writes, four read; their names tell which they are."""

        async def story():
            log = asynchronous.AsyncEmbeddedLog(self.open())
            self.assertEqual((log._writer._max_workers, log._readers._max_workers), (1, 4))
            names = (log._writer._thread_name_prefix, log._readers._thread_name_prefix)
            self.assertEqual(names, ("loghouse-embedded", "loghouse-reader"))
            await log.close()

        self.run_story(story)

    def test_read(self):
        """Reading takes the same places and times as without asyncio."""

        async def story():
            async with asynchronous.AsyncEmbeddedLog(self.open()) as log:
                await log.append_batch([b"a", b"b"], expect_offset=0)
                await log.append(b"c", key=b"k", headers=[("h", b"v")], timestamp=7, expect_offset=2)
                records = [record async for record in log.read(1, timeout_seconds=1)]
                self.assertEqual([record.value for record in records], [b"b", b"c"])
                self.assertEqual(records[1], (2, 7, b"c", b"k", (("h", b"v"),)))
                self.assertEqual([batch async for batch in log.read_batches("latest")], [])
                with self.assertRaises(InvalidRequestError):
                    await anext(log.read(timeout_seconds=0))
                for call in (
                    log.append(b"x", timeout_seconds=0),
                    log.append_batch([b"x"], timeout_seconds=0),
                ):
                    with self.assertRaises(InvalidRequestError):
                        await call
                with self.assertRaises(ExpectOffsetError):
                    await log.append_batch([b"x"], expect_offset=9)

        self.run_story(story)

    def test_wait(self):
        """A wait ends when its record is there, not for an earlier one, and leaves no watcher."""

        async def story():
            async with asynchronous.AsyncEmbeddedLog(self.open()) as log:
                waiting = asyncio.ensure_future(log._wait_for(1))
                await asyncio.sleep(0)
                await log.append(b"x")
                for _ in range(3):
                    await asyncio.sleep(0)
                self.assertFalse(waiting.done())
                await log.append(b"x")
                await waiting
                self.assertEqual(log._node._watchers, ())

        self.run_story(story)

    def test_producer_settings(self):
        """A producer is made of what it was asked for."""
        asked = []

        async def story():
            log = asynchronous.AsyncEmbeddedLog(self.open())
            log._log = SimpleNamespace(producer=lambda **options: asked.append(options), close=log._log.close)
            log.producer()
            log.producer(linger_ms=1, batch_bytes=2, compression="zstd", buffer_bytes=3, timeout_seconds=4)
            await log.close()

        self.run_story(story)
        names = ("linger_ms", "batch_bytes", "compression", "buffer_bytes", "timeout_seconds")
        self.assertEqual(asked[0], dict(zip(names, (5, 256 * KIB, "none", 16 * MIB, None), strict=True)))
        self.assertEqual(asked[1], dict(zip(names, (1, 2, "zstd", 3, 4), strict=True)))

    def test_delivery(self):
        """Awaiting it waits until it is told, once; what is done already does not wait."""
        told = []
        state = SimpleNamespace(is_done=False, when_done=told.append, offset=lambda: 5)

        async def story():
            delivery = AsyncEmbeddedDelivery(state)
            self.assertFalse(delivery.is_done)

            async def wait():
                return await delivery

            waiting = asyncio.ensure_future(wait())
            given_up = asyncio.ensure_future(wait())
            await asyncio.sleep(0)
            self.assertEqual(len(told), 2)
            given_up.cancel()
            await asyncio.sleep(0)
            for tell in told:
                tell()
                tell()
            self.assertEqual(await waiting, 5)
            state.is_done = True
            self.assertTrue(delivery.is_done)
            self.assertEqual(await delivery, 5)
            self.assertEqual(len(told), 2)

        self.run_story(story)

    def test_producer(self):
        """It takes a record in the task while there is room, and elsewhere when there is none."""
        threads, calls = [], []
        inner = SimpleNamespace(
            has_room=True,
            append=lambda value, **fields: threads.append(threading.current_thread()) or fields,
            flush=lambda: calls.append("flush"),
            close=lambda: calls.append("close"),
            abort=lambda: calls.append("abort"),
            __exit__=None,
        )
        inner.__exit__ = lambda *what: calls.append(what)

        async def story():
            made = AsyncEmbeddedProducer(inner)
            first = await made.append(b"x", key=b"k", headers=(), timestamp=5)
            self.assertEqual(first._delivery, {"key": b"k", "headers": (), "timestamp": 5})
            inner.has_room = False
            await made.append(b"x")
            for call in (made.flush, made.close, made.abort):
                await call()
            self.assertIs(await made.__aenter__(), made)
            await made.__aexit__(None, None, None)
            error = ValueError("no")
            await made.__aexit__(ValueError, error, None)
            self.assertEqual(calls, ["flush", "close", "abort", (None,) * 3, (ValueError, error, None)])

        self.run_story(story)
        self.assertIs(threads[0], threading.main_thread())
        self.assertIsNot(threads[1], threading.main_thread())

    def test_open(self):
        """`loghouse.open_async` opens as `loghouse.open` does."""
        asked = []
        self.patch(
            asynchronous, "open_embedded", lambda path, **options: asked.append((path, options)) or log
        )
        log = self.open()

        async def story():
            opened = asynchronous.open_async("events/", name="n")
            self.assertIs(opened._log, log)
            await opened.close()

        self.run_story(story)
        self.assertEqual(asked, [("events/", {"name": "n"})])
        self.assertRaises(LoghouseError, log.bounds)
