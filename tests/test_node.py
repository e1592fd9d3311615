"""The driver: what shares a sync, what is refused, who wakes, and how it stops."""

import os
import random
from collections.abc import Callable
from dataclasses import replace

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import Clock
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from loghouse.errors import (
    DiskFailedError,
    DiskFullError,
    ExpectOffsetError,
    OffsetOutOfRangeError,
    OutcomeUnknownError,
    ResourceExhaustedError,
    UnavailableError,
    UnknownLogError,
    UnknownProducerError,
)
from loghouse.limits import KIB, MIB, REGISTRATIONS_AT_ONCE_MAX
from loghouse.node import node as node_module
from loghouse.node.api import proposing
from loghouse.node.node import Node
from loghouse.node.options import NodeOptions
from loghouse.protocol.configuration import Retention
from loghouse.protocol.entry import EntryKind, decode_entries
from loghouse.raft.config import LAN
from loghouse.replica import driver
from loghouse.replica.api import LogBounds, Proposal
from loghouse.replica.trimming import RETENTION_SECONDS
from loghouse.runtime.scheduling import Clocks
from loghouse.storage.files import OsFiles
from tests.driver.queue import ManualQueue

DAY = 86_400.0


class NodeTestCase(SynchronousTestCase):
    """Runs a node over real files, with a clock and a disk thread that the test moves."""

    def setUp(self):
        self.clock = Clock()
        self.wall = 1_000_000.0
        self.monotonic = 50.0
        self.path = os.path.abspath(self.mktemp())
        self.queues: dict[str, ManualQueue] = {}
        self.fatal: list[Failure] = []

    def make_queue(self, name: str, thread_count: int) -> ManualQueue:
        self.queues[name] = ManualQueue()
        return self.queues[name]

    def soon(self, work: Callable[[], None]) -> None:
        self.clock.callLater(0, work)

    def make(self, **options) -> Node:
        settings = {
            "name": "node-1",
            "cluster_name": "test",
            "data_dir": self.path,
            "segment_size": 64 * KIB,
            "reserve_size": 0,
        }
        return Node(
            NodeOptions(**{**settings, **options}),
            files=OsFiles(),
            clocks=Clocks(
                self.clock, self.soon, self.clock.callLater, lambda: self.wall, lambda: self.monotonic
            ),
            rng=random.Random(7),
            make_queue=self.make_queue,
            on_fatal=self.fatal.append,
        )

    def start(self, **options) -> Node:
        node = self.make(**options)
        node.startService()
        self.addCleanup(self.stop, node)
        self.settle()
        return node

    def settle(self) -> None:
        """Let the reactor and the disk do all they have to."""
        self.clock.advance(0)
        while self.disk.waiting:
            self.disk.step()
            self.clock.advance(0)

    def stop(self, node: Node) -> None:
        if node.running:
            self.finish(node.stopService())

    def finish(self, stopping: Deferred) -> None:
        self.settle()
        self.successResultOf(stopping)

    @property
    def disk(self) -> ManualQueue:
        return self.queues["loghouse-disk"]

    @property
    def readers(self) -> ManualQueue:
        return self.queues["loghouse-reader"]

    def propose(self, node: Node, count: int = 1, size: int = 10, **fields) -> Deferred:
        return proposing(node.log("").propose, Proposal(payload=bytes(size), record_count=count, **fields))

    def append(self, node: Node, count: int = 1, size: int = 10) -> int:
        done = self.propose(node, count, size)
        self.settle()
        return self.successResultOf(done).base_offset

    def fetch(self, node: Node, offset: int, size_max: int = MIB):
        done = node.log("").fetch(offset, size_max)
        self.settle()
        self.readers.drain()
        return done

    def bounds(self, node: Node):
        done = node.log("").bounds()
        self.settle()
        return self.successResultOf(done)

    def kinds(self, node: Node) -> list[int]:
        log = node.log("").replica.log
        return [entry.kind for entry in log.entries(log.first_index, log.last_index + 1, MIB)]


