"""`Cluster` by itself: gossip, links and the log are the test's, which says what comes from each."""

from twisted.logger import Logger, LogLevel, formatEvent

from loghouse.cluster.cluster import (
    DROP_SECONDS,
    JOIN_SECONDS,
    RECONCILE_SECONDS,
    TICK_SECONDS,
    Cluster,
    ClusterOptions,
)
from loghouse.cluster.twins import APART_SECONDS
from loghouse.errors import DiskFailedError, IdentityError
from loghouse.gossip.members import MemberKey, Profile
from loghouse.gossip.ready import EventKind, MemberEvent, Outgoing
from loghouse.protocol.address_book import AddressBook, Contact, encode_address_book
from loghouse.protocol.client_messages import DescribedServer
from loghouse.protocol.configuration import Configuration
from loghouse.protocol.link_messages import VERSION_MAX, VERSION_MIN
from loghouse.protocol.message import NO_UUID
from tests.fakes.cluster import (
    ALIVE,
    DEAD,
    LEARNER,
    LEFT,
    REPLICA,
    SUSPECT,
    TWIN,
    UUID,
    VOTER,
    A,
    B,
    C,
    ClusterCase,
    D,
    configuration,
    hello,
    ready,
    view,
)


class LifeTests(ClusterCase):
    """From the start to the stop."""

    def test_gossip(self):
        """Gossip begins as who this node is, with what it knew before, and asks the others of `join`."""
        book = AddressBook(
            incarnation=5, contacts=(Contact(name="b", disk_uuid=B.disk_uuid, incarnation=1, address="b:9"),)
        )
        self.node.book = encode_address_book(book)
        self.start()
        self.assertEqual(self.swim.config, self.options.swim)
        self.assertEqual(
            self.swim.arguments,
            {
                "name": "a",
                "disk_uuid": A.disk_uuid,
                "profile": Profile(
                    address="a:1", grpc_address="a:2", version_min=VERSION_MIN, version_max=VERSION_MAX
                ),
                "seeds": ("b:1", "c:1"),
                "metrics": self.options.metrics,
                "book": book,
                "rng": self.rng,
            },
        )
        self.assertEqual(self.sent(), [("start", "context")])
        self.assertTrue(self.cluster.router.is_open)
        self.assertEqual(self.cluster.roster.members, {A, B, C})
        self.assertEqual(self.swim.calls[0], ("believe", {A, B, C}))
        self.assertEqual(self.peers.fresh, [])

    def test_damaged_book(self):
        """A damaged address book is none."""
        self.node.book = b"nothing"
        self.start()
        self.assertEqual(self.swim.arguments["book"], AddressBook())

    def test_ticks(self):
        """Gossip ticks ten times a second, and twice a second the leader looks who is there."""
        self.start()
        ticks = []
        self.patch(self.swim, "tick", lambda: ticks.append(self.clock.seconds()))
        looks = []
        self.patch(self.cluster.twins, "look", lambda *_: looks.append(self.clock.seconds()) or [])
        self.pass_time(1.0)
        self.assertEqual((len(ticks), len(looks)), (10, 2))
        self.assertEqual((TICK_SECONDS, RECONCILE_SECONDS), (0.1, 0.5))

    def test_stop(self):
        """A stop hangs up, takes nothing more in, writes the last book and ends every call that waits."""
        self.start()
        self.commit(configuration(A, B, removed=("c",)))
        self.cluster.reconcile()
        self.swim.book = AddressBook(incarnation=9)
        self.sent()
        self.cluster.stop("the node is stopping")
        self.assertEqual(self.sent(), [("stop", "the node is stopping")])
        self.assertFalse(self.cluster.router.is_open)
        self.assertEqual(self.clock.getDelayedCalls(), [])
        [(book, done)] = self.node.written
        self.assertEqual(book, self.swim.book)
        done()
        kept = len(self.peers.kept)
        self.cluster.reconcile()
        self.assertEqual((len(self.peers.kept), self.node.changes), (kept, []))

    def test_stop_without_news(self):
        """Where the book is as it was written, a stop writes none, nor before there is a cluster."""
        self.start().stop("bye")
        self.assertEqual(self.node.written, [])
        self.node.cluster_uuid = NO_UUID
        self.start().stop("bye")
        self.assertEqual((self.node.written, self.clock.getDelayedCalls()), ([], []))

    def test_leave(self):
        """Who leaves tells the others at once; before there is a cluster there is nobody to tell."""
        self.make().leave()
        self.start()
        self.swim.out.append(ready(Outgoing("b:1", B, "bye")))
        self.sent()
        self.cluster.leave()
        self.assertEqual((self.swim.calls[-1], self.sent()), ("leave", [(B, "b:1", "bye")]))


