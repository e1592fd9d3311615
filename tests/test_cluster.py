"""Whole nodes in one process: joining, membership, administration, forwarding, and who is believed."""

import errno
from dataclasses import replace

from twisted.internet.defer import CancelledError

from loghouse.errors import (
    DataDirectoryError,
    OutcomeUnknownError,
    UnavailableError,
    UnknownProducerError,
)
from loghouse.gossip.config import LAN
from loghouse.node.api import proposing
from loghouse.protocol.message import NO_UUID
from loghouse.protocol.raft_messages import Envelope, Heartbeat
from loghouse.replica.api import Appended, Proposal
from loghouse.testing.disk import DiskFault, disk_error
from tests.driver.town import TownTestCase


class BootstrapTests(TownTestCase):
    """One cluster comes to be, and no second one ever (`design.md` 7)."""

    def test_three(self):
        """Three empty nodes, one of which bootstraps, become one cluster of three voters."""
        town = self.built()
        uuids = {resident.node.cluster_uuid for resident in town.running}
        self.assertEqual(len(uuids), 1)
        self.assertEqual(self.result(town, town["b"].propose()).base_offset, 0)

    def test_stop_right_after_joining(self):
        """Nodes that stop as soon as they are a cluster find each other again without seeds."""
        town = self.built(swim=replace(LAN, book_ticks=1_000_000))
        for resident in town.running:
            resident.stop()
        town.join = []
        for name in "abc":
            town[name].start()
        town.until(lambda: town.leader)

    def test_nobody_while_one_is_silent(self):
        """While one address is silent nobody makes a cluster; they ask for ever, and go on when it speaks."""
        town = self.town("abc")
        town["a"].start()
        town["b"].start()
        town.advance(120)
        self.assertEqual([one.node.cluster_uuid for one in town.running], [NO_UUID, NO_UUID])
        self.assertGreater(town.dials["a", "c:1"], 100)
        town["c"].start()
        town.until(lambda: town.leader and town.shape("c") == "aV bV cV")

    def test_an_old_answer_does_not_count(self):
        """A node that said "no cluster" and fell silent is asked again: it may belong to one by now."""
        town = self.town("abc")
        town["b"].start()
        town["a"].start()
        town.advance(5)
        town["b"].crash()
        town.advance(30)
        town["c"].start()
        town.advance(20)
        self.assertEqual(town["a"].node.cluster_uuid, NO_UUID)

    def test_who_does_not_bootstrap_waits(self):
        """Without a node that bootstraps there is no cluster, however many answer."""
        town = self.town("abc", bootstrap="")
        for name in "abc":
            town[name].start()
        town.advance(60)
        self.assertEqual([one.node.cluster_uuid for one in town.running], [NO_UUID] * 3)

    def test_emptied_bootstrap_node(self):
        """The node that bootstraps joins the living cluster when its disk was emptied."""
        town = self.built()
        uuid = town["b"].node.cluster_uuid
        done = town["b"].propose()
        self.result(town, done)
        town["a"].crash()
        town["a"].wipe()
        town.until(lambda: town.leader)
        town["a"].start()
        town.until(lambda: town.shape("a") == "aV bV cV", 60)
        self.assertEqual(town["a"].node.cluster_uuid, uuid)
        self.assertEqual({one.leads for one in town.running}, {True, False})
        town.until(lambda: town["a"].driver.readable_offset == 1)

    def test_two_bootstrap(self):
        """Two nodes that bootstrap make two clusters at worst, and those never merge."""
        town = self.town("ab", bootstrap="ab")
        town["a"].start()
        town["b"].start()
        town.advance(120)
        uuids = {one.node.cluster_uuid for one in town.running}
        for one in town.running:
            others = [member for member in one.log.configuration.members if member.name != one.name]
            self.assertEqual(bool(others), len(uuids) == 1)

    def test_clusters_never_merge(self):
        """A node of another cluster of the same name is refused, by both, for ever."""
        town = self.built("ab")
        town.join = ["c:1"]
        stranger = town.add("c", bootstrap=True).start()
        town.until(lambda: stranger.leads)
        town["a"].stop()
        town.join = ["a:1", "b:1", "c:1"]
        town["a"].start()
        stranger.stop()
        stranger.start()
        town.advance(60)
        self.assertEqual((town.shape("a"), town.shape("c")), ("aV bV", "cV"))
        self.assertTrue(any("two different clusters of one name" in text for text in town.problems))

    def test_no_room_for_the_first_segment(self):
        """A joiner whose disk has no room ends, saying so; it does not stay as one that never joins."""
        town = self.built("ab")
        town.join.append("c:1")
        newcomer = town.add("c")
        newcomer.start()
        newcomer.disk.faults.append(
            DiskFault(disk_error(errno.ENOSPC), kinds=frozenset({"allocate"}), times=99)
        )
        town.until(lambda: newcomer.failures)
        self.assertTrue(newcomer.failures[0].check(DataDirectoryError), newcomer.failures)
        newcomer.crash()
        newcomer.disk.faults.clear()
        newcomer.failures.clear()
        newcomer.start()
        town.until(lambda: town.shape("c") == "aV bV cV")


