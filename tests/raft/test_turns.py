"""What a member makes of each message and each turn: terms, votes, what is handed out, what is forgotten."""

from twisted.trial.unittest import SynchronousTestCase

from loghouse.errors import DamageError, MalformedMessageError, SequenceError
from loghouse.protocol.configuration import MemberRole, encode_configuration, encode_producer
from loghouse.protocol.entry import EntryKind
from loghouse.protocol.hard_state import HardState
from loghouse.protocol.raft_messages import (
    AppendEntriesReply,
    Envelope,
    HeartbeatReply,
    NoRoom,
    ReadIndex,
    RequestVote,
    RequestVoteReply,
    TimeoutNow,
)
from loghouse.raft.config import RaftConfig
from loghouse.raft.ready import INDEX_MAX, TERM_JUMP_MAX, Damage, Proposal, Role, SoftState
from tests.raft.group import GROUP, Group, entry
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
from tests.raft.test_paper_later import snapshot

RECORD = Proposal(payload=b"x", record_count=1)
TICKS = RaftConfig().election_ticks


def leading(**fields):
    return Bench(**fields).committing_leader()


class TermTests(SynchronousTestCase):
    """Newer and older terms."""

    def test_farthest_jump(self):
        """A term up to 2^32 newer is followed, a newer one is noise."""
        self.assertEqual(TERM_JUMP_MAX, 2**32)
        for jump, is_followed in [(2**32, True), (2**32 + 1, False)]:
            bench = Bench(term=5)
            bench.hear(2, heartbeat(5 + jump))
            self.assertEqual(bench.raft.term, 5 + jump if is_followed else 5)
            self.assertEqual(bench.node.refusals["absurd term"], 0 if is_followed else 1)

    def test_answers_in_a_newer_term(self):
        """Any answer of a member in a newer term makes a follower of it, and says no more than that."""
        for message in (
            holds(9, 2),
            rejects(9, 2, 1, 1),
            heartbeat_reply(9),
            NoRoom(term=9),
            vote_reply(9),
            vote_reply(9, granted=False),
            vote_reply(9, granted=False, pre_vote=True),
        ):
            bench = leading()
            bench.hear(2, message)
            self.assertEqual((bench.raft.role, bench.raft.term, bench.raft.leader), (Role.FOLLOWER, 9, 0))
            self.assertEqual(sum(bench.node.refusals.values()), 0, message)
            bench = leading()
            bench.hear(7, message)
            self.assertEqual((bench.raft.role, bench.raft.term), (Role.LEADER, 2))
            self.assertEqual(bench.node.refusals["newer term without reason"], 1)

    def test_granted_pre_votes_have_the_next_term(self):
        """A granted pre-vote names the term that was asked about, so it is no newer term by itself."""
        bench = leading()
        bench.hear(2, vote_reply(9, pre_vote=True))
        self.assertEqual((bench.raft.role, bench.raft.term), (Role.LEADER, 2))
        self.assertEqual(bench.node.refusals["vote not asked for, or too late"], 1)

    def test_leaders_of_an_older_term(self):
        """Each message of a leader, and each request for a vote, of an older term is told the newer one."""
        told = AppendEntriesReply(term=5, success=False, index=0, hint_index=0, hint_term=0)
        for message in (append(4, 1, 1), heartbeat(4), snapshot(4, 9, 4)):
            bench = Bench(term=5)
            self.assertEqual(bench.hear(2, message), [(2, told)])
            self.assertEqual(bench.raft.leader, 0)
        for pre_vote in (False, True):
            bench = Bench(term=5)
            found = bench.hear(2, ask_vote(4, 9, 9, pre_vote=pre_vote))
            self.assertEqual(found, [(2, RequestVoteReply(term=5, granted=False, pre_vote=pre_vote))])

    def test_bounds_of_a_snapshot(self):
        """A snapshot is of terms from 1 to the leader's, and of indices and offsets that leave room."""
        self.assertEqual(INDEX_MAX, 2**63)
        for index, term, offset, is_taken in [
            (9, 1, 0, True),
            (9, 3, 0, True),
            (9, 4, 0, False),
            (9, 0, 0, False),
            (2**63 - 1, 3, 2**63 - 1, True),
            (2**63, 3, 0, False),
            (9, 3, 2**63, False),
        ]:
            bench = Bench()
            message = snapshot(3, index, term, next_offset=offset)
            if is_taken:
                bench.hear(2, message)
                self.assertEqual((bench.raft.last_index, bench.raft.next_offset), (index, offset))
            else:
                with self.assertRaises(MalformedMessageError):
                    bench.raft.step(Envelope(GROUP, 2, 1, message))
                self.assertEqual(bench.raft.last_index, 1)


