"""Tests of binary client sessions through the real port: what they get, and what they are refused."""

import os
import threading

from twisted.internet import reactor
from twisted.internet.defer import CancelledError, Deferred, gatherResults, succeed

from loghouse import errors
from loghouse.api.v1.log_pb2 import Record
from loghouse.limits import KIB, MIB, PAYLOAD_SIZE_MAX, RECORDS_PER_BATCH_MAX
from loghouse.net.appending import ENTRIES_MAX
from loghouse.net.binary_client import connect
from loghouse.net.link import LinkTimes
from loghouse.protocol import checking
from loghouse.protocol.batch import decode_batch, encode_batch
from loghouse.protocol.checking import UNPACKED_AT_ONCE_MAX
from loghouse.protocol.compression import compress
from loghouse.protocol.entry import Codec, EntryKind
from loghouse.protocol.log_state import decode_log_state
from loghouse.protocol.session import LeaderNamed
from loghouse.replica.api import Fetched
from tests.fakes.node import FakeNode
from tests.net.wire import WireCase, asynchronous, until


def batch(*values):
    return encode_batch([Record(value=value) for value in values])


def values_of(connection, frames):
    """Return the values of all records in fetched frames."""
    return [
        record.value
        for entry in connection.entries(frames)
        if entry.kind == EntryKind.RECORDS
        for record in decode_batch(entry.payload, entry.attributes).records
    ]


async def refused(test, answer, expected):
    """Await what must fail with this error; return it."""
    try:
        await answer
    except expected as error:
        return error
    raise test.failureException(f"answered instead of {expected.__name__}")


class SessionCase(WireCase):
    """A port, and a connection of `root` to it."""

    async def begin(self):
        self.open_port()
        self.connection = await self.connect()


