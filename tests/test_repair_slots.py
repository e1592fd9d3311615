"""Helping others to repair takes a slot, and gives it back whatever became of it."""

from loghouse.replica import entry_repair
from tests.test_entry_repair import EntryRepairTestCase, ServingTests


class SlotTests(EntryRepairTestCase):
    """A node that serves one request at a time."""

    ask = ServingTests.ask

    def setUp(self):
        super().setUp()
        self.patch(entry_repair, "ENTRIES_SERVED_MAX", 1)

    def test_given_back(self):
        """Requests that are answered, name nothing held, or meet damage leave it as helpful as before."""
        town = self.filled()
        leader = town.leader
        last = leader.store.last_index
        for _ in range(2):
            self.assertNotEqual(self.ask(town, leader, 3, 5), b"")
            self.assertEqual(self.ask(town, leader, last, last + 1), b"")
            index = self.flip(leader, 1, 4)
            self.assertEqual(self.ask(town, leader, index, index), b"")
            self.wait_mended(town, leader.name)
            self.assertNotEqual(self.ask(town, leader, index, index), b"")

    def test_trimmed(self):
        """So do requests for what was trimmed."""
        town = self.filled()
        leader = town.leader
        segment = self.sealed(leader)[1]
        leader.store.trim_prefix(segment.base_offset, leader.store.last_index)
        self.assertGreater(leader.store.first_index, 1)
        for _ in range(3):
            self.assertEqual(self.ask(town, leader, 1, 2), b"")
        first = leader.store.first_index
        self.assertNotEqual(self.ask(town, leader, first, first), b"")
