"""The probe cycle: pings, indirect pings, acks, nacks, and what they do to suspicion and local health."""

from twisted.trial.unittest import SynchronousTestCase

from loghouse.gossip.config import LAN
from loghouse.limits import GOSSIP_RELAYS_MAX
from loghouse.protocol.gossip_messages import (
    Liveness,
    PushPull,
    PushPullReply,
    SwimAck,
    SwimBroadcast,
    SwimNack,
    SwimPing,
    SwimPingReq,
)
from tests.gossip.bench import Bench, alive, key, left, suspect


def ping_for(name, sequence=7, *broadcasts):
    return SwimPing(sequence=sequence, name=name, disk_uuid=key(name).disk_uuid, broadcasts=tuple(broadcasts))


def ping_req_for(name, sequence=7):
    return SwimPingReq(sequence=sequence, name=name, disk_uuid=key(name).disk_uuid)


class CycleTests(SynchronousTestCase):
    """Who is probed, when, and what follows."""

    def next_ping(self, bench):
        """Tick until a ping goes out; return its Outgoing."""
        bench.forget_sent()
        for _ in range(200):
            bench.tick()
            pings = [outgoing for outgoing in bench.sent if isinstance(outgoing.message, SwimPing)]
            if pings:
                return pings[0]
        raise AssertionError("no ping")

    def test_round(self):
        """Each round probes every live member once, in an order of its own."""
        bench = Bench().meet("a", "b", "c", "d", "e")
        bench.silent = set()
        bench.tick(LAN.probe_ticks * 5)
        bench.forget_sent()
        rounds = []
        for _ in range(6):
            bench.tick(LAN.probe_ticks * 5)
            rounds.append(tuple(o.target.name for o in bench.sent if isinstance(o.message, SwimPing)))
            bench.forget_sent()
        for visited in rounds:
            self.assertEqual(sorted(visited), ["a", "b", "c", "d", "e"])
        self.assertGreater(len(set(rounds)), 1)

    def test_nobody(self):
        """A node alone probes nobody."""
        bench = Bench()
        bench.tick(100)
        self.assertEqual(bench.sent, [])

    def test_indirect(self):
        """Without an ack in time three others are asked; without any at the end the member is suspect."""
        bench = Bench().meet("a", "b", "c", "d", "e")
        target = self.next_ping(bench).target
        bench.forget_sent()
        bench.tick(LAN.timeout_ticks - 1)
        self.assertEqual([o for o in bench.sent if isinstance(o.message, SwimPingReq)], [])
        bench.tick()
        asked = [o for o in bench.sent if isinstance(o.message, SwimPingReq)]
        self.assertEqual(len(asked), LAN.indirect_probes)
        self.assertNotIn(target, [outgoing.target for outgoing in asked])
        self.assertEqual({(o.message.name, o.message.disk_uuid) for o in asked}, {target})
        bench.tick(LAN.probe_ticks - LAN.timeout_ticks - 1)
        self.assertEqual(bench.liveness(target.name), Liveness.ALIVE)
        bench.tick()
        self.assertEqual(bench.liveness(target.name), Liveness.SUSPECT)

    def test_acks(self):
        """An ack of the member itself, or of one that was asked, ends the probe; any other does not."""
        for who in ("target", "asked", "bystander", "stale"):
            bench = Bench().meet("a", "b", "c", "d", "e")
            ping = self.next_ping(bench)
            bench.forget_sent()
            bench.tick(LAN.timeout_ticks)
            asked = [o for o in bench.sent if isinstance(o.message, SwimPingReq)]
            bystanders = {"a", "b", "c", "d", "e"} - {ping.target.name} - {o.target.name for o in asked}
            source, sequence = {
                "target": (ping.target, ping.message.sequence),
                "asked": (asked[0].target, asked[0].message.sequence),
                "bystander": (key(bystanders.pop()), ping.message.sequence),
                "stale": (ping.target, ping.message.sequence - 1),
            }[who]
            bench.step(source, SwimAck(sequence=sequence))
            bench.tick(LAN.probe_ticks - LAN.timeout_ticks)
            expected = Liveness.ALIVE if who in ("target", "asked") else Liveness.SUSPECT
            self.assertEqual(bench.liveness(ping.target.name), expected, who)
            bench.step(source, SwimAck(sequence=sequence))

    def test_local_health(self):
        """Missing nacks are our own fault; with all of them there the silence is the target's (Lifeguard)."""
        for nacks, score in ((3, 0), (2, 1), (0, 3)):
            bench = Bench().meet("a", "b", "c", "d", "e")
            self.next_ping(bench)
            bench.forget_sent()
            bench.tick(LAN.timeout_ticks)
            asked = [o for o in bench.sent if isinstance(o.message, SwimPingReq)]
            for outgoing in asked[:nacks]:
                bench.step(outgoing.target, SwimNack(sequence=outgoing.message.sequence))
            bench.step("a", SwimNack(sequence=1))
            bench.tick(LAN.probe_ticks - LAN.timeout_ticks)
            self.assertEqual(bench.swim.awareness.score, score, nacks)

    def test_nobody_to_ask(self):
        """With nobody to ask, a missed ack counts as one."""
        bench = Bench().meet("a")
        self.next_ping(bench)
        bench.tick(LAN.probe_ticks)
        self.assertEqual(bench.swim.awareness.score, 1)
        self.assertEqual(bench.liveness("a"), Liveness.SUSPECT)

    def test_stretching(self):
        """Poor local health stretches intervals and timeouts; answered probes mend it."""
        bench = Bench().meet("a", "b")
        bench.swim.awareness.change(3)
        self.next_ping(bench)
        bench.forget_sent()
        bench.tick(LAN.timeout_ticks * 4 - 1)
        self.assertEqual(bench.sent, [])
        bench.tick()
        self.assertEqual([type(outgoing.message) for outgoing in bench.sent], [SwimBroadcast, SwimPingReq])
        bench.silent = set()
        bench.tick(LAN.probe_ticks * 40)
        self.assertEqual(bench.swim.awareness.score, 0)

    def test_gone_meanwhile(self):
        """A member that leaves while it is probed does not become suspect."""
        bench = Bench().meet("a", "b")
        ping = self.next_ping(bench)
        bench.step(ping.target, SwimAck(sequence=0, broadcasts=(left(ping.target.name, 1),)))
        bench.tick(LAN.probe_ticks)
        self.assertEqual(bench.liveness(ping.target.name), Liveness.LEFT)

    def test_suspect_is_told(self):
        """A ping to a suspect says so first, so that it can refute (Lifeguard's buddy system)."""
        bench = Bench().meet("a", "b")
        bench.hear("a", suspect("b", 1))
        bench.tick(60)
        for ping in bench.sent_to("b", SwimPing):
            self.assertEqual(ping.broadcasts[0], suspect("b", 1))


