"""Power losses at every step of every operation that changes a log, on the simulated disk.

Each scenario records what the log asks of the disk. For every prefix of that, with any of the
uncovered operations lost or torn, the log must open again, hold every acknowledged entry, and
be a log that existed. LOGHOUSE_CRASH_STATES is the number of states tried per scenario.
"""

import os
import random
from dataclasses import dataclass, field

from twisted.trial.unittest import SynchronousTestCase

from loghouse.errors import LoghouseError
from loghouse.protocol.configuration import Configuration
from loghouse.protocol.entry import decode_entries
from loghouse.protocol.log_state import LogState, check_follows, encode_log_state
from loghouse.raft.membership import bootstrap_entry
from loghouse.storage import log as log_module
from loghouse.storage import opening as opening_module
from loghouse.storage.creation import Rooms
from loghouse.storage.directory import DataDirectory, DiskIdentity
from loghouse.storage.log import Log
from loghouse.testing.crash_states import crash_states
from loghouse.testing.disk import SimDisk
from tests.processes import PLANTED, thorough
from tests.storage.entries import (
    CLUSTER,
    GROUP,
    SEED,
    Writer,
    create_log,
    frames_of,
    new_disk,
    open_directory,
)
from tests.tables import Rows

STATES_MAX = int(os.environ.get("LOGHOUSE_CRASH_STATES", "250"))
DIRECTORY = "/data/logs/1"
SIZES = {"segment_size": 4096 + 1024, "index_size": 12 * 8, "reserve_size": 512}


GROWING = {"segment_size": 4096 + 16384, "index_size": 12 * 160, "first_size": 4096 + 1024}


def open_log(disk, **sizes):
    return Log.open(disk, DIRECTORY, cluster=CLUSTER, group=GROUP, **{**SIZES, **sizes})


def held(log):
    """Return (first index, frames) of everything the log holds, checked."""
    return log.first_index, frames_of(log, size=2000)


@dataclass
class Allowed:
    """What may be found: frames between `floor` and `ceiling`, from one of `firsts` on."""

    firsts: set
    floor: list
    ceiling: list
    start: int = 1  # the index of the first frame in floor and ceiling

    def permits(self, first, frames):
        if first not in self.firsts:
            return False
        skip = first - self.start
        return (
            len(self.floor) - skip <= len(frames) <= len(self.ceiling) - skip
            and frames == self.ceiling[skip : skip + len(frames)]
        )


@dataclass
class Moment:
    """From `done` operations on, one of `logs` and one of `hard_states` must be found."""

    done: int
    logs: list
    hard_states: set


@dataclass
class Story:
    """Operations on a log, and what a power loss may leave at each moment of them."""

    disk: SimDisk
    log: Log
    writer: Writer
    first: int = 1
    durable: list = field(default_factory=list)
    written: list = field(default_factory=list)
    start: int = 1
    hard_state: tuple = (0, 0)
    moments: list = field(default_factory=list)
    sizes: dict = field(default_factory=dict)

    @classmethod
    def begin(cls, disk_type=SimDisk, *, term=9, **sizes):
        disk = new_disk(disk_type, DIRECTORY)
        create_log(disk, DIRECTORY, term=term)
        return cls(disk, open_log(disk, **sizes), Writer(), hard_state=(term, 0), sizes=sizes)

    def start_trace(self):
        self.image = self.disk.start_trace()
        self.note()

    def note(self, *logs, hard_states=None):
        if self.disk.trace is None:
            return
        now = Allowed({self.first}, self.durable[:], self.written[:], self.start)
        self.moments.append(
            Moment(len(self.disk.trace), [now, *logs], {self.hard_state, *(hard_states or ())})
        )

    def append(self, count=1, size=100, **fields):
        entries = [self.writer.records(1 + i % 2, size, **fields) for i in range(count)]
        self.written += [entry.frame for entry in entries]
        self.note()
        self.log.append(entries)

    def sync(self):
        self.note()
        self.log.sync(0)
        self.durable = self.written[:]
        self.note()

    def cut(self, index):
        keep = index - self.start + 1
        kept = self.written[:keep]
        self.durable = self.durable[:keep]
        self.note()
        self.log.truncate_suffix(index)
        self.written = kept
        self.writer = Writer(self.log.state)
        self.durable = self.durable[:keep]
        self.note()

    def trim(self, offset):
        first = self.first
        bases = {segment.base_index for segment in self.log.sealed_segments()} | {first}
        candidates = {base for base in bases if base > first}
        self.note(*[Allowed({c}, self.durable[:], self.written[:], self.start) for c in candidates])
        self.first = self.log.trim_prefix(offset)
        self.note()

    def install(self, state):
        self.note(Allowed({state.index + 1}, [], [], state.index + 1))
        self.log.install_start(state)
        self.first = self.start = state.index + 1
        self.durable, self.written = [], []
        self.writer = Writer(state)
        self.note()

    def vote(self, term, vote):
        self.note(hard_states={(term, vote)})
        self.log.save_hard_state(term=term, vote=vote)
        self.hard_state = (term, vote)
        self.note()

    def restart(self):
        """Stop cleanly and start again."""
        self.note()
        self.log.close()
        self.durable = self.written[:]
        self.note()
        self.log = open_log(self.disk, **self.sizes)
        self.note()

    def moment(self, done):
        return [moment for moment in self.moments if moment.done <= done][-1]


