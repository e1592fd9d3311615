"""A node's certificate that belongs to no member: whatever it sends, no member minds."""

from dataclasses import replace
from functools import partial

from loghouse.cluster.roster import roster_reply
from loghouse.errors import MembershipError
from loghouse.limits import REMOVED_MAX
from loghouse.protocol.codec import MESSAGES
from loghouse.protocol.configuration import MemberRole
from loghouse.protocol.forward_messages import AdminOperation, ForwardAdmin, ForwardProduce
from loghouse.protocol.gossip_messages import Liveness, Statement, SwimPing
from loghouse.protocol.log_state import LogState, encode_log_state
from loghouse.protocol.raft_messages import (
    AppendEntries,
    Envelope,
    Heartbeat,
    InstallSnapshot,
    RequestVote,
    TimeoutNow,
)
from loghouse.protocol.repair_messages import EntriesReply, EntriesRequest
from loghouse.protocol.roster_messages import RosterEntry, RosterReply
from loghouse.protocol.senders import NODE_SENDS
from loghouse.runtime.deferring import deferred
from tests.driver.intruder import Intruder
from tests.driver.town import TownTestCase
from tests.vectors.messages import ENVELOPES
from tests.vectors.messages import MESSAGES as VECTORS


def state(one):
    """What a stranger must not be able to change."""
    raft = one.driver.raft
    return (raft.term, raft.role, raft.leader, raft.last_index, one.driver.lowest_offset)


