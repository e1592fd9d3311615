"""The probe cycle: ping, then ping through others, then suspect (SWIM 3; Lifeguard 4.1)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from loghouse.gossip.claims import Claims
from loghouse.gossip.members import KnownMember, MemberKey
from loghouse.gossip.ready import Outgoing
from loghouse.limits import GOSSIP_BROADCASTS_MAX, GOSSIP_RELAYS_MAX
from loghouse.protocol.gossip_messages import (
    Liveness,
    Statement,
    SwimAck,
    SwimBroadcast,
    SwimNack,
    SwimPing,
    SwimPingReq,
)

_SEQUENCE_MASK = (1 << 32) - 1


@dataclass(slots=True)
class Probe:
    """A probe under way. `sequences` maps each ping's number to the address it went to."""

    target: MemberKey
    timeout_tick: int
    end_tick: int
    sequence: int
    sequences: dict[int, str]
    asked: set[MemberKey] = field(default_factory=set)
    nacked: set[MemberKey] = field(default_factory=set)
    is_indirect: bool = False


@dataclass(slots=True)
class Relay:
    """A ping sent for another member: who asked, under which number, and until when it waits."""

    source: MemberKey
    sequence: int
    target: MemberKey
    end_tick: int


class Probing(Claims):
    """Finds out who does not answer. One probe at a time; a round visits every live member once."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._sequence = self._random.randrange(0, _SEQUENCE_MASK)
        self._probe: Probe | None = None
        self._next_probe_tick = self._random.randrange(1, self.config.probe_ticks + 1)
        self._relays: dict[int, Relay] = {}

    def _next_sequence(self) -> int:
        self._sequence = (self._sequence + 1) & _SEQUENCE_MASK
        return self._sequence

    def _carried(self, target: KnownMember) -> tuple[Statement, ...]:
        """Return what rides on a message: first what is said against its target, so that it can refute."""
        # Lifeguard's buddy system; also what brings back a member that was declared dead by mistake.
        if target.liveness is Liveness.ALIVE:
            return self._broadcasts.take(GOSSIP_BROADCASTS_MAX, self._transmit_limit)
        against = target.statement()
        queued = self._broadcasts.take(GOSSIP_BROADCASTS_MAX - 1, self._transmit_limit)
        return (against, *(statement for statement in queued if statement != against))

    # --- the cycle ----------------------------------------------------------------------------

    def _tick_probe(self) -> None:
        probe = self._probe
        if probe is not None:
            if self._tick >= probe.end_tick:
                self._conclude(probe)
            elif self._tick >= probe.timeout_tick and not probe.is_indirect:
                self._ask_others(probe)
        if self._tick >= self._next_probe_tick:
            self._start_probe()

    def _start_probe(self) -> None:
        interval = self.awareness.scaled(self.config.probe_ticks)
        self._next_probe_tick = self._tick + interval
        target = self._next_target()
        if target is None:
            return
        carried = self._carried(target)
        probe = Probe(
            target=target.key,
            timeout_tick=self._tick + self.awareness.scaled(self.config.timeout_ticks),
            end_tick=self._next_probe_tick,
            sequence=0,
            sequences={},
        )
        for address in target.addresses:
            probe.sequence = self._next_sequence()
            probe.sequences[probe.sequence] = address
            self._ping(target, probe.sequence, address, carried)
        self._probe = probe

    def _next_target(self) -> KnownMember | None:
        """Return whom to probe now; a round visits everybody once, so a failure is found in bounded time."""
        for _ in range(2):
            while self._ring:
                member = self._table.get(self._ring.pop())
                if member is not None and member.is_live:
                    return member
            live = self._table.live()
            self._ring = [member.key for member in self._random.sample(live, len(live))]
        return None

    def _ask_others(self, probe: Probe) -> None:
        probe.is_indirect = True
        target = self._table.get(probe.target)
        if target is not None and self._announced is not None:
            # It may be sending its acks to where somebody else told it that we are.
            self._send(target, SwimBroadcast(broadcasts=(self._announced,)))
        candidates = [
            member
            for member in self._table.live()
            if member.key != probe.target and member.liveness is Liveness.ALIVE
        ]
        count = min(self.config.indirect_probes, len(candidates))
        for member in self._random.sample(candidates, count):
            probe.asked.add(member.key)
            self._send(
                member,
                SwimPingReq(
                    sequence=probe.sequence,
                    name=probe.target.name,
                    disk_uuid=probe.target.disk_uuid,
                    broadcasts=self._carried(member),
                ),
            )

    def _conclude(self, probe: Probe) -> None:
        """Nobody had an answer from the target: mistrust ourselves a little, and suspect it."""
        self._probe = None
        member = self._table.get(probe.target)
        if member is None or not member.is_live:
            return
        # LHA-Probe: those asked should at least have said that they had no answer either. That somebody does
        # not answer who never did says nothing of us: inventions must not make us distrust ourselves.
        if member.is_proven:
            self.awareness.change(len(probe.asked) - len(probe.nacked) if probe.asked else 1)
        self._suspect(member, member.incarnation, self.key.name)

    # --- messages -----------------------------------------------------------------------------

    def _on_ping(self, source: MemberKey, message: SwimPing) -> None:
        self._hear_all(source, message.broadcasts)
        if (message.name, message.disk_uuid) != self.key:
            # Somebody else was here before (an address used again, an emptied disk): not ours to answer.
            return self._refuse("ping for another member")
        member = self._table.get(source)
        if member is None:
            return self._refuse("ping of a stranger")
        return self._send(member, SwimAck(sequence=message.sequence, broadcasts=self._carried(member)))

    def _on_ping_req(self, source: MemberKey, message: SwimPingReq) -> None:
        self._hear_all(source, message.broadcasts)
        asker = self._table.get(source)
        if asker is None:
            return self._refuse("ping request of a stranger")
        target = self._table.get(MemberKey(message.name, message.disk_uuid))
        if self._is_stranger(source):
            target = None  # it may ask by itself
        if target is None or len(self._relays) >= GOSSIP_RELAYS_MAX:
            return self._send(asker, SwimNack(sequence=message.sequence))
        sequence = self._next_sequence()
        # The nack must be there before the asker's time is over.
        end_tick = self._tick + max(1, self.config.timeout_ticks * 4 // 5)
        self._relays[sequence] = Relay(source, message.sequence, target.key, end_tick)
        carried = self._carried(target)
        for address in target.addresses:
            self._ping(target, sequence, address, carried)
        return None

    def _on_ack(self, source: MemberKey, message: SwimAck) -> None:
        self._hear_all(source, message.broadcasts)
        relay = self._relays.get(message.sequence)
        if relay is not None and relay.target == source:
            del self._relays[message.sequence]
            return self._answer(relay, SwimAck)
        probe = self._probe
        if probe is None:
            return None
        if source == probe.target and message.sequence in probe.sequences:
            self._confirm_address(source, probe.sequences[message.sequence])
        elif not (source in probe.asked and message.sequence == probe.sequence):
            return None
        self._probe = None
        return self.awareness.change(-1)

    def _confirm_address(self, key: MemberKey, address: str) -> None:
        """A member answered at one of its two addresses: the new one, or the one that it never left."""
        member = self._table.get(key)
        if member is None or member.profile is None or not member.address_before:
            return
        if address == member.profile.address:
            member.address_before = ""
            self._book_dirty = True
        else:
            self._send(member, SwimBroadcast(broadcasts=(member.statement(),)))

    def _on_nack(self, source: MemberKey, message: SwimNack) -> None:
        self._hear_all(source, message.broadcasts)
        probe = self._probe
        if probe is not None and message.sequence == probe.sequence and source in probe.asked:
            probe.nacked.add(source)

    def _ping(self, target: KnownMember, sequence: int, address: str, carried: tuple[Statement, ...]) -> None:
        message = SwimPing(
            sequence=sequence, name=target.key.name, disk_uuid=target.key.disk_uuid, broadcasts=carried
        )
        self._post(Outgoing(address, target.key, message))

    def _answer(self, relay: Relay, answer: Callable[..., SwimAck | SwimNack]) -> None:
        asker = self._table.get(relay.source)
        if asker is not None:
            self._send(asker, answer(sequence=relay.sequence, broadcasts=self._carried(asker)))

    def _tick_relays(self) -> None:
        for sequence, relay in list(self._relays.items()):
            if self._tick >= relay.end_tick:
                del self._relays[sequence]
                self._answer(relay, SwimNack)
