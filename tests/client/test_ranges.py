"""Where reading begins and ends, and what is asked for that."""

from datetime import UTC, datetime

from twisted.trial.unittest import SynchronousTestCase

from loghouse.client import log
from loghouse.client.asynchronous import AsyncClient
from loghouse.client.channels import LogId
from loghouse.client.records import Bounds
from loghouse.errors import (
    DeadlineError,
    OffsetOutOfRangeError,
)
from tests.fakes.clock_loop import timed

BOUNDS = Bounds(3, 8)


class RangeTests(SynchronousTestCase):
    """`AsyncClient.find_range` and what reading makes of it."""

    def client(self, bounds=BOUNDS):
        client = AsyncClient("h1:1", timeout_seconds=7)
        self.asked = []

        async def ask(*, timeout_seconds=None):
            self.asked.append(("bounds", timeout_seconds))
            if isinstance(bounds, Exception):
                raise bounds
            return bounds

        async def find_offset(time, *, timeout_seconds=None):
            self.asked.append(("find", time, timeout_seconds))
            return 5

        client.bounds, client.find_offset = ask, find_offset
        return client

    @timed
    async def test_found(self):
        """Each start, with and without following, and for how long it is asked."""
        moment = datetime(2026, 1, 1, tzinfo=UTC)
        for start, follow, seconds, found, asked in (
            ("earliest", False, None, (3, 8), [("bounds", 7)]),
            ("earliest", True, 2, (3, None), [("bounds", 2)]),
            ("latest", False, None, (8, 8), [("bounds", 7)]),
            ("latest", True, None, (8, None), [("bounds", 7)]),
            (moment, False, 4, (5, 8), [("bounds", 4), ("find", moment, 4)]),
            (moment, True, None, (5, None), [("bounds", 7), ("find", moment, None)]),
            (0, False, 60, (0, 8), [("bounds", log.CONFIRM_SECONDS)]),
            (8, False, 0.5, (8, 8), [("bounds", 0.5)]),
            (9, True, None, (9, None), []),
        ):
            client = self.client()
            self.assertEqual(await client.find_range(start, follow=follow, timeout_seconds=seconds), found)
            self.assertEqual(self.asked, asked)

    @timed
    async def test_not_found(self):
        """Beyond the next offset is nothing; who knows an offset needs nobody to confirm the end."""
        with self.assertRaises(OffsetOutOfRangeError) as caught:
            await self.client().find_range(9)
        error = caught.exception
        self.assertEqual((error.offset, error.lowest, error.next_offset), (9, 3, 8))
        nobody = DeadlineError("no")
        self.assertEqual(await self.client(nobody).find_range(9), (9, None))
        for start in ("earliest", "latest", datetime(2026, 1, 1, tzinfo=UTC)):
            with self.assertRaises(DeadlineError):
                await self.client(nobody).find_range(start)

    @timed
    async def test_readers(self):
        """A reader has what was found, the log, and the time; where there is nothing to read none is made."""
        made = []

        class Reader:
            def __init__(self, calls, **options):
                made.append(options)

            async def answers(self):
                yield iter(["ab", "c"])
                yield iter(["d"])

        self.patch(log, "Reader", Reader)
        for start, follow, seconds, bounds, expected in (
            ("earliest", False, None, Bounds(3, 8), (3, 8, False, 7)),
            (4, False, 2, Bounds(3, 8), (4, 8, False, 2)),
            (4, True, 2, Bounds(3, 8), (4, None, False, 2)),
            (4, False, 2, DeadlineError("no"), (4, None, True, 2)),
            ("latest", False, 2, Bounds(3, 8), None),
            ("latest", True, 2, Bounds(3, 8), (8, None, False, 2)),
        ):
            for name, items in (
                ("read", ["a", "b", "c", "d"]),
                ("read_batches", ["ab", "c", "d"]),
                ("read_answers", [["ab", "c"], ["d"]]),
            ):
                made.clear()
                client = self.client(bounds)
                reading = getattr(client, name)(start, follow=follow, timeout_seconds=seconds)
                found = [list(item) if name == "read_answers" else item async for item in reading]
                self.assertEqual(found, items if expected else [])
                told = [
                    (one["offset"], one["end"], one["is_unconfirmed"], one["timeout_seconds"]) for one in made
                ]
                self.assertEqual(told, [expected] if expected else [])
        found = [item async for item in client.read_range(8, 8)]
        self.assertEqual(found, [])

    @timed
    async def test_servers(self):
        """Servers are asked for anew, each time, within the time given."""
        client = self.client()
        noted = []

        async def refresh(seconds):
            noted.append(("refresh", seconds))

        async def view(seconds):
            noted.append(("view", seconds))
            return "view"

        client.calls.refresh, client.calls.view = refresh, view
        self.assertEqual((await client.servers(), await client.servers(timeout_seconds=2)), ("view", "view"))
        self.assertEqual(noted, [("refresh", 7), ("view", 7), ("refresh", 2), ("view", 2)])

    @timed
    async def test_old_times(self):
        """A moment before the epoch is as good as the epoch."""
        client = AsyncClient("h1:1", timeout_seconds=7)
        asked = []

        class Channel:
            async def find_offset(self, *given):
                asked.append(given)
                return 3

        async def call(make, **options):
            return await make(Channel(), 0.5)

        client.calls.call = call
        await client.find_offset(datetime(1960, 1, 1, tzinfo=UTC))
        await client.find_offset(1)
        self.assertEqual(asked, [(0, LogId(), 0.5), (1, LogId(), 0.5)])
