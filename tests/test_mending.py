"""Mending one log, alone: whom it asks for what, when, what it tells, and when it gives up."""

from unittest.mock import patch

from twisted.logger import LogLevel, globalLogPublisher

from loghouse.errors import DamageError, DiskFailedError
from loghouse.limits import ENTRIES_SERVED_MAX, ENTRY_HEADER_SIZE, INDEX_ENTRY_SIZE
from loghouse.protocol.entry import crc32c
from loghouse.protocol.repair_messages import EntriesReply, EntriesRequest
from loghouse.replica.entry_repair import (
    ANSWER_SECONDS,
    ATTEMPTS_MAX,
    RETRY_SECONDS_MAX,
    RETRY_SECONDS_MIN,
    EntryRepair,
)
from loghouse.storage.log import Log
from loghouse.testing.disk import disk_error
from tests.driver.queue import ManualQueue
from tests.storage.test_examination import ExaminationCase

FIRST_ID = 4  # with three others, the second of them is asked first


class MendingCase(ExaminationCase):
    """A log of some sealed segments, and all that surrounds what mends it. It is the owner, too."""

    def setUp(self):
        super().setUp()
        count = self.segment.end.count
        self.places = [self.segment.frame_header(number).position for number in range(count)]
        self.readers, self.writer = ManualQueue(), ManualQueue()
        self.is_ending = False
        self.committed_index = self.log.last_index
        self.names = ["c", "a", "b"]
        self.unreachable = set()
        self.sent = []
        self.failures = []
        self.beyond = []
        self.found = []
        self.events = []
        globalLogPublisher.addObserver(self.note_event)
        self.addCleanup(globalLogPublisher.removeObserver, self.note_event)
        self.repair = EntryRepair(
            self.disk, self.log, self, readers=self.readers, disk=self.writer, choose_id=lambda: FIRST_ID
        )

    def note_event(self, event):
        if "log_format" in event and event["log_namespace"].startswith("loghouse.replica"):
            self.events.append((event["log_level"], event["log_format"].format(**event)))

    def told(self):
        """The levels and texts of what was logged since the last look."""
        events, self.events = self.events, []
        return events

    # --- MendingOwner ------------------------------------------------------------------

    def mend_sources(self):
        return self.names

    def send_to(self, name, message):
        self.sent.append((name, message))
        return name not in self.unreachable

    def damage_found(self, error):
        self.found.append(error)

    def beyond_mending(self, error):
        self.beyond.append((error.file, error.position, error.problem))

    def fatal(self, error):
        self.failures.append(error)

    # --- what happens ------------------------------------------------------------------

    def position(self, number):
        return self.places[number]  # a damaged header does not tell it any more

    @property
    def path(self):
        return self.segment.path

    def index(self, number):
        """The Raft index of an entry of the segment."""
        return self.segment.base_index + number

    def meet(self, number=0):
        """Let damage of an entry be met, and look."""
        return self.repair.take(DamageError(self.path, self.position(number), "met"))

    def settle(self):
        while self.readers.settle() or self.writer.settle():
            pass

    def look(self, now=0.0):
        """Look at a time, do what comes of it, and return what was sent."""
        self.repair.look(now)
        self.settle()
        return self.take_sent()

    def take_sent(self):
        sent, self.sent = self.sent, []
        return sent

    def request(self, number, first, last=None):
        """A question for entries of the segment."""
        return EntriesRequest(
            request_id=number,
            first_index=self.index(first),
            last_index=self.index(first if last is None else last),
        )

    def answer(self, name, number, first=None, last=None, frames=None):
        """Let a member answer; return what was sent then."""
        if frames is None:
            frames = b""
            if first is not None:
                low, high = self.index(first), self.index(first if last is None else last)
                frames = b"".join(entry.frame for entry in self.entries[low - 1 : high])
        self.repair.reply_received(name, EntriesReply(request_id=number, frames=frames))
        self.settle()
        return self.take_sent()


