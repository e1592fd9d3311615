"""Term and vote: in both slots, each by itself enough, the newer one counts."""

from twisted.trial.unittest import SynchronousTestCase

from loghouse.errors import DamageError
from loghouse.protocol.entry import crc32c
from loghouse.protocol.hard_state import HardState
from loghouse.storage.hard_state import SLOT_SIZE, HardStateFile, Slot, replace_hard_state
from loghouse.testing.disk import SimDisk
from tests.storage.entries import SEED

DIRECTORY = "/log"
PATH = f"{DIRECTORY}/hard_state"


class SlotTests(SynchronousTestCase):
    """A file that is written again and again."""

    def setUp(self):
        self.disk = SimDisk()
        self.disk.make_directory(DIRECTORY)
        replace_hard_state(self.disk, DIRECTORY, SEED, HardState())

    def open(self):
        file = HardStateFile(self.disk, DIRECTORY, SEED, remedy="none")
        self.addCleanup(file.close)
        return file

    def slots(self):
        content = self.disk.content(PATH)
        return [Slot.decode(content[place : place + Slot.SIZE], SEED) for place in (0, SLOT_SIZE)]

    def test_both(self):
        """Each save is in both slots, with a counter of its own; so is the first state."""
        self.assertEqual(self.slots(), [Slot(1, HardState())] * 2)
        file = self.open()
        for counter, state in enumerate((HardState(1, 0), HardState(1, 2), HardState(7, 3)), 2):
            file.save(state)
            self.assertEqual(self.slots(), [Slot(counter, state)] * 2)
            self.assertEqual(file.state, state)
        self.assertEqual(self.open().state, HardState(7, 3))

    def test_either(self):
        """A damaged sector, whichever, loses nothing; two of them are refused."""
        self.open().save(HardState(5, 2))
        good = self.disk.content(PATH)
        for place in (0, SLOT_SIZE):
            self.disk.flip(PATH, 8 * (place + 20))
            file = self.open()
            self.assertEqual(file.state, HardState(5, 2))
            file.heal()
            self.assertEqual([slot.state for slot in self.slots()], [HardState(5, 2)] * 2)
            self.assertNotEqual(self.disk.content(PATH), good)  # with a new counter
        for place in (0, SLOT_SIZE):
            self.disk.flip(PATH, 8 * (place + 20))
        self.assertRaises(DamageError, self.open)

    def test_newer(self):
        """Of two good slots the one with the higher counter counts, whichever it is."""
        old, new = (Slot(n, HardState(n, 1)).encode(SEED).ljust(SLOT_SIZE, b"\0") for n in (8, 9))
        for content in (old + new, new + old):
            self.disk.replace(PATH, content)
            file = self.open()
            self.assertEqual(file.state, HardState(9, 1))
            file.heal()
            self.assertEqual([slot.state for slot in self.slots()], [HardState(9, 1)] * 2)
            file.save(HardState(10, 0))
            self.assertEqual(self.open().state, HardState(10, 0))

    def test_not_ours(self):
        """A slot whose checksum is right and whose magic is not is none; without the file nothing starts."""
        fields = bytearray(Slot(8, HardState(8, 1)).encode(SEED)[:-4])
        fields[0] ^= 1
        foreign = bytes(fields) + crc32c(bytes(fields), SEED).to_bytes(4, "big")
        self.assertIsNone(Slot.decode(foreign, SEED))
        self.disk.replace(PATH, foreign.ljust(SLOT_SIZE, b"\0") * 2)
        self.assertRaisesRegex(DamageError, "no valid slot", self.open)
        self.disk.unlink(PATH)
        self.assertRaisesRegex(DamageError, "is gone", self.open)

    def test_equal_slots_are_left_alone(self):
        """Nothing is written at a start when both slots are the same."""
        before = self.disk.content(PATH)
        self.open().heal()
        self.assertEqual(self.disk.content(PATH), before)
