"""/metrics of a node in this process: read by the official parser, bounded, and complete."""

import gc
import re
from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from loghouse.api.v1 import log_pb2
from loghouse.errors import QuotaExceededError
from loghouse.http.counters import OTHER, Counters
from loghouse.http.delays import HEARTBEAT_SECONDS, Delays
from loghouse.http.metric_table import COUNTER, HISTOGRAM, LOGS_SHOWN_MAX, TABLE, VALUES_MAX
from loghouse.limits import CURSOR_NAME_SIZE_MAX, CURSORS_SHOWN_MAX
from loghouse.metrics import SECONDS, Distribution, DoorTally
from loghouse.protocol.batch import encode_batch
from loghouse.protocol.cursor_messages import CursorOperation, CursorOrder
from loghouse.shares import SubjectQuota
from loghouse.testing.process import free_port
from tests.http.case import connect_to
from tests.service.case import ServiceCase, turn, until

MONITORING = Path(__file__).resolve().parents[2] / "docs" / "monitoring.md"
PROCESS = {
    "process_virtual_memory_bytes",
    "process_resident_memory_bytes",
    "process_start_time_seconds",
    "process_cpu_seconds",
    "process_open_fds",
    "process_max_fds",
}
SIZE_MAX = 200_000


class ScrapeCase(ServiceCase):
    """A node that serves HTTP."""

    async def serve(self, *lines, **arguments):
        self.http_port = free_port()
        service = self.start(f"http_listen: 127.0.0.1:{self.http_port}", *lines, **arguments)
        await self.lead(service)
        return service

    async def scrape(self):
        """Return the text, and the families by name."""
        client = await connect_to(self, self.http_port)
        client.send(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n")
        status, headers, body = await client.answer()
        self.assertEqual(status, 200, body)
        self.assertEqual(headers["content-type"], "text/plain; version=0.0.4; charset=utf-8")
        client.cut()
        return body, {family.name: family for family in text_string_to_metric_families(body.decode())}


class PageTests(ScrapeCase):
    """What is on the page."""

    async def test_every_metric(self):
        """The page has every metric of the table, of its kind, and nothing else but the process's own."""
        await self.serve(security=self.write_tls_files())
        _, families = await self.scrape()
        names = {name.removesuffix("_total") for name in TABLE}
        self.assertEqual(set(families), names | PROCESS)
        for name, described in TABLE.items():
            family = families[name.removesuffix("_total")]
            self.assertEqual((family.type, family.documentation), (described.kind, described.text), name)
            for sample in family.samples:
                self.assertEqual(set(sample.labels) - {"le"}, set(described.labels), name)

    async def test_names(self):
        """Names follow Prometheus' conventions: base units, and `_total` for what only grows."""
        units = (
            *("_seconds", "_bytes", "_ratio", "_info", "_total"),
            *("_entries", "_records", "_offset", "_frames"),
        )
        counts = {
            "loghouse_ready", "loghouse_hindered_logs", "loghouse_logs", "loghouse_log_leader",
            "loghouse_log_term", "loghouse_log_segments", "loghouse_peer_link_up", "loghouse_gossip_members",
            "loghouse_connections", "loghouse_shares_held", "loghouse_damaged_segments",
            "loghouse_settings_waiting", "loghouse_quota_requests", "loghouse_cursors",
            "loghouse_cursors_not_shown", "loghouse_cursor_held",
        }  # fmt: skip
        for name, described in TABLE.items():
            self.assertRegex(name, r"^loghouse_[a-z_]+$")
            self.assertEqual(name.endswith("_total"), described.kind == COUNTER, name)
            self.assertEqual(not name.endswith(units), name in counts, name)
            self.assertNotRegex(name, "milli|micro|percent|kilo|mib")

    async def test_appends(self):
        """An append moves its counters and each part of its way."""
        service = await self.serve()
        connection = await self.connect()
        batch = encode_batch([log_pb2.Record(value=b"x" * 100)])
        await connection.produce(batch, record_count=1)
        await connection.fetch(0)
        _, families = await self.scrape()
        values = {
            (sample.name, *sample.labels.values()): sample.value
            for family in families.values()
            for sample in family.samples
        }
        self.assertEqual(values["loghouse_appends_total", "binary", "appended"], 1)
        self.assertEqual(values["loghouse_append_records_total", "binary"], 1)
        self.assertEqual(values["loghouse_append_bytes_total", "binary"], len(batch))
        self.assertEqual(values["loghouse_append_seconds_count", "binary"], 1)
        self.assertGreater(values["loghouse_append_seconds_sum", "binary"], 0)
        for name in ("disk_write_seconds", "disk_sync_seconds", "append_queue_seconds", "write_group_bytes"):
            self.assertGreaterEqual(values[f"loghouse_{name}_count",], 1, name)
        self.assertGreater(values["loghouse_fetch_bytes_total", "binary"], len(batch))
        self.assertEqual(values["loghouse_reads_total", "map"], 1)
        self.assertEqual(values["loghouse_log_next_offset", "default"], 1)
        self.assertEqual(values["loghouse_log_leader", "default"], 1)
        self.assertEqual(values["loghouse_ready",], 1)
        self.assertEqual(service.node.name, "n1")

    async def test_settings(self):
        """What node.yaml says otherwise, and a restart would take, is counted until the file is as it was."""
        service = await self.serve()
        http = f"http_listen: 127.0.0.1:{self.http_port}"
        for lines, count in (
            (("timing: {network: wan}", "host: h1", "retention: {age: 7d}", "quotas: {'*': {in: 1MiB}}"), 2),
            ((), 0),
        ):
            self.write_settings(http, *lines)
            await service.reload("ann")
            _, families = await self.scrape()
            [sample] = families["loghouse_settings_waiting"].samples
            self.assertEqual(sample.value, count)
            self.assertEqual(service.node.waiting_settings, ("host", "timing.network")[:count])

    async def test_quotas(self):
        """What a subject uses of its quotas, and how often it is refused; not of others."""
        service = await self.serve("quotas: {root: {in: 1MiB, out: 1MiB, requests: 1}}")
        connection = await self.connect()
        batch = encode_batch([log_pb2.Record(value=b"x" * 1000)])
        await connection.produce(batch, record_count=1)
        quotas = service._one_port.shares.quotas
        use = quotas.of("root")
        await until(lambda: not use.requests)  # the answer is here a little before it is counted off
        now = quotas.seconds()
        quotas.seconds = lambda: now
        use.send(3 << 20, now)
        use.begin()
        for ask in (lambda: use.check_send(now - 1.0), use.begin):
            self.assertRaises(QuotaExceededError, ask)
        _, families = await self.scrape()
        # Rounded: now + 3 - now is not 3 for every now.
        found = {
            (name, *(text for _, text in sorted(sample.labels.items()))): round(sample.value, 6)
            for name, family in families.items()
            if name.startswith("loghouse_quota")
            for sample in family.samples
        }
        self.assertEqual(
            found,
            {
                ("loghouse_quota_bytes", "in", "root"): len(batch),
                ("loghouse_quota_bytes", "out", "root"): 3 << 20,
                ("loghouse_quota_requests", "root"): 1,
                ("loghouse_quota_wait_seconds", "in", "root"): 0,
                ("loghouse_quota_wait_seconds", "out", "root"): 2,
                ("loghouse_quota_refusals", "bytes out", "root"): 1,
                ("loghouse_quota_refusals", "requests", "root"): 1,
            },
        )

    async def cursor_of(self, service, name, operation, **fields):
        """Do something about a cursor of the default log, and return it."""
        order = CursorOrder(operation=operation, name=name, subject="ann", **fields)
        return (await service.node.log("").order_cursor(order)).cursors[0]

    async def cursors(self):
        """Scrape, and return the values of each cursor's series, by its name."""
        _, families = await self.scrape()
        found = {}
        for name in ("lag_records", "held", "idle_seconds"):
            for sample in families[f"loghouse_cursor_{name}"].samples:
                self.assertEqual(sample.labels["log"], "default")
                found.setdefault(sample.labels["cursor"], {})[name] = sample.value
        for values in found.values():
            self.assertTrue(0 <= values.pop("idle_seconds") < 60)
        return found

    async def test_cursors(self):
        """A cursor's lag, whether it is held, and since when it stands; whatever text is its name."""
        service = await self.serve()
        connection = await self.connect()
        batch = encode_batch([log_pb2.Record(value=b"x")] * 9)
        await connection.produce(batch, record_count=9)
        for name in ("bill", 'a "b" \\ {c}\u00e9', "ahead"):
            await self.cursor_of(service, name, CursorOperation.SET, position=99 if name == "ahead" else 2)
        lease = {"holder": "one", "lease_milliseconds": 5000}
        epoch = (await self.cursor_of(service, "bill", CursorOperation.ACQUIRE, **lease)).epoch
        waiting = {"lag_records": 7, "held": 0}
        self.assertEqual(
            await self.cursors(),
            {
                "bill": {**waiting, "held": 1},
                'a "b" \\ {c}\u00e9': waiting,
                "ahead": {"held": 0},
            },
        )
        await self.cursor_of(service, "bill", CursorOperation.ADVANCE, epoch=epoch, position=5)
        self.assertEqual((await self.cursors())["bill"], {"lag_records": 4, "held": 1})
        await self.cursor_of(service, "bill", CursorOperation.RELEASE, epoch=epoch)
        self.assertEqual((await self.cursors())["bill"], {"lag_records": 4, "held": 0})

    async def test_many_cursors(self):
        """With more cursors than are shown, all with the longest names, the rest is counted."""
        service = await self.serve()
        name = '"' * (CURSOR_NAME_SIZE_MAX - 4)
        for number in range(CURSORS_SHOWN_MAX + 3):
            await self.cursor_of(service, f"{name}{number:04}", CursorOperation.SET, position=0)
        body, families = await self.scrape()
        self.assertLess(len(body), SIZE_MAX - 100_000)  # a thousand logs take the rest
        shown = [sample.labels["cursor"] for sample in families["loghouse_cursor_lag_records"].samples]
        self.assertEqual(shown, [f"{name}{number:04}" for number in range(CURSORS_SHOWN_MAX)])
        for family, value in (("cursors", CURSORS_SHOWN_MAX + 3), ("cursors_not_shown", 3)):
            [sample] = families[f"loghouse_{family}"].samples
            self.assertEqual(sample.value, value)

    async def test_thousand_logs(self):
        """With a thousand logs the page has at most 200 kB: some logs have series of their own."""
        service = await self.serve()
        quotas = service._one_port.shares.quotas
        quotas.change({"*": SubjectQuota(bytes_in=1, bytes_out=1, requests=1)})
        for number in range(1000):
            use = quotas.of(f"a-client-with-a-rather-long-name-of-some-team-{number}")
            for resource in ("bytes in", "bytes out", "requests", "connections"):
                use.tally.refuse(resource)
        template = service.node.membership
        for group in range(1000, 2000):
            log = service.node.serve(f"log-with-a-rather-long-name-of-some-team-{group}", group)
            log.replica = template.replica
        self.addCleanup(lambda: [service.node.forget(log) for log in list(service.node.logs.values())[1:]])
        body, families = await self.scrape()
        self.assertLess(len(body), SIZE_MAX)
        self.assertEqual(len(families["loghouse_log_term"].samples), LOGS_SHOWN_MAX)
        [leaders] = [one for one in families["loghouse_logs"].samples if one.labels["role"] == "leader"]
        self.assertGreaterEqual(leaders.value, 1000)
        for log in list(service.node.logs.values()):
            if log.group >= 1000:
                log.replica = None

    async def test_beats(self):
        """The heartbeat runs while the node does."""
        service = await self.serve()
        self.reactor.clock.advance(HEARTBEAT_SECONDS)
        await turn()
        _, families = await self.scrape()
        [count] = [
            one.value
            for one in families["loghouse_event_loop_delay_seconds"].samples
            if one.name.endswith("_count")
        ]
        self.assertGreaterEqual(count, 1)
        await service.stopService()
        self.assertEqual(self.reactor.clock.getDelayedCalls(), [])

    async def test_certificates(self):
        """When the certificate and the CA expire."""
        await self.serve(security=self.write_tls_files())
        _, families = await self.scrape()
        samples = families["loghouse_certificate_expiry_timestamp_seconds"].samples
        self.assertEqual({one.labels["file"] for one in samples}, {"certificate", "ca"})


class DocumentTests(SynchronousTestCase):
    """docs/monitoring.md and the code say the same."""

    def test_table(self):
        """Each metric is in the page's table once, with its labels and its text, in this order."""
        rows = re.findall(
            r"(?m)^\| `(loghouse_\w+)(?:\{([\w, ]+)\})?` \| (\w+) \| (.+) \|$", MONITORING.read_text()
        )
        expected = [(name, ", ".join(one.labels), one.kind, one.text) for name, one in TABLE.items()]
        self.assertEqual(rows, expected)


class CountersTests(SynchronousTestCase):
    """What is counted, and in which range."""

    def test_bounded(self):
        """A label has so many values; what comes later is counted as others."""
        counters = Counters()
        for number in range(VALUES_MAX + 5):
            counters.peer_dialled(f"n{number}")
        found = dict(counters.of("loghouse_peer_dials_total"))
        self.assertEqual((len(found), found[OTHER]), (VALUES_MAX + 1, 5))

    def test_distribution(self):
        """A value at a bound is within it; one above the last is in the last place."""
        found = Distribution((1.0, 2.0))
        for value in (0.5, 1.0, 1.5, 2.0, 9.0):
            found.observe(value)
        found.observe(9.0, 2)
        self.assertEqual((found.counts, found.total), ([2, 2, 3], 32.0))

    def test_appends(self):
        """Appends that share an entry share its time."""
        now = iter([3.0])
        tally = DoorTally(lambda: next(now))
        tally.appended(64, 64, 1000, 2.5)
        tally.failed("NotLeaderError", 2)
        self.assertEqual(tally.failures, {"NotLeaderError": 2})
        self.assertEqual(
            (tally.appends, tally.records, tally.bytes, tally.seconds.total), (64, 64, 1000, 32.0)
        )

    def test_histograms(self):
        """Every histogram has bounds that rise."""
        self.assertEqual(list(SECONDS), sorted(SECONDS))
        self.assertTrue(any(one.kind == HISTOGRAM for one in TABLE.values()))


class HeartbeatTests(SynchronousTestCase):
    """How late, and how long."""

    def test_late(self):
        """A beat that comes late says by how much."""
        clock, times = Clock(), [0.0]
        beat = Delays(clock, lambda: times[0])
        beat.start()
        self.addCleanup(beat.stop)
        times[0] = 0.1
        clock.advance(HEARTBEAT_SECONDS)
        times[0] = 0.5
        clock.advance(HEARTBEAT_SECONDS)
        self.assertEqual(sum(beat.delays.counts), 2)
        self.assertAlmostEqual(beat.delays.total, 0.3)

    def test_collections(self):
        """Each garbage collection is timed, until the end."""
        times = iter(range(100))
        beat = Delays(Clock(), lambda: float(next(times)))
        beat.start()
        gc.collect()
        beat.stop()
        count = sum(beat.pauses.counts)
        self.assertGreaterEqual(count, 1)
        gc.collect()
        self.assertEqual(sum(beat.pauses.counts), count)
