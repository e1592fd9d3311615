"""Changing the cluster on request: through any node, done by the leader, refused if it would lose the quorum.

`Administration` is the part of a node that does it. What only the leader can do its node passes on, once.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Protocol

from twisted.internet.defer import Deferred, fail, succeed
from twisted.python.failure import Failure

from loghouse import __version__
from loghouse.errors import (
    InvalidRequestError,
    LoghouseError,
    MembershipError,
    NotLeaderError,
    NotSupportedError,
    RequestError,
    ResourceExhaustedError,
    UnavailableError,
)
from loghouse.gossip.members import MemberKey
from loghouse.limits import REGISTRATION_SECONDS, REGISTRATIONS_AT_ONCE_MAX, REMOVED_MAX
from loghouse.node.api import ClusterStatus, MemberState, proposing
from loghouse.node.elsewhere import Elsewhere
from loghouse.node.forwarding import AdminOrder, AdminResult, Forwarder
from loghouse.node.options import Transport
from loghouse.protocol.configuration import (
    Configuration,
    Member,
    MemberRole,
    Retention,
    encode_birth,
    encode_producer,
    encode_trim,
)
from loghouse.protocol.entry import CATALOGUE_GROUP, DEFAULT_GROUP, EntryKind
from loghouse.protocol.forward_messages import AdminOperation
from loghouse.protocol.gossip_messages import Liveness
from loghouse.raft.ready import Proposal, Role
from loghouse.replica.api import Appended
from loghouse.replica.driver import RaftDriver
from loghouse.runtime.deferring import deferred
from loghouse.shares import Rate


@dataclass(slots=True)
class _Removal:
    """A voter that is to go, once a majority of the others was heard after that was asked for."""

    configuration: Configuration
    done: Deferred[None]
    ticks: int = 0
    is_late: bool = False


class AdministeredGroup(Protocol):
    """What administration asks of the log whose group it changes."""

    @property
    def driver(self) -> RaftDriver | None:
        """What runs the core; None while this node is no member."""

    @property
    def configuration(self) -> Configuration:
        """The latest configuration of the log; empty while there is none."""

    @property
    def leader_name(self) -> str:
        """The node that leads, empty when none is known."""

    def administer(self, order: AdminOrder) -> Deferred[AdminResult]:
        """Carry out an order: here if this node leads, else the leader is asked, once."""


class LogHost(Protocol):
    """What a log that is served asks of its node."""

    name: str
    cluster_uuid: bytes
    disk_uuid: bytes
    is_ending: bool
    transport: Transport
    forwarder: Forwarder | None
    elsewhere: Elsewhere | None

    def leader_known(self, group: int) -> None:
        """A log has a leader now, as far as this node knows."""

    def fatal(self, failure: Failure, group: int = DEFAULT_GROUP) -> None:
        """The process must end; because of the log of that group, when the failure is damage."""


class Administration:
    """What an operator may ask of a group (`node.api.ClusterAdmin`), and what its leader does for others."""

    def __init__(self, log: AdministeredGroup, node: LogHost, *, monotonic: Callable[[], float]) -> None:
        """Nothing is under way yet."""
        self._log = log  # the log whose group is administered
        self._node = node  # the node that serves it here
        self._monotonic = monotonic  # seconds that only rise, for the rate of registrations
        # How many producers each subject may register now; taken from by each registration asked for here.
        self._registrations = Rate(REGISTRATIONS_AT_ONCE_MAX, REGISTRATION_SECONDS)
        # Who waits for another node to lead. Emptied when the hand-over succeeds or fails, and by `stop`.
        self._hand_overs: list[Deferred[None]] = []
        # Removals that wait for the voters that would remain. One leaves when they were heard or are late.
        self._removals: list[_Removal] = []

    # --- asked here -----------------------------------------------------------------

    def status(self) -> Deferred[ClusterStatus]:
        """Return the cluster as this node sees it; how far each member is, if the leader can be asked."""
        progress = self._log.administer(AdminOrder(operation=AdminOperation.PROGRESS))
        return progress.addErrback(_without_progress).addCallback(self._status)

    def add(self, name: str, learner: bool) -> Deferred[None]:
        """Let a node in, also one that was removed."""
        order = AdminOrder(operation=AdminOperation.ADD, name=name, number=int(learner))
        return self._log.administer(order).addCallback(_nothing)

    def remove(self, name: str) -> Deferred[None]:
        """Take a node out and keep it out."""
        order = AdminOrder(operation=AdminOperation.REMOVE, name=name)
        return self._log.administer(order).addCallback(_nothing)

    def leave(self) -> Deferred[None]:
        """Take this node out of the cluster."""
        return self.remove(self._node.name)

    def transfer(self, name: str) -> Deferred[str]:
        """Hand leadership to a node, or to the best one; fires with its name."""
        order = AdminOrder(operation=AdminOperation.TRANSFER, name=name)
        return self._log.administer(order).addCallback(lambda result: result.name)

    def trim(self, offset: int) -> Deferred[int]:
        """Let records below `offset` go."""
        order = AdminOrder(operation=AdminOperation.TRIM, number=offset)
        return self._log.administer(order).addCallback(lambda result: result.number)

    def register_producer(self, subject: str) -> Deferred[int]:
        """Register a producer that only `subject` may use; fires with its id."""
        try:
            # The least recently used one goes for it, whoever's that is.
            self._registrations.take(subject, "producers", self._monotonic())
        except ResourceExhaustedError:
            return fail()
        order = AdminOrder(operation=AdminOperation.REGISTER_PRODUCER, name=subject)
        return self._log.administer(order).addCallback(lambda result: result.number)

    # --- done here, by the leader -------------------------------------------------------

    def administer_here(self, order: AdminOrder) -> Deferred[AdminResult]:
        """Carry out an order if this node leads; never passes it on."""
        driver = self._log.driver
        if driver is None:
            leader = self._log.leader_name  # of a log of which this node has no copy
            not_joined = UnavailableError("this node has not joined its cluster yet; nothing was done")
            return fail(NotLeaderError(leader) if leader else not_joined)
        try:
            match order.operation:
                case AdminOperation.PROGRESS:
                    return succeed(self._progress(driver))
                case AdminOperation.ADD:
                    return self._add(driver, order.name, is_learner=bool(order.number))
                case AdminOperation.REMOVE:
                    return self._remove(driver, order.name)
                case AdminOperation.TRANSFER:
                    return self._transfer(driver, order.name)
                case AdminOperation.FOUND_CATALOGUE:
                    return self._found_catalogue(driver)
                case AdminOperation.HAS_LEFT:
                    return succeed(AdminResult(number=_has_left(driver, order.name, order.number)))
                case AdminOperation.TRIM:
                    proposal = Proposal(kind=EntryKind.TRIM, payload=encode_trim(order.number))
                    return proposing(driver.propose, proposal).addCallback(
                        lambda _: AdminResult(number=max(driver.lowest_offset, order.number))
                    )
                case AdminOperation.REGISTER_PRODUCER:
                    proposal = Proposal(kind=EntryKind.PRODUCER, payload=encode_producer(order.name))
                    return proposing(driver.propose, proposal).addCallback(
                        lambda appended: AdminResult(number=appended.index)
                    )
        except LoghouseError:
            return fail()
        return fail(NotSupportedError(f"operation {order.operation} is not known to this version"))

    def _found_catalogue(self, driver: RaftDriver) -> Deferred[AdminResult]:
        """Bring the catalogue's group into being, with the members of this one; once in a cluster's life.

        Raises:
            NotSupportedError: A member is of a version that could not read its own log any more.
            UnavailableError: One of them is not reached, so that this is not known.
        """
        raft = driver.raft
        if raft.birth is not None:
            return succeed(AdminResult())
        check_known(self._node, raft.configuration, EntryKind.BIRTH, "named logs")
        founders = replace(raft.configuration, retention=Retention())
        proposal = Proposal(kind=EntryKind.BIRTH, payload=encode_birth(CATALOGUE_GROUP, founders))
        proposed = proposing(driver.propose, proposal)
        return proposed.addCallbacks(lambda _: AdminResult(), _being_founded)

    def _progress(self, driver: RaftDriver) -> AdminResult:
        raft = driver.raft
        matches = [(id_, progress.match_index) for id_, progress in raft.followers.items() if id_ != raft.id]
        return AdminResult(number=raft.commit_index, matches=((raft.id, raft.durable_index), *matches))

    def _add(self, driver: RaftDriver, name: str, *, is_learner: bool) -> Deferred[AdminResult]:
        configuration = driver.raft.configuration
        if is_learner:
            return self._change(driver, self._with_replica(configuration, name))
        if name not in configuration.removed:
            known = any(True for _ in configuration.named(name))
            problem = "is a member already" if known else "was not removed: start it, it joins by itself"
            raise MembershipError(f"{name!r} {problem}")
        removed = tuple(other for other in configuration.removed if other != name)
        return self._change(driver, replace(configuration, removed=removed))

    def _with_replica(self, configuration: Configuration, name: str) -> Configuration:
        """Return the configuration with a node as a learner that is never promoted.

        Raises:
            MembershipError: It votes, or it is not there to be added.
        """
        if name in configuration.removed:
            raise MembershipError(
                f"{name!r} was removed and cannot connect; add it without --learner first, then with it"
            )
        for member in configuration.named(name):
            if member.role is MemberRole.VOTER:
                raise MembershipError(f"{name!r} votes; remove it first, then add it as a learner")
            return configuration.with_role(member.id, MemberRole.REPLICA)
        transport = self._node.transport
        for presence in transport.present():
            if presence.name == name:
                return configuration.with_member(name, presence.disk_uuid, MemberRole.REPLICA)
        raise MembershipError(f"{name!r} is not reached by the leader; start it first, then add it again")

    def _remove(self, driver: RaftDriver, name: str) -> Deferred[AdminResult]:
        configuration = driver.raft.configuration
        members = sorted(configuration.named(name), key=lambda member: member.role is MemberRole.VOTER)
        if not members:
            return self._shut_out(driver, name)
        if configuration.voters == {members[-1].id}:
            raise MembershipError(f"{name!r} is the only voter; a cluster needs one")
        self._check_is_one(driver, members[-1])
        return self._until_heard(configuration.without(members[-1].id)).addCallback(
            lambda _: self._take_out(driver, name)
        )

    def _check_is_one(self, driver: RaftDriver, member: Member) -> None:
        """Raise when two machines live under a member's name: which one is meant to go is not known.

        Raises:
            MembershipError: Says where the other one is.
        """
        transport = self._node.transport
        if not driver.raft.is_heard(member.id):
            return
        for stranger in transport.strangers():
            if stranger.name == member.name:
                there = stranger.profile.address if stranger.profile is not None else "an unknown address"
                raise MembershipError(
                    f"two machines call themselves {member.name!r}: the member, and one at {there} with "
                    f"another disk ({stranger.disk_uuid.hex()[:8]}), which is not let in; nothing was "
                    "removed: stop that one, then remove again"
                )

    def _take_out(self, driver: RaftDriver, name: str) -> Deferred[AdminResult]:
        """Remove the members of a name, a learner before the voter that it was to replace, one at a time."""
        configuration = driver.raft.configuration
        members = sorted(configuration.named(name), key=lambda member: member.role is MemberRole.VOTER)
        if not members:
            return self._shut_out(driver, name)
        changed = configuration.without(members[0].id)
        if len(members) > 1:
            return self._change(driver, changed).addCallback(lambda _: self._take_out(driver, name))
        if name not in changed.removed:
            changed = replace(changed, removed=_with_removed(changed, name))
        return self._change(driver, changed)

    def _until_heard(self, configuration: Configuration) -> Deferred[None]:
        """Fire once a majority of a configuration's voters was heard from now on.

        What was heard before, or is said of them, may be of one that has died since; then the removal of
        another would leave too few, and no leader to take it back.

        Raises (as a failure):
            MembershipError: Names those that were not heard within an election timeout.
        """
        removal = _Removal(configuration, Deferred())
        self._removals.append(removal)
        if self._log.driver is not None:
            self._log.driver.wake()
        self._look_at_removals(0)
        return removal.done

    def _look_at_removals(self, ticks: int) -> None:
        """Let removals go on whose remaining voters were heard."""
        waiting, self._removals = self._removals, []
        for removal in waiting:
            problem = self._problem_of(removal, ticks)
            if removal.done.called:
                pass  # who asked went away
            elif problem is None:
                removal.done.callback(None)
            elif removal.is_late or not isinstance(problem, MembershipError):
                removal.done.errback(problem)
            else:
                self._removals.append(removal)

    def _problem_of(self, removal: _Removal, ticks: int) -> RequestError | None:
        driver = self._log.driver
        if driver is None or driver.raft.role is not Role.LEADER:
            return UnavailableError("this node does not lead any more; nothing was done, try again")
        raft = driver.raft
        removal.ticks += ticks
        removal.is_late = removal.ticks > raft.config.election_ticks
        try:
            raft.check_voters(removal.configuration, within_ticks=removal.ticks)
        except MembershipError as error:
            return error
        return None

    def _shut_out(self, driver: RaftDriver, name: str) -> Deferred[AdminResult]:
        """Keep out a node that is no member: its certificate may be in wrong hands."""
        configuration = driver.raft.configuration
        if name in configuration.removed:
            return succeed(AdminResult())
        return self._change(driver, replace(configuration, removed=_with_removed(configuration, name)))

    def _change(self, driver: RaftDriver, configuration: Configuration) -> Deferred[AdminResult]:
        changing = deferred(partial(driver.propose_configuration, configuration))
        return changing.addCallback(lambda _: AdminResult())

    def _transfer(self, driver: RaftDriver, name: str) -> Deferred[AdminResult]:
        raft = driver.raft
        if name == self._node.name:
            driver.transfer_leadership(raft.id)  # takes back what is pending
            self.look_at_hand_over()
            return succeed(AdminResult(name=name))
        target = 0
        if name:
            voters = [m for m in raft.configuration.named(name) if m.role is MemberRole.VOTER]
            if not voters:
                raise MembershipError(f"{name!r} is no voter; leadership cannot go there")
            target = voters[0].id
        driver.transfer_leadership(target)
        return self._until_handed_over().addCallback(partial(self._handed_over, name))

    def _handed_over(self, name: str, _: None) -> AdminResult:
        leader = self._log.leader_name
        if name not in ("", leader):
            raise UnavailableError(f"{leader!r} leads now, not {name!r}; transfer again from there")
        return AdminResult(name=leader)

    # --- handing over -------------------------------------------------------------------

    def hand_over(self) -> Deferred[None]:
        """Let another voter lead, if this node does and there is one; fires when that is done or hopeless."""
        driver = self._log.driver
        if driver is None or driver.raft.role is not Role.LEADER:
            return succeed(None)
        try:
            driver.transfer_leadership()
        except MembershipError:
            return succeed(None)
        return self._until_handed_over().addErrback(lambda failure: failure.trap(RequestError) and None)

    def _until_handed_over(self) -> Deferred[None]:
        done: Deferred[None] = Deferred()
        self._hand_overs.append(done)
        return done

    def look_at_hand_over(self) -> None:
        """Called at each tick and change of role: tell who waits for a hand-over how it ended."""
        driver = self._log.driver
        if not self._hand_overs or driver is None:
            return
        raft = driver.raft
        if raft.transfer_target or not raft.leader:
            return  # still under way, or nobody is heard to lead yet
        stayed = "the other node did not take over in time, or that was taken back; this one leads on"
        self._settle_hand_overs(stayed if raft.role is Role.LEADER else "")

    @property
    def is_busy(self) -> bool:
        """Whether something is under way."""
        return bool(self._hand_overs or self._removals)

    def tick(self) -> None:
        """Look at what is under way."""
        self.look_at_hand_over()
        self._look_at_removals(1)

    def stop(self) -> None:
        """The node stops: nobody will look at hand-overs and removals any more."""
        self._settle_hand_overs("the node stopped before another one had taken over")
        removals, self._removals = self._removals, []
        for removal in removals:
            if not removal.done.called:
                removal.done.errback(UnavailableError("the node is stopping; nothing was done, try again"))

    def _settle_hand_overs(self, problem: str) -> None:
        """Tell who waits that another node leads, or the problem."""
        waiting, self._hand_overs = self._hand_overs, []
        for done in waiting:
            if done.called:
                continue
            if problem:
                done.errback(UnavailableError(problem))
            else:
                done.callback(None)

    # --- status -------------------------------------------------------------------------

    def _status(self, progress: AdminResult) -> ClusterStatus:
        log, node = self._log, self._node
        driver, transport, configuration = log.driver, node.transport, log.configuration
        if driver is None:
            raise UnavailableError("this node has not joined its cluster yet; try another node")
        matches = dict(progress.matches)
        members = []
        for member in configuration.members:
            is_here = member.disk_uuid == node.disk_uuid
            key = MemberKey(member.name, member.disk_uuid)
            liveness: Liveness | None = Liveness.ALIVE
            version, address = __version__, transport.address_of(key)
            if not is_here:
                liveness, version = transport.liveness_of(key), transport.version_of(key)
            members.append(
                MemberState(
                    name=member.name,
                    id=member.id,
                    role=member.role,
                    liveness=liveness,
                    is_leader=member.id == driver.raft.leader,
                    match_index=matches.get(member.id, 0),
                    address=address,
                    version=version,
                )
            )
        members += [
            MemberState(
                name=stranger.name,
                liveness=stranger.liveness,
                address=stranger.profile.address if stranger.profile is not None else "",
            )
            for stranger in transport.strangers()
        ]
        return ClusterStatus(
            term=driver.raft.term,
            leader=log.leader_name,
            commit_index=max(progress.number, driver.raft.commit_index),
            lowest_offset=driver.lowest_offset,
            next_offset=driver.readable_offset,
            members=tuple(members),
            removed=configuration.removed,
        )


def check_known(node: LogHost, configuration: Configuration, kind: EntryKind, what: str) -> None:
    """Raise unless every member of a group can read entries of a kind that came with a later version.

    Args:
        what: What they are for, in words.

    Raises:
        NotSupportedError: A member is of a version that could not read its own log any more.
        UnavailableError: One of them is not reached, so that this is not known.
    """
    for member in configuration.members:
        if member.disk_uuid == node.disk_uuid:
            continue
        kinds = node.transport.entry_kinds_of(MemberKey(member.name, member.disk_uuid))
        if not kinds:
            raise UnavailableError(
                f"{member.name} is not reached: it must be known first whether its version has {what}; "
                "start it, or remove it for good"
            )
        if kind not in kinds:
            raise NotSupportedError(
                f"{member.name} runs a version without {what}; upgrade it, nothing was done"
            )


def _being_founded(failure: Failure) -> AdminResult:
    """Somebody else has just asked for the same."""
    failure.trap(InvalidRequestError)
    return AdminResult()


def _has_left(driver: RaftDriver, name: str, next_id: int) -> bool:
    """Whether a node has no member, and can get none of an id below `next_id`, by what is committed.

    A configuration that is not committed may be cut: its removals do not count.
    """
    settled, _ = driver.raft.settled
    return settled.next_id >= next_id and not any(settled.named(name))


def _with_removed(configuration: Configuration, name: str) -> tuple[str, ...]:
    if len(configuration.removed) >= REMOVED_MAX:
        raise MembershipError(
            f"{REMOVED_MAX} names are kept out already; `loghouse cluster add` takes one off the list"
        )
    return (*configuration.removed, name)


def _nothing(_: AdminResult | Appended) -> None:
    return None


def _without_progress(failure: Failure) -> AdminResult:
    """Status is wanted most when there is no leader."""
    failure.trap(RequestError)
    return AdminResult()
