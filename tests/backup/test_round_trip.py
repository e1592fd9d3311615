"""Backups and what is restored of them, on a simulated disk."""

from loghouse.errors import BackupError, BackupGapError, LogReplacedError, ProtocolError
from loghouse.protocol.cursors import WITH_RECORDS, CursorAction
from tests.backup.case import PATH, BackupCase, Source


class RoundTripTests(BackupCase):
    """What was backed up comes back as it was."""

    def test_whole_log(self):
        """Records, offsets, indexes, terms, times and producers come back."""
        self.source.fill(60)
        done = self.back_up()
        self.assertEqual((done.first_offset, done.next_offset), (0, self.source.next_offset))
        self.assertEqual(done.new_records, self.source.next_offset)
        (good,), problems = self.verify()
        self.assertEqual((problems, good.next_offset), ([], self.source.next_offset))
        self.restore()
        self.assertIsRestored()

    def test_producer_before_the_first_record(self):
        """A producer that registered and sent nothing yet is known afterwards, and may begin."""
        self.source.producer("early")
        self.back_up()
        self.restore()
        self.assertIsRestored()

    def test_producer_behind_the_last_record(self):
        """So is one that registered behind the last record, or between two answers."""
        for _ in range(8):
            self.source.records()
            self.source.producer("between")
        self.back_up()
        self.restore()
        self.assertIsRestored()

    def test_increments(self):
        """Each run adds what is new, in parts of their own; also what holds no records."""
        for count in (10, 1, 0, 25, 40):
            self.source.fill(count)
            before = self.back_up().next_offset
            self.assertEqual(before, self.source.next_offset)
        self.source.producer("late")
        self.assertEqual(self.back_up().new_records, 0)
        self.assertEqual(self.verify()[1], [])
        self.restore()
        self.assertIsRestored()

    def test_small_parts(self):
        """A large log comes in several parts, each of which begins with the log's state there."""
        self.source.fill(80)
        self.back_up(part_size=1000)
        names = [name for name in self.disk.list_directory(f"{PATH}/logs/orders") if name.endswith(".part")]
        self.assertGreater(len(names), 4)
        self.assertEqual(self.verify()[1], [])
        self.restore()
        self.assertIsRestored()

    def test_trimmed_before(self):
        """A log whose beginning is gone: its lowest offset stays, in the middle of an entry, too."""
        self.source.fill(20)
        wide = self.source.records(9)
        self.source.fill(20)
        for lowest in (5, wide.base_offset + 4):
            self.source.trim(lowest)
            source = self.source
            self.back_up()
            self.assertEqual(self.verify()[1], [])
            self.restore()
            self.assertIsRestored(about=lowest)
            self.setUp()
            self.source = source

    def test_trimmed_between(self):
        """What is trimmed after it was backed up is not restored, and may go on to be backed up."""
        self.source.fill(30)
        self.back_up(part_size=500)
        self.source.trim(self.source.next_offset - 2)
        self.source.fill(10)
        self.back_up()
        self.restore()
        self.assertIsRestored()

    def test_all_trimmed(self):
        """A log without records keeps its next offset and its producers."""
        self.source.fill(20)
        self.back_up()
        self.source.trim(self.source.next_offset)
        self.back_up()
        self.restore()
        self.assertIsRestored()

    def test_several_logs(self):
        """Named logs come back with their groups, beside the default one."""
        default = Source("default", group=1, seed=3)
        audit = Source("audit", group=18, seed=4)
        for source in (self.source, default, audit):
            source.fill(30)
            self.back_up(source)
        restored = self.restore("default", "orders", "audit")
        self.assertEqual(
            [(log.name, log.group) for log in restored], [("default", 1), ("orders", 16), ("audit", 18)]
        )
        for source in (self.source, default, audit):
            self.assertIsRestored(source)

    def test_cursors(self):
        """Cursors stand where they stood, with their owners; nobody holds one, and every epoch is new."""
        source = self.source
        epoch = source.cursor(CursorAction.ACQUIRE, holder="h", subject="ann", lease_milliseconds=9).index
        source.cursor(CursorAction.ACQUIRE, "gone", holder="h")
        for number in range(1, 30):
            flags = WITH_RECORDS if number % 2 else 0
            source.cursor(CursorAction.ADVANCE, epoch=epoch, position=number, flags=flags)
            source.records(2)
        source.cursor(CursorAction.DELETE, "gone")
        source.cursor(CursorAction.SET, "other", subject="bob", position=7)
        end = source.writer.state
        self.back_up(part_size=500)
        self.assertEqual(self.verify()[1], [])
        self.restore()
        self.assertIsRestored(cursors=2)
        found = self.restored(16).state.cursors
        self.assertEqual(
            {one.name: (one.position, one.subject, one.holder) for one in found.by_name.values()},
            {"billing": (29, "ann", ""), "other": (7, "bob", "")},
        )
        self.assertEqual([one.epoch for one in found.by_name.values()], [end.index + 1, end.index + 2])
        self.assertIsNone(found.awaited)

    def test_older_backup(self):
        """A run that did not come to its end does not count: the backup before it is restored."""
        self.source.fill(30)
        self.back_up()
        before = self.source.writer.state.copy()
        self.source.fill(30)
        self.source.change_state = lambda state: b""
        with self.assertRaises(ProtocolError):
            self.back_up()
        self.restore()
        log = self.restored(16)
        self.assertEqual((log.next_offset, log.state.producers), (before.next_offset, before.producers))


class RefusalTests(BackupCase):
    """What cannot be gone on with is said, with what to do."""

    def setUp(self):
        super().setUp()
        self.source.fill(30)
        self.back_up()
        self.before = self.disk.contents()

    def check(self, kind, text, source=None):
        with self.assertRaisesRegex(kind, text):
            self.back_up(source)
        self.assertEqual(self.disk.contents(), self.before)

    def test_trimmed_meanwhile(self):
        """Records that were trimmed before they were backed up leave a gap, which no backup has."""
        end = self.source.next_offset
        self.source.records(5)
        self.source.trim(end + 2)
        self.check(BackupGapError, f"offsets {end} to {end + 1} were trimmed")

    def test_made_again(self):
        """A log that was deleted and made again is another one."""
        again = Source(group=19)
        again.fill(40)
        self.check(LogReplacedError, "deleted and made again .* .group 16 then, 19 now", again)

    def test_cut(self):
        """A log that ends before its backup was cut."""
        shorter = Source()
        self.check(LogReplacedError, "the log was cut", shorter)

    def test_cut_and_gone_on(self):
        """So was one that has another record where the backup ends."""
        other = Source(seed=9)
        other.writer.state.timestamp += 5
        other.fill(80)
        with self.assertRaises(LogReplacedError):
            self.back_up(other)

    def test_unfinished(self):
        """A backup of which no run came to its end is not restored."""
        self.disk.unlink(f"{PATH}/logs/orders/log")
        with self.assertRaisesRegex(BackupError, "run `loghouse backup` again"):
            self.restore()