class StrangerTests(TownTestCase):
    """A valid node certificate, never added."""

    def attacked(self):
        town = self.built()
        self.result(town, town.leader.propose())
        town.advance(2)
        return town, Intruder(town)

    def raft_attacks(self, raft):
        term, commit = raft.term + 1, raft.commit_index
        start = LogState(index=commit + 5, term=raft.term, next_offset=99)
        return (
            Heartbeat(term=term, commit_index=0),
            Heartbeat(term=term, commit_index=2**62),
            AppendEntries(term=term, prev_log_index=commit, prev_log_term=term, commit_index=0),
            AppendEntries(term=term, prev_log_index=1, prev_log_term=term, commit_index=0),
            AppendEntries(term=term, prev_log_index=0, prev_log_term=0, commit_index=2**63 - 1),
            InstallSnapshot(term=term, state=encode_log_state(start)),
            TimeoutNow(term=raft.term),
            RequestVote(term=term, last_log_index=2**62, last_log_term=2**62, transfer=True),
        )

    def test_raft_frames(self):
        """No Raft message of a stranger moves, stops or deposes anybody; its link is closed, and names it."""
        town, intruder = self.attacked()
        before = {one.name: state(one) for one in town.running}
        for one in town.running:
            raft = one.driver.raft
            for message in self.raft_attacks(raft):
                for source in (77, raft.leader or raft.id):
                    intruder.send_raft(one, Envelope(1, source, raft.id, message))
                    town.advance(0.2)
        town.advance(3)
        self.assertEqual({one.name: state(one) for one in town.running}, before)
        self.assertEqual([one.failures for one in town.running], [[], [], []])
        self.assertTrue(any("node 'x' (disk 58585858) is no member" in text for text in town.problems))

    def test_while_nobody_leads(self):
        """A stranger finds no gap between two leaders either."""
        town, intruder = self.attacked()
        town.leader.crash()
        one, other = town.running
        end = town.clock.seconds() + 10
        while town.clock.seconds() < end:
            for target in (one, other):
                raft = target.driver.raft
                for message in self.raft_attacks(raft):
                    intruder.send_raft(target, Envelope(1, 77, raft.id, message))
            town.advance(0.1)
        self.assertIn(town.leader, (one, other))
        self.result(town, town.leader.propose())

    def test_requests(self):
        """A stranger gets no append, trim, removal or hand-over, and none of the log's bytes."""
        town, intruder = self.attacked()
        leader = town.leader
        sent = []
        send = leader.cluster.send
        leader.cluster.send = lambda name, *what: (sent.append((name, what[0])), send(name, *what))[1]
        operations = {
            AdminOperation.TRIM: {"number": 1},
            AdminOperation.REMOVE: {"name": next(one.name for one in town.running if one is not leader)},
            AdminOperation.TRANSFER: {},
            AdminOperation.REGISTER_PRODUCER: {"name": "root"},
            AdminOperation.PROGRESS: {},
        }
        before = state(leader)
        intruder.send(leader, ForwardProduce(request_id=1, subject="root", batch=b"evil", record_count=1))
        intruder.send(leader, EntriesRequest(request_id=2, first_index=1, last_index=2))
        for number, (operation, fields) in enumerate(operations.items()):
            intruder.send(leader, ForwardAdmin(request_id=10 + number, operation=operation, **fields))
            town.advance(0.5)
        self.assertEqual(state(leader), before)
        self.assertEqual([name for name, _ in sent if name == "x"], [])
        self.assertEqual(town.shape(leader.name), "aV bV cV")

    def test_every_kind(self):
        """Of all kinds that nodes may send, a stranger's change nothing but what is known of itself."""
        town, intruder = self.attacked()
        before = {one.name: state(one) for one in town.running}
        sent = set()
        for _, message, *_ in VECTORS:
            if message.KIND in NODE_SENDS:
                sent.add(message.KIND)
                for one in town.running:
                    intruder.send(one, message)
                town.advance(0.1)
        for _, envelope, *_ in ENVELOPES:
            sent.add(envelope.message.KIND)
            for one in town.running:
                intruder.send_raft(one, replace(envelope, target=one.log.member_id))
            town.advance(0.1)
        expected = {kind for kind in NODE_SENDS if kind >= 0x0100 and (kind not in MESSAGES or kind < 0x0300)}
        self.assertEqual(expected - sent, set(), "a kind that nodes may send has no vector")
        town.advance(3)
        self.assertEqual({one.name: state(one) for one in town.running}, before)
        for one in town.running:
            views = {(view.name, view.disk_uuid) for view in one.cluster._swim.members}
            ours = {(other.name, other.node.disk_uuid) for other in town.running}
            self.assertLessEqual({name for name, _ in views - ours}, {"x"})

    def test_answers_that_nobody_asked_for(self):
        """A stranger introduces nobody, not even itself, and mends nothing."""
        town, intruder = self.attacked()
        one = next(one for one in town.running if not one.leads)
        raft = one.driver.raft
        itself = RosterEntry(id=77, name="x", disk_uuid=b"X" * 16)
        roster = RosterReply(request_id=1, index=2**40, members=(itself,))
        for _ in range(5):
            intruder.send_raft(one, Envelope(1, 77, raft.id, Heartbeat(term=raft.term + 1, commit_index=0)))
            for request_id in range(1, 10):
                intruder.send(one, replace(roster, request_id=request_id))
            intruder.send(one, EntriesReply(request_id=1, frames=b"x"))
            town.advance(0.5)
        self.assertEqual(raft.leader, town.leader.log.member_id)

    def test_gossip(self):
        """What a stranger says of others is not heard: it makes nobody suspect, dead, gone or elsewhere."""
        town, intruder = self.attacked()
        leader = town.leader
        for victim in town.running:
            if victim is leader:
                continue
            for liveness in Liveness:
                statement = Statement(
                    liveness=liveness,
                    name=victim.name,
                    disk_uuid=victim.node.disk_uuid,
                    incarnation=100,
                    accuser=leader.name if liveness in (Liveness.SUSPECT, Liveness.DEAD) else "",
                    address="evil:1" if liveness is Liveness.ALIVE else "",
                    version_min=1,
                    version_max=1,
                )
                ping = SwimPing(
                    sequence=1, name=leader.name, disk_uuid=leader.node.disk_uuid, broadcasts=(statement,)
                )
                intruder.send(leader, ping)
                town.advance(0.1)
                self.assertIs(leader.cluster.liveness_of(victim.cluster._swim.key), Liveness.ALIVE)
                self.assertEqual(leader.cluster.address_of(victim.cluster._swim.key), victim.address)
        self.assertGreater(leader.metrics.count("gossip_message_refused", "hearsay of a stranger"), 0)

    def test_ban(self):
        """`cluster remove` of a name that is no member shuts it out at once; `add` lets it in."""
        town, intruder = self.attacked()
        follower = next(one for one in town.running if not one.leads)
        link = intruder.link(follower)
        self.result(town, follower.node.administration.remove("x"))
        self.assertEqual(town.leader.log.configuration.removed, ("x",))
        town.until(lambda: link.wire is None)
        town.problems.clear()
        town.until(lambda: any("node 'x' was removed" in text for text in town.problems))
        self.result(town, follower.node.administration.remove("x"))  # once more changes nothing
        self.result(town, follower.node.administration.add("x", False))
        self.assertEqual(town.leader.log.configuration.removed, ())

    def test_bans_are_bounded(self):
        """The list of names that are kept out has an end, and says so."""
        town = self.built("a")
        replica = town["a"].driver
        full = replace(
            replica.raft.configuration, removed=tuple(f"n{number}" for number in range(REMOVED_MAX))
        )
        self.result(town, deferred(partial(replica.propose_configuration, full)))
        error = self.failure(town, town["a"].node.administration.remove("x"), MembershipError)
        self.assertIn(f"{REMOVED_MAX} names", error.getErrorMessage())


