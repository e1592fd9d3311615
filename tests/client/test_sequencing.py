"""Exactly once, in order: case by case, and on random walks against the cluster's own rules."""

import random
import struct

from twisted.trial.unittest import SynchronousTestCase

from loghouse.client import sequencing
from loghouse.client.batching import OutgoingBatch
from loghouse.client.failures import CallFailure, Effect
from loghouse.client.sequencing import STALE_SECONDS, Sequencer
from loghouse.errors import (
    DeadlineError,
    InvalidRequestError,
    LoghouseError,
    OutcomeUnknownError,
    ProtocolError,
    SequenceError,
    UnavailableError,
    UnknownProducerError,
)
from loghouse.protocol.client_messages import Produce
from loghouse.protocol.log_state import LogState, ProducedBatch, ProducerState
from tests.processes import thorough

LOST = CallFailure(error=OutcomeUnknownError("the link broke"), effect=Effect.UNKNOWN, is_link=True)
BUSY = CallFailure(error=UnavailableError("no leader is known"), effect=Effect.NOTHING)
INVALID = CallFailure(error=InvalidRequestError("record", "is too large"), effect=Effect.REFUSED)
DISOWNED = CallFailure(error=UnknownProducerError(5), effect=Effect.REFUSED)


def batch(deadline=100.0):
    made = OutgoingBatch(due_at=0.0, deadline=deadline)
    made.record_count = 1
    return made


class SequencerCase(SynchronousTestCase):
    """A registered producer with room for four batches on their way."""

    def setUp(self):
        self.sequencer = Sequencer(window=4)
        self.sequencer.registered(5)

    def push(self, count, **fields):
        made = [batch(**fields) for _ in range(count)]
        for one in made:
            self.sequencer.push(one)
        return made

    def send(self, now=0.0):
        """Send all that may be sent; return the sequences."""
        sent = []
        while (one := self.sequencer.next_to_send(now)) is not None:
            sent.append(one.sequence)
        return sent

    def acknowledge(self, base_offset=0, now=0.0):
        return self.sequencer.acknowledged(base_offset, 1, now)


class OrderTests(SequencerCase):
    """Sending and acknowledging."""

    def test_window(self):
        """So many are on their way, numbered from 0; each answer makes room for one more."""
        batches = self.push(6)
        self.assertFalse(self.sequencer.has_room)
        self.assertEqual((self.send(), self.sequencer.in_flight), ([0, 1, 2, 3], 4))
        self.assertIs(self.acknowledge(70), batches[0])
        self.assertEqual(batches[0].base_offset, 70)
        self.assertEqual(self.send(), [4])

    def test_needs_an_id(self):
        """Nothing is sent before the producer is registered."""
        sequencer = Sequencer(window=4)
        sequencer.push(batch())
        self.assertEqual((sequencer.needs_id, sequencer.next_to_send(0.0)), (True, None))

    def test_foreign_answers(self):
        """An answer to nothing, or of another size, is not taken."""
        self.assertRaises(ProtocolError, self.acknowledge)
        self.push(1)
        self.send()
        self.assertRaises(ProtocolError, self.sequencer.acknowledged, 0, 2, 0.0)

    def test_sequences_run_out(self):
        """When the numbers end, a new id begins once everything before is acknowledged."""
        self.patch(sequencing, "SEQUENCE_MAX", 2)
        self.push(4)
        self.assertEqual(self.send(), [0, 1, 2])
        for _ in range(3):
            self.assertEqual(self.send(), [])
            self.assertFalse(self.sequencer.needs_id)
            self.acknowledge()
        self.assertEqual(self.send(), [])
        self.assertTrue(self.sequencer.needs_id)
        self.sequencer.registered(6)
        self.assertEqual(self.send(), [0])


