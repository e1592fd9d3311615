"""What one subject may hold over the binary protocol, and that another one goes on."""

import socket
import ssl

from twisted.internet.defer import gatherResults
from twisted.internet.threads import deferToThread

from loghouse import errors
from loghouse.limits import MIB, Quota
from loghouse.net.link import LinkTimes
from loghouse.protocol.client_messages import Cancel, Failure, Fetch, Produce
from loghouse.protocol.codec import encode
from loghouse.protocol.framing import pack_header
from loghouse.protocol.link_messages import Hello, LinkRole
from loghouse.shares import Shares
from tests.fakes.secured import authority, client_certificate
from tests.net.test_binary_session import batch, refused
from tests.net.wire import WireCase, asynchronous, frames_in, until


class ShareTests(WireCase):
    """What one subject may hold, and that another one goes on."""

    policy = "p, root, *, produce\np, root, *, consume\np, reader, default, consume\n"
    times = LinkTimes(stuck_max=3600)

    async def ask_unread(self, name, size, *, together=False):
        """Begin a Produce of so many bytes, and return the refusal's code that comes before its body."""
        issued = client_certificate(name)
        path = self.directory / f"{name}-both.pem"
        path.write_bytes(issued.certificate_pem + issued.key_pem)
        context = ssl.create_default_context(cadata=authority().certificate_pem.decode())
        context.check_hostname = False
        context.load_cert_chain(path)
        context.set_alpn_protocols(["loghouse/1"])

        def talk():
            plain = socket.create_connection(("127.0.0.1", self.port), 20)
            with context.wrap_socket(plain) as tls:

                def failure():
                    received = b""
                    while True:
                        received += tls.recv(65_536)
                        for kind, body in frames_in(received):
                            if kind == Failure.KIND:
                                return Failure.WIRE.parse(body).code

                header = pack_header(size, Produce.KIND, group=1, stream=1)
                greeting = b"".join(encode(Hello(role=LinkRole.CLIENT)))
                if together:
                    tls.sendall(greeting + header + b"x" * 100)
                else:
                    tls.sendall(greeting)
                    tls.recv(65_536)
                    tls.sendall(header + b"x" * 100)
                first = failure()
                tls.sendall(b"x" * (size - 100) + b"".join(encode(Cancel(), stream=1)))
                tls.sendall(b"".join(encode(Fetch(offset=99, size_max=1), group=1, stream=2)))
                return first, failure()

        return await deferToThread(talk)

    @asynchronous
    async def test_permission_before_the_body(self):
        """A batch that may not be appended is refused at its header, its body skipped; the link goes on."""
        self.open_port()
        denied, out_of_range = errors.PermissionDeniedError.code, errors.OffsetOutOfRangeError.code
        for together in (False, True):
            both = await self.ask_unread("nobody", 8 * MIB, together=together)
            self.assertEqual(both, (denied, denied))
        self.assertEqual(await self.ask_unread("reader", 8 * MIB), (denied, out_of_range))
        self.assertEqual(self.shares.bodies.held, 0)

    @asynchronous
    async def test_bodies(self):
        """A batch beyond its subject's share of memory is refused at its header; another subject's is not."""
        self.shares = Shares(bodies=Quota("bytes", 16 * MIB, 4 * MIB))
        self.policy = "p, root, *, produce\np, other, default, produce\np, other, default, consume\n"
        (self.directory / "policy.csv").write_text(self.policy)
        self.authorizer.take(self.authorizer.read())
        self.open_port()
        exhausted = errors.ResourceExhaustedError.code
        self.assertEqual((await self.ask_unread("other", 6 * MIB))[0], exhausted)
        self.node.hold()
        busy = await self.connect("other")
        asked = [busy.produce(batch(*[b"x" * 900_000] * 2), record_count=2) for _ in range(2)]
        await until(lambda: self.shares.bodies.held_by("other") >= 3 * MIB)
        await refused(
            self, busy.produce(batch(*[b"x" * 900_000]), record_count=1), errors.ResourceExhaustedError
        )
        root = await self.connect()
        served = root.produce(batch(b"x" * 900_000), record_count=1)
        await until(lambda: self.node.held_count == 3)
        self.node.release()
        await gatherResults([*asked, served])
        await until(lambda: self.shares.bodies.held == 0)

    @asynchronous
    async def test_followers(self):
        """A subject's followers end at its share, over all of its connections; another subject follows on."""
        self.shares = Shares(followers=Quota("followers", 5, 3))
        self.open_port()
        first, second = await self.connect("reader"), await self.connect("reader")
        asked = [one.follow(99, lambda frames: None) for one in (first, first, second)]
        await until(lambda: self.shares.followers.held == 3)
        await refused(self, second.follow(99, lambda frames: None), errors.ResourceExhaustedError)
        root = await self.connect()
        got = []
        following = root.follow(0, got.append)
        await until(lambda: self.shares.followers.held == 4)
        await root.produce(batch(b"a"), record_count=1)
        await until(lambda: got)
        asked[0].cancel()
        await until(lambda: self.shares.followers.held == 3)
        for one in (*asked, following):
            one.addErrback(lambda failure: None)
        first.abort()
        second.abort()
        await until(lambda: self.shares.followers.held_by("reader") == 0)

    @asynchronous
    async def test_answers(self):
        """Readers that take no answers hold their subject's share of memory, and another subject reads."""
        self.shares = Shares(answers=Quota("bytes", 16 * MIB, 6 * MIB))
        self.open_port()
        root = await self.connect()
        for _ in range(4):
            await root.produce(batch(*[b"x" * 900_000] * 4), record_count=4)
        slow = [await self.connect("reader") for _ in range(6)]
        for one in slow:
            one.transport.pauseProducing()
            for _ in range(3):
                one.fetch(0, 4 * MIB).addErrback(lambda failure: None)
        await until(lambda: self.shares.answers.refused_count > 0)
        self.assertLessEqual(self.shares.answers.held_by("reader"), 6 * MIB)
        self.assertGreater(len((await root.fetch(0, 4 * MIB)).frames), 3 * MIB)
        for one in slow:
            one.abort()
        await until(lambda: self.shares.answers.held == 0)