class MembershipTests(TownTestCase):
    """Who is in the group, under which id."""

    def test_learner_first(self):
        """A new node is a learner before it votes, and counts for no quorum until then."""
        town = self.built("ab")
        town.join.append("c:1")
        newcomer = town.add("c").start()
        town.until(lambda: town.shape("a") == "aV bV cL")
        newcomer.disk_queue.is_held = True
        town.advance(20)
        self.assertEqual(town.shape("a"), "aV bV cL")
        newcomer.disk_queue.release()
        town.until(lambda: town.shape("a") == "aV bV cV")
        self.assertEqual(newcomer.log.member_id, 3)

    def test_emptied_namesake(self):
        """An emptied voter comes back as a learner under a new id, never under its old one."""
        town, _, follower, *_ = self.led()
        old = follower.log.member_id
        follower.crash()
        follower.wipe()
        follower.start()
        ids = set()

        def look():
            ids.add(follower.log.member_id)
            return follower.log.member_id and town.shape(town.leader.name) == "aV bV cV"

        town.until(look, 90)
        town.advance(2)
        self.assertNotIn(old, ids)
        self.assertEqual(follower.log.member_id, 4)
        self.assertEqual(follower.replica._own_member().id, 4)

    def test_lost_while_away(self):
        """A node that was removed and let in again while it was away goes on under its new id."""
        town, leader, away, *_ = self.led()
        away.crash()
        self.result(town, leader.node.administration.remove(away.name))
        self.result(town, leader.node.administration.add(away.name, False))
        away.start()
        town.until(lambda: away.log.member_id == 4, 60)
        town.until(lambda: away.replica._own_member().id == 4 and town.shape(away.name) == "aV bV cV", 60)

    def test_reader_that_came_between(self):
        """Whoever came while a replica was renewed, for what is here, need not wait for another commit."""
        town = self.built()
        self.result(town, town.leader.propose())
        follower = next(one for one in town.running if not one.leads)
        town.until(lambda: follower.driver.readable_offset == 1)
        heartbeat = Heartbeat(term=follower.driver.raft.term, commit_index=0, read_round=1)
        town.cut(follower.name)
        follower.disk_queue.is_held = True
        follower.log.receive(Envelope(group=1, source=follower.log.leader_id, target=9, message=heartbeat))
        self.assertIsNone(follower.driver)
        here, next_one = follower.log.wait_for(0), follower.log.wait_for(1)
        self.assertNoResult(here)
        follower.disk_queue.release()
        self.successResultOf(here)
        self.assertNoResult(next_one)
        follower.stop()
        self.failureResultOf(next_one, UnavailableError)

    def test_renewed_once(self):
        """While a replica is renewed, its old writes go first and no message begins another one."""
        _, _, follower, *_ = self.led()
        node = follower.node
        begun = []
        begin = node.log("").replica._begin
        node.log("").replica._begin = lambda id_: (begun.append(id_), begin(id_))
        follower.disk_queue.is_held = True
        heartbeat = Heartbeat(term=node.log("").driver.raft.term, commit_index=0, read_round=1)
        for _ in range(3):
            node.membership.receive(
                Envelope(group=1, source=node.membership.leader_id, target=9, message=heartbeat)
            )
        self.assertEqual((begun, node.membership.member_id), ([], 0))
        self.failureResultOf(node.log("").bounds(), UnavailableError)
        follower.disk_queue.release()
        self.assertEqual((begun, node.membership.member_id), ([9], 9))

    def test_stop_while_renewing(self):
        """A node that stops while its replica is renewed begins no other."""
        _, _, follower, *_ = self.led()
        node = follower.node
        follower.disk_queue.is_held = True
        heartbeat = Heartbeat(term=node.log("").driver.raft.term, commit_index=0, read_round=1)
        node.membership.receive(
            Envelope(group=1, source=node.membership.leader_id, target=9, message=heartbeat)
        )
        follower.stop()
        self.assertEqual(node.membership.member_id, 0)

    def test_removed_and_added(self):
        """A removed node stays out and is refused at the door; `add` lets it back, under a new id."""
        town, leader, gone, *_ = self.led()
        self.result(town, gone.node.administration.remove(gone.name))
        self.assertEqual(leader.log.configuration.removed, (gone.name,))
        town.advance(20)
        self.assertNotIn(gone.name, town.shape(leader.name))
        self.assertTrue(any(f"node {gone.name!r} was removed" in text for text in town.problems))
        incoming = [wire for wire in town.wires if wire.ends[0] is gone and wire.is_up]
        self.assertEqual(incoming, [], "a removed node is heard by nobody")
        self.result(town, leader.node.administration.remove(gone.name))  # once more changes nothing
        self.result(town, leader.node.administration.add(gone.name, False))
        town.until(lambda: gone.log.member_id == 4 and town.shape(gone.name) == "aV bV cV", 60)
        self.assertEqual(leader.log.configuration.removed, ())

    def test_address_change(self):
        """A node that comes back at another address is found there by the others, and keeps its id."""
        town, _, mover, *_ = self.led()
        mover.stop()
        mover.address = "elsewhere:7"
        mover.start()
        done = town.leader.propose()
        self.result(town, done)
        town.until(lambda: mover.driver and mover.driver.readable_offset == 1)
        for one in town.running:
            servers = {server.name: server.address for server in one.node.servers()}
            self.assertEqual(servers[mover.name], "elsewhere:7")
        self.assertEqual(town.shape("a"), "aV bV cV")

    def test_unknown_addresses_are_not_told(self):
        """A node that just started tells clients only of members whose addresses it has heard."""
        town = self.built(swim=replace(LAN, book_ticks=1_000_000))  # nothing is in its address book
        starter = next(one for one in town.running if not one.leads)
        told = []
        starter.stop()
        starter.start()

        def knows_all():
            told.append(starter.node.servers())
            return len(told[-1]) == 3

        town.until(knows_all)
        self.assertLess(len(told[0]), 3)
        self.assertEqual([server for found in told for server in found if not server.address], [])

    def test_nonsense_addresses_are_not_told(self):
        """What a member says of its own addresses, and is none, is not passed on to clients."""
        town, _, mover, *_ = self.led()
        mover.stop()
        mover.address = "elsewhere"
        mover.start()
        town.until(
            lambda: all(
                one.cluster.address_of(mover.cluster._swim.key) == "elsewhere" for one in town.running
            )
        )
        for one in town.running:
            self.assertNotIn(mover.name, [server.name for server in one.node.servers()])

    def test_wrong_source(self):
        """A node that speaks as another member is cut off at once, and its message is not heard."""
        town, leader, liar, victim = self.led()
        heard = []
        victim.log.receive = lambda envelope, is_member: heard.append(envelope)
        message = Heartbeat(term=99, commit_index=0, read_round=1)
        forged = Envelope(
            group=1,
            source=leader.log.member_id,
            target=victim.log.member_id,
            message=message,
        )
        link = dict(liar.cluster.peers.links())[victim.name]
        town.until(lambda: link.wire is not None and link.wire.is_up)
        wire = link.wire
        link.send_raft(forged)
        town.advance(0.05)
        self.assertNotIn(wire, town.wires)
        self.assertTrue(any("spoke as member" in text for text in town.problems))
        self.assertNotIn(99, [envelope.message.term for envelope in heard])

    def test_failure_shrinks_nothing(self):
        """A dead voter stays one; the last of three alone commits nothing."""
        town = self.built()
        last = town["b"]
        for name in "ac":
            town[name].crash()
        town.advance(60)
        self.assertEqual(town.shape("b"), "aV bV cV")
        self.assertFalse(last.leads)
        self.failure(town, last.propose(), UnavailableError)

    def test_full_restart(self):
        """All restart without an address to join: the address book brings them together."""
        town = self.built()
        town.advance(10)  # so that the address books are written
        for name in "abc":
            town[name].crash()
        town.join = []
        for name in "abc":
            town[name].start()
        town.until(lambda: town.leader)
        self.result(town, town.leader.propose())


