"""What a leader is asked to do: append, change the configuration, hand over (Raft 5.3, 6, 8; thesis 3.10)."""

from __future__ import annotations

from loghouse.errors import (
    CursorRewindError,
    DamageError,
    DiskFullError,
    ExpectOffsetError,
    InvalidRequestError,
    MalformedMessageError,
    MembershipError,
    NotLeaderError,
    ResourceExhaustedError,
    SequenceError,
    SequenceReusedError,
    UnavailableError,
)
from loghouse.limits import PAYLOAD_SIZE_MAX, PRODUCER_BATCHES_MAX
from loghouse.protocol.configuration import (
    Configuration,
    decode_birth,
    decode_producer,
    decode_trim,
    encode_configuration,
)
from loghouse.protocol.cursors import (
    WITH_RECORDS,
    CursorChange,
    check_cursor_change,
    decode_cursor_change,
    encode_cursor_change,
)
from loghouse.protocol.entry import FILLING_KINDS, EntryKind, crc32c
from loghouse.protocol.log_state import ProducedBatch
from loghouse.protocol.raft_messages import NOBODY
from loghouse.raft.elections import Elections
from loghouse.raft.held_back import held_back_error
from loghouse.raft.membership import check_change
from loghouse.raft.progress import Progress, ProgressState
from loghouse.raft.quorum import majority
from loghouse.raft.ready import EntryHeader, Proposal, Role, Ticket


