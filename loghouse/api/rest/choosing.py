"""Which records a request over HTTP wants, beside where it begins; and those of an answer. Pure."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from loghouse.api.v1.log_pb2 import Record
from loghouse.errors import InvalidRequestError
from loghouse.protocol.batch import parse
from loghouse.protocol.compression import decompress
from loghouse.protocol.entry import CODEC_MASK, Entry, EntryKind, decode_entries
from loghouse.protocol.record_filter import RecordFilter
from loghouse.protocol.record_matching import Matcher, encoded_records
from loghouse.protocol.record_range import Consistency, ReadPage, RecordRange

CHOOSING: Final = ("key", "key_prefix", "headers", "until", "reverse", "newest", "consistency")
"""The parameters that make a read one of a range."""
_TRUSTS: Final[Mapping[str, Consistency]] = {
    "confirmed": Consistency.CONFIRMED,
    "local": Consistency.LOCAL,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordChoice:
    """What a query says of the records that it wants.

    `count_max` of them at most, the last ones first if `is_backwards`; shown in the order of the log, all the
    same, if `is_newest`.
    """

    count_max: int
    is_backwards: bool
    is_newest: bool
    filter: RecordFilter
    consistency: Consistency


def choice_of(query: Mapping[str, str], count: int, newest: int | None) -> RecordChoice:
    """Return what a query says.

    Raises:
        InvalidRequestError: Names the parameter and the problem.
    """
    reverse = _one_of(query, "reverse", ("false", "true")) == "true"
    if newest is not None:
        for name in ("reverse", "offset", "time", "last"):
            if name in query:
                raise InvalidRequestError("newest", f"cannot be together with {name}")
    chosen = RecordFilter(
        keys=(query["key"].encode(),) if "key" in query else (),
        key_prefixes=(query["key_prefix"].encode(),) if "key_prefix" in query else (),
        headers=_headers_of(query.get("headers", "{}")),
    )
    chosen.check()
    return RecordChoice(
        count_max=count if newest is None else newest,
        is_backwards=reverse or newest is not None,
        is_newest=newest is not None,
        filter=chosen,
        consistency=_TRUSTS[_one_of(query, "consistency", tuple(_TRUSTS))],
    )


def _one_of(query: Mapping[str, str], name: str, choices: tuple[str, ...]) -> str:
    chosen = query.get(name, choices[0])
    if chosen not in choices:
        raise InvalidRequestError(name, f"must be one of {', '.join(choices)}")
    return chosen


def _headers_of(text: str) -> tuple[tuple[str, bytes], ...]:
    try:
        asked = json.loads(text)
        if isinstance(asked, dict) and all(isinstance(value, str) for value in asked.values()):
            return tuple((name, value.encode()) for name, value in asked.items())
    except (ValueError, RecursionError):  # half a surrogate pair is a UnicodeEncodeError, which is one
        pass
    raise InvalidRequestError("headers", 'must be a JSON object of texts, such as {"unit":"mm"}')


def pick(
    seed: int, page: ReadPage, wanted: RecordRange, *, size_of: Callable[[Any], int], size_max: int
) -> tuple[list[Any], int]:
    """Return the wanted records of an answer, in the order in which they were asked for, and where to go on.

    It may take long: for a thread. Each record has its offset and a time.

    Args:
        size_of: Tells about how many bytes a record is shown in.
        size_max: Of those that are returned, the last one beyond it.
    """
    entries = [one for one in decode_entries(seed, page.frames) if one.kind == EntryKind.RECORDS]
    if wanted.is_reverse:
        entries.reverse()
        low, high = page.next_offset, min(wanted.end, page.committed)
    else:
        low, high = wanted.first, page.next_offset
    matcher = Matcher(wanted.filter) if wanted.filter else None
    records: list[Any] = []
    size = 0
    for entry in entries:
        for record in _records_of(entry, low, high, matcher, wanted.is_reverse):
            records.append(record)
            size += size_of(record)
            if len(records) == wanted.count_max or size >= size_max:
                return records, record.offset if wanted.is_reverse else record.offset + 1
    return records, page.next_offset


def _records_of(
    entry: Entry, low: int, high: int, matcher: Matcher | None, is_reverse: bool
) -> Iterator[Any]:
    """Yield the records of an entry that are wanted, from an offset up to, not including, another."""
    payload = bytes(decompress(entry.payload, entry.attributes & CODEC_MASK))
    if matcher is not None and not matcher.may_be_in(payload):
        return
    encoded = [record for piece in encoded_records(payload) for record in piece]
    places = matcher.places(encoded) if matcher is not None else range(len(encoded))
    for place in reversed(places) if is_reverse else places:
        offset = entry.base_offset + place
        if low <= offset < high:
            record = parse(Record, encoded[place])
            record.offset = offset
            record.timestamp = record.timestamp or entry.timestamp
            yield record
