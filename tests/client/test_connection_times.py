"""One connection without a network: what is written to its transport, when, and what each answer does.

On a loop with a clock of its own; the node is a session of the protocol, and its bytes come as a test says.
"""

import asyncio

from twisted.trial.unittest import SynchronousTestCase

from loghouse.client import connection
from loghouse.client.channels import FetchAnswer
from loghouse.client.connection import Connection
from loghouse.client.failures import CallFailedError, Effect
from loghouse.client.pin import ClusterPin
from loghouse.errors import (
    ClosedError,
    IdentityError,
    InvalidRequestError,
    OutcomeUnknownError,
    PermissionDeniedError,
    ResourceExhaustedError,
    UnauthenticatedError,
    UnavailableError,
    VersionError,
)
from loghouse.limits import MIB, REQUESTS_PER_CONNECTION_MAX
from loghouse.protocol.client_messages import (
    Bounds,
    BoundsReply,
    Follow,
    FollowFrames,
    LeaderHint,
    Produce,
)
from loghouse.protocol.link_messages import ALPN, LinkRole
from loghouse.protocol.session import (
    CancelReceived,
    CreditReceived,
    GoodbyeReceived,
    RequestReceived,
    Session,
)
from tests.client.test_connection import HELLO
from tests.fakes.clock_loop import timed

APPEND = Produce(batch=b"\n\x02\n\x00", record_count=1)


class Certificate:
    """What a TLS transport tells of its other end."""

    def __init__(self, uri="loghouse://c1/node/n1", protocol=ALPN):
        self.uri = uri
        self.protocol = protocol

    def selected_alpn_protocol(self):
        return self.protocol

    def getpeercert(self):
        return {"subjectAltName": (("DNS", "localhost"), ("URI", self.uri))}


class Transport:
    """Notes what a connection does with it; `tls` is what it shows."""

    def __init__(self, tls=None):
        self.tls = tls
        self.written = b""
        self.write_count = 0
        self.limits = {}
        self.ends = []

    def set_write_buffer_limits(self, **limits):
        self.limits = limits

    def get_extra_info(self, name):
        return {"ssl_object": self.tls}[name]

    def write(self, data):
        self.written += data
        self.write_count += 1

    def is_closing(self):
        return bool(self.ends)

    def close(self):
        self.ends.append("close")

    def abort(self):
        self.ends.append("abort")


class WireCase(SynchronousTestCase):
    """A connection, its transport, and the node's session."""

    def connect(self, *, greets=True, tls=None, pin=None):
        """Connect; the node greets at once, but for `greets=False`."""
        self.hints = []
        self.made = Connection("h1:1", lambda *hint: self.hints.append(hint), pin or ClusterPin())
        self.node = Session(HELLO, is_dialler=False)
        self.transport = Transport(tls)
        self.made.connection_made(self.transport)
        if greets:
            self.heard()
            self.say()
        return self.made

    @property
    def now(self):
        return round(self.loop.time(), 6)

    def heard(self):
        """What the node heard since the last time."""
        data, self.transport.written = self.transport.written, b""
        return self.node.receive(data)

    def say(self, data=None):
        """Let the connection have what the node said."""
        data = b"".join(self.node.bytes_to_send()) if data is None else data
        while data:
            room = self.made.get_buffer(-1)
            size = min(len(room), len(data))
            room[:size] = data[:size]
            self.made.buffer_updated(size)
            data = data[size:]

    def answer(self, stream, reply):
        self.node.answer(stream, reply)
        self.say()

    def lose(self, error=None):
        """The connection ends."""
        self.made.connection_lost(error)

    async def failure(self, work):
        try:
            result = await work
        except CallFailedError as error:
            return error.failure
        raise self.failureException(f"gave {result!r}")

    def check(self, failure, kind, text, effect, *, is_link=True, is_permanent=False):
        self.assertEqual((type(failure.error), str(failure.error)), (kind, text))
        self.assertEqual(
            (failure.effect, failure.is_link, failure.is_permanent), (effect, is_link, is_permanent)
        )


async def turn():
    """Let everybody go on who can."""
    for _ in range(5):
        await asyncio.sleep(0)


