"""What a leader refuses to append: at which value it begins, which error it is, and what that says."""

from dataclasses import replace

from twisted.trial.unittest import SynchronousTestCase

from loghouse.errors import (
    DiskFullError,
    ExpectOffsetError,
    InvalidRequestError,
    NotLeaderError,
    ResourceExhaustedError,
    SequenceError,
    UnavailableError,
)
from loghouse.limits import PAYLOAD_SIZE_MAX, PRODUCER_BATCHES_MAX
from loghouse.protocol.configuration import (
    encode_birth,
    encode_producer,
    encode_trim,
)
from loghouse.protocol.entry import EntryKind, crc32c
from loghouse.protocol.raft_messages import NoRoom
from loghouse.raft import held_back as held_back_module
from loghouse.raft.config import RaftConfig
from loghouse.raft.held_back import HeldBack, held_back_error
from loghouse.raft.ready import Proposal
from tests.raft.member import RECORD, Bench, commit, heartbeat, holds, leading

NO_RECORDS = "kind: only a records entry has records, a producer or attributes"
TRIM = Proposal(kind=EntryKind.TRIM, payload=encode_trim(0))


class ProposalTests(SynchronousTestCase):
    """Records and other entries."""

    def refused(self, bench, proposal, error, text):
        last = bench.raft.last_index
        with self.assertRaises(error) as caught:
            bench.raft.propose(proposal, 0)
        self.assertIs(type(caught.exception), error)
        self.assertEqual(str(caught.exception), text)
        self.assertEqual(bench.raft.last_index, last)
        return caught.exception

    def test_shape(self):
        """What can be no entry is refused, naming the field and the problem."""
        bench = leading()
        for proposal, text in [
            (replace(RECORD, record_count=0), "record_count: a batch has at least 1 record"),
            (
                replace(TRIM, record_count=1),
                NO_RECORDS,
            ),
            (
                replace(TRIM, producer_id=1),
                NO_RECORDS,
            ),
            (replace(TRIM, attributes=1), NO_RECORDS),
            (replace(TRIM, payload=encode_trim(1)), "lowest_offset: 1 is beyond the log's end 0"),
            (Proposal(kind=EntryKind.NOOP), "kind: 2 cannot be proposed"),
        ]:
            self.refused(bench, proposal, InvalidRequestError, text)
        for kind in (EntryKind.TRIM, EntryKind.PRODUCER, EntryKind.BIRTH):
            with self.assertRaisesRegex(InvalidRequestError, "^payload: (trim|producer|configuration): "):
                bench.raft.propose(Proposal(kind=kind, payload=b"\x09"), 0)

    def test_second_birth(self):
        """A log brings one group into being, from the moment on at which that is committed."""
        bench = leading()
        birth = Proposal(kind=EntryKind.BIRTH, payload=encode_birth(2, bench.raft.configuration))
        ticket = bench.raft.propose(birth, 0)
        self.assertIsNone(bench.raft.birth)
        self.refused(bench, birth, InvalidRequestError, "group: 2: a log brings one group into being")
        commit(bench)
        assert bench.raft.birth is not None
        self.assertEqual((bench.raft.birth.group, bench.raft.birth.index), (2, ticket.index))

    def test_trim_to_the_end(self):
        """All records may be trimmed, none that is not there yet."""
        bench = leading()
        bench.raft.propose(replace(RECORD, record_count=3), 0)
        bench.raft.propose(replace(TRIM, payload=encode_trim(3)), 0)
        beyond = replace(TRIM, payload=encode_trim(4))
        self.refused(bench, beyond, InvalidRequestError, "lowest_offset: 4 is beyond the log's end 3")

    def test_largest_payload(self):
        """A payload of PAYLOAD_SIZE_MAX is taken, one byte more is not."""
        bench = leading()
        largest = replace(RECORD, payload=bytes(PAYLOAD_SIZE_MAX))
        self.assertEqual(bench.raft.propose(largest, 0).index, 3)
        more = replace(RECORD, payload=bytes(PAYLOAD_SIZE_MAX + 1))
        text = f"payload: has {PAYLOAD_SIZE_MAX + 1} bytes; at most {PAYLOAD_SIZE_MAX} are allowed"
        self.refused(bench, more, InvalidRequestError, text)

    def test_entries_waiting(self):
        """So many entries wait to be committed, and no more."""
        bench = leading(config=RaftConfig(proposals_max=2))
        for _ in range(2):
            bench.raft.propose(RECORD, 0)
        text = "proposals: 2 entries wait to be committed"
        self.refused(bench, RECORD, ResourceExhaustedError, text)
        bench.out()
        bench.hear(2, holds(2, 3))
        bench.raft.propose(RECORD, 0)
        self.refused(bench, RECORD, ResourceExhaustedError, text)

    def test_bytes_waiting(self):
        """Bytes that wait, frames included, and a new payload may have the maximum in sum, and no more."""
        for more, is_taken in [(36, True), (37, False)]:
            bench = leading(config=RaftConfig(proposals_size_max=200))
            bench.raft.propose(replace(RECORD, payload=bytes(100)), 0)  # 164 with its header
            proposal = replace(RECORD, payload=bytes(more))
            if is_taken:
                bench.raft.propose(proposal, 0)
            else:
                text = "proposals: 200 bytes wait to be committed"
                self.refused(bench, proposal, ResourceExhaustedError, text)

    def test_expected_offset(self):
        """The next offset must be the one that is expected, to the record."""
        bench = leading()
        bench.raft.propose(replace(RECORD, record_count=5), 0)
        for offset in (0, 4, 6):
            error = self.refused(
                bench,
                replace(RECORD, expect_offset=offset),
                ExpectOffsetError,
                f"expected next offset {offset}, but it is 5; nothing was appended",
            )
            self.assertEqual((error.expected, error.actual), (offset, 5))
        self.assertEqual(bench.raft.propose(replace(RECORD, expect_offset=5), 0).base_offset, 5)
        self.assertEqual(leading().raft.propose(replace(RECORD, expect_offset=0), 0).base_offset, 0)

    def test_who_leads(self):
        """Who does not lead names who does, as far as that is known."""
        bench = Bench()
        text = "not the leader, and no leader is known; try again"
        self.assertIsNone(self.refused(bench, RECORD, NotLeaderError, text).leader)
        bench.hear(3, heartbeat(2))
        self.assertEqual(self.refused(bench, RECORD, NotLeaderError, "not the leader; ask n3").leader, "n3")
        bench.hear(9, heartbeat(4))
        self.assertIsNone(self.refused(bench, RECORD, NotLeaderError, text).leader)
        with self.assertRaises(NotLeaderError):
            bench.raft.transfer_leadership(1)

    def test_hand_over(self):
        """Nothing is appended while leadership is being handed over."""
        bench = leading()
        bench.raft.transfer_leadership(2)
        text = "leadership is being handed over; try again in a moment"
        self.refused(bench, RECORD, UnavailableError, text)
        with self.assertRaises(UnavailableError):
            bench.raft.propose_configuration(bench.raft.configuration, 0)

    def test_full_disks(self):
        """Records that no majority has room for are refused; what makes room is taken."""
        bench = leading()
        for other in (2, 3):
            bench.hear(other, NoRoom(term=2))
        bench.tick()
        text = "no space left under the data directories of n2, n3; free some, appends resume by themselves"
        self.refused(bench, RECORD, DiskFullError, f"disk: {text}")
        bench.raft.propose(TRIM, 0)
        bench.raft.propose(Proposal(kind=EntryKind.PRODUCER, payload=encode_producer("root")), 0)

    def test_ticket(self):
        """Where it went is told whole, and each field of the entry is what was proposed."""
        bench = leading()
        bench.raft.propose(replace(RECORD, record_count=4), 20)
        producer = bench.raft.propose(Proposal(kind=EntryKind.PRODUCER, payload=encode_producer("me")), 30)
        self.assertEqual(producer.record_count, 0)
        batch = Proposal(
            payload=b"abc",
            record_count=2,
            attributes=1,
            producer_id=producer.index,
            producer_sequence=0,
            subject="me",
        )
        ticket = bench.raft.propose(batch, 40)
        found = (ticket.index, ticket.term, ticket.base_offset, ticket.record_count, ticket.timestamp)
        self.assertEqual((*found, ticket.duplicate), (5, 2, 4, 2, 40, False))
        bench.out()
        entry = bench.readies[-1].entries[-1]
        self.assertEqual((entry.index, entry.term, entry.kind), (5, 2, EntryKind.RECORDS))
        self.assertEqual(entry.payload, b"abc")
        self.assertEqual((entry.attributes, entry.record_count, entry.base_offset), (1, 2, 4))
        self.assertEqual((entry.producer_id, entry.producer_sequence, entry.timestamp), (4, 0, 40))
        self.assertEqual(entry.payload_crc, crc32c(b"abc"))

    def test_given_checksum(self):
        """A checksum that came with the payload is kept, right or wrong: readers find what was damaged."""
        bench = leading()
        bench.raft.propose(replace(RECORD, payload_crc=7), 0)
        bench.out()
        self.assertEqual(bench.readies[-1].entries[0].payload_crc, 7)


