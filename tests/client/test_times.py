"""When a client does what: whom it asks at which moment, how long it waits, and when it gives up.

On a loop with a clock of its own, and with channels that do as a test says; chance is taken out.
"""

import asyncio
import threading

from twisted.trial.unittest import SynchronousTestCase

from loghouse.client.balancing import Balancer, ClusterView, Purpose, Server
from loghouse.client.calls import Calls
from loghouse.client.channels import Channel, Channels, LogId
from loghouse.client.failures import CallFailedError, CallFailure, Effect, lost_call, unmade_call
from loghouse.errors import (
    ClientUseError,
    ClosedError,
    DeadlineError,
    OutcomeUnknownError,
    PermissionDeniedError,
    ResourceExhaustedError,
    UnavailableError,
)
from tests.fakes.clock_loop import Whole, timed

UUID = bytes(range(16))
SEEDS = ("h1:1", "h2:2", "h3:3")


def view(leader="h1:1", addresses=SEEDS):
    """A cluster whose nodes have the addresses of the seeds; names are the addresses' hosts."""
    servers = tuple(
        Server(name=address.split(":")[0], address=address, is_leader=address == leader)
        for address in addresses
    )
    return ClusterView(cluster_uuid=UUID, cluster_name="c1", servers=servers)


class ScriptedChannel(Channel):
    """Does what the case's `script` says of its address, and notes each call with its moment."""

    def __init__(self, address, case):
        super().__init__(address)
        self.case = case
        self.is_closed = False
        self.waiting = set()

    async def _do(self, what, seconds):
        """Do the next step of the script, the last one again and again: an answer, or an error.

        Of a pair the first one is how many seconds it takes. Without a step nothing ever comes.
        """
        self.case.noted.append((self.case.now, what, self.address, round(seconds, 6)))
        steps = self.case.script.get(self.address, {}).get(what, [])
        if not steps:
            await self.for_ever()
        step = steps.pop(0) if len(steps) > 1 else steps[0]
        if type(step) is tuple:
            await asyncio.sleep(step[0])
            step = step[1]
        if isinstance(step, CallFailure):
            raise CallFailedError(step)
        if isinstance(step, Exception):
            raise step
        return step

    async def for_ever(self):
        """Wait until the channel is closed."""
        waiting = self.case.loop.create_future()
        self.waiting.add(waiting)
        await waiting

    async def servers(self, seconds):
        return await self._do("servers", seconds)

    async def bounds(self, log, seconds):
        return await self._do("bounds", seconds)

    async def read_range(self, wanted, log, seconds):
        return await self._do("range", seconds)

    async def append(self, request, log, seconds):
        return await self._do("append", seconds)

    async def register_producer(self, log, seconds):
        return await self._do("register", seconds)

    async def find_offset(self, timestamp, log, seconds):
        return await self._do("find_offset", seconds)

    async def route(self, name, seconds):
        return await self._do("route", seconds)

    async def administer(self, service, method, request, seconds):
        return await self._do(method, seconds)

    def appends(self, log):
        return self.case.appends(self, log)

    def answers(self, offset, log):
        return self.case.answers(self, offset, log)

    async def close(self):
        self.is_closed = True
        for waiting in self.waiting:
            waiting.cancel()


class TimedCase(SynchronousTestCase):
    """Calls of a client whose channels follow a script, by address and call: `script["h1:1"]["bounds"]`."""

    def begin(self, script, *, known=True, seeds=SEEDS, **options):
        """Make the client's parts; it knows the cluster already, but for `known=False`."""
        self.script = script
        self.noted = []
        self.made = []
        self.balancer = Balancer(seeds, Whole(), **options)
        self.channels = Channels(self.make)
        self.calls = Calls(self.balancer, self.channels, Whole())
        if known:
            self.balancer.learned(view(), 0.0)
        return self.calls

    def make(self, address):
        channel = ScriptedChannel(address, self)
        self.made.append(channel)
        return channel

    @property
    def now(self):
        return round(self.loop.time(), 6)

    def times(self, what):
        """When it was called, and where."""
        return [(time, address) for time, noted, address, _ in self.noted if noted == what]

    def given(self, what):
        """How many seconds each call of it was given."""
        return [seconds for _, noted, _, seconds in self.noted if noted == what]

    async def raises(self, kind, work):
        """Await what must fail; return its error and when it came."""
        try:
            result = await work
        except kind as error:
            return error, self.now
        raise self.failureException(f"gave {result!r} instead of {kind.__name__}")

    def bounds(self, seconds, *, is_safe=True, purpose=Purpose.READ, server=""):
        return self.calls.call(
            lambda channel, left: channel.bounds(LogId(), left),
            purpose=purpose,
            timeout_seconds=seconds,
            is_safe=is_safe,
            server=server,
        )


