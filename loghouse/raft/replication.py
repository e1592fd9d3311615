"""Log replication (Raft 5.3, 5.4.2, 7): a leader's stream to each follower, and a follower's side of it."""

from __future__ import annotations

from dataclasses import replace

from loghouse.errors import DamageError, DivergenceError, MalformedMessageError
from loghouse.protocol.entry import FILLING_KINDS
from loghouse.protocol.log_state import decode_log_state, encode_log_state
from loghouse.protocol.raft_messages import (
    NOBODY,
    AppendEntries,
    AppendEntriesReply,
    Heartbeat,
    HeartbeatReply,
    InstallSnapshot,
    NoRoom,
    TimeoutNow,
)
from loghouse.raft.progress import Progress, ProgressState
from loghouse.raft.quorum import committed_index
from loghouse.raft.ready import INDEX_MAX, EntriesPendingError, Role
from loghouse.raft.roles import Roles


class Replication(Roles):
    """Sending, taking and committing entries."""

    # --- the leader sends -----------------------------------------------------------

    def _flush_appends(self) -> None:
        """Send every follower what it lacks and may be sent. Called once a turn, so appends are batched."""
        last_index, commit_to_notify = self._log.last_index, self._commit_to_notify
        for id_, progress in self._progress.items():
            if (
                progress.next_index > last_index
                and progress.sent_commit >= commit_to_notify
                and progress.state is ProgressState.REPLICATE
                and not progress.must_probe
            ):
                continue  # as nearly always: `_stream` would find nothing to say
            try:
                if progress.state is ProgressState.REPLICATE:
                    self._stream(id_, progress)
                elif progress.state is ProgressState.PROBE and not progress.paused:
                    self._send_append(
                        id_, progress, self.config.inflight_entries_max, self.config.append_size_max
                    )
                    progress.paused = True
            except EntriesPendingError:
                continue  # this follower's turn comes when they are here

    def _stream(self, id_: int, progress: Progress) -> None:
        """Send entries while there are any and the in-flight window has room."""
        last_index = self._log.last_index
        while progress.next_index <= last_index:
            count_max, size_max = progress.inflights.room()
            if count_max <= 0 or size_max <= 0:
                break
            size_max = min(size_max, self.config.append_size_max)
            if not self._send_append(id_, progress, count_max, size_max):
                break
        if progress.state is not ProgressState.REPLICATE:
            return
        if progress.must_probe and progress.match_index < last_index:
            # Everything in flight may be lost; an empty append behind it brings that to light.
            self._send_append(id_, progress, 0, 0)
        progress.must_probe = False
        if self._awaits_commit(progress, self._commit_to_notify):
            self._send_append(id_, progress, 0, 0)

    def _awaits_commit(self, progress: Progress, index: int) -> bool:
        """Whether this follower has every entry, but does not know that those up to `index` are committed.

        While entries are on their way the notification can wait: their acknowledgement calls `_stream` again.
        """
        return (
            progress.sent_commit < index
            and progress.state is ProgressState.REPLICATE
            and progress.next_index > self._log.last_index
            and not progress.inflights
        )

    @property
    def has_unnotified_commit(self) -> bool:
        """Whether a follower has every entry and does not know of the latest commit: see `notify_commit`."""
        return self._has_unnotified(self._log.commit_index)

    def notify_commit(self, index: int) -> bool:
        """Notify followers that entries up to `index` are committed, if no entries have done so by now.

        Returns whether a follower is to be notified: then `Raft.ready` has the messages.

        Readers on followers should not wait for the next heartbeat to see a commit, so a driver calls this a
        moment after it finds `has_unnotified_commit`. Not at once: the next entries carry the commit
        index for nothing, and a message of its own, which is answered, doubles those of a lone append.
        """
        self._commit_to_notify = index
        return self._has_unnotified(index)

    def _has_unnotified(self, index: int) -> bool:
        progress = self._progress
        return bool(progress) and any(self._awaits_commit(one, index) for one in progress.values())

    def _send_append(self, id_: int, progress: Progress, count_max: int, size_max: int) -> bool:
        """Send one append of up to that much (or a snapshot); return whether entries were sent."""
        log = self._log
        next_index = progress.next_index
        high = min(log.last_index, next_index + count_max - 1)
        try:
            prev_term = log.term_at(next_index - 1)
            if prev_term == 0 and next_index > 1:
                raise LookupError
            entries = tuple(log.entries(next_index, high, size_max)) if high >= next_index else ()
        except LookupError:  # trimmed
            self._send_snapshot(id_, progress)
            return False
        except DamageError as error:
            # Never sent. The follower waits until they are mended, and asks again with each heartbeat.
            self._unreadable = error
            if progress.state is ProgressState.REPLICATE:
                progress.become_probe()
            progress.paused = True
            return False
        size = sum(entry.size for entry in entries)
        if size > size_max and len(progress.inflights) > 0:
            return False  # a single large entry waits until it is alone in flight
        self._send(
            id_,
            AppendEntries(
                term=self.term,
                prev_log_index=next_index - 1,
                prev_log_term=prev_term,
                commit_index=log.commit_index,
                entries=entries,
            ),
        )
        progress.sent_commit = log.commit_index
        if entries and progress.state is ProgressState.REPLICATE:
            progress.next_index = entries[-1].index + 1
            progress.inflights.add(entries[-1].index, len(entries), size)
        return bool(entries)

    def _send_snapshot(self, id_: int, progress: Progress) -> None:
        """Tell a follower that needs trimmed entries where the log starts."""
        if not progress.active:
            return  # it may be gone; a state can be megabytes
        state = self._log.start_state()
        progress.become_snapshot(state.index)
        self._send(id_, InstallSnapshot(term=self.term, state=encode_log_state(state)))

    def _broadcast_heartbeat(self) -> None:
        """Tell everybody that the leader is there; the read round rides along."""
        for id_, progress in self._progress.items():
            # Only what the follower is known to hold: with more, it might commit entries of its own.
            commit_index = min(progress.match_index, self._log.commit_index)
            read_round = self._reads.round
            self._send(id_, Heartbeat(term=self.term, commit_index=commit_index, read_round=read_round))

    # --- the leader hears -----------------------------------------------------------

    def _on_append_reply(self, source: int, message: AppendEntriesReply) -> None:
        progress = self._progress.get(source)
        if progress is None:
            return self._refuse("reply from no follower")
        if message.success and message.index > self._log.last_index:
            return self._refuse("reply beyond the log")
        progress.active = True
        progress.silent_ticks = 0
        if message.success:
            self._on_append_success(source, progress, message.index)
        else:
            hint = message.hint_index
            if hint >= self._log.first_index:
                try:
                    hint = self._log.last_at_or_below(hint, message.hint_term)
                except DamageError as error:
                    self._unreadable = error  # the follower's own hint will do
            if not progress.reject(message.index, hint + 1):
                self._refuse("stale rejection")
        return None

    def _on_append_success(self, source: int, progress: Progress, index: int) -> None:
        is_new = progress.acknowledge(index)
        if progress.state is ProgressState.PROBE:
            if is_new or index == progress.match_index:
                progress.become_replicate()
        elif progress.state is ProgressState.SNAPSHOT:
            # It may have got there by other entries than the snapshot: what counts is that the log joins.
            if progress.match_index + 1 >= self._log.first_index:
                progress.become_replicate()
        else:
            progress.inflights.free_to(index)
        if is_new:
            if source in self._voters and index > self._log.commit_index:
                self._advance_commit()
            self._hand_over_when_ready()

    def _on_heartbeat_reply(self, source: int, message: HeartbeatReply) -> None:
        progress = self._progress.get(source)
        if progress is None:
            return self._refuse("reply from no follower")
        progress.active = True
        progress.silent_ticks = 0
        progress.timestamp = message.timestamp
        if message.last_index < progress.match_index:
            # Its disk lost what it had acknowledged (or this is an old message: then one probe too many).
            self._refuse("follower lost entries")
            progress.lost(message.last_index)
        elif progress.state is ProgressState.SNAPSHOT and progress.waited_ticks >= self.config.snapshot_ticks:
            progress.become_probe()
        if not progress.no_room_ticks or progress.wants_look:
            progress.paused = progress.wants_look = False
        progress.must_probe = True
        if progress.read_round < message.read_round <= self._reads.round:
            progress.read_round = message.read_round
        return None

    @property
    def newest_timestamp(self) -> int:
        """The append time of the log's last entry, microseconds since the epoch; they never decrease."""
        return self._log.state.timestamp

    def majority_time(self) -> int:
        """Return the time that the wall clocks of a majority of voters have reached, as this leader heard it.

        In microseconds since the epoch; 0 before a majority told theirs. Nothing in Raft depends on it.
        """
        if not self._voters:
            return 0
        progress = self._progress
        times = [
            self._now if id_ == self.id else progress[id_].timestamp if id_ in progress else 0
            for id_ in self._voters
        ]
        return committed_index(times)

    def _advance_commit(self) -> None:
        """Commit what a majority of voters holds durably (Raft 5.3), this leader's disk included."""
        if not self._voters:
            return
        matches = [
            self._log.durable_index if id_ == self.id else self._progress[id_].match_index
            for id_ in self._voters
        ]
        index = committed_index(matches)
        # Raft 5.4.2: an entry of an older term is committed only by committing one of our own on top of
        # it, so counting replicas of older entries is not enough.
        if index >= self._term_start_index and self._log.commit(index) and not self.is_voter:
            self._retire_if_committed()

    def _retire_if_committed(self) -> None:
        """A leader that is no voter of the now committed configuration has done its duty (Raft 6)."""
        if self.configuration_is_committed:
            self.notify_commit(self._log.commit_index)
            self._flush_appends()  # as far as it goes
            self._step_down()

    def _step_down(self) -> None:
        """Step down, and let the best follower campaign at once instead of after a timeout."""
        best = self.best_successor
        if best != NOBODY:
            self._send(best, TimeoutNow(term=self.term))
        self._become_follower(self.term, NOBODY)

    @property
    def best_successor(self) -> int:
        """The other voter, heard lately, that holds the most of this leader's log; 0 when there is none.

        One with room on its disk rather than one without.
        """
        candidates = [
            (not progress.no_room_ticks, progress.match_index, -id_)
            for id_, progress in self._progress.items()
            if id_ in self._voters and progress.silent_ticks < self.config.election_ticks
        ]
        return -max(candidates)[2] if candidates else NOBODY

    def _hand_over_when_ready(self) -> None:
        """In a transfer, let the target campaign as soon as it has the whole log (thesis 3.10)."""
        target = self._transfer_target
        if target != NOBODY and self._progress[target].match_index == self._log.last_index:
            self._send(target, TimeoutNow(term=self.term))

    # --- a follower takes -------------------------------------------------------------

    def _follow(self, leader: int) -> None:
        """Accept the sender as leader of this term (Raft 5.2)."""
        if self.role in (Role.PRE_CANDIDATE, Role.CANDIDATE):
            self._become_follower(self.term, leader)
        self.leader = leader
        self._election_elapsed = 0

    def _on_append_entries(self, source: int, message: AppendEntries) -> None:
        """Take entries that fit, cutting what contradicts them (Raft 5.3).

        Raises:
            MalformedMessageError: The entries do not follow each other.
            DivergenceError, EntryDamagedError: They contradict what is committed here.
        """
        self._follow(source)
        message.check()
        self.leader_commit = message.commit_index
        log = self._log
        prev_index = message.prev_log_index
        if prev_index <= log.commit_index:
            # Late, or sent again: what is committed is the leader's, too, and need not match once more.
            self._check_committed(message)
        elif not log.matches(prev_index, message.prev_log_term):
            return self._reject(source, message)
        if log.undurable_size >= 2 * self.config.inflight_size_max and message.entries:
            return self._refuse("more appends than the disk takes")
        if self.disk_is_full and message.entries:
            message = self._without_what_has_no_room(message)
            if not message.entries:
                return self._refuse("no room for records")
        last_new = prev_index + len(message.entries)
        if message.entries and not log.matches(last_new, message.entries[-1].term):
            self._take(message)
        log.commit(min(message.commit_index, last_new))
        return self._acknowledge(source, max(last_new, log.commit_index))

    def _without_what_has_no_room(self, message: AppendEntries) -> AppendEntries:
        """Leave out what a full disk cannot take, records and cursors, and all behind that."""
        room = self._log.record_room
        for place, entry in enumerate(message.entries):
            if entry.kind in FILLING_KINDS and not self._log.matches(entry.index, entry.term):
                room -= entry.size
                if room < 0:
                    return replace(message, entries=message.entries[:place])
        return message

    def _check_committed(self, message: AppendEntries) -> None:
        """Raise unless the message agrees with what is committed here, as far as that is still held."""
        commit_index = self._log.commit_index
        self._check_same(message.prev_log_index, message.prev_log_term)
        for entry in message.entries[: max(0, commit_index - message.prev_log_index)]:
            self._check_same(entry.index, entry.term)

    def _check_same(self, index: int, term: int) -> None:
        try:
            held = self._log.term_at(index)
        except DamageError as error:
            self._unreadable = error
            return  # nothing is known to compare with
        if held not in (0, term):
            raise DivergenceError(self.group, index, held, term)

    def _take(self, message: AppendEntries) -> None:
        """Append the entries not yet held; the first that contradicts cuts the rest of the log."""
        log = self._log
        try:
            for entry in message.entries:
                if entry.index <= log.last_index:
                    if entry.index <= log.commit_index or log.term_at(entry.index) == entry.term:
                        continue
                    log.truncate(entry.index - 1)
                log.append(entry)
        finally:
            self._refresh_membership()

    def _acknowledge(self, leader: int, index: int) -> None:
        # Never "now", whatever the append held: what it builds on may still be on its way to the disk.
        self._send_after_persist(leader, AppendEntriesReply(term=self.term, success=True, index=index))

    def _reject(self, leader: int, message: AppendEntries) -> None:
        """Say what did not fit and the last entry that could, skipping whole terms (Raft 5.3, end)."""
        try:
            hint_index = self._log.last_at_or_below(message.prev_log_index, message.prev_log_term)
            hint_term = self._log.term_at(hint_index)
        except DamageError as error:
            self._unreadable = error
            # As little as is certain: all of the log that is committed is the leader's, too.
            hint_index, hint_term = self._log.commit_index, message.prev_log_term
        self._send(
            leader,
            AppendEntriesReply(
                term=self.term,
                success=False,
                index=message.prev_log_index,
                hint_index=hint_index,
                hint_term=hint_term,
            ),
        )

    def _on_heartbeat(self, source: int, message: Heartbeat) -> None:
        self._follow(source)
        # Clamped: a member that lost entries must be repaired, not crash (etcd#10166).
        self._log.commit(min(message.commit_index, self._log.last_index))
        self._send(
            source,
            HeartbeatReply(
                term=self.term,
                read_round=message.read_round,
                last_index=self._log.last_index,
                timestamp=self._now,
            ),
        )
        if self.disk_is_full:
            self._send(source, NoRoom(term=self.term))

    def _on_install_snapshot(self, source: int, message: InstallSnapshot) -> None:
        """Start the log anew where the leader's starts, unless that is already known (Raft 7).

        Raises:
            MalformedMessageError: Its state does not parse, or cannot be of this term.
            DivergenceError: It contradicts what is committed here.
        """
        self._follow(source)
        log = self._log
        state = decode_log_state(message.state)
        if not (1 <= state.term <= self.term and state.index < INDEX_MAX and state.next_offset < INDEX_MAX):
            raise MalformedMessageError(
                f"InstallSnapshot of term {self.term}: starts behind index {state.index}, term {state.term}, "
                f"offset {state.next_offset}"
            )
        if state.index <= log.commit_index:
            self._check_same(state.index, state.term)
            return self._acknowledge(source, log.commit_index)
        if log.matches(state.index, state.term):
            log.commit(state.index)  # a prefix of what we hold: keep the rest
        else:
            log.restore(state)
            self._refresh_membership()
        return self._acknowledge(source, state.index)
