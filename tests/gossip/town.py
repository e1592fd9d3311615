"""Many gossip cores on the simulated clock and network: what the tests of membership run on."""

from loghouse.gossip.config import LAN
from loghouse.gossip.core import Swim
from loghouse.gossip.members import MemberKey, Profile
from loghouse.gossip.ready import EventKind
from loghouse.limits import INCARNATION_JUMP_MAX
from loghouse.protocol.address_book import AddressBook, Contact, decode_address_book, encode_address_book
from loghouse.protocol.gossip_messages import Liveness
from loghouse.testing.clock import SimClock
from loghouse.testing.network import NetworkOptions, SimNetwork
from loghouse.testing.streams import substream

TICK_SECONDS = 0.1


def name_of(number):
    return f"node-{number}"


def statements_of(message):
    """The statements that a message carries."""
    return getattr(message, "broadcasts", ()) + getattr(message, "members", ())


class Resident:
    """One node: its core while it runs, and what its disk keeps while it does not."""

    def __init__(self, town, number):
        self.town = town
        self.number = number
        self.disk_uuid = number.to_bytes(15, "big") + b"\x01"
        self.address = f"10.0.0.{number}:8400"
        self.tags = ()
        self.seeds = ()
        self.disk = b""
        self.swim = None
        self.life = 0
        self.is_paused = False
        self.waiting = []
        self.events = []
        self.incarnations = {}  # member -> highest held in this life
        self.durable_incarnation = 0

    @property
    def key(self):
        return MemberKey(name_of(self.number), self.disk_uuid)

    def start(self, delay_seconds=0.0):
        """Start with what the disk has."""
        self.life += 1
        self.is_paused = False
        self.waiting = []
        self.incarnations = {}
        self.town.listeners[self.address] = self.number
        self.swim = Swim(
            self.town.config,
            name=name_of(self.number),
            disk_uuid=self.disk_uuid,
            profile=Profile(address=self.address, tags=self.tags),
            seeds=self.seeds,
            book=decode_address_book(self.disk),
            rng=substream(self.town.seed, f"node.{self.number}.{self.life}"),
        )
        phase = self.town.rng.random() * TICK_SECONDS
        self.town.clock.after(delay_seconds + phase, self._tick, self.life)

    def kill(self):
        """Stop at once; what is not on disk is lost."""
        self.swim = None
        self.life += 1

    def pause(self, seconds):
        """Neither tick nor look at messages for a while; then look at those that waited."""
        self.is_paused = True
        self.town.clock.after(seconds, self._go_on, self.life)

    def _go_on(self, life):
        if life == self.life:
            self.is_paused = False
            waiting, self.waiting = self.waiting, []
            for source, message in waiting:
                self.hear(source, message)

    def _tick(self, life):
        if life != self.life or self.swim is None:
            return
        self.town.clock.after(TICK_SECONDS, self._tick, life)
        if not self.is_paused:
            self.swim.tick()
            self.drive()

    def hear(self, source, message):
        if self.swim is None:
            return
        if self.is_paused:
            self.waiting.append((source, message))
            return
        self.swim.step(source, message)
        self.drive()

    def drive(self):
        """Do the work that the core has, as a driver does."""
        if self.town.is_watched:
            self._watch()
        while (ready := self.swim.ready()) is not None:
            for outgoing in ready.messages:
                self.town.post(self, outgoing)
            for event in ready.events:
                self._note(event)
            if ready.book is not None:
                content = encode_address_book(ready.book)
                self.town.clock.after(self.town.disk_seconds, self._written, self.life, ready.token, content)

    def _watch(self):
        """What is held of a member never gets older (al8n/memberlist #197), unless it denies a lie."""
        held = self.incarnations
        for member in self.swim._table:
            before = held.get(member.key, 0)
            if member.incarnation < before:
                lied = before > member.incarnation + INCARNATION_JUMP_MAX
                assert lied, f"{self.key.name} went back to {member.view()}, from {before}"
            held[member.key] = member.incarnation

    def _written(self, life, token, content):
        if life != self.life:
            return
        self.disk = content
        self.durable_incarnation = decode_address_book(content).incarnation
        self.swim.persisted(token)
        self.drive()

    def _note(self, event):
        self.events.append((self.town.clock.seconds(), event.kind, event.member.name))
        if event.kind is EventKind.FAILED:
            self.town.failures.append((self.town.clock.seconds(), self.number, event.member.name))

    def live_names(self):
        """The names of the members that it holds for there."""
        live = (Liveness.ALIVE, Liveness.SUSPECT)
        return {member.name for member in self.swim.members if member.liveness in live}

    def member(self, other):
        """What it holds of another node, or None."""
        for member in self.swim.members:
            if (member.name, member.disk_uuid) == other.key:
                return member
        return None

    def kinds(self, name):
        """The kinds of events it had of a name, in order."""
        return [kind for _, kind, who in self.events if who == name]


