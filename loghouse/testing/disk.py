"""A disk in memory that loses what was not synced: `SimDisk` implements `storage.files.Files`.

Each file has two images, what reads see and what is durable, and the operations between
them that no sync has covered; each directory likewise with its names. `crash(rng)` keeps any subset
of the uncovered operations, writes torn at 512 bytes. `crash_states` enumerates such states for
every prefix of a recorded trace. Faults: errors at the n-th operation, a full disk, a failed fsync
(pages are marked clean and stay readable, but are lost by a crash), bit rot.

Copies are made of written bytes only, never of whole files; copied disks share the bytes of each file
until one of them writes it.
"""

from __future__ import annotations

import errno
import itertools
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from random import Random

from loghouse.protocol.entry import Buffer

SECTOR_SIZE = 512


class PowerLossError(Exception):
    """The simulated machine lost its power; only `crash` helps."""


class MappingFaultError(Exception):
    """A map was read behind its file's end: on a real machine SIGBUS, the end of the process."""


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
class Fault:
    """An error to come: at the `after`-th operation of these kinds (0 is the next), then at `times` in all.

    `kinds` and `path_part` choose operations; empty chooses all. `error` may be any exception.
    """

    error: BaseException
    after: int = 0
    kinds: frozenset[str] = frozenset()
    path_part: str = ""
    times: int = 1

    def strikes(self, kind: str, path: str) -> bool:
        """Count the operation; return whether it fails."""
        if self.times <= 0 or (self.kinds and kind not in self.kinds) or self.path_part not in path:
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
        "sync_directory",
    }
)
SYNCS = frozenset({"fdatasync", "fsync", "sync_directory"})


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
        self.faults: list[Fault] = []
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
        if self.on_operation is not None:
            self.on_operation(kind, path, size)
        if kind in CHANGING:
            self.operations += 1
        for fault in self.faults:
            if fault.strikes(kind, path):
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
        """Open (or create) a file and lock it."""
        if not self.exists(path):
            self.close(self.create(path))
        if path in self._locked.values():
            raise BlockingIOError(errno.EAGAIN, "locked")
        self._operate("lock", path, 0, path)
        fd = self._number(self._file(path), path)
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
    ) -> Fault:
        """Let an operation fail: the `after`-th of these kinds from now (0 is the next).

        Args:
            error: An errno, or the exception itself (`PowerLossError()`).
            times: How many operations in a row; a dead disk has many.
        """
        made = disk_error(error) if isinstance(error, int) else error
        fault = Fault(made, after, frozenset(kinds), path_part, times)
        self.faults.append(fault)
        return fault

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
        return _digest(self.root)

    # --- crashes -------------------------------------------------------------------------------

    def stop_process(self) -> None:
        """End the process that used the disk (kill -9): open files and locks go, all bytes stay."""
        self._open.clear()
        self._locked.clear()
        self.faults.clear()
        self.trace = None

    def crash(self, rng: Random, *, keep: float = 0.5) -> None:
        """Lose the power: each operation that no sync covered is kept with probability `keep`, or torn."""

        def choose(change: FileChange | NameChange) -> list[FileChange | NameChange]:
            if rng.random() >= keep:
                return []
            if isinstance(change, FileChange) and change.kind == "write" and rng.random() < 0.5:
                return list(tear(change, lambda _: rng.random() < 0.5))
            return [change]

        self._lose_power(choose)

    def _lose_power(
        self, choose: Callable[[FileChange | NameChange], Sequence[FileChange | NameChange]]
    ) -> None:
        seen: set[int] = set()

        def visit(node: Node) -> None:
            if id(node) in seen:
                return
            seen.add(id(node))
            pending: list[FileChange | NameChange] = [*node.pending]
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

    def pending_changes(self) -> list[tuple[Node, FileChange | NameChange]]:
        """Return what no sync has covered, of every file and directory that a crash could leave a name to."""
        found: list[tuple[Node, FileChange | NameChange]] = []
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
        twin.root = _copy_node(self.root, memo)  # type: ignore[assignment]
        for fd, (file, path) in self._open.items():
            copied = _copy_node(file, memo)
            assert isinstance(copied, SimFile)
            twin._open[fd] = (copied, path)
        twin._locked = dict(self._locked)
        first = next(self._numbers)
        self._numbers, twin._numbers = itertools.count(first), itertools.count(first)
        return twin

    def crashed(self, kept: Sequence[tuple[Node, FileChange | NameChange]]) -> SimDisk:
        """Return a copy after a power loss that kept exactly these of `pending_changes` (some torn)."""
        memo: dict[int, Node] = {}
        twin = SimDisk(self.capacity)
        twin.root = _copy_node(self.root, memo, kept)  # type: ignore[assignment]
        return twin

    def start_trace(self) -> SimDisk:
        """Record changing operations from now on; return a copy of the disk to replay them from."""
        twin = self.copy()
        self.trace = []
        return twin