def find_violation(story, *, states_max=STATES_MAX, seed=1):
    """Try crash states of a story; return what went wrong in the first bad one, or ""."""
    rng = random.Random(seed)
    trace, story.disk.trace = story.disk.trace, None
    states = list(crash_states(story.image, trace, rng=rng, expected=lambda done: story.moment(done).done))
    assert len(states) > 10
    if len(states) > states_max:
        states = rng.sample(states, states_max)
    for done, disk in states:
        problem = check_state(disk, story.moment(done), story.sizes)
        if problem:
            return f"after {done} operations ({trace[done - 1][0] if done else 'none'}): {problem}"
    return ""


def check_state(disk, moment, sizes):
    """Open a crashed disk; say what is wrong, "" when nothing is."""
    try:
        log = open_log(disk, **sizes)
        first, frames = held(log)
    except LoghouseError as error:
        return f"{type(error).__name__}: {error}"
    if not any(allowed.permits(first, frames) for allowed in moment.logs):
        return f"holds {len(frames)} entries from {first} on; allowed: " + "; ".join(
            f"{len(a.floor)} to {len(a.ceiling)} from {a.start}, first in {a.firsts}" for a in moment.logs
        )
    hard_state = (log.hard_state.term, log.hard_state.vote)
    if hard_state not in moment.hard_states:
        return f"hard state {hard_state}, allowed: {moment.hard_states}"
    return check_usable(disk, log, first, frames)


def check_usable(disk, log, first, frames):
    """Go on with a recovered log, then end the process and lose power: nothing may be missing."""
    state = log.state
    folded = log.state_at(log.first_index - 1)
    for entry in decode_entries(SEED, b"".join(frames)):
        check_follows(folded, entry)
        folded.apply(entry)
    if encode_log_state(folded) != encode_log_state(state):
        return "the state is not that of the entries"
    writer = Writer(state)
    more = [writer.records(1, 300) for _ in range(4)]
    log.append(more)
    log.sync(0)
    expected = (first, frames + [entry.frame for entry in more])
    after_loss = disk.crashed([])
    disk.stop_process()
    for name, image in (("a kill", disk), ("a power loss", after_loss)):
        try:
            reopened = open_log(image)
            if held(reopened) != expected:
                return f"after appends and {name} it holds something else"
        except LoghouseError as error:
            return f"after appends and {name}: {error}"
        if reopened.read(reopened.first_offset, 10**6, 10**9)[0] == b"":
            return f"after appends and {name} nothing can be read"
    return ""


def story_of_append(disk_type=SimDisk):
    """Single and many entries, synced now and then."""
    story = Story.begin(disk_type)
    story.append(2)
    story.sync()
    story.start_trace()
    for count in (1, 2, 1):
        story.append(count, 120)
        story.append(1, 30)
        story.sync()
    story.append(1, 250)
    return story


def story_of_roll(disk_type=SimDisk):
    """Appends that fill segments, by bytes and by index entries."""
    story = Story.begin(disk_type)
    story.start_trace()
    story.append(5, 200)
    story.sync()
    story.append(9, 10)
    story.sync()
    story.append(3, 600)
    return story


def story_of_growth(disk_type=SimDisk):
    """Segments of growing sizes: rolled one by one and several at a time, cut and begun again."""
    story = Story.begin(disk_type, **GROWING)
    story.start_trace()
    story.append(1, 600)
    story.append(9, 600)
    story.sync()
    story.append(40, 600)
    story.sync()
    story.cut(8)
    story.append(2, 600, term=2)
    story.restart()
    story.append(2, 2000, term=2)
    story.sync()
    return story


def story_of_cut(disk_type=SimDisk):
    """Cuts in the active segment and over several, followed by other entries."""
    story = Story.begin(disk_type)
    story.append(20, 120)
    story.sync()
    story.start_trace()
    story.append(2, 200)
    story.cut(21)
    story.append(1, 180, term=2)
    story.sync()
    story.cut(3)
    story.append(2, 140, term=3)
    story.sync()
    story.cut(0)
    story.append(1, 50, term=4)
    story.sync()
    return story