class JoinTests(ClusterCase):
    """A node with an empty disk."""

    def setUp(self):
        super().setUp()
        self.node.cluster_uuid = NO_UUID
        self.commit(Configuration())

    def test_joins(self):
        """It asks the others of `join`; one that belongs to a cluster settles it, and gossip begins."""
        self.start()
        self.assertIsNone(self.swim)
        self.assertFalse(self.cluster.router.is_open)
        self.assertEqual([link.address for link in self.peers.fresh], ["b:1", "c:1"])
        self.assertEqual(self.cluster.present(), [A])
        self.assertEqual((self.cluster.servers(), self.cluster.strangers()), ((), []))
        self.cluster.known_changed()
        self.cluster.configuration_changed()
        self.sent()
        self.peers.link_up("b:1", self.peers.fresh[0], hello(B))
        self.assertEqual(self.node.told, [("joined", UUID)])
        self.assertEqual(self.sent(), [("stop", "joining")])
        self.assertIsNotNone(self.cluster._swim)
        self.assertTrue(self.cluster.router.is_open)
        self.pass_time(2 * JOIN_SECONDS)
        self.assertEqual(len(self.peers.fresh), 2)

    def test_begins_a_cluster(self):
        """Once all the others belong to none, the node that bootstraps makes a cluster, and no other node."""
        for bootstrap, told in ((True, [("joined", b"n" * 16)]), (False, [])):
            self.options = ClusterOptions(address="a:1", join=("b:1", "c:1"), bootstrap=bootstrap)
            self.node.told.clear()
            self.start()
            for link in self.peers.fresh:
                self.peers.link_up(link.address, link, hello(B, NO_UUID))
            self.assertEqual(self.node.told, [])
            self.pass_time(JOIN_SECONDS * 2)
            self.assertEqual(self.node.told, told)
            self.cluster.stop("bye")
            self.node.cluster_uuid = NO_UUID

    def test_disk(self):
        """A disk on which no cluster can be begun ends the process; the node looks alive to nobody."""
        self.node.refusal = DiskFailedError("no room")
        self.start()
        self.cluster.joined(UUID)
        self.assertEqual(self.node.told, [("fatal", DiskFailedError)])
        self.assertIsNone(self.cluster._swim)
        self.assertFalse(self.cluster.router.is_open)


