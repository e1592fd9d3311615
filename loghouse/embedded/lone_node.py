"""The node of an embedded log: a data directory of one voter, its replica, and nobody else.

The directory is a node's: `twistd loghouse` on it serves the same log later, and other nodes may join that.
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]
import os
import random
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from types import FrameType
from typing import Any, Final

from loghouse.embedded.requests import Errand, Request, Rounds
from loghouse.embedded.turns import TurnQueue, Turns
from loghouse.errors import (
    ClientUseError,
    ClosedError,
    DataDirectoryError,
    DiskFailedError,
    DiskFullError,
    LoghouseError,
    OutcomeUnknownError,
    StorageError,
)
from loghouse.limits import KIB, MICROSECONDS, UUID_SIZE
from loghouse.metrics import NO_METRICS
from loghouse.protocol.configuration import Retention
from loghouse.protocol.cursor_messages import CursorOrder, CursorPage
from loghouse.protocol.entry import DEFAULT_GROUP, EntryKind
from loghouse.protocol.message import Message
from loghouse.protocol.raft_messages import Envelope
from loghouse.raft.config import LAN
from loghouse.raft.ready import Proposal, SoftState
from loghouse.replica.api import OnAppended, OnFailed
from loghouse.replica.bootstrap import beginning
from loghouse.replica.coalescing import Coalescer
from loghouse.replica.damage import LogRepair
from loghouse.replica.driver import RaftDriver
from loghouse.replica.replica import Replica, ReplicaOptions
from loghouse.runtime.scheduling import Clocks
from loghouse.storage.directory import DataDirectory, DiskIdentity
from loghouse.storage.files import Files
from loghouse.storage.others import has_others, knows_others

TICK_SECONDS: Final = 0.1
LOOK_SECONDS: Final = 1.0
ALONE: Final = replace(LAN, cache_size_max=64 * KIB)
"""No follower is close behind: what is written is let go, so that a program does not hold 16 MiB for it."""
_SIGINT: Final = int(_signal.SIGINT)


class LoneNode:
    """Hosts the log of a data directory without a reactor; the owner of its replica (`ReplicaOwner`).

    Any thread may call it. Whatever changes the log is done in `rounds`, by one thread at a time.
    """

    def __init__(
        self,
        files: Files,
        path: str,
        *,
        node_name: str,
        cluster_name: str,
        segment_size: int,
        reserve_size: int,
        retention: Retention,
        wall: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
        rng: random.Random | None = None,
    ) -> None:
        """Lock the directory, open its log or make one, and lead.

        Raises:
            DirectoryInUseError: A node or another process has it.
            DataDirectoryError: It is of a node that has others, or cannot be used.
            DamageError: Acknowledged data is damaged; nothing was modified.
        """
        self.path = path  # the data directory; fixed
        self._process = os.getpid()  # the process that may use it; fixed
        self._monotonic = monotonic  # seconds that only rise; fixed
        self._rng = rng or random.SystemRandom()  # makes uuids and what Raft draws; fixed
        self.is_ending = False  # True from `close` or a failure on: nothing new is begun
        self._failure: BaseException | None = None  # why nothing more can be written, once that is so
        # Told when more is readable, or when nothing more will be; swapped as a whole, under the lock.
        self._watchers: tuple[Callable[[], object], ...] = ()
        self._watching = threading.Lock()  # held while the watchers are swapped
        self._turns = Turns(monotonic)  # the work that the replica asks for; done by who works on requests
        self._tick_due = monotonic()  # when the core's next tick is due; moved by each
        self._look_due = monotonic()  # when the next look at a full disk and at what is to be trimmed is due
        self.rounds = Rounds(self._work)  # has one thread at a time work on requests; fixed
        # The directory, locked until `close` or a failure.
        self._directory = DataDirectory.lock(
            files, path, segment_size=segment_size, reserve_size=reserve_size
        )
        try:
            if self._directory.is_empty:
                self._create(node_name, cluster_name, retention, int(wall() * MICROSECONDS))
            opened = self._open(files)
        except BaseException:
            self._directory.undo()
            raise
        # The log and its core, as a node has them; fixed.
        self.replica = self._host(files, opened, wall)
        self.log = self.replica.log  # the files; fixed, read by any thread
        # Joins small requests of one round; empty between rounds.
        self._coalescer = Coalescer(self._propose, self._turns.soon)
        try:
            self._check_alone()
            self.rounds.exclusively(self.replica.start)
            self.check()
        except BaseException:
            self._let_go()
            raise

    def _create(self, node_name: str, cluster_name: str, retention: Retention, now: int) -> None:
        identity = DiskIdentity(
            cluster_uuid=self._rng.randbytes(UUID_SIZE),
            disk_uuid=self._rng.randbytes(UUID_SIZE),
            cluster_name=cluster_name,
            node_name=node_name,
        )
        self._directory.create(identity, begin=beginning(node_name, identity.disk_uuid, retention, now))

    def _open(self, files: Files) -> LogRepair:
        self._directory.check_finished()
        if knows_others(files, self._directory, DEFAULT_GROUP):
            raise self._not_alone()
        opened = LogRepair(files, self._directory, DEFAULT_GROUP)
        opened.open_log()
        return opened

    def _host(self, files: Files, opened: LogRepair, wall: Callable[[], float]) -> Replica:
        turns, identity = self._turns, self._directory.identity
        queue = TurnQueue(turns)
        return Replica(
            self,
            opened,
            options=ReplicaOptions(
                node_name=identity.node_name,
                disk_uuid=identity.disk_uuid,
                data_dir=self.path,
                raft=ALONE,
                scrub_rate=0,
                metrics=NO_METRICS,
            ),
            files=files,
            clocks=Clocks(turns, turns.soon, turns.later, wall, self._monotonic),  # type: ignore[arg-type]
            rng=self._rng,
            disk=queue,
            readers=queue,
        )

    def _check_alone(self) -> None:
        """Raise when others are members: they may have committed what is not here."""
        if has_others(self.replica.configuration, self.replica.node_name):
            raise self._not_alone()
        if not self.replica.configuration.members:
            raise DataDirectoryError(f"{self.path} is of a node that has not joined its cluster yet")

    def _not_alone(self) -> DataDirectoryError:
        return DataDirectoryError(
            f"{self.path} is of node {self._directory.identity.node_name!r} of a cluster of several; "
            f"start that node and connect to it, or read the directory with `loghouse.open_reader`"
        )

    # --- life -----------------------------------------------------------------------------

    def close(self) -> None:
        """Close the log clean and let the directory go; whoever follows it gets ClosedError."""
        if self.is_ending or os.getpid() != self._process:
            return
        self.rounds.exclusively(self._close)
        self._tell_watchers()

    def _close(self) -> None:
        if self.is_ending:
            return
        self.is_ending = True
        self.replica.stop()
        self._turns.run()
        self.log.close()
        self._directory.close()

    def _let_go(self) -> None:
        """Let the directory go as the end of a process does: nothing more is written."""
        self.is_ending = True
        self._directory.close()

    def check_process(self) -> None:
        """Raise ClientUseError in a forked child of the process that opened the log."""
        if os.getpid() != self._process:
            raise ClientUseError(
                "this log was opened by the parent process; open it here once that one has closed it"
            )

    def check(self) -> None:
        """Raise when the log cannot be used any more.

        Raises:
            ClosedError: It is closed.
            ClientUseError: This is a forked child of the process that opened it.
            StorageError: The disk failed, or a write was interrupted.
        """
        self.check_process()
        refusal = self._refusal
        if refusal is not None:
            raise refusal

    # --- work, by one thread at a time -----------------------------------------------------

    def settle(self, request: Request) -> int:
        """Have a request carried out; return the offset of its first record once it is durable.

        Raises:
            DiskFullError, ExpectOffsetError, ...: Nothing was appended.
            OutcomeUnknownError: The disk failed meanwhile.
        """
        self.check()
        with _WithoutInterrupts():
            self.rounds.settle(request)
        return request.result()

    def order_cursor(self, order: CursorOrder) -> CursorPage:
        """Have something about a cursor done; return what is told of it once that is durable.

        Whoever has the directory may change every cursor in it.

        Raises:
            CursorHeldError, CursorFencedError, ...: Nothing was done.
            As `settle`.
        """
        self.check()
        order = replace(order, is_admin=True)
        told: list[CursorPage] = []
        refusals: list[BaseException] = []

        def carry_out() -> None:
            self.replica.cursors.carry_out(order, told.append, refusals.append)
            self._turns.run()

        with _WithoutInterrupts():
            self.rounds.exclusively(carry_out)
        if refusals:
            raise refusals[0]
        if not told:
            raise self._left_over()
        return told[0]

    def _work(self, requests: list[Request]) -> None:
        try:
            if not self.is_ending:
                self._pass_time()
            for request in requests:
                if self._refusal is not None:
                    request.failed(self._refusal)
                elif isinstance(request, Errand):
                    request.run()
            self._begin([request for request in requests if not request.is_settled])
            self._turns.run()
        except BaseException as error:
            self.fatal(error)
            if not isinstance(error, Exception):
                raise
        finally:
            for request in requests:
                if not request.is_settled:
                    request.failed(self._left_over())

    @property
    def _refusal(self) -> LoghouseError | None:
        """Why nothing more can be asked, None while it can."""
        if isinstance(self._failure, StorageError):
            return self._failure
        if self._failure is not None:
            why = str(self._failure) or type(self._failure).__name__
            return DiskFailedError(f"{self.path}: a write was interrupted ({why}); open the log again")
        if self.is_ending:
            return ClosedError(f"{self.path}: the log is closed; nothing was appended")
        return None

    def _begin(self, requests: list[Request]) -> None:
        if len(requests) == 1:
            request = requests[0]
            self._propose(request.proposal, request.outcome, request.failed)
            return
        coalescer = self._coalescer
        for request in requests:
            if request.may_share:
                coalescer.add("", request)
            else:
                coalescer.submit_alone(request, request.proposal)
        coalescer.flush()

    def _propose(self, proposal: Proposal, appended: OnAppended, failed: OnFailed) -> None:
        if proposal.kind == EntryKind.RECORDS:
            self.replica.propose(proposal, appended, failed)
        else:  # a trim has room kept for it, and gives more
            self.replica.member().propose(proposal, appended, failed)

    def _pass_time(self) -> None:
        """Do what a node does ten times a second, and once a second; at once while the disk is full."""
        now = self._monotonic()
        if now >= self._tick_due:
            self._tick_due = now + TICK_SECONDS
            self.replica.tick()
        if now >= self._look_due or not self.replica.is_writable:
            self._look_due = now + LOOK_SECONDS
            self.replica.disk_room.look()
            self._turns.run()

    def _left_over(self) -> BaseException:
        """Why a request has no outcome though there is nothing left to do."""
        if self._failure is not None:
            return OutcomeUnknownError(f"{self.path}: {self._failure}")
        return DiskFullError(self.path)

    # --- reading, by any thread --------------------------------------------------------------

    @property
    def driver(self) -> RaftDriver:
        """What runs the core; the log is checked to be usable.

        Raises:
            As `check`.
        """
        self.check()
        driver = self.replica.driver
        if driver is None:  # another one follows it this moment
            self.rounds.exclusively(lambda: None)
            driver = self.replica.member()
        return driver

    def watch(self, watcher: Callable[[], object]) -> Callable[[], None]:
        """Call `watcher` whenever more is readable, or nothing more will be; return what ends that."""
        with self._watching:
            self._watchers += (watcher,)

        def end() -> None:
            with self._watching:
                self._watchers = tuple(one for one in self._watchers if one is not watcher)

        return end

    def _tell_watchers(self) -> None:
        for watcher in self._watchers:
            watcher()

    # --- what the replica asks and tells (`replica.ReplicaOwner`) ------------------------------

    def send_raft(self, envelope: Envelope) -> None:
        """Drop a message: nobody is there."""

    def send(self, name: str, message: Message) -> bool:
        """Say that a message was not sent."""
        return False

    def role_changed(self, state: SoftState) -> None:
        """Role, leader or term are others now."""

    def readable_to(self, next_offset: int) -> None:
        """Every record below `next_offset` is readable here."""
        if self._watchers:
            self._tell_watchers()

    def fatal(self, error: BaseException) -> None:
        """Nothing more can be written; the directory is let go as by a process that ends."""
        if self._failure is None:
            self._failure = error
            if hasattr(self, "replica"):
                self.replica.stop()
            self._let_go()
            self._tell_watchers()


class _WithoutInterrupts:
    """Holds Ctrl-C back while this thread writes, if it is the one that gets it.

    By the functions below those of `signal`, which make enums of what they return. See docs/tricks.md.
    """

    __slots__ = ("_before", "_came")

    def __enter__(self) -> None:
        self._came: list[tuple[int, FrameType | None]] = []
        self._before: Any = None
        if threading.current_thread() is threading.main_thread():
            self._before = _signal.getsignal(_SIGINT)
            if callable(self._before):
                _signal.signal(_SIGINT, lambda number, frame: self._came.append((number, frame)))

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        if callable(self._before):
            _signal.signal(_SIGINT, self._before)
            if self._came:
                self._before(*self._came[0])
