"""Small appends that come together share one entry.

An entry costs a header, a checksum, a turn of consensus, a frame to every follower and a part of a sync; most
of that is the same for one record and for sixty-four. So what arrives together is proposed together, and
while such an entry is under way, what arrives gathers until it is durable: it would wait for the disk anyway.
Where calls come one by one and callers are many, a few milliseconds more bring more company still.

Serialized `RecordBatch`es put behind each other are one `RecordBatch`, so joining parses nothing. See ADR 8.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Final, Protocol

from loghouse.limits import JOINED_SIZE_MAX, RECORDS_PER_BATCH_MAX, SHARE_SIZE_MAX
from loghouse.metrics import DoorTally
from loghouse.protocol.entry import Buffer
from loghouse.replica.api import Appended, Proposal, Propose
from loghouse.runtime.scheduling import Cancellable, Later

LINGER_CALLERS_MIN: Final = 6
"""With fewer callers no entry waits for company: they would wait for each other, and gain little by it."""
LINGER_SECONDS_PER_CALLER: Final = 0.00025
LINGER_SECONDS_MAX: Final = 0.016
CALLERS_FORGOTTEN: Final = 1 / 16
"""The part of the callers seen before that each entry takes away at whose end there are fewer."""


def may_share(*, attributes: int, producer_id: int, expect_offset: int | None) -> bool:
    """Whether a batch may share an entry: codec, sequence and expected offset belong to whole entries."""
    return not attributes and not producer_id and expect_offset is None


class Share(Protocol):
    """One caller's checked batch on its way into an entry.

    Exactly one of `appended` and `failed` is called; neither once `is_wanted` is False: then nobody waits,
    and a batch that was not proposed yet is taken back.
    """

    @property
    def payload(self) -> Buffer:
        """A serialized, uncompressed `RecordBatch`; it must not change."""

    @property
    def payload_crc(self) -> int | None:
        """Its CRC32C, if its maker sent one: it goes into the log with a batch that finds no company."""

    @property
    def record_count(self) -> int:
        """How many records it holds."""

    @property
    def is_wanted(self) -> bool:
        """Whether the caller still waits."""

    def appended(self, base_offset: int, timestamp: int) -> None:
        """It is durable: its first record has `base_offset`; `timestamp` in microseconds."""

    def failed(self, error: BaseException) -> None:
        """What became of the entry, as `LogLike.propose` says."""


@dataclass(slots=True)
class _Gathering:
    """Batches on their way to one entry, in the order they came, the first at `began`. `size` in bytes."""

    began: float = 0.0
    shares: list[Share] = field(default_factory=list)
    size: int = 0
    record_count: int = 0

    def has_room(self, size: int, record_count: int) -> bool:
        return (
            self.size + size <= JOINED_SIZE_MAX and self.record_count + record_count <= RECORDS_PER_BATCH_MAX
        )


class Coalescer:
    """Gathers batches and proposes them in as few entries as fit; a server has one for all its callers.

    Batches of one subject keep their order. Subjects do not share: a proposal carries the one it is for.
    """

    def __init__(
        self,
        propose: Propose,
        soon: Callable[[Callable[[], None]], object],
        settled: Callable[[], None] = lambda: None,
        entries_max: int = 1,
        later: Later | None = None,
        tally: DoorTally | None = None,
    ) -> None:
        """Gather for `propose`."""
        self._tally = tally  # counts what became of batches; None when nobody asks for it
        self._append = propose
        self._soon = soon  # runs work at the end of this turn of the reactor
        self._settled = settled  # called whenever the answers to an entry have been given
        # Joined entries under way before batches gather. With more, callers need not all wait for the same
        # disk; where calls come one by one, they only make smaller entries.
        self._entries_max = entries_max
        # The reactor's timers, for a server whose calls come one by one: the more callers there are, the
        # longer an entry waits for company behind the one before it.
        self._later = later
        # How many callers there are: the most that waited at a time, forgotten little by little. An entry
        # alone does not tell: one that is quick to be durable has few, however many calls the door is about
        # to hand over, and would stay quick and small.
        self._callers = 0.0
        self._lingering: Cancellable | None = None  # ends the wait for company; None when none is waited for
        self._is_due = False
        self._gatherings: dict[str, _Gathering] = {}
        self._gathered_count = 0  # batches in all of them
        self._under_way = 0

    def submit(self, subject: str, share: Share) -> None:
        """Take a batch and propose it now, with what gathered before it.

        While entries are under way, or a turn's end is due, it gathers instead: they take it along. Where
        company is waited for, the last of the callers ends that.
        """
        self.add(subject, share)
        if self._is_idle:
            self.flush()
        elif self._lingering is not None and self._gathered_count >= self._callers:
            self._lingering.cancel()
            self._end_turn()

    def submit_alone(self, share: Share, proposal: Proposal) -> Cancellable | None:
        """Propose a batch that may not share, behind what gathered; return what `LogLike.propose` does."""
        self.flush()
        return self._hand_over([share], proposal, 0, self._tally.now() if self._tally is not None else 0.0)

    @property
    def _is_idle(self) -> bool:
        return self._under_way < self._entries_max and not self._is_due

    def add(self, subject: str, share: Share) -> None:
        """Take a batch; `flush_soon` must follow.

        A large one is proposed at once, with what gathered before it.
        """
        size = len(share.payload)
        gathering = self._gatherings.get(subject)
        if gathering is not None and not gathering.has_room(size, share.record_count):
            self._propose_full(subject)
            gathering = None
        if gathering is None:
            began = self._tally.now() if self._tally is not None else 0.0
            gathering = self._gatherings[subject] = _Gathering(began)
        gathering.shares.append(share)
        self._gathered_count += 1
        gathering.size += size
        gathering.record_count += share.record_count
        if size > SHARE_SIZE_MAX or gathering.size >= JOINED_SIZE_MAX:
            self._propose_full(subject)

    def flush_soon(self) -> None:
        """Propose what gathered at the end of this turn of the reactor, with more of what it brings.

        Not while entries are under way: their end does.
        """
        if self._gatherings and self._is_idle:
            self._is_due = True
            self._soon(self._end_turn)

    def _end_turn(self) -> None:
        self._is_due = False
        self._lingering = None
        if self._is_idle:
            self.flush()

    def flush(self) -> None:
        """Propose everything gathered, however much is under way."""
        while self._gatherings:
            subject = next(iter(self._gatherings))
            self._propose(subject, 1)

    def _propose_full(self, subject: str) -> None:
        # It has nothing to gain from waiting, and nobody waits for it: behind a stream of large batches small
        # ones would never get their turn.
        self._propose(subject, 0)

    def _propose(self, subject: str, counted: int) -> None:
        gathering = self._gatherings.pop(subject)
        self._gathered_count -= len(gathering.shares)
        shares = [share for share in gathering.shares if share.is_wanted]
        if not shares:
            return
        payload, payload_crc = shares[0].payload, shares[0].payload_crc
        if len(shares) > 1:
            payload, payload_crc = b"".join([share.payload for share in shares]), None
        proposal = Proposal(
            payload=payload,
            payload_crc=payload_crc,
            record_count=sum([share.record_count for share in shares]),
            subject=subject,
        )
        self._hand_over(shares, proposal, counted, gathering.began)

    def _hand_over(
        self, shares: list[Share], proposal: Proposal, counted: int, began: float
    ) -> Cancellable | None:
        self._under_way += counted
        size = len(proposal.payload)
        failed = partial(self._failed, shares, counted)
        try:
            return self._append(proposal, partial(self._appended, shares, counted, began, size), failed)
        except Exception as error:  # a bug: tell those whom nobody else will
            failed(error)
            return None

    def _appended(
        self, shares: list[Share], counted: int, began: float, size: int, appended: Appended
    ) -> None:
        self._end_entry(counted, len(shares))
        base_offset = appended.base_offset
        if self._tally is not None:
            self._tally.appended(len(shares), appended.record_count, size, began)
        for share in shares:
            if share.is_wanted:
                share.appended(base_offset, appended.timestamp)
            base_offset += share.record_count
        self._settled()

    def _failed(self, shares: list[Share], counted: int, error: BaseException) -> None:
        self._end_entry(counted, len(shares))
        if self._tally is not None:
            self._tally.failed(type(error).__name__, len(shares))
        for share in shares:
            if share.is_wanted:
                share.failed(error)
        self._settled()

    def _end_entry(self, counted: int, share_count: int) -> None:
        # Not at once: what the turn still brings doubles the next entry, and halves the cost of a record.
        self._under_way -= counted
        if self._later is None or not counted:
            self.flush_soon()
            return
        seen = self._gathered_count + share_count
        self._callers = max(seen, self._callers * (1 - CALLERS_FORGOTTEN))
        if self._callers < LINGER_CALLERS_MIN:
            self.flush_soon()
        elif not self._is_due:
            self._is_due = True
            seconds = min(self._callers * LINGER_SECONDS_PER_CALLER, LINGER_SECONDS_MAX)
            self._lingering = self._later(seconds, self._end_turn)