class LivenessTests(WireCase):
    """A node that vanished is noticed while something is asked of it."""

    @timed
    async def test_silent(self):
        """Silent for 10 s it is pinged, for 20 s it is given up."""
        made = self.connect()
        asking = asyncio.ensure_future(made.ask(Bounds(), 1, 60.0))
        await asyncio.sleep(9.999)
        self.heard()
        before = self.transport.write_count
        self.assertEqual(self.transport.write_count, before)
        await asyncio.sleep(0.002)
        self.assertEqual((self.transport.write_count, self.transport.ends), (before + 1, []))
        await asyncio.sleep(9.997)
        self.assertEqual(self.transport.ends, [])
        await asyncio.sleep(0.003)
        self.assertEqual(self.transport.ends, ["abort"])
        self.lose()
        self.check(await self.failure(asking), UnavailableError, "h1:1: silent for 20 s", Effect.NOTHING)

    @timed
    async def test_answers_to_pings(self):
        """As long as pings are answered it is waited for; so it is while anything comes."""
        made = self.connect()
        asking = asyncio.ensure_future(made.ask(Bounds(), 1, 60.0))
        for _ in range(5):
            await asyncio.sleep(10.0)
            self.heard()
            self.say()
        self.assertEqual(self.transport.ends, [])
        self.answer(1, BoundsReply(lowest=0, next_offset=3))
        self.assertEqual((await asking).next_offset, 3)

    @timed
    async def test_nothing_is_asked(self):
        """A connection on which nothing is asked is let alone, however long; asked again it is watched."""
        made = self.connect()
        asking = asyncio.ensure_future(made.ask(Bounds(), 1, 60.0))
        await turn()
        self.heard()
        self.answer(1, BoundsReply(lowest=0, next_offset=3))
        await asking
        before = self.transport.write_count
        await asyncio.sleep(100.0)
        self.assertEqual((self.transport.write_count, self.transport.ends), (before, []))
        following = made.follow(0, 1)
        await asyncio.sleep(19.999)
        self.assertEqual(self.transport.ends, [])
        await asyncio.sleep(0.001)
        self.assertEqual(self.transport.ends, ["abort"])
        self.lose()
        self.assertIn("silent for 20 s", str((await self.failure(following.read())).error))