def story_of_trim(disk_type=SimDisk):
    """Trims of one and of several segments while appends go on."""
    story = Story.begin(disk_type)
    story.append(20, 160)
    story.sync()
    story.start_trace()
    sealed = story.log.sealed_segments()
    story.trim(sealed[0].next_offset)
    story.append(1, 20)
    story.sync()
    story.trim(sealed[2].next_offset)
    story.append(1, 20)
    story.sync()
    return story


def story_of_hard_state(disk_type=SimDisk):
    """Votes between appends."""
    story = Story.begin(disk_type, term=0)
    story.vote(1, 1)
    story.start_trace()
    story.vote(2, 0)
    story.append(1, 40)
    story.vote(3, 7)
    story.sync()
    story.vote(5, 1)
    return story


def story_of_install(disk_type=SimDisk):
    """A snapshot replaces the log, behind it and in the middle of where it was."""
    story = Story.begin(disk_type)
    story.append(12, 160)
    story.sync()
    story.start_trace()
    story.install(LogState(index=100, term=5, next_offset=400, timestamp=10**6))
    story.append(6, 150, term=5)
    story.sync()
    story.install(LogState(index=103, term=6, next_offset=500, timestamp=10**7))
    story.append(1, 20, term=6)
    story.sync()
    return story


def story_of_restarts(disk_type=SimDisk):
    """Clean stops, each followed by what makes the log shorter, or begins it anew."""
    story = Story.begin(disk_type)
    story.append(9, 160)
    story.start_trace()
    story.restart()
    story.cut(4)
    story.restart()
    story.append(7, 150, term=2)
    story.restart()
    story.trim(story.log.sealed_segments()[0].next_offset)
    story.restart()
    story.install(LogState(index=100, term=5, next_offset=400, timestamp=10**6))
    story.restart()
    story.append(1, 20, term=5)
    return story


class CrashStateTests(SynchronousTestCase):
    """No power loss at any step loses what was acknowledged, or makes a log that never was."""

    @Rows(
        append=("Appends and syncs.", story_of_append),
        roll=("New segments.", story_of_roll),
        growth=("New segments that are larger than those before.", story_of_growth),
        cut=("Suffix cuts.", story_of_cut),
        trim=("Prefix trims.", story_of_trim),
        restarts=(
            "What a clean stop writes down for the next start is never held against a crash behind that.",
            story_of_restarts,
        ),
        hard_state=("Term and vote.", story_of_hard_state),
        install=("Starts from a snapshot.", story_of_install),
    )
    def test(self, make_story):
        self.assertEqual(find_violation(make_story()), "")


class NoDirectorySync(SimDisk):
    """A mutant: names are never made durable."""

    def sync_directory(self, path):
        """Forget to."""


class NoDataSync(SimDisk):
    """A mutant: fdatasync returns at once."""

    def fdatasync(self, fd):
        """Forget to."""


class NoFileSync(SimDisk):
    """A mutant: fsync returns at once."""

    def fsync(self, fd):
        """Forget to."""


class MutantTests(SynchronousTestCase):
    """The enumeration finds a log that forgets a step: without that, its silence would prove nothing."""

    skip = PLANTED

    def assert_found(self, make_story, disk_type=SimDisk):
        self.assertNotEqual(find_violation(make_story(disk_type), states_max=2000), "")

    def test_directory_is_not_synced(self):
        """A new segment's name that is not synced is found."""
        self.assert_found(story_of_roll, NoDirectorySync)

    def test_trim_does_not_sync_the_directory(self):
        """Unlinking before the new start's name is durable is found."""
        self.assert_found(story_of_trim, NoDirectorySync)

    @thorough
    def test_install_does_not_sync_the_directory(self):
        """A start whose name is not synced is found."""
        self.assert_found(story_of_install, NoDirectorySync)

    def test_data_is_not_synced(self):
        """Acknowledging before fdatasync is found."""
        self.assert_found(story_of_append, NoDataSync)

    def test_hard_state_is_not_synced(self):
        """A vote that is not synced is found."""
        self.assert_found(story_of_hard_state, NoDataSync)

    def test_header_is_not_synced(self):
        """A segment that appears before its header is durable is found."""
        self.assert_found(story_of_roll, NoFileSync)

    def test_cut_does_not_sync_the_truncation(self):
        """Overwriting before a truncation is durable is found."""
        self.assert_found(story_of_cut, NoFileSync)

    def test_watermark_is_not_lowered(self):
        """A cut that leaves the watermark above the end is found."""
        self.patch(Log, "_lower_watermark", lambda *_: None)
        self.assert_found(story_of_cut)

    def test_companions_outlive_their_stores(self):
        """A cut that removes stores before their companions, so that a crash looks like a loss, is found."""
        real = Rooms.remove_segment

        def stores_first(rooms, segment):
            rooms._files.unlink(segment.path)
            rooms._files.sync_directory(DIRECTORY)
            rooms._files.create(segment.path)
            real(rooms, segment)

        self.patch(Rooms, "remove_segment", stores_first)
        self.assert_found(story_of_cut)

    def test_held_is_kept(self):
        """A start that keeps what the last stop wrote down is found."""
        self.patch(opening_module, "remove_held", lambda *_: None)
        self.assert_found(story_of_restarts)

    @thorough
    def test_start_is_not_marked(self):
        """A start that is installed without a mark, so that old segments count again, is found."""
        real = log_module.write_start
        self.patch(
            log_module,
            "write_start",
            lambda *arguments, installing: real(
                *arguments, installing=installing and arguments[3].index == 0
            ),
        )
        self.assert_found(story_of_install)

    def test_trim_unlinks_first(self):
        """A trim that removes segments before the start says so is found."""
        real = log_module.write_start

        def late(files, directory, seed, state, *, installing):
            for name in files.list_directory(directory):
                if name[:20].isdigit() and name.endswith(".store") and int(name[:20]) <= state.index:
                    files.rename(f"{directory}/{name}", f"{directory}/gone")
                    files.sync_directory(directory)
                    files.rename(f"{directory}/gone", f"{directory}/{name}")
            real(files, directory, seed, state, installing=installing)

        self.patch(log_module, "write_start", late)
        self.assert_found(story_of_trim)


