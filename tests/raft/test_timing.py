"""Ticks: what happens at which one, and at none before."""

from twisted.trial.unittest import SynchronousTestCase

from loghouse.errors import MembershipError, UnavailableError
from loghouse.protocol.raft_messages import (
    AppendEntries,
    Heartbeat,
    InstallSnapshot,
    ReadIndex,
    RequestVote,
    TimeoutNow,
)
from loghouse.raft.config import RaftConfig
from loghouse.raft.progress import ProgressState
from loghouse.raft.ready import Role
from tests.raft.group import Group
from tests.raft.member import (
    RECORD,
    Bench,
    append,
    ask_vote,
    heartbeat,
    heartbeat_reply,
    holds,
    leading,
    only,
    rejects,
    vote_reply,
)

TICKS = RaftConfig().election_ticks


def age(bench, ticks, *heard):
    """Let ticks pass in which these are heard; return what is sent."""
    sent = []
    for _ in range(ticks):
        sent += bench.tick()
        for other in heard:
            sent += bench.hear(other, heartbeat_reply(bench.raft.term))
    return sent


class CampaignTests(SynchronousTestCase):
    """When a follower stands."""

    def test_drawn_at_random(self):
        """After one to two election timeouts of silence, each number of ticks being possible."""
        waited = set()
        for seed in range(200):
            raft = Group(3, rng_seed=seed)[1]
            ticks = 0
            while raft.role is Role.FOLLOWER:
                raft.tick()
                ticks += 1
            waited.add(ticks)
        self.assertEqual(waited, set(range(TICKS, 2 * TICKS)))

    def test_drawn_anew(self):
        """A candidate whose campaign came to nothing waits a new random time."""
        bench = Bench()
        drawn = set()
        for _ in range(200):
            bench.hear(2, heartbeat(bench.raft.term))
            bench.campaign()
            drawn.add(bench.raft._election_timeout)
        self.assertEqual(drawn, set(range(TICKS, 2 * TICKS)))

    def test_what_restarts_the_silence(self):
        """A heartbeat, an append, a snapshot's leader and a granted vote; not a refused one."""
        for message, restarts in [
            (heartbeat(1), True),
            (append(1, 1, 1), True),
            (append(1, 9, 9), True),
            (ask_vote(1), True),
            (ask_vote(1, 0, 0), False),
            (ask_vote(2, pre_vote=True), False),
        ]:
            bench = Bench()
            bench.raft._election_timeout = TICKS
            bench.tick(TICKS - 1)
            bench.hear(2, message)
            bench.raft._election_timeout = TICKS
            bench.tick(1)
            self.assertIs(bench.raft.role, Role.FOLLOWER if restarts else Role.PRE_CANDIDATE, message)
            if restarts:
                bench.tick(TICKS - 2)
                self.assertIs(bench.raft.role, Role.FOLLOWER, message)
                bench.tick(1)
                self.assertIs(bench.raft.role, Role.PRE_CANDIDATE, message)

    def test_lone_voter_does_not_wait(self):
        """A lone voter that lost its leadership stands at the next tick."""
        bench = Bench(voters=1)
        bench.hear(2, heartbeat(9))
        self.assertIs(bench.raft.role, Role.FOLLOWER)
        bench.tick()
        self.assertEqual((bench.raft.role, bench.raft.term), (Role.LEADER, 10))

    def test_who_does_not_stand(self):
        """A learner never does, nor does who has no configuration, nor a candidate not yet on its disk."""
        bench = Bench()
        bench.campaign()
        bench.node.disk = False
        bench.hear(2, vote_reply(2, pre_vote=True))
        self.assertIs(bench.raft.role, Role.CANDIDATE)
        self.assertFalse(bench.raft.may_campaign)
        bench.group.finish_writes(1)
        self.assertTrue(bench.raft.may_campaign)
        learner = Bench(voters=0, learners=2)
        learner.tick(5 * TICKS)
        self.assertEqual((learner.raft.role, learner.raft.may_campaign), (Role.LEARNER, False))


