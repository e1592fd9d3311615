"""Giving up what is damaged, to the word: what is done, what is kept aside, and what the log says then."""

import errno
import random

from loghouse.errors import DamageError, DataDirectoryError, DiskFailedError
from loghouse.limits import ENTRY_HEADER_SIZE, STORE_HEADER_SIZE
from loghouse.protocol.entry import crc32c
from loghouse.protocol.hard_state import HardState
from loghouse.protocol.log_state import LogState
from loghouse.storage.hard_state import newest_slot, read_slots, replace_hard_state
from loghouse.storage.held import Held, read_held, write_held
from loghouse.storage.loss import UNKNOWN_INDEX, Loss, note_held, read_loss, write_loss
from loghouse.storage.repair import Repair, accept_data_loss, cut_for_refetch
from loghouse.storage.start import (
    FLAG_BEHIND_STORE,
    STATE_MAGIC,
    encode_state_file,
    read_start,
    write_start,
    write_state,
)
from loghouse.storage.store import StoreHeader, Watermark, new_block, newest_watermark
from loghouse.storage.traces import Trace, contradicts_installing, last_known, traces_behind
from tests.storage.test_damage import DIRECTORY, STORE
from tests.storage.test_damage import DamageCase as _DamageCase

COUNT = 30


def name_of(base, suffix):
    return f"{base:020d}.{suffix}"


class RepairCase(_DamageCase):
    """A log of some segments, all of it committed and durable, in term 1."""

    def setUp(self):
        self.make(COUNT)
        self.bases = sorted(int(path[-26:-6]) for path in self.image if path.endswith(".store"))

    def path(self, base, suffix="store"):
        return f"{DIRECTORY}/{name_of(base, suffix)}"

    def position(self, index):
        base = max(base for base in self.bases if base <= index)
        return STORE_HEADER_SIZE + sum(entry.size for entry in self.entries[base - 1 : index - 1])

    def write(self, path, position, content):
        old = self.disk.content(path)
        self.disk.replace(path, old[:position] + content + old[position + len(content) :])

    def watermark(self, base):
        return newest_watermark(self.disk.content(self.path(base))[:STORE_HEADER_SIZE], self.seed)

    def hard_state(self):
        return newest_slot(read_slots(self.disk, DIRECTORY, self.seed, "")).state

    def accept(self):
        return accept_data_loss(self.disk, DIRECTORY, cluster=self.cluster, group=1)

    def cut(self):
        return cut_for_refetch(self.disk, DIRECTORY, cluster=self.cluster, group=1)

    def opened(self):
        self.disk.stop_process()
        return self.boot().open_log()