def boot(disk):
    return open_directory(disk, segment_size=SIZES["segment_size"], reserve_size=SIZES["reserve_size"])


class RecoveryCrashTests(SynchronousTestCase):
    """A power loss while the log recovers from the last one."""

    def test_recovery(self):
        """At every step of cutting a torn tail a power loss leaves a log that recovers again."""
        story = Story.begin()
        story.append(3, 200)
        story.sync()
        durable = story.written[:]
        story.append(3, 150)
        story.disk.stop_process()
        # Behind the watermark: one whole entry, a damaged one, a whole one. Killed: they are in the page
        # cache only. After a power loss: they are on the disk.
        for disk in (story.disk, story.disk.crashed(story.disk.pending_changes())):
            store = max(path for path in disk.contents() if path.endswith(".store"))
            disk.flip(store, (disk.content(store).index(story.written[4]) + 70) * 8)
            image = disk.start_trace()
            log = open_log(disk)
            self.assertEqual((log.last_index, len(log.warnings)), (4, 1))
            trace, disk.trace = disk.trace, None
            states = list(crash_states(image, trace))
            self.assertGreater(len(states), 5)  # of distinct bytes
            for done, state in random.Random(4).sample(states, min(len(states), STATES_MAX)):
                _, frames = held(open_log(state))
                self.assertEqual(frames[:3], durable, done)
                self.assertEqual(frames, story.written[: len(frames)], done)


class FirstBootTests(SynchronousTestCase):
    """A crash in the first boot leaves something that the next boot makes good."""

    def test_first_boot(self):
        """Every crash state of a first boot opens, empty and usable; none is taken for damage."""
        disk = SimDisk()
        image = disk.start_trace()
        boot(disk).close()
        trace, disk.trace = disk.trace, None
        states = list(crash_states(image, trace))
        for done, crashed in random.Random(2).sample(states, min(len(states), STATES_MAX)):
            directory = boot(crashed)
            log = directory.open_log()
            self.assertEqual((log.last_index, log.hard_state.term), (0, 0), done)
            log.save_hard_state(term=1, vote=0)
            log.append([Writer(seed=log.seed).records()])
            log.sync(1)
            identity = directory.identity
            after = crashed.crashed([])
            self.assertEqual(boot(after).identity, identity)
            self.assertEqual(boot(after.crashed([])).open_log().last_index, 1)
        self.assertGreater(len(states), 50)

    def test_first_boot_with_an_entry(self):
        """A first boot that begins with a configuration leaves identity and entry together, or neither."""

        def boot_with_entry(disk: SimDisk) -> DataDirectory:
            directory = DataDirectory.lock(disk, "/data", segment_size=64 * 1024, reserve_size=0)
            if directory.is_empty:
                identity = DiskIdentity(
                    cluster_uuid=CLUSTER, disk_uuid=bytes(16), cluster_name="c", node_name="n"
                )

                def begin(log: Log) -> None:
                    log.save_hard_state(term=1, vote=0)
                    log.append([bootstrap_entry(log.seed, Configuration(), 1)])
                    log.sync(1)

                directory.create(identity, begin=begin)
            return directory

        disk = SimDisk()
        image = disk.start_trace()
        boot_with_entry(disk).close()
        trace, disk.trace = disk.trace, None
        states = list(crash_states(image, trace))
        self.assertGreater(len(states), 50)
        for done, crashed in random.Random(3).sample(states, min(len(states), STATES_MAX)):
            log = boot_with_entry(crashed).open_log()
            self.assertEqual((log.last_index, log.hard_state.term), (1, 1), done)
