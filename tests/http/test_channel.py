"""One HTTP connection: hostile and slow clients, whose bytes are written to a real socket."""

from twisted.web.resource import Resource

from loghouse.http.answers import HttpAnswer
from loghouse.http.endpoint import Endpoint
from loghouse.limits import (
    BODIES,
    HTTP_BODY_SECONDS,
    HTTP_BODY_SIZE_MAX,
    HTTP_CONNECTIONS_MAX,
    HTTP_HEAD_SECONDS,
    HTTP_HEAD_SIZE_MAX,
    HTTP_HEADERS_MAX,
    HTTP_IDLE_SECONDS,
    STUCK_SECONDS_MAX,
)
from tests.http.case import HttpCase
from tests.service.case import turn, until

HOST = b"Host: localhost\r\n"
GET = b"GET /healthz HTTP/1.1\r\n" + HOST + b"\r\n"


class Echo(Endpoint):
    """Answers with what it was sent."""

    async def answer_post(self, call):
        return HttpAnswer(body=call.body)

    async def answer_get(self, call):
        return HttpAnswer(body=b"x" * int(call.request.args.get(b"size", [b"1"])[0]))


def put(tree, context):
    tree.putChild(b"echo", Echo(context))


class ChannelCase(HttpCase):
    """A server with a path that echoes."""

    def setUp(self):
        super().setUp()
        self.serve(put=put)

    async def refused(self, data, status=400):
        """Write bytes that end the connection with one answer, however they come."""
        for size in (len(data), 1):
            client = await self.connect()
            for start in range(0, len(data), size):
                client.send(data[start : start + size])
            await client.end()
            self.assertEqual(client.statuses, [status], (size, data[:100]))


class SmugglingTests(ChannelCase):
    """What two readers could take for different requests is refused, and nothing behind it is answered."""

    async def test_lengths(self):
        """Two lengths, a length and chunks, chunks of an unknown kind, a length that is no number."""
        for lines in (
            b"Content-Length: 5\r\nContent-Length: 6\r\n",
            b"Content-Length: 5\r\nContent-Length: 5\r\n",
            b"Content-Length: 0\r\nContent-Length: 44\r\n",
            b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n",
            b"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n",
            b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
            b"Transfer-Encoding: xchunked\r\n",
            b"Transfer-Encoding: chunked, identity\r\n",
            b"Content-Length: +5\r\n",
            b"Content-Length: 5, 5\r\n",
            b"Content-Length: 0x5\r\n",
            b"Content-Length:\r\n",
        ):
            await self.refused(b"POST /echo HTTP/1.1\r\n" + HOST + lines + b"\r\n" + b"0\r\n\r\n" + GET)

    async def test_lines(self):
        """Headers in several lines, without a name, with a space before the colon, a bare line end."""
        for line in (
            b"X: a\r\n Transfer-Encoding: chunked\r\n",
            b"X: a\r\n\tb\r\n",
            b"no colon\r\n",
            b"Transfer-Encoding : chunked\r\n",
            b": x\r\n",
            b"X: a\nContent-Length: 5\r\n",
            b"X: a\x00b\r\n",
            b"X: a\rb\r\n",
        ):
            await self.refused(b"POST /echo HTTP/1.1\r\n" + HOST + line + b"\r\n" + GET)

    async def test_host(self):
        """No Host, or two."""
        await self.refused(b"GET /healthz HTTP/1.1\r\n\r\n" + GET)
        await self.refused(b"GET /healthz HTTP/1.1\r\n" + HOST + HOST + b"\r\n" + GET)

    async def test_chunks(self):
        """Chunks of HTTP/1.0, of a length that is none, and without an end of line."""
        head = b"POST /echo HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: chunked\r\n\r\n"
        await self.refused(head.replace(b"1.1", b"1.0") + b"0\r\n\r\n" + GET)
        for chunk in (b"-1\r\n", b"0x5\r\nhello\r\n", b"g\r\n", b"5\r\nhelloX\r\n", b"5 5\r\n"):
            await self.refused(head + chunk + b"0\r\n\r\n" + GET)

    async def test_request_line(self):
        """What is no request line, or of another version."""
        for line in (
            b"GET /healthz\r\n",
            b"GET  /healthz HTTP/1.1\r\n",
            b"GET /healthz HTTP/2.0\r\n",
            b"GET /he althz HTTP/1.1\r\n",
            b"G\x00T /healthz HTTP/1.1\r\n",
        ):
            await self.refused(line + HOST + b"\r\n" + GET)

    async def test_pipelined(self):
        """Requests that are sent at once are answered one after the other."""
        client = await self.connect()
        client.send(GET * 3)
        await until(lambda: client.statuses == [200, 200, 200])

    async def test_chunked(self):
        """A body in good chunks arrives whole."""
        client = await self.connect()
        client.send(
            b"POST /echo HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: chunked\r\n\r\n"
            b"5\r\nhello\r\n1;x=y\r\n!\r\n0\r\n\r\n"
        )
        self.assertEqual((await client.answer())[::2], (200, b"hello!"))


