"""The Raft paper, sentence by sentence: sections 5.5 to 8. See `test_paper.py`."""

from twisted.trial.unittest import SynchronousTestCase

from loghouse.errors import MembershipError
from loghouse.protocol.configuration import MemberRole, encode_producer
from loghouse.protocol.entry import EntryKind
from loghouse.protocol.log_state import LogState, encode_log_state
from loghouse.protocol.raft_messages import (
    AppendEntries,
    AppendEntriesReply,
    Envelope,
    Heartbeat,
    InstallSnapshot,
    RequestVote,
)
from loghouse.raft.ready import Proposal, Role
from loghouse.testing.memory_log import MemoryLog
from tests.raft.group import GROUP, Group, configuration, entry
from tests.raft.member import (
    Bench,
    append,
    ask_vote,
    heartbeat,
    heartbeat_reply,
    holds,
    only,
    rejects,
    vote_reply,
)


def snapshot(term, index, last_term, members=None, **fields):
    """A snapshot message: the log starts behind (index, last_term)."""
    state = LogState(
        index=index,
        term=last_term,
        configuration=members or configuration(3),
        configuration_index=1,
        **fields,
    )
    return InstallSnapshot(term=term, state=encode_log_state(state))


class Section55Tests(SynchronousTestCase):
    """5.5 and 5.6: crashes and timing."""

    def test_crashed_follower_is_served_when_it_is_back(self):
        """Requests to a crashed server are repeated until it answers. 5.5."""
        group = Group(3).settle()
        group.elect(1)
        group.isolate(2)
        group.propose(1)
        group.heal()
        group.start(2)
        group.tick(3)
        self.assertEqual(group[2].commit_index, group[1].commit_index)

    def test_crash_after_the_request_before_the_answer(self):
        """A request that was done but not answered is done again without harm. 5.5."""
        bench = Bench()
        message = append(2, 1, 1, [entry(2, 2)])
        bench.hear(2, message)
        bench.restart()
        [(_, reply)] = only(bench.hear(2, message), AppendEntriesReply)
        self.assertEqual((reply.success, reply.index, bench.raft.last_index), (True, 2, 2))

    def test_no_leader_without_a_majority(self):
        """Without a majority there is no leader, and no progress. 5.6."""
        group = Group(5).settle()
        group.isolate(1, 2)
        group.tick(100, ids=[1, 2])
        self.assertEqual(group[1].term, 1)
        self.assertFalse(any(group[id_].role is Role.LEADER for id_ in (1, 2)))

    def test_steady_leader(self):
        """Heartbeats well within the election timeout keep one leader in office. 5.6."""
        group = Group(5).settle()
        group.elect(1)
        group.tick(200)
        self.assertEqual((group[1].role, group[1].term), (Role.LEADER, 2))


