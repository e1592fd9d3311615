"""Finds the records that a filter takes, and the batches that hold none. Pure.

A key stands in a record as it is, whatever stands around it: a batch without its bytes has no record with
it. So most batches are passed over by one search of their bytes, in C. In the others, records are looked at
where the bytes are found in them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from loghouse.api.v1.log_pb2 import EncodedRecords, Record
from loghouse.protocol.batch import parse
from loghouse.protocol.checking import PARSED_ELEMENTS_MAX, PARSED_SIZE_MAX, WALKED_RECORDS_MAX, RecordWalk
from loghouse.protocol.record_filter import RecordFilter


class Matcher:
    """Finds the records that a filter takes."""

    __slots__ = ("_header_parts", "_headers", "_key_parts", "_keys", "_prefixes")

    def __init__(self, filter_: RecordFilter) -> None:
        """Look for what the filter takes; it is not empty."""
        self._keys = frozenset(filter_.keys)
        self._prefixes = filter_.key_prefixes
        self._headers = frozenset(filter_.headers)
        # One of these stands in a record that is taken, and each of those: as bytes, whatever is around them.
        self._key_parts = (*filter_.keys, *filter_.key_prefixes)
        self._header_parts = tuple(
            part for name, value in filter_.headers for part in (name.encode(), value) if part
        )

    def may_be_in(self, content: bytes, start: int = 0, end: int | None = None) -> bool:
        """Whether a batch may hold records that are taken; False is certain.

        Args:
            content: Holds the uncompressed payload, from `start` to `end`.
        """
        found = content.find
        if self._key_parts and all(found(part, start, end) < 0 for part in self._key_parts):
            return False
        return all(found(part, start, end) >= 0 for part in self._header_parts)

    def places(self, records: Sequence[bytes]) -> list[int]:
        """Return the places of the encoded records that are taken.

        Raises:
            InvalidRequestError: One of them is no record.
        """
        found = enumerate(records)
        places: Iterable[int]
        if len(self._key_parts) == 1:
            part = self._key_parts[0]
            places = [place for place, record in found if part in record]
        elif self._key_parts:
            parts = self._key_parts
            places = [place for place, record in found if any(part in record for part in parts)]
        elif self._header_parts:
            part = max(self._header_parts, key=len)  # the one that is in the fewest others
            places = [place for place, record in found if part in record]
        else:
            places = range(len(records))
        return [place for place in places if self.takes(parse(Record, records[place]))]

    def takes(self, record: Record) -> bool:
        """Whether one record is taken."""
        if self._key_parts:
            if not record.HasField("key"):
                return False
            if record.key not in self._keys and not record.key.startswith(self._prefixes):
                return False
        if not self._headers:
            return True
        return self._headers <= {(header.key, header.value) for header in record.headers}


def encoded_records(payload: bytes) -> Iterator[Sequence[bytes]]:
    """Yield the records of an uncompressed payload, each encoded, in pieces that are not long to parse.

    Raises:
        InvalidRequestError: It is no batch.
    """
    if len(payload) // 2 <= PARSED_ELEMENTS_MAX or payload.count(b"\n") <= PARSED_ELEMENTS_MAX:
        yield parse(EncodedRecords, payload).records[:]
        return
    walk = RecordWalk(payload)
    while not walk.is_done:
        yield parse(EncodedRecords, walk.take(WALKED_RECORDS_MAX, PARSED_SIZE_MAX)).records[:]
