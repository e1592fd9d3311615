"""A simulated machine: its power, its disk, the lives of its process, and the points where one may end."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any, ClassVar, Protocol

from twisted.internet.defer import CancelledError
from twisted.python.failure import Failure

from loghouse.errors import (
    DamageError,
    DataDirectoryError,
    DiskFailedError,
    DiskFullError,
    LoghouseError,
    OffsetOutOfRangeError,
    StorageError,
)
from loghouse.protocol.entry import decode_entries
from loghouse.raft.core import Raft
from loghouse.raft.ready import Role
from loghouse.replica.api import Fetched, LogBounds
from loghouse.replica.driver import RaftDriver
from loghouse.replica.replica import Replica
from loghouse.storage.log import Log
from loghouse.storage.recovery import HARD_STATE_NAME
from loghouse.testing.checkers import Oracle, Violation
from loghouse.testing.disk import CHANGING, PowerLossError
from loghouse.testing.life import Life
from loghouse.testing.machine import Machine
from loghouse.testing.run import Run
from loghouse.testing.watch import Watch
from loghouse.testing.workload import Answer


class LogBooks(Protocol):
    """What is known of one log: a `Run` for the default one, `named.Books` for each other."""

    oracle: Oracle

    def guarded(self, check: Callable[..., object], *args: Any) -> None:
        """Ask the oracle; what it finds ends the run."""


class Host:
    """A machine, whatever runs on it. `rate` is how fast its clock runs."""

    # Of the disk, not of what is on it: a process that ends by one is started again. A first boot refuses a
    # disk without room for a log, and waits for whoever runs the node: nothing is on it that anybody misses.
    disk_errors: ClassVar[tuple[type[BaseException], ...]] = (
        DiskFailedError,
        DiskFullError,
        DataDirectoryError,
    )
    # What is on the disk is not what was written.
    damage_errors: ClassVar[tuple[type[Exception], ...]] = (DamageError,)

    def __init__(self, cluster: Run, number: int, *, directory: str, cluster_uuid: bytes = b"") -> None:
        """Take a machine that is off, with its log in `directory`; `cluster_uuid` is of logs it makes."""
        self.cluster = cluster
        self.number = number
        self.name = f"n{number}"
        self.rng = rng = cluster.stream(f"node.{number}")
        self.machine = Machine(
            cluster.clock,
            cluster.stream(f"disk.{number}"),
            cluster.options,
            number,
            frame_seed=lambda: cluster.frame_seed,
            directory=directory,
            cluster_uuid=cluster_uuid,
        )
        self.is_on = False
        self.is_up = False
        self.incarnation = 0
        self.paused_until = 0.0
        self.wall_offset_seconds = 0.0
        self.rate = 1.0 + rng.uniform(-cluster.options.drift, cluster.options.drift)
        # The process as it runs now, or ran last, and what is watched of it once it is a member.
        self.life: Life | None = None
        self.watch: Watch | None = None
        self.point = ""
        self.has_bad_disk = False
        self._point_count = 0
        self._point_rng = rng
        self._point_down = 0.0
        self._saved_hard_state = False
        self._paused_seconds = 0.0

    # --- what the process does in its own way -----------------------------------------------

    def _make_life(self) -> Life:
        return Life(self, self.rate)

    def _boot(self, life: Life) -> None:
        """Begin the process; raises StorageError or DiskFullError when it cannot start on this disk."""
        raise NotImplementedError

    def _ended(self, life: Life, *, with_power: bool) -> None:
        """Forget what only memory held."""

    @property
    def member(self) -> int:
        """Its id in the group, 0 while it has none."""
        raise NotImplementedError

    @property
    def log(self) -> Log | None:
        """The log that is open, if one is."""
        raise NotImplementedError

    @property
    def driver(self) -> RaftDriver | None:
        """What runs the core, while the process runs and is a member."""
        raise NotImplementedError

    def transfer(self, rng: random.Random) -> str:
        """Hand leadership to some other voter; what was done, or the empty text."""
        raise NotImplementedError

    # --- life -------------------------------------------------------------------------------

    def start(self) -> None:
        """Switch the machine on, if it is off, and begin the process."""
        assert not self.is_up
        self.incarnation += 1
        self.is_up = self.is_on = True
        self.resume()
        self.cluster.trace.note(f"{self.name} starts, incarnation {self.incarnation}")
        life = self.life = self._make_life()
        life.enter(self._begin, life)

    def _begin(self, life: Life) -> None:
        self.machine.disk.on_operation = self._operated
        try:
            self._boot(life)
        except (StorageError, DiskFullError) as error:
            self._refuse(error)

    def open_watch(self, life: Life, id_: int, replica: Replica) -> Watch:
        """Begin to watch a member of that id, and check what its start recovered."""
        oracle, log = self.cluster.oracle, replica.log
        number = oracle.number(id_, replica.options.disk_uuid)
        watch = self.watch = Watch(self.cluster, life, number, self.reach)
        if life.is_alive:
            state, entries = log.hard_state, self.machine.all_entries(log)
            self.cluster.guarded(oracle.opened, number, entries, log.first_index - 1, state.term, state.vote)
            self.cluster.guarded(self.machine.check_settled, number)
            oracle.recovered(number, log.state)
        return watch

    def wall(self) -> float:
        """Return this machine's wall clock, in seconds since the epoch."""
        return 1_700_000_000 + self.cluster.clock.seconds() + self.wall_offset_seconds

    def _end(self, *, with_power: bool) -> None:
        assert self.life is not None
        self.is_up = False
        self.point = ""
        self.life.is_alive = False
        self.watch = None
        self._ended(self.life, with_power=with_power)
        if not with_power:
            self.machine.disk.stop_process()  # what it wrote stays in the page cache

    def crash(self, rng: random.Random) -> None:
        """Cut the power: nobody is told, nothing is finished."""
        if self.is_up:
            self._point_rng = rng
            self._power_off()

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

    def _exit(self) -> None:
        """End the process, and start it again after a while; the machine stays on."""
        self._end(with_power=False)
        self.restart_after(self.cluster.options.election_seconds * 2)

    def _refuse(self, error: StorageError | DiskFullError) -> None:
        """The process cannot start on this disk."""
        self._end(with_power=False)
        if isinstance(error, self.disk_errors):
            self.cluster.trace.note(f"{self.name} cannot start: {error}")
            self._check_disk_may_fail(error)
            self.restart_after(self.cluster.options.election_seconds * 2)
        else:
            assert isinstance(error, DamageError), error
            self.cluster.guarded(self.cluster.atlas.refused, self, error)

    def _fatal(self, life: Life, failure: Failure) -> None:
        """What runs here says that its process must end."""
        if not life.is_alive:
            return
        error = failure.value
        self.cluster.trace.note(f"{self.name} cannot go on: {type(error).__name__}")
        self.cluster.trace.line(f"{self.name}: {error}")
        if isinstance(error, PowerLossError):
            self.lose_power()
            return
        if isinstance(error, self.damage_errors):
            self.cluster.guarded(self.cluster.atlas.met_damage, self, error)
        elif isinstance(error, self.disk_errors):
            self._check_disk_may_fail(error)
        elif not isinstance(error, Violation):
            self.cluster.crashed(self.name, error)
        self._exit()

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

    def replace_disk(self) -> None:
        """Put an empty disk into the machine, which is off then."""
        self.is_on = False
        self.machine.new_disk()

    # --- crash points -------------------------------------------------------------------------

    def arm(self, point: str, count: int, rng: random.Random, down_seconds: float) -> None:
        """Lose the power when the node comes by `point` for the `count`th time."""
        self.point, self._point_count = point, count
        self._point_rng, self._point_down = rng, down_seconds
        if point == "disk_step":
            # Inside some write, sync or change of a name.
            lost = PowerLossError("power lost")
            self.machine.disk.fail(lost, after=count * 3, kinds=sorted(CHANGING))

    def reach(self, point: str) -> bool:
        """Come by a crash point; True when the power is gone now."""
        if not self._is_due(point):
            return False
        self.lose_power()
        return True

    def _is_due(self, point: str) -> bool:
        if self.point != point:
            return False
        self._point_count -= 1
        if self._point_count > 0:
            return False
        self.cluster.nemesis.injected[f"crashed at {point}"] += 1
        return True

    # --- the disk -----------------------------------------------------------------------------

    def _operated(self, kind: str, path: str, size: int) -> None:
        if kind == "pwritev" and path.endswith(HARD_STATE_NAME):
            self._saved_hard_state = True
        elif kind == "fdatasync" and path.endswith(".store") and self._is_due("written"):
            raise PowerLossError("power lost")

    def worked(self) -> None:
        """The disk thread did something: tell the oracle what is durable, judging by the disk."""
        watch, log = self.watch, self.log
        if watch is None or log is None:
            return
        oracle, machine = self.cluster.oracle, self.machine
        if self._saved_hard_state:
            self._saved_hard_state = False
            self.cluster.guarded(machine.check_hard_state, oracle, watch.number)
        self.cluster.guarded(machine.synced, log, oracle, watch.number)

    def fail_disk(self, count: int, rng: random.Random, down_seconds: float) -> None:
        """Let one of the next writes or syncs fail; the process ends by it."""
        self.has_bad_disk = True
        self._point_rng, self._point_down = rng, down_seconds
        self.machine.fail_at_step(count)

    def fill_disk(self, seconds: float) -> None:
        """Leave no room on the disk for a while."""
        self.has_bad_disk = True
        disk = self.machine.disk
        disk.capacity = disk.used_size()
        self.cluster.clock.after(seconds, setattr, disk, "capacity", None)

    # --- what it is ---------------------------------------------------------------------------

    @property
    def raft(self) -> Raft | None:
        """The core of the running process, if it is a member."""
        return self.driver.raft if self.driver is not None else None

    @property
    def leads(self) -> bool:
        """Whether it runs and thinks that it leads."""
        return self.raft is not None and self.raft.role is Role.LEADER

    @property
    def readable_index(self) -> int:
        """The last entry that it serves; 0 while it serves nothing."""
        return self.driver.readable_index if self.driver is not None else 0

    def describe(self) -> str:
        """Return one line about the machine."""
        raft = self.raft
        if raft is None:
            return f"{self.name} {'is no member' if self.is_up else 'is down'}"
        members = ", ".join(f"{m.id}={m.name} {m.role.name.lower()}" for m in raft.configuration.members)
        return (
            f"{self.name}={raft.id} {raft.role.value} term {raft.term} leader {raft.leader} "
            f"last {raft.last_index} durable {raft.durable_index} commit {raft.commit_index} "
            f"readable {self.readable_index} [{members}]"
        )

    # --- answers ------------------------------------------------------------------------------

    def _fetched(self, fetched: Fetched, offset: int) -> object:
        """Return the entry that holds `offset`; see `check_served`."""
        assert self.watch is not None
        return self.check_served(self.cluster, self.cluster.frame_seed, self.watch.number, fetched, offset)

    def check_served(self, books: LogBooks, seed: int, number: int, fetched: Fetched, offset: int) -> object:
        """Return the entry that holds `offset`; all that were given out must be the committed ones.

        Args:
            books: Of the log that was read.
            seed: Of its frames.
            number: The member that answered, for what is written down; 0 when that is not known.
        """
        found = None
        for entry in decode_entries(seed, fetched.frames):
            held = offset if entry.base_offset <= offset < entry.next_offset else entry.base_offset
            if entry.record_count:
                books.guarded(books.oracle.served, number, held, entry)
            if held == offset and entry.record_count:
                found = entry
        if found is None:
            problem = f"{self.name} answers a read of {offset} without it"
            self.cluster.crashed(self.name, Violation("served", problem))
        return found

    def _bounds(self, bounds: LogBounds) -> int:
        lowest = self.cluster.oracle.state.lowest_offset
        if bounds.lowest > lowest:
            text = f"{self.name} begins at {bounds.lowest}, trimmed is below {lowest}"
            self.cluster.crashed(self.name, Violation("retention", text))
        return bounds.next_offset

    def _answer(self, result: Any, answer: Answer, offset: int = -1) -> None:
        """Give an answer to who asked for `offset`, or for none (-1): a value, or an error with a name."""
        if not self.is_up:
            return  # a dead process answers nobody
        if not isinstance(result, Failure):
            answer(result)
            return
        error = result.value
        if isinstance(error, CancelledError):
            return
        if not isinstance(error, LoghouseError):
            self.cluster.crashed(self.name, error)
        if isinstance(error, OffsetOutOfRangeError) and 0 <= offset < error.lowest:
            assert self.watch is not None
            self.cluster.guarded(self.cluster.oracle.not_held, self.watch.number, offset)
        answer(error)

    def _crashed(self, failure: Failure) -> None:
        """Answering met an error that nobody expected."""
        if self.is_up:
            self.cluster.crashed(self.name, failure.value)
