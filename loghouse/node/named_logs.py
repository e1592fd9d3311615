"""The logs beside the default one on this node: the catalogue, and those that it names.

    birth in the default log --> the catalogue's log is hosted, followed, folded
    a log in the catalogue   --> served; hosted where it is placed; put away when it is deleted
    a log placed elsewhere   --> given back once its group has no member here (`releases`)

A log is made because a committed record says so. It goes because a committed tombstone names its group, or
because a committed record places it elsewhere and a committed configuration of its group has no member here;
never for being missing from anything. What the catalogue does not know stays on the disk, closed, as a stray.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence, Set
from functools import partial
from typing import Protocol

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from loghouse.catalogue.catalogue import Catalogue
from loghouse.catalogue.records import CataloguedLog, PlacedReplica
from loghouse.errors import ConsensusError, DamageError, EntryError, RequestError, UnavailableError
from loghouse.limits import MICROSECONDS
from loghouse.node.api import StrayLog
from loghouse.node.catalogue_log import CatalogueLog
from loghouse.node.forwarding import Forwarder
from loghouse.node.hosted_logs import HostedLogs
from loghouse.node.releases import Releases
from loghouse.node.served_log import ServedLog
from loghouse.protocol.configuration import Birth, Configuration, Member, MemberRole
from loghouse.protocol.entry import CATALOGUE_GROUP, CATALOGUE_LOG, DEFAULT_GROUP
from loghouse.replica.damage import LogRepair
from loghouse.storage.log import Log


class LogsOwner(Protocol):
    """What this part asks of the node."""

    name: str
    disk_uuid: bytes
    is_ending: bool
    membership: ServedLog
    forwarder: Forwarder | None

    def serve(self, name: str, group: int) -> ServedLog:
        """Serve one more log, which is not hosted yet."""

    def forget(self, log: ServedLog) -> None:
        """Serve a log no more: it was deleted."""

    def host(self, log: ServedLog, opened: LogRepair) -> None:
        """Host a log that was opened just now."""


class NamedLogs:
    """Follows the catalogue on one node, and has the node serve and host what it says."""

    logger = Logger()

    def __init__(
        self,
        node: LogsOwner,
        hosted: HostedLogs,
        *,
        scheduler: IReactorTime,
        changed: Callable[[Catalogue], None],
    ) -> None:
        """Know of no log; `changed` is called whenever the catalogue says more than before."""
        self._node = node  # the process; fixed
        self.hosted = hosted  # the logs on its disk; fixed
        self._scheduler = scheduler  # fixed
        self._changed = changed  # fixed
        # The catalogue as this node knows it; None until the cluster has one.
        self.log: CatalogueLog | None = None
        self._birth: Birth | None = None  # of the catalogue; set with it
        # Whether this node knew all logs once: before that, a log that it does not know may be there.
        self.knows_all = False
        self._finding_out: Deferred[None] | None = None  # while that is being found out
        self._served: dict[int, ServedLog] = {}  # what is served here beside the default log, by group
        # Logs that were deleted and are still to be put away, by group; None where there was no copy here.
        self._dying: dict[int, Log | None] = {}
        self._releases = Releases(node.name, self._release)  # asks for copies that belong elsewhere; fixed

    def _begin(self, birth: Birth) -> None:
        """Serve, host and follow the catalogue: its birth is committed in the default log."""
        self._birth = birth
        served = self._served[CATALOGUE_GROUP] = self._node.serve(CATALOGUE_LOG, CATALOGUE_GROUP)
        self.log = CatalogueLog(
            served, node_name=self._node.name, scheduler=self._scheduler, changed=self._follow
        )
        self._open_catalogue()
        self.log.start()

    def look_for_birth(self) -> None:
        """Begin with the catalogue, once the default log says that there is one; called at each tick."""
        driver = self._node.membership.driver
        birth = driver.raft.birth if driver is not None else None
        if birth is not None and self.log is None and not self._node.is_ending:
            self._begin(birth)

    def find_out(self) -> None:
        """Have this node know all logs, unless it did once; called when somebody may tell."""
        if self.knows_all or self._finding_out is not None or self._node.is_ending:
            return
        finding_out = self._finding_out = Deferred.fromCoroutine(self.catch_up())
        finding_out.addErrback(lambda failure: failure.trap(RequestError) and None)
        finding_out.addBoth(self._found_out)

    def _found_out(self, _: object) -> None:
        self._finding_out = None

    async def catch_up(self) -> None:
        """Know all the logs that there are now.

        Raises:
            NotSupportedError: A later version wrote something that this one does not know.
            UnavailableError: Nobody can tell now: no leader, or the node is stopping.
        """
        await self._node.membership.bounds()
        self.look_for_birth()
        if self.log is not None:
            await self.log.catch_up()
        self.knows_all = True

    def look(self, now: float, wall: float) -> None:
        """Try again what found no room or was under way; called every second. `now` only rises."""
        self.find_out()
        if self.log is not None and not self._node.is_ending:
            self._open_catalogue()
            self._look_for_ended(self.log.catalogue)
            self._follow()
            if self._node.forwarder is not None:
                self._releases.look(now, self._replaced(self.log.catalogue), self._node.forwarder)
            self.log.look(int(wall * MICROSECONDS))
            self.hosted.look(now)

    def stop(self) -> None:
        """Follow no more."""
        if self.log is not None:
            self.log.stop()

    # --- what is hosted -----------------------------------------------------------------

    def _open_catalogue(self) -> None:
        """Every member of the cluster has the catalogue; those of its birth begin with the same entry."""
        served, birth = self._served[CATALOGUE_GROUP], self._birth
        assert birth is not None
        if served.replica is None:
            founders = {(one.name, one.disk_uuid) for one in birth.configuration.members}
            is_founder = (self._node.name, self._node.disk_uuid) in founders
            first = (birth.configuration, birth.timestamp) if is_founder else None
            opened = partial(self._opened, served, is_first=False)
            self.hosted.open(CATALOGUE_GROUP, first, opened, name=served.name)

    def _follow(self) -> None:
        """Have the node serve and host what the catalogue says by now."""
        assert self.log is not None
        catalogue = self.log.catalogue
        here = self._here(catalogue)
        for log in catalogue.logs.values():
            if log.group == DEFAULT_GROUP:
                self._node.membership.placed(log)
                continue
            served = self._served.get(log.group)
            if served is None:
                served = self._served[log.group] = self._node.serve(log.name, log.group)
            served.placed(log)
            if served.replica is None and log.group in here:
                self._open(log, served, here[log.group])
        for group in self._served.keys() - catalogue.names.keys() - {CATALOGUE_GROUP}:
            served = self._served.pop(group)
            self.logger.info("log {name} was deleted", name=served.name)
            self._dying[group] = served.replica.log if served.replica is not None else None
            self._node.forget(served)
        self._put_away(catalogue)
        self._changed(catalogue)

    def _here(self, catalogue: Catalogue) -> Mapping[int, PlacedReplica]:
        """Return the replicas that belong here, by group."""
        return catalogue.placed_on(self._node.name, self._node.disk_uuid)

    def _open(self, log: CataloguedLog, served: ServedLog, own: PlacedReplica) -> None:
        # Not a founder that was replaced, and is a member again: of the first entry it would be another one.
        founder = own if own in log.founders else None
        first = (configuration_of(log.founders), log.created_at) if founder is not None else None
        is_first = founder is not None and founder == log.founders[0]
        self.hosted.open(log.group, first, partial(self._opened, served, is_first=is_first), name=log.name)

    def _opened(self, served: ServedLog, opened: LogRepair, *, is_first: bool) -> None:
        assert opened.log is not None
        if self._served.get(served.group) is not served or self._node.is_ending:
            self.hosted.close(opened.log)  # deleted meanwhile
            return
        self._node.host(served, opened)
        if is_first and opened.log.last_index == 1:
            served.stand()
        else:
            served.stand_again()

    def fail(self, group: int, error: BaseException) -> bool:
        """Close a log that is damaged, or contradicts its group; False when the process must end for it.

        It is opened again by the next look: then what is damaged is cut, and comes back from the others. A
        disk that fails ends the process, and so does the catalogue, without which nothing is known.
        """
        served = self._served.get(group)
        replica = served.replica if served is not None else None
        if replica is None or served is None or group == CATALOGUE_GROUP:
            return False
        if not isinstance(error, DamageError | EntryError | ConsensusError):
            return False
        name, log = served.name, replica.log
        self.logger.critical("log {name} is closed: {error}", name=name, error=str(error))

        def close(_: object = None) -> None:
            self.hosted.close(log)

        if not replica.last_words(error, close):
            replica.stop()
            self.hosted.damaged[group] = str(error)  # nobody could give it what it lost
            close()
        served.unhost()
        return True

    # --- what belongs here no more ------------------------------------------------------

    def _look_for_ended(self, catalogue: Catalogue) -> None:
        """Find logs on the disk that were deleted before this process served them, or had no room to end."""
        ended = self.hosted.idle & catalogue.tombstones.keys()
        self._dying.update(dict.fromkeys(ended - self._served.keys() - self._dying.keys()))

    def _replaced(self, catalogue: Catalogue) -> list[CataloguedLog]:
        """Return the logs that are on the disk, and that the catalogue places elsewhere."""
        on_disk = self.hosted.idle & self._served.keys() & catalogue.names.keys()
        elsewhere = sorted(on_disk - self._here(catalogue).keys())
        return [catalogue.logs[catalogue.names[group]] for group in elsewhere]

    def _release(self, group: int) -> None:
        """Give a copy back: no member of its group is here, and none is to be."""
        assert self.log is not None
        placed_elsewhere = {log.group for log in self._replaced(self.log.catalogue)}
        if self._node.is_ending or group not in placed_elsewhere:
            return  # it belongs here again, or was deleted meanwhile
        served = self._served[group]
        self.logger.info("log {name} is on other nodes: the files here are put away", name=served.name)
        log = None
        if served.replica is not None:
            log = served.replica.log
            served.replica.stop()
            served.unhost()
        self.hosted.release(group, log)

    async def strays(self) -> Sequence[StrayLog]:
        """Return the logs on this node's disk that do not belong here, as far as it knows by now.

        Raises:
            UnavailableError: It does not know all logs yet.
        """
        if not self.knows_all:
            raise UnavailableError("this node does not know all logs yet; try again")
        measured: Deferred[Mapping[int, int]] = Deferred()
        self.hosted.measure(self._belonging(), measured.callback)
        sizes = await measured
        names = self.log.catalogue.names if self.log is not None else {}
        return [
            StrayLog(group=group, name=names.get(group, ""), size=sizes[group])
            for group in sorted(sizes.keys() - self._belonging())
        ]

    def _belonging(self) -> Set[int]:
        """The groups that have a directory here, or will have lost it in a moment."""
        if self.log is None:
            return {DEFAULT_GROUP}
        catalogue = self.log.catalogue
        return {DEFAULT_GROUP, CATALOGUE_GROUP} | self._here(catalogue).keys() | catalogue.tombstones.keys()

    def _put_away(self, catalogue: Catalogue) -> None:
        for group, log in list(self._dying.items()):
            # Only by its tombstone: one that is forgotten by now is kept on the disk, as a stray.
            if group not in catalogue.tombstones:
                if log is not None:
                    self.hosted.close(log)
                del self._dying[group]
            elif self.hosted.bury(group, log):
                del self._dying[group]


def configuration_of(founders: tuple[PlacedReplica, ...]) -> Configuration:
    """Return the configuration that a log with these founders begins with."""
    members = tuple(
        Member(id=one.member, name=one.node, disk_uuid=one.disk_uuid, role=MemberRole.VOTER)
        for one in founders
    )
    return Configuration(members=members, next_id=len(members) + 1)
