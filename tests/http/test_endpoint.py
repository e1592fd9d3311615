"""Who calls over HTTP, and what they may: by the gate of the other doors."""

from twisted.internet.defer import Deferred
from twisted.internet.ssl import TLSVersion

from loghouse.auth.credentials import Credentials
from loghouse.auth.policy import Action
from loghouse.errors import (
    DiskFullError,
    NotLeaderError,
    OffsetOutOfRangeError,
    QuotaExceededError,
    ResourceExhaustedError,
    UnknownLogError,
)
from loghouse.http.answers import HttpAnswer, json_answer
from loghouse.http.endpoint import Endpoint
from loghouse.limits import CALLS, HTTP_ANSWER_SECONDS
from tests.fakes.secured import client_certificate, node_certificate
from tests.http.case import HttpCase
from tests.service.case import until


class Who(Endpoint):
    """Says who asks."""

    async def answer_get(self, call):
        return json_answer({"subject": call.subject, "log": call.request.prepath[-1].decode()})


class Manager(Who):
    """Needs a permission that nobody has."""

    action = Action.ADMIN


class Work(Endpoint):
    """Does what the test says."""

    def __init__(self, context, case):
        super().__init__(context)
        self.case = case

    async def answer_get(self, call):
        return await self.case.work(call)


class EndpointCase(HttpCase):
    def serve(self, **options):
        super().serve(put=self.put, **options)

    def put(self, tree, context):
        tree.putChild(b"who", Who(context))
        tree.putChild(b"admin", Manager(context))
        tree.putChild(b"work", Work(context, self))


