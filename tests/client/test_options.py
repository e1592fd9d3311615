"""What a client is made with reaches what it is for; each option by itself, in both flavours."""

import asyncio
import random
from datetime import UTC, datetime

from twisted.trial.unittest import SynchronousTestCase

from loghouse.auth.certificates import make_ca, make_client_certificate
from loghouse.client import AsyncClient, Client, Tls, connect, connect_blocking
from loghouse.client.balancing import ClusterView, Purpose, Server
from loghouse.client.binary_channel import BinaryChannel
from loghouse.client.channels import LogId
from loghouse.client.grpc_channel import GrpcChannel
from loghouse.client.producing import WINDOW
from loghouse.client.records import Bounds
from loghouse.errors import IdentityError
from loghouse.limits import KIB, MIB
from loghouse.protocol.entry import Codec, crc32c
from tests.fakes.clock_loop import timed

VIEW = ClusterView(
    cluster_uuid=b"u" * 16,
    cluster_name="c1",
    servers=(Server(name="n1", address="h1:1", grpc_address="h1:2", is_leader=True),),
)


def made_by(make, target="s1:1,s2:2", **options):
    """The asyncio client of what `make` makes, of either flavour; closed if it has a thread."""
    client = make(target, **options)
    if isinstance(client, Client):
        inner = client._client
        client.close()
        return inner
    return client


class ClientTests(SynchronousTestCase):
    """`connect`, `connect_blocking`, and the classes behind them."""

    MAKERS = (connect, connect_blocking, AsyncClient, Client)

    def test_nothing_else(self):
        """Without an option: the default log, 30 s, any server of any cluster, by the binary protocol."""
        for make in self.MAKERS:
            client = made_by(make)
            self.assertEqual((client.log_name, client.timeout_seconds), ("", 30.0))
            self.assertEqual(client.calls.pin.cluster, "")
            self.assertEqual(client.calls.balancer.addresses(), {"s1:1", "s2:2"})
            client.calls.balancer.learned(VIEW, 0.0)
            self.assertEqual(client.calls.balancer.address(Purpose.APPEND, 0.0), "h1:1")
            self.assertIsInstance(client.calls.channels._make("s1:1"), BinaryChannel)

    def test_each(self):
        """A log, a time, certain addresses, a cluster, and the transport."""
        for make in self.MAKERS:
            client = made_by(make, log="default", timeout_seconds=2, cluster="c9")
            self.assertEqual((client.log_name, client.timeout_seconds), ("default", 2.0))
            self.assertEqual(client.calls.pin.cluster, "c9")
            self.assertRaises(IdentityError, client.calls.pin.check_view, "c1", "h1:1")
            client = made_by(make, is_direct=True)
            client.calls.balancer.learned(VIEW, 0.0)
            self.assertEqual(client.calls.balancer.addresses(), {"s1:1", "s2:2"})
            client = made_by(make, transport="grpc")
            client.calls.balancer.learned(VIEW, 0.0)
            self.assertEqual(client.calls.balancer.address(Purpose.APPEND, 0.0), "h1:2")

    @timed
    async def test_certificates(self):
        """With certificates, channels of gRPC look at servers first, all by one looker."""
        now = datetime.now(UTC)
        ca = make_ca("test", now=now)
        own = make_client_certificate(ca, name="root", now=now)
        tls = Tls(ca=ca.certificate_pem, certificate=own.certificate_pem, key=own.key_pem)
        for transport in ("grpc", "binary"):
            client = AsyncClient("s1:1", tls=tls, transport=transport, cluster="c1")
            first, second = (client.calls.channels._make(address) for address in ("s1:1", "s2:2"))
            if transport == "binary":
                self.assertIsNotNone(first._context)
                self.assertIs(first._pin, client.calls.pin)
                first, second = (channel._make_other(channel.address) for channel in (first, second))
            self.assertIsNotNone(first._prover)
            self.assertIs(first._prover, second._prover)
            self.assertIs(first._prover._pin, client.calls.pin)
        self.assertIsNone(AsyncClient("s1:1", transport="grpc").calls.channels._make("s1:1")._prover)

    @timed
    async def test_grpc(self):
        """By gRPC alone the channels are gRPC's; whom a channel names as leader, the balancer knows."""
        client = AsyncClient("s1:1", transport="grpc")
        channel = client.calls.channels._make("s1:1")
        self.assertIsInstance(channel, GrpcChannel)
        client.calls.balancer.learned(VIEW, 0.0)
        client.calls.balancer.does_not_lead("h1:1")
        channel._hinted("n1", 16)
        self.assertFalse(client.calls.balancer.leads("h1:2"))
        channel._hinted("n1", 1)
        self.assertTrue(client.calls.balancer.leads("h1:2"))
        await channel.close()

    def test_chance(self):
        """The chance that is given is used for turns and for pauses."""
        rng = random.Random(1)
        client = AsyncClient("s1:1", rng=rng)
        self.assertIs(client.calls.rng, rng)
        self.assertIs(client.calls.balancer._rng, rng)
        self.assertIsInstance(AsyncClient("s1:1").calls.rng, random.SystemRandom)

    def test_times(self):
        """A call has the time that it is told, else its client's."""
        client = AsyncClient("s1:1", timeout_seconds=7)
        self.assertEqual((client.timeout_of(None), client.timeout_of(2)), (7.0, 2.0))