class RequestTests(SessionCase):
    """Every request does what the same call does over gRPC."""

    @asynchronous
    async def test_produce_and_fetch(self):
        """A batch comes back as the bytes it went in as, with its checksum and its offsets."""
        payload = batch(b"a", b"b")
        reply = await self.connection.produce(payload, record_count=2)
        self.assertEqual((reply.base_offset, reply.record_count), (0, 2))
        fetched = await self.connection.fetch(1)
        [entry] = self.connection.entries(fetched.frames)
        self.assertEqual((bytes(entry.payload), fetched.next_offset), (payload, 2))
        [proposal] = self.node.proposals
        self.assertEqual(proposal.subject, "root")
        self.assertIsNot(proposal.payload_crc, None)

    @asynchronous
    async def test_read_state(self):
        """The state before an entry comes as it is on a disk, between reads, and is refused as they are."""
        for values in ((b"a", b"b"), (b"c",)):
            await self.connection.produce(batch(*values), record_count=len(values))
        for offset, index in ((0, 0), (1, 0), (2, 1), (3, 2)):
            waiting = self.connection.fetch(2)
            reply = await self.connection.read_state(offset)
            state = decode_log_state(bytes(reply.state))
            self.assertEqual((state.index, reply.next_offset), (index, state.next_offset))
            self.assertEqual((await waiting).next_offset, 3)
        error = await refused(self, self.connection.read_state(4), errors.OffsetOutOfRangeError)
        self.assertEqual((error.lowest, error.next_offset), (0, 3))

    @asynchronous
    async def test_sizes_of_reads(self):
        """A read takes as much as it asks for, 512 KiB if it does not say, and 2 MiB at most."""
        await self.connection.produce(batch(b"a"), record_count=1)
        for asked, taken in ((0, 512 * KIB), (1, 1), (2 * MIB, 2 * MIB), (2 * MIB + 1, 2 * MIB)):
            await self.connection.fetch(0, size_max=asked)
            self.assertEqual(self.node.sizes[-1], taken)

    @asynchronous
    async def test_plaintext(self):
        """Configured without TLS the same frames go over plain TCP, as the configured subject."""
        await self.close_port()
        self.open_port(plaintext=True)
        connection = await self.connect()
        payload = batch(*[bytes(MIB - 100)] * 3)  # its answer is written in parts
        await connection.produce(payload, record_count=3)
        self.assertEqual(self.node.proposals[0].subject, "root")
        [entry] = connection.entries((await connection.fetch(0)).frames)
        self.assertTrue(entry.payload == payload)

    @asynchronous
    async def test_describe_bounds_time(self):
        """Describe, Bounds and FindOffset answer from the node."""
        await self.connection.produce(batch(b"a", b"b", b"c"), record_count=3)
        FakeNode(self.node.cluster, "n2")
        described = await self.connection.describe()
        self.assertEqual(described.logs, ((1, "default"),))
        self.assertEqual([server.name for server in described.servers], ["n1", "n2"])
        bounds = await self.connection.bounds()
        self.assertEqual((bounds.lowest, bounds.next_offset), (0, 3))
        found = await self.connection.find_offset(0)
        self.assertEqual(found.offset, 0)

    @asynchronous
    async def test_many_in_flight(self):
        """Hundreds of small batches on one connection share entries, each with its own answer."""
        self.node.hold()
        asked = [self.connection.produce(batch(b"%d" % n), record_count=1) for n in range(200)]
        bounds = await self.connection.bounds()  # behind them, and answered before them
        self.assertEqual(bounds.next_offset, 0)
        self.assertLessEqual(self.node.held_count, ENTRIES_MAX)
        self.node.release()
        replies = await gatherResults(asked)
        self.assertEqual([reply.base_offset for reply in replies], list(range(200)))
        self.assertEqual({reply.record_count for reply in replies}, {1})
        self.assertLessEqual(len(self.node.proposals), ENTRIES_MAX + 1)
        frames = (await self.connection.fetch(0)).frames
        self.assertEqual(values_of(self.connection, frames), [b"%d" % n for n in range(200)])

    @asynchronous
    async def test_what_does_not_share(self):
        """A batch of a producer, one that expects an offset and a packed one keep entries of their own."""
        packed = compress(batch(b"c"), Codec.ZSTD)
        asked = [
            self.connection.produce(batch(b"a"), record_count=1),
            self.connection.produce(batch(b"b"), record_count=1, expect_offset=1),
            self.connection.produce(packed, record_count=1, codec=Codec.ZSTD),
            self.connection.produce(batch(b"d"), record_count=1, producer_id=7, producer_sequence=3),
            self.connection.produce(batch(b"e"), record_count=1),
        ]
        replies = await gatherResults(asked)
        self.assertEqual([reply.base_offset for reply in replies], list(range(5)))
        proposals = self.node.proposals
        self.assertEqual([p.record_count for p in proposals], [1] * 5)
        self.assertEqual((proposals[1].expect_offset, proposals[2].attributes), (1, Codec.ZSTD))
        self.assertEqual((proposals[3].producer_id, proposals[3].producer_sequence), (7, 3))

    @asynchronous
    async def test_a_slow_check_lets_nothing_overtake(self):
        """What comes behind a batch that another thread unpacks is proposed behind it, failed or not."""
        large = compress(batch(os.urandom(2 * UNPACKED_AT_ONCE_MAX)), Codec.ZSTD)
        asked = [
            self.connection.produce(large, record_count=1, codec=Codec.ZSTD, producer_id=7),
            self.connection.produce(batch(b"b"), record_count=1, producer_id=7, producer_sequence=1),
            self.connection.produce(large, record_count=2, codec=Codec.ZSTD),
            self.connection.produce(batch(b"c"), record_count=1),
        ]
        self.assertEqual((await asked[0]).base_offset, 0)
        self.assertEqual((await asked[1]).base_offset, 1)
        await refused(self, asked[2], errors.InvalidRequestError)
        self.assertEqual((await asked[3]).base_offset, 2)
        self.assertEqual([p.producer_sequence for p in self.node.proposals], [0, 1, 0])

    @asynchronous
    async def test_a_check_given_up_holds_nobody_back(self):
        """A batch whose client stops waiting while it is checked goes, and those behind it are proposed."""
        checks = self.listener.links.binary.appends.checks
        held = Deferred()
        self.patch(checks, "_in_thread", lambda work: held)
        large = compress(batch(bytes(2 * UNPACKED_AT_ONCE_MAX)), Codec.ZSTD)
        first = self.connection.produce(large, record_count=1, codec=Codec.ZSTD)
        second = self.connection.produce(batch(b"b"), record_count=1)
        await until(lambda: checks._is_running)
        self.assertEqual(self.node.proposals, [])
        first.cancel()
        await refused(self, first, CancelledError)
        self.assertEqual((await second).base_offset, 0)
        held.callback(None)
        self.assertEqual(len(self.node.proposals), 1)

    @asynchronous
    async def test_a_bomb_leaves_the_reactor_alone(self):
        """A packed batch of a million empty records is unpacked and counted in a thread, not here."""
        here, made = threading.get_ident(), []
        real = checking.parse

        def parse(form, payload):
            parsed = real(form, payload)
            made.append((threading.get_ident() == here, len(parsed.records)))
            return parsed

        self.patch(checking, "parse", parse)
        for payload in (b"\n\0" * RECORDS_PER_BATCH_MAX, b"\n\0" * (PAYLOAD_SIZE_MAX // 2)):
            packed = compress(payload, Codec.ZSTD)
            asked = self.connection.produce(packed, record_count=RECORDS_PER_BATCH_MAX - 1, codec=Codec.ZSTD)
            error = await refused(self, asked, errors.InvalidRequestError)
            self.assertEqual(error.field, "record_count")
            self.assertTrue(made)
            self.assertFalse([count for is_here, count in made if is_here])

    @asynchronous
    async def test_register_producer(self):
        """A client gets a producer id that is bound to its subject."""
        asked_by = []
        self.node.register_producer = lambda subject: asked_by.append(subject) or succeed(41)
        self.assertEqual(await self.connection.register_producer(), 41)
        self.assertEqual(asked_by, ["root"])

    @asynchronous
    async def test_names_the_leader_once(self):
        """Whoever appends through a follower is told who leads: once, and again when that changes."""
        named = []
        taken = self.connection._event_received
        self.connection._event_received = lambda event: (
            named.append((event.name, event.group)) if isinstance(event, LeaderNamed) else taken(event)
        )
        for leader in ("n1", "n2", "n2", "", "n2", "n1", "n3"):
            self.patch(FakeNode, "leader_name", leader)
            await self.connection.produce(batch(b"x"), record_count=1)
        await self.connection.bounds()  # the last one is here, too
        self.assertEqual(named, [("n2", 1), ("n2", 1), ("n3", 1)])

    @asynchronous
    async def test_cancelled_before_it_is_proposed(self):
        """A batch that is cancelled while it waits for company is never proposed."""
        self.node.hold()
        first = self.connection.produce(batch(b"a"), record_count=1)
        await until(lambda: self.node.held_count == 1)
        gone = self.connection.produce(batch(b"gone"), record_count=1)
        waits = self.connection.produce(batch(b"b"), record_count=1)
        gone.addErrback(lambda failure: failure.trap(CancelledError))
        gone.cancel()
        await self.connection.bounds()
        self.node.release()
        self.assertEqual([(await answer).base_offset for answer in (first, waits)], [0, 1])
        self.assertEqual(len(self.node.proposals), 2)

    @asynchronous
    async def test_compressed(self):
        """A large compressed batch is checked and stored as it came."""
        values = [b"%06d" % n * 100 for n in range(2000)]
        packed = compress(batch(*values), Codec.ZSTD)
        await self.connection.produce(packed, record_count=2000, codec=Codec.ZSTD)
        fetched = await self.connection.fetch(0)
        self.assertEqual(values_of(self.connection, fetched.frames), values)

    @asynchronous
    async def test_offsets_beyond(self):
        """Offsets that hold nothing are refused with both bounds, however absurd they are."""
        await self.connection.produce(batch(b"a"), record_count=1)
        for offset in (1, 2**63, 2**64 - 1):
            error = await refused(self, self.connection.fetch(offset), errors.OffsetOutOfRangeError)
            self.assertEqual((error.offset, error.lowest, error.next_offset), (offset, 0, 1))

    @asynchronous
    async def test_expectation(self):
        """`expect_offset` reaches the node, zero included."""
        await self.connection.produce(batch(b"a"), record_count=1, expect_offset=0)
        answer = self.connection.produce(batch(b"a"), record_count=1, expect_offset=0)
        error = await refused(self, answer, errors.ExpectOffsetError)
        self.assertEqual((error.expected, error.actual), (0, 1))

    @asynchronous
    async def test_deadline(self):
        """A produce that is not durable in time has an unknown outcome."""
        self.node.hold()
        patient = self.connection.produce(batch(b"p"), record_count=1)
        answer = self.connection.produce(batch(b"a"), record_count=1, timeout_milliseconds=1)
        await refused(self, answer, errors.OutcomeUnknownError)
        self.assertFalse(patient.called)
        self.node.release()
        self.assertEqual((await patient).base_offset, 0)
        await self.connection.produce(batch(b"b"), record_count=1)

    @asynchronous
    async def test_lost_connection(self):
        """When the connection breaks, a produce has an unknown outcome and a read is just unavailable."""
        self.node.hold()
        produced = self.connection.produce(batch(b"a"), record_count=1)
        followed = self.connection.follow(0, lambda frames: None)
        await until(lambda: self.node.held_count == 1 and self.node.waiters)
        self.listener.abort_all()
        await refused(self, produced, errors.OutcomeUnknownError)
        await refused(self, followed, errors.UnavailableError)
        await until(lambda: not self.node.waiters)
        await refused(self, self.connection.bounds(), errors.UnavailableError)


class PermissionTests(SessionCase):
    """The policy decides about every request."""

    @asynchronous
    async def test_unknown_log(self):
        """Another group is no log; who may not even read does not learn that."""
        await refused(self, self.connection.bounds(group=2), errors.UnknownLogError)
        nobody = await self.connect("nobody")
        await refused(self, nobody.bounds(group=2), errors.PermissionDeniedError)

    @asynchronous
    async def test_permission_taken_back(self):
        """A follower whose permission is taken away gets nothing more."""
        connection = await self.connect("reader")
        got = []
        following = connection.follow(0, got.append)
        await until(lambda: self.node.waiters)
        (self.directory / "policy.csv").write_text("p, root, *, produce\n")
        self.authorizer.take(self.authorizer.read())
        root = await self.connect()
        await root.produce(batch(b"secret"), record_count=1)
        await refused(self, following, errors.PermissionDeniedError)
        self.assertEqual(got, [])

    @asynchronous
    async def test_expired_meanwhile(self):
        """When the certificate expires the connection ends, with the reason."""
        await self.connection.bounds()
        self.wall_clock = lambda: 2**40
        answer = self.connection.bounds()
        error = await refused(self, answer, errors.LoghouseError)
        self.assertIn("expired", str(error))


class FollowTests(SessionCase):
    """Following the tail with credit."""

    @asynchronous
    async def test_from_the_start_and_on(self):
        """What was there and what comes later arrives once, in order."""
        await self.connection.produce(batch(b"0", b"1"), record_count=2)
        got = []
        following = self.connection.follow(
            0, lambda reply: got.extend(values_of(self.connection, reply.frames))
        )
        for n in range(2, 20):
            await self.connection.produce(batch(b"%d" % n), record_count=1)
        await until(lambda: len(got) == 20)
        self.assertEqual(got, [b"%d" % n for n in range(20)])
        following.addErrback(lambda failure: None)
        following.cancel()
        await self.connection.bounds()
        self.assertEqual(self.node.waiters, {})

    @asynchronous
    async def test_credit_bounds_what_is_sent(self):
        """A client that does not digest is sent its credit and not more; when it does, the rest comes."""
        for _ in range(20):
            await self.connection.produce(batch(b"x" * 10_000), record_count=1)
        gates = []

        def slowly(reply):
            gates.append(Deferred())
            return gates[-1]

        following = self.connection.follow(0, slowly, credit_size=30_000)
        following.addErrback(lambda failure: None)
        await until(lambda: gates)
        await self.connection.bounds()
        self.assertLess(self.node.fetches, 4)
        for done in range(7):
            await until(lambda done=done: len(gates) > done)
            gates[done].callback(None)
        self.assertGreaterEqual(self.node.fetches, 7)
        following.cancel()

    @asynchronous
    async def test_trimmed(self):
        """Following from below the lowest offset ends with an error that has both bounds."""
        await self.connection.produce(batch(b"a", b"b"), record_count=2)
        await self.connection.produce(batch(b"c"), record_count=1)
        self.node.cluster.forget(2)
        error = await refused(
            self, self.connection.follow(0, lambda reply: None), errors.OffsetOutOfRangeError
        )
        self.assertEqual((error.lowest, error.next_offset), (2, 3))

    @asynchronous
    async def test_consumer_bug(self):
        """An exception in the client's own callback ends the stream with it, and only the stream."""
        await self.connection.produce(batch(b"a"), record_count=1)

        def fail_at_once(reply):
            raise ZeroDivisionError

        await refused(self, self.connection.follow(0, fail_at_once), ZeroDivisionError)
        self.assertEqual((await self.connection.bounds()).next_offset, 1)

    @asynchronous
    async def test_many_follow(self):
        """Many streams on one connection all get everything."""
        got = [[] for _ in range(50)]
        for one in got:
            following = self.connection.follow(
                0, lambda r, one=one: one.extend(values_of(self.connection, r.frames))
            )
            following.addErrback(lambda failure: None)
        await until(lambda: len(self.node.waiters) == 50)
        for n in range(5):
            await self.connection.produce(batch(b"%d" % n), record_count=1)
        await until(lambda: all(len(one) == 5 for one in got))


class SlowReaderTests(SessionCase):
    """A slow reader slows only itself."""

    times = LinkTimes(stuck_max=3600)

    @asynchronous
    async def test_does_not_read(self):
        """A client that asks and does not read holds one answer; another one is served meanwhile."""
        slow, honest = self.connection, await self.connect()
        payload = batch(b"x" * 900_000)
        for _ in range(8):
            await honest.produce(payload, record_count=1)
        slow.transport.pauseProducing()
        before = self.node.fetches
        asked = [slow.fetch(n % 8) for n in range(64)]
        for one in asked:
            one.addErrback(lambda failure: None)
        while (await honest.bounds()).next_offset != 8 or self.node.fetches == before:
            pass
        for _ in range(50):
            await honest.bounds()
        held = self.node.fetches - before
        self.assertLess(held, 16, "answers made for a client that reads none")
        slow.transport.resumeProducing()
        await gatherResults(asked)

    @asynchronous
    async def test_many_states(self):
        """So does one that asks for the log's state, megabytes each, and takes none."""
        slow, honest = self.connection, await self.connect()
        made = []

        def read_state(offset):
            made.append(offset)
            return succeed(Fetched(frames=bytes(MIB), next_offset=0))

        self.patch(self.node, "read_state", read_state)
        slow.transport.pauseProducing()
        asked = [slow.read_state(0) for _ in range(64)]
        await until(lambda: made)
        for _ in range(50):
            await honest.bounds()
        self.assertLess(len(made), 16, "states made for a client that takes none")
        slow.transport.resumeProducing()
        await gatherResults(asked)
        self.assertEqual(len(made), 64)

    @asynchronous
    async def test_far_ahead(self):
        """A client that sends thousands of requests before it reads an answer gets every one of them."""
        self.patch(self.connection._session.asked, "_open_max", 10**6)
        self.node.hold()
        values = [b"%d" % number for number in range(5000)]
        asked = [self.connection.produce(batch(value), record_count=1) for value in values]
        bounds = [self.connection.bounds() for _ in range(2000)]
        await until(lambda: self.node.held_count)
        self.node.release()
        replies = await gatherResults(asked)
        self.assertEqual(sorted(reply.base_offset for reply in replies), list(range(5000)))
        self.assertEqual(len(await gatherResults(bounds)), 2000)

    @asynchronous
    async def test_batches_in_flight(self):
        """A client with too many unanswered bytes is not read until some are answered."""
        self.node.hold()
        payload = batch(*[b"x" * 900_000] * 8)
        asked = [self.connection.produce(payload, record_count=8) for _ in range(6)]
        await until(lambda: self.node.held_count >= 2)
        other = await self.connect()
        for _ in range(20):
            await other.bounds()
        self.assertLessEqual(self.node.held_count, 4)
        self.node.release()
        await gatherResults(asked)


class CloseTests(SessionCase):
    """Ways to go."""

    @asynchronous
    async def test_client_says_goodbye(self):
        """Closing waits for open requests."""
        self.node.hold()
        produced = self.connection.produce(batch(b"a"), record_count=1)
        await until(lambda: self.node.held_count == 1)
        closed = self.connection.close()
        self.node.release()
        self.assertEqual((await produced).base_offset, 0)
        await closed
        await until(lambda: self.admission.all == 0)

    @asynchronous
    async def test_nobody_listens(self):
        """Connecting to nothing says so."""
        await self.close_port()
        answer = connect(reactor, "127.0.0.1", self.port, self.client_tls())
        error = await refused(self, answer, errors.UnavailableError)
        self.assertIn(str(self.port), str(error))
