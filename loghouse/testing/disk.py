"""A disk in memory that loses what was not synced: `SimDisk` implements `storage.files.Files`.

Each file has two images, what reads see and what is durable, and the operations between
them that no sync has covered; each directory likewise with its names. `crash(rng)` keeps any subset
of the uncovered operations, writes torn at 512 bytes; `testing.crash_states` enumerates such states for
every prefix of a recorded trace. Faults: errors at the n-th operation, a full disk, a failed fsync
(pages are marked clean and stay readable, but are lost by a crash), bit rot.
"""

from __future__ import annotations

import errno
import itertools
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from random import Random
from typing import Final

from loghouse.limits import STORE_HEADER_SIZE
from loghouse.protocol.entry import Buffer
from loghouse.testing.disk_nodes import (
    Change,
    FileChange,
    NameChange,
    Node,
    SimDirectory,
    SimFile,
    copy_node,
    names_digest,
    tear,
)


class PowerLossError(Exception):
    """The simulated machine lost its power; only `crash` helps."""


class MappingFaultError(Exception):
    """A map was read behind its file's end: on a real machine SIGBUS, the end of the process."""


class SimMapping:
    """A read-only view of a file as it is now."""

    def __init__(self, file: SimFile, size: int) -> None:
        self._file = file
        self._size = size

    def __getitem__(self, where: slice) -> bytes:
        start, stop, _ = where.indices(self._size)
        if stop > self._file.seen.size and stop > start:
            raise MappingFaultError(f"bytes {start} to {stop} of a file of {self._file.seen.size}")
        return self._file.seen.read(max(stop - start, 0), start)

    def __len__(self) -> int:
        return self._size


@dataclass(slots=True)
class DiskFault:
    """An error to come: at the `after`-th operation of these kinds (0 is the next), then at `times` in all.

    `kinds` and `path_part` choose operations, and `places` the bytes of a write; empty chooses all. `error`
    may be any exception.
    """

    error: BaseException
    after: int = 0
    kinds: frozenset[str] = frozenset()
    path_part: str = ""
    times: int = 1
    places: range | None = None

    def strikes(self, kind: str, path: str, position: int = 0) -> bool:
        """Count the operation; return whether it fails."""
        if self.times <= 0 or (self.kinds and kind not in self.kinds) or self.path_part not in path:
            return False
        if self.places is not None and kind == "pwritev" and position not in self.places:
            return False
        if self.after > 0:
            self.after -= 1
            return False
        self.times -= 1
        return True


def disk_error(number: int) -> OSError:
    """Return the error that the system raises with this errno."""
    return OSError(number, os.strerror(number))


# What changes the disk or its durable state; the rest only looks.
CHANGING = frozenset(
    {
        "create",
        "pwritev",
        "fdatasync",
        "fsync",
        "allocate",
        "truncate",
        "rename",
        "unlink",
        "make_directory",
        "remove_directory",
        "sync_directory",
    }
)
SYNCS = frozenset({"fdatasync", "fsync", "sync_directory"})


_TAKING: Final = ("create", "allocate", "pwritev")
FILLED: Final[Mapping[str, tuple[str, tuple[str, ...], range | None]]] = {
    "segment": (".store", _TAKING, range(STORE_HEADER_SIZE, 1 << 62)),
    "new segment": (".store", ("create", "allocate"), None),
    "watermark": (".store", ("pwritev",), range(STORE_HEADER_SIZE)),
    "index": (".index", _TAKING, None),
    "state": (".state", _TAKING, None),
    "start": ("/start", _TAKING, None),
    "hard state": ("/hard_state", _TAKING, None),
    "members": ("/members", _TAKING, None),
    "reserve": ("/reserve", _TAKING, None),
    "new files": ("", ("create", "allocate"), None),
    "everything": ("", _TAKING, None),
}
"""What may find no room: a part of its path, the operations that take room, and where in the file."""