class AskingTests(MendingCase):
    """Who is asked, for what, and when again."""

    def test_mended(self):
        """The entries that are damaged are asked for, written, and told; the segment is good then."""
        self.flip(self.position(2) + 20)
        self.flip(self.position(4) + ENTRY_HEADER_SIZE + 3)
        at = [self.position(number) for number in (2, 3, 4, 5)]
        self.assertTrue(self.meet(2))
        self.assertEqual((self.repair.pending, self.take_sent()), (1, []))
        self.assertEqual(self.look(1.0), [("b", self.request(4, 2))])
        self.assertEqual([damage.first_index for damage in self.log._damaged], [self.index(2)])
        self.assertEqual(
            self.told(),
            [
                (
                    LogLevel.error,
                    f"{self.path}: damaged at byte {at[0]}: no entry of this log starts here (header "
                    f"checksum): entry {self.index(2)} of {at[1] - at[0]} bytes are asked of the other "
                    "members; everything else is served",
                )
            ],
        )
        self.assertEqual(self.answer("b", 4, 2), [("c", self.request(5, 4))])
        self.assertEqual(
            [text for _, text in self.told()],
            [
                f"{self.path}: repaired at byte {at[0]}: entries {self.index(2)} to {self.index(2)}, "
                f"{at[1] - at[0]} bytes from b",
                f"{self.path}: damaged at byte {at[2]}: payload checksum of entry {self.index(4)} does not "
                f"match: entry {self.index(4)} of {at[3] - at[2]} bytes are asked of the other members; "
                "everything else is served",
            ],
        )
        self.assertEqual(self.answer("c", 5, 4), [])
        self.assertEqual(self.told()[1:], [(LogLevel.info, f"{self.path}: every entry is good")])
        self.assertEqual((self.repair.pending, self.repair.mended, self.log._damaged), (0, 2, ()))
        self.assert_whole()
        self.assertEqual((self.failures, self.beyond), ([], []))

    def test_newer_entry(self):
        """A whole entry of a newer version in a sealed segment is beyond mending, and told by its file."""
        head = bytearray(self.entry(3).head)
        head[9] = 99
        head[:4] = crc32c(bytes(head[4:]), self.segment.seed).to_bytes(4, "big")
        self.write(self.position(3), bytes(head))
        self.meet(3)
        self.assertEqual(self.look(), [])
        [(file, position, problem)] = self.beyond
        self.assertEqual((file, position, self.repair.pending), (self.path, 0, 0))
        self.assertIn("kind 99", problem)
        self.assertIn("use a newer Loghouse", problem)

    def test_looked_at_again(self):
        """While a mended place is looked at again nothing there is refused: it was written."""
        self.flip(self.position(2) + 20)
        self.meet(2)
        self.look()
        self.assertEqual(len(self.log._damaged), 1)
        frames = self.entry(2).frame
        self.repair.reply_received("b", EntriesReply(request_id=4, frames=frames))
        self.assertEqual(len(self.log._damaged), 1)
        self.writer.step()
        self.assertEqual((self.log._damaged, len(self.readers.waiting)), ((), 1))

    def test_in_parts(self):
        """What a member gives of several entries is taken, and the rest is asked for."""
        self.write(self.position(2) + 3, bytes(self.position(5) - self.position(2) - 3))
        self.meet(2)
        self.assertEqual(self.look(), [("b", self.request(4, 2, 4))])
        self.told()
        self.assertEqual(self.answer("b", 4, 2, 3), [("c", self.request(5, 4))])
        self.assertIn(f"entries {self.index(2)} to {self.index(3)}", self.told()[0][1])
        self.assertEqual(self.answer("c", 5, 4), [])
        self.assertEqual((self.repair.mended, self.repair.pending), (3, 0))
        self.assert_whole()

    def test_who_is_next(self):
        """Who cannot be reached, has nothing, or is silent for long is followed by the next; then a pause."""
        self.flip(self.position(2) + 20)
        self.unreachable = {"b"}
        self.meet(2)
        self.assertEqual(self.look(), [("b", self.request(4, 2)), ("c", self.request(5, 2))])
        self.told()
        self.assertEqual(self.look(ANSWER_SECONDS - 0.1), [])
        self.assertEqual(self.look(ANSWER_SECONDS), [("a", self.request(6, 2))])
        self.assertEqual(self.answer("a", 6), [])
        text = f"no other member gives entry {self.index(2)} now; asked again and again, until one does"
        self.assertEqual(self.told(), [(LogLevel.error, f"{self.path}: {text}")])
        now = ANSWER_SECONDS
        for number, delay in (
            (7, RETRY_SECONDS_MIN),
            (10, 2 * RETRY_SECONDS_MIN),
            (13, 4 * RETRY_SECONDS_MIN),
        ):
            self.assertEqual(self.look(now + delay - 0.1), [])
            now += delay
            # Another one is the first each time.
            order = sorted(self.names)[number % 3 :] + sorted(self.names)[: number % 3]
            numbers = dict(zip(order, range(number, number + 3), strict=True))
            sent = self.look(now)
            while sent:
                name, request = sent[-1]
                self.assertEqual(request.request_id, numbers[name])
                sent = self.answer(name, request.request_id)
        self.assertEqual(self.told(), [])
        self.assertEqual((self.repair.pending, self.beyond), (1, []))

    def test_longest_pause(self):
        """The pauses double up to a minute; after a success they begin anew, and silence is told again."""
        self.flip(self.position(2) + 20)
        self.flip(self.position(4) + 20)
        self.names = []
        self.meet(2)
        now, pauses = 0.0, []
        self.look(now)
        for _ in range(9):
            [job] = self.repair._jobs.values()
            pauses.append(job.due - now)
            now = job.due
            self.look(now)
        self.assertEqual(pauses, [1, 2, 4, 8, 16, 32, 60, 60, 60])
        self.assertEqual(len(self.told()), 2)
        self.names = ["a"]
        [job] = self.repair._jobs.values()
        self.assertEqual(self.look(job.due), [("a", self.request(4, 2))])
        self.assertEqual(self.answer("a", 4, 2), [("a", self.request(5, 4))])
        self.told()
        self.answer("a", 5)
        self.assertEqual(job.due, self.repair._now + RETRY_SECONDS_MIN)
        self.assertIn("no other member gives", self.told()[0][1])

    def test_stray_answers(self):
        """An answer of another member, to another question, or that nobody waits for, is nothing."""
        self.flip(self.position(2) + 20)
        self.meet(2)
        self.assertEqual(self.look(), [("b", self.request(4, 2))])
        for name, number in (("a", 4), ("b", 5), ("b", 3)):
            self.assertEqual(self.answer(name, number, 2), [])
        self.assertEqual(self.repair.mended, 0)
        self.answer("b", 4, 2)
        self.assertEqual((self.repair.mended, self.repair.pending), (1, 0))
        self.assertEqual(self.answer("b", 4, 2), [])
        self.assertEqual(self.repair.mended, 1)

    def test_misfits(self):
        """What does not fit is told; when it is so with every member, this log cannot be mended in place."""
        self.flip(self.position(2) + 20)
        self.meet(2)
        self.look()
        self.told()
        for name, number, left in (("b", 4, [("c", 5)]), ("c", 5, [("a", 6)]), ("a", 6, [])):
            sent = self.answer(name, number, frames=self.entry(3).frame)
            self.assertEqual([(name, request.request_id) for name, request in sent], left)
            [(level, text)] = self.told()
            self.assertEqual(level, LogLevel.error)
            self.assertTrue(text.startswith(f"{self.path}: what {name} gave does not fit: no entry "), text)
        problem = (
            "no entry of this log starts here (header checksum); what the other members have does not fit "
            f"there (entry {self.index(2)})"
        )
        self.assertEqual(self.beyond, [(self.path, self.position(2), problem)])
        self.assertEqual((self.repair.pending, self.log._damaged), (0, ()))

    def test_some_misfit(self):
        """One member without an answer leaves hope: all are asked again, and counted anew."""
        self.flip(self.position(2) + 20)
        self.meet(2)
        self.look()
        for now in (1.0, 3.0):
            for _ in range(2):
                asked = self.repair._asked
                self.answer(asked.name, asked.request_id, frames=b"nothing like an entry")
            asked = self.repair._asked
            self.answer(asked.name, asked.request_id)
            self.look(now)
        self.assertEqual((self.beyond, self.repair.pending), ([], 1))

    def test_two_segments(self):
        """One segment is mended at a time; while nobody gives what one lacks, the other has its turn."""
        other = self.log.view.segments[2]
        self.flip(self.position(2) + 20)
        self.disk.flip(other.path, 8 * (other.frame_header(1).position + 9))
        self.meet(2)
        self.assertTrue(self.repair.take(other.damage(0, "met")))
        self.assertEqual(self.repair.pending, 2)
        self.names = ["a"]
        self.assertEqual(self.look(), [("a", self.request(4, 2))])
        self.answer("a", 4)
        [(_, request)] = self.look(0.5)
        self.assertEqual(request.first_index, other.base_index + 1)
        first = list(self.repair._jobs)
        self.answer("a", 5)
        self.assertEqual(list(self.repair._jobs), first[::-1], "who was asked in vain is last")
        self.assertEqual(self.look(1.0), [("a", self.request(6, 2))])

    def test_not_committed(self):
        """Entries that may be cut yet are not asked for; a second later it looks again."""
        self.flip(self.position(2) + 20)
        self.committed_index = self.index(2) - 1
        self.meet(2)
        self.assertEqual((self.look(5.0), self.told(), self.log._damaged), ([], [], ()))
        self.committed_index += 1
        self.assertEqual(self.look(5.0 + RETRY_SECONDS_MIN - 0.1), [])
        self.assertEqual(self.look(5.0 + RETRY_SECONDS_MIN), [("b", self.request(4, 2))])

    def test_ending(self):
        """Who ends begins nothing, asks nobody, and serves nobody."""
        self.flip(self.position(2) + 20)
        self.meet(2)
        self.is_ending = True
        self.repair.look(0.0)
        self.assertEqual(len(self.readers.waiting), 0)
        self.repair.serve("a", self.request(1, 0))
        self.assertEqual(len(self.readers.waiting), 0)
        self.is_ending = False
        self.look()
        self.is_ending = True
        self.assertEqual(self.answer("b", 4), [])
        self.assertEqual(self.repair.mended, 0)


