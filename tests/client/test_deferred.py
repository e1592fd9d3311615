"""The client for Twisted programs: calls, readings, errors and ends, on both kinds of reactors."""

import gc
import threading
import warnings
from functools import partial

from twisted.internet import reactor
from twisted.internet.defer import CancelledError, Deferred, ensureDeferred, inlineCallbacks
from twisted.internet.threads import deferToThread
from twisted.trial.unittest import SynchronousTestCase

from loghouse.client import AsyncClient, AsyncCursors, Client, Consumer, GroupConsumer
from loghouse.client.blocking import BlockingLog
from loghouse.client.cursors import BlockingCursors
from loghouse.client.deferred import (
    DeferredClient,
    DeferredConsumer,
    DeferredCursors,
    DeferredGroupConsumer,
    DeferredLog,
    opened,
)
from loghouse.client.log import AsyncLog
from loghouse.errors import (
    CertificateError,
    ClientUseError,
    ClosedError,
    ExpectOffsetError,
    InvalidRequestError,
    OutcomeUnknownError,
    ResourceExhaustedError,
)
from loghouse.limits import MIB, WAITING_APPENDS_MAX, WAITING_SIZE_MAX
from tests.client.deferred_case import DeferredCase, client_threads, in_a_thread
from tests.client.test_place import in_child
from tests.fakes.node import HANG


def public(kind):
    return {name for name in vars(kind) if not name.startswith("_")}


class MethodTests(SynchronousTestCase):
    """What there is to call."""

    def test_nothing_is_missing(self):
        """All that the blocking client has, and one form of reading more."""
        self.assertEqual(public(DeferredLog) - public(BlockingLog), {"read_each"})
        for ours, theirs in (
            (DeferredLog, BlockingLog),
            (DeferredClient, Client),
            (DeferredCursors, BlockingCursors),
        ):
            self.assertEqual(public(theirs) - public(ours), set())
        for ours, theirs in ((DeferredConsumer, Consumer), (DeferredGroupConsumer, GroupConsumer)):
            has, should_have = (
                {name for kind in one.__mro__[:-1] for name in public(kind)} for one in (ours, theirs)
            )
            self.assertEqual(should_have, has)

    def test_wrapped(self):
        """Each method says what it does, with the signature of the one that it is made of."""
        for ours, theirs in (
            (DeferredLog, AsyncLog),
            (DeferredClient, AsyncClient),
            (DeferredCursors, AsyncCursors),
        ):
            wrapped = [method for method in vars(ours).values() if hasattr(method, "__wrapped__")]
            self.assertGreater(len(wrapped), 7)
            for method in wrapped:
                name = method.__name__
                self.assertEqual(method.__qualname__, f"{ours.__name__}.{name}")
                self.assertIs(method.__wrapped__, vars(theirs)[name])
                self.assertTrue(method.__doc__.endswith(f"; see `{theirs.__name__}.{name}`."))

    def test_wrong_at_once(self):
        """A target or a certificate that is none is told by `connect`, as by the others."""
        self.assertRaises(InvalidRequestError, DeferredClient, "a b", reactor=reactor)
        self.assertRaises(CertificateError, self.with_certificate)

    def with_certificate(self):
        from loghouse.client import Tls

        DeferredClient("h:1", tls=Tls(ca="nowhere", certificate="nowhere", key="nowhere"), reactor=reactor)