def _digest(directory: SimDirectory) -> int:
    return hash(
        frozenset(
            (
                name,
                isinstance(node, SimFile),
                node.seen.digest() if isinstance(node, SimFile) else _digest(node),
            )
            for name, node in directory.seen.items()
        )
    )


def _copy_node(
    node: Node, memo: dict[int, Node], kept: Sequence[tuple[Node, FileChange | NameChange]] | None = None
) -> Node:
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
        directory.durable = {name: _copy_node(child, memo, kept) for name, child in names.items()}
        directory.seen = dict(directory.durable)
        return directory
    directory.durable = {name: _copy_node(child, memo) for name, child in names.items()}
    directory.seen = {name: _copy_node(child, memo) for name, child in node.seen.items()}
    directory.pending = [
        NameChange(change.removed, change.added, _copy_node(change.node, memo) if change.node else None)
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


def crash_states(
    start: SimDisk,
    trace: Sequence[tuple[str, tuple[object, ...]]],
    *,
    changes_max: int = 5,
    sample: int = 24,
    rng: Random | None = None,
    expected: Callable[[int], object] = lambda done: None,
) -> Iterator[tuple[int, SimDisk]]:
    """Yield (operations done, disk after the power loss) for every prefix of a trace.

    For each prefix: every subset of the uncovered operations when there are at most `changes_max`
    (else none, all, each alone, all but each, and `sample` random subsets), and each write torn in
    several ways with the others kept. A disk of the same names and bytes as one that was yielded is
    yielded again only where `expected(operations done)`, what a loss there may leave, is another.
    """
    rng = rng or Random(0)
    disk = start.copy()
    expectation: object = None
    # Since the last sync, a choice of changes makes the same disk; `alive` keeps their ids from reuse.
    choices: set[tuple[object, ...]] = set()
    alive: list[object] = []
    digests: set[int] = set()
    for done in range(len(trace) + 1):
        kind, arguments = trace[done - 1] if done else ("create", ())
        if done:
            getattr(disk, kind)(*arguments)
        if kind not in CHANGING:
            continue
        if kind in SYNCS or expected(done) != expectation:
            choices.clear()
            alive.clear()
        if expected(done) != expectation:
            expectation = expected(done)
            digests.clear()
        pending = disk.pending_changes()
        alive.extend(pending)
        for name, kept in _choices(pending, changes_max, sample, rng):
            if name in choices:
                continue
            choices.add(name)
            crashed = disk.crashed(kept)
            digest = crashed.digest()
            if digest not in digests:
                digests.add(digest)
                yield done, crashed


def _choices(
    pending: Sequence[tuple[Node, FileChange | NameChange]], changes_max: int, sample: int, rng: Random
) -> Iterator[tuple[tuple[object, ...], list[tuple[Node, FileChange | NameChange]]]]:
    """Yield what a power loss may keep of the changes, each with a name that tells it from others."""
    count = len(pending)
    if count <= changes_max:
        masks = set(range(2**count))
    else:
        everything = 2**count - 1
        masks = {0, everything}
        masks |= {1 << place for place in range(count)}
        masks |= {everything ^ (1 << place) for place in range(count)}
        masks |= {rng.getrandbits(count) for _ in range(sample)}
    for mask in sorted(masks):
        kept = [item for place, item in enumerate(pending) if mask >> place & 1]
        yield (frozenset(id(change) for _, change in kept),), kept
    everyone = frozenset(id(change) for _, change in pending)
    for place, (node, change) in enumerate(pending):
        if not isinstance(change, FileChange) or change.kind != "write":
            continue
        sectors = (change.position + len(change.content) - 1) // SECTOR_SIZE - change.position // SECTOR_SIZE
        if not change.content or sectors < 1:
            continue
        for number, keep in enumerate(_ways_to_tear(sectors)):
            torn = [(node, part) for part in tear(change, keep)]
            yield (everyone, id(change), number), [*pending[:place], *torn, *pending[place + 1 :]]


def _ways_to_tear(last: int) -> tuple[Callable[[int], bool], ...]:
    """Return which sectors of a write stay, in several ways; `last` is the number of the last."""
    return (
        lambda number: number == 0,
        lambda number: number > 0,
        lambda number: number < last,
        lambda number: number % 2 == 0,
    )
