"""Room for requests: places in their order, each given back once, whoever leaves meanwhile."""

import asyncio

from twisted.trial.unittest import SynchronousTestCase

from loghouse.client.room import RequestRoom
from tests.fakes.clock_loop import timed


async def turns():
    """Let everything run that can."""
    for _ in range(5):
        await asyncio.sleep(0)


class RequestRoomTests(SynchronousTestCase):
    """`RequestRoom`, on a loop whose time is the test's."""

    def full(self, count=2):
        room = RequestRoom(asyncio.get_running_loop(), count)
        for _ in range(count):
            self.assertTrue(room.take())
        self.assertFalse(room.take())
        return room

    async def waiting(self, room, count, seconds=9.0):
        tasks = [asyncio.ensure_future(room.wait(seconds)) for _ in range(count)]
        await turns()
        return tasks

    @timed
    async def test_at_once(self):
        """Who finds a place does not wait; what is given back is there again."""
        room = RequestRoom(asyncio.get_running_loop(), 1)
        await room.wait(0.0)
        self.assertEqual(room.free, 0)
        room.give_back()
        self.assertEqual(room.free, 1)

    @timed
    async def test_in_order(self):
        """Each place goes to who waits the longest, and nobody who comes later takes it away."""
        room = self.full()
        tasks = await self.waiting(room, 3)
        room.give_back()
        self.assertFalse(room.take())
        room.give_back()
        await turns()
        self.assertEqual([task.done() for task in tasks], [True, True, False])
        for _ in range(3):
            room.give_back()
        await turns()
        self.assertEqual((tasks[2].done(), room.free), (True, 2))

    @timed
    async def test_too_long(self):
        """Who waited for too long is told at that time, and is passed over from then on."""
        loop = asyncio.get_running_loop()
        room, began = self.full(1), loop.time()
        late, patient = await self.waiting(room, 1, 1.5) + await self.waiting(room, 1, 9.0)
        with self.assertRaises(TimeoutError):
            await late
        self.assertEqual((loop.time() - began, len(room._waiting)), (1.5, 1))
        room.give_back()
        await patient
        room.give_back()
        self.assertEqual(room.free, 1)

    @timed
    async def test_cancelled(self):
        """Who is cancelled leaves the line; a place that came in the same turn goes to the next one."""
        room = self.full(1)
        first, second, third = await self.waiting(room, 3)
        second.cancel()
        await turns()
        self.assertEqual(len(room._waiting), 2)
        room.give_back()
        first.cancel()
        await turns()
        self.assertEqual((first.cancelled(), second.cancelled(), third.done()), (True, True, True))
        room.give_back()
        self.assertEqual(room.free, 1)

    @timed
    async def test_late_and_cancelled_at_once(self):
        """Who gave up and has not run since gets no place, which would be nobody's."""
        room = self.full(1)
        (gone,) = await self.waiting(room, 1)
        gone.cancel()
        room.give_back()
        await turns()
        self.assertEqual((gone.cancelled(), room.free), (True, 1))

    @timed
    async def test_no_timers_are_left(self):
        """However a wait ends, its timer goes with it."""
        loop = asyncio.get_running_loop()
        room = self.full(1)
        tasks = await self.waiting(room, 3)
        tasks[0].cancel()
        room.give_back()
        room.give_back()
        await turns()
        self.assertEqual([timer for timer in loop._scheduled if not timer.cancelled()], [])
