"""New copies for those whose disk is gone: a node that comes back with an empty one gets all its logs again.

    the cluster's configuration has the node with another disk  -- each leader, of the logs it leads -->
    `log placed`: a new member on the new disk, in the place of the old one  --> `cluster.reconcile`

The empty disk never speaks as the member that it was: what that one voted and acknowledged is lost. Only when
the cluster itself has taken the old disk for gone, and nobody is heard from it, is it replaced.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from functools import partial
from typing import Final, Protocol

from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from loghouse.catalogue.catalogue import Catalogue
from loghouse.catalogue.changes import renew_replica
from loghouse.errors import DamageError, RequestError
from loghouse.gossip.members import MemberKey
from loghouse.limits import MICROSECONDS
from loghouse.node.catalogue_log import CatalogueLog
from loghouse.node.options import Transport
from loghouse.node.served_log import ServedLog
from loghouse.protocol.entry import DEFAULT_GROUP

RENEWALS_AT_ONCE_MAX: Final = 8
"""Logs that one node leads and that get a new copy at a time. How fast they are sent is the node's budget."""


class RenewingNode(Protocol):
    """What this part asks of the node."""

    name: str
    is_ending: bool
    transport: Transport
    membership: ServedLog
    logs: Mapping[int, ServedLog]

    @property
    def catalogue_log(self) -> CatalogueLog | None:
        """The catalogue as this node knows it; None until it is known to exist."""


class Renewals:
    """Has the logs that this node leads placed anew where a node has lost its disk."""

    logger = Logger()

    def __init__(self, node: RenewingNode, wall: Callable[[], float]) -> None:
        """Nothing is under way. `wall`: seconds since the epoch."""
        self._node = node  # the process; fixed
        self._wall = wall  # fixed
        self._is_renewing = False  # records are being written; one round at a time

    def look(self) -> None:
        """Begin the renewals that are due; called every second."""
        node, log = self._node, self._node.catalogue_log
        if log is None or node.is_ending or self._is_renewing:
            return
        due = self.due(log.catalogue)
        if not due:
            return
        self._is_renewing = True

        def done(_: object) -> None:
            self._is_renewing = False

        def failed(failure: Failure) -> None:
            if not failure.check(RequestError):
                self.logger.failure("renewing a copy", failure)

        # What found no leader is tried again by the next look.
        Deferred.fromCoroutine(self._renew(log, due)).addErrback(failed).addBoth(done)

    async def _renew(self, log: CatalogueLog, due: list[tuple[int, str]]) -> None:
        by = f"node {self._node.name}"
        for group, node in due:
            log_name = log.catalogue.names.get(group, str(group))
            self.logger.info("{node} lost its disk: log {name} gets a copy there", node=node, name=log_name)
            at = int(self._wall() * MICROSECONDS)
            await log.change(partial(renew_replica, group=group, node=node, at=at, by=by))

    def due(self, catalogue: Catalogue) -> list[tuple[int, str]]:
        """Return the group of each log that is to be placed anew now, and the node that lost its copy."""
        node = self._node
        try:
            settled, _ = node.membership.settled
        except DamageError:
            return []  # the default log is being repaired here
        disks = {MemberKey(one.name, one.disk_uuid) for one in settled.members}
        present = set(node.transport.present())
        named = Counter(key.name for key in disks)
        back = {
            key.name
            for key in present & disks
            if named[key.name] == 1
            and (known := catalogue.nodes.get(key.name)) is not None
            and known.disk_uuid == key.disk_uuid
        }
        due, room = [], RENEWALS_AT_ONCE_MAX
        for log in node.logs.values():
            placed = log.catalogued
            if placed is None or log.group == DEFAULT_GROUP or log.replica is None or not log.replica.leads:
                continue
            keys = {one.member: MemberKey(one.node, one.disk_uuid) for one in placed.replicas}
            voters = log.configuration.voters
            if any(key in present and member not in voters for member, key in keys.items()):
                room -= 1  # it gets a copy just now
                continue
            lost = [(id_, key) for id_, key in keys.items() if key not in disks and key.name in back]
            if any(log.is_heard(member) for member, _ in lost):
                # Nobody listens for it in a log that sleeps; who is heard in one that is awake has its disk.
                if log.is_asleep and log.driver is not None:
                    log.driver.wake()
            elif lost:
                due.append((log.group, lost[0][1].name))
        return due[: max(0, room)]