class VoteTests(SynchronousTestCase):
    """Which votes count."""

    def test_pre_votes(self):
        """Of the pre-votes count grants in the next term, and refusals in the own one, of voters."""
        for source, message, role in [
            (2, vote_reply(2, pre_vote=True), Role.CANDIDATE),
            (2, vote_reply(1, pre_vote=True), Role.PRE_CANDIDATE),
            (2, vote_reply(3, pre_vote=True), Role.PRE_CANDIDATE),
            (2, vote_reply(2), Role.FOLLOWER),
            (4, vote_reply(2, pre_vote=True), Role.PRE_CANDIDATE),
        ]:
            bench = Bench(learners=1)
            bench.campaign()
            bench.hear(source, message)
            self.assertIs(bench.raft.role, role, message)
        bench = Bench()
        bench.campaign()
        for source in (2, 3):
            self.assertIs(bench.raft.role, Role.PRE_CANDIDATE)
            bench.hear(source, vote_reply(1, granted=False, pre_vote=True))
        self.assertEqual((bench.raft.role, bench.raft.term), (Role.FOLLOWER, 1))

    def test_votes(self):
        """Of the votes count those of the own term, of voters, and of each the first."""
        for source, message, role in [
            (2, vote_reply(2), Role.LEADER),
            (2, vote_reply(2, pre_vote=True), Role.CANDIDATE),
            (4, vote_reply(2), Role.CANDIDATE),
            (9, vote_reply(2), Role.CANDIDATE),
        ]:
            bench = Bench(learners=1)
            bench.candidate()
            bench.hear(source, message)
            self.assertIs(bench.raft.role, role, message)
        bench = Bench(voters=5)
        bench.candidate()
        for granted in (False, True, True):
            bench.hear(2, vote_reply(2, granted=granted))
        bench.hear(3, vote_reply(2))
        self.assertIs(bench.raft.role, Role.CANDIDATE)
        bench.hear(4, vote_reply(2))
        self.assertIs(bench.raft.role, Role.LEADER)

    def test_what_is_asked(self):
        """Candidates tell the last entry of their log, to every other voter."""
        bench = Bench(terms=(1, 3), voters=3, learners=1)
        for sent, term, pre_vote in [
            (bench.campaign(), 4, True),
            (bench.hear(2, vote_reply(4, pre_vote=True)), 4, False),
        ]:
            asked = RequestVote(
                term=term, last_log_index=3, last_log_term=3, pre_vote=pre_vote, transfer=False
            )
            self.assertEqual(only(sent, RequestVote), [(2, asked), (3, asked)])

    def test_answers(self):
        """A pre-vote changes nothing; a vote is given once a term, and told when it is durable."""
        bench = Bench(terms=(1, 2))
        for message, reply in [
            (ask_vote(3, 3, 2, pre_vote=True), vote_reply(3, pre_vote=True)),
            (ask_vote(3, 2, 2, pre_vote=True), vote_reply(2, granted=False, pre_vote=True)),
            (ask_vote(2, 9, 9, pre_vote=True), vote_reply(2, granted=False, pre_vote=True)),
            (ask_vote(3, 2, 2), vote_reply(3, granted=False)),
            (ask_vote(3, 3, 2), vote_reply(3)),
            (ask_vote(3, 3, 2), vote_reply(3)),
        ]:
            self.assertEqual(bench.hear(2, message), [(2, reply)])
        self.assertEqual(bench.hear(3, ask_vote(3, 9, 3)), [(3, vote_reply(3, granted=False))])
        self.assertEqual((bench.raft.term, bench.raft.vote), (3, 2))

    def test_damaged_member(self):
        """A member whose log lost its end votes as if it had it, until it is as long again."""
        damage = Damage(last_index=4, last_term=2)
        for last_index, last_term, is_granted in [(4, 2, True), (3, 2, False), (9, 1, False), (1, 3, True)]:
            bench = Bench(terms=(1,), term=2, damage=damage)
            [(_, reply)] = bench.hear(2, ask_vote(5, last_index, last_term))
            self.assertEqual(reply.granted, is_granted, (last_index, last_term))
        bench = Bench(terms=(1,), term=2, damage=damage)
        bench.hear(2, append(2, 2, 1, [entry(3, 2)]))
        self.assertEqual((bench.raft.damage, bench.raft.may_campaign), (damage, False))
        bench.hear(2, append(2, 3, 2, [entry(4, 2)]))
        self.assertEqual((bench.raft.damage, bench.raft.may_campaign), (None, True))
        self.assertIsNone(Bench(terms=(1, 2, 2), damage=damage).raft.damage)
        self.assertIsNotNone(Bench(terms=(1, 1, 1), term=2, damage=damage).raft.damage)

    def test_own_vote(self):
        """The own vote counts when it is on disk, not when something before it is."""
        bench = Bench()
        bench.hear(2, heartbeat(1))
        bench.node.disk = False
        bench.hear(2, append(1, 1, 1, [entry(2, 1)]))
        bench.hear(2, TimeoutNow(term=1))
        bench.hear(3, vote_reply(2))
        self.assertIs(bench.raft.role, Role.CANDIDATE)
        bench.group.finish_writes(1, 1)
        self.assertIs(bench.raft.role, Role.CANDIDATE)
        bench.group.finish_writes(1)
        self.assertIs(bench.raft.role, Role.LEADER)

    def test_old_vote(self):
        """A lone voter whose disk stalled leads again by another election, not by its old vote."""
        bench = Bench(voters=1)
        bench.node.disk = False
        bench.raft.propose(RECORD, 0)
        bench.out()
        bench.tick(TICKS)
        self.assertEqual((bench.raft.role, bench.raft.term), (Role.FOLLOWER, 2))
        bench.group.finish_writes(1)
        self.assertEqual((bench.raft.role, bench.raft.term), (Role.FOLLOWER, 2))
        bench.node.disk = True
        bench.tick()
        self.assertEqual((bench.raft.role, bench.raft.term), (Role.LEADER, 3))

    def test_removed(self):
        """Who lost its vote does not stand once that is committed; before, it may have to."""
        new = Bench().raft.configuration.without(1)
        for commit_index, stands in [(1, True), (2, False)]:
            bench = Bench()
            payload = encode_configuration(new)
            bench.hear(
                2, append(1, 1, 1, [entry(2, 1, EntryKind.CONFIGURATION, payload=payload)], commit_index)
            )
            self.assertEqual(bench.raft.role, Role.LEARNER)
            self.assertIs(bench.raft.may_campaign, stands)

    def test_hand_over(self):
        """Only the leader that is known can hand over, and only to one that may stand."""
        for source, fields, role in [
            (2, {}, Role.CANDIDATE),
            (3, {}, Role.FOLLOWER),
            (2, {"damage": Damage(last_index=9, last_term=2)}, Role.FOLLOWER),
        ]:
            bench = Bench(term=2, **fields)
            bench.hear(2, heartbeat(2))
            bench.hear(source, TimeoutNow(term=2))
            self.assertIs(bench.raft.role, role, (source, fields))


