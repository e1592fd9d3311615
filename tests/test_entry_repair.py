"""Whole nodes whose disks damage sealed segments while they run: mended in place from the others."""

import errno
from unittest.mock import patch

from twisted.logger import globalLogPublisher
from twisted.python.failure import Failure

from loghouse.errors import DamageError, UnavailableError
from loghouse.limits import ENTRY_HEADER_SIZE, INDEX_ENTRY_SIZE, KIB, MIB, STORE_HEADER_SIZE
from loghouse.protocol.entry import decode_entries
from loghouse.protocol.repair_messages import EntriesReply, EntriesRequest
from loghouse.replica import entry_repair, scrubber
from loghouse.replica.damage import DamageControl
from loghouse.testing.disk import disk_error
from tests.driver.town import TownTestCase

DIRECTORY = "/data/logs/1"
RECORD_SIZE = 6000


def repair_of(resident):
    """Return who mends the log of a node."""
    return resident.replica.damage_control.entry_repair


def committed_of(resident) -> int:
    """Return the last entry that is committed and durable on a node; 0 before it belongs to the cluster."""
    return resident.replica.damage_control.committed_index if resident.replica is not None else 0


class EntryRepairTestCase(TownTestCase):
    """A town of three with a few sealed segments, and ways to damage them."""

    def setUp(self):
        super().setUp()
        self.patch(scrubber, "FIRST_SECONDS", 1.0)
        self.patch(scrubber, "PASS_SECONDS", 5.0)

    def filled(self, records: int = 36, **options):
        """Return a town whose nodes all hold the same few segments."""
        town = self.built(**options)
        for _ in range(records):
            self.result(town, town.leader.propose(RECORD_SIZE))
        last = town.leader.store.last_index
        town.until(lambda: all(committed_of(one) >= last for one in town.running))
        self.asked = []
        for one in town.running:
            self.listen(one)
        return town

    def filled_with_victim(self):
        """Return such a town, and a follower whose disk is to be damaged."""
        town = self.filled()
        return town, self.follower(town)

    def listen(self, resident) -> None:
        """Note who is asked for what."""
        received = resident.node.message_received

        def receive(source, message, group):
            if isinstance(message, EntriesRequest | EntriesReply):
                self.asked.append((source, resident.name, message))
            received(source, message, group)

        resident.node.message_received = receive

    def requests(self):
        """(who asked whom, first, last), each once."""
        return [
            (source, target, message.first_index, message.last_index)
            for source, target, message in self.asked
            if isinstance(message, EntriesRequest)
        ]

    def sealed(self, resident):
        return resident.store.view.segments[:-1]

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
            self.assertEqual((one.failures, repair_of(one).pending), ([], 0), one.name)
            self.assertEqual(one.store._damaged, ())

    def know_committed(self, resident, index: int) -> None:
        """Let a node know of no later commit."""
        known = {resident.name: index}

        def committed_index(control):
            raft = control._owner.driver.raft
            return min(raft.commit_index, raft.durable_index, known.get(control._owner.node_name, 1 << 60))

        self.patch(DamageControl, "committed_index", property(committed_index))

    def wait_mended(self, town, *names: str, entries: int = 1, seconds_max: float = 30.0) -> None:
        def is_mended(name):
            entry_repair = repair_of(town[name])
            return entry_repair.mended >= entries and not entry_repair.pending

        town.until(lambda: all(map(is_mended, names)), seconds_max)

    def read(self, town, resident, offset: int):
        """Read one entry; return what came of it."""
        done = resident.log.fetch(offset, KIB)
        town.until(lambda: done.called)
        outcome = []
        done.addBoth(outcome.append)
        return outcome[0]

    def follower(self, town, number: int = 0):
        return [one for one in town.running if not one.leads][number]


class ReadTests(EntryRepairTestCase):
    """Damage that a read meets."""

    def test_payload(self):
        """The read is refused and says why; only this entry is asked for; the bytes become the others'."""
        town, victim = self.filled_with_victim()
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
        [entry] = decode_entries(victim.log.seed, self.read(town, victim, offset).frames)
        self.assertEqual(entry.index, index)

    def test_header(self):
        """A damaged header is found by the index file to be that of one entry."""
        town, victim = self.filled_with_victim()
        offset = self.sealed(victim)[1].frame_header(3).base_offset
        index = self.flip(victim, 1, 3, at=5)
        self.assertIsInstance(self.read(town, victim, offset).value, UnavailableError)
        self.wait_mended(town, victim.name)
        self.assertEqual([request[2:] for request in self.requests()], [(index, index)])
        self.assert_same(town)