class AppendTests(NodeTestCase):
    """Proposals become entries in groups; each is answered once its group is durable."""

    def test_first_start_and_restart(self):
        """The first start writes a configuration and a no-op; each later one a no-op in a higher term."""
        node = self.start()
        self.assertEqual(self.kinds(node), [EntryKind.CONFIGURATION, EntryKind.NOOP])
        self.stop(node)
        again = self.start()
        self.assertEqual(self.kinds(again), [EntryKind.CONFIGURATION, EntryKind.NOOP, EntryKind.NOOP])
        self.assertEqual(
            (again.log("").replica.log.last_term, again.log("").replica.log.hard_state.vote), (3, 1)
        )

    def test_one_turn_shares_one_write(self):
        """What one turn of the reactor brings goes to the disk as one piece of work."""
        node = self.start()
        done = [self.propose(node, count) for count in (1, 3, 2)]
        self.assertEqual(len(self.disk.waiting), 0, "not before the turn ends")
        self.clock.advance(0)
        self.assertEqual(len(self.disk.waiting), 1)
        self.assertNoResult(done[0])
        self.disk.step()
        self.assertEqual([self.successResultOf(d).base_offset for d in done], [0, 1, 4])

    def test_arrivals_during_a_sync_share_the_next(self):
        """One group is on its way at a time; what arrives meanwhile is the next one, also over many turns."""
        node = self.start()
        first = self.propose(node)
        self.clock.advance(0)
        later = []
        for _ in range(5):
            later.append(self.propose(node))
            self.clock.advance(0)
        self.assertEqual(len(self.disk.waiting), 1)
        self.disk.step()
        self.successResultOf(first)
        self.assertNoResult(later[0])
        self.assertEqual(len(self.disk.waiting), 1)
        self.disk.step()
        self.assertEqual([self.successResultOf(d).base_offset for d in later], [1, 2, 3, 4, 5])

    def test_group_is_bounded(self):
        """A group of writes ends at the byte bound of one sync; the rest is the next group."""
        self.patch(driver, "SYNC_GROUP_SIZE_MAX", 1)
        node = self.start()
        first = self.propose(node)
        self.clock.advance(0)
        later = [self.propose(node), self.propose(node)]
        self.clock.advance(0)
        self.disk.step()
        self.clock.advance(0)
        self.successResultOf(first)
        self.assertNoResult(later[0])
        self.settle()
        self.assertTrue(all(d.called for d in later))

    def test_appended_says_where(self):
        """The answer carries offset, count, time, index and term."""
        node = self.start()
        done = self.propose(node, 3)
        self.clock.advance(0)
        self.disk.step()
        appended = self.successResultOf(done)
        self.assertEqual((appended.base_offset, appended.record_count), (0, 3))
        self.assertEqual((appended.index, appended.term), (3, 2))
        self.assertEqual(appended.timestamp, int(self.wall * 1_000_000))

    def test_bound_of_waiting_bytes(self):
        """Past the bound a proposal is refused at once and costs the others nothing; room comes back."""
        node = self.start(raft=replace(LAN, proposals_size_max=1000))
        taken = self.propose(node, 1, 900)
        refused = self.failureResultOf(self.propose(node, 1, 101), ResourceExhaustedError)
        self.assertIn("its share of 750", refused.getErrorMessage())
        self.settle()
        self.successResultOf(taken)
        self.assertEqual(self.append(node, 1, 1000), 1)

    def test_registrations(self):
        """A subject registers so many producers at once, then one now and then; another one still does."""
        node = self.start()
        for _ in range(REGISTRATIONS_AT_ONCE_MAX):
            node.log("").register_producer("busy").addErrback(lambda failure: None)
        self.settle()
        self.failureResultOf(node.log("").register_producer("busy"), ResourceExhaustedError)
        done = node.log("").register_producer("other")
        self.settle()
        self.assertGreater(self.successResultOf(done), 0)

    def test_bound_of_waiting_proposals(self):
        """Small proposals are bounded by number."""
        node = self.start(raft=replace(LAN, proposals_max=3))
        taken = [self.propose(node) for _ in range(3)]
        self.failureResultOf(self.propose(node), ResourceExhaustedError)
        self.settle()
        self.assertEqual([self.successResultOf(d).base_offset for d in taken], [0, 1, 2])

    def test_cancelled_proposal(self):
        """Who cancels gets no answer; the record is appended all the same, and the next one follows it."""
        node = self.start()
        under_way = self.propose(node)
        under_way.cancel()
        self.failureResultOf(under_way, CancelledError)
        self.assertEqual(self.append(node), 1)

    def test_refused_ones_leave_their_group(self):
        """A wrong expectation or an unknown producer fails alone; its neighbours are appended."""
        node = self.start()
        first = self.propose(node)
        wrong = self.propose(node, expect_offset=7)
        unknown = self.propose(node, producer_id=99, subject="root")
        right = self.propose(node, expect_offset=1)
        self.settle()
        self.failureResultOf(wrong, ExpectOffsetError)
        self.failureResultOf(unknown, UnknownProducerError)
        self.assertEqual([self.successResultOf(d).base_offset for d in (first, right)], [0, 1])

    def test_only_refused_ones(self):
        """A turn in which everything is refused writes nothing and the node goes on."""
        node = self.start()
        wrong = self.propose(node, expect_offset=7)
        self.clock.advance(0)
        self.failureResultOf(wrong, ExpectOffsetError)
        self.assertEqual(self.append(node), 0)


