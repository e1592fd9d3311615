"""The seam between storage and the disk: `Files`, and the real one, `OsFiles`.

Storage reaches files only through this, so that a simulated disk
(`loghouse.testing.disk.SimDisk`) can stand in. Files are named by paths and, once
open, by small integers. Every method may raise `OSError`; what an error means is
decided by the caller (`storage/log.py`).
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import mmap
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Final, Protocol

from loghouse.errors import DiskFailedError, DiskFullError
from loghouse.limits import IOV_MAX, KIB, MIB
from loghouse.protocol.entry import Buffer

ZEROES: Final = bytes(1 * MIB)
LOOK_SIZE: Final = 64 * KIB  # read at once: the memory of larger blocks comes from the kernel each time

# What says "no room" when space is asked for: a full disk, a quota, or the process's file size limit.
FULL_ERRNOS: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


# What the process or the machine is short of for now: numbers for open files, memory.
SCARCE_ERRNOS: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM})


def is_full(error: OSError) -> bool:
    """Whether an error says that there was no room: what was to be written may be written again later."""
    return error.errno in FULL_ERRNOS or error.errno in SCARCE_ERRNOS


def check_room(error: OSError, directory: str) -> None:
    """Raise DiskFullError, saying what is short, when `is_full` says so of an error."""
    if is_full(error):
        why = f" ({error.strerror})" if error.errno in SCARCE_ERRNOS else ""
        raise DiskFullError(f"{directory}{why}") from error


@contextmanager
def disk_work(directory: str, what: str) -> Iterator[None]:
    """Make an error of the disk one of ours; for what is done now and then: each use costs some calls.

    Raises:
        DiskFullError: There was no room.
        DiskFailedError: The disk refused; it says what could not be done.
    """
    try:
        yield
    except OSError as error:
        check_room(error, directory)
        raise DiskFailedError(f"cannot {what}: {error}") from error


class Mapping(Protocol):
    """A read-only view of a file's first bytes. Slices are copies, so nothing outlives it."""

    def __getitem__(self, where: slice, /) -> bytes:
        """Return a copy of these bytes."""

    def __len__(self) -> int:
        """Return the mapped size in bytes."""


class Files(Protocol):
    """Everything storage asks of a disk. All methods are synchronous and may raise `OSError`."""

    def open(self, path: str, *, write: bool = False) -> int:
        """Open an existing file and return its number."""

    def create(self, path: str) -> int:
        """Create a file that must not exist, open for reading and writing; return its number."""

    def close(self, fd: int) -> None:
        """Close a file number."""

    def size(self, fd: int) -> int:
        """Return the file's size in bytes."""

    def pread(self, fd: int, size: int, position: int) -> bytes:
        """Return `size` bytes from `position`; fewer only at the end of the file."""

    def pwritev(self, fd: int, buffers: Sequence[Buffer], position: int) -> None:
        """Write all buffers, one after the other, from `position` on."""

    def fdatasync(self, fd: int) -> None:
        """Make the file's bytes, and the size needed to read them, durable."""

    def fsync(self, fd: int) -> None:
        """Make the file durable."""

    def drop_cached(self, fd: int, position: int, size: int) -> None:
        """Let the next read of these bytes, which are durable, come from the disk; a hint."""

    def begin_writing(self, fd: int, position: int, size: int) -> None:
        """Have the disk begin to write these bytes, and do not wait; a hint."""

    def allocate(self, fd: int, position: int, size: int) -> None:
        """Make sure that these bytes have room on the disk; new ones read as zero.

        On an error the file has the size that it had before.
        """

    def truncate(self, fd: int, size: int) -> None:
        """Cut the file to `size` bytes."""

    def map(self, fd: int, size: int) -> Mapping:
        """Return a read-only view of the file's first `size` bytes."""

    def rename(self, source: str, target: str) -> None:
        """Give a file another name, replacing what had it."""

    def unlink(self, path: str) -> None:
        """Remove a file's name."""

    def list_directory(self, path: str) -> list[str]:
        """Return the names in a directory, sorted."""

    def make_directory(self, path: str) -> None:
        """Make a directory; its parent must exist."""

    def remove_directory(self, path: str) -> None:
        """Remove an empty directory."""

    def sync_directory(self, path: str) -> None:
        """Make a directory's names durable."""

    def exists(self, path: str) -> bool:
        """Return whether the path names something."""

    def lock(self, path: str) -> int:
        """Open a file (made when it is not there) or a directory and lock it for this process.

        `BlockingIOError` when another has it.
        """

    def free_size(self, path: str) -> int:
        """Return the free bytes of the disk that holds `path`."""


