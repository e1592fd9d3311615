"""A simulated machine with a production node on it: its process, its links, its clients."""

from __future__ import annotations

import random
from collections.abc import Callable
from functools import partial
from typing import Any, Final, cast

from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater
from twisted.python.failure import Failure

from loghouse.auth.policy import Authorizer
from loghouse.cluster.cluster import Cluster, ClusterOptions
from loghouse.errors import DamageError, EntryDamagedError
from loghouse.gossip.config import SwimConfig
from loghouse.net.accept import AcceptedLink, LinkContext, own_hello
from loghouse.net.admission import Admission, ConnectionLimits
from loghouse.net.appending import Appender
from loghouse.net.binary_server import BinaryServer
from loghouse.net.link import LinkTimes, LinkWatch
from loghouse.net.peer import DialContext
from loghouse.node.api import proposing
from loghouse.node.gate import Gate
from loghouse.node.node import DISK_QUEUE, HAND_OVER_SECONDS_MAX, SETTLE_SECONDS_MAX, Node
from loghouse.node.options import NodeOptions
from loghouse.node.served_log import ServedLog
from loghouse.protocol.configuration import MemberRole, decode_producer
from loghouse.protocol.cursor_messages import CursorOrder
from loghouse.protocol.entry import EntryKind
from loghouse.protocol.link_messages import Hello, LinkRole
from loghouse.raft.ready import Proposal
from loghouse.replica.driver import RaftDriver
from loghouse.replica.replica import Replica
from loghouse.runtime.scheduling import Clocks
from loghouse.runtime.threads import WorkQueue
from loghouse.storage.log import Log
from loghouse.testing.checkers import Violation
from loghouse.testing.disk import PowerLossError
from loghouse.testing.full.life import NodeLife
from loghouse.testing.full.tcp import SimTransport
from loghouse.testing.host import Host
from loghouse.testing.life import Life
from loghouse.testing.queue import DiskQueue, ReaderQueue
from loghouse.testing.simulation import Simulation
from loghouse.testing.watch import Watch, WatchedReplica
from loghouse.testing.workload import AcknowledgedAppend, Answer

DATA_DIR: Final = "/data"
CLIENT_SUBJECT: Final = "program"  # who every client is: there are no certificates
GRACE_SECONDS: Final = 0.001
WAITING: Final = "wait"  # the one request that has no deadline
# Until a running process must have answered: its longest deadline, of forwarding, by the slowest clock.
ANSWER_SECONDS_MAX: Final = 20.0
STOP_SECONDS_MAX: Final = 40.0  # all graces together, by the slowest clock


