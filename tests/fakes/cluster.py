"""A `Cluster` whose node, links and gossip are the test's, which says what comes from each."""

import random
from collections import deque
from types import SimpleNamespace

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from loghouse.cluster import cluster as cluster_module
from loghouse.cluster.cluster import (
    TICK_SECONDS,
    Cluster,
    ClusterOptions,
)
from loghouse.errors import DamageError
from loghouse.gossip.members import MemberKey, MemberView, Profile
from loghouse.gossip.ready import GossipReady
from loghouse.net.peer import PeerState
from loghouse.protocol.address_book import AddressBook, decode_address_book, encode_address_book
from loghouse.protocol.configuration import Configuration, MemberRole
from loghouse.protocol.gossip_messages import Liveness

A, B, C, D = (MemberKey(name, name.encode() * 16) for name in "abcd")
TWIN = MemberKey("b", b"x" * 16)  # has the name of B and another disk
UUID = b"u" * 16
ALIVE, SUSPECT, DEAD, LEFT = Liveness.ALIVE, Liveness.SUSPECT, Liveness.DEAD, Liveness.LEFT
VOTER, LEARNER, REPLICA = MemberRole.VOTER, MemberRole.LEARNER, MemberRole.REPLICA


def configuration(*keys, learners=(), removed=()):
    made = Configuration(removed=removed)
    for key in keys:
        made = made.with_member(*key, VOTER)
    for key in learners:
        made = made.with_member(*key, LEARNER)
    return made


def view(key, liveness=ALIVE, address=None, grpc_address=""):
    address = f"{key.name}:1" if address is None else address
    profile = Profile(address=address, grpc_address=grpc_address) if address else None
    return MemberView(
        name=key.name, disk_uuid=key.disk_uuid, liveness=liveness, incarnation=1, profile=profile
    )


def ready(*messages, events=(), token=7, book=None):
    return GossipReady(token=token, messages=messages, events=tuple(events), book=book)


def hello(key, cluster_uuid=UUID, software="loghouse 1.2"):
    return SimpleNamespace(
        node_name=key.name, disk_uuid=key.disk_uuid, cluster_uuid=cluster_uuid, software=software
    )


class FakeNode:
    """Node a, whose log says what the test wants; notes what it is told."""

    name, disk_uuid = A
    cluster_name, cluster_uuid = "c1", UUID
    seed, group, member_id, leader_id, configuration_index = 0, 1, 1, 1, 7

    def __init__(self):
        self.configuration = self.committed = configuration(A, B, C)
        self.membership = self.address_book = self
        self.logs = {1: self}
        self.told = []
        self.book = encode_address_book(AddressBook())
        self.written = []
        self.heard = self.caught_up = ()
        self.changes = []
        self.refusal = None
        self.catalogue_log = None
        self.has_cursors = False

    @property
    def settled(self):
        if self.committed is None:
            raise DamageError("file", 0, "damaged")
        return self.committed, self.configuration_index

    def is_heard(self, id_):
        return id_ in self.heard

    def is_caught_up(self, id_):
        return id_ in self.caught_up

    def change_configuration(self, change):
        self.changes.append(change)

    def read(self):
        return self.book

    def write(self, content, done):
        self.written.append((decode_address_book(content), done))

    def fatal(self, failure):
        self.told.append(("fatal", failure.type))

    def peer_lost(self, name):
        self.told.append(("lost", name))

    def begin_cluster(self):
        self.join_cluster(b"n" * 16)

    def join_cluster(self, uuid):
        if self.refusal is not None:
            raise self.refusal
        self.told.append(("joined", uuid))
        self.cluster_uuid = uuid


class FakePeers:
    """Dialled links; `hellos` are those that are up."""

    def __init__(self, link_up, link_lost, monotonic):
        self.link_up, self.link_lost = link_up, link_lost
        self.calls, self.kept, self.hellos, self.fresh = [], [], {}, []

    def start(self, context):
        self.calls.append(("start", context))

    def stop(self, reason):
        self.calls.append(("stop", reason))

    def send(self, key, address, message, *, group=0):
        self.calls.append((key, address, message))
        return True

    def send_to(self, key, address, message):
        self.calls.append((key, address, message))

    def send_to_seed(self, address, message):
        self.calls.append((None, address, message))

    def keep(self, keys):
        self.kept.append(keys)

    def hello_of(self, key):
        return self.hellos.get(key)

    def fresh_seed(self, address):
        self.fresh.append(SimpleNamespace(address=address, state=PeerState.DIALLING))
        return self.fresh[-1]


class FakeSwim:
    """Gossip that gives out what the test put into `out`, and knows whom it put into `views`."""

    def __init__(self, config, **arguments):
        self.config, self.arguments = config, arguments
        self.views = []
        self.out = deque()
        self.calls, self.book = [], None

    @property
    def members(self):
        return (view(A), *self.views)

    @property
    def keys(self):
        return {MemberKey(one.name, one.disk_uuid) for one in self.views}

    def ready(self):
        return self.out.popleft() if self.out else None

    def last_book(self):
        return self.book

    def tick(self):
        self.calls.append("tick")

    def leave(self):
        self.calls.append("leave")

    def step(self, key, message):
        self.calls.append((key, message))

    def persisted(self, token):
        self.calls.append(token)

    def believe(self, known):
        self.calls.append(("believe", known))

    def shut_out(self, names):
        self.calls.append(("shut out", names))


class ClusterCase(SynchronousTestCase):
    """Node a of a cluster of a, b and c."""

    def setUp(self):
        self.patch(cluster_module, "Swim", FakeSwim)
        self.patch(cluster_module, "PeerSet", FakePeers)
        self.node, self.clock, self.rng = FakeNode(), Clock(), random.Random(1)
        self.clock.advance(1000)
        self.options = ClusterOptions(
            address="a:1", grpc_address="a:2", join=("a:1", "b:1", "c:1"), bootstrap=True
        )

    def make(self):
        self.cluster = Cluster(self.node, self.options, clock=self.clock, rng=self.rng)
        self.peers = self.cluster.peers
        return self.cluster

    def start(self):
        self.make().start("context")
        self.swim = self.cluster._swim
        return self.cluster

    def commit(self, made):
        self.node.configuration = self.node.committed = made

    def up(self, *keys, **fields):
        for key in keys:
            self.peers.hellos[key] = hello(key, **fields)

    def pass_time(self, seconds):
        self.clock.pump([TICK_SECONDS] * round(seconds / TICK_SECONDS))

    def sent(self):
        """What was sent since the last call."""
        calls, self.peers.calls[:] = list(self.peers.calls), []
        return calls
