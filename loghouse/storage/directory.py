"""The data directory: who may use it, whose it is, and the logs in it.

    data_dir/ lock  node  members  logs/<group>/...

`node` is written last when a directory is made, so a crash in the first boot leaves
something without it that holds no data, which the next boot wipes and makes again.
With `node` there, anything missing is damage, never a new disk.
"""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Final, TypeVar

from construct import Const, ConstructError, Int16ub, Struct, Terminated

from loghouse.errors import (
    DamageError,
    DataDirectoryError,
    DirectoryInUseError,
    DiskFailedError,
    DiskFullError,
    StorageError,
)
from loghouse.limits import (
    ENTRY_HEADER_SIZE,
    RESERVE_SIZE_DEFAULT,
    SEGMENT_SIZE_DEFAULT,
    SEGMENT_SIZE_FIRST,
    STORE_HEADER_SIZE,
)
from loghouse.protocol.entry import DEFAULT_GROUP, HEADER, EntryKind, with_crc, without_crc
from loghouse.protocol.fields import ShortText, Uuid, plain, read_fields, struct_of
from loghouse.storage.creation import Reserve
from loghouse.storage.files import (
    Files,
    OpenFile,
    disk_work,
    end_of_nonzero,
    is_full,
    read_file,
    remove_file,
    replace_file,
)
from loghouse.storage.log import Log
from loghouse.storage.recovery import ASIDE_NAME, RESERVE_NAME, STORE, parse_name

T = TypeVar("T")
FORMAT_VERSION: Final = 1
LOCK_NAME: Final = "lock"
NODE_NAME: Final = "node"
NEW_NODE_NAME: Final = "node.new"
RESTORING_NAME: Final = "restoring"
MEMBERS_NAME: Final = "members"
LOGS_NAME: Final = "logs"
MEMBERS_SIZE_MAX: Final = 64 * 1024  # 64 members with addresses of a DNS name each
_NODE_SIZE_MAX: Final = 4096


@dataclass(frozen=True, slots=True, kw_only=True)
class DiskIdentity:
    """Whose data this is: the cluster, the node, and this disk. The uuids have 16 bytes."""

    cluster_uuid: Uuid
    disk_uuid: Uuid
    cluster_name: ShortText
    node_name: ShortText

    def encode(self) -> bytes:
        """Return the bytes of the `node` file."""
        return with_crc(_IDENTITY.build({"version": FORMAT_VERSION, **plain(self)}))

    @classmethod
    def decode(cls, path: str, content: bytes) -> DiskIdentity:
        """Parse a `node` file.

        Raises:
            DamageError: It is not one.
            DataDirectoryError: It is one of a newer version.
        """
        return decode_small_file(cls, _IDENTITY, b"LOGHNODE", path, content, what="node's identity")


_IDENTITY: Final = Struct(
    "magic" / Const(b"LOGHNODE"), "version" / Int16ub, *struct_of(DiskIdentity).subcons, Terminated
)


def decode_small_file(
    cls: type[T], layout: Struct[Any, Any], magic: bytes, path: str, content: bytes, *, what: str
) -> T:
    """Parse a small file of the data directory: magic, version, the fields of a class, CRC.

    Raises:
        DamageError: It is not one; nothing was modified.
        DataDirectoryError: It is one of a newer version.
    """
    fields = without_crc(content)
    remedy = "nothing was modified; restore the file from a backup"
    if fields is None:
        raise DamageError(path, 0, f"checksum of the {what} does not match", remedy=remedy)
    version = int.from_bytes(fields[8:10], "big")
    if fields[:8] == magic and version != FORMAT_VERSION:
        raise DataDirectoryError(
            f"{path}: format {version}, this version reads {FORMAT_VERSION}; use a newer Loghouse"
        )
    try:
        return read_fields(cls, layout.parse(fields))
    except (ConstructError, ValueError):
        raise DamageError(path, 0, f"not a {what}", remedy=remedy) from None


