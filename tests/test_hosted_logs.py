"""The files of logs beside the default one: each log's work in order, and beside that of others."""

from twisted.trial.unittest import SynchronousTestCase

from loghouse.node.hosted_logs import HostedLogs
from loghouse.protocol.configuration import Configuration, Member, MemberRole
from loghouse.replica.damage import LogRepair
from loghouse.runtime.lanes import DiskLanes
from loghouse.testing.disk import SimDisk
from tests.driver.queue import ManualQueue
from tests.storage.entries import open_directory

FOUNDER = Member(id=1, name="n", disk_uuid=bytes(16), role=MemberRole.VOTER)
FIRST = (Configuration(members=(FOUNDER,), next_id=2), 1)


class LaneTests(SynchronousTestCase):
    """Logs 16 and 17 on a disk whose threads the test moves."""

    def setUp(self):
        self.disk = SimDisk()
        self.threads = ManualQueue()
        self.lanes = DiskLanes(self.threads)
        self.fatal: list = []
        self.opened: dict[int, LogRepair] = {}
        self.hosted = HostedLogs(
            self.disk,
            open_directory(self.disk, segment_size=64 * 1024, reserve_size=0),
            self.lanes,
            wall=lambda: 1000.0,
            fatal=self.fatal.append,
            keep_deleted_seconds=60.0,
        )

    def tearDown(self):
        self.assertEqual(self.fatal, [])

    def open(self, group: int) -> None:
        self.hosted.open(group, FIRST, lambda repair: self.opened.update({group: repair}))

    def both(self) -> None:
        """Have both logs open."""
        for group in (16, 17):
            self.open(group)
        self.threads.drain()

    def test_open_side_by_side(self):
        """Logs are made one after the other, and opened beside each other."""
        for group in (16, 17):
            self.open(group)
        self.threads.step()
        self.threads.step()
        self.assertEqual((len(self.threads.waiting), self.opened), (2, {}))
        self.open(16)  # it is under way
        self.assertEqual(len(self.threads.waiting), 2)
        self.threads.drain()
        self.assertEqual({repair.log.last_index for repair in self.opened.values()}, {1})

    def test_bury_behind_writes(self):
        """A log that was deleted is closed behind what its replica still writes, and put away then."""
        self.both()
        log, seen = self.opened[16].log, []
        lane = self.lanes.lane(16)
        for _ in range(2):
            lane.run(
                lambda: seen.append((log.failure, self.disk.exists("/data/logs/16"))), fatal=self.fatal.append
            )
        self.assertTrue(self.hosted.bury(16, log))
        self.assertFalse(self.hosted.bury(16, log), "it is under way")
        self.threads.drain()
        self.assertEqual(seen, [("", True)] * 2)
        self.assertEqual(log.failure, "the log is closed")
        self.assertEqual(self.disk.list_directory("/data/logs"), ["1", "17", "gone-16-1000"])

    def test_bury_what_is_not_open(self):
        """A log without a copy that is open is put away, too."""
        self.both()
        self.opened[17].log.close()
        self.assertTrue(self.hosted.bury(17, None))
        self.threads.drain()
        self.assertEqual(self.disk.list_directory("/data/logs"), ["1", "16", "gone-17-1000"])

    def test_release(self):
        """A log that goes on elsewhere is put away likewise, and may be born here again, empty."""
        self.both()
        self.assertEqual(self.hosted.idle, {1, 16, 17})
        self.hosted.damaged[16] = "it was"
        self.assertTrue(self.hosted.release(16, self.opened.pop(16).log))
        self.assertEqual(self.hosted.idle, {1, 17}, "it is under way")
        self.assertFalse(self.hosted.release(16, None))
        self.threads.drain()
        self.assertEqual(self.disk.list_directory("/data/logs"), ["1", "17", "gone-16-1000"])
        self.assertEqual((self.hosted.idle, self.hosted.damaged), ({1, 17}, {}))
        self.hosted.open(16, None, lambda repair: self.opened.update({16: repair}))
        self.threads.drain()
        self.assertEqual(self.opened[16].log.last_index, 0)

    def test_measure(self):
        """Logs on the disk that are not known are measured, whoever put them there."""
        found = []
        self.assertEqual(self.hosted.idle, set())
        self.hosted.measure({1}, found.append)
        self.both()
        self.disk.make_directory("/data/logs/99")
        self.disk.make_directory("/data/logs/lost+found")
        self.hosted.measure({1, 16}, found.append)
        self.threads.drain()
        self.assertEqual([set(one) for one in found], [set(), {17, 99}])
        self.assertEqual(found[1][99], 0)
        self.assertGreater(found[1][17], 65536)

    def test_close_behind_writes(self):
        """A log that is not served any more is closed behind what is written, and stays."""
        self.both()
        log, seen = self.opened[16].log, []
        self.lanes.lane(16).run(lambda: seen.append(log.failure), fatal=self.fatal.append)
        self.hosted.close(log)
        self.threads.drain()
        self.assertEqual((seen, log.failure), ([""], "the log is closed"))
        self.assertTrue(self.disk.exists("/data/logs/16"))
