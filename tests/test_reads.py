"""What readers of a node are told: every offset in an answer is within the bounds it was made under."""

from twisted.internet.defer import Deferred

from loghouse.errors import OffsetOutOfRangeError, UnavailableError
from loghouse.limits import KIB
from loghouse.node.node import Node
from loghouse.protocol.log_state import decode_log_state, encode_log_state
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
