"""Whatever is said to a core, in whatever order: bounds hold, and what it says can be sent."""

import random

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from loghouse.gossip.members import MemberKey
from loghouse.gossip.ready import EventKind
from loghouse.limits import GOSSIP_MEMBERS_MAX, INCARNATION_JUMP_MAX, PUSH_PULL_SIZE_MAX
from loghouse.protocol import codec
from loghouse.protocol.address_book import decode_address_book, encode_address_book
from loghouse.protocol.framing import Frame
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
from tests.gossip.bench import Bench, alive, dead, key, left, suspect
from tests.gossip.town import Town
from tests.processes import thorough

NAMES = ("me", "a", "b", "c")
INCARNATIONS = st.one_of(
    st.integers(0, 20),
    st.sampled_from((1 << 20, 1 << 21, 1 << 48, (1 << 48) + 1, 1 << 63, (1 << 64) - 1)),
)


@st.composite
def statements(draw):
    name = draw(st.sampled_from(NAMES))
    say = draw(st.sampled_from((alive, suspect, dead, left)))
    more = {}
    if say is alive:
        more["address"] = draw(st.sampled_from(("", f"{name}.example:8400", "other.example:1")))
    elif say is not left:
        more["accuser"] = draw(st.sampled_from((*NAMES, "ghost")))
    return say(name, draw(INCARNATIONS), **more)


@st.composite
def messages(draw):
    said = tuple(draw(st.lists(statements(), max_size=4)))
    sequence = draw(st.integers(0, 3))
    name = draw(st.sampled_from(NAMES))
    target = {"name": name, "disk_uuid": key(name).disk_uuid, "sequence": sequence, "broadcasts": said}
    return draw(
        st.sampled_from(
            (
                SwimPing(**target),
                SwimPingReq(**target),
                SwimAck(sequence=sequence, broadcasts=said),
                SwimNack(sequence=sequence, broadcasts=said),
                PushPull(members=said),
                PushPullReply(members=said),
                SwimBroadcast(broadcasts=said),
            )
        )
    )


STEPS = st.one_of(
    st.tuples(st.sampled_from((*NAMES, "x")), messages()),
    st.integers(1, 30),
)


class AnythingTests(SynchronousTestCase):
    """Arbitrary messages of arbitrary members."""

    @settings(deadline=None, derandomize=True, max_examples=150)
    @given(st.lists(STEPS, max_size=30), st.booleans())
    def test_anything(self, steps, persist):
        """Nothing is raised; incarnations rise; what is sent decodes to itself; events tell what is shown."""
        bench = Bench(persist=persist)
        highest = {}
        for step in steps:
            if isinstance(step, int):
                bench.tick(step)
            else:
                bench.step(*step)
            for member in bench.swim._table:
                before = highest.get(member.key, 0)
                self.assertTrue(
                    member.incarnation >= before or before > member.incarnation + INCARNATION_JUMP_MAX
                )
                highest[member.key] = member.incarnation
        durable = bench.books[-1].incarnation if persist else 0
        self.assertEqual([said for said in bench.told_of_me() if said.incarnation > durable], [])
        self.check_sent(bench)
        self.check_events(bench)
        for book in bench.books:
            self.assertEqual(decode_address_book(encode_address_book(book)), book)

    def check_sent(self, bench):
        for outgoing in bench.sent:
            message = outgoing.message
            body = b"".join(message.encode())
            frame = Frame(kind=message.KIND, flags=0, group=0, stream=0, body=body)
            self.assertEqual(codec.decode(frame), message)

    def check_events(self, bench):
        """Somebody who only follows the events knows who is live."""
        live = set()
        for kind, name in bench.events:
            if kind is EventKind.JOINED:
                self.assertNotIn(name, live)
                live.add(name)
            elif kind is EventKind.UPDATED:
                self.assertIn(name, live)
            else:
                live.discard(name)
        shown = {m.name for m in bench.swim.members[1:] if m.liveness in (Liveness.ALIVE, Liveness.SUSPECT)}
        self.assertEqual(live, shown)


