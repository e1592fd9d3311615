"""Whether a producer's batch is what it says it is, found out in steps that each take a few milliseconds.

A parse holds the GIL, on whatever thread, for some 60 ns a record or header, and an empty one is two bytes
that pack into nearly none. So a parse is only begun when what it can make is bounded: by the bytes, by how
many of them could begin a record or a header, or, where that is not enough, by a walk over the lengths.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from loghouse.api.v1.log_pb2 import EncodedRecords, RecordBatch
from loghouse.errors import InvalidRequestError
from loghouse.limits import (
    HEADERS_PER_RECORD_MAX,
    KIB,
    MIB,
    PAYLOAD_SIZE_MAX,
    RECORD_SIZE_MAX,
    RECORDS_PER_BATCH_MAX,
)
from loghouse.protocol.batch import parse
from loghouse.protocol.entry import Buffer, Codec, crc32c
from loghouse.protocol.varint import decode_varint
from loghouse.protocol.zstd import unpack_frame, unpacked_size

PARSED_SIZE_MAX: Final = 128 * KIB
"""So many bytes are parsed without a look at them: 65,536 records or headers at worst, 5 ms."""
PARSED_ELEMENTS_MAX: Final = PARSED_SIZE_MAX // 2
COUNTED_SIZE_MAX: Final = 1 * MIB
"""Up to here, counting what could begin a record or a header (0.7 ms) is cheaper than walking over them."""
UNPACKED_AT_ONCE_MAX: Final = 64 * KIB
"""A batch that is or unpacks to more is unpacked in a thread, which leaves the GIL alone meanwhile."""
UNPACKED_ELEMENTS_MAX: Final = 8 * KIB
"""The same for what it unpacks to, 0.6 ms: a hundred bytes must not cost more than a hundred others."""
OTHER_FIELDS_MAX: Final = 1 * KIB
"""Fields of later versions in a batch that is walked over: ten times as slow as records."""
WALKED_RECORDS_MAX: Final = 8 * KIB
"""Records walked over in a step: about 2 ms."""

REQUEST_FIELDS_MAX: Final = 64
"""Fields of a request above `PARSED_SIZE_MAX`: of those of two bytes, 8 MiB take 50 ms to parse."""
RECORD_REQUEST_OVERHEAD: Final = 4 * KIB
"""What a request to append a record has besides it, at most; and an offset in the record, which is ours."""

_RECORD_TAG: Final = 0x0A  # field 1 of a RecordBatch, length-delimited; so is the record of a ProduceRequest
_HEADER_TAG: Final = 0x32  # field 6 of a Record, length-delimited
_NO_BATCH: Final = "is not a serialized RecordBatch"


def check_batch(
    payload: Buffer,
    *,
    record_count: int,
    codec: int = Codec.NONE,
    payload_crc: int | None = None,
    record_size_max: int = RECORD_SIZE_MAX,
) -> None:
    """Raise unless a producer's batch is what it says it is: `check_steps`, all at once.

    Raises:
        InvalidRequestError: Names the field and the limit.
    """
    for _ in check_steps(record_size_max, payload, record_count, codec, payload_crc):
        pass


def check_steps(
    record_size_max: int, payload: Buffer, record_count: int, codec: int, payload_crc: int | None
) -> Iterator[int]:
    """Check a batch; what comes behind the first step is for a thread, and most batches have but one.

    The limit comes first: a server binds it once.

    A step ends with how many records or headers were walked over in it: 0 when nobody had to wait for it.

    Raises:
        InvalidRequestError: The batch is not what it says it is; names the field and the limit.
    """
    if len(payload) > PAYLOAD_SIZE_MAX:
        raise InvalidRequestError(
            "batch", f"has {len(payload)} bytes; at most {PAYLOAD_SIZE_MAX} are allowed"
        )
    if not 0 < record_count <= RECORDS_PER_BATCH_MAX:
        raise InvalidRequestError("record_count", f"is {record_count}; allowed: 1 to {RECORDS_PER_BATCH_MAX}")
    is_packed = codec != Codec.NONE
    if is_packed:
        if codec != Codec.ZSTD:
            raise InvalidRequestError("codec", f"{codec} is unknown; allowed: 0 (none), 1 (zstd)")
        if max(len(payload), unpacked_size(payload)) > UNPACKED_AT_ONCE_MAX:
            yield 0
    elif len(payload) > COUNTED_SIZE_MAX:
        yield 0
    if payload_crc is not None and crc32c(payload) != payload_crc:
        raise InvalidRequestError("batch_crc", "does not match the batch; it was damaged on the way")
    unpacked = unpack_frame(payload) if is_packed else payload
    size = len(unpacked)
    elements_max = size // 2
    if size <= COUNTED_SIZE_MAX and size > (2 * UNPACKED_ELEMENTS_MAX if is_packed else PARSED_SIZE_MAX):
        elements_max = _count_elements(bytes(unpacked))
    if is_packed and elements_max > UNPACKED_ELEMENTS_MAX:
        yield 0
    if elements_max <= PARSED_ELEMENTS_MAX:
        _check_at_once(unpacked, record_count, record_size_max)
    else:
        yield 0
        yield from _walk_steps(unpacked, record_count, record_size_max)


def check_fields(message: Buffer) -> None:
    """Raise InvalidRequestError when the fields of a large request would take long to parse, or are none."""
    if len(message) > PARSED_SIZE_MAX:
        for _ in _fields(message):
            pass


def record_steps(message: Buffer, record_size_max: int) -> Iterator[int]:
    """Check that a request to append one record can be parsed at once, in steps like those of `check_steps`.

    Raises:
        InvalidRequestError: It cannot; names the field and the limit.
    """
    if len(message) > record_size_max + RECORD_REQUEST_OVERHEAD:
        raise InvalidRequestError(
            "record", f"has {len(message)} bytes with its request; at most {record_size_max} are allowed"
        )
    if len(message) <= PARSED_SIZE_MAX:
        return
    records = [memoryview(message)[start:end] for tag, start, end in _fields(message) if tag == _RECORD_TAG]
    if len(records) > 1 or any(record[0] != _RECORD_TAG for record in records):
        raise InvalidRequestError("record", "is there more than once, or its tag is not in its shortest form")
    if len(message) > COUNTED_SIZE_MAX:
        yield 0
    if records and bytes(message).count(_HEADER_TAG) > HEADERS_PER_RECORD_MAX:
        yield 0
        yield from _header_steps(records[0])


def _fields(message: Buffer) -> Iterator[tuple[int, int, int]]:
    """Yield tag, start and end of a request's fields; no more than a request may have."""
    position = count = 0
    try:
        while position < len(message):
            start = position
            tag, position = _skip_field(message, position)
            count += 1
            if count > REQUEST_FIELDS_MAX:
                raise InvalidRequestError("request", f"has more than {REQUEST_FIELDS_MAX} fields")
            yield tag, start, position
    except (IndexError, ValueError):
        raise InvalidRequestError("request", "does not consist of protobuf fields") from None


