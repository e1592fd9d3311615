"""A simulated machine with a production node on it: its power, its process, its disk, its clients."""

from __future__ import annotations

import random
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from twisted.internet.defer import CancelledError, Deferred
from twisted.python.failure import Failure

from loghouse.cluster.cluster import Cluster, ClusterOptions
from loghouse.errors import (
    DamageError,
    DataDirectoryError,
    DiskFailedError,
    DiskFullError,
    EntryDamagedError,
    LoghouseError,
    OffsetOutOfRangeError,
    StorageError,
)
from loghouse.net.accept import LinkContext, own_hello
from loghouse.net.admission import Admission, ConnectionLimits
from loghouse.net.link import LinkTimes, LinkWatch
from loghouse.net.peer import DialContext
from loghouse.node.node import HAND_OVER_SECONDS_MAX, SETTLE_SECONDS_MAX
from loghouse.node.options import NodeOptions
from loghouse.protocol.configuration import MemberRole, decode_producer
from loghouse.protocol.entry import EntryKind, decode_entries
from loghouse.raft.core import Raft
from loghouse.raft.ready import Proposal as RaftProposal
from loghouse.replica.api import Fetched, LogBounds, Proposal, proposing
from loghouse.runtime.scheduling import Clocks
from loghouse.runtime.threads import WorkQueue
from loghouse.storage.recovery import HARD_STATE_NAME
from loghouse.testing.checkers import Violation
from loghouse.testing.disk import PowerLossError
from loghouse.testing.full.life import Life
from loghouse.testing.full.queue import DiskQueue, ReaderQueue
from loghouse.testing.full.tcp import SimTransport
from loghouse.testing.full.watch import AcceptedWithoutTls, WatchedNode
from loghouse.testing.machine import Machine
from loghouse.testing.workload import AcknowledgedAppend, Answer

if TYPE_CHECKING:
    from loghouse.testing.full.cluster import FullCluster

DATA_DIR: Final = "/data"
GRACE_SECONDS: Final = 0.001
WAITING: Final = "wait"  # the one request that has no deadline
# Until a running process must have answered: its longest deadline, of forwarding, by the slowest clock.
ANSWER_SECONDS_MAX: Final = 20.0
# Of the disk, not of what is on it: a process that ends by one is started again. A first boot refuses a disk
# without room for a log, and waits for whoever runs the node: nothing is on it that anybody could miss.
DISK_ERRORS: Final = (DiskFailedError, DiskFullError, DataDirectoryError)
STOP_SECONDS_MAX: Final = 40.0  # all graces together, by the slowest clock


class HostMachine(Machine):
    """The disk under a production node."""

    directory = f"{DATA_DIR}/logs/1"