class Section6Tests(SynchronousTestCase):
    """6: membership changes, one server at a time (the thesis, chapter 4, instead of joint consensus)."""

    def leading(self, voters=3, learners=0):
        group = Group(voters, learners).settle()
        group.elect(1)
        return group

    def change(self, group, new, settle=True):
        ticket = group[1].propose_configuration(new, 0)
        if settle:
            group.settle()
        return ticket

    def test_configurations_are_log_entries(self):
        """A configuration is a special entry in the replicated log. 6."""
        group = self.leading()
        ticket = self.change(group, group[1].configuration.without(3))
        self.assertEqual(group.nodes[2].committed[-1].kind, EntryKind.CONFIGURATION)
        self.assertEqual(group.nodes[2].committed[-1].index, ticket.index)

    def test_counts_from_append(self):
        """A server uses the latest configuration in its log, committed or not. 6."""
        group = self.leading()
        self.change(group, group[1].configuration.without(3), settle=False)
        self.assertEqual(group[1].configuration.voters, {1, 2})
        self.assertFalse(group[1].configuration_is_committed)
        group.turn(1)
        group.filter = lambda e: e.target == 2
        group.deliver()
        self.assertEqual(group[2].configuration.voters, {1, 2})

    def test_only_one_voter_changes_at_a_time(self):
        """Two majorities that need not meet are never possible. 6."""
        group = self.leading()
        old = group[1].configuration
        with self.assertRaises(MembershipError):
            group[1].propose_configuration(old.without(2).without(3), 0)
        with self.assertRaises(MembershipError):
            group[1].propose_configuration(old.without(3).with_member("n4", bytes(16), MemberRole.VOTER), 0)

    def test_changes_do_not_overlap(self):
        """The next change waits until the last one is committed. 6."""
        group = self.leading(4)
        self.change(group, group[1].configuration.without(4), settle=False)
        with self.assertRaises(MembershipError):
            group[1].propose_configuration(group[1].configuration.without(3), 0)
        group.settle()
        self.change(group, group[1].configuration.without(3))
        self.assertEqual(group[2].configuration.voters, {1, 2})

    def test_newcomers_catch_up_without_a_vote(self):
        """New servers join as non-voting members, and count for no majority. 6."""
        group = self.leading()
        joining = group[1].configuration.with_member("n4", bytes(16), MemberRole.LEARNER)
        self.change(group, joining, settle=False)
        group.start(4, MemoryLog())
        group.settle()
        group.tick(1)
        self.assertEqual(group.terms(4), group.terms(1))
        self.assertIs(group[4].role, Role.LEARNER)
        group.isolate(2, 3)
        index = group.propose(1).index
        self.assertLess(group[1].commit_index, index)
        group.tick(60, ids=[4])
        self.assertEqual(group[4].term, 2)

    def test_leader_may_remove_itself(self):
        """A leader outside its configuration replicates, does not count itself, and then steps down. 6."""
        group = self.leading()
        ticket = self.change(group, group[1].configuration.without(1), settle=False)
        group.isolate(3)
        group.settle()
        # 1 and 2 hold it, but 1 does not count.
        self.assertLess(group[1].commit_index, ticket.index)
        self.assertIs(group[1].role, Role.LEADER)
        group.heal()
        group.tick(1)
        self.assertIsNot(group[1].role, Role.LEADER)
        self.assertGreaterEqual(group[2].commit_index, ticket.index)

    def test_somebody_can_lead_after_every_removal_of_a_leader(self):
        """In groups of every size, removing or demoting the leader leaves a group that works. 6."""
        for voters in (2, 3, 4, 5):
            for change in ("remove", "demote"):
                for reached in range(voters + 1):
                    group = self.leading(voters)
                    old = group[1].configuration
                    new = old.without(1) if change == "remove" else old.with_role(1, MemberRole.LEARNER)
                    self.change(group, new, settle=False)
                    # The change reaches only some, then the leader crashes.
                    group.filter = lambda e, reached=reached: e.target <= reached
                    group.turn(1)
                    group.deliver()
                    group.turn(2)
                    group.filter = None
                    group.start(1)
                    group.queue.clear()
                    group.tick(70)
                    leaders = [n for n in group.nodes.values() if n.raft.role is Role.LEADER]
                    self.assertEqual(len(leaders), 1, (voters, change, reached))
                    self.assertTrue(leaders[0].raft.has_own_commit)

    def test_voter_that_lost_its_vote_still_stands(self):
        """A server outside its uncommitted configuration may be needed. Thesis 4.2.2, figure 4.6."""
        group = self.leading(2)
        self.change(group, group[1].configuration.without(1), settle=False)
        group.turn(1)
        group.queue.clear()
        group.start(1)
        # 2 does not know the change and needs 1's vote, but 1's log is longer: only 1 can win.
        group.tick(60)
        self.assertIs(group[2].role, Role.LEADER)
        self.assertEqual(group[2].configuration.voters, {2})

    def test_votes_are_refused_while_a_leader_is_there(self):
        """A server that hears a leader ignores vote requests; its term stays. 6."""
        bench = Bench()
        bench.hear(2, heartbeat(1))
        bench.tick(9)
        self.assertEqual(bench.hear(3, ask_vote(7, 9, 9)), [])
        self.assertEqual(bench.raft.term, 1)
        bench.tick(1)
        self.assertEqual(len(bench.hear(3, ask_vote(7, 9, 9))), 1)
        self.assertEqual(bench.raft.term, 7)

    def test_servers_take_appends_of_a_leader_they_do_not_know(self):
        """A leader outside a server's configuration is followed. 6."""
        bench = Bench()
        [(target, reply)] = only(bench.hear(7, append(2, 1, 1, [entry(2, 2)])), AppendEntriesReply)
        self.assertEqual((target, reply.success, bench.raft.leader), (7, True, 7))

    def test_servers_vote_for_candidates_they_do_not_know(self):
        """A vote may go to a candidate outside a server's configuration. 6."""
        [(target, reply)] = Bench().hear(7, ask_vote(2))
        self.assertEqual((target, reply.granted), (7, True))

    def test_cut_restores_the_configuration_before(self):
        """A configuration that is cut from the log counts no more. 6."""
        bench = Bench(voters=4).committing_leader()
        before = bench.raft.configuration
        bench.raft.propose_configuration(before.without(4), 0)
        bench.out()
        self.assertEqual(bench.raft.configuration.voters, {1, 2, 3})
        bench.hear(2, append(9, 2, 2, [entry(3, 9)]))
        self.assertEqual(bench.raft.configuration, before)


