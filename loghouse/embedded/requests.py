"""What callers want appended, and one of them at a time doing it for all: so threads share a sync.

A caller leaves its request. If nobody is at work, it works itself, without a hop to another thread; else it
waits. Who is at work takes along all that was left meanwhile, and when its own request is settled, it hands
over to the next one that waits.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Final

from loghouse.limits import PROPOSALS_SIZE_MAX
from loghouse.protocol.cursors import CursorChange
from loghouse.protocol.entry import Buffer, EntryKind
from loghouse.raft.ready import Proposal
from loghouse.replica.api import Appended
from loghouse.replica.coalescing import may_share

COMPANY_MIN: Final = 4
"""After so many requests in one round, the next round waits for as many, for a moment."""
COMPANY_SECONDS: Final = 0.0002
ROUND_SIZE_MAX: Final = PROPOSALS_SIZE_MAX // 2
"""Bytes of one round: more at once would be refused by the core, which has no more room for them."""


class Request:
    """A batch on its way into the log, of a thread that waits for it (`coalescing.Share`)."""

    __slots__ = (
        "attributes",
        "base_offset",
        "cursor",
        "error",
        "expect_offset",
        "gate",
        "kind",
        "payload",
        "record_count",
    )
    is_wanted = True
    payload_crc: int | None = None

    def __init__(
        self,
        payload: Buffer,
        record_count: int,
        *,
        attributes: int = 0,
        expect_offset: int | None = None,
        kind: int = EntryKind.RECORDS,
        cursor: CursorChange | None = None,
    ) -> None:
        self.payload = payload
        self.record_count = record_count
        self.attributes = attributes
        self.expect_offset = expect_offset
        self.kind = kind
        self.cursor = cursor
        self.base_offset = -1
        self.error: BaseException | None = None
        self.gate: threading.Lock | None = None

    @property
    def is_settled(self) -> bool:
        """Whether it is known what became of it."""
        return self.base_offset >= 0 or self.error is not None

    @property
    def may_share(self) -> bool:
        """Whether it may share an entry with others."""
        return (
            self.kind == EntryKind.RECORDS
            and self.cursor is None
            and may_share(attributes=self.attributes, producer_id=0, expect_offset=self.expect_offset)
        )

    @property
    def proposal(self) -> Proposal:
        """The request as the log takes it, in an entry of its own."""
        return Proposal(
            payload=self.payload,
            record_count=self.record_count,
            kind=self.kind,
            attributes=self.attributes,
            expect_offset=self.expect_offset,
            cursor=self.cursor,
        )

    def outcome(self, appended: Appended) -> None:
        """It is durable in an entry of its own."""
        self.base_offset = appended.base_offset

    def appended(self, base_offset: int, timestamp: int) -> None:
        """It is durable: its first record has `base_offset`."""
        self.base_offset = base_offset

    def failed(self, error: BaseException) -> None:
        """It was not appended, or nobody can tell."""
        if not self.is_settled:
            self.error = error

    def wake(self) -> None:
        """Let its caller look: it is settled, or it is its turn to work."""
        if self.gate is not None:
            self.gate.release()

    def result(self) -> int:
        """Return the offset of the first record.

        Raises:
            LoghouseError: It was not appended, or nobody can tell.
        """
        if self.error is not None:
            raise self.error
        return self.base_offset


class Rounds:
    """Requests, taken in rounds by one thread at a time."""

    def __init__(self, work: Callable[[list[Request]], None]) -> None:
        """`work` settles the requests it gets; it may not raise, but for what ends the log."""
        self._work = work  # settles the requests of a round
        self._mutex = threading.Lock()  # held for each look at what follows
        self._left: list[Request] = []  # by who waits for this round's end
        self._is_busy = False  # a thread is at work, or was told that it is its turn
        self._company = 1  # how many requests the last round had
        self._joined = threading.Event()  # set when as many are left again, while `_wanted` is not 0
        self._wanted = 0  # how many the next round waits for, while it does; else 0

    def settle(self, request: Request) -> None:
        """Return once a request is settled: by this thread, or by another one."""
        if not self._leave(request, waits=True):
            self._wait(request)
            if request.is_settled:
                return
        self.work_on(request)

    def _wait(self, request: Request) -> None:
        gate = request.gate
        assert gate is not None
        try:
            gate.acquire()
        except BaseException:  # Ctrl-C: nobody waits for it any more
            with self._mutex:
                is_told = gate.acquire(blocking=False)
                if request in self._left:
                    self._left.remove(request)
                if is_told and not request.is_settled:
                    self._hand_over()
            raise

    def leave(self, request: Request) -> bool:
        """Leave a request without waiting; True when the caller must have `work_on` called for it."""
        return self._leave(request, waits=False)

    def _leave(self, request: Request, *, waits: bool) -> bool:
        with self._mutex:
            self._left.append(request)
            if not self._is_busy:
                self._is_busy = True
                return True
            if waits:
                request.gate = threading.Lock()
                request.gate.acquire()
            if self._wanted and len(self._left) >= self._wanted:
                self._joined.set()
        return False

    def work_on(self, request: Request) -> None:
        """Take rounds until a request is settled, then hand over."""
        try:
            while not request.is_settled:
                self._round(request)
        finally:
            with self._mutex:
                self._hand_over()

    def _hand_over(self) -> None:
        """Let the next one that waits work; under the mutex."""
        self._is_busy = bool(self._left)
        if self._left:
            self._left[0].wake()

    def work_through(self, request: Request) -> None:
        """As `work_on`, and wake whose request it is: nobody waits on this thread."""
        try:
            self.work_on(request)
        finally:
            request.wake()

    def _round(self, own: Request) -> None:
        if self._company >= COMPANY_MIN:
            self._wait_for_company()
        with self._mutex:
            requests = self._take()
        self._company = len(requests)
        try:
            self._work(requests)
        finally:
            for request in requests:
                if request is not own:
                    request.wake()

    def _take(self) -> list[Request]:
        """Take what was left, up to `ROUND_SIZE_MAX` bytes but for the first; under the mutex."""
        left, size = self._left, 0
        for count, request in enumerate(left):
            size += len(request.payload)
            if size > ROUND_SIZE_MAX and count:
                self._left = left[count:]
                return left[:count]
        self._left = []
        return left

    def _wait_for_company(self) -> None:
        """Those of the last round are likely to come again: they were told a moment ago."""
        with self._mutex:
            if len(self._left) >= self._company:
                return
            self._wanted = self._company
            self._joined.clear()
        self._joined.wait(COMPANY_SECONDS)
        self._wanted = 0

    def exclusively(self, work: Callable[[], None]) -> None:
        """Do something while nobody is at work on requests."""
        request = Errand(work)
        self.settle(request)
        request.result()


class Errand(Request):
    """Something to be done between appends."""

    __slots__ = ("work",)

    def __init__(self, work: Callable[[], None]) -> None:
        super().__init__(b"", 0)
        self.work = work

    def run(self) -> None:
        """Do it; what it raises is raised to its caller."""
        try:
            self.work()
            self.base_offset = 0
        except Exception as error:
            self.error = error
