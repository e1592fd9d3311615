"""Quotas of subjects over the binary protocol: slowed down first, refused with a time when it must be."""

from twisted.internet import reactor
from twisted.internet.task import Clock

from loghouse import errors
from loghouse.limits import KIB, MIB
from loghouse.shares import SubjectQuota
from tests.net.test_binary_session import batch, refused
from tests.net.wire import WireCase, asynchronous, pause, until


class SteppedScheduler:
    """The reactor for what is due at once; whatever is due later waits until the test moves the time."""

    def __init__(self):
        self.clock = Clock()
        self.seconds = self.clock.seconds

    def callLater(self, seconds, work, *args):
        if seconds:
            return self.clock.callLater(seconds, work, *args)
        return reactor.callLater(0, work, *args)


class QuotaTests(WireCase):
    """One subject has quotas, another has none."""

    policy = "p, root, *, produce\np, root, *, consume\np, reader, default, consume\np, reader, *, produce\n"

    def setUp(self):
        super().setUp()
        self.scheduler = SteppedScheduler()
        self.clock = self.scheduler.clock
        self.shares.quotas.seconds = self.clock.seconds

    def give(self, **quota):
        self.shares.quotas.change({"reader": SubjectQuota(**quota)})

    async def some_turns(self):
        """Time for whatever could come, if it were not held back."""
        for _ in range(20):
            await pause(0.002)

    @asynchronous
    async def test_bytes_in(self):
        """Beyond a second's worth the connection is not read for as long as that takes; another one is."""
        self.give(bytes_in=MIB)
        self.open_port()
        slow, root = await self.connect("reader"), await self.connect()
        large = batch(*[b"x" * 750_000] * 2)
        first = await slow.produce(large, record_count=2)
        self.assertEqual(first.base_offset, 0)
        second = slow.produce(batch(b"y"), record_count=1)
        await self.some_turns()
        self.assertFalse(second.called)
        await root.produce(large, record_count=2)
        self.clock.advance(len(large) / MIB - 1.0 + 0.01)
        self.assertEqual((await second).base_offset, 4)

    @asynchronous
    async def test_far_beyond(self):
        """What would wait for longer than a hold is refused, with the time; after it, it is taken."""
        self.give(bytes_in=64 * KIB)
        self.open_port()
        slow = await self.connect("reader")
        large = batch(b"x" * 512 * KIB)
        await slow.produce(large, record_count=1)
        self.clock.advance(2.0)  # the longest hold
        asked = slow.produce(batch(b"y"), record_count=1)
        error = await refused(self, asked, errors.QuotaExceededError)
        self.assertEqual(error.resource, "bytes in")
        self.assertLess(abs(error.retry_seconds - (len(large) / (64 * KIB) - 3.0)), 0.1)
        self.clock.advance(error.retry_seconds)
        await slow.produce(batch(b"y"), record_count=1)

    @asynchronous
    async def test_bytes_out(self):
        """Answers come as fast as the quota allows, in pieces of a second; another reader's at once."""
        self.give(bytes_out=256 * KIB)
        for _ in range(16):
            self.node.cluster.add_values(b"x" * 100_000)
        self.open_port()
        slow, root = await self.connect("reader"), await self.connect()
        got, all_ = [], []
        following = slow.follow(0, got.append)
        of_root = root.follow(0, all_.append)
        size = 16 * 100_000
        await until(lambda: sum(len(one.frames) for one in all_) >= size)
        await self.some_turns()
        received = sum(len(one.frames) for one in got)
        self.assertLess(received, 3 * 256 * KIB)
        for _ in range(100):
            if sum(len(one.frames) for one in got) >= size:
                break
            self.clock.advance(0.2)
            await self.some_turns()
        self.assertGreater(self.clock.seconds(), size / (256 * KIB) - 3)
        for one in (following, of_root):
            one.addErrback(lambda failure: None)

    @asynchronous
    async def test_fetch_refused(self):
        """One fetch that would wait for too long is refused with the time."""
        self.give(bytes_out=64 * KIB)
        self.node.cluster.add_values(b"x" * MIB)
        self.open_port()
        slow = await self.connect("reader")
        await slow.fetch(0)
        error = await refused(self, slow.fetch(0), errors.QuotaExceededError)
        self.assertEqual(error.resource, "bytes out")
        self.clock.advance(error.retry_seconds)
        await slow.fetch(0)

    @asynchronous
    async def test_requests(self):
        """On one connection more requests than the quota wait unread; over several they are refused."""
        self.give(requests=2)
        self.open_port()
        one, other, root = await self.connect("reader"), await self.connect("reader"), await self.connect()
        self.node.hold()
        asked = [one.produce(batch(b"x"), record_count=1) for _ in range(4)]
        await until(lambda: self.node.held_count)
        await self.some_turns()
        use = self.shares.quotas.of("reader")
        self.assertEqual(use.requests, 2)
        error = await refused(self, other.produce(batch(b"x"), record_count=1), errors.QuotaExceededError)
        self.assertEqual((error.resource, error.retry_seconds), ("requests", 0.1))
        of_root = [root.produce(batch(b"x"), record_count=1) for _ in range(4)]
        await self.some_turns()
        self.node.release()
        await until(lambda: all(done.called for done in (*asked, *of_root)))
        await until(lambda: not use.requests)
        self.node.hold()
        left = one.produce(batch(b"x"), record_count=1)
        left.addErrback(lambda failure: None)
        await until(lambda: use.requests == 1)
        one.abort()
        await until(lambda: not use.requests)
        self.node.release()

    @asynchronous
    async def test_connections(self):
        """One more connection than the quota allows is closed with the reason; another subject's is not."""
        self.give(connections=1)
        self.open_port()
        await self.connect("reader")
        try:
            await self.connect("reader")
        except errors.LoghouseError as error:
            self.assertIn("'reader' holds 1 of its share of 1", str(error))
        else:
            self.fail("was let in")
        self.assertEqual(self.shares.quotas.tallies["reader"].refusals, {"connections": 1})
        await self.connect()
        await self.connect()
