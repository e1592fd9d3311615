"""Small batches share entries, keep their order, and get their own offsets."""

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from loghouse.api.v1.log_pb2 import Record, RecordBatch
from loghouse.errors import UnavailableError
from loghouse.limits import JOINED_SIZE_MAX, RECORDS_PER_BATCH_MAX, SHARE_SIZE_MAX
from loghouse.protocol.batch import encode_batch
from loghouse.protocol.entry import crc32c, decode_entries
from loghouse.replica.coalescing import (
    CALLERS_FORGOTTEN,
    LINGER_CALLERS_MIN,
    LINGER_SECONDS_MAX,
    LINGER_SECONDS_PER_CALLER,
    Coalescer,
    may_share,
)
from tests.fakes.node import FakeNode


class Batch:
    """A `Share` that notes its outcome."""

    payload_crc = None

    def __init__(self, *values, payload=None):
        self.payload = encode_batch([Record(value=value) for value in values]) if payload is None else payload
        self.record_count = len(values)
        self.is_wanted = True
        self.offset = self.error = None

    def appended(self, base_offset, timestamp):
        assert self.is_wanted
        self.is_wanted = False
        self.offset, self.timestamp = base_offset, timestamp

    def failed(self, error):
        assert self.is_wanted
        self.is_wanted = False
        self.error = error