def check_stored(payload: Buffer, record_count: int, codec: int) -> None:
    """Raise unless a batch that is in the log is one that every reader can read.

    Not for a thread that others wait for: it may take a tenth of a second.

    Raises:
        InvalidRequestError: It is none; earlier versions took such ones.
    """
    held = len(parse(RecordBatch, unpack_frame(payload) if codec == Codec.ZSTD else payload).records)
    if held != record_count:
        raise InvalidRequestError("record_count", f"is {record_count}, but the batch holds {held}")


def _count_elements(unpacked: bytes) -> int:
    """Return how many records and headers there can be at most, counted in C."""
    return unpacked.count(_RECORD_TAG) + unpacked.count(_HEADER_TAG)


def _check_at_once(unpacked: Buffer, record_count: int, record_size_max: int) -> None:
    held = len(parse(RecordBatch, unpacked).records)
    if held != record_count:
        raise InvalidRequestError("record_count", f"is {record_count}, but the batch holds {held}")
    # A record cannot be larger than the batch around it, so most batches need no look inside.
    if len(unpacked) > record_size_max:
        check_record_size(max(map(len, parse(EncodedRecords, unpacked).records[:])), record_size_max)


def check_record_size(size: int, size_max: int) -> None:
    """Raise InvalidRequestError for a record of more than `size_max` bytes."""
    if size > size_max:
        raise InvalidRequestError("record", f"has {size} bytes; at most {size_max} are allowed")


def _walk_steps(unpacked: Buffer, record_count: int, record_size_max: int) -> Iterator[int]:
    """Check a batch piece by piece: no parse makes more than its piece can hold."""
    walk = RecordWalk(unpacked)
    rested_at = (0, 0)
    while not walk.is_done:
        piece = walk.take(WALKED_RECORDS_MAX, PARSED_SIZE_MAX)
        if walk.count > record_count:
            raise InvalidRequestError("record_count", f"is {record_count}, but the batch holds more")
        if walk.other_count > OTHER_FIELDS_MAX:
            raise InvalidRequestError("batch", "holds too many fields that are no records")
        check_record_size(walk.largest, record_size_max)
        if len(piece) > PARSED_SIZE_MAX and _count_elements(bytes(piece)) > PARSED_ELEMENTS_MAX:
            yield from _header_steps(piece)
        parse(RecordBatch, piece)
        if walk.count - rested_at[0] >= WALKED_RECORDS_MAX or walk.position - rested_at[1] >= MIB:
            yield 1 + walk.count - rested_at[0]
            rested_at = walk.count, walk.position
    if walk.count != record_count:
        raise InvalidRequestError("record_count", f"is {record_count}, but the batch holds {walk.count}")