NOWHERE = unmade_call("nobody is there")
LOST = lost_call("the link broke")
FULL = CallFailure(error=ResourceExhaustedError("requests", "4 wait"), effect=Effect.NOTHING)
LEADERLESS = CallFailure(error=UnavailableError("no leader is known"), effect=Effect.NOTHING)
DENIED = CallFailure(error=PermissionDeniedError("root", "consume", "default"), effect=Effect.REFUSED)


class AskingTests(TimedCase):
    """Who is in the cluster is asked of one server after the other."""

    @timed
    async def test_staggered(self):
        """The next one is asked beside a silent one 0.3 s later; each may take 3 s; the first word counts."""
        calls = self.begin({"h3:3": {"servers": [(0.05, view())]}}, known=False)
        await calls.refresh(10.0)
        self.assertEqual(self.times("servers"), [(0.0, "h2:2"), (0.3, "h3:3")])
        self.assertEqual(self.given("servers"), [3.0, 3.0])
        self.assertEqual((self.now, self.balancer.view), (0.35, view()))
        await calls.close()

    @timed
    async def test_failures_hasten(self):
        """Who cannot be reached is not waited for, and is left alone afterwards."""
        calls = self.begin(
            {
                "h2:2": {"servers": [NOWHERE]},
                "h3:3": {"servers": [(0.1, NOWHERE)]},
                "h1:1": {"servers": [view()]},
            },
            known=False,
        )
        await calls.refresh(10.0)
        self.assertEqual(self.times("servers"), [(0.0, "h2:2"), (0.0, "h3:3"), (0.1, "h1:1")])
        self.assertEqual({self.balancer.address(Purpose.ASK, self.now) for _ in range(3)}, {"h1:1"})
        await calls.close()

    @timed
    async def test_silent_ones(self):
        """When nobody answers, it ends at its time and names whom it asked."""
        calls = self.begin({}, known=False)
        error, at = await self.raises(DeadlineError, calls.refresh(4.0))
        self.assertEqual(at, 4.0)
        self.assertIn("the last one: no answer from h1:1, h2:2, h3:3", str(error))
        await calls.close()

    @timed
    async def test_no_leader(self):
        """A cluster without a leader is taken when nobody knows better, and asked for again, 0.1 s later."""
        leaderless = view(leader="")
        calls = self.begin({address: {"servers": [leaderless]} for address in SEEDS}, known=False)
        await calls.refresh(10.0)
        self.assertEqual(len(self.noted), 3)
        self.assertEqual((self.balancer.view, self.balancer.is_stale(self.now)), (leaderless, True))
        for seconds, count in ((0.0, 3), (0.099, 3), (0.001, 6)):
            await asyncio.sleep(seconds)
            calls.refresh_if_stale()
            await asyncio.wait(calls._tasks or {asyncio.ensure_future(asyncio.sleep(0))})
            self.assertEqual(len(self.noted), count)
        await calls.close()


