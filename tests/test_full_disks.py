"""Full disks: whose, and for which file; the cluster goes on, or comes back by itself."""

import errno
from contextlib import contextmanager

from loghouse.errors import DiskFullError, RequestError, ResourceExhaustedError, UnavailableError
from loghouse.gossip.members import MemberKey
from loghouse.limits import KIB, MIB
from loghouse.protocol.gossip_messages import Liveness
from loghouse.testing.disk import FILLED, DiskFault, disk_error
from tests.driver.town import TownTestCase
from tests.processes import thorough
from tests.tables import Rows


class AddressBookTests(TownTestCase):
    """The address book is a cache: a node without room for it goes on, and writes it later."""

    @thorough
    def test_no_room(self):
        """A member whose address book finds no room takes part as ever, and writes it once there is room."""
        town = self.built()
        before = town["b"].disk.content("/data/members")
        free = town["b"].disk.fill("members")
        town["c"].crash()
        town.advance(60)
        self.assertEqual(town["b"].disk.content("/data/members"), before)
        self.assertNotIn("/data/members.tmp", town["b"].disk.contents())
        town["c"].start()
        town.until(lambda: town["c"].log.leader_name)
        self.assertEqual(self.result(town, town["b"].propose()).base_offset, 0)
        town.add("d").start()
        town.until(lambda: "d" in town.shape("b"))
        town.advance(60)
        self.assertEqual(town["b"].disk.content("/data/members"), before)
        free()
        town.until(lambda: town["b"].disk.content("/data/members") != before)

    def test_start(self):
        """A node starts and is seen to be alive while there is no room for its address book."""
        town = self.built()
        town["b"].stop()
        town["b"].disk.fill("members")
        town["b"].start()
        follower = town["b"]
        town.until(lambda: follower.log.leader_name)
        leader = town.leader
        key = MemberKey("b", follower.node.disk_uuid)
        town.until(lambda: leader.cluster.liveness_of(key) is Liveness.ALIVE)


class LeaderTests(TownTestCase):
    """A leader without room on its disk does not keep the lead from those who have some."""

    def fill(self, *residents):
        """Leave nodes no room for another segment, and let them meet that; returns what frees their disks."""
        frees = [resident.disk.fill("new segment") for resident in residents]
        town = residents[0].town
        while any(resident.log.is_writable for resident in residents):
            self.try_to_append(town.leader, 1000)
            town.advance(0.1)
        return lambda: [free() for free in frees]

    def try_to_append(self, resident, size: int = 4000) -> bool:
        """Return whether an append was done; else it was refused for a reason of these tests."""
        done = resident.propose(size)
        resident.town.until(lambda: done.called)
        done.addErrback(lambda failure: failure.trap(DiskFullError, UnavailableError) and None)
        return self.successResultOf(done) is not None

    def appends(self, resident, seconds_max: float = 15.0) -> None:
        """Try to append until it is done, as a client does."""
        resident.town.until(lambda: self.try_to_append(resident), seconds_max)

    def test_hands_over(self):
        """A leader whose disk alone is full hands over; the cluster takes appends again within seconds."""
        town, full, *_ = self.led()
        free = self.fill(full)
        town.until(lambda: town.leader and town.leader is not full, seconds_max=5)
        for _ in range(40):
            self.appends(full, seconds_max=5)
        self.assertIsNot(town.leader, full)
        end = town.leader.driver.readable_offset
        free()
        town.until(lambda: full.driver.readable_offset == end)
        self.assertTrue(full.log.is_writable)

    @thorough
    def test_one_with_room(self):
        """Of two followers the one with room takes over, and keeps the lead."""
        town, leader, *_ = self.led()
        other, roomy = [one for one in town.running if one is not leader]
        self.fill(other)
        town.advance(1)
        self.fill(leader)
        terms = town.leader.driver.raft.term
        town.until(lambda: town.leader is roomy, seconds_max=5)
        town.advance(60)
        self.assertIs(town.leader, roomy)
        self.assertEqual(roomy.driver.raft.term, terms + 1)

    @thorough
    def test_none_with_room(self):
        """When all are full nobody hands over: no lead passes to and fro, and appends name the disks."""
        town, leader, *_ = self.led()
        free = self.fill(*town.running)
        town.advance(5)
        term = town.leader.driver.raft.term
        town.advance(120)
        self.assertEqual(town.leader.driver.raft.term, term)
        self.failure(town, leader.propose(), DiskFullError)
        free()
        self.appends(leader)

    def test_refused_early(self):
        """With too few disks that have room, a leader with room refuses records before it appends them."""
        town, leader, *_ = self.led()
        self.fill(*[one for one in town.running if one is not leader])
        town.advance(0.5)
        last_index = leader.driver.raft.last_index
        refusal = self.failure(town, leader.propose(), DiskFullError).value
        self.assertIn("the data directories of b, c", str(refusal))
        self.assertEqual(leader.driver.raft.last_index, last_index)


