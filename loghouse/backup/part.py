"""Reading one part of a backup, with every checksum."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from loghouse.backup.chain import Chain
from loghouse.backup.format import (
    END_SIZE,
    HEADER_PREFIX,
    REMEDY,
    PartEnd,
    PartHeader,
    decode,
    part_name,
    part_offset,
    state_of,
)
from loghouse.errors import DamageError, EntryDamagedError, EntryTruncatedError
from loghouse.limits import MIB, STATE_SIZE_MAX
from loghouse.protocol.entry import Entry, crc32c, decode_entry
from loghouse.protocol.log_state import LogState
from loghouse.storage.files import Files, OpenFile

CHUNK_SIZE: Final = 4 * MIB
_CRC_SIZE: Final = 4


class Part:
    """A part as it is on the disk; open while this is kept.

    Attributes:
        header: What it begins with.
        state: The log's state before its first entry.
        end: What stands behind its frames; None where that is not there: it is not finished.
        frames_at: The position of its first frame, in bytes.
    """

    def __init__(self, files: Files, path: str, seed: int, *, finished: bool) -> None:
        """Read header and end.

        Args:
            finished: Whether it must be finished.

        Raises:
            DamageError: They are damaged, of another log, or under another part's name.
            BackupError: A newer version made it.
        """
        self.path = path  # fixed
        self.seed = seed  # the log's `frame_seed`; fixed
        self._file = OpenFile.open(files, path)  # fixed
        self._size = self._file.size()  # in bytes, as it was opened; fixed
        self.header = self._read_header()
        self.frames_at = HEADER_PREFIX + len(self.header.state) + _CRC_SIZE
        self.state: LogState = state_of(self.header.state, path, HEADER_PREFIX)
        if part_offset(path.rpartition("/")[2]) != self.header.base_offset:
            raise self.damage(0, f"it begins at offset {self.header.base_offset}, its name says otherwise")
        if self.state.next_offset != self.header.base_offset:
            raise self.damage(HEADER_PREFIX, f"the state is that at offset {self.state.next_offset}")
        self.end = self._read_end(finished)

    def damage(self, position: int, problem: str) -> DamageError:
        """Return the error for a byte that is not what it must be."""
        return DamageError(self.path, position, problem, remedy=REMEDY)

    def _read_header(self) -> PartHeader:
        prefix = self._file.pread(HEADER_PREFIX, 0)
        size = int.from_bytes(prefix[-4:], "big")
        if len(prefix) < HEADER_PREFIX or size > STATE_SIZE_MAX:
            raise self.damage(0, "the header is cut off")
        content = self._file.pread(HEADER_PREFIX + size + _CRC_SIZE, 0)
        return decode(PartHeader, content, self.path, self.seed)

    def _read_end(self, finished: bool) -> PartEnd | None:
        position = max(self._size - END_SIZE, self.frames_at)
        try:
            end = decode(PartEnd, self._file.pread(END_SIZE, position), self.path, self.seed, position)
            if end.size != position:
                raise self.damage(position, f"it ends at byte {end.size}, by what stands there")
        except DamageError:
            if finished:
                raise
            return None
        return end

    @property
    def frames_size(self) -> int:
        """Bytes of frames that it has, or may have when it is not finished."""
        return (self.end.size if self.end is not None else self._size) - self.frames_at

    def entries(self) -> Iterator[tuple[int, Entry]]:
        """Yield each entry behind the position at which its frame ends.

        Raises:
            DamageError: A frame is damaged, or does not follow; or what is at the end does not fit.
        """
        chain = Chain(self.state)
        crc, position, limit = 0, self.frames_at, self.frames_at + self.frames_size
        wanted = CHUNK_SIZE
        while position < limit:
            chunk = self._file.pread(min(wanted, limit - position), position)
            taken, wanted = 0, CHUNK_SIZE
            while taken < len(chunk):
                try:
                    entry = decode_entry(self.seed, chunk, taken)
                    chain.take(entry)
                except EntryTruncatedError as error:
                    if position + taken + error.needed > limit:
                        raise self.damage(position + taken, f"{error}, and the part ends before") from None
                    wanted = max(CHUNK_SIZE, error.needed)
                    break
                except EntryDamagedError as error:
                    raise self.damage(position + taken, str(error)) from None
                taken += entry.size
                yield position + taken, entry
            crc = crc32c(chunk[:taken], crc)
            position += taken
        self._check_end(chain, crc)

    def _check_end(self, chain: Chain, crc: int) -> None:
        end = self.end
        if end is None:
            return
        if end.frames_crc != crc:
            raise self.damage(self.frames_at, "the checksum of all frames does not match")
        if (end.next_offset, end.last) != (chain.next_offset, chain.last):
            raise self.damage(end.size, f"its frames end at offset {chain.next_offset}, by what stands there")

    def close(self) -> None:
        """Let the file go."""
        self._file.close()


def check_joins(before: Part, after: Part) -> None:
    """Raise DamageError unless a part begins where the one before ends."""
    end = before.end
    assert end is not None
    if end.next_offset != after.header.base_offset:
        folder = after.path.rpartition("/")[0]
        raise missing(f"{folder}/{part_name(end.next_offset)}")
    chain = Chain(before.state)
    chain.next_offset = end.next_offset
    if end.last.index:
        chain.index, chain.term, chain.timestamp = end.last.index, end.last.term, end.last.timestamp
    try:
        chain.check_state(after.state)
    except EntryDamagedError as error:
        raise after.damage(HEADER_PREFIX, str(error)) from None


def missing(path: str) -> DamageError:
    """Return the error for a part that is gone."""
    remedy = "restore the file from another copy of the backup, or back up anew elsewhere"
    return DamageError(path, 0, "the part is missing", remedy=remedy)
