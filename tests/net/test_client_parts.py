"""The Twisted client of the binary protocol without a network: what it asks, what callers hear, its end."""

from dataclasses import replace
from types import SimpleNamespace

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.error import ConnectionDone
from twisted.internet.task import Clock
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from loghouse.errors import (
    EntryError,
    IdentityError,
    LoghouseError,
    OutcomeUnknownError,
    ProtocolError,
    ResourceExhaustedError,
    UnavailableError,
    UnknownLogError,
)
from loghouse.limits import GREETING_SECONDS, MIB, REQUESTS_PER_CONNECTION_MAX
from loghouse.net import binary_client
from loghouse.net.binary_client import CREDIT_SIZE_DEFAULT, BinaryConnection
from loghouse.protocol.client_messages import (
    Bounds,
    BoundsReply,
    Cancel,
    Credit,
    Describe,
    Fetch,
    FetchReply,
    FindOffset,
    Follow,
    FollowFrames,
    Produce,
    ProduceReply,
    RegisterProducer,
    RegisterProducerReply,
)
from loghouse.protocol.client_messages import Failure as Refusal
from loghouse.protocol.entry import EntryKind, crc32c, frame_seed, make_entry
from loghouse.protocol.framing import HEADER
from loghouse.protocol.link_messages import Goodbye, Hello, LinkError
from tests.net.in_memory import UUID, Transport, frame_of, hello_of


class ClientCase(SynchronousTestCase):
    """A connection whose node is played by the test."""

    def setUp(self):
        self.connection = self.make()
        self.receive(hello_of("n1"))
        self.transport.clear()

    def make(self, *, is_tls=False):
        made = BinaryConnection(is_tls=is_tls)
        self.transport = Transport()
        made.makeConnection(self.transport)
        return made

    def receive(self, message, **where):
        self.connection.dataReceived(frame_of(message, **where))

    def lose(self):
        self.connection.connectionLost(Failure(ConnectionDone()))

    def sent(self, kind):
        """Return the only message that was written, of this kind."""
        [(number, body)] = self.transport.take_frames()
        self.assertEqual(number, kind.KIND)
        return kind.decode(body)


