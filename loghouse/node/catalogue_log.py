"""The catalogue as a node knows it: its log followed and folded, and records appended to it.

change -- decide with the fold --> append, `expect_offset` = its end --> in, or decide again
the log's end moves -- fetch --> `Catalogue.apply` --> `changed`
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final

from twisted.internet.defer import CancelledError, Deferred, DeferredLock
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater
from twisted.logger import Logger

from loghouse.api.v1.log_pb2 import Record
from loghouse.catalogue.catalogue import Catalogue
from loghouse.catalogue.records import CatalogueRecord, decode_record, encode_record
from loghouse.errors import (
    ExpectOffsetError,
    LoghouseError,
    MalformedMessageError,
    NotSupportedError,
    OffsetOutOfRangeError,
    OutcomeUnknownError,
    RequestError,
    UnavailableError,
)
from loghouse.limits import CHECKPOINT_RECORDS, FETCH_SIZE_DEFAULT
from loghouse.node.api import LogLike, proposing
from loghouse.protocol.batch import decode_batch, encode_batch
from loghouse.protocol.entry import CODEC_MASK, Buffer, EntryKind, decode_entries
from loghouse.replica.api import Fetched, Proposal

RETRY_SECONDS: Final = 0.5
CHANGES_TRIED_MAX: Final = 16
"""How often a change is decided anew because another record was first; each round lets one of them in."""


class CatalogueLog:
    """Follows the catalogue's log on one node, wherever its replicas are."""

    logger = Logger()

    def __init__(
        self, log: LogLike, *, node_name: str, scheduler: IReactorTime, changed: Callable[[], None]
    ) -> None:
        """Know nothing yet; `changed` is called whenever records were applied."""
        self.catalogue = Catalogue()  # the fold up to what was read; the same object for life
        self.problem = ""  # why nothing more is read: a later version wrote what this one does not know
        self._log = log  # the catalogue's log; fixed
        self._node_name = node_name  # this node; fixed
        self._subject = f"node {node_name}"  # who appends; fixed
        self._scheduler = scheduler  # for another try after an error; fixed
        self._changed = changed  # fixed
        self._reading: Deferred[None] | None = None  # set by `start`; ends with `stop`
        # Who waits until records up to an offset are applied.
        self._waiters: list[tuple[int, Deferred[None]]] = []
        self._is_tidying = False  # a checkpoint, or the trim behind one, is under way
        self._trimmed_to = 0  # the last checkpoint that this node trimmed to
        self._deciding = DeferredLock()  # one change of this node at a time
        self._is_stopped = False  # set once, by `stop`

    # --- following ------------------------------------------------------------------------

    def start(self) -> None:
        """Read the log from its beginning, and go on as it grows."""
        self._reading = Deferred.fromCoroutine(self._follow())
        self._reading.addErrback(lambda failure: failure.trap(CancelledError) and None)
        self._reading.addErrback(lambda failure: self.logger.failure("following the catalogue", failure))

    def stop(self) -> None:
        """Read no more; who waits is told."""
        self._is_stopped = True
        if self._reading is not None:
            self._reading.cancel()
        waiters, self._waiters = self._waiters, []
        for _, waiting in waiters:
            waiting.errback(UnavailableError("the node is stopping; try another node"))

    async def _follow(self) -> None:
        offset, said = 0, ""
        while not (self._is_stopped or self.problem):
            try:
                await self._log.wait_for(offset)
                offset = self._take(await self._log.fetch(offset, FETCH_SIZE_DEFAULT), offset)
            except OffsetOutOfRangeError as error:
                # Trimmed: the first record left is a checkpoint. Or cut off from who knows the end.
                offset = max(offset, error.lowest)
                await self._pause()
            except RequestError:
                await self._pause()  # no leader, or a node that stops
            except LoghouseError as error:
                if str(error) != said:
                    said = str(error)
                    self.logger.error("the catalogue cannot be read here: {error}", error=said)
                await self._pause()

    async def _pause(self) -> None:
        if not self._is_stopped:
            await deferLater(self._scheduler, RETRY_SECONDS)

    def _take(self, fetched: Fetched, offset: int) -> int:
        """Apply what was fetched; return where to go on."""
        for at, value in records_of(self._log.seed, fetched.frames):
            if at < offset:
                continue
            try:
                record = decode_record(value)
            except MalformedMessageError as error:
                self.problem = f"record {at} of the catalogue: {error}; upgrade this node"
                self.logger.critical("{problem}", problem=self.problem)
                break
            if not self.catalogue.apply(at, record):
                _, why = self.catalogue.ignored[-1]
                self.logger.warn("record {offset} of the catalogue says nothing: {why}", offset=at, why=why)
            offset = at + 1
        self._applied()
        return offset

    def _applied(self) -> None:
        due = [waiting for offset, waiting in self._waiters if offset < self.catalogue.next_offset]
        self._waiters = [one for one in self._waiters if one[0] >= self.catalogue.next_offset]
        self._changed()
        for waiting in due:
            if not waiting.called:
                waiting.callback(None)

    def when_applied(self, offset: int) -> Deferred[None]:
        """Fire once the record at an offset is applied; may be cancelled."""
        waiting: Deferred[None] = Deferred(lambda d: self._forget(d))
        if offset < self.catalogue.next_offset:
            waiting.callback(None)
        else:
            self._waiters.append((offset, waiting))
        return waiting

    def _forget(self, waiting: Deferred[None]) -> None:
        self._waiters = [one for one in self._waiters if one[1] is not waiting]

    # --- changing -------------------------------------------------------------------------

    async def change(self, decide: Callable[[Catalogue], CatalogueRecord | None]) -> bool:
        """Append the record that is decided with everything before it in view, and apply it.

        Args:
            decide: Returns the record, or None when there is nothing to do; raises what the caller is told.

        Returns:
            Whether a record was appended.

        Raises:
            NotSupportedError: A later version wrote something that this one does not know.
            OutcomeUnknownError: It may or may not have been done; doing it again does no harm.
            UnavailableError: The catalogue has no leader, or others change it all the time.
        """
        await self._deciding.acquire()
        try:
            for _ in range(CHANGES_TRIED_MAX):
                await self.catch_up()
                catalogue = self.catalogue
                record = decide(catalogue)
                if record is None:
                    return False
                proposal = Proposal(
                    payload=encode_batch([Record(value=encode_record(record))]),
                    record_count=1,
                    expect_offset=catalogue.next_offset,
                    subject=self._subject,
                )
                try:
                    appended = await proposing(self._log.propose, proposal)
                except ExpectOffsetError:
                    continue
                except OutcomeUnknownError as error:
                    text = f"the catalogue may or may not have it: {error}; ask again, nothing is done twice"
                    raise OutcomeUnknownError(text) from error
                await self.when_applied(appended.base_offset)
                return True
        finally:
            self._deciding.release()
        raise UnavailableError("others change the catalogue all the time; nothing was done, try again")

    async def catch_up(self) -> None:
        """Have applied what the catalogue's leader has now.

        Raises:
            NotSupportedError, UnavailableError: As `change`.
        """
        bounds = await self._log.bounds()
        if self.problem:
            raise NotSupportedError(self.problem)
        if bounds.next_offset:
            await self.when_applied(bounds.next_offset - 1)

    # --- checkpoints ----------------------------------------------------------------------

    def look(self, now: int) -> None:
        """On the leader, keep the log short: checkpoints, and trims to them. `now`: microseconds."""
        leads = self._log.leader_name == self._node_name
        if not leads or self._is_tidying or self.problem or self._is_stopped:
            return
        catalogue = self.catalogue
        if catalogue.next_offset - catalogue.checkpoint_offset > CHECKPOINT_RECORDS:
            tidying = Deferred.fromCoroutine(self._make_checkpoint(now))
        elif catalogue.checkpoint_offset > self._trimmed_to:
            tidying = Deferred.fromCoroutine(self._trim(catalogue.checkpoint_offset))
        else:
            return
        self._is_tidying = True
        # What found no leader is tried again by the next look.
        tidying.addErrback(lambda failure: failure.trap(RequestError) and None)
        tidying.addErrback(lambda failure: self.logger.failure("tidying the catalogue", failure))
        tidying.addBoth(self._tidied)

    async def _make_checkpoint(self, now: int) -> None:
        await self.change(lambda catalogue: catalogue.checkpoint(at=now, by=self._subject))

    async def _trim(self, offset: int) -> None:
        await self._log.trim(offset)
        self._trimmed_to = offset

    def _tidied(self, _: object) -> None:
        self._is_tidying = False


def records_of(seed: int, frames: Buffer) -> Iterator[tuple[int, bytes]]:
    """Yield the offset and the value of each record in entry frames.

    Raises:
        EntryError: A frame is damaged, cut off, or of another log.
        InvalidRequestError: A payload is not a batch.
    """
    for entry in decode_entries(seed, frames):
        if entry.kind == EntryKind.RECORDS:
            batch = decode_batch(entry.payload, entry.attributes & CODEC_MASK)
            for offset, record in enumerate(batch.records, entry.base_offset):
                yield offset, record.value
