"""Copies that belong elsewhere by now: kept until the log's group has no member here, for good.

    the catalogue places the log without this node  -- now and then -->  a node that has the log is asked
    its committed configuration has no member here  -- answer -->        `released`: the files are given back

Either alone is not enough. What should be is not yet so: until its group is rid of it, the copy counts for a
majority. And the catalogue may want it here again. The copy itself cannot tell: whoever removed its member
sends it nothing more.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from functools import partial
from typing import Final, Protocol

from twisted.internet.defer import Deferred
from twisted.logger import Logger

from loghouse.catalogue.records import CataloguedLog
from loghouse.errors import RequestError
from loghouse.node.forwarding import AdminOrder, AdminResult
from loghouse.protocol.forward_messages import AdminOperation

ASK_SECONDS: Final = 2.0
"""How long it is left alone after an answer."""
ASKED_AT_ONCE_MAX: Final = 16


class Asking(Protocol):
    """The way to other nodes (`forwarding.Forwarder`)."""

    def administer(self, leader_name: str, group: int, order: AdminOrder) -> Deferred[AdminResult]:
        """Have a node carry out an order."""


class Releases:
    """Asks for each log here that is placed elsewhere whether its group still has a member here."""

    logger = Logger()

    def __init__(self, node_name: str, released: Callable[[int], None]) -> None:
        """Ask nothing yet; `released` is called with a group that has no member here."""
        self._node_name = node_name  # this node; fixed
        self._released = released  # fixed
        self._asking: set[int] = set()  # the groups of which somebody was asked and has not answered
        self._due: dict[int, float] = {}  # when the next one is asked of each group
        self._turn = 0  # whom of those that have a log; rises with each question

    def look(self, now: float, logs: Collection[CataloguedLog], others: Asking) -> None:
        """Ask for these logs, each now and then; called every second. `now` only rises."""
        groups = {log.group for log in logs}
        self._due = {group: due for group, due in self._due.items() if group in groups}
        for log in logs:
            if len(self._asking) >= ASKED_AT_ONCE_MAX:
                return
            if log.group not in self._asking and now >= self._due.get(log.group, now):
                self._due[log.group] = now + ASK_SECONDS
                self._ask(log, others)

    def _ask(self, log: CataloguedLog, others: Asking) -> None:
        self._asking.add(log.group)
        order = AdminOrder(operation=AdminOperation.HAS_LEFT, name=self._node_name, number=log.next_member)
        self._turn += 1
        asked = others.administer(log.nodes[self._turn % len(log.nodes)], log.group, order)
        asked.addBoth(self._answered, log.group)
        asked.addCallbacks(
            partial(self._take, log.group), lambda failure: failure.trap(RequestError) and None
        )
        asked.addErrback(lambda failure: self.logger.failure("giving a copy back", failure))

    def _answered(self, outcome: object, group: int) -> object:
        self._asking.discard(group)
        return outcome

    def _take(self, group: int, answer: AdminResult) -> None:
        if answer.number:
            self._released(group)
