"""Whole nodes in one process: what an operator asks of them."""

from loghouse.errors import InvalidRequestError, MembershipError, UnavailableError
from loghouse.gossip.members import MemberKey
from loghouse.protocol.configuration import MemberRole
from loghouse.protocol.gossip_messages import Liveness
from loghouse.protocol.raft_messages import Envelope, TimeoutNow
from tests.driver.town import TownTestCase


class AdministrationTests(TownTestCase):
    """What an operator asks of any node: done by the leader, refused with the reason."""

    def follower(self, town):
        return next(one for one in town.running if not one.leads)

    def test_remove_that_would_lose_the_quorum(self):
        """Removing a living node while another is dead is refused by name; the dead one may go."""
        town, asked, dead, living = self.led()
        dead.crash()
        gone = MemberKey(dead.name, dead.node.disk_uuid)
        town.until(lambda: asked.cluster.liveness_of(gone) is Liveness.DEAD, 60)
        failure = self.failure(town, living.node.administration.remove(living.name), MembershipError)
        self.assertIn(f"{dead.name} cannot be reached", failure.getErrorMessage())
        self.assertEqual(len(asked.log.configuration.voters), 3)
        self.result(town, living.node.administration.remove(dead.name))
        self.assertEqual(len(asked.log.configuration.voters), 2)

    def test_remove_right_after_a_death(self):
        """A removal waits to hear the others: one that died a moment before does not count."""
        town, leader, dead, living = self.led()
        raft, id_ = leader.driver.raft, dead.log.member_id
        dead.crash()
        done = leader.node.administration.remove(living.name)
        self.assertIn(
            f"{dead.name} cannot be reached", self.failure(town, done, MembershipError).getErrorMessage()
        )
        self.assertEqual(len(leader.log.configuration.voters), 3)
        self.result(town, town.leader.propose())
        dead.start()
        town.until(lambda: raft.followers[id_].silent_ticks <= 1)
        self.result(town, leader.node.administration.remove(living.name))

    def test_leave_right_after_a_death(self):
        """A leader that leaves asks the same of those it leaves behind."""
        town, leader, dead, *_ = self.led()
        dead.crash()
        self.failure(town, leader.node.administration.leave(), MembershipError)
        self.result(town, town.leader.propose())

    def test_stop_during_a_removal(self):
        """A stop leaves nobody waiting for a removal."""
        town, leader, *_ = self.led()
        town.cut(leader.name)
        done = leader.node.administration.remove(self.follower(town).name)
        self.assertNoResult(done)
        leader.stop()
        self.failureResultOf(done, UnavailableError, MembershipError)

    def test_replaced_only_beside_a_majority(self):
        """A leader takes out the voter of an emptied disk only while it hears the others."""
        town, leader, emptied, other = self.led()
        emptied.crash()
        emptied.wipe()
        emptied.start()
        town.until(lambda: f"{emptied.name}L" in town.shape(leader.name), 60)
        voters = leader.log.configuration.voters
        change = leader.log.configuration.without(leader.log.configuration.named(emptied.name)[0].id)
        self.assertEqual(len(change.voters), 2)
        town.cut(other.name)
        town.advance(0.4)
        leader.log.change_configuration(change)
        self.assertEqual(leader.log.configuration.voters, voters)

    def test_remove_the_only_voter(self):
        """The only voter cannot go, and what is no member cannot either."""
        town = self.built("a")
        node = town["a"].node
        self.assertIn(
            "only voter", self.failureResultOf(node.administration.leave(), MembershipError).getErrorMessage()
        )
        self.failureResultOf(node.administration.add("x", False), MembershipError)
        self.failureResultOf(node.administration.add("a", False), MembershipError)
        self.failureResultOf(node.administration.transfer("x"), MembershipError)

    def test_leave_of_the_leader(self):
        """A leader that leaves commits that, and the others go on."""
        town, old, *_ = self.led()
        self.result(town, old.node.administration.leave())
        new = town.until(lambda: next((one for one in town.running if one.leads and one is not old), None))
        self.assertNotIn(old.name, town.shape(new.name))
        town.until(lambda: not old.leads)
        self.result(town, new.propose())
        self.assertEqual(new.log.configuration.removed, (old.name,))

    def test_transfer(self):
        """Leadership goes to the node that was named, asked through any node, without a lost append."""
        town, _, target, *_ = self.led()
        self.assertEqual(self.result(town, target.node.administration.transfer(target.name)), target.name)
        town.until(lambda: town.leader is target)
        self.assertEqual(self.result(town, target.node.administration.transfer(target.name)), target.name)
        chosen = self.result(town, target.node.administration.transfer(""))
        town.until(lambda: town.leader is town[chosen])
        self.assertNotEqual(chosen, target.name)

    def test_transfer_that_fails(self):
        """When the target cannot take over, the leader leads on and says so."""
        town, leader, target, *_ = self.led()
        town.cut(target.name)
        done = leader.node.administration.transfer(target.name)
        self.assertIn("leads on", self.failure(town, done, UnavailableError).getErrorMessage())
        self.assertTrue(leader.leads)
        self.result(town, leader.propose())

    def test_transfer_that_another_wins(self):
        """When another node than the named one took over, that is said, and who leads."""
        town, leader, target, *_ = self.led()
        other = next(one for one in town.running if one not in (leader, target))
        town.cut(target.name)
        done = leader.node.administration.transfer(target.name)
        order = TimeoutNow(term=leader.driver.raft.term)
        source, id_ = leader.log.member_id, other.log.member_id
        other.log.receive(Envelope(group=1, source=source, target=id_, message=order))
        message = self.failure(town, done, UnavailableError).getErrorMessage()
        self.assertIn(f"{other.name!r} leads now, not {target.name!r}", message)

    def test_transfer_taken_back(self):
        """A transfer to the leader itself takes back a pending one: appends go on, and who waited is told."""
        town, leader, target, *_ = self.led()
        town.cuts |= {(leader.name, target.name), (target.name, leader.name)}
        self.result(town, leader.propose())  # so that the target lacks something
        done = leader.node.administration.transfer(target.name)
        self.failure(town, leader.propose(), UnavailableError)
        self.assertEqual(self.successResultOf(leader.node.administration.transfer(leader.name)), leader.name)
        self.assertIn("taken back", self.failureResultOf(done, UnavailableError).getErrorMessage())
        self.result(town, leader.propose(), 0.5)

    def test_transfer_to_a_silent_one(self):
        """A voter that is not heard is no target; nothing waits for it."""
        town, leader, target, *_ = self.led()
        target.crash()
        town.advance(1.5)
        failure = self.failureResultOf(leader.node.administration.transfer(target.name), MembershipError)
        self.assertIn(f"{target.name!r} was not heard", failure.getErrorMessage())
        self.result(town, leader.propose(), 0.5)

    def test_stop_during_a_transfer(self):
        """A stop leaves nobody waiting for a hand-over."""
        town, leader, target, *_ = self.led()
        town.cut(target.name)
        done = leader.node.administration.transfer(target.name)
        leader.stop()
        self.failureResultOf(done, UnavailableError)

    def test_hand_over_before_a_stop(self):
        """A leader hands over before it stops; a follower, and a lone voter, have nothing to hand over."""
        town, old, *_ = self.led()
        self.successResultOf(self.follower(town).node.administration.hand_over())
        self.result(town, old.node.administration.hand_over(), 3)
        self.assertIsNot(town.until(lambda: town.leader, 1), old)
        alone = self.built("d", bootstrap="d")
        self.successResultOf(alone["d"].node.administration.hand_over())

    def test_status(self):
        """Every node tells who is there, how far each is, and who leads."""
        town = self.built()
        self.result(town, town.leader.propose())
        town.advance(2)
        for one in town.running:
            status = self.result(town, one.node.administration.status())
            self.assertEqual(status.leader, town.leader.name)
            self.assertEqual((status.lowest_offset, status.next_offset), (0, 1))
            self.assertEqual({member.match_index for member in status.members}, {status.commit_index})
            self.assertEqual({member.liveness for member in status.members}, {Liveness.ALIVE})
            others = {member.version for member in status.members if member.name != one.name}
            self.assertEqual(others, {"test"}, "what the others' Hello says")

    def test_status_without_a_leader(self):
        """Status is answered when nobody leads: that is when it is asked for."""
        town = self.built()
        for name in "ab":
            town[name].crash()
        town.until(lambda: not town["c"].log.leader_name, 60)
        town.advance(40)
        status = self.result(town, town["c"].node.administration.status())
        self.assertEqual(status.leader, "")
        self.assertEqual(
            {member.name: member.liveness for member in status.members},
            {"a": Liveness.DEAD, "b": Liveness.DEAD, "c": Liveness.ALIVE},
        )
        self.failure(town, town["c"].node.administration.remove("a"), UnavailableError)
        self.failure(town, town["c"].node.administration.transfer("c"), UnavailableError)

    def test_reads_without_a_majority(self):
        """The last one of three serves what it holds; what only a leader can confirm is refused."""
        town = self.built()
        self.result(town, town.leader.propose())
        town.advance(2)
        for name in "ab":
            town[name].crash()
        town.until(lambda: not town["c"].log.leader_name, 60)
        node = town["c"].node
        self.assertEqual(self.result(town, node.log("").fetch(0, 1)).next_offset, 1)
        offset, timestamp = self.result(town, node.log("").find_offset(0))
        self.assertEqual(offset, 0)
        self.assertGreater(timestamp, 0)
        self.failure(town, node.log("").find_offset(timestamp + 1), UnavailableError)
        self.failure(town, node.log("").fetch(1, 1), UnavailableError)
        self.failure(town, node.log("").bounds(), UnavailableError)

    def test_status_of_a_joiner(self):
        """A node that belongs to no cluster yet refuses, and says so."""
        town = self.town("ab")
        node = town["a"].start().node
        for done in (
            node.administration.status(),
            node.administration.remove("b"),
            node.log("").trim(0),
            node.log("").register_producer("x"),
        ):
            self.failureResultOf(done, UnavailableError)
        self.failureResultOf(node.log("").fetch(0, 1), UnavailableError)
        self.failureResultOf(node.log("").bounds(), UnavailableError)
        self.failureResultOf(node.log("").find_offset(0), UnavailableError)

    def test_trim(self):
        """Trims go through any node and count at every node; one beyond the end is refused."""
        town = self.built()
        for _ in range(3):
            self.result(town, town.leader.propose())
        follower = self.follower(town)
        self.assertEqual(self.result(town, follower.log.trim(2)), 2)
        for one in town.running:
            self.assertEqual(self.result(town, one.log.bounds()).lowest, 2)
        self.assertEqual(self.result(town, follower.log.trim(1)), 2)
        self.failure(town, follower.log.trim(4), InvalidRequestError)

    def test_learner_for_ever(self):
        """A learner may become a replica, which is never promoted; a voter, stranger or removed one not."""
        town, leader, follower, *_ = self.led()
        self.failure(town, leader.node.administration.add(follower.name, True), MembershipError)
        self.failure(town, leader.node.administration.add("x", True), MembershipError)
        self.result(town, leader.node.administration.remove(follower.name))
        self.failure(town, leader.node.administration.add(follower.name, True), MembershipError)
        self.result(town, leader.node.administration.add(follower.name, False))

        def role():
            return next((m.role for m in leader.log.configuration.named(follower.name)), None)

        town.until(lambda: role() is MemberRole.LEARNER, 60)
        self.result(town, leader.node.administration.add(follower.name, True))
        self.assertIs(role(), MemberRole.REPLICA)
        town.advance(30)
        self.assertIs(role(), MemberRole.REPLICA)
        self.assertEqual(len(leader.log.configuration.voters), 2)