class ScrubTests(EntryRepairTestCase):
    """Damage that nobody reads."""

    def test_found_and_mended(self):
        """The scrubber finds damage on a follower and on the leader; both are mended without a restart."""
        town = self.filled(scrub_rate=MIB)
        leader, victim = town.leader, self.follower(town)
        self.flip(victim, 0, 3)
        self.flip(victim, 1, 2, at=20)
        self.flip(leader, 0, 7)
        self.wait_mended(town, victim.name, leader.name)
        town.until(lambda: all(one.metrics.count("scrub_pass_ended") for one in town.running))
        self.wait_mended(town, victim.name, entries=2)
        self.assert_same(town)
        self.assertIs(town.leader, leader)


class StartTests(EntryRepairTestCase):
    """Damage that a start meets in a sealed segment."""

    def restarted(self, town, victim, damage):
        """Stop a node, damage its disk, start it again; it must not have cut its log."""
        last = victim.store.last_index
        victim.stop()
        damage()
        victim.start()
        self.assertGreaterEqual(victim.store.last_index, last)
        self.assertFalse(victim.disk.exists(f"{DIRECTORY}/damage"))
        self.listen(victim)

    def test_last_entry(self):
        """A segment whose last header is damaged ends as the next one's header says; the entry is mended."""
        town, victim = self.filled_with_victim()
        segment = self.sealed(victim)[1]
        end, timestamp = segment.end, segment.newest_timestamp
        position = self.place(victim, 1, end.count - 1)
        self.restarted(town, victim, lambda: victim.disk.flip(segment.path, 8 * position + 77))
        opened = victim.store.sealed_segment(segment.base_index)
        self.assertEqual(opened.end.next_offset, end.next_offset)
        self.assertGreater(opened.end.position, end.position)
        self.wait_mended(town, victim.name)
        self.assertEqual((opened.end, opened.newest_timestamp), (end, timestamp))
        self.assertEqual(
            [request[2:] for request in self.requests()], [(segment.last_index, segment.last_index)]
        )
        self.assert_same(town)

    def test_without_an_index(self):
        """With neither header nor index, everything from the damage to the segment's end is got back."""
        town, victim = self.filled_with_victim()
        segment = self.sealed(victim)[1]
        position = self.place(victim, 1, 6)

        def damage():
            victim.disk.unlink(segment.index_path)
            victim.disk.flip(segment.path, 8 * position + 77)

        self.restarted(town, victim, damage)
        self.wait_mended(town, victim.name, entries=segment.end.count - 6)
        self.assert_same(town)
        entries = victim.disk.content(segment.index_path)
        self.assertEqual(len(entries), INDEX_ENTRY_SIZE * segment.end.count)