class AcceptTests(RepairCase):
    """`accept_data_loss`."""

    def test_nothing(self):
        """A whole log stays as it is, but for what says how it was closed."""
        write_held(self.disk, DIRECTORY, self.seed, Held(COUNT, 1, HardState(1, 1), is_closed=True))
        before = self.disk.contents()
        self.assertEqual(self.accept(), Repair((), COUNT, self.entries[-1].next_offset, COUNT))
        del before[f"{DIRECTORY}/held"]
        self.assertEqual(self.disk.contents(), before)

    def test_damaged_entry(self):
        """The segment ends before it, the file too; its watermark says so, and counts on."""
        base = self.bases[1]
        path, index = self.path(base), base + 2
        at = self.position(index)
        before = self.watermark(base)
        content = self.disk.content(path)
        self.disk.flip(path, 8 * (at + ENTRY_HEADER_SIZE + 3))
        damaged = self.disk.content(path)
        repair = self.accept()
        self.assertEqual(
            (repair.last_index, repair.next_offset, repair.lost_index),
            (index - 1, self.entries[index - 1].base_offset, COUNT),
        )
        end = len(content.rstrip(b"\0"))
        self.assertEqual(
            repair.actions[0],
            f"{path}: cut at byte {at}, behind entry {index - 1} (payload checksum of entry {index} does not "
            f"match); {end - at} bytes kept in {DIRECTORY}/lost+found/{name_of(base, 'store')}-{at}.cut",
        )
        self.assertEqual(
            self.disk.content(f"{DIRECTORY}/lost+found/{name_of(base, 'store')}-{at}.cut"), damaged[at:end]
        )
        after = self.watermark(base)
        self.assertEqual(
            after, Watermark(before.counter + 1, index - 1, 1, at, min(before.commit_index, index - 1))
        )
        self.assertEqual(len(self.disk.content(path)), at)
        moved = [
            f"{self.path(one, suffix)}: moved to {DIRECTORY}/lost+found/{name_of(one, suffix)}"
            for one in reversed(self.bases[2:])
            for suffix in ("state", "store")
        ]
        self.assertEqual(list(repair.actions[1:]), moved)
        for one in self.bases[2:]:
            for suffix in ("index", "state", "store"):
                self.assertFalse(self.disk.exists(self.path(one, suffix)))
                kept = self.disk.content(f"{DIRECTORY}/lost+found/{name_of(one, suffix)}")
                self.assertEqual(kept, self.image[self.path(one, suffix)].rstrip(b"\0"))
        self.disk.crash(random.Random(0), keep=0.0)
        self.assertEqual(self.opened().last_index, index - 1)

    def test_commit_index(self):
        """What is known to be committed is no more than what is left, and no more than it was."""
        last = self.bases[-1]
        at = self.position(COUNT)
        for commit_index, wanted in ((last, last), (COUNT, COUNT - 1)):
            old = self.watermark(last)
            lower = Watermark(old.counter + 1, COUNT, 1, old.position, commit_index)
            self.write(self.path(last), lower.slot_position, lower.encode(self.seed))
            self.disk.flip(self.path(last), 8 * (at + 20))
            self.accept()
            self.assertEqual(self.watermark(last).commit_index, wanted)
            self.restore()

    def test_zeroes(self):
        """Where only zeroes are behind the end nothing is kept aside."""
        last = self.bases[-1]
        at = self.position(COUNT)
        self.write(self.path(last), at, bytes(5120 - at))
        repair = self.accept()
        self.assertEqual(repair.actions, (f"{self.path(last)}: ends at byte {at}, behind entry {COUNT - 1}",))
        self.assertFalse(self.disk.exists(f"{DIRECTORY}/lost+found"))
        self.assertEqual((repair.last_index, repair.lost_index), (COUNT - 1, COUNT))

    def test_torn_tail(self):
        """What is torn behind the watermark is left to the next start."""
        last = self.bases[-1]
        self.write(self.path(last), self.watermark(last).position, b"torn")
        before = self.disk.contents()
        repair = self.accept()
        self.assertEqual((repair.actions, self.disk.contents()), ((), before))
        self.assertEqual(self.opened().last_index, COUNT)

    def test_bytes_behind_a_sealed_segment(self):
        """In a sealed segment they are cut, though they are behind its last entry."""
        base = self.bases[0]
        position = self.watermark(base).position
        self.write(self.path(base), position, b"x" * 64)
        repair = self.accept()
        self.assertEqual(len(repair.actions), 1)
        self.assertIn(
            f"cut at byte {position}, behind entry {self.bases[1] - 1} (no entry", repair.actions[0]
        )
        self.assertEqual(repair.last_index, COUNT)

    def test_without_a_watermark(self):
        """A store without one gets the first one, where its good entries end."""
        last = self.bases[-1]
        end = self.watermark(last).position
        for position in (1024, 2048):
            self.write(self.path(last), position, bytes(44))
        repair = self.accept()
        self.assertEqual(repair.actions, (f"{self.path(last)}: ends at byte {end}, behind entry {COUNT}",))
        self.assertEqual(self.watermark(last), Watermark(0, COUNT, 1, end, 0))

    def test_no_header(self):
        """A store without a header, of another log or place, is kept aside with those behind it."""
        base = self.bases[2]
        old = StoreHeader.decode(self.disk.content(self.path(base)))
        fields = {
            name: getattr(old, name)
            for name in ("group", "cluster", "base_index", "base_offset", "previous_term")
        }
        for change in (
            None,
            {"group": 7},
            {"cluster": bytes(16)},
            {"base_index": base + 1},
            {"base_offset": 1},
            {"previous_term": 9},
        ):
            if change is None:
                self.disk.flip(self.path(base), 8 * 20)
            else:
                self.write(self.path(base), 0, StoreHeader(**{**fields, **change}).encode())
            repair = self.accept()
            self.assertEqual(repair.last_index, base - 1, change)
            self.assertEqual(len(repair.actions), 2 * len(self.bases[2:]))
            self.disk.stop_process()
            for path in [path for path in self.disk.contents() if "lost+found" in path]:
                self.disk.unlink(path)
            self.restore()

    def test_start(self):
        """A lost `start` is written anew from the oldest segment, even without its state file."""
        for without_state in (False, True):
            self.disk.replace(f"{DIRECTORY}/start", b"x")
            if without_state:
                self.disk.unlink(self.path(1, "state"))
            repair = self.accept()
            self.assertEqual(repair.actions, ("start: written anew, the log starts at entry 1",))
            self.assertEqual(read_start(self.disk, DIRECTORY, self.seed, "")[0], LogState())
            self.restore()

    def test_start_of_a_trimmed_log(self):
        """The oldest segment's state file tells where a trimmed log begins; without it nothing does."""
        log = self.boot().open_log()
        log.trim_prefix(log.sealed_segments()[0].next_offset, COUNT)
        self.disk.stop_process()
        base = self.bases[1]
        self.disk.unlink(f"{DIRECTORY}/start")
        state = self.disk.content(self.path(base, "state"))
        self.disk.unlink(self.path(base, "state"))
        before = self.disk.contents()
        error = self.assertRaises(DamageError, self.accept)
        self.assertEqual((error.file, error.position), (f"{DIRECTORY}/start", 0))
        self.assertEqual(
            error.problem,
            "the file that says where the log starts is gone, and no segment tells where the log starts",
        )
        self.assertIn("nothing was modified; restore the directory from a backup", str(error))
        self.assertEqual(self.disk.contents(), before)
        self.disk.replace(self.path(base, "state"), state)
        repair = self.accept()
        self.assertEqual(repair.actions, (f"start: written anew, the log starts at entry {base}",))
        self.assertEqual(self.opened().first_index, base)

    def test_everything_is_lost(self):
        """Without any good segment the log is empty, and begins where it did."""
        self.disk.flip(STORE, 8 * 20)
        repair = self.accept()
        self.assertEqual((repair.last_index, repair.next_offset, repair.lost_index), (0, 0, COUNT))
        self.assertEqual(repair.actions[-1], "start: the log is empty and starts at entry 1")
        self.assertEqual(self.opened().last_index, 0)

    def test_hard_state(self):
        """Lost or old term and vote are written anew, with a term in which no vote was given."""
        text = (
            "hard_state: written anew with term {} and no vote; "
            "a member of a cluster should rejoin with an empty disk instead"
        )
        for state, held, term in (
            (None, None, 2),
            (None, Held(COUNT, 1, HardState(6, 2), is_closed=True), 7),
            (HardState(0, 0), None, 2),
            (HardState(5, 1), Held(COUNT, 1, HardState(6, 2), is_closed=True), 7),
            (HardState(6, 1), Held(COUNT, 1, HardState(6, 2), is_closed=True), 7),
            (HardState(6, 1), Held(COUNT, 9, HardState(6, 1), is_closed=True), 10),
            (HardState(5, 1), Held(COUNT, 1, HardState(6, 2), is_closed=False), None),
            (HardState(6, 2), Held(COUNT, 1, HardState(6, 2), is_closed=True), None),
        ):
            if state is None:
                self.disk.unlink(f"{DIRECTORY}/hard_state")
            else:
                replace_hard_state(self.disk, DIRECTORY, self.seed, state)
            if held is not None:
                write_held(self.disk, DIRECTORY, self.seed, held)
            repair = self.accept()
            if term is None:
                self.assertEqual((repair.actions, self.hard_state()), ((), state))
            else:
                self.assertEqual(repair.actions, (text.format(term),), (state, held))
                self.assertEqual(self.hard_state(), HardState(term, 0))
            self.restore()

    def test_lost_term(self):
        """The term is above that of every entry that was lost, as far as a watermark tells."""
        last = self.bases[-1]
        old = self.watermark(last)
        newer = Watermark(old.counter + 1, COUNT, 8, old.position, COUNT)
        self.write(self.path(last), newer.slot_position, newer.encode(self.seed))
        self.disk.flip(STORE, 8 * (STORE_HEADER_SIZE + 20))
        self.accept()
        self.assertEqual(self.hard_state(), HardState(9, 0))

    def test_lost_index(self):
        """What was lost is told by watermarks, by traces of stores that are gone, and by `held`."""
        last = self.bases[-1]
        for harm, lost in (
            (lambda: write_held(self.disk, DIRECTORY, self.seed, Held(44, 1)), 44),
            (lambda: self.disk.unlink(self.path(last)), COUNT),
            (
                lambda: (self.disk.unlink(self.path(last)), self.disk.unlink(self.path(last, "index"))),
                last - 1,
            ),
        ):
            harm()
            self.assertEqual(self.accept().lost_index, lost)
            self.restore()
        # Traces are kept aside: nothing may take them for another loss.
        self.disk.unlink(self.path(last))
        self.accept()
        self.assertFalse(self.disk.exists(self.path(last, "state")))
        self.assertEqual(
            self.disk.content(f"{DIRECTORY}/lost+found/{name_of(last, 'state')}"),
            self.image[self.path(last, "state")],
        )

    def test_disk_that_refuses(self):
        """An error of the disk is told with what could not be done."""
        self.disk.flip(STORE, 8 * (STORE_HEADER_SIZE + 20))
        for work in (self.accept, self.cut):
            self.disk.fail(errno.EIO, kinds=("truncate",))
            error = self.assertRaises(DiskFailedError, work)
            self.assertIn(f"cannot repair {DIRECTORY}: ", str(error))

    def test_newer(self):
        """An entry from the future is not given up."""
        content = bytearray(self.entries[0].head)
        content[9] = 99
        head = crc32c(bytes(content[4:]), self.seed).to_bytes(4, "big") + bytes(content[4:])
        self.write(STORE, STORE_HEADER_SIZE, head)
        error = self.assertRaises(DataDirectoryError, self.accept)
        self.assertIn(f"{STORE}: byte {STORE_HEADER_SIZE}: ", str(error))
        self.assertIn("; use a newer Loghouse", str(error))