class StallTests(SynchronousTestCase):
    """A disk that finishes nothing."""

    def test_leader(self):
        """A leader whose disk finishes nothing for an election timeout steps down, and names another."""
        bench = leading()
        bench.node.disk = False
        bench.raft.propose(RECORD, 0)
        bench.out()
        self.assertEqual(only(age(bench, TICKS - 1, 2, 3), TimeoutNow), [])
        self.assertEqual((bench.raft.role, bench.raft.is_stalled), (Role.LEADER, False))
        self.assertEqual(only(bench.tick(), TimeoutNow), [(2, TimeoutNow(term=2))])
        self.assertEqual((bench.raft.role, bench.raft.is_stalled), (Role.FOLLOWER, True))

    def test_any_progress_counts(self):
        """One write that is done begins the time anew, also when others wait."""
        bench = leading()
        bench.node.disk = False
        for _ in range(2):
            bench.raft.propose(RECORD, 0)
            bench.out()
        age(bench, TICKS - 1, 2, 3)
        bench.group.finish_writes(1, 1)
        age(bench, TICKS - 1, 2, 3)
        self.assertFalse(bench.raft.is_stalled)
        bench.tick()
        self.assertTrue(bench.raft.is_stalled)

    def test_idle_disk(self):
        """A disk without work does not stall, and what it did before does not count."""
        bench = leading()
        age(bench, 3 * TICKS, 2, 3)
        self.assertFalse(bench.raft.is_stalled)
        bench.node.disk = False
        bench.raft.propose(RECORD, 0)
        bench.out()
        age(bench, TICKS - 1, 2, 3)
        self.assertFalse(bench.raft.is_stalled)

    def test_term_and_vote_are_work(self):
        """A term that is not on disk yet is work as well."""
        bench = Bench()
        bench.node.disk = False
        bench.hear(2, heartbeat(5))
        for _ in range(TICKS):
            self.assertFalse(bench.raft.is_stalled)
            bench.raft.tick()
        self.assertTrue(bench.raft.is_stalled)
        self.assertFalse(bench.raft.may_campaign)