class SizeTests(SynchronousTestCase):
    """Messages fit their frames, however long names, addresses and tags are."""

    def longest(self, number):
        return Statement(
            liveness=Liveness.ALIVE,
            name=f"{number:03d}".rjust(63, "n"),
            disk_uuid=number.to_bytes(16, "big"),
            incarnation=1,
            address="a" * 261,
            grpc_address="ä" * 130,
            tags=tuple("t" * 63 for _ in range(16)),
        )

    def test_longest(self):
        """A full view is cut to its frame, and broadcasts fit theirs, at the greatest number of members."""
        bench = Bench()
        for number in range(1, GOSSIP_MEMBERS_MAX):
            statement = self.longest(number)
            bench.step(MemberKey(statement.name, statement.disk_uuid), SwimBroadcast(broadcasts=(statement,)))
        bench.forget_sent()
        bench.step(MemberKey(statement.name, statement.disk_uuid), PushPull(members=()))
        bench.tick(50)
        sizes = {type(o.message): len(b"".join(codec.encode(o.message))) for o in bench.sent}
        self.assertIn(PushPullReply, sizes)
        self.assertIn(SwimBroadcast, sizes)
        self.assertGreater(sizes[PushPullReply], PUSH_PULL_SIZE_MAX - 2000)

    def test_statement_size(self):
        """The size reckoned is the size on the wire."""
        for statement in (self.longest(1), suspect("b", 1, accuser="node-1"), left("c", 9)):
            with_it = len(b"".join(PushPull(members=(statement,)).encode()))
            self.assertEqual(statement_size(statement), with_it - 2)


class DeterminismTests(SynchronousTestCase):
    """The same seed is the same run."""

    def test_same_seed(self):
        """Two runs of one seed send the same messages at the same times; another seed does not."""
        runs = []
        for seed in (1, 1, 2):
            town = Town(5, seed=seed, loss=0.1)
            log = []
            town.tap = lambda source, outgoing, town=town, log=log: log.append(
                (town.clock.seconds(), source.number, outgoing)
            )
            town.start_all()
            town.run(60)
            runs.append(log)
        self.assertEqual(runs[0], runs[1])
        self.assertNotEqual(runs[0], runs[2])


@thorough
class TurmoilTests(SynchronousTestCase):
    """Random crashes, restarts, partitions, pauses and loss; then quiet; then everybody must agree."""

    def test_turmoil(self):
        """After any such hour all running nodes agree within a minute, and no incarnation ever went back."""
        for seed in range(6):
            rng = random.Random(seed)
            town = Town(6, seed=seed, loss=0.1, duplicate=0.05, stray=0.05)
            town.settle()
            for _ in range(40):
                self.upset(town, rng)
                town.run(rng.choice((1, 5, 20)))
            town.network.heal(0.002)
            for node in town:
                if node.swim is None:
                    node.start()
            town.run(40)
            self.assertLess(town.run_until_agreed(90), 90, seed)

    def upset(self, town, rng):
        number, other = rng.sample(range(1, 7), 2)
        what = rng.choice(("kill", "start", "cut", "mend", "isolate", "pause", "update"))
        node = town[number]
        if what == "kill" and len(town.running()) > 3:
            node.kill()
        elif what == "start" and node.swim is None:
            node.start()
        elif what == "cut":
            town.network.cut(number, other)
        elif what == "mend":
            town.mend(range(1, 7), range(1, 7))
        elif what == "isolate":
            town.isolate(number)
        elif what == "pause" and node.swim is not None:
            node.pause(rng.choice((1, 10)))
        elif what == "update" and node.swim is not None:
            profile = node.swim.profile
            node.swim.update(type(profile)(address=profile.address, tags=(str(rng.random())[:5],)))
            node.drive()
