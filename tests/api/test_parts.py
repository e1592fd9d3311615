"""The server's and the services' parts one by one, without a network."""

import asyncio
from contextlib import ExitStack
from types import SimpleNamespace

import grpc
from cryptography import x509
from twisted.trial.unittest import SynchronousTestCase

from loghouse.api import credentials as credentials_module
from loghouse.api import log_service, unpacking
from loghouse.api import server as server_module
from loghouse.api.server import GrpcServer, channel_options
from loghouse.api.v1 import log_pb2
from loghouse.auth.credentials import TlsPaths
from loghouse.errors import CertificateError, ConfigError, InvalidRequestError
from loghouse.limits import (
    BODIES,
    FETCH_SIZE_DEFAULT,
    FETCH_SIZE_MAX,
    GRPC_CALLS_MAX,
    KIB,
    MIB,
    READERS_SIZE_MAX,
)
from loghouse.net.callers import Callers
from loghouse.protocol.batch import decode_batch, encode_batch
from loghouse.protocol.checking import PARSED_SIZE_MAX, UNPACKED_AT_ONCE_MAX, WALKED_RECORDS_MAX
from loghouse.protocol.compression import compress
from loghouse.protocol.entry import Codec, EntryKind, decode_entries, make_entry
from loghouse.replica.api import Fetched
from loghouse.shares import Ledger, Shares
from tests.fakes.clock_loop import timed
from tests.fakes.node import FakeNode
from tests.fakes.served import authorizer

SEED = 7


class Served:
    """In the place of grpc's server: notes what it is told, and when."""

    def __init__(self, options, maximum_concurrent_rpcs):
        self.options = options
        self.calls_max = maximum_concurrent_rpcs
        self.handlers = ()
        self.noted = []
        self.error = None

    def add_generic_rpc_handlers(self, handlers):
        self.handlers = handlers

    def add_secure_port(self, address, credentials):
        return self._port("secure", address, credentials)

    def add_insecure_port(self, address):
        return self._port("insecure", address)

    def _port(self, *noted):
        if self.error is not None:
            raise self.error
        self.noted.append(noted)
        return 8400

    async def start(self):
        self.noted.append(("start",))

    async def stop(self, grace):
        self.noted.append(("stop", grace, asyncio.get_running_loop().time()))


