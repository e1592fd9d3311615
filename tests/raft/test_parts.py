"""The parts of the core, one by one: configuration, majorities, progress, membership rules, the log."""

from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from loghouse.errors import MembershipError, StorageError
from loghouse.limits import MEMBERS_MAX
from loghouse.protocol.configuration import Configuration, MemberRole
from loghouse.protocol.hard_state import HardState
from loghouse.raft import raft_log as raft_log_module
from loghouse.raft.config import LAN, WAN, RaftConfig
from loghouse.raft.membership import check_change
from loghouse.raft.progress import Inflights, Progress, ProgressState
from loghouse.raft.quorum import committed_index, has_quorum, majority, vote_result
from loghouse.raft.raft_log import RaftLog
from loghouse.testing.memory_log import MemoryLog
from tests.raft.group import Group, configuration, entry, log_of


class ConfigTests(SynchronousTestCase):
    """`RaftConfig` is checked at birth."""

    def test_bad_values(self):
        """Times and bounds that cannot work are refused by name."""
        for field, value in [
            ("heartbeat_ticks", 0),
            ("election_ticks", 1),
            ("snapshot_ticks", 0),
            ("append_size_max", 0),
            ("inflight_entries_max", 0),
            ("inflight_size_max", 0),
            ("proposals_max", 0),
            ("proposals_size_max", 0),
            ("committed_size_max", 0),
            ("reads_max", 0),
            ("cache_size_max", 0),
            ("quiet_ticks", 0),
        ]:
            with self.assertRaises(ValueError) as caught:
                RaftConfig(**{field: value})
            self.assertIn(field, str(caught.exception))

    def test_presets(self):
        """A wide area waits longer before it elects."""
        self.assertGreater(WAN.election_ticks, LAN.election_ticks)


class QuorumTests(SynchronousTestCase):
    """Majorities agree with what they are by definition."""

    def test_majorities(self):
        """1 of 1, 2 of 2, 2 of 3, 3 of 4, 3 of 5."""
        self.assertEqual([majority(n) for n in (1, 2, 3, 4, 5)], [1, 2, 2, 3, 3])

    @settings(deadline=None, derandomize=True, max_examples=200)
    @given(st.lists(st.integers(0, 9), min_size=1, max_size=7))
    def test_committed_index(self, matches):
        """The committed index is the highest that a majority reached."""
        index = committed_index(matches)
        self.assertGreaterEqual(sum(m >= index for m in matches), majority(len(matches)))
        self.assertLess(sum(m >= index + 1 for m in matches), majority(len(matches)))

    @settings(deadline=None, derandomize=True, max_examples=200)
    @given(st.integers(1, 7), st.dictionaries(st.integers(1, 9), st.booleans()))
    def test_vote_result(self, count, votes):
        """A result is there as soon as the open votes cannot change it; strangers' votes do not count."""
        voters = frozenset(range(1, count + 1))
        yes = sum(votes.get(v) is True for v in voters)
        still_open = sum(v not in votes for v in voters)
        expected = True if yes >= majority(count) else None if yes + still_open >= majority(count) else False
        self.assertIs(vote_result(voters, votes), expected)

    def test_nobody(self):
        """Without voters nothing is decided, ever."""
        self.assertIsNot(vote_result(frozenset(), {1: True}), True)
        self.assertFalse(has_quorum(frozenset(), [1, 2]))


class ProgressTests(SynchronousTestCase):
    """What a leader knows of a follower."""

    def progress(self, **fields):
        return Progress(next_index=5, inflights=Inflights(3, 100), **fields)

    def test_inflights(self):
        """Entries and bytes in flight are counted, freed in order, and forgotten together."""
        inflights = Inflights(3, 100)
        inflights.add(5, 1, 40)
        inflights.add(7, 2, 50)
        self.assertEqual((len(inflights), inflights.room()), (3, (0, 10)))
        inflights.free_to(4)
        self.assertEqual(len(inflights), 3)
        inflights.free_to(6)
        self.assertEqual((len(inflights), inflights.room()), (2, (1, 50)))
        inflights.clear()
        self.assertEqual((len(inflights), inflights.size), (0, 0))

    def test_acknowledge(self):
        """What it holds only rises; so does what comes next."""
        progress = self.progress()
        self.assertTrue(progress.acknowledge(7))
        self.assertFalse(progress.acknowledge(6))
        self.assertEqual((progress.match_index, progress.next_index), (7, 8))

    def test_reject_while_probing(self):
        """A refusal lowers what comes next, if it is the one waited for, and never below what it holds."""
        progress = self.progress(match_index=2)
        self.assertFalse(progress.reject(3, 1))
        self.assertTrue(progress.reject(4, 4))
        self.assertEqual(progress.next_index, 4)
        self.assertTrue(progress.reject(3, 1))
        self.assertEqual(progress.next_index, 3)

    def test_reject_while_replicating(self):
        """In a stream, a refusal behind what it holds starts a probe from there."""
        progress = self.progress(match_index=3, state=ProgressState.REPLICATE)
        self.assertFalse(progress.reject(3, 1))
        self.assertTrue(progress.reject(4, 1))
        self.assertEqual((progress.state, progress.next_index), (ProgressState.PROBE, 4))

    def test_after_a_snapshot(self):
        """After a snapshot the probe starts behind it, or behind what is known to be held."""
        progress = self.progress(match_index=1)
        progress.become_snapshot(10)
        progress.become_probe()
        self.assertEqual((progress.next_index, progress.pending_snapshot), (11, 0))

    def test_lost(self):
        """A follower that holds less than it said is sent the rest again."""
        progress = self.progress(match_index=4, state=ProgressState.REPLICATE)
        progress.lost(2)
        self.assertEqual(
            (progress.state, progress.match_index, progress.next_index), (ProgressState.PROBE, 2, 3)
        )


