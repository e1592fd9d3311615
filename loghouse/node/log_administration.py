"""What may be asked about which logs there are (`node.api.LogAdmin`), carried out through the catalogue.

Any node decides and appends: the catalogue's log takes one record after the other, so no node is special. The
first change of all has the cluster found its catalogue.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import Any, Final, NoReturn, Protocol, TypeVar

from twisted.internet.defer import CancelledError, Deferred, maybeDeferred
from twisted.internet.task import deferLater
from twisted.logger import Logger
from twisted.python.failure import Failure

from loghouse.catalogue.catalogue import Catalogue
from loghouse.catalogue.changes import (
    adopt_default_log,
    alter_log,
    complete_replicas,
    create_log,
    delete_log,
    register_node,
    replace_replica,
)
from loghouse.catalogue.records import (
    CataloguedLog,
    CataloguedNode,
    CatalogueRecord,
    LogSettings,
    PlacedReplica,
)
from loghouse.errors import OutcomeUnknownError, RequestError, UnavailableError, UnknownLogError
from loghouse.gossip.members import MemberKey
from loghouse.limits import MICROSECONDS, REPLICAS_PER_LOG_MAX
from loghouse.node.api import LogDescription, LogProblem, ReplicaState, StrayLog
from loghouse.node.catalogue_log import CatalogueLog
from loghouse.node.forwarding import AdminOrder
from loghouse.node.options import NodeOptions, Transport
from loghouse.node.served_log import ServedLog
from loghouse.protocol.configuration import MemberRole
from loghouse.protocol.entry import CATALOGUE_GROUP, DEFAULT_LOG
from loghouse.protocol.forward_messages import AdminOperation
from loghouse.runtime.scheduling import Clocks

_T = TypeVar("_T")

ANSWER_SECONDS_MAX: Final = 15.0
LED_SECONDS_MAX: Final = 10.0
"""How long a new log may take until it is led, before its creator is told that it is not yet."""
FOUNDED_SECONDS_MAX: Final = 10.0
LOOK_SECONDS: Final = 0.02


class CataloguedHost(Protocol):
    """What this part asks of the node."""

    name: str
    disk_uuid: bytes
    is_ending: bool
    options: NodeOptions
    transport: Transport
    membership: ServedLog
    logs: Mapping[int, ServedLog]

    @property
    def catalogue_log(self) -> CatalogueLog | None:
        """The catalogue as this node knows it; None until it is known to exist."""

    @property
    def knows_all_logs(self) -> bool:
        """Whether it knew all logs once; one that has just started does not."""

    async def catch_up_with_logs(self) -> None:
        """Know all the logs that there are now."""

    async def strays(self) -> Sequence[StrayLog]:
        """Return the logs on this node's disk that do not belong here."""

    def problems(self) -> Sequence[LogProblem]:
        """Return what needs attention of the copies of logs."""


