"""Which node leads which log, where no replica here can tell: by what the leaders say of themselves."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass

from loghouse.limits import LEADER_SECONDS_MAX, LEADERS_MAX
from loghouse.protocol.message import Message
from loghouse.protocol.routing_messages import Lead, Leads


@dataclass(frozen=True, slots=True)
class _Leader:
    """Who leads a group, in which term, and when that was heard last, in the clock's seconds."""

    name: str
    term: int
    heard_at: float


class LeaderTable:
    """Remembers what other nodes say they lead. Pure.

    Of two nodes that say that they lead a group, the one with the higher term does. What a node says is
    forgotten when it says otherwise, when a link with it is lost, and after `LEADER_SECONDS_MAX` without a
    word of it.
    """

    def __init__(self, now: Callable[[], float]) -> None:
        """Know nobody yet."""
        self._now = now  # seconds that only rise; fixed
        self._leaders: dict[int, _Leader] = {}  # by group; at most LEADERS_MAX
        # The groups of each node in there, so that no node's word costs a look at all others'.
        self._groups: dict[str, set[int]] = {}

    def __len__(self) -> int:
        return len(self._leaders)

    def leader_of(self, group: int) -> str:
        """Return the node that leads a group, as far as was heard; empty when that is not known."""
        leader = self._believed(group)
        return leader.name if leader is not None else ""

    def term_of(self, group: int) -> int:
        """Return the term in which that node leads; 0 when none is known."""
        leader = self._believed(group)
        return leader.term if leader is not None else 0

    def _believed(self, group: int) -> _Leader | None:
        leader = self._leaders.get(group)
        is_old = leader is not None and self._now() - leader.heard_at > LEADER_SECONDS_MAX
        return None if is_old else leader

    def heard(self, name: str, leads: Sequence[Lead]) -> list[int]:
        """Take all that a node leads, as it says; return the groups whose leader is another one now."""
        named = {lead.group for lead in leads}
        changed = []
        for group in self._groups.get(name, set()) - named:
            self._forget(group)
            changed.append(group)
        for lead in leads:
            known = self._believed(lead.group)
            if known is not None and known.name != name and known.term >= lead.term:
                continue
            was = known.name if known is not None else ""
            if self._put(lead.group, name, lead.term) and was != name:
                changed.append(lead.group)
        return changed

    def denied(self, group: int, name: str, leader: str) -> bool:
        """A node that was asked does not lead a group; `leader` does as far as it knows, empty: nobody.

        That one is believed until it speaks itself, or somebody of a higher term does. Return whether the
        group's leader is another one now.
        """
        known = self._believed(group)
        if known is not None and known.name != name:
            return False  # somebody else has said so of itself: hearsay is no better
        if leader in ("", name):
            self._forget(group)
            return known is not None
        return self._put(group, leader, known.term if known is not None else 0)

    def node_lost(self, name: str) -> list[int]:
        """Forget what a node said: it may be gone. Return the groups that it led."""
        groups = sorted(self._groups.get(name, ()))
        for group in groups:
            self._forget(group)
        return groups

    def _put(self, group: int, name: str, term: int) -> bool:
        """Remember a leader; False when there is no room for one more."""
        self._forget(group)
        if len(self._leaders) >= LEADERS_MAX:
            return False
        self._leaders[group] = _Leader(name, term, self._now())
        self._groups.setdefault(name, set()).add(group)
        return True

    def _forget(self, group: int) -> None:
        leader = self._leaders.pop(group, None)
        if leader is not None:
            groups = self._groups[leader.name]
            groups.discard(group)
            if not groups:
                del self._groups[leader.name]


class LeaderNews:
    """Tells the other members what this node leads: soon after that changed, and every second.

    While there is nothing to tell, and nothing was told, nothing is sent.
    """

    def __init__(
        self,
        leads: Callable[[], Collection[Lead]],
        members: Callable[[], Iterable[str]],
        send: Callable[[str, Message, int], bool],
        *,
        soon: Callable[[Callable[[], None]], object],
    ) -> None:
        """Tell nobody before `look` or `changed`."""
        self._leads = leads  # what this node leads now; fixed
        self._members = members  # the names of the other members; fixed
        self._send = send  # sends a message to a node; what does not get there is told again; fixed
        self._soon = soon  # runs work at the end of this turn of the reactor; fixed
        self._is_due = False  # `look` runs at the end of this turn
        self._has_told = False  # whether what was told last named a group
        self._is_stopped = False  # set once, by `stop`

    def changed(self) -> None:
        """A role has changed: tell at the end of this turn, once for however many have."""
        if not self._is_due:
            self._is_due = True
            self._soon(self._run)

    def _run(self) -> None:
        self._is_due = False
        self.look()

    def look(self) -> None:
        """Tell what this node leads; called every second, too."""
        leads = () if self._is_stopped else tuple(self._leads())
        if not leads and (self._is_stopped or not self._has_told):
            return
        self._has_told = bool(leads)
        message = Leads(leads=leads)
        for name in self._members():
            self._send(name, message, 0)

    def stop(self) -> None:
        """Tell nothing more."""
        self._is_stopped = True