class FailureTests(SequencerCase):
    """Broken streams and refusals."""

    def test_lost(self):
        """After a broken stream all that was sent is sent again, under its sequences."""
        self.push(4)
        self.send()
        self.acknowledge()
        for failure in (LOST, BUSY):
            self.assertEqual(self.sequencer.stream_failed(failure, 1.0), [])
            self.assertEqual(self.send(), [1, 2, 3])

    def test_refused_alone(self):
        """A refused batch fails with its error; the next one takes its number."""
        first, _ = self.push(2)
        self.sequencer.next_to_send(0.0)
        self.assertEqual(self.sequencer.stream_failed(INVALID, 1.0), [first])
        self.assertIs(first.error, INVALID.error)
        self.assertEqual((self.sequencer.needs_id, self.send()), (False, [0]))

    def test_refused_before_others(self):
        """What was sent behind a refused batch is sent under a new id: its numbers were seen."""
        first, _, _ = self.push(3)
        self.send()
        self.assertEqual(self.sequencer.stream_failed(INVALID, 1.0), [first])
        self.assertTrue(self.sequencer.needs_id)
        self.sequencer.registered(6)
        self.assertEqual(self.send(), [0, 1])

    def test_refused_after_an_unknown_attempt(self):
        """A batch that may be in the log fails as unknown, and so does what was sent behind it."""
        first, second = self.push(2)
        self.send()
        self.sequencer.stream_failed(LOST, 1.0)
        third = self.push(1)[0]
        self.sequencer.next_to_send(2.0)
        self.assertEqual(self.sequencer.stream_failed(INVALID, 2.0), [first, second])
        for failed in (first, second):
            self.assertIsInstance(failed.error, OutcomeUnknownError)
        self.assertEqual((third.error, self.sequencer.needs_id), (None, True))

    def test_refused_before_anything_was_sent(self):
        """A stream that may not even be opened fails the oldest batch."""
        first, _ = self.push(2)
        self.assertEqual(self.sequencer.stream_failed(INVALID, 1.0), [first])
        self.assertEqual(self.sequencer.stream_failed(LOST, 1.0), [])

    def test_registration_refused(self):
        """Without an id nothing can be sent: all fail."""
        sequencer = Sequencer(window=4)
        batches = [batch(), batch()]
        for one in batches:
            sequencer.push(one)
        self.assertEqual(sequencer.registration_refused(INVALID.error), batches)
        self.assertEqual(len(sequencer), 0)

    def test_evicted(self):
        """An id that the cluster forgot is replaced, when nothing can be in the log under it."""
        self.push(2)
        self.send()
        self.assertEqual(self.sequencer.stream_failed(DISOWNED, 1.0), [])
        self.assertTrue(self.sequencer.needs_id)

    def test_deposed_leader(self):
        """A leader that does not know it is deposed is not believed at once; then nobody can tell."""
        batches = self.push(2)
        self.send()
        self.sequencer.stream_failed(LOST, 1.0)
        gap = CallFailure(error=SequenceError(5, 0, 9), effect=Effect.REFUSED)
        for now in (2.0, 2.0 + STALE_SECONDS - 0.1):
            self.send()
            self.assertEqual(self.sequencer.stream_failed(gap, now), [])
            self.assertFalse(self.sequencer.needs_id)
        self.send()
        self.assertEqual(self.sequencer.stream_failed(gap, 2.0 + STALE_SECONDS), batches)
        self.assertTrue(all(isinstance(one.error, OutcomeUnknownError) for one in batches))


