"""Full disks: whose, and for which file; the cluster goes on, or comes back by itself."""

from loghouse.errors import DiskFullError, UnavailableError
from tests.driver.town import TownTestCase


class AddressBookTests(TownTestCase):
    """The address book is a cache: a node without room for it goes on, and writes it later."""

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
        town.until(lambda: town["c"].node.leader_name)
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
        town.until(lambda: follower.node.leader_name)
        leader = town.leader
        key = follower.node.disk_uuid
        town.until(lambda: leader.cluster.liveness_of("b", key) == "alive")


class LeaderTests(TownTestCase):
    """A leader without room on its disk does not keep the lead from those who have some."""

    def fill(self, *residents):
        """Leave nodes no room for another segment, and let them meet that; returns what frees their disks."""
        frees = [resident.disk.fill("new segment") for resident in residents]
        town = residents[0].town
        while any(resident.node.is_writable for resident in residents):
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
        town = self.built()
        full = town.leader
        free = self.fill(full)
        town.until(lambda: town.leader and town.leader is not full, seconds_max=5)
        for _ in range(40):
            self.appends(full, seconds_max=5)
        self.assertIsNot(town.leader, full)
        end = town.leader.node._replica.readable_offset
        free()
        town.until(lambda: full.node._replica.readable_offset == end)
        self.assertTrue(full.node.is_writable)

    def test_one_with_room(self):
        """Of two followers the one with room takes over, and keeps the lead."""
        town = self.built()
        leader = town.leader
        other, roomy = [one for one in town.running if one is not leader]
        self.fill(other)
        town.advance(1)
        self.fill(leader)
        terms = town.leader.node._replica.raft.term
        town.until(lambda: town.leader is roomy, seconds_max=5)
        town.advance(60)
        self.assertIs(town.leader, roomy)
        self.assertEqual(roomy.node._replica.raft.term, terms + 1)

    def test_none_with_room(self):
        """When all are full nobody hands over: no lead passes to and fro, and appends name the disks."""
        town = self.built()
        leader = town.leader
        free = self.fill(*town.running)
        town.advance(5)
        term = town.leader.node._replica.raft.term
        town.advance(120)
        self.assertEqual(town.leader.node._replica.raft.term, term)
        self.failure(town, leader.propose(), DiskFullError)
        free()
        self.appends(leader)