class OthersTests(EntryRepairTestCase):
    """What the other members have to do with it."""

    def test_nobody_reachable(self):
        """While nobody answers, the node serves the rest and asks again, saying so once; then it mends."""
        town, victim = self.filled_with_victim()
        index = self.flip(victim, 1, 4)
        offset = self.sealed(victim)[1].frame_header(4).base_offset
        town.cut(victim.name)
        told = self.told("no other member gives")
        for _ in range(2):
            self.assertIsInstance(self.read(town, victim, offset).value, UnavailableError)
            self.assertNotIsInstance(self.read(town, victim, offset + 1), Failure)
            town.advance(12)
        self.assertEqual((len(told), repair_of(victim).mended), (1, 0))
        town.heal()
        self.wait_mended(town, victim.name, seconds_max=30.0)
        town.until(lambda: town.leader)
        self.assert_same(town)
        self.assertEqual({request[2:] for request in self.requests()}, {(index, index)})

    def told(self, text: str) -> list:
        """Collect what is logged with this text in it."""
        found: list = []

        def observe(event):
            if text in event.get("log_format", ""):
                found.append(event)

        globalLogPublisher.addObserver(observe)
        self.addCleanup(globalLogPublisher.removeObserver, observe)
        return found

    def test_silent_member(self):
        """A member that does not answer is given up, and the next one asked."""
        town = self.filled()
        victim, silent = self.follower(town, 0), self.follower(town, 1)
        repair_of(silent).serve = lambda *_: None
        for number in (3, 5, 6):
            self.flip(victim, 1, number)
        victim.replica.damage_found(self.sealed(victim)[1].damage(0, "told"))
        self.wait_mended(town, victim.name, entries=3)
        self.assertIn(silent.name, {request[1] for request in self.requests()})
        self.assert_same(town)

    def test_not_known_to_be_committed(self):
        """What may not be committed is nobody's to give: it waits until it is known to be."""
        town, victim = self.filled_with_victim()
        index = self.flip(victim, 1, 4)
        self.know_committed(victim, index - 1)
        victim.replica.damage_found(self.sealed(victim)[1].damage(0, "told"))
        town.advance(5)
        self.assertEqual((self.requests(), repair_of(victim).pending), ([], 1))
        self.know_committed(victim, index)
        self.wait_mended(town, victim.name)
        self.assert_same(town)

    def test_two_of_three(self):
        """Two nodes damaged at different places, one of them the leader, mend each other."""
        town = self.filled(scrub_rate=MIB)
        leader, victim = town.leader, self.follower(town)
        for number in (1, 4, 6):
            self.flip(victim, 1, number)
            self.flip(leader, 1, number + 1, at=30)
        self.flip(leader, 0, 3)
        self.wait_mended(town, victim.name, entries=3)
        self.wait_mended(town, leader.name, entries=4)
        self.assert_same(town)
        self.assertIs(town.leader, leader)

    def test_same_entry_on_two(self):
        """The third member has it; who is asked in vain says so and learns of its own damage."""
        town = self.filled()
        one, other = self.follower(town, 0), self.follower(town, 1)
        self.flip(one, 1, 4)
        self.flip(other, 1, 4, at=20)
        offset = self.sealed(one)[1].frame_header(4).base_offset
        told = self.told("repaired at byte")
        self.assertIsInstance(self.read(town, one, offset).value, UnavailableError)
        self.wait_mended(town, one.name)
        if not repair_of(other).mended:  # it was not asked
            self.read(town, other, offset)
            self.wait_mended(town, other.name)
        self.assert_same(town)
        self.assertEqual(len(told), 2)

    def test_same_entry_on_all(self):
        """An entry that nobody has any more stays damaged; everybody goes on, and never serves it."""
        town = self.filled(scrub_rate=MIB)
        for resident in town.running:
            self.flip(resident, 1, 4)
        offset = self.sealed(town.leader)[1].frame_header(4).base_offset
        town.until(lambda: all(repair_of(one).pending for one in town.running))
        town.advance(12)
        for resident in town.running:
            self.assertIsInstance(self.read(town, resident, offset).value, UnavailableError)
            self.assertNotIsInstance(self.read(town, resident, offset + 1), Failure)
            self.assertEqual(resident.failures, [])
        self.result(town, town.leader.propose())

    def test_catching_up_from_a_damaged_leader(self):
        """A leader sends no damaged entry: the new member waits until the third mended the leader's."""
        town = self.filled()
        for resident in town.running:
            resident.stop()
        for resident in town.residents.values():
            resident.start()
            self.listen(resident)
        town.until(lambda: town.leader)
        leader, third = town.leader, self.follower(town, 0)
        newcomer = self.follower(town, 1)
        self.flip(leader, 1, 5)
        self.flip(leader, 1, 7, at=20)
        newcomer.crash()
        newcomer.wipe()
        newcomer.start()
        town.until(lambda: committed_of(newcomer) >= leader.store.last_index, 120)
        self.assertIs(town.leader, leader)
        self.wait_mended(town, leader.name, entries=2)
        self.assertEqual({request[:1] for request in self.requests()}, {(leader.name,)})
        self.assertIn(third.name, {request[1] for request in self.requests()})
        self.assert_same(town)


