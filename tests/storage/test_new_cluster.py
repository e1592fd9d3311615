"""A survivor's log as a cluster of its own: the same records, another uuid, whatever the power does.

LOGHOUSE_CRASH_STATES is the number of power losses tried.
"""

import os
import random

from twisted.trial.unittest import SynchronousTestCase

from loghouse.errors import DamageError, DataDirectoryError, EntryDamagedError
from loghouse.limits import STORE_HEADER_SIZE
from loghouse.protocol.configuration import Configuration, MemberRole, Retention, encode_configuration
from loghouse.protocol.entry import EntryKind, decode_entry, frame_seed
from loghouse.storage import new_cluster
from loghouse.storage.directory import DataDirectory, DiskIdentity
from loghouse.storage.loss import Loss, write_loss
from loghouse.storage.new_cluster import Rewrite
from loghouse.storage.verify import Finding, verify
from loghouse.testing.crash_states import crash_states
from loghouse.testing.disk import SimDisk
from tests.processes import long
from tests.storage.entries import Writer

STATES_MAX = int(os.environ.get("LOGHOUSE_CRASH_STATES", "250"))
OLD, NEW = b"old-cluster-uuid", b"new-cluster-uuid"
DISK = b"this-disk's-uuid"
GROUP = 1
NOW = 5_000_000
DIRECTORY = "/data/logs/1"
KEPT = f"/data/logs.{OLD.hex()[:8]}"
RETENTION = Retention(size_max=10**9, age_max_seconds=3600)


