"""The beats of a node: it tells the others which logs sleep under its lead, and hears that of them (ADR 37).

each tick -> logs at rest fall asleep -> one beat to each node that needs this one
a beat, its absence, a link that is gone -> whoever may not sleep any more wakes

Which log may sleep is decided by `raft.rest`, who is there by `pulses`. The default log never sleeps.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping
from typing import Final, Protocol

from loghouse.node.options import Transport
from loghouse.node.pulses import News, Pulses
from loghouse.protocol.beat_messages import NodeBeat, encode_sleeping
from loghouse.protocol.configuration import Configuration
from loghouse.protocol.entry import DEFAULT_GROUP
from loghouse.raft.config import RaftConfig
from loghouse.replica.driver import RaftDriver

LOGS_PER_ELECTION: Final = 200
"""Of so many logs that lose their leader at once new leaders are looked for within one election timeout."""


class BeatingLog(Protocol):
    """A log as this node serves it."""

    @property
    def group(self) -> int:
        """The number of its Raft group."""

    @property
    def driver(self) -> RaftDriver | None:
        """What runs the core; None while this node is no member."""

    @property
    def is_hosted(self) -> bool:
        """Whether there is a copy of it here."""

    @property
    def configuration(self) -> Configuration:
        """The latest configuration of the log; empty while there is none."""

    @property
    def leader_name(self) -> str:
        """The node that leads, as far as this one knows; else empty."""

    @property
    def is_asleep(self) -> bool:
        """Whether it sleeps."""

    @property
    def is_busy(self) -> bool:
        """Whether something is under way beside the core that needs ticks."""

    @property
    def placed_names(self) -> Iterable[str]:
        """The nodes that have it by the catalogue; none when that is not known."""


class BeatingNode(Protocol):
    """The node, as far as this is concerned."""

    name: str
    transport: Transport

    @property
    def logs(self) -> Mapping[int, BeatingLog]:
        """The logs of the cluster, by group."""

    @property
    def membership(self) -> BeatingLog:
        """The log whose group says who is a member of the cluster."""


class Beats:
    """Sends and takes beats, and has quiet logs sleep and wake."""

    def __init__(self, node: BeatingNode, config: RaftConfig, rng: random.Random) -> None:
        """Send nothing before the first `tick`."""
        self._node = node  # the node that this is a part of; fixed
        self._life = rng.getrandbits(64)  # tells this process from those before; fixed
        self._pulses = Pulses(config.election_ticks)  # the other nodes, by their beats; the object is fixed
        self._asleep: dict[int, BeatingLog] = {}  # the logs that sleep, by group, as of the last tick
        # What is sent each tick, by node: made anew when other logs sleep, or lead, or are here.
        self._beats: dict[str, NodeBeat] = {}
        self._is_due = True  # whether `_beats` is to be made anew
        self._disks: frozenset[tuple[str, bytes]] = frozenset()  # of the members of the cluster
        self._disks_of: Configuration | None = None  # the configuration that `_disks` is of

    def look(self) -> None:
        """Find out anew who needs beats, and forget who is no member; called every second."""
        self._is_due = True
        self._pulses.keep({member.name for member in self._node.membership.configuration.members})

    def tick(self) -> None:
        """Have those sleep that may, wake those whose leader's node is gone, and send this tick's beats."""
        for name in self._pulses.tick():
            self._gone(name)
        self._fall_asleep()
        if self._is_due:
            self._is_due = False
            self._beats = self._make_beats()
        for name, beat in self._beats.items():
            self._node.transport.send(name, beat, 0)

    def message_received(self, source: str, beat: NodeBeat) -> None:
        """Take the beat of a member of the cluster."""
        news = self._pulses.heard(source, beat.life, bytes(beat.sleeping))
        if news is News.LIFE:
            self._wake_led_by(source)
        if news is not News.NONE:
            self._judge(source, is_new_life=news is News.LIFE)

    def node_lost(self, name: str) -> None:
        """The link with a node is gone."""
        self._pulses.lost(name)
        self._gone(name)

    # --- falling asleep ---------------------------------------------------------------------

    def _fall_asleep(self) -> None:
        asleep = {}
        for group, log in self._node.logs.items():
            driver = log.driver
            if group == DEFAULT_GROUP or driver is None:
                continue
            if not driver.is_asleep and self._may_sleep(log, driver):
                driver.is_asleep = True
            if driver.is_asleep:
                asleep[group] = log
        if asleep.keys() != self._asleep.keys():
            self._is_due = True
        self._asleep = asleep

    def _may_sleep(self, log: BeatingLog, driver: RaftDriver) -> bool:
        if not driver.is_at_rest or log.is_busy:
            return False
        raft = driver.raft
        if raft.leader == raft.id:
            return raft.may_lead_asleep(self._here(log))
        return raft.may_follow_asleep(self._pulses.said(log.leader_name, log.group))

    def _here(self, log: BeatingLog) -> set[int]:
        """Return the members of a log whose nodes beat, and have the disk that it knows them by."""
        membership = self._node.membership.configuration
        if membership is not self._disks_of:
            self._disks_of = membership
            self._disks = frozenset((member.name, member.disk_uuid) for member in membership.members)
        return {
            member.id
            for member in log.configuration.members
            if self._pulses.is_here(member.name) and (member.name, member.disk_uuid) in self._disks
        }

    # --- waking -----------------------------------------------------------------------------

    def _gone(self, name: str) -> None:
        """A node beats no more: its logs need another leader, and those led here may lack a quorum."""
        self._wake_led_by(name)
        self._judge(name, is_new_life=False)

    def _wake_led_by(self, name: str) -> None:
        """Look for other leaders than a node; not for all logs at once, when it led many."""
        led_there = [log.driver for log in self._asleep.values() if log.driver and log.leader_name == name]
        for driver in led_there:
            driver.leader_lost(max(1, len(led_there) // LOGS_PER_ELECTION))

    def _judge(self, name: str, *, is_new_life: bool) -> None:
        """Wake the logs that may not sleep any more by what is known of a node now."""
        for log in self._asleep.values():
            driver = log.driver
            if driver is None or not driver.is_asleep:
                continue
            raft = driver.raft
            if raft.leader == raft.id:
                ids = {member.id for member in log.configuration.members if member.name == name}
                here = self._here(log)
                for id_ in ids - here:
                    raft.missed(id_)
                if ids and (is_new_life or not raft.may_lead_asleep(here)):
                    driver.wake()
            elif log.leader_name == name and not raft.may_follow_asleep(self._pulses.said(name, log.group)):
                driver.wake()

    # --- sending ----------------------------------------------------------------------------

    def _make_beats(self) -> dict[str, NodeBeat]:
        """Return the beat for each node that needs one.

        The leader of a log needs those of all others, and they need the leader's.
        """
        sleeping: dict[str, list[tuple[int, int, int]]] = {}
        for group, log in sorted(self._node.logs.items()):
            if group == DEFAULT_GROUP or not log.is_hosted:
                continue
            raft = log.driver.raft if log.driver is not None else None
            leads = raft is not None and raft.leader == raft.id
            for name in self._who_needs(log, leads) - {self._node.name}:
                said = sleeping.setdefault(name, [])
                if raft is not None and leads and log.is_asleep:
                    said.append((group, raft.term, raft.last_index))
        return {
            name: NodeBeat(life=self._life, sleeping=encode_sleeping(said))
            for name, said in sorted(sleeping.items())
        }

    def _who_needs(self, log: BeatingLog, leads: bool) -> set[str]:
        members = {member.name for member in log.configuration.members}
        if leads:
            return members
        if log.driver is not None and log.leader_name:
            return {log.leader_name}
        # Whoever leads must know that this member is there to be spoken to.
        names = members | set(log.placed_names)
        return names or {member.name for member in self._node.membership.configuration.members}