class FaultTests(NodeTestCase):
    """Full and failing disks."""

    def fill_disk(self, node: Node) -> Callable[[], None]:
        """Leave no room for another segment; returns what frees some."""

        def refuse(store_sizes):
            if store_sizes:
                raise DiskFullError("/data")

        rooms = node.log("").replica.log._rooms
        real = rooms.ensure_spares
        rooms.ensure_spares = refuse

        def free() -> None:
            rooms.ensure_spares = real

        return free

    def test_disk_full_and_back(self):
        """A full disk shows half a segment ahead: appends are refused, reads go on; with room they resume."""
        node = self.start()
        free = self.fill_disk(node)
        taken = 0
        while node.log("").is_writable:
            self.append(node, 1, 5000)
            taken += 1
        self.assertLess(taken * 5000, 64 * KIB, "half a segment is left")
        self.failureResultOf(self.propose(node), DiskFullError)
        self.assertTrue(node.log("").has_leader)
        self.successResultOf(self.fetch(node, taken - 1))
        self.clock.advance(node_module.HOUSEKEEPING_SECONDS)
        self.settle()
        self.assertFalse(node.log("").is_writable)
        free()
        self.clock.advance(node_module.HOUSEKEEPING_SECONDS)
        self.settle()
        self.assertTrue(node.log("").is_writable)
        self.assertEqual(self.append(node), taken)

    def test_disk_full_in_the_middle(self):
        """What was taken and found no room is refused, not left in doubt; with room, appends go on behind."""
        node = self.start()
        free = self.fill_disk(node)
        # Smaller than half a segment, so that nothing is prepared before the last one needs the next segment.
        done = [self.propose(node, 1, 30_000) for _ in range(4)]
        self.settle()
        self.assertFalse(node.log("").is_writable)
        refused = [not_appended for not_appended in done if self.is_refused(not_appended)]
        self.assertIn(done[-1], refused)
        self.failureResultOf(self.propose(node), DiskFullError)
        self.assertTrue(node.log("").has_leader)
        self.assertEqual(self.bounds(node).next_offset, len(done) - len(refused))
        free()
        self.clock.advance(node_module.HOUSEKEEPING_SECONDS)
        self.settle()
        self.assertTrue(node.log("").is_writable)
        self.assertEqual(self.append(node), len(done) - len(refused))

    def is_refused(self, done) -> bool:
        done.addErrback(lambda failure: failure.trap(DiskFullError) and None)
        return self.successResultOf(done) is None

    def test_stop_while_the_disk_is_full(self):
        """What found no room does not hold up a stop."""
        node = self.start()
        self.fill_disk(node)
        done = [self.propose(node, 1, 30_000) for _ in range(4)]
        self.settle()
        self.assertFalse(node.log("").is_writable)
        stopping = node.stopService()
        self.settle()
        self.successResultOf(stopping)
        self.assertIn(True, [self.is_refused(waiting) for waiting in done])

    def test_reads_go_on_while_the_disk_is_full(self):
        """Bounds and misses are answered while not even an entry of a new term fits; after a restart, too."""
        node = self.start()
        self.fill_disk(node)
        self.assertEqual(self.append(node), 0)
        done = [self.propose(node, 1, 30_000) for _ in range(4)]
        self.settle()
        self.assertFalse(node.log("").is_writable)
        self.assertEqual([self.is_refused(refused) for refused in done], [True] * 4)
        self.assertTrue(node.log("").has_leader)
        self.check_reads(node)

        def refuse(*_):
            raise DiskFullError("/data")

        self.patch(type(node.log("").replica.log), "append", refuse)
        node._directory.close()  # as after kill -9: nothing is told to the log, and the lock goes
        node.log("").driver.stop()
        node.running = 0
        again = self.start()
        for _ in range(30):
            self.clock.advance(0.1)
            self.settle()
        self.assertFalse(again.log("").has_leader)
        self.check_reads(again)
        stopping = again.stopService()
        self.clock.advance(again.options.drain_seconds)  # the entry of its term gets no room in that time
        self.finish(stopping)

    def check_reads(self, node):
        self.assertEqual(self.bounds(node), LogBounds(lowest=0, next_offset=1))
        self.failureResultOf(self.fetch(node, 1), OffsetOutOfRangeError)
        self.successResultOf(self.fetch(node, 0))

    def test_disk_failed(self):
        """A failed write ends the node once: the outcome is unknown, and nothing is taken any more."""
        node = self.start()

        def fail(*_):
            raise DiskFailedError("dead")

        node.log("").replica.log.append = fail
        done, waiting = self.propose(node), self.propose(node)
        self.settle()
        self.failureResultOf(done, OutcomeUnknownError)
        self.failureResultOf(waiting, OutcomeUnknownError)
        self.assertEqual(len(self.fatal), 1)
        self.assertFalse(node.log("").is_writable or node.log("").has_leader)
        self.failureResultOf(self.propose(node), UnavailableError)


