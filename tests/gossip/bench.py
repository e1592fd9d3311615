"""One core on a bench: fed by hand, looked at closely."""

import random

from loghouse.gossip.config import LAN
from loghouse.gossip.core import Swim
from loghouse.gossip.members import MemberKey, Profile
from loghouse.protocol.address_book import AddressBook
from loghouse.protocol.gossip_messages import Liveness, Statement, SwimAck, SwimBroadcast, SwimPing
from tests.recording import RecordingMetrics


def key(name):
    """The member of this name; its disk is made from the name."""
    return MemberKey(name, name.encode().ljust(16, b"-"))


def address_of(name):
    return f"{name}.example:8400"


def said(liveness, name, incarnation, *, accuser="", address=None, tags=(), disk_uuid=None):
    """A statement; ALIVE ones have the member's usual address unless another is given."""
    if liveness in (Liveness.SUSPECT, Liveness.DEAD) and not accuser:
        accuser = "a"
    if address is None:
        address = address_of(name) if liveness is Liveness.ALIVE else ""
    return Statement(
        liveness=liveness,
        name=name,
        disk_uuid=disk_uuid or key(name).disk_uuid,
        incarnation=incarnation,
        accuser=accuser,
        address=address,
        tags=tags,
    )


def alive(name, incarnation, **more):
    return said(Liveness.ALIVE, name, incarnation, **more)


def suspect(name, incarnation, **more):
    return said(Liveness.SUSPECT, name, incarnation, **more)


def dead(name, incarnation, **more):
    return said(Liveness.DEAD, name, incarnation, **more)


def left(name, incarnation):
    return said(Liveness.LEFT, name, incarnation)


class Bench:
    """The core of node "me", its messages, events and books in lists."""

    def __init__(self, *, config=LAN, seeds=(), book=None, seed=1, persist=True):
        self.metrics = RecordingMetrics()
        self.swim = Swim(
            config,
            name="me",
            disk_uuid=key("me").disk_uuid,
            profile=Profile(address=address_of("me")),
            rng=random.Random(seed),
            seeds=seeds,
            book=AddressBook() if book is None else book,
            metrics=self.metrics,
        )
        self.persist = persist
        self.silent = None  # None: nobody answers pings; else everybody but these does
        self.sent = []
        self.events = []
        self.books = []
        self.drain()

    @property
    def refusals(self):
        """Why messages were ignored, counted."""
        return self.metrics.counts("gossip_message_refused")

    def drain(self):
        """Take what the core has to do; write books at once if `persist`."""
        while (ready := self.swim.ready()) is not None:
            self.sent += ready.messages
            if self.silent is not None:
                self._answer(ready.messages)
            self.events += [(event.kind, event.member.name) for event in ready.events]
            if ready.book is not None:
                self.books.append(ready.book)
                if self.persist:
                    self.swim.persisted(ready.token)

    def _answer(self, messages):
        for outgoing in messages:
            if isinstance(outgoing.message, SwimPing) and outgoing.target.name not in self.silent:
                self.swim.step(outgoing.target, SwimAck(sequence=outgoing.message.sequence))

    def kill(self, name):
        """Let time pass until this member, the only one that does not answer, is dead."""
        self.silent = {name}
        for _ in range(2000):
            if self.liveness(name) is Liveness.DEAD:
                break
            self.tick()
        self.silent = None

    def hear(self, source, *statements):
        """Let a member tell these statements."""
        self.step(source, SwimBroadcast(broadcasts=statements))

    def step(self, source, message):
        self.swim.step(key(source) if isinstance(source, str) else source, message)
        self.drain()

    def meet(self, *names, incarnation=1):
        """Let members introduce themselves, one after the other."""
        for name in names:
            self.hear(name, alive(name, incarnation))
        return self

    def tick(self, count=1):
        for _ in range(count):
            self.swim.tick()
            self.drain()

    def forget_sent(self):
        self.sent = []
        self.events = []

    def member(self, name):
        return next((member for member in self.swim.members if member.name == name), None)

    def liveness(self, name):
        member = self.member(name)
        return None if member is None else member.liveness

    def sent_to(self, name, kind=object):
        """The messages of a class sent to a member, or to an address."""
        return [
            outgoing.message
            for outgoing in self.sent
            if name in (outgoing.address, outgoing.target and outgoing.target.name)
            and isinstance(outgoing.message, kind)
        ]

    def told_of_me(self):
        """What this node said of itself, in order."""
        return [
            statement
            for outgoing in self.sent
            for statement in (
                *getattr(outgoing.message, "broadcasts", ()),
                *getattr(outgoing.message, "members", ()),
            )
            if statement.name == "me"
        ]
