"""Writing the backup of one log: parts that grow, and a manifest at the end of each run.

Order, so that a run that is killed at any byte is gone on with by the next one: a part's header under a
temporary name, synced, renamed; frames; all of it synced; the part's end; synced; the manifest replaced. What
stands behind the last good frame of a part without an end is cut off.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Final

from loghouse.backup.chain import Chain
from loghouse.backup.format import (
    LOG_NAME,
    LastEntry,
    LogManifest,
    PartEnd,
    PartHeader,
    checked_state,
    decode,
    encode,
    part_name,
    part_offset,
    state_of,
)
from loghouse.backup.part import Part, check_joins, missing
from loghouse.backup.plan import BackedUp
from loghouse.errors import BackupError, DamageError
from loghouse.limits import BACKUP_MANIFEST_SIZE_MAX, BACKUP_PART_SIZE
from loghouse.protocol.entry import Entry, crc32c, frame_seed
from loghouse.storage.files import Files, OpenFile, is_full, read_file, remove_file, replace_file

AGAIN: Final = "what is written is kept: make room, and run the same command again"


@contextmanager
def writing(path: str) -> Iterator[None]:
    """Make an error of the target's disk one of ours.

    Raises:
        BackupError: It says what to do.
    """
    try:
        yield
    except OSError as error:
        if is_full(error):
            raise BackupError(f"{path}: no room ({error.strerror}); {AGAIN}") from error
        raise BackupError(f"{path}: {error}; the backup is not finished: check the disk") from error


def read_manifest(files: Files, directory: str) -> LogManifest | None:
    """Return the manifest of a log's backup; None when there is none.

    Raises:
        DamageError: It is damaged.
        BackupError: A newer version made it.
    """
    path = f"{directory}/{LOG_NAME}"
    if not files.exists(path):
        return None
    manifest = decode(LogManifest, read_file(files, path, BACKUP_MANIFEST_SIZE_MAX), path)
    state = state_of(manifest.state, path)
    if state.next_offset != manifest.next_offset or manifest.next_offset < manifest.first_offset:
        raise DamageError(path, 0, f"it ends at offset {manifest.next_offset}, its state elsewhere")
    return manifest


def parts_in(files: Files, directory: str) -> list[int]:
    """Return where the parts of a log's backup begin, in order."""
    offsets = (part_offset(name) for name in files.list_directory(directory))
    return sorted(offset for offset in offsets if offset is not None)