class ServerTests(SynchronousTestCase):
    """`GrpcServer`."""

    def server(self, **arguments):
        self.patch(server_module, "aio", SimpleNamespace(server=Served))
        arguments.setdefault("credentials", None)
        return GrpcServer(FakeNode(), authorizer(), clock=lambda: 0.0, anonymous="root", **arguments)

    def test_limits(self):
        """The limits of every gRPC server, by the names that grpc has for them."""
        self.assertEqual(
            dict(channel_options()),
            {
                "grpc.so_reuseport": 0,
                "grpc.max_receive_message_length": 8 * MIB + 64 * KIB,
                "grpc.max_send_message_length": 8 * MIB + 64 * KIB,
                "grpc.max_metadata_size": 16 * KIB,
                "grpc.absolute_max_metadata_size": 16 * KIB,
                "grpc.max_concurrent_streams": 256,
                "grpc.compression_enabled_algorithms_bitset": 1,
                "grpc.server_handshake_timeout_ms": 5_000,
                "grpc.keepalive_time_ms": 60_000,
                "grpc.keepalive_timeout_ms": 20_000,
                "grpc.keepalive_permit_without_calls": 1,
                "grpc.http2.min_ping_interval_without_data_ms": 10_000,
                "grpc.http2.max_ping_strikes": 2,
            },
        )
        served = self.server()._server
        self.assertEqual((served.options, served.calls_max), (channel_options(), 2 * GRPC_CALLS_MAX))

    def test_services(self):
        """Six services are served, and reflection knows them all."""
        names = [handler.service_name() for handler in self.server()._server.handlers]
        self.assertEqual(
            names,
            [
                "log.v1.Log",
                "log.v1.Cluster",
                "log.v1.Logs",
                "log.v1.Cursors",
                "grpc.health.v1.Health",
                "grpc.reflection.v1alpha.ServerReflection",
            ],
        )

    def test_who_is_anonymous(self):
        """With TLS nobody is anonymous."""
        self.assertEqual(self.server()._guard._anonymous.subject, "root")
        self.assertIsNone(self.server(credentials=object())._guard._anonymous)

    def test_what_is_shared(self):
        """Shares and connections are those of the node, when it has some."""
        shares, callers = Shares(), Callers(Ledger(BODIES))
        guard = self.server(shares=shares, callers=callers)._guard
        self.assertEqual((guard.shares, guard.callers), (shares, callers))
        guard = self.server()._guard
        self.assertEqual((type(guard.shares), type(guard.callers)), (Shares, Callers))

    @timed
    async def test_calls_that_do_not_end(self):
        """A server that goes on turning calls away stops when its second is over."""
        self.patch(server_module, "QUIET_SECONDS", 0.25)
        server = self.server()
        for number in range(20):
            self.loop.call_later(0.2 * number, self.turn_away, server)
        await server.stop(3)
        self.assertEqual(server._server.noted, [("stop", 3, 1.0)])

    def turn_away(self, server):
        server._guard.turned_away_count += 1

    def test_addresses(self):
        """Without TLS a loopback address alone is listened on, and a path."""
        for address, is_good in (
            ("127.0.0.1:0", True),
            ("127.8.0.1:8400", True),
            ("[::1]:8400", True),
            ("localhost:8400", True),
            ("unix:/run/loghouse", True),
            ("10.0.0.1:8400", False),
            ("[::2]:8400", False),
            ("0.0.0.0:0", False),
            ("example.org:8400", False),
            ("localhost.example.org:1", False),
        ):
            server = self.server()
            if is_good:
                self.assertEqual(server.bind(address), 8400)
                self.assertEqual(server._server.noted, [("insecure", address)])
                continue
            error = self.assertRaises(ConfigError, server.bind, address)
            self.assertEqual(error.problems, (f"{address}: without TLS only loopback addresses are allowed",))
            self.assertEqual(server._server.noted, [])

    def test_address_with_tls(self):
        """With TLS any address is listened on, by grpc's credentials."""
        self.patch(server_module, "grpc_credentials", lambda credentials: ("grpc", credentials))
        server = self.server(credentials="ours")
        self.assertEqual(server.bind("10.0.0.1:1"), 8400)
        self.assertEqual(server._server.noted, [("secure", "10.0.0.1:1", ("grpc", "ours"))])

    def test_address_is_taken(self):
        """What cannot be listened on is said with the address."""
        server = self.server()
        server._server.error = RuntimeError("no")
        error = self.assertRaises(ConfigError, server.bind, "[::1]:1")
        self.assertEqual(
            error.problems,
            ("[::1]:1: cannot listen for gRPC; is it in use, or not an address of this host?",),
        )

    @timed
    async def test_health_is_looked_at(self):
        """Each second, from the start to the stop."""
        server = self.server()
        looked = []
        server.health.refresh = lambda: looked.append(self.loop.time())
        await server.start()
        await asyncio.sleep(3.5)
        self.assertEqual(looked, [0, 1, 2, 3])
        await server.stop(0)
        self.assertTrue(server.health.is_stopping)
        await asyncio.sleep(3.5)
        self.assertEqual(looked, [0, 1, 2, 3, 3.5])
        self.assertEqual(server._server.noted, [("start",), ("stop", 0, 3.5)])

    @timed
    async def test_stop(self):
        """At once without grace; else when no call came for a tenth of a second, or after a second."""
        for grace, call_seconds, earliest, latest in (
            (0, None, 0.0, 0.0),
            (0.5, None, 0.1, 0.1),
            (3, [0.05], 0.2, 0.2),
            (3, [0.05, 0.15, 0.25], 0.4, 0.41),
            (3, [0.04 * n for n in range(50)], 1.0, 1.11),
        ):
            server = self.server()
            begin = self.loop.time()
            for seconds in call_seconds or ():
                self.loop.call_later(seconds, self.turn_away, server)
            await server.stop(grace)
            ((name, given, at),) = server._server.noted
            self.assertEqual((name, given, server._guard.is_stopping), ("stop", grace, grace > 0))
            self.assertGreaterEqual(at - begin, earliest - 1e-9)
            self.assertLessEqual(at - begin, latest + 1e-9)
            await asyncio.sleep(5.0)


