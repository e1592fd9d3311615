"""`RaftLog` against what it should be by definition, and the bounds of what it keeps in memory."""

import random

from twisted.trial.unittest import SynchronousTestCase

from loghouse.protocol.configuration import encode_birth, encode_configuration, encode_producer, encode_trim
from loghouse.protocol.cursors import WITH_RECORDS, CursorAction, CursorChange, encode_cursor_change
from loghouse.protocol.entry import EntryKind
from loghouse.protocol.log_state import LogState, encode_log_state
from loghouse.raft import raft_log as raft_log_module
from loghouse.raft.raft_log import RaftLog
from loghouse.shares import Budget
from loghouse.testing.memory_log import MemoryLog
from tests.raft.group import configuration, entry, log_of


class Model:
    """A log, its disk, and the writes on their way; everything is looked up in plain lists."""

    def __init__(self, seed):
        self.rng = random.Random(seed)
        first = log_of([1] * self.rng.randrange(6))
        self.disk = MemoryLog(first)
        self.cache_size_max = self.rng.choice([1, 300, 1000])
        commit_index = self.rng.randrange(len(first) + 2)
        self.log = RaftLog(self.disk, commit_index, self.cache_size_max)
        self.entries = {one.index: one for one in first}  # of the log now, also what the disk trimmed
        self.start = LogState()
        self.commit_index = self.delivered_index = min(commit_index, len(first))
        self.in_memory = len(first) + 1  # entries from here on were never forgotten
        self.writing = []
        self.token = 0
        self.unwritten_start = False  # a snapshot that the disk does not have yet

    @property
    def last_index(self):
        return max(self.entries, default=self.start.index)

    @property
    def last_term(self):
        return self.entries[self.last_index].term if self.entries else self.start.term

    def state_at(self, index):
        state = self.start.copy()
        for number in range(self.start.index + 1, index + 1):
            state.apply(self.entries[number])
        return state

    def change(self, state):
        """What is done with a cursor: it is acquired, or moves on with the records of the next entry."""
        if self.rng.random() < 0.3 or "a" not in state.cursors.by_name:
            return CursorChange(action=CursorAction.ACQUIRE, name="a", holder="h")
        epoch, position = state.cursors.by_name["a"].epoch, state.index
        return CursorChange(
            action=CursorAction.ADVANCE, name="a", epoch=epoch, position=position, flags=WITH_RECORDS
        )

    # --- what may happen ------------------------------------------------------------

    def append(self):
        state = self.state_at(self.last_index)
        term = self.last_term + (self.rng.random() < 0.3) or 1
        kind = self.rng.choice(list(EntryKind))
        payload = {
            EntryKind.RECORDS: bytes(self.rng.choice([0, 40, 236])),
            EntryKind.CONFIGURATION: encode_configuration(configuration(self.rng.randrange(1, 4))),
            EntryKind.TRIM: encode_trim(state.next_offset),
            EntryKind.PRODUCER: encode_producer("me"),
            EntryKind.BIRTH: encode_birth(2, configuration(1)),
            EntryKind.CURSOR: encode_cursor_change(self.change(state)),
        }.get(kind, b"")
        count = self.rng.randrange(1, 4) if kind == EntryKind.RECORDS else 0
        producer = self.rng.choice([0, *state.producers]) if count else 0
        one = entry(
            self.last_index + 1,
            term,
            kind,
            state.next_offset,
            payload,
            record_count=count,
            producer_id=producer,
        )
        self.log.append(one)
        self.entries[one.index] = one

    def cut(self):
        if self.commit_index < self.last_index:
            index = self.rng.randrange(self.commit_index, self.last_index)
            self.log.truncate(index)
            for number in range(index + 1, self.last_index + 1):
                del self.entries[number]
            self.in_memory = min(self.in_memory, index + 1)

    def commit(self):
        index = self.rng.randrange(self.last_index + 1)
        rises = index > self.commit_index
        assert self.log.commit(index) is rises
        self.commit_index = max(self.commit_index, index)

    def restore(self):
        if self.rng.random() < 0.1:
            state = LogState(
                index=self.last_index + self.rng.randrange(1, 4),
                term=self.last_term + 1,
                next_offset=self.rng.randrange(100),
                configuration=configuration(self.rng.randrange(1, 4)),
                configuration_index=1,
            )
            self.log.restore(state)
            self.start, self.entries = state, {}
            self.commit_index = self.delivered_index = state.index
            self.in_memory = state.index + 1
            self.unwritten_start = True

    def hand_over(self):
        if not self.log.has_writes:
            return
        self.token += 1
        self.writing.append((self.token, *self.log.take_writes(self.token)))
        assert not self.log.has_writes

    def finish(self):
        """The disk does one write or several; a token covers those before it."""
        done = self.writing[: self.rng.randrange(len(self.writing) + 1)]
        del self.writing[: len(done)]
        before = self.log.durable_index
        for _, snapshot, cut, entries in done:
            self.write(self.disk, snapshot, cut, entries)
            self.unwritten_start = self.unwritten_start and snapshot is not self.start
        if done:
            rose = self.log.persisted(done[-1][0])
            assert rose is (self.log.durable_index > before)

    def deliver(self):
        found = []
        while self.log.delivered_index < self.log.commit_index:
            found += self.log.take_committed(self.rng.choice([1, 200, 1000]))
        expected = range(self.delivered_index + 1, self.commit_index + 1)
        assert found == [self.entries[index] for index in expected], found
        self.delivered_index = self.commit_index

    def release(self):
        self.log.release()
        forgotten = min(self.log.durable_index, self.commit_index, self.delivered_index)
        assert self.log._window_first <= max(forgotten + 1, self.in_memory)
        self.in_memory = self.log._window_first

    def trim(self):
        """The disk forgets what was delivered."""
        last = min(self.log.durable_index, self.delivered_index)
        if not self.unwritten_start and last > self.disk.first_index and self.rng.random() < 0.3:
            self.disk.trim_prefix(self.rng.randrange(self.disk.first_index, last + 1))

    @staticmethod
    def write(disk, snapshot, cut, entries):
        if snapshot is not None:
            disk.install_start(snapshot)
        if cut is not None:
            disk.truncate_suffix(cut)
        disk.append(entries)

    # --- what must hold --------------------------------------------------------------

    def durable_index(self):
        """Up to where the disk has this log, and goes on having it while it does what is to be done."""
        if self.unwritten_start:
            return 0
        disk = MemoryLog()
        disk.start, disk.stored = self.disk.start, list(self.disk.stored)
        pending = [one[1:] for one in self.writing]
        if self.log._cut_index is not None:
            pending.append((None, self.log._cut_index, ()))
        least = self.last_index
        for write in [None, *pending]:
            if write is not None:
                self.write(disk, *write)
            index = disk.start.index
            for one in disk.stored:
                if self.entries.get(one.index) is not one:
                    break
                index = one.index
            least = min(least, index)
        return least

    def check(self):
        log, last = self.log, self.last_index
        assert (log.last_index, log.last_term) == (last, self.last_term)
        assert encode_log_state(log.state) == encode_log_state(self.state_at(last))
        assert (log.commit_index, log.delivered_index) == (self.commit_index, self.delivered_index)
        assert log.durable_index == self.durable_index()
        assert log.is_writing is bool(self.writing)
        sizes = {index: one.size for index, one in self.entries.items() if index >= self.in_memory}
        assert log.uncommitted_size == sum(s for index, s in sizes.items() if index > self.commit_index)
        assert log.undurable_size == sum(s for index, s in sizes.items() if index > log.durable_index)
        first = self.start.index + 1 if self.unwritten_start else self.disk.first_index
        assert log.first_index == first
        for index in range(last + 3):
            held = self.entries.get(index) if index >= min(first, self.in_memory) else None
            term = held.term if held else 0
            if index == first - 1 and not held:
                term = self.start.term if self.unwritten_start else self.disk.start.term
            assert log.term_at(index) == term, index
            assert log.header_at(index) is held, index
            for asked in (term - 1, term, term + 1):
                holds = index <= last and asked == term and (asked > 0 or index == 0)
                assert log.matches(index, asked) is holds, (index, asked)
        self.check_hints(first)
        self.check_entries(first)
        assert encode_log_state(log.start_state()) == encode_log_state(self.state_at(first - 1))
        before = max(log.state.configuration_index, first) - 1
        if before >= self.start.index:
            assert encode_log_state(log.state_before_configuration()) == encode_log_state(
                self.state_at(before)
            )

    def check_hints(self, first):
        for index in (first - 1, first, self.last_index - 1, self.last_index, self.last_index + 4):
            for term in (0, 1, self.last_term - 1, self.last_term, self.last_term + 1):
                known = range(first, min(index, self.last_index) + 1)
                best = max((i for i in known if self.entries[i].term <= term), default=first - 1)
                assert self.log.last_at_or_below(index, term) == best, (index, term)

    def check_entries(self, first):
        lowest = min(first, self.in_memory)
        lows = range(lowest, self.last_index + 1)
        for low in self.rng.sample(lows, min(3, len(lows))):
            for size_max in (0, 64, 128, 300):
                high = self.rng.randrange(low, self.last_index + 1)
                found = list(self.log.entries(low, high, size_max))
                expected = [self.entries[low]]
                while (following := low + len(expected)) <= high:
                    if sum(one.size for one in expected) + self.entries[following].size > size_max:
                        break
                    expected.append(self.entries[following])
                if low < self.in_memory:
                    expected = expected[: self.in_memory - low]  # what the disk gives ends there
                assert found == expected, (low, high, size_max)


