"""The probe cycle: pings, indirect pings, acks, nacks, and what they do to suspicion and local health."""

from dataclasses import replace

from twisted.trial.unittest import SynchronousTestCase

from loghouse.gossip.config import LAN
from loghouse.limits import GOSSIP_BROADCASTS_MAX, GOSSIP_RELAYS_MAX
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
from tests.gossip.bench import Bench, address_of, alive, key, left, suspect


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

    def test_numbers(self):
        """Pings are numbered one after the other, and after the largest number comes 0."""
        swim = Bench().swim
        swim._sequence = 2**32 - 3
        self.assertEqual([swim._next_sequence() for _ in range(4)], [2**32 - 2, 2**32 - 1, 0, 1])

    def test_who_is_asked(self):
        """Only members that are alive are asked to probe, not suspects, and they hear the news with that."""
        bench = Bench().meet("a", "b", "c")
        bench.swim._ring = [key("a")]
        self.assertEqual(self.next_ping(bench).target, key("a"))
        bench.tick(LAN.timeout_ticks - 1)
        bench.hear("c", suspect("b", 1))
        bench.forget_sent()
        bench.tick()
        [asked] = [one for one in bench.sent if isinstance(one.message, SwimPingReq)]
        self.assertEqual(asked.target, key("c"))
        self.assertIn(suspect("b", 1), asked.message.broadcasts)

    def test_gone_from_the_ring(self):
        """Who left is not probed in the round that it left in."""
        bench = Bench().meet("a", "b")
        bench.hear("b", left("b", 1))
        bench.swim._ring = [key("a"), key("b"), key("nobody")]
        self.assertEqual(self.next_ping(bench).target, key("a"))

    def test_one_step_of_health(self):
        """One answered probe mends local health by one."""
        bench = Bench().meet("a")
        bench.swim.awareness.change(5)
        ping = self.next_ping(bench)
        bench.step("a", SwimAck(sequence=ping.message.sequence))
        self.assertEqual(bench.swim.awareness.score, 4)

    def test_silence_of_who_spoke(self):
        """The silence of a member that others only told of is no fault of ours; one word of it counts."""
        for has_spoken, score in ((False, 0), (True, 1)):
            bench = Bench().meet("a")
            bench.hear("a", alive("b", 1), left("a", 1))
            if has_spoken:
                bench.step("b", SwimNack(sequence=0))
            self.next_ping(bench)
            bench.tick(LAN.probe_ticks)
            self.assertEqual((bench.liveness("b"), bench.swim.awareness.score), (Liveness.SUSPECT, score))

    def test_answers_of_others(self):
        """Who was not asked answers nothing, nor does who was, with another number; nor anybody unasked."""
        bench = Bench().meet("a", "b", "c", "d", "e")
        for answer in (SwimAck, SwimNack):
            bench.step("a", answer(sequence=0))
        ping = self.next_ping(bench)
        bench.forget_sent()
        bench.tick(LAN.timeout_ticks)
        asked = [one.target for one in bench.sent if isinstance(one.message, SwimPingReq)]
        [bystander] = {*map(key, "abcde")} - {*asked, ping.target}
        bench.step(bystander, SwimNack(sequence=ping.message.sequence))
        bench.step(asked[0], SwimAck(sequence=ping.message.sequence + 1))
        bench.step(asked[0], SwimNack(sequence=ping.message.sequence + 1))
        bench.tick(LAN.probe_ticks - LAN.timeout_ticks)
        self.assertEqual(bench.liveness(ping.target.name), Liveness.SUSPECT)
        self.assertEqual(bench.swim.awareness.score, 3)

    def test_probed_member_is_forgotten(self):
        """The answer of a member that was forgotten meanwhile ends the probe, and nothing else."""
        bench = Bench().meet("a", "b")
        bench.swim.awareness.change(5)
        ping = self.next_ping(bench)
        bench.swim.shut_out(frozenset({ping.target.name}))
        bench.swim.shut_out(frozenset())
        bench.step(ping.target, SwimAck(sequence=ping.message.sequence))
        self.assertEqual(bench.swim.awareness.score, 4)

    def test_address_is_confirmed(self):
        """An answer at the new address is written down; one at the old address shows what is said of it."""
        moved = alive("b", 2, address="new.example:1")
        for number, is_confirmed in ((0, True), (1, False)):
            bench = Bench(config=replace(LAN, book_ticks=1)).meet("a", "b")
            bench.hear("a", moved)
            bench.swim._ring = [key("b")]
            while len(pings := bench.sent_to("b", SwimPing)) < 2:
                bench.tick()
            bench.forget_sent()
            bench.books.clear()
            bench.step("b", SwimAck(sequence=pings[number].sequence))
            told = [one.address for one in bench.sent if moved in one.message.broadcasts]
            self.assertEqual(told, [] if is_confirmed else ["new.example:1", address_of("b")])
            bench.tick()
            written = [one.address for book in bench.books for one in book.contacts if one.name == "b"]
            self.assertEqual(written, ["new.example:1"] if is_confirmed else [])


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

    def test_relay_in_time(self):
        """The nack comes once, after four fifths of the time for an answer, and after a tick at least."""
        for timeout_ticks, ticks in ((5, 4), (10, 8), (2, 1), (1, 1)):
            bench = Bench(config=replace(LAN, timeout_ticks=timeout_ticks, probe_ticks=50)).meet("a", "b")
            bench.silent = set()
            bench.tick(50)
            bench.silent = None
            bench.forget_sent()
            bench.step("a", ping_req_for("b", 99))
            [ping] = [one for one in bench.sent if isinstance(one.message, SwimPing)]
            self.assertEqual((ping.address, ping.target), (address_of("b"), key("b")))
            bench.tick(ticks - 1)
            self.assertEqual(bench.sent_to("a", SwimNack), [])
            bench.tick(20)
            self.assertEqual([one.sequence for one in bench.sent_to("a", SwimNack)], [99])

    def test_news_both_ways(self):
        """Requests and answers of every kind bring news along, and what they bring is heard."""
        bench = Bench().meet("a", "b")
        for sequence, message in enumerate(
            (
                SwimPingReq(sequence=9, name="b", disk_uuid=key("b").disk_uuid, broadcasts=(alive("n0", 1),)),
                SwimNack(sequence=9, broadcasts=(alive("n1", 1),)),
                SwimAck(sequence=9, broadcasts=(alive("n2", 1),)),
            )
        ):
            bench.step("a", message)
            self.assertEqual(bench.liveness(f"n{sequence}"), Liveness.ALIVE)
        [ping] = bench.sent_to("b", SwimPing)
        bench.forget_sent()
        bench.step("b", SwimAck(sequence=ping.sequence))
        [answer] = bench.sent_to("a", SwimAck)
        self.assertIn(alive("n2", 1), answer.broadcasts)

    def test_most_news(self):
        """A message to a suspect has what is said of it first, once, and no more in all than one may have."""
        bench = Bench().meet("a", "b")
        names = [f"n{number}" for number in range(GOSSIP_BROADCASTS_MAX + 5)]
        bench.step("a", PushPull(members=tuple(alive(name, 1) for name in names)))
        bench.hear("a", suspect("b", 1))
        bench.swim._broadcasts.queue(suspect("b", 1))
        bench.forget_sent()
        for name in ("b", "a"):
            bench.step(name, ping_for("me"))
            [ack] = bench.sent_to(name, SwimAck)
            self.assertEqual(len(ack.broadcasts), GOSSIP_BROADCASTS_MAX)
        [first, *others] = bench.sent_to("b", SwimAck)[0].broadcasts
        self.assertEqual(first, suspect("b", 1))
        self.assertNotIn(first, others)

    def test_against_once(self):
        """What is said of a suspect is not said twice in one message."""
        bench = Bench().meet("a", "b", "c")
        bench.hear("a", suspect("b", 1))
        bench.forget_sent()
        bench.step("b", ping_for("me"))
        [ack] = bench.sent_to("b", SwimAck)
        self.assertEqual([one for one in ack.broadcasts if one.name == "b"], [suspect("b", 1)])
        self.assertIn(alive("c", 1), ack.broadcasts)

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