class Town:
    """Nodes 1 to `count` on one network."""

    def __init__(self, count, *, seed=1, config=LAN, disk_seconds=0.002, **network):
        self.seed = seed
        self.config = config
        self.disk_seconds = disk_seconds
        self.rng = substream(seed, "town")
        self.clock = SimClock()
        self.network = SimNetwork(
            self.clock, substream(seed, "network"), NetworkOptions(**network), self._deliver
        )
        self.listeners = {}
        self.failures = []
        self.sent = {}
        self.tap = None
        self.is_watched = True
        self.nodes = {number: Resident(self, number) for number in range(1, count + 1)}

    def __getitem__(self, number):
        return self.nodes[number]

    def __iter__(self):
        return iter(self.nodes.values())

    def post(self, source, outgoing):
        """Send to whoever listens at the address; a link to somebody else than meant is refused."""
        message = outgoing.message
        self.sent[type(message).__name__] = self.sent.get(type(message).__name__, 0) + 1
        for statement in statements_of(message):
            # memberlist #311: what a member said of itself, and forgot, is held against it.
            if (statement.name, statement.disk_uuid) == source.key:
                assert statement.incarnation <= source.durable_incarnation, (
                    f"said before it was durable: {statement}"
                )
        if self.tap is not None:
            self.tap(source, outgoing)
        number = self.listeners.get(outgoing.address)
        if number is None or number == source.number:
            return
        if outgoing.target is not None and outgoing.target != self.nodes[number].key:
            return
        self.network.send(source.number, number, (source.key, message))

    def _deliver(self, source, target, carried):
        self.nodes[target].hear(*carried)

    # --- scenes -----------------------------------------------------------------

    def start_all(self):
        """Start every node; the first is everybody's seed."""
        for node in self:
            node.seeds = (self.nodes[1].address,)
            node.start()

    def settle(self):
        """Start every node with a book that knows everybody, and wait until they have found each other."""
        self.know_each_other()
        for node in self:
            node.start()
        self.run_until_agreed(60, strictly=False)

    def know_each_other(self):
        """Give every stopped node a disk that knows all nodes."""
        book = self.book()
        for node in self:
            node.disk = encode_address_book(book)

    def book(self):
        return AddressBook(
            incarnation=16,
            contacts=tuple(
                Contact(
                    name=name_of(node.number), disk_uuid=node.disk_uuid, incarnation=1, address=node.address
                )
                for node in self
            ),
        )

    def run(self, seconds):
        self.clock.advance(seconds)

    def partition(self, left, right):
        for one in left:
            for other in right:
                self.network.cut(one, other)
                self.network.cut(other, one)

    def mend(self, left, right):
        for one in left:
            for other in right:
                self.network.mend(one, other)
                self.network.mend(other, one)

    def isolate(self, number):
        self.partition([number], [other for other in self.nodes if other != number])

    def forge(self, source, target, message):
        """Let a message be one that `source` sent to `target`, over a proper link."""
        self.network.send(source, target, (self.nodes[source].key, message))

    # --- looking ------------------------------------------------------------------

    def running(self):
        return [node for node in self if node.swim is not None]

    def has_agreed(self, nodes=None, *, strictly=True):
        """Whether each of the nodes (all running ones) holds exactly them for live; strictly: for alive."""
        nodes = self.running() if nodes is None else nodes
        names = {name_of(node.number) for node in nodes}
        keys = {node.key for node in nodes}
        return all(node.live_names() == names for node in nodes) and all(
            member.liveness is Liveness.ALIVE or not strictly
            for node in nodes
            for member in node.swim.members
            if (member.name, member.disk_uuid) in keys
        )

    def run_until_agreed(self, seconds_max, nodes=None, *, strictly=True):
        """Run until all agree; return how many seconds it took.

        Raises:
            AssertionError: They still do not.
        """
        start = self.clock.seconds()
        while not self.has_agreed(nodes, strictly=strictly):
            passed = self.clock.seconds() - start
            assert passed < seconds_max, f"seed {self.seed}: no agreement after {passed:.1f} s"
            self.clock.advance(0.1)
        return self.clock.seconds() - start