class SizeTests(ChannelCase):
    """Everything has a size that it may have."""

    async def test_head(self):
        """The bytes of a head, the number of its headers, and the length of a line."""
        await self.refused(
            b"GET /healthz HTTP/1.1\r\n"
            + b"".join(b"X%d: y\r\n" % n for n in range(HTTP_HEADERS_MAX + 1))
            + b"\r\n"
        )
        client = await self.connect()
        client.send(b"GET /healthz HTTP/1.1\r\n" + HOST + (b"X: " + b"y" * 4000 + b"\r\n") * 5)
        await client.end()
        self.assertEqual(client.statuses, [400])
        client = await self.connect()
        client.send(b"GET /" + b"x" * (HTTP_HEAD_SIZE_MAX + 10))
        self.assertNotIn(b"200", await client.end())

    async def test_body(self):
        """A body may have so much, told ahead or not; a client that asks first is not told to go on."""
        client = await self.connect()
        body = b"b" * HTTP_BODY_SIZE_MAX
        client.send(b"POST /echo HTTP/1.1\r\n" + HOST + b"Content-Length: %d\r\n\r\n" % len(body) + body)
        self.assertEqual((await client.answer())[::2], (200, body))
        head = b"POST /echo HTTP/1.1\r\nExpect: 100-continue\r\n" + HOST
        client = await self.connect()
        client.send(head + b"Content-Length: %d\r\n\r\n" % (len(body) + 1))
        self.assertNotIn(b"100 Continue", await client.end())
        self.assertEqual(client.statuses, [413])
        client = await self.connect()
        client.send(b"POST /echo HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: chunked\r\n\r\n")
        client.send(b"%x\r\n" % (len(body) + 1) + body + b"b")
        await client.end()
        self.assertEqual(client.statuses, [413])
        self.assertEqual(self.shares.bodies.held, 0)

    async def test_bodies_of_all(self):
        """Bodies count as what unfinished requests hold, over all servers, until they are answered."""
        client = await self.connect()
        client.send(b"POST /echo HTTP/1.1\r\n" + HOST + b"Content-Length: 1000\r\n\r\n")
        await until(lambda: self.shares.bodies.held == 1000)
        client.send(b"b" * 1000)
        await client.answer()
        self.assertEqual(self.shares.bodies.held, 0)
        self.shares.bodies.take("root", BODIES.share)
        client = await self.connect()
        client.send(b"POST /echo HTTP/1.1\r\n" + HOST + b"Content-Length: 1000\r\n\r\n")
        await client.end()
        self.assertEqual(client.statuses, [429])

    async def test_lost(self):
        """A client that goes in the middle of a body holds nothing any more."""
        client = await self.connect()
        client.send(b"POST /echo HTTP/1.1\r\n" + HOST + b"Content-Length: 1000\r\n\r\n")
        await until(lambda: self.shares.bodies.held)
        client.transport.abortConnection()
        await until(lambda: not self.shares.bodies.held and not self.site._channels)


