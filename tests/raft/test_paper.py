"""The Raft paper, sentence by sentence: figure 2 and sections 5.1 to 5.4.

"In Search of an Understandable Consensus Algorithm (Extended Version)", Ongaro and Ousterhout, 2014. Each
test's sentence is ours; the section it comes from stands behind it. Where this core differs, the test says
so. Sections 5.5 to 8 are in `test_paper_later.py`.
"""

from twisted.trial.unittest import SynchronousTestCase

from loghouse.errors import NotLeaderError
from loghouse.protocol.entry import EntryKind
from loghouse.protocol.hard_state import HardState
from loghouse.protocol.raft_messages import (
    AppendEntries,
    AppendEntriesReply,
    Heartbeat,
    RequestVote,
    RequestVoteReply,
)
from loghouse.raft.ready import Proposal, Role
from tests.raft.group import Group, entry
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


def granted(sent):
    """Whether the one vote answer in `sent` grants."""
    [(_, reply)] = only(sent, RequestVoteReply)
    return reply.granted


def answer(sent):
    """The one append answer in `sent`."""
    [(_, reply)] = only(sent, AppendEntriesReply)
    return reply


class Figure2StateTests(SynchronousTestCase):
    """Figure 2, State."""

    def test_persistent_state_is_written_before_answers(self):
        """Term, vote and log are on stable storage before a server answers. Figure 2, State."""
        bench = Bench()
        bench.node.disk = False
        self.assertEqual(bench.hear(2, ask_vote(2)), [])
        self.assertEqual(bench.readies[-1].hard_state, HardState(2, 2))
        bench.group.finish_writes(1)
        self.assertTrue(granted(bench.out()))
        self.assertEqual(bench.hear(2, append(2, 1, 1, [entry(2, 2)])), [])
        self.assertEqual([e.index for e in bench.readies[-1].entries], [2])
        bench.group.finish_writes(1)
        self.assertTrue(answer(bench.out()).success)

    def test_persistent_state_survives_restart(self):
        """A restarted server knows its term, its vote and its log. Figure 2, State."""
        bench = Bench()
        bench.hear(2, ask_vote(5))
        bench.hear(2, append(5, 1, 1, [entry(2, 5)]))
        bench.restart()
        self.assertEqual((bench.raft.term, bench.raft.vote, bench.terms()), (5, 2, [5]))
        self.assertFalse(granted(bench.hear(3, ask_vote(5, 9, 5))))

    def test_vote_in_a_known_term_survives_restart(self):
        """A vote is kept also when its term was known and durable before. Figure 2, State."""
        bench = Bench()
        bench.hear(2, vote_reply(4, granted=False))
        bench.candidate()
        bench.hear(2, vote_reply(6, granted=False))
        self.assertEqual((bench.raft.term, bench.raft.vote), (6, 0))
        self.assertTrue(granted(bench.hear(3, ask_vote(6))))
        bench.restart()
        self.assertFalse(granted(bench.hear(2, ask_vote(6, 9, 6))))

    def test_own_vote_counts_when_durable(self):
        """A candidate's vote for itself counts no earlier than anybody else's. Figure 2, State."""
        bench = Bench()
        bench.campaign()
        bench.node.disk = False
        sent = bench.hear(2, vote_reply(2, pre_vote=True))
        self.assertEqual((bench.raft.role, sent), (Role.CANDIDATE, []))
        bench.hear(2, vote_reply(2))
        self.assertIs(bench.raft.role, Role.CANDIDATE)
        bench.group.finish_writes(1)
        self.assertIs(bench.raft.role, Role.LEADER)

    def test_leader_counts_itself_when_durable(self):
        """A leader holds an entry when its own disk does. Figure 2, State; thesis 10.2.1."""
        for helps in ("own disk", "other follower"):
            bench = Bench().committing_leader()
            bench.node.disk = False
            index = bench.raft.propose(Proposal(payload=b"x", record_count=1), 0).index
            bench.out()
            bench.hear(2, holds(2, index))
            self.assertLess(bench.raft.commit_index, index)
            if helps == "own disk":
                bench.group.finish_writes(1)
            else:
                bench.hear(3, holds(2, index))
            self.assertEqual(bench.raft.commit_index, index, helps)

    def test_commit_index_starts_at_zero_and_rises(self):
        """The commit index begins at 0 and never falls. Figure 2, State."""
        bench = Bench(terms=(1, 1))
        self.assertEqual(bench.raft.commit_index, 0)
        bench.hear(2, append(1, 3, 1, commit_index=3))
        bench.hear(2, append(1, 3, 1, commit_index=1))
        bench.hear(2, heartbeat(1, 0))
        self.assertEqual(bench.raft.commit_index, 3)

    def test_commit_index_may_start_at_the_watermark(self):
        """We differ: a commit index known from the disk is taken up. Figure 2, State."""
        bench = Bench(terms=(1, 1), commit_index=2)
        self.assertEqual(bench.raft.commit_index, 2)
        bench.hear(2, heartbeat(1, 3))
        self.assertEqual([e.index for e in bench.node.committed], [3])

    def test_next_index_starts_behind_the_leaders_log(self):
        """A leader first sends from behind its own last entry. Figure 2, State."""
        bench = Bench(terms=(1, 1))
        sent = bench.leader()
        [(_, first), _] = only(sent, AppendEntries)
        self.assertEqual((first.prev_log_index, first.prev_log_term), (3, 1))

    def test_match_index_starts_at_zero_and_rises(self):
        """What followers hold is unknown at first, and rises as they say so. Figure 2, State."""
        bench = Bench()
        bench.leader()
        self.assertEqual(bench.raft.followers[2].match_index, 0)
        bench.hear(2, holds(2, 2))
        bench.hear(2, holds(2, 1))
        self.assertEqual(bench.raft.followers[2].match_index, 2)


