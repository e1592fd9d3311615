"""Appends on their way to the disks of a majority, shared out by subject.

The leader counts here what it proposed for whom, also for other nodes that pass requests on: there a subject
could otherwise have its share of every server.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

from loghouse.errors import ResourceExhaustedError
from loghouse.limits import PROPOSALS_MAX, Quota
from loghouse.replica.api import Appended, OnAppended, OnFailed, Proposal
from loghouse.shares import Ledger

Propose: TypeAlias = Callable[[Proposal, OnAppended, OnFailed], None]


class UnderWay:
    """Proposals that are not settled, in bytes; three quarters of all for one subject.

    A small one counts for its part of `PROPOSALS_MAX`, so that their number is shared out, too.

    Args:
        size_max: Bytes that may be under way in all.
    """

    def __init__(self, size_max: int) -> None:
        self.ledger = Ledger(Quota("bytes of appends under way", 0, 0))
        self.resize(size_max)

    def resize(self, size_max: int) -> None:
        """Let so many bytes be under way from now on; those that are beyond it go on."""
        self._size_min = max(1, size_max // PROPOSALS_MAX)
        self.ledger.quota = self.ledger.quota._replace(total=size_max, share=size_max * 3 // 4)

    def propose(self, propose: Propose, proposal: Proposal, appended: OnAppended, failed: OnFailed) -> None:
        """Propose, and count until one of the two was called; `failed` is when there is no room."""
        ledger, subject = self.ledger, proposal.subject
        size = max(len(proposal.payload), self._size_min)
        # One alone may be larger than the share of a small node.
        size = min(size, ledger.quota.share)
        try:
            ledger.take(subject, size)
        except ResourceExhaustedError as error:
            failed(error)
            return

        def settled(result: Appended) -> None:
            ledger.give_back(subject, size)
            appended(result)

        def lost(error: BaseException) -> None:
            ledger.give_back(subject, size)
            failed(error)

        propose(proposal, settled, lost)
