"""Small parts of a replica by themselves: a group of writes, appends without an outcome, a start."""

from types import SimpleNamespace

from twisted.logger import LogLevel, globalLogPublisher
from twisted.trial.unittest import SynchronousTestCase

from loghouse.errors import DamageError, DiskFullError, OutcomeUnknownError, UnavailableError
from loghouse.protocol.address_book import AddressBook, Contact, encode_address_book
from loghouse.protocol.configuration import MemberRole, Retention
from loghouse.protocol.hard_state import HardState
from loghouse.protocol.log_state import LogState
from loghouse.raft.membership import BOOTSTRAP_TERM
from loghouse.raft.ready import Damage, Ready, Ticket
from loghouse.replica.bootstrap import beginning
from loghouse.replica.damage import LogRepair
from loghouse.replica.group_write import SHARED_SIZE_MAX, GroupWrite
from loghouse.replica.unsettled import Unsettled
from loghouse.storage.loss import UNKNOWN_INDEX, Loss, read_loss, write_loss
from loghouse.testing.disk import SimDisk
from tests.storage.entries import Writer, open_directory
from tests.storage.test_damage import DIRECTORY
from tests.storage.test_damage import DamageCase as _DamageCase


def ready(*indexes, **fields):
    """Return work of the core with entries of these indexes."""
    nothing = dict.fromkeys(("hard_state", "snapshot", "truncate_after", "soft_state"))
    none = dict.fromkeys(("messages_now", "messages_after_persist", "committed", "read_states"), ())
    entries = tuple(SimpleNamespace(index=index, size=100) for index in indexes)
    return Ready(**{**nothing, **none, "token": 1, "commit_index": 0, "entries": entries, **fields})


class GroupWriteTests(SynchronousTestCase):
    """Several Readys in one group of writes."""

    def setUp(self):
        self.done = []
        self.last_index = 4
        self.room = 99

    # --- the log --------------------------------------------------------------------------

    def append(self, entries):
        for entry in entries:
            if not self.room:
                raise DiskFullError("/data")
            self.room -= 1
            self.last_index = entry.index
            self.done.append(entry.index)

    def sync(self, commit_index):
        self.done.append(("sync", commit_index))

    def save_hard_state(self, *, term, vote):
        self.done.append(("vote", term, vote))

    def install_start(self, state):
        self.done.append(("install", state.index))

    def truncate_suffix(self, index):
        self.done.append(("cut", index))

    # --- tests ----------------------------------------------------------------------------

    def test_order(self):
        """Term and vote come first, then a start, a cut, the entries; one sync is behind all of them."""
        group = [
            ready(5, 6, commit_index=3),
            ready(7, hard_state=HardState(2, 1), commit_index=4),
            ready(8, truncate_after=7),
            ready(31, snapshot=LogState(index=30), hard_state=HardState(3, 0), truncate_after=30),
            ready(32, commit_index=9),
        ]
        GroupWrite(self, group).run()
        self.assertEqual(
            self.done,
            [
                *(5, 6),
                ("vote", 2, 1),
                7,
                ("cut", 7),
                8,
                ("vote", 3, 0),
                ("install", 30),
                ("cut", 30),
                *(31, 32),
                ("sync", 9),
            ],
        )

    def test_few_appends(self):
        """Entries of several Readys are appended together where nothing is between them."""
        taken = []
        self.append = lambda entries: taken.append([entry.index for entry in entries])
        GroupWrite(self, [ready(5), ready(6), ready(), ready(7, truncate_after=6), ready(8)]).run()
        self.assertEqual(taken, [[5, 6], [7, 8]])

    def test_goes_on(self):
        """Where a full disk stopped it, it goes on: what was written is not written again."""
        write = GroupWrite(self, [ready(5, 6, 7), ready(8, hard_state=HardState(2, 1))])
        for room, done in ((0, []), (2, [5, 6]), (0, [5, 6]), (1, [5, 6, 7, ("vote", 2, 1)])):
            self.room = room
            self.assertRaises(DiskFullError, write.run)
            self.assertEqual(self.done, done)
        self.room = 9
        write.run()
        self.assertEqual(self.done[4:], [8, ("sync", 0)])

    def test_sync_again(self):
        """When only the sync found no room, only that is done again."""
        write = GroupWrite(self, [ready(5)])
        real = self.sync

        def refuse(commit_index):
            raise DiskFullError("/data")

        self.sync = refuse
        self.assertRaises(DiskFullError, write.run)
        self.sync = real
        write.run()
        self.assertEqual(self.done, [5, ("sync", 0)])

    def test_steps(self):
        """In steps it does the same, and goes on where a full disk stopped it, before the sync or behind."""
        write = GroupWrite(self, [ready(5, 6), ready(7, commit_index=4)])
        self.begin_sync = lambda commit_index: SimpleNamespace(
            run=lambda: self.done.append("sync"), finish=lambda: self.done.append(("finish", commit_index))
        )
        self.room = 1
        self.assertRaises(DiskFullError, write.begin)
        self.room = 9
        for _ in range(2):
            sync = write.begin()
            sync()
            write.finish()
        self.assertEqual(self.done, [5, 6, 7, *["sync", ("finish", 4)] * 2])

    def test_measured_steps(self):
        """What is measured of it in steps is its own writing and its own sync, not the wait for others."""
        times = iter((1.0, 3.0, 10.0, 14.5))
        write = GroupWrite(self, [ready(5)], lambda: next(times))
        self.begin_sync = lambda commit_index: SimpleNamespace(run=lambda: None, finish=lambda: None)
        write.begin()()
        write.finish()
        self.assertEqual((write.write_seconds, write.sync_seconds), (2.0, 4.5))

    def test_may_share(self):
        """Others may wait for a few entries, and for nothing else that syncs or takes long."""
        size = ready(1).entries[0].size
        count = SHARED_SIZE_MAX // size
        for group, may_share in (
            ([ready(5), ready(6)], True),
            ([ready(*range(1, count + 1))], True),
            ([ready(*range(1, count + 2))], False),
            ([ready(5, hard_state=HardState(2, 1))], False),
            ([ready(hard_state=HardState(2, 1))], False),
            ([ready(5), ready(6, truncate_after=5)], False),
            ([ready(31, snapshot=LogState(index=30))], False),
        ):
            self.assertEqual(GroupWrite(self, group).may_share, may_share)


