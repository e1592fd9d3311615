"""Reads on a simulated node: a hit at once, a miss only after the leader confirmed where the end is."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from loghouse.errors import DamageError, OffsetOutOfRangeError, RequestError, UnavailableError
from loghouse.protocol.entry import decode_entry
from loghouse.raft.ready import ReadState
from loghouse.testing.workload import Answer

if TYPE_CHECKING:
    from loghouse.testing.node import SimNode


class PendingReads:
    """The reads of one node that wait: for the leader's answer, then for their index to be published here."""

    def __init__(self, node: SimNode) -> None:
        self._node = node
        self._asked: dict[int, Callable[[int | None], None]] = {}
        self._behind: list[tuple[int, Callable[[], None]]] = []

    def read(self, offset: int, answer: Answer) -> None:
        """Answer the entry at `offset`, or `OffsetOutOfRangeError` once that is certain."""
        if not self._serve(offset, answer):
            self._confirm(lambda: self._serve_or_miss(offset, answer), answer)

    def tail(self, answer: Answer) -> None:
        """Answer the next offset."""
        self._confirm(lambda: answer(self._node.published_offset), answer)

    def _serve(self, offset: int, answer: Answer) -> bool:
        node = self._node
        log = node.log
        assert log is not None
        if offset < node.lowest_offset:
            answer(OffsetOutOfRangeError(offset, node.lowest_offset, node.published_offset))
            return True
        try:
            frames, _ = log.read(offset, 1, node.published_index)
        except OffsetOutOfRangeError as error:
            node.cluster.oracle.not_held(node.member, offset)
            answer(error)
            return True
        except DamageError as error:
            answer(UnavailableError(str(error)))
            return True
        if not frames:
            return False
        entry = decode_entry(log.seed, frames)
        node.cluster.oracle.served(node.member, offset, entry)
        answer(entry)
        return True

    def _serve_or_miss(self, offset: int, answer: Answer) -> None:
        if not self._serve(offset, answer):
            answer(OffsetOutOfRangeError(offset, self._node.lowest_offset, self._node.published_offset))

    def _confirm(self, then: Callable[[], None], answer: Answer) -> None:
        """Do something once everything acknowledged before now is published here."""
        raft = self._node.raft
        assert raft is not None
        try:
            id_ = raft.read_index()
        except RequestError as error:
            answer(error)
            return

        def confirmed(index: int | None) -> None:
            if index is None:
                answer(UnavailableError("no leader confirmed the read; try again"))
            elif index <= self._node.published_index:
                then()
            else:
                self._behind.append((index, then))

        self._asked[id_] = confirmed

    def answered(self, read_states: tuple[ReadState, ...]) -> None:
        """Take the core's answers."""
        for state in read_states:
            self._asked.pop(state.id)(state.index)

    def published(self, index: int) -> None:
        """Go on with the reads that waited for this index."""
        if self._behind:
            due = [then for at, then in self._behind if at <= index]
            self._behind = [(at, then) for at, then in self._behind if at > index]
            for then in due:
                then()