class CallTests(TimedCase):
    """One call: where it is made, when it is made again, and when it ends."""

    @timed
    async def test_safe(self):
        """A safe call gives one server 5 s and goes on at the next one, until its time is over."""
        self.begin({address: {"bounds": [(5.0, LOST)], "servers": [view()]} for address in SEEDS})
        error, _ = await self.raises(DeadlineError, self.bounds(12.0))
        self.assertEqual(
            [(time, seconds) for time, what, _, seconds in self.noted if what == "bounds"],
            [(0.0, 5.0), (5.02, 5.0), (10.06, 1.94)],
        )
        self.assertIn(
            "gave up after 15.1 s and 3 attempts; the last one: no answer (the link broke)", str(error)
        )
        await self.calls.close()

    @timed
    async def test_unsafe(self):
        """An unsafe one has all its time at once, and is not made again when nobody knows what it did."""
        self.begin({address: {"bounds": [(0.5, LOST)], "servers": [view()]} for address in SEEDS})
        _, at = await self.raises(OutcomeUnknownError, self.bounds(12.0, is_safe=False))
        self.assertEqual((at, self.given("bounds")), (0.5, [12.0]))
        await self.calls.close()

    @timed
    async def test_pauses(self):
        """Between attempts it waits 20 ms, twice as long each time, up to 1 s, and begins none at the end."""
        self.begin({"h1:1": {"bounds": [LEADERLESS], "servers": [view()]}}, seeds=SEEDS[:1], is_direct=True)
        error, at = await self.raises(DeadlineError, self.bounds(5.0))
        times = [time for time, _ in self.times("bounds")]
        self.assertEqual(times, [0.0, 0.02, 0.06, 0.14, 0.3, 0.62, 1.26, 2.26, 3.26, 4.26])
        self.assertEqual(at, 4.26)
        self.assertIn("gave up after 4.3 s and 10 attempts; the last one: no leader is known", str(error))
        await self.calls.close()

    @timed
    async def test_full(self):
        """A server whose room is full is asked again, and says what is full at the end; it may lead still."""
        self.begin({"h1:1": {"bounds": [FULL]}})
        error, at = await self.raises(ResourceExhaustedError, self.bounds(1.0, purpose=Purpose.APPEND))
        self.assertEqual({address for _, address in self.times("bounds")}, {"h1:1"})
        self.assertEqual((at, error.resource, error.limit), (0.62, "requests", "4 wait"))
        self.assertEqual(self.times("servers"), [])
        await self.calls.close()

    @timed
    async def test_news_are_waited_for(self):
        """After a failure it waits for news of the cluster first, at most 1 s, and never beyond its time."""
        self.begin({"h1:1": {"bounds": [NOWHERE, 7]}})
        self.assertEqual(await self.bounds(9.0, purpose=Purpose.APPEND), 7)
        self.assertEqual([time for time, _ in self.times("bounds")], [0.0, 1.02])
        await self.calls.close()
        self.begin({"h1:1": {"bounds": [NOWHERE]}})
        before = self.now
        _, at = await self.raises(DeadlineError, self.bounds(0.5, purpose=Purpose.APPEND))
        self.assertEqual(round(at - before, 3), 0.52)
        await self.calls.close()

    @timed
    async def test_a_leader_that_is_named(self):
        """The leader that a server named is asked at once."""
        named = CallFailure(error=UnavailableError("not me"), effect=Effect.NOTHING, leader="h2")
        self.begin({"h1:1": {"bounds": [named]}, "h2:2": {"bounds": [7]}})
        self.assertEqual(await self.bounds(9.0, purpose=Purpose.APPEND), 7)
        self.assertEqual(self.times("bounds"), [(0.0, "h1:1"), (0.0, "h2:2")])
        self.assertTrue(self.balancer.leads("h2:2"))
        self.assertEqual(self.times("servers"), [])
        await self.calls.close()

    @timed
    async def test_refused(self):
        """A refusal is the answer: nothing is asked again, and the server is thought of as before."""
        self.begin({"h1:1": {"bounds": [DENIED]}})
        error, at = await self.raises(PermissionDeniedError, self.bounds(9.0, purpose=Purpose.APPEND))
        self.assertEqual((at, error, self.balancer.leads("h1:1")), (0.0, DENIED.error, True))
        self.assertFalse(self.balancer.is_stale(self.now))
        await self.calls.close()

    @timed
    async def test_broken_channel(self):
        """A channel on which an answer was lost is not used again; one that could not be opened is."""
        self.begin(
            {"h1:1": {"bounds": [LOST, NOWHERE, 7], "servers": [view()]}}, seeds=SEEDS[:1], is_direct=True
        )
        self.assertEqual(await self.bounds(9.0), 7)
        self.assertEqual([channel.is_closed for channel in self.made], [True, False])
        await self.calls.close()
        self.assertEqual([channel.is_closed for channel in self.made], [True, True])

    @timed
    async def test_one_server(self):
        """A call for one server is made there only; one that the cluster has not is no call."""
        self.begin({"h3:3": {"bounds": [LEADERLESS, 7]}})
        self.assertEqual(await self.bounds(9.0, server="h3"), 7)
        self.assertEqual({address for _, address in self.times("bounds")}, {"h3:3"})
        error, _ = await self.raises(UnavailableError, self.bounds(9.0, server="h9"))
        self.assertEqual(str(error), "no server named 'h9' in this cluster; `servers()` lists them")
        await self.calls.close()

    @timed
    async def test_closed(self):
        """A client that is closed ends its calls, of which an unsafe one may have been carried out."""
        text = "the client was closed before the answer came"
        for is_safe, kind in ((True, ClosedError), (False, OutcomeUnknownError)):
            self.begin({})
            waiting = asyncio.ensure_future(self.bounds(9.0, is_safe=is_safe))
            await asyncio.sleep(1.0)
            await self.calls.close()
            error, _ = await self.raises(kind, waiting)
            self.assertEqual(str(error), text)
            self.assertRaises(ClosedError, self.calls._start_refreshing)

    @timed
    async def test_cancelled_while_closing(self):
        """Who is cancelled by its own caller is cancelled, also when the client is closed meanwhile."""
        self.begin({})
        waiting = asyncio.ensure_future(self.bounds(9.0))
        await asyncio.sleep(1.0)
        self.channels.is_closed = True
        waiting.cancel()
        await asyncio.wait({waiting})
        self.assertTrue(waiting.cancelled())
        await self.calls.close()

    @timed
    async def test_closed_elsewhere(self):
        """What is under way on one loop is not ended from another, also when no channel is open."""
        self.begin({})
        self.calls.place.check()
        sleeping = self.calls.spawn(asyncio.sleep(9.0))
        await asyncio.sleep(0)

        def close():
            with self.assertRaises(ClientUseError):
                asyncio.run(self.calls.close())

        thread = threading.Thread(target=close)
        thread.start()
        thread.join()
        self.assertFalse(sleeping.done() or self.channels.is_closed)
        await self.calls.close()
        self.assertTrue(sleeping.cancelled())