class Figure2AppendEntriesTests(SynchronousTestCase):
    """Figure 2, AppendEntries RPC, receiver implementation."""

    def test_old_term_is_refused(self):
        """1. Reply false if term < currentTerm. 5.1."""
        bench = Bench(term=3)
        reply = answer(bench.hear(2, append(2, 1, 1, [entry(2, 2)])))
        self.assertEqual((reply.success, reply.term), (False, 3))
        self.assertEqual(bench.raft.last_index, 1)
        self.assertEqual(bench.raft.leader, 0)

    def test_missing_previous_entry_is_refused(self):
        """2. Reply false if the log has no entry at prevLogIndex. 5.3."""
        bench = Bench(terms=(1,))
        reply = answer(bench.hear(2, append(1, 3, 1, [entry(4, 1)])))
        self.assertEqual((reply.success, reply.index), (False, 3))
        self.assertEqual(bench.raft.last_index, 2)

    def test_other_term_at_previous_entry_is_refused(self):
        """2. Reply false if the entry at prevLogIndex has another term. 5.3."""
        bench = Bench(terms=(1, 1))
        reply = answer(bench.hear(2, append(2, 3, 2, [entry(4, 2)])))
        self.assertFalse(reply.success)
        self.assertEqual(bench.terms(), [1, 1])

    def test_conflict_cuts_the_entry_and_all_behind_it(self):
        """3. A conflicting entry is deleted with all that follow it. 5.3."""
        bench = Bench(terms=(1, 1, 1, 1))
        bench.hear(2, append(2, 2, 1, [entry(3, 2)]))
        self.assertEqual(bench.terms(), [1, 2])
        self.assertEqual(bench.readies[-1].truncate_after, 2)

    def test_same_entries_cut_nothing(self):
        """3. Entries already there do not cut those behind them (a late message). 5.3."""
        bench = Bench(terms=(1, 1, 1))
        reply = answer(bench.hear(2, append(1, 1, 1, [entry(2, 1)])))
        self.assertEqual((reply.success, reply.index), (True, 2))
        self.assertEqual(bench.terms(), [1, 1, 1])

    def test_new_entries_are_appended(self):
        """4. Entries not in the log are appended. 5.3."""
        bench = Bench(terms=(1,))
        reply = answer(bench.hear(2, append(2, 1, 1, [entry(2, 1), entry(3, 2), entry(4, 2)])))
        self.assertEqual((reply.success, reply.index), (True, 4))
        self.assertEqual(bench.terms(), [1, 2, 2])

    def test_commit_index_follows_the_leader_up_to_the_last_new_entry(self):
        """5. commitIndex = min(leaderCommit, index of last new entry). 5.3."""
        bench = Bench(terms=(1, 1, 1))
        bench.hear(2, append(1, 1, 1, [entry(2, 1)], commit_index=9))
        # 3 and 4 are not known to be the leader's, whatever it committed.
        self.assertEqual(bench.raft.commit_index, 2)
        bench.hear(2, append(1, 2, 1, [entry(3, 1), entry(4, 1)], commit_index=3))
        self.assertEqual(bench.raft.commit_index, 3)