class LogAdministration:
    """Creates, alters and deletes logs, and says which there are."""

    logger = Logger()

    def __init__(self, node: CataloguedHost, clocks: Clocks) -> None:
        """Nothing is under way."""
        self._node = node  # the process; fixed
        self._clocks = clocks  # time; fixed
        self._is_registering = False  # this node's own record is being written
        self._is_completing = False  # a replica that a log lacks is being placed
        self._asked: set[Deferred[Any]] = set()  # what is under way for callers
        # Who waits for the catalogue to have a record above an offset.
        self._watchers: list[tuple[int, Deferred[int]]] = []

    # --- what may be asked ----------------------------------------------------------------

    def create(
        self, name: str, settings: LogSettings, *, on: Sequence[str], by: str
    ) -> Deferred[LogDescription]:
        """Create a log, and wait for a while until it is led."""

        def decide(catalogue: Catalogue) -> CatalogueRecord | None:
            return create_log(catalogue, name, settings, alive=self._alive(), on=on, at=self._now(), by=by)

        async def carry_out() -> LogDescription:
            log = await self._catalogue(wait_for_nodes=True)
            await log.change(decide)
            created = self._known(log.catalogue, name)
            await self._until_led(created)
            return self._described(created)

        return self._in_time(carry_out())

    def alter(self, name: str, changes: Mapping[str, object], *, by: str) -> Deferred[LogDescription]:
        """Change settings of a log."""

        async def carry_out() -> LogDescription:
            log = await self._catalogue(wait_for_nodes=False)
            await log.change(
                lambda catalogue: alter_log(catalogue, name or DEFAULT_LOG, at=self._now(), by=by, **changes)
            )
            return self._described(self._known(log.catalogue, name))

        return self._in_time(carry_out())

    def delete(self, name: str, *, by: str) -> Deferred[None]:
        """Delete a log."""

        async def carry_out() -> None:
            log = await self._existing_catalogue(name)
            await log.change(lambda catalogue: delete_log(catalogue, name, at=self._now(), by=by))

        return self._in_time(carry_out())

    def replace(self, name: str, *, lost: str, new: str, by: str) -> Deferred[LogDescription]:
        """Give a log a replica on another node, in place of one that is lost for good."""

        async def carry_out() -> LogDescription:
            log = await self._existing_catalogue(name)
            await log.change(
                lambda catalogue: replace_replica(catalogue, name, lost=lost, new=new, at=self._now(), by=by)
            )
            return self._described(self._known(log.catalogue, name))

        return self._in_time(carry_out())

    def list(self) -> Deferred[Sequence[LogDescription]]:
        """Return all logs by name, as this node knows them by now."""

        async def look() -> Sequence[LogDescription]:
            if not self._node.knows_all_logs:
                # Whoever asks takes what is not in the answer for deleted.
                await self._node.catch_up_with_logs()
            return self.known()

        return self._in_time(look())

    def known(self) -> Sequence[LogDescription]:
        """Return the logs that this node knows of by now, by name."""
        known = self._node.catalogue_log
        logs = dict(known.catalogue.logs) if known is not None else {}
        found = {name: self._described(log) for name, log in logs.items()}
        found.setdefault(DEFAULT_LOG, self._default())
        return [found[name] for name in sorted(found)]

    def describe(self, name: str) -> Deferred[LogDescription]:
        """Return one log; empty: the default one."""

        async def look() -> LogDescription:
            known = self._node.catalogue_log
            is_known = known is not None and name in known.catalogue.logs
            if not is_known and name not in ("", DEFAULT_LOG):
                # It may have been created through another node just now.
                await self._node.catch_up_with_logs()
                known = self._node.catalogue_log
            logs = known.catalogue.logs if known is not None else {}
            log = logs.get(name or DEFAULT_LOG)
            if log is not None:
                return self._described(log)
            if name in ("", DEFAULT_LOG):
                return self._default()
            raise UnknownLogError(name)

        return self._in_time(look())

    def strays(self) -> Deferred[Sequence[StrayLog]]:
        """Return the logs on this node's disk that do not belong here."""
        return _running(self._node.strays())

    def problems(self) -> Deferred[Sequence[LogProblem]]:
        """Return what needs attention of the copies of logs, as far as this node knows."""
        return maybeDeferred(self._node.problems)

    def changed(self, after: int) -> Deferred[int]:
        """Fire once the catalogue has a record above an offset; may be cancelled."""
        waiting: Deferred[int] = Deferred(
            lambda cancelled: (
                self._watchers.remove((after, cancelled)) if (after, cancelled) in self._watchers else None
            )
        )
        known = self._node.catalogue_log
        last = known.catalogue.next_offset - 1 if known is not None else -1
        if last > after:
            waiting.callback(last)
        else:
            self._watchers.append((after, waiting))
        return waiting

    def _in_time(self, work: Coroutine[Any, Any, _T]) -> Deferred[_T]:
        """Have an answer soon, if it is only that there is none: this node may be cut off."""

        def too_late(_: object, seconds: float) -> NoReturn:
            raise OutcomeUnknownError(
                f"no answer of the catalogue within {seconds:g} s; ask again: nothing is done twice"
            )

        asked = _running(work)
        self._asked.add(asked)

        def answered(outcome: Any) -> Any:
            self._asked.discard(asked)
            if self._node.is_ending and isinstance(outcome, Failure) and outcome.check(CancelledError):
                raise OutcomeUnknownError("the node is stopping; ask another one: nothing is done twice")
            return outcome

        return asked.addTimeout(ANSWER_SECONDS_MAX, self._clocks.scheduler, too_late).addBoth(answered)

    def stop(self) -> None:
        """Answer everybody who waits: the node is stopping."""
        for asked in list(self._asked):
            asked.cancel()
        watchers, self._watchers = self._watchers, []
        for _, waiting in watchers:
            waiting.errback(UnavailableError("the node is stopping; try another node"))

    # --- the catalogue --------------------------------------------------------------------

    async def _catalogue(self, *, wait_for_nodes: bool) -> CatalogueLog:
        """Return the catalogue, which is founded unless there is one.

        Args:
            wait_for_nodes: Until the members that are here are registered, so that logs can be placed.

        Raises:
            NotSupportedError, UnavailableError: As `Administration`; or it takes too long.
        """
        node = self._node
        if node.catalogue_log is None:
            await node.membership.administer(AdminOrder(operation=AdminOperation.FOUND_CATALOGUE))
            await self._until(lambda: node.catalogue_log is not None, FOUNDED_SECONDS_MAX, "be known here")
        log = node.catalogue_log
        assert log is not None
        await self._until(lambda: self._is_registered(log, wait_for_nodes), FOUNDED_SECONDS_MAX, "be led")
        return log

    async def _existing_catalogue(self, name: str) -> CatalogueLog:
        if self._node.catalogue_log is None and name != DEFAULT_LOG:
            await self._node.catch_up_with_logs()
            if self._node.catalogue_log is None:
                raise UnknownLogError(name)
        return await self._catalogue(wait_for_nodes=False)

    def _is_registered(self, log: CatalogueLog, everybody: bool) -> bool:
        """Whether the catalogue has the default log and this node, or every member that is here."""
        catalogue = log.catalogue
        present = {key.name for key in self._node.transport.present()} if everybody else set()
        members = {member.name for member in self._node.membership.configuration.members}
        wanted = {self._node.name} | (present & members)
        return DEFAULT_LOG in catalogue.logs and wanted <= catalogue.nodes.keys()

    async def _until(self, is_so: Callable[[], bool], seconds_max: float, what: str) -> None:
        """Wait for something of the catalogue.

        Raises:
            UnavailableError: It takes too long.
        """
        if not await self._becomes(is_so, seconds_max):
            if self._node.is_ending:
                raise UnavailableError("the node is stopping; try another node")
            raise UnavailableError(f"the catalogue takes too long to {what}; nothing was done, try again")

    async def _until_led(self, log: CataloguedLog) -> None:
        """Wait until a log has a leader that this node knows of.

        Raises:
            UnavailableError: It takes too long.
        """
        if not await self._becomes(lambda: bool(self._leader_of(log.group)), LED_SECONDS_MAX):
            nodes = ", ".join(log.nodes)
            raise UnavailableError(
                f"log {log.name} is created and has no leader yet; a majority of {nodes} must be up"
            )

    async def _becomes(self, is_so: Callable[[], bool], seconds_max: float) -> bool:
        """Look now and then whether something is so; False when that takes too long, or the node stops."""
        deadline = self._clocks.monotonic() + seconds_max
        while not is_so():
            if self._node.is_ending or self._clocks.monotonic() >= deadline:
                return False
            await deferLater(self._clocks.scheduler, LOOK_SECONDS)
        return True

    def catalogue_changed(self, catalogue: Catalogue) -> None:
        """Called whenever the catalogue says more: tell who waits, and see that this node is in it."""
        last = catalogue.next_offset - 1
        due = [waiting for after, waiting in self._watchers if after < last]
        self._watchers = [one for one in self._watchers if one[0] >= last]
        for waiting in due:
            waiting.callback(last)
        if not (self._is_registering or self._node.is_ending):
            self._register(catalogue)

    def _register(self, catalogue: Catalogue) -> None:
        """Have the catalogue say what this node is, and that there is the default log, unless it does."""
        log, own = self._node.catalogue_log, self._own_record()
        if log is None or (catalogue.nodes.get(own.name) == own and DEFAULT_LOG in catalogue.logs):
            return
        self._is_registering = True

        async def carry_out() -> None:
            assert log is not None
            by = f"node {own.name}"
            await log.change(lambda one: register_node(one, own, at=self._now(), by=by))
            settings, replicas = self._default_settings(), self._default_replicas()
            if replicas:
                await log.change(
                    lambda one: adopt_default_log(one, settings, replicas, at=self._now(), by=by)
                )

        def done(_: object) -> None:
            self._is_registering = False

        def failed(failure: Any) -> None:
            if not failure.check(RequestError):
                self.logger.failure("registering this node in the catalogue", failure)

        # What found no leader is tried again by the next look.
        _running(carry_out()).addErrback(failed).addBoth(done)

    def look(self) -> None:
        """On the catalogue's leader, place the replicas that logs lack; called every second."""
        node, log = self._node, self._node.catalogue_log
        served = node.logs.get(CATALOGUE_GROUP)
        if log is None or served is None or served.leader_name != node.name:
            return
        if self._is_completing or node.is_ending:
            return

        def decide(catalogue: Catalogue) -> CatalogueRecord | None:
            return complete_replicas(catalogue, self._alive(), at=self._now(), by=f"node {node.name}")

        if decide(log.catalogue) is None:
            return
        self._is_completing = True

        def done(_: object) -> None:
            self._is_completing = False

        def failed(failure: Any) -> None:
            if not failure.check(RequestError):
                self.logger.failure("placing a replica", failure)

        # What found no leader is tried again by the next look.
        _running(log.change(decide)).addErrback(failed).addBoth(done)

    def _own_record(self) -> CataloguedNode:
        node = self._node
        return CataloguedNode(
            name=node.name,
            disk_uuid=node.disk_uuid,
            host=node.options.host,
            rack=node.options.rack,
            replicas_max=node.options.replicas_max,
        )

    # --- what is known ----------------------------------------------------------------------

    def _now(self) -> int:
        return int(self._clocks.wall() * MICROSECONDS)

    def _alive(self) -> Sequence[str]:
        """The nodes that could take a replica now."""
        return [self._node.name, *(key.name for key in self._node.transport.present())]

    def _known(self, catalogue: Catalogue, name: str) -> CataloguedLog:
        log = catalogue.logs.get(name or DEFAULT_LOG)
        if log is None:
            raise UnknownLogError(name)  # deleted just now
        return log

    def _leader_of(self, group: int) -> str:
        served = self._node.logs.get(group)
        return served.leader_name if served is not None else ""

    def _described(self, log: CataloguedLog) -> LogDescription:
        is_default = log.name == DEFAULT_LOG
        return LogDescription(
            name=log.name,
            group=log.group,
            epoch=log.epoch,
            settings=log.settings,
            replicas=self._states(self._default_replicas() if is_default else log.replicas, log.group),
            leader=self._leader_of(log.group),
            created_at=log.created_at,
        )

    def _default(self) -> LogDescription:
        """Describe the default log of a cluster that has no catalogue."""
        log = self._node.membership
        return LogDescription(
            name=log.name,
            group=log.group,
            epoch=0,
            settings=self._default_settings(),
            replicas=self._states(self._default_replicas(), log.group),
            leader=log.leader_name,
        )

    def _states(self, replicas: Sequence[PlacedReplica], group: int) -> tuple[ReplicaState, ...]:
        leader, node = self._leader_of(group), self._node
        # A node that came back with an empty disk has no copy on the one that it had.
        alive = {MemberKey(node.name, node.disk_uuid), *node.transport.present()}
        return tuple(
            ReplicaState(
                node=one.node,
                member=one.member,
                is_leader=one.node == leader,
                is_alive=MemberKey(one.node, one.disk_uuid) in alive,
            )
            for one in replicas
        )

    def _default_replicas(self) -> tuple[PlacedReplica, ...]:
        """The voters of the default log: the cluster's membership says who they are, not the catalogue."""
        voters = [one for one in self._node.membership.configuration.members if one.role is MemberRole.VOTER]
        return tuple(
            PlacedReplica(member=one.id, node=one.name, disk_uuid=one.disk_uuid)
            for one in voters[:REPLICAS_PER_LOG_MAX]
        )

    def _default_settings(self) -> LogSettings:
        configuration = self._node.membership.configuration
        count = min(max(len(configuration.voters), 1), REPLICAS_PER_LOG_MAX)
        retention = configuration.retention
        return LogSettings(
            replicas=count,
            retention_bytes=retention.size_max,
            retention_seconds=retention.age_max_seconds,
        )


def _running(work: Coroutine[Any, Any, _T]) -> Deferred[_T]:
    return Deferred.fromCoroutine(work)