class CoalescerTests(SynchronousTestCase):
    """`Coalescer` over a node in memory."""

    def setUp(self):
        self.node = FakeNode()
        self.settled = 0
        self.soon = []
        self.coalescer = Coalescer(self.propose, self.soon.append, self.note_settled)

    def end_turn(self):
        """Ask for the turn's end, and let it come: this one and those it brings about."""
        self.coalescer.flush_soon()
        while self.soon:
            self.soon.pop(0)()

    def release(self, count=None):
        """Let entries be durable, and the turn in which that happens end."""
        self.node.release(count)
        self.end_turn()

    def propose(self, *arguments):
        return self.node.propose(*arguments)

    def note_settled(self):
        self.settled += 1

    def add(self, *values, subject="root", payload=None):
        batch = Batch(*values, payload=payload)
        self.coalescer.add(subject, batch)
        return batch

    def go(self, batch):
        """What a door does whose calls come one by one."""
        self.coalescer.submit("root", batch)

    def values(self):
        """The values of each proposal's records."""
        return [[r.value for r in RecordBatch.FromString(p.payload).records] for p in self.node.proposals]

    def test_one_turn_one_entry(self):
        """Batches of one turn become one entry, in their order, and each gets its own offset."""
        batches = [self.add(b"a"), self.add(b"b", b"c"), self.add(b"d")]
        self.assertEqual(self.node.proposals, [])
        self.end_turn()
        self.assertEqual(self.values(), [[b"a", b"b", b"c", b"d"]])
        [proposal] = self.node.proposals
        self.assertEqual((proposal.record_count, proposal.payload_crc), (4, None))
        self.assertEqual([batch.offset for batch in batches], [0, 1, 3])
        self.assertEqual({batch.timestamp for batch in batches}, {self.node.entries[-1].timestamp})
        self.assertEqual(self.settled, 1)

    def test_one_by_one(self):
        """A batch that comes alone goes at once; behind an entry under way they gather, in their order."""
        self.node.hold()
        batches = [Batch(b"%d" % number) for number in range(4)]
        for batch in batches[:3]:
            self.go(batch)
        self.assertEqual(self.values(), [[b"0"]])
        self.node.release(1)
        self.go(batches[3])
        self.assertEqual(self.values(), [[b"0"]], "the turn is not at its end yet")
        self.release()
        self.assertEqual(self.values(), [[b"0"], [b"1", b"2", b"3"]])
        self.assertEqual([batch.offset for batch in batches], [0, 1, 2, 3])

    def test_a_large_one_alone(self):
        """It goes at once, too, and small ones behind it have nothing to wait for."""
        self.node.hold()
        self.go(Batch(b"l" * (SHARE_SIZE_MAX + 1)))
        self.go(Batch(b"small"))
        self.assertEqual([len(values[0]) for values in self.values()], [SHARE_SIZE_MAX + 1, 5])

    def test_idle_or_soon(self):
        """When nothing is under way a batch can go at once; behind an entry's end it waits for the turn's."""
        self.node.hold()
        self.go(Batch(b"0"))
        self.assertEqual(self.values(), [[b"0"]])
        self.go(Batch(b"1"))
        self.node.release(1)
        self.go(Batch(b"2"))
        self.coalescer.flush_soon()
        self.assertEqual((len(self.node.proposals), len(self.soon)), (1, 1))
        self.end_turn()
        self.assertEqual(self.values(), [[b"0"], [b"1", b"2"]])
        self.release()

    def test_who_may_share(self):
        """Only a plain batch may: no codec, no producer, no expected offset."""
        plain = {"attributes": 0, "producer_id": 0, "expect_offset": None}
        self.assertTrue(may_share(**plain))
        for other in ({"attributes": 1}, {"producer_id": 1}, {"expect_offset": 0}):
            self.assertFalse(may_share(**(plain | other)), other)

    def test_alone_as_it_came(self):
        """A batch that finds no company is proposed as its maker's bytes, with its maker's checksum."""
        batch = Batch(b"a", b"b")
        batch.payload_crc = crc32c(batch.payload)
        self.coalescer.add("root", batch)
        self.end_turn()
        [proposal] = self.node.proposals
        self.assertIs(proposal.payload, batch.payload)
        self.assertEqual(proposal.payload_crc, batch.payload_crc)

    def test_joined_checksum(self):
        """A joined entry's checksum is computed over all of it: none of its batches' own."""
        batches = [Batch(b"a"), Batch(b"b")]
        for batch in batches:
            batch.payload_crc = crc32c(batch.payload)
            self.coalescer.add("root", batch)
        self.end_turn()
        self.assertIsNone(self.node.proposals[0].payload_crc)
        [entry] = decode_entries(self.node.seed, self.node.entries[0].frame)
        self.assertEqual(entry.record_count, 2)

    def test_subjects_do_not_share(self):
        """Each subject's batches are proposed in its name."""
        self.add(b"1", subject="a")
        self.add(b"2", subject="b")
        self.add(b"3", subject="a")
        self.end_turn()
        self.assertEqual([p.subject for p in self.node.proposals], ["a", "b"])
        self.assertEqual(self.values(), [[b"1", b"3"], [b"2"]])

    def test_batches_gather_behind_an_entry_under_way(self):
        """With entries under way, batches of any turn wait for their end, then go together at once."""
        self.node.hold()
        batches = []
        for number in range(20):
            batches.append(self.add(b"%d" % number))
            self.end_turn()
        self.assertEqual(self.node.held_count, 1)
        self.release()
        self.assertEqual([batch.offset for batch in batches], list(range(20)))
        self.assertEqual(len(self.node.proposals), 2)

    def test_two_entries_under_way(self):
        """A door that allows two has the next batches gather behind the second."""
        self.coalescer = Coalescer(self.propose, self.soon.append, self.note_settled, entries_max=2)
        self.node.hold()
        batches = []
        for number in range(20):
            batches.append(self.add(b"%d" % number))
            self.end_turn()
        self.assertEqual([p.record_count for p in self.node.proposals], [1, 1])
        self.release()
        self.assertEqual([p.record_count for p in self.node.proposals], [1, 1, 18])
        self.assertEqual([batch.offset for batch in batches], list(range(20)))

    def test_full_entries_do_not_wait(self):
        """What fills an entry is proposed at once, whatever is under way, behind what came before it."""
        self.node.hold()
        first = self.add(b"first")
        self.end_turn()
        small, large = self.add(b"small"), self.add(b"l" * JOINED_SIZE_MAX)
        last = self.add(b"last")
        self.end_turn()
        self.assertEqual([p.record_count for p in self.node.proposals], [1, 1, 1])
        self.assertEqual([p.payload for p in self.node.proposals[1:]], [small.payload, large.payload])
        self.release(2)
        self.release()
        self.assertEqual([batch.offset for batch in (first, small, large, last)], [0, 1, 2, 3])

    def test_large_batches_do_not_wait(self):
        """A batch that gains little from company is proposed at once, with those it finds."""
        self.node.hold()
        self.add(b"first")
        self.end_turn()
        self.add(b"small")
        self.add(b"l" * SHARE_SIZE_MAX)
        self.assertEqual([p.record_count for p in self.node.proposals], [1, 2])
        self.release()

    def test_small_ones_get_their_turn(self):
        """While there always is a large batch under way, small ones are proposed as if there was none."""
        self.node.hold()
        self.add(b"l" * JOINED_SIZE_MAX, subject="bulk")
        for number in range(5):
            small = self.add(b"s")
            self.end_turn()
            self.assertEqual(self.node.proposals[-1].payload, small.payload)
            self.add(b"l" * JOINED_SIZE_MAX, subject="bulk")
            self.release(2)
            self.assertEqual((small.offset, self.node.held_count), (2 * number + 1, 1))
        self.release()

    def test_entries_are_bounded(self):
        """No joined entry has more bytes or records than one may, and nothing is lost at the seams."""
        batches = [self.add(b"x" * (SHARE_SIZE_MAX - 64)) for _ in range(7)]
        self.end_turn()
        self.assertLessEqual(max(len(p.payload) for p in self.node.proposals), JOINED_SIZE_MAX)
        self.assertEqual([batch.offset for batch in batches], list(range(7)))
        many = self.add(b"m")
        many.record_count = RECORDS_PER_BATCH_MAX - 1
        self.coalescer._gatherings["root"].record_count += RECORDS_PER_BATCH_MAX - 2
        self.add(b"n")
        self.add(b"o")
        self.end_turn()
        self.assertEqual(self.values()[-2:], [[b"m", b"n"], [b"o"]])

    def test_a_batch_taken_back_is_not_proposed(self):
        """Who waits no more before the proposal takes the batch back; its neighbours keep their places."""
        batches = [self.add(b"%d" % number) for number in range(3)]
        batches[1].is_wanted = False
        self.end_turn()
        self.assertEqual((batches[0].offset, batches[1].offset, batches[2].offset), (0, None, 1))
        self.assertEqual(self.values(), [[b"0", b"2"]])
        self.add(b"gone").is_wanted = False
        self.end_turn()
        self.assertEqual(len(self.node.proposals), 1)
        last = self.add(b"last")
        self.end_turn()
        self.assertEqual(last.offset, 2)

    def test_a_caller_who_left_is_no_obstacle(self):
        """Who waits no more behind the proposal is not told; the others' offsets count its records."""
        self.node.hold()
        gone, waits = self.add(b"a", b"b"), self.add(b"c")
        self.end_turn()
        gone.is_wanted = False
        self.release()
        self.assertEqual((gone.offset, waits.offset), (None, 2))

    def test_failures(self):
        """Everybody of a failed entry gets its error, also when the node raises, and the next is proposed."""
        self.node.failure = UnavailableError("no leader")
        batches = [self.add(b"a"), self.add(b"b")]
        self.end_turn()
        self.assertEqual([batch.error for batch in batches], [self.node.failure] * 2)
        self.node.failure = None
        propose, self.node.propose = self.node.propose, None
        for _ in range(2):
            raised = self.add(b"c")
            self.end_turn()
            self.assertIsInstance(raised.error, TypeError)
        self.node.propose = propose
        last = self.add(b"d")
        self.end_turn()
        self.assertEqual(last.offset, 0)

    def test_flush_proposes_at_once(self):
        """A flush proposes what gathered, whatever is under way; the turn's end has nothing left to do."""
        self.node.hold()
        for number in range(4):
            self.add(b"%d" % number)
            self.coalescer.flush()
        self.end_turn()
        self.assertEqual(self.node.held_count, 4)
        self.release()


