"""How a cursor is kept: what its keeper asks for at which moment, on a loop with a clock of its own."""

import asyncio

from twisted.trial.unittest import SynchronousTestCase

from loghouse.client.consumer_settings import settings_of
from loghouse.client.cursors import Cursor
from loghouse.client.first_place import FirstPlace
from loghouse.client.keeping import RETRY_SECONDS, Keeper
from loghouse.client.records import Bounds
from loghouse.errors import (
    CursorFencedError,
    CursorHeldError,
    DeadlineError,
    OutcomeUnknownError,
    UnavailableError,
    UnknownCursorError,
)
from tests.fakes.clock_loop import timed

LEASE = 6.0


class PlayedLog:
    """Keeps one cursor at 10; does what `script` says of a call, once each, else answers after `delay`."""

    holder = "me"

    def __init__(self):
        self.script = []  # errors of the next calls; None: an answer
        self.delay = 0.0
        self.asked = []  # (moment, what, ...)
        self.position = 10
        self.is_known = True  # the cursor is there
        self.next_offset = 2  # of the log that is read; one record comes before each look at it

    def cursors(self):
        return self

    async def _answer(self, *what):
        loop = asyncio.get_running_loop()
        self.asked.append((round(loop.time(), 3), *what))
        error = self.script.pop(0) if self.script else None
        await asyncio.sleep(self.delay)
        if error is not None:
            raise error
        return Cursor("billing", self.position, 7, "me", "root", LEASE, LEASE)

    async def get(self, name, *, timeout_seconds=None):
        if not self.is_known:
            raise UnknownCursorError(name)
        return Cursor(name, self.position, 7, "me", "root", LEASE, 0.0)

    async def acquire(self, name, *, holder, lease_seconds, timeout_seconds=None):
        self.is_known = True
        return await self._answer("acquire")

    async def advance(self, name, epoch, position, *, timeout_seconds=None):
        return await self._answer("advance", position)

    async def bounds(self, *, timeout_seconds=None):
        self.next_offset += 1
        return Bounds(0, self.next_offset)

    async def renew(self, name, epoch, *, timeout_seconds=None):
        return await self._answer("renew")

    async def release(self, name, epoch, *, timeout_seconds=None):
        return await self._answer("release")

    async def append_encoded(self, payload, record_count, *, codec, cursor, timeout_seconds=None):
        await self._answer("append", payload, cursor.position)
        return 0


class KeepingCase(SynchronousTestCase):
    """A keeper and the log that it asks."""

    def begin(self):
        self.log = PlayedLog()
        settings = settings_of("billing", holder="me", commit_seconds=1.0, lease_seconds=LEASE)
        first = FirstPlace(self.log, "latest", None)
        self.keeper = Keeper(
            self.log, settings, lambda work: asyncio.get_running_loop().create_task(work), first
        )
        return self.keeper

    def begin_new(self):
        """Begin with a cursor that is not there yet, and is to begin at 3, then (asked again) at 4."""
        keeper = self.begin()
        self.log.position, self.log.is_known = 0, False
        return keeper

    def asked(self):
        """Return what was asked since the last time."""
        asked, self.log.asked = self.log.asked, []
        return asked


