"""The events that a node counts. Pure.

Whoever exports them subclasses `Metrics` and hands the instance in; without that, nothing is counted.
"""

from __future__ import annotations

from typing import Final


class Metrics:
    """One method an event; all of them do nothing here.

    Only events that are rare on a healthy node are here, so an append, a record and a frame that is sent cost
    no call. Each docstring names what Prometheus is to show, with its labels. Labels take few values: `peer`
    is the name of a node, empty while an address is dialled whose node is not known yet; `reason` is one of
    the constant texts of the code. What an event holds besides is for people, and no label.
    """

    __slots__ = ()

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

    # --- the log on the disk ------------------------------------------------------------------

    def scrub_pass_ended(self) -> None:
        """Every sealed segment was read once more: `loghouse_scrub_passes_total`."""


NO_METRICS: Final = Metrics()
"""Counts nothing."""