class UnsettledTests(SynchronousTestCase):
    """Appends that wait for their outcome."""

    def setUp(self):
        self.unsettled = Unsettled()
        self.told = {}

    def add(self, name, index, term, *, fails=False):
        def tell(outcome):
            self.assertNotIn(name, self.told)
            self.told[name] = outcome
            if fails:
                raise ValueError(name)

        ticket = Ticket(index=index, term=term, base_offset=10 * index, record_count=2, timestamp=0)
        self.unsettled.add(ticket, tell, tell)

    def outcomes(self):
        """Return what was told since: a base offset, or the kind of error."""
        told, self.told = self.told, {}
        return {
            name: type(outcome)
            if isinstance(outcome, Exception)
            else (outcome.base_offset, outcome.timestamp)
            for name, outcome in told.items()
        }

    def test_committed(self):
        """Who proposed the entry that is committed is told where it is; who proposed another one, that."""
        self.assertTrue(self.unsettled.is_empty)
        self.add("a", 5, 1)
        self.add("b", 5, 1)
        self.add("c", 6, 1)
        self.add("d", 5, 2)
        self.unsettled.committed(4, 1, 70)
        self.assertEqual(self.outcomes(), {})
        self.unsettled.committed(5, 1, 71)
        self.assertEqual(self.outcomes(), {"a": (50, 71), "b": (50, 71), "d": UnavailableError})
        self.assertFalse(self.unsettled.is_empty)
        self.unsettled.committed(5, 1, 72)
        self.assertEqual(self.outcomes(), {})
        self.unsettled.committed(6, 1, 73)
        self.assertEqual(self.outcomes(), {"c": (60, 73)})
        self.assertTrue(self.unsettled.is_empty)

    def test_older_terms(self):
        """An entry of a newer term settles what older ones wanted, wherever, and nothing of its own term."""
        for name, index, term in (("old", 9, 1), ("own", 9, 2), ("new", 10, 3), ("older", 3, 1)):
            self.add(name, index, term)
        self.unsettled.committed(5, 2, 0)
        self.assertEqual(self.outcomes(), {"old": UnavailableError, "older": UnavailableError})
        self.add("late", 11, 1)
        self.unsettled.committed(6, 2, 0)
        self.assertEqual(self.outcomes(), {})
        self.unsettled.committed(7, 3, 0)
        self.assertEqual(self.outcomes(), {"own": UnavailableError, "late": UnavailableError})
        self.unsettled.committed(10, 3, 5)
        self.assertEqual(self.outcomes(), {"new": (100, 5)})

    def test_text(self):
        """Who lost a place is told that nothing was appended."""
        self.add("a", 5, 1)
        self.unsettled.committed(5, 2, 0)
        self.assertEqual(
            str(self.told["a"]), "another leader's entry took this place; nothing was appended, try again"
        )

    def test_skipped(self):
        """What a snapshot went past is not known; behind it older terms are settled."""
        for name, index, term in (("below", 4, 3), ("at", 5, 3), ("behind", 6, 3), ("old", 7, 2)):
            self.add(name, index, term)
        self.unsettled.skipped(5, 3)
        self.assertEqual(str(self.told["at"]), "the log moved on without this node")
        self.assertEqual(
            self.outcomes(),
            {"below": OutcomeUnknownError, "at": OutcomeUnknownError, "old": UnavailableError},
        )
        self.assertFalse(self.unsettled.is_empty)

    def test_failed(self):
        """All fail, or those behind an index."""
        for index in (4, 5, 6):
            self.add(str(index), index, 1)
        self.unsettled.fail(DiskFullError("/data"), after=5)
        self.assertEqual(self.outcomes(), {"6": DiskFullError})
        self.unsettled.fail(OutcomeUnknownError("?"))
        self.assertEqual(self.outcomes(), {"4": OutcomeUnknownError, "5": OutcomeUnknownError})
        self.assertTrue(self.unsettled.is_empty)

    def test_caller_that_fails(self):
        """A bug of who is told keeps nobody else from being told."""
        self.add("a", 5, 1, fails=True)
        self.add("b", 5, 1)
        self.unsettled.committed(5, 1, 7)
        self.assertEqual(self.outcomes(), {"a": (50, 7), "b": (50, 7)})
        self.assertEqual(len(self.flushLoggedErrors(ValueError)), 1)


