"""Any node serves any log: whole nodes in one process, of which one has no copy of the log."""

from loghouse.catalogue.records import LogSettings
from loghouse.errors import (
    NotLeaderError,
    OffsetOutOfRangeError,
    OutcomeUnknownError,
    RequestError,
    UnavailableError,
    UnknownLogError,
)
from loghouse.limits import FORWARD_READ_SECONDS, KIB, LEADER_SECONDS_MAX, MIB
from loghouse.node.api import proposing
from loghouse.node.forwarding import AdminOrder
from loghouse.protocol.entry import EntryKind, decode_entries
from loghouse.protocol.forward_messages import AdminOperation
from loghouse.replica.api import Proposal
from tests.driver.town import TownTestCase
from tests.processes import thorough

MAY_BE_TRIED_AGAIN = UnavailableError, OutcomeUnknownError


class ElsewhereCase(TownTestCase):
    """Nodes a to d, and the log `orders`, which a, b and c have."""

    def setUp(self):
        super().setUp()
        self.place = place = self.town("abcd")
        for name in "abcd":
            place[name].start()
        place.until(lambda: all(len(one.log.configuration.members) == 4 for one in place.running))
        creating = self.node("d").log_administration.create(
            "orders", LogSettings(replicas=3), on=("a", "b", "c"), by="root"
        )
        self.group = self.answer(creating, 60).group
        self.log = self.node("d").log("orders")
        self.place.until(lambda: self.log.leader_name)

    def node(self, name):
        return self.place[name].node

    def answer(self, done, seconds=30.0):
        return self.result(self.place, done, seconds)

    def refusal(self, done, *types):
        return self.failure(self.place, done, *types).value

    def copies(self):
        """The log on the nodes that run and have it, by name."""
        running = [one.name for one in self.place.running if one.name != "d"]
        return {name: self.node(name).log("orders") for name in running}

    def append(self, payload=b"x", log=None):
        log = log or self.log
        return self.answer(proposing(log.propose, Proposal(payload=payload, record_count=1))).base_offset

    def append_in_the_end(self, payload):
        """Append a batch until it is in; return its offset."""
        for _ in range(100):
            asked = proposing(self.log.propose, Proposal(payload=payload, record_count=1))
            self.place.until(lambda asked=asked: asked.called)
            outcome = []
            asked.addCallbacks(outcome.append, lambda failure: failure.trap(*MAY_BE_TRIED_AGAIN))
            if outcome:
                return outcome[0].base_offset
            self.place.advance(0.2)
        self.fail("not appended")

    def payloads(self, fetched):
        entries = decode_entries(self.log.seed, fetched.frames)
        return [bytes(entry.payload) for entry in entries if entry.kind == EntryKind.RECORDS]

    def leader(self):
        [leader] = {log.leader_name for log in self.copies().values()}
        return leader