class Figure2RequestVoteTests(SynchronousTestCase):
    """Figure 2, RequestVote RPC, receiver implementation."""

    def test_old_term_is_refused(self):
        """1. Reply false if term < currentTerm. 5.1."""
        bench = Bench(term=3)
        [(_, reply)] = bench.hear(2, ask_vote(2, 9, 2))
        self.assertEqual((reply.granted, reply.term), (False, 3))

    def test_vote_is_granted_once_a_term(self):
        """2. Grant if votedFor is null or candidateId. 5.2."""
        bench = Bench()
        self.assertTrue(granted(bench.hear(2, ask_vote(2))))
        self.assertFalse(granted(bench.hear(3, ask_vote(2))))
        self.assertTrue(granted(bench.hear(2, ask_vote(2))), "the same candidate again")
        self.assertTrue(granted(bench.hear(3, ask_vote(3))), "another term")

    def test_log_must_be_up_to_date(self):
        """2. Grant only if the candidate's log is at least as up to date. 5.4."""
        rows = [(3, 2, True), (4, 2, True), (2, 2, False), (9, 1, False), (1, 3, True)]
        for last_index, last_term, expected in rows:
            bench = Bench(terms=(1, 2))
            self.assertEqual(
                granted(bench.hear(2, ask_vote(5, last_index, last_term))), expected, (last_index, last_term)
            )