class DeadlineTests(SequencerCase):
    """Time that is over."""

    def test_never_sent(self):
        """What was never sent certainly did not happen; those behind it go on."""
        first, _ = self.push(1, deadline=5.0) + self.push(1, deadline=9.0)
        self.assertEqual(self.sequencer.expire(4.9), [])
        self.assertEqual(self.sequencer.expire(5.0), [first])
        self.assertIsInstance(first.error, DeadlineError)
        self.assertEqual((self.send(), self.sequencer.needs_id), ([0], False))

    def test_on_its_way(self):
        """Of what is on its way nobody knows; an answer that still comes changes nothing for its producer."""
        first, second = self.push(1, deadline=5.0) + self.push(1, deadline=9.0)
        self.send()
        self.assertEqual(self.sequencer.expire(5.0), [first])
        self.assertIsInstance(first.error, OutcomeUnknownError)
        self.assertIs(self.acknowledge(3), first)
        self.assertEqual(first.base_offset, -1)
        self.assertIs(self.acknowledge(4), second)
        self.assertEqual((second.base_offset, self.sequencer.needs_id), (4, False))

    def test_order_needs_the_dead(self):
        """A batch whose time is over is sent again as long as others wait behind it."""
        self.push(1, deadline=5.0)
        self.push(1, deadline=9.0)
        self.send()
        self.sequencer.expire(5.0)
        self.sequencer.stream_failed(LOST, 6.0)
        self.assertEqual(self.send(), [0, 1])

    def test_all_dead(self):
        """When nobody waits for anything any more, the old id is given up."""
        self.push(3, deadline=5.0)
        self.send()
        self.assertEqual(len(self.sequencer.expire(5.0)), 3)
        self.assertEqual((len(self.sequencer), self.sequencer.needs_id), (0, True))

    def test_certainly_refused_until_the_end(self):
        """What was refused each time certainly did not happen, and the last reason is told."""
        first = self.push(1, deadline=5.0)[0]
        self.send()
        self.sequencer.stream_failed(BUSY, 1.0)
        self.assertEqual(self.sequencer.expire(5.0), [first])
        self.assertIsInstance(first.error, DeadlineError)
        self.assertIn("the last problem: no leader is known", str(first.error))

    def test_deadline(self):
        """The next deadline is that of the first batch that somebody waits for."""
        self.assertEqual(self.sequencer.deadline, None)
        self.push(1, deadline=5.0)
        self.push(1, deadline=9.0)
        self.send()
        self.assertEqual(self.sequencer.deadline, 5.0)
        self.sequencer.expire(5.0)
        self.assertEqual(self.sequencer.deadline, 9.0)

    def test_give_up(self):
        """Closing fails everything: what was sent as unknown, the rest as not appended."""
        batches = self.push(6)
        self.send()
        error = UnavailableError("closed")
        self.assertEqual(self.sequencer.give_up(error), batches)
        kinds = [type(one.error) for one in batches]
        self.assertEqual(kinds, [OutcomeUnknownError] * 4 + [UnavailableError] * 2)


