"""Health over HTTP: what a balancer is told, and why."""

import time
from types import SimpleNamespace

from twisted.internet.threads import deferToThread
from twisted.trial.unittest import SynchronousTestCase

from loghouse.auth.credentials import Credentials
from loghouse.config.values import Address
from loghouse.node.condition import Hindrance, hindrances_of
from loghouse.raft.ready import Role
from loghouse.service.checkup import context_of
from loghouse.service.peer_clocks import PeerClock, ask_clock
from tests.http.case import HttpCase
from tests.service.case import until


class HealthTests(HttpCase):
    """The two paths."""

    async def test_well(self):
        """All is well: no identity is needed."""
        self.serve(anonymous="")
        for path in ("/healthz", "/readyz"):
            self.assertEqual((await self.get(path))[::2], (200, {"status": "ok", "node": "n1"}))

    async def test_reasons(self):
        """Each hindrance keeps the node from being ready; only what an operator must mend makes it unwell."""
        self.serve()
        for hindrance in Hindrance:
            self.hindrances[:] = [(hindrance, "orders"), (hindrance, "audit")]
            status, _, found = await self.get("/readyz")
            reason = {"reason": hindrance.value, "log_count": 2, "logs": ["audit", "orders"]}
            self.assertEqual((status, found["status"], found["reasons"]), (503, "unavailable", [reason]))
            is_fault = hindrance in (Hindrance.DAMAGED_LOG, Hindrance.DISK_NOT_WRITABLE)
            self.assertEqual((await self.get("/healthz"))[0], 503 if is_fault else 200, hindrance)

    async def test_clock(self):
        """Every answer has its date, which is how another node learns what the clock is here."""
        self.serve()
        self.assertEqual(await self.asked_clock(None), PeerClock("n1", 0.0))
        for path in ("/nothing", "/api/v1/cluster", "/"):
            client = await self.connect()
            client.send(f"HEAD {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
            await until(lambda client=client: b"\r\n\r\n" in client.received)
            self.assertIn(b" GMT\r\n", client.received.partition(b"\r\nDate: ")[2], path)

    async def test_clock_by_tls(self):
        """With TLS another node learns it, too."""
        self.serve(credentials=Credentials(self.tls_paths()))
        found = await self.asked_clock(context_of(self.tls_paths("n2")))
        self.assertEqual(found, PeerClock("n1", 0.0))

    async def asked_clock(self, tls):
        return await deferToThread(ask_clock, Address("127.0.0.1", self.port), tls, time.time)

    async def test_many_logs(self):
        """Of a thousand logs some are named, and all are counted, in one line."""
        self.serve()
        self.hindrances[:] = [(Hindrance.NO_LEADER, f"log-{n:04}") for n in range(1000)]
        client = await self.connect()
        client.send(b"GET /readyz HTTP/1.1\r\nHost: localhost\r\n\r\n")
        _, _, body = await client.answer()
        self.assertEqual((body.count(b"\n"), body.count(b"log-0"), b"1000" in body), (1, 20, True))

    async def test_stopping(self):
        """A node that stops is not ready, and says so until its last connection is gone."""
        self.serve()
        self.server.enter_stop()
        status, _, found = await self.get("/readyz")
        self.assertEqual((status, found["reasons"]), (503, [{"reason": "stopping"}]))
        self.assertEqual((await self.get("/healthz"))[0], 200)

    async def test_idle_ones_end(self):
        """Idle connections end when the node stops, and those with an answer under way after it."""
        self.serve()
        client = await self.connect()
        await self.get("/healthz", client)
        self.server.enter_stop()
        await client.end()
        client = await self.connect()
        await self.get("/healthz", client)
        await client.end()

    async def test_methods(self):
        """They are asked, and not told."""
        self.serve()
        self.assertEqual((await self.get("/healthz", method="POST"))[0], 405)
        self.assertEqual((await self.get("/healthz/x"))[0], 404)


class ConditionTests(SynchronousTestCase):
    """What keeps a node from serving."""

    def log(self, name="orders", **changes):
        raft = SimpleNamespace(
            role=Role.FOLLOWER,
            leader_commit=100,
            is_stalled=False,
            config=SimpleNamespace(inflight_entries_max=10),
        )
        driver = SimpleNamespace(raft=raft, readable_index=100)
        replica = SimpleNamespace(driver=driver, damage_control=SimpleNamespace(is_damaged=False))
        log = SimpleNamespace(name=name, group=7, replica=replica, has_leader=True, is_writable=True)
        for path, value in changes.items():
            *parents, last = path.split("__")
            target = log
            for parent in parents:
                target = getattr(target, parent)
            setattr(target, last, value)
        return log

    def of(self, log, **node):
        found = SimpleNamespace(logs={7: log}, membership=None, set_aside={})
        vars(found).update(node)
        return [hindrance for hindrance, name in hindrances_of(found)]

    def test_replicas(self):
        """Each state of a copy, alone and together."""
        raft = "replica__driver__raft__"
        rows = [
            ({}, []),
            ({"has_leader": False}, [Hindrance.NO_LEADER]),
            ({"replica__driver__readable_index": 89}, [Hindrance.BEHIND]),
            ({"replica__driver__readable_index": 90}, []),
            ({"replica__driver__readable_index": 0, f"{raft}role": Role.LEADER}, []),
            ({"is_writable": False}, [Hindrance.DISK_FULL]),
            ({f"{raft}is_stalled": True}, [Hindrance.DISK_NOT_WRITABLE]),
            ({f"{raft}is_stalled": True, "is_writable": False}, [Hindrance.DISK_FULL]),
            ({"replica__damage_control__is_damaged": True}, [Hindrance.DAMAGED_LOG]),
            ({"replica__driver": None}, [Hindrance.NOT_JOINED]),
        ]
        for changes, expected in rows:
            self.assertEqual(self.of(self.log(**changes)), expected, changes)

    def test_without_a_copy(self):
        """A log that others hold is no concern of this node, unless it cannot be opened, or is the first."""
        log = self.log(replica=None)
        self.assertEqual(self.of(log), [])
        self.assertEqual(self.of(log, set_aside={7: "damaged"}), [Hindrance.DAMAGED_LOG])
        self.assertEqual(self.of(log, membership=log), [Hindrance.NOT_JOINED])