class AnswerTests(WireCase):
    """Requests and what becomes of them."""

    @timed
    async def test_no_answer(self):
        """An answer is waited for as long as was said, to the moment; then the request is cancelled."""
        made = self.connect()
        asking = asyncio.ensure_future(made.ask(APPEND, 1, 2.5))
        await asyncio.sleep(2.499)
        self.assertFalse(asking.done())
        failure = await self.failure(asking)
        self.assertEqual(self.now, 2.5)
        self.check(failure, OutcomeUnknownError, "h1:1: no answer within 2.5 s", Effect.UNKNOWN)
        await turn()
        self.assertIn(CancelReceived, [type(event) for event in self.heard()])

    @timed
    async def test_cancelled(self):
        """Who does not wait any more cancels the request; the alarm does not ring afterwards."""
        made = self.connect()
        asking = asyncio.ensure_future(made.ask(Bounds(), 1, 2.5))
        await turn()
        asking.cancel()
        await asyncio.wait({asking})
        await turn()
        self.assertIn(CancelReceived, [type(event) for event in self.heard()])
        self.assertFalse(made._asked)
        self.answer(1, BoundsReply(lowest=0, next_offset=3))  # too late: nobody minds
        await asyncio.sleep(5.0)
        self.assertEqual(self.transport.ends, [])

    @timed
    async def test_forgotten_twice(self):
        """A request is cancelled once, and its room is given back once; its answer may come or not."""
        made = self.connect()
        asked = []
        for _ in range(2):
            await made.enter(1.0)
            asked.append(made.begin(Bounds(), 1))
        for _ in range(2):
            made.forget(asked[0])
        await turn()
        self.assertEqual([type(event) for event in self.heard()].count(CancelReceived), 1)
        asked[0].answer.cancel()
        made.forget(asked[0])
        self.lose()
        made.forget(asked[1])
        self.assertEqual(made._room.free, REQUESTS_PER_CONNECTION_MAX)

    @timed
    async def test_room(self):
        """Each request gives its room back, however it ends: so many may be open again and again."""
        self.patch(connection, "REQUESTS_PER_CONNECTION_MAX", 2)
        made = self.connect()
        ends = {
            "answered": lambda stream: self.answer(stream, BoundsReply(lowest=0, next_offset=3)),
            "refused": lambda stream: (self.node.refuse(stream, UnavailableError("no")), self.say()),
            "late": lambda stream: None,
        }
        for what, end in ends.items():
            for _ in range(2):
                asked = [asyncio.ensure_future(made.ask(Bounds(), 1, 1.0)) for _ in range(2)]
                await turn()
                third = asyncio.ensure_future(made.ask(Bounds(), 1, 5.0))
                await turn()
                streams = [event.stream for event in self.heard() if isinstance(event, RequestReceived)]
                self.assertEqual(len(streams), 2, what)
                end(streams[0])
                end(streams[1])
                await asyncio.wait(asked)
                await turn()
                (event,) = [event for event in self.heard() if isinstance(event, RequestReceived)]
                self.answer(event.stream, BoundsReply(lowest=0, next_offset=3))
                await third

    @timed
    async def test_no_room(self):
        """Who waits for room is told after its time what is full."""
        self.patch(connection, "REQUESTS_PER_CONNECTION_MAX", 1)
        made = self.connect()
        first = asyncio.ensure_future(made.ask(Bounds(), 1, 60.0))
        await turn()
        failure = await self.failure(made.ask(Bounds(), 1, 1.5))
        self.assertEqual((self.now, failure.error.resource), (1.5, "requests"))
        self.assertEqual(
            failure.error.limit, "1 are open on the connection to h1:1, and none ended within 1.5 s"
        )
        self.assertEqual((failure.effect, failure.is_link), (Effect.NOTHING, False))
        self.heard()
        self.answer(1, BoundsReply(lowest=0, next_offset=3))
        await first
        self.assertEqual(REQUESTS_PER_CONNECTION_MAX > 1, True)

    @timed
    async def test_refused(self):
        """A refusal is for whoever asked, by request or by following; the leader's name is told on."""
        made = self.connect()
        following = made.follow(7, 1)
        asking = asyncio.ensure_future(made.ask(APPEND, 1, 5.0))
        await turn()
        follow, append = (event for event in self.heard() if isinstance(event, RequestReceived))
        self.assertEqual(follow.request, Follow(offset=7, credit=2 * MIB))
        for stream in (follow.stream, append.stream):
            self.node.refuse(stream, InvalidRequestError("record", "is bad"))
        self.node.send(LeaderHint(name="n9"))
        self.say()
        for waiting in (following.read(), asking):
            failure = await self.failure(waiting)
            self.check(failure, InvalidRequestError, "record: is bad", Effect.REFUSED, is_link=False)
        self.assertEqual(self.hints, [("n9", 1)])
        following.cancel()
        await turn()
        self.assertEqual(self.heard(), [])

    @timed
    async def test_room_of_streams(self):
        """A followed stream takes room like a request, and gives it back when it is refused or cancelled."""
        made = self.connect()
        room = made._room.free
        for is_refused in (True, False):
            await made.enter(1.0)
            following = made.follow(7, 1)
            await turn()
            self.assertEqual(made._room.free, room - 1)
            (event,) = (event for event in self.heard() if isinstance(event, RequestReceived))
            if is_refused:
                self.node.refuse(event.stream, UnavailableError("no"))
                self.say()
            else:
                following.cancel()
            self.assertEqual(made._room.free, room)
            following.cancel()
            self.assertEqual(made._room.free, room)

    @timed
    async def test_follow(self):
        """What was read is given back as credit when the next is asked for; cancelling ends it."""
        made = self.connect()
        following = made.follow(0, 1)
        await turn()
        (event,) = self.heard()
        self.assertIsNone(following.take())
        for number in (1, 2):
            self.answer(event.stream, FollowFrames(frames=b"f" * number, next_offset=number))
        self.assertEqual(following.take(), FetchAnswer(b"f", 1))
        await turn()
        self.assertEqual(self.heard(), [])
        self.assertEqual(await following.read(), FetchAnswer(b"ff", 2))
        await turn()
        self.assertEqual(self.heard(), [CreditReceived(stream=event.stream)])
        reading = asyncio.ensure_future(following.read())
        await turn()
        self.assertEqual([type(one) for one in self.heard()], [CreditReceived])
        reading.cancel()
        following.cancel()
        await turn()
        self.assertEqual([type(one) for one in self.heard()], [CancelReceived])
        made.add_credit(event.stream, 5)  # nobody follows any more
        await turn()
        self.assertEqual(self.heard(), [])

    @timed
    async def test_flow(self):
        """What the transport does not take is waited for; its buffer is 1 MiB."""
        made = self.connect()
        self.assertEqual(self.transport.limits, {"high": MIB})
        await made.drain()
        made.pause_writing()
        draining = asyncio.ensure_future(made.drain())
        await asyncio.sleep(5.0)
        self.assertFalse(draining.done())
        made.resume_writing()
        await draining
        made.resume_writing()
        made.pause_writing()
        draining = asyncio.ensure_future(made.drain())
        await turn()
        self.lose()
        await draining