class SimDisk:
    """A disk in memory with an honest account of what is durable. Implements `storage.files.Files`.

    Attributes:
        capacity: Bytes of all files together; None is without limit.
        faults: Errors to come.
        trace: Changing operations since `start_trace`, None before.
        on_operation: Called before each operation with its kind, path and size in bytes, for latency and
            counting; what it raises is raised.
        operations: Changing operations so far.
    """

    def __init__(self, capacity: int | None = None) -> None:
        self.capacity = capacity
        self.root = SimDirectory()
        self.faults: list[DiskFault] = []
        self.trace: list[tuple[str, tuple[object, ...]]] | None = None
        self.on_operation: Callable[[str, str, int], None] | None = None
        self.operations = 0
        self._open: dict[int, tuple[SimFile, str]] = {}
        self._locked: dict[int, str] = {}
        self._numbers = itertools.count(3)

    # --- finding ---------------------------------------------------------------------

    def _parts(self, path: str) -> list[str]:
        return [part for part in path.split("/") if part and part != "."]

    def _node(self, path: str) -> Node:
        node: Node = self.root
        for part in self._parts(path):
            found = node.seen.get(part) if isinstance(node, SimDirectory) else None
            if found is None:
                raise disk_error(errno.ENOENT)
            node = found
        return node

    def _file(self, path: str) -> SimFile:
        node = self._node(path)
        if not isinstance(node, SimFile):
            raise disk_error(errno.EISDIR)
        return node

    def _directory(self, path: str) -> SimDirectory:
        node = self._node(path)
        if not isinstance(node, SimDirectory):
            raise disk_error(errno.ENOTDIR)
        return node

    def _parent(self, path: str) -> tuple[SimDirectory, str]:
        *parents, name = self._parts(path)
        return self._directory("/".join(parents)), name

    def _opened(self, fd: int) -> tuple[SimFile, str]:
        try:
            return self._open[fd]
        except KeyError:
            raise disk_error(errno.EBADF) from None

    def _operate(self, kind: str, path: str, size: int, *arguments: object) -> None:
        """Count, delay, record and fail an operation, before it is done."""
        position = arguments[-1] if kind == "pwritev" else 0
        assert isinstance(position, int)
        if self.on_operation is not None:
            self.on_operation(kind, path, size)
        if kind in CHANGING:
            self.operations += 1
        for fault in self.faults:
            if fault.strikes(kind, path, position):
                raise fault.error
        if self.trace is not None and (kind in CHANGING or kind in ("open", "close", "lock")):
            self.trace.append((kind, arguments))

    def _number(self, file: SimFile, path: str) -> int:
        fd = next(self._numbers)
        self._open[fd] = (file, path)
        return fd

    # --- Files ---------------------------------------------------------------------------

    def open(self, path: str, *, write: bool = False) -> int:
        """Open an existing file and return its number."""
        self._operate("open", path, 0, path)
        return self._number(self._file(path), path)

    def create(self, path: str) -> int:
        """Create a file that must not exist."""
        parent, name = self._parent(path)
        self._operate("create", path, 0, path)
        if name in parent.seen:
            raise disk_error(errno.EEXIST)
        file = SimFile()
        parent.change(NameChange("", name, file))
        return self._number(file, path)

    def close(self, fd: int) -> None:
        """Close a file number; numbers from before a crash are closed already."""
        if self.trace is not None:
            self.trace.append(("close", (fd,)))
        self._open.pop(fd, None)
        self._locked.pop(fd, None)

    def size(self, fd: int) -> int:
        """Return the file's size in bytes."""
        return self._opened(fd)[0].seen.size

    def pread(self, fd: int, size: int, position: int) -> bytes:
        """Return `size` bytes from `position`; fewer only at the end of the file."""
        file, path = self._opened(fd)
        self._operate("pread", path, size)
        return file.seen.read(size, position)

    def pwritev(self, fd: int, buffers: Sequence[Buffer], position: int) -> None:
        """Write all buffers; a failing write leaves half of its bytes."""
        file, path = self._opened(fd)
        content = b"".join(buffers)
        try:
            self._operate("pwritev", path, len(content), fd, (content,), position)
            self._take_room(file, position + len(content))
        except OSError:
            file.change(FileChange("write", position, content[: len(content) // 2]))
            raise
        file.change(FileChange("write", position, content))

    def fdatasync(self, fd: int) -> None:
        """Make the file's bytes and size durable."""
        self._sync("fdatasync", fd)

    def fsync(self, fd: int) -> None:
        """Make the file durable; not its name."""
        self._sync("fsync", fd)

    def _sync(self, kind: str, fd: int) -> None:
        file, path = self._opened(fd)
        try:
            self._operate(kind, path, 0, fd)
        except OSError:
            file.fail_sync()
            raise
        file.sync()

    def drop_cached(self, fd: int, position: int, size: int) -> None:
        """Nothing: reads see what was written, and what is durable counts after a crash."""

    begin_writing = drop_cached  # a hint that changes nothing either

    def allocate(self, fd: int, position: int, size: int) -> None:
        """Grow the file to hold these bytes."""
        file, path = self._opened(fd)
        self._operate("allocate", path, size, fd, position, size)
        self._take_room(file, position + size)
        if position + size > file.seen.size:
            file.change(FileChange("grow", position + size))

    def truncate(self, fd: int, size: int) -> None:
        """Cut the file to `size` bytes."""
        file, path = self._opened(fd)
        self._operate("truncate", path, size, fd, size)
        file.change(FileChange("truncate", size))

    def map(self, fd: int, size: int) -> SimMapping:
        """Return a read-only view of the file's first `size` bytes."""
        file, _ = self._opened(fd)
        if size < 1 or size > file.seen.size:
            raise ValueError("mmap length is greater than file size")
        return SimMapping(file, size)

    def rename(self, source: str, target: str) -> None:
        """Give a file another name in its directory, replacing what had it."""
        self._operate("rename", target, 0, source, target)
        parent, name = self._parent(source)
        target_parent, target_name = self._parent(target)
        if parent is not target_parent:
            raise disk_error(errno.EXDEV)
        parent.change(NameChange(name, target_name, self._node(source)))

    def unlink(self, path: str) -> None:
        """Remove a file's name; who has it open keeps its bytes."""
        self._operate("unlink", path, 0, path)
        self._file(path)
        parent, name = self._parent(path)
        parent.change(NameChange(name, "", None))

    def list_directory(self, path: str) -> list[str]:
        """Return the names in a directory, sorted."""
        return sorted(self._directory(path).seen)

    def make_directory(self, path: str) -> None:
        """Make a directory."""
        self._operate("make_directory", path, 0, path)
        parent, name = self._parent(path)
        if name in parent.seen:
            raise disk_error(errno.EEXIST)
        parent.change(NameChange("", name, SimDirectory()))

    def remove_directory(self, path: str) -> None:
        """Remove an empty directory."""
        self._operate("remove_directory", path, 0, path)
        if self._directory(path).seen:
            raise disk_error(errno.ENOTEMPTY)
        parent, name = self._parent(path)
        parent.change(NameChange(name, "", None))

    def sync_directory(self, path: str) -> None:
        """Make a directory's names durable."""
        directory = self._directory(path)
        self._operate("sync_directory", path, 0, path)
        directory.sync()

    def exists(self, path: str) -> bool:
        """Return whether the path names something."""
        try:
            self._node(path)
        except OSError:
            return False
        return True

    def lock(self, path: str) -> int:
        """Open a file (made when it is not there) or a directory, and lock it."""
        if not self.exists(path):
            self.close(self.create(path))
        if path in self._locked.values():
            raise BlockingIOError(errno.EAGAIN, "locked")
        self._operate("lock", path, 0, path)
        node = self._node(path)
        fd = self._number(node, path) if isinstance(node, SimFile) else next(self._numbers)
        self._locked[fd] = path
        return fd

    def free_size(self, path: str) -> int:
        """Return the free bytes of the disk."""
        return (2**62 if self.capacity is None else self.capacity) - self.used_size()

    # --- room -----------------------------------------------------------------------------

    def files(self, directory: SimDirectory | None = None, prefix: str = "") -> Iterator[tuple[str, SimFile]]:
        """Yield every file that has a name, with its path."""
        for name, node in sorted((directory or self.root).seen.items()):
            if isinstance(node, SimFile):
                yield f"{prefix}/{name}", node
            else:
                yield from self.files(node, f"{prefix}/{name}")

    def used_size(self) -> int:
        """Return the bytes that files take; unlinked ones that are still open included."""
        files = {id(file): file for _, file in self.files()}
        files.update({id(file): file for file, _ in self._open.values()})
        return sum(file.seen.size for file in files.values())

    def _take_room(self, file: SimFile, size: int) -> None:
        growth = size - file.seen.size
        if self.capacity is not None and growth > 0 and self.used_size() + growth > self.capacity:
            raise disk_error(errno.ENOSPC)

    # --- faults -----------------------------------------------------------------------------

    def fail(
        self,
        error: int | BaseException,
        *,
        after: int = 0,
        kinds: Sequence[str] = (),
        path_part: str = "",
        times: int = 1,
    ) -> DiskFault:
        """Let an operation fail: the `after`-th of these kinds from now (0 is the next).

        Args:
            error: An errno, or the exception itself (`PowerLossError()`).
            times: How many operations in a row; a dead disk has many.
        """
        made = disk_error(error) if isinstance(error, int) else error
        fault = DiskFault(made, after, frozenset(kinds), path_part, times)
        self.faults.append(fault)
        return fault

    def fill(self, what: str, error: int = errno.ENOSPC) -> Callable[[], None]:
        """Leave no room for one of `FILLED`, even where it had some (a disk that copies on write, a quota).

        Returns what frees the disk.
        """
        path_part, kinds, places = FILLED[what]
        fault = DiskFault(disk_error(error), 0, frozenset(kinds), path_part, 1 << 62, places)
        self.faults.append(fault)
        return lambda: self.faults.remove(fault)

    def flip(self, path: str, bit: int) -> None:
        """Flip one bit of a file, as rot does: in what reads see and in what is durable."""
        file = self._file(path)
        position, mask = bit // 8, 1 << bit % 8
        for image in (file.seen, file.durable):
            if position < image.size:
                image.write(position, bytes([image.read(1, position)[0] ^ mask]))

    def content(self, path: str) -> bytes:
        """Return a file's bytes as reads see them."""
        file = self._file(path)
        return file.seen.read(file.seen.size, 0)

    def replace(self, path: str, content: bytes) -> None:
        """Put a durable file there, behind everybody's back."""
        parent, name = self._parent(path)
        file = SimFile()
        for image in (file.seen, file.durable):
            image.write(0, content)
        parent.seen[name] = parent.durable[name] = file

    def contents(self) -> dict[str, bytes]:
        """Return every named file's bytes: for comparing before and after."""
        return {path: file.seen.read(file.seen.size, 0) for path, file in self.files()}

    def digest(self) -> int:
        """Return a number that disks of the same names and bytes have in common, and others hardly ever."""
        return names_digest(self.root)

    # --- crashes -------------------------------------------------------------------------------

    def stop_process(self) -> None:
        """End the process that used the disk (kill -9): open files and locks go, all bytes stay."""
        self._open.clear()
        self._locked.clear()
        self.faults.clear()
        self.trace = None

    def crash(self, rng: Random, *, keep: float = 0.5) -> None:
        """Lose the power: each operation that no sync covered is kept with probability `keep`, or torn."""

        def choose(change: Change) -> list[Change]:
            if rng.random() >= keep:
                return []
            if isinstance(change, FileChange) and change.kind == "write" and rng.random() < 0.5:
                return list(tear(change, lambda _: rng.random() < 0.5))
            return [change]

        seen: set[int] = set()

        def visit(node: Node) -> None:
            if id(node) in seen:
                return
            seen.add(id(node))
            pending: list[Change] = [*node.pending]
            for change in pending:
                for kept in choose(change):
                    kept.apply(node.durable)  # type: ignore[arg-type]
            node.pending.clear()
            if isinstance(node, SimFile):
                node.seen = node.durable.copy()
                return
            node.seen = dict(node.durable)
            for child in list(node.seen.values()):
                visit(child)

        # In the order of `pending_changes`: every file and directory that can be reached or has changes.
        visit(self.root)
        self.stop_process()

    def pending_changes(self) -> list[tuple[Node, Change]]:
        """Return what no sync has covered, of every file and directory that a crash could leave a name to."""
        found: list[tuple[Node, Change]] = []
        seen: set[int] = set()

        def visit(node: Node) -> None:
            if id(node) in seen:
                return
            seen.add(id(node))
            found.extend((node, change) for change in node.pending)
            if isinstance(node, SimDirectory):
                added = [change.node for change in node.pending if change.node is not None]
                for child in (*node.seen.values(), *node.durable.values(), *added):
                    visit(child)

        visit(self.root)
        return found

    def copy(self) -> SimDisk:
        """Return an independent disk of the same contents and open numbers; no faults, no trace."""
        twin = SimDisk(self.capacity)
        memo: dict[int, Node] = {}
        twin.root = copy_node(self.root, memo)  # type: ignore[assignment]
        for fd, (file, path) in self._open.items():
            copied = copy_node(file, memo)
            assert isinstance(copied, SimFile)
            twin._open[fd] = (copied, path)
        twin._locked = dict(self._locked)
        first = next(self._numbers)
        self._numbers, twin._numbers = itertools.count(first), itertools.count(first)
        return twin

    def crashed(self, kept: Sequence[tuple[Node, Change]]) -> SimDisk:
        """Return a copy after a power loss that kept exactly these of `pending_changes` (some torn)."""
        memo: dict[int, Node] = {}
        twin = SimDisk(self.capacity)
        twin.root = copy_node(self.root, memo, kept)  # type: ignore[assignment]
        return twin

    def start_trace(self) -> SimDisk:
        """Record changing operations from now on; return a copy of the disk to replay them from."""
        twin = self.copy()
        self.trace = []
        return twin