class OsFiles:
    """The real disk. What the system's own call does exactly is that call."""

    close = staticmethod(os.close)
    fdatasync = staticmethod(os.fdatasync)
    fsync = staticmethod(os.fsync)
    truncate = staticmethod(os.ftruncate)
    rename = staticmethod(os.rename)
    unlink = staticmethod(os.unlink)
    remove_directory = staticmethod(os.rmdir)
    exists = staticmethod(os.path.exists)

    def open(self, path: str, *, write: bool = False) -> int:
        """Open an existing file and return its number."""
        return os.open(path, (os.O_RDWR if write else os.O_RDONLY) | os.O_CLOEXEC)

    def create(self, path: str) -> int:
        """Create a file that must not exist, open for reading and writing; return its number."""
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)

    def size(self, fd: int) -> int:
        """Return the file's size in bytes."""
        return os.fstat(fd).st_size

    def pread(self, fd: int, size: int, position: int) -> bytes:
        """Return `size` bytes from `position`; fewer only at the end of the file."""
        chunk = os.pread(fd, size, position)
        if len(chunk) == size or not chunk:
            return chunk
        chunks = [chunk]
        got = len(chunk)
        while got < size:
            chunk = os.pread(fd, size - got, position + got)
            if not chunk:
                break
            chunks.append(chunk)
            got += len(chunk)
        return b"".join(chunks)

    def pwritev(self, fd: int, buffers: Sequence[Buffer], position: int) -> None:
        """Write all buffers, one after the other, from `position` on."""
        if len(buffers) <= IOV_MAX:
            self._write_some(fd, buffers, position)
            return
        for first in range(0, len(buffers), IOV_MAX):
            position += self._write_some(fd, buffers[first : first + IOV_MAX], position)

    def _write_some(self, fd: int, buffers: Sequence[Buffer], position: int) -> int:
        size = sum(map(len, buffers))
        written = os.pwritev(fd, buffers, position)
        if written < size:
            self._write_rest(fd, b"".join(buffers), written, position)
        return size

    def _write_rest(self, fd: int, buffer: bytes, written: int, position: int) -> None:
        """Go on behind a short write (a full disk, a signal): the next try writes more or says why not."""
        view = memoryview(buffer)
        while written < len(buffer):
            count = os.pwrite(fd, view[written:], position + written)
            if count == 0:
                raise OSError(errno.EIO, "write made no progress")
            written += count

    def drop_cached(self, fd: int, position: int, size: int) -> None:
        """Let the next read of these bytes, which are durable, come from the disk; a hint."""
        os.posix_fadvise(fd, position, size, os.POSIX_FADV_DONTNEED)

    # Linux begins to write what is to be dropped and was not written yet.
    begin_writing = drop_cached

    def allocate(self, fd: int, position: int, size: int) -> None:
        """Make sure that these bytes have room on the disk; new ones read as zero."""
        before = os.fstat(fd).st_size
        try:
            os.posix_fallocate(fd, position, size)
        except OSError:
            # A refused posix_fallocate may leave the file grown and the disk full (measured on ext4).
            os.ftruncate(fd, before)
            raise

    def map(self, fd: int, size: int) -> Mapping:
        """Return a read-only view of the file's first `size` bytes."""
        return mmap.mmap(fd, size, mmap.MAP_SHARED, mmap.PROT_READ)

    def list_directory(self, path: str) -> list[str]:
        """Return the names in a directory, sorted."""
        return sorted(os.listdir(path))

    def make_directory(self, path: str) -> None:
        """Make a directory; its parent must exist."""
        os.mkdir(path, 0o700)

    def sync_directory(self, path: str) -> None:
        """Make a directory's names durable."""
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)

    def lock(self, path: str) -> int:
        """Open a file (made when it is not there) or a directory and lock it for this process."""
        flags = os.O_RDONLY | os.O_DIRECTORY if os.path.isdir(path) else os.O_RDWR | os.O_CREAT
        while True:
            fd = os.open(path, flags | os.O_CLOEXEC, 0o600)
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if os.path.exists(path) and os.path.samestat(os.fstat(fd), os.stat(path)):
                    return fd
            except OSError:
                os.close(fd)
                raise
            os.close(fd)  # its holder removed it meanwhile: the next one is another file

    def free_size(self, path: str) -> int:
        """Return the free bytes of the disk that holds `path`."""
        status = os.statvfs(path)
        return status.f_bavail * status.f_frsize


