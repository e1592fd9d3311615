"""The events that a node counts, and what it tallies of its busiest paths. Pure.

Whoever exports them subclasses `Metrics` and hands the instance in; without that, nothing is counted.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable
from typing import Final

SECONDS: Final = (0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 5.0)
COUNTS: Final = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 1024.0)
SIZES: Final = (256.0, 1024.0, 4096.0, 16384.0, 65536.0, 262144.0, 1048576.0, 8388608.0)


class Distribution:
    """How often a value was in which range; `counts` has one more, for what is above the last bound."""

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds = bounds  # the largest value of each range
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0  # of all values

    def observe(self, value: float, times: int = 1) -> None:
        """Count a value, so many times."""
        self.counts[bisect_left(self.bounds, value)] += times
        self.total += value * times


class DoorTally:
    """What became of the appends that came by one door, and what went out there.

    They are counted entry by entry: the appends of one entry, up to hundreds, cost as much as one.
    """

    __slots__ = ("appends", "bytes", "bytes_out", "failures", "now", "records", "seconds")

    def __init__(self, now: Callable[[], float]) -> None:
        self.now = now  # seconds that only rise
        self.failures: dict[
            str, int
        ] = {}  # appends that did not go well, by the class of what they were told
        self.appends = 0  # appended
        self.records = 0  # appended
        self.bytes = 0  # appended, as they came
        self.bytes_out = 0  # of entries given to clients
        self.seconds = Distribution(SECONDS)  # from the first batch's arrival at its entry to the answers

    def appended(self, append_count: int, record_count: int, size: int, began: float) -> None:
        """An entry of so many appends is durable."""
        self.appends += append_count
        self.records += record_count
        self.bytes += size
        self.seconds.observe(self.now() - began, append_count)

    def failed(self, error: str, append_count: int) -> None:
        """So many appends were told an error of this class."""
        self.failures[error] = self.failures.get(error, 0) + append_count


class GroupTally:
    """How groups of entries got to the disk, and to the others; of all logs of a node."""

    __slots__ = ("bytes", "entries", "now", "queue", "replication", "sync", "write")

    def __init__(self, now: Callable[[], float]) -> None:
        self.now = now  # seconds that only rise
        self.entries = Distribution(COUNTS)  # of a group
        self.bytes = Distribution(SIZES)  # of a group
        self.queue = Distribution(SECONDS)  # how long its first entry waited for the group before it
        self.write = Distribution(SECONDS)  # seconds
        self.sync = Distribution(SECONDS)  # seconds
        # From a leader's own disk to a majority; of one group at a time, 0 when the others were faster.
        self.replication = Distribution(SECONDS)


class ReadTally:
    """What was read of logs for clients and for other nodes."""

    __slots__ = ("bytes_by_map", "bytes_by_pread", "held_seconds", "reads_by_map", "reads_by_pread")

    def __init__(self) -> None:
        self.reads_by_map = self.reads_by_pread = 0
        self.bytes_by_map = self.bytes_by_pread = 0
        self.held_seconds = 0.0  # that reads far behind gave way to appends, all together


class Tallies:
    """What is counted where a call for each event would cost too much."""

    __slots__ = ("binary", "groups", "grpc", "http", "reads")

    def __init__(self, now: Callable[[], float]) -> None:
        self.binary, self.grpc, self.http = DoorTally(now), DoorTally(now), DoorTally(now)
        self.groups = GroupTally(now)
        self.reads = ReadTally()


class Metrics:
    """One method an event; all of them do nothing here.

    Only events that are rare on a healthy node are here, so an append, a record and a frame that is sent cost
    no call. Each docstring names what Prometheus is to show, with its labels. Labels take few values: `peer`
    is the name of a node, empty while an address is dialled whose node is not known yet; `reason` is one of
    the constant texts of the code. What an event holds besides is for people, and no label.
    """

    __slots__ = ()

    tallies: Tallies | None = None
    """What busy paths count into; None: they count nothing."""

    # --- messages between nodes -----------------------------------------------------------

    def raft_message_refused(self, reason: str) -> None:
        """A Raft message did not fit and was ignored: `loghouse_raft_messages_refused_total{reason}`."""

    def gossip_message_refused(self, reason: str) -> None:
        """Gossip did not fit and was ignored: `loghouse_gossip_messages_refused_total{reason}`."""

    def forwarded_message_ignored(self, reason: str) -> None:
        """A forwarded request or an answer was ignored: `loghouse_forwarded_ignored_total{reason}`."""

    def forwarded_answer_dropped(self) -> None:
        """An answer to another node was not sent: `loghouse_forwarded_answers_dropped_total`."""

    # --- links to other nodes -------------------------------------------------------------

    def frames_dropped(self, peer: str, count: int) -> None:
        """Frames to a node were lost before they left: `loghouse_peer_frames_dropped_total{peer}`."""

    def frame_coalesced(self, peer: str) -> None:
        """A newer frame took a waiting one's place: `loghouse_peer_frames_coalesced_total{peer}`."""

    def peer_dialled(self, peer: str) -> None:
        """A connection to a node was begun: `loghouse_peer_dials_total{peer}`."""

    def peer_link_up(self, peer: str) -> None:
        """A link to a node is up: `loghouse_peer_link_ups_total{peer}`."""

    def peer_link_failed(self, peer: str, problem: str) -> None:
        """A dial failed, or a link was lost: `loghouse_peer_link_failures_total{peer}`.

        Args:
            problem: Why, for people.
        """

    # --- connections to this node -----------------------------------------------------------

    def connection_refused(self, reason: str) -> None:
        """A connection was over a limit: `loghouse_connections_refused_total{reason}`."""

    def stranger_dropped(self) -> None:
        """A stranger's connection made room for another: `loghouse_strangers_dropped_total`."""

    def request_refused(self, error: str) -> None:
        """A caller was refused before anything was done: `loghouse_requests_refused_total{error}`.

        Args:
            error: The class of the refusal.
        """

    # --- who leads, and who is there --------------------------------------------------------

    def leader_changed(self) -> None:
        """Another node leads a log of this node: `loghouse_leader_changes_total`."""

    def election_lost(self) -> None:
        """This node stood for election and does not lead: `loghouse_elections_lost_total`."""

    def member_suspected(self) -> None:
        """Gossip suspects a node that it believed alive: `loghouse_gossip_suspicions_total`."""

    def suspicion_refuted(self) -> None:
        """This node was said to be gone, and said that it is not: `loghouse_gossip_refutations_total`."""

    # --- the log on the disk ------------------------------------------------------------------

    def damage_found(self) -> None:
        """Damaged entries were met: `loghouse_damage_found_total`."""

    def damage_repaired(self, entry_count: int) -> None:
        """Damaged entries are whole again: `loghouse_damage_repaired_entries_total`."""

    def bytes_scrubbed(self, size: int) -> None:
        """A step of the scrubber read so many bytes: `loghouse_scrub_bytes_total`."""

    def scrub_pass_ended(self) -> None:
        """Every sealed segment was read once more: `loghouse_scrub_passes_total`."""


NO_METRICS: Final = Metrics()
"""Counts nothing."""