class HandedTests(SynchronousTestCase):
    """What each Ready has."""

    def soft(self, bench):
        return [ready.soft_state for ready in bench.readies if ready.soft_state is not None]

    def test_soft_state(self):
        """It is handed out when role, leader or term changed, whichever, and only then."""
        bench = Bench()
        self.assertEqual(self.soft(bench), [SoftState(Role.FOLLOWER, 0, 1)])
        for message, expected in [
            (heartbeat(1), SoftState(Role.FOLLOWER, 2, 1)),
            (heartbeat(1), None),
            (heartbeat(4), SoftState(Role.FOLLOWER, 2, 4)),
        ]:
            bench.readies.clear()
            bench.hear(2, message)
            self.assertEqual(self.soft(bench), [expected] if expected else [])
        bench.readies.clear()
        bench.tick(TICKS)
        bench.hear(3, ask_vote(7, 9, 9))
        self.assertEqual(self.soft(bench)[-1], SoftState(Role.FOLLOWER, 0, 7))
        bench.readies.clear()
        bench.campaign()
        self.assertEqual(self.soft(bench), [SoftState(Role.PRE_CANDIDATE, 0, 7)])

    def test_soft_state_alone(self):
        """A leader that steps down without a word hands that out."""
        bench = leading()
        bench.tick(2 * TICKS - 1)
        bench.readies.clear()
        self.assertEqual(bench.tick(), [])
        [ready] = bench.readies
        self.assertEqual(ready.soft_state, SoftState(Role.FOLLOWER, 0, 2))
        self.assertFalse(ready.must_persist or ready.waits_for_disk)

    def test_hard_state(self):
        """Term and vote are handed out when either changed, once."""
        bench = Bench()
        bench.readies.clear()
        bench.hear(2, heartbeat(3))
        bench.tick(TICKS)
        bench.hear(2, ask_vote(3, 9, 9))
        bench.hear(2, ask_vote(3, 9, 9))
        states = [ready.hard_state for ready in bench.readies if ready.hard_state is not None]
        self.assertEqual(states, [HardState(3, 0), HardState(3, 2)])
        self.assertEqual(bench.node.log.hard_state, HardState(3, 2))

    def test_each_thing_once(self):
        """Messages, reads and entries are handed out once, and the rest of a turn's work with them."""
        bench = leading()
        bench.readies.clear()
        read = bench.raft.read_index()
        bench.raft.propose(RECORD, 0)
        ready = bench.raft.ready()
        self.assertEqual([one.index for one in ready.entries], [3])
        self.assertEqual(len(ready.messages_now), 4)
        self.assertEqual((ready.commit_index, ready.committed, ready.read_states), (2, (), ()))
        self.assertIsNone(bench.raft.ready())
        bench.raft.step(Envelope(GROUP, 2, 1, heartbeat_reply(2, read_round=1)))
        ready = bench.raft.ready()
        self.assertEqual([(state.id, state.index) for state in ready.read_states], [(read, 2)])
        self.assertIsNone(bench.raft.ready())

    def test_first_entry_of_a_term(self):
        """A leader begins with an entry that holds nothing, of nobody."""
        bench = Bench(terms=(1,), now=9)
        bench.leader()
        [one] = bench.readies[-1].entries
        self.assertEqual((one.kind, one.index, one.term, one.timestamp), (EntryKind.NOOP, 3, 2, 9))
        rest = (one.payload, one.attributes, one.record_count, one.producer_id, one.producer_sequence)
        self.assertEqual(rest, (b"", 0, 0, 0, 0))

    def test_tokens(self):
        """Tokens rise by one; one that was not given out is a mistake."""
        bench = Bench()
        first = bench.readies[-1].token
        bench.hear(2, heartbeat(1))
        self.assertEqual(bench.readies[-1].token, first + 1)
        bench.raft.persisted(first + 1)
        with self.assertRaisesRegex(
            ValueError, f"^token {first + 2} was never given out; the last is {first + 1}$"
        ):
            bench.raft.persisted(first + 2)

    def test_what_needs_no_disk(self):
        """Heartbeats give the disk no work, so it cannot stall with them."""
        bench = leading()
        bench.node.disk = False
        for _ in range(3 * TICKS):
            bench.tick()
            for other in (2, 3):
                bench.hear(other, heartbeat_reply(2))
        self.assertEqual((bench.raft.is_stalled, bench.raft.role), (False, Role.LEADER))

    def test_must_persist(self):
        """Each kind of write is one, and answers that wait for it wait for the disk, too."""
        bench = Bench(terms=(1, 1))
        bench.hear(2, append(1, 3, 1, [entry(4, 1)]))
        self.assertTrue(bench.readies[-1].must_persist)
        bench.hear(2, append(1, 4, 1))
        self.assertEqual((bench.readies[-1].must_persist, bench.readies[-1].waits_for_disk), (False, True))
        bench.hear(2, heartbeat(1))
        self.assertEqual((bench.readies[-1].must_persist, bench.readies[-1].waits_for_disk), (False, False))
        bench.hear(2, snapshot(1, 9, 1))
        ready = bench.readies[-1]
        self.assertEqual((ready.snapshot.index, ready.entries, ready.must_persist), (9, (), True))

    def test_memory(self):
        """What is on disk, committed and handed out does not stay in memory beyond the bound."""
        bench = leading(config=RaftConfig(cache_size_max=300))
        for _ in range(50):
            index = bench.raft.propose(RECORD, 0).index
            bench.out()
            for other in (2, 3):
                bench.hear(other, holds(2, index))
        self.assertLess(len(bench.raft._log._window), 10)


