"""Getting back damaged entries of sealed segments from the other members, one place after the other.

    damage met by a read, the core or the scrubber
      -> the whole segment is examined, on reader threads
      -> another member is asked for exactly the damaged entries: EntriesRequest, EntriesReply
      -> what came is checked, written in their place by the disk thread, synced, read back
      -> the examination looks at the same place again, and goes on behind it

Only committed entries are asked for: any member's entry of such an index is the one that was here. A crash
anywhere leaves what there was: damaged entries. Whatever cannot be mended like this (`beyond_mending`) ends
the process, and the next start cuts the log before the damage (`replica.damage`). Time comes by `look`,
which is called at each tick.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

from loghouse.errors import DamageError, EntryDamagedError
from loghouse.limits import ENTRIES_SERVED_MAX, MEND_SIZE_MAX
from loghouse.protocol.message import Message, RequestIds
from loghouse.protocol.repair_messages import EntriesReply, EntriesRequest
from loghouse.runtime.events import Logger
from loghouse.runtime.threads import WorkQueue
from loghouse.storage.examination import DamagedEntries, Examination
from loghouse.storage.files import Files
from loghouse.storage.log import Log
from loghouse.storage.segment import Segment

ANSWER_SECONDS: Final = 5.0  # for another member's answer; then the next one is asked
RETRY_SECONDS_MIN: Final = 1.0  # after all were asked in vain, doubling up to ...
RETRY_SECONDS_MAX: Final = 60.0
ATTEMPTS_MAX: Final = 3  # mending the same place, and looking at a segment in vain


class MendingOwner(Protocol):
    """What looking for damage, and mending it, ask of who runs them."""

    @property
    def committed_index(self) -> int:
        """The last entry that is committed for certain and durable here."""

    @property
    def is_ending(self) -> bool:
        """Whether nothing new is to be begun."""

    def mend_sources(self) -> Sequence[str]:
        """The names of the other members."""

    def send_to(self, name: str, message: Message) -> bool:
        """Send a message to a node; False when it certainly was not sent."""

    def damage_found(self, error: DamageError) -> None:
        """Damage was met by the scrubber, or while reading for another: tell it, mend it if possible."""

    def index_wrong(self, base_index: int, entries: bytes) -> None:
        """An index file that does not fit its store, and what it should hold."""

    def beyond_mending(self, error: DamageError) -> None:
        """Damage that cannot be mended in place."""

    def fatal(self, error: BaseException) -> None:
        """The process must end."""


@dataclass(slots=True)
class _Job:
    """A damaged segment.

    `due` is when to go on, `sources` whom to ask yet for what was found, `asked` how many there were in this
    round, and `misfits` how many of them gave something that does not fit.
    """

    exam: Examination
    due: float = 0.0
    delay: float = RETRY_SECONDS_MIN
    sources: list[str] | None = None
    asked: int = 0
    misfits: int = 0
    mended: int = 0
    is_silence_told: bool = False
    told: str = ""
    attempts: Counter[int] = field(default_factory=Counter)


@dataclass(frozen=True, slots=True)
class _Asked:
    """A question that waits for its answer, until `deadline`."""

    job: _Job
    name: str
    request_id: int
    deadline: float


class EntryRepair:
    """Mends one log's sealed segments, and gives others what they need to mend theirs."""

    logger = Logger()

    def __init__(
        self,
        files: Files,
        log: Log,
        owner: MendingOwner,
        *,
        readers: WorkQueue,
        disk: WorkQueue,
        choose_id: Callable[[], int],
    ) -> None:
        """Nothing happens before `take`."""
        self._files = files
        self._log = log
        self._owner = owner
        self._readers = readers
        self._disk = disk
        self._choose_id = choose_id  # returns a random u64: no answer to a question of a former life fits
        self._ids: RequestIds | None = None
        self._jobs: dict[int, _Job] = {}  # by base index; the first is next
        self._asked: _Asked | None = None
        self._is_busy = False
        self._now = 0.0
        self._in_vain: Counter[int] = Counter()
        self._serving = 0
        self.mended = 0

    # --- what there is to do --------------------------------------------------------------

    def take(self, error: DamageError) -> bool:
        """Begin to mend the segment where damage was met; False when it takes appends, or it was in vain."""
        segment = self._segment_of(error.file)
        if segment is None:
            return False
        base = segment.base_index
        if base not in self._jobs:
            if self._in_vain[base] >= ATTEMPTS_MAX:
                return False
            is_end_exact = base not in self._log.unknown_ends
            self._jobs[base] = _Job(Examination(self._files, segment, is_end_exact=is_end_exact))
        return True

    def _segment_of(self, path: str) -> Segment | None:
        return next((one for one in self._log.view.segments[:-1] if one.path == path), None)

    @property
    def pending(self) -> int:
        """How many segments are being mended, or wait for it."""
        return len(self._jobs)

    def look(self, now: float) -> None:
        """Do what is due; called at each tick with the monotonic clock's seconds."""
        self._now = now
        if self._owner.is_ending or self._is_busy:
            return
        if self._asked is not None:
            if now >= self._asked.deadline:
                self._ask_next(self._asked.job)
            return
        for base in self._log.unknown_ends - self._jobs.keys():
            segment = self._log.sealed_segment(base)
            if segment is not None:
                self.take(segment.damage(0, "the last entry was not found at the start"))
        job = next((job for job in self._jobs.values() if job.due <= now), None)
        if job is None:
            return
        if job.exam.damage is not None:
            self._ask_next(job)
        else:
            self._step(job)

    def _is_current(self, job: _Job) -> bool:
        """Whether to go on with a segment; one that was trimmed or takes appends again is forgotten."""
        base = job.exam.segment.base_index
        if self._log.sealed_segment(base) is job.exam.segment:
            return not self._owner.is_ending
        self._forget(job)
        return False

    def _forget(self, job: _Job) -> None:
        self._jobs.pop(job.exam.segment.base_index, None)
        self._publish()

    def _publish(self) -> None:
        """Let look-ups of what is known to be damaged end at once."""
        found = [job.exam.damage for job in self._jobs.values()]
        self._log.note_damaged([damage for damage in found if damage is not None])

    def _run(
        self, queue: WorkQueue, work: Callable[[], Any], done: Callable[[Any, _Job], None], job: _Job
    ) -> None:
        """Run work on a thread; one piece at a time."""
        self._is_busy = True

        def finish(outcome: Any) -> None:
            self._is_busy = False
            if self._is_current(job):
                if isinstance(outcome, Exception):
                    self._failed(outcome, job)
                else:
                    done(outcome, job)

        queue.run(work, finish, finish, fatal=self._owner.fatal)

    def _failed(self, error: Exception, job: _Job) -> None:
        if isinstance(error, FileNotFoundError):
            self._beyond(job, DamageError(job.exam.segment.path, 0, "the file is gone"))
        elif isinstance(error, DamageError):
            self._mended_in_vain(job, error)
        elif isinstance(error, OSError):
            # Of a reading thread; what the disk thread meets is no bare OSError.
            if str(error) != job.told:
                job.told = str(error)
                file = job.exam.segment.path
                self.logger.error("{file}: cannot be read, tried again: {error}", file=file, error=job.told)
            job.due = self._now + job.delay
            job.delay = min(2 * job.delay, RETRY_SECONDS_MAX)
        else:
            self._owner.fatal(error)

    def _beyond(self, job: _Job, error: DamageError) -> None:
        self._forget(job)
        self._owner.beyond_mending(error)

    # --- examining ------------------------------------------------------------------------

    def _step(self, job: _Job) -> None:
        self._run(self._readers, job.exam.step, self._stepped, job)

    def _stepped(self, _: int, job: _Job) -> None:
        exam = job.exam
        if exam.failure:
            self._beyond(job, DamageError(exam.segment.path, 0, exam.failure))
        elif exam.damage is not None:
            self._found(job, exam.damage)
        elif not exam.is_done:
            self._step(job)
        elif exam.index_entries is not None:
            self._mend_index(job, exam.index_entries)
        else:
            self._finish(job)

    def _found(self, job: _Job, damage: DamagedEntries) -> None:
        if job.attempts[damage.position] >= ATTEMPTS_MAX:
            self._beyond(job, damage.error())
            return
        if damage.last_index > self._owner.committed_index:
            # After a start that is known a little later; an entry that is cut instead needs no mending.
            job.due = self._now + RETRY_SECONDS_MIN
            job.exam.resume()
            return
        if not job.attempts[damage.position]:
            self.logger.error(
                "{file}: damaged at byte {position}: {problem}: {entries} of {size} bytes are asked of the "
                "other members; everything else is served",
                file=damage.path,
                position=damage.position,
                problem=damage.problem,
                entries=damage.names,
                size=damage.end - damage.position,
            )
        job.sources = None
        self._publish()
        self._ask_next(job)

    def _mend_index(self, job: _Job, entries: bytes) -> None:
        base = job.exam.segment.base_index

        def finish(_: None, job: _Job) -> None:
            self.logger.warn("{file}: did not fit its store, was rebuilt", file=job.exam.segment.index_path)
            job.mended += 1
            self._finish(job)

        self._run(self._disk, lambda: self._log.mend_index(base, entries), finish, job)

    def _finish(self, job: _Job) -> None:
        exam, base = job.exam, job.exam.segment.base_index
        if not exam.is_end_exact:
            self._log.end_found(base, exam.found_end(), exam.newest_timestamp)
        if job.mended:
            self._in_vain.pop(base, None)
        else:
            # What met damage here would meet it for ever if this went on.
            self._in_vain[base] += 1
        self.logger.info("{file}: every entry is good", file=exam.segment.path)
        self._forget(job)

    # --- asking -----------------------------------------------------------------------------

    def _ask_next(self, job: _Job) -> None:
        """Ask the next member; when none is left, come back later."""
        self._asked = None
        damage = job.exam.damage
        if damage is None or not self._is_current(job):
            return
        if self._ids is None:
            self._ids = RequestIds(self._choose_id())
        if job.sources is None:
            names = sorted(self._owner.mend_sources())
            turn = self._ids.following % len(names) if names else 0
            job.sources, job.asked, job.misfits = names[turn:] + names[:turn], len(names), 0
        while job.sources:
            name = job.sources.pop(0)
            request_id = self._ids.take()
            # Before it is sent: the answer may come within that.
            self._asked = _Asked(job, name, request_id, self._now + ANSWER_SECONDS)
            request = EntriesRequest(
                request_id=request_id, first_index=damage.first_index, last_index=damage.last_index
            )
            if self._owner.send_to(name, request):
                return
        self._asked = None
        self._asked_in_vain(job, damage)

    def _asked_in_vain(self, job: _Job, damage: DamagedEntries) -> None:
        if job.misfits and job.misfits == job.asked:
            problem = f"{damage.problem}; what the other members have does not fit there ({damage.names})"
            self._beyond(job, DamageError(damage.path, damage.position, problem))
            return
        if not job.is_silence_told:
            job.is_silence_told = True
            self.logger.error(
                "{file}: no other member gives {entries} now; asked again and again, until one does",
                file=damage.path,
                entries=damage.names,
            )
        job.sources, job.due = None, self._now + job.delay
        job.delay = min(2 * job.delay, RETRY_SECONDS_MAX)
        # Others first: perhaps theirs can be had.
        base = job.exam.segment.base_index
        self._jobs[base] = self._jobs.pop(base)

    def reply_received(self, source: str, reply: EntriesReply) -> None:
        """Take a member's answer."""
        asked = self._asked
        if asked is None or (asked.name, asked.request_id) != (source, reply.request_id):
            return  # too late, or nobody asked
        self._asked = None
        job = asked.job
        damage = job.exam.damage
        if damage is None or not self._is_current(job):
            return
        if not reply.frames:
            self._ask_next(job)
            return
        frames = bytes(reply.frames)
        try:
            count = damage.check(frames)
        except EntryDamagedError as error:
            job.misfits += 1
            self.logger.error(
                "{file}: what {node} gave does not fit: {error}",
                file=damage.path,
                node=source,
                error=str(error),
            )
            self._ask_next(job)
            return
        job.attempts[damage.position] += 1

        def finish(is_written: bool, job: _Job) -> None:
            self._mended(job, damage, count, len(frames), source, is_written=is_written)

        self._run(self._disk, lambda: self._log.mend(damage, frames), finish, job)

    # --- mended -----------------------------------------------------------------------------

    def _mended(
        self, job: _Job, damage: DamagedEntries, count: int, size: int, source: str, *, is_written: bool
    ) -> None:
        if not is_written:
            self._forget(job)
            return
        job.mended += count
        self.mended += count
        job.delay, job.is_silence_told = RETRY_SECONDS_MIN, False
        last_index = damage.first_index + count - 1
        self.logger.warn(
            "{file}: repaired at byte {position}: entries {first} to {last}, {size} bytes from {node}",
            file=damage.path,
            position=damage.position,
            first=damage.first_index,
            last=last_index,
            size=size,
            node=source,
        )
        self._resume(job)

    def _mended_in_vain(self, job: _Job, error: DamageError) -> None:
        """The disk does not give back what was written."""
        self.logger.error("{error}", error=str(error))
        self._resume(job)

    def _resume(self, job: _Job) -> None:
        """Look at the same place again; what is not read yet is not known to be good."""
        job.exam.resume()
        self._publish()
        self._step(job)

    # --- serving ----------------------------------------------------------------------------

    def serve(self, source: str, request: EntriesRequest) -> None:
        """Give another member the entries it asks for, if they are committed and good here."""
        if self._owner.is_ending or self._serving >= ENTRIES_SERVED_MAX:
            return  # it asks again
        first, last = request.first_index, request.last_index
        if last > self._owner.committed_index:
            self._owner.send_to(source, EntriesReply(request_id=request.request_id))
            return
        self._serving += 1

        def read() -> bytes:
            entries = self._log.entries(first, last + 1, MEND_SIZE_MAX)
            return b"".join(entry.frame for entry in entries)

        def answer(outcome: bytes | Exception) -> None:
            self._serving -= 1
            frames = b""
            if isinstance(outcome, bytes):
                frames = outcome
            elif isinstance(outcome, DamageError):
                self._owner.damage_found(outcome)
            elif not isinstance(outcome, LookupError):  # trimmed
                raise outcome
            if not self._owner.is_ending:
                self._owner.send_to(source, EntriesReply(request_id=request.request_id, frames=frames))

        def told(error: Exception) -> None:
            self.logger.failure("reading for {node}", error, node=source)

        self._readers.run(read, answer, answer, fatal=told)
