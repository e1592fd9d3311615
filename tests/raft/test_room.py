"""Full disks: what a follower takes, who is asked, who leads, and what a leader refuses (ADR 18)."""

from itertools import pairwise

from twisted.trial.unittest import SynchronousTestCase

from loghouse.errors import DiskFullError
from loghouse.protocol.entry import EntryKind
from loghouse.protocol.raft_messages import AppendEntries, AppendEntriesReply, Envelope, NoRoom, TimeoutNow
from loghouse.raft.config import RaftConfig
from loghouse.raft.ready import Role
from tests.raft.group import GROUP, Group, entry
from tests.raft.member import RECORD, Bench, append, heartbeat, heartbeat_reply, holds, leading, only

QUICK = RaftConfig(election_ticks=2)


def records(first_index, *sizes):
    """Entries of one record each, with so many bytes in all."""
    return [
        entry(first_index + number, 2, EntryKind.RECORDS, number, bytes(size - 64), record_count=1)
        for number, size in enumerate(sizes)
    ]


class FollowerTests(SynchronousTestCase):
    """A follower whose disk is full."""

    def full(self, room, **fields):
        bench = Bench(**fields)
        bench.raft.disk_is_full = True
        bench.node.log.record_room = room
        return bench

    def taken(self, bench, entries):
        """The last index that is acknowledged; 0 when the whole append is dropped."""
        prev = entries[0].index - 1
        prev_term = bench.raft.term_at(prev)
        replies = only(bench.hear(2, append(2, prev, prev_term, entries)), AppendEntriesReply)
        return replies[0][1].index if replies else 0

    def test_says_so_with_each_heartbeat(self):
        """It answers a heartbeat as ever, and says behind it that it has no room; with room it does not."""
        bench = self.full(0)
        bench.raft.disk_is_full = False
        self.assertEqual(only(bench.hear(2, heartbeat(2)), NoRoom), [])
        bench.raft.disk_is_full = True
        for _ in range(2):
            sent = bench.hear(2, heartbeat(2))
            self.assertEqual([type(m).__name__ for _, m in sent], ["HeartbeatReply", "NoRoom"])
            self.assertEqual(sent[1], (2, NoRoom(term=2)))

    def test_takes_what_fits(self):
        """It takes the records that fit to the byte, in order, and nothing behind the first that does not."""
        for room, expected in [(99, 0), (100, 2), (299, 2), (300, 3), (399, 3), (400, 4)]:
            bench = self.full(room)
            self.assertEqual(self.taken(bench, records(2, 100, 200, 100)), expected, room)
            self.assertEqual(bench.raft.last_index, expected or 1)
            refused = bench.node.refusals["no room for records"]
            self.assertEqual(refused, 0 if expected else 1, room)

    def test_other_entries_need_no_room(self):
        """What is no record is taken whatever the room, but not behind a record that is not."""
        bench = self.full(100)
        one, two = records(3, 100, 200)
        entries = [entry(2, 2), one, entry(4, 2, base_offset=1)]
        self.assertEqual(self.taken(bench, entries), 4)
        bench.node.log.record_room = 0
        two = entry(5, 2, EntryKind.RECORDS, 1, bytes(9), record_count=1)
        self.assertEqual(self.taken(bench, [two, entry(6, 2, base_offset=2)]), 0)
        self.assertEqual(self.taken(bench, [entry(5, 2, base_offset=1), entry(6, 2, base_offset=1)]), 6)

    def test_what_it_holds_needs_no_room(self):
        """Records that it holds already are acknowledged again, and take no room from others."""
        bench = self.full(1000)
        entries = records(2, 100, 100, 100)
        self.assertEqual(self.taken(bench, entries[:2]), 3)
        bench.node.log.record_room = 100
        self.assertEqual(self.taken(bench, entries), 4)

    def test_what_is_being_written_takes_room(self):
        """Bytes on their way to the disk are not there for others."""
        bench = self.full(200)
        bench.node.disk = False
        entries = records(2, 100, 100, 100)
        for one in entries:
            bench.hear(2, append(2, one.index - 1, bench.raft.term_at(one.index - 1), [one]))
        self.assertEqual((bench.raft.last_index, bench.node.refusals["no room for records"]), (3, 1))

    def test_nothing_new_is_no_matter(self):
        """An append without entries is answered."""
        bench = self.full(0)
        [(_, reply)] = only(bench.hear(2, append(2, 1, 1)), AppendEntriesReply)
        self.assertEqual((reply.success, reply.index), (True, 1))

    def test_stands_after_those_with_room(self):
        """It campaigns two election timeouts later than it would with room."""
        ticks = RaftConfig().election_ticks
        for seed in range(30):
            waited = []
            for is_full in (False, True):
                raft = Group(3, rng_seed=seed)[1]
                raft.disk_is_full = is_full
                waited.append(0)
                while raft.role is Role.FOLLOWER:
                    raft.tick()
                    waited[-1] += 1
            self.assertEqual(waited[1], waited[0] + 2 * ticks)

    def test_alone(self):
        """A lone voter waits for nobody: it stands at once, full or not."""
        bench = Bench(voters=1)
        bench.raft._become_follower(9, 0)
        bench.raft.disk_is_full = True
        bench.tick()
        self.assertIs(bench.raft.role, Role.LEADER)


