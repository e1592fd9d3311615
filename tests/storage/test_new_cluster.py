"""A survivor's log as a cluster of its own: the same records, another uuid, whatever the power does.

LOGHOUSE_CRASH_STATES is the number of power losses tried.
"""

import errno
import os
import random

from twisted.trial.unittest import SynchronousTestCase

from loghouse.errors import DamageError, DataDirectoryError, DiskFailedError, EntryDamagedError
from loghouse.limits import MIB, STORE_HEADER_SIZE
from loghouse.protocol.configuration import (
    Configuration,
    MemberRole,
    Retention,
    encode_birth,
    encode_configuration,
)
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

    def test_named_logs(self):
        """Where there are named logs, which the new cluster would not have, nothing is modified."""
        self.disk.make_directory("/data/logs/16")
        before = self.disk.contents()
        with self.assertRaisesRegex(DataDirectoryError, "groups 16"):
            Rewrite(self.disk, "/data", group=GROUP).run(NEW, NOW)
        self.assertEqual(self.disk.contents(), before)

    def test_named_logs_elsewhere(self):
        """So it is where the other nodes have them, which the log itself says."""
        directory = self.open()
        log = directory.open_log()
        birth = encode_birth(2, self.old_state.configuration)
        entry = Writer(self.old_state, log.seed)._make(EntryKind.BIRTH, birth, term=6)
        log.append([entry])
        log.sync(entry.index)
        log.close()
        directory.close()
        self.disk.stop_process()
        with self.assertRaisesRegex(DataDirectoryError, "none of them here"):
            Rewrite(self.disk, "/data", group=GROUP).run(NEW, NOW)

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

    def test_progress(self):
        """What is to be copied is known before, and at the end all of it is done."""
        rewrite = Rewrite(self.disk, "/data", group=GROUP)
        self.assertEqual((rewrite.is_begun, rewrite.done_size, rewrite.total_size), (False, 0, 0))
        seen = []
        self.patch(new_cluster, "COPY_SIZE", 500)
        rewrite.run(NEW, NOW, lambda: seen.append(rewrite.done_size))
        size = sum(entry.size for entry in self.entries)
        stores = [path for path in self.disk.contents() if path.startswith(f"{KEPT}/") and "store" in path]
        self.assertEqual(rewrite.total_size, size + STORE_HEADER_SIZE * len(stores))
        self.assertEqual((seen[-1], rewrite.done_size), (size, size))
        self.assertEqual(seen, sorted(set(seen)))
        self.assertGreater(len(seen), 10)
        largest = max(entry.size for entry in self.entries)
        steps = [after - before for before, after in zip([0, *seen], seen, strict=False)]
        self.assertLessEqual(max(steps), max(500, largest))
        self.assertGreater(max(steps), 300)  # several at a time

    def test_time_of_the_entry(self):
        """The new entry is not older than the last one, whatever the clock says."""
        last = self.entries[-1]
        for now, timestamp in ((last.timestamp - 1, last.timestamp), (NOW, NOW)):
            disk = self.disk.copy()
            Rewrite(disk, "/data", group=GROUP).run(NEW, now)
            log = self.open(disk).open_log()
            entry = log.header_at(log.last_index)
            self.assertEqual(
                (entry.timestamp, entry.term, entry.kind), (timestamp, 8, EntryKind.CONFIGURATION)
            )
            self.assertEqual(log.durable_index, log.last_index)

    def test_finished(self):
        """A run that was interrupted is finished by the next one, whatever it is asked for, and says so."""
        self.disk.fail(errno.EIO, kinds=("rename",), path_part="members.")
        error = self.assertRaises(DiskFailedError, self.rewrite)
        self.assertIn("cannot rewrite /data: ", str(error))
        self.assertIn("; run this again", str(error))
        self.assertTrue(Rewrite(self.disk, "/data", group=GROUP).is_begun)
        made = self.rewrite(uuid=bytes(16))
        self.assertEqual(made.warnings, ("an earlier run was interrupted, and is finished now",))
        self.assertEqual((made.cluster_uuid, made.kept, made.group), (NEW.hex(), KEPT, GROUP))
        self.assertEqual(self.disk.content(f"/data/members.{OLD.hex()[:8]}"), b"where the others were")
        self.assertIsNew()

    def test_no_word(self):
        """Nothing is to be warned of when nothing was being repaired, or all of it is there."""
        for loss in (None, Loss(len(self.entries), 6, is_cut=True), Loss(99, 5, is_cut=True)):
            disk = self.disk.copy()
            if loss is not None:
                write_loss(disk, DIRECTORY, frame_seed(OLD, GROUP), loss)
            self.assertEqual(self.rewrite(disk).warnings, ())

    def test_room(self):
        """It needs room for the log and a mebibyte, to the byte."""
        used = STORE_HEADER_SIZE * sum("store" in path for path in self.disk.contents())
        size = used + sum(entry.size for entry in self.entries)
        for free, is_enough in ((size + MIB, True), (size + MIB - 1, False)):
            disk = self.disk.copy()
            disk.capacity = disk.used_size() + free
            if is_enough:
                self.rewrite(disk)
                continue
            error = self.assertRaises(DataDirectoryError, self.rewrite, disk)
            self.assertEqual(
                str(error),
                f"/data: the log is written anew beside the old one, which takes {size} bytes; there are "
                f"{free}. Make room, or copy the directory to a larger disk",
            )

    def test_damage_on_the_way(self):
        """Damage of a payload is told with its place, and leaves nothing of the new log."""
        stores = sorted(path for path in self.disk.contents() if path.endswith(".store"))
        self.disk.flip(stores[0], 8 * (STORE_HEADER_SIZE + 70))
        error = self.assertRaises(DamageError, self.rewrite)
        self.assertEqual((error.file, error.position), (stores[0], STORE_HEADER_SIZE))
        self.assertFalse([path for path in self.disk.contents() if "logs.new" in path])
        self.disk.flip(stores[0], 8 * (STORE_HEADER_SIZE + 70))
        self.rewrite()
        self.assertIsNew()