class ProducerTests(SynchronousTestCase):
    """`producer`, of either flavour."""

    def check(self, producer, *, batch, linger, seconds, room, codec):
        gathers, sends = producer._accumulator, producer._sending
        self.assertEqual(
            (gathers._batch_size, gathers._linger_seconds, gathers._timeout_seconds), (batch, linger, seconds)
        )
        self.assertEqual((producer._ledger.room, sends._codec), (room, codec))
        self.assertEqual(sends._calls.where, LogId("default"))
        self.assertEqual((sends._sequencer._window, WINDOW), (8, 8))

    PLAIN = {"batch": 256 * KIB, "linger": 0.005, "seconds": 7.0, "room": 16 * MIB, "codec": Codec.NONE}
    OPTIONS = {
        "linger_ms": 20,
        "batch_bytes": 99,
        "compression": "zstd",
        "buffer_bytes": 5,
        "timeout_seconds": 3,
    }
    CHANGED = {"batch": 99, "linger": 0.02, "seconds": 3.0, "room": 5, "codec": Codec.ZSTD}

    def test_asyncio(self):
        """5 ms, 256 KiB, 16 MiB and its client's time; or what it is told."""
        client = AsyncClient("s1:1", log="default", timeout_seconds=7)
        self.check(client.producer(), **self.PLAIN)
        self.check(client.producer(**self.OPTIONS), **self.CHANGED)

    def test_blocking(self):
        """The same for threads."""
        with connect_blocking("127.0.0.1:1", log="default", timeout_seconds=7) as client:
            for options, expected in (({}, self.PLAIN), (self.OPTIONS, self.CHANGED)):
                producer = client.producer(**options)
                self.check(producer, **expected)
                producer.abort()


class Calls:
    """Notes the calls of a client, and carries out what they do with a channel that notes it, too."""

    def __init__(self):
        self.noted = []

    def __getattr__(self, name):
        return getattr(self.inner, name)

    async def call(self, make, **options):
        self.noted.append(options)
        return await make(self, 0.5)


class Channel(Calls):
    """A channel whose answers are its calls' names and arguments."""

    answer = None

    def __getattr__(self, name):
        async def call(*given):
            self.noted.append((name, *given))
            return self.answer

        return call


