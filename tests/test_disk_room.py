"""The parts of a replica that look after room and age, each alone: what they ask for, and what they tell."""

from types import SimpleNamespace

from twisted.internet.task import Clock
from twisted.logger import LogLevel, globalLogPublisher
from twisted.trial.unittest import SynchronousTestCase

from loghouse.errors import DiskFailedError, DiskFullError, UnavailableError
from loghouse.protocol.configuration import Configuration, Retention, decode_trim
from loghouse.protocol.entry import EntryKind
from loghouse.raft.ready import Proposal, Role
from loghouse.replica.clock_watch import QUIET_SECONDS, STEP_SECONDS_MIN
from loghouse.replica.disk_room import DiskRoom
from loghouse.replica.retention import AgeClock
from loghouse.replica.trimming import RETENTION_SECONDS, Trimmer
from loghouse.replica.under_way import UnderWay
from loghouse.runtime.scheduling import Clocks
from loghouse.storage.reading import SealedSegment
from tests.driver.queue import ManualQueue

MICROSECONDS = 1_000_000


class PartCase(SynchronousTestCase):
    """Fakes of what surrounds the parts. It is a replica, its log, its driver and its core in one."""

    def setUp(self):
        self.disk = ManualQueue()
        self.clock = Clock()
        self.wall, self.monotonic = 1000.0, 50.0
        self.clocks = Clocks(self.clock, None, None, lambda: self.wall, lambda: self.monotonic)
        # The replica.
        self.is_writable = True
        self.driver = self
        self.failures = []
        self.restarted = []
        # The driver.
        self.raft = SimpleNamespace(
            role=Role.LEADER,
            disk_is_full=None,
            durable_index=7,
            newest_timestamp=0,
            configuration=Configuration(retention=Retention(size_max=100)),
            majority_time=lambda: 1 << 60,
        )
        self.lowest_offset = self.readable_index = 0
        self.is_full = self.must_go_back = False
        self.retries = 0
        self.woken = 0
        self.gone_back = []
        self.proposed = []
        # The log.
        self.state = SimpleNamespace(timestamp=900 * MICROSECONDS)
        self.active_size = 0
        self.is_half_full = False
        self.error = None
        self.asked = []
        self.sealed = []
        self.events = []
        globalLogPublisher.addObserver(self.note_event)
        self.addCleanup(globalLogPublisher.removeObserver, self.note_event)

    def note_event(self, event):
        if "log_format" in event and event["log_namespace"].startswith("loghouse.replica"):
            self.events.append((event["log_level"], event["log_format"].format(**event)))

    def told(self):
        """The levels and texts of what was logged since the last look."""
        events, self.events = self.events, []
        return events

    def wake(self):
        self.woken += 1

    def fatal(self, error):
        self.failures.append(error)

    def restart_core(self, driver, id_=0):
        self.restarted.append(driver)

    def retry_write(self):
        self.retries += 1

    def go_back(self, directory):
        self.gone_back.append(directory)

    def propose(self, proposal, appended, failed):
        self.proposed.append((proposal, appended, failed))

    def sealed_segments(self):
        return self.sealed

    def work(self, *asked):
        self.asked.append(asked)
        if self.error is not None:
            raise self.error

    def prepare(self):
        self.work("prepare")

    def trim_prefix(self, lowest, high_index):
        self.work("trim", lowest, high_index)

    def done(self):
        """Let the disk do what waits; return what it was asked for."""
        self.disk.drain()
        asked, self.asked = self.asked, []
        return asked