class Figure2RulesTests(SynchronousTestCase):
    """Figure 2, Rules for Servers."""

    def test_committed_entries_are_delivered_in_order(self):
        """If commitIndex > lastApplied, entries are applied in order, each once. 5.3."""
        bench = Bench(terms=(1, 1, 1))
        bench.hear(2, heartbeat(1, 2))
        bench.hear(2, heartbeat(1, 2))
        bench.hear(2, heartbeat(1, 4))
        self.assertEqual([e.index for e in bench.node.committed], [1, 2, 3, 4])

    def test_newer_term_makes_a_follower(self):
        """A newer term in any request or answer makes a follower of that term. 5.1."""
        newer = {
            "append": append(9, 1, 1),
            "heartbeat": heartbeat(9),
            "vote request": ask_vote(9),
            "append answer": holds(9, 1),
            "heartbeat answer": heartbeat_reply(9),
        }
        for name, message in newer.items():
            bench = Bench()
            bench.leader()
            if name == "vote request":
                # We differ (section 6): not while the leader hears its followers.
                bench.hear(2, message)
                self.assertIs(bench.raft.role, Role.LEADER)
                continue
            bench.hear(2, message)
            self.assertEqual((bench.raft.role, bench.raft.term), (Role.FOLLOWER, 9), name)
        bench = Bench()
        bench.candidate()
        bench.hear(2, vote_reply(9, granted=False))
        self.assertEqual((bench.raft.role, bench.raft.term), (Role.FOLLOWER, 9))

    def test_followers_answer(self):
        """Followers respond to requests of candidates and leaders. 5.2."""
        bench = Bench()
        self.assertEqual(len(bench.hear(2, ask_vote(2))), 1)
        self.assertEqual(len(bench.hear(2, append(2, 1, 1))), 1)
        self.assertEqual(len(bench.hear(2, heartbeat(2))), 1)

    def test_silence_makes_a_candidate(self):
        """An election timeout without append or granted vote starts an election. 5.2."""
        bench = Bench()
        sent = bench.tick(2 * bench.group.config.election_ticks)
        # We differ: the first question is the pre-vote.
        self.assertEqual([m.pre_vote for _, m in only(sent, RequestVote)], [True, True])

    def test_appends_and_granted_votes_keep_a_follower_quiet(self):
        """Appends of the current leader and granted votes restart the timer. 5.2."""
        bench = Bench()
        for _ in range(10):
            bench.tick(5)
            bench.hear(2, append(2, 1, 1))
        for term in range(3, 13):
            bench.tick(9)
            bench.raft.leader = 0
            self.assertTrue(granted(bench.hear(3, ask_vote(term))))
        self.assertEqual(only(bench.tick(5), RequestVote), [])

    def test_candidate_begins_an_election(self):
        """A candidate increments its term, votes for itself, and asks all others. 5.2."""
        bench = Bench(voters=5)
        sent = bench.candidate()
        self.assertEqual((bench.raft.term, bench.raft.vote), (2, 1))
        self.assertEqual(bench.readies[-1].hard_state, HardState(2, 1))
        self.assertEqual([target for target, _ in only(sent, RequestVote)], [2, 3, 4, 5])
        self.assertEqual({m.term for _, m in sent}, {2})

    def test_candidate_restarts_its_timer(self):
        """A candidate's timer starts anew with the election. 5.2."""
        bench = Bench()
        bench.candidate()
        self.assertEqual(only(bench.tick(bench.group.config.election_ticks - 1), RequestVote), [])

    def test_majority_makes_a_leader(self):
        """Votes of a majority make a leader. 5.2."""
        bench = Bench(voters=5)
        bench.candidate()
        bench.hear(2, vote_reply(2))
        self.assertIs(bench.raft.role, Role.CANDIDATE)
        bench.hear(3, vote_reply(2))
        self.assertIs(bench.raft.role, Role.LEADER)

    def test_append_of_a_new_leader_makes_a_follower(self):
        """A candidate that hears a leader of its own term follows it. 5.2."""
        for message in (append(2, 1, 1), heartbeat(2)):
            bench = Bench()
            bench.candidate()
            bench.hear(3, message)
            self.assertEqual((bench.raft.role, bench.raft.leader, bench.raft.term), (Role.FOLLOWER, 3, 2))

    def test_election_timeout_begins_another_election(self):
        """A candidate whose election runs out begins another. 5.2."""
        bench = Bench()
        bench.candidate()
        self.assertEqual(len(only(bench.tick(20), RequestVote)) % 2, 0)
        self.assertIn(bench.raft.role, (Role.PRE_CANDIDATE, Role.CANDIDATE))

    def test_new_leader_sends_heartbeats_at_once_and_ever_after(self):
        """A leader sends heartbeats upon election, and again while idle. 5.2."""
        bench = Bench()
        self.assertEqual([t for t, _ in only(bench.leader(), Heartbeat)], [2, 3])
        for _ in range(5):
            self.assertEqual([t for t, _ in only(bench.tick(), Heartbeat)], [2, 3])

    def test_leader_answers_after_commit(self):
        """A command is appended, and answered once its entry is committed. 5.3."""
        bench = Bench().committing_leader()
        ticket = bench.raft.propose(Proposal(payload=b"x", record_count=1), 0)
        bench.out()
        self.assertLess(bench.raft.commit_index, ticket.index)
        bench.hear(3, holds(2, ticket.index))
        self.assertEqual(bench.raft.commit_index, ticket.index)
        self.assertEqual(bench.node.committed[-1].index, ticket.index)

    def test_leader_sends_from_next_index(self):
        """A follower that lacks entries gets them from its nextIndex on. 5.3."""
        bench = Bench(terms=(1, 1, 1)).committing_leader()
        sent = bench.hear(2, heartbeat_reply(2, last_index=2))
        messages = [message for _, message in only(sent, AppendEntries)]
        self.assertEqual(messages[0].prev_log_index, 2)
        self.assertEqual([e.index for message in messages for e in message.entries][:2], [3, 4])

    def test_success_raises_next_and_match(self):
        """Success updates nextIndex and matchIndex. 5.3."""
        bench = Bench(terms=(1, 1))
        bench.leader()
        bench.hear(2, holds(2, 4))
        progress = bench.raft.followers[2]
        self.assertEqual((progress.match_index, progress.next_index), (4, 5))

    def test_refusal_lowers_next_and_tries_again(self):
        """A refusal lowers nextIndex, and the append is sent again. 5.3."""
        bench = Bench(terms=(1, 1, 1))
        bench.leader()
        [(_, message)] = only(bench.hear(2, rejects(2, 4, 2, 1)), AppendEntries)
        self.assertEqual((message.prev_log_index, message.entries[0].index), (2, 3))

    def test_majority_commits_entries_of_the_own_term_only(self):
        """commitIndex = N if a majority holds N and log[N].term is the current term. 5.3, 5.4."""
        bench = Bench(terms=(1, 1))
        bench.leader()
        bench.hear(2, holds(2, 3))
        self.assertEqual(bench.raft.commit_index, 0)
        bench.hear(2, holds(2, 4))
        self.assertEqual(bench.raft.commit_index, 4)