class CallTests(SynchronousTestCase):
    """Which call of which channel each method makes, and what it says about it."""

    def make(self):
        self.client = AsyncClient("s1:1", log="default", timeout_seconds=7)
        self.channel = Channel()
        self.client.calls.call = self.channel.call
        return self.client

    def check(self, name, given, purpose, seconds, *, is_safe, server=None):
        options, call = self.channel.noted
        self.assertEqual(call, (name, *given, 0.5))
        self.assertEqual(
            (options["purpose"], options["timeout_seconds"], options["is_safe"]), (purpose, seconds, is_safe)
        )
        self.assertEqual(options.get("server", ""), server or "")
        self.channel.noted.clear()

    @timed
    async def test_reads(self):
        """Questions are for any server that reads, and can be asked again."""
        client = self.make()
        await client.bounds(timeout_seconds=2)
        self.check("bounds", (LogId("default"),), Purpose.READ, 2.0, is_safe=True)
        self.channel.answer = Bounds(3, 8)
        for given, found in ((("earliest",), (3, 8)), (("latest",), (8, 8)), ((4,), (4, 8))):
            self.assertEqual(await client.find_range(*given), found)
        self.assertEqual(await client.find_range("latest", follow=True), (8, None))
        self.channel.noted.clear()
        for time, moment in ((5, 5), (0, 0)):
            await client.find_offset(time)
            self.check("find_offset", (moment, LogId("default")), Purpose.READ, 7.0, is_safe=True)

    @timed
    async def test_administration(self):
        """The administration is for any server, or for the one named; what changes is not done twice."""
        client = self.make()

        class Reply:
            leader = "n5"
            lowest = 6

        self.channel.answer = Reply
        for work, method, fields, is_safe, server in (
            (client.status(server="n1"), "Status", {}, True, "n1"),
            (client.add("n2", learner=True), "Add", {"name": "n2", "learner": True}, False, ""),
            (client.add("n2"), "Add", {"name": "n2", "learner": False}, False, ""),
            (client.remove("n2"), "Remove", {"name": "n2"}, False, ""),
            (client.leave("n3"), "Leave", {}, False, "n3"),
            (client.transfer("n4"), "Transfer", {"name": "n4"}, False, ""),
            (client.trim(9, timeout_seconds=1), "Trim", {"offset": 9, "log": "default"}, True, ""),
        ):
            found = await work
            request = self.channel.noted[1][3]
            self.assertEqual({name: getattr(request, name) for name in fields}, fields)
            seconds = 1.0 if method == "Trim" else 7.0
            given = ("cluster", method, request)
            self.check("administer", given, Purpose.ASK, seconds, is_safe=is_safe, server=server)
            expected = {"Transfer": "n5", "Trim": 6, "Status": Reply}
            self.assertEqual(found, expected.get(method))

    @timed
    async def test_appends(self):
        """An append is for the leader, carries its checksum and what it expects, and is made once."""
        client = self.make()

        class Appended:
            base_offset = 4
            record_count = 2

        self.channel.answer = Appended
        self.assertEqual(await client.append(b"v", expect_offset=4, timeout_seconds=1), 4)
        request = self.channel.noted[1][1]
        self.assertEqual(
            (request.record_count, request.attributes, request.expect_offset), (1, Codec.NONE, 4)
        )
        self.check("append", (request, LogId("default")), Purpose.APPEND, 1.0, is_safe=False)
        found = await client.append_batch([b"v" * 500, b"w"], compression="zstd")
        request = self.channel.noted[1][1]
        self.assertEqual(found, range(4, 6))
        self.assertEqual(
            (request.record_count, request.attributes, request.expect_offset), (2, Codec.ZSTD, None)
        )
        self.assertLess(len(request.batch), 500)
        self.assertEqual(request.batch_crc, crc32c(request.batch))
        self.check("append", (request, LogId("default")), Purpose.APPEND, 7.0, is_safe=False)


class EndTests(SynchronousTestCase):
    """What is under way when a channel is closed."""

    @timed
    async def test_while_dialling(self):
        """Who waits for a connection that is being made is told that the client is closed."""
        for channel in (
            BinaryChannel("h1:1", None, print, print),
            GrpcChannel("h1:1", Endless(), print),
        ):
            channel._dial = endless
            if isinstance(channel, BinaryChannel):
                channel._dialling._open = endless
            waiting = asyncio.ensure_future(channel.bounds(LogId(), 5.0))
            await asyncio.sleep(1.0)
            await channel.close()
            with self.assertRaises(Exception) as caught:
                await waiting
            self.assertEqual(str(caught.exception), "the client is closed")
            self.assertEqual(asyncio.all_tasks() - {asyncio.current_task()}, set())


async def endless():
    await asyncio.get_running_loop().create_future()


class Endless:
    """A look at a server that never ends."""

    async def credentials(self, address, seconds):
        await endless()
