"""A node's metrics as prometheus_client wants them: counters as they were counted, state as it is now."""

from __future__ import annotations

import os
import platform
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import accumulate
from typing import Any, Final, TypeAlias

from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from loghouse import __version__
from loghouse.auth.certificates import read_expiry
from loghouse.auth.credentials import Credentials
from loghouse.cluster.cluster import Cluster
from loghouse.errors import CertificateError
from loghouse.http.counters import Counters
from loghouse.http.delays import Delays
from loghouse.http.metric_table import COUNTER, HISTOGRAM, LOGS_SHOWN_MAX, TABLE
from loghouse.http.site import HttpSite
from loghouse.limits import CURSORS_SHOWN_MAX
from loghouse.metrics import Distribution, DoorTally
from loghouse.net.one_port import OnePort
from loghouse.net.peer import PeerState
from loghouse.node.condition import Hindrance
from loghouse.node.node import Node
from loghouse.node.served_log import ServedLog
from loghouse.protocol.gossip_messages import Liveness
from loghouse.raft.ready import Role
from loghouse.shares import Quotas

Value: TypeAlias = "float | Distribution"
Sample: TypeAlias = "tuple[str, tuple[str, ...], Value]"
"""A metric's name, the values of its labels, and its value."""
EXPIRY_SECONDS: Final = 60.0  # how long what certificate files say is believed


@dataclass(frozen=True, slots=True, kw_only=True)
class Watched:
    """What a node's metrics are made of."""

    node: Node
    cluster: Cluster
    one_port: OnePort
    site: HttpSite
    counters: Counters
    heartbeat: Delays
    credentials: Credentials | None
    settings_waiting: Callable[[], int]
    monotonic: Callable[[], float]


class NodeCollector(Collector):
    """Yields every metric of the table, with the samples of this moment."""

    def __init__(self, watched: Watched) -> None:
        self._watched = watched  # fixed
        self._expiries: list[Sample] = []  # what certificate files said at `_expiries_at`
        self._expiries_at = float("-inf")  # seconds of the monotonic clock

    def collect(self) -> Iterator[Metric]:
        """Yield the families."""
        found: dict[str, list[tuple[tuple[str, ...], Value]]] = {name: [] for name in TABLE}
        for name, labels, value in self._samples():
            found[name].append((labels, value))
        for name, samples in found.items():
            yield _family(name, samples)

    def _samples(self) -> Iterator[Sample]:
        watched = self._watched
        yield from self._counted()
        yield "loghouse_build_info", (__version__, platform.python_version()), 1
        yield "loghouse_event_loop_delay_seconds", (), watched.heartbeat.delays
        yield "loghouse_gc_pause_seconds", (), watched.heartbeat.pauses
        yield from self._certificates()
        yield "loghouse_settings_waiting", (), watched.settings_waiting()
        yield from _tallied(watched.counters)
        yield from _of_condition(watched)
        yield from _of_logs(watched.node)
        yield from _of_cursors(watched.node)
        yield from _of_followers(watched.node)
        yield from _of_peers(watched.cluster)
        yield from _of_clients(watched)
        yield from _of_quotas(watched.one_port.shares.quotas)
        yield from _of_disk(watched.node)

    def _counted(self) -> Iterator[Sample]:
        for name, described in TABLE.items():
            if described.kind == COUNTER and len(described.labels) <= 1:
                counts = list(self._watched.counters.of(name))
                if not described.labels:
                    yield name, (), sum(count for _, count in counts)
                for value, count in counts if described.labels else ():
                    yield name, (value,), count

    def _certificates(self) -> Iterable[Sample]:
        credentials, now = self._watched.credentials, self._watched.monotonic()
        if credentials is not None and now - self._expiries_at >= EXPIRY_SECONDS:
            self._expiries_at = now
            self._expiries = []
            for file, path in (("certificate", credentials.paths.certificate), ("ca", credentials.paths.ca)):
                try:
                    at = read_expiry(path).expires_at.timestamp()
                except CertificateError:
                    continue  # the node's log says so
                self._expiries.append(("loghouse_certificate_expiry_timestamp_seconds", (file,), at))
        return self._expiries


def _family(name: str, samples: list[tuple[tuple[str, ...], Value]]) -> Metric:
    described = TABLE[name]
    if described.kind == HISTOGRAM:
        histogram = HistogramMetricFamily(name, described.text, labels=described.labels)
        for labels, value in samples:
            assert isinstance(value, Distribution)
            histogram.add_metric(labels, buckets=_buckets(value), sum_value=value.total)
        return histogram
    kind: Any = CounterMetricFamily if described.kind == COUNTER else GaugeMetricFamily
    family: Metric = kind(name, described.text, labels=described.labels)
    for labels, value in samples:
        family.add_metric(labels, value)  # type: ignore[attr-defined]
    return family


