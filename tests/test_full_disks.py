"""Full disks: whose, and for which file; the cluster goes on, or comes back by itself."""

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