class Section7Tests(SynchronousTestCase):
    """7: log compaction. Here a snapshot says where the log starts and what the state before that is."""

    def test_follower_behind_the_log_gets_a_snapshot(self):
        """A leader sends a snapshot when it no longer has the next entry. 7."""
        bench = Bench(terms=(1, 1, 1))
        bench.leader()
        bench.hear(2, holds(2, 5))
        bench.node.log.trim_prefix(4)
        sent = bench.hear(3, rejects(2, 4, 1, 1))
        self.assertEqual([(t, m.term) for t, m in only(sent, InstallSnapshot)], [(3, 2)])
        # Nothing more until it answers.
        self.assertEqual({type(m) for t, m in bench.tick(5) if t == 3}, {Heartbeat})
        [(_, message)] = only(bench.hear(3, holds(2, 3)), AppendEntries)[:1]
        self.assertEqual(message.prev_log_index, 3)

    def test_old_term_is_refused(self):
        """1. Reply immediately if term < currentTerm. 7, figure 13."""
        bench = Bench(term=5)
        [(_, reply)] = bench.hear(2, snapshot(4, 10, 4))
        self.assertEqual((reply.success, reply.term, bench.raft.last_index), (False, 5, 1))

    def test_log_with_the_last_entry_is_kept(self):
        """6. If the log holds the snapshot's last entry, what follows it is kept. 7, figure 13."""
        bench = Bench(terms=(1, 1, 1))
        [(_, reply)] = bench.hear(2, snapshot(2, 3, 1))
        self.assertEqual((reply.index, bench.raft.last_index, bench.raft.commit_index), (3, 4, 3))
        self.assertIsNone(bench.readies[-1].snapshot)

    def test_otherwise_the_whole_log_goes(self):
        """7. Otherwise the entire log is discarded. 7, figure 13."""
        for terms in [(1,), (1, 1, 1, 1)]:
            bench = Bench(terms=terms)
            [(_, reply)] = bench.hear(2, snapshot(3, 3, 2, next_offset=7))
            self.assertEqual((reply.success, reply.index), (True, 3))
            self.assertEqual((bench.raft.last_index, bench.node.log.first_index), (3, 4))
            self.assertEqual(bench.node.log.last_index, 3)
            self.assertEqual(bench.raft.next_offset, 7)

    def test_state_comes_from_the_snapshot(self):
        """8. State and configuration are the snapshot's. 7, figure 13."""
        bench = Bench()
        bench.hear(2, snapshot(3, 9, 2, members=configuration(5)))
        self.assertEqual(bench.raft.configuration.voters, {1, 2, 3, 4, 5})
        self.assertEqual(bench.raft.commit_index, 9)
        [(_, reply)] = bench.hear(2, append(3, 9, 2, [entry(10, 3)]))
        self.assertEqual((reply.success, bench.node.log.last_index), (True, 10))

    def test_snapshot_survives_restart(self):
        """A server started again has its log from the snapshot on. 7."""
        bench = Bench()
        bench.hear(2, snapshot(3, 9, 2))
        bench.hear(2, append(3, 9, 2, [entry(10, 3)], commit_index=9))
        bench.restart()
        self.assertEqual((bench.raft.commit_index, bench.raft.last_index), (9, 10))
        self.assertEqual(bench.raft.configuration.voters, {1, 2, 3})

    def test_retained_entries_behind_a_stale_snapshot(self):
        """A snapshot of what is already committed changes nothing. 7."""
        bench = Bench(terms=(1, 1, 1), commit_index=3)
        [(_, reply)] = bench.hear(2, snapshot(2, 2, 1))
        self.assertEqual((reply.success, reply.index, bench.raft.last_index), (True, 3, 4))

    def test_slow_disk_hides_nothing(self):
        """A snapshot counts in memory at once, and is acknowledged when it is on disk. 7."""
        bench = Bench(terms=(1, 1))
        bench.node.disk = False
        self.assertEqual(bench.hear(2, snapshot(3, 9, 2)), [])
        self.assertEqual(bench.hear(2, append(3, 9, 2, [entry(10, 3), entry(11, 3)])), [])
        self.assertEqual(bench.hear(3, append(4, 10, 3, [entry(11, 4)])), [])
        self.assertEqual((bench.raft.term_at(9), bench.raft.term_at(8), bench.raft.durable_index), (2, 0, 0))
        bench.group.finish_writes(1, 2)
        self.assertEqual(bench.raft.durable_index, 10)
        bench.group.finish_writes(1)
        self.assertEqual((bench.raft.durable_index, bench.node.log.last_index), (11, 11))


