"""What clients asked and were told, stamped in the order it happened.

Stamps come from a counter, so no two are equal and every interval has a length.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from itertools import count

from loghouse.protocol.entry import Entry, EntryKind
from loghouse.testing.linearizability import (
    NEVER,
    AppendOp,
    Operation,
    ReadHit,
    ReadMiss,
    TailOp,
    check_history,
)


class Outcome(Enum):
    """What a client knows of its append. REFUSED: certainly not appended by any attempt."""

    UNKNOWN = "unknown"
    ACKNOWLEDGED = "acknowledged"
    REFUSED = "refused"


@dataclass(slots=True)
class Written:
    """One batch a client wanted in the log, over all its attempts. Its payload is like no other's."""

    invoked: int
    payload: bytes
    record_count: int
    producer_id: int = 0
    producer_sequence: int = 0
    expect_offset: int | None = None
    returned: float = NEVER
    outcome: Outcome = Outcome.UNKNOWN
    base_offset: int = -1


class Observations:
    """What clients read, stamped in the order it happened; also for many threads."""

    def __init__(self) -> None:
        self._stamps = count(1)
        self.reads: list[ReadHit | ReadMiss | TailOp] = []

    def stamp(self) -> int:
        """Return the next moment."""
        return next(self._stamps)

    def hit(self, invoked: int, offset: int) -> None:
        """Note that a read was given a record."""
        self.reads.append(ReadHit(invoked, self.stamp(), offset))

    def miss(self, invoked: int, offset: int) -> None:
        """Note that a read was told that there is no such record yet."""
        self.reads.append(ReadMiss(invoked, self.stamp(), offset))

    def tail(self, invoked: int, next_offset: int) -> None:
        """Note an answer to the question for the next offset."""
        self.reads.append(TailOp(invoked, self.stamp(), next_offset))


class History(Observations):
    """Records operations; `problems` judges them against the final log."""

    def __init__(self) -> None:
        super().__init__()
        self.written: list[Written] = []

    def write(
        self,
        payload: bytes,
        record_count: int,
        producer_id: int = 0,
        producer_sequence: int = 0,
        expect_offset: int | None = None,
    ) -> Written:
        """Note that a client begins to append a batch."""
        op = Written(self.stamp(), payload, record_count, producer_id, producer_sequence, expect_offset)
        self.written.append(op)
        return op

    def acknowledge(self, op: Written, base_offset: int) -> None:
        """Note that the append was acknowledged at an offset."""
        op.returned = self.stamp()
        op.outcome = Outcome.ACKNOWLEDGED
        op.base_offset = base_offset

    def refuse(self, op: Written) -> None:
        """Note that the client was told: certainly not appended."""
        op.outcome = Outcome.REFUSED

    def problems(self, log: Sequence[Entry]) -> list[str]:
        """Return everything that the whole committed log, from its first entry ever, says is wrong."""
        problems = _offset_problems(log) + _sequence_problems(log)
        place: dict[bytes, Entry] = {}
        for entry in log:
            if entry.kind == EntryKind.RECORDS:
                payload = bytes(entry.payload)
                if payload in place:
                    problems.append(
                        f"{payload!r} is twice in the log: entries {place[payload].index}, {entry.index}"
                    )
                place[payload] = entry
        operations: list[Operation] = list(self.reads)
        for op in self.written:
            entry_of_op = place.pop(op.payload, None)
            problem = _written_problem(op, entry_of_op)
            if problem:
                problems.append(problem)
            if entry_of_op is not None:
                base_offset = entry_of_op.base_offset
                operations.append(AppendOp(op.invoked, op.returned, base_offset, entry_of_op.record_count))
        problems += [f"{payload!r} is in the log, but nobody wrote it" for payload in place]
        if not problems:
            problem = check_history(operations)
            if problem:
                problems.append(f"not linearizable: {problem}")
        return problems


def _written_problem(op: Written, entry: Entry | None) -> str:
    if entry is None:
        if op.outcome == Outcome.ACKNOWLEDGED:
            return f"{op.payload!r} was acknowledged at offset {op.base_offset}, but is not in the log"
        return ""
    if op.outcome == Outcome.REFUSED:
        return f"{op.payload!r} was refused, but is in the log at offset {entry.base_offset}"
    if op.outcome == Outcome.ACKNOWLEDGED and op.base_offset != entry.base_offset:
        return f"{op.payload!r} was acknowledged at offset {op.base_offset}, but is at {entry.base_offset}"
    if op.expect_offset not in (None, entry.base_offset):
        return f"{op.payload!r} was to be at offset {op.expect_offset} or nowhere, is at {entry.base_offset}"
    if op.record_count != entry.record_count:
        return f"{op.payload!r} has {entry.record_count} records in the log, {op.record_count} were written"
    return ""


def _offset_problems(log: Sequence[Entry]) -> list[str]:
    problems = []
    next_offset = 0
    for index, entry in enumerate(log, 1):
        if entry.index != index:
            problems.append(f"entry {entry.index} stands where {index} belongs")
        if entry.base_offset != next_offset:
            problems.append(
                f"entry {entry.index} has base offset {entry.base_offset}, expected {next_offset}"
            )
        next_offset = entry.base_offset + entry.record_count
    return problems


def _sequence_problems(log: Sequence[Entry]) -> list[str]:
    """Each (producer, sequence) at most once, and without gap: sequences count the producer's batches."""
    problems = []
    expected: dict[int, int] = {}
    for entry in log:
        if entry.kind == EntryKind.RECORDS and entry.producer_id:
            sequence = expected.get(entry.producer_id, 0)
            if entry.producer_sequence != sequence:
                problems.append(
                    f"entry {entry.index}: producer {entry.producer_id} has sequence "
                    f"{entry.producer_sequence} where {sequence} belongs"
                )
            expected[entry.producer_id] = entry.producer_sequence + 1
    return problems