class KeepingTests(KeepingCase):
    """While it is held."""

    @timed
    async def test_renews(self):
        """The lease counts from when it was asked for: answers that take long do not make it longer."""
        keeper = self.begin()
        self.log.delay = 0.5
        await keeper.acquire()
        await asyncio.sleep(6.0)
        self.assertEqual(self.asked(), [(0.0, "acquire"), (2.0, "renew"), (4.0, "renew"), (6.0, "renew")])
        await keeper.abort()
        self.assertEqual(self.asked(), [])

    @timed
    async def test_first_place(self):
        """Where a new cursor begins is committed before it is said to be held, and asked for until it is."""
        keeper = self.begin_new()
        self.log.delay = 0.125
        self.log.script = [None, UnavailableError("no leader")]
        with self.assertLogs("loghouse.client", "WARNING"):
            await self.fails(UnavailableError, keeper.acquire())
        self.assertEqual((await keeper.acquire()).committed, 3)
        advances = [(moment, "advance", 3) for moment in (0.125, 0.25 + RETRY_SECONDS)]
        self.assertEqual(self.asked(), [(0.0, "acquire"), *advances])
        self.assertFalse(keeper.is_new)
        await keeper.close(1.0)

    @timed
    async def test_first_place_of_a_second_try(self):
        """One that was acquired without an answer begins where the first try found, not at 0."""
        keeper = self.begin_new()
        self.log.script = [DeadlineError("nobody answers")]
        await self.fails(DeadlineError, keeper.acquire())
        self.assertEqual((await keeper.acquire()).position, 3)
        await keeper.close(1.0)

    @timed
    async def test_first_place_of_another(self):
        """One that somebody else made meanwhile goes on where that one left it."""
        keeper = self.begin_new()
        self.log.script = [CursorHeldError(20, "billing", "other"), None]
        self.log.position = 0
        self.assertEqual((await keeper.acquire()).position, 0)
        self.assertEqual([what for _, what, *_ in self.asked()], ["acquire", "acquire"])
        await keeper.close(1.0)

    @timed
    async def test_asks_again(self):
        """What nobody answered, or may have been done, is asked for again as it was; then what came since."""
        keeper = self.begin()
        await keeper.acquire()
        self.log.script = [UnavailableError("no leader"), OutcomeUnknownError("it may be"), None]
        with self.assertLogs("loghouse.client", "WARNING") as written:
            await keeper.emit(b"a", 1, 11)
            await asyncio.sleep(0.1)
            await keeper.emit(b"b", 1, 12)
            await asyncio.sleep(3 * RETRY_SECONDS)
        appends = [(i * RETRY_SECONDS, "append", b"a", 11) for i in range(3)]
        self.assertEqual(self.asked(), [(0.0, "acquire"), *appends, (2 * RETRY_SECONDS, "append", b"b", 12)])
        self.assertEqual(len(written.output), 2)
        await keeper.close(1.0)

    @timed
    async def test_old_problem(self):
        """A commit fails when nobody answered it, and not for what came to nothing before."""
        keeper = self.begin()
        await keeper.acquire()
        self.log.script = [DeadlineError("nobody answers"), None]
        keeper.done(11)
        with self.assertLogs("loghouse.client", "WARNING"):
            error = await self.fails(DeadlineError, keeper.commit())
        self.assertIn("nobody answers", str(error))
        await keeper.commit()
        keeper.done(12)
        await keeper.commit()
        self.assertEqual(keeper.holding.committed, 12)
        await keeper.close(1.0)

    async def fails(self, kind, work):
        try:
            await work
        except kind as error:
            return error
        self.fail(f"{kind.__name__} was not raised")

    @timed
    async def test_fenced(self):
        """Who was replaced says so to whatever is tried next, and leaves the new holder's cursor alone."""
        keeper = self.begin()
        await keeper.acquire()
        self.log.script = [CursorFencedError(7, 8, "billing")]
        keeper.done(11)
        await asyncio.sleep(2.0)
        self.assertEqual(self.asked(), [(0.0, "acquire"), (1.0, "advance", 11)])
        self.assertFalse(keeper.is_active)
        error = await self.fails(CursorFencedError, keeper.commit())
        self.assertIsNot(error, keeper.failure)
        self.assertTrue(error.is_like(keeper.failure))
        await self.fails(CursorFencedError, keeper.emit(b"a", 1, 12))
        await self.fails(CursorFencedError, keeper.close(1.0))
        self.assertEqual(self.asked(), [])


class BeginningTests(KeepingCase):
    """Before it is held."""

    @timed
    async def test_stands_by(self):
        """While another one holds it, it is asked for each second, and when the lease may be over."""
        keeper = self.begin()
        self.log.script = [CursorHeldError(ms, "billing", "one") for ms in (60_000, 1_250, 250)] + [None]
        await keeper.acquire()
        moments = [(0.0, "acquire"), (1.0, "acquire"), (2.0, "acquire"), (2.25, "acquire")]
        self.assertEqual(self.asked(), moments)
        await keeper.close(1.0)


class EndTests(KeepingCase):
    """How it ends."""

    @timed
    async def test_commits_and_releases(self):
        """What is done is committed first, at once; then the cursor is let go."""
        keeper = self.begin()
        await keeper.acquire()
        await keeper.emit(b"a", 1, 11)
        keeper.done(12)
        await keeper.close(1.0)
        self.assertEqual(
            self.asked(),
            [(0.0, "acquire"), (0.0, "append", b"a", 11), (0.0, "advance", 12), (0.0, "release")],
        )

    @timed
    async def test_not_committed(self):
        """What could not be committed is an error that says why."""
        keeper = self.begin()
        await keeper.acquire()
        keeper.done(11)
        self.log.script = [UnavailableError("no leader")]
        with self.assertLogs("loghouse.client", "WARNING"):
            error = await self.fails(UnavailableError, keeper.close(1.0))
        self.assertIn("no leader", str(error))

    fails = KeepingTests.fails
