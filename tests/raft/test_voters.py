"""Changes of the voters, and of who leads them: only to those that are heard."""

from twisted.trial.unittest import SynchronousTestCase

from loghouse.errors import MembershipError, NotLeaderError, UnavailableError
from loghouse.protocol.configuration import MemberRole, encode_configuration
from loghouse.protocol.entry import EntryKind
from loghouse.protocol.raft_messages import AppendEntries, RequestVote, RequestVoteReply, TimeoutNow
from loghouse.raft.ready import Role
from tests.raft.member import RECORD, Bench, ask_vote, heartbeat, heartbeat_reply, holds, leading, only


class NewVotersTests(SynchronousTestCase):
    """A change takes a majority of the new voters, heard and close behind (`check_voters`)."""

    def refused(self, bench, configuration, *names):
        last = bench.raft.last_index
        with self.assertRaises(MembershipError) as caught:
            bench.raft.propose_configuration(configuration, 0)
        for name in names:
            self.assertIn(name, str(caught.exception))
        self.assertEqual(bench.raft.last_index, last)

    def age(self, bench, *heard):
        """Let an election timeout pass in which only these are heard."""
        for _ in range(bench.raft.config.election_ticks):
            bench.tick()
            for other in heard:
                bench.hear(other, heartbeat_reply(bench.raft.term))

    def test_remove_beside_a_silent_one(self):
        """Of three voters the second may not go while the third is silent; the silent one may."""
        bench = leading()
        self.age(bench, 2)
        self.refused(bench, bench.raft.configuration.without(2), "of the 2 voters", "n3 cannot be reached")
        bench.raft.propose_configuration(bench.raft.configuration.without(3), 0)

    def test_remove_beside_one_far_behind(self):
        """One that is heard and holds little of the log counts as little."""
        bench = leading()
        bench.raft.followers[3].match_index = 1
        for _ in range(bench.raft.config.inflight_entries_max + 1):
            bench.raft.propose(RECORD, 0)
            bench.hear(2, holds(bench.raft.term, bench.raft.last_index))
        bench.hear(3, heartbeat_reply(bench.raft.term))
        self.refused(bench, bench.raft.configuration.without(2), "n3 cannot be reached or is far behind")

    def test_leader_leaves(self):
        """A leader may go when the others are a majority without it."""
        bench = leading()
        self.age(bench, 2)
        self.refused(bench, bench.raft.configuration.without(1), "n3")
        bench.hear(3, heartbeat_reply(bench.raft.term))
        bench.raft.propose_configuration(bench.raft.configuration.without(1), 0)

    def test_demote(self):
        """Taking a vote is a removal, too."""
        bench = leading()
        self.age(bench, 2)
        self.refused(bench, bench.raft.configuration.with_role(2, MemberRole.LEARNER), "n3")

    def test_promote(self):
        """A vote is refused while, with it, too few would be there; one dead voter of five is no reason."""
        bench = leading(voters=4, learners=1)
        bench.raft.followers[5].caught_up_ticks = 100
        self.age(bench, 2, 3)
        bench.raft.followers[5].caught_up_ticks = 100
        bench.raft.propose_configuration(bench.raft.configuration.with_role(5, MemberRole.VOTER), 0)
        bench = leading(voters=3, learners=1)
        bench.raft.followers[4].caught_up_ticks = 100
        self.age(bench, 2)
        bench.raft.followers[4].caught_up_ticks = 100
        self.refused(bench, bench.raft.configuration.with_role(4, MemberRole.VOTER), "n3, n4")

    def test_add(self):
        """A voter out of nothing cannot be heard yet, so a lone one does not bind itself to it."""
        bench = Bench(voters=1)
        bench.tick()
        new = bench.raft.configuration.with_member("n2", bytes(16), MemberRole.VOTER)
        self.refused(bench, new, "n2")

    def test_what_takes_no_vote(self):
        """Learners, settings and names that are kept out change whatever the voters do."""
        bench = leading(learners=1)
        self.age(bench, 2)
        bench.raft.propose_configuration(bench.raft.configuration.without(4), 0)

    def test_asked_more_closely(self):
        """Who asks may want to have heard them later than an election timeout ago."""
        bench = leading()
        bench.tick(3)
        bench.hear(2, heartbeat_reply(bench.raft.term))
        new = bench.raft.configuration.without(2)
        bench.raft.check_voters(new)
        with self.assertRaises(MembershipError):
            bench.raft.check_voters(new, within_ticks=3)
        bench.raft.check_voters(bench.raft.configuration.without(3), within_ticks=3)