class DiskRoomTests(PartCase):
    """Room is taken ahead and given back, and a full disk is told once."""

    def setUp(self):
        super().setUp()
        self.room = DiskRoom(
            self,
            self,
            disk=self.disk,
            clocks=self.clocks,
            data_dir="/data",
        )

    def test_prepared_once(self):
        """From half a segment on room is taken for the next one, once for each segment."""
        for is_half_full, asked in ((0, []), (1, [("prepare",)]), (1, []), (0, []), (1, [("prepare",)])):
            self.is_half_full = bool(is_half_full)
            self.room.committed(self)
            self.assertEqual(self.done(), asked)
        self.assertEqual((self.is_writable, self.raft.disk_is_full, self.told()), (True, False, []))

    def test_full_and_not(self):
        """A disk without room is told once, the core knows it, and that there is room again is told once."""
        self.error = DiskFullError("/data")
        self.is_half_full = True
        for _ in range(2):
            self.room.committed(self)
            self.done()
            self.is_half_full = False
            self.room.committed(self)
            self.is_half_full = True
        self.assertEqual((self.is_writable, self.raft.disk_is_full), (False, True))
        self.assertEqual(self.told(), [(LogLevel.error, str(DiskFullError("/data")))])
        self.room.look()
        self.assertEqual(self.done(), [("prepare",)])
        self.assertEqual((self.is_writable, self.told()), (False, []))
        self.error = None
        self.room.look()
        self.assertEqual(self.done(), [("prepare",)])
        self.assertEqual((self.is_writable, self.raft.disk_is_full), (True, False))
        self.assertEqual(self.told(), [(LogLevel.info, "disk has room again: appends resume")])
        self.room.look()
        self.assertEqual((self.done(), self.retries, self.failures), ([], 0, []))
        self.room.disk_filled(False)
        self.assertEqual(self.told(), [])

    def test_without_a_driver(self):
        """Without a driver the state is kept for the next one, and nothing is looked after."""
        self.driver = None
        self.room.disk_filled(True)
        self.assertEqual((self.is_writable, self.raft.disk_is_full), (False, None))
        self.room.look()
        self.room.look_at_stuck_write()
        self.assertEqual((self.done(), self.restarted), ([], []))

    def test_stuck_write(self):
        """A write that found no room is tried again; one that nobody waits for is forgotten."""
        self.is_full = True
        self.is_writable = False
        self.room.look()
        self.assertEqual((self.retries, self.done()), (1, []))
        self.room.look_at_stuck_write()
        self.assertEqual((self.gone_back, self.restarted), ([], []))
        self.must_go_back = True
        self.room.disk_filled(True)
        self.assertEqual((self.gone_back, self.restarted), (["/data"], [self]))
        text = "no room for entries from 8 on: forgotten until there is"
        self.assertEqual(self.told(), [(LogLevel.info, text)])

    def test_trims(self):
        """What the core trimmed goes from the disk, once; a trim that finds no room is tried again."""
        self.lowest_offset, self.readable_index = 5, 9
        self.room.committed(self)
        self.readable_index = 10
        self.room.committed(self)
        self.assertEqual(self.done(), [("trim", 5, 9)])
        self.assertEqual(self.told(), [(LogLevel.info, "trimmed: the lowest offset is 5")])
        self.error = DiskFullError("/data")
        self.lowest_offset = 6
        self.room.committed(self)
        self.lowest_offset = 8
        self.room.committed(self)
        self.assertEqual(self.done(), [("trim", 6, 10), ("trim", 8, 10)])
        for _ in range(2):
            self.room.look()
            self.assertEqual(self.done(), [("trim", 6, 10)])
        self.error = None
        self.room.look()
        self.assertEqual(self.done(), [("trim", 6, 10)])
        self.room.look()
        self.assertEqual((self.done(), self.failures), ([], []))

    def test_a_failed_disk(self):
        """Any other error of the disk ends the process."""
        self.error = DiskFailedError("broken")
        self.is_half_full = True
        self.room.committed(self)
        self.done()
        self.lowest_offset = 1
        self.room.committed(self)
        self.done()
        self.assertEqual(self.failures, [self.error] * 2)
        self.assertTrue(self.is_writable)

    def test_age(self):
        """Records age by the monotonic clock from the start on, while the wall clock goes with it."""
        age = self.room._age_clock
        self.assertEqual(age.now(self.wall + 10, self.monotonic + 10), 910 * MICROSECONDS)
        self.assertIsNone(age.now(self.wall + 100, self.monotonic + 10))

    def test_trimmer(self):
        """Each driver gets a trimmer, which begins its count then."""
        self.active_size = 300
        self.sealed = [SealedSegment(1, 0, 4, 50, 0)]
        self.room.look()
        self.monotonic += 100
        self.room.driver_began(self)
        self.monotonic += RETENTION_SECONDS - 1
        self.room.look()
        self.assertEqual(self.proposed, [])
        self.monotonic += 1
        self.wall += 100 + RETENTION_SECONDS
        self.room.look()
        self.assertEqual(len(self.proposed), 1)


