"""Full disks in a group: who leads, and what is worth proposing (ADR 18).

A full disk takes votes, no-ops, trims and configurations, but no records. So a member without room says so
to its leader, and stands for election after those with room; a leader without room hands over to a voter
that has some; and while too few voters have room, records are refused before they are appended: there they
would wait, and all that frees room behind them.
"""

from __future__ import annotations

from typing import Final

from loghouse.protocol.raft_messages import NOBODY, NoRoom
from loghouse.raft.proposals import Proposals
from loghouse.raft.quorum import has_quorum
from loghouse.raft.ready import Role

HAND_OVER_ELECTIONS_MAX: Final = 64
"""A hand-over that came to nothing is tried again after twice the time, at most so many election timeouts."""


class Room(Proposals):
    """What a leader does about disks without room."""

    # Of a leader; begun anew with each leadership, by `_reset`.
    _full_ticks: int  # since this leader's disk is full, or it last looked for a successor
    _full_ticks_max: int  # when it looks
    _look_ticks: int  # since followers without room were last asked what they can take

    def _reset(self) -> None:
        super()._reset()
        self._without_room = ""
        self._full_ticks = self._full_ticks_max = self._look_ticks = 0

    def _tick_leader(self) -> None:
        super()._tick_leader()
        if self.role is Role.LEADER:
            self._count_room()
            self._look_for_room()
            self._look_at_full()

    def _on_no_room(self, source: int, message: NoRoom) -> None:
        progress = self._progress.get(source)
        if progress is None:
            return self._refuse("reply from no follower")
        # It says so with each heartbeat: silence for an election timeout means that it has room again.
        progress.no_room_ticks = self.config.election_ticks
        return None

    def _count_room(self) -> None:
        """Note whose disks are full, if so many are that no majority can take records."""
        # Not its own: of that the driver knows first.
        full = {id_ for id_, progress in self._progress.items() if progress.no_room_ticks}
        self._without_room = ""
        if full and not has_quorum(self._voters, self._voters - full):
            members = [self.configuration.member(id_) for id_ in sorted(full & self._voters)]
            names = ", ".join(member.name for member in members if member is not None)
            self._without_room = f"the data directories of {names}"

    def _look_at_full(self) -> None:
        """Let each follower without room be asked once in an election timeout what it can take by now."""
        self._look_ticks = (self._look_ticks + 1) % self.config.election_ticks
        if not self._look_ticks:
            for progress in self._progress.values():
                progress.wants_look = True

    def _look_for_room(self) -> None:
        """Hand over to a voter with room once all had the time to say that they have none, and seldom again.

        Who takes over does the same: two that are full do not pass the lead to and fro.
        """
        if not self.disk_is_full:
            self._full_ticks = self._full_ticks_max = 0
            return
        ticks = self.config.election_ticks
        self._full_ticks += 1
        if self._transfer_target or self._full_ticks < max(self._full_ticks_max, ticks):
            return
        self._full_ticks = 0
        target = self._successor_with_room
        if target != NOBODY:
            self._full_ticks_max = min(
                max(2 * self._full_ticks_max, 2 * ticks), HAND_OVER_ELECTIONS_MAX * ticks
            )
            self.transfer_leadership(target)

    @property
    def _successor_with_room(self) -> int:
        """The best successor, if it has room and all that is committed; 0 when there is none."""
        best = self.best_successor
        if best == NOBODY:
            return NOBODY
        progress = self._progress[best]
        is_fit = not progress.no_room_ticks and progress.match_index >= self._log.commit_index
        return best if is_fit else NOBODY
