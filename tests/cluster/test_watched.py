"""A real cluster that is watched: each metric moves when the thing happens, and health says why."""

import json
import os
import signal
import urllib.error
import urllib.request
from pathlib import Path

import grpc
import yaml
from prometheus_client.parser import text_string_to_metric_families
from twisted.trial.unittest import SynchronousTestCase

from loghouse.api.v1 import log_pb2, log_pb2_grpc
from loghouse.client import Tls, connect_blocking
from loghouse.http.metric_table import TABLE
from loghouse.limits import CURSORS_SHOWN_MAX
from loghouse.protocol.batch import encode_batch
from loghouse.protocol.entry import DEFAULT_GROUP
from loghouse.testing.cluster_process import ClusterProcess
from loghouse.testing.patience import patiently
from loghouse.testing.process import wait_until
from tests.http.promql import firing, series_of
from tests.processes import SKIP, long

ALERTS = Path(__file__).resolve().parents[2] / "deploy" / "prometheus" / "alerts.yaml"
SETTINGS = "storage:\n  segment_size: 256KiB\n"
RECORD_SIZE = 20_000
# What no minute of a test can move, and why.
STILL = {
    "loghouse_build_info": "of a version",
    "loghouse_certificate_expiry_timestamp_seconds": "until the files are replaced",
    "loghouse_disk_size_bytes": "of a disk",
    "loghouse_log_retention_bytes": "until somebody alters the log",
    "loghouse_log_retention_seconds": "until somebody alters the log",
    "loghouse_read_held_seconds_total": "when somebody reads what is three segments behind, beside appends",
    "loghouse_scrub_passes_total": "a minute after the start, and once a day",
    "loghouse_scrub_bytes_total": "a minute after the start",
    "loghouse_scrub_pass_ratio": "a minute after the start",
    "loghouse_connections_refused_total": "beyond 2560 connections of one host",
    "loghouse_strangers_dropped_total": "beyond 64 strangers of one host",
    "loghouse_share_refusals_total": "beyond thousands of calls",
    "loghouse_elections_lost_total": "by chance",
    "loghouse_gossip_refutations_total": "by chance",
    "loghouse_raft_messages_refused_total": "by chance",
    "loghouse_gossip_messages_refused_total": "by chance",
    "loghouse_forwarded_ignored_total": "by chance",
    "loghouse_forwarded_answers_dropped_total": "by chance",
    "loghouse_peer_frames_coalesced_total": "when a link is slower than its frames",
    "loghouse_peer_queue_bytes": "when a link is slower than its frames",
    "loghouse_peer_queue_frames": "when a link is slower than its frames",
    "loghouse_uncommitted_entries": "for milliseconds",
    "loghouse_proposals_waiting_bytes": "for milliseconds",
    "loghouse_damaged_segments": "for milliseconds",
    "loghouse_log_behind_entries": "for milliseconds",
    "loghouse_peer_lag_entries": "for milliseconds",
    "loghouse_peer_lag_bytes": "for milliseconds",
}


def rule(name):
    """The expression of an alert."""
    [group] = yaml.safe_load(ALERTS.read_text())["groups"]
    return next(one["expr"] for one in group["rules"] if one["alert"] == name)


