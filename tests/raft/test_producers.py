"""Producers of a leader's log: retries, sequences, and how many batches may be in flight."""

from collections import deque
from dataclasses import replace

from twisted.trial.unittest import SynchronousTestCase

from loghouse.errors import (
    ExpectOffsetError,
    ResourceExhaustedError,
    SequenceError,
    SequenceReusedError,
    UnknownProducerError,
)
from loghouse.limits import PRODUCER_BATCHES_MAX, PRODUCERS_MAX
from loghouse.protocol.configuration import encode_producer
from loghouse.protocol.entry import EntryKind, crc32c
from loghouse.protocol.log_state import LogState, ProducedBatch, ProducerState
from loghouse.raft.config import RaftConfig
from loghouse.raft.ready import Proposal
from tests.raft.group import Group, entry
from tests.raft.member import append, commit, leading


class ProducerTests(SynchronousTestCase):
    """The producer table is a function of the log."""

    def producer(self, bench, subject="root"):
        return bench.raft.propose(
            Proposal(kind=EntryKind.PRODUCER, payload=encode_producer(subject)), 0
        ).index

    def batch(self, producer, sequence, **fields):
        fields = {"subject": "root", "record_count": 1, **fields}
        return Proposal(payload=b"x", producer_id=producer, producer_sequence=sequence, **fields)

    def test_retry_waits_for_the_original(self):
        """A retry of an uncommitted batch has the original's place, and appends nothing."""
        bench = leading()
        producer = self.producer(bench)
        first = bench.raft.propose(self.batch(producer, 0, record_count=2), 0)
        again = bench.raft.propose(self.batch(producer, 0, record_count=2), 0)
        self.assertEqual(replace(again, duplicate=False), first)
        self.assertLess(bench.raft.commit_index, again.index)
        commit(bench)
        self.assertEqual(bench.raft.propose(self.batch(producer, 0, record_count=2), 9), again)
        self.assertEqual(again.timestamp, first.timestamp)

    def test_other_records_under_a_sequence_that_is_taken(self):
        """A retry with another count, other bytes or another codec is an error, committed or not."""
        bench = leading()
        producer = self.producer(bench)
        batch = self.batch(producer, 0, record_count=2, attributes=1)
        first = bench.raft.propose(batch, 5)
        others = (
            replace(batch, record_count=1),
            replace(batch, payload=b"y"),
            replace(batch, payload=b"y", payload_crc=crc32c(b"y")),
            replace(batch, attributes=0),
        )
        for write in (lambda: None, lambda: commit(bench)):
            write()
            for other in others:
                with self.assertRaises(SequenceReusedError) as caught:
                    bench.raft.propose(other, 0)
                self.assertEqual((caught.exception.producer_id, caught.exception.sequence), (producer, 0))
            for same in (batch, replace(batch, payload_crc=crc32c(b"x"))):
                again = bench.raft.propose(same, 7)
                self.assertEqual(replace(again, duplicate=False), first)
        self.assertEqual(bench.raft.last_index, first.index)

    def test_a_retry_of_what_is_trimmed(self):
        """Of a batch that is trimmed the count is known, and no more: no time, and no checksum to compare."""
        bench = leading()
        producer = self.producer(bench)
        batch = self.batch(producer, 0, record_count=2)
        first = bench.raft.propose(batch, 5)
        commit(bench)
        self.patch(bench.raft._log._reader, "header_at", lambda index: {}[index])
        bench.raft._log._window, bench.raft._log._ends = [], []
        bench.raft._log._window_first = bench.raft.last_index + 1
        again = bench.raft.propose(replace(batch, payload=b"other"), 9)
        self.assertEqual((again.index, again.term, again.timestamp), (first.index, 0, 0))
        with self.assertRaises(SequenceReusedError):
            bench.raft.propose(replace(batch, record_count=3), 0)

    def test_errors(self):
        """Gaps, forgotten sequences, strangers and unknown ids are refused, and append nothing."""
        bench = leading()
        producer = self.producer(bench)
        bench.raft.propose(self.batch(producer, 0), 0)
        last = bench.raft.last_index
        for error, proposal in [
            (SequenceError, self.batch(producer, 2)),
            (UnknownProducerError, self.batch(producer, 1, subject="nobody")),
            (UnknownProducerError, self.batch(last + 5, 0)),
            (ExpectOffsetError, self.batch(producer, 1, expect_offset=9)),
        ]:
            with self.assertRaises(error):
                bench.raft.propose(proposal, 0)
        self.assertEqual(bench.raft.last_index, last)
        # What is expected is looked at behind what was sent before.
        self.assertTrue(bench.raft.propose(self.batch(producer, 0, expect_offset=9), 0).duplicate)

    def test_sequences_end(self):
        """A sequence does not wrap: behind the last one every other is too old, also 0."""
        state = ProducerState("root", deque([ProducedBatch(2**32 - 1, 0, 1, 2)]))
        log_state = LogState(producers={1: state})
        for sequence in (0, 1, 2**32 - 2):
            with self.assertRaises(SequenceError):
                log_state.find_batch(1, "root", sequence)
        self.assertEqual(log_state.find_batch(1, "root", 2**32 - 1), state.batches[0])

    def test_in_flight_is_bounded(self):
        """64 batches of a producer may be in flight: more would push one out before it is known."""
        bench = leading()
        producer = self.producer(bench)
        commit(bench)
        for sequence in range(PRODUCER_BATCHES_MAX):
            bench.raft.propose(self.batch(producer, sequence), 0)
        behind = range(PRODUCER_BATCHES_MAX, PRODUCER_BATCHES_MAX + 6)
        for sequence in behind:
            with self.assertRaises(ResourceExhaustedError):
                bench.raft.propose(self.batch(producer, sequence), 0)
        commit(bench)
        # There is room now, but not in the middle of what was held back.
        for sequence in behind[1:]:
            with self.assertRaises(ResourceExhaustedError):
                bench.raft.propose(self.batch(producer, sequence), 0)
        for sequence in behind:
            bench.raft.propose(self.batch(producer, sequence), 0)
        with self.assertRaises(SequenceError):
            bench.raft.propose(self.batch(producer, behind[-1] + 2), 0)
        with self.assertRaises(SequenceError):
            bench.raft.propose(self.batch(producer, 0), 0)

    def test_held_back_for_other_reasons(self):
        """Batches behind one for which there was no room are held back, whatever had no room."""
        bench = leading(config=RaftConfig(proposals_max=2))
        producer = self.producer(bench)
        bench.raft.propose(self.batch(producer, 0), 0)
        for sequence in (1, 2, 3):
            with self.assertRaises(ResourceExhaustedError):
                bench.raft.propose(self.batch(producer, sequence), 0)
        commit(bench)
        for error, sequence in ((ResourceExhaustedError, 2), (UnknownProducerError, 2)):
            with self.assertRaises(error):
                subject = "root" if error is ResourceExhaustedError else "nobody"
                bench.raft.propose(self.batch(producer, sequence, subject=subject), 0)
        bench.raft.propose(self.batch(producer, 1), 0)
        with self.assertRaises(SequenceError):
            bench.raft.propose(self.batch(producer, 3), 0)

    def test_eviction_depends_on_the_log(self):
        """The least recently used producer goes when there are too many, on every member alike."""
        group = Group(3, config=RaftConfig(proposals_max=10_000)).settle()
        group.elect(1)
        first = self.producer(group.nodes[1])
        second = self.producer(group.nodes[1])
        group[1].propose(self.batch(first, 0), 0)
        for _ in range(PRODUCERS_MAX - 1):
            self.producer(group.nodes[1])
        group.settle()
        for raft in (group[1], group[2], group[3]):
            self.assertIn(first, raft._log.state.producers)
            self.assertNotIn(second, raft._log.state.producers)
        with self.assertRaises(UnknownProducerError):
            group[1].propose(self.batch(second, 0), 0)

    def test_survives_restart_and_snapshot(self):
        """A producer goes on after a restart of all, and on a member that began with a snapshot."""
        group = Group(3).settle()
        group.elect(1)
        producer = self.producer(group.nodes[1])
        group.settle()
        group.isolate(3)
        first = group.propose(1, producer_id=producer, subject="root")
        group.propose(1)
        for id_ in (1, 2):
            group.start(id_)
        group.nodes[1].log.trim_prefix(first.index + 2)
        group.elect(1)
        group.heal()
        group.tick(3)
        self.assertGreater(group.nodes[3].log.first_index, first.index)
        for id_ in (3, 1):
            group.elect(id_)
            again = group[id_].propose(self.batch(producer, 0), 0)
            self.assertEqual((again.base_offset, again.index, again.duplicate), (0, first.index, True))
        # Its entry is trimmed on this member: committed long ago.
        self.assertEqual(again.term, 0)

    def test_cut_forgets(self):
        """A batch that a newer leader cut was never sent."""
        bench = leading()
        producer = self.producer(bench)
        commit(bench)
        bench.raft.propose(self.batch(producer, 0), 0)
        bench.out()
        bench.hear(2, append(9, producer, 2, [], producer))
        index = bench.raft.last_index
        self.assertEqual(index, producer + 1)
        bench.hear(2, append(9, producer, 2, [entry(index, 9)]))
        self.assertEqual(bench.raft._log.state.producers[producer].next_sequence, 0)