class Section51Tests(SynchronousTestCase):
    """5.1: servers, terms, roles."""

    def test_one_leader_a_term(self):
        """A term has at most one leader. 5.1, 5.2."""
        group = Group(3).settle()
        group.elect(1)
        group.elect(2)
        self.assertEqual(group[2].term, 3)
        self.assertIs(group[1].role, Role.FOLLOWER)

    def test_only_leaders_take_commands(self):
        """Followers do not append; they name the leader. 5.1."""
        bench = Bench()
        bench.hear(2, heartbeat(1))
        with self.assertRaises(NotLeaderError) as caught:
            bench.raft.propose(Proposal(payload=b"x", record_count=1), 0)
        self.assertEqual(caught.exception.leader, "n2")

    def test_followers_are_passive(self):
        """Followers send nothing of their own while they hear a leader. 5.1."""
        bench = Bench()
        bench.hear(2, heartbeat(1))
        self.assertEqual(bench.tick(9), [])

    def test_terms_rise_and_are_exchanged(self):
        """Each message carries its sender's term, and terms only rise. 5.1."""
        bench = Bench(term=5)
        [(_, reply)] = bench.hear(2, append(3, 1, 1))
        self.assertEqual(reply.term, 5)
        [(_, reply)] = bench.hear(2, heartbeat(7))
        self.assertEqual((reply.term, bench.raft.term), (7, 7))

    def test_repeated_messages_are_harmless(self):
        """Messages may be sent again; doing them twice is doing them once. 5.1, 5.5."""
        bench = Bench(terms=(1,))
        message = append(2, 2, 1, [entry(3, 2), entry(4, 2)], commit_index=3)
        for _ in range(3):
            self.assertTrue(answer(bench.hear(2, message)).success)
        self.assertEqual((bench.terms(), bench.raft.commit_index), ([1, 2, 2], 3))


