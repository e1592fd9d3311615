"""What a client leaves behind: no descriptor, no timer, no more bytes than it needs; who waits is told."""

import asyncio
import os

from twisted.trial.unittest import SynchronousTestCase

from loghouse.client import connection, grpc_channel
from loghouse.client.connection import context_of
from loghouse.client.grpc_channel import _OPTIONS, OPEN_SECONDS, GrpcChannel
from loghouse.client.target import Tls
from loghouse.errors import CertificateError, ClosedError
from tests.client.test_connection_times import APPEND, WireCase
from tests.client.test_times import TimedCase
from tests.fakes.clock_loop import timed
from tests.fakes.secured import authority, client_certificate


class ContextTests(SynchronousTestCase):
    """`context_of`."""

    def test_descriptors(self):
        """The certificates' descriptor is closed, whether they can be used or not."""
        closed = []

        def close(descriptor):
            closed.append(os.readlink(f"/proc/self/fd/{descriptor}"))
            os.close(descriptor)

        stand_in = {name: getattr(os, name) for name in ("memfd_create", "MFD_CLOEXEC", "write")}
        self.patch(connection, "os", type("Os", (), {**stand_in, "close": staticmethod(close)}))
        issued = client_certificate("root")
        good = Tls(ca=authority().certificate_pem, certificate=issued.certificate_pem, key=issued.key_pem)
        bad = Tls(ca=good.ca, certificate=good.ca, key=issued.key_pem)
        context_of(good)
        self.assertEqual(len(closed), 1)
        self.assertRaises(CertificateError, context_of, bad)
        self.assertEqual(len(closed), 2)
        self.assertTrue(all("loghouse-client" in name for name in closed), closed)
        self.assertIsNone(context_of(None))


class ConnectionTests(WireCase):
    """`Connection`."""

    @timed
    async def test_timer(self):
        """A connection that is gone looks at its node no more."""
        for asks in (True, False):
            made = self.connect()
            if asks:
                await made.enter(1.0)
                asked = made.begin(APPEND, 1)
                asked.answer.add_done_callback(lambda answer: answer.exception())
                self.assertFalse(made._liveness.cancelled())
            self.lose()
            self.assertEqual(made._liveness is not None and made._liveness.cancelled(), asks)
        self.assertEqual([timer for timer in self.loop._scheduled if not timer.cancelled()], [])

    @timed
    async def test_first_bytes(self):
        """Of what came first three bytes are kept, those of the first piece."""
        for size, kept in ((1, 1), (2, 2), (3, 3), (4, 3), (20, 3)):
            made = self.connect(greets=False)
            self.heard()
            said = b"".join(self.node.bytes_to_send())
            made.get_buffer(-1)[:size] = said[:size]
            made.buffer_updated(size)
            self.assertEqual(made._first, said[:kept])
            self.say(said[size:])
            self.assertEqual((made._first, made.is_up, made._beginning.nbytes), (said[:kept], True, 0))
            self.lose()


class RefreshTests(TimedCase):
    """`Calls.refresh`."""

    @timed
    async def test_closed_meanwhile(self):
        """Who waits for the servers of a client that is closed is told so."""
        calls = self.begin({}, known=False)
        waiting = asyncio.ensure_future(calls.refresh(9.0))
        await asyncio.sleep(1.0)
        calls._refreshing.cancel()
        error, at = await self.raises(ClosedError, waiting)
        self.assertEqual((str(error), at), ("the client was closed", 1.0))
        await calls.close()


class OpeningTests(SynchronousTestCase):
    """`GrpcChannel`: how its channel is made."""

    @timed
    async def test_channels(self):
        """With TLS by the credentials of the look at the server, else plain; both with the options."""
        made, looked = [], []

        class Aio:
            @staticmethod
            def insecure_channel(*given):
                made.append(given)
                return "channel"

            secure_channel = insecure_channel

        class Prover:
            async def credentials(self, *given):
                looked.append(given)
                return "credentials"

        self.patch(grpc_channel, "aio", Aio)
        self.patch(grpc_channel, "Stubs", lambda channel: ("stubs", channel))
        for prover, expected in ((None, ("h1:1", _OPTIONS)), (Prover(), ("h1:1", "credentials", _OPTIONS))):
            channel = GrpcChannel("h1:1", prover, print)
            stubs = await channel.stubs()
            self.assertEqual((stubs, made.pop()), (("stubs", "channel"), expected))
            self.assertEqual((await channel.stubs(), made), (stubs, []))
        self.assertEqual(looked, [("h1:1", OPEN_SECONDS)])