class ModelTests(SynchronousTestCase):
    """Random appends, cuts, snapshots, writes, trims: what the log says is what it should say."""

    def walk(self, seeds):
        for seed in seeds:
            model = Model(seed)
            steps = (
                *(model.append,) * 4,
                *(model.commit, model.hand_over, model.finish, model.deliver, model.release) * 2,
                model.cut,
                model.restore,
                model.trim,
            )
            model.check()
            for _ in range(50):
                model.rng.choice(steps)()
                model.check()

    def test_walks(self):
        """Each answer is that of a plain list after every step."""
        self.walk(range(5))


def whole(count, *, size=64, cache_size_max=1 << 20):
    """A log of `count` entries of so many bytes behind its configuration, all handed out and on disk."""
    disk = MemoryLog(log_of([]))
    log = RaftLog(disk, 1, cache_size_max)
    for _ in range(count):
        grow(log, size)
    return log


def grow(log, size=64):
    """Append an entry, write, commit and hand it out."""
    log.append(entry(log.last_index + 1, 1, EntryKind.NOOP, payload=bytes(size - 64)))
    log.take_writes(log.last_index)
    log.persisted(log.last_index)
    log.commit(log.last_index)
    log.take_committed(1 << 20)


class ReleaseTests(SynchronousTestCase):
    """What stays in memory, though it is on disk, committed and handed out."""

    def test_bytes(self):
        """As many bytes as allowed; more are dropped when they are more than a quarter of the entries."""
        log = whole(0, cache_size_max=1000)
        held = []
        for _ in range(20):
            grow(log, 100)
            log.release()
            held.append(len(log._window))
        self.assertEqual(held, [*range(1, 14), 10, 11, 12, 13, 10, 11, 12])

    def test_count(self):
        """As many entries as allowed, in the same way."""
        self.patch(raft_log_module, "CACHED_ENTRIES_MAX", 10)
        log = whole(0)
        held = []
        for _ in range(20):
            grow(log)
            log.release()
            held.append(len(log._window))
        self.assertEqual(held, [*range(1, 14), 10, 11, 12, 13, 10, 11, 12])

    def test_again(self):
        """What is within the bounds stays, however often it is looked at."""
        log = whole(0, cache_size_max=1000)
        held = []
        for _ in range(8):
            grow(log, 300)
            for _ in range(3):
                log.release()
            held.append(len(log._window))
        self.assertEqual(held, [1, 2, 3, 4, 3, 4, 3, 4])

    def test_sizes_behind_what_was_dropped(self):
        """Bytes that are not committed, or not on disk, are counted as before."""
        log = whole(20, size=100, cache_size_max=300)
        log.release()
        log.append(entry(22, 1, payload=bytes(36)))
        self.assertEqual((len(log._window), log.uncommitted_size, log.undurable_size), (4, 100, 100))
        self.assertEqual([one.index for one in log.entries(19, 22, 250)], [19, 20])
        self.assertEqual([one.index for one in log.entries(19, 22, 300)], [19, 20, 21])

    def test_what_is_needed(self):
        """Nothing is dropped that is not on disk, not committed or not handed out, and all else at once."""
        for what in ("write", "commit", "deliver"):
            log = whole(2, cache_size_max=1)
            for index in range(4, 14):
                log.append(entry(index, 1))
                if what != "write":
                    log.take_writes(index)
                    log.persisted(index)
                if what != "commit":
                    log.commit(index)
                if what == "write":
                    log.take_committed(1 << 20)
            log.release()
            self.assertEqual([one.index for one in log._window], list(range(4, 14)), what)

    def test_empty(self):
        """Of nothing nothing is dropped, whatever the bounds."""
        self.patch(raft_log_module, "CACHED_ENTRIES_MAX", 0)
        log = whole(0, cache_size_max=1)
        log.release()
        self.assertEqual((log._window, log.term_at(1)), ([], 1))


