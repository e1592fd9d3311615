"""Room for segments before they are needed: how large they are made, what is kept, and the reserve."""

import errno
from types import SimpleNamespace

from twisted.trial.unittest import SynchronousTestCase

from loghouse.errors import DiskFullError
from loghouse.limits import (
    CONTROL_SEGMENT_SIZE,
    CONTROL_SIZE_KEPT,
    ENTRY_HEADER_SIZE,
    INDEX_ENTRY_SIZE,
    KIB,
    STORE_HEADER_SIZE,
)
from loghouse.storage.creation import LogSizes, Reserve, Rooms, create_allocated
from loghouse.storage.index import RELATIVE_OFFSET_MAX
from loghouse.storage.recovery import INDEX, STORE
from loghouse.testing.disk import SimDisk, disk_error
from tests.storage.entries import CLUSTER, GROUP, Writer, new_disk

DIRECTORY = "/data/logs/1"


def sizes(*, segment=64 * KIB, index=8 * KIB, first=16 * KIB):
    return LogSizes(segment=segment, index=index, first=first)


class SizeTests(SynchronousTestCase):
    """How large files are made."""

    def test_next_store(self):
        """A store is twice the one before, within the first and the largest size, or what its entry needs."""
        made = sizes()
        for before, wanted in (
            (0, 16),
            (8, 16),
            (10, 20),
            (16, 32),
            (32, 64),
            (33, 64),
            (64, 64),
            (500, 64),
        ):
            self.assertEqual(made.store_after(before * KIB), wanted * KIB, before)
        room = 64 * KIB - STORE_HEADER_SIZE
        for entry_size in (0, room - 1, room):
            self.assertEqual(made.store_after(64 * KIB, entry_size), 64 * KIB)
        self.assertEqual(made.store_after(64 * KIB, room + 1), 64 * KIB + 1)

    def test_index(self):
        """An index has its share of the store's size; a store for one large entry needs no larger one."""
        made = sizes()
        for store, index in ((64, 8), (32, 4), (16, 2), (100, 8), (1000, 8)):
            self.assertEqual(made.index_for(store * KIB), index * KIB, store)
            self.assertEqual(made.index_capacity(store * KIB), index * KIB // INDEX_ENTRY_SIZE)

    def test_kept(self):
        """An eighth of the first segment is kept for control entries, in bytes and in places."""
        self.assertEqual(sizes().kept, (1536, 21))
        # Neither more places than entries that fit, nor more than the index has.
        self.assertEqual(sizes().kept[1], sizes().index_capacity(16 * KIB) // 8)
        many = sizes(index=64 * KIB)
        self.assertEqual(many.kept, (1536, 1536 // ENTRY_HEADER_SIZE))
        least = (CONTROL_SIZE_KEPT * 8 + STORE_HEADER_SIZE) // KIB * KIB
        large = sizes(segment=1024 * KIB, index=128 * KIB, first=least + KIB)
        self.assertEqual(large.kept[0], CONTROL_SIZE_KEPT)


class SplitTests(SynchronousTestCase):
    """Which entries go into the active segment, and which into new ones."""

    def split(self, entries, *, room=1000, places=10, base_offset=0, **made):
        active = SimpleNamespace(
            size=16 * KIB,
            base_offset=base_offset,
            end=SimpleNamespace(position=16 * KIB - room, count=7),
            index=lambda: SimpleNamespace(capacity=7 + places),
        )
        entries = [
            SimpleNamespace(size=one, base_offset=base_offset) if isinstance(one, int) else one
            for one in entries
        ]
        chunks, stores, is_tight = sizes(**made).split(active, entries)
        return [len(chunk) for chunk in chunks], [store // KIB for store in stores], is_tight

    def test_bytes(self):
        """Entries go on while they fit to the byte."""
        self.assertEqual(self.split([400, 600]), ([2], [], True))
        self.assertEqual(self.split([400, 601]), ([1, 1], [32], False))
        self.assertEqual(self.split([1001, 999]), ([0, 2], [32], False))
        self.assertEqual(self.split([]), ([0], [], True))

    def test_places(self):
        """They go on while the index has places; a new one has as many as its store's share."""
        self.assertEqual(self.split([64] * 10)[0], [10])
        self.assertEqual(self.split([64] * 12)[0], [10, 2])
        self.assertEqual(self.split([64], places=0)[0], [0, 1])
        capacity = 4 * KIB // INDEX_ENTRY_SIZE
        self.assertEqual(
            self.split([64] * (capacity + 1), places=0, index=8 * KIB)[:2], ([0, capacity, 1], [32, 64])
        )

    def test_offsets(self):
        """They go on while offsets fit the index, counted from the segment's first one."""
        far = SimpleNamespace(size=64, base_offset=500 + RELATIVE_OFFSET_MAX)
        farther = SimpleNamespace(size=64, base_offset=501 + RELATIVE_OFFSET_MAX)
        last = SimpleNamespace(size=64, base_offset=501 + 2 * RELATIVE_OFFSET_MAX)
        self.assertEqual(self.split([64, far], base_offset=500)[0], [2])
        self.assertEqual(self.split([64, farther], base_offset=500)[0], [1, 1])
        self.assertEqual(self.split([64, farther, last], base_offset=500)[0], [1, 2])

    def test_stores(self):
        """Each new store is twice the one before, or what its first entry needs; the next follows that."""
        room = 32 * KIB - STORE_HEADER_SIZE
        self.assertEqual(self.split([1001, room - 1001])[:2], ([0, 2], [32]))
        self.assertEqual(self.split([1001, room - 1000])[:2], ([0, 1, 1], [32, 64]))
        self.assertEqual(self.split([200 * KIB, 64])[:2], ([0, 1, 1], [204, 64]))

    def test_tight(self):
        """A spare must be there once less is left, in bytes or places, than is kept for control entries."""
        size, places = sizes().kept
        for room, left, is_tight in (
            (size, places, False),
            (size - 1, places, True),
            (size, places - 1, True),
        ):
            found = self.split([64], room=room + 64, places=left + 1)
            self.assertEqual(found, ([1], [], is_tight), (room, left))


class RoomsCase(SynchronousTestCase):
    """The rooms of an empty log's directory."""

    def setUp(self):
        self.disk = new_disk(SimDisk, DIRECTORY)
        self.rooms = self.make()

    def make(self, *, reserve=KIB, **made):
        return Rooms(self.disk, DIRECTORY, sizes(**made), Reserve(self.disk, f"{DIRECTORY}/reserve", reserve))

    def found(self):
        """Return the sizes of all files, by their names."""
        return {path.rpartition("/")[2]: len(content) for path, content in self.disk.contents().items()}


class ReserveTests(RoomsCase):
    """Room that is given back when a disk is full."""

    def test_made(self):
        """It is made once, in its size, and made again after a release."""
        self.assertFalse(self.rooms.reserve.is_there)
        for _ in range(2):
            self.rooms.reserve.ensure()
            self.assertTrue(self.rooms.reserve.is_there)
            self.assertEqual(self.found(), {"reserve": KIB})
            operations = self.disk.operations
            self.rooms.reserve.ensure()
            self.assertEqual(self.disk.operations, operations)
            self.assertIs(self.rooms.reserve._release(), True)
            self.assertEqual((self.found(), self.rooms.reserve.is_there), ({}, False))
            self.assertIs(self.rooms.reserve._release(), False)

    def test_there(self):
        """One that is there already, from another run, is taken as it is."""
        self.disk.replace(f"{DIRECTORY}/reserve", b"other")
        self.rooms.reserve.ensure()
        self.assertEqual((self.found(), self.rooms.reserve.is_there), ({"reserve": 5}, True))

    def test_none(self):
        """A log may have none."""
        rooms = self.make(reserve=0)
        rooms.reserve.ensure()
        self.assertEqual((self.found(), rooms.reserve.is_there), ({}, True))

    def test_no_room(self):
        """Without room for it nothing is left behind, and it is tried again."""
        self.disk.fail(errno.ENOSPC, kinds=("allocate",))
        self.assertRaises(OSError, self.rooms.reserve.ensure)
        self.assertEqual((self.found(), self.rooms.reserve.is_there), ({}, False))
        self.rooms.reserve.ensure()
        self.assertEqual(self.found(), {"reserve": KIB})

    def using(self, *numbers):
        """Do work that meets these errors, one at each try; return how often it was tried."""
        errors, tries = list(numbers), []

        def work():
            tries.append(self.found())
            number = errors.pop(0) if errors else 0
            if number:
                raise disk_error(number)
            return "done"

        try:
            self.assertEqual(self.rooms.using_reserve(work), "done")
        finally:
            self.tries = tries
        return len(tries)

    def test_used(self):
        """A full disk gives it back, and the work is done again, once."""
        for number in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            self.rooms.reserve.ensure()
            self.assertEqual(self.using(), 1)
            self.assertEqual(self.found(), {"reserve": KIB})
            self.assertEqual(self.using(number), 2)
            self.assertEqual(self.tries, [{"reserve": KIB}, {}])
            self.assertFalse(self.rooms.reserve.is_there)

    def test_not_enough(self):
        """When there is none, or it is not enough, the disk is full; who has another error is told that."""
        error = self.assertRaises(DiskFullError, self.using, errno.ENOSPC)
        self.assertIn(DIRECTORY, str(error))
        self.assertEqual(len(self.tries), 1)
        self.rooms.reserve.ensure()
        self.assertRaises(DiskFullError, self.using, errno.ENOSPC, errno.ENOSPC)
        self.assertEqual(len(self.tries), 2)
        self.rooms.reserve.ensure()
        self.assertEqual(self.assertRaises(OSError, self.using, errno.ENOSPC, errno.EIO).errno, errno.EIO)

    def test_kept_for_the_disk(self):
        """What a process is short of is no reason to give it back, nor is a disk that fails."""
        self.rooms.reserve.ensure()
        for number in (errno.EMFILE, errno.ENFILE, errno.ENOMEM):
            error = self.assertRaises(DiskFullError, self.using, number)
            self.assertIn(f"({disk_error(number).strerror})", str(error))
        self.assertEqual(self.assertRaises(OSError, self.using, errno.EIO).errno, errno.EIO)
        self.assertEqual(len(self.tries), 1)
        self.assertEqual((self.found(), self.rooms.reserve.is_there), ({"reserve": KIB}, True))


class SpareTests(RoomsCase):
    """Files that become segments by renaming."""

    def spares(self):
        return {name: size for name, size in self.found().items() if name.startswith("spare")}

    def test_made(self):
        """Each has a store and its share of index; what is large enough stays as it is."""
        self.rooms.ensure_spares([32 * KIB, 64 * KIB])
        wanted = {
            f"spare-0{STORE}": 32 * KIB,
            f"spare-0{INDEX}": 4 * KIB,
            f"spare-1{STORE}": 64 * KIB,
            f"spare-1{INDEX}": 8 * KIB,
        }
        self.assertEqual(self.found(), {"reserve": KIB, **wanted})
        operations = self.disk.operations
        for enough in ([32 * KIB, 64 * KIB], [16 * KIB], [32 * KIB, 20 * KIB], []):
            self.rooms.ensure_spares(enough)
        self.assertEqual(self.disk.operations, operations)

    def test_too_small(self):
        """One that is too small is made anew, and those behind it with it."""
        self.rooms.ensure_spares([16 * KIB, 32 * KIB])
        self.rooms.ensure_spares([16 * KIB + 1])
        self.assertEqual(self.spares()[f"spare-0{STORE}"], 16 * KIB + 1)
        operations = self.disk.operations
        self.rooms.ensure_spares([16 * KIB, 32 * KIB])
        self.assertGreater(self.disk.operations, operations)
        self.rooms.forget_spares()
        self.assertEqual(self.spares(), {})

    def test_no_room(self):
        """Without room nothing of the log changed; an error of the disk is told as it is."""
        self.rooms.reserve.ensure()
        for name in (STORE, INDEX):
            self.disk.fail(errno.ENOSPC, kinds=("allocate",), path_part=name)
            error = self.assertRaises(DiskFullError, self.rooms.ensure_spares, [16 * KIB])
            self.assertIn(DIRECTORY, str(error))
            self.disk.fail(errno.EIO, kinds=("allocate",), path_part=name)
            self.assertRaises(OSError, self.rooms.ensure_spares, [16 * KIB])
        self.rooms.ensure_spares([16 * KIB])
        self.assertEqual(self.spares(), {f"spare-0{STORE}": 16 * KIB, f"spare-0{INDEX}": 2 * KIB})

    def test_reserve_first(self):
        """As long as there is no room for the reserve, none is taken for spares."""
        self.disk.fail(errno.ENOSPC, kinds=("allocate",), path_part="reserve")
        self.assertRaises(DiskFullError, self.rooms.ensure_spares, [16 * KIB])
        self.assertEqual(self.found(), {})

    def control(self, store_sizes, **made):
        """Take room for control entries on a disk with room for the reserve alone; return what is there."""
        self.setUp()
        self.rooms = self.make(reserve=256 * KIB, **made)
        self.rooms.reserve.ensure()
        self.disk.capacity = self.disk.used_size()
        self.rooms.ensure_control_spares(store_sizes)
        return self.found()

    def test_control(self):
        """On a full disk control entries get small segments, of what the reserve had."""
        big = {"segment": 1024 * KIB, "index": 128 * KIB}
        small = CONTROL_SEGMENT_SIZE
        self.assertEqual(
            self.control([512 * KIB], **big), {f"spare-0{STORE}": small, f"spare-0{INDEX}": small // 8}
        )
        self.assertEqual(self.control([20 * KIB], **big)[f"spare-0{STORE}"], 20 * KIB)
        self.assertEqual(self.control([20 * KIB], index=KIB)[f"spare-0{INDEX}"], KIB)
        # One that is larger than a segment holds one large entry, and needs its size.
        self.assertEqual(self.control([100 * KIB])[f"spare-0{STORE}"], 100 * KIB)
        self.assertEqual(self.control([64 * KIB])[f"spare-0{STORE}"], 64 * KIB)
        found = self.control([512 * KIB, 512 * KIB], **big)
        self.assertEqual((found[f"spare-0{STORE}"], found[f"spare-1{STORE}"]), (small, small))

    def test_control_with_room(self):
        """Where there is room they are as any others."""
        self.rooms.ensure_control_spares([32 * KIB])
        self.assertEqual(self.found()[f"spare-0{STORE}"], 32 * KIB)
        self.assertEqual(self.found()["reserve"], KIB)

    def test_control_behind_spares(self):
        """Spares that are there already are used first."""
        self.rooms = self.make(segment=1024 * KIB, index=128 * KIB, reserve=256 * KIB)
        self.rooms.ensure_spares([512 * KIB])
        self.disk.capacity = self.disk.used_size()
        self.rooms.ensure_control_spares([512 * KIB, 512 * KIB])
        found = self.found()
        self.assertEqual(
            (found[f"spare-0{STORE}"], found[f"spare-1{STORE}"]), (512 * KIB, CONTROL_SEGMENT_SIZE)
        )

    def test_control_without_any(self):
        """Without a reserve there is no room for them either."""
        self.disk.capacity = 0
        self.assertRaises(DiskFullError, self.rooms.ensure_control_spares, [16 * KIB])

    def test_small_file(self):
        """Whether a small file could be made is tried out, without taking bytes, and leaves nothing."""
        self.disk.replace(f"{DIRECTORY}/9.state.tmp", b"left by a crash")
        taken = []
        self.disk.on_operation = lambda kind, path, size: taken.append((kind, path))
        self.rooms.check_small_file("9.state")
        self.assertIn(("create", f"{DIRECTORY}/9.state.tmp"), taken)
        self.assertNotIn("allocate", [kind for kind, _ in taken])
        self.assertEqual(self.found(), {})
        self.disk.fail(errno.ENOSPC, kinds=("create",))
        error = self.assertRaises(DiskFullError, self.rooms.check_small_file, "9.state")
        self.assertIn(DIRECTORY, str(error))
        self.disk.fail(errno.EIO, kinds=("create",))
        self.assertRaises(OSError, self.rooms.check_small_file, "9.state")
        self.assertEqual(self.found(), {})

    def test_refused_file(self):
        """A file that got no room is not there, and what had its name before is gone."""
        path = f"{DIRECTORY}/x"
        self.disk.replace(path, b"old")
        create_allocated(self.disk, path, 100)
        self.assertEqual(self.disk.content(path), bytes(100))
        self.disk.fail(errno.ENOSPC, kinds=("allocate",))
        self.assertRaises(OSError, create_allocated, self.disk, path, 100)
        self.assertEqual((self.found(), self.disk._open), ({}, {}))


class SegmentTests(RoomsCase):
    """A spare that becomes a segment."""

    def create(self, state):
        return self.rooms.create_segment(CLUSTER, GROUP, state, remedy="none")

    def test_made(self):
        """The first spare becomes the segment behind a state; those behind it move up."""
        writer = Writer()
        for _ in range(3):
            writer.records(2, term=4)
        self.rooms.ensure_spares([16 * KIB, 32 * KIB, 64 * KIB])
        segment = self.create(writer.state)
        self.assertEqual((segment.base_index, segment.base_offset, segment.header.previous_term), (4, 6, 4))
        self.assertEqual((segment.header.cluster, segment.header.group), (CLUSTER, GROUP))
        end = segment.end
        self.assertEqual((end.count, end.position, end.term, end.next_offset), (0, STORE_HEADER_SIZE, 4, 6))
        self.assertEqual((segment.size, segment.remedy), (16 * KIB, "none"))
        found = self.found()
        self.assertEqual(
            {name: size for name, size in found.items() if size >= 2 * KIB},
            {
                f"{4:020d}{STORE}": 16 * KIB,
                f"{4:020d}{INDEX}": 2 * KIB,
                f"spare-0{STORE}": 32 * KIB,
                f"spare-0{INDEX}": 4 * KIB,
                f"spare-1{STORE}": 64 * KIB,
                f"spare-1{INDEX}": 8 * KIB,
            },
        )
        self.assertIn(f"{4:020d}.state", found)
        self.rooms.ensure_spares([32 * KIB, 64 * KIB])
        self.assertEqual(self.found(), found)
        self.assertEqual(segment.state_before().next_offset, 6)

    def test_state_without_a_name(self):
        """A state file that gets no name is made later from the segments before; other errors are told."""
        self.rooms.ensure_spares([16 * KIB])
        state = Writer().state
        self.disk.fail(errno.ENOSPC, kinds=("rename",), path_part=".state")
        segment = self.create(state)
        self.assertIsNone(segment.state_before())
        self.rooms.ensure_spares([16 * KIB])
        self.disk.fail(errno.EIO, kinds=("rename",), path_part=".state")
        self.assertRaises(OSError, self.create, state)