class ReadTests(NodeTestCase):
    """Fetching, waiting at the tail, and looking up times."""

    def test_fetch(self):
        """A fetch returns the whole frames from the one that holds the offset on, and where to go on."""
        node = self.start()
        for count in (2, 3, 1):
            self.append(node, count)
        fetched = self.successResultOf(self.fetch(node, 3))
        entries = list(decode_entries(node.log("").seed, fetched.frames))
        self.assertEqual([(e.base_offset, e.record_count) for e in entries], [(2, 3), (5, 1)])
        self.assertEqual(fetched.next_offset, 6)

    def test_cold_reads_leave_the_reactor(self):
        """Sealed segments are read on a reader thread, the active one at once."""
        node = self.start()
        for _ in range(4):
            self.append(node, 1, 30_000)
        cold = node.log("").fetch(0, KIB)
        self.assertNoResult(cold)
        self.readers.drain()
        self.assertEqual(self.successResultOf(cold).next_offset, 1)
        self.successResultOf(node.log("").fetch(3, KIB))

    def test_out_of_range(self):
        """Offsets without a record carry the bounds."""
        node = self.start()
        self.append(node, 2)
        for offset in (2, 2**63):
            error = self.failureResultOf(self.fetch(node, offset), OffsetOutOfRangeError).value
            self.assertEqual((error.lowest, error.next_offset), (0, 2))

    def test_nothing_is_readable_before_it_is_durable(self):
        """A record on its way to the disk is out of range until the sync is done."""
        node = self.start()
        self.propose(node)
        self.clock.advance(0)
        early = node.log("").fetch(0, KIB)
        self.clock.advance(0)
        self.failureResultOf(early, OffsetOutOfRangeError)
        self.settle()
        self.successResultOf(node.log("").fetch(0, KIB))

    def test_wait_for(self):
        """Who waits for an offset wakes when it is readable; who waits for more goes on waiting."""
        node = self.start()
        near, far = node.log("").wait_for(0), node.log("").wait_for(2)
        self.append(node, 2)
        self.successResultOf(near)
        self.assertNoResult(far)
        self.append(node)
        self.successResultOf(far)
        self.successResultOf(node.log("").wait_for(1))

    def test_cancelled_waiters_are_forgotten(self):
        """A cancelled waiter leaves nothing behind."""
        node = self.start()
        for _ in range(1000):
            waiter = node.log("").wait_for(5)
            waiter.cancel()
            self.failureResultOf(waiter, CancelledError)
        self.assertEqual((node.log("")._waiters._waiters, node.log("")._waiters.count), ({}, 0))

    def test_bound_of_waiters(self):
        """One waiter too many is refused, and room comes back."""
        self.patch(node_module, "WAITERS_MAX", 2)
        node = self.start()
        waiting = [node.log("").wait_for(0), node.log("").wait_for(1)]
        self.failureResultOf(node.log("").wait_for(0), ResourceExhaustedError)
        self.append(node)
        self.successResultOf(waiting[0])
        third = node.log("").wait_for(1)
        self.assertNoResult(third)
        self.append(node)
        self.successResultOf(waiting[1])
        self.successResultOf(third)

    def test_find_offset(self):
        """A time finds the first record at or after it; one in the future finds the next offset."""
        node = self.start()
        self.append(node)
        self.wall += 10
        self.append(node)
        found = node.log("").find_offset(int((self.wall - 5) * 1_000_000))
        future = node.log("").find_offset(int((self.wall + 1) * 1_000_000))
        self.settle()
        self.readers.drain()
        self.assertEqual(self.successResultOf(found), (1, int(self.wall * 1_000_000)))
        self.assertEqual(self.successResultOf(future), (2, 0))

    def test_names(self):
        """The default log has two names; any other is unknown."""
        node = self.start()
        self.assertIs(node.log(""), node.log("default"))
        self.assertRaises(UnknownLogError, node.log, "other")
        (server,) = node.servers()
        self.assertEqual((server.name, server.is_leader), ("node-1", True))