class RequestTests(ClientCase):
    """Each request is what its arguments say, and its answer is the reply."""

    def test_requests(self):
        """The fields of each, and the group."""
        connection = self.connection
        for ask, expected in (
            (
                lambda: connection.produce(
                    b"batch",
                    record_count=3,
                    codec=1,
                    expect_offset=0,
                    producer_id=7,
                    producer_sequence=8,
                    timeout_milliseconds=9,
                ),
                Produce(
                    batch=b"batch",
                    record_count=3,
                    attributes=1,
                    batch_crc=crc32c(b"batch"),
                    expect_offset=0,
                    producer_id=7,
                    producer_sequence=8,
                    timeout_milliseconds=9,
                ),
            ),
            (
                lambda: connection.produce(b"b", record_count=1),
                Produce(batch=b"b", record_count=1, batch_crc=crc32c(b"b")),
            ),
            (lambda: connection.fetch(5), Fetch(offset=5)),
            (lambda: connection.fetch(5, 6), Fetch(offset=5, size_max=6)),
            (lambda: connection.follow(5, None), Follow(offset=5, credit=4 * MIB)),
            (lambda: connection.follow(5, None, credit_size=6), Follow(offset=5, credit=6)),
            (lambda: connection.bounds(), Bounds()),
            (lambda: connection.find_offset(5), FindOffset(timestamp=5)),
            (lambda: connection.register_producer(), RegisterProducer()),
            (lambda: connection.describe(), Describe()),
        ):
            ask()
            found = self.sent(type(expected))
            if isinstance(found, Produce):
                found = replace(found, batch=bytes(found.batch))
            self.assertEqual(found, expected)
        self.assertEqual(CREDIT_SIZE_DEFAULT, 4 * MIB)

    def test_answers(self):
        """Each stream has its own answer, whatever their order; a later one of it is nothing."""
        first, second = self.connection.bounds(), self.connection.register_producer()
        self.receive(RegisterProducerReply(producer_id=7), stream=2)
        self.assertEqual(self.successResultOf(second), 7)
        self.assertNoResult(first)
        self.receive(BoundsReply(lowest=1, next_offset=2), stream=1)
        self.assertEqual(self.successResultOf(first), BoundsReply(lowest=1, next_offset=2))
        self.assertEqual(self.connection._pending, {})

    def test_refused(self):
        """A refusal is the failure of its request alone."""
        first, second = self.connection.bounds(), self.connection.bounds()
        self.receive(Refusal.of(UnknownLogError("group 9")), stream=1)
        self.failureResultOf(first, UnknownLogError)
        self.assertNoResult(second)
        self.assertEqual(len(self.connection._pending), 1)

    def test_cancel(self):
        """A request that is cancelled is taken back at the node."""
        asked = self.connection.bounds()
        self.transport.clear()
        asked.cancel()
        self.sent(Cancel)
        self.failureResultOf(asked, CancelledError)
        self.assertEqual(self.connection._pending, {})

    def test_asked_together(self):
        """What answers make their receivers ask leaves in one write, with what came before."""
        for _ in range(2):
            self.connection.bounds().addCallback(lambda _: self.connection.bounds())
        self.transport.clear()
        self.transport.sizes.clear()
        reply = BoundsReply(lowest=0, next_offset=0)
        self.connection.dataReceived(frame_of(reply, stream=1) + frame_of(reply, stream=2))
        self.assertEqual(len(self.transport.sizes), 1)
        self.assertEqual([kind for kind, _ in self.transport.take_frames()], [Bounds.KIND, Bounds.KIND])

    def test_leaves_at_once(self):
        """What answers made their receivers ask does not wait for the end of the reactor's turn."""
        left = []
        self.patch(binary_client, "write_at_once", lambda transport, pieces: left.append((transport, pieces)))
        self.connection.bounds()
        self.receive(BoundsReply(lowest=0, next_offset=0), stream=1)
        self.assertEqual(left, [(self.transport, ())])

    def test_nothing_to_write_to(self):
        """Before there is a session, and once the connection is gone, nothing is written."""
        self.connection._session.say_goodbye()
        self.connection.connected = 0
        self.connection._flush()
        self.assertEqual(self.transport.value(), b"")
        self.make(is_tls=True)._flush()
        self.assertEqual((self.transport.value(), self.transport.take_calls()), (b"", [("no delay", True)]))

    def test_groups(self):
        """A request is about the log of its group; a description is about all."""
        connection = self.connection
        for ask, group in (
            (lambda: connection.bounds(group=7), 7),
            (lambda: connection.fetch(0, group=7), 7),
            (lambda: connection.produce(b"b", record_count=1, group=7), 7),
            (lambda: connection.follow(0, None, group=7), 7),
            (lambda: connection.find_offset(0, group=7), 7),
            (lambda: connection.register_producer(group=7), 7),
            (lambda: connection.describe(), 1),
        ):
            ask()
            self.assertEqual(HEADER.unpack(self.transport.value()[:16])[-2], group)
            self.transport.clear()

    def test_too_many(self):
        """A request for which there is no stream fails, and nothing is sent or awaited."""
        for _ in range(REQUESTS_PER_CONNECTION_MAX):
            self.connection.bounds()
        self.transport.clear()
        self.failureResultOf(self.connection.bounds(), ResourceExhaustedError)
        self.assertEqual(self.transport.value(), b"")
        self.assertEqual(len(self.connection._pending), REQUESTS_PER_CONNECTION_MAX)

    def test_entries(self):
        """Entries are checked by the cluster and the log that they are of."""
        seed = frame_seed(UUID, 7)
        entry = make_entry(
            seed,
            kind=EntryKind.RECORDS,
            payload=b"p",
            index=1,
            term=1,
            base_offset=3,
            record_count=1,
            timestamp=5,
        )
        frame = entry.head + entry.payload
        [found] = self.connection.entries(frame, group=7)
        self.assertEqual((found.base_offset, bytes(found.payload)), (3, b"p"))
        self.assertRaises(EntryError, list, self.connection.entries(frame, group=8))

    def test_late(self):
        """Behind the end nothing is taken back, and no credit given; who asks hears why it ended."""
        done = Deferred()
        asked = self.connection.bounds()
        self.connection.follow(0, lambda frames: done).addErrback(lambda failure: None)
        self.receive(FollowFrames(next_offset=1, frames=b"abc"), stream=2)
        self.transport.clear()
        self.connection._lost = lost = UnavailableError("gone")
        self.assertIs(self.failureResultOf(self.connection.bounds()).value, lost)
        asked.cancel()
        self.failureResultOf(asked, CancelledError)
        done.callback(None)
        self.assertEqual(self.transport.value(), b"")
        self.connection._lost = None