class LogTarget:
    """The backup of one log, open to be gone on with. One process at a time, which the caller sees to."""

    def __init__(
        self,
        files: Files,
        directory: str,
        cluster_uuid: bytes,
        group: int,
        *,
        part_size: int = BACKUP_PART_SIZE,
    ) -> None:
        """Find out how far it goes, and cut off what a run before left half done.

        Args:
            directory: DIR/logs/<name>; it is there.
            cluster_uuid, group: Of the log when it is backed up for the first time; else the manifest says.
            part_size: Bytes of frames at which a part is ended.

        Raises:
            DamageError: What is there is damaged; names file and byte.
            BackupError: A newer version made it, or the disk refuses.
        """
        self._files = files  # the file seam; fixed
        self.directory = directory  # fixed
        self._part_size = part_size  # fixed
        self.manifest = read_manifest(files, directory)  # of the run before; replaced by `commit`
        if self.manifest is not None:
            cluster_uuid, group = self.manifest.cluster_uuid, self.manifest.group
        self._cluster_uuid, self.group = cluster_uuid, group  # fixed
        self.seed = frame_seed(cluster_uuid, group)  # of the log's frames; fixed
        self._open: OpenFile | None = None  # the part that grows; None: the next record begins one
        self._path = ""  # of that part; set with it
        self._position = 0  # where its next frame goes, in bytes
        self._frames_at = 0  # where its first one is
        self._crc = 0  # of its frames so far
        self._synced_offset = 0  # the next offset of what is finished
        # How far the backup goes, the part that grows included; None: nothing is there yet.
        self.chain: Chain | None = None
        with writing(directory):
            self._resume()

    # --- what is there ------------------------------------------------------------------

    @property
    def held(self) -> BackedUp | None:
        """What the backup holds; None when that is nothing."""
        if self.chain is None:
            return None
        return BackedUp(
            directory=self.directory,
            group=self.group,
            next_offset=self.chain.next_offset,
            last=self.chain.last,
        )

    @property
    def first_offset(self) -> int | None:
        """Where the backup begins; None when nothing is there yet."""
        offsets = parts_in(self._files, self.directory)
        return offsets[0] if offsets else None

    @property
    def has_part(self) -> bool:
        """Whether a part is open: entries may be appended."""
        return self._open is not None

    @property
    def is_part_full(self) -> bool:
        """Whether the open part has all that it is to have."""
        return self._position - self._frames_at >= self._part_size

    def _resume(self) -> None:
        files, manifest = self._files, self.manifest
        for name in files.list_directory(self.directory):
            if name.endswith(".tmp"):
                files.unlink(f"{self.directory}/{name}")
        before: Part | None = None
        offsets = parts_in(files, self.directory)
        last = LastEntry()
        for offset in offsets:
            is_last = offset == offsets[-1]
            must_be_finished = not is_last or (manifest is not None and offset < manifest.next_offset)
            path = f"{self.directory}/{part_name(offset)}"
            part = Part(files, path, self.seed, finished=must_be_finished)
            if before is not None:
                check_joins(before, part)
            elif manifest is not None and offset != manifest.first_offset:
                raise missing(f"{self.directory}/{part_name(manifest.first_offset)}")
            self.chain = Chain(part.state, last)
            if part.end is None:
                self._go_on_with(part)
            else:
                self._skip(part.end)
                last = self.chain.last
                before = part
            part.close()
        if manifest is not None:
            self._check_reaches(manifest)

    def _skip(self, end: PartEnd) -> None:
        assert self.chain is not None
        chain = self.chain
        chain.next_offset = end.next_offset
        if end.last.index:
            chain.last = end.last
            chain.index, chain.term, chain.timestamp = end.last.index, end.last.term, end.last.timestamp

    def _go_on_with(self, part: Part) -> None:
        """Cut a part that was not finished behind its last good frame, and open it."""
        assert self.chain is not None
        position, crc = part.frames_at, 0
        try:
            for end, entry in part.entries():
                self.chain.take(entry)
                crc = crc32c(entry.payload, crc32c(entry.head, crc))
                position = end
        except DamageError:
            pass  # a write that was cut off: the nodes have what belongs there
        file = OpenFile.open(self._files, part.path, write=True)
        self._files.truncate(file.fd, position)
        self._files.fsync(file.fd)
        self._open, self._path = file, part.path
        self._position, self._frames_at, self._crc = position, part.frames_at, crc

    def _check_reaches(self, manifest: LogManifest) -> None:
        path = f"{self.directory}/{LOG_NAME}"
        state = state_of(manifest.state, path)
        if self.chain is None:
            self.chain = Chain(state)
        if self.chain.next_offset < manifest.next_offset:
            raise missing(f"{self.directory}/{part_name(self.chain.next_offset)}")
        if self.chain.next_offset == manifest.next_offset and self._open is None:
            # The log may have gone on since without a record.
            chain, last = self.chain, self.chain.last
            if state.index >= chain.index:
                self.chain = Chain(state, last)

    # --- a run --------------------------------------------------------------------------

    def begin_part(self, state: bytes) -> None:
        """Begin a part with the log's state at `chain.next_offset`, or at the first offset of all.

        Raises:
            MalformedMessageError, EntryDamagedError: The state is none, or does not follow.
            BackupError: The disk refuses.
        """
        assert self._open is None
        found = checked_state(state)
        if self.chain is None:
            self.chain = Chain(found)
        else:
            self.chain.check_state(found)
            self.chain = Chain(found, self.chain.last)
        header = encode(
            PartHeader(
                cluster_uuid=self._cluster_uuid, group=self.group, base_offset=found.next_offset, state=state
            ),
            self.seed,
        )
        name = part_name(found.next_offset)
        with writing(self.directory):
            replace_file(self._files, self.directory, name, header)
            self._path = f"{self.directory}/{name}"
            self._open = OpenFile.open(self._files, self._path, write=True)
        self._position = self._frames_at = len(header)
        self._crc = 0

    def append(self, entries: Sequence[Entry]) -> None:
        """Write entries behind those that are there; they are durable once the part is ended.

        Raises:
            EntryDamagedError: They do not follow; nothing was written.
            BackupError: The disk refuses.
        """
        assert self._open is not None
        assert self.chain is not None
        pieces = []
        for entry in entries:
            self.chain.take(entry)
            pieces += [entry.head, entry.payload]
        with writing(self._path):
            self._files.pwritev(self._open.fd, pieces, self._position)
        for piece in pieces:
            self._crc = crc32c(piece, self._crc)
        self._position += sum(map(len, pieces))

    def end_part(self) -> None:
        """Finish the open part; durable on return. One that holds nothing is removed.

        Raises:
            BackupError: The disk refuses.
        """
        assert self._open is not None
        assert self.chain is not None
        files, file = self._files, self._open
        with writing(self._path):
            if self._position == self._frames_at:
                file.close()
                remove_file(files, self._path)
            else:
                end = PartEnd(
                    next_offset=self.chain.next_offset,
                    last=self.chain.last,
                    size=self._position,
                    frames_crc=self._crc,
                )
                files.fsync(file.fd)
                files.pwritev(file.fd, [encode(end, self.seed)], self._position)
                files.fsync(file.fd)
                file.close()
            files.sync_directory(self.directory)
        self._open = None

    def commit(self, manifest: LogManifest) -> None:
        """Say what the backup holds now; all parts are ended. Durable on return.

        Raises:
            BackupError: The disk refuses.
        """
        assert self._open is None
        with writing(self.directory):
            replace_file(self._files, self.directory, LOG_NAME, encode(manifest))
        self.manifest = manifest

    def close(self) -> None:
        """Let the files go; a part that is open is gone on with by the next run."""
        if self._open is not None:
            self._open.close()
            self._open = None
