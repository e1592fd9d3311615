"""One binary session without a network: turns of its reads, what it holds and gives back."""

from types import SimpleNamespace

from twisted.internet.defer import Deferred, maybeDeferred, succeed
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from loghouse.api.v1.log_pb2 import Record
from loghouse.auth.identity import Identity
from loghouse.auth.policy import Action
from loghouse.errors import OffsetOutOfRangeError, PermissionDeniedError, UnknownLogError
from loghouse.limits import FETCH_SIZE_DEFAULT, FETCH_SIZE_MAX, MIB
from loghouse.net.appending import Appender
from loghouse.net.binary_server import READS_PER_TURN_MAX, BinaryServer, BinarySession
from loghouse.node.gate import Gate
from loghouse.protocol.batch import encode_batch
from loghouse.protocol.client_messages import (
    Bounds,
    BoundsReply,
    Describe,
    Fetch,
    FetchReply,
    FindOffset,
    FindOffsetReply,
    Follow,
    FollowFrames,
    Produce,
    RegisterProducer,
    RegisterProducerReply,
)
from loghouse.protocol.entry import EntryKind, decode_entries, make_entry
from loghouse.protocol.link_messages import Hello, LinkRole
from loghouse.protocol.session import CancelReceived, CreditReceived, RequestReceived
from loghouse.replica.api import Fetched
from loghouse.shares import Shares


class ServerCase(SynchronousTestCase):
    """A session of `root` whose link and log are played by the test."""

    def setUp(self):
        self.clock = Clock()
        self.shares = Shares()
        self.outcomes = []  # stream, and what it was answered
        self.reads = []  # offset, size and Deferred of each
        self.waits = []  # the same without a size
        self.flushes = 0
        self.proposals = []
        self.checks = []  # what the policy was asked
        self.before_body = []  # what checks a request by its header
        self.session = SimpleNamespace(
            is_closed=False,
            peer=Hello(role=LinkRole.CLIENT),
            served=SimpleNamespace(open={}),
            answer=lambda stream, reply: self.outcomes.append((stream, reply)),
            refuse=lambda stream, error: self.outcomes.append((stream, type(error))),
            check_before_body=lambda check: self.before_body.append(check),
        )
        self.link = SimpleNamespace(
            is_writable=True, session=self.session, flush=self.flush, place="192.0.2.7"
        )
        self.log = SimpleNamespace(
            group=1,
            record_size_max=0,
            name="default",
            leader_name="n1",
            fetch=self.fetch,
            wait_for=self.wait_for,
            bounds=lambda: succeed(SimpleNamespace(lowest=1, next_offset=2)),
            propose=lambda *proposal: self.proposals.append(proposal),
        )
        node = SimpleNamespace(name="n1", logs={1: self.log}, log=self.find)
        gate = Gate(node, None, clock=lambda: 0.0)
        self.is_allowed = True
        self.patch(Gate, "check_permission", self.check)
        appends = Appender(
            gate,
            soon=lambda work: work(),
            scheduler=self.clock,
            in_thread=maybeDeferred,
            bodies=self.shares.bodies,
        )
        server = BinaryServer(gate=gate, scheduler=self.clock, appends=appends, shares=self.shares)
        self.identity = Identity(subject="root", expires_at=0.0)
        self.server = BinarySession(server, self.link, self.identity)

    def find(self, name):
        if name.startswith("group "):
            raise UnknownLogError(name)
        return self.log

    def check(self, *what):
        self.checks.append(what)
        if not self.is_allowed:
            raise PermissionDeniedError("root", "consume", "default")

    def flush(self):
        self.flushes += 1

    def fetch(self, offset, size_max):
        self.reads.append((offset, size_max, Deferred()))
        return self.reads[-1][2]

    def wait_for(self, offset):
        self.waits.append((offset, Deferred()))
        return self.waits[-1][1]

    def ask(self, stream, request, group=1, credit=0):
        self.session.served.open[stream] = SimpleNamespace(request=type(request), credit=credit)
        self.server.event_received(RequestReceived(request=request, group=group, stream=stream))

    def read(self, number, size=10, next_offset=9):
        """Let a read end with so many bytes."""
        self.reads[number][2].callback(Fetched(frames=bytes(size), next_offset=next_offset))

    def held(self):
        return self.shares.answers.held_by("root")