class LeaderTests(SynchronousTestCase):
    """What a leader does at its ticks."""

    def test_heartbeats(self):
        """It sends a heartbeat to each other member every `heartbeat_ticks`, beginning with its election."""
        for every in (1, 3):
            bench = leading(config=RaftConfig(heartbeat_ticks=every))
            sent_at = []
            for tick in range(1, 3 * every + 1):
                sent = only(age(bench, 1, 2, 3), Heartbeat)
                if sent:
                    self.assertEqual([target for target, _ in sent], [2, 3])
                    sent_at.append(tick)
            self.assertEqual(sent_at, [every, 2 * every, 3 * every])

    def test_heartbeats_of_a_second_leadership(self):
        """Their time begins anew with each leadership."""
        bench = leading(config=RaftConfig(heartbeat_ticks=3))
        age(bench, 2, 2, 3)
        bench.hear(2, heartbeat(9))
        bench.committing_leader()
        self.assertEqual([len(only(age(bench, 1, 2, 3), Heartbeat)) for _ in range(3)], [0, 0, 2])

    def test_without_a_majority(self):
        """It steps down when no majority answered within an election timeout, and names nobody."""
        for voters, heard, stays in [(3, (), False), (3, (2,), True), (5, (2,), False), (5, (4, 5), True)]:
            bench = leading(voters=voters)
            age(bench, TICKS - 1, *range(2, voters + 1))
            bench.tick()
            sent = age(bench, TICKS - 1, *heard)
            self.assertIs(bench.raft.role, Role.LEADER)
            sent += bench.tick()
            self.assertIs(bench.raft.role, Role.LEADER if stays else Role.FOLLOWER, (voters, heard))
            self.assertEqual(only(sent, TimeoutNow), [])
            self.assertEqual(bench.raft.leader, 1 if stays else 0)

    def test_new_leader_without_answers(self):
        """A new leader has a whole election timeout to be answered, and steps down without."""
        bench = Bench()
        bench.leader()
        bench.tick(TICKS - 1)
        self.assertIs(bench.raft.role, Role.LEADER)
        bench.tick()
        self.assertIs(bench.raft.role, Role.FOLLOWER)

    def test_learners_are_no_majority(self):
        """Answers of learners keep no leader in office."""
        bench = leading(learners=2)
        age(bench, 2 * TICKS, 4, 5)
        self.assertIs(bench.raft.role, Role.FOLLOWER)

    def test_newcomers_have_time(self):
        """A newcomer counts as heard until the second look, so that it can answer before."""
        bench = Bench(voters=1)
        new = bench.raft.configuration.with_member("n2", bytes(16), 2)
        bench.raft.propose_configuration(new, 0)
        bench.out()
        self.assertTrue(bench.raft.is_heard(2))
        self.assertTrue(bench.raft.followers[2].active)

    def test_any_answer_is_heard(self):
        """An append's answer, good or bad, is a sign of life as a heartbeat's is; each lasts as long."""
        for message in (heartbeat_reply(2), holds(2, 2), rejects(2, 1, 1, 1)):
            bench = leading()
            age(bench, TICKS, 2)
            self.assertFalse(bench.raft.is_heard(3))
            bench.hear(3, message)
            age(bench, TICKS - 1, 2)
            self.assertTrue(bench.raft.is_heard(3), message)
            age(bench, 1, 2)
            self.assertFalse(bench.raft.is_heard(3), message)

    def test_answers_keep_it_in_office(self):
        """So does each for the majority."""
        for message in (heartbeat_reply(2), holds(2, 2), rejects(2, 1, 1, 1)):
            bench = leading()
            age(bench, TICKS, 2)
            bench.hear(3, message)
            bench.tick(TICKS)
            self.assertIs(bench.raft.role, Role.LEADER, message)
            bench.tick(TICKS)
            self.assertIs(bench.raft.role, Role.FOLLOWER, message)

    def test_clock(self):
        """The wall clock is that of the last tick that told it."""
        bench = Bench(now=5)
        for now, expected in [(None, 5), (70, 70), (0, 70), (60, 60)]:
            bench.raft.tick() if now is None else bench.raft.tick(now)
            [(_, reply)] = bench.hear(2, heartbeat(2))
            self.assertEqual(reply.timestamp, expected)

    def test_caught_up(self):
        """A follower keeps up that has, within an election timeout, what was appended."""
        for late, keeps_up in [(0, True), (TICKS, True), (TICKS + 1, False)]:
            bench = leading(learners=1)
            learner = bench.raft.followers[4]
            for _ in range(3 * TICKS):
                bench.raft.propose(RECORD, 0)
                learner.match_index = max(learner.match_index, bench.raft.last_index - late)
                learner.next_index = learner.match_index + 1
                age(bench, 1, 2, 3)
            self.assertEqual(bench.raft.is_caught_up(4), keeps_up, late)

    def test_probed_follower_is_not_caught_up(self):
        """One whose log is looked for is not, however near it was; it begins anew."""
        bench = leading(learners=1)
        age(bench, TICKS, 2, 3)
        self.assertTrue(bench.raft.is_caught_up(4))
        bench.raft.followers[4].become_probe()
        age(bench, 1, 2, 3)
        self.assertFalse(bench.raft.is_caught_up(4))
        bench.hear(4, holds(2, 2))
        age(bench, TICKS - 1, 2, 3)
        self.assertFalse(bench.raft.is_caught_up(4))
        age(bench, 1, 2, 3)
        self.assertTrue(bench.raft.is_caught_up(4))


class TransferTests(SynchronousTestCase):
    """How long a transfer lasts."""

    def test_ends(self):
        """After an election timeout the leader takes proposals again, and can hand over anew."""
        for _ in range(2):
            bench = leading()
            age(bench, 7, 2, 3)  # its time does not begin before it is asked for
            for _ in range(2):
                bench.raft.transfer_leadership(2)
                age(bench, TICKS - 1, 2, 3)
                with self.assertRaises(UnavailableError):
                    bench.raft.propose(RECORD, 0)
                age(bench, 1, 2, 3)
                self.assertEqual(bench.raft.transfer_target, 0)
            bench.raft.propose(RECORD, 0)

    def test_target_heard_long_ago(self):
        """A target is refused from an election timeout of silence on, and taken before."""
        for silent, is_taken in [(TICKS - 1, True), (TICKS, False)]:
            bench = leading()
            age(bench, silent, 2)
            if is_taken:
                bench.raft.transfer_leadership(3)
            else:
                self.assertRaises(MembershipError, bench.raft.transfer_leadership, 3)
            age(bench, 1, 2)
            self.assertEqual(bench.raft.best_successor, 2)

    def test_best_successor_heard_long_ago(self):
        """Nobody is a successor from an election timeout of silence on."""
        bench = leading()
        bench.raft.followers[2].match_index = 1  # so 3 is better
        age(bench, TICKS - 1, 2)
        self.assertEqual(bench.raft.best_successor, 3)
        age(bench, 1, 2)
        self.assertEqual(bench.raft.best_successor, 2)


