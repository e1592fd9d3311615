"""A group of one voter writes what Raft would write."""

from twisted.trial.unittest import SynchronousTestCase

from loghouse.errors import ExpectOffsetError, SequenceError, UnknownProducerError
from loghouse.node_api import Proposal
from loghouse.protocol.configuration import Retention, Role, encode_producer
from loghouse.protocol.entry import EntryKind, decode_entry, frame_seed, make_entry
from loghouse.protocol.log_state import LogState, ProducedBatch
from loghouse.solo import Solo

SEED = frame_seed(bytes(16), 1)
DISK = b"d" * 16


def proposal(count: int = 1, **fields) -> Proposal:
    return Proposal(payload=b"\n\x00" * count, record_count=count, **fields)


class SoloTests(SynchronousTestCase):
    """`Solo` assigns index, term and offset, and keeps the replicated state."""

    def started(self, term: int = 1) -> Solo:
        solo = Solo(SEED, LogState(), term)
        solo.first_entries("node-1", DISK, Retention(size_max=5), now=10)
        return solo

    def test_bootstrap(self):
        """An empty log gets a configuration with this node as its one voter, then a no-op."""
        solo = Solo(SEED, LogState(), 1)
        configuration, noop = solo.first_entries("node-1", DISK, Retention(size_max=5), now=10)
        self.assertEqual(
            [(e.index, e.term, e.kind) for e in (configuration, noop)],
            [(1, 1, EntryKind.CONFIGURATION), (2, 1, EntryKind.NOOP)],
        )
        (member,) = solo.state.configuration.members
        self.assertEqual(
            (member.id, member.name, member.disk_uuid, member.role), (1, "node-1", DISK, Role.VOTER)
        )
        self.assertEqual(solo.state.configuration.retention, Retention(size_max=5))

    def test_restart(self):
        """A later start adds only a no-op, in a higher term, and keeps the retention of the log."""
        before = self.started().state
        solo = Solo(SEED, before, 2)
        (noop,) = solo.first_entries("node-1", DISK, Retention(size_max=9), now=10)
        self.assertEqual((noop.index, noop.term, noop.kind), (3, 2, EntryKind.NOOP))
        self.assertEqual(solo.state.configuration.retention, Retention(size_max=5))
        self.assertEqual(before.index, 2, "the state given is not changed")

    def test_offsets_are_dense(self):
        """Offsets follow one another, whatever entries lie between; the frame says the same."""
        solo = self.started()
        first = solo.propose(proposal(3), now=11)
        solo.trim(1, now=11)
        second = solo.propose(proposal(2), now=11)
        self.assertEqual((first.base_offset, first.next_offset, second.base_offset), (0, 3, 3))
        decoded = decode_entry(SEED, second.frame)
        self.assertEqual((decoded.index, decoded.base_offset, decoded.record_count), (5, 3, 2))
        self.assertEqual(solo.state.lowest_offset, 1)

    def test_time_never_goes_back(self):
        """A wall clock that goes back leaves timestamps where they were."""
        solo = self.started()
        times = [solo.propose(proposal(), now=now).timestamp for now in (100, 50, 101)]
        self.assertEqual(times, [100, 100, 101])

    def test_expect_offset(self):
        """`expect_offset` that does not hold is refused with both offsets, and nothing is appended."""
        solo = self.started()
        solo.propose(proposal(2, expect_offset=0), now=11)
        error = self.assertRaises(ExpectOffsetError, solo.propose, proposal(1, expect_offset=1), 11)
        self.assertEqual((error.expected, error.actual), (1, 2))
        self.assertEqual(solo.state.next_offset, 2)

    def test_rewind(self):
        """Entries that were not written are made again from where the log ends, in the same term."""
        solo = self.started()
        before = solo.state.copy()
        first = solo.propose(proposal(2), now=11)
        solo.rewind(before)
        self.assertEqual(solo.propose(proposal(2), now=11), first)

    def test_producer(self):
        """A producer's retry gets its first offsets; a gap and a foreign subject are refused."""
        state = LogState()
        state.apply(
            make_entry(
                SEED, index=1, term=1, kind=EntryKind.PRODUCER, base_offset=0, timestamp=1,
                payload=encode_producer("root"),
            )
        )  # fmt: skip
        solo = Solo(SEED, state, 2)
        send = {"producer_id": 1, "subject": "root"}
        solo.propose(proposal(4, producer_sequence=0, **send), now=11)
        retry = solo.propose(proposal(4, producer_sequence=0, **send), now=12)
        self.assertEqual(retry, ProducedBatch(sequence=0, base_offset=0, record_count=4, index=2))
        self.assertRaises(SequenceError, solo.propose, proposal(1, producer_sequence=2, **send), 12)
        self.assertRaises(
            UnknownProducerError,
            solo.propose,
            proposal(1, producer_id=1, subject="nobody", producer_sequence=1),
            12,
        )