class RefusalTests(SynchronousTestCase):
    """While no majority has room, a leader takes no records."""

    def told(self, full, **fields):
        """What a leader says to a record when these others are full: nothing, or who has no room."""
        bench = leading(**fields)
        for other in full:
            bench.hear(other, NoRoom(term=bench.raft.term))
        bench.tick()
        try:
            bench.raft.propose(RECORD, 0)
        except DiskFullError as error:
            return str(error)
        return ""

    def test_who_counts(self):
        """Only voters count, the leader as one with room; a majority of them must have some."""
        for voters, learners, full, names in [
            (3, 0, (2,), None),
            (3, 0, (2, 3), "n2, n3"),
            (5, 0, (3, 5), None),
            (5, 0, (2, 3, 5), "n2, n3, n5"),
            (4, 0, (2, 4), "n2, n4"),
            (3, 1, (4,), None),
            (3, 1, (2, 4), None),
            (3, 1, (2, 3, 4), "n2, n3"),
        ]:
            told = self.told(full, voters=voters, learners=learners)
            case = (voters, learners, full)
            if names is None:
                self.assertEqual(told, "", case)
            else:
                self.assertRegex(told, rf"the data directories of {names}(?!,)", case)

    def test_strangers(self):
        """What somebody says who is no follower of it is ignored."""
        bench = leading()
        bench.raft.step(Envelope(GROUP, 9, 1, NoRoom(term=bench.raft.term)))
        self.assertEqual(bench.node.refusals["reply from no follower"], 1)

    def test_silence_is_room(self):
        """Who did not say it for an election timeout has room again."""
        bench = leading()
        for other in (2, 3):
            bench.hear(other, NoRoom(term=bench.raft.term))
        for _ in range(bench.raft.config.election_ticks - 1):
            bench.tick()
            bench.hear(2, heartbeat_reply(bench.raft.term))
            with self.assertRaises(DiskFullError):
                bench.raft.propose(RECORD, 0)
        bench.tick()
        bench.raft.propose(RECORD, 0)

    def test_forgotten_with_the_role(self):
        """Another leadership begins without a word of full disks."""
        bench = leading()
        for other in (2, 3):
            bench.hear(other, NoRoom(term=bench.raft.term))
        bench.tick()
        bench.hear(2, heartbeat(9))
        bench.committing_leader()
        bench.raft.propose(RECORD, 0)


class AskedTests(SynchronousTestCase):
    """What a leader sends to a follower without room."""

    def test_once_in_an_election_timeout(self):
        """It is asked what it can take by now once in an election timeout, not with each heartbeat."""
        bench = leading()
        term, ticks = bench.raft.term, bench.raft.config.election_ticks
        asked = []
        bench.hear(3, NoRoom(term=term))
        bench.raft.propose(RECORD, 0)
        for tick in range(1, 4 * ticks + 1):
            sent = bench.tick()
            sent += bench.hear(2, holds(term, bench.raft.last_index))
            sent += bench.hear(2, heartbeat_reply(term))
            if tick == 1:
                bench.raft.followers[3].become_probe()
            sent += bench.hear(3, heartbeat_reply(term, last_index=2))
            sent += bench.hear(3, NoRoom(term=term))
            asked += [tick for target, m in only(sent, AppendEntries) if target == 3 and m.entries]
        self.assertEqual([later - earlier for earlier, later in pairwise(asked[-3:])], [ticks] * 2)