def _buckets(distribution: Distribution) -> list[tuple[str, float]]:
    bounds = [*(f"{bound:g}" for bound in distribution.bounds), "+Inf"]
    return list(zip(bounds, accumulate(distribution.counts), strict=True))


# --- what is tallied --------------------------------------------------------------------------


def _tallied(counters: Counters) -> Iterator[Sample]:
    tallies = counters.tallies
    assert tallies is not None
    for api, tally in (("binary", tallies.binary), ("grpc", tallies.grpc), ("http", tallies.http)):
        yield from _appends(api, tally)
        yield "loghouse_fetch_bytes_total", (api,), tally.bytes_out
    groups, reads = tallies.groups, tallies.reads
    yield "loghouse_append_queue_seconds", (), groups.queue
    yield "loghouse_disk_write_seconds", (), groups.write
    yield "loghouse_disk_sync_seconds", (), groups.sync
    yield "loghouse_replication_seconds", (), groups.replication
    yield "loghouse_write_group_entries", (), groups.entries
    yield "loghouse_write_group_bytes", (), groups.bytes
    yield "loghouse_reads_total", ("map",), reads.reads_by_map
    yield "loghouse_reads_total", ("pread",), reads.reads_by_pread
    yield "loghouse_read_bytes_total", ("map",), reads.bytes_by_map
    yield "loghouse_read_bytes_total", ("pread",), reads.bytes_by_pread
    yield "loghouse_read_held_seconds_total", (), reads.held_seconds


def _appends(api: str, tally: DoorTally) -> Iterator[Sample]:
    for outcome, count in {"appended": tally.appends, **tally.failures}.items():
        yield "loghouse_appends_total", (api, outcome), count
    yield "loghouse_append_records_total", (api,), tally.records
    yield "loghouse_append_bytes_total", (api,), tally.bytes
    yield "loghouse_append_seconds", (api,), tally.seconds


# --- what is so now ---------------------------------------------------------------------------


def _of_condition(watched: Watched) -> Iterator[Sample]:
    counts = dict.fromkeys((hindrance.value for hindrance in Hindrance), 0)
    for hindrance, _ in watched.node.hindrances():
        counts[hindrance.value] += 1
    is_ready = not (any(counts.values()) or watched.site.is_stopping)
    yield "loghouse_ready", (), int(is_ready)
    for reason, count in counts.items():
        yield "loghouse_hindered_logs", (reason,), count


def _of_logs(node: Node) -> Iterator[Sample]:
    logs = node.logs
    roles = dict.fromkeys((role.value for role in Role), 0)
    uncommitted = 0
    for log in logs.values():
        if log.driver is not None:
            raft = log.driver.raft
            roles[raft.role.value] += 1
            uncommitted += raft.last_index - raft.commit_index
    for role, count in roles.items():
        yield "loghouse_logs", (role,), count
    yield "loghouse_uncommitted_entries", (), uncommitted
    yield "loghouse_proposals_waiting_bytes", (), node.budgets.under_way.ledger.held
    yield "loghouse_entry_cache_bytes", (), node.budgets.caches.held
    hosted = [group for group, log in logs.items() if log.replica is not None]
    for group in sorted(hosted)[:LOGS_SHOWN_MAX]:
        yield from _of_log(logs[group])


def _of_log(log: ServedLog) -> Iterator[Sample]:
    labels, replica, driver = (log.name,), log.replica, log.driver
    assert replica is not None
    view = replica.log.view
    retention = log.configuration.retention
    yield "loghouse_log_size_bytes", labels, replica.log.size
    yield "loghouse_log_segments", labels, len(view.segments)
    yield "loghouse_log_retention_bytes", labels, retention.size_max
    yield "loghouse_log_retention_seconds", labels, retention.age_max_seconds
    if driver is not None:
        is_leader = driver.raft.role is Role.LEADER
        behind = 0 if is_leader else max(0, driver.raft.leader_commit - driver.readable_index)
        yield "loghouse_log_leader", labels, int(is_leader)
        yield "loghouse_log_term", labels, driver.raft.term
        yield "loghouse_log_lowest_offset", labels, driver.lowest_offset
        yield "loghouse_log_next_offset", labels, driver.readable_offset
        yield "loghouse_log_behind_entries", labels, behind