class ForwardingTests(TownTestCase):
    """Appends through any node, and what a caller is told when the leader is lost."""

    def test_through_every_node(self):
        """Appends through any node get dense offsets, and each node has them at once."""
        town = self.built()
        for offset, one in enumerate(town.running):
            self.assertEqual(self.result(town, one.propose()).base_offset, offset)
            for other in town.running:
                self.assertEqual(self.result(town, other.log.fetch(offset, 1)).next_offset, offset + 1)

    def test_exactly_once_across_failover(self):
        """A batch whose answer was lost with the leader is found again by its retry, on whatever node."""
        town, old, *_ = self.led()
        one, other = (each for each in town.running if not each.leads)
        producer = self.result(town, one.log.register_producer("root"))
        fields = {"producer_id": producer, "producer_sequence": 0, "subject": "root"}
        # The append goes out and is committed; every answer is lost.
        town.cuts |= {(old.name, one.name)}
        done = one.propose(**fields)
        town.until(lambda: other.driver.raft.next_offset == 1)
        old.crash()
        town.heal()
        self.failure(town, done, OutcomeUnknownError)
        town.until(lambda: town.leader)
        for node in (one, other, one):
            appended = self.result(town, node.propose(**fields))
            self.assertEqual(appended.base_offset, 0)
        self.failure(town, one.propose(**{**fields, "subject": "other"}), UnknownProducerError)
        self.assertEqual(self.result(town, other.log.bounds()).next_offset, 1)

    def test_leader_is_lost(self):
        """Appends that left for a leader that died end soon, with an unknown outcome."""
        town, _, follower, *_ = self.led()
        leader = town.leader
        leader.disk_queue.is_held = True
        for one in town.running:
            one.disk_queue.is_held = True
        done = follower.propose()
        town.advance(0.01)
        self.assertNoResult(done)
        leader.crash()
        for one in town.running:
            one.disk_queue.release()
        self.failure(town, done, OutcomeUnknownError, seconds_max=1)

    def test_who_stops_waiting(self):
        """Dropping the answer of an append that was passed on frees its place; one taken here holds none."""
        town, _, follower, *_ = self.led()
        proposal, told = Proposal(payload=b"x", record_count=1), []
        self.assertIsNone(town.leader.log.propose(proposal, told.append, told.append))
        dropped = follower.log.propose(proposal, told.append, told.append)
        self.assertEqual(len(follower.node.forwarder._asked), 1)
        dropped.cancel()
        self.assertEqual([type(outcome) for outcome in told], [CancelledError])
        for node in (follower.node, town.leader.node):
            waiting = proposing(node.log("").propose, proposal)
            self.assertEqual(len(follower.node.forwarder._asked), node is follower.node)
            waiting.cancel()
            self.failureResultOf(waiting, CancelledError)
        self.assertEqual(len(follower.node.forwarder._asked), 0)
        # Nobody minds the late answers.
        town.until(lambda: town.leader.driver.readable_offset == 4)
        self.assertEqual([type(outcome) for outcome in told], [CancelledError, Appended])

    def test_minority(self):
        """A leader cut off from the others commits nothing, and what it took is answered after the heal."""
        town, old, *_ = self.led()
        town.cut(old.name)
        done = old.propose()
        new = town.until(lambda: next((one for one in town.running if one.leads and one is not old), None))
        kept = self.result(town, new.propose())
        read = old.log.bounds()
        self.failure(town, read, UnavailableError)
        town.heal()
        self.failure(town, done, UnavailableError, OutcomeUnknownError)
        self.assertEqual(kept.base_offset, 0)
        town.until(lambda: old.driver.readable_offset == 1)
        frames = {bytes(self.result(town, one.log.fetch(0, 1000)).frames) for one in town.running}
        self.assertEqual(len(frames), 1)

    def test_stop_answers_who_was_forwarded(self):
        """A node that stops tells callers whose appends it passed on that nothing is known."""
        town, _, follower, *_ = self.led()
        town.cuts |= {(town.leader.name, follower.name)}
        done = follower.propose()
        town.advance(0.01)
        self.assertNoResult(done)
        follower.stop()
        self.failureResultOf(done, OutcomeUnknownError)
        self.failureResultOf(follower.propose(), UnavailableError)