class LyingTests(EntryRepairTestCase):
    """Answers, disks and segments that are not what they should be."""

    def lie(self, resident, answer) -> None:
        """Let a node answer with other frames; `answer(log, request)` makes them."""
        entry_repair = repair_of(resident)

        def serve(source, request):
            frames = answer(resident.store, request)
            resident.replica.damage_control.send_to(
                source, EntriesReply(request_id=request.request_id, frames=frames)
            )

        entry_repair.serve = serve

    def another(self, log, request) -> bytes:
        """The entry behind the one that was asked for."""
        [entry] = log.entries(request.first_index + 1, request.first_index + 2, MIB)
        return entry.frame

    def test_other_entries(self):
        """A good entry of another index is refused, and the next member is asked."""
        town = self.filled()
        victim, liar = self.follower(town, 0), self.follower(town, 1)
        self.lie(liar, self.another)
        for number in (3, 5, 6):  # whose turn it is to be asked first goes round
            self.flip(victim, 1, number)
        victim.replica.damage_found(self.sealed(victim)[1].damage(0, "told"))
        self.wait_mended(town, victim.name, entries=3)
        self.assertIn(liar.name, {request[1] for request in self.requests()})
        self.assert_same(town)

    def test_nobody_has_what_fits(self):
        """When what all give does not fit, more is wrong here: the node ends, to be cut and refilled."""
        town, victim = self.filled_with_victim()
        for other in town.running:
            if other is not victim:
                self.lie(other, self.another)
        self.flip(victim, 1, 3)
        before = self.sealed_bytes(victim)
        victim.replica.damage_found(self.sealed(victim)[1].damage(0, "told"))
        town.until(lambda: victim.failures)
        self.assertTrue(victim.failures.pop().check(DamageError))
        self.assertEqual(self.sealed_bytes(victim), before)
        self.assertTrue(victim.disk.exists(f"{DIRECTORY}/damage"))
        victim.crash()
        victim.start()
        self.assertLess(victim.store.last_index, self.sealed(town.leader)[1].last_index)
        town.until(lambda: victim.driver and victim.driver.raft.damage is None)

    def test_disk_that_keeps_nothing(self):
        """A place that does not keep what is written is tried a few times; then the node ends."""
        town, victim = self.filled_with_victim()
        index = self.flip(victim, 1, 3)
        written = victim.disk.pwritev

        def pwritev(fd, buffers, position):
            if victim.disk._opened(fd)[1] != self.sealed(victim)[1].path:
                written(fd, buffers, position)

        with patch.object(victim.disk, "pwritev", pwritev):
            victim.replica.damage_found(self.sealed(victim)[1].damage(0, "told"))
            town.until(lambda: victim.failures, 1.0)
        self.assertTrue(victim.failures.pop().check(DamageError))
        self.assertEqual([request[2] for request in self.requests()], [index] * entry_repair.ATTEMPTS_MAX)
        victim.crash()

    def test_damage_that_is_not_there(self):
        """A segment that is said to be damaged again and again, and is whole, ends the node like before."""
        town, victim = self.filled_with_victim()
        for _ in range(entry_repair.ATTEMPTS_MAX):
            self.assertEqual(victim.failures, [])
            victim.replica.damage_found(self.sealed(victim)[1].damage(0, "told"))
            town.until(lambda: not repair_of(victim).pending)
        victim.replica.damage_found(self.sealed(victim)[1].damage(0, "told"))
        town.until(lambda: victim.failures)
        victim.failures.clear()
        victim.crash()

    def test_segment_that_cannot_be_opened(self):
        """Too many open files, or the like, is no end: it is tried again."""
        town, victim = self.filled_with_victim()
        self.flip(victim, 1, 3)
        path, opened = self.sealed(victim)[1].path, victim.disk.open

        def refuse(wanted, *, write=False):
            if wanted == path:
                raise disk_error(errno.EMFILE)
            return opened(wanted, write=write)

        with patch.object(victim.disk, "open", refuse):
            victim.replica.damage_found(self.sealed(victim)[1].damage(0, "told"))
            town.advance(3)
        self.assertEqual((victim.failures, repair_of(victim).pending), ([], 1))
        self.wait_mended(town, victim.name)
        self.assert_same(town)

    def test_segment_that_is_gone(self):
        """A store that somebody removed is nothing to be mended in place: the node ends, to be refilled."""
        town, victim = self.filled_with_victim()
        segment = self.sealed(victim)[1]
        victim.disk.unlink(segment.path)
        victim.replica.damage_found(segment.damage(0, "told"))
        town.until(lambda: victim.failures)
        self.assertTrue(victim.failures.pop().check(DamageError))
        victim.crash()

    def test_in_parts(self):
        """More than fits one answer is mended part by part."""
        self.patch(entry_repair, "MEND_SIZE_MAX", 2 * RECORD_SIZE + 500)
        town, victim = self.filled_with_victim()
        first, behind = self.place(victim, 1, 2), self.place(victim, 1, 8)
        store = victim.disk._file(self.sealed(victim)[1].path)
        for image in (store.seen, store.durable):
            image.write(first, bytes(behind - first))
        victim.replica.damage_found(self.sealed(victim)[1].damage(0, "told"))
        self.wait_mended(town, victim.name, entries=6)
        base = self.sealed(victim)[1].base_index
        self.assertEqual(
            [request[2:] for request in self.requests()], [(base + n, base + 7) for n in (2, 4, 6)]
        )
        self.assert_same(town)


