"""Term and vote: two slots, so that no crash and no single damaged sector loses them.

A change is written and synced to one slot, then to the other, before any message
depends on it (Raft figure 2, "persistent state on all servers"). With no valid slot
the node must not start: term 0 would let it vote twice.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Final

from loghouse.errors import DamageError
from loghouse.protocol.entry import with_crc, without_crc
from loghouse.protocol.hard_state import HardState
from loghouse.storage.files import Files, OpenFile, read_file, replace_file, sync_written
from loghouse.storage.recovery import HARD_STATE_NAME

SLOT_SIZE: Final = 4096  # pages of their own
MAGIC: Final = b"LOGHTERM"


@dataclass(frozen=True, slots=True)
class Slot:
    """One slot; the highest valid counter counts."""

    SIZE: ClassVar[int] = 32  # the CRC behind the fields included

    counter: int
    state: HardState

    def encode(self, seed: int) -> bytes:
        """Return the slot's bytes, bound to the log by `seed` (`frame_seed`)."""
        return with_crc(_SLOT.pack(MAGIC, self.counter, self.state.term, self.state.vote), seed)

    @classmethod
    def decode(cls, raw: bytes, seed: int) -> Slot | None:
        """Parse a slot; None when it is not valid."""
        fields = without_crc(raw[: cls.SIZE], seed)
        if fields is None or len(raw) < cls.SIZE:
            return None
        magic, counter, term, vote = _SLOT.unpack(fields)
        return cls(counter, HardState(term, vote)) if magic == MAGIC else None


_SLOT: Final = struct.Struct(">8sQQI")  # magic, counter, term, vote


def replace_hard_state(files: Files, directory: str, seed: int, state: HardState) -> None:
    """Make the file anew, whatever it holds; it is durable on return."""
    slot = Slot(1, state).encode(seed).ljust(SLOT_SIZE, b"\0")
    replace_file(files, directory, HARD_STATE_NAME, slot * 2)


def read_slots(files: Files, directory: str, seed: int, remedy: str) -> list[Slot | None]:
    """Return both slots, None where one is not valid; reads only.

    Raises:
        DamageError: The file is gone, or has no valid slot.
    """
    path = f"{directory}/{HARD_STATE_NAME}"
    if not files.exists(path):
        raise DamageError(path, 0, "the file with term and vote is gone", remedy=remedy)
    raw = read_file(files, path, 2 * SLOT_SIZE)
    slots = [Slot.decode(raw[position : position + Slot.SIZE], seed) for position in (0, SLOT_SIZE)]
    if slots == [None, None]:
        raise DamageError(path, 0, "no valid slot with term and vote", remedy=remedy)
    return slots


def newest_slot(slots: Sequence[Slot | None]) -> Slot:
    """Return the slot that counts; at least one is valid."""
    return max((slot for slot in slots if slot), key=lambda slot: slot.counter)


class HardStateFile:
    """Reads once at `open`; `save` returns when both slots are durable."""

    def __init__(self, files: Files, directory: str, seed: int, *, remedy: str) -> None:
        """Read the file without changing it.

        Raises:
            DamageError: It is gone, or has no valid slot.
        """
        self._files = files
        self._seed = seed
        self._slots = read_slots(files, directory, seed, remedy)
        newest = newest_slot(self._slots)
        self._counter = newest.counter
        self._places = (0, SLOT_SIZE)
        self.state = newest.state
        self._file = OpenFile.open(files, f"{directory}/{HARD_STATE_NAME}", write=True)

    def heal(self) -> None:
        """Write both slots again when a crash or damage left them unequal."""
        if self._slots[0] != self._slots[1]:
            self.save(self.state)

    def save(self, state: HardState) -> None:
        """Make `state` durable in one slot, then in the other.

        Raises:
            OSError: When `is_full` says that it found no room, one slot is as it was or new, and it may be
                done again.
        """
        self._counter += 1
        slot = Slot(self._counter, state).encode(self._seed)
        first, second = self._places
        for place, other in ((first, second), (second, first)):
            # A write that found no room may have torn this slot: the next one begins here, and leaves the
            # good one alone.
            self._places = (place, other)
            self._files.pwritev(self._file.fd, [slot], place)
            sync_written(self._files, self._file.fd)
        self._places = (0, SLOT_SIZE)
        self.state = state

    def close(self) -> None:
        """Close the file."""
        self._file.close()
