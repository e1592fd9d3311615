"""What readers of a node are told: every offset in an answer is within the bounds it was made under."""

from twisted.internet.defer import CancelledError, Deferred

from loghouse.errors import OffsetOutOfRangeError, UnavailableError
from loghouse.limits import KIB
from loghouse.node.node import Node
from loghouse.protocol.log_state import decode_log_state, encode_log_state
from loghouse.protocol.record_filter import RecordFilter
from loghouse.protocol.record_range import Consistency, RecordRange
from loghouse.storage import range_scan
from tests.test_node import NodeTestCase


class ReadsTests(NodeTestCase):
    """Answers that name offsets, beside trims and appends."""

    def find(self, node: Node, seconds: float = 0.0) -> Deferred:
        found = node.log("").find_offset(int(seconds * 1_000_000))
        self.settle()
        self.readers.drain()
        return found

    def trim(self, node: Node, offset: int) -> None:
        done = node.log("").trim(offset)
        self.settle()
        self.successResultOf(done)

    def test_find_offset_after_a_trim(self):
        """A time before a trim finds the lowest record that is left, in the middle of an entry, too."""
        node = self.start()
        for count in (1, 1, 4, 1):
            self.append(node, count)
            self.wall += 1
        for lowest, seconds in ((1, 1_000_001.0), (4, 1_000_002.0), (6, 1_000_003.0)):
            self.trim(node, lowest)
            self.assertEqual(
                self.successResultOf(self.find(node)), (lowest, int(seconds * 1_000_000)), f"trim to {lowest}"
            )
            self.assertEqual(self.successResultOf(self.find(node, 1_000_003.0)), (6, 1_000_003_000_000))
        self.trim(node, 7)
        self.assertEqual(self.successResultOf(self.find(node)), (7, 0), "no record is left")

    def test_find_offset_is_within_the_bounds_it_began_under(self):
        """An append and a trim while a time is looked up do not move the answer out of the bounds."""
        node = self.start()
        self.append(node, 3)
        future = node.log("").find_offset(int((self.wall + 1) * 1_000_000))
        self.settle()
        self.wall += 2
        self.append(node)
        self.readers.drain()
        self.assertEqual(self.successResultOf(future), (3, 0))

    def test_trimmed_while_it_is_read(self):
        """A read that meets a trim tells the bounds of what is readable, not of the bytes that are left."""
        node = self.start()
        while len(node.log("").replica.log.sealed_segments()) < 2:
            self.append(node, 1, 30_000)
        next_offset = self.bounds(node).next_offset
        reading = node.log("").fetch(0, KIB)
        self.trim(node, next_offset)
        self.propose(node)  # not committed: on its way to the disk
        self.clock.advance(0)
        self.readers.drain()
        error = self.failureResultOf(reading, OffsetOutOfRangeError).value
        self.assertEqual((error.offset, error.lowest, error.next_offset), (0, next_offset, next_offset))
        self.settle()


