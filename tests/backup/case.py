"""A log as the nodes serve it to a backup, and a simulated disk to keep it on."""

import asyncio
import random
from types import SimpleNamespace

from twisted.trial.unittest import SynchronousTestCase

from loghouse.api.v1 import log_pb2
from loghouse.backup.format import BACKUP_NAME, BackupIdentity, encode
from loghouse.backup.reading import Good, Problem, open_log, read_identity, verify
from loghouse.backup.restoring import Restoring
from loghouse.cli.backup import back_up_log
from loghouse.client.records import Bounds
from loghouse.errors import OffsetOutOfRangeError
from loghouse.protocol.configuration import Configuration, MemberRole, Retention, encode_configuration
from loghouse.protocol.entry import EntryKind, frame_seed
from loghouse.protocol.log_state import LogState, encode_log_state
from loghouse.storage.directory import DataDirectory, DiskIdentity
from loghouse.storage.files import replace_file
from loghouse.testing.disk import SimDisk
from tests.storage.entries import Writer

CLUSTER, NEW = b"the-old-cluster!", b"the-new-cluster!"
OLD_DISK, DISK = b"one-of-the-disks", b"this-disk's-uuid"
IDENTITY = BackupIdentity(cluster_uuid=CLUSTER, cluster_name="c")
PATH, DATA = "/backup", "/data"
NOW = 5_000_000
RETENTION = Retention(size_max=10**9, age_max_seconds=3600)


def run_async(work):
    """Run a coroutine to its end."""
    loop = asyncio.get_event_loop()
    try:
        return asyncio.run(work)
    finally:
        asyncio.set_event_loop(loop)  # `asyncio.run` leaves none; the reactor of the other tests is on it


class Source:
    """A log of a cluster: what nodes answer of it, by the rules of Fetch, Bounds and FetchState."""

    def __init__(self, name="orders", group=16, seed=1):
        self.name, self.group = name, group
        self.writer = Writer(seed=frame_seed(CLUSTER, group))
        self.entries = []
        self.states = [LogState()]  # after each entry
        self.lowest = 0
        self.rng = random.Random(seed)
        self.settings = log_pb2.LogSettings(replicas=3, retention_seconds=3600, tags=["a"])
        self.calls = SimpleNamespace(group=group)
        self.change = lambda entries: entries  # what a hostile node makes of an answer
        self.change_state = lambda state: state
        self.before_answer = lambda: None
        configuration = Configuration(retention=RETENTION)
        configuration = configuration.with_member("a", OLD_DISK, MemberRole.VOTER)
        payload = encode_configuration(configuration)
        self.add(self.writer._make(EntryKind.CONFIGURATION, payload, term=1))
        self.add(self.writer.noop())

    def add(self, entry):
        self.entries.append(entry)
        self.states.append(self.writer.state.copy())
        return entry

    def records(self, count=1, size=60, **fields):
        return self.add(self.writer.records(count, size, **fields))

    def producer(self, subject="root"):
        return self.add(self.writer.producer(subject))

    def cursor(self, action, name="billing", **fields):
        return self.add(self.writer.cursor(action, name, **fields))

    def noop(self, term=1):
        return self.add(self.writer.noop(term=term))

    def trim(self, lowest):
        self.add(self.writer.trim(lowest))
        self.lowest = lowest

    def fill(self, count):
        """Append this and that."""
        for _ in range(count):
            match self.rng.randrange(6):
                case 0:
                    self.noop(self.writer.state.term + 1)
                case 1:
                    self.producer(f"p{len(self.entries)}")
                case 2 if self.writer.state.producers:
                    id_ = self.rng.choice(list(self.writer.state.producers))
                    sequence = self.writer.state.producers[id_].next_sequence
                    self.records(2, 80, producer_id=id_, producer_sequence=sequence)
                case _:
                    self.records(self.rng.randrange(1, 4), self.rng.randrange(20, 200))

    @property
    def next_offset(self):
        return self.writer.state.next_offset

    @property
    def described(self):
        return log_pb2.LogDescription(name=self.name, group=self.group, settings=self.settings, created_at=77)

    # --- what a client asks -------------------------------------------------------------

    async def bounds(self):
        return Bounds(self.lowest, self.next_offset)

    def _index(self, offset):
        if not self.lowest <= offset <= self.next_offset:
            raise OffsetOutOfRangeError(offset, self.lowest, self.next_offset)
        for place, entry in enumerate(self.entries):
            if entry.record_count and entry.next_offset > offset:
                return place
        return len(self.entries)

    async def read_state(self, offset):
        self.before_answer()
        return self.change_state(encode_log_state(self.states[self._index(offset)]))

    async def read_entries(self, offset, end):
        while offset < end:
            self.before_answer()
            first = self._index(offset)
            last = min(first + self.rng.randrange(1, 5), len(self.entries))
            answer = self.entries[first:last]
            offset = answer[-1].next_offset
            yield iter(self.change(answer))


