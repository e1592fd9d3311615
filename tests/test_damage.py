"""What a node does about damage: a lone one refuses or serves the rest, a member gets it from the others."""

from pathlib import Path

from twisted.python.failure import Failure

from loghouse.errors import DamageError, UnavailableError
from loghouse.limits import KIB, MIB
from loghouse.protocol.address_book import AddressBook, Contact, encode_address_book
from loghouse.protocol.entry import EntryKind, decode_entries, make_entry
from loghouse.protocol.raft_messages import (
    AppendEntries,
    AppendEntriesReply,
    Envelope,
    RequestVote,
    RequestVoteReply,
)
from loghouse.raft.ready import Damage, Role
from loghouse.replica import damage
from loghouse.replica.cold_reads import QUIET_SECONDS
from loghouse.storage.files import OsFiles
from loghouse.storage.loss import UNKNOWN_INDEX, Loss
from loghouse.storage.new_cluster import Rewrite
from tests.test_node import NodeTestCase as _NodeTestCase

LEADER = 2
OTHERS = encode_address_book(
    AddressBook(
        incarnation=1,
        contacts=(Contact(name="node-2", disk_uuid=bytes(16), incarnation=1, address="127.0.0.1:1"),),
    )
)


class DamageTests(_NodeTestCase):
    """One node, one flipped bit."""

    def make_log(self, records: int = 12, size: int = 9000) -> None:
        """Write a log of a few segments, and stop; `self.entries` is what it holds."""
        node = self.start(segment_size=32 * KIB)
        for _ in range(records):
            self.append(node, 1, size)
        log = node.log("").replica.log
        self.entries = []
        while len(self.entries) < log.last_index:
            self.entries += log.entries(len(self.entries) + 1, log.last_index + 1, MIB)
        self.stop(node)

    def make_member(self, **log) -> None:
        """Write a log, and an address book that knows another node."""
        self.make_log(**log)
        Path(self.path, "members").write_bytes(OTHERS)

    @property
    def directory(self) -> Path:
        return Path(self.path, "logs", "1")

    def flip(self, number: int, position: int = 4096 + 300) -> None:
        """Flip a bit in the store with this number, counted from the first; -1 is the active one."""
        store = sorted(self.directory.glob("[0-9]*.store"))[number]
        content = bytearray(store.read_bytes())
        content[position] ^= 1
        store.write_bytes(content)

    def begin(self):
        """Start the node with a transport that only remembers."""
        self.sent = []
        node = self.start(segment_size=32 * KIB)
        node.transport = self
        return node

    def kill(self, node) -> None:
        """Let the process be gone."""
        node._directory.close()
        node.running = 0

    def send_raft(self, envelope: Envelope) -> None:
        self.sent.append(envelope)

    def servers(self):
        return ()

    def answers(self, kind):
        found = [envelope.message for envelope in self.sent if isinstance(envelope.message, kind)]
        self.sent.clear()
        return found

    def pass_time(self, node, ticks: int = 60) -> None:
        for _ in range(ticks):
            self.clock.advance(node.options.tick_seconds)
            self.settle()

    def tell(self, node, message) -> None:
        node.log("").receive(Envelope(1, LEADER, node.log("").member_id, message))
        self.settle()

    def refetch(self, node, entries, term: int) -> None:
        """Be the leader that sends these entries."""
        first = entries[0].index
        previous = self.entries[first - 2]
        self.tell(
            node,
            AppendEntries(
                term=term,
                prev_log_index=first - 1,
                prev_log_term=previous.term,
                commit_index=entries[-1].index,
                entries=tuple(entries),
            ),
        )

    def test_lone_node_refuses(self):
        """A lone node does not start on damage, and changes nothing."""
        self.make_log()
        self.flip(-1)
        before = {path: path.read_bytes() for path in self.directory.iterdir()}
        with self.assertRaises(DamageError) as caught:
            self.start(segment_size=32 * KIB)
        self.assertIn("--accept-data-loss", str(caught.exception))
        self.assertEqual({path: path.read_bytes() for path in self.directory.iterdir()}, before)

    def test_member_is_cut_votes_and_waits(self):
        """A member starts before the damage, never stands, and votes for no log shorter than its own."""
        self.make_member()
        self.flip(-1)
        node = self.begin()
        last = self.entries[-1]
        raft = node.log("").driver.raft
        self.assertLess(raft.last_index, last.index)
        self.assertEqual(raft.damage, Damage(last.index, last.term))
        self.pass_time(node)
        self.assertEqual((raft.role, self.sent), (Role.FOLLOWER, []))
        for index, granted in ((last.index - 1, False), (last.index, True)):
            term = raft.term + 1
            self.tell(node, RequestVote(term=term, last_log_index=index, last_log_term=last.term))
            self.assertEqual([reply.granted for reply in self.answers(RequestVoteReply)], [granted])
        self.assertTrue((self.directory / "damage").exists())

    def test_member_without_its_newest_store(self):
        """It votes for no log shorter than its own was; when nothing tells, for none of its terms."""
        self.make_member()
        last = self.entries[-1]
        image = {path: path.read_bytes() for path in self.directory.iterdir() if path.is_file()}
        for is_closed in (True, False):
            for path, content in image.items():
                path.write_bytes(content)
            newest = max(self.directory.glob("[0-9]*.store"))
            newest.unlink()
            if not is_closed:
                (self.directory / "held").unlink()
            node = self.begin()
            raft = node.log("").driver.raft
            self.assertEqual(raft.last_index, int(newest.stem) - 1)
            known = Damage(last.index if is_closed else UNKNOWN_INDEX, raft.term)
            self.assertEqual(raft.damage, known)
            self.pass_time(node)
            self.assertEqual((raft.role, self.sent), (Role.FOLLOWER, []))
            for index, term, granted in (
                (last.index - 1, last.term, False),
                (last.index, last.term, is_closed),
                (last.index, raft.term + 1, True),
            ):
                request = RequestVote(term=raft.term + 1, last_log_index=index, last_log_term=term)
                self.tell(node, request)
                self.assertEqual(
                    [reply.granted for reply in self.answers(RequestVoteReply)], [granted], index
                )
            self.stop(node)
            # The witness stays beside `damage`, so neither can be lost alone.
            (self.directory / "damage").unlink()
            node = self.begin()
            self.assertEqual(node.log("").driver.raft.damage, known)
            self.stop(node)
            (self.directory / "damage").unlink()

    def test_member_refetches(self):
        """It acknowledges only what it has again; with the last of it, it is a full member."""
        self.make_member()
        self.flip(-1)
        node = self.begin()
        log, end, term = (
            node.log("").replica.log,
            node.log("").replica.log.last_index,
            self.entries[-1].term + 1,
        )
        missing = self.entries[end:]
        self.assertGreater(len(missing), 1)
        self.refetch(node, missing[:-1], term)
        self.assertEqual(self.answers(AppendEntriesReply)[-1].index, self.entries[-2].index)
        self.pass_time(node, 1)
        self.assertIsNotNone(node.log("").driver.raft.damage)
        self.refetch(node, missing[-1:], term)
        self.pass_time(node, 1)
        self.assertIsNone(node.log("").driver.raft.damage)
        self.assertFalse((self.directory / "damage").exists())
        found = log.entries(1, 2, MIB)
        while len(found) < log.last_index:
            found += log.entries(len(found) + 1, log.last_index + 1, MIB)
        # Its configuration is that of a lone node, so it goes on with a term of its own behind them.
        self.assertEqual([e.frame for e in found[: len(self.entries)]], [e.frame for e in self.entries])
        self.stop(node)
        self.assertIsNone(self.begin().log("").driver.raft.damage)

    def test_newer_term_repairs_as_well(self):
        """An entry of a newer term at a lower index is more up to date: the repair is done with it."""
        self.make_member()
        self.flip(-1)
        node = self.begin()
        end, last = node.log("").replica.log.last_index, self.entries[-1]
        before = self.entries[end - 1]
        newer = make_entry(
            node.log("").seed,
            index=end + 1,
            term=last.term + 1,
            kind=EntryKind.NOOP,
            base_offset=before.next_offset,
            timestamp=before.timestamp,
            payload=b"",
        )
        self.refetch(node, [newer], last.term + 1)
        self.pass_time(node, 1)
        self.assertIsNone(node.log("").driver.raft.damage)
        self.assertFalse((self.directory / "damage").exists())

    def test_damage_where_the_start_reads(self):
        """A sealed segment's damage that is in the way of the start itself is cut away and refetched."""
        self.make_member(records=10)  # the last one is alone in its segment: what is committed ends before it
        self.flip(-2, 4096 + 20)
        max(self.directory.glob("[0-9]*.state")).unlink()  # else nothing of that segment must be known
        node = self.begin()
        self.assertLess(node.log("").replica.log.last_index, self.entries[-1].index - 2)
        self.assertEqual(node.log("").driver.raft.damage.last_index, self.entries[-1].index)

    def test_lone_node_starts_beside_damage(self):
        """A lone node takes all it has as committed, so the same damage does not stop it."""
        self.make_log(records=10)
        self.flip(-2, 4096 + 20)
        node = self.start(segment_size=32 * KIB)
        self.assertEqual(self.append(node), 10)
        self.successResultOf(self.fetch(node, 0))

    def test_restart_in_the_middle_of_a_repair(self):
        """What it held is remembered over a restart; a file left behind by a crash at the end is removed."""
        self.make_member()
        self.flip(-1)
        node = self.begin()
        missing = self.entries[node.log("").replica.log.last_index :]
        self.refetch(node, missing[:1], self.entries[-1].term + 1)
        self.stop(node)
        node = self.begin()
        self.assertEqual(node.log("").driver.raft.damage.last_index, self.entries[-1].index)
        self.refetch(node, missing[1:], self.entries[-1].term + 1)
        self.stop(node)  # before the next tick: the file is still there
        self.assertTrue((self.directory / "damage").exists())
        node = self.begin()
        self.pass_time(node, 1)
        self.assertFalse((self.directory / "damage").exists())

    def test_damage_at_the_very_beginning(self):
        """Without even its first entry a member waits for the leader; it makes no cluster of its own."""
        self.make_member()
        self.flip(0, 4096 + 70)
        (self.directory / "damage").write_bytes(Loss(len(self.entries), 2).encode(self.seed()))
        node = self.begin()
        self.pass_time(node)
        self.assertEqual((node.log("").replica.log.last_index, node.log("").member_id, self.sent), (0, 0, []))
        self.assertTrue(node.is_in_cluster)

    def seed(self) -> int:
        node = self.start(segment_size=32 * KIB)
        self.stop(node)
        return node.log("").seed

    def read_all(self, node) -> tuple[int, int]:
        """Fetch each record alone; return how many were served, byte for byte, and how many were refused."""
        served = refused = 0
        self.clock.advance(QUIET_SECONDS)  # what the start wrote is not to be given way to
        for offset in range(12):
            outcome = []
            self.fetch(node, offset, KIB).addBoth(outcome.append)
            if isinstance(outcome[0], Failure):
                self.assertTrue(outcome[0].check(DamageError))
                refused += 1
                continue
            served += 1
            for entry in decode_entries(node.log("").seed, outcome[0].frames):
                self.assertEqual(entry.frame, self.entries[entry.index - 1].frame)
        return served, refused

    def test_lone_node_meets_damage(self):
        """A lone node whose read meets damage refuses that read, tells of it once, and serves the rest."""
        self.make_log()
        self.flip(1)
        node = self.start(segment_size=32 * KIB)
        for _ in range(2):
            self.assertEqual(self.read_all(node), (11, 1))
        self.assertEqual((self.fatal, len(node.log("").replica.damage_control._places)), ([], 1))
        self.assertEqual(self.append(node), 12)
        self.assertFalse((self.directory / "damage").exists())

    def test_member_meets_damage(self):
        """A member whose read meets damage in the active segment ends, once; its next start cuts there."""
        self.make_member()
        node = self.begin()
        self.flip(-1)
        self.patch(damage, "has_others", lambda *_: True)  # as a configuration with others says
        last = node.log("").replica.log.last_index
        self.assertEqual(self.read_all(node), (11, 1))
        self.assertEqual(len(self.fatal), 1)
        self.assertTrue(self.fatal[0].check(DamageError))
        text = self.fatal[0].getErrorMessage()
        self.assertIn("start this node again", text)
        self.assertNotIn("accept-data-loss", text, "a restart repairs it")
        self.assertEqual(
            Loss.decode((self.directory / "damage").read_bytes(), node.log("").seed).last_index, last
        )
        self.failureResultOf(self.propose(node), UnavailableError)
        self.kill(node)
        again = self.begin()
        self.assertLess(again.log("").replica.log.last_index, len(self.entries))
        self.assertEqual(again.log("").driver.raft.damage.last_index, last)

    def test_core_meets_damage(self):
        """Damage that the core cannot do without ends the node, which notes it; nothing is sent."""
        self.make_member()
        node = self.begin()
        self.patch(damage, "has_others", lambda *_: True)

        def meet_damage():
            raise DamageError("a.store", 4096, "payload checksum does not match")

        node.log("").driver.raft.ready = meet_damage
        self.pass_time(node, 1)
        self.assertEqual(len(self.fatal), 1)
        self.assertFalse(Loss.decode((self.directory / "damage").read_bytes(), node.log("").seed).is_cut)
        self.assertEqual(self.sent, [])
        self.kill(node)

    def test_disk_that_hangs(self):
        """When the disk does not even answer, the member ends all the same, a little later."""
        self.make_member()
        node = self.begin()
        self.flip(-1)
        self.patch(damage, "has_others", lambda *_: True)
        reads = [node.log("").fetch(offset, KIB) for offset in range(12)]
        self.readers.drain()
        self.assertEqual(len(self.fatal), 0)
        self.clock.advance(damage.NOTE_SECONDS_MAX)
        self.assertEqual(len(self.fatal), 1)
        self.assertEqual(sum(isinstance(read.result, Failure) for read in reads), 1)
        for read in reads:
            read.addErrback(lambda failure: failure.trap(DamageError))
        self.disk.waiting.clear()
        self.kill(node)

    def test_survivor_of_a_new_cluster(self):
        """A node starts on a log that was made a cluster of its own, leads, serves, and takes more."""
        self.make_member()
        uuid = bytes(range(16))
        Rewrite(OsFiles(), self.path, group=1).run(uuid, 1)
        node = self.start(segment_size=32 * KIB)
        self.assertEqual(
            (node.cluster_uuid, node.log("").has_leader, node.is_in_cluster), (uuid, True, False)
        )
        self.clock.advance(QUIET_SECONDS)
        found, offset = [], 0
        while offset < 12:
            fetched = self.successResultOf(self.fetch(node, offset))
            found += [
                entry for entry in decode_entries(node.log("").seed, fetched.frames) if entry.record_count
            ]
            offset = fetched.next_offset
        records = [entry for entry in self.entries if entry.record_count]
        self.assertEqual([entry.frame[4:] for entry in found], [entry.frame[4:] for entry in records])
        self.assertEqual(self.append(node), 12)

    def test_damage_that_cannot_be_noted(self):
        """When the disk refuses even to note the damage, the member ends all the same."""
        self.make_member()
        node = self.begin()
        self.flip(-1)
        self.patch(damage, "has_others", lambda *_: True)

        def refuse(*_):
            raise OSError("dead")

        self.patch(damage, "write_loss", refuse)
        self.read_all(node)
        self.assertEqual(len(self.fatal), 1)
        self.kill(node)