class OwnServer:
    """The server of a proof, and the channel to it: a call that nobody answers."""

    def __init__(self, noted):
        self.noted = noted

    def server(self, handlers):
        self.noted.append(("handlers", len(handlers)))
        return self

    def add_secure_port(self, address, credentials):
        self.noted.append(("port", address, credentials))

    async def start(self):
        self.noted.append("start")

    async def stop(self, grace):
        self.noted.append(("stop", grace))

    def secure_channel(self, address, credentials, options):
        self.noted.append(("channel", address, credentials, dict(options)))
        return self

    async def __aenter__(self):
        return self

    async def __aexit__(self, *error):
        self.noted.append("closed")

    def unary_unary(self, method):
        async def call(request):
            self.noted.append(("call", method, request))
            await asyncio.get_running_loop().create_future()

        return call


MATERIAL = SimpleNamespace(issued=SimpleNamespace(key_pem=b"key", certificate_pem=b"cert"), ca_pem=b"ca")


class CredentialsTests(SynchronousTestCase):
    """`api.credentials`: what grpc is given of ours."""

    @timed
    async def test_proof_without_an_answer(self):
        """The call to ourselves has both ends' certificates, and is given up after five seconds."""
        noted = []
        self.patch(
            credentials_module,
            "grpc",
            SimpleNamespace(
                ssl_channel_credentials=lambda *pems: pems,
                ssl_server_credentials=lambda pairs, ca, is_needed: (pairs, ca, is_needed),
                unary_unary_rpc_method_handler=grpc.unary_unary_rpc_method_handler,
                method_handlers_generic_handler=grpc.method_handlers_generic_handler,
                aio=OwnServer(noted),
            ),
        )
        with self.assertRaises(TimeoutError):
            await credentials_module._call_ourselves("unix:/x", "h", MATERIAL)
        self.assertEqual(self.loop.time(), 5.0)
        self.assertEqual(
            noted,
            [
                ("handlers", 1),
                ("port", "unix:/x", ([(b"key", b"cert")], b"ca", True)),
                "start",
                (
                    "channel",
                    "unix:/x",
                    (b"ca", b"key", b"cert"),
                    {"grpc.use_local_subchannel_pool": 1, "grpc.ssl_target_name_override": "h"},
                ),
                ("call", "/loghouse/Proof", b""),
                "closed",
                ("stop", None),
            ],
        )
        self.assertEqual(await credentials_module._nothing(b"", None), b"")

    def test_new_certificates(self):
        """grpc is told of other certificates once, and a client always needs one."""
        given = []
        self.patch(
            credentials_module,
            "grpc",
            SimpleNamespace(
                ssl_server_certificate_configuration=lambda pairs, ca: (pairs, ca),
                dynamic_ssl_server_credentials=lambda *arguments: given.append(arguments) or "made",
            ),
        )
        credentials = SimpleNamespace(material=MATERIAL)
        self.assertEqual(credentials_module.grpc_credentials(credentials), "made")
        ((first, fetch, is_needed),) = given
        self.assertEqual((first, is_needed), (([(b"key", b"cert")], b"ca"), True))
        self.assertIsNone(fetch())
        credentials.material = SimpleNamespace(issued=MATERIAL.issued, ca_pem=b"other")
        self.assertEqual(fetch(), ([(b"key", b"cert")], b"other"))
        self.assertIsNone(fetch())

    def test_hosts(self):
        """The first name, else the first address; a wildcard stands for any name; else nothing."""
        for names, addresses, host in (
            (["a", "b"], ["1.2.3.4"], "a"),
            ([], ["1.2.3.4", "::1"], "1.2.3.4"),
            (["*.x"], [], "any.x"),
            ([], [], ""),
        ):
            found = {x509.DNSName: names, x509.IPAddress: addresses}
            extension = SimpleNamespace(get_values_for_type=found.__getitem__)
            self.patch(credentials_module, "extension_of", lambda *asked, one=extension: one)
            self.assertEqual(credentials_module._host_of(None), host)
        self.patch(credentials_module, "extension_of", lambda *asked: None)
        self.assertEqual(credentials_module._host_of(None), "")

    def test_refusals(self):
        """Of what grpc says the last cause is told, with the files."""
        paths = TlsPaths(ca="ca.pem", certificate="n.pem", key="n.key")
        for told, reason in (
            ("failed: last error: UNAVAILABLE: OPENSSL_internal:BAD_THING: OK", "BAD_THING"),
            ("failed", "failed"),
        ):
            error = credentials_module._refusal(paths, told)
            self.assertIsInstance(error, CertificateError)
            self.assertEqual(str(error), f"n.pem with ca.pem: gRPC's TLS cannot use them: {reason}")