class AnswerTests(SynchronousTestCase):
    """What is answered, and to whom."""

    def test_ping(self):
        """A ping for this member is acked under its number; one for another is not."""
        bench = Bench().meet("a")
        bench.forget_sent()
        bench.step("a", ping_for("me", 42))
        self.assertEqual([message.sequence for message in bench.sent_to("a", SwimAck)], [42])
        bench.forget_sent()
        bench.step("a", ping_for("b"))
        bench.step("a", SwimPing(sequence=1, name="me", disk_uuid=bytes(16)))
        self.assertEqual(bench.sent, [])
        self.assertEqual(bench.refusals["ping for another member"], 2)

    def test_strangers(self):
        """A stranger gets no answer, until it says who it is."""
        bench = Bench()
        for message in (ping_for("me"), ping_req_for("me"), PushPull(members=())):
            bench.step("x", message)
        self.assertEqual(bench.sent, [])
        self.assertEqual(sum(bench.refusals.values()), 3)
        bench.step("x", ping_for("me", 7, alive("x", 1)))
        self.assertEqual(len(bench.sent_to("x", SwimAck)), 1)

    def test_accused_is_told(self):
        """An ack to a member that is held for dead or gone says so, so that it can refute."""
        for fell in ("dead", "left"):
            bench = Bench().meet("a", "b")
            if fell == "dead":
                bench.kill("b")
            else:
                bench.hear("b", left("b", 1))
            bench.forget_sent()
            bench.step("b", ping_for("me"))
            (ack,) = bench.sent_to("b", SwimAck)
            self.assertEqual(ack.broadcasts[0].name, "b")
            self.assertNotEqual(ack.broadcasts[0].liveness, Liveness.ALIVE)

    def test_relay(self):
        """A ping request is a ping to the target; its ack is passed on under the asker's number."""
        bench = Bench().meet("a", "b")
        bench.forget_sent()
        bench.step("a", ping_req_for("b", 99))
        (ping,) = bench.sent_to("b", SwimPing)
        bench.forget_sent()
        bench.step("a", SwimAck(sequence=ping.sequence))
        self.assertEqual(bench.sent, [])
        bench.step("b", SwimAck(sequence=ping.sequence))
        bench.step("b", SwimAck(sequence=ping.sequence))
        self.assertEqual([message.sequence for message in bench.sent_to("a")], [99])
        bench.tick(LAN.timeout_ticks)
        self.assertEqual(bench.sent_to("a", SwimNack), [])

    def test_relay_of_silence(self):
        """A target that does not answer is a nack, in time for the asker."""
        bench = Bench().meet("a", "b")
        bench.step("a", ping_req_for("b", 99))
        bench.forget_sent()
        bench.tick(LAN.probe_ticks - LAN.timeout_ticks - 1)
        self.assertEqual([message.sequence for message in bench.sent_to("a", SwimNack)], [99])

    def test_relay_unknown(self):
        """A target that is not known is a nack at once."""
        bench = Bench().meet("a")
        bench.forget_sent()
        bench.step("a", ping_req_for("x", 99))
        self.assertEqual([message.sequence for message in bench.sent_to("a", SwimNack)], [99])

    def test_relays_are_bounded(self):
        """However many requests come, few are under way; the others get their nack at once."""
        bench = Bench().meet("a", "b")
        bench.forget_sent()
        for sequence in range(GOSSIP_RELAYS_MAX + 50):
            bench.step("a", ping_req_for("b", sequence))
        self.assertEqual(len(bench.sent_to("b", SwimPing)), GOSSIP_RELAYS_MAX)
        self.assertEqual(len(bench.sent_to("a", SwimNack)), 50)

    def test_asker_gone(self):
        """The answer for an asker that was forgotten meanwhile goes nowhere."""
        bench = Bench().meet("a", "b")
        bench.step("a", ping_req_for("b", 99))
        bench.hear("a", left("a", 1))
        bench.swim.shut_out(frozenset({"a"}))
        bench.forget_sent()
        bench.tick(LAN.timeout_ticks)
        self.assertEqual(bench.sent_to("a", SwimNack), [])

    def test_push_pull_once_a_tick(self):
        """A member that asks for the whole view over and over gets one in a tick."""
        bench = Bench().meet("a")
        for _ in range(50):
            bench.step("a", PushPull(members=(alive("a", 1),)))
        self.assertEqual(len(bench.sent_to("a", PushPullReply)), 1)
        bench.tick()
        bench.step("a", PushPull(members=(alive("a", 1),)))
        self.assertEqual(len(bench.sent_to("a", PushPullReply)), 2)


class SuspicionTests(SynchronousTestCase):
    """How long a suspect has."""

    def ticks_to_death(self, *accusers):
        bench = Bench().meet("x", *"abcdefgh")
        bench.silent = {"x"}
        for accuser in accusers:
            bench.hear(accuser, suspect("x", 1, accuser=accuser))
        for ticks in range(1, 2000):
            bench.tick()
            if bench.liveness("x") is Liveness.DEAD:
                return ticks
        raise AssertionError("x lives for ever")

    def test_same_accuser(self):
        """The same accuser again and again confirms nothing."""
        once = self.ticks_to_death("a")
        self.assertEqual(self.ticks_to_death("a", "a", "a", "a"), once)
        self.assertLess(self.ticks_to_death("a", "b", "c"), once)

    def test_storm_leaves_time(self):
        """However many accuse, the suspect has its shortest time (attack row 17)."""
        self.assertGreaterEqual(self.ticks_to_death(*"abcdefgh"), 40)