class ForgottenTests(SynchronousTestCase):
    """What ends with a leadership."""

    def test_transfer(self):
        """A hand-over that was under way is not, in the next one."""
        bench = leading()
        bench.raft.transfer_leadership(2)
        bench.hear(3, heartbeat(9))
        self.assertEqual(bench.raft.transfer_target, 0)
        bench.committing_leader()
        bench.raft.propose(RECORD, 0)

    def test_followers(self):
        """Nothing is known of the others any more."""
        bench = leading()
        bench.hear(3, heartbeat(9))
        self.assertEqual((bench.raft.followers, bench.raft.leader), ({}, 3))
        self.assertFalse(bench.raft.is_heard(2))
        bench.leader()
        self.assertEqual({follower.match_index for follower in bench.raft.followers.values()}, {0})


class SettledTests(SynchronousTestCase):
    """The configuration that is known to be committed."""

    def test_follows_commits(self):
        """While a change is not committed it is the one before; then the change; again after a cut."""
        bench = leading(voters=4)
        old = bench.raft.configuration
        self.assertEqual(bench.raft.settled, (old, 1))
        new = old.without(4)
        index = bench.raft.propose_configuration(new, 0).index
        for _ in range(2):
            self.assertEqual(bench.raft.settled, (old, 1))
            self.assertEqual((bench.raft.configuration, bench.raft.configuration_index), (new, index))
        bench.out()
        for other in (2, 3):
            bench.hear(other, holds(2, index))
        self.assertEqual(bench.raft.settled, (new, index))
        newer = new.with_member("n9", bytes(16), MemberRole.LEARNER)
        bench.raft.propose_configuration(newer, 0)
        self.assertEqual(bench.raft.settled, (new, index))
        newest = new.with_member("n7", bytes(16), MemberRole.LEARNER)
        payload = encode_configuration(newest)
        bench.hear(2, append(9, index, 2, [entry(index + 1, 9, EntryKind.CONFIGURATION, payload=payload)]))
        self.assertEqual((bench.raft.configuration, bench.raft.settled), (newest, (new, index)))


