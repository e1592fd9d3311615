"""What a group's consumer gives: records and batches that say which log they are of. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from loghouse.client.records import Batch, Record
from loghouse.errors import InvalidRequestError


class GroupRecord(Record):
    """A record of one of the logs of a group.

    Attributes:
        log: The log's name.
        epoch: That of the log's cursor, with which this member held it.
    """

    log: str
    epoch: int


class GroupBatch(Batch):
    """A batch of one of the logs of a group; iterating gives `GroupRecord`s.

    Attributes:
        log: The log's name.
        epoch: That of the log's cursor, with which this member held it.
    """

    __slots__ = ("epoch", "log")

    def __init__(self, batch: Batch, log: str, epoch: int) -> None:
        super().__init__(batch.offset, batch.timestamp, batch._encoded, batch._first, batch._last)
        self.log = log
        self.epoch = epoch

    def __repr__(self) -> str:
        return f"GroupBatch(log={self.log!r}, offset={self.offset}, len={len(self)})"

    def before(self, end: int) -> GroupBatch:
        """Return the part of this batch that is before an offset."""
        return self._part(super().before(end))

    def first_of(self, count: int) -> GroupBatch:
        """Return the first `count` records of this batch."""
        return self._part(super().first_of(count))

    def last_of(self, count: int) -> GroupBatch:
        """Return the last `count` records of this batch."""
        return self._part(super().last_of(count))

    def _part(self, batch: Batch) -> GroupBatch:
        return GroupBatch(batch, self.log, self.epoch)

    def __iter__(self) -> Iterator[Record]:
        return records_of(super().__iter__(), self.log, self.epoch)


GroupDone = GroupRecord | GroupBatch
"""What is done of a group: a record or a batch that it gave, and all before it in its log."""


def records_of(records: Iterable[Record], log: str, epoch: int) -> Iterator[GroupRecord]:
    """Yield the records of a log as those of a group."""
    for record in records:
        made = GroupRecord._make(record)
        made.log, made.epoch = log, epoch
        yield made


def behind(done: Any) -> int:
    """Return the position behind what a group gave.

    Raises:
        InvalidRequestError: It is something else.
    """
    if isinstance(done, GroupRecord):
        return done.offset + 1
    if isinstance(done, GroupBatch):
        return done.next_offset
    raise InvalidRequestError(
        "done", f"is a {type(done).__name__}; give a record or a batch that this group's consumer gave"
    )