class RetentionTests(NodeTestCase):
    """The node proposes trims; every trim is an entry."""

    def house(self, node: Node, seconds: float = RETENTION_SECONDS) -> None:
        """Let time pass on all clocks, and housekeeping happen."""
        self.wall += seconds
        self.monotonic += seconds
        self.clock.advance(node_module.HOUSEKEEPING_SECONDS)
        self.settle()

    def fill(self, node: Node, segments: int) -> None:
        while len(node.log("").replica.log.sealed_segments()) < segments:
            self.append(node, 1, 30_000)

    def test_by_size(self):
        """Past the bound the oldest segments go; the new lowest offset survives a restart."""
        node = self.start(retention=Retention(size_max=200 * KIB))
        self.fill(node, 6)
        self.house(node)
        lowest = self.bounds(node).lowest
        self.assertGreater(lowest, 0)
        self.assertEqual(node.log("").replica.log.first_offset, lowest)
        self.failureResultOf(self.fetch(node, lowest - 1), OffsetOutOfRangeError)
        self.stop(node)
        again = self.start()
        self.assertEqual(self.bounds(again).lowest, lowest)

    def test_by_age(self):
        """Segments older than the bound go, and only those."""
        node = self.start(retention=Retention(age_max_seconds=int(DAY)))
        self.fill(node, 2)
        self.house(node, DAY / 2)
        self.assertEqual(self.bounds(node).lowest, 0)
        self.fill(node, 4)
        self.house(node, DAY * 0.6)
        trimmed = self.bounds(node).lowest
        self.assertGreater(trimmed, 0)
        self.assertEqual(len(node.log("").replica.log.sealed_segments()), 2)

    def test_start_one_year_ahead(self):
        """A start-up that meets a clock one year ahead trims nothing, and the node serves."""
        node = self.start(retention=Retention(age_max_seconds=int(DAY)))
        self.fill(node, 3)
        self.stop(node)
        self.wall += 365 * DAY
        again = self.start()
        self.house(again)
        self.assertEqual(self.bounds(again).lowest, 0)
        self.append(again)

    def test_jump_while_running(self):
        """A wall clock that jumps while the node runs trims nothing and is reported once."""
        node = self.start(retention=Retention(age_max_seconds=int(DAY)))
        self.fill(node, 3)
        self.wall += 365 * DAY
        self.house(node)
        self.house(node)
        self.assertEqual(self.bounds(node).lowest, 0)


class StopTests(NodeTestCase):
    """A stop finishes what was taken and lets the directory go."""

    def test_stop_finishes_what_was_taken(self):
        """Proposals taken before the stop are answered; later ones are refused."""
        node = self.start()
        first = self.propose(node)
        self.clock.advance(0)
        second = self.propose(node)
        stopping = node.stopService()
        self.failureResultOf(self.propose(node), UnavailableError)
        self.assertNoResult(stopping)
        self.finish(stopping)
        self.assertEqual([self.successResultOf(d).base_offset for d in (first, second)], [0, 1])
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_stop_wakes_followers(self):
        """Who waits at the tail is told to go on elsewhere."""
        node = self.start()
        waiter = node.log("").wait_for(9)
        self.stop(node)
        self.failureResultOf(waiter, UnavailableError)
        self.failureResultOf(node.log("").wait_for(9), UnavailableError)

    def test_directory_is_free_afterwards(self):
        """The data directory can be used again at once, and everything is there."""
        node = self.start()
        self.append(node, 3)
        self.stop(node)
        again = self.start()
        self.assertEqual(self.bounds(again).next_offset, 3)
