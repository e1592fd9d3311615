"""The membership core of one node: `Swim`. Sans-IO; time is ticks; randomness is injected.

How a driver uses it:

    swim = Swim(config, name=name, disk_uuid=disk_uuid, profile=Profile(address=...), seeds=seeds,
                book=decode_address_book(directory.read_members()), rng=rng)
    swim.step(source, message)     # for each message received; source is who the link proved to be
    swim.tick()                    # at a steady pace, 100 ms for the presets; never several to catch up
    while (ready := swim.ready()) is not None:
        send ready.messages, use ready.events
        write ready.book, if any, and when it is durable: swim.persisted(ready.token)

Nothing here blocks, and nothing is sent or written by the core itself. Membership is only a suggestion: what
it says is believed of liveness and addresses, never of who may vote.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from math import ceil, log2
from typing import Any

from loghouse.gossip.members import KnownMember, MemberKey, MemberView, Profile
from loghouse.gossip.probing import Probing
from loghouse.gossip.ready import GossipReady, Outgoing
from loghouse.limits import GOSSIP_BROADCASTS_MAX, INCARNATION_RESERVE, PUSH_PULL_SIZE_MAX
from loghouse.protocol.address_book import AddressBook, Contact
from loghouse.protocol.gossip_messages import (
    Liveness,
    PushPull,
    PushPullReply,
    Statement,
    SwimAck,
    SwimBroadcast,
    SwimNack,
    SwimPing,
    SwimPingReq,
    statement_size,
)
from loghouse.protocol.message import Message


class Swim(Probing):
    """One member's membership.

    Its constructor is that of `Claims`, with the book as last persisted. `incarnation` and `awareness`
    are for status pages.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        config = self.config
        self._token = 0
        self._writes: deque[tuple[int, int]] = deque()
        self._ceiling_asked = self._ceiling_durable
        self._next_book_tick = 0
        self._next_gossip_tick = self._random.randrange(1, config.gossip_ticks + 1)
        self._next_push_pull_tick = self._random.randrange(1, config.push_pull_ticks + 1)
        self._next_reach_out_tick = 1
        self._reach_out_ticks = config.reach_out_ticks_min
        self._replied: set[MemberKey] = set()
        self._steps: dict[type[Message], Callable[[MemberKey, Any], None]] = {
            SwimPing: self._on_ping,
            SwimPingReq: self._on_ping_req,
            SwimAck: self._on_ack,
            SwimNack: self._on_nack,
            PushPull: self._on_push_pull,
            PushPullReply: self._on_push_pull_reply,
            SwimBroadcast: self._on_broadcast,
        }

    # --- in -------------------------------------------------------------------------------------

    def step(self, source: MemberKey, message: Message) -> None:
        """Take one message. `source` is the member that the link's certificate and Hello proved.

        What does not fit is ignored, and `Metrics` is told why; nothing is raised.
        """
        if source == self.key:
            return self._refuse("message of ourselves")
        if source.name in self._shut_out:
            return self._refuse("message of a removed node")
        take = self._steps.get(type(message))
        if take is None:
            return self._refuse("not a message of gossip")
        member = self._table.get(source)
        if member is not None:
            member.is_proven = True
        return take(source, message)

    def tick(self) -> None:
        """Let one tick pass."""
        self._tick += 1
        self._refute()
        self._replied.clear()
        if self._suspects:
            self._judge_suspects()
        if self._relays:
            self._tick_relays()
        if self._is_leaving:
            return self._tick_gossip()
        self._tick_probe()
        self._tick_gossip()
        if self._announced is not None:
            self._tick_push_pull()
            self._tick_reach_out()
        if self._tick % self.config.probe_ticks == 0:
            self._reclaim()
        return None

    def persisted(self, token: int) -> None:
        """Note that the book of the Ready with this token, and those before it, are durable."""
        if token > self._token:
            raise ValueError(f"token {token} was never given out; the last is {self._token}")
        while self._writes and self._writes[0][0] <= token:
            self._ceiling_durable = self._writes.popleft()[1]
        if self._announced is None or self._announced.incarnation < self.incarnation:
            self._announce()

    def update(self, profile: Profile) -> None:
        """Be somewhere else, or something else, from now on: a new address, new tags."""
        if profile != self.profile:
            self.profile = profile
            self._raise_above(self.incarnation)

    def leave(self) -> None:
        """Leave for good: tell every live member, probe nobody any more, refute nothing.

        Go on ticking and sending for a second or so, so that whom the first word missed hears it from others.
        A member that merely stops should not call this: it is then found to have failed.
        """
        if not self._is_leaving:
            self._is_leaving = True
            self._probe = None
            if self._announced is not None:
                self._announce()

    # --- out ------------------------------------------------------------------------------------

    @property
    def members(self) -> tuple[MemberView, ...]:
        """Every member that is shown, this one first."""
        liveness = Liveness.LEFT if self._is_leaving else Liveness.ALIVE
        own = MemberView(
            name=self.key.name,
            disk_uuid=self.key.disk_uuid,
            liveness=liveness,
            incarnation=self.incarnation,
            profile=self.profile,
        )
        return (own, *(member.view() for member in self._table if not member.is_forgotten))

    @property
    def keys(self) -> frozenset[MemberKey]:
        """Every member that is known, also those not shown."""
        return frozenset(member.key for member in self._table)

    def ready(self) -> GossipReady | None:
        """Return the work of this turn, or None when there is none. It is handed out once."""
        book = self._book_to_write()
        if not (self._outbox or self._events or book):
            return None
        self._token += 1
        if book is not None:
            self._writes.append((self._token, book.incarnation))
            self._ceiling_asked = book.incarnation
            self._book_dirty = False
            self._next_book_tick = self._tick + self.config.book_ticks
        ready = GossipReady(self._token, tuple(self._outbox), tuple(self._events), book)
        self._outbox.clear()
        self._events.clear()
        return ready

    def last_book(self) -> AddressBook | None:
        """Return the book that a member about to stop should write, or None when the written one will do.

        Who stops a second after it met the others must find them again without seeds.
        """
        return self._book() if self._book_dirty else None

    def _book_to_write(self) -> AddressBook | None:
        """Return the book when an incarnation will soon need it, or, now and then, when addresses changed."""
        is_low = self.incarnation + INCARNATION_RESERVE // 2 > self._ceiling_asked
        if not is_low and not (self._book_dirty and self._tick >= self._next_book_tick):
            return None
        return self._book()

    def _book(self) -> AddressBook:
        known = [
            member
            for member in self._table
            if member.addresses and member.liveness is not Liveness.LEFT and not self._is_replaced(member)
        ]
        known.sort(key=lambda member: (not member.is_live, member.is_forgotten, -member.changed_tick))
        contacts = tuple(
            Contact(
                name=member.key.name,
                disk_uuid=member.key.disk_uuid,
                incarnation=max(member.incarnation, 1),
                # The last address is the one that the member itself is known to have had.
                address=member.addresses[-1],
            )
            for member in known
        )
        return AddressBook(incarnation=self.incarnation + INCARNATION_RESERVE, contacts=contacts)

    # --- spreading ------------------------------------------------------------------------------

    def _tick_gossip(self) -> None:
        if self._tick < self._next_gossip_tick or not len(self._broadcasts):
            return
        self._next_gossip_tick = self._tick + self.config.gossip_ticks
        targets = [member for member in self._table if member.is_live or self._may_refute(member)]
        for member in self._random.sample(targets, min(self.config.fanout, len(targets))):
            statements = self._broadcasts.take(GOSSIP_BROADCASTS_MAX, self._transmit_limit)
            if statements:
                self._send(member, SwimBroadcast(broadcasts=statements))

    def _may_refute(self, member: KnownMember) -> bool:
        gone_ticks = self._tick - member.changed_tick
        return not member.is_forgotten and gone_ticks < self.config.gossip_to_dead_ticks

    def _on_broadcast(self, source: MemberKey, message: SwimBroadcast) -> None:
        self._hear_all(source, message.broadcasts)

    # --- whole views ----------------------------------------------------------------------------

    def _view(self, target: MemberKey | None) -> tuple[Statement, ...]:
        """Return what to spread: ourselves, what is said against the target, the others; as much as fits."""
        chosen = [] if self._announced is None else [self._announced]
        others = [member for member in self._table if not member.is_forgotten or member.key == target]
        others.sort(key=lambda member: member.key != target)
        room = PUSH_PULL_SIZE_MAX - 2 - sum(map(statement_size, chosen))
        for member in others:
            statement = member.statement()
            room -= statement_size(statement)
            if room < 0:
                break
            chosen.append(statement)
        return tuple(chosen)

    def _tick_push_pull(self) -> None:
        if self._tick < self._next_push_pull_tick:
            return
        # Beyond 32 members more rarely, so that the work of each stays the same.
        stretch = max(1, ceil(log2(self._live_count / 32)) + 1)
        self._next_push_pull_tick = self._tick + self.config.push_pull_ticks * stretch
        live = self._table.live()
        for member in self._random.sample(live, min(1, len(live))):
            self._send(member, PushPull(members=self._view(member.key)))

    def _on_push_pull(self, source: MemberKey, message: PushPull) -> None:
        self._hear_all(source, message.members)
        member = self._table.get(source)
        if member is None or not member.addresses:
            return self._refuse("push-pull of a stranger")
        if source in self._replied:
            return self._refuse("push-pull twice in a tick")
        self._replied.add(source)
        return self._send(member, PushPullReply(members=self._view(source)))

    def _on_push_pull_reply(self, source: MemberKey, message: PushPullReply) -> None:
        self._hear_all(source, message.members)

    # --- finding the lost ------------------------------------------------------------------------

    def _is_replaced(self, member: KnownMember) -> bool:
        """Whether a member that is gone has a living namesake, maybe this one: its disk is gone."""
        if self._believed is not None and member.key in self._believed:
            return False  # a member for all that is known: who has taken its name takes not its place
        is_our_old_self = member.key.name == self.key.name
        return not member.is_live and (is_our_old_self or self._table.has_live_namesake(member))

    def _tick_reach_out(self) -> None:
        """Try the dead, contacts not heard of yet, and seeds: so nodes join, partitions heal."""
        if self._tick < self._next_reach_out_tick:
            return
        lost = list(self._lost())
        for outgoing_to in self._random.sample(lost, min(self.config.fanout, len(lost))):
            address, key = outgoing_to
            self._post(Outgoing(address, key, PushPull(members=self._view(key))))
        self._next_reach_out_tick = self._tick + self._reach_out_ticks
        self._reach_out_ticks = min(2 * self._reach_out_ticks, self.config.reach_out_ticks_max)

    def _lost(self) -> Iterable[tuple[str, MemberKey | None]]:
        # weaviate #10698, serf #333: when nobody tries the dead any more, two halves never find each other.
        for member in self._table:
            if member.liveness is Liveness.DEAD and not self._is_replaced(member):
                for address in member.addresses:
                    yield address, member.key
        live = {address for member in self._table.live() for address in member.addresses}
        for seed in self._seeds:
            if seed not in live:
                yield seed, None

    def _reclaim(self) -> None:
        for member in self._table:
            gone_ticks = self._tick - member.changed_tick
            if (
                not member.is_live
                and not member.is_forgotten
                and gone_ticks >= self.config.dead_reclaim_ticks
            ):
                member.is_forgotten = True
                self._broadcasts.drop(member.key)