class BeginTests(WireCase):
    """What is found out before the first request."""

    @timed
    async def test_hello(self):
        """The client greets as one, and is up when the node has greeted back."""
        made = self.connect(greets=False)
        self.assertFalse(made.is_up)
        (event,) = self.heard()
        self.assertEqual(event.hello.role, LinkRole.CLIENT)
        self.say()
        self.assertEqual((made.is_up, made.up.done(), made.lost.done()), (True, True, False))

    @timed
    async def test_before_hello(self):
        """Nothing can be asked before; room is given back nevertheless."""
        self.patch(connection, "REQUESTS_PER_CONNECTION_MAX", 1)
        made = self.connect(greets=False)
        for _ in range(3):
            failure = await self.failure(made.ask(Bounds(), 1, 1.0))
            self.check(failure, UnavailableError, "the connection is closing", Effect.NOTHING)

    @timed
    async def test_something_else(self):
        """TLS where none is wanted is told from other bytes; neither is a node."""
        for data, kind, is_permanent, words in (
            (
                b"\x15\x03\x01\x00\x02\x02\x46" + bytes(30),
                IdentityError,
                True,
                "speaks TLS, and this client does not",
            ),
            (
                b"\x16\x03\x01\x00\x02\x02\x46" + bytes(30),
                IdentityError,
                True,
                "give `tls` (--ca, --cert, --key)",
            ),
            (b"HTTP/1.1 400 Bad Request\r\n\r\n" + bytes(30), UnavailableError, False, "before Hello"),
        ):
            made = self.connect(greets=False)
            self.say(data)
            failure = await self.failure(made.up)
            self.assertIn(words, str(failure.error))
            self.assertEqual(
                (type(failure.error), failure.effect, failure.is_link, failure.is_permanent),
                (kind, Effect.NOTHING, True, is_permanent),
            )
            self.assertEqual(self.transport.ends, ["abort"])
            self.lose()
            self.assertTrue(made.lost.done())

    @timed
    async def test_alpn(self):
        """A TLS server that does not speak the protocol is refused, with the way out."""
        made = self.connect(greets=False, tls=Certificate(protocol="h2"))
        self.check(
            await self.failure(made.up),
            UnavailableError,
            f"h1:1 does not speak {ALPN}; for a door of gRPC alone, use --transport grpc",
            Effect.REFUSED,
            is_permanent=True,
        )
        self.assertEqual((self.transport.ends, self.transport.written), (["abort"], b""))
        self.lose()

    @timed
    async def test_certificate(self):
        """Whose certificate it is, is looked at before a word is said, and held against its Hello."""
        made = self.connect(tls=Certificate())
        self.assertTrue(made.is_up)
        for uri, words in (
            ("loghouse://c2/node/n1", "'c2', but this client talks to cluster 'c1'"),
            ("loghouse://c1/client/n1", "its certificate is of no Loghouse node"),
        ):
            made = self.connect(greets=False, tls=Certificate(uri), pin=ClusterPin("c1"))
            failure = await self.failure(made.up)
            self.assertIn(words, str(failure.error))
            self.assertEqual(
                (type(failure.error), failure.is_permanent, self.transport.written),
                (IdentityError, True, b""),
            )
            self.lose()
        made = self.connect(tls=Certificate("loghouse://c1/node/n2"))
        failure = await self.failure(made.up)
        self.assertIn("says that it is node 'n1'", str(failure.error))
        self.assertTrue(failure.is_permanent)
        self.lose()

    @timed
    async def test_never_served(self):
        """Who is told that it will never be served does not come again; anything else may pass."""
        for error, is_permanent in (
            (IdentityError("who"), True),
            (VersionError("old"), True),
            (UnauthenticatedError("who"), True),
            (PermissionDeniedError("root", "consume", "default"), True),
            (ResourceExhaustedError("connections", "many"), False),
        ):
            made = self.connect(greets=False)
            self.node.fail(error)
            self.say()
            self.lose()
            failure = await self.failure(made.up)
            self.assertEqual((failure.is_permanent, failure.is_link), (is_permanent, True), error)
            self.assertIs(type(failure.error), type(error) if is_permanent else UnavailableError)

    @timed
    async def test_lost_before(self):
        """A connection that goes before the Hello says why it went."""
        for error, text in (
            (None, "h1:1: the node closed the connection"),
            (ConnectionResetError(), "h1:1: the server cut the connection"),
            (OSError(110, "timed out"), "h1:1: timed out"),
        ):
            made = self.connect(greets=False)
            self.lose(error)
            self.check(await self.failure(made.up), UnavailableError, text, Effect.NOTHING)
            self.assertTrue(made.lost.done())

    @timed
    async def test_aborted_early(self):
        """A connection that nobody wants any more is cut when it is there."""
        made = Connection("h1:1", print, ClusterPin())
        made.abort()
        self.assertFalse(made.is_up)
        transport = Transport()
        made.connection_made(transport)
        self.assertEqual((transport.ends, transport.written), (["abort"], b""))


