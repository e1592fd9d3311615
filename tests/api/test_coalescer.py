"""Single records share entries, keep their order, and get their own offsets."""

import asyncio

from twisted.internet.defer import Deferred
from twisted.trial.unittest import TestCase

from loghouse.api.coalescer import ENTRIES_MAX, Coalescer
from loghouse.api.v1.log_pb2 import Record, RecordBatch
from loghouse.errors import UnavailableError
from loghouse.limits import MIB, PAYLOAD_SIZE_MAX
from tests.api.fake_node import FakeNode


def on_loop(method):
    """Run an async test method on the reactor's loop."""

    def run(self):
        return Deferred.fromFuture(asyncio.ensure_future(method(self), loop=asyncio.get_event_loop()))

    run.__doc__ = method.__doc__
    run.__name__ = method.__name__
    return run


class CoalescerTests(TestCase):
    """`Coalescer` over a node in memory."""

    timeout = 30

    def setUp(self):
        self.node = FakeNode()
        self.coalescer = Coalescer(self.node)

    def add(self, value, subject="root"):
        record = Record(value=value)
        return self.coalescer.add(subject, record, record.ByteSize())

    def values(self):
        return [[r.value for r in RecordBatch.FromString(p.payload).records] for p in self.node.proposals]

    @on_loop
    async def test_one_turn_one_entry(self):
        """Records of one turn of the loop become one entry, in their order."""
        answers = [self.add(b"%d" % number) for number in range(10)]
        self.assertEqual(self.node.proposals, [])
        self.assertEqual(await asyncio.gather(*answers), list(range(10)))
        self.assertEqual(self.values(), [[b"%d" % number for number in range(10)]])
        self.assertEqual(self.node.proposals[0].record_count, 10)

    @on_loop
    async def test_subjects_do_not_share(self):
        """Each subject's records are proposed in its name."""
        await asyncio.gather(self.add(b"1", "a"), self.add(b"2", "b"), self.add(b"3", "a"))
        self.assertEqual([p.subject for p in self.node.proposals], ["a", "b"])
        self.assertEqual(self.values(), [[b"1", b"3"], [b"2"]])

    @on_loop
    async def test_records_gather_behind_entries_under_way(self):
        """With enough entries under way, later records of any turn wait for one of them, then go together."""
        self.node.hold()
        answers = []
        for number in range(20):
            answers.append(self.add(b"%d" % number))
            await asyncio.sleep(0)
            await asyncio.sleep(0)
        self.assertEqual(self.node.held_count, ENTRIES_MAX)
        self.node.release()
        self.assertEqual(await asyncio.gather(*answers), list(range(20)))
        self.assertEqual(len(self.node.proposals), ENTRIES_MAX + 1)

    @on_loop
    async def test_a_full_payload_is_split(self):
        """No entry exceeds the payload limit, and nothing is lost at the seam."""
        large = b"x" * (MIB - 64)
        answers = [self.add(large) for _ in range(20)]
        self.assertEqual(await asyncio.gather(*answers), list(range(20)))
        sizes = [len(p.payload) for p in self.node.proposals]
        self.assertEqual([p.record_count for p in self.node.proposals], [8, 8, 4])
        self.assertLessEqual(max(sizes), PAYLOAD_SIZE_MAX)

    @on_loop
    async def test_a_record_taken_back_is_not_proposed(self):
        """Cancelling before the turn's end takes a record back; its neighbours keep their places."""
        answers = [self.add(b"%d" % number) for number in range(3)]
        answers[1].cancel()
        self.assertEqual(await asyncio.gather(answers[0], answers[2]), [0, 1])
        self.assertEqual(self.values(), [[b"0", b"2"]])
        self.add(b"gone").cancel()
        await asyncio.sleep(0)
        self.assertEqual(len(self.node.proposals), 1)

    @on_loop
    async def test_a_caller_who_left_is_no_obstacle(self):
        """Cancelling after the proposal drops that answer only."""
        self.node.hold()
        answers = [self.add(b"a"), self.add(b"b")]
        await asyncio.sleep(0)
        answers[0].cancel()
        self.node.release()
        self.assertEqual(await answers[1], 1)

    @on_loop
    async def test_failures(self):
        """Everybody of a failed entry gets its error, also when the node raises, and the next is proposed."""
        self.node.failure = UnavailableError("no leader")
        answers = [self.add(b"a"), self.add(b"b")]
        found = await asyncio.gather(*answers, return_exceptions=True)
        self.assertEqual(found, [self.node.failure] * 2)
        self.node.failure = None
        propose, self.node.propose = self.node.propose, None
        for _ in range(ENTRIES_MAX + 1):
            self.assertIsInstance(
                (await asyncio.gather(self.add(b"c"), return_exceptions=True))[0], TypeError
            )
        self.node.propose = propose
        self.assertEqual(await self.add(b"d"), 0)

    @on_loop
    async def test_flush_proposes_at_once(self):
        """A flush proposes what is gathered now, and the turn's end has nothing left to do."""
        self.node.hold()
        for number in range(ENTRIES_MAX + 3):
            self.add(b"%d" % number)
            self.coalescer.flush()
        self.assertEqual(self.node.held_count, ENTRIES_MAX + 3)
        await asyncio.sleep(0)
        self.assertEqual(self.node.held_count, ENTRIES_MAX + 3)
        self.node.release()