class ProducerTests(SynchronousTestCase):
    """Batches of producers."""

    def make(self, **fields):
        bench = leading(**fields)
        ticket = bench.raft.propose(Proposal(kind=EntryKind.PRODUCER, payload=encode_producer("me")), 0)
        commit(bench)
        return bench, replace(RECORD, producer_id=ticket.index, subject="me")

    def test_duplicate(self):
        """A retry gets the original's ticket, marked; it needs no room."""
        bench, batch = self.make(config=RaftConfig(proposals_max=1))
        first = bench.raft.propose(batch, 50)
        again = bench.raft.propose(batch, 60)
        self.assertEqual(again, replace(first, duplicate=True))
        self.assertEqual((again.term, again.timestamp, again.record_count), (2, 50, 1))

    def test_in_flight(self):
        """PRODUCER_BATCHES_MAX batches wait, not one more, until the oldest is committed."""
        bench, batch = self.make()
        for sequence in range(PRODUCER_BATCHES_MAX):
            bench.raft.propose(replace(batch, producer_sequence=sequence), 0)
        following = replace(batch, producer_sequence=PRODUCER_BATCHES_MAX)
        with self.assertRaises(ResourceExhaustedError) as caught:
            bench.raft.propose(following, 0)
        self.assertEqual(caught.exception.resource, f"producer {batch.producer_id}")
        self.assertEqual(
            caught.exception.limit, f"{PRODUCER_BATCHES_MAX} batches are in flight; wait for the oldest"
        )
        bench.out()
        oldest = bench.raft.last_index - PRODUCER_BATCHES_MAX + 1
        bench.hear(2, holds(2, oldest))
        bench.raft.propose(following, 0)

    def test_behind_one_held_back(self):
        """Those behind a batch that was refused are refused as it was, not called a gap."""
        bench, batch = self.make(config=RaftConfig(proposals_max=1))
        bench.raft.propose(RECORD, 0)
        with self.assertRaises(ResourceExhaustedError):
            bench.raft.propose(batch, 0)
        commit(bench)
        for sequence in (1, 2):
            with self.assertRaises(ResourceExhaustedError) as caught:
                bench.raft.propose(replace(batch, producer_sequence=sequence), 0)
            self.assertEqual(caught.exception.resource, f"producer {batch.producer_id}")
            self.assertEqual(
                caught.exception.limit, "its batch 0 was held back; send it again, and then this one"
            )
        bench.raft.propose(batch, 0)
        with self.assertRaises(SequenceError) as caught:
            bench.raft.propose(replace(batch, producer_sequence=2), 0)
        error = caught.exception
        self.assertEqual((error.producer_id, error.sequence, error.expected), (batch.producer_id, 2, 1))

    def test_a_later_batch_is_not_held_back(self):
        """Only the next batch can be held back: one behind a gap that was never sent is a gap."""
        bench, batch = self.make(config=RaftConfig(proposals_max=1))
        bench.raft.propose(RECORD, 0)
        for _ in range(2):
            with self.assertRaises(SequenceError):
                bench.raft.propose(replace(batch, producer_sequence=1), 0)

    def test_older_than_what_is_remembered(self):
        """A batch older than those remembered is no duplicate, held back or not."""
        bench, batch = self.make()
        for sequence in range(PRODUCER_BATCHES_MAX + 1):
            bench.raft.propose(replace(batch, producer_sequence=sequence), 0)
            commit(bench)
        with self.assertRaises(SequenceError):
            bench.raft.propose(batch, 0)
        bench.raft._held_back.note(batch.producer_id, PRODUCER_BATCHES_MAX + 1)
        with self.assertRaises(SequenceError):
            bench.raft.propose(batch, 0)
        self.assertTrue(bench.raft.propose(replace(batch, producer_sequence=1), 0).duplicate)