class SharedCacheTests(SynchronousTestCase):
    """What the logs of one node keep in memory together."""

    def setUp(self):
        self.caches = Budget(8000)
        self.patch(raft_log_module, "CACHED_ENTRY_COST", 1)

    def log(self, count=0, size=100):
        log = RaftLog(MemoryLog(log_of([1])), 1, 6000, self.caches)
        for _ in range(count):
            grow(log, size)
            log.release()
        return log

    def held(self, *logs):
        sizes = [sum(one.size for one in log._window) for log in logs]
        self.assertEqual(sum(sizes), self.caches.held)
        return sizes

    def test_alone(self):
        """A log alone keeps as much as one may, and up to a third more until the next chunk goes."""
        log = self.log(100)
        [size] = self.held(log)
        self.assertTrue(6000 <= size <= 8000, size)

    def test_many(self):
        """Busy logs have equal parts of what there is for all, however much one had before."""
        logs = [self.log(100), self.log(), self.log(), self.log()]
        for _ in range(60):
            for log in logs:
                grow(log, 100)
                log.release()
        sizes = self.held(*logs)
        self.assertTrue(all(2000 <= size <= 2700 for size in sizes), sizes)

    def test_count(self):
        """Small entries count for what they cost: no log keeps more of them than its part is worth."""
        self.patch(raft_log_module, "CACHED_ENTRY_COST", 200)
        logs = [self.log(40, 64), self.log(40, 64)]
        for log in logs:
            grow(log)
            log.release()
            self.assertTrue(20 <= len(log._window) <= 27, len(log._window))

    def test_quiet(self):
        """A log that gets nothing for some time gives all back that the disk has, and begins anew."""
        log, other = self.log(10), self.log(10)
        for tick in range(5):
            log.tick(3)
            other.tick(3)
            grow(other)
            other.release()
            self.assertEqual(len(log._window), 10 if tick < 3 else 0, tick)
        self.held(log, other)
        self.assertEqual(self.caches.share, 8000)
        grow(log)
        log.release()
        self.assertEqual(len(log._window), 1)
        for _ in range(3):
            log.tick(3)
        self.assertEqual(len(log._window), 1)

    def test_quiet_with_work(self):
        """What is not committed, or not on disk, stays in a quiet log, and goes when it is."""
        log = self.log(3)
        last = log.last_index + 1
        log.append(entry(last, 1))
        log.take_writes(last)
        for _ in range(9):
            log.tick(3)
        self.assertEqual([one.index for one in log._window], [last])
        log.persisted(last)
        log.commit(last)
        log.take_committed(1 << 20)
        log.tick(3)
        self.assertEqual((log._window, self.held(log)), ([], [0]))

    def test_let_go(self):
        """A log that is over holds nothing of what the others share."""
        log, other = self.log(10), self.log(5)
        log.let_go()
        self.assertEqual((self.caches.held, self.caches.share), (500, 8000))
        self.held(other)