class Proposals(Elections):
    """Requests to the leader, and their refusals."""

    # Whose data directories are full, in words, while too few voters have room to commit records (`room.py`).
    _without_room = ""

    def propose(self, proposal: Proposal, now: int) -> Ticket:
        """Append an entry to the leader's log.

        Args:
            now: Wall clock in microseconds since the epoch; a log's timestamps never decrease.

        Returns:
            Where it is; it is acknowledged when that entry is committed. For a batch that is already in the
            log (same producer, same sequence, same bytes) the original's place.

        Raises:
            NotLeaderError, UnavailableError, ResourceExhaustedError, DiskFullError, InvalidRequestError,
            UnknownProducerError, SequenceError, SequenceReusedError, ExpectOffsetError, UnknownCursorError,
            CursorFencedError, CursorRewindError, TooManyCursorsError: Certainly not appended.
        """
        try:
            return self._append_proposal(proposal, now)
        except ResourceExhaustedError:
            producer = self._log.state.producers.get(proposal.producer_id)
            if producer is not None and producer.next_sequence == proposal.producer_sequence:
                self._held_back.note(proposal.producer_id, proposal.producer_sequence)
            raise

    def _append_proposal(self, proposal: Proposal, now: int) -> Ticket:
        self._check_leading()
        if proposal.kind != EntryKind.RECORDS:
            self._check_other_kind(proposal)
        elif proposal.record_count < 1:
            raise InvalidRequestError("record_count", "a batch has at least 1 record")
        state = self._log.state
        original: Ticket | None = None
        if proposal.producer_id:
            original = self._find_original(proposal)
        if proposal.cursor is not None:
            original = self._find_advanced(proposal, proposal.cursor)
        if original is not None:
            return original
        if proposal.expect_offset is not None and proposal.expect_offset != state.next_offset:
            raise ExpectOffsetError(proposal.expect_offset, state.next_offset)
        if self._without_room and proposal.kind in FILLING_KINDS:
            raise DiskFullError(self._without_room)
        self._check_room(len(proposal.payload))
        if proposal.cursor is not None:
            # Two entries, and the first one counts by the second: either both are in a log, or it is as if
            # neither were. The one with records stays what every reader knows.
            self._append_own(EntryKind.CURSOR, now, encode_cursor_change(proposal.cursor))
        entry = self._append_own(
            proposal.kind,
            now,
            proposal.payload,
            attributes=proposal.attributes,
            record_count=proposal.record_count,
            producer_id=proposal.producer_id,
            producer_sequence=proposal.producer_sequence,
            payload_crc=proposal.payload_crc,
        )
        return Ticket(entry.index, entry.term, entry.base_offset, entry.record_count, entry.timestamp)

    def _check_leading(self) -> None:
        if self.role is not Role.LEADER:
            leader = self.configuration.member(self.leader)
            raise NotLeaderError(leader.name if leader else None)
        if self._transfer_target:
            raise UnavailableError("leadership is being handed over; try again in a moment")

    def _check_other_kind(self, proposal: Proposal) -> None:
        if proposal.record_count or proposal.producer_id or proposal.attributes or proposal.cursor:
            raise InvalidRequestError("kind", "only a records entry has records, a producer or attributes")
        try:
            if proposal.kind == EntryKind.TRIM:
                lowest = decode_trim(bytes(proposal.payload))
                if lowest > self._log.state.next_offset:
                    raise InvalidRequestError(
                        "lowest_offset", f"{lowest} is beyond the log's end {self._log.state.next_offset}"
                    )
            elif proposal.kind == EntryKind.PRODUCER:
                decode_producer(bytes(proposal.payload))
            elif proposal.kind == EntryKind.BIRTH:
                birth = decode_birth(bytes(proposal.payload), index=0, timestamp=0)
                if self._log.state.birth is not None:
                    raise InvalidRequestError("group", f"{birth.group}: a log brings one group into being")
            elif proposal.kind == EntryKind.CURSOR:
                change = decode_cursor_change(bytes(proposal.payload))
                check_cursor_change(change)
                if change.flags & WITH_RECORDS:
                    raise InvalidRequestError("flags", "the records that it counts with are missing")
                self._log.state.cursors.check(change)
            else:
                raise InvalidRequestError("kind", f"{proposal.kind} cannot be proposed")
        except MalformedMessageError as error:
            raise InvalidRequestError("payload", str(error)) from None

    def _find_original(self, proposal: Proposal) -> Ticket | None:
        """Return the ticket of a batch that is already in the log; its commit is the one to wait for."""
        state = self._log.state
        try:
            batch = state.find_batch(proposal.producer_id, proposal.subject, proposal.producer_sequence)
        except SequenceError as error:
            held = self._held_back.sequence_of(error.producer_id)
            if error.expected == held and error.sequence > held:
                raise held_back_error(error.producer_id, held) from None
            raise
        if batch is not None:
            ticket = self._ticket_of(proposal, batch)
            if ticket is None:
                raise SequenceReusedError(proposal.producer_id, proposal.producer_sequence)
            return ticket
        batches = state.producers[proposal.producer_id].batches
        if len(batches) == PRODUCER_BATCHES_MAX and batches[0].index > self._log.commit_index:
            # One more would push an uncommitted batch out of the table: its retry could not be recognised.
            raise ResourceExhaustedError(
                f"producer {proposal.producer_id}",
                f"{PRODUCER_BATCHES_MAX} batches are in flight; wait for the oldest",
            )
        return None

    def _find_advanced(self, proposal: Proposal, change: CursorChange) -> Ticket | None:
        """Return the ticket of a batch that is in the log with this very advance of its cursor.

        Raises:
            UnknownCursorError, CursorFencedError, CursorRewindError: The advance would come to nothing.
        """
        if change.flags != WITH_RECORDS or proposal.producer_id:
            raise InvalidRequestError(
                "cursor", "its advance stands for a producer: a batch has one of the two"
            )
        check_cursor_change(change)
        cursors = self._log.state.cursors
        cursor = cursors.find_batch(change)
        if cursor is None:
            cursors.check(change)
            return None
        batch = ProducedBatch(0, cursor.batch_offset, cursor.batch_count, cursor.batch_index)
        ticket = self._ticket_of(proposal, batch)
        if ticket is None:
            raise CursorRewindError(change.position, cursor.position, change.name)
        return ticket

    def _ticket_of(self, proposal: Proposal, batch: ProducedBatch) -> Ticket | None:
        """Return the ticket of a batch that is in the log; None when it is another one than is proposed."""
        header: EntryHeader | None = None
        try:
            header = self._log.header_at(batch.index)
        except DamageError as error:
            if batch.index > self._log.commit_index:
                raise
            self._unreadable = error  # committed: that is all its caller must know
        if not _is_same(proposal, batch, header):
            return None
        term, timestamp = (header.term, header.timestamp) if header is not None else (0, 0)
        return Ticket(batch.index, term, batch.base_offset, batch.record_count, timestamp, duplicate=True)

    def _check_room(self, payload_size: int) -> None:
        config, log = self.config, self._log
        if payload_size > PAYLOAD_SIZE_MAX:
            raise InvalidRequestError(
                "payload", f"has {payload_size} bytes; at most {PAYLOAD_SIZE_MAX} are allowed"
            )
        if log.last_index - log.commit_index >= config.proposals_max:
            raise ResourceExhaustedError("proposals", f"{config.proposals_max} entries wait to be committed")
        size, size_max = log.uncommitted_size, config.proposals_size_max
        if size and size + payload_size > size_max:
            raise ResourceExhaustedError("proposals", f"{size_max} bytes wait to be committed")

    # --- membership -------------------------------------------------------------------

    def propose_configuration(self, configuration: Configuration, now: int) -> Ticket:
        """Append a configuration entry; it counts at once, and is acknowledged when committed.

        One voter may be added, removed, promoted or demoted at a time (Raft 6, single-server changes).

        Raises:
            NotLeaderError, UnavailableError, ResourceExhaustedError: As `propose`.
            MembershipError: The change is not one of these, another is not committed yet, this leader has
                committed nothing of its own term yet, a learner to be promoted is not caught up, or the new
                voters could not commit the change (`check_voters`).
        """
        self._check_leading()
        if not self.has_own_commit:
            # Without this, two leaders could count different majorities (Ongaro 2015).
            raise MembershipError("the leader has not committed an entry of its own term yet; try again")
        if not self.configuration_is_committed:
            raise MembershipError("another membership change is not committed yet; try again")
        check_change(self.configuration, configuration)
        for id_ in configuration.voters & self.configuration.learners:
            if not self.is_caught_up(id_):
                raise MembershipError(f"learner {id_} is not caught up yet; try again later")
        self.check_voters(configuration)
        payload = encode_configuration(configuration)
        self._check_room(len(payload))
        entry = self._append_own(EntryKind.CONFIGURATION, now, payload)
        return Ticket(entry.index, entry.term, entry.base_offset, 0, entry.timestamp)

    def check_voters(self, configuration: Configuration, within_ticks: int | None = None) -> None:
        """Raise unless a majority of a configuration's voters is heard and close behind this leader.

        Such a change counts at once and takes that majority to be committed, or to be taken back: without it
        the group has no leader any more, and nobody who could undo the change. Votes that stay as they are
        need no look: there was a majority a moment ago, and there is no other one.

        Args:
            within_ticks: How lately each must have been heard; an election timeout by default.

        Raises:
            MembershipError: Names the voters that are missing.
        """
        if configuration.voters == self._voters:
            return
        within_ticks = self.config.election_ticks if within_ticks is None else within_ticks
        near = self._log.last_index - self.config.inflight_entries_max
        missing = []
        for member in configuration.members:
            progress = self._progress.get(member.id)
            is_here = progress is not None and progress.silent_ticks < within_ticks
            is_near = progress is not None and progress.match_index >= near
            if member.id in configuration.voters and member.id != self.id and not (is_here and is_near):
                missing.append(member)
        count = len(configuration.voters)
        if count - len(missing) < majority(count):
            names = ", ".join(member.name for member in missing)
            raise MembershipError(
                f"of the {count} voters that there would be, {names} cannot be reached or is far behind: no "
                "majority, nothing was changed; start those first, or wait until they have caught up"
            )

    def is_caught_up(self, id: int) -> bool:
        """Whether a member got, for an election timeout, all that was appended within one. See `Progress`."""
        progress = self._progress.get(id)
        return progress is not None and progress.caught_up_ticks >= self.config.election_ticks

    def is_heard(self, id: int) -> bool:
        """Whether a member answered this leader within an election timeout; this one always."""
        progress = self._progress.get(id)
        return id == self.id or (progress is not None and progress.silent_ticks < self.config.election_ticks)

    @property
    def followers(self) -> dict[int, Progress]:
        """What a leader knows of the others, by id; empty on others. To look at, not to touch."""
        return self._progress

    # --- transfer ---------------------------------------------------------------------

    @property
    def transfer_target(self) -> int:
        """The member that leadership is being handed to; 0 when none is."""
        return self._transfer_target

    def transfer_leadership(self, target: int = NOBODY) -> None:
        """Hand leadership to a voter: no proposals until it took over, or an election timeout passed.

        Asking again for the same target changes nothing; for another, replaces it; for this leader itself,
        takes it back, unless the target was told already.

        Args:
            target: Who takes over; 0 for the best successor (a stop, a full disk).

        Raises:
            NotLeaderError: This is not the leader.
            MembershipError: The target is no voter, or was not heard for an election timeout: proposals would
                wait for nobody. Or there is none to hand over to.
        """
        if self.role is not Role.LEADER:
            self._check_leading()
        if target == NOBODY:
            target = self._transfer_target or self.best_successor
            if target == NOBODY:
                raise MembershipError("no other voter was heard lately; leadership stays here")
        if target == self.id:
            self._transfer_target = NOBODY
            return
        if target not in self._voters:
            raise MembershipError(f"member {target} is no voter; leadership cannot go there")
        if target == self._transfer_target:
            return
        if self._progress[target].silent_ticks >= self.config.election_ticks:
            member = self.configuration.member(target)
            name = member.name if member is not None else str(target)
            raise MembershipError(f"{name!r} was not heard lately; leadership stays here")
        self._transfer_target = target
        self._transfer_ticks = 0
        progress = self._progress[target]
        if progress.state is ProgressState.PROBE:
            progress.paused = False
        self._hand_over_when_ready()


def _is_same(proposal: Proposal, batch: ProducedBatch, header: EntryHeader | None) -> bool:
    """Whether a batch is the one that is in the log, as far as that is known: of a trimmed one, its count."""
    if proposal.record_count != batch.record_count:
        return False
    if header is None:
        return True
    given = proposal.payload_crc
    payload_crc = crc32c(proposal.payload) if given is None else given
    return (proposal.attributes, payload_crc) == (header.attributes, header.payload_crc)