class FollowTests(ClientCase):
    """A followed stream."""

    def setUp(self):
        super().setUp()
        self.taken, self.results = [], []
        self.following = self.connection.follow(0, self.take)
        self.transport.clear()

    def take(self, frames):
        self.taken.append(bytes(frames.frames))
        result = self.results.pop(0) if self.results else None
        if isinstance(result, Exception):
            raise result
        return result

    def test_credit(self):
        """Credit is given for just what was taken, once that is done with."""
        done = Deferred()
        self.results = [None, done]
        self.receive(FollowFrames(next_offset=1, frames=b"abc"), stream=1)
        self.assertEqual(self.sent(Credit).credit, 3)
        self.receive(FollowFrames(next_offset=2, frames=b"de"), stream=1)
        self.assertEqual(self.transport.value(), b"")
        done.callback(None)
        self.assertEqual((self.sent(Credit).credit, self.taken), (2, [b"abc", b"de"]))
        self.assertNoResult(self.following)

    def test_error(self):
        """An error of the receiver ends the stream with it, here and at the node; no more is delivered."""
        self.results = [ValueError("no")]
        self.receive(FollowFrames(next_offset=1, frames=b"abc"), stream=1)
        self.sent(Cancel)
        self.failureResultOf(self.following, ValueError)
        self.receive(FollowFrames(next_offset=2, frames=b"de"), stream=1)
        self.assertEqual(self.taken, [b"abc"])

    def test_error_behind_the_end(self):
        """An error behind the end is nobody's."""
        done = Deferred()
        self.results = [done]
        self.receive(FollowFrames(next_offset=1, frames=b"abc"), stream=1)
        self.lose()
        self.failureResultOf(self.following, UnavailableError)
        done.errback(ValueError("late"))

    def test_close(self):
        """A close ends what is followed and waits for the rest."""
        asked = self.connection.bounds()
        self.transport.clear()
        self.connection.close()
        kinds = [kind for kind, _ in self.transport.take_frames()]
        self.assertEqual(kinds, [Cancel.KIND, Goodbye.KIND])
        self.assertNoResult(asked)
        self.assertNotIn("lose", self.transport.calls)
        self.receive(BoundsReply(lowest=0, next_offset=0), stream=2)
        self.successResultOf(asked)
        self.assertIn("lose", self.transport.calls)


class ConnectTests(SynchronousTestCase):
    """From an address to a connection that is greeted."""

    def setUp(self):
        self.clock = Clock()
        self.endpoints = []

        def endpoint(*address):
            self.endpoints.append(SimpleNamespace(address=address, connect=self.connect))
            return self.endpoints[-1]

        self.patch(binary_client, "HostnameEndpoint", endpoint)
        self.connected = Deferred()

    def connect(self, factory):
        self.factory = factory
        return self.connected

    def accept(self):
        connection = self.factory.buildProtocol(None)
        self.transport = Transport()
        connection.makeConnection(self.transport)
        self.connected.callback(connection)
        return connection

    def text_of(self, result, kind):
        return str(self.failureResultOf(result, kind).value)

    def test_greeted(self):
        """It is connected once the node said Hello, and the time for that is over then."""
        result = binary_client.connect(self.clock, "h", 5, None)
        self.assertEqual(self.endpoints[0].address, (self.clock, "h", 5))
        connection = self.accept()
        self.assertNoResult(result)
        connection.dataReceived(frame_of(hello_of("n1")))
        self.assertIs(self.successResultOf(result), connection)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_not_greeted(self):
        """A node that says nothing is given up after 10 s, and its connection cut off."""
        result = binary_client.connect(self.clock, "h", 5, None)
        self.accept()
        self.clock.advance(GREETING_SECONDS - 0.1)
        self.assertNoResult(result)
        self.clock.advance(0.1)
        text = self.text_of(result, UnavailableError)
        self.assertEqual(text, "the node did not say Hello within 10 s")
        self.assertEqual(self.transport.take_calls()[-1], "abort")

    def test_unreachable(self):
        """Where nobody listens the address is named; an error of ours stays what it is."""
        result = binary_client.connect(self.clock, "h", 5, None)
        self.connected.errback(ConnectionRefusedError("no"))
        self.assertEqual(self.text_of(result, UnavailableError), "h:5: no; is a node listening there?")
        self.connected = Deferred()
        result = binary_client.connect(self.clock, "h", 5, None)
        self.connected.errback(IdentityError("who?"))
        self.assertEqual(self.text_of(result, IdentityError), "who?")

    def test_tls(self):
        """With TLS it is dialled as a client's, to a server of that name, and greets after the handshake."""
        made = []
        soon = object()
        self.patch(binary_client, "soon_of", lambda reactor: soon if reactor is self.clock else None)
        self.patch(
            binary_client, "BulkTlsFactory", lambda *args, **fields: made.append((args, fields)) or args[2]
        )
        tls = SimpleNamespace(options=lambda host: f"options for {host}")
        result = binary_client.connect(self.clock, "h", 5, tls)
        [((options, is_client, factory), fields)] = made
        self.assertEqual(
            (options, is_client, fields), ("options for h", True, {"clock": self.clock, "soon": soon})
        )
        inner = factory.buildProtocol(None)
        inner.makeConnection(Transport())
        self.assertEqual(inner.transport.value(), b"")
        self.connected.callback(SimpleNamespace(wrappedProtocol=inner))
        inner.handshakeCompleted()
        inner.dataReceived(frame_of(hello_of("n1")))
        self.assertIs(self.successResultOf(result), inner)


