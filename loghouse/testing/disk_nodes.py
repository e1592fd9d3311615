"""Files and directories of a disk in memory: what reads see, what is durable, and the changes between.

Copies are made of written bytes only, never of whole files; copied files share their bytes until one of
them is written.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

SECTOR_SIZE = 512


@dataclass(slots=True)
class Image:
    """Bytes of a file; those behind `data` up to `size` are zero."""

    data: bytearray = field(default_factory=bytearray)
    size: int = 0
    _is_shared: bool = False  # another image may have the same `data`: it is copied before it is changed
    _digest: int | None = None

    def _begin_change(self) -> None:
        self._digest = None
        if self._is_shared:
            self.data = bytearray(self.data)
            self._is_shared = False

    def write(self, position: int, content: bytes) -> None:
        """Write, growing the file as needed."""
        self._begin_change()
        end = position + len(content)
        if len(self.data) < position:
            self.data.extend(bytes(position - len(self.data)))
        self.data[position:end] = content
        self.size = max(self.size, end)

    def truncate(self, size: int) -> None:
        """Cut or extend with zeroes."""
        self._begin_change()
        del self.data[size:]
        self.size = size

    def grow(self, size: int) -> None:
        """Extend with zeroes when shorter."""
        self._digest = None
        self.size = max(self.size, size)

    def read(self, size: int, position: int) -> bytes:
        """Return bytes, fewer at the end."""
        size = min(size, self.size - position)
        if size <= 0:
            return b""
        found = bytes(self.data[position : position + size])
        return found if len(found) == size else found + bytes(size - len(found))

    def copy(self) -> Image:
        """Return an independent copy, in constant time."""
        self._is_shared = True
        return Image(self.data, self.size, True, self._digest)

    def digest(self) -> int:
        """Return a number that images of the same bytes have in common, and others hardly ever."""
        if self._digest is None:
            self._digest = hash((self.size, bytes(self.data.rstrip(b"\0"))))
        return self._digest


@dataclass(frozen=True, slots=True)
class FileChange:
    """An operation on a file's bytes: `kind` is write, truncate or grow."""

    kind: str
    position: int
    content: bytes = b""

    @property
    def is_clearing(self) -> bool:
        """Whether it writes zeroes alone: no entry is lost with them, for none has only zeroes."""
        return self.kind == "write" and self.content.count(0) == len(self.content)

    def apply(self, image: Image) -> None:
        """Do it to an image."""
        if self.kind == "write":
            image.write(self.position, self.content)
        elif self.kind == "truncate":
            image.truncate(self.position)
        else:
            image.grow(self.position)


class SimFile:
    """A file: what reads see, what is durable, and the changes between."""

    __slots__ = ("durable", "pending", "seen")

    def __init__(self, seen: Image | None = None, durable: Image | None = None) -> None:
        self.seen = seen or Image()
        self.durable = durable or Image()
        self.pending: list[FileChange] = []

    def change(self, change: FileChange) -> None:
        """Do a change that no sync has covered yet."""
        change.apply(self.seen)
        self.pending.append(change)

    def sync(self) -> None:
        """Make all changes durable."""
        for change in self.pending:
            change.apply(self.durable)
        self.pending.clear()

    def fail_sync(self) -> None:
        """Mark the pages clean without writing them: still readable, gone after a crash."""
        self.pending.clear()


@dataclass(frozen=True, slots=True)
class NameChange:
    """An operation on a directory: `removed` loses its name, `added` gets it (a rename does both)."""

    removed: str
    added: str
    node: Node | None

    def apply(self, names: dict[str, Node]) -> None:
        """Do it to a directory's names."""
        if self.removed:
            names.pop(self.removed, None)
        if self.added and self.node is not None:
            names[self.added] = self.node


class SimDirectory:
    """A directory: the names that are seen, those that are durable, and the changes between."""

    __slots__ = ("durable", "pending", "seen")

    def __init__(self) -> None:
        self.seen: dict[str, Node] = {}
        self.durable: dict[str, Node] = {}
        self.pending: list[NameChange] = []

    def change(self, change: NameChange) -> None:
        """Do a change that no sync has covered yet."""
        change.apply(self.seen)
        self.pending.append(change)

    def sync(self) -> None:
        """Make all names durable."""
        for change in self.pending:
            change.apply(self.durable)
        self.pending.clear()


Node = SimFile | SimDirectory
Change = FileChange | NameChange


def names_digest(directory: SimDirectory) -> int:
    """Return a number that directories of the same names and bytes have in common, and others hardly ever."""
    return hash(
        frozenset(
            (
                name,
                isinstance(node, SimFile),
                node.seen.digest() if isinstance(node, SimFile) else names_digest(node),
            )
            for name, node in directory.seen.items()
        )
    )


def copy_node(node: Node, memo: dict[int, Node], kept: Sequence[tuple[Node, Change]] | None = None) -> Node:
    """Copy a file or directory with all below; with `kept`, as a power loss leaves it."""
    if id(node) in memo:
        return memo[id(node)]
    if isinstance(node, SimFile):
        durable = node.durable.copy()
        if kept is None:
            file = SimFile(node.seen.copy(), durable)
            file.pending = list(node.pending)
        else:
            for changed, change in kept:
                if changed is node and isinstance(change, FileChange):
                    change.apply(durable)
            file = SimFile(durable.copy(), durable)
        memo[id(node)] = file
        return file
    directory = SimDirectory()
    memo[id(node)] = directory
    names = dict(node.durable)
    if kept is not None:
        for changed, change in kept:
            if changed is node and isinstance(change, NameChange):
                change.apply(names)
        directory.durable = {name: copy_node(child, memo, kept) for name, child in names.items()}
        directory.seen = dict(directory.durable)
        return directory
    directory.durable = {name: copy_node(child, memo) for name, child in names.items()}
    directory.seen = {name: copy_node(child, memo) for name, child in node.seen.items()}
    directory.pending = [
        NameChange(change.removed, change.added, copy_node(change.node, memo) if change.node else None)
        for change in node.pending
    ]
    return directory


def tear(change: FileChange, keep: Callable[[int], bool]) -> Iterator[FileChange]:
    """Yield the sectors of a write for which `keep(number of the sector in the write)` holds."""
    start, end, number = change.position, change.position + len(change.content), 0
    while start < end:
        stop = min((start // SECTOR_SIZE + 1) * SECTOR_SIZE, end)
        if keep(number):
            offset = start - change.position
            yield FileChange("write", start, change.content[offset : offset + stop - start])
        start, number = stop, number + 1
