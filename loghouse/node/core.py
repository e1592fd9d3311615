"""The consensus core of a node's log: made from what the log holds, with the driver that runs it."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

from twisted.python.failure import Failure

from loghouse.metrics import Metrics
from loghouse.node.options import Clocks
from loghouse.protocol.entry import DEFAULT_GROUP
from loghouse.raft.config import RaftConfig
from loghouse.raft.core import Raft
from loghouse.raft.ready import Damage
from loghouse.replica.driver import DriverOwner, RaftDriver
from loghouse.replica.read_ahead import ReadAhead
from loghouse.runtime.threads import WorkQueue
from loghouse.storage.log import Log


def make_driver(
    log: Log,
    id_: int,
    owner: DriverOwner,
    *,
    config: RaftConfig,
    damage: Damage | None,
    clocks: Clocks,
    rng: random.Random,
    disk: WorkQueue,
    readers: WorkQueue,
    read_failed: Callable[[Failure], Any],
    metrics: Metrics,
) -> RaftDriver:
    """Return the driver of a new core over a log; `start` it.

    Args:
        id_: Which member of the group the core is.
        owner: Whom the driver tells what happens.
        damage: What the log once held, while it is being repaired from the leader.
        rng: Makes election timeouts.
        disk: The thread that writes.
        readers: Threads for what may wait for a disk.
        read_failed: Turns why a read failed into what the reader is told.
        metrics: Told why messages were ignored.
    """
    # The disk of a lone voter is the majority: all it holds is committed, also what was written behind
    # the last watermark. It must be readable even if there is no room now for an entry of a new term.
    is_lone = log.state.configuration.voters == {id_} and damage is None
    read_ahead = ReadAhead(log, readers, read_failed, scheduler=clocks.scheduler)
    raft = Raft(
        config,
        id=id_,
        group=DEFAULT_GROUP,
        seed=log.seed,
        reader=read_ahead,
        hard_state=log.hard_state,
        rng=rng,
        commit_index=log.last_index if is_lone else log.commit_index,
        damage=damage,
        now=int(clocks.wall() * 1_000_000),
        metrics=metrics,
    )
    return RaftDriver(
        raft,
        log,
        disk=disk,
        soon=clocks.soon,
        later=clocks.later,
        wall=clocks.wall,
        owner=owner,
        read_ahead=read_ahead,
    )
