"""What a log held when it was closed: the file `held`, a witness beside the files that hold it.

A store tells how far it was durable, and nothing else tells it of a store that is gone, or that was put back
as it was a week ago. So a clean stop writes down the last entry, and term and vote. The next start compares
before it changes anything, and removes the file before it writes. While a log is being repaired the file
stays, with what the log once held, so that the loss of `damage` is noticed, too (`docs/disk_format.md`).
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from typing import ClassVar, Final

from loghouse.protocol.entry import with_crc, without_crc
from loghouse.protocol.hard_state import HardState
from loghouse.storage.files import Files, read_file, remove_file, replace_file

NAME: Final = "held"
MAGIC: Final = b"LOGHHELD"
FORMAT_VERSION: Final = 1
FLAG_CLOSED: Final = 1


@dataclass(frozen=True, slots=True)
class Held:
    """The last entry a log held, and its term and vote when `is_closed`: nothing was written since."""

    SIZE: ClassVar[int] = 44  # the CRC behind the fields included

    last_index: int
    last_term: int
    hard_state: HardState = field(default_factory=HardState)
    is_closed: bool = False

    @property
    def pair(self) -> tuple[int, int]:
        """(term, index), in the order in which logs are compared."""
        return self.last_term, self.last_index

    def encode(self, seed: int) -> bytes:
        """Return the file's bytes, bound to the log by `seed` (`frame_seed`)."""
        flags, state = FLAG_CLOSED if self.is_closed else 0, self.hard_state
        end = (self.last_index, self.last_term)
        return with_crc(_HELD.pack(MAGIC, FORMAT_VERSION, flags, *end, state.term, state.vote), seed)

    @classmethod
    def decode(cls, content: bytes, seed: int) -> Held | None:
        """Parse the file; None when it is not one of this log and version."""
        fields = without_crc(content, seed)
        if fields is None or len(content) != cls.SIZE:
            return None
        magic, version, flags, last_index, last_term, term, vote = _HELD.unpack(fields)
        if (magic, version) != (MAGIC, FORMAT_VERSION) or flags & ~FLAG_CLOSED:
            return None
        return cls(last_index, last_term, HardState(term, vote), bool(flags & FLAG_CLOSED))


_HELD: Final = struct.Struct(">8sHHQQQI")  # magic, version, flags, index and term, term, vote


def read_held(files: Files, directory: str, seed: int) -> Held | None:
    """Return what the file says; None when there is none that is good: nothing depends on it."""
    path = f"{directory}/{NAME}"
    return Held.decode(read_file(files, path, Held.SIZE), seed) if files.exists(path) else None


def write_held(files: Files, directory: str, seed: int, held: Held) -> None:
    """Write it down; durable on return."""
    replace_file(files, directory, NAME, held.encode(seed))


def remove_held(files: Files, directory: str) -> None:
    """Remove the file when there is one; the caller syncs the directory."""
    remove_file(files, f"{directory}/{NAME}")


def outdated_problem(state: HardState, *, last_term: int, held: Held | None) -> str:
    """Say why term and vote cannot be the newest ones; "" when nothing contradicts them.

    Args:
        last_term: The highest term of an entry that the log is known to have held.
    """
    if state.term < last_term:
        return f"term {state.term}, but there are entries of term {last_term}: it is an older copy"
    if held is not None and held.is_closed:
        closed = held.hard_state
        if state.term < closed.term or (
            state.term == closed.term and closed.vote and state.vote != closed.vote
        ):
            return (
                f"term {state.term} and vote {state.vote}, but it was term {closed.term} and vote "
                f"{closed.vote} when the log was closed: it is an older copy"
            )
    return ""
