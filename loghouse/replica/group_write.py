"""A group of Readys on its way to the disk: one sync for all of them."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Final

from loghouse.errors import DiskFullError
from loghouse.limits import KIB
from loghouse.protocol.entry import Entry
from loghouse.raft.ready import Ready
from loghouse.runtime.lanes import SyncedWork
from loghouse.storage.log import Log
from loghouse.storage.writing import SyncUnderWay

SHARED_SIZE_MAX: Final = 64 * KIB


class GroupWrite(SyncedWork):
    """Writes the group on the disk thread; goes on where a full disk stopped it."""

    def __init__(self, log: Log, group: list[Ready], now: Callable[[], float] | None = None) -> None:
        """Take the group apart: its steps, in the order that `Ready` asks for.

        Args:
            now: Seconds that only rise, to measure the steps with; None measures nothing.
        """
        self._log = log
        self._now = now
        self.entry_count = self.last_index = self.size = 0  # of its entries; `size` in bytes
        self.write_seconds = self.sync_seconds = 0.0  # set by `run`, or by `begin` and its sync
        self._commit_index = group[-1].commit_index
        self._steps: deque[Callable[[], None]] = deque()
        self._sync: SyncUnderWay | None = None  # set between `begin` and `finish`
        entries: list[Entry] = []
        for ready in group:
            if ready.hard_state is not None:
                self._flush(entries)
                state = ready.hard_state
                self._steps.append(partial(log.save_hard_state, term=state.term, vote=state.vote))
            if ready.snapshot is not None:
                self._flush(entries)
                self._steps.append(partial(log.install_start, ready.snapshot))
            if ready.truncate_after is not None:
                self._flush(entries)
                self._steps.append(partial(log.truncate_suffix, ready.truncate_after))
            entries.extend(ready.entries)
        has_other_steps = bool(self._steps)
        self._flush(entries)
        # Nothing but a few entries: the others of a round do not wait long for it.
        self.may_share = not has_other_steps and self.size <= SHARED_SIZE_MAX

    def _flush(self, entries: list[Entry]) -> None:
        if entries:
            self.entry_count += len(entries)
            self.size += sum([entry.size for entry in entries])
            self.last_index = entries[-1].index
            self._steps.append(self._append_step(tuple(entries)))
            entries.clear()

    def _append_step(self, entries: tuple[Entry, ...]) -> Callable[[], None]:
        left = entries

        def append() -> None:
            nonlocal left
            try:
                self._log.append(left)
            except DiskFullError:
                left = left[self._log.last_index + 1 - left[0].index :]
                raise

        return append

    def run(self) -> None:
        """Do the steps that are left, then sync."""
        now = self._now
        began = now() if now is not None else 0.0
        self._do_steps()
        written = now() if now is not None else 0.0
        self._log.sync(self._commit_index)
        if now is not None:
            self.write_seconds, self.sync_seconds = written - began, now() - written

    def _do_steps(self) -> None:
        while self._steps:
            self._steps[0]()
            self._steps.popleft()

    __call__ = run

    def begin(self) -> Callable[[], None]:
        """Do the steps that are left, and return the sync."""
        now = self._now
        began = now() if now is not None else 0.0
        self._do_steps()
        self._sync = self._log.begin_sync(self._commit_index)
        if now is None:
            return self._sync.run
        self.write_seconds = now() - began
        return self._measured_sync

    def _measured_sync(self) -> None:
        assert self._sync is not None
        assert self._now is not None
        began = self._now()
        self._sync.run()
        self.sync_seconds = self._now() - began

    def finish(self) -> None:
        """Say what is durable."""
        assert self._sync is not None
        self._sync.finish()