class ShownTests(ClusterCase):
    """What is told of the other nodes."""

    def test_present(self):
        """Present are this node, and who is alive and answers, with a certificate, for this cluster."""
        self.start()
        self.assertEqual(self.cluster.present(), [A])
        self.swim.views = [view(B), view(C, SUSPECT), view(D)]
        self.assertEqual(self.cluster.present(), [A])
        self.up(B, C, D)
        self.assertEqual(self.cluster.present(), [A, B, D])
        self.up(D, cluster_uuid=NO_UUID)
        self.assertEqual(self.cluster.present(), [A, B])

    def test_twin(self):
        """A second machine with a member's name is not present, once both were heard beside each other."""
        self.start()
        self.swim.views = [view(B), view(TWIN)]
        self.up(B, TWIN)
        self.assertEqual(self.cluster.present(), [A, B, TWIN])
        self.cluster.reconcile()
        self.pass_time(APART_SECONDS)
        self.cluster.twins.heard(B, self.clock.seconds())
        self.assertEqual(self.cluster.present(), [A, B, TWIN])
        self.cluster.reconcile()
        self.assertEqual(self.cluster.present(), [A, B])

    def test_servers(self):
        """Clients are told of the members whose addresses can be dialled, as what they are."""
        self.start()
        self.commit(configuration(A, B, learners=(C, D)))
        self.assertEqual([server.name for server in self.cluster.servers()], ["a"])
        self.swim.views = [view(B, SUSPECT, grpc_address="b:2"), view(C, DEAD, grpc_address="nonsense")]
        self.node.leader_id = 2
        expected = (
            DescribedServer(name="a", address="a:1", role=VOTER, is_leader=False, is_alive=True),
            DescribedServer(
                name="b", address="b:1", grpc_address="b:2", role=VOTER, is_leader=True, is_alive=True
            ),
            DescribedServer(name="c", address="c:1", role=LEARNER, is_leader=False, is_alive=False),
        )
        self.assertEqual(self.cluster.servers(), expected)
        self.swim.views = [view(B, address="b:0"), view(TWIN), view(C, LEFT, address="")]
        self.assertEqual([server.name for server in self.cluster.servers()], ["a"])

    def test_replica(self):
        """A replica, which never votes, is shown as a learner."""
        self.start()
        self.commit(configuration(A).with_member(*B, REPLICA))
        self.swim.views = [view(B)]
        self.assertEqual([server.role for server in self.cluster.servers()], [VOTER, LEARNER])

    def test_strangers(self):
        """Strangers are alive, maybe, and no members: by name and disk."""
        self.start()
        views = [view(B), view(TWIN), view(D, SUSPECT), view(MemberKey("e", NO_UUID), DEAD)]
        self.swim.views = views
        self.assertEqual(self.cluster.strangers(), views[1:3])

    def test_versions_and_liveness(self):
        """What a node said that it runs, while its link is up; and what gossip says of it."""
        self.start()
        self.up(B)
        self.assertEqual([self.cluster.version_of(key) for key in (B, C)], ["1.2", ""])
        self.swim.views = [view(B, SUSPECT), view(TWIN, LEFT)]
        found = [self.cluster.liveness_of(key) for key in (A, B, TWIN, C)]
        self.assertEqual(found, [ALIVE, SUSPECT, LEFT, None])

    def test_addresses(self):
        """Where a node is: by its name and disk, as it said itself."""
        self.start()
        self.swim.views = [view(B), view(TWIN, address="x:1"), view(C, address="")]
        found = [self.cluster.find_address(key) for key in (B, TWIN, C, D)]
        self.assertEqual(found, ["b:1", "x:1", "", ""])


class LinkTests(ClusterCase):
    """Links that come and go."""

    def test_at_join(self):
        """Who answers at an address of `join`, and nowhere else, may vouch for others."""
        self.commit(Configuration())
        self.start()
        self.swim.calls.clear()
        self.peers.link_up("z:1", None, hello(D))
        self.assertEqual((self.cluster.roster.known, self.swim.calls[-1]), (set(), ("believe", set())))
        self.peers.link_up("b:1", None, hello(B))
        self.assertEqual((self.cluster.roster.known, self.swim.calls[-1]), ({B}, ("believe", {B})))

    def test_comes_up(self):
        """A link that comes up lets the leader look at once who is there."""
        self.start()
        self.swim.views = [view(D)]
        self.up(D)
        self.peers.link_up("d:1", None, hello(D))
        self.assertEqual(self.node.changes, [configuration(A, B, C, learners=(D,))])

    def test_lost(self):
        """The node is told of a lost link of a member, or of one nobody knows; not of a member's twin."""
        self.start()
        for key in (B, TWIN, D):
            self.peers.link_lost(key)
        self.assertEqual(self.node.told, [("lost", "b"), ("lost", "d")])

    def test_admits(self):
        """A removed node is let in no more, once that is committed and until it is let back in."""
        self.start()
        gone = configuration(A, B, removed=("c",))
        for latest, settled, is_refused in (
            (configuration(A, B, C), configuration(A, B, C), False),
            (gone, configuration(A, B, C), False),
            (gone, gone, True),
            (configuration(A, B, C), gone, False),
        ):
            self.node.configuration, self.node.committed = latest, settled
            self.cluster.configuration_changed()
            self.cluster.accepted.admit(hello(B))
            if is_refused:
                error = self.assertRaises(IdentityError, self.cluster.accepted.admit, hello(C))
                self.assertIn("node 'c' was removed; `loghouse cluster add c` lets it back", str(error))
            else:
                self.cluster.accepted.admit(hello(C))

    def test_kept(self):
        """Links are kept to members and to whom gossip knows; while damage hides who is one, all are."""
        self.start()
        self.swim.views = [view(D)]
        self.cluster.configuration_changed()
        self.assertEqual(self.peers.kept[-1], {A, B, C, D})
        count, self.node.committed = len(self.peers.kept), None
        self.cluster.configuration_changed()
        self.assertEqual(len(self.peers.kept), count)


