"""What a damaged log is known to have held: the file `damage` in the log's directory.

A member of a cluster gets back from the others what its disk lost. Until it has it, it must remember how
far its log once went, for it may have acknowledged all of that: it votes by this pair. The file is there
before anything is cut, and goes when the log is durably as up to date again (`docs/disk_format.md`).
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import ClassVar, Final

from construct import Const, Construct, Int16ub, Int64ub, Struct

from loghouse.errors import DamageError, MalformedMessageError
from loghouse.limits import ENTRY_HEADER_SIZE, STORE_HEADER_SIZE
from loghouse.protocol.address_book import decode_address_book
from loghouse.protocol.configuration import Configuration
from loghouse.protocol.entry import HEADER, crc32c, frame_seed
from loghouse.storage.directory import DataDirectory
from loghouse.storage.files import Files, OpenFile, read_file, replace_file
from loghouse.storage.opening import end_of_nonzero
from loghouse.storage.recovery import STORE, parse_name, segment_name
from loghouse.storage.start import read_start, read_state
from loghouse.storage.store import newest_watermark

NAME: Final = "damage"
MAGIC: Final = b"LOGHDAMG"
FORMAT_VERSION: Final = 1
FLAG_CUT: Final = 1


@dataclass(frozen=True, slots=True)
class Loss:
    """The last entry that a damaged log is known to have held.

    `is_cut` tells that the log ends before the damage by now; else the next start has to look for it.
    """

    WIRE: ClassVar[Construct] = Struct(
        "magic" / Const(MAGIC),
        "version" / Int16ub,
        "flags" / Int16ub,
        "last_index" / Int64ub,
        "last_term" / Int64ub,
    ).compile()
    SIZE: ClassVar[int] = 32  # the CRC behind the fields included

    last_index: int
    last_term: int
    is_cut: bool = False

    @property
    def pair(self) -> tuple[int, int]:
        """(term, index), in the order in which logs are compared."""
        return self.last_term, self.last_index

    def encode(self, seed: int) -> bytes:
        """Return the file's bytes, bound to the log by `seed` (`frame_seed`)."""
        flags = FLAG_CUT if self.is_cut else 0
        fields = _LOSS.pack(MAGIC, FORMAT_VERSION, flags, self.last_index, self.last_term)
        return fields + crc32c(fields, seed).to_bytes(4, "big")

    @classmethod
    def decode(cls, content: bytes, seed: int) -> Loss | None:
        """Parse the file; None when it is not one of this log and version."""
        fields, crc = content[:-4], content[-4:]
        if len(content) != cls.SIZE or crc32c(fields, seed).to_bytes(4, "big") != crc:
            return None
        magic, version, flags, last_index, last_term = _LOSS.unpack(fields)
        if (magic, version) != (MAGIC, FORMAT_VERSION) or flags & ~FLAG_CUT:
            return None
        return cls(last_index, last_term, bool(flags & FLAG_CUT))


_LOSS: Final = struct.Struct(">8sHHQQ")  # the twin of Loss.WIRE


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


def write_loss(files: Files, directory: str, seed: int, loss: Loss) -> None:
    """Remember what the log is known to have held; durable on return."""
    replace_file(files, directory, NAME, loss.encode(seed))


def remove_loss(files: Files, directory: str) -> None:
    """Forget it: the log is as up to date again. Durable on return."""
    files.unlink(f"{directory}/{NAME}")
    files.sync_directory(directory)


def _bases(files: Files, directory: str) -> list[int]:
    names = files.list_directory(directory)
    return sorted(found[0] for name in names if (found := parse_name(name)) and found[1] == STORE)


def last_known(files: Files, directory: str, seed: int) -> Loss:
    """Return the last entry that a damaged log held, as far as it may ever have acknowledged any.

    The last store's watermark tells it, and whole headers behind that are taken for acknowledged, too: the
    watermark may be a sync behind.

    Raises:
        DamageError: Nothing tells how far the log went.
    """
    for base in reversed(_bases(files, directory)):
        store = OpenFile.open(files, f"{directory}/{segment_name(base, STORE)}")
        watermark = newest_watermark(store.pread(STORE_HEADER_SIZE, 0), seed)
        if watermark is not None:
            index, term = _walk(
                store, seed, watermark.position, watermark.durable_index, watermark.durable_term
            )
            return Loss(index, term)
        if end_of_nonzero(store, STORE_HEADER_SIZE, store.size()) > STORE_HEADER_SIZE:
            break
        # A crash in creation: nothing was ever in it.
    raise DamageError(directory, 0, "nothing tells how far the log went", remedy=member_remedy(directory))


def _walk(store: OpenFile, seed: int, position: int, index: int, term: int) -> tuple[int, int]:
    """Follow whole headers from `position` on; return (index, term) of the last one."""
    while True:
        head = store.pread(ENTRY_HEADER_SIZE, position)
        if len(head) < ENTRY_HEADER_SIZE:
            return index, term
        crc, length, _, _, _, _, found_index, found_term, *_rest = HEADER.unpack(head)
        if crc32c(head[4:], seed) != crc or found_index != index + 1 or found_term < term:
            return index, term
        index, term = found_index, found_term
        position += length


def last_configuration(files: Files, directory: str, seed: int) -> Configuration:
    """Return the latest configuration that a log's small files tell, damaged or not; maybe an old one."""
    for base in reversed(_bases(files, directory)):
        state = read_state(files, directory, seed, base)
        if state is not None and state.configuration.members:
            return state.configuration
    try:
        return read_start(files, directory, seed, "")[0].configuration
    except DamageError:
        return Configuration()


def has_others(configuration: Configuration, name: str) -> bool:
    """Whether a configuration has members besides this node."""
    return any(member.name != name for member in configuration.members)


def knows_others(files: Files, data: DataDirectory, group: int) -> bool:
    """Whether a node has others to ask, by its address book or its log's small files."""
    name, seed = data.identity.node_name, frame_seed(data.identity.cluster_uuid, group)
    try:
        contacts = decode_address_book(data.read_members()).contacts
    except MalformedMessageError:
        contacts = ()
    if any(contact.name != name for contact in contacts):
        return True
    return has_others(last_configuration(files, data.log_directory(group), seed), name)
