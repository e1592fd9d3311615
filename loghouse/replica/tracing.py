"""Spans of an entry on its leader: replicate, and in it sync and commit. See `docs/tracing.md`.

the first span that asks for it
  replicate            from the proposal to its outcome
    sync               until this node's disk has it; other entries share that
    commit             from there until a majority has it
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from loghouse.errors import OutcomeUnknownError
from loghouse.raft.ready import Ticket
from loghouse.replica.api import Appended, OnAppended, OnFailed, Proposal
from loghouse.replica.coalescing import Coalescer, Share
from loghouse.replica.driver import RaftDriver
from loghouse.runtime.scheduling import Cancellable
from loghouse.tracing.spans import Span, Tracer, end


@dataclass(slots=True, kw_only=True)
class TracedProposal(Proposal):
    """A proposal, and the spans of those who ask for it: at least one."""

    spans: tuple[Span, ...] = ()


def traced(proposal: Proposal, spans: Sequence[Span]) -> TracedProposal:
    """Return a proposal with the spans of those who ask for it."""
    return TracedProposal(
        payload=proposal.payload,
        record_count=proposal.record_count,
        kind=proposal.kind,
        attributes=proposal.attributes,
        payload_crc=proposal.payload_crc,
        producer_id=proposal.producer_id,
        producer_sequence=proposal.producer_sequence,
        subject=proposal.subject,
        expect_offset=proposal.expect_offset,
        cursor=proposal.cursor,
        spans=tuple(spans),
    )


class TracedCoalescer(Coalescer):
    """A coalescer whose entries have the spans of the batches in them (`span` of a share, or None)."""

    def _hand_over(
        self, shares: list[Share], proposal: Proposal, counted: int, began: float
    ) -> Cancellable | None:
        spans = [span for share in shares if (span := getattr(share, "span", None)) is not None]
        if spans:
            proposal = traced(proposal, spans)
        return super()._hand_over(shares, proposal, counted, began)


class TracedEntry:
    """The spans of one entry, from its proposal to its outcome."""

    def __init__(self, tracer: Tracer, proposal: TracedProposal) -> None:
        self._tracer = tracer  # fixed
        first, *others = proposal.spans
        size = {"loghouse.records": proposal.record_count, "loghouse.bytes": len(proposal.payload)}
        # From the proposal to its outcome.
        self._replicate = tracer.begin("replicate", first, attributes=size, also=others)
        self._sync: Span | None = None  # from `at_disk` to `durable`
        self._commit: Span | None = None  # from `durable` to the outcome
        self._is_over = False  # there was an outcome

    def at_disk(self) -> None:
        """The disk has it to write, or has it again."""
        if self._sync is None:
            self._sync = self._tracer.begin("sync", self._replicate)

    def durable(self) -> None:
        """It is on this node's disk."""
        if self._sync is not None:
            end(self._sync)
        if not self._is_over:
            self._commit = self._tracer.begin("commit", self._replicate)

    def appended(self, appended: Appended) -> None:
        """A majority has it. When the others were faster than this node's disk, `commit` takes no time."""
        end(self._commit or self._tracer.begin("commit", self._replicate))
        self._replicate.set_attribute("loghouse.index", appended.index)
        self._replicate.set_attribute("loghouse.term", appended.term)
        self._end(None)

    def failed(self, error: BaseException) -> None:
        """It was not appended, or nobody knows."""
        if self._commit is not None:
            end(self._commit, error)
        self._end(error)

    def lost(self) -> None:
        """Nobody will tell any more when the disk has it."""
        if self._sync is not None:
            end(self._sync, OutcomeUnknownError("the node stopped meanwhile"))

    def _end(self, error: BaseException | None) -> None:
        self._is_over = True
        end(self._replicate, error)


class TracedDriver(RaftDriver):
    """A driver that makes spans of the proposals that come with some."""

    def __init__(self, *args: Any, tracer: Tracer, **fields: Any) -> None:
        super().__init__(*args, **fields)
        self._tracer = tracer  # fixed
        self._proposed: TracedEntry | None = None  # the entry that `propose` is about, until it has an index
        self._traced: dict[int, TracedEntry] = {}  # the entries that this disk does not have yet, by index

    def propose(self, proposal: Proposal, appended: OnAppended, failed: OnFailed) -> None:
        """See `RaftDriver.propose`."""
        if not isinstance(proposal, TracedProposal):
            super().propose(proposal, appended, failed)
            return
        entry = self._proposed = TracedEntry(self._tracer, proposal)

        def tell_appended(outcome: Appended) -> None:
            entry.appended(outcome)
            appended(outcome)

        def tell_failed(error: BaseException) -> None:
            entry.failed(error)
            failed(error)

        try:
            super().propose(proposal, tell_appended, tell_failed)
        finally:
            self._proposed = None

    def _wait(self, ticket: Ticket, appended: OnAppended, failed: OnFailed) -> None:
        entry, self._proposed = self._proposed, None
        if entry is not None and not ticket.duplicate:
            self._traced[ticket.index] = entry
        super()._wait(ticket, appended, failed)

    def _run_write(self) -> None:
        if self._traced and not self._is_stopped and self._write is not None:
            for index, entry in self._traced.items():
                if index <= self._write.last_index:
                    entry.at_disk()
        super()._run_write()

    def _written(self, outcome: None) -> None:
        if self._traced and self._write is not None:
            last_index = self._write.last_index
            for index in [index for index in self._traced if index <= last_index]:
                self._traced.pop(index).durable()
        super()._written(outcome)

    def stop(self) -> None:
        """See `RaftDriver.stop`."""
        super().stop()
        for entry in self._traced.values():
            entry.lost()
        self._traced.clear()