class CutTests(RepairCase):
    """`cut_for_refetch`, and what is remembered of a loss."""

    def test_known_before(self):
        """What was known to be lost stays known when it is more."""
        for known, wanted in (
            ((COUNT, 1), (COUNT, 1)),
            ((COUNT + 1, 1), (COUNT + 1, 1)),
            ((3, 1), (COUNT, 1)),
        ):
            write_loss(self.disk, DIRECTORY, self.seed, Loss(*known))
            self.cut()
            self.assertEqual(read_loss(self.disk, DIRECTORY, self.seed), Loss(*wanted, is_cut=True))
            self.restore()

    def test_older_hard_state(self):
        """A member whose term and vote are an older copy promised what it does not know: it is refused."""
        write_held(self.disk, DIRECTORY, self.seed, Held(COUNT, 1, HardState(4, 2), is_closed=True))
        before = self.disk.contents()
        error = self.assertRaises(DamageError, self.cut)
        self.assertEqual((error.file, error.position), (f"{DIRECTORY}/hard_state", 0))
        self.assertIn("it is an older copy", error.problem)
        self.assertIn("move /data away and start the node with an empty one", str(error))
        self.assertEqual(self.disk.contents(), before)
        self.disk.unlink(f"{DIRECTORY}/held")
        write_loss(self.disk, DIRECTORY, self.seed, Loss(COUNT, 2))
        error = self.assertRaises(DamageError, self.cut)
        self.assertIn("there are entries of term 2", error.problem)

    def test_texts(self):
        """How far a log went is told by its last entry, or by the term when nothing counts them."""
        self.assertEqual(Loss(7, 3).end_text, "entry 7")
        self.assertEqual(
            Loss(UNKNOWN_INDEX, 3).end_text, "entries that nothing on the disk counts, up to term 3"
        )
        self.assertEqual(Loss(UNKNOWN_INDEX - 1, 3).end_text, f"entry {UNKNOWN_INDEX - 1}")
        self.assertEqual(Loss(7, 3).pair, (3, 7))

    def test_held_at_a_clean_stop(self):
        """A log that is closed is said to have held what it holds, or once held when that is more."""
        for loss, pair in (
            (None, (1, 30)),
            (Loss(40, 1), (1, 40)),
            (Loss(40, 0), (1, 30)),
            (Loss(2, 2), (2, 2)),
        ):
            if loss is not None:
                write_loss(self.disk, DIRECTORY, self.seed, loss)
            note_held(self.disk, DIRECTORY, self.seed, (1, 30), HardState(5, 1))
            found = read_held(self.disk, DIRECTORY, self.seed)
            self.assertEqual((found.pair, found.hard_state, found.is_closed), (pair, HardState(5, 1), True))

    def test_lengths(self):
        """Only files of exactly their length are taken."""
        for content, decode in (
            (Loss(7, 3).encode(self.seed), Loss.decode),
            (Held(7, 3).encode(self.seed), Held.decode),
        ):
            self.assertIsNotNone(decode(content, self.seed))
            for other in (content[:-1], content + b"\0", b""):
                self.assertIsNone(decode(other, self.seed))