class TransferTests(SynchronousTestCase):
    """Handing over."""

    def test_targets(self):
        """Only a voter can take over."""
        bench = leading(learners=1)
        for target in (4, 9):
            with self.assertRaises(MembershipError):
                bench.raft.transfer_leadership(target)
        with self.assertRaises(NotLeaderError):
            Bench().raft.transfer_leadership(2)

    def test_best_successor(self):
        """Without a target, the voter heard lately that holds the most takes over; without any, nobody."""
        bench = Bench(voters=5)
        bench.leader()
        with self.assertRaises(MembershipError):
            bench.raft.transfer_leadership()
        bench.hear(4, heartbeat_reply(2))
        bench.hear(5, holds(2, 2))
        bench.hear(3, holds(2, 2))
        bench.raft.transfer_leadership()
        self.assertEqual(bench.raft.transfer_target, 3)
        bench.raft.transfer_leadership()
        self.assertEqual(bench.raft.transfer_target, 3)

    def test_silent_target(self):
        """A voter not heard for an election timeout is no target: proposals would wait for nobody."""
        bench = leading()
        for _ in range(bench.raft.config.election_ticks):
            bench.tick()
            bench.hear(2, heartbeat_reply(bench.raft.term))
        with self.assertRaises(MembershipError) as caught:
            bench.raft.transfer_leadership(3)
        self.assertIn("'n3' was not heard", str(caught.exception))
        bench.raft.propose(RECORD, 0)
        bench.hear(3, heartbeat_reply(bench.raft.term))
        bench.raft.transfer_leadership(3)
        self.assertEqual(bench.raft.transfer_target, 3)

    def test_to_itself(self):
        """A leader that is named itself takes back what is pending, and takes proposals again."""
        bench = leading()
        bench.raft.propose(RECORD, 0)  # so that the target is not told at once
        bench.raft.transfer_leadership(2)
        with self.assertRaises(UnavailableError):
            bench.raft.propose(RECORD, 0)
        bench.raft.transfer_leadership(1)
        self.assertEqual(bench.raft.transfer_target, 0)
        bench.raft.propose(RECORD, 0)
        last = bench.raft.last_index
        self.assertEqual(only(bench.hear(2, holds(bench.raft.term, last)), TimeoutNow), [])
        bench.raft.transfer_leadership(1)  # nothing to take back: nothing happens
        self.assertIs(bench.raft.role, Role.LEADER)

    def test_same_target_again(self):
        """Asking again does not start the clock again."""
        bench = leading()
        bench.raft.transfer_leadership(2)
        bench.tick(5)
        bench.raft.transfer_leadership(2)
        bench.tick(5)
        self.assertEqual(bench.raft.transfer_target, 0)

    def test_other_target(self):
        """Another target takes the first one's place."""
        bench = leading()
        bench.raft.transfer_leadership(2)
        bench.raft.transfer_leadership(3)
        self.assertEqual([t for t, _ in only(bench.out(), TimeoutNow)], [2, 3])
        self.assertEqual(bench.raft.transfer_target, 3)
        with self.assertRaises(UnavailableError):
            bench.raft.propose(RECORD, 0)

    def test_probing_target_is_probed_at_once(self):
        """A target whose probe was lost is probed again without waiting for a heartbeat."""
        bench = Bench()
        bench.leader()
        bench.hear(2, holds(2, 2))
        bench.hear(3, heartbeat_reply(2))
        bench.raft.transfer_leadership(3)
        self.assertEqual([t for t, m in only(bench.out(), AppendEntries) if m.entries], [3])
        self.assertEqual([t for t, _ in only(bench.hear(3, holds(2, 2)), TimeoutNow)], [3])

    def test_told_to_take_over(self):
        """Who is told to lead asks for real votes at once, and says why; who campaigns by itself does not."""
        bench = Bench()
        bench.hear(2, heartbeat(2))
        asked = only(bench.hear(2, TimeoutNow(term=2)), RequestVote)
        self.assertEqual(
            [(t, m.term, m.pre_vote, m.transfer) for t, m in asked],
            [(2, 3, False, True), (3, 3, False, True)],
        )
        bench = Bench()
        asked = only(bench.tick(2 * bench.raft.config.election_ticks), RequestVote)
        self.assertEqual({(m.pre_vote, m.transfer) for _, m in asked}, {(True, False)})

    def test_vote_for_a_transfer(self):
        """A voter that hears its leader votes for nobody, unless the leader sent the candidate."""
        for transfer in (False, True):
            bench = Bench()
            bench.hear(2, heartbeat(2))
            replies = only(bench.hear(3, ask_vote(3, transfer=transfer)), RequestVoteReply)
            self.assertEqual([reply.granted for _, reply in replies], [True] if transfer else [])

    def test_removed_target(self):
        """A target that is removed ends the transfer."""
        bench = leading()
        bench.raft._transfer_target = 3
        bench.raft._append_own(
            EntryKind.CONFIGURATION, 0, encode_configuration(bench.raft.configuration.without(3))
        )
        self.assertEqual(bench.raft.transfer_target, 0)

    def test_hand_over_on_stepping_down(self):
        """A leader whose disk hangs names the best follower it hears."""
        bench = leading(voters=5)
        bench.node.disk = False
        bench.raft.propose(RECORD, 0)
        bench.out()
        bench.hear(4, holds(2, 3))
        for _ in range(9):
            bench.tick()
            for other in (3, 4, 5):
                bench.hear(other, heartbeat_reply(2))
        self.assertEqual(only(bench.tick(), TimeoutNow), [(4, TimeoutNow(term=2))])
        self.assertIs(bench.raft.role, Role.FOLLOWER)