class CallTests(DeferredCase):
    """Calls and their errors."""

    async def test_calls(self):
        """Calls give Deferreds of what the asyncio client returns, and pass everything on."""
        cluster, log = await self.connected()
        appending = log.append(b"a", key=b"k")
        self.assertIsInstance(appending, Deferred)
        self.assertEqual(await appending, 0)
        self.assertEqual(await log.append_batch(b"%d" % number for number in range(3)), range(1, 4))
        self.assertEqual(await log.bounds(), (0, 4))
        self.assertEqual([record.value for record in await log.newest(2)], [b"1", b"2"])
        page = await log.read_page(0, key=b"k")
        self.assertEqual([record.value for record in page.records], [b"a"])
        self.assertEqual(await log.find_offset(2**60), 4)
        self.assertEqual([server.name for server in (await log.servers()).servers], ["n1"])
        self.assertEqual((await log.status()).term, 4)
        self.assertEqual(cluster.values, [b"a", b"0", b"1", b"2"])

    async def test_appends_that_nobody_awaits(self):
        """Who does not wait for answers is refused at a bound, by count and by bytes, and may go on later."""
        cluster, log = await self.connected()
        cluster.nodes[0].hold()
        large = [bytes(7 * MIB)]
        for append, count_max in (
            (partial(log.append, b"x"), WAITING_APPENDS_MAX),
            (partial(log.append_batch, large), WAITING_SIZE_MAX // len(large[0]) + 1),
        ):
            waiting = [append() for _ in range(count_max)]
            other = log.log("default").cursors().list()  # which counts with them
            for refused in (append(), other):
                error = await self.raises(ResourceExhaustedError, refused)
                self.assertEqual((error.resource, error.may_retry), ("client", True))
                self.assertIn(
                    "wait for the Deferred of each before the next one, or use producer()", str(error)
                )
            waiting[0].cancel()
            await self.raises(CancelledError, waiting[0])
            waiting.append(append())
            self.assertFalse(waiting[-1].called)
            for one in waiting[1:]:
                one.cancel()
                await self.raises(CancelledError, one)
        cluster.nodes[0].release()
        self.assertGreaterEqual(await log.append(b"y"), 0)

    async def test_other_logs(self):
        """Another log is made, used and deleted."""
        _, cluster = await self.connected()
        await cluster.create_log("orders", replicas=1)
        orders = cluster.log("orders")
        self.assertEqual((orders.log_name, await orders.append(b"first")), ("orders", 0))
        self.assertEqual([log.name for log in await cluster.logs()], ["default", "orders"])
        await cluster.delete_log("orders")

    async def test_cursors(self):
        """A cursor is acquired, moved with records, and let go."""
        _, log = await self.connected()
        cursors = log.cursors()
        mine = await cursors.acquire("billing")
        self.assertEqual(mine.holder, cursors.holder)
        self.assertEqual((await cursors.advance("billing", mine.epoch, 7)).position, 7)
        await cursors.release("billing", mine.epoch)
        self.assertEqual([cursor.name for cursor in await cursors.list()], ["billing"])

    async def test_values_are_taken_here(self):
        """An iterable of values is gone through by the reactor's thread; what it raises is the caller's."""
        _, log = await self.connected()
        threads = set()

        def values():
            threads.add(threading.current_thread())
            yield b"a"

        await log.append_batch(values())
        self.assertEqual(threads, {threading.current_thread()})

    async def test_errors(self):
        """Errors come by the Deferred, wrong arguments too, and are those of the asyncio client."""
        _, log = await self.connected()
        for work, kind in (
            (log.append(b"a", expect_offset=7), ExpectOffsetError),
            (log.append("text"), InvalidRequestError),
            (log.append_batch(b"no list"), InvalidRequestError),
            (log.append_batch([]), InvalidRequestError),
            (log.bounds(timeout_seconds=-1), InvalidRequestError),
        ):
            await self.raises(kind, work)

    async def test_cancelled(self):
        """To cancel a Deferred cancels the call, at once and with what it asked of the server."""
        cluster, log = await self.connected()
        await log.bounds()
        cluster.nodes[0].hold()
        appending = log.append(b"a")
        await self.until(lambda: cluster.nodes[0].held_count)
        appending.cancel()
        await self.raises(CancelledError, appending)
        self.assertEqual(log._opened._calls, set())
        cluster.nodes[0].release()
        await self.until(lambda: cluster.values == [b"a"])  # an append may still be carried out
        self.assertEqual(await log.append(b"b"), 1)

    @inlineCallbacks
    def test_generators(self):
        """Generators of `inlineCallbacks` use it as coroutines do."""
        _, log = yield ensureDeferred(self.connected())
        offset = yield log.append(b"a")
        self.assertEqual(offset, 0)
        yield log.close()

    async def test_many_at_once(self):
        """Calls go out side by side, and each gets its own answer."""
        cluster, log = await self.connected()
        appending = [log.append(b"%d" % number) for number in range(100)]
        offsets = [await one for one in appending]
        self.assertEqual([cluster.values[offset] for offset in offsets], [b"%d" % n for n in range(100)])


class ReadTests(DeferredCase):
    """Readings."""

    async def test_iterated(self):
        """Records and batches come in order, both ways, up to the end or a limit."""
        cluster, log = await self.connected()
        cluster.add_values(b"a", b"b")
        cluster.add_values(b"c")
        self.assertEqual([record.value async for record in log.read()], [b"a", b"b", b"c"])
        self.assertEqual([record.value async for record in log.read(reverse=True, limit=2)], [b"c", b"b"])
        self.assertEqual([len(batch) async for batch in log.read_batches(0)], [2, 1])
        await self.raises(InvalidRequestError, anext(log.read("yesterday")))

    async def test_left(self):
        """Leaving the loop ends the reading at the server, also without closing the generator."""
        cluster, log = await self.connected()
        cluster.add_values(b"a")
        async for record in log.read(follow=True):
            self.assertEqual(record.value, b"a")
            await self.until(lambda: cluster.nodes[0].waiters)
            break
        gc.collect()
        await self.until(lambda: not cluster.nodes[0].waiters)

    async def test_followed(self):
        """What is appended later comes, until the reading is cancelled."""
        cluster, log = await self.connected()
        seen = []
        reading = log.read_each(lambda record: seen.append(record.value), follow=True)
        await self.until(lambda: cluster.nodes[0].waiters)
        cluster.add_values(b"a", b"b")
        await self.until(lambda: seen == [b"a", b"b"])
        reading.cancel()
        await self.raises(CancelledError, reading)
        await self.until(lambda: not cluster.nodes[0].waiters)

    async def test_held_back(self):
        """The next record waits while a Deferred or a coroutine of the one before has not ended."""
        cluster, log = await self.connected()
        cluster.add_values(b"a", b"b", b"c")
        seen, waiting = [], []

        def use(record):
            seen.append(record.value)
            waiting.append(Deferred())
            return waiting[-1]

        reading = log.read_each(use)
        for count in (1, 2, 3):
            await self.until(lambda count=count: len(seen) == count)
            self.assertFalse(reading.called)
            waiting[-1].callback(None)
        await reading

        async def use_batch(batch):
            seen.append(list(batch.values()))

        await log.read_each(use_batch, 1, batches=True)
        self.assertEqual(seen, [b"a", b"b", b"c", [b"b", b"c"]])

    async def test_error_of_the_user(self):
        """What is raised by the caller's function ends the reading, and is told as it is."""
        cluster, log = await self.connected()
        cluster.add_values(b"a")
        await self.raises(ZeroDivisionError, log.read_each(lambda record: 1 // 0, follow=True))
        await self.until(lambda: not cluster.nodes[0].waiters)

    async def test_decoded_here(self):
        """Batches are decoded by the reactor's thread, as they are taken."""
        cluster, log = await self.connected()
        cluster.add_values(b"a")
        cluster.add_values(b"b")
        batches = log.read_batches()
        self.assertEqual(list((await anext(batches)).values()), [b"a"])
        await log.close()
        self.assertEqual(list((await anext(batches)).values()), [b"b"])  # of the same answer
        await batches.aclose()


class EndTests(DeferredCase):
    """How a client ends."""

    async def test_closed(self):
        """Whoever waits gets an error, and later calls, too; a second time does nothing."""
        cluster, log = await self.connected()
        await log.append(b"a")
        cluster.nodes[0].faults["Bounds"] = [HANG]
        cluster.nodes[0].hold()
        asking, appending = log.bounds(), log.append(b"b")
        reading = log.read_each(lambda record: None, follow=True)
        await self.until(lambda: cluster.nodes[0].held_count and cluster.nodes[0].count("Bounds"))
        closing = [log.close(), log.close()]
        await self.raises(ClosedError, asking)
        await self.raises(OutcomeUnknownError, appending)
        await self.raises(ClosedError, reading)
        for one in closing:
            await one
        for work in (log.append(b"c"), log.read_each(print), log.cursors().list(), log.log("x").bounds()):
            await self.raises(ClosedError, work)
        self.assertRaises(ClosedError, log.producer)
        await log.close()
        self.assertEqual(client_threads(), [])

    async def test_block(self):
        """Leaving its block closes it."""
        _, log = await self.connected()
        async with log as same:
            self.assertIs(same, log)
            await log.append(b"a")
        await self.raises(ClosedError, log.append(b"b"))

    async def test_never_used(self):
        """One that was never used has neither a loop nor a part in the reactor's stop."""
        log = self.connect("127.0.0.1:1")
        self.assertIsNone(log._opened._loop)
        await log.close()
        await self.raises(ClosedError, log.bounds())

    async def test_dropped(self):
        """One that nobody holds closes once what is under way has ended."""
        cluster, log = await self.connected()
        self.closers.pop()
        cluster.nodes[0].hold()
        appending = log.append(b"a")
        await self.until(lambda: cluster.nodes[0].held_count)
        opened = log._opened
        del log
        gc.collect()
        await self.until(lambda: opened._news)  # it waits for the call
        cluster.nodes[0].release()
        self.assertEqual(await appending, 0)
        await self.until(lambda: opened._closed is not None)
        await opened.close()

    async def test_other_thread(self):
        """Another thread than the reactor's is told to go there; nothing else is harmed."""
        _, log = await self.connected()
        await log.append(b"a")
        producer = log.producer()
        for work in (log.bounds, log.close, lambda: producer.append(b"x"), producer.flush):
            told = []
            await deferToThread(lambda work=work, told=told: work().addErrback(told.append))
            self.assertTrue(told[0].check(ClientUseError), told)
            self.assertIn("reactor.callFromThread", told[0].getErrorMessage())
        await producer.close()
        self.assertEqual(await log.append(b"b"), 1)

    async def test_forked(self):
        """In a forked child everything fails at once; closing it there harms nobody."""
        _, log = await self.connected()
        await log.append(b"a")
        producer = log.producer()

        def result(work):
            told = []
            work().addCallbacks(lambda _: None, lambda failure: told.append(failure.value))
            if told:
                raise told[0]

        told = in_child(
            *(
                lambda work=work: result(work)
                for work in (log.bounds, producer.flush, lambda: producer.append(b"x"))
            ),
            lambda: result(producer.abort),
            lambda: result(log.close),
        )
        self.assertEqual([one and one[0] for one in told], ["ClientUseError"] * 3 + [None] * 2)
        await producer.close()
        self.assertEqual(await log.append(b"b"), 1)

    async def test_made_before_a_fork(self):
        """A daemon may make its client, fork, and use it then, as `makeService` and `startService` do."""
        cluster, log = await self.connected()
        self.assertEqual(in_child(log._opened.check_here), [None])
        self.assertEqual(await log.append(b"a"), 0)
        self.assertEqual(cluster.values, [b"a"])
        self.assertEqual(in_child(log._opened.check_here)[0][0], "ClientUseError")


class StopTests(DeferredCase):
    """What happens before the reactor stops."""

    is_plain = True

    async def test_waits_for_calls(self):
        """The stop waits for the calls under way, for what their answers lead to, and not for readings."""
        cluster, log = await self.connected()
        reading = log.read_each(lambda record: None, follow=True)
        cluster.nodes[0].hold()

        async def work():
            await log.append(b"a")
            await log.append(b"last words")

        working = ensureDeferred(work())
        await self.until(lambda: cluster.nodes[0].held_count)
        stopping = self.reactor.stopping()
        begun = Deferred()
        reactor.callLater(0, begun.callback, None)
        await begun
        self.assertFalse(stopping.called)
        cluster.nodes[0].release()
        await stopping
        await working
        self.assertEqual(cluster.values, [b"a", b"last words"])
        await self.raises(ClosedError, reading)
        self.assertEqual(client_threads(), [])

    async def test_after_the_others(self):
        """What another part of the program asks in the same moment, in its own stop, is still answered."""
        cluster, log = await self.connected()
        await log.bounds()
        stopping = self.reactor.stopping()
        last = log.append(b"last words")  # a service that is stopped after this client
        await stopping
        self.assertEqual(await last, 0)
        self.assertEqual(cluster.values, [b"last words"])

    async def test_sends_what_was_taken(self):
        """Records of producers that nobody closed are acknowledged first, without waiting for the linger."""
        cluster, log = await self.connected()
        producer = log.producer(linger_ms=60_000)
        deliveries = [await producer.append(b"%d" % number) for number in range(3)]
        await self.reactor.stopping()
        self.assertEqual([await one for one in deliveries], [0, 1, 2])
        self.assertEqual(cluster.values, [b"0", b"1", b"2"])
        await self.raises(ClosedError, producer.append(b"late"))
        await producer.close()

    async def test_not_for_ever(self):
        """After its time it closes anyway, and logs what is lost."""
        cluster, log = await self.connected()
        self.patch(opened, "EXIT_SECONDS", 0.05)
        await log.bounds()
        cluster.nodes[0].hold()
        producer = log.producer(linger_ms=0)
        delivery = await producer.append(b"a")
        appending = log.append(b"b")
        await self.until(lambda: cluster.nodes[0].held_count == 2)
        with self.assertLogs("loghouse.client", "ERROR") as logged:
            await self.reactor.stopping()
        self.assertIn("1 record was not acknowledged yet", logged.output[0])
        await self.raises(OutcomeUnknownError, delivery)
        await self.raises(OutcomeUnknownError, appending)
        with warnings.catch_warnings(record=True) as warned:
            warnings.simplefilter("always")
            producer.__del__()
        self.assertEqual(warned, [])

    async def test_closed_before(self):
        """A client that was closed has no part in the stop any more."""
        _, log = await self.connected()
        await log.bounds()
        self.assertEqual(len(self.reactor.triggers), 1)
        await log.close()
        self.assertEqual(self.reactor.triggers, [])

    async def test_closed_meanwhile(self):
        """A service that closes its client in its own stop does no harm."""
        cluster, log = await self.connected()
        await log.bounds()
        cluster.nodes[0].hold()
        appending = log.append(b"a")
        await self.until(lambda: cluster.nodes[0].held_count)
        stopping = self.reactor.stopping()
        await log.close()
        await self.raises(OutcomeUnknownError, appending)
        await stopping


CallThreadTests = in_a_thread(CallTests)
ReadThreadTests = in_a_thread(ReadTests)
EndThreadTests = in_a_thread(EndTests)
