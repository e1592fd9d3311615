"""What the replicas of one node share, in place of a bound for each: many logs cost no more than one may."""

from __future__ import annotations

from dataclasses import dataclass

from loghouse.limits import CACHES_SIZE_MAX, CATCH_UP_RATE, COLD_READ_RATE_DEFAULT
from loghouse.raft.config import RaftConfig
from loghouse.replica.cold_reads import ColdReads
from loghouse.replica.under_way import UnderWay
from loghouse.shares import Budget, Pace


@dataclass(frozen=True, slots=True)
class Budgets:
    """One for all replicas of a node.

    `under_way` counts appends until they are settled, `caches` the entries kept in memory for followers close
    behind. The others are how fast is read: `cold_reads` what is far behind, for clients, `catch_up` for
    followers far behind, `scrubbing` sealed segments, in seconds at the configured rate.
    """

    under_way: UnderWay
    caches: Budget
    cold_reads: ColdReads
    catch_up: Pace
    scrubbing: Pace

    @classmethod
    def for_node(cls, raft: RaftConfig, *, cold_read_rate: int = COLD_READ_RATE_DEFAULT) -> Budgets:
        """Return the budgets of a node whose logs have these bounds."""
        return cls(
            UnderWay(raft.proposals_size_max),
            Budget(CACHES_SIZE_MAX),
            ColdReads(cold_read_rate),
            Pace(CATCH_UP_RATE),
            Pace(1.0),
        )