class ServingTests(EntryRepairTestCase):
    """What a node gives to others."""

    def ask(self, town, target, first: int, last: int) -> bytes | None:
        """Ask a node as another one does; return the frames of its answer."""
        source = next(one for one in town.running if one is not target)
        asked = len(self.asked)
        request = EntriesRequest(request_id=77, first_index=first, last_index=last)
        assert source.replica.damage_control.send_to(target.name, request)
        town.advance(1)
        answers = [m for _, name, m in self.asked[asked:] if name == source.name and m.request_id == 77]
        return bytes(answers[0].frames) if answers else None

    def test_committed_entries(self):
        """Whole frames from the first one on, none behind the last one, within the bound."""
        town = self.filled()
        log = town.leader.store
        entries = list(decode_entries(log.seed, self.ask(town, town.leader, 3, 5)))
        self.assertEqual([entry.index for entry in entries], [3, 4, 5])
        self.patch(entry_repair, "MEND_SIZE_MAX", 1)
        [entry] = decode_entries(log.seed, self.ask(town, town.leader, 12, 15))
        self.assertEqual(entry.index, 12)

    def test_not_committed(self):
        """What is not known to be committed, or not held, is not given."""
        town = self.filled()
        leader = town.leader
        last = leader.store.last_index
        self.assertEqual(self.ask(town, leader, last, last + 1), b"")
        self.know_committed(leader, last - 2)
        self.assertEqual(self.ask(town, leader, last - 1, last - 1), b"")
        self.assertNotEqual(self.ask(town, leader, last - 2, last - 2), b"")

    def test_damaged_here(self):
        """Damaged bytes are not given; the node mends its own."""
        town = self.filled()
        index = self.flip(town.leader, 1, 4)
        self.assertEqual(self.ask(town, town.leader, index, index), b"")
        self.wait_mended(town, town.leader.name)
        self.assertNotEqual(self.ask(town, town.leader, index, index), b"")
        self.assert_same(town)

    def test_bounded(self):
        """More requests at a time than are served are dropped."""
        self.patch(entry_repair, "ENTRIES_SERVED_MAX", 0)
        town = self.filled()
        self.assertIsNone(self.ask(town, town.leader, 3, 5))

    def test_unasked_answer(self):
        """An answer that nobody asked for, or of another node than was asked, changes nothing."""
        town, victim = self.filled_with_victim()
        before = victim.disk.contents()
        self.flip(victim, 1, 3)
        for other in town.running:
            if other is not victim:
                repair_of(other).serve = lambda *_: None
        victim.replica.damage_found(self.sealed(victim)[1].damage(0, "told"))
        town.until(lambda: repair_of(victim)._asked)
        asked = repair_of(victim)._asked
        frames = self.ask_log(town.leader, asked.job.exam.damage)
        for source, request_id in ((asked.name, asked.request_id + 1), ("somebody", asked.request_id)):
            repair_of(victim).reply_received(source, EntriesReply(request_id=request_id, frames=frames))
            self.assertIs(repair_of(victim)._asked, asked)
        self.assertEqual(repair_of(victim).mended, 0)
        self.assertNotEqual(victim.disk.contents(), before)
        repair_of(victim).reply_received(asked.name, EntriesReply(request_id=asked.request_id, frames=frames))
        self.wait_mended(town, victim.name)
        self.assert_same(town)

    def ask_log(self, resident, damage) -> bytes:
        entries = resident.store.entries(damage.first_index, damage.last_index + 1, MIB)
        return b"".join(entry.frame for entry in entries)