class HeldBackTests(SynchronousTestCase):
    """`HeldBack`, the memory of it."""

    def test_last_one_counts(self):
        """The batch held back last is remembered, until it is forgotten or its time is over."""
        held = HeldBack()
        self.assertIsNone(held.sequence_of(1))
        held.note(1, 7)
        held.note(1, 5)
        held.note(2, 9, until=10.0)
        self.assertEqual((held.sequence_of(1), held.sequence_of(1, 1e12)), (5, 5))
        self.assertEqual([held.sequence_of(2, now) for now in (0.0, 9.9, 10.0, 11.0)], [9, 9, None, None])
        held.forget(1)
        held.forget(1)
        self.assertIsNone(held.sequence_of(1))

    def test_bounded(self):
        """Of too many the one noted longest ago goes."""
        self.patch(held_back_module, "PRODUCERS_MAX", 3)
        held = HeldBack()
        for producer in (1, 2, 3, 1, 4):
            held.note(producer, producer * 10)
        self.assertEqual([held.sequence_of(id_) for id_ in (1, 2, 3, 4)], [10, None, 30, 40])

    def test_error(self):
        """Its refusal names the producer, and the batch to send first."""
        error = held_back_error(7, 3)
        self.assertEqual(error.resource, "producer 7")
        self.assertEqual(error.limit, "its batch 3 was held back; send it again, and then this one")