class GossipTests(ClusterCase):
    """What gossip wants to be done."""

    def test_messages(self):
        """What came is given to gossip, and what it has to say goes to nodes and to seeds."""
        self.start()
        self.sent()
        self.swim.out.extend(
            (
                ready(Outgoing("b:1", B, "one"), Outgoing("c:1", None, "two")),
                ready(Outgoing("b:1", B, "three")),
            )
        )
        self.cluster.gossip_received(C, "heard")
        self.assertEqual(self.swim.calls[-1], (C, "heard"))
        self.assertEqual(self.sent(), [(B, "b:1", "one"), (None, "c:1", "two"), (B, "b:1", "three")])
        self.swim.out.append(ready(Outgoing("b:1", B, "four")))
        self.pass_time(TICK_SECONDS)
        self.assertEqual((self.swim.calls[-1], self.sent()), ("tick", [(B, "b:1", "four")]))

    def test_moved(self):
        """Where a node is, is asked again after every step of gossip."""
        self.start()
        self.swim.views = [view(B)]
        self.assertEqual(self.cluster.address_of(B), "b:1")
        self.swim.views = [view(B, address="b:7")]
        self.assertEqual(self.cluster.address_of(B), "b:1")
        self.cluster.gossip_received(B, "moved")
        self.assertEqual(self.cluster.address_of(B), "b:7")

    def test_book(self):
        """A book is written; when it is durable gossip is told which, and goes on; not after a stop."""
        self.start()
        book = AddressBook(incarnation=3)
        self.swim.out.append(ready(token=4, book=book))
        self.cluster.gossip_received(B, "x")
        [(written, done)] = self.node.written
        self.assertEqual(written, book)
        self.assertNotIn(4, self.swim.calls)
        self.swim.out.append(ready(Outgoing("b:1", B, "announced")))
        self.sent()
        done()
        self.assertEqual((self.swim.calls[-1], self.sent()), (4, [(B, "b:1", "announced")]))
        self.cluster.stop("bye")
        self.swim.calls.clear()
        done()
        self.assertEqual(self.swim.calls, [])

    def test_events(self):
        """A change of who is there is told, a failure as a warning, and lets the leader look at once."""
        self.start()
        self.up(D)
        self.swim.views = [view(D)]
        events = []
        self.patch(Cluster, "logger", Logger(observer=events.append))
        for kind, seen, level, line in (
            (EventKind.JOINED, view(D), LogLevel.info, "node d joined (d:1)"),
            (EventKind.FAILED, view(C, DEAD, address=""), LogLevel.warn, "node c failed (unknown address)"),
        ):
            self.node.changes.clear()
            self.swim.out.append(ready(events=[MemberEvent(kind, seen)]))
            self.cluster.gossip_received(D, "x")
            self.assertEqual(self.node.changes, [configuration(A, B, C, learners=(D,))])
            event = events.pop()
            self.assertEqual((event["log_level"], formatEvent(event)), (level, line))


