"""Whole nodes in one process: joining, membership, administration, forwarding, and who is believed."""

from loghouse.protocol.message import NO_UUID
from tests.driver.town import TownTestCase


class BootstrapTests(TownTestCase):
    """One cluster comes to be, and no second one ever (`architecture.md` 7)."""

    def test_three(self):
        """Three empty nodes, one of which bootstraps, become one cluster of three voters."""
        town = self.built()
        uuids = {resident.node.cluster_uuid for resident in town.running}
        self.assertEqual(len(uuids), 1)
        self.assertEqual(self.result(town, town["b"].propose()).base_offset, 0)

    def test_nobody_while_one_is_silent(self):
        """While one address is silent nobody makes a cluster; they ask for ever, and go on when it speaks."""
        town = self.town("abc")
        town["a"].start()
        town["b"].start()
        town.advance(120)
        self.assertEqual([one.node.cluster_uuid for one in town.running], [NO_UUID, NO_UUID])
        self.assertGreater(town.dials["a", "c:1"], 100)
        town["c"].start()
        town.until(lambda: town.leader and town.shape("c") == "aV bV cV")

    def test_an_old_answer_does_not_count(self):
        """A node that said "no cluster" and fell silent is asked again: it may belong to one by now."""
        town = self.town("abc")
        town["b"].start()
        town["a"].start()
        town.advance(5)
        town["b"].crash()
        town.advance(30)
        town["c"].start()
        town.advance(20)
        self.assertEqual(town["a"].node.cluster_uuid, NO_UUID)

    def test_who_does_not_bootstrap_waits(self):
        """Without a node that bootstraps there is no cluster, however many answer."""
        town = self.town("abc", bootstrap="")
        for name in "abc":
            town[name].start()
        town.advance(60)
        self.assertEqual([one.node.cluster_uuid for one in town.running], [NO_UUID] * 3)

    def test_emptied_bootstrap_node(self):
        """The node that bootstraps joins the living cluster when its disk was emptied."""
        town = self.built()
        uuid = town["b"].node.cluster_uuid
        done = town["b"].propose()
        self.result(town, done)
        town["a"].crash()
        town["a"].wipe()
        town.until(lambda: town.leader)
        town["a"].start()
        town.until(lambda: town.shape("a") == "aV bV cV", 60)
        self.assertEqual(town["a"].node.cluster_uuid, uuid)
        self.assertEqual({one.leads for one in town.running}, {True, False})
        town.until(lambda: town["a"].node._replica.readable_offset == 1)

    def test_two_bootstrap(self):
        """Two nodes that bootstrap make two clusters at worst, and those never merge."""
        town = self.town("ab", bootstrap="ab")
        town["a"].start()
        town["b"].start()
        town.advance(120)
        uuids = {one.node.cluster_uuid for one in town.running}
        for one in town.running:
            others = [member for member in one.node.configuration.members if member.name != one.name]
            self.assertEqual(bool(others), len(uuids) == 1)

    def test_clusters_never_merge(self):
        """A node of another cluster of the same name is refused, by both, for ever."""
        town = self.built("ab")
        town.join = ["c:1"]
        stranger = town.add("c", bootstrap=True).start()
        town.until(lambda: stranger.leads)
        town["a"].stop()
        town.join = ["a:1", "b:1", "c:1"]
        town["a"].start()
        stranger.stop()
        stranger.start()
        town.advance(60)
        self.assertEqual((town.shape("a"), town.shape("c")), ("aV bV", "cV"))
        self.assertTrue(any("two different clusters of one name" in text for text in town.problems))


class MembershipTests(TownTestCase):
    """Who is in the group, under which id."""

    def test_learner_first(self):
        """A new node is a learner before it votes, and counts for no quorum until then."""
        town = self.built("ab")
        town.join.append("c:1")
        newcomer = town.add("c").start()
        town.until(lambda: town.shape("a") == "aV bV cL")
        newcomer.disk_queue.is_held = True
        town.advance(20)
        self.assertEqual(town.shape("a"), "aV bV cL")
        newcomer.disk_queue.release()
        town.until(lambda: town.shape("a") == "aV bV cV")
        self.assertEqual(newcomer.node.member_id, 3)

    def test_emptied_namesake(self):
        """An emptied voter comes back as a learner under a new id, never under its old one."""
        town = self.built()
        follower = next(one for one in town.running if not one.leads)
        old = follower.node.member_id
        follower.crash()
        follower.wipe()
        follower.start()
        ids = set()

        def look():
            ids.add(follower.node.member_id)
            return follower.node.member_id and town.shape(town.leader.name) == "aV bV cV"

        town.until(look, 90)
        town.advance(2)
        self.assertNotIn(old, ids)
        self.assertEqual(follower.node.member_id, 4)
        self.assertEqual(follower.node._own_member().id, 4)

    def test_lost_while_away(self):
        """A node that was removed and let in again while it was away goes on under its new id."""
        town = self.built()
        leader = town.leader
        away = next(one for one in town.running if not one.leads)
        away.crash()
        self.result(town, leader.node.remove(away.name))
        self.result(town, leader.node.add(away.name, False))
        away.start()
        town.until(lambda: away.node.member_id == 4, 60)
        town.until(lambda: away.node._own_member().id == 4 and town.shape(away.name) == "aV bV cV", 60)