class RangeTests(NodeTestCase):
    """Ranges: at once, on a thread, or after the leader's word."""

    def trim(self, node: Node, offset: int) -> None:
        done = node.log("").trim(offset)
        self.settle()
        self.successResultOf(done)

    def read(self, node: Node, **fields) -> Deferred:
        done = node.log("").read_range(RecordRange(**fields))
        self.settle()
        while self.readers.waiting:
            self.readers.drain()
        return done

    def page(self, node: Node, **fields):
        return self.successResultOf(self.read(node, **fields))

    def test_bounds_are_said(self):
        """An answer says where to go on, the bounds that are known here, and whether they are confirmed."""
        node = self.start()
        for count in (1, 4, 1):
            self.append(node, count)
        for fields, next_offset, is_confirmed in (
            ({}, 6, False),
            ({"first": 1, "count_max": 2}, 3, False),
            ({"first": 6}, 6, True),
            ({"is_reverse": True, "count_max": 2}, 4, True),
            ({"end": 3, "is_reverse": True}, 0, False),
            ({"first": 6, "consistency": Consistency.LOCAL}, 6, False),
            ({"is_reverse": True, "consistency": Consistency.LOCAL}, 0, False),
        ):
            page = self.page(node, **fields)
            self.assertEqual((page.next_offset, page.is_confirmed), (next_offset, is_confirmed), fields)
            self.assertEqual((page.lowest, page.committed), (0, 6))
        self.trim(node, 3)
        self.assertEqual(self.page(node, first=4).lowest, 3)
        error = self.failureResultOf(self.read(node, first=2), OffsetOutOfRangeError).value
        self.assertEqual((error.offset, error.lowest, error.next_offset), (2, 3, 6))

    def test_local_needs_no_leader(self):
        """A local read is answered where a confirmed one waits for a leader that may never come."""
        node = self.start()
        self.append(node)
        log = node.log("")
        asked: list = []
        log.reads._read_barrier = lambda driver: asked.append(driver) or Deferred()
        self.assertEqual(self.page(node, first=1, consistency=Consistency.LOCAL).next_offset, 1)
        self.assertEqual(self.page(node, is_reverse=True, consistency=Consistency.LOCAL).next_offset, 0)
        self.assertEqual(asked, [])
        self.assertNoResult(self.read(node, is_reverse=True))
        self.assertEqual(len(asked), 1)
        self.assertEqual(self.page(node, first=0).next_offset, 1, "what is here needs no leader")

    def test_filtered_reads_leave_the_reactor(self):
        """Batches are looked through on a thread, a step at a time, also those of the active segment."""
        self.patch(range_scan, "READ_SCAN_STEP_SIZE", 100)
        node = self.start()
        for _ in range(4):
            self.append(node, 1, 60)
        done = node.log("").read_range(RecordRange(filter=RecordFilter(keys=(b"k",))))
        self.settle()
        steps = 0
        while self.readers.waiting:
            self.assertNoResult(done)
            self.assertEqual(len(self.readers.waiting), 1)
            self.readers.step()
            steps += 1
        self.assertGreater(steps, 2)
        page = self.successResultOf(done)
        self.assertEqual((bytes(page.frames), page.next_offset), (b"", 4))

    def test_cancelled(self):
        """A reader that is gone has no more steps taken for it."""
        self.patch(range_scan, "READ_SCAN_STEP_SIZE", 100)
        node = self.start()
        for _ in range(4):
            self.append(node, 1, 60)
        done = node.log("").read_range(RecordRange(filter=RecordFilter(keys=(b"k",))))
        self.settle()
        done.cancel()
        self.failureResultOf(done, CancelledError)
        self.readers.drain()
        self.assertFalse(self.readers.waiting)

    def test_trimmed_while_it_is_read(self):
        """A read backwards that meets a trim tells the bounds of what is readable."""
        node = self.start()
        while len(node.log("").replica.log.sealed_segments()) < 2:
            self.append(node, 1, 30_000)
        next_offset = self.bounds(node).next_offset
        reading = node.log("").read_range(RecordRange(end=1, is_reverse=True))
        self.trim(node, next_offset)
        self.propose(node)
        self.clock.advance(0)
        self.readers.drain()
        error = self.failureResultOf(reading, OffsetOutOfRangeError).value
        self.assertEqual((error.offset, error.lowest, error.next_offset), (0, next_offset, next_offset))
        self.settle()

    def test_without_a_copy(self):
        """A node that has no copy and knows none says so."""
        node = self.start()
        self.failureResultOf(node.serve("orders", 16).read_range(RecordRange()), UnavailableError)


class StateTests(NodeTestCase):
    """The replicated state before an offset, which a backup begins with."""

    def state(self, node: Node, offset: int):
        done = node.log("").read_state(offset)
        self.settle()
        self.readers.drain()
        return done

    def check(self, node: Node, offset: int, next_offset: int):
        """Return the state before an offset; the entry behind it holds that."""
        fetched = self.successResultOf(self.state(node, offset))
        state = decode_log_state(fetched.frames)
        self.assertEqual((state.next_offset, fetched.next_offset), (next_offset, next_offset))
        log = node.log("").replica.log
        self.assertEqual(encode_log_state(log.state_at(state.index)), fetched.frames)
        return state

    def test_before_an_entry(self):
        """It is that of just before the entry, whatever lies between that and the one before."""
        node = self.start()
        registered = node.log("").register_producer("root")
        self.settle()
        id_ = self.successResultOf(registered)
        for count in (1, 4, 1):
            self.append(node, count)
        for offset, base in ((0, 0), (1, 1), (3, 1), (5, 5), (6, 6)):
            self.assertIn(id_, self.check(node, offset, base).producers)
        done = node.log("").trim(3)
        self.settle()
        self.successResultOf(done)
        self.assertEqual(self.check(node, 6, 6).lowest_offset, 3)
        self.assertEqual(self.check(node, 3, 1).lowest_offset, 0)
        for offset in (2, 7):
            error = self.failureResultOf(self.state(node, offset), OffsetOutOfRangeError).value
            self.assertEqual((error.lowest, error.next_offset), (3, 6))

    def test_without_a_copy(self):
        """A node that has no copy of the log cannot tell, and says so."""
        node = self.start()
        served = node.serve("orders", 16)
        self.failureResultOf(served.read_state(0), UnavailableError)