class HandOverTests(SynchronousTestCase):
    """A leader whose disk is full looks for a voter with room."""

    def hand_overs(self, bench, ticks, *, full=()):
        """The ticks at which somebody is told to take over, as (tick, who); the others go on answering."""
        term, told = bench.raft.term, []
        for tick in range(1, ticks + 1):
            sent = bench.tick()
            for other in sorted(bench.raft.followers):
                sent += bench.hear(other, heartbeat_reply(term))
                if other in full:
                    sent += bench.hear(other, NoRoom(term=term))
            told += [(tick, target) for target, _ in only(sent, TimeoutNow)]
        return told

    def full(self, **fields):
        bench = leading(**fields)
        bench.raft.disk_is_full = True
        return bench

    def test_after_an_election_timeout(self):
        """It waits an election timeout, in which all can say that they have no room, then names the best."""
        bench = self.full()
        ticks = bench.raft.config.election_ticks
        self.assertEqual(self.hand_overs(bench, ticks), [(ticks, 2)])
        self.assertEqual(bench.raft.transfer_target, 2)

    def test_seldom_again(self):
        """When nothing comes of it, it tries again after 2, 4, ... election timeouts, at most 64."""
        bench = self.full(config=QUICK)
        told = [tick for tick, _ in self.hand_overs(bench, 520)]
        self.assertEqual(told, [2, 6, 14, 30, 62, 126, 254, 382, 510])

    def test_room_meanwhile(self):
        """Room at its own disk, or another leadership, begins the waiting anew."""
        bench = self.full(config=QUICK)
        self.hand_overs(bench, 30)
        bench.raft.disk_is_full = False
        self.assertEqual(self.hand_overs(bench, 80), [])
        bench.raft.disk_is_full = True
        self.assertEqual(self.hand_overs(bench, 6), [(2, 2), (6, 2)])
        bench.hear(2, heartbeat(9))
        bench.raft.disk_is_full = False
        bench.committing_leader()
        bench.raft.disk_is_full = True
        self.assertEqual(self.hand_overs(bench, 6), [(2, 2), (6, 2)])

    def test_room_for_a_moment(self):
        """The election timeout that it waits is one in which its disk was full all the time."""
        bench = self.full()
        ticks = bench.raft.config.election_ticks
        self.hand_overs(bench, ticks - 1)
        bench.raft.disk_is_full = False
        self.hand_overs(bench, 1)
        bench.raft.disk_is_full = True
        self.assertEqual(self.hand_overs(bench, ticks), [(ticks, 2)])

    def test_best_with_room(self):
        """It goes to one with room, even if another holds as much and comes first."""
        bench = self.full()
        self.assertEqual([who for _, who in self.hand_overs(bench, 15, full=(2,))], [3])

    def test_nobody_has_room(self):
        """When nobody has room it stays, and looks again after an election timeout."""
        bench = self.full(config=QUICK)
        self.assertEqual(self.hand_overs(bench, 9, full=(2, 3)), [])
        self.assertEqual(self.hand_overs(bench, 5), [(3, 2)])

    def test_nobody_else(self):
        """A lone voter goes on leading."""
        bench = Bench(voters=1)
        bench.raft.disk_is_full = True
        self.assertEqual(self.hand_overs(bench, 30), [])
        self.assertIs(bench.raft.role, Role.LEADER)

    def test_not_to_one_behind(self):
        """One with room that lacks committed entries does not get it, until it has them."""
        bench = self.full()
        bench.raft.propose(RECORD, 0)
        bench.out()
        bench.hear(2, holds(bench.raft.term, 3))
        self.assertEqual((bench.raft.commit_index, bench.raft.followers[3].match_index), (3, 2))
        self.assertEqual(self.hand_overs(bench, 25, full=(2,)), [])
        self.assertEqual(bench.raft.transfer_target, 0)
        bench.hear(3, holds(bench.raft.term, 3))
        self.assertEqual([who for _, who in self.hand_overs(bench, 10, full=(2,))], [3])

    def test_not_while_another_is_under_way(self):
        """A transfer that was asked for is let be."""
        bench = self.full(config=RaftConfig(election_ticks=4))
        bench.raft.propose(RECORD, 0)
        bench.out()
        bench.hear(2, holds(bench.raft.term, 3))
        self.hand_overs(bench, 3)
        bench.raft.transfer_leadership(3)
        self.hand_overs(bench, 3)
        self.assertEqual(bench.raft.transfer_target, 3)
        self.hand_overs(bench, 1)
        self.assertEqual(bench.raft.transfer_target, 2)

    def test_only_when_full(self):
        """A leader with room hands over to nobody."""
        bench = leading(config=QUICK)
        self.assertEqual(self.hand_overs(bench, 20), [])