class UnknownYetTests(TownTestCase):
    """Nodes that this one's log cannot know yet, and which must be heard all the same."""

    def test_all_others_were_replaced(self):
        """A voter that was away while both others were replaced is led by one that it never heard of."""
        town, _, away, *_ = self.led()
        town.advance(5)
        away.stop()
        for name in "de":
            town.join.append(f"{name}:1")
            town.add(name).start()
        town.until(lambda: "dV eV" in town.shape(town.leader.name), 60)
        for old in [one for one in town.running if one.name in "abc"]:
            if old.leads:
                self.result(town, old.node.administration.transfer("d"))
                town.until(lambda: town["d"].leads)
            self.result(town, town["d"].node.administration.remove(old.name))
            town.advance(3)
            old.stop()
        away.start()
        wanted = " ".join(sorted([f"{away.name}V", "dV", "eV"]))
        town.until(lambda: away.driver and town.shape(away.name) == wanted, 60)
        done = self.result(town, town.leader.propose())
        town.until(lambda: away.driver.readable_offset == done.base_offset + 1)

    def test_vote_for_one_unknown_yet(self):
        """A voter whose log does not hold the successor yet hears it once another member vouches."""
        town, old, behind, other = self.led()
        town.cuts |= {(x, behind.name) for x in town.residents} | {(behind.name, x) for x in town.residents}
        town.join = ["x:1"]  # nobody whom an operator named
        for name in "de":
            town.cuts |= {(name, behind.name), (behind.name, name)}
            newcomer = town.add(name)
            town.join = [old.address, other.address]
            newcomer.start()
        town.until(lambda: "dV eV" in town.shape(old.name), 60)
        self.result(town, old.node.administration.transfer("d"))
        town.until(lambda: town["d"].leads)
        old.crash()
        town["e"].crash()
        self.assertNotIn("d", town.shape(behind.name))
        town.heal()
        town.until(lambda: "dV" in town.shape(behind.name), 60)
        self.result(town, town.leader.propose())

    def test_conflict_of_an_introduced_one(self):
        """What contradicts the log ends no node when it comes from one whom the log does not know."""
        town, _, one, *_ = self.led()
        intruder = Intruder(town)
        raft = one.driver.raft
        roster, leader = one.cluster.roster, town.leader.cluster._swim.key
        town.advance(1)
        request_id = roster.request(town.clock.seconds())
        members = raft.configuration.with_member("x", b"X" * 16, MemberRole.LEARNER)
        self.assertTrue(roster.introduce(leader, roster_reply(request_id, [members], 2**40)))
        message = AppendEntries(
            term=raft.term + 1, prev_log_index=1, prev_log_term=raft.term + 1, commit_index=0
        )
        for _ in range(6):
            intruder.send_raft(one, Envelope(1, 4, raft.id, message))
            town.advance(0.3)
        self.assertEqual(one.failures, [])
        self.assertTrue(any("contradicts it" in text for text in town.problems), town.problems)
        town.until(lambda: town.leader)