class BeginTests(SynchronousTestCase):
    """What a log begins with."""

    def test_commit_index(self):
        """The watermark counts as far as the log goes, and as far as the log was trimmed at least."""
        for told, expected in [(0, 2), (2, 2), (3, 3), (4, 4), (5, 4), (99, 4)]:
            disk = MemoryLog(log_of([1, 1, 2]))
            disk.trim_prefix(3)
            log = RaftLog(disk, told, 1)
            self.assertEqual((log.commit_index, log.delivered_index), (expected, expected), told)
            self.assertEqual((log.last_index, log.last_term, log.durable_index), (4, 2, 4))
            self.assertEqual((log.has_writes, log.is_writing), (False, False))

    def test_what_is_trimmed(self):
        """A trimmed entry has no term, and fits none; nor does one that is not there yet."""
        disk = MemoryLog(log_of([1, 1, 2]))
        disk.trim_prefix(3)
        log = RaftLog(disk, 4, 1)
        self.assertEqual([log.term_at(index) for index in range(6)], [0, 0, 1, 1, 2, 0])
        for index, term, holds in [(0, 0, True), (1, 0, False), (1, 1, False), (2, 1, True), (5, 0, False)]:
            self.assertIs(log.matches(index, term), holds, (index, term))

    def test_trimmed_before_it_is_handed_out(self):
        """What the disk trimmed is not handed out any more; what follows it is."""
        for first, expected in [(3, [3, 4]), (4, [4]), (5, [])]:
            disk = MemoryLog(log_of([1, 1, 2]))
            log = RaftLog(disk, 1, 1)
            log.commit(4)
            disk.append([entry(5, 2)])
            disk.trim_prefix(first)
            self.assertEqual([one.index for one in log.take_committed(1 << 20)], expected, first)
            self.assertEqual(log.delivered_index, 4)

    def test_trimmed_and_in_memory(self):
        """What this life appended is handed out from memory, also if the disk trimmed it already."""
        disk = MemoryLog(log_of([]))
        log = RaftLog(disk, 1, 1)
        entries = [entry(index, 1) for index in (2, 3, 4)]
        for one in entries:
            log.append(one)
        disk.append(entries)
        disk.trim_prefix(4)
        log.commit(4)
        self.assertEqual(log.take_committed(1 << 20), tuple(entries))

    def test_writes(self):
        """A cut is a write, also without entries behind it; so is a new beginning, with what follows."""
        log = whole(3)
        log.append(entry(5, 1))
        log.take_writes(9)
        log.truncate(4)
        self.assertTrue(log.has_writes)
        self.assertEqual(log.take_writes(10), (None, 4, ()))
        self.assertFalse(log.has_writes)
        state = LogState(index=6, term=2, configuration=configuration(3), configuration_index=1)
        log.restore(state)
        self.assertTrue(log.has_writes)
        entries = tuple(entry(index, 2) for index in (7, 8, 9))
        for one in entries:
            log.append(one)
        self.assertEqual(log.take_writes(11), (state, None, entries))
        self.assertEqual((log.has_writes, log.durable_index, log.first_index), (False, 0, 7))
        self.assertEqual((log.persisted(10), log.durable_index), (False, 0))

    def test_record_room(self):
        """The room of a full disk is the disk's, but for what is not written yet."""
        log = whole(1)
        log._reader.record_room = 500
        self.assertEqual(log.record_room, 500)
        log.append(entry(3, 1, payload=bytes(36)))
        self.assertEqual(log.record_room, 400)