class WatchedTests(SynchronousTestCase):
    """Three nodes, asked by HTTP."""

    skip = SKIP

    def setUp(self):
        self.cluster = ClusterProcess(Path(self.mktemp()).absolute(), settings=SETTINGS, has_http_ports=True)
        self.addCleanup(self.cluster.close)
        for node in self.cluster.nodes:
            node.add_hooks()
        self.cluster.start()
        self.cluster.wait_voters()
        self.moved = set()
        self.seen = {}  # the last scrape of each node, by its name

    # --- asking ---------------------------------------------------------------------------

    def ask(self, node, path):
        """Return status and body."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{node.http_port}{path}", timeout=10) as answer:
                return answer.status, answer.read()
        except urllib.error.HTTPError as refused:
            return refused.code, refused.read()

    def scrape(self, node):
        """Return the series of a node, and note which metrics moved since the last time."""
        status, body = self.ask(node, "/metrics")
        self.assertEqual(status, 200)
        found = series_of(text_string_to_metric_families(body.decode()), instance=node.name)
        before = self.seen.get(node.name)
        if before is not None:
            for (name, labels), value in found.items():
                if before.get((name, labels), 0.0) != value:
                    self.moved.add(name)
        self.seen[node.name] = found
        return found

    def scrape_all(self):
        return {node.name: self.scrape(node) for node in self.cluster.running()}

    def value(self, node, name, **labels):
        """The sum of the series of that name with these labels."""
        wanted = labels.items()
        return sum(
            value
            for (one, given), value in self.scrape(node).items()
            if one == name and wanted <= dict(given).items()
        )

    def assertFires(self, alert, before, after):
        self.assertNotEqual(firing(rule(alert), before, after), [], alert)

    def assertSilent(self, alert, before, after):
        self.assertEqual(firing(rule(alert), before, after), [], alert)

    def reasons(self, node):
        """Why a node is not ready."""
        status, body = self.ask(node, "/readyz")
        found = json.loads(body)
        self.assertEqual(status, 503 if "reasons" in found else 200)
        return {one["reason"] for one in found.get("reasons", ())}

    # --- doing ------------------------------------------------------------------------------

    def produce(self, node, count=1, subject="root"):
        """Append records through a node over gRPC."""
        batch = encode_batch([log_pb2.Record(value=b"x" * RECORD_SIZE)])
        request = log_pb2.ProduceBatchRequest(batch=batch, record_count=1)
        with self.cluster.stub(node, subject) as stub:
            for _ in range(count):
                patiently(lambda: stub.ProduceBatch(request, timeout=20))

    def client_of(self, node):
        """Connect to one node by the binary protocol."""
        certificates = self.cluster.certificates
        tls = Tls(
            ca=certificates.path("ca"),
            certificate=certificates.path("root"),
            key=certificates.key_path("root"),
        )
        return connect_blocking(node.address, tls=tls, is_direct=True)

    def produce_binary(self, node, count):
        """Append, and read, by the binary protocol."""
        with self.client_of(node) as client:
            for _ in range(count):
                client.append(b"y" * 100)
            self.assertTrue(next(client.read("earliest")))

    def read(self, node, offset):
        with self.cluster.stub(node) as stub:
            return stub.Fetch(log_pb2.FetchRequest(offset=offset, size_max=1), timeout=20)

    def flip(self, node):
        """Flip a bit in a sealed segment of a node that does not run."""
        store = sorted((node.data_dir / "logs" / str(DEFAULT_GROUP)).glob("[0-9]*.store"))[1]
        content = bytearray(store.read_bytes())
        content[len(content) // 2] ^= 1
        store.write_bytes(content)

    @long
    def test_everything(self):
        """Load, refusals, a quota, a setting, a full disk, a pause, a flipped byte, no leader."""
        self.scrape_all()
        leader = self.cluster.wait_leader()
        follower, other = self.cluster.others(leader)
        self.check_load(leader, follower)
        self.check_refusals(leader)
        self.check_cursors(leader, follower)
        self.check_quotas(leader)
        self.check_settings(follower)
        self.check_full_disk(follower)
        self.check_pause(leader, other)
        self.check_damage(other)
        self.check_no_majority(leader, follower, other)
        ends = ("_count", "_sum", "_bucket")
        moved = {name for name in TABLE if any(name + end in self.moved for end in ("", *ends))}
        self.assertEqual(set(TABLE) - moved - set(STILL), set())

    def check_load(self, leader, follower):
        before = self.scrape_all()
        self.produce(follower, 40)
        self.produce_binary(leader, 20)
        self.cluster.wait_caught_up()
        patiently(lambda: self.read(follower, 0), is_repeatable=True)
        self.cluster.values(leader)
        with leader.channel() as channel:
            stub = log_pb2_grpc.ClusterStub(channel)
            patiently(lambda: stub.Trim(log_pb2.TrimRequest(offset=12), timeout=20), is_repeatable=True)
        wait_until(lambda: self.value(leader, "loghouse_log_lowest_offset", log="default") > 0, "the trim")
        after = self.scrape_all()
        for name, scraped in after.items():
            for alert in ("NoLeader", "NotReady", "DiskFull", "SlowDisk", "DamageFound", "RefusedCallers"):
                self.assertSilent(f"Loghouse{alert}", before[name], scraped)
        self.assertGreaterEqual(
            self.value(follower, "loghouse_appends_total", api="grpc", outcome="appended"), 40
        )
        self.assertGreaterEqual(self.value(leader, "loghouse_appends_total", api="binary"), 20)
        self.assertGreaterEqual(self.value(leader, "loghouse_append_seconds_count", api="binary"), 20)
        self.assertGreater(self.value(leader, "loghouse_replication_seconds_count"), 0)
        self.assertEqual(self.value(leader, "loghouse_log_leader", log="default"), 1)
        self.assertEqual(self.value(follower, "loghouse_log_leader", log="default"), 0)

    def check_refusals(self, node):
        before = self.scrape(node)
        for _ in range(15):
            with self.assertRaises(grpc.RpcError):
                self.produce(node, subject="nobody")
        self.assertFires("LoghouseRefusedCallers", before, self.scrape(node))

    def check_cursors(self, leader, follower):
        """A cursor that nobody holds falls behind; its leader alone tells, and of not too many."""
        with self.client_of(follower) as client:
            cursors = client.cursors()
            epoch = cursors.acquire("billing").epoch
            cursors.advance("billing", epoch, client.bounds().lowest)
            held = self.scrape(leader)
            self.produce(leader, 5)
            self.assertSilent("LoghouseCursorUnheld", held, self.scrape(leader))
            cursors.release("billing", epoch)
            self.produce(leader, 5)
            free = self.scrape(leader)
            self.assertFires("LoghouseCursorUnheld", held, free)
            for number in range(CURSORS_SHOWN_MAX):
                cursors.set(f"other-{number}", 0)
            self.assertEqual(self.value(leader, "loghouse_cursors_not_shown"), 1)
            self.assertGreaterEqual(self.value(leader, "loghouse_cursor_lag_records", cursor="billing"), 10)
            self.assertEqual(self.value(follower, "loghouse_cursors"), 0)
            cursors.set("billing", client.bounds().next_offset)
            self.assertSilent("LoghouseCursorUnheld", free, self.scrape(leader))

    def check_quotas(self, node):
        """A client far beyond its quota is held back, and then refused, until the quota is gone."""
        settings = node.config_path.read_text()
        self.reload(node, f"{settings}quotas: {{root: {{in: 64KiB, requests: 8}}}}\n")
        batch = encode_batch([log_pb2.Record(value=b"x" * 600_000)])
        request = log_pb2.ProduceBatchRequest(batch=batch, record_count=1)
        with self.cluster.stub(node) as stub:
            held_back = stub.ProduceBatch.future(request, timeout=20)
            wait_until(lambda: self.value(node, "loghouse_quota_requests") == 1, "the append to be held back")
            self.assertGreater(self.value(node, "loghouse_quota_wait_seconds", direction="in"), 2)
            held_back.result()
            with self.assertRaises(grpc.RpcError) as refused:
                stub.ProduceBatch(request, timeout=20)
        self.assertEqual(refused.exception.code(), grpc.StatusCode.RESOURCE_EXHAUSTED)
        self.assertEqual(self.value(node, "loghouse_quota_requests"), 0)
        refusals = self.value(node, "loghouse_quota_refusals_total", subject="root", resource="bytes in")
        self.assertGreaterEqual(refusals, 1)
        self.assertGreater(self.value(node, "loghouse_quota_bytes_total", direction="in"), 600_000)
        self.reload(node, settings)

    def check_settings(self, node):
        """A setting that needs a restart is counted until the file is as it was."""
        before, settings = self.scrape(node), node.config_path.read_text()
        self.reload(node, f"{settings}host: h1\n")
        waiting = self.scrape(node)
        self.assertFires("LoghouseRestartNeeded", before, waiting)
        self.reload(node, settings)
        self.assertSilent("LoghouseRestartNeeded", waiting, self.scrape(node))

    def reload(self, node, settings):
        """Let a node go on with other settings."""
        count = node.output().count("asked for by SIGHUP")
        node.config_path.write_text(settings)
        os.kill(node.process.pid, signal.SIGHUP)
        wait_until(lambda: node.output().count("asked for by SIGHUP") > count, "the reload")

    def check_full_disk(self, node):
        before = self.scrape(node)
        node.fill_disk()
        self.produce(self.cluster.wait_leader(), 15)
        wait_until(lambda: "disk_full" in self.reasons(node), "the node to say that its disk is full")
        after = self.scrape(node)
        self.assertFires("LoghouseDiskFull", before, after)
        self.assertFires("LoghouseNotReady", before, after)
        self.assertEqual(self.ask(node, "/healthz")[0], 200)
        node.free_disk()
        wait_until(lambda: not self.reasons(node), "the node to have room again")
        self.assertSilent("LoghouseDiskFull", after, self.scrape(node))

    def check_pause(self, leader, node):
        before = self.value(leader, "loghouse_peer_silence_seconds", peer=node.name)
        node.pause()
        wait_until(
            lambda: self.value(leader, "loghouse_peer_silence_seconds", peer=node.name) > before + 1,
            "the leader to miss a follower",
        )
        suspicions = "loghouse_gossip_suspicions_total"
        wait_until(
            lambda: any(self.value(one, suspicions) for one in self.cluster.others(node)), "a suspicion"
        )
        node.resume()
        self.cluster.wait_caught_up()

    def check_damage(self, node):
        node.kill()
        self.assertRaises(OSError, self.ask, node, "/healthz")
        self.flip(node)
        node.start()
        self.cluster.wait_caught_up()
        before = self.scrape(node)
        found = "loghouse_damage_found_total"

        def is_found():
            for offset in range(20):
                try:
                    self.read(node, offset)
                except grpc.RpcError:
                    break
            return self.value(node, found) > 0

        wait_until(is_found, "the damage to be met")
        self.assertFires("LoghouseDamageFound", before, self.scrape(node))
        repaired = "loghouse_damage_repaired_entries_total"
        wait_until(lambda: self.value(node, repaired) > 0, "the repair")
        wait_until(lambda: not self.reasons(node), "the node to be ready")

    def check_no_majority(self, *nodes):
        leader = self.cluster.wait_leader()
        left, other = self.cluster.others(leader)
        before = self.scrape_all()[left.name]
        changes = self.value(left, "loghouse_leader_changes_total")
        leader.kill()
        self.cluster.wait_leader([left, other])
        wait_until(
            lambda: self.value(left, "loghouse_leader_changes_total") > changes,
            "another leader to be counted",
        )
        self.scrape_all()  # either of them leads
        wait_until(lambda: self.value(left, "loghouse_peer_link_up", peer=leader.name) == 0, "the link to go")
        other.kill()
        wait_until(lambda: "no_leader" in self.reasons(left), "nobody to lead")
        members = "loghouse_gossip_members"
        wait_until(lambda: self.scrape(left) and members in self.moved, "gossip to miss a node")
        after = self.scrape(left)
        self.assertFires("LoghouseNoLeader", before, after)
        self.assertFires("LoghouseNotReady", before, after)
        leader.start(wait=False)
        self.cluster.wait_leader([left, leader])
        wait_until(lambda: not self.reasons(left), "the node to be ready again")
