"""The JSON API over real connections: what the server adds to its answers."""

import json

from loghouse.auth.identity import Identity
from loghouse.http.rest import Flow
from loghouse.limits import REST_EVENT_SIZE_MAX
from loghouse.shares import SubjectQuota
from tests.http.case import HttpCase
from tests.service.case import turn, until

RECORDS = "/api/v1/logs/default/records"
FOLLOW = "/api/v1/logs/default/follow?offset=0"


class RestEndpointTests(HttpCase):
    """Requests and answers."""

    def setUp(self):
        super().setUp()
        self.serve()

    async def post(self, body, *headers, path=RECORDS):
        client = await self.connect()
        lines = [
            f"POST {path} HTTP/1.1",
            f"Host: 127.0.0.1:{self.port}",
            f"Content-Length: {len(body)}",
            *headers,
            "",
            "",
        ]
        client.send("\r\n".join(lines).encode() + body)
        status, found, answer = await client.answer()
        return status, found, json.loads(answer)

    async def test_round_trip(self):
        """What is appended is read again, with the parameters of the query."""
        body = json.dumps({"records": [{"value": "a"}, {"value": "ä"}]}).encode()
        status, headers, told = await self.post(body, "Content-Type: application/json; charset=utf-8")
        self.assertEqual((status, headers["content-type"]), (201, "application/json"))
        self.assertEqual(told["record_count"], 2)
        status, headers, page = await self.get(f"{RECORDS}?offset=1&encoding=text")
        self.assertEqual([record["value"] for record in page["records"]], ["ä"])
        self.assertEqual(headers["cache-control"], "no-store")

    async def test_octets(self):
        """Bytes are appended as they are."""
        status, _, _ = await self.post(b"\xff\x00", "Content-Type: application/octet-stream")
        self.assertEqual((status, self.node.cluster.values), (201, [b"\xff\x00"]))

    async def test_problems(self):
        """A refusal is a problem, wherever it was refused."""
        for path, status, reason in (
            ("/api/v1/nothing", 404, "NO_SUCH_PATH"),
            ("/api/v1/logs/a%2Fb/bounds", 404, "NO_SUCH_PATH"),
            ("/api/v1/logs/../cluster", 404, "NO_SUCH_PATH"),
            (f"{RECORDS}?count=1&count=2", 400, "INVALID_REQUEST"),
            (f"{RECORDS}?offset=%ff", 400, "INVALID_REQUEST"),
            ("/api/v1/logs/none/bounds", 404, "UNKNOWN_LOG"),
        ):
            found, headers, problem = await self.get(path)
            self.assertEqual((found, problem["reason"]), (status, reason), path)
            self.assertEqual(headers["content-type"], "application/problem+json")
        status, _, problem = await self.get("/api/v1/cluster", None, "Origin: http://evil.example")
        self.assertEqual((status, problem["reason"]), (403, "CROSS_SITE"))
        status, headers, _ = await self.get(RECORDS, method="DELETE")
        self.assertEqual((status, headers["allow"]), (405, "GET, POST"))
        status, _, problem = await self.post(b"x", "Content-Type: text/plain")
        self.assertEqual((status, problem["reason"]), (415, "UNSUPPORTED_MEDIA_TYPE"))

    async def test_last_event_id(self):
        """A header that is no text, or no offset, is the client's mistake."""
        for value in ("\xff", "x"):
            status, _, problem = await self.get(FOLLOW, None, f"Last-Event-ID: {value}")
            self.assertEqual((status, problem["reason"]), (400, "INVALID_REQUEST"), value)

    async def test_follow(self):
        """Events come as records are appended, and a client that goes holds nothing any more."""
        client = await self.connect()
        client.send(f"GET {FOLLOW} HTTP/1.1\r\nHost: 127.0.0.1:{self.port}\r\n\r\n".encode())
        await until(lambda: self.node.waiters)
        await until(lambda: b"Content-Type: text/event-stream\r\n" in client.received)
        self.node.cluster.add_values(b"a")
        await until(lambda: b'"value":"a"' in client.received)
        self.assertEqual(self.shares.followers.held, 1)
        client.cut()
        await until(lambda: not self.shares.calls.held)
        self.assertEqual((self.shares.followers.held, self.shares.answers.held), (0, 0))
        self.assertEqual(self.node.waiters, {})

    async def test_slow_follower(self):
        """A client that takes nothing stops being read for, and costs nobody else anything."""
        client = await self.connect()
        client.transport.pauseProducing()
        client.send(f"GET {FOLLOW} HTTP/1.1\r\nHost: 127.0.0.1:{self.port}\r\n\r\n".encode())
        for _ in range(200):
            self.node.cluster.add_values(b"x" * (REST_EVENT_SIZE_MAX - 1))
        count = -1
        while count != self.node.fetches:
            count = self.node.fetches
            for _ in range(50):
                await turn()
        self.assertLess(count, 200)
        self.assertEqual((await self.get("/api/v1/logs/default/bounds"))[2]["next"], 200)
        client.cut()
        await until(lambda: not self.shares.calls.held)
        self.assertEqual(self.shares.answers.held, 0)

    async def test_head(self):
        """HEAD of a stream has an end."""
        client = await self.connect()
        client.send(f"HEAD {FOLLOW} HTTP/1.1\r\nHost: 127.0.0.1:{self.port}\r\n\r\n".encode())
        await until(lambda: client.received.endswith(b"\r\n\r\n"))
        self.assertEqual((client.statuses, self.shares.calls.held), ([200], 0))

    async def test_counted_once(self):
        """A request counts once: one under way is what a quota of one allows."""
        self.shares.quotas.change({"root": SubjectQuota(requests=1)})
        lines = []
        self.context.gate.audit.write = lines.append
        client = await self.connect()
        client.send(f"GET {FOLLOW} HTTP/1.1\r\nHost: 127.0.0.1:{self.port}\r\n\r\n".encode())
        await until(lambda: b"text/event-stream" in client.received)
        self.assertEqual(self.shares.calls.held, 1)
        status, _, problem = await self.get("/api/v1/logs/default/bounds")
        self.assertEqual((status, problem["reason"]), (429, "QUOTA_EXCEEDED"))
        told = json.loads(lines.pop())
        self.assertEqual((told["who"], told["from"]), ("root", "127.0.0.1"))
        client.cut()
        await until(lambda: not self.shares.calls.held)
        self.assertEqual((await self.get("/api/v1/logs/default/bounds"))[0], 200)

    async def test_audited(self):
        """The audit has who was refused what, and from where, wherever that was refused."""
        lines = []
        self.context.gate.audit.write = lines.append
        await self.get("/api/v1/cluster")
        self.assertEqual(lines, [])
        self.site.anonymous = Identity(subject="nobody", expires_at=float("inf"))
        for path in ("/api/v1/cluster", "/api/v1/nothing"):
            self.assertEqual((await self.get(path))[0], 403)
            told = json.loads(lines.pop())
            self.assertEqual((told["who"], told["from"]), ("nobody", "127.0.0.1"))
            self.assertIn(path, told["what"])

    async def test_flow(self):
        """A flow that is resumed, once or twice, waits no more."""
        flow = Flow()
        flow.resumeProducing()
        await flow.taken()
        flow.pauseProducing()
        flow.pauseProducing()
        flow.resumeProducing()
        flow.stopProducing()
        await flow.taken()
