"""Appends whose outcome is not known yet, and who is told of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from loghouse.errors import LoghouseError, OutcomeUnknownError, UnavailableError
from loghouse.raft.ready import Ticket
from loghouse.replica.api import Appended, OnAppended, OnFailed
from loghouse.runtime.events import Logger


@dataclass(slots=True)
class _Waiting:
    """Someone who proposed, and the place of the proposal."""

    ticket: Ticket
    appended: OnAppended
    failed: OnFailed


class Unsettled:
    """The appends of one driver that wait for their outcome. Each is told once: appended, or why not."""

    logger = Logger()

    def __init__(self) -> None:
        self._waiting: dict[int, list[_Waiting]] = {}  # by the index that the leader gave them
        self._committed_term = 0  # of the last entry seen committed since the start; never falls

    @property
    def is_empty(self) -> bool:
        """Whether nobody waits."""
        return not self._waiting

    def add(self, ticket: Ticket, appended: OnAppended, failed: OnFailed) -> None:
        """Wait for what becomes of a proposal; calls one of the two, once."""
        self._waiting.setdefault(ticket.index, []).append(_Waiting(ticket, appended, failed))

    def committed(self, index: int, term: int, timestamp: int) -> None:
        """Tell who is settled by an entry that is committed."""
        self._settle_older(term)
        for waiting in self._waiting.pop(index, ()):
            if waiting.ticket.term == term:
                self._tell(waiting.appended, Appended.by(waiting.ticket, timestamp))
            else:
                self._tell(waiting.failed, _replaced())

    def skipped(self, index: int, term: int) -> None:
        """A snapshot replaced the log up to `index`: nobody can tell what became of appends below."""
        self._fail(
            [place for place in self._waiting if place <= index],
            OutcomeUnknownError("the log moved on without this node"),
        )
        self._settle_older(term)

    def fail(self, error: LoghouseError, *, after: int = 0) -> None:
        """Tell those whose entries are behind `after`, or all, that their appends failed."""
        self._fail([place for place in self._waiting if place > after], error)

    def _settle_older(self, term: int) -> None:
        """An entry of `term` is committed: what older terms wanted behind it never can be.

        Terms never fall in a log. Waiting for the places themselves could take for ever: they may have been
        cut, and nobody may append there.
        """
        if term <= self._committed_term:
            return
        self._committed_term = term
        for index in list(self._waiting):
            waiting = self._waiting.pop(index)
            newer = [one for one in waiting if one.ticket.term >= term]
            if newer:
                self._waiting[index] = newer
            for one in waiting:
                if one.ticket.term < term:
                    self._tell(one.failed, _replaced())

    def _fail(self, places: list[int], error: LoghouseError) -> None:
        failed = [one for place in places for one in self._waiting.pop(place)]
        for one in failed:
            self._tell(one.failed, error)

    def _tell(self, tell: Callable[[Any], object], outcome: Appended | LoghouseError) -> None:
        try:
            tell(outcome)
        except Exception as error:
            # Not the log's concern: the others get their answers.
            self.logger.failure("answering an append", error)


def _replaced() -> UnavailableError:
    return UnavailableError("another leader's entry took this place; nothing was appended, try again")
