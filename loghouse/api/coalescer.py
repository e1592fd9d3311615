"""Single records that arrive together share one entry.

An entry costs a header, a checksum, a turn of consensus and a part of a sync; most of that is the same for
one record and for sixty-four. Records of one loop turn are proposed together at its end. grpc hands over
about one call a turn, so that alone would share little: while `ENTRIES_MAX` entries are under way, records
gather until one of them is durable. They would wait for the disk anyway.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Any, Final

from twisted.internet.defer import maybeDeferred
from twisted.python.failure import Failure

from loghouse.api.v1.log_pb2 import Record, RecordBatch
from loghouse.limits import PAYLOAD_SIZE_MAX, RECORDS_PER_BATCH_MAX
from loghouse.node_api import Appended, NodeLike, Proposal

ENTRIES_MAX: Final = 1
"""Entries under way before records gather. With a second one behind it entries get smaller, calls fewer."""

_RECORD_OVERHEAD: Final = 6  # a tag and a length of at most five bytes before each record in a batch


@dataclass(slots=True)
class _Gathering:
    """Records on their way to one entry, in the order they came; `size` bounds the payload from above."""

    records: list[Any] = field(default_factory=list)
    answers: list[asyncio.Future[int]] = field(default_factory=list)
    size: int = 0


class Coalescer:
    """Gathers records and proposes them in as few entries as fit.

    Records of one subject keep their order. Subjects do not share: a proposal carries the one it is for.
    """

    def __init__(self, node: NodeLike) -> None:
        self._node = node
        self._gatherings: dict[str, _Gathering] = {}
        self._under_way = 0
        self._is_scheduled = False

    def add(self, subject: str, record: Record, size: int) -> asyncio.Future[int]:
        """Take a checked record of `size` bytes; the future gives its offset once it is durable.

        Cancelling the future takes the record back only as long as it is not proposed.
        """
        gathering = self._gatherings.get(subject)
        if gathering is not None and (
            gathering.size + size + _RECORD_OVERHEAD > PAYLOAD_SIZE_MAX
            or len(gathering.records) >= RECORDS_PER_BATCH_MAX
        ):
            self._propose(subject, gathering)
            gathering = None
        if gathering is None:
            gathering = self._gatherings[subject] = _Gathering()
        answer: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        gathering.records.append(record)
        gathering.answers.append(answer)
        gathering.size += size + _RECORD_OVERHEAD
        self._schedule()
        return answer

    def flush(self) -> None:
        """Propose everything gathered, however much is under way."""
        gatherings, self._gatherings = self._gatherings, {}
        for subject, gathering in gatherings.items():
            self._propose(subject, gathering)

    def _schedule(self) -> None:
        if self._gatherings and not self._is_scheduled and self._under_way < ENTRIES_MAX:
            self._is_scheduled = True
            asyncio.get_running_loop().call_soon(self._end_turn)

    def _end_turn(self) -> None:
        self._is_scheduled = False
        self.flush()

    def _propose(self, subject: str, gathering: _Gathering) -> None:
        kept = [
            (record, answer)
            for record, answer in zip(gathering.records, gathering.answers, strict=True)
            if not answer.done()
        ]
        if not kept:
            return
        answers = [answer for _, answer in kept]
        payload = RecordBatch(records=[record for record, _ in kept]).SerializeToString()
        proposal = Proposal(payload=payload, record_count=len(kept), subject=subject)

        def succeed(appended: Appended) -> None:
            self._end_entry()
            for place, answer in enumerate(answers):
                if not answer.done():
                    answer.set_result(appended.base_offset + place)

        def fail(failure: Failure) -> None:
            self._end_entry()
            assert failure.value is not None
            for answer in answers:
                if not answer.done():
                    answer.set_exception(failure.value)

        self._under_way += 1
        maybeDeferred(self._node.propose, proposal).addCallbacks(succeed, fail)

    def _end_entry(self) -> None:
        self._under_way -= 1
        self._schedule()