class BeginningTests(SynchronousTestCase):
    """The first entry of a group."""

    def test_written(self):
        """It makes the node the only voter, in the first term, and is durable and committed."""
        log = open_directory(SimDisk(), segment_size=5120, reserve_size=0).open_log()
        retention = Retention(size_max=7, age_max_seconds=9)
        beginning("n", b"d" * 16, retention, 77)(log)
        self.assertEqual((log.last_index, log.durable_index, log.commit_index), (1, 1, 1))
        self.assertEqual((log.hard_state, log.last_term), (HardState(BOOTSTRAP_TERM, 0), BOOTSTRAP_TERM))
        configuration = log.state.configuration
        self.assertEqual(configuration.retention, retention)
        [member] = configuration.members
        self.assertEqual(
            (member.id, member.name, member.disk_uuid, member.role), (1, "n", b"d" * 16, MemberRole.VOTER)
        )
        self.assertEqual(log.state.timestamp, 77)


OTHERS = encode_address_book(
    AddressBook(
        incarnation=1,
        contacts=(Contact(name="other", disk_uuid=bytes(16), incarnation=1, address="127.0.0.1:1"),),
    )
)


class OpeningTests(_DamageCase):
    """A log that is opened, damaged or not, alone or as a member."""

    def setUp(self):
        self.make(30)
        self.events = []
        globalLogPublisher.addObserver(self.note_event)
        self.addCleanup(globalLogPublisher.removeObserver, self.note_event)

    def note_event(self, event):
        if "log_format" in event and event["log_namespace"].startswith("loghouse.replica"):
            self.events.append((event["log_level"], event["log_format"].format(**event)))

    def repair(self, *, is_member=True):
        self.disk.stop_process()
        directory = self.boot()
        if is_member:
            directory.write_members(OTHERS)
        self.events.clear()
        return LogRepair(self.disk, directory, 1)

    def test_whole(self):
        """A whole log is told with its offsets and term, and nothing else."""
        for is_member in (False, True):
            repair = self.repair(is_member=is_member)
            self.assertIsNone(repair.log)
            log = repair.open_log()
            self.assertIs(repair.log, log)
            self.assertIsNone(repair.damage)
            self.assertEqual(
                self.events, [(LogLevel.info, f"log open: offsets 0 to {log.next_offset} (next), term 1")]
            )

    def test_alone(self):
        """A lone node's damaged log is refused as it is."""
        self.disk.flip(max(path for path in self.image if "/0" in path), 8 * (4096 + 20))
        repair = self.repair(is_member=False)
        before = self.disk.contents()
        self.assertRaises(DamageError, repair.open_log)
        self.assertEqual(self.disk.contents(), before)
        self.assertEqual(self.events, [])

    def test_cut(self):
        """A member's is cut before the damage, and told with all that was done."""
        stores = sorted(path for path in self.image if path.endswith(".store") and "/0" in path)
        newest = stores[-1]
        self.disk.flip(newest, 8 * (4096 + 20))
        repair = self.repair()
        log = repair.open_log()
        base = int(newest[-26:-6])
        self.assertEqual(log.last_index, base - 1)
        self.assertEqual(repair.damage, Damage(30, 1))
        texts = [text for _, text in self.events]
        self.assertEqual(
            texts[0],
            f"{newest}: damaged at byte 4096: no entry of this log starts here (header checksum); repairing "
            "from the other members of the cluster",
        )
        self.assertEqual([level for level, _ in self.events[:2]], [LogLevel.critical, LogLevel.error])
        self.assertIn("cut at byte 4096", texts[1])
        self.assertIn(
            (
                LogLevel.error,
                f"the log ends at entry {base - 1}, it once held entry 30: no vote for less, no candidacy, "
                "until the rest came from the leader",
            ),
            self.events,
        )
        # The next start goes on with the repair, and cuts nothing again.
        log.close()
        repair = self.repair()
        repair.open_log()
        self.assertEqual(repair.damage, Damage(30, 1))
        self.assertNotIn("repairing from the other members", " ".join(text for _, text in self.events))

    def test_found_before(self):
        """Damage that was found while the node ran is looked for, and cut, by the next start."""
        write_loss(self.disk, DIRECTORY, self.seed, Loss(30, 1))
        repair = self.repair()
        repair.open_log()
        self.assertEqual(
            self.events[0],
            (
                LogLevel.critical,
                "damage was found when this node ran last; repairing from the other members of the cluster",
            ),
        )
        self.assertEqual(read_loss(self.disk, DIRECTORY, self.seed), Loss(30, 1, is_cut=True))

    def test_state_that_is_read(self):
        """A member begins with the state at its commit index, and is cut when it cannot be read."""
        for commit_index, last_index, first_index, read in (
            (7, 9, 1, 7),
            (9, 7, 1, 7),
            (0, 9, 5, 4),
            (3, 9, 5, 4),
            (5, 9, 5, 5),
        ):
            asked = []
            log = SimpleNamespace(
                commit_index=commit_index,
                last_index=last_index,
                first_index=first_index,
                unknown_ends=frozenset(),
                state_at=asked.append,
            )
            repair = self.repair()
            self.patch(repair._data, "open_log", lambda group, *, leaves_damage, log=log: log)
            self.assertIs(repair._open(), log)
            self.assertEqual(asked, [read])

    def test_unknown_end(self):
        """A sealed segment whose last entry is damaged is told, and left to be repaired while it runs."""
        stores = sorted(path for path in self.image if path.endswith(".store") and "/0" in path)
        base, following = (int(path[-26:-6]) for path in stores[:2])
        at = 4096 + sum(entry.size for entry in self.entries[: following - 2])
        self.disk.flip(stores[0], 8 * (at + 20))
        repair = self.repair()
        log = repair.open_log()
        self.assertEqual((log.unknown_ends, repair.damage), ({base}, None))
        self.assertEqual(
            self.events[0],
            (LogLevel.error, f"segment {base} is damaged; repairing it while the node runs"),
        )

    def test_note(self):
        """What is durable is noted, or what was known to be lost when that is more; then it is forgotten."""
        repair = self.repair()
        log = repair.open_log()
        log.append([Writer(log.state, seed=log.seed).records()])
        for damage, loss in (
            (None, Loss(30, 1)),
            (Damage(30, 0), Loss(30, 1)),
            (Damage(29, 1), Loss(30, 1)),
            (Damage(44, 1), Loss(44, 1)),
            (Damage(3, 2), Loss(3, 2)),
            (Damage(UNKNOWN_INDEX, 1), Loss(UNKNOWN_INDEX, 1)),
        ):
            repair.damage = damage
            repair.note(log)
            self.assertEqual(read_loss(self.disk, DIRECTORY, self.seed), loss)
        repair.forget()
        self.assertIsNone(read_loss(self.disk, DIRECTORY, self.seed))