class SlowTests(ChannelCase):
    """Each part of a request has its time; a byte now and then does not make it longer."""

    async def drip(self, client, data, seconds, pause):
        """Send a byte after each pause until the connection is over; return how long that took."""
        passed = 0.0
        for index in range(len(data)):
            client.send(data[index : index + 1])
            await turn()
            await turn()
            await self.pass_time(pause)
            passed += pause
            if passed >= seconds + pause:
                break
        await until(lambda: client.is_lost)
        return passed

    async def test_head(self):
        """A head that never ends (slowloris)."""
        client = await self.connect()
        data = b"GET /healthz HTTP/1.1\r\nX: " + b"x" * 1000
        await self.drip(client, data, HTTP_HEAD_SECONDS, 1.0)
        self.assertEqual(client.received, b"")

    async def test_silence(self):
        """A connection on which nothing comes."""
        client = await self.connect()
        await self.pass_time(HTTP_HEAD_SECONDS - 0.1)
        self.assertFalse(client.is_lost)
        await self.pass_time(0.2)
        await client.end()

    async def test_body(self):
        """A body that never ends."""
        client = await self.connect()
        client.send(b"POST /echo HTTP/1.1\r\n" + HOST + b"Content-Length: 1000\r\n\r\n")
        await until(lambda: self.shares.bodies.held)
        await self.pass_time(HTTP_BODY_SECONDS - 1)
        client.send(b"x")
        self.assertFalse(client.is_lost)
        await self.pass_time(1.1)
        await client.end()

    async def test_idle(self):
        """A connection may be kept for another request, for a while; that has the time of a head again."""
        client = await self.connect()
        await self.get("/healthz", client)
        await self.pass_time(HTTP_IDLE_SECONDS - 1)
        await self.get("/healthz", client)
        await self.pass_time(HTTP_IDLE_SECONDS - 1)
        client.send(b"G")
        await until(lambda: not next(iter(self.site._channels))._is_idle)
        await self.pass_time(HTTP_HEAD_SECONDS - 1)
        self.assertFalse(client.is_lost)
        await self.pass_time(1.1)
        await client.end()

    async def test_takes_nothing(self):
        """An answer that its client does not take."""
        client = await self.connect()
        client.transport.pauseProducing()
        client.send(b"GET /echo?size=%d HTTP/1.1\r\n" % (64 << 20) + HOST + b"\r\n")
        await until(lambda: any(channel._stuck for channel in self.site._channels))
        await self.pass_time(STUCK_SECONDS_MAX - 1)
        self.assertTrue(self.site._channels)
        await self.pass_time(1.1)
        await until(lambda: not self.site._channels)


class CrowdTests(ChannelCase):
    """Connections are counted."""

    async def test_strangers(self):
        """A new one is let in, and pushes the oldest out that has not said who it is."""
        first = await self.connect()
        known = await self.connect()
        await self.get("/echo", known, method="POST")
        others = [await self.connect() for _ in range(HTTP_CONNECTIONS_MAX // 8)]
        await first.end()
        self.assertFalse(known.is_lost or others[-1].is_lost)
        self.assertEqual((await self.get("/healthz", others[-1]))[0], 200)

    async def test_clients(self):
        """One address has its share of places."""
        for _ in range(HTTP_CONNECTIONS_MAX // 2):
            await self.get("/echo", await self.connect(), method="POST")
        client = await self.connect()
        await client.end()


class PathTests(ChannelCase):
    """Paths lead nowhere but to what is there."""

    async def test_traversal(self):
        """Nothing is a file."""
        for path in (
            "/../../etc/passwd",
            "/healthz/../../etc/passwd",
            "/%2e%2e/%2e%2e/etc/passwd",
            "/..%2f..%2fetc%2fpasswd",
            "//etc/passwd",
            "/healthz%00.txt",
            "/healthz/",
            "/api/../healthz/x",
            "/%ff%fe",
            "*",
            "//",
            "/.git/config",
        ):
            status, headers, found = await self.get(path)
            self.assertEqual(status, 404, path)
            self.assertEqual(found["error"]["reason"], "NOT_FOUND")
            self.assertEqual(headers["content-type"], "application/json; charset=utf-8")

    async def test_headers(self):
        """Every answer says what it is, and that nobody is to guess, frame or keep it."""
        _, headers, _ = await self.get("/healthz")
        self.assertEqual(headers["server"], "loghouse")
        self.assertEqual(headers["cache-control"], "no-store")
        self.assertEqual(headers["x-content-type-options"], "nosniff")
        self.assertEqual(headers["x-frame-options"], "DENY")
        self.assertIn("default-src 'none'", headers["content-security-policy"])


class TreeTests(ChannelCase):
    """What is put into the tree."""

    async def test_deeper(self):
        """A path below another one."""
        below = Resource()
        below.putChild(b"v1", Echo(self.context))
        self.server.tree.putChild(b"deep", below)
        client = await self.connect()
        client.send(b"GET /deep/v1 HTTP/1.1\r\n" + HOST + b"\r\n")
        self.assertEqual((await client.answer())[0], 200)