class ServedTests(ElsewhereCase):
    """Everything that may be asked of a log works through the node that has no copy."""

    def test_leader(self):
        """The node knows who leads, though no Raft message of the group reaches it, and says so."""
        self.assertIsNone(self.log.replica)
        self.assertEqual(self.log.leader_name, self.leader())
        self.assertEqual(self.log.seed, self.node("a").log("orders").seed)
        self.assertTrue(self.log.has_leader)
        self.assertTrue(self.node("d").is_serving)
        described = self.answer(self.node("d").log_administration.describe("orders"))
        self.assertEqual(described.leader, self.leader())

    def test_nothing_is_told_in_vain(self):
        """Of logs that every member has nobody tells who leads."""
        for name in "abcd":
            leads = self.node(name).elsewhere._leads()
            self.assertEqual([lead.group for lead in leads], [self.group] if name == self.leader() else [])

    def test_appends(self):
        """Appends go to the leader; every copy has them."""
        self.assertEqual([self.append(b"%d" % number) for number in range(3)], [0, 1, 2])
        self.place.until(lambda: all(log.driver.readable_offset == 3 for log in self.copies().values()))

    def test_reads(self):
        """Reads go to a node that has a copy; the frames are those of the log."""
        for number in range(3):
            self.append(b"%d" % number)
        fetched = self.answer(self.log.fetch(0, MIB))
        self.assertEqual((self.payloads(fetched), fetched.next_offset), ([b"0", b"1", b"2"], 3))
        there = self.answer(self.node(self.leader()).log("orders").fetch(1, 1))
        here = self.answer(self.log.fetch(1, 1))
        self.assertEqual((bytes(here.frames), here.next_offset), (bytes(there.frames), 2))
        bounds = self.answer(self.log.bounds())
        self.assertEqual((bounds.lowest, bounds.next_offset), (0, 3))
        offset, timestamp = self.answer(self.log.find_offset(0))
        self.assertEqual((offset, timestamp > 0), (0, True))
        self.assertEqual(self.answer(self.log.find_offset(2**62)), (3, 0))
        missed = self.refusal(self.log.fetch(9, 1), OffsetOutOfRangeError)
        self.assertEqual((missed.offset, missed.lowest, missed.next_offset), (9, 0, 3))

    def test_follow(self):
        """Who follows through the node gets each record soon after it is appended, anywhere."""
        leader = self.node(self.leader()).log("orders")
        for offset in range(3):
            waiting = [self.log.wait_for(offset) for _ in range(50)]
            self.place.advance(1.0)
            self.assertNoResult(waiting[0])
            self.assertEqual(len(self.node("d").elsewhere.reads._asked), 1, "all of them wait together")
            self.append(b"%d" % offset, leader)
            self.place.advance(0.2)
            for done in waiting:
                self.successResultOf(done)
            self.assertEqual(self.payloads(self.answer(self.log.fetch(offset, MIB))), [b"%d" % offset])

    @thorough
    def test_long_silence(self):
        """A log in which nothing happens for long is followed on, and costs next to nothing."""
        waiting = self.log.wait_for(0)
        self.place.advance(60.0)
        self.assertNoResult(waiting)
        waits = [len(self.node(name).elsewhere.reads._waits) for name in "abc"]
        self.assertEqual((sum(waits), len(self.node("d").elsewhere.reads._asked)), (1, 1))
        self.append()
        self.answer(waiting)
        self.place.advance(10.0)
        self.assertEqual([self.node(name).elsewhere.reads._waits for name in "abc"], [{}] * 3)

    def test_orders(self):
        """A producer is registered, and the log is trimmed, by the leader."""
        producer_id = self.answer(self.log.register_producer("root"))
        self.assertGreater(producer_id, 0)
        proposal = Proposal(
            payload=b"x", record_count=1, producer_id=producer_id, producer_sequence=0, subject="root"
        )
        self.assertEqual(self.answer(proposing(self.log.propose, proposal)).base_offset, 0)
        self.assertEqual(self.answer(proposing(self.log.propose, proposal)).base_offset, 0, "exactly once")
        self.append(b"y")
        self.answer(self.log.trim(1))
        self.assertEqual(self.answer(self.log.bounds()).next_offset, 2)

    def test_large(self):
        """More at a time than may be on its way is read all the same, in turns."""
        size = 128 * KIB
        for number in range(20):
            self.append(bytes([number]) * size)
        reading = [self.log.fetch(number % 20, 2 * MIB) for number in range(60)]
        reads = self.node("d").elsewhere.reads
        self.assertGreater(len(reads._queue), 0)
        for number, done in enumerate(reading):
            [first, *_] = self.payloads(self.answer(done))
            self.assertEqual(first, bytes([number % 20]) * size)
        self.assertEqual((reads._asked, reads._asked_size, len(reads._queue)), ({}, 0, 0))