class MembershipTests(SynchronousTestCase):
    """Which configuration may follow which."""

    def refused(self, old, new, words):
        with self.assertRaises(MembershipError) as caught:
            check_change(old, new)
        self.assertIn(words, str(caught.exception))

    def test_allowed(self):
        """One voter comes, goes, or changes its role; learners and settings as you like; or nothing."""
        old = configuration(3, 2)
        for new in (
            old,
            old.with_member("x", bytes(16), MemberRole.VOTER),
            old.without(3),
            old.with_role(4, MemberRole.VOTER),
            old.with_role(3, MemberRole.LEARNER),
            old.without(4).without(5).with_member("x", bytes(16), MemberRole.LEARNER),
            replace(old, removed=("x",)),
            old.without(99),
        ):
            check_change(old, new)

    def test_two_voters_at_once(self):
        """Not two voters at once, in no combination."""
        old = configuration(3, 2)
        two = "only one voter"
        self.refused(old, old.without(1).without(2), two)
        self.refused(old, old.with_role(4, MemberRole.VOTER).with_role(5, MemberRole.VOTER), two)
        self.refused(old, old.without(1).with_role(4, MemberRole.VOTER), two)

    def test_no_voters(self):
        """The last voter stays."""
        self.refused(configuration(1, 1), configuration(1, 1).without(1), "at least one voter")

    def test_too_many(self):
        """A configuration has an end."""
        old = new = configuration(1)
        for number in range(MEMBERS_MAX):
            new = new.with_member(f"x{number}", bytes(16), MemberRole.LEARNER)
        self.refused(old, new, "at most")

    def test_ids(self):
        """Ids are never used again, never shared, and never change hands."""
        old = configuration(3).without(3)
        back = replace(old, members=configuration(3).members)
        self.refused(old, back, "new ids go from 4")
        self.refused(old, replace(old, next_id=3), "never reused")
        twice = replace(old, members=(*old.members, replace(old.members[0], role=MemberRole.LEARNER)))
        self.refused(configuration(3), replace(twice, next_id=4), "same id")
        renamed = replace(old, members=(replace(old.members[0], name="other"), old.members[1]))
        self.refused(old, renamed, "id is its own")
        beyond = old.with_member("x", bytes(16), MemberRole.VOTER)
        self.refused(old, replace(beyond, next_id=old.next_id), "new ids go from")
        self.refused(old, replace(old, next_id=1 << 32), "never reused")