class DataDirectory:
    """A locked data directory.

    `lock` takes it, whatever is in it; `identity` is then None for an empty disk, and `create` makes it
    somebody's. A start that fails ends with `undo`.
    """

    def __init__(
        self,
        files: Files,
        path: str,
        locks: Sequence[OpenFile],
        *,
        segment_size: int,
        reserve: Reserve,
    ) -> None:
        """Use `lock`."""
        self._files = files
        self._locks = locks
        self._segment_size = segment_size
        self._reserve = reserve  # of all logs together
        self.path = path
        self._made_directory = False
        self._made_lock = False
        self._identity = self._read_identity()

    @property
    def is_empty(self) -> bool:
        """Whether the disk belongs to nobody yet."""
        return self._identity is None

    @property
    def identity(self) -> DiskIdentity:
        """Whose disk this is; only when not `is_empty`."""
        assert self._identity is not None, "the data directory is empty"
        return self._identity

    @classmethod
    def lock(
        cls,
        files: Files,
        path: str,
        *,
        segment_size: int = SEGMENT_SIZE_DEFAULT,
        reserve_size: int = RESERVE_SIZE_DEFAULT,
        guard: AbstractContextManager[object, bool | None] | None = None,
    ) -> DataDirectory:
        """Take the directory for this process, making it (not its parents) when it is not there.

        Args:
            segment_size, reserve_size: Bytes; the sizes of files made from now on.
            guard: See `Reserve`: needed when threads write several logs at a time.

        Raises:
            DataDirectoryError: It is in use, unreadable, or of a newer version.
            DamageError: Its `node` file is damaged.
        """
        path = path.rstrip("/")
        lock_path = f"{path}/{LOCK_NAME}"
        makes_directory = makes_lock = False
        try:
            if not files.exists(path):
                files.make_directory(path)
                makes_directory = True
                files.sync_directory(_parent(path))
            makes_lock = not files.exists(lock_path)
            locks = _lock(files, path)
        except BlockingIOError:
            raise DirectoryInUseError(f"{path} is in use by another process; stop that one first") from None
        except OSError as error:
            if makes_directory:
                with contextlib.suppress(OSError):
                    files.remove_directory(path)
            raise DataDirectoryError(f"{path} cannot be used: {error}; {_hint(error)}") from error
        try:
            reserve = Reserve(files, f"{path}/{RESERVE_NAME}", reserve_size, guard)
            directory = cls(files, path, locks, segment_size=segment_size, reserve=reserve)
        except OSError as error:
            _unlock(locks)
            raise DataDirectoryError(f"{path} cannot be read: {error}; {_hint(error)}") from error
        except BaseException:
            _unlock(locks)
            raise
        directory._made_directory, directory._made_lock = makes_directory, makes_lock
        return directory

    @classmethod
    def claim(
        cls,
        files: Files,
        path: str,
        *,
        cluster_name: str,
        node_name: str,
        segment_size: int = SEGMENT_SIZE_DEFAULT,
        reserve_size: int = RESERVE_SIZE_DEFAULT,
        guard: AbstractContextManager[object, bool | None] | None = None,
    ) -> DataDirectory | None:
        """Take a directory that somebody took before, and check whose it is; changes nothing.

        None when nobody ever took it.

        Raises:
            DataDirectoryError, DamageError: As `lock`, `check_names` and `check_finished`.
        """
        if not files.exists(f"{path.rstrip('/')}/{LOCK_NAME}"):
            return None
        directory = cls.lock(files, path, segment_size=segment_size, reserve_size=reserve_size, guard=guard)
        try:
            if not directory.is_empty:
                directory.check_names(cluster_name=cluster_name, node_name=node_name)
            directory.check_finished()
        except BaseException:
            directory.close()
            raise
        return directory

    def check_names(self, *, cluster_name: str, node_name: str) -> None:
        """Raise DataDirectoryError, with nothing modified, for another cluster's or node's directory."""
        for what, wanted, found in (
            ("cluster", cluster_name, self.identity.cluster_name),
            ("node", node_name, self.identity.node_name),
        ):
            if wanted != found:
                raise DataDirectoryError(
                    f"{self.path} belongs to {what} {found!r}, not {wanted!r}; "
                    f"name another data directory, or correct the name in node.yaml"
                )

    def _read_identity(self) -> DiskIdentity | None:
        path = f"{self.path}/{NODE_NAME}"
        if not self._files.exists(path):
            return None
        return DiskIdentity.decode(path, read_file(self._files, path, _NODE_SIZE_MAX))

    def create(
        self,
        identity: DiskIdentity,
        *,
        group: int = DEFAULT_GROUP,
        begin: Callable[[Log], None] | None = None,
    ) -> None:
        """Make the empty disk this node's, with an empty log; durable on return.

        `begin` may write the log's first entry, a configuration: identity and entry are then there together,
        or neither.

        What a crash in an earlier first boot left is wiped, unless there is an entry in it.

        Raises:
            DamageError: `node` is gone, but there are entries; nothing was modified.
            DataDirectoryError: No room for the first segment; or a restore was interrupted here.
            DiskFailedError: The disk refuses.
        """
        assert self._identity is None
        self.check_finished()
        if self._files.exists(f"{self.path}/{LOGS_NAME}"):
            self._check_holds_nothing()
        try:
            self._create(identity, group, begin)
        except StorageError:
            self._remove_new()
            raise
        self._identity = identity

    def _create(self, identity: DiskIdentity, group: int, begin: Callable[[Log], None] | None) -> None:
        files, logs = self._files, f"{self.path}/{LOGS_NAME}"
        try:
            if files.exists(logs):
                for path in self._log_files():
                    files.unlink(path)
            else:
                files.make_directory(logs)
            files.sync_directory(self.path)
            directory = self.log_directory(group)
            if not files.exists(directory):
                files.make_directory(directory)
            files.sync_directory(logs)
            Log.create(files, directory, cluster=identity.cluster_uuid, group=group)
            log = self._open_log(identity, directory, group)
            if begin is not None:
                begin(log)
            log.close()
            replace_file(files, self.path, NODE_NAME, identity.encode())
        except DiskFullError:
            raise self._no_room() from None
        except OSError as error:
            if is_full(error):
                raise self._no_room() from error
            raise DiskFailedError(f"cannot make {self.path}: {error}") from error

    def _no_room(self) -> DataDirectoryError:
        size = min(SEGMENT_SIZE_FIRST, self._segment_size)
        return DataDirectoryError(
            f"no space left for a new log under {self.path}: its first segment takes {size} bytes; "
            "free some, and start again"
        )

    def _remove_new(self) -> None:
        """Remove a log whose making failed; what the disk does not let go of is left to the next start."""
        files, logs = self._files, f"{self.path}/{LOGS_NAME}"
        try:
            remove_file(files, f"{self.path}/{NODE_NAME}")
            remove_file(files, self._reserve.path)
            files.sync_directory(self.path)  # without its log, an identity would be damage
            if not files.exists(logs):
                return
            for path in self._log_files():
                files.unlink(path)
            for group in files.list_directory(logs):
                files.remove_directory(f"{logs}/{group}")
            files.remove_directory(logs)
        except OSError:
            return

    def _log_files(self) -> list[str]:
        files, logs = self._files, f"{self.path}/{LOGS_NAME}"
        return [
            f"{logs}/{group}/{name}"
            for group in files.list_directory(logs)
            for name in files.list_directory(f"{logs}/{group}")
        ]

    def _check_holds_nothing(self) -> None:
        """Refuse when anything that seems to be left of a crash in the first boot could be data."""
        try:
            for path in self._log_files():
                parsed = parse_name(path.rpartition("/")[2])
                # The log of a first boot begins with the first entry: another one, empty too, was trimmed.
                if path.endswith(f"/{ASIDE_NAME}") or (parsed is not None and parsed[0] > 1):
                    raise self._node_is_gone(path)
                store = OpenFile.open(self._files, path)
                if path.endswith(STORE) and not _holds_nothing(store):
                    raise self._node_is_gone(path)
        except OSError as error:
            raise DiskFailedError(f"cannot read {self.path}: {error}") from error

    def _node_is_gone(self, path: str) -> DamageError:
        return DamageError(
            f"{self.path}/{NODE_NAME}",
            0,
            f"the node's identity is gone, but there are entries in {path}, or were",
            remedy="nothing was modified; restore the file from a backup",
        )

    def log_directory(self, group: int = DEFAULT_GROUP) -> str:
        """Return the directory of a group's log."""
        return f"{self.path}/{LOGS_NAME}/{group}"

    def check_finished(self) -> None:
        """Raise when the making of a new cluster out of this log, or of a backup, was interrupted.

        Raises:
            DataDirectoryError: It was; until it is finished nothing else may touch the log.
        """
        if self._files.exists(f"{self.path}/{RESTORING_NAME}"):
            raise DataDirectoryError(
                f"{self.path}: `loghouse restore` was interrupted here; run it again to finish, or empty the "
                "directory"
            )
        if self._files.exists(f"{self.path}/{NEW_NODE_NAME}"):
            raise DataDirectoryError(
                f"{self.path}: `loghouse recover --new-cluster` was interrupted here; run it again to finish"
            )

    def open_log(self, group: int = DEFAULT_GROUP, *, leaves_damage: bool = False) -> Log:
        """Open a group's log; see `Log.open` for `leaves_damage`, it and `check_finished` for errors."""
        self.check_finished()
        return self._open_log(self.identity, self.log_directory(group), group, leaves_damage=leaves_damage)

    def open_log_at(self, path: str, group: int) -> Log:
        """Open a log that is being made at another path than its own; errors as `Log.open`."""
        return self._open_log(self.identity, path, group)

    def _open_log(self, identity: DiskIdentity, path: str, group: int, *, leaves_damage: bool = False) -> Log:
        return Log.open(
            self._files,
            path,
            cluster=identity.cluster_uuid,
            group=group,
            segment_size=self._segment_size,
            reserve=self._reserve,
            leaves_damage=leaves_damage,
        )

    def read_members(self) -> bytes:
        """Return the last known addresses as `write_members` got them; empty when there are none."""
        path = f"{self.path}/{MEMBERS_NAME}"
        return read_file(self._files, path, MEMBERS_SIZE_MAX) if self._files.exists(path) else b""

    def write_members(self, content: bytes) -> None:
        """Keep the last known addresses (opaque here); durable on return.

        Raises:
            DiskFullError: There is no room; what was written before is still there.
            DiskFailedError: The disk refuses.
        """
        with disk_work(self.path, f"write {self.path}/{MEMBERS_NAME}"):
            replace_file(self._files, self.path, MEMBERS_NAME, content)

    def close(self) -> None:
        """Let the directory go; its logs must be closed."""
        _unlock(self._locks)

    def undo(self) -> None:
        """Let the directory go after a start that failed; it and its lock go, too, if `lock` made them."""
        files = self._files
        with contextlib.suppress(OSError):
            if self._made_lock:  # while it is held: who waits for it sees that it has no name any more
                files.unlink(f"{self.path}/{LOCK_NAME}")
            if self._made_directory:
                files.remove_directory(self.path)
        self.close()