class Section8Tests(SynchronousTestCase):
    """8: client interaction."""

    def test_no_op_at_the_start_of_a_term(self):
        """A new leader commits a blank entry to learn what is committed. 8."""
        bench = Bench(terms=(1, 1))
        [(_, message), _] = only(bench.leader(), AppendEntries)
        self.assertEqual([e.kind for e in message.entries], [EntryKind.NOOP])
        bench.hear(2, holds(2, 4))
        self.assertEqual(bench.raft.commit_index, 4)

    def test_reads_wait_for_a_round_of_heartbeats(self):
        """A leader answers a read after a majority answered a heartbeat. 8."""
        bench = Bench().committing_leader()
        read = bench.raft.read_index()
        [(_, message), _] = only(bench.out(), Heartbeat)
        self.assertNotIn(read, bench.node.reads)
        bench.hear(2, heartbeat_answer(message))
        self.assertEqual(bench.node.reads[read], 2)

    def test_repeated_command_is_done_once(self):
        """A command with a serial number already seen is answered without doing it again. 8."""
        bench = Bench().committing_leader()
        producer = bench.raft.propose(
            Proposal(kind=EntryKind.PRODUCER, payload=encode_producer("root")), 0
        ).index
        batch = Proposal(payload=b"x", record_count=3, producer_id=producer, subject="root")
        first = bench.raft.propose(batch, 0)
        again = bench.raft.propose(batch, 0)
        self.assertEqual((again.index, again.base_offset, again.term), (first.index, 0, 2))
        self.assertTrue(again.duplicate)
        self.assertEqual(bench.raft.next_offset, 3)

    def test_clients_are_told_the_leader(self):
        """A follower knows the leader it heard of most recently. 8."""
        bench = Bench()
        bench.raft.step(Envelope(GROUP, 3, 1, heartbeat(4)))
        self.assertEqual(bench.raft.leader, 3)
        bench.raft.step(Envelope(GROUP, 2, 1, heartbeat(5)))
        self.assertEqual(bench.raft.leader, 2)


class PreVoteTests(SynchronousTestCase):
    """Thesis 9.6: the pre-vote."""

    def test_terms_do_not_rise_by_asking(self):
        """A pre-candidate keeps its term, and so does who is asked. Thesis 9.6."""
        bench = Bench()
        sent = bench.campaign()
        self.assertEqual((bench.raft.term, bench.raft.vote), (1, 0))
        self.assertEqual({m.term for _, m in only(sent, RequestVote)}, {2})
        other = Bench()
        [(_, reply)] = other.hear(2, ask_vote(2, pre_vote=True))
        self.assertTrue(reply.granted and reply.pre_vote)
        self.assertEqual((other.raft.term, other.raft.vote), (1, 0))

    def test_asking_in_an_old_term_is_answered_with_the_new_one(self):
        """A pre-candidate of an old term hears of the new one. Thesis 9.6."""
        [(_, reply)] = Bench(term=5).hear(2, ask_vote(3, 9, 2, pre_vote=True))
        self.assertEqual((reply.granted, reply.term), (False, 5))
        bench = Bench()
        bench.campaign()
        bench.hear(2, vote_reply(5, granted=False, pre_vote=True))
        self.assertEqual((bench.raft.role, bench.raft.term), (Role.FOLLOWER, 5))


def heartbeat_answer(message):
    """The answer of a follower that has everything."""
    return heartbeat_reply(message.term, message.read_round)