class MomentTests(SequencerCase):
    """Exactly when, and what is told."""

    def test_window_is_full(self):
        """There is room for one more as long as fewer than the window are here."""
        for _ in range(4):
            self.assertTrue(self.sequencer.has_room)
            self.push(1)
        self.assertFalse(self.sequencer.has_room)

    def test_largest_sequence(self):
        """The numbers go as far as the wire has room for them."""
        largest = Produce(batch=b"", record_count=1, producer_sequence=sequencing.SEQUENCE_MAX)
        self.assertEqual(Produce.decode(b"".join(largest.encode())), largest)
        too_large = Produce(batch=b"", record_count=1, producer_sequence=sequencing.SEQUENCE_MAX + 1)
        self.assertRaises((struct.error, ValueError, LoghouseError), too_large.encode)

    def test_unsure_at_the_last_sequence(self):
        """While the last number's batch may be on its way, no new id is begun."""
        self.patch(sequencing, "SEQUENCE_MAX", 0)
        first, second = self.push(2)
        self.assertEqual(self.send(), [0])
        self.sequencer.stream_failed(LOST, 1.0)
        self.assertEqual((self.send(), self.sequencer.needs_id), ([0], False))
        self.assertEqual((first.is_unsure, second.sequence), (True, -1))

    def test_progress(self):
        """Progress is when the first of a stream is sent, and when one is acknowledged."""
        self.assertEqual(self.sequencer.progressed_at, 0.0)
        self.push(2)
        for now, progressed in ((7.0, 7.0), (8.0, 7.0)):
            self.sequencer.next_to_send(now)
            self.assertEqual(self.sequencer.progressed_at, progressed)
        self.acknowledge(now=9.0)
        self.assertEqual(self.sequencer.progressed_at, 9.0)

    def test_foreign_answers(self):
        """An error says how many records were sent, none when nothing is on its way."""
        for count, expected in ((0, 0), (1, 1)):
            self.push(count)
            self.send()
            error = self.assertRaises(ProtocolError, self.sequencer.acknowledged, 0, 2, 0.0)
            self.assertEqual(str(error), f"the server acknowledged 2 records where {expected} were sent")

    def test_answer_forgets(self):
        """With an answer the last problem is over, its bytes are let go, and old doubts do not count."""
        gap = CallFailure(error=SequenceError(5, 0, 9), effect=Effect.REFUSED)
        first, second = self.push(2)
        first.payload = second.payload = b"bytes"
        self.send()
        self.sequencer.stream_failed(LOST, 1.0)
        self.send()
        self.assertEqual(self.sequencer.stream_failed(gap, 2.0), [])
        self.assertNotEqual(self.sequencer.problem, "")
        self.send()
        self.acknowledge(3)
        self.assertEqual((self.sequencer.problem, first.payload, second.payload), ("", b"", b"bytes"))
        self.sequencer.stream_failed(LOST, 3.0)
        self.send()
        self.assertEqual(self.sequencer.stream_failed(gap, 8.0), [], "the doubt begins now, not at 2.0")
        self.send()
        self.assertEqual(self.sequencer.stream_failed(gap, 13.0), [second])

    def test_stale_leader(self):
        """A leader that may be deposed is not believed for 5 s, each time anew."""
        gap = CallFailure(error=SequenceError(5, 0, 9), effect=Effect.REFUSED)
        for begin in (10.0, 100.0):
            (one,) = self.push(1)
            self.send()
            self.sequencer.stream_failed(LOST, begin)
            for now, failed in ((begin, []), (begin + 4.999, []), (begin + 5.0, [one])):
                self.send()
                self.assertEqual(self.sequencer.stream_failed(gap, now), failed)
            self.assertIsInstance(one.error, OutcomeUnknownError)
            self.assertIn("an earlier attempt may have been carried out; since then: ", str(one.error))
            self.sequencer.registered(6)

    def test_who_is_unsure(self):
        """After a broken stream all that was sent; after an answer all but the answered one; else none."""
        for failure, unsure in (
            (LOST, [True, True, False]),
            (BUSY, [False, True, False]),
            (CallFailure(error=UnavailableError("away"), effect=Effect.NOTHING, is_link=True), [False] * 3),
        ):
            sequencer = Sequencer(window=4)
            sequencer.registered(5)
            batches = [batch() for _ in range(3)]
            for one in batches:
                sequencer.push(one)
            for _ in range(2):
                sequencer.next_to_send(0.0)
            self.assertEqual(sequencer.stream_failed(failure, 1.0), [])
            self.assertEqual([one.is_unsure for one in batches], unsure)
            self.assertEqual(sequencer.in_flight, 0)

    def test_given_up_stream(self):
        """Of a stream that is given up nobody knows what became of what was on its way; it is sent again."""
        batches = self.push(3)
        self.sequencer.next_to_send(0.0)
        self.sequencer.next_to_send(0.0)
        self.sequencer.stream_closed()
        self.assertEqual([one.is_unsure for one in batches], [True, True, False])
        self.assertEqual((self.sequencer.in_flight, self.send()), (0, [0, 1, 2]))

    def test_new_id(self):
        """Under a new id all begin anew: nothing is on its way, numbered, or unsure."""
        batches = self.push(3)
        self.send()
        self.sequencer.stream_failed(BUSY, 1.0)  # the first certainly not, the others perhaps
        self.send()
        self.assertEqual(self.sequencer.stream_failed(DISOWNED, 2.0), [])
        self.assertEqual([(one.sequence, one.is_unsure) for one in batches], [(-1, False)] * 3)
        self.assertEqual((self.sequencer.in_flight, self.sequencer.producer_id), (0, 0))

    def test_nothing_is_there(self):
        """A refusal when nothing waits fails nothing."""
        self.assertEqual(self.sequencer.stream_failed(INVALID, 1.0), [])
        self.assertEqual(self.sequencer.expire(1.0), [])
        self.assertEqual(self.sequencer.give_up(UnavailableError("closed")), [])

    def test_told_once(self):
        """Who was told that time is over is not told again, whatever becomes of the batch."""
        gap = CallFailure(error=SequenceError(5, 0, 9), effect=Effect.REFUSED)
        for end in (
            lambda: self.sequencer.expire(6.0),
            lambda: self.sequencer.give_up(UnavailableError("closed")),
            lambda: self.sequencer.stream_failed(gap, 9.0) + self.sequencer.stream_failed(gap, 14.0),
        ):
            first, second = self.push(1, deadline=5.0) + self.push(1, deadline=50.0)
            self.send()
            self.assertEqual(self.sequencer.expire(5.0), [first])
            error = first.error
            self.assertNotIn(first, end())
            self.assertIs(first.error, error)
            self.sequencer.give_up(UnavailableError("closed"))
            self.assertIsNotNone(second.error)
            self.sequencer.registered(6)

    def test_texts(self):
        """What nobody knows and what certainly did not happen are told apart."""
        sent, waiting = self.push(1, deadline=5.0) + self.push(1, deadline=5.0)
        self.sequencer.next_to_send(0.0)
        self.assertEqual(self.sequencer.expire(5.0), [sent, waiting])
        self.assertEqual(
            [(type(one.error), str(one.error)) for one in (sent, waiting)],
            [
                (OutcomeUnknownError, "no answer before the deadline"),
                (DeadlineError, "nothing was appended before the deadline"),
            ],
        )

    def test_behind_one_that_did_not_happen(self):
        """While the oldest certainly is not in the log, those sent behind it are not either."""
        first, second, third = self.push(3, deadline=5.0)
        self.sequencer.next_to_send(0.0)
        self.sequencer.next_to_send(0.0)
        self.sequencer.stream_failed(BUSY, 1.0)
        self.assertEqual((first.is_unsure, second.is_unsure), (False, True))
        self.sequencer.expire(5.0)
        self.assertEqual({type(one.error) for one in (first, second, third)}, {DeadlineError})

    def test_behind_one_that_may_have_happened(self):
        """When the oldest may be in the log, so may those sent behind it; what was never sent is not."""
        first, second, third = self.push(3, deadline=5.0)
        self.sequencer.next_to_send(0.0)
        self.sequencer.next_to_send(0.0)
        self.sequencer.stream_failed(LOST, 1.0)
        self.sequencer.expire(5.0)
        kinds = [type(one.error) for one in (first, second, third)]
        self.assertEqual(kinds, [OutcomeUnknownError, OutcomeUnknownError, DeadlineError])

    def test_in_the_order_of_deadlines(self):
        """All whose time is over are told, but those that were told before."""
        batches = [*self.push(1, deadline=1.0), *self.push(2, deadline=2.0), *self.push(1, deadline=9.0)]
        self.send()
        self.assertEqual(self.sequencer.expire(1.0), batches[:1])
        self.assertEqual(self.sequencer.expire(2.0), batches[1:3])

    def test_number_of_the_dead(self):
        """The number of a batch that certainly did not happen is free: under it nothing can be found."""
        dead, alive = self.push(1, deadline=1.0) + self.push(1, deadline=9.0)
        self.sequencer.next_to_send(0.0)
        self.sequencer.stream_failed(BUSY, 0.5)
        self.assertEqual(self.sequencer.expire(1.0), [dead])
        self.assertEqual((self.sequencer.needs_id, self.send(), alive.sequence), (False, [0], 0))

    def test_give_up_ends_all(self):
        """After that nothing is left, on its way or registered."""
        self.push(2)
        self.send()
        self.sequencer.give_up(UnavailableError("closed"))
        self.assertEqual(
            (len(self.sequencer), self.sequencer.in_flight, self.sequencer.needs_id), (0, 0, True)
        )


