"""What comes out of the core, and what it needs of a source of chance."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Protocol, TypeVar

from loghouse.gossip.members import MemberKey, MemberView
from loghouse.protocol.address_book import AddressBook
from loghouse.protocol.message import Message

_T = TypeVar("_T")


class GossipChance(Protocol):
    """What the core needs of `random.Random` (tests) or `random.SystemRandom` (production)."""

    def randrange(self, start: int, stop: int) -> int:
        """A number from `start` to `stop - 1`."""

    def sample(self, population: Sequence[_T], k: int) -> list[_T]:
        """`k` different elements, in random order."""


class EventKind(Enum):
    """What happened to a member, as far as this one knows."""

    JOINED = "joined"
    FAILED = "failed"
    LEFT = "left"
    UPDATED = "updated"


@dataclass(frozen=True, slots=True)
class MemberEvent:
    """A change of what is known of a member: the member as it is after it."""

    kind: EventKind
    member: MemberView


@dataclass(frozen=True, slots=True)
class Outgoing:
    """A message to send: to `address`, where `target` is expected (None: whoever it is, a seed).

    It may be lost. It must not be delivered to another member than `target` when the link can tell.
    """

    address: str
    target: MemberKey | None
    message: Message


@dataclass(frozen=True, slots=True)
class GossipReady:
    """Work for the driver, one turn's worth.

    `messages` may leave at once: nothing in them depends on `book`. `book`, when not None, is to be made
    durable (`encode_address_book`); then the driver calls `persisted(token)`, and what waited for it is in a
    later Ready. `events` are in the order in which they happened.
    """

    token: int
    messages: tuple[Outgoing, ...]
    events: tuple[MemberEvent, ...]
    book: AddressBook | None