class LateTests(SynchronousTestCase):
    """Messages that come late, and retries of what is damaged."""

    def test_append_over_what_is_trimmed(self):
        """An append that begins before the log and ends in it is taken, whatever its old part was."""
        bench = Bench(terms=(1, 1, 1, 1), commit_index=4)
        bench.node.log.trim_prefix(4)
        entries = [entry(index, 1) for index in (2, 3, 4, 5, 6)]
        [(_, reply)] = only(bench.hear(2, append(1, 1, 1, entries)), AppendEntriesReply)
        self.assertEqual((reply.success, reply.index, bench.raft.last_index), (True, 6, 6))

    def test_hint_at_the_first_entry(self):
        """The leader looks at its own first entry, too, before it believes a hint."""
        bench = Bench(terms=(1, 1, 2, 2))
        bench.leader()
        bench.hear(2, holds(3, 6))
        bench.node.log.trim_prefix(4)
        bench.hear(3, rejects(3, 5, 4, 1))
        self.assertEqual(bench.raft.followers[3].next_index, 4)

    def test_retry_of_a_damaged_batch(self):
        """A batch that is not committed and cannot be read is not acknowledged again."""
        bench = leading()
        producer = Proposal(kind=EntryKind.PRODUCER, payload=encode_producer("me"))
        producer_id = bench.raft.propose(producer, 0).index
        batch = Proposal(payload=b"x", record_count=1, producer_id=producer_id, subject="me")
        bench.raft.propose(batch, 0)

        def damaged(index):
            raise DamageError("x.store", 4096, "header checksum")

        self.patch(bench.raft._log, "header_at", damaged)
        with self.assertRaises(DamageError):
            bench.raft.propose(batch, 0)
        with self.assertRaises(SequenceError):
            bench.raft.propose(
                Proposal(
                    payload=b"x", record_count=1, producer_id=producer_id, producer_sequence=5, subject="me"
                ),
                0,
            )

    def test_reads_of_strangers(self):
        """Nobody but a leader's follower is answered."""
        for bench in (leading(), Bench()):
            bench.hear(9, ReadIndex(term=bench.raft.term, context=1))
            self.assertEqual(bench.node.refusals["read from no follower"], 1)

    def test_time_without_followers(self):
        """Who does not lead knows no other clock."""
        bench = Bench(now=50)
        self.assertEqual(bench.raft.majority_time(), 0)
        bench.hear(2, heartbeat(1))
        self.assertEqual(bench.raft.majority_time(), 0)

    def test_old_clock(self):
        """The time of a follower is that of its last answer, also when its clock went back."""
        bench = leading()
        for timestamp in (90, 40):
            bench.hear(2, HeartbeatReply(term=2, read_round=0, last_index=2, timestamp=timestamp))
            self.assertEqual(bench.raft.followers[2].timestamp, timestamp)


class LinkLostTests(SynchronousTestCase):
    """A follower whose leader's connection broke."""

    def test_tight_timing(self):
        """With hardly a heartbeat to an election, it still leaves time for two."""
        for seed in range(10):
            group = Group(3, rng_seed=seed, config=RaftConfig(heartbeat_ticks=4, election_ticks=5))
            group.elect(1)
            group[2].leader_link_lost()
            ticks = 0
            while group[2].role is Role.FOLLOWER:
                group[2].tick()
                ticks += 1
            self.assertEqual(ticks, 9)

    def test_silence_so_far(self):
        """The silence before it does not make it stand later."""
        bench = Bench()
        bench.hear(2, heartbeat(1))
        bench.raft._election_timeout = 2 * TICKS
        bench.tick(TICKS + 5)
        bench.raft.leader_link_lost()
        self.assertEqual(bench.raft._election_elapsed, TICKS + 5)