def _lock(files: Files, path: str) -> list[OpenFile]:
    """Lock the file `lock`, and the directory itself, which nobody can remove from under a node.

    Raises:
        BlockingIOError: Another process has it.
    """
    locks: list[OpenFile] = []
    try:
        name = f"{path}/{LOCK_NAME}"
        locks.append(OpenFile(files, files.lock(name), name))
        locks.append(OpenFile(files, files.lock(path), path))
    except OSError as error:
        if isinstance(error, BlockingIOError) or not locks:
            _unlock(locks)
            raise
        # A file system that locks no directories (NFS): the file must do.
    return locks


def _unlock(locks: Sequence[OpenFile]) -> None:
    for lock in locks:
        lock.close()


def _parent(path: str) -> str:
    return path.rpartition("/")[0] or ("/" if path.startswith("/") else ".")


def _hint(error: OSError) -> str:
    """Say what to do about a directory that cannot be used."""
    if error.errno == errno.EROFS:
        return "its disk is mounted read-only: remount it, or name another data directory"
    if error.errno in (errno.EACCES, errno.EPERM):
        return "check its owner and mode"
    if is_full(error):
        return "free some space"
    if error.errno == errno.ENOENT:
        return "make the directory it is to lie in, or correct data_dir in node.yaml"
    return "check the disk (dmesg), or name another data directory"


def _holds_nothing(store: OpenFile) -> bool:
    """Whether a store holds no entry, or only the configuration that a first boot began with."""
    end = end_of_nonzero(store, STORE_HEADER_SIZE, store.size())
    if end <= STORE_HEADER_SIZE:
        return True
    head = store.pread(ENTRY_HEADER_SIZE, STORE_HEADER_SIZE)
    if len(head) < ENTRY_HEADER_SIZE:
        return False
    _, length, _, kind, _, _, index, *_ = HEADER.unpack(head)
    return index <= 1 and kind in (0, EntryKind.CONFIGURATION) and end <= STORE_HEADER_SIZE + max(length, 512)