class Cluster:
    """The log, with the cluster's own rule for producers; and copies that are still on their way."""

    def __init__(self):
        self.state = LogState()
        self.values = []
        self.next_id = 1
        self.under_way = []

    def register(self):
        self.state.producers[self.next_id] = ProducerState("root")
        self.next_id += 1
        return self.next_id - 1

    def append(self, producer_id, sequence, value, is_invalid):
        """Return the offset.

        Raises:
            InvalidRequestError, SequenceError, UnknownProducerError: As the leader does.
        """
        if is_invalid:
            raise InvalidRequestError("record", "is too large")
        found = self.state.find_batch(producer_id, "root", sequence)
        if found is not None:
            return found.base_offset
        self.values.append(value)
        offset = len(self.values) - 1
        self.state.producers[producer_id].batches.append(ProducedBatch(sequence, offset, 1, offset + 1))
        return offset

    def deliver_late(self, rng):
        """Some copies that were lost with their link arrive after all, each link's in its order."""
        for copies in self.under_way:
            while copies and rng.random() < 0.5:
                try:
                    self.append(*copies.pop(0))
                except LoghouseError:
                    copies.clear()
        self.under_way = [copies for copies in self.under_way if copies]


class Walk:
    """A producer at random: broken links before and after the append, refusals, evictions, deadlines."""

    def __init__(self, seed):
        self.rng = random.Random(seed)
        self.cluster = Cluster()
        self.sequencer = Sequencer(window=self.rng.choice([1, 2, 4, 8]))
        self.batches = []
        self.invalid = set()
        self.now = 0.0

    def run(self):
        for _ in range(200):
            self.now += self.rng.random()
            self.step()
        self.cluster.deliver_late(self.rng)

    def step(self):
        rng, sequencer = self.rng, self.sequencer
        while sequencer.has_room and rng.random() < 0.7:
            made = batch()
            # Deadlines never decrease, as in a producer.
            made.deadline = max(self.now + rng.choice([0.5, 3.0, 20.0]), self.last_deadline())
            if rng.random() < 0.03:
                self.invalid.add(id(made))
            self.batches.append(made)
            sequencer.push(made)
        sequencer.expire(self.now)
        if sequencer.needs_id:
            if len(sequencer) and rng.random() < 0.8:
                sequencer.registered(self.cluster.register())
            return
        if rng.random() < 0.02:
            self.cluster.state.producers.pop(sequencer.producer_id, None)  # evicted
        self.stream()
        if rng.random() < 0.5:
            self.cluster.deliver_late(rng)

    def last_deadline(self):
        return self.batches[-1].deadline if self.batches else 0.0

    def stream(self):
        rng, sequencer = self.rng, self.sequencer
        producer_id = sequencer.producer_id
        copies = []
        while (one := sequencer.next_to_send(self.now)) is not None:
            copies.append((producer_id, one.sequence, id(one), id(one) in self.invalid))
            if rng.random() < 0.2:
                break
        fate = rng.choice(["well", "lost", "busy"])
        served = len(copies) if fate == "well" else rng.randrange(len(copies) + 1)
        answers = []
        for copy in copies[:served]:
            try:
                answers.append(self.cluster.append(*copy))
            except LoghouseError as error:
                fate = CallFailure(error=error, effect=Effect.REFUSED)
                break
        heard = rng.randrange(len(answers) + 1) if fate == "lost" else len(answers)
        for offset in answers[:heard]:
            sequencer.acknowledged(offset, 1, self.now)
        if fate == "lost":
            self.cluster.under_way.append(copies[served:])
            sequencer.stream_failed(LOST, self.now)
        elif fate == "busy":
            # Refused by one leader; what came behind it may have been passed on to the next one.
            self.cluster.under_way.append(copies[served + 1 :])
            sequencer.stream_failed(BUSY, self.now)
        elif isinstance(fate, CallFailure):
            sequencer.stream_failed(fate, self.now)

    def problems(self):
        places = {value: offset for offset, value in enumerate(self.cluster.values)}
        if len(places) != len(self.cluster.values):
            yield "a batch is twice in the log"
        acknowledged = [one for one in self.batches if one.base_offset >= 0]
        for one in acknowledged:
            if places.get(id(one)) != one.base_offset:
                yield f"acknowledged at {one.base_offset}, is at {places.get(id(one))}"
        offsets = [one.base_offset for one in acknowledged]
        if offsets != sorted(offsets):
            yield "acknowledged out of the producer's order"
        for one in self.batches:
            if one.error is not None and not isinstance(one.error, OutcomeUnknownError) and id(one) in places:
                yield f"failed with {one.error!r}, but is in the log"


class WalkTests(SynchronousTestCase):
    """Whatever happens, what is acknowledged is in the log once, in order; what certainly failed is not."""

    @thorough
    def test_walks(self):
        """Random walks of broken links, late copies, refusals, evictions and deadlines."""
        seen = {"acknowledged": 0, "unknown": 0, "certain": 0, "ids": 0}
        for seed in range(300):
            walk = Walk(seed)
            walk.run()
            self.assertEqual(list(walk.problems()), [], f"seed {seed}")
            for one in walk.batches:
                seen["acknowledged"] += one.base_offset >= 0
                seen["unknown"] += isinstance(one.error, OutcomeUnknownError)
                seen["certain"] += one.error is not None and not isinstance(one.error, OutcomeUnknownError)
            seen["ids"] += walk.cluster.next_id
        self.assertTrue(all(count > 300 for count in seen.values()), seen)
