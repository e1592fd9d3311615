"""Following a log as server-sent events: everything, or what people can read."""

import asyncio

from loghouse.api.rest import reading
from loghouse.limits import REST_EVENT_SIZE_MAX, REST_LIVE_RECORDS_MAX
from loghouse.protocol.entry import DEFAULT_GROUP
from tests.api.rest import RestCase
from tests.fakes.tasks import asynchronous, until


class FollowTests(RestCase):
    """A stream of everything."""

    def setUp(self):
        super().setUp()
        self.patch(reading, "REST_LIVE_SECONDS", 0)

    def values(self, event):
        return [record["value"] for record in event[2]["records"]]

    @asynchronous
    async def test_follow(self):
        """Records come from the place that was asked for, then as they are appended."""
        self.node.cluster.add_values(b"a", b"b")
        events = await self.follow(offset="earliest")
        first = await self.event(events)
        self.assertEqual((first[0], first[1], self.values(first)), ("2", "records", ["a", "b"]))
        self.node.cluster.add_values(b"c\n\ndata: x")
        second = await self.event(events)
        self.assertEqual((second[0], self.values(second)), ("3", ["c\n\ndata: x"]))
        self.assertEqual(second[2]["next_offset"], 3)

    @asynchronous
    async def test_starts_at_the_end(self):
        """Without a place it begins at the end, and behind the last event when it comes again."""
        self.node.cluster.add_values(b"a", b"b")
        events = await self.follow()
        again = await self.follow(told={"last-event-id": "1"})
        self.node.cluster.add_values(b"c")
        self.assertEqual(self.values(await self.event(events)), ["c"])
        self.assertEqual(self.values(await self.event(again)), ["b", "c"])

    @asynchronous
    async def test_pulled(self):
        """Nothing is read before the client took what was read before."""
        self.node.cluster.add_values(b"a")
        events = await self.follow(offset=0)
        await self.event(events)
        for _ in range(5):
            self.node.cluster.add_values(b"b")
        self.assertEqual(self.node.fetches, 1)
        self.assertEqual(len(self.values(await self.event(events))), 5)

    @asynchronous
    async def test_events_are_bounded(self):
        """One event holds so many bytes of records, and one record beyond it."""
        size = REST_EVENT_SIZE_MAX // 4
        self.node.cluster.add_values(*([b"x" * size] * 10))
        events = await self.follow(offset=0)
        counts = [len(self.values(await self.event(events))) for _ in range(3)]
        self.assertEqual(counts, [4, 4, 2])

    @asynchronous
    async def test_beats(self):
        """A quiet log shows now and then that the stream lives."""
        self.patch(reading, "REST_BEAT_SECONDS", 0)
        events = await self.follow()
        self.assertEqual([await anext(events), await anext(events)], [b"retry: 1000\n\n", b": alive\n\n"])

    @asynchronous
    async def test_end(self):
        """A log that is deleted ends the stream with a problem, and gives back what it held."""
        events = await self.follow()
        await anext(events)
        self.assertEqual(self.shares.followers.held, 1)
        running = self.event(events)
        self.node.logs[DEFAULT_GROUP].delete()
        told = await running
        self.assertEqual((told[1], told[2]["reason"], told[2]["status"]), ("problem", "UNKNOWN_LOG", 404))
        with self.assertRaises(StopAsyncIteration):
            await anext(events)
        self.assertEqual((self.shares.followers.held, self.shares.answers.held), (0, 0))

    @asynchronous
    async def test_permission_taken(self):
        """A policy that no longer allows it ends the stream at the next record."""
        events = await self.follow(subject="reader")
        await anext(events)
        self.policy_path.write_text("p, root, *, consume\np, reader, other, consume\n")
        self.authorizer.take(self.authorizer.read())
        self.node.cluster.add_values(b"a")
        told = await self.event(events)
        self.assertEqual((told[1], told[2]["reason"]), ("problem", "PERMISSION_DENIED"))

    @asynchronous
    async def test_closed(self):
        """What a stream held is given back when its client goes, whether it took a piece or not."""
        for count in (0, 1, 2):
            self.node.cluster.add_values(b"a")
            response = await self.rest.answer(self.request("GET", "/logs/default/follow", offset=0))
            pieces = response.pieces.__aiter__()
            for _ in range(count):
                await anext(pieces)
            self.assertEqual((self.shares.calls.held, self.shares.followers.held), (1, int(count > 0)))
            await response.pieces.aclose()
            self.assertEqual((self.shares.calls.held, self.shares.followers.held), (0, 0))
            self.assertEqual((self.shares.answers.held, self.node.waiters), (0, {}))


class LiveTests(FollowTests):
    """A stream for people, which does the same for a reader who keeps up."""

    async def follow(self, *arguments, **query):
        return await super().follow(*arguments, live="true", **query)

    @asynchronous
    async def test_events_are_bounded(self):
        """Who falls behind skips to the end, and is told how many records."""
        self.node.cluster.add_values(b"a")
        events = await self.follow(offset=0)
        self.assertEqual(self.values(await self.event(events)), ["a"])
        count = 3 * REST_LIVE_RECORDS_MAX
        self.node.cluster.add_values(*(b"%d" % number for number in range(count)))
        skipped = count - REST_LIVE_RECORDS_MAX
        told = await self.event(events)
        self.assertEqual(told[1:], ("skipped", {"from": 1, "to": 1 + skipped, "count": skipped}))
        shown = self.values(await self.event(events))
        self.assertEqual((len(shown), shown[-1]), (REST_LIVE_RECORDS_MAX, str(count - 1)))
        self.assertTrue(await self.is_waiting(events))

    async def is_waiting(self, events):
        task = asyncio.ensure_future(anext(events))
        await until(lambda: self.node.waiters)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        return True