def entry_of(records, base=0, codec=Codec.NONE, count=None, kind=EntryKind.RECORDS, time=1000):
    payload = compress(encode_batch(records), codec)
    return make_entry(
        SEED,
        index=3,
        term=2,
        kind=kind,
        base_offset=base,
        timestamp=time,
        attributes=codec,
        payload=payload,
        record_count=len(records) if count is None else count,
    )


def records_of(count, size=3):
    return [log_pb2.Record(value=b"%d" % number * size, timestamp=number % 2 * 5) for number in range(count)]


class UnpackingTests(SynchronousTestCase):
    """`unpacking`: the records of entries, by pieces, and the parts of what is too large."""

    def setUp(self):
        self.in_threads = 0

        async def to_thread(work, *arguments):
            self.in_threads += 1
            return work(*arguments)

        self.patch(unpacking, "asyncio", SimpleNamespace(to_thread=to_thread))

    async def read(self, entry, offset, share=lambda: MIB):
        return [record async for record in unpacking.records_from(entry, offset, share)]

    @timed
    async def test_from_each_offset(self):
        """Every record from the offset on, whatever the pieces' size, with its offset and a time."""
        records = records_of(9)
        for codec in (Codec.NONE, Codec.ZSTD):
            entry = entry_of(records, base=20, codec=codec)
            for size in (1, 300, MIB):
                for offset in (0, 19, 20, 21, 28, 29, 40):
                    first = max(0, offset - 20)
                    expected = [
                        (20 + number, records[number].value, records[number].timestamp or 1000)
                        for number in range(first, 9)
                    ]
                    found = await self.read(entry, offset, lambda size=size: size)
                    self.assertEqual([(r.offset, r.value, r.timestamp) for r in found], expected)
        self.assertEqual(self.in_threads, 0)
        self.assertEqual(await self.read(entry_of(records, kind=EntryKind.TRIM), 0), [])

    @timed
    async def test_pieces(self):
        """A piece is bounded by the share, and by what is parsed at once; the share is asked for each."""
        records = [log_pb2.Record(value=b"x" * (10 * KIB - 7))] * 30
        made = []
        real = unpacking.parse

        def parse(kind, piece):
            parsed = real(kind, piece)
            made.append(len(parsed.records))
            return parsed

        self.patch(unpacking, "parse", parse)
        entry = entry_of(records)
        for size, expected in ((MIB, [12, 12, 6]), (21 * KIB, [2] * 15), (1, [1] * 30)):
            made.clear()
            self.assertEqual(len(await self.read(entry, 0, lambda size=size: size)), 30)
            self.assertEqual(made, expected)
        made.clear()
        shares = iter([1, MIB, 1, MIB, MIB])
        await self.read(entry, 0, lambda: next(shares))
        self.assertEqual(made, [1, 12, 1, 12, 4])
        self.assertEqual(PARSED_SIZE_MAX // (10 * KIB + unpacking.RECORD_COST), 12)
        self.assertEqual(unpacking.RECORD_COST, 128)

    @timed
    async def test_an_entry_that_holds_less(self):
        """Fewer records than the entry says: refused where they end, and not read for ever."""
        entry = entry_of(records_of(4), count=6)
        found = []
        with self.assertRaises(InvalidRequestError) as caught:
            async for record in unpacking.records_from(entry, 1, lambda: MIB):
                found += [record.offset]
        self.assertEqual(found, [1, 2, 3])
        self.assertEqual(caught.exception.problem, "holds 4 records, its entry says 6")

    @timed
    async def test_what_is_for_a_thread(self):
        """Many records to go over, or much to unpack, is done in a thread; the rest at once."""
        fits = entry_of([log_pb2.Record(value=b"x" * (UNPACKED_AT_ONCE_MAX - 8))], codec=Codec.ZSTD)
        large = entry_of([log_pb2.Record(value=b"x" * (UNPACKED_AT_ONCE_MAX - 7))], codec=Codec.ZSTD)
        plain = entry_of([log_pb2.Record(value=b"x" * MIB)])
        for entry, size in ((fits, 0), (large, 1), (plain, None)):
            if size is not None:
                unpacked = len(encode_batch(decode_batch(entry.payload, Codec.ZSTD).records))
                self.assertEqual(unpacked, UNPACKED_AT_ONCE_MAX + size)
            self.in_threads = 0
            self.assertEqual(len(await self.read(entry, 0)), 1)
            self.assertEqual(self.in_threads, size or 0)
        for skipped, expected in ((WALKED_RECORDS_MAX, False), (WALKED_RECORDS_MAX + 1, True)):
            self.assertIs(unpacking._is_long(plain, skipped), expected)
        broken = make_entry(
            SEED, index=1, term=1, kind=EntryKind.RECORDS, base_offset=0, timestamp=1, attributes=Codec.ZSTD,
            payload=b"no frame", record_count=1,
        )  # fmt: skip
        self.assertIs(unpacking._is_long(broken, 0), True)

    @timed
    async def test_whole_entries_that_fit(self):
        """As many whole entries as fit, when the first has the offset or is before it."""
        entries = [entry_of(records_of(3), base=3 * number) for number in range(3)]
        frames = b"".join(entry.frame for entry in entries)
        size = entries[0].size
        self.patch(unpacking, "GRPC_FRAMES_SIZE_MAX", 2 * size)
        whole = Fetched(frames=frames, next_offset=9)
        for size_max, next_offset, threads in (
            (0, 6, 1),
            (2 * size + 1, 6, 1),
            (3 * size - 1, 6, 1),
            (3 * size, 9, 0),
            (MIB, 9, 0),
        ):
            self.in_threads = 0
            found = await unpacking.fitting(SEED, whole, 0, size_max)
            self.assertEqual(
                (found.next_offset, bytes(found.frames)), (next_offset, frames[: next_offset // 3 * size])
            )
            self.assertEqual(self.in_threads, threads)
        found = unpacking._fitting(SEED, whole, 0, 3 * size)
        self.assertEqual((found.next_offset, bytes(found.frames)), (9, frames))

    @timed
    async def test_parts_of_a_large_entry(self):
        """From any offset as many records as fit, one at least, in an entry of its own."""
        records = [log_pb2.Record(value=b"%d" % number * 100) for number in range(6)]
        large = len(encode_batch(records[:1]))
        for codec in (Codec.NONE, Codec.ZSTD):
            entry = entry_of(records, base=10, codec=codec)
            for offset in range(10, 16):
                for room in (1, 103, 104, 207, 208, 209, 311, 312, 400):
                    self.patch(unpacking, "GRPC_FRAMES_SIZE_MAX", 64 + room)
                    if entry.size <= 64 + room:
                        continue
                    count = max(1, min(room // large, 16 - offset))
                    fetched = Fetched(frames=entry.frame, next_offset=16)
                    found = await unpacking.fitting(SEED, fetched, offset, 0)
                    (part,) = decode_entries(SEED, found.frames)
                    held = [record.value for record in decode_batch(part.payload, Codec.NONE).records]
                    first = offset - 10
                    self.assertEqual(held, [r.value for r in records[first : first + count]])
                    self.assertEqual(
                        (part.index, part.term, part.kind, part.base_offset, part.timestamp, part.attributes),
                        (3, 2, EntryKind.RECORDS, offset, 1000, Codec.NONE),
                    )
                    self.assertEqual((part.record_count, found.next_offset), (len(held), offset + len(held)))
            self.assertGreater(self.in_threads, 0)


class ReaderTests(SynchronousTestCase):
    """`LogService`: what a reader may take."""

    def test_shares(self):
        """Readers share 32 MiB, and each has 64 KiB at least; whoever has ended counts no more."""
        self.assertEqual(READERS_SIZE_MAX, 32 * MIB)
        service = log_service.LogService(SimpleNamespace(node=None))
        for count, share in ((1, 32 * MIB), (2, 16 * MIB), (511, 65664), (512, 64 * KIB), (513, 64 * KIB)):
            with self.assertRaises(KeyError), ExitStack() as stack:
                for _ in range(count):
                    stack.enter_context(service.reader())
                self.assertEqual(service.share_of(64 * MIB), share)
                self.assertEqual(service.share_of(share - 1), share - 1)
                raise KeyError
        with service.reader():
            self.assertEqual(service.share_of(64 * MIB), 32 * MIB)

    def test_sizes(self):
        """No size asked for is the default, and the most is the most."""
        for asked, given in (
            (0, FETCH_SIZE_DEFAULT),
            (1, 1),
            (FETCH_SIZE_MAX, FETCH_SIZE_MAX),
            (FETCH_SIZE_MAX + 1, FETCH_SIZE_MAX),
        ):
            self.assertEqual(log_service._fetch_size(asked), given)
        self.assertEqual(log_service.CONSUME_SIZE, 256 * KIB)

    @timed
    async def test_an_append(self):
        """A share is wanted until it is answered, failed or given up; its answer has its own offsets."""

        def share():
            return log_service.BatchShare(b"payload", 5, 2, log_service._batch_answer)

        done = share()
        self.assertEqual(
            (done.payload, done.payload_crc, done.record_count, done.is_wanted), (b"payload", 5, 2, True)
        )
        done.appended(7, 9)
        answer = log_pb2.ProduceBatchResponse.FromString(await done.done)
        self.assertEqual((answer.base_offset, answer.record_count, answer.timestamp), (7, 2, 9))
        self.assertFalse(done.is_wanted)
        failed = share()
        failed.failed(KeyError("no"))
        self.assertIsInstance(failed.done.exception(), KeyError)
        self.assertFalse(failed.is_wanted)
        dropped = share()
        dropped.done.cancel()
        self.assertFalse(dropped.is_wanted)
        alone = log_pb2.ProduceResponse.FromString(log_service._record_answer(7, 1, 9))
        self.assertEqual(alone.offset, 7)

    @timed
    async def test_a_long_check(self):
        """A check goes on beside the loop; its failure is the call's, and its end ends it."""
        service = log_service.LogService(SimpleNamespace(node=None))
        noted = []

        class Checks:
            def run(self, subject, steps, done):
                noted.append((subject, steps))
                asyncio.get_running_loop().call_later(1.0, done, self.error)
                return SimpleNamespace(cancel=lambda: noted.append("cancel"))

        service._checks = Checks()
        steps = iter(())
        Checks.error = None
        self.assertIsNone(await service._check_on("root", steps))
        Checks.error = KeyError("no")
        with self.assertRaises(KeyError):
            await service._check_on("root", steps)
        self.assertEqual(noted, [("root", steps), "cancel"] * 2)
        self.assertEqual(self.loop.time(), 2.0)
