"""What is said of members, and what is made of it: the merge rules of SWIM, refutation, and the defences.

A statement counts by its incarnation; of two of the same incarnation LEFT beats DEAD beats SUSPECT beats
ALIVE. Only the member itself raises its incarnation. Drawn in `docs/membership.md`.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from loghouse.gossip.awareness import Awareness
from loghouse.gossip.broadcasts import Broadcasts, transmit_limit
from loghouse.gossip.config import SwimConfig
from loghouse.gossip.members import KnownMember, MemberKey, MemberTable, Profile, alive_statement, profile_of
from loghouse.gossip.ready import EventKind, GossipChance, MemberEvent, Outgoing
from loghouse.gossip.suspicion import Suspicion
from loghouse.limits import (
    GOSSIP_OUTBOX_MAX,
    GOSSIP_STRANGERS_MAX,
    GOSSIP_STRANGERS_PER_NAME_MAX,
    INCARNATION_HEARSAY_MAX,
    INCARNATION_JUMP_MAX,
    INCARNATION_MAX,
)
from loghouse.metrics import NO_METRICS, Metrics
from loghouse.protocol.address_book import AddressBook
from loghouse.protocol.gossip_messages import Liveness, Statement, SwimBroadcast
from loghouse.protocol.message import Message

EMPTY_BOOK: Final = AddressBook()


class Claims:
    """This member's knowledge of itself and of the others, and what it does on hearing something."""

    def __init__(
        self,
        config: SwimConfig,
        *,
        name: str,
        disk_uuid: bytes,
        profile: Profile,
        rng: GossipChance,
        seeds: Iterable[str] = (),
        book: AddressBook = EMPTY_BOOK,
        metrics: Metrics = NO_METRICS,
    ) -> None:
        self.config = config  # timing; fixed
        self.key = MemberKey(name, disk_uuid)  # who this member is; fixed
        self.profile = profile  # what it says of itself; set by `update`
        self.incarnation = book.incarnation + 1
        self.awareness = Awareness(config.awareness_max)
        self._metrics = metrics  # told why messages were ignored; fixed
        self._random = rng  # for targets, order and phases; fixed
        # Addresses to try while no live member is known there: `join` of the node's settings; fixed.
        self._seeds = tuple(seed for seed in seeds if seed != profile.address)
        self._tick = 0
        self._table = MemberTable()
        self._broadcasts = Broadcasts()
        self._outbox: list[Outgoing] = []
        self._events: list[MemberEvent] = []
        self._suspects: dict[MemberKey, KnownMember] = {}
        self._ring: list[MemberKey] = []
        self._is_leaving = False
        # Nothing is ever said with an incarnation above the ceiling that is durable; see `_announce`.
        self._ceiling_durable = book.incarnation
        self._announced: Statement | None = None
        self._accused_incarnation = 0
        self._denied: set[MemberKey] = set()
        self._book_dirty = False
        # Whose word about others counts: None for everybody's, as long as nobody said otherwise.
        self._believed: frozenset[MemberKey] | None = None
        self._shut_out: frozenset[str] = frozenset()
        self._strangers_heard: dict[str, int] = {}
        for contact in book.contacts:
            self._remember(MemberKey(contact.name, contact.disk_uuid), contact.incarnation, contact.address)

    def _remember(self, key: MemberKey, incarnation: int, address: str) -> None:
        # One below: a member that went on while this one was down says the very same incarnation again.
        if key != self.key:
            contact = KnownMember(
                key, Liveness.DEAD, incarnation - 1, 0, Profile(address=address), self.key.name
            )
            contact.is_forgotten = True
            self._admit(contact)

    # --- out ----------------------------------------------------------------------------

    def _refuse(self, reason: str) -> None:
        self._metrics.gossip_message_refused(reason)

    def _send(self, member: KnownMember, message: Message) -> None:
        for address in member.addresses:
            self._post(Outgoing(address, member.key, message))

    def _post(self, outgoing: Outgoing) -> None:
        if len(self._outbox) >= GOSSIP_OUTBOX_MAX:
            self._refuse("too many messages in one turn")  # a lost message is nothing new to this protocol
        else:
            self._outbox.append(outgoing)

    def _note(self, kind: EventKind, member: KnownMember) -> None:
        self._events.append(MemberEvent(kind, member.view()))

    @property
    def _live_count(self) -> int:
        return len(self._table.live()) + 1

    @property
    def _transmit_limit(self) -> int:
        return transmit_limit(self.config.transmit_factor, self._live_count)

    # --- about this member ----------------------------------------------------------------

    def _raise_above(self, incarnation: int) -> None:
        """Speak with an incarnation above everything said of this member so far."""
        self.incarnation = max(self.incarnation, incarnation) + 1
        self._announce()

    def _announce(self) -> None:
        """Tell the others how this member is, if its incarnation is covered by what is durable."""
        # A member that forgot an incarnation it had spoken with would be taken for an older self and stay
        # dead for everybody who remembers (memberlist #311).
        if self.incarnation > self._ceiling_durable:
            return
        self._announced = alive_statement(self.key, self.incarnation, self.profile)
        if self._is_leaving:
            self._say_goodbye()
        else:
            self._broadcasts.queue(self._announced)

    def _say_goodbye(self) -> None:
        assert self._announced is not None, "a goodbye before the first greeting"
        left = Statement(
            liveness=Liveness.LEFT,
            name=self.key.name,
            disk_uuid=self.key.disk_uuid,
            incarnation=self._announced.incarnation,
        )
        self._broadcasts.queue(left)
        for member in self._table.live():
            self._send(member, SwimBroadcast(broadcasts=(left,)))

    def _hear_of_self(self, source: MemberKey, statement: Statement) -> None:
        if self._is_leaving:
            return
        said = statement.incarnation
        if said > self.incarnation + INCARNATION_JUMP_MAX:
            # memberlist #359: following it would leave no incarnation to refute with.
            self._refuse("absurd incarnation of this member")
            self._deny(source)
        elif said < self.incarnation:
            if statement.liveness is not Liveness.ALIVE:
                self._deny(source)  # it missed what refutes that (memberlist #345)
        elif statement.liveness in (Liveness.SUSPECT, Liveness.DEAD, Liveness.LEFT):
            self._accused_incarnation = max(self._accused_incarnation, said)
        elif said > self.incarnation or profile_of(statement) != self.profile:
            # Somebody else speaks for us, with a false address perhaps; or we lost our address book. If this
            # goes on, two nodes run with one identity, on copies of one disk.
            self._refuse("another description of this member")
            self._accused_incarnation = max(self._accused_incarnation, said)

    def _deny(self, source: MemberKey) -> None:
        """Say to one member, once a tick at most, how this one really is."""
        member = self._table.get(source)
        if member is not None and self._announced is not None and source not in self._denied:
            self._denied.add(source)
            self._send(member, SwimBroadcast(broadcasts=(self._announced,)))

    def _refute(self) -> None:
        # Once a tick at most: a storm of accusations must not become a storm of refutations.
        self._denied.clear()
        if self._accused_incarnation >= self.incarnation:
            # Lifeguard: who is accused has probably been slow.
            self.awareness.change(+1)
            self._metrics.suspicion_refuted()
            self._raise_above(self._accused_incarnation)

    # --- whose word counts --------------------------------------------------------------------

    def believe(self, members: frozenset[MemberKey]) -> None:
        """Take the word of these nodes about others, and of the rest only what each says of itself."""
        self._believed = members

    def shut_out(self, names: frozenset[str]) -> None:
        """Forget the nodes of these names, which were removed, and hear nothing of them any more."""
        self._shut_out = names
        for member in [member for member in self._table if member.key.name in names]:
            self._broadcasts.drop(member.key)
            self._table.drop(member.key)
            self._book_dirty = True

    def _is_stranger(self, key: MemberKey) -> bool:
        return self._believed is not None and key not in self._believed

    def _may_say(self, source: MemberKey, statement: Statement) -> bool:
        """Whether a node may say this at all: a stranger only what it is itself, and not often."""
        if statement.name in self._shut_out:
            self._refuse("about a removed node")
            return False
        is_ours = statement.name == self.key.name and statement.disk_uuid != self.key.disk_uuid
        if is_ours and self._believed is not None and self.key in self._believed:
            # It could not be spoken with: a link between two of one name is refused.
            self._refuse("another machine of this name")
            return False
        if not self._is_stranger(source):
            return True
        if source != (statement.name, statement.disk_uuid):
            self._refuse("hearsay of a stranger")
            return False
        known = self._table.get(source)
        if known is not None and known.is_live and statement.incarnation <= known.incarnation:
            return True  # nothing new
        heard_tick = self._strangers_heard.get(source.name)
        if heard_tick is not None and self._tick - heard_tick < self.config.probe_ticks:
            # Each new address is dialled, and spread to everybody.
            self._refuse("stranger that changes too often")
            return False
        self._strangers_heard.pop(source.name, None)
        if len(self._strangers_heard) >= GOSSIP_STRANGERS_MAX:
            del self._strangers_heard[next(iter(self._strangers_heard))]
        self._strangers_heard[source.name] = self._tick
        return True

    # --- about others -----------------------------------------------------------------------

    def _hear_all(self, source: MemberKey, statements: Iterable[Statement]) -> None:
        for statement in statements:
            if self._may_say(source, statement):
                self._hear(source, statement)

    def _hear(self, source: MemberKey, statement: Statement) -> None:
        if not 0 < statement.incarnation <= INCARNATION_MAX:
            return self._refuse("incarnation out of range")
        key = MemberKey(statement.name, statement.disk_uuid)
        if key == self.key:
            return self._hear_of_self(source, statement)
        member = self._table.get(key)
        # What a member says of itself over its own link is proven; everything else is hearsay.
        first_hand = key == source
        if not first_hand:
            known = member.incarnation + INCARNATION_JUMP_MAX if member else INCARNATION_HEARSAY_MAX
            if statement.incarnation > known:
                return self._refuse("absurd incarnation")
        if statement.liveness is Liveness.ALIVE:
            return self._hear_alive(key, member, statement, first_hand)
        if member is None:
            return self._hear_of_unknown(key, statement)
        if statement.liveness is Liveness.LEFT:
            return self._hear_left(member, statement)
        return self._hear_accusation(member, statement)

    def _hear_alive(
        self, key: MemberKey, member: KnownMember | None, statement: Statement, first_hand: bool
    ) -> None:
        said = statement.incarnation
        if not statement.address:
            return self._refuse("alive without an address")
        if member is None:
            member = KnownMember(key, Liveness.DEAD, 0, self._tick, is_proven=first_hand)
            if not self._admit(member):
                return self._refuse("no room for another member")
        elif said < member.incarnation:
            if not first_hand or said + INCARNATION_JUMP_MAX >= member.incarnation:
                # Stale: never resurrects (al8n/memberlist #197).
                return self._hear_nothing_new(member, statement, first_hand)
            self._refuse("absurd incarnation, heard earlier and denied now")
        elif said == member.incarnation:
            return self._hear_nothing_new(member, statement, first_hand)
        return self._take(member, statement, first_hand)

    def _hear_nothing_new(self, member: KnownMember, statement: Statement, first_hand: bool) -> None:
        """Learn where a member is from an ALIVE that does not outweigh what is held of it."""
        profile = profile_of(statement)
        if first_hand and statement.incarnation == member.incarnation and member.profile == profile:
            member.address_before = ""
        elif not member.is_live and (member.profile is None or (first_hand and member.profile != profile)):
            # It may live and not know what is held against it: maybe only we heard that. It can refute what
            # it is told, so it must be tried where it is said to be, or it stays dead here for ever.
            member.profile, member.address_before = profile, ""
            self._book_dirty = True

    def _admit(self, newcomer: KnownMember) -> bool:
        """Take a new member into the table, in the place of another if need be; return whether it has one."""
        if self._is_stranger(newcomer.key) and not self._has_room_for_stranger(newcomer):
            return False
        if self._table.is_full:
            least = self._table.least(newcomer)
            if least is None:
                return False
            self._let_go(least)
        self._table.add(newcomer)
        return True

    def _has_room_for_stranger(self, newcomer: KnownMember) -> bool:
        """Whether one more node that is no member may be known; of a name's disks the oldest makes room."""
        strangers = [member for member in self._table if self._is_stranger(member.key)]
        namesakes = [member for member in strangers if member.key.name == newcomer.key.name]
        if len(namesakes) >= GOSSIP_STRANGERS_PER_NAME_MAX:
            self._let_go(min(namesakes, key=lambda member: (member.is_live, member.changed_tick)))
            return True
        if len(strangers) < GOSSIP_STRANGERS_MAX:
            return True
        gone = [member for member in strangers if not member.is_live]
        if gone:
            self._let_go(min(gone, key=lambda member: member.changed_tick))
        return bool(gone)

    def _let_go(self, member: KnownMember) -> None:
        """Know a member no more, to make room for another."""
        if member.is_live:
            self._table.move(member, Liveness.DEAD, self._tick)
            self._note(EventKind.FAILED, member)
        self._broadcasts.drop(member.key)
        self._table.drop(member.key)

    def _take(self, member: KnownMember, statement: Statement, first_hand: bool) -> None:
        """Believe that a member is alive and as described."""
        profile, before = profile_of(statement), member.profile
        was_live = member.is_live
        if first_hand or before is None or profile.address == member.address_before:
            member.address_before = ""
        elif profile.address != before.address and not member.address_before:
            member.address_before = before.address
        member.profile = profile
        member.incarnation = statement.incarnation
        member.is_forgotten = False
        self._table.move(member, Liveness.ALIVE, self._tick)
        self._broadcasts.queue(statement)
        if not was_live:
            self._note(EventKind.JOINED, member)
            if member.key not in self._ring:
                self._ring.insert(self._random.randrange(0, len(self._ring) + 1), member.key)
        elif profile != before:
            self._note(EventKind.UPDATED, member)
        if not was_live or profile != before:
            self._book_dirty = True

    def _hear_of_unknown(self, key: MemberKey, statement: Statement) -> None:
        """Remember that a member not known is dead or gone, so that older news cannot bring it to life.

        It is not spread: a member that everybody else forgot would circulate for ever.
        """
        if statement.liveness is not Liveness.SUSPECT:
            grave = KnownMember(
                key, statement.liveness, statement.incarnation, self._tick, accuser=self.key.name
            )
            grave.is_forgotten = True
            if not self._admit(grave):
                self._refuse("no room for another member")

    def _hear_left(self, member: KnownMember, statement: Statement) -> None:
        if statement.incarnation < member.incarnation:
            return
        member.incarnation = statement.incarnation
        if member.liveness is Liveness.LEFT:
            return  # spread once: two leaves do not chase each other for ever (serf #606)
        self._table.move(member, Liveness.LEFT, self._tick)
        self._book_dirty = True
        if not member.is_forgotten:
            self._broadcasts.queue(member.statement())
            self._note(EventKind.LEFT, member)

    def _hear_accusation(self, member: KnownMember, statement: Statement) -> None:
        """Suspect whom others suspect or call dead: everybody sees for itself, and everybody can refute."""
        if not member.is_live:
            member.incarnation = max(member.incarnation, statement.incarnation)
        elif statement.incarnation >= member.incarnation:
            if not self._is_known(statement.accuser):
                return self._refuse("accuser not known")
            self._suspect(member, statement.incarnation, statement.accuser)
        return None

    def _is_known(self, name: str) -> bool:
        return name == self.key.name or any(member.key.name == name for member in self._table.live())

    def _suspect(self, member: KnownMember, incarnation: int, accuser: str) -> None:
        member.incarnation = incarnation
        if member.suspicion is None:
            self._metrics.member_suspected()
            self._table.move(member, Liveness.SUSPECT, self._tick)
            member.suspicion = Suspicion(self.config, self._live_count, accuser, self._tick)
            self._suspects[member.key] = member
        elif not member.suspicion.confirm(accuser):
            return
        member.accuser = accuser
        self._broadcasts.queue(member.statement())

    def _judge_suspects(self) -> None:
        """Declare dead whose time to refute is over."""
        for key, member in list(self._suspects.items()):
            if member.suspicion is None or self._table.get(key) is not member:
                del self._suspects[key]
            elif member.suspicion.is_over(self._tick, self.awareness.score + 1):
                del self._suspects[key]
                member.accuser = self.key.name
                self._table.move(member, Liveness.DEAD, self._tick)
                self._broadcasts.queue(member.statement())
                self._note(EventKind.FAILED, member)