class Section52Tests(SynchronousTestCase):
    """5.2: leader election."""

    def test_servers_start_as_followers(self):
        """A server starts as a follower. 5.2."""
        self.assertIs(Bench().raft.role, Role.FOLLOWER)

    def test_heartbeats_carry_no_entries(self):
        """Heartbeats carry no entries: here they are a message of their own. 5.2."""
        bench = Bench().committing_leader()
        bench.raft.propose(Proposal(payload=b"x", record_count=1), 0)
        bench.out()
        self.assertEqual({type(m) for _, m in bench.tick()}, {Heartbeat})

    def test_split_vote_ends_in_another_election(self):
        """When votes split, nobody wins, and a new election follows. 5.2."""
        group = Group(4).settle()
        for id_ in (1, 2):
            group.forget_leaders(id_)
        for id_ in (1, 2):
            group.campaign(id_, settle=False)
        group.filter = lambda e: (e.source, e.target) not in {(1, 4), (2, 3)}
        group.settle()
        self.assertFalse(any(node.raft.role is Role.LEADER for node in group.nodes.values()))
        group.filter = None
        group.tick(60)
        self.assertEqual(sum(node.raft.role is Role.LEADER for node in group.nodes.values()), 1)

    def test_refused_by_a_majority(self):
        """A candidate that cannot win any more follows whoever comes. 5.2."""
        bench = Bench()
        bench.candidate()
        bench.hear(2, vote_reply(2, granted=False))
        self.assertIs(bench.raft.role, Role.CANDIDATE)
        bench.hear(3, vote_reply(2, granted=False))
        self.assertIs(bench.raft.role, Role.FOLLOWER)

    def test_leader_of_older_term_is_rejected_by_a_candidate(self):
        """A candidate stays one when a leader of an older term speaks. 5.2."""
        bench = Bench()
        bench.candidate()
        self.assertFalse(answer(bench.hear(2, append(1, 1, 1))).success)
        self.assertIs(bench.raft.role, Role.CANDIDATE)

    def test_timeouts_are_random(self):
        """Election timeouts are chosen anew from an interval, and differ. 5.2."""
        group = Group(5)
        timeouts = set()
        for _ in range(40):
            for node in group.nodes.values():
                node.raft._reset_election_timer()
                timeouts.add(node.raft._election_timeout)
        self.assertEqual(timeouts, set(range(10, 20)))


class Section53Tests(SynchronousTestCase):
    """5.3: log replication."""

    def test_entries_carry_term_and_index(self):
        """An entry has the term of the leader that took it, and its index. 5.3."""
        bench = Bench().committing_leader()
        bench.raft.propose(Proposal(payload=b"x", record_count=1), 0)
        [(_, message), _] = only(bench.out(), AppendEntries)
        self.assertEqual([(e.index, e.term, e.kind) for e in message.entries], [(3, 2, EntryKind.RECORDS)])

    def test_leader_retries_until_all_hold_everything(self):
        """A leader goes on sending to slow or crashed followers, also after it answered. 5.3."""
        group = Group(3).settle()
        group.elect(1)
        group.isolate(3)
        group.propose(1)
        group.tick(5)
        group.heal()
        group.tick(2)
        self.assertEqual(group.terms(3), group.terms(1))

    def test_commit_includes_all_before(self):
        """Committing an entry commits all before it, of earlier leaders, too. 5.3."""
        group = Group(3, terms={1: [1, 1], 2: [], 3: []}).settle()
        group.elect(1)
        self.assertEqual([n.raft.commit_index for n in group.nodes.values()], [4, 4, 4])
        self.assertEqual([e.index for e in group.nodes[2].committed], [1, 2, 3, 4])

    def test_followers_learn_the_commit_index(self):
        """The leader includes its commit index in what it sends. 5.3."""
        bench = Bench().committing_leader()
        bench.raft.propose(Proposal(payload=b"x", record_count=1), 0)
        [(_, message), _] = only(bench.out(), AppendEntries)
        self.assertEqual(message.commit_index, 2)
        # A heartbeat tells no more than the follower is known to hold.
        self.assertEqual([m.commit_index for _, m in only(bench.tick(), Heartbeat)], [2, 2])

    def test_consistency_check_names_the_entry_before(self):
        """Each append names index and term of the entry before its own. 5.3."""
        bench = Bench(terms=(1, 3, 3))
        [(_, message), _] = only(bench.leader(), AppendEntries)
        self.assertEqual((message.prev_log_index, message.prev_log_term), (4, 3))

    def test_every_log_of_figure_7_is_repaired(self):
        """Followers may lack entries, have extra ones, or both: all are repaired. 5.3, figure 7."""
        leader = [1, 1, 1, 4, 4, 5, 5, 6, 6, 6]
        for name, terms in {
            "a": [1, 1, 1, 4, 4, 5, 5, 6, 6],
            "b": [1, 1, 1, 4],
            "c": [1, 1, 1, 4, 4, 5, 5, 6, 6, 6, 6],
            "d": [1, 1, 1, 4, 4, 5, 5, 6, 6, 6, 7, 7],
            "e": [1, 1, 1, 4, 4, 4, 4],
            "f": [1, 1, 1, 2, 2, 2, 3, 3, 3, 3, 3],
        }.items():
            group = Group(3, terms={1: leader, 2: leader, 3: terms}).settle()
            group.nodes[1].raft.term = group.nodes[2].raft.term = 7
            group.isolate(3)
            group.elect(1)
            group.heal()
            group.tick(2)
            self.assertEqual(group.terms(3), [*leader, 8], name)
            self.assertEqual(group.terms(1), [*leader, 8], name)

    def test_rejection_skips_whole_terms(self):
        """A refusal names the last entry that could fit, so a term costs one message. 5.3, end."""
        bench = Bench(terms=(1, 2, 2, 2, 2))
        reply = answer(bench.hear(2, append(5, 6, 1)))
        self.assertEqual((reply.hint_index, reply.hint_term), (2, 1))
        reply = answer(bench.hear(2, append(5, 9, 4)))
        self.assertEqual((reply.hint_index, reply.hint_term), (6, 2))

    def test_leader_never_changes_its_own_log(self):
        """A leader only appends: nothing in its own term cuts its log. 5.3."""
        bench = Bench(terms=(1, 1)).committing_leader()
        before = bench.terms()
        bench.hear(2, append(bench.raft.term, 2, 1, [entry(3, 2)]))
        bench.hear(2, rejects(2, 4))
        self.assertEqual(bench.terms(), before)
        self.assertEqual(bench.node.refusals["second leader of a term"], 1)