class TrimmerTests(PartCase):
    """Trims are proposed by the leader, each once, by the size and by the age that a majority agrees on."""

    def setUp(self):
        super().setUp()
        self.sealed = [
            SealedSegment(1, 0, 4, 50, 800 * MICROSECONDS),
            SealedSegment(5, 4, 9, 60, 990 * MICROSECONDS),
        ]
        self.trimmer = self.made()

    def made(self):
        age_clock = AgeClock(self.state.timestamp, self.wall, self.monotonic)
        return Trimmer(self, self, age_clock, self.monotonic)

    def retain(self, **retention):
        self.raft.configuration = Configuration(retention=Retention(**retention))

    def look(self, seconds=RETENTION_SECONDS):
        """Let time pass and look; return the offsets that were proposed."""
        self.wall += seconds
        self.monotonic += seconds
        before = len(self.proposed)
        self.trimmer.look(self.wall, self.monotonic)
        for proposal, _, _ in self.proposed[before:]:
            self.assertEqual(proposal, Proposal(kind=EntryKind.TRIM, payload=proposal.payload))
        return [decode_trim(proposal.payload) for proposal, _, _ in self.proposed[before:]]

    def test_due(self):
        """It looks every minute, and only while this node leads."""
        self.assertEqual(self.look(RETENTION_SECONDS - 0.5), [])
        self.raft.role = Role.FOLLOWER
        self.assertEqual(self.look(1), [])
        self.raft.role = Role.LEADER
        self.assertEqual(self.look(0), [4])
        self.retain(size_max=1)
        self.assertEqual(self.look(RETENTION_SECONDS - 1), [])
        self.assertEqual(self.look(1), [9])

    def test_once(self):
        """What was proposed, or trimmed already, is not proposed again; what failed is."""
        self.assertEqual(self.look(), [4])
        self.assertEqual(self.look(), [])
        self.proposed[0][1](None)
        self.assertEqual(self.told(), [])
        self.proposed[0][2](UnavailableError("no"))
        self.assertEqual(self.told(), [(LogLevel.warn, "trim not proposed: no")])
        self.lowest_offset = 3
        self.assertEqual(self.look(), [4])
        self.proposed[0][2](UnavailableError("no"))
        self.lowest_offset = 4
        self.assertEqual(self.look(), [])

    def test_failed_at_the_first_records(self):
        """A failed trim of the first segment is proposed again even when that holds one record."""
        self.sealed = [SealedSegment(1, 0, 1, 150, 0)]
        self.assertEqual(self.look(), [1])
        self.proposed[0][2](UnavailableError("no"))
        self.assertEqual(self.look(), [1])

    def test_age(self):
        """Records go when they are old by this node's age clock and by that of a majority."""
        self.retain(age_max_seconds=160)
        self.assertEqual(self.look(), [], "the newest is of 900, so now it is 960: 800 is the limit")
        self.assertEqual(self.look(), [4])
        self.trimmer = self.made()
        self.raft.majority_time = lambda: 800 * MICROSECONDS
        self.assertEqual(self.look(300), [])
        self.raft.majority_time = lambda: 1151 * MICROSECONDS
        self.assertEqual(self.look(), [9])

    def test_asleep(self):
        """Only a log that trims by age is woken for it, so that the clocks of the others are heard again."""
        self.look()
        self.assertEqual(self.woken, 0)
        self.retain(age_max_seconds=160)
        self.look(RETENTION_SECONDS - 1)
        self.assertEqual(self.woken, 0)
        self.look(1)
        self.assertEqual(self.woken, 1)
        self.sealed = []
        self.look()
        self.assertEqual(self.woken, 1)

    def test_clock_jumped(self):
        """While the clocks part nothing is trimmed by age, and that is told once; by size as ever."""
        self.retain(age_max_seconds=10)
        self.wall += 1000
        for _ in range(2):
            self.assertEqual(self.look(), [])
        told = [text for _, text in self.told()]
        self.assertEqual(len(told), 2, told)
        self.assertTrue(told[0].startswith("the wall clock stepped ahead by 0:16:40 and says "), told)
        self.assertTrue(told[1].startswith("clock jumped: trimming by age is paused"), told)
        self.retain(age_max_seconds=10, size_max=100)
        self.assertEqual(self.look(), [4])
        self.wall -= 1000
        self.assertEqual(self.look(), [9])
        self.wall += 1000
        self.retain(age_max_seconds=10)
        self.told()
        self.look()
        self.assertEqual(
            [text.partition(":")[0] for _, text in self.told()],
            ["the wall clock stepped ahead by 0", "clock jumped"],
        )
        self.retain(size_max=100)
        self.look()
        self.retain(age_max_seconds=10)
        self.look()
        self.assertEqual([text.partition(":")[0] for _, text in self.told()], ["clock jumped"])

    def test_clock_is_watched(self):
        """A step of the clock is told at any look; that append times are ahead only by who leads."""
        self.wall += STEP_SECONDS_MIN
        self.assertEqual(self.look(1), [])
        self.assertEqual([level for level, _ in self.told()], [LogLevel.warn])
        self.raft.newest_timestamp = int((self.wall + 100) * MICROSECONDS)
        self.raft.role = Role.FOLLOWER
        self.look(QUIET_SECONDS)
        self.assertEqual(self.told(), [])
        self.raft.role = Role.LEADER
        self.look(1)
        [(level, text)] = self.told()
        self.assertEqual(level, LogLevel.warn)
        self.assertTrue(text.startswith("the newest append time is 0:00:39 ahead"), text)


class UnderWayTests(SynchronousTestCase):
    """What counts against a subject's share, exactly."""

    def take(self, under_way, *sizes):
        """Propose payloads of these sizes; return the bytes under way, and how many were refused."""
        refused = []
        for size in sizes:
            under_way.propose(
                lambda *_: None,
                Proposal(payload=bytes(size), record_count=1, subject="a"),
                None,
                refused.append,
            )
        return under_way.ledger.held, len(refused)

    def test_least(self):
        """An empty payload counts for a byte at least, a large one for no more than a share."""
        self.assertEqual(self.take(UnderWay(100), 0, 0), (2, 0))
        self.assertEqual(self.take(UnderWay(100), 75, 0), (75, 1))
        self.assertEqual(self.take(UnderWay(100), 74, 0, 0), (75, 1))
        self.assertEqual(self.take(UnderWay(100), 99), (75, 0))