class EndTests(ClientCase):
    """How a connection begins and ends, and what is said of it."""

    def test_up(self):
        """It is up with the node's Hello; who asks later hears it at once."""
        connection = self.connection = self.make()
        self.assertEqual(self.transport.take_calls(), [("no delay", True)])
        self.assertEqual(self.sent(Hello), hello_of(""))
        up = connection.when_up()
        self.assertNoResult(up)
        self.receive(hello_of("n1"))
        self.assertIs(self.successResultOf(up), connection)
        self.assertIs(self.successResultOf(connection.when_up()), connection)
        self.assertEqual(connection.hello.node_name, "n1")

    def test_handshake(self):
        """With TLS it says Hello after the handshake, to who speaks its protocol; else it hangs up."""
        connection = self.connection = self.make(is_tls=True)
        self.assertEqual(self.transport.value(), b"")
        connection.dataReceived(b"?")
        error = self.failureResultOf(connection.bounds(), UnavailableError).value
        self.assertEqual(str(error), "not connected yet")
        connection.handshakeCompleted()
        self.sent(Hello)
        self.assertGreater(self.transport.bufferSize, 65_536)
        connection = self.connection = self.make(is_tls=True)
        up = connection.when_up()
        self.transport.negotiatedProtocol = b"h2"
        connection.handshakeCompleted()
        self.assertEqual((self.transport.take_calls()[-1], self.transport.value()), ("abort", b""))
        self.lose()
        error = self.failureResultOf(up, ProtocolError).value
        self.assertIn("the port does not speak loghouse/1", str(error))

    def test_lost(self):
        """At the end reads are unavailable, appends unknown, closes done; and nothing can be asked."""
        read, append = self.connection.bounds(), self.connection.produce(b"b", record_count=1)
        closed = self.connection.close()
        self.assertNoResult(closed)
        self.lose()
        error = self.failureResultOf(read, UnavailableError).value
        self.assertEqual(str(error), "the connection is gone: Connection was closed cleanly.")
        text = str(self.failureResultOf(append, OutcomeUnknownError).value)
        self.assertEqual(text, f"the connection went before the answer came: {error}")
        self.successResultOf(closed)
        self.successResultOf(self.connection.close())
        self.failureResultOf(self.connection.bounds(), UnavailableError)
        self.failureResultOf(self.connection.when_up(), UnavailableError)
        self.assertEqual(self.connection._pending, {})
        self.transport.take_calls()
        self.connection.abort()
        self.assertEqual(self.transport.take_calls(), [])

    def test_refused(self):
        """A node's refusal is the reason of everything behind it, also of a Hello that does not come."""
        connection = self.connection = self.make()
        up = connection.when_up()
        self.receive(LinkError.of(IdentityError("denied")))
        self.lose()
        self.assertEqual(str(self.failureResultOf(up, IdentityError).value), "denied")
        self.failureResultOf(connection.bounds(), LoghouseError)

    def test_broken_rule(self):
        """A node that breaks a rule is left: that is why what was asked failed."""
        asked = self.connection.bounds()
        self.connection.dataReceived(b"\xff" * 40)
        self.assertEqual(self.transport.take_calls()[-1], "lose")
        self.lose()
        self.failureResultOf(asked, ProtocolError)

    def test_close_before_hello(self):
        """Before TLS is done a close just closes; a cancelled wait for the Hello cuts off."""
        connection = self.connection = self.make(is_tls=True)
        closed = connection.close()
        self.assertEqual(self.transport.take_calls()[-1], "lose")
        self.lose()
        self.successResultOf(closed)
        connection = self.connection = self.make()
        up = connection.when_up()
        up.cancel()
        self.assertEqual(self.transport.take_calls()[-1], "abort")
        self.failureResultOf(up, CancelledError)

    def test_fetch_reply_in_parts(self):
        """An answer that comes in pieces is one answer."""
        asked = self.connection.fetch(0)
        data = frame_of(FetchReply(next_offset=1, frames=b"abc"), stream=1)
        for number in range(len(data)):
            self.assertNoResult(asked)
            self.connection.dataReceived(data[number : number + 1])
        self.assertEqual(bytes(self.successResultOf(asked).frames), b"abc")

    def test_append_answer(self):
        """An append's answer is its own."""
        asked = self.connection.produce(b"b", record_count=1)
        self.receive(ProduceReply(base_offset=3, record_count=1, timestamp=5), stream=1)
        self.assertEqual(self.successResultOf(asked).base_offset, 3)