class RaftLogTests(SynchronousTestCase):
    """`RaftLog` over a log in memory."""

    def log(self, terms, **fields):
        self.disk = MemoryLog(log_of(terms))
        return RaftLog(self.disk, fields.get("commit_index", 0), fields.get("cache_size_max", 1))

    def write(self, log, token):
        snapshot, cut, entries = log.take_writes(token)
        if snapshot is not None:
            self.disk.install_start(snapshot)
        if cut is not None:
            self.disk.truncate_suffix(cut)
        self.disk.append(entries)
        log.persisted(token)

    def test_terms(self):
        """Terms come from memory or disk; what is trimmed or not there yet has none."""
        log = self.log([1, 2])
        log.append(entry(4, 3))
        self.assertEqual([log.term_at(index) for index in range(6)], [0, 1, 1, 2, 3, 0])
        self.disk.trim_prefix(3)
        self.assertEqual([log.term_at(index) for index in range(6)], [0, 0, 1, 2, 3, 0])

    def test_trimmed_while_asked(self):
        """A trim between two questions to the disk is not an error."""
        log = self.log([1, 2, 2])
        real = self.disk.term_at

        def term_at(index):
            self.disk.trim_prefix(4)
            return real(index)

        self.disk.term_at = term_at
        self.assertEqual(log.term_at(2), 0)
        self.disk.term_at = real
        states, real_state = [], self.disk.state_at

        def state_at(index):
            states.append(index)
            if len(states) == 1:
                self.disk.append([entry(5, 2)])
                self.disk.start, self.disk.stored = real_state(4), self.disk.stored[1:]
                raise LookupError
            return real_state(index)

        self.disk.state_at = state_at
        self.assertEqual(log.start_state().index, 4)
        self.assertEqual(states, [3, 4])

    def test_state_trimmed_while_cut(self):
        """A cut whose base is trimmed meanwhile starts from the new base."""
        log = self.log([1, 1, 1], cache_size_max=1 << 20, commit_index=3)
        for index in (5, 6):
            log.append(entry(index, 1))
        real, asked = self.disk.state_at, []

        def state_at(index):
            asked.append(index)
            if len(asked) == 1:
                self.disk.append([entry(5, 1)])
                self.disk.trim_prefix(6)
                raise LookupError
            return real(index)

        self.disk.state_at = state_at
        log.commit(5)
        log.truncate(5)
        self.assertEqual(log.state.index, 5)

    def test_missing_state_is_an_error(self):
        """A disk that lost what it must have is not asked again and again."""
        log = self.log([1, 1])

        def state_at(index):
            raise LookupError("gone")

        self.disk.state_at = state_at
        with self.assertRaises(LookupError):
            log.start_state()
        with self.assertRaises(LookupError):
            log.truncate(2)

    def test_entries_below_a_snapshot(self):
        """While a snapshot waits for the disk, the old log is gone already."""
        log = self.log([1, 1])
        state = self.disk.state_at(3)
        state.index, state.term = 9, 2
        log.restore(state)
        with self.assertRaises(LookupError):
            log.entries(2, 9, 100)
        self.assertEqual(log.start_state().index, 9)
        self.assertEqual(log.last_at_or_below(5, 7), 9)
        self.write(log, 1)
        self.assertEqual((log.first_index, log.durable_index), (10, 9))

    def test_bounded_cache(self):
        """Memory holds what is not durable, committed and delivered, and a bounded rest."""
        log = self.log([1, 1], cache_size_max=200)
        for index in range(4, 40):
            log.append(entry(index, 1))
        self.write(log, 1)
        log.release()
        self.assertEqual(len(log._window), 36)
        log.commit(39)
        while log.delivered_index < 39:
            log.take_committed(100)
        log.release()
        self.assertLessEqual(len(log._window) * 64, 200)
        self.assertEqual([e.index for e in log.entries(10, 39, 128)], [10, 11])

    def test_bounded_count(self):
        """As many bytes as allowed would be too many small objects: their number is bounded, too."""
        self.patch(raft_log_module, "CACHED_ENTRIES_MAX", 10)
        log = self.log([1, 1], cache_size_max=1 << 30, commit_index=3)
        for index in range(4, 400):
            log.append(entry(index, 1))
            self.write(log, index)
            log.commit(index)
            log.take_committed(100)
            log.release()
            self.assertLessEqual(len(log._window), 10 * 4 // 3 + 1)
        self.assertEqual([e.index for e in log.entries(10, 39, 128)], [10, 11])
        self.assertEqual(log.entries(395, 399, 1 << 20)[-1].index, 399)

    def test_sizes(self):
        """Bytes not durable and not committed are known."""
        log = self.log([1, 1])
        self.assertEqual((log.undurable_size, log.uncommitted_size), (0, 0))
        log.append(entry(4, 1, payload=b"12345678"))
        log.append(entry(5, 1))
        self.assertEqual((log.undurable_size, log.uncommitted_size), (136, 136))
        log.commit(4)
        self.assertEqual((log.undurable_size, log.uncommitted_size), (136, 64))
        self.write(log, 1)
        self.assertEqual(log.undurable_size, 0)

    def test_hard_state_of_another_disk(self):
        """A term below the log's cannot be: the member does not start."""
        with self.assertRaises(StorageError):
            Group(0).start(1, MemoryLog(log_of([5]), HardState(4, 0)))

    def test_empty_configuration(self):
        """A member with an empty log waits for a leader."""
        group = Group(0)
        node = group.start(1, MemoryLog())
        group.tick(100)
        self.assertEqual((node.raft.term, node.raft.configuration), (0, Configuration()))