class LeaderTests(ClusterCase):
    """What the leader does about who is there."""

    def test_follower(self):
        """Only the leader proposes anything, and only where something is due."""
        self.start()
        self.swim.views = [view(D)]
        self.up(D)
        self.node.leader_id = 2
        self.cluster.reconcile()
        self.assertEqual(self.node.changes, [])
        self.node.leader_id = 1
        self.cluster.reconcile()
        self.assertEqual(self.node.changes, [configuration(A, B, C, learners=(D,))])
        self.node.changes.clear()
        self.swim.views = []
        self.cluster.reconcile()
        self.assertEqual(self.node.changes, [])

    def test_growing(self):
        """While a change or a learner waits, the leader looks with every tick; else twice a second."""
        self.start()
        looks = []
        self.patch(self.cluster.twins, "look", lambda *_: looks.append(1) or [])
        for learners, views, count in (((), (), 2), ((D,), (), 10), ((), (view(D),), 10), ((), (), 2)):
            self.commit(configuration(A, B, C, learners=learners))
            self.swim.views = list(views)
            self.up(D)
            self.cluster.reconcile()
            looks.clear()
            self.pass_time(1.0)
            # Where it looks with each tick, it does twice a second twice.
            self.assertEqual(len(looks), count if count == 2 else 12, (learners, views))
        self.swim.views = [view(D)]
        self.cluster.reconcile()
        self.node.leader_id = 2
        self.pass_time(1.0)
        looks.clear()
        self.pass_time(1.0)
        self.assertEqual(len(looks), 2)

    def test_heard_and_caught_up(self):
        """A voter that answers the leader is alive, whatever gossip says; a learner votes when it has all."""
        self.start()
        self.commit(configuration(A, B, learners=(C,)))
        self.swim.views = [view(C)]
        self.up(C)
        self.cluster.reconcile()
        self.assertEqual(self.node.changes, [])
        self.node.caught_up = (3,)
        self.cluster.reconcile()
        self.assertEqual(self.node.changes, [configuration(A, B, C)])
        self.node.changes.clear()
        self.commit(configuration(A, B))
        self.swim.views = [view(TWIN)]
        self.up(TWIN)
        self.node.heard = (2,)
        self.cluster.reconcile()
        self.assertEqual(self.node.changes, [])
        self.node.heard = ()
        self.cluster.reconcile()
        self.assertEqual(self.node.changes, [configuration(A, B, learners=(TWIN,))])


class RemovedTests(ClusterCase):
    """Nodes that were removed."""

    def setUp(self):
        super().setUp()
        self.start()
        self.closed = []
        self.patch(self.cluster.accepted, "close", self.closed.append)
        self.clock.advance(TICK_SECONDS / 2)  # what comes later comes between two ticks
        self.cluster.reconcile()
        self.commit(configuration(A, B, removed=("c",)))
        self.cluster.reconcile()
        self.swim.calls.clear()

    def shut_out(self):
        return [call[1] for call in self.swim.calls if call[0] == "shut out"]

    def test_cut_off(self):
        """A removed node is cut off a second later, once: its links, its gossip and its address."""
        self.swim.views = [view(D)]
        self.pass_time(DROP_SECONDS - TICK_SECONDS)
        self.assertEqual((self.closed, self.shut_out()), ([], []))
        self.clock.advance(TICK_SECONDS * 0.9)
        self.assertEqual((self.closed, self.shut_out()), ([], []))
        self.cluster.router._addresses[C] = "c:1"
        self.clock.advance(TICK_SECONDS * 0.2)
        self.assertEqual((self.closed, self.shut_out()), (["c"], [{"c"}]))
        self.assertEqual(self.peers.kept[-1], {A, B, D})
        self.assertNotIn(C, self.cluster.router._addresses)
        self.pass_time(3 * DROP_SECONDS)
        self.assertEqual((self.closed, self.shut_out()), (["c"], [{"c"}]))
        self.commit(configuration(A, removed=("c", "b")))
        self.cluster.reconcile()
        self.pass_time(2 * DROP_SECONDS)
        self.assertEqual((self.closed, self.shut_out()), (["c", "b"], [{"c"}, {"b", "c"}]))

    def test_let_back_in(self):
        """A node that is let back in is spoken with again at once, and cut off when it is removed again."""
        self.pass_time(2 * DROP_SECONDS)
        self.commit(configuration(A, B))
        self.cluster.reconcile()
        self.assertEqual(self.shut_out(), [{"c"}, set()])
        self.cluster.reconcile()
        self.assertEqual(self.shut_out(), [{"c"}, set()])
        self.commit(configuration(A, B, removed=("c",)))
        self.cluster.reconcile()
        self.pass_time(2 * DROP_SECONDS)
        self.assertEqual((self.closed, self.shut_out()), (["c", "c"], [{"c"}, set(), {"c"}]))

    def test_let_back_in_at_once(self):
        """A node that is let back in within that second is not cut off, nor when its removal is cut again."""
        self.commit(configuration(A, B, C))
        self.pass_time(2 * DROP_SECONDS)
        self.assertEqual((self.closed, self.shut_out()), ([], []))
        self.commit(configuration(A, B, removed=("c",)))
        self.cluster.reconcile()
        self.pass_time(2 * DROP_SECONDS)
        self.assertEqual((self.closed, self.shut_out()), (["c"], [{"c"}]))