class SnapshotTests(SynchronousTestCase):
    """How long a leader waits for the answer to a snapshot."""

    def test_probed_again(self):
        """After `snapshot_ticks` and an answer to a heartbeat it looks again what the follower holds."""
        bench = Bench(terms=(1, 1, 1), config=RaftConfig(snapshot_ticks=4))
        bench.leader()
        bench.hear(2, holds(2, 5))
        bench.node.log.trim_prefix(4)
        self.assertEqual(len(only(bench.hear(3, rejects(2, 4, 1, 1)), InstallSnapshot)), 1)
        for _ in range(2):
            for _ in range(3):
                bench.tick()
                sent = bench.hear(3, heartbeat_reply(2, last_index=1))
                self.assertEqual(only(sent, AppendEntries), [])
                self.assertIs(bench.raft.followers[3].state, ProgressState.SNAPSHOT)
            bench.tick()
            sent = bench.hear(3, heartbeat_reply(2, last_index=1))
            [(_, message)] = only(sent, AppendEntries)
            self.assertEqual((message.prev_log_index, [e.index for e in message.entries]), (3, [4]))
            sent = bench.hear(3, rejects(2, 3, 1, 1))
            self.assertEqual(len(only(sent, InstallSnapshot)), 1)


class ReadTests(SynchronousTestCase):
    """How long a follower waits for the answer to a read."""

    def test_fails(self):
        """A read fails an election timeout after the leader was asked, and not before."""
        bench = Bench()
        bench.hear(2, heartbeat(2))
        read = bench.raft.read_index()
        self.assertEqual(len(only(bench.out(), ReadIndex)), 1)
        for _ in range(TICKS - 1):
            bench.tick()
            bench.hear(2, heartbeat(2))
            self.assertNotIn(read, bench.node.reads)
        bench.tick()
        self.assertIsNone(bench.node.reads[read])


class VoteTests(SynchronousTestCase):
    """Who hears a leader votes for nobody."""

    def test_until(self):
        """Until an election timeout of silence, pre-vote or vote; then it answers, and may grant it."""
        for pre_vote in (False, True):
            bench = Bench()
            bench.hear(2, heartbeat(1))
            bench.tick(TICKS - 1)
            self.assertEqual(bench.hear(3, ask_vote(7, pre_vote=pre_vote)), [])
            self.assertEqual(bench.node.refusals["vote request while there is a leader"], 1)
            bench.tick()
            bench.raft.role = Role.FOLLOWER
            [(_, reply)] = bench.hear(3, ask_vote(7, pre_vote=pre_vote))
            self.assertTrue(reply.granted)

    def test_the_leader_itself(self):
        """The leader that is heard may ask for a vote in a newer term: it is a leader no more."""
        bench = Bench()
        bench.hear(2, heartbeat(1))
        [(_, reply)] = bench.hear(2, ask_vote(7))
        self.assertTrue(reply.granted)

    def test_granted_vote_of_a_leader_that_lost(self):
        """A campaign ends with a majority of refusals, and another begins after its time."""
        bench = Bench()
        bench.candidate()
        for voter in (2, 3):
            self.assertIs(bench.raft.role, Role.CANDIDATE)
            bench.hear(voter, vote_reply(2, granted=False))
        self.assertIs(bench.raft.role, Role.FOLLOWER)
        self.assertEqual(len(only(bench.campaign(), RequestVote)), 2)