def _of_cursors(node: Node) -> Iterator[Sample]:
    """Yield what leaders know of cursors: of the first, by the number of their log and by name."""
    count = shown = 0
    for _, log in sorted(node.logs.items()):
        driver, replica = log.driver, log.replica
        if driver is None or driver.raft.role is not Role.LEADER or replica is None:
            continue
        count += len(driver.raft.cursors.by_name)
        for cursor in replica.cursors.watch(CURSORS_SHOWN_MAX - shown):
            shown += 1
            labels = (log.name, cursor.name)
            if cursor.lag is not None:
                yield "loghouse_cursor_lag_records", labels, cursor.lag
            yield "loghouse_cursor_held", labels, int(cursor.is_held)
            yield "loghouse_cursor_idle_seconds", labels, round(cursor.idle_seconds, 3)
    yield "loghouse_cursors", (), count
    yield "loghouse_cursors_not_shown", (), count - shown


def _of_followers(node: Node) -> Iterator[Sample]:
    """Yield how far followers are behind this leader: of each the worst of its logs."""
    entries: dict[str, int] = {}
    sizes: dict[str, float] = {}
    ticks: dict[str, int] = {}
    for log in node.logs.values():
        driver = log.driver
        if driver is None or driver.raft.role is not Role.LEADER or log.replica is None:
            continue
        stored = log.replica.log
        mean = stored.size / max(1, stored.last_index - stored.first_index + 1)
        for id_, progress in driver.raft.followers.items():
            member = driver.raft.configuration.member(id_)
            name = member.name if member is not None else "?"
            lag = driver.raft.last_index - progress.match_index
            entries[name] = max(entries.get(name, 0), lag)
            sizes[name] = max(sizes.get(name, 0.0), lag * mean)
            ticks[name] = max(ticks.get(name, 0), progress.silent_ticks)
    for name, lag in entries.items():
        yield "loghouse_peer_lag_entries", (name,), lag
        yield "loghouse_peer_lag_bytes", (name,), round(sizes[name])
        yield "loghouse_peer_silence_seconds", (name,), ticks[name] * node.options.tick_seconds


def _of_peers(cluster: Cluster) -> Iterator[Sample]:
    links = {name: link for name, link in cluster.peers.links() if link.state is not PeerState.STOPPED}
    for name, link in links.items():
        yield "loghouse_peer_link_up", (name,), int(link.state is PeerState.UP)
        yield "loghouse_peer_queue_bytes", (name,), link.queue.size
        yield "loghouse_peer_queue_frames", (name,), len(link.queue)
    states = dict.fromkeys(Liveness, 0)
    for member in cluster.members_seen:
        states[member.liveness] += 1
    for state, count in states.items():
        yield "loghouse_gossip_members", (state.name.lower(),), count


def _of_clients(watched: Watched) -> Iterator[Sample]:
    http = watched.site.admission
    yield "loghouse_connections", ("http",), http.all
    admission = watched.one_port.admission
    if admission is not None:
        yield "loghouse_connections", ("stranger",), admission.strangers
        yield "loghouse_connections", ("client",), admission.clients.held
        yield "loghouse_connections", ("node",), admission.nodes.held
    shares = watched.one_port.shares
    for resource in ("calls", "followers", "bodies", "answers"):
        ledger = getattr(shares, resource)
        yield "loghouse_shares_held", (resource,), ledger.held
        yield "loghouse_share_refusals_total", (resource,), ledger.refused_count
    under_way = watched.node.budgets.under_way.ledger
    yield "loghouse_share_refusals_total", ("proposals",), under_way.refused_count


def _of_quotas(quotas: Quotas) -> Iterator[Sample]:
    for subject, tally in quotas.tallies.items():
        yield "loghouse_quota_bytes_total", (subject, "in"), tally.bytes_in
        yield "loghouse_quota_bytes_total", (subject, "out"), tally.bytes_out
        for resource, count in tally.refusals.items():
            yield "loghouse_quota_refusals_total", (subject, resource), count
    now = quotas.seconds()
    for use in quotas.uses_shown():
        yield "loghouse_quota_requests", (use.subject,), use.requests
        yield "loghouse_quota_wait_seconds", (use.subject, "in"), use.receive_seconds(now)
        yield "loghouse_quota_wait_seconds", (use.subject, "out"), use.send_seconds(now)


def _of_disk(node: Node) -> Iterator[Sample]:
    try:
        room = os.statvfs(node.options.data_dir)
    except OSError:
        pass  # there is none before the first start has made it
    else:
        yield "loghouse_disk_free_bytes", (), room.f_bavail * room.f_frsize
        yield "loghouse_disk_size_bytes", (), room.f_blocks * room.f_frsize
    controls = [log.replica.damage_control for log in node.logs.values() if log.replica is not None]
    ratios = [ratio for control in controls if (ratio := control.scrubber.pass_ratio)]
    yield "loghouse_scrub_pass_ratio", (), sum(ratios) / len(ratios) if ratios else 0
    yield "loghouse_damaged_segments", (), sum(control.entry_repair.pending for control in controls)