class Section54Tests(SynchronousTestCase):
    """5.4: safety."""

    def test_up_to_date_by_term_then_length(self):
        """The later last term wins; for equal terms the longer log. 5.4.1."""
        group = Group(3, terms={1: [1, 1, 1], 2: [2], 3: [1]}).settle()
        group.campaign(1)
        self.assertIsNot(group[1].role, Role.LEADER)
        # 1 may get 3's vote only; 2 gets both.
        group = Group(3, terms={1: [1, 1, 1], 2: [2], 3: [1]}).settle()
        group.elect(2)

    def test_requests_carry_the_own_last_entry(self):
        """A vote request names the candidate's last index and term. 5.4.1."""
        bench = Bench(terms=(1, 3))
        [(_, message), _] = bench.candidate()
        self.assertEqual((message.last_log_index, message.last_log_term), (3, 3))

    def test_figure_8(self):
        """An entry of an older term on a majority is not committed by counting. 5.4.2, figure 8."""
        # (a) to (c): 1 led term 2, 5 led term 3; now 1 leads term 4 and spreads its old entry to 2 and 3.
        group = Group(5, terms={1: [2], 2: [2], 3: [], 4: [], 5: [3]}).settle()
        group.nodes[1].raft.term = 3
        group.isolate(5)
        own_no_op = group[1].last_index + 1
        group.filter = lambda e: (
            not (hasattr(e.message, "entries") and any(x.index >= own_no_op for x in e.message.entries))
        )
        group.elect(1)
        group.tick(3, ids=[1])
        self.assertEqual(group[1].commit_index, 0)
        # (e) With an entry of its own term on a majority, everything before it is committed, too.
        group.filter = None
        group.tick(2, ids=[1])
        self.assertEqual(group[1].commit_index, own_no_op)
        self.assertFalse(group.campaign(5)[5].role is Role.LEADER)