class OpenFile:
    """A file number that is closed when nobody holds it any more, so no reader ever uses a reused one."""

    __slots__ = ("_files", "fd", "path")

    def __init__(self, files: Files, fd: int, path: str) -> None:
        self._files = files
        self.fd = fd
        self.path = path

    @classmethod
    def open(cls, files: Files, path: str, *, write: bool = False) -> OpenFile:
        """Open an existing file."""
        return cls(files, files.open(path, write=write), path)

    def size(self) -> int:
        """Return the file's size in bytes."""
        return self._files.size(self.fd)

    def pread(self, size: int, position: int) -> bytes:
        """Return `size` bytes from `position`; fewer only at the end of the file."""
        return self._files.pread(self.fd, size, position)

    def close(self) -> None:
        """Close now; nothing may use it afterwards."""
        fd, self.fd = self.fd, -1
        if fd >= 0:
            self._files.close(fd)

    def __del__(self) -> None:
        self.close()


def sync_written(files: Files, fd: int) -> None:
    """Make a file's bytes durable. That this fails never means "no room": what is on the disk is not known.

    Raises:
        OSError: With an errno for which `is_full` is false.
    """
    try:
        files.fdatasync(fd)
    except OSError as error:
        raise OSError(errno.EIO, f"sync failed: {error}") from error


def end_of_nonzero(file: OpenFile, start: int, size: int) -> int:
    """Return the byte behind the last one that is not zero, `start` when all are."""
    end, step = start, min(LOOK_SIZE, len(ZEROES))
    for position in range(start, size, step):
        chunk = file.pread(min(step, size - position), position)
        if chunk != ZEROES[: len(chunk)]:
            end = position + len(chunk.rstrip(b"\0"))
    return end


def read_file(files: Files, path: str, size_max: int) -> bytes:
    """Return a small file's bytes, at most `size_max` + 1 of them."""
    file = OpenFile.open(files, path)
    return file.pread(min(file.size(), size_max + 1), 0)


def remove_file(files: Files, path: str) -> bool:
    """Remove a file if it is there, and return whether it was; the caller syncs the directory."""
    is_there = files.exists(path)
    if is_there:
        files.unlink(path)
    return is_there


def remove_folder(files: Files, path: str) -> None:
    """Remove a directory that holds files alone; the caller syncs the one that it is in."""
    for name in files.list_directory(path):
        files.unlink(f"{path}/{name}")
    files.remove_directory(path)


def write_temporary(files: Files, directory: str, name: str, content: bytes) -> str:
    """Write what is to replace a small file, durably; return its path. One that failed is removed."""
    temporary = f"{directory}/{name}.tmp"
    remove_file(files, temporary)
    try:
        file = OpenFile(files, files.create(temporary), temporary)
        try:
            files.pwritev(file.fd, [content], 0)
            files.fsync(file.fd)
        finally:
            file.close()
    except OSError:
        _give_up(files, temporary)
        raise
    return temporary


def _give_up(files: Files, temporary: str) -> None:
    with contextlib.suppress(OSError):
        files.unlink(temporary)  # on a full disk, what it took is missed elsewhere


def replace_file(files: Files, directory: str, name: str, content: bytes) -> None:
    """Replace a small file so that after any crash the old or the new one is there, whole.

    Order: write a temporary file, sync it, rename it, sync the directory. It is durable on return.
    One that failed may be done again from its start.
    """
    temporary = write_temporary(files, directory, name, content)
    try:
        files.rename(temporary, f"{directory}/{name}")
    except OSError:
        _give_up(files, temporary)
        raise
    files.sync_directory(directory)