def _header_steps(piece: Buffer) -> Iterator[int]:
    """Raise when the one large record of a piece has too many headers for a parse."""
    headers = fields = 0
    try:
        _, position = decode_varint(piece, 1)
        while position < len(piece):
            tag, position = _skip_field(piece, position)
            headers += tag == _HEADER_TAG
            fields += 1
            if max(headers, fields - 64) > HEADERS_PER_RECORD_MAX:
                raise InvalidRequestError(
                    "record.headers", f"are more than {HEADERS_PER_RECORD_MAX}, the most that are allowed"
                )
            if fields % (WALKED_RECORDS_MAX // 8) == 0:  # one takes eight times as long as a record
                yield WALKED_RECORDS_MAX
    except (IndexError, ValueError):
        raise InvalidRequestError("batch", _NO_BATCH) from None


def check_not_more(unpacked: Buffer, record_count: int) -> None:
    """Raise InvalidRequestError if a parse would make many more records than a reader was told."""
    allowed = record_count + PARSED_ELEMENTS_MAX
    if len(unpacked) // 2 <= allowed or bytes(unpacked).count(_RECORD_TAG) <= allowed:
        return
    walk = RecordWalk(unpacked)
    walk.take(allowed + 1)
    if not walk.is_done:
        raise InvalidRequestError("batch", f"holds more than the {record_count} records it should")


class RecordWalk:
    """Goes over the records of an uncompressed payload by their lengths, making none.

    Attributes:
        position: Where it stands in the payload.
        count: Records gone over.
        other_count: Fields gone over that are no records: of a later version.
        largest: The most bytes that a record had.
    """

    __slots__ = ("_payload", "count", "largest", "other_count", "position")

    def __init__(self, payload: Buffer, position: int = 0, count: int = 0) -> None:
        self._payload = payload
        self.position = position
        self.count = count
        self.other_count = 0
        self.largest = 0

    @property
    def is_done(self) -> bool:
        """Whether the payload's end is reached."""
        return self.position >= len(self._payload)

    def take(self, records_max: int, size_max: int = PAYLOAD_SIZE_MAX, cost: int = 0) -> memoryview:
        """Go on over so many records, and return their bytes: a payload of its own, at least one record.

        A field that is no record is taken along, and is one of `records_max`.

        Args:
            size_max: Bytes of them all; only a record alone may have more.
            cost: Counted for each record on top of its bytes.

        Raises:
            InvalidRequestError: Something else than fields is there.
        """
        payload, position, largest = self._payload, self.position, self.largest
        start, end, taken, others, size_left = position, len(payload), 0, 0, size_max
        try:
            while position < end and taken < records_max:
                is_record = payload[position] == _RECORD_TAG
                if is_record:
                    size, behind = payload[position + 1], position + 2
                    if size > 0x7F:
                        size, behind = decode_varint(payload, position + 1)
                    behind += size
                else:
                    size, (tag, behind) = 0, _skip_field(payload, position)
                    if tag == _RECORD_TAG:  # written in more bytes than it needs
                        is_record, size = True, behind - position
                if behind > end:
                    raise ValueError
                size_left -= behind - position + cost
                if size_left < 0 and taken:
                    break
                if size > largest:
                    largest = size
                taken += 1
                others += not is_record
                position = behind
        except (IndexError, ValueError):
            raise InvalidRequestError("batch", _NO_BATCH) from None
        self.position, self.largest = position, largest
        self.count += taken - others
        self.other_count += others
        return memoryview(payload)[start:position]


def _skip_field(message: Buffer, position: int) -> tuple[int, int]:
    """Return the tag of the field at a position, and where it ends; a group's start and end are fields, too.

    Raises:
        IndexError, ValueError: No field is there.
    """
    tag, position = decode_varint(message, position)
    match tag & 7:
        case 0:
            _, position = decode_varint(message, position)
        case 1:
            position += 8
        case 2:
            size, position = decode_varint(message, position)
            position += size
        case 3 | 4:
            pass
        case 5:
            position += 4
        case _:
            raise ValueError
    return tag, position
