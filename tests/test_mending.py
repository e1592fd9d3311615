"""Whole nodes whose disks damage sealed segments while they run: mended in place from the others."""

from twisted.python.failure import Failure

from loghouse import scrubbing
from loghouse.errors import UnavailableError
from loghouse.limits import ENTRY_HEADER_SIZE, KIB, MIB, STORE_HEADER_SIZE
from loghouse.protocol.entry import decode_entries
from loghouse.protocol.repair_messages import EntriesReply, EntriesRequest
from tests.driver.town import TownTestCase

DIRECTORY = "/data/logs/1"
RECORD_SIZE = 6000


class MendingTestCase(TownTestCase):
    """A town of three with a few sealed segments, and ways to damage them."""

    def setUp(self):
        super().setUp()
        self.patch(scrubbing, "FIRST_SECONDS", 1.0)
        self.patch(scrubbing, "PASS_SECONDS", 5.0)

    def filled(self, records: int = 36, **options):
        """Return a town whose nodes all hold the same few segments."""
        town = self.built(**options)
        for _ in range(records):
            self.result(town, town.leader.propose(RECORD_SIZE))
        last = town.leader.node._log.last_index
        town.until(lambda: all(one.node.committed_index >= last for one in town.running))
        self.asked = []
        for one in town.running:
            self.listen(one)
        return town

    def listen(self, resident) -> None:
        """Note who is asked for what."""
        received = resident.node.message_received

        def receive(source, message):
            if isinstance(message, EntriesRequest | EntriesReply):
                self.asked.append((source, resident.name, message))
            received(source, message)

        resident.node.message_received = receive

    def requests(self):
        """(who asked whom, first, last), each once."""
        return [
            (source, target, message.first_index, message.last_index)
            for source, target, message in self.asked
            if isinstance(message, EntriesRequest)
        ]

    def sealed(self, resident):
        return resident.node._log.view.segments[:-1]

    def place(self, resident, segment: int, number: int) -> int:
        """Where an entry of a sealed segment begins."""
        return self.sealed(resident)[segment].frame_header(number).position

    def flip(self, resident, segment: int, number: int, at: int = ENTRY_HEADER_SIZE + 100) -> int:
        """Flip a bit of an entry; return its index."""
        found = self.sealed(resident)[segment]
        resident.disk.flip(found.path, 8 * (self.place(resident, segment, number) + at) + 3)
        return found.base_index + number

    def sealed_bytes(self, resident) -> dict[str, bytes]:
        """What counts in a node's sealed segments."""
        return {
            segment.path: resident.disk.content(segment.path)[STORE_HEADER_SIZE : segment.end.position]
            for segment in self.sealed(resident)
        }

    def assert_same(self, town) -> None:
        """Every node has the same bytes, and none ended or has anything to do."""
        leading = self.sealed_bytes(town.leader)
        for one in town.running:
            mine = self.sealed_bytes(one)
            self.assertEqual(
                [path for path in leading if path in mine and leading[path] != mine[path]], [], one.name
            )
            self.assertGreaterEqual(len(mine), 2)
            self.assertEqual((one.failures, one.starts, one.node._mender.pending), ([], 1, 0), one.name)
            self.assertEqual(one.node._log._damaged, ())

    def wait_mended(self, town, *names: str, entries: int = 1, seconds_max: float = 30.0) -> None:
        town.until(
            lambda: all(
                town[name].node._mender.mended >= entries and not town[name].node._mender.pending
                for name in names
            ),
            seconds_max,
        )

    def read(self, town, resident, offset: int):
        """Read one entry; return what came of it."""
        done = resident.node.fetch(offset, KIB)
        town.until(lambda: done.called)
        outcome = []
        done.addBoth(outcome.append)
        return outcome[0]

    def follower(self, town, number: int = 0):
        return [one for one in town.running if not one.leads][number]


class ReadTests(MendingTestCase):
    """Damage that a read meets."""

    def test_payload(self):
        """The read is refused and says why; only this entry is asked for; the bytes become the others'."""
        town = self.filled()
        victim = self.follower(town)
        index = self.flip(victim, 1, 5)
        offset = self.sealed(victim)[1].frame_header(5).base_offset
        refused = self.read(town, victim, offset)
        self.assertIsInstance(refused.value, UnavailableError)
        self.assertIn("being repaired", str(refused.value))
        self.assertNotIsInstance(self.read(town, victim, offset + 1), Failure)
        self.wait_mended(town, victim.name)
        self.assert_same(town)
        [(source, _, first, last)] = self.requests()
        self.assertEqual((source, first, last), (victim.name, index, index))
        [entry] = decode_entries(victim.node.seed, self.read(town, victim, offset).frames)
        self.assertEqual(entry.index, index)

    def test_header(self):
        """A damaged header is found by the index file to be that of one entry."""
        town = self.filled()
        victim = self.follower(town)
        offset = self.sealed(victim)[1].frame_header(3).base_offset
        index = self.flip(victim, 1, 3, at=5)
        self.assertIsInstance(self.read(town, victim, offset).value, UnavailableError)
        self.wait_mended(town, victim.name)
        self.assertEqual([request[2:] for request in self.requests()], [(index, index)])
        self.assert_same(town)


class ScrubTests(MendingTestCase):
    """Damage that nobody reads."""

    def test_found_and_mended(self):
        """The scrubber finds damage on a follower and on the leader; both are mended without a restart."""
        town = self.filled(scrub_rate=MIB)
        leader, victim = town.leader, self.follower(town)
        self.flip(victim, 0, 3)
        self.flip(victim, 1, 2, at=20)
        self.flip(leader, 0, 7)
        self.wait_mended(town, victim.name, leader.name)
        town.until(lambda: all(one.node._scrubber.passes for one in town.running))
        self.wait_mended(town, victim.name, entries=2)
        self.assert_same(town)
        self.assertIs(town.leader, leader)