class NewClusterTests(SynchronousTestCase):
    """`Rewrite` on the simulated disk."""

    def setUp(self):
        self.disk = SimDisk()
        directory = self.open()
        directory.create(DiskIdentity(cluster_uuid=OLD, disk_uuid=DISK, cluster_name="c", node_name="b"))
        directory.write_members(b"where the others were")
        log = directory.open_log()
        log.save_hard_state(term=7, vote=3)
        writer = Writer(seed=log.seed)
        configuration = Configuration(removed=("d",), retention=RETENTION)
        for name, disk in (("a", bytes(16)), ("b", DISK), ("c", bytes(range(16)))):
            configuration = configuration.with_member(name, disk, MemberRole.VOTER)
        entries = [
            writer._make(EntryKind.CONFIGURATION, encode_configuration(configuration), term=1),
            writer.producer("root"),
            *(writer.records(1 + i % 3, 60 + i, term=1 + i // 10) for i in range(25)),
            writer.records(2, 90, producer_id=2, producer_sequence=0, term=5),
            writer.trim(3, term=5),
            *(writer.records(1, 200, term=6) for _ in range(4)),
        ]
        for entry in entries:
            log.append([entry])
            log.sync(entry.index - 1)
        self.old_state = log.state_at(log.last_index)
        log.close()
        directory.close()
        self.disk.stop_process()
        self.entries = entries
        self.seed = frame_seed(NEW, GROUP)

    def open(self, disk=None):
        return DataDirectory.lock(disk or self.disk, "/data", segment_size=4096 + 1024, reserve_size=512)

    def rewrite(self, disk=None, uuid=NEW):
        return Rewrite(disk or self.disk, "/data", group=GROUP).run(uuid, NOW)

    def assertIsNew(self, disk=None, about=None):
        """The data directory holds the new cluster, with everything that was in the old one."""
        disk = disk or self.disk
        directory = self.open(disk)
        self.assertEqual(
            directory.identity,
            DiskIdentity(cluster_uuid=NEW, disk_uuid=DISK, cluster_name="c", node_name="b"),
        )
        log = directory.open_log()
        self.assertEqual(log.last_index, len(self.entries) + 1, about)
        found = []
        while len(found) < log.last_index:
            found += log.entries(len(found) + 1, log.last_index + 1, 3000)
        for old, new in zip(self.entries, found, strict=False):
            self.assertEqual(old.frame[4:], new.frame[4:])
            with self.assertRaises(EntryDamagedError):
                decode_entry(frame_seed(OLD, GROUP), new.frame)
        self.assertEqual(log.state.producers, self.old_state.producers)
        self.assertEqual(log.state.next_offset, self.old_state.next_offset)
        self.assertEqual(log.state.lowest_offset, self.old_state.lowest_offset)
        configuration = log.state.configuration
        self.assertEqual(
            [(member.id, member.name, member.disk_uuid, member.role) for member in configuration.members],
            [(4, "b", DISK, MemberRole.VOTER)],
        )
        self.assertEqual((configuration.removed, configuration.retention), ((), RETENTION))
        self.assertEqual((log.hard_state.term, log.hard_state.vote, log.last_term), (8, 0, 8))
        self.assertEqual(log.commit_index, log.last_index)
        self.assertEqual(directory.read_members(), b"")
        log.append([Writer(log.state, self.seed).records(1, 300, term=9)])
        log.sync(1)
        directory.close()

    def test_everything_is_kept(self):
        """Entries are the same but for their cluster's checksum; this node is the only voter."""
        before = self.disk.contents()
        made = self.rewrite()
        self.assertEqual((made.cluster_uuid, made.last_index), (NEW.hex(), len(self.entries) + 1))
        self.assertEqual((made.next_offset, made.kept), (self.old_state.next_offset, KEPT))
        findings = [step for step in verify(self.disk, "/data") if isinstance(step, Finding)]
        self.assertEqual(findings, [])
        after = self.disk.contents()
        for path, content in before.items():
            if path.startswith("/data/logs/"):
                self.assertEqual(after[path.replace("/data/logs", KEPT)], content, path)
        self.assertIsNew()

    def test_small_copies(self):
        """However many frames are copied at a time, the result is the same."""
        for size in (1, 300, 2000):
            self.patch(new_cluster, "COPY_SIZE", size)
            disk = self.disk.copy()
            self.rewrite(disk)
            self.assertIsNew(disk)

    def test_files_are_bound_to_the_new_cluster(self):
        """No file of the new log opens under the old uuid, nor the other way round."""
        self.rewrite()
        for path, uuid in ((DIRECTORY, OLD), (f"{KEPT}/1", NEW)):
            with self.assertRaises(DamageError):
                new_cluster.survey(self.disk, path, cluster=uuid, group=GROUP)

    @long
    def test_power_losses(self):
        """After a power loss at any step the old log opens, or nothing does until the command ran again."""
        image = self.disk.start_trace()
        self.rewrite()
        trace, self.disk.trace = self.disk.trace, None
        states = list(crash_states(image, trace))
        self.assertGreater(len(states), 100)
        outcomes = {"old": 0, "unfinished": 0, "new": 0}
        for done, crashed in random.Random(6).sample(states, min(len(states), STATES_MAX)):
            directory = self.open(crashed)
            is_new = directory.identity.cluster_uuid == NEW
            try:
                log = directory.open_log()
            except DataDirectoryError as error:
                self.assertIn("run it again", str(error))
                outcomes["unfinished"] += 1
            else:
                outcomes["new" if is_new else "old"] += 1
                self.assertEqual(log.last_index, len(self.entries) + is_new, done)
            directory.close()
            crashed.stop_process()
            if not is_new:
                # Interrupted behind the point of no return, the first run's uuid counts.
                is_begun = Rewrite(crashed, "/data", group=GROUP).is_begun
                self.rewrite(crashed, uuid=bytes(16) if is_begun else NEW)
            self.assertIsNew(crashed, done)
        self.assertTrue(all(outcomes.values()), outcomes)

    def test_damage(self):
        """A damaged log is refused before anything is swapped, and opens, or not, as it did."""
        stores = sorted(path for path in self.disk.contents() if path.endswith(".store"))
        self.disk.flip(stores[1], 8 * (STORE_HEADER_SIZE + 70))
        before = self.disk.contents()
        with self.assertRaises(DamageError) as caught:
            self.rewrite()
        self.assertIn("--accept-data-loss", str(caught.exception))
        self.assertEqual(self.disk.contents(), before)

    def test_repair_that_was_under_way(self):
        """A survivor that was itself being repaired says what it no longer has."""
        write_loss(self.disk, DIRECTORY, frame_seed(OLD, GROUP), Loss(500, 6, is_cut=True))
        made = self.rewrite()
        self.assertIn("entry 500", made.warnings[0])
        self.assertFalse(self.disk.exists(f"{DIRECTORY}/damage"))

    def test_refused(self):
        """No room, an old log in the way, a log without any entry: refused, and nothing is changed."""
        before = self.disk.contents()
        self.disk.capacity = self.disk.used_size() + 1000
        with self.assertRaises(DataDirectoryError) as caught:
            self.rewrite()
        self.assertIn("room", str(caught.exception))
        self.disk.capacity = None
        self.assertEqual(self.disk.contents(), before)
        self.disk.make_directory(KEPT)
        with self.assertRaises(DataDirectoryError) as caught:
            self.rewrite()
        self.assertIn("in the way", str(caught.exception))
        empty = SimDisk()
        directory = self.open(empty)
        directory.create(DiskIdentity(cluster_uuid=OLD, disk_uuid=DISK, cluster_name="c", node_name="b"))
        directory.close()
        with self.assertRaises(DataDirectoryError) as caught:
            self.rewrite(empty)
        self.assertIn("another survivor", str(caught.exception))
