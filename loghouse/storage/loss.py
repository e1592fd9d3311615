"""What a damaged log is known to have held: the file `damage` in the log's directory.

A member of a cluster gets back from the others what its disk lost. Until it has it, it must remember how
far its log once went, for it may have acknowledged all of that: it votes by this pair. The file is there
before anything is cut, and goes when the log is durably as up to date again (`docs/disk_format.md`).
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import ClassVar, Final

from loghouse.errors import DamageError
from loghouse.limits import UINT64_MAX
from loghouse.protocol.entry import with_crc, without_crc
from loghouse.protocol.hard_state import HardState
from loghouse.storage.files import Files, read_file, replace_file
from loghouse.storage.held import Held, remove_held, write_held

NAME: Final = "damage"
MAGIC: Final = b"LOGHDAMG"
FORMAT_VERSION: Final = 1
FLAG_CUT: Final = 1
UNKNOWN_INDEX: Final = UINT64_MAX  # no entry has it: the log held more than it holds, how much is not known


@dataclass(frozen=True, slots=True)
class Loss:
    """The last entry that a damaged log is known to have held.

    `is_cut` tells that the log ends before the damage by now; else the next start has to look for it.
    """

    SIZE: ClassVar[int] = 32  # the CRC behind the fields included

    last_index: int
    last_term: int
    is_cut: bool = False

    @property
    def pair(self) -> tuple[int, int]:
        """(term, index), in the order in which logs are compared."""
        return self.last_term, self.last_index

    @property
    def end_text(self) -> str:
        """How far the log went, for people."""
        if self.last_index == UNKNOWN_INDEX:
            return f"entries that nothing on the disk counts, up to term {self.last_term}"
        return f"entry {self.last_index}"

    def encode(self, seed: int) -> bytes:
        """Return the file's bytes, bound to the log by `seed` (`frame_seed`)."""
        flags = FLAG_CUT if self.is_cut else 0
        return with_crc(_LOSS.pack(MAGIC, FORMAT_VERSION, flags, self.last_index, self.last_term), seed)

    @classmethod
    def decode(cls, content: bytes, seed: int) -> Loss | None:
        """Parse the file; None when it is not one of this log and version."""
        fields = without_crc(content, seed)
        if fields is None or len(content) != cls.SIZE:
            return None
        magic, version, flags, last_index, last_term = _LOSS.unpack(fields)
        if (magic, version) != (MAGIC, FORMAT_VERSION) or flags & ~FLAG_CUT:
            return None
        return cls(last_index, last_term, bool(flags & FLAG_CUT))


_LOSS: Final = struct.Struct(">8sHHQQ")  # magic, version, flags, index and term


def member_remedy(directory: str) -> str:
    """Return what to do about damage in DATA_DIR/logs/<group> that the others cannot mend for a member."""
    data_directory = directory.rsplit("/", 2)[0]
    return (
        f"a member of a cluster cannot go on without it; move {data_directory} away and start the node with "
        f"an empty one: it joins its cluster again and gets everything from the others"
    )


def read_loss(files: Files, directory: str, seed: int) -> Loss | None:
    """Return what the log is known to have held, None when nothing is lost.

    Raises:
        DamageError: The file itself is damaged, so that this is not known any more.
    """
    path = f"{directory}/{NAME}"
    if not files.exists(path):
        return None
    loss = Loss.decode(read_file(files, path, Loss.SIZE), seed)
    if loss is None:
        problem = "the file that says what the log once held is not valid"
        raise DamageError(path, 0, problem, remedy=member_remedy(directory))
    return loss


def note_held(files: Files, directory: str, seed: int, pair: tuple[int, int], hard_state: HardState) -> None:
    """Write down what a log holds that is closed, and once held, for the next start to compare.

    Args:
        pair: (term, index) of its last entry.
    """
    loss = read_loss(files, directory, seed)
    term, index = max(pair, loss.pair) if loss is not None else pair
    write_held(files, directory, seed, Held(index, term, hard_state, is_closed=True))


def write_loss(files: Files, directory: str, seed: int, loss: Loss) -> None:
    """Remember what the log is known to have held; durable on return."""
    replace_file(files, directory, NAME, loss.encode(seed))


def remove_loss(files: Files, directory: str) -> None:
    """Forget it: the log is as up to date again. Durable on return."""
    # First what would be taken for the same loss without this file.
    remove_held(files, directory)
    files.sync_directory(directory)
    files.unlink(f"{directory}/{NAME}")
    files.sync_directory(directory)