class LingerTests(CoalescerTests):
    """A door whose calls come one by one: as without timers, but among many an entry waits for more."""

    def setUp(self):
        super().setUp()
        self.clock = Clock()
        self.coalescer = Coalescer(
            self.propose, self.soon.append, self.note_settled, later=self.clock.callLater
        )

    def end_turn(self):
        """All that is due comes, timers included."""
        super().end_turn()
        self.clock.advance(LINGER_SECONDS_MAX)
        super().end_turn()

    def add_and_go(self, count, start=0):
        """What calls do that come one by one."""
        for number in range(start, start + count):
            self.go(Batch(b"%d" % number))

    def have_callers(self, count):
        """Let so many callers have waited at a time, and all have their answers; the wait for more begins."""
        self.node.hold()
        self.add_and_go(count)  # the first one alone, the others gather behind it
        self.release(1)
        self.node.release()
        self.node.hold()

    def linger_seconds(self):
        """How long the wait for more still takes."""
        [timer] = self.clock.getDelayedCalls()
        return timer.getTime() - self.clock.seconds()

    def test_few_callers_never_wait(self):
        """As long as few callers wait at a time, the next entry goes with the turn's end."""
        self.node.hold()
        self.add_and_go(LINGER_CALLERS_MIN - 1)
        for _ in range(5):
            self.node.release(1)
            self.assertEqual(self.clock.getDelayedCalls(), [])
            super().end_turn()
            self.add_and_go(1)  # whom the entry was of asks again
        self.assertEqual(list(map(len, self.values()))[:2], [1, LINGER_CALLERS_MIN - 2])

    def test_the_more_callers_the_longer(self):
        """Behind an entry, the next waits for company: the more callers there are the longer, to a bound."""
        for count in (LINGER_CALLERS_MIN + 1, 12, 100):
            self.have_callers(count)
            self.add_and_go(3)
            self.coalescer.flush_soon()
            self.assertEqual(self.soon, [])
            seconds = self.linger_seconds()
            callers = count * (1 - CALLERS_FORGOTTEN)  # one entry had fewer: the first call came alone
            self.assertAlmostEqual(seconds, min(callers * LINGER_SECONDS_PER_CALLER, LINGER_SECONDS_MAX))
            self.clock.advance(seconds)
            self.assertEqual(len(self.values()[-1]), 3)
            self.node.release()
            self.clock.advance(LINGER_SECONDS_MAX)
            self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_small_entries_of_many_callers(self):
        """Entries that were quick and small tell nothing about the callers: those who waited before count."""
        self.have_callers(40)
        for _ in range(3):
            self.add_and_go(1)
            self.clock.advance(LINGER_SECONDS_MAX)
            self.assertEqual(len(self.values()[-1]), 1)
            self.node.release(1)
            self.assertGreater(self.linger_seconds(), 0)

    def test_callers_who_left_are_forgotten(self):
        """When most callers are gone, those who are left wait for them no longer."""
        self.have_callers(100)
        entries = 0
        while self.clock.getDelayedCalls():
            self.add_and_go(1)
            self.clock.advance(LINGER_SECONDS_MAX)
            self.node.release(1)
            entries += 1
            self.assertLess(entries, 60)
        super().end_turn()
        self.add_and_go(1)
        self.assertEqual(self.node.held_count, 1, "it waits for nobody")

    def test_everybody_is_there(self):
        """The wait ends when all callers are there; its timer does not cut the next one short."""
        self.have_callers(10)
        began = self.clock.seconds()
        self.add_and_go(9)
        self.assertEqual(self.node.held_count, 0)
        self.clock.advance(LINGER_SECONDS_PER_CALLER)
        self.add_and_go(1)
        self.assertEqual([len(self.values()[-1]), self.node.held_count], [10, 1])
        self.assertEqual(self.clock.getDelayedCalls(), [])
        self.node.release(1)
        self.add_and_go(5)
        self.assertGreater(began + LINGER_SECONDS_MAX, self.clock.seconds())
        self.assertAlmostEqual(self.linger_seconds(), 10 * LINGER_SECONDS_PER_CALLER)
        self.assertEqual(self.node.held_count, 0)

    def test_full_meanwhile(self):
        """What is too much for one entry does not wait for the timer; the rest does, and is not forgotten."""
        self.have_callers(LINGER_CALLERS_MIN + 1)
        big = b"x" * SHARE_SIZE_MAX
        proposed = len(self.values())
        large, small = self.add(big), self.add(b"small")
        self.assertEqual(len(self.values()), proposed + 1)
        self.node.release(1)
        self.assertIsNotNone(large.offset)
        self.assertIsNone(small.offset)
        self.release()
        self.assertIsNotNone(small.offset)