class PlainTests(EndpointCase):
    """Without TLS, on a loopback address."""

    async def test_subject(self):
        """Everyone is the subject that node.yaml names, with its permissions."""
        self.serve(anonymous="root")
        self.assertEqual((await self.get("/who"))[::2], (200, {"subject": "root", "log": "who"}))
        status, _, found = await self.get("/admin")
        self.assertEqual((status, found["error"]["reason"]), (403, "PERMISSION_DENIED"))

    async def test_nobody(self):
        """Without one, nobody is known, and the refusal says which setting would change that."""
        self.serve(anonymous="")
        status, _, found = await self.get("/who")
        self.assertEqual((status, found["error"]["reason"]), (401, "UNAUTHENTICATED"))
        self.assertIn("http.loopback_subject", found["error"]["message"])
        self.assertEqual((await self.get("/healthz"))[0], 200)

    async def test_stranger_of_the_policy(self):
        """A subject without a rule may do nothing."""
        self.serve(anonymous="ann")
        self.assertEqual((await self.get("/who"))[0], 403)

    async def test_other_sites(self):
        """A page of another site, and one that has this machine's address under its own name, get nothing."""
        self.serve()
        for host in (
            "evil.example",
            "evil.example:80",
            "10.0.0.1",
            "a@localhost",
            "localhost:x",
            "[::1",
            "a/b",
        ):
            client = await self.connect()
            client.send(f"GET /who HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
            self.assertEqual((await client.answer())[0], 403, host)
        for host in ("localhost", "LOCALHOST:1", "127.0.0.1", "[::1]:8480", "127.8.8.8"):
            client = await self.connect()
            client.send(f"GET /who HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
            self.assertEqual((await client.answer())[0], 200, host)
        own = f"http://127.0.0.1:{self.port}"
        for header, status in (
            ("Origin: http://evil.example", 403),
            ("Origin: null", 403),
            (f"Origin: {own}", 200),
            ("Sec-Fetch-Site: cross-site", 403),
            ("Sec-Fetch-Site: same-site", 403),
            ("Sec-Fetch-Site: same-origin", 200),
            ("Sec-Fetch-Site: none", 200),
        ):
            self.assertEqual((await self.get("/who", None, header))[0], status, header)
        link = ("Sec-Fetch-Site: cross-site", "Sec-Fetch-Mode: navigate")
        self.assertEqual((await self.get("/who", None, *link))[0], 200)
        self.assertEqual((await self.get("/who", None, *link, method="POST"))[0], 403)

    async def test_methods(self):
        """What a path does not answer, and HEAD, which has no body."""
        self.serve()
        for method in ("POST", "PUT", "DELETE", "OPTIONS", "TRACE", "CONNECT", "get", "FOO", "__INIT__"):
            status, headers, _ = await self.get("/who", method=method)
            self.assertEqual((status, headers["allow"]), (405, "GET"), method)
        client = await self.connect()
        client.send(b"HEAD /who HTTP/1.1\r\nHost: localhost\r\n\r\n")
        await until(lambda: b"\r\n\r\n" in client.received)
        self.assertTrue(client.received.endswith(b"\r\n\r\n"))

    async def test_errors(self):
        """A refusal has its status, its reason, its text and its details; a bug tells nothing but its log."""
        self.serve()
        for error, status, reason in (
            (UnknownLogError("orders"), 404, "UNKNOWN_LOG"),
            (OffsetOutOfRangeError(5, 1, 3), 416, "OFFSET_OUT_OF_RANGE"),
            (NotLeaderError("n2"), 503, "NOT_LEADER"),
            (DiskFullError("/data"), 507, "DISK_FULL"),
            (ValueError("secret"), 500, "INTERNAL"),
        ):

            async def fail(call, error=error):
                raise error

            self.work = fail
            found_status, _, found = await self.get("/work")
            self.assertEqual((found_status, found["error"]["reason"]), (status, reason))
        self.assertNotIn("secret", str(found))
        self.assertEqual(len(self.flushLoggedErrors(ValueError)), 1)
        self.assertEqual(self.shares.calls.held, 0)

    async def test_retry_after(self):
        """A refusal for a quota says after how many whole seconds to come again; others do not know."""
        self.serve()
        for error, expected in (
            (QuotaExceededError(100, "requests", "x"), "1"),
            (QuotaExceededError(61_001, "bytes in", "x"), "62"),
            (ResourceExhaustedError("calls", "x"), None),
        ):

            async def fail(call, error=error):
                raise error

            self.work = fail
            status, headers, _ = await self.get("/work")
            self.assertEqual((status, headers.get("retry-after")), (429, expected))

    async def test_shares(self):
        """A request is one of its subject's calls, until it is answered."""
        self.serve()
        waiting = Deferred()

        async def work(call):
            await waiting
            return HttpAnswer()

        self.work = work
        client = await self.connect()
        client.send(b"GET /work HTTP/1.1\r\nHost: localhost\r\n\r\n")
        await until(lambda: self.shares.calls.held == 1)
        waiting.callback(None)
        await client.answer()
        self.assertEqual(self.shares.calls.held, 0)
        self.shares.calls.take("root", CALLS.share)
        self.assertEqual((await self.get("/work"))[0], 429)

    async def test_late_and_gone(self):
        """What takes too long is given up, and so is what nobody waits for any more."""
        self.serve()
        cancelled = []

        def work(call):
            return Deferred(cancelled.append)

        self.work = work
        client = await self.connect()
        client.send(b"GET /work HTTP/1.1\r\nHost: localhost\r\n\r\n")
        await until(lambda: self.shares.calls.held)
        await self.pass_time(HTTP_ANSWER_SECONDS)
        self.assertEqual((await client.answer())[0], 503)
        client.send(b"GET /work HTTP/1.1\r\nHost: localhost\r\n\r\n")
        await until(lambda: self.shares.calls.held)
        client.transport.abortConnection()
        await until(lambda: len(cancelled) == 2)
        self.assertEqual(self.shares.calls.held, 0)

    async def test_streams(self):
        """A stream lasts as long as its client, or until the node stops."""
        self.serve()
        cancelled = []

        async def work(call):
            call.stream()
            call.request.write(b"first")
            await Deferred(cancelled.append)

        self.work = work
        client = await self.connect()
        client.send(b"GET /work HTTP/1.1\r\nHost: localhost\r\n\r\n")
        await until(lambda: b"first" in client.received)
        await self.pass_time(10 * HTTP_ANSWER_SECONDS)
        self.assertEqual(cancelled, [])
        self.server.enter_stop()
        await client.end()
        self.assertEqual((len(cancelled), self.shares.calls.held, self.site.streams), (1, 0, set()))


class CertificateTests(EndpointCase):
    """With TLS, whatever the address."""

    def serve_tls(self, **options):
        self.paths = self.tls_paths()
        self.credentials = Credentials(self.paths)
        self.serve(credentials=self.credentials, **options)

    async def test_subject(self):
        """Who calls is in the certificate; a client without one sees health alone."""
        self.serve_tls(anonymous="root")
        client = await self.connect_tls(client_certificate("root"))
        self.assertEqual((await self.get("/who", client))[::2], (200, {"subject": "root", "log": "who"}))
        self.assertEqual((await self.get("/who", await self.connect_tls(client_certificate("ann"))))[0], 403)
        client = await self.connect_tls()
        status, _, found = await self.get("/who", client)
        self.assertEqual((status, found["error"]["reason"]), (401, "UNAUTHENTICATED"))
        self.assertEqual((await self.get("/healthz", client))[0], 200)

    async def test_node(self):
        """A node is a subject as any other."""
        self.serve_tls()
        client = await self.connect_tls(node_certificate("n2"))
        status, _, found = await self.get("/who", client)
        self.assertEqual((status, found["error"]["details"]["subject"]), (403, "node:n2"))

    async def test_foreign(self):
        """A certificate of another CA, or one that has expired, gets no answer at all."""
        self.serve_tls()
        for issued in (client_certificate("root", is_foreign=True), client_certificate("root", day=-400)):
            client = await self.connect_tls(issued)
            client.send(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
            self.assertEqual(await client.end(), b"")

    async def test_old_tls(self):
        """TLS 1.2 is refused."""
        self.serve_tls()
        version = TLSVersion.TLSv1_2
        client = await self.connect_tls(insecurelyLowerMinimumTo=version, lowerMaximumSecurityTo=version)
        self.assertEqual(await client.end(), b"")

    async def test_expires(self):
        """A certificate that expires while its connection is open counts no more."""
        self.serve_tls()
        client = await self.connect_tls(client_certificate("root"))
        self.assertEqual((await self.get("/who", client))[0], 200)
        self.context.gate._clock = lambda: float("inf")
        self.assertEqual((await self.get("/who", client))[0], 401)

    async def test_plain(self):
        """Whoever speaks no TLS gets no answer."""
        self.serve_tls()
        client = await self.connect()
        client.send(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
        self.assertNotIn(b"HTTP", await client.end())
