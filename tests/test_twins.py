"""Two machines with one name: the member, and one with a certificate of that name and another disk."""

from loghouse.errors import MembershipError
from loghouse.gossip.members import MemberKey
from loghouse.protocol.configuration import MemberRole
from loghouse.protocol.gossip_messages import Liveness
from tests.driver.town import Resident, TownTestCase
from tests.processes import thorough


@thorough
class TwinTests(TownTestCase):
    """A second machine "b" beside the member, at an address of its own."""

    def twin(self, town, of: Resident) -> Resident:
        twin = Resident(town, of.name, bootstrap=False)
        twin.address = "elsewhere:1"
        twin.starts = 100  # its chance is its own, and so its disk's uuid
        town.residents[f"{of.name} again"] = twin
        return twin

    def doubled(self):
        town, _, member, *_ = self.led()
        twin = self.twin(town, member).start()
        others = [one for one in town.running if one.name != member.name]
        key = MemberKey(twin.name, twin.node.disk_uuid)
        town.until(lambda: all(one.cluster.liveness_of(key) is Liveness.ALIVE for one in others))
        town.advance(10)
        return town, member, twin, others

    def test_shown_apart(self):
        """The member keeps its place and its address everywhere; the other is shown, as what it is."""
        town, member, twin, others = self.doubled()
        for one in others:
            servers = {server.name: server.address for server in one.node.servers()}
            self.assertEqual(servers[member.name], member.address)
            status = self.result(town, one.node.administration.status())
            shown = [(m.address, bool(m.id), m.role) for m in status.members if m.name == member.name]
            self.assertEqual(shown, [(member.address, True, MemberRole.VOTER), (twin.address, False, None)])
        for one in (*others, member):
            self.assertEqual(town.shape(one.name), "aV bV cV")
        self.assertIsNone(twin.driver)

    def test_goes_on(self):
        """Appends through the member, and to it as the leader, are not disturbed; nor is it ever refuted."""
        town, member, _, others = self.doubled()
        incarnation = member.cluster._swim.incarnation
        for one in (*others, member):
            self.result(town, one.propose(), 2)
        self.result(town, town.leader.node.administration.transfer(member.name))
        town.until(lambda: member.leads)
        for one in (*others, member):
            self.result(town, one.propose(), 2)
        dials = sum(town.dials.values())
        town.advance(30)
        self.assertTrue(member.leads)
        self.assertLess(member.cluster._swim.incarnation - incarnation, 3)
        self.assertLess(sum(town.dials.values()) - dials, 600, "links do not go to and fro")
        for one in others:
            key = MemberKey(member.name, member.node.disk_uuid)
            self.assertIs(one.cluster.liveness_of(key), Liveness.ALIVE)

    def test_remove(self):
        """A removal of the name is refused while both live: it would hit the member. Then it goes."""
        town, member, twin, others = self.doubled()
        for one in (*others, member):
            failure = self.failure(town, one.node.administration.remove(member.name), MembershipError)
            self.assertIn("two machines call themselves", failure.getErrorMessage())
            self.assertIn(twin.address, failure.getErrorMessage())
        self.assertEqual(town.shape(town.leader.name), "aV bV cV")
        key = MemberKey(twin.name, twin.node.disk_uuid)
        twin.stop()
        town.until(lambda: town.leader.cluster.liveness_of(key) is Liveness.DEAD, 60)
        self.result(town, town.leader.node.administration.remove(member.name))
        self.assertNotIn(member.name, town.shape(town.leader.name))

    def test_known_twin(self):
        """A twin that was seen beside the member does not take its place, however long that is away."""
        town, member, twin, others = self.doubled()
        old = (member.node.disk_uuid, member.log.member_id)
        for one in others:
            self.assertIn(MemberKey(twin.name, twin.node.disk_uuid), one.cluster.twins)
        member.crash()
        town.advance(60)
        self.assertEqual(town.shape(town.leader.name), "aV bV cV")
        self.assertIsNone(twin.driver)
        member.start()
        town.until(lambda: town.leader.log.is_heard(old[1]))
        self.assertEqual((member.node.disk_uuid, member.log.member_id), old)
        self.result(town, member.propose())

    def test_emptied(self):
        """A member back with an emptied disk is no twin: nothing of the old disk is heard any more."""
        town, _, member, *_ = self.led()
        member.crash()
        member.wipe()
        member.start()
        town.until(lambda: member.log.member_id == 4 and town.shape(member.name) == "aV bV cV", 60)

    def test_member_away_for_a_while(self):
        """A twin that came while the member was away gives way when that is back before it was replaced."""
        town, _, member, *_ = self.led()
        member.crash()
        town.until(lambda: not town.leader.log.is_heard(member.log.member_id))
        twin = self.twin(town, member)
        twin.start()
        leader = town.leader
        town.until(lambda: f"{member.name}L" in town.shape(leader.name), 60)
        twin.disk_queue.is_held = True  # not caught up yet
        member.start()
        town.until(lambda: town.shape(leader.name) == "aV bV cV", 60)
        twin.disk_queue.release()
        town.advance(10)
        kept = [m for m in leader.log.configuration.members if m.name == member.name]
        self.assertEqual([(m.disk_uuid, m.role) for m in kept], [(member.node.disk_uuid, MemberRole.VOTER)])
        self.result(town, member.propose())