class BackupCase(SynchronousTestCase):
    """A backup on a simulated disk."""

    def setUp(self):
        self.disk = SimDisk()
        for path in (PATH, f"{PATH}/logs", DATA):
            self.disk.make_directory(path)
        replace_file(self.disk, PATH, BACKUP_NAME, encode(IDENTITY))
        self.disk.sync_directory("/")
        self.source = Source()

    def back_up(self, source=None, disk=None, **options):
        source = source or self.source
        return run_async(
            back_up_log(disk or self.disk, source, source.described, PATH, IDENTITY, "", **options)
        )

    def verify(self, *names, disk=None):
        """Return the good logs and the problems."""
        steps = list(verify(disk or self.disk, PATH, list(names) or [self.source.name]))
        good = [step for step in steps if isinstance(step, Good)]
        return good, [step.error for step in steps if isinstance(step, Problem)]

    def restore(self, *names, disk=None):
        """Restore into DATA; return what is said of it."""
        disk = disk or self.disk
        if disk.trace is None:
            disk.stop_process()
        identity = read_identity(disk, PATH)
        logs = [open_log(disk, PATH, name, identity) for name in names or [self.source.name]]
        directory = self.open(disk)
        made = DiskIdentity(cluster_uuid=NEW, disk_uuid=DISK, cluster_name="c", node_name="n")
        try:
            return Restoring(disk, directory, made, segment_size=5120, now=NOW).run(logs)
        finally:
            directory.close()

    def open(self, disk=None):
        return DataDirectory.lock(disk or self.disk, DATA, segment_size=5120, reserve_size=512)

    def restored(self, group, disk=None):
        """Return the log of a group in DATA, open."""
        return self.open(disk).open_log(group)

    def assertIsRestored(self, source=None, disk=None, about=None, cursors=0):
        """DATA has the log as it is at the source."""
        source = source or self.source
        (disk or self.disk).stop_process()
        log = self.restored(source.group, disk)
        state = source.writer.state
        self.assertEqual((log.next_offset, log.lowest_offset), (source.next_offset, source.lowest), about)
        self.assertEqual(log.state.producers, state.producers, about)
        self.assertEqual(log.last_index, state.index + cursors)
        self.assertEqual(log.commit_index, log.last_index)
        found, index = {}, log.first_index
        while index <= log.last_index:
            for entry in log.entries(index, log.last_index + 1, 3000):
                found[entry.index] = entry
            index = max(found) + 1
        for entry in source.entries:
            if entry.record_count and entry.next_offset > source.lowest:
                same = found[entry.index]
                self.assertEqual(same.head[4:], entry.head[4:], about)
                self.assertEqual(bytes(same.payload), bytes(entry.payload), about)
        members = [(one.id, one.name, one.disk_uuid) for one in log.state.configuration.members]
        self.assertEqual(members, [(1, "n", DISK)])
        self.assertEqual(log.state.configuration.retention, RETENTION)
        log.close()
        (disk or self.disk).stop_process()