class EndsTests(MendingCase):
    """When mending is over, for better or worse."""

    def test_nothing_damaged(self):
        """A good segment is looked at some times; then what meets damage there is believed."""
        for _ in range(ATTEMPTS_MAX):
            self.assertTrue(self.meet())
            self.assertTrue(self.meet(), "it is being looked at already")
            self.look()
            self.assertEqual(self.repair.pending, 0)
        self.assertFalse(self.meet())
        self.assertTrue(self.repair.take(self.log.view.segments[2].damage(0, "x")))

    def test_counted_anew(self):
        """Damage that was mended there wipes out the looks in vain."""
        for _ in range(ATTEMPTS_MAX - 1):
            self.meet()
            self.look()
        self.flip(self.position(2) + 20)
        self.meet(2)
        self.look()
        self.answer("b", 4, 2)
        for _ in range(ATTEMPTS_MAX):
            self.assertTrue(self.meet())
            self.look()
        self.assertFalse(self.meet())

    def test_where(self):
        """The segment that takes appends is not mended, nor a file that is none of the log's."""
        active = self.log.view.segments[-1]
        self.assertFalse(self.repair.take(active.damage(0, "x")))
        self.assertFalse(self.repair.take(DamageError("/other", 0, "x")))
        self.assertEqual(self.repair.pending, 0)

    def test_index(self):
        """An index that does not fit is made anew, and that counts as mended."""
        self.put(self.segment.index_path, 12, bytes(12))
        good = self.disk.content(self.log.view.segments[1].index_path)
        for _ in range(ATTEMPTS_MAX + 1):
            self.put(self.segment.index_path, 12, bytes(12))
            self.assertTrue(self.meet())
            self.look()
            text = f"{self.segment.index_path}: did not fit its store, was rebuilt"
            self.assertEqual(self.told()[0], (LogLevel.warn, text))
        count = self.segment.end.count
        self.assertNotEqual(self.disk.content(self.segment.index_path), good)
        self.assertEqual(len(self.disk.content(self.segment.index_path)), count * INDEX_ENTRY_SIZE)
        self.assertEqual((self.repair.pending, self.repair.mended), (0, 0))

    def test_gone(self):
        """A store that is gone cannot be mended."""
        self.disk.unlink(self.path)
        self.meet()
        self.look()
        self.assertEqual(self.beyond, [(self.path, 0, "the file is gone")])
        self.assertEqual(self.repair.pending, 0)

    def test_cannot_be_read(self):
        """A segment that cannot be opened now is tried again, later and later; each reason is told once."""
        self.disk.fail(24, kinds=["open"], times=8)
        self.meet()
        now, pauses = 0.0, []
        for _ in range(8):
            self.look(now)
            [job] = self.repair._jobs.values()
            pauses.append(job.due - now)
            self.assertEqual(self.look(job.due - 0.1), [])
            now = job.due
        self.assertEqual(pauses, [1, 2, 4, 8, 16, 32, RETRY_SECONDS_MAX, RETRY_SECONDS_MAX])
        text = f"{self.path}: cannot be read, tried again: {disk_error(24)}"
        self.assertEqual(self.told(), [(LogLevel.error, text)])
        self.look(now)
        self.assertEqual((self.repair.pending, self.failures), (0, []))

    def test_written_in_vain(self):
        """A disk that does not keep what is written to it is given up after a few tries."""
        self.flip(self.position(2) + 20)
        self.meet(2)
        self.look()
        error = DamageError(self.path, self.position(2), "not what was written")
        with patch.object(Log, "mend", side_effect=error):
            for number in range(ATTEMPTS_MAX):
                self.told()
                self.assertEqual(self.beyond, [])
                self.answer(self.repair._asked.name, FIRST_ID + number, 2)
                self.assertIn((LogLevel.error, str(error)), self.told())
        problem = f"no entry of this log starts here (header checksum) (entry {self.index(2)})"
        self.assertEqual(self.beyond, [(self.path, self.position(2), problem)])
        self.assertEqual((self.repair.pending, self.log._damaged, self.repair.mended), (0, (), 0))

    def test_the_disk_fails(self):
        """A disk that fails ends the process."""
        self.flip(self.position(2) + 20)
        self.meet(2)
        self.look()
        error = DiskFailedError("broken")
        with patch.object(Log, "mend", side_effect=error):
            self.answer("b", 4, 2)
        self.assertEqual(self.failures, [error])

    def test_trimmed(self):
        """A segment that was trimmed meanwhile is forgotten, wherever its mending was."""
        for steps in range(4):
            with self.subTest(steps=steps):
                self.setUp()
                self.flip(self.position(2) + 20)
                self.meet(2)
                self.repair.look(0.0)
                for _ in range(steps):
                    self.readers.settle()
                self.log.trim_prefix(self.log.view.segments[2].base_offset, self.log.last_index)
                self.look(1.0)
                self.answer("b", 4, frames=self.entry(2).frame)
                self.look(ANSWER_SECONDS + 1)
                self.assertEqual((self.repair.pending, self.log._damaged), (0, ()))
                self.assertEqual((self.repair.mended, self.beyond, self.failures), (0, [], []))

    def test_trimmed_while_it_is_written(self):
        """What the log does not write any more is forgotten."""
        self.flip(self.position(2) + 20)
        self.meet(2)
        self.look()
        with patch.object(Log, "mend", return_value=False):
            self.answer("b", 4, 2)
        self.assertEqual((self.repair.pending, self.repair.mended, self.log._damaged), (0, 0, ()))

    def test_unknown_end(self):
        """A segment whose end was not found at the start is mended unasked; then its end is known."""
        end = self.segment.end
        self.flip(self.position(self.segment.end.count - 1) + 20)
        self.log.unknown_ends = frozenset({self.segment.base_index})
        self.segment.end = type(end)(end.count, self.segment.size, end.term, end.next_offset)
        last = end.count - 1
        self.assertEqual(self.look(), [("b", self.request(4, last))])
        self.assertEqual(self.answer("b", 4, last), [])
        self.assertEqual((self.log.unknown_ends, self.segment.end), (frozenset(), end))
        self.assertEqual(self.repair.pending, 0)