class FullHost(Host):
    """A machine with a node. Who it is in the group it finds out by itself."""

    damage_errors = (DamageError, EntryDamagedError)
    life: NodeLife | None

    def __init__(
        self,
        cluster: Simulation[Any],
        number: int,
        *,
        join: tuple[str, ...],
        swim: SwimConfig,
    ) -> None:
        """Take a machine that is off; `join` are the addresses that every node looks for."""
        super().__init__(cluster, number, directory=f"{DATA_DIR}/logs/1")
        self.address = f"{self.name}:1"
        self._join = join
        self._swim = swim
        self.node: Node | None = None
        self.links: Cluster | None = None
        # Requests under way in this life: what was asked, and when on the clock that pauses stop.
        self._asked: dict[int, tuple[str, float]] = {}
        self._requests = 0
        self._stopping: Life | None = None
        self._door_is_closed = False
        # Nodes whose process ended. Were they collected as garbage in a run, their coroutines would be closed
        # at a moment that no seed decides: each `finally` in them acts, and diagnostics tell what fails.
        self._dead: list[object] = []
        # The logs that have a name, as they are watched in this life, by group.
        self._named: dict[int, tuple[Watch, Log]] = {}

    # --- life -------------------------------------------------------------------------------

    def _make_life(self) -> NodeLife:
        self._asked.clear()
        self._door_is_closed = False
        self.cluster.network.powered_on(self.number)
        return NodeLife(self, self.rate)

    def _boot(self, life: Life) -> None:
        rng = random.Random(self.rng.getrandbits(64))
        node = self.node = self._make_node(life, rng)
        links = self.links = Cluster(
            node,
            ClusterOptions(
                address=self.address,
                join=self._join,
                bootstrap=self.number == 1,
                swim=self._swim,
            ),
            clock=life,
            rng=rng,
        )
        node.startService()
        self.machine.disk_uuid = node.disk_uuid
        self._watch = LinkWatch(life)
        hello = own_hello(node, "simulated")
        self._admission = Admission(ConnectionLimits())
        self._context = LinkContext(
            binary=self._make_binary(life, node),
            watch=self._watch,
            times=LinkTimes(),
            hello=hello,
            tls=None,
            anonymous=CLIENT_SUBJECT,
            peers=links.accepted,
        )
        if self.is_alone and not node.is_in_cluster:
            return  # as `service.NodeService`: one that is alone dials nobody
        node.attach(links)
        links.start(DialContext(reactor=life, watch=self._watch, hello=hello, tls=None, rng=rng))

    def _make_node(self, life: Life, rng: random.Random) -> Node:
        options = self.cluster.options
        node = Node(
            NodeOptions(
                name=self.name,
                cluster_name="simulated",
                data_dir=DATA_DIR,
                address=self.address,
                segment_size=options.disk.segment_size,
                reserve_size=options.disk.reserve_size,
                tick_seconds=options.tick_seconds,
                is_alone=self.is_alone,
                raft=options.raft,
            ),
            files=self.machine.disk,
            clocks=Clocks(life, life.soon, life.callLater, self.wall, life.seconds),
            rng=rng,
            make_queue=partial(self._make_queue, life),
            on_fatal=partial(self._fatal, life),
        )

        def make_replica(owner: ServedLog, *parts: Any, **settings: Any) -> Replica:
            if owner is node.membership:
                return WatchedReplica(partial(self.open_watch, life), owner, *parts, **settings)
            open_watch = partial(self._open_named_watch, life, owner.group)
            return WatchedReplica(open_watch, owner, *parts, **settings)

        node.make_replica = make_replica
        return node

    def _make_binary(self, life: Life, node: Node) -> BinaryServer:
        """Make what serves the clients that dial; they may do everything."""
        gate = Gate(node, cast(Authorizer, EverythingAllowed()), clock=self.wall)
        in_thread = partial(deferLater, life, 0.0)
        return BinaryServer(
            gate=gate,
            scheduler=life,
            appends=Appender(gate, soon=life.soon, scheduler=life, in_thread=in_thread),
        )

    def _make_queue(self, life: Life, name: str, thread_count: int) -> WorkQueue:
        return DiskQueue(self, life, thread_count) if name == DISK_QUEUE else ReaderQueue(self, life)

    def _open_named_watch(self, life: Life, group: int, id_: int, replica: Replica) -> Watch:
        """Begin to watch a member of a named log, in the books of that log."""
        books, log = self.cluster.books_of(group), replica.log
        number = books.oracle.number(id_, replica.options.disk_uuid)
        watch = Watch(books, life, number, lambda point: None)
        if life.is_alive:
            self._named[group] = watch, log
            state, entries = log.hard_state, self.machine.all_entries(log)
            start = log.first_index - 1
            if entries and not start:
                books.oracle.born(entries[0])
            self.cluster.guarded(books.oracle.opened, number, entries, start, state.term, state.vote)
            self.cluster.guarded(self.machine.check_settled, number, f"{DATA_DIR}/logs/{group}")
        return watch

    def worked(self) -> None:
        """The disk thread did something: so it is for the logs that have a name."""
        has_saved = self._saved_hard_state
        super().worked()
        machine, guarded = self.machine, self.cluster.guarded
        for group, (watch, log) in self._named.items():
            path, oracle = f"{DATA_DIR}/logs/{group}", self.cluster.books_of(group).oracle
            if not machine.disk.exists(path):
                continue  # it was deleted
            if has_saved:
                guarded(machine.check_hard_state, oracle, watch.number, path, log.seed)
            guarded(machine.synced, log, oracle, watch.number, path)

    def accept(self, transport: SimTransport) -> None:
        """Take a connection that another machine dialled."""
        address = f"n{transport.peer_number}"
        transport.accepted(AcceptedWithoutTls(self._context, self._admission.enter(address)))

    # --- the end of a process -------------------------------------------------------------------

    def _ended(self, life: Life, *, with_power: bool) -> None:
        self._named.clear()
        self._dead.append((self.node, self.links))
        self.node = self.links = None
        self.cluster.network.process_ended(life, with_power=with_power)

    def crash(self, rng: random.Random) -> None:
        """Cut the power, or kill the process: nobody is told, nothing is finished."""
        if not self.is_up:
            return
        if rng.random() < 0.5:
            super().crash(rng)
        else:
            self.kill()

    def kill(self) -> None:
        """End the running process as `kill -9` does; the machine stays on."""
        self._end(with_power=False)
        self.cluster.trace.note(f"{self.name} is killed")

    def _not_stopped(self, failure: Failure, life: Life) -> None:
        """An orderly stop met an error: of a disk that fails, or a bug."""
        if not life.is_alive:
            return
        if failure.check(PowerLossError):
            self.lose_power()
        else:
            self._fatal(life, failure)

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

    async def _stop(self, life: Life, node: Node, links: Cluster) -> None:
        await node.administration.hand_over().addTimeout(HAND_OVER_SECONDS_MAX, life, lambda _, __: None)
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

    # --- what it is ------------------------------------------------------------------------------------

    @property
    def driver(self) -> RaftDriver | None:
        """What runs the core, while the process runs and is a member."""
        return self.node.membership.driver if self.node is not None else None

    @property
    def log(self) -> Log | None:
        """The log; None before the node belongs to a cluster."""
        replica = self.node.membership.replica if self.node is not None else None
        return replica.log if replica is not None else None

    @property
    def member(self) -> int:
        """Its id in the group, 0 while it runs as no member."""
        return self.node.membership.member_id if self.is_up and self.node is not None else 0

    @property
    def is_alone(self) -> bool:
        """Whether it makes a cluster of its own."""
        return self.number == 1 and self._join == (self.address,)

    # --- clients -----------------------------------------------------------------------------------------

    def propose(self, proposal: Proposal, answer: Answer) -> Callable[[], None]:
        """Append a batch, or register a producer, here; answers `AcknowledgedAppend` or an error."""
        if proposal.kind == EntryKind.PRODUCER:
            subject = decode_producer(bytes(proposal.payload))
            return self._ask(
                "register",
                lambda n: n.log("").register_producer(subject),
                lambda id_: AcknowledgedAppend(id_, 0),
                answer,
            )
        return self._ask(
            "propose",
            lambda n: proposing(n.log("").propose, proposal),
            lambda a: AcknowledgedAppend(a.index, a.base_offset),
            answer,
        )

    def read(self, offset: int, answer: Answer) -> Callable[[], None]:
        """Answer the entry that holds `offset`."""
        return self._ask(
            "read", lambda n: n.log("").fetch(offset, 1), lambda f: self._fetched(f, offset), answer, offset
        )

    def tail(self, answer: Answer) -> Callable[[], None]:
        """Answer the next offset."""
        return self._ask("tail", lambda n: n.log("").bounds(), self._bounds, answer)

    def order_cursor(self, order: CursorOrder, answer: Answer) -> Callable[[], None]:
        """Do something about a cursor; answers the `CursorPage` or an error."""
        return self._ask("cursor", lambda n: n.log("").order_cursor(order), lambda page: page, answer)

    def wait_for(self, offset: int, answer: Answer) -> Callable[[], None]:
        """Answer None once the record at `offset` can be read."""
        return self._ask(WAITING, lambda n: n.log("").wait_for(offset), lambda _: None, answer)

    def is_asleep_at(self, offset: int) -> bool:
        """Whether a waiter for this offset, that was not woken, should have been."""
        driver = self.driver
        is_running = self.is_up and self.paused_until <= self.cluster.clock.seconds()
        is_waiting = any(what == WAITING for what, _ in self._asked.values())
        return is_running and is_waiting and driver is not None and offset < driver.readable_offset

    def order(self, what: str, ask: Callable[[Node], Deferred[Any]], answer: Answer) -> Callable[[], None]:
        """Ask as an operator does; returns what takes it back."""
        return self._ask(what, ask, lambda result: result, answer)

    def _ask(
        self,
        what: str,
        ask: Callable[[Node], Deferred[Any]],
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
            done.addErrback(self._crashed)

        def cancel() -> None:
            if asked and not asked[0].called:
                asked[0].cancel()

        life.enter(begin)
        return lambda: life.enter(cancel)

    def _answered(self, result: Any, life: Life, serial: int, answer: Answer, offset: int) -> None:
        if not life.is_alive:
            return
        self._asked.pop(serial, None)
        self._answer(result, answer, offset)

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


class AcceptedWithoutTls(AcceptedLink):
    """A link of another node, or of a client. TLS is not simulated: who is there is taken from its Hello."""

    def _admit(self, hello: Hello) -> None:
        if hello.role == LinkRole.NODE:
            peers: Any = self._context.peers
            peers.admit(hello)


class EverythingAllowed:
    """The policy of simulated nodes, in the place of `auth.policy.Authorizer`."""

    def permits(self, subject: str, object_: str, action: str) -> bool:
        """Whether a subject may do this: it may."""
        return True

    def permits_anything(self, subject: str) -> bool:
        """Whether a subject has any rule: it has."""
        return True

    def check_anything(self, subject: str) -> None:
        """Refuse a subject that has no rule: none is refused."""