class ReadTests(ServerCase):
    """Reads take turns, and wait for who does not take them."""

    def test_one_at_a_time(self):
        """One read runs; the next begins when it ends, in order."""
        for stream, size in ((1, 0), (2, 7), (3, FETCH_SIZE_MAX + 1)):
            self.ask(stream, Fetch(offset=stream, size_max=size))
        self.assertEqual(len(self.reads), 1)
        for number in range(3):
            self.read(number)
        self.assertEqual(
            [one[:2] for one in self.reads], [(1, FETCH_SIZE_DEFAULT), (2, 7), (3, FETCH_SIZE_MAX)]
        )
        expected = FetchReply(next_offset=9, frames=bytes(10))
        self.assertEqual(self.outcomes, [(stream, expected) for stream in (1, 2, 3)])
        self.assertEqual((self.server._places, self.server._running), ({}, {}))

    def test_turns(self):
        """Reads that are answered at once are four a turn; others have the reactor between."""
        self.assertEqual(READS_PER_TURN_MAX, 4)
        self.log.fetch = lambda offset, size: succeed(Fetched(frames=b"", next_offset=offset))
        self.server._is_in_turn = True
        for stream in range(1, 11):
            self.ask(stream, Fetch(offset=stream))
        counts = []
        self.patch(self.clock, "callLater", lambda seconds, work: counts.append((seconds, work)))
        self.server._next_turn()
        for done in (4, 8, 10):
            self.assertEqual(len(self.outcomes), done)
            if counts:
                seconds, work = counts.pop()
                self.assertEqual(seconds, 0)
                work()
        self.assertFalse(self.server._is_in_turn)

    def test_not_taken(self):
        """One answer is read ahead for who takes none, counted, and sent when it does; then the next."""
        self.link.is_writable = False
        self.ask(1, Fetch(offset=1))
        self.ask(2, Fetch(offset=2))
        self.read(0, MIB)
        self.assertEqual((self.outcomes, len(self.reads)), ([], 1))
        self.assertGreaterEqual(self.held(), MIB // 2)
        self.link.is_writable = True
        self.server.write_resumed()
        self.assertEqual([stream for stream, _ in self.outcomes], [1])
        self.assertEqual((self.held(), len(self.reads)), (0, 2))

    def test_gone(self):
        """What a client that is gone held is given back, and nothing is read for it any more."""
        self.link.is_writable = False
        self.ask(1, Fetch(offset=1))
        self.ask(2, Fetch(offset=2))
        self.read(0, MIB)
        self.ask(3, Follow(offset=0, credit=5), credit=5)
        self.assertEqual(self.shares.followers.held_by("root"), 1)
        self.server.link_lost()
        self.assertEqual((self.held(), self.shares.followers.held_by("root")), (0, 0))
        self.assertEqual((self.server._places, self.server._running, len(self.server._reads)), ({}, {}, 0))
        self.link.is_writable = True
        self.server.write_resumed()
        self.assertEqual((self.outcomes, len(self.reads)), ([], 1))

    def test_failed(self):
        """A read that fails is refused and flushed; the next one runs."""
        self.ask(1, Fetch(offset=1))
        self.ask(2, Fetch(offset=2))
        self.reads[0][2].errback(OffsetOutOfRangeError(1, 5, 9))
        self.assertEqual(self.outcomes, [(1, OffsetOutOfRangeError)])
        self.assertEqual((len(self.reads), self.flushes, set(self.server._places)), (2, 1, {2}))

    def test_cancelled(self):
        """A read that is cancelled is no answer, neither before its turn nor in it."""
        self.ask(1, Fetch(offset=1))
        self.ask(2, Fetch(offset=2))
        self.ask(3, Fetch(offset=3))
        for stream in (2, 1):
            del self.session.served.open[stream]
            self.server.event_received(CancelReceived(stream=stream))
        self.assertEqual(self.outcomes, [])
        self.assertEqual([one[0] for one in self.reads], [1, 3])
        self.read(1)
        self.assertEqual([stream for stream, _ in self.outcomes], [3])


class OldClientTests(ServerCase):
    """Clients whose Hello does not list the later kinds of entry."""

    def frame(self, kind, payload=b"", records=0):
        return make_entry(
            7, index=1, term=1, kind=kind, base_offset=0, timestamp=1, record_count=records, payload=payload
        ).frame

    def sent(self, kinds, later_index=None):
        """What a client that lists these kinds gets of four entries, those in the middle of later kinds."""
        self.session.peer = Hello(role=LinkRole.CLIENT, entry_kinds=kinds)
        server = BinarySession(self.server._server, self.link, self.identity)
        frames = [
            self.frame(EntryKind.RECORDS, b"abc", 1),
            self.frame(EntryKind.BIRTH, b"birth"),
            self.frame(EntryKind.CURSOR, b"cursor"),
            self.frame(EntryKind.NOOP),
        ]
        if later_index is not None:
            server._places[3] = SimpleNamespace(later_index=later_index), 0
        server._frames_read(Fetched(frames=b"".join(frames), next_offset=1), 3, is_follow=False)
        stream, reply = self.outcomes.pop()
        self.assertEqual((stream, reply.next_offset), (3, 1))
        return [frame in bytes(reply.frames) for frame in frames], bytes(reply.frames)

    def test_left_out(self):
        """Entries that such a client could not read are left out; they hold no records."""
        found, frames = self.sent(bytes([1, 2, 3, 4, 5]))
        self.assertEqual(found, [True, False, False, True])
        self.assertEqual(len(list(decode_entries(7, frames))), 2)
        self.assertEqual(self.sent(b"")[0], [True, False, False, True])
        self.assertEqual(self.sent(bytes([1, 2, 3, 4, 5, 6]), 1)[0], [True, True, False, True])

    def test_sent(self):
        """Who lists them gets everything as it is."""
        self.assertEqual(self.sent(bytes(EntryKind))[0], [True, True, True, True])

    def test_not_looked_through(self):
        """What begins behind the last of them is passed on as it is."""
        self.assertEqual(self.sent(b"", 0)[0], [True, True, True, True])


class FollowTests(ServerCase):
    """A followed stream waits, reads within its credit, and goes on."""

    def test_goes_on(self):
        """It waits for its offset, reads what its credit allows, answers, and waits for the next one."""
        self.ask(1, Follow(offset=5, credit=100), credit=100)
        self.assertEqual(([one[0] for one in self.waits], self.reads), ([5], []))
        self.waits[0][1].callback(None)
        self.assertEqual(self.reads[0][:2], (5, 100))
        self.read(0)
        self.assertEqual(self.outcomes, [(1, FollowFrames(next_offset=9, frames=bytes(10)))])
        self.assertEqual([one[0] for one in self.waits], [5, 9])
        self.assertEqual(self.shares.followers.held_by("root"), 1)

    def test_credit(self):
        """Without credit it waits for some, and one sign of it is enough."""
        self.ask(1, Follow(offset=5, credit=0), credit=0)
        self.assertEqual(self.waits, [])
        self.session.served.open[1].credit = 1
        for _ in range(2):
            self.server.event_received(CreditReceived(stream=1))
        self.assertEqual(len(self.waits), 1)
        self.waits[0][1].callback(None)
        self.assertEqual(self.reads[0][1], 1)

    def test_permission(self):
        """Each read asks the policy again."""
        self.ask(1, Follow(offset=5, credit=100), credit=100)
        self.is_allowed = False
        self.waits[0][1].callback(None)
        self.assertEqual((self.outcomes, self.reads), ([(1, PermissionDeniedError)], []))
        self.assertEqual(self.shares.followers.held_by("root"), 0)

    def test_wait_fails(self):
        """A wait that fails is refused, flushed, and its share given back; no trace is left."""
        self.ask(1, Follow(offset=5, credit=100), credit=100)
        self.waits[0][1].errback(OffsetOutOfRangeError(5, 7, 9))
        self.assertEqual((self.outcomes, self.flushes), ([(1, OffsetOutOfRangeError)], 1))
        self.assertEqual((self.server._running, self.server._places, self.server._followed), ({}, {}, set()))
        self.server.event_received(CreditReceived(stream=1))
        self.assertEqual((len(self.waits), self.shares.followers.held_by("root")), (1, 0))

    def test_cancelled(self):
        """A follower that is cancelled gives its place back, once, and its wait ends without an answer."""
        self.ask(1, Follow(offset=5, credit=100), credit=100)
        del self.session.served.open[1]
        for _ in range(2):
            self.server.event_received(CancelReceived(stream=1))
        self.assertEqual((self.outcomes, self.shares.followers.held_by("root")), ([], 0))
        self.assertTrue(self.waits[0][1].called)
        self.server.event_received(CreditReceived(stream=1))
        self.assertEqual(len(self.waits), 1)

    def test_cancelled_while_it_was_read(self):
        """What was read for a follower that the answer ended is not read on."""
        self.ask(1, Follow(offset=5, credit=100), credit=100)
        self.waits[0][1].callback(None)

        def answer(stream, reply):
            self.outcomes.append((stream, reply))
            self.server.event_received(CancelReceived(stream=stream))

        self.session.answer = answer
        self.read(0)
        self.assertEqual((len(self.outcomes), len(self.waits), self.server._places), (1, 1, {}))


class WorkTests(ServerCase):
    """Requests of one answer."""

    def test_answers(self):
        """Each answer is what the log says; a producer is registered for who asks."""
        asked = []
        self.log.find_offset = lambda timestamp: asked.append(timestamp) or succeed((3, 44))
        self.log.register_producer = lambda subject: asked.append(subject) or succeed(7)
        self.ask(1, FindOffset(timestamp=5))
        self.ask(2, RegisterProducer())
        self.assertEqual(asked, [5, "root"])
        self.assertEqual(
            self.outcomes,
            [(1, FindOffsetReply(offset=3, timestamp=44)), (2, RegisterProducerReply(producer_id=7))],
        )

    def test_described(self):
        """A description needs no log, and is of the node."""
        node = self.server._gate.node
        for name, value in (("cluster_uuid", b"c" * 16), ("cluster_name", "c1"), ("servers", tuple)):
            setattr(node, name, value)
        self.ask(1, Describe(), group=9)
        self.assertEqual([(stream, reply.node_name) for stream, reply in self.outcomes], [(1, "n1")])
        self.assertEqual(self.checks[-1], (self.identity, "*", None))

    def test_what_is_asked(self):
        """The policy is asked about the log and the action; about anything at all where there is none."""
        self.ask(1, Bounds())
        self.ask(2, Bounds(), group=9)
        self.ask(3, Fetch(offset=1))
        self.assertEqual(
            self.checks,
            [
                (self.identity, "default", Action.CONSUME),
                (self.identity, "*", None),
                (self.identity, "default", Action.CONSUME),
                (self.identity, "default", Action.CONSUME),
            ],
        )

    def test_before_the_body(self):
        """By its header a request is asked about; only a batch makes room for its body."""
        [check] = self.before_body
        for request, group, expected in (
            (Produce, 1, ("default", Action.PRODUCE)),
            (Fetch, 1, ("default", Action.CONSUME)),
            (Describe, 1, ("*", None)),
        ):
            check(request, group, MIB)
            self.assertEqual(self.checks.pop(), (self.identity, *expected))
            self.assertEqual(self.shares.bodies.held_by("root") > 0, True)
        self.assertRaises(UnknownLogError, check, Bounds, 9, MIB)
        self.assertEqual(self.checks.pop(), (self.identity, "*", None))
        self.server.link_lost()
        self.assertEqual(self.shares.bodies.held, 0)

    def test_fails_late(self):
        """Work that fails is refused, nothing of it may have been done; a cancelled one is no answer."""
        work = Deferred()
        self.log.bounds = lambda: work
        self.ask(1, Bounds())
        self.assertEqual(self.server._running, {1: work})
        work.errback(ValueError("a bug"))
        self.assertEqual(len(self.flushLoggedErrors(ValueError)), 1)
        [(stream, kind)] = self.outcomes
        self.assertEqual((stream, kind.was_appended, self.server._running), (1, False, {}))
        late = Deferred()
        self.log.bounds = lambda: late
        self.ask(2, Bounds())
        self.server.event_received(CancelReceived(stream=2))
        self.assertEqual((late.called, len(self.outcomes), self.server._running), (True, 1, {}))

    def test_append_is_cancelled(self):
        """An append that is cancelled is not waited for, and holds nothing."""
        batch = encode_batch([Record(value=bytes(MIB // 2))])
        self.ask(1, Produce(batch=batch, record_count=1, expect_offset=1))
        self.assertGreater(self.shares.bodies.held, 0)
        self.server.event_received(CancelReceived(stream=1))
        self.assertEqual((self.shares.bodies.held, self.server._appends._open), (0, {}))


class AheadTests(ServerCase):
    """An answer that is read ahead while the client takes none."""

    def test_still_full(self):
        """When the link is full again behind it, it is still counted."""
        self.link.is_writable = False
        self.ask(1, Fetch(offset=1))
        self.read(0, MIB)
        held = self.held()
        self.server.write_resumed()
        self.assertEqual(([stream for stream, _ in self.outcomes], self.held()), ([1], held))
        self.server.write_resumed()
        self.assertEqual(self.held(), held)
        self.link.is_writable = True
        self.server.write_resumed()
        self.assertEqual(self.held(), 0)

    def test_just_as_much(self):
        """What is counted is what was read and not written, to the byte."""
        held = []
        self.server._answers = SimpleNamespace(hold=held.append, close=lambda: held.append("closed"))
        self.ask(1, Fetch(offset=1))
        self.read(0, 10)
        self.assertEqual(held, [10, 0])
        self.link.is_writable = False
        self.ask(2, Fetch(offset=2))
        self.read(1, 20)
        self.server.write_resumed()
        self.server.write_resumed()
        self.assertEqual(held[2:], [20, 20])
        self.ask(3, Fetch(offset=3))
        self.read(2, 5)
        self.link.is_writable = True
        self.server.write_resumed()
        self.server.write_resumed()
        self.assertEqual(held[4:], [25, 5, 0, 0])
        self.server.link_lost()
        self.assertEqual(held[8:], ["closed"])

    def test_several(self):
        """Answers that were written and not taken count together with the one that is read ahead."""
        self.ask(1, Fetch(offset=1))
        self.ask(2, Fetch(offset=2))

        def flush():
            self.link.is_writable = False

        self.link.flush = flush
        self.read(0, MIB)
        first = self.held()
        self.read(1, MIB)
        self.assertGreaterEqual(self.held(), first + MIB // 2)


class OtherTests(ServerCase):
    """The rest."""

    def test_refused(self):
        """A group that is no log is refused by name, and a request without permission; nothing is left."""
        self.ask(1, Bounds(), group=9)
        self.is_allowed = False
        self.ask(2, Bounds())
        self.ask(3, Bounds(), group=9)
        self.assertEqual(
            self.outcomes, [(1, UnknownLogError), (2, PermissionDeniedError), (3, PermissionDeniedError)]
        )
        self.assertEqual(self.server._running, {})

    def test_answered(self):
        """An answer is flushed, and its work forgotten."""
        self.ask(1, Bounds())
        self.assertEqual(self.outcomes, [(1, BoundsReply(lowest=1, next_offset=2))])
        self.assertEqual((self.flushes, self.server._running), (1, {}))

    def test_expired_append(self):
        """An append that nobody waits for any more is taken back if it was not proposed yet."""
        batch = encode_batch([Record(value=b"a")])
        for stream in (1, 2, 3, 4):
            request = Produce(batch=batch, record_count=1, expect_offset=stream, timeout_milliseconds=1000)
            self.ask(stream, request)
        append = self.server._appends._open[4]
        cancelled = []
        append.pending = SimpleNamespace(cancel=lambda: cancelled.append(1))
        self.clock.advance(1)
        self.assertEqual((cancelled, append.is_wanted, len(self.outcomes)), ([1], False, 4))