class TroubleTests(ElsewhereCase):
    """What breaks, and what is asked of whom then."""

    def test_leader_dies(self):
        """The leader dies: who follows goes on, appends find the next leader, and nothing is lost."""
        self.append(b"before")
        waiting = self.log.wait_for(1)
        self.place.advance(1.0)
        before = self.leader()
        self.place[before].crash()
        self.assertEqual(self.append_in_the_end(b"after"), 1)
        self.assertNotEqual(self.log.leader_name, before)
        self.answer(waiting)
        self.assertEqual(self.payloads(self.answer(self.log.fetch(0, MIB))), [b"before", b"after"])

    def test_leader_hands_over(self):
        """Another node leads: the node hears of it at once, by whoever leads now."""
        before = self.leader()
        self.answer(self.log.administer(AdminOrder(operation=AdminOperation.TRANSFER)))
        self.place.advance(0.5)
        self.assertNotEqual(self.log.leader_name, before)
        self.assertEqual(self.log.leader_name, self.leader())
        self.append()

    def test_taught(self):
        """Who was asked as the leader and is none names the one that is; the next append finds it."""
        leader = self.leader()
        follower = next(name for name in "abc" if name != leader)
        leaders = self.node("d").elsewhere.leaders
        leaders.node_lost(leader)
        leaders.denied(self.group, "", follower)
        self.assertEqual(self.log.leader_name, follower)
        asked = proposing(self.log.propose, Proposal(payload=b"x", record_count=1))
        told = self.refusal(asked, UnavailableError)
        self.assertIn(f"the leader is {leader} now: nothing was done", str(told))
        self.assertEqual(self.log.leader_name, leader)

    @thorough
    def test_no_leader(self):
        """Without a leader that is known appends are refused and may be tried again; old records are read."""
        self.append(b"x")
        leader = self.leader()
        for name in "abc":
            self.place.cuts |= {(name, other) for other in "abc"}
        self.place.advance(2 * LEADER_SECONDS_MAX + 5)
        self.assertEqual((self.log.leader_name, self.log.has_leader), ("", False), leader)
        asked = (
            proposing(self.log.propose, Proposal(payload=b"y", record_count=1)),
            self.log.trim(1),
            self.log.register_producer("root"),
        )
        for done in asked:
            self.assertIn("no leader is known", str(self.refusal(done, UnavailableError)))
        self.assertEqual(self.payloads(self.answer(self.log.fetch(0, MIB))), [b"x"])
        self.refusal(self.log.bounds(), RequestError)
        waiting = self.log.wait_for(1)
        self.place.advance(10)
        self.assertNoResult(waiting)
        self.place.heal()
        self.assertEqual(self.append_in_the_end(b"y"), 1)
        self.answer(waiting)

    def test_leader_cut_off(self):
        """A leader that does not answer, and whose link does not say so, is passed over for another copy."""
        self.append(b"x")
        self.place.until(lambda: all(log.driver.readable_offset == 1 for log in self.copies().values()))
        leader = self.leader()
        self.place.cuts |= {("d", leader), (leader, "d")}
        began = self.place.clock.seconds()
        self.assertEqual(self.payloads(self.answer(self.log.fetch(0, MIB))), [b"x"])
        self.assertLess(self.place.clock.seconds() - began, FORWARD_READ_SECONDS + 1)

    def test_restart(self):
        """A node that was away knows soon who leads."""
        self.append(b"x")
        self.place["d"].stop()
        self.place["d"].start()
        self.place.until(lambda: "orders" in self.node("d")._logs_by_name)
        self.log = self.node("d").log("orders")
        self.place.until(lambda: self.log.leader_name)
        self.assertEqual(self.append_in_the_end(b"y"), 1)
        self.assertEqual(self.payloads(self.answer(self.log.fetch(0, MIB))), [b"x", b"y"])

    def test_never_passed_on_twice(self):
        """A node without a copy that is asked by another one refuses, and names the leader for appends."""
        told = []
        self.log.propose_here(Proposal(payload=b"x", record_count=1), None, told.append)
        self.assertEqual((type(told[0]), told[0].leader), (NotLeaderError, self.leader()))
        refused = self.log.administer_here(AdminOrder(operation=AdminOperation.TRIM, number=1))
        self.assertEqual(self.failureResultOf(refused, NotLeaderError).value.leader, self.leader())
        reads = self.node("a").elsewhere.reads
        for done in (reads.read("d", self.group, 0, 1), reads.wait("d", self.group, 0)):
            self.assertIn("has no copy", str(self.refusal(done, UnavailableError)))

    @thorough
    def test_deleted(self):
        """A log that is deleted is unknown to those who follow it, or ask for it."""
        waiting = self.log.wait_for(0)
        self.place.advance(1.0)
        self.answer(self.node("a").log_administration.delete("orders", by="root"))
        self.refusal(waiting, UnknownLogError)
        for done in (self.log.fetch(0, 1), self.log.bounds(), self.log.trim(1)):
            self.refusal(done, RequestError)
        self.place.advance(10)
        for name in "abcd":
            reads = self.node(name).elsewhere.reads
            self.assertEqual((reads._asked, reads._waits), ({}, {}), name)

    def test_stop(self):
        """A node that stops sends those who follow through it elsewhere."""
        waiting = self.log.wait_for(0)
        self.place.advance(1.0)
        self.place["d"].stop()
        self.failureResultOf(waiting, UnavailableError)
        self.place.advance(10)
        self.assertEqual([self.node(name).elsewhere.reads._waits for name in "abc"], [{}] * 3)