class EndTests(WireCase):
    """How it ends, and what those who wait are told."""

    @timed
    async def test_lost(self):
        """An append may have been done; whatever else was asked was not; later nothing can be asked."""
        made = self.connect()
        await made.enter(1.0)
        following = made.follow(0, 1)
        asked = [asyncio.ensure_future(made.ask(request, 1, 9.0)) for request in (APPEND, Bounds())]
        await turn()
        self.lose()
        text = "h1:1: the node closed the connection"
        append, bounds = [await self.failure(one) for one in asked]
        self.check(append, OutcomeUnknownError, f"no answer came: {text}", Effect.UNKNOWN)
        self.check(bounds, UnavailableError, text, Effect.NOTHING)
        self.check(await self.failure(following.read()), UnavailableError, text, Effect.NOTHING)
        self.check(await self.failure(made.ask(APPEND, 1, 9.0)), UnavailableError, text, Effect.NOTHING)
        self.assertEqual((made.is_up, made._room.free), (False, REQUESTS_PER_CONNECTION_MAX))

    @timed
    async def test_close(self):
        """Closing says goodbye, tells everybody, and waits 1 s for the node to end the connection."""
        made = self.connect()
        asked = [asyncio.ensure_future(made.ask(request, 1, 9.0)) for request in (APPEND, Bounds())]
        await turn()
        self.heard()
        closing = asyncio.ensure_future(made.close())
        await turn()
        self.assertIn(GoodbyeReceived, [type(event) for event in self.heard()])
        append, bounds = [await self.failure(one) for one in asked]
        text = "the client was closed before the answer came"
        self.check(append, OutcomeUnknownError, f"no answer came: {text}", Effect.UNKNOWN)
        self.check(bounds, ClosedError, text, Effect.NOTHING)
        self.assertEqual((made.is_up, self.transport.ends), (False, ["close"]))
        await asyncio.sleep(0.999)
        self.assertEqual(self.transport.ends, ["close"])
        await asyncio.sleep(0.001)
        self.assertEqual(self.transport.ends, ["close", "abort"])
        self.assertFalse(closing.done())
        self.lose()
        await closing
        self.assertEqual(self.now, 1.0)
        made = self.connect()
        await made.close()  # nobody ends it: 2 s are enough
        self.assertEqual(self.now, 3.0)

    @timed
    async def test_goodbye(self):
        """After a node's goodbye nothing new is asked; what is open is answered."""
        made = self.connect()
        asking = asyncio.ensure_future(made.ask(Bounds(), 1, 9.0))
        await turn()
        self.heard()
        self.node.say_goodbye("restarting")
        self.say()
        self.assertFalse(made.is_up)
        failure = await self.failure(made.ask(Bounds(), 1, 9.0))
        self.check(failure, UnavailableError, "the connection is closing", Effect.NOTHING)
        self.answer(1, BoundsReply(lowest=0, next_offset=3))
        self.assertEqual((await asking).next_offset, 3)
        self.assertEqual(self.transport.ends[:1], ["close"])

    @timed
    async def test_rule_is_broken(self):
        """A frame that may not come cuts the connection; whatever comes behind it is not looked at."""
        made = self.connect()
        asking = asyncio.ensure_future(made.ask(Bounds(), 1, 9.0))
        await turn()
        self.say(bytes.fromhex("00000000 0308 0000 00000001 00000001".replace(" ", "")))
        self.assertEqual(self.transport.ends, ["abort"])
        self.lose()
        self.assertIn("0x0308", str((await self.failure(asking)).error))