class ScarceTests(TownTestCase):
    """No number for another open file, or no memory: that request is refused, the node goes on."""

    def lacks_files(self, resident):
        """Let a node's process open no further file; returns what ends that."""
        fault = DiskFault(disk_error(errno.EMFILE), kinds=frozenset({"open", "create"}), times=1 << 62)
        resident.disk.faults.append(fault)
        return lambda: resident.disk.faults.remove(fault)

    def test_reads(self):
        """A read that finds no file number is refused, not taken for damage."""
        town, _, follower, *_ = self.led()
        for _ in range(40):
            self.result(town, town.leader.propose(4000))
        town.until(lambda: follower.driver.readable_offset == 40)
        for segment in follower.store.view.segments[:-1]:
            segment.let_go()
        follower.store._open_segments.clear()
        enough = self.lacks_files(follower)
        refusal = self.failure(town, follower.log.fetch(1, 100), ResourceExhaustedError).value
        self.assertIn("Too many open files", str(refusal))
        enough()
        self.result(town, follower.log.fetch(1, 100))

    def test_appends(self):
        """A leader without file numbers for a segment is as one without room: another takes over."""
        town, scarce, *_ = self.led()
        enough = self.lacks_files(scarce)
        for _ in range(60):
            done = scarce.propose(4000)
            town.advance(0.2)
            done.addErrback(lambda failure: failure.trap(RequestError))
        self.assertIsNot(town.leader, scarce)
        self.result(town, town.leader.propose(4000))
        enough()
        town.until(lambda: scarce.log.is_writable)
        end = town.leader.driver.readable_offset
        town.until(lambda: scarce.driver and scarce.driver.readable_offset == end)

    def test_no_memory(self):
        """Memory that did not suffice for a read is a refusal as well."""
        town = self.built()
        self.result(town, town.leader.propose())

        def read(*_):
            raise MemoryError

        leader = town.leader
        self.patch(leader.store, "read", read)
        self.failure(town, leader.log.fetch(0, 100), ResourceExhaustedError)


@thorough
class MatrixTests(TownTestCase):
    """Whose disk is full, and for which file: the outcome of each case.

    In every case no process ends, members restart, what is there is read, and the group comes back by itself
    when there is room. With one full disk appends go on within seconds. With more, trims and elections do,
    unless even bytes that were allocated cannot be written any more (`STUCK`: a disk that copies on write).
    """

    STUCK = ("segment", "index", "watermark", "everything")

    @contextmanager
    def case(self, who: str, what: str):
        try:
            yield
        except AssertionError as error:
            raise AssertionError(f"{who}, no room for {what}: {error}") from error

    def victims(self, town, who: str) -> list:
        leader = town.until(lambda: town.leader)
        others = [one for one in town.running if one is not leader]
        return {"leader": [leader], "follower": others[:1], "two": [leader, others[0]], "all": town.running}[
            who
        ]

    def check_one(self, town, who: str, what: str) -> None:
        victims = self.victims(town, who)
        frees = [victim.disk.fill(what) for victim in victims]
        size = town.segment_size // 16
        for _ in range(20):  # more than a segment
            self.try_to_append(town, size)
        is_minority = len(victims) == 1
        can_vote = is_minority or what not in ("hard state", "everything")
        if can_vote and what not in self.STUCK:
            victims[0].stop()  # who led in all cases but one
            victims[0].start()
        if is_minority:
            town.until(lambda: self.try_to_append(town, size), 20)
        # Room for a segment may be there and none for its state: found out when records wait before the trim.
        is_late = who == "two" and what == "state"
        if is_minority or (what not in self.STUCK and can_vote and not is_late):
            town.until(lambda: town.leader and self.bounds(town), 20)
            end = town.leader.driver.readable_offset
            town.until(lambda: self.trims(town, end - 1), 20)
        town.until(lambda: all(self.reads(town, victim) for victim in victims), 20)
        for free in frees:
            free()
        town.until(lambda: self.try_to_append(town, size), 30)
        town.until(lambda: len({one.driver and one.driver.readable_offset for one in town.running}) == 1)
        town.until(lambda: all(one.log.is_writable for one in town.running))
        self.assertEqual([one.failures for one in town.running], [[]] * 3)

    def try_to_append(self, town, size: int) -> bool:
        leader = town.leader
        if leader is None:
            town.advance(0.2)
            return False
        done = leader.propose(size)
        for _ in range(20):
            if done.called:
                done.addErrback(lambda failure: failure.trap(RequestError) and None)
                return self.successResultOf(done) is not None
            town.advance(0.1)
        done.addErrback(lambda failure: failure.trap(RequestError) and None)
        return False  # it was taken before it was known that too few disks have room: it waits for room

    def bounds(self, town):
        done = town.leader.log.bounds()
        town.until(lambda: done.called and not done.paused)
        done.addErrback(lambda failure: failure.trap(UnavailableError) and None)
        return self.successResultOf(done)

    def trims(self, town, offset: int) -> bool:
        if town.leader is None:
            return False
        done = town.leader.log.trim(offset)
        town.until(lambda: done.called and not done.paused)
        done.addErrback(lambda failure: failure.trap(RequestError) and None)
        return self.successResultOf(done) == offset

    def reads(self, town, resident) -> bool:
        """Whether a node serves what it has; the last record is there whatever was trimmed."""
        if resident.driver is None:
            return False
        offset = resident.driver.readable_offset - 1
        done = resident.log.fetch(offset, 1)
        town.until(lambda: done.called and not done.paused)
        done.addErrback(lambda failure: failure.trap(RequestError) and None)
        return self.successResultOf(done) is not None

    @Rows(
        leader=("The leader's disk alone.", "leader"),
        follower=("One follower's disk.", "follower"),
        two=("The disks of the leader and of a follower.", "two"),
        all=("All disks.", "all"),
    )
    def test(self, who):
        town = self.built()
        self.assertTrue(self.try_to_append(town, 10))
        for what in FILLED:
            with self.case(who, what):
                self.check_one(town, who, what)

    def test_larger_segments(self):
        """The same with a reserve and segments of more than one write."""
        for who in ("leader", "all"):
            town = self.built(segment_size=1 * MIB, reserve_size=64 * KIB)
            self.assertTrue(self.try_to_append(town, 10))
            with self.case(who, "new files"):
                self.check_one(town, who, "new files")
