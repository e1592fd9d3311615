"""The store file: a header block of 4 KiB, then entry frames (`docs/disk_format.md`).

The block holds what the segment is (first sector) and two watermark slots, each in
a sector of its own. Here are only bytes and values; the file work is in `segment.py`.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import ClassVar, Final

from construct import Const, ConstructError, Int16ub, Struct

from loghouse.errors import DataDirectoryError, EntryDamagedError
from loghouse.limits import STORE_HEADER_SIZE
from loghouse.protocol.entry import crc32c, frame_seed, with_crc, without_crc
from loghouse.protocol.fields import U32, U64, Uuid, read_fields, struct_of

FORMAT_VERSION: Final = 1
MAGIC: Final = b"LOGHOUSE"
WATERMARK_POSITIONS: Final = (1024, 2048)  # sectors of their own: a torn write of one leaves the other


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreHeader:
    """What a segment is; written once, before the segment appears."""

    SIZE: ClassVar[int] = 60  # the CRC behind the fields included

    group: U32
    cluster: Uuid
    base_index: U64
    base_offset: U64
    previous_term: U64

    def encode(self) -> bytes:
        """Return the bytes at the start of the store."""
        return with_crc(
            _PACKED.pack(
                MAGIC,
                FORMAT_VERSION,
                0,
                self.group,
                self.cluster,
                self.base_index,
                self.base_offset,
                self.previous_term,
            )
        )

    @classmethod
    def decode(cls, block: bytes, path: str = "this file") -> StoreHeader:
        """Parse the start of the store at `path`.

        Raises:
            EntryDamagedError: It is not a store header.
            DataDirectoryError: It is one of a newer format.
        """
        fields = without_crc(block[: cls.SIZE])
        if fields is None or len(block) < cls.SIZE:
            raise EntryDamagedError("store header checksum does not match")
        try:
            parsed = _HEADER.parse(fields)
        except ConstructError:
            raise EntryDamagedError("not a store header") from None
        if parsed.version != FORMAT_VERSION:
            raise DataDirectoryError(
                f"{path}: format {parsed.version}, this version reads {FORMAT_VERSION}; use a newer Loghouse"
            )
        return read_fields(cls, parsed)

    @property
    def seed(self) -> int:
        """The CRC that this log's frame headers and watermarks continue from."""
        return frame_seed(self.cluster, self.group)


_HEADER: Final = Struct(
    "magic" / Const(MAGIC), "version" / Int16ub, "reserved" / Int16ub, *struct_of(StoreHeader).subcons
).compile()
# Its twin, which a test holds equal: an append waits for the header of a new segment.
_PACKED: Final = struct.Struct(">8sHHI16sQQQ")


@dataclass(slots=True)  # made for every append: not frozen
class Watermark:
    """How far a store was durable when this was written.

    `position` is the byte behind the last durable frame; the highest `counter` counts.
    """

    SIZE: ClassVar[int] = 44

    counter: int
    durable_index: int
    durable_term: int
    position: int
    commit_index: int

    @property
    def slot_position(self) -> int:
        """Where in the header block this one is written: slots alternate with the counter."""
        return WATERMARK_POSITIONS[self.counter % 2]

    def encode(self, seed: int) -> bytes:
        """Return the slot's bytes, bound to the log by `seed`."""
        fields = _WATERMARK.pack(
            self.counter, self.durable_index, self.durable_term, self.position, self.commit_index
        )
        return fields + crc32c(fields, seed).to_bytes(4, "big")

    @classmethod
    def decode(cls, slot: bytes, seed: int) -> Watermark | None:
        """Parse a slot; None when it holds no valid watermark of this log."""
        fields = without_crc(slot[: cls.SIZE], seed)
        if fields is None or len(slot) < cls.SIZE:
            return None
        return cls(*_WATERMARK.unpack(fields))


_WATERMARK: Final = struct.Struct(">QQQQQ")  # its fields, in their order


def newest_watermark(block: bytes, seed: int) -> Watermark | None:
    """Return the valid watermark of a header block with the highest counter; None when no slot is valid."""
    found = [
        watermark
        for position in WATERMARK_POSITIONS
        if (watermark := Watermark.decode(block[position : position + Watermark.SIZE], seed))
    ]
    return max(found, key=lambda watermark: watermark.counter, default=None)


def new_block(header: StoreHeader) -> bytes:
    """Return the header block of a store without entries."""
    block = bytearray(STORE_HEADER_SIZE)
    encoded = header.encode()
    block[: len(encoded)] = encoded
    watermark = Watermark(
        counter=0,
        durable_index=header.base_index - 1,
        durable_term=header.previous_term,
        position=STORE_HEADER_SIZE,
        commit_index=0,
    )
    block[watermark.slot_position : watermark.slot_position + Watermark.SIZE] = watermark.encode(header.seed)
    return bytes(block)