class ServingTests(MendingCase):
    """What others get."""

    def served(self, request):
        self.repair.serve("c", request)
        self.settle()
        return self.take_sent()

    def test_entries(self):
        """Committed entries are given, as many as were asked for, with the question's number."""
        frames = self.entry(1).frame + self.entry(2).frame
        self.assertEqual(
            self.served(self.request(9, 1, 2)), [("c", EntriesReply(request_id=9, frames=frames))]
        )
        self.committed_index = self.index(2)
        self.assertEqual(len(self.served(self.request(9, 1, 2))[0][1].frames), len(frames))
        self.committed_index -= 1
        self.assertEqual(self.served(self.request(9, 1, 2)), [("c", EntriesReply(request_id=9))])
        self.assertEqual(len(self.readers.waiting), 0)

    def test_at_once(self):
        """No more are read at once than the limit; who was not answered asks again."""
        for number in range(ENTRIES_SERVED_MAX + 2):
            self.repair.serve("c", self.request(number, 0))
        self.assertEqual(len(self.readers.waiting), ENTRIES_SERVED_MAX)
        self.settle()
        self.assertEqual([reply.request_id for _, reply in self.take_sent()], list(range(ENTRIES_SERVED_MAX)))
        self.assertEqual(len(self.served(self.request(1, 0))), 1)

    def test_not_to_be_had(self):
        """Damaged and trimmed entries are answered by none; damage is told here, too."""
        self.flip(self.position(2) + 20)
        self.assertEqual(self.served(self.request(9, 2)), [("c", EntriesReply(request_id=9))])
        self.assertEqual(
            [(error.file, error.position) for error in self.found], [(self.path, self.position(2))]
        )
        request = self.request(9, 2)
        self.log.trim_prefix(self.log.view.segments[2].base_offset, self.log.last_index)
        self.assertEqual(self.served(request), [("c", EntriesReply(request_id=9))])
        self.assertEqual((len(self.found), self.told()), (1, []))

    def test_a_bug(self):
        """Another error is logged, ends nothing, and takes no room from others."""
        for number in range(ENTRIES_SERVED_MAX + 1):
            with patch.object(Log, "entries", side_effect=ZeroDivisionError):
                self.assertEqual(self.served(self.request(number, 0)), [])
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), ENTRIES_SERVED_MAX + 1)
        self.assertEqual(self.failures, [])

    def test_ending_meanwhile(self):
        """Nothing is sent once the node ends."""
        self.repair.serve("c", self.request(1, 0))
        self.is_ending = True
        self.settle()
        self.assertEqual(self.take_sent(), [])