class Host:
    """A machine. `number` is its place; who it is in the group it finds out by itself."""

    def __init__(self, cluster: FullCluster, number: int, rng: random.Random) -> None:
        self.cluster = cluster
        self.number = number
        self.name = f"n{number}"
        self.address = f"{self.name}:1"
        self.rng = rng
        self.machine = HostMachine(cluster, number)  # type: ignore[arg-type]
        self.is_on = False
        self.is_up = False
        self.incarnation = 0
        self.paused_until = 0.0
        self.wall_offset_seconds = 0.0
        self.rate = 1.0 + rng.uniform(-cluster.options.drift, cluster.options.drift)
        self.life: Life | None = None
        self.node: WatchedNode | None = None
        self.links: Cluster | None = None
        self.point = ""
        self.has_bad_disk = False
        self._point_count = 0
        self._point_rng = rng
        self._point_down = 0.0
        self._saved_hard_state = False
        # Requests under way in this life: what was asked, and when on the clock that pauses stop.
        self._asked: dict[int, tuple[str, float]] = {}
        self._paused_seconds = 0.0
        self._requests = 0
        self._stopping: Life | None = None
        self._door_is_closed = False

    # --- life -------------------------------------------------------------------------------

    def start(self) -> None:
        """Switch the machine on, if it is off, and begin the process."""
        assert not self.is_up
        self.incarnation += 1
        self.is_up = self.is_on = True
        self._asked.clear()
        self._door_is_closed = False
        self.resume()
        self.cluster.network.powered_on(self.number)
        self.cluster.trace.note(f"{self.name} starts, incarnation {self.incarnation}")
        self.life = Life(self, self.rate)
        self.life.enter(self._boot, self.life)

    def _boot(self, life: Life) -> None:
        cluster = self.cluster
        rng = random.Random(self.rng.getrandbits(64))
        node = self.node = self._make_node(life, rng)
        self.machine.disk.on_operation = self._operated
        links = self.links = Cluster(
            node,
            ClusterOptions(
                address=self.address,
                join=cluster.join,
                bootstrap=self.number == 1,
                swim=cluster.options.swim,
            ),
            clock=life,
            rng=rng,
        )
        try:
            node.startService()
        except PowerLossError:
            self.lose_power()
            return
        except (StorageError, DiskFullError) as error:
            self._refuse(error)
            return
        self.machine.disk_uuid = node.disk_uuid
        self._watch = LinkWatch(life)
        hello = own_hello(node, "simulated")
        self._admission = Admission(ConnectionLimits())
        self._context = LinkContext(
            binary=None,  # type: ignore[arg-type]
            watch=self._watch,
            times=LinkTimes(),
            hello=hello,
            tls=None,
            peers=links.accepted,
        )
        if self.is_alone and not node.is_in_cluster:
            return  # as `service.NodeService`: one that is alone dials nobody
        node.attach(links)
        links.start(DialContext(reactor=life, watch=self._watch, hello=hello, tls=None, rng=rng))

    def _make_node(self, life: Life, rng: random.Random) -> WatchedNode:
        cluster, options = self.cluster, self.cluster.options
        node = WatchedNode(
            NodeOptions(
                name=self.name,
                cluster_name="simulated",
                data_dir=DATA_DIR,
                address=self.address,
                segment_size=options.disk.segment_size,
                reserve_size=options.disk.reserve_size,
                tick_seconds=options.tick_seconds,
                is_alone=self.is_alone,
                raft=cluster.raft_config,
            ),
            files=self.machine.disk,
            clocks=Clocks(life, life.soon, life.callLater, self.wall, life.seconds),
            rng=rng,
            make_queue=partial(self._make_queue, life),
            on_fatal=partial(self._fatal, life),
        )
        node.host, node.life = self, life
        return node

    def _make_queue(self, life: Life, name: str, thread_count: int) -> WorkQueue:
        return DiskQueue(life) if thread_count == 1 else ReaderQueue(life)

    def accept(self, transport: SimTransport) -> None:
        """Take a connection that another machine dialled."""
        address = f"n{transport.peer_number}"
        transport.accepted(AcceptedWithoutTls(self._context, self._admission.enter(address)))

    def wall(self) -> float:
        """Return this machine's wall clock, in seconds since the epoch."""
        return 1_700_000_000 + self.cluster.clock.seconds() + self.wall_offset_seconds

    # --- the end of a process -------------------------------------------------------------------

    def _end(self, *, with_power: bool) -> None:
        assert self.life is not None
        self.is_up = False
        self.point = ""
        self.life.is_alive = False
        self.node = self.links = None
        self.cluster.network.process_ended(self.life, with_power=with_power)

    def crash(self, rng: random.Random) -> None:
        """Cut the power, or kill the process: nobody is told, nothing is finished."""
        if not self.is_up:
            return
        if rng.random() < 0.5:
            self._point_rng = rng
            self._power_off()
        else:
            self._kill()

    def lose_power(self) -> None:
        """Lose the power at a crash point, and come back later."""
        if self.is_up:
            down = self._point_down
            self._power_off()
            self.restart_after(down)

    def _power_off(self) -> None:
        self._end(with_power=True)
        self.is_on = False
        self.machine.lose_power(self._point_rng)
        self.cluster.trace.note(f"{self.name} loses power")

    def _kill(self) -> None:
        self._end(with_power=False)
        self.machine.process_exit()
        self.cluster.trace.note(f"{self.name} is killed")

    def _refuse(self, error: StorageError | DiskFullError) -> None:
        """The process cannot start on this disk."""
        self._end(with_power=False)
        self.machine.process_exit()
        if isinstance(error, DISK_ERRORS):
            self.cluster.trace.note(f"{self.name} cannot start: {error}")
            self._check_disk_may_fail(error)
            self.restart_after(self.cluster.options.election_seconds * 2)
        else:
            assert isinstance(error, DamageError), error
            self.cluster.guarded(self.cluster.atlas.refused, self, error)

    def _fatal(self, life: Life, failure: Failure) -> None:
        """The node says that its process must end."""
        if not life.is_alive:
            return
        error = failure.value
        self.cluster.trace.note(f"{self.name} cannot go on: {type(error).__name__}")
        self.cluster.trace.line(f"{self.name}: {error}")
        if isinstance(error, PowerLossError):
            self.lose_power()
            return
        if isinstance(error, DamageError | EntryDamagedError):
            self.cluster.guarded(self.cluster.atlas.met_damage, self, error)
        elif isinstance(error, DISK_ERRORS):
            self._check_disk_may_fail(error)
        elif not isinstance(error, Violation):
            self.cluster.crashed(self.name, error)
        self._end(with_power=False)
        self.machine.process_exit()
        self.restart_after(self.cluster.options.election_seconds * 2)

    def _crashed(self, failure: Failure, life: Life) -> None:
        if life.is_alive:
            self.cluster.crashed(self.name, failure.value)

    def _not_stopped(self, failure: Failure, life: Life) -> None:
        """An orderly stop met an error: of a disk that fails, or a bug."""
        if not life.is_alive:
            return
        if failure.check(PowerLossError):
            self.lose_power()
        else:
            self._fatal(life, failure)

    def _check_disk_may_fail(self, error: BaseException) -> None:
        if not self.has_bad_disk:
            self.cluster.crashed(self.name, error)

    def restart_after(self, seconds: float) -> None:
        """Start again after a while, unless something else did."""
        incarnation = self.incarnation

        def start() -> None:
            if not self.is_up and self.incarnation == incarnation:
                self.start()

        self.cluster.clock.after(seconds, start)

    def stop_in_order(self, down_seconds: float) -> None:
        """End as after SIGTERM, in the order of `service.NodeService`; then start again."""
        life = self.life
        if life is None or self._stopping is life:
            return
        self._stopping = life
        life.enter(self._begin_stop, life, down_seconds)
        self.cluster.clock.after(STOP_SECONDS_MAX, self._check_stopped, life)

    def _begin_stop(self, life: Life, down_seconds: float) -> None:
        node, links = self.node, self.links
        assert node is not None
        assert links is not None
        self.cluster.trace.note(f"{self.name} is asked to stop")
        stopping = Deferred.fromCoroutine(self._stop(life, node, links))
        stopping.addErrback(self._not_stopped, life)
        # What the threads did last is told on the reactor a moment later.
        stopping.addCallback(
            lambda _: self.cluster.clock.after(GRACE_SECONDS, life.enter, self._stopped, life, down_seconds)
        )

    async def _stop(self, life: Life, node: WatchedNode, links: Cluster) -> None:
        await node.hand_over().addTimeout(HAND_OVER_SECONDS_MAX, life, lambda _, __: None)
        node.release_waiters()
        self._door_is_closed = True
        await node.when_settled(SETTLE_SECONDS_MAX)
        if node.forwarder is not None:
            links.stop("the node is stopping")
        self._watch.say_goodbye("the node is stopping")
        await node.stopService()

    def _stopped(self, life: Life, down_seconds: float) -> None:
        if not life.is_alive:
            return
        if self._asked:
            kinds = sorted(what for what, _ in self._asked.values())
            self.cluster.crashed(self.name, Violation("unanswered", f"{self.name} stopped and left {kinds}"))
            return
        self._end(with_power=False)
        self.machine.process_exit()
        self.cluster.trace.note(f"{self.name} stopped")
        self.restart_after(down_seconds)

    def _check_stopped(self, life: Life) -> None:
        """A stop must come to its end, unless the process was stopped (SIGSTOP) meanwhile."""
        if not life.is_alive or self.life is not life:
            return
        late = self.paused_until + STOP_SECONDS_MAX
        if late > self.cluster.clock.seconds() and self.paused_until:
            self.cluster.clock.at(late + 0.001, self._check_stopped, life)
            return
        raise Violation("stop", f"{self.name} was asked to stop {STOP_SECONDS_MAX} s ago and still runs")

    def pause(self, seconds: float) -> None:
        """Stop the process for a while, as SIGSTOP does: everything comes late, nothing is lost."""
        now = self.cluster.clock.seconds()
        until = max(self.paused_until, now + seconds)
        self._paused_seconds += until - max(self.paused_until, now)
        self.paused_until = until

    def resume(self) -> None:
        """End a pause: a new process does not begin stopped."""
        now = self.cluster.clock.seconds()
        self._paused_seconds -= max(0.0, self.paused_until - now)
        self.paused_until = min(self.paused_until, now)

    # --- crash points ------------------------------------------------------------------------------

    def arm(self, point: str, count: int, rng: random.Random, down_seconds: float) -> None:
        """Lose the power when the node comes by `point` for the `count`th time."""
        self.point, self._point_count = point, count
        self._point_rng, self._point_down = rng, down_seconds
        if point == "disk_step":
            self.machine.crash_at_step(count * 3)

    def reach(self, point: str) -> bool:
        """Come by a crash point; True when the power is gone now."""
        if self.point != point:
            return False
        self._point_count -= 1
        if self._point_count > 0:
            return False
        self.cluster.nemesis.injected[f"crashed at {point}"] += 1
        self.lose_power()
        return True

    # --- the disk ------------------------------------------------------------------------------------

    def _operated(self, kind: str, path: str, size: int) -> None:
        if kind == "pwritev" and path.endswith(HARD_STATE_NAME):
            self._saved_hard_state = True

    def worked(self) -> None:
        """The disk thread did something: tell the oracle what is durable, judging by the disk."""
        node = self.node
        if node is None or not node.number or node.store is None:
            return
        oracle, machine = self.cluster.oracle, self.machine
        if self._saved_hard_state:
            self._saved_hard_state = False
            self.cluster.guarded(machine._check_hard_state, oracle, node.number)
        self.cluster.guarded(machine.synced, node.store, oracle, node.number)

    def slow_disk(self, factor: float, seconds: float) -> None:
        """Make the disk slower for a while."""
        self.machine.slow(factor, seconds)

    def stall_disk(self, seconds: float) -> None:
        """Let the disk finish nothing for a while."""
        self.machine.stall(seconds)

    def fail_disk(self, count: int, rng: random.Random, down_seconds: float) -> None:
        """Let one of the next writes or syncs fail; the process ends by it."""
        self.has_bad_disk = True
        self._point_rng, self._point_down = rng, down_seconds
        self.machine.fail_at_step(count)

    def fill_disk(self, seconds: float) -> None:
        """Leave no room on the disk for a while."""
        self.has_bad_disk = True
        self.machine.fill(seconds)

    # --- what it is ------------------------------------------------------------------------------------

    @property
    def raft(self) -> Raft | None:
        """The core of the running process, if it is a member."""
        return self.node.raft if self.is_up and self.node is not None else None

    @property
    def member(self) -> int:
        """Its id in the group, 0 while it runs as no member."""
        return self.node.membership.member_id if self.is_up and self.node is not None else 0

    @property
    def is_alone(self) -> bool:
        """Whether it makes a cluster of its own."""
        return self.number == 1 and self.cluster.join == (self.address,)

    @property
    def leads(self) -> bool:
        """Whether it thinks that it leads."""
        return self.node is not None and self.is_up and self.node.leads

    def describe(self) -> str:
        """Return one line about the node."""
        raft = self.raft
        if raft is None or self.node is None or self.node.driver is None:
            return f"{self.name} {'is no member' if self.is_up else 'is down'}"
        members = ", ".join(f"{m.id}={m.name} {m.role.name.lower()}" for m in raft.configuration.members)
        return (
            f"{self.name}={raft.id} {raft.role.value} term {raft.term} leader {raft.leader} "
            f"last {raft.last_index} durable {raft.durable_index} commit {raft.commit_index} "
            f"readable {self.node.driver.readable_index} [{members}]"
        )

    # --- clients -----------------------------------------------------------------------------------------

    def propose(self, proposal: RaftProposal, answer: Answer) -> Callable[[], None]:
        """Append a batch, or register a producer, here; answers `AcknowledgedAppend` or an error."""
        if proposal.kind == EntryKind.PRODUCER:
            subject = decode_producer(bytes(proposal.payload))
            return self._ask(
                "register",
                lambda n: n.log("").register_producer(subject),
                lambda id_: AcknowledgedAppend(id_, 0),
                answer,
            )
        batch = Proposal(
            payload=proposal.payload,
            record_count=proposal.record_count,
            expect_offset=proposal.expect_offset,
            producer_id=proposal.producer_id,
            producer_sequence=proposal.producer_sequence,
            subject=proposal.subject,
        )
        return self._ask(
            "propose",
            lambda n: proposing(n.log("").propose, batch),
            lambda a: AcknowledgedAppend(a.index, a.base_offset),
            answer,
        )

    def read(self, offset: int, answer: Answer) -> Callable[[], None]:
        """Answer the entry that holds `offset`."""
        return self._ask(
            "read", lambda n: n.log("").fetch(offset, 1), lambda f: self._fetched(offset, f), answer, offset
        )

    def tail(self, answer: Answer) -> Callable[[], None]:
        """Answer the next offset."""
        return self._ask("tail", lambda n: n.log("").bounds(), self._bounds, answer)

    def wait_for(self, offset: int, answer: Answer) -> Callable[[], None]:
        """Answer None once the record at `offset` can be read."""
        return self._ask(WAITING, lambda n: n.log("").wait_for(offset), lambda _: None, answer)

    def is_asleep_at(self, offset: int) -> bool:
        """Whether a waiter for this offset, that was not woken, should have been."""
        replica = self.node.driver if self.node is not None else None
        is_running = self.is_up and self.paused_until <= self.cluster.clock.seconds()
        is_waiting = any(what == WAITING for what, _ in self._asked.values())
        return is_running and is_waiting and replica is not None and offset < replica.readable_offset

    def order(self, what: str, ask: Callable[[WatchedNode], Deferred[Any]], answer: Answer) -> None:
        """Ask as an operator does."""
        self._ask(what, ask, lambda result: result, answer)

    def _fetched(self, offset: int, fetched: Fetched) -> object:
        assert self.node is not None
        entries = decode_entries(self.node.membership.seed, fetched.frames)
        found = None
        for entry in entries:
            held = offset if entry.base_offset <= offset < entry.next_offset else entry.base_offset
            if entry.record_count:
                self.cluster.guarded(self.cluster.oracle.served, self.node.number, held, entry)
            if held == offset and entry.record_count:
                found = entry
        if found is None:
            self.cluster.crashed(
                self.name, Violation("served", f"{self.name} answers a read of {offset} without it")
            )
        return found

    def _bounds(self, bounds: LogBounds) -> int:
        lowest = self.cluster.oracle.state.lowest_offset
        if bounds.lowest > lowest:
            text = f"{self.name} begins at {bounds.lowest}, trimmed is below {lowest}"
            self.cluster.crashed(self.name, Violation("retention", text))
        return bounds.next_offset

    def _ask(
        self,
        what: str,
        ask: Callable[[WatchedNode], Deferred[Any]],
        shape: Callable[[Any], object],
        answer: Answer,
        offset: int = -1,
    ) -> Callable[[], None]:
        """Carry a request into the process; returns what takes it back."""
        life = self.life
        asked: list[Deferred[Any]] = []
        if not self.is_up or life is None or self._door_is_closed:
            return lambda: None

        def begin() -> None:
            node = self.node
            assert node is not None
            if self._door_is_closed:
                return
            self._requests += 1
            serial = self._requests
            self._asked[serial] = what, self._active_seconds()
            if what != WAITING:
                self.cluster.clock.after(ANSWER_SECONDS_MAX, self._check_answered, life, serial)
            done = ask(node)
            asked.append(done)
            done.addCallback(shape).addBoth(self._answered, life, serial, answer, offset)
            done.addErrback(self._crashed, life)

        def cancel() -> None:
            if asked and not asked[0].called:
                asked[0].cancel()

        life.enter(begin)
        return lambda: life.enter(cancel)

    def _answered(self, result: Any, life: Life, serial: int, answer: Answer, offset: int) -> None:
        if not life.is_alive:
            return
        self._asked.pop(serial, None)
        if not isinstance(result, Failure):
            answer(result)
            return
        error = result.value
        if isinstance(error, CancelledError):
            return
        if not isinstance(error, LoghouseError):
            self.cluster.crashed(self.name, error)
        if isinstance(error, OffsetOutOfRangeError) and 0 <= offset < error.lowest:
            assert self.node is not None
            self.cluster.guarded(self.cluster.oracle.not_held, self.node.number, offset)
        answer(error)

    def _active_seconds(self) -> float:
        """Return the time of the simulation without this machine's pauses, those to come included."""
        return self.cluster.clock.seconds() - self._paused_seconds

    def _check_answered(self, life: Life, serial: int) -> None:
        """Every request has a deadline inside the node, and its answer is not forgotten."""
        if not life.is_alive or serial not in self._asked:
            return
        what, since = self._asked[serial]
        late = self._active_seconds() - since - ANSWER_SECONDS_MAX
        if late < 0:
            self.cluster.clock.after(0.001 - late, self._check_answered, life, serial)
            return
        raise Violation("unanswered", f"{self.name} did not answer {what} within {ANSWER_SECONDS_MAX} s")

    def transfer(self, rng: random.Random) -> str:
        """Hand leadership to some other voter, or to the best."""
        raft = self.raft
        if raft is None:
            return ""
        others = [
            m.name for m in raft.configuration.members if m.role == MemberRole.VOTER and m.id != raft.id
        ]
        if not others:
            return ""
        name = rng.choice(["", *others])
        self.order("transfer", lambda node: node.administration.transfer(name), lambda result: None)
        return "transfer"