class TraceTests(RepairCase):
    """What tells of stores that are gone."""

    def traces(self, end_index, *names):
        names = names or self.disk.list_directory(DIRECTORY)
        return traces_behind(self.disk, DIRECTORY, self.seed, names, end_index=end_index)

    def test_counted(self):
        """Index and state files behind the end tell, in the order of their names; stores do not."""
        last = self.bases[-1]
        count = COUNT - last + 1
        index, state = name_of(last, "index"), name_of(last, "state")
        self.assertEqual(
            self.traces(last - 1), [Trace(last, index, last + count - 1), Trace(last, state, last - 1)]
        )
        self.assertEqual(self.traces(last), [])
        self.assertEqual(self.traces(last - 1)[0].store_name, name_of(last, "store"))
        self.assertEqual(len(self.traces(0)), 2 * len(self.bases))

    def test_part_of_an_entry(self):
        """An index entry counts when any byte of it is there."""
        last = self.bases[-1]
        path = self.path(last, "index")
        for content, count in ((bytes(24), 0), (bytes(11) + b"\1", 1), (bytes(12) + b"\1", 2), (b"\1", 1)):
            self.disk.replace(path, content.ljust(60, b"\0"))
            found = self.traces(last - 1, name_of(last, "index"))
            self.assertEqual([one.last_index for one in found], [last + count - 1] if count else [])

    def test_unmarked_state(self):
        """A state file of a version before tells nothing at the end of the log, but behind it."""
        base = 31
        state = self.opened().state
        for flags, end_index, is_trace in (
            (0, base - 1, False),
            (0, base - 2, True),
            (FLAG_BEHIND_STORE, base - 1, True),
        ):
            self.disk.replace(
                self.path(base, "state"), encode_state_file(STATE_MAGIC, self.seed, state, flags)
            )
            self.assertEqual(bool(self.traces(end_index, name_of(base, "state"))), is_trace)

    def test_last_known(self):
        """The highest pair of all watermarks and `held` counts, by term first; whole headers, too."""

        def known(term=1):
            return last_known(self.disk, DIRECTORY, self.seed, HardState(term, 0))

        self.assertEqual(known(), Loss(COUNT, 1))
        write_held(self.disk, DIRECTORY, self.seed, Held(7, 2))
        self.assertEqual(known(), Loss(7, 2))
        write_held(self.disk, DIRECTORY, self.seed, Held(COUNT + 1, 1))
        self.assertEqual(known(), Loss(COUNT + 1, 1))
        self.restore()
        last = self.bases[-1]
        self.disk.unlink(self.path(last))
        self.assertEqual(known(3), Loss(UNKNOWN_INDEX, 3))
        self.assertEqual(known(0), Loss(UNKNOWN_INDEX, 1))
        write_held(self.disk, DIRECTORY, self.seed, Held(44, 2, HardState(2, 0), is_closed=True))
        self.assertEqual(known(), Loss(44, 2))
        write_held(self.disk, DIRECTORY, self.seed, Held(44, 2, HardState(2, 0)))
        self.assertEqual(known(), Loss(UNKNOWN_INDEX, 2))

    def test_headers_behind_the_watermark(self):
        """Headers behind a watermark are followed while each joins the one before."""
        last = self.bases[-1]
        counted = last + 1
        position = self.position(counted + 1)
        lower = Watermark(self.watermark(last).counter + 1, counted, 1, position, counted)
        self.write(self.path(last), lower.slot_position, lower.encode(self.seed))

        def known():
            return last_known(self.disk, DIRECTORY, self.seed, HardState(1, 0)).last_index

        self.assertEqual(known(), COUNT)
        third = self.position(counted + 3)
        self.disk.flip(self.path(last), 8 * (third + 30))
        self.assertEqual(known(), counted + 2)
        self.disk.replace(self.path(last), self.disk.content(self.path(last))[: third + 63])
        self.assertEqual(known(), counted + 2)
        self.disk.flip(self.path(last), 8 * (position + 70))  # its payload
        self.assertEqual(known(), counted + 2)

    def test_nothing_tells(self):
        """Without any trace there is nothing to tell."""
        for path in self.disk.contents():
            if path.endswith((".store", ".index", ".state")):
                self.disk.unlink(path)
        error = self.assertRaises(DamageError, last_known, self.disk, DIRECTORY, self.seed, HardState(1, 0))
        self.assertEqual((error.file, error.position), (DIRECTORY, 0))
        self.assertEqual(error.problem, "nothing tells how far the log went")
        self.assertIn("a member of a cluster cannot go on without it; move /data away", str(error))
        write_held(self.disk, DIRECTORY, self.seed, Held(4, 1))
        self.assertEqual(last_known(self.disk, DIRECTORY, self.seed, HardState(1, 0)), Loss(UNKNOWN_INDEX, 1))

    def contradiction(self, start):
        return contradicts_installing(self.disk, DIRECTORY, self.seed, start)

    def test_installing(self):
        """A start that is being installed and that the log knows to be committed is an older copy."""
        text = "it says that the log is being installed behind entry {}, but {} holds "
        for index in (0, 1, COUNT):
            found = self.contradiction(LogState(index=index, term=3, next_offset=99))
            self.assertTrue(
                found.startswith(text.format(index, name_of(self.bases[0 if index < 2 else -1], "store")))
            )
            self.assertTrue(found.endswith("what was written since: it is an older copy"))
        self.assertEqual(self.contradiction(LogState(index=COUNT + 1, term=3, next_offset=99)), "")
        write_held(self.disk, DIRECTORY, self.seed, Held(1, 1, HardState(1, 0), is_closed=True))
        self.assertEqual(
            self.contradiction(LogState(index=COUNT + 1, term=3, next_offset=99)),
            "it says that the log is being installed, but the log was closed since: it is an older copy",
        )
        write_held(self.disk, DIRECTORY, self.seed, Held(1, 1, HardState(1, 0)))
        self.assertEqual(self.contradiction(LogState(index=COUNT + 1, term=3, next_offset=99)), "")

    def test_made_by_the_installation(self):
        """The segment that an installation made has no entries before that ended."""
        start = LogState(index=50, term=3, next_offset=99)
        header = StoreHeader(cluster=self.cluster, group=1, base_index=51, base_offset=99, previous_term=3)
        fields = {
            name: getattr(header, name)
            for name in ("group", "cluster", "base_index", "base_offset", "previous_term")
        }
        for change, content, is_old in (
            ({}, b"", False),
            ({}, bytes(100), False),
            ({}, b"x", True),
            ({}, bytes(99) + b"x", True),
            ({"base_index": 52}, b"x", False),
            ({"base_offset": 98}, b"x", False),
            ({"previous_term": 2}, b"x", False),
        ):
            block = new_block(StoreHeader(**{**fields, **change}))
            self.disk.replace(self.path(51), block + content)
            self.assertEqual(bool(self.contradiction(start)), is_old, (change, content))
        self.disk.flip(self.path(51), 8 * 20)
        self.assertEqual(self.contradiction(start), "")

    def test_interrupted_installation(self):
        """What was being installed is finished by the next start, after a repair too."""
        start = LogState(index=50, term=1, next_offset=99)
        write_state(self.disk, DIRECTORY, self.seed, start)
        write_start(self.disk, DIRECTORY, self.seed, start, installing=True)
        repair = self.accept()
        self.assertEqual((repair.last_index, repair.next_offset), (50, 99))
        log = self.opened()
        self.assertEqual((log.first_index, log.last_index), (51, 50))
