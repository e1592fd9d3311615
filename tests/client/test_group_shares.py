"""Groups: how members share logs, each by what it sees; a model of many under one clock."""

import heapq
import itertools
import random
from collections import Counter
from types import SimpleNamespace

from twisted.trial.unittest import SynchronousTestCase

from loghouse.client.group_shares import ASK_SECONDS, LOOKS_PER_SECOND, GroupShares
from loghouse.limits import WAIT_SECONDS
from loghouse.replica.cursor_waits import CursorWaits
from tests.processes import thorough

LEASE = 3.0
SEEDS = 30


class ShareCase(SynchronousTestCase):
    """One member, `me`, that is told what it sees."""

    def setUp(self):
        self.now = 100.0
        self.shares = GroupShares("me", LEASE)

    def see(self, *seen):
        """Tell of logs, each `name holder waiting...`; `-` for none, and `me` for those that it has."""
        rows = [one.split() for one in seen]
        self.shares.set_logs(row[0] for row in rows)
        for name, holder, *waiting in rows:
            if holder == "me":
                self.shares.took(name, self.now - WAIT_SECONDS)
            holder = "" if holder == "-" else holder
            self.shares.saw(name, self.now, holder=holder, left_seconds=LEASE, waiting=waiting)

    def turn(self):
        return self.shares.turn(self.now)


class RuleTests(ShareCase):
    """What one member does about what it sees."""

    def test_looks_first(self):
        """It looks at a log before it asks for it."""
        self.shares.set_logs(["a", "b"])
        turn = self.turn()
        self.assertEqual((turn.look, turn.acquire, turn.let_go), (["a", "b"], [], []))

    def test_alone(self):
        """Who sees nobody else takes all, one after the other at first."""
        self.see("a -", "b -", "c -", "d -", "e -")
        counts = []
        while acquired := self.turn().acquire:
            counts.append(len(acquired))
            for name in acquired:
                self.shares.took(name, self.now)
        self.assertEqual(counts, [1, 1, 2, 1])

    def test_fewest(self):
        """A free log is for whoever has the fewest, one at a time."""
        self.see("a -", "b -", "c one")
        self.assertEqual(len(self.turn().acquire), 1)
        self.see("a -", "b me", "c one")
        self.assertEqual(self.turn().acquire, ["a"])
        self.see("a -", "b me", "c one two")
        self.assertEqual(self.turn().acquire, [])

    def test_own_lease_is_over(self):
        """Whoever renews late does not ask for what it has: that would fence it at its own work."""
        self.see("a me", "b one")
        self.shares.saw("a", self.now, holder="me", left_seconds=0.0)
        turn = self.turn()
        self.assertEqual((turn.acquire, turn.let_go, self.shares.mine), ([], [], {"a"}))

    def test_nobody_else(self):
        """A free log that those with the fewest do not take is for anybody after a while."""
        self.see("a -", "b me", "c one two")
        for _ in range(int(WAIT_SECONDS)):
            self.assertEqual(self.turn().acquire, [])
            self.now += 1
            self.see("a -", "b me", "c one two")
        self.assertEqual(self.turn().acquire, ["a"])

    def test_waits(self):
        """Who has two fewer than another asks for logs of it each second: the same ones, up to its share."""
        self.see(*(f"l{number} one" for number in range(9)), "m two")
        names = self.turn().acquire
        self.assertEqual((len(names), {name[0] for name in names}), (3, {"l"}))
        for name in names:
            self.shares.refused(name, self.now, holder="one", left_seconds=LEASE)
        self.assertEqual(self.turn().acquire, [])
        self.now += ASK_SECONDS
        self.assertEqual(sorted(self.turn().acquire), sorted(names))

    def test_waits_for_one(self):
        """It asks for one at least, and for no other while that makes sense."""
        self.see("a one", "b one", "c one", "d two", "e me")
        (name,) = self.turn().acquire
        self.assertIn(name, "abc")
        self.shares.refused(name, self.now, holder="one", left_seconds=LEASE)
        turn = self.turn()
        self.assertEqual((turn.acquire, turn.next_at), ([], self.now + ASK_SECONDS))
        self.now += ASK_SECONDS
        self.assertEqual(self.turn().acquire, [name])

    def test_content(self):
        """Who has one fewer asks for nothing; nor who has no logs where each other one has one."""
        self.see("a one", "b one", "c me")
        self.assertEqual(self.turn().acquire, [])
        self.see("a one", "b two")
        self.assertEqual(self.turn().acquire, [])

    def test_after_those_with_fewer(self):
        """Who has fewer still, and waits, comes first; not one that waits for what it will not get."""
        self.see("a one two", "b one", "c one", "d one", "e me")
        self.assertEqual(self.turn().acquire, [])
        self.see("a one", "b one", "c one", "d three two", "e me")
        self.assertEqual(len(self.turn().acquire), 1)

    def test_lets_go(self):
        """Who has two more than one that waits lets go of the log that this one waits for."""
        self.see("a me", "b me one", "c me")
        self.assertEqual(self.turn().let_go, ["b"])
        self.assertEqual(self.turn().let_go, [])
        self.shares.lost("b", self.now)
        self.assertEqual((self.turn().let_go, self.turn().acquire), ([], []))

    def test_asked_together(self):
        """Who was too late for a free log does not wait for it: it is not let go at once."""
        self.see("a me", "b me", "c me")
        self.shares.took("a", self.now)
        self.now += WAIT_SECONDS - 0.1
        self.shares.saw("a", self.now, holder="me", left_seconds=LEASE, waiting=["one"])
        self.assertEqual(self.turn().let_go, [])
        self.now += 0.1
        self.shares.saw("a", self.now, holder="me", left_seconds=LEASE, waiting=["one"])
        self.assertEqual(self.turn().let_go, ["a"])

    def test_keeps(self):
        """Who has one more keeps all, whoever waits; and one that waits twice gets one log."""
        self.see("a me one", "b me", "c one")
        self.assertEqual(self.turn().let_go, [])
        self.see("a me one", "b me one", "c me one")
        self.assertEqual(self.turn().let_go, ["a"])

    def test_taken_back(self):
        """What nobody took is taken back after a while."""
        self.see("a me", "b me one", "c me")
        self.turn()
        self.shares.lost("b", self.now)
        self.now += WAIT_SECONDS - 0.1
        self.assertEqual(self.turn().acquire, [])
        self.now += 0.1
        self.assertEqual(self.turn().acquire, ["b"])

    def test_runs_out(self):
        """A holder that is not heard is looked at when its lease runs out."""
        self.see("a one")
        turn = self.turn()
        self.assertEqual((turn.look, turn.next_at), ([], self.now + ASK_SECONDS))
        self.shares.saw("a", self.now, holder="one", left_seconds=0.25)
        self.assertEqual(self.turn().next_at, self.now + 0.25)
        self.now += 0.25
        self.assertEqual((self.turn().look, self.turn().acquire), (["a"], []))
        self.shares.saw("a", self.now, holder="one", left_seconds=0.0)
        self.assertEqual(self.turn().acquire, ["a"])

    def test_my_own_name(self):
        """What another process of the same holder's name had is taken without waiting."""
        self.see("a -")
        self.shares.saw("a", self.now, holder="me", left_seconds=LEASE)
        self.assertEqual(self.turn().acquire, ["a"])

    def test_missed(self):
        """A log that cannot be asked about is left alone for a while."""
        self.see("a -", "b one")
        for name in "ab":
            self.shares.missed(name, self.now)
        turn = self.turn()
        self.assertEqual((turn.look, turn.acquire, turn.next_at), ([], [], self.now + ASK_SECONDS))
        self.now += ASK_SECONDS
        self.assertEqual(self.turn().acquire, ["a"])

    def test_logs_come_and_go(self):
        """A log that is gone is forgotten with all that was seen; what is told of it later is no matter."""
        self.see("a me one", "b me", "c one")
        self.shares.set_logs(["c", "d"])
        self.assertEqual((self.shares.mine, self.shares.logs), (frozenset(), {"c", "d"}))
        self.shares.took("a", self.now)
        self.shares.lost("a", self.now)
        self.shares.saw("a", self.now, holder="", left_seconds=0.0)
        self.shares.refused("a", self.now, holder="one", left_seconds=1.0)
        self.shares.missed("a", self.now)
        self.assertEqual((self.shares.mine, self.turn().look), (frozenset(), ["d"]))

    def test_many(self):
        """A large group looks less often, but twice in a lease."""
        shares = GroupShares("me", 60.0)
        for count, expected in (
            (10, ASK_SECONDS),
            (LOOKS_PER_SECOND * 4, 4.0),
            (LOOKS_PER_SECOND * 1000, 30.0),
        ):
            shares.set_logs(f"l{number}" for number in range(count))
            self.assertEqual(shares._rest_seconds(1), expected)


class Model:
    """Logs with cursors and leases, and members that look, ask and renew, with delays, under one clock."""

    def __init__(self, seed, logs, delay=0.2):
        self.rng = random.Random(seed)
        self.now = 0.0
        self.delay = delay  # the longest one of a request, in seconds; of its answer the same
        self.logs = list(logs)
        self.cursors = {name: SimpleNamespace(holder="", until=0.0) for name in logs}
        self.waits = {name: CursorWaits(lambda: self.now) for name in logs}
        self.members = {}
        self.moves = []  # when a log changed hands, and to whom
        self._agenda, self._order = [], itertools.count()

    def at(self, seconds, what, *arguments):
        heapq.heappush(self._agenda, (self.now + seconds, next(self._order), what, arguments))

    def run(self, seconds):
        end = self.now + seconds
        while self._agenda and self._agenda[0][0] <= end:
            self.now, _, what, arguments = heapq.heappop(self._agenda)
            what(*arguments)
        self.now = end

    def shares(self):
        """Return how many logs each living member has, the fewest first."""
        held = Counter(one.holder for one in self.cursors.values() if one.until > self.now)
        return sorted(held[name] for name in self.members)

    def join(self, name, wanted=None):
        member = SimpleNamespace(
            name=name,
            shares=GroupShares(name, LEASE),
            wanted=wanted or (lambda log: True),
            paused_until=0.0,
            waking=0,
        )
        self.members[name] = member
        member.shares.set_logs(filter(member.wanted, self.logs))
        self.wake(member)

    def change_logs(self, names):
        """Logs are made and deleted; each member hears of it some time later."""
        self.logs = list(names)
        for name in self.logs:
            self.cursors.setdefault(name, SimpleNamespace(holder="", until=0.0))
            self.waits.setdefault(name, CursorWaits(lambda: self.now))
        self.cursors = {name: self.cursors[name] for name in self.logs}
        for member in self.members.values():
            self.later(member, lambda member: member.shares.set_logs(filter(member.wanted, self.logs)))

    def change_leaders(self):
        """Every holder has a whole lease more, and who waits is forgotten."""
        for name, cursor in self.cursors.items():
            self.waits[name].begin()
            if cursor.holder:
                cursor.until = self.now + LEASE

    def kill(self, name):
        del self.members[name]

    def leave(self, name):
        member = self.members.pop(name)
        for log in member.shares.mine:
            self.release(member, log)

    def pause(self, name, seconds):
        self.members[name].paused_until = self.now + seconds

    # --- what a member does -----------------------------------------------------------------

    def later(self, member, what, *arguments, seconds=None):
        """Have the member do something after a delay, and after its pause; never when it is dead."""

        def due():
            if self.members.get(member.name) is not member:
                return
            if member.paused_until > self.now:
                self.at(member.paused_until - self.now, due)
            else:
                what(member, *arguments)

        self.at(self.rng.uniform(0, self.delay) if seconds is None else seconds, due)

    def wake(self, member):
        member.waking += 1
        turn = member.shares.turn(self.now)
        for log in turn.look:
            self.at(self.rng.uniform(0, self.delay), self.look, member, log)
        for log in turn.acquire:
            self.at(self.rng.uniform(0, self.delay), self.acquire, member, log)
        for log in turn.let_go:
            self.later(member, self.let_go, log)  # its handler is at work still
        is_at_work = turn.look or turn.acquire or turn.let_go
        seconds = 2 * self.delay if is_at_work else min(turn.next_at - self.now, 60.0)
        self.later(member, self.wake_again, member.waking, seconds=max(seconds, 0.001))

    def wake_again(self, member, waking):
        if waking == member.waking:
            self.wake(member)

    def look(self, member, log):
        cursor = self.cursors.get(log)
        if cursor is None:
            return
        fields = {"holder": cursor.holder, "left_seconds": max(0.0, cursor.until - self.now)}
        waiting = self.waits[log].of(log)
        self.later(member, lambda member: member.shares.saw(log, self.now, waiting=waiting, **fields))

    def acquire(self, member, log):
        cursor = self.cursors.get(log)
        if cursor is None:
            return
        left = cursor.until - self.now
        if cursor.holder not in ("", member.name) and left > 0:
            self.waits[log].refused(log, member.name)
            fields = {"holder": cursor.holder, "left_seconds": left}
            self.later(member, lambda member: member.shares.refused(log, self.now, **fields))
            return
        if cursor.holder != member.name:
            self.moves.append((self.now, log, member.name))
        cursor.holder, cursor.until = member.name, self.now + LEASE
        self.waits[log].acquired(log, member.name)
        self.later(member, self.took, log)

    def took(self, member, log):
        member.shares.took(log, self.now)
        self.later(member, self.renew, log, seconds=LEASE / 3)

    def renew(self, member, log):
        if log not in member.shares.mine:
            return
        cursor = self.cursors.get(log)
        if cursor is None or cursor.holder != member.name:
            member.shares.lost(log, self.now)
        else:
            cursor.until = self.now + LEASE
            self.later(member, self.renew, log, seconds=LEASE / 3)

    def let_go(self, member, log):
        self.release(member, log)
        member.shares.lost(log, self.now)

    def release(self, member, log):
        cursor = self.cursors.get(log)
        if cursor is not None and cursor.holder == member.name:
            cursor.holder, cursor.until = "", 0.0


class ModelTests(SynchronousTestCase):
    """Members that join, die, pause and see old things come to fair shares, and then nothing moves."""

    def check_settled(self, model, why, *, within=10.0):
        """Shares are within one of fair so long after the last fault, a lease aside; then nothing moves."""
        model.run(LEASE + within)
        shares = model.shares()
        self.assertEqual(sum(shares), len(model.logs), f"{why}: {shares} of {len(model.logs)}")
        self.assertLessEqual(shares[-1] - shares[0], 1, f"{why}: {shares}")
        del model.moves[:]
        model.run(60)
        self.assertEqual(model.moves, [], f"{why}: it moves without a reason")

    def test_one_by_one(self):
        """Each member that joins takes its share, and no log moves that need not."""
        model = Model(1, [f"orders-{number:02}" for number in range(16)])
        for number in range(1, 6):
            del model.moves[:]
            model.join(f"m{number}")
            model.run(10)
            shares = model.shares()
            self.assertLessEqual(shares[-1] - shares[0], 1, shares)
            self.assertEqual(len(model.moves), 16 // number, f"{number} members")

    def test_a_death(self):
        """A member's logs move when it dies, once each, and no others."""
        model = Model(2, [f"orders-{number:02}" for number in range(15)])
        for number in range(5):
            model.join(f"m{number}")
        model.run(20)
        dead = {log for log, cursor in model.cursors.items() if cursor.holder == "m3"}
        del model.moves[:]
        model.kill("m3")
        model.run(LEASE + 5)
        self.assertEqual(sorted(log for _, log, _ in model.moves), sorted(dead))
        self.check_settled(model, "a death")

    def test_take_over(self):
        """What a dead member had is taken within a second of the end of its lease."""
        model = Model(3, ["a", "b"], delay=0.05)
        for name in ("one", "two", "three"):
            model.join(name)
        model.run(20)
        holder = model.cursors["a"].holder
        until = model.cursors["a"].until
        model.kill(holder)
        model.run(until - model.now + 1)
        self.assertNotEqual(model.cursors["a"].holder, holder)

    def test_left(self):
        """What a member leaves is taken within seconds, though nobody waited for it."""
        model = Model(4, ["a", "b"], delay=0.05)
        for name in ("one", "two", "three"):
            model.join(name)
        model.run(20)
        model.leave(model.cursors["a"].holder)
        model.run(2 * ASK_SECONDS)
        self.assertEqual(model.shares(), [1, 1])

    @thorough
    def test_at_random(self):
        """Whatever happens, shares become fair, and then nothing moves."""
        for seed in range(SEEDS):
            rng = random.Random(seed)
            names = [f"orders-{number:02}" for number in range(rng.randint(1, 24))]
            model = Model(seed, names, delay=rng.choice((0.01, 0.2, 0.7)))
            numbers = itertools.count()
            for _ in range(rng.randint(1, 25)):
                alive = sorted(model.members)
                what = rng.choice(("join", "join", "kill", "leave", "pause", "leaders", "logs", "nothing"))
                if what == "join" and len(alive) < 8:
                    model.join(f"m{next(numbers)}")
                elif what in ("kill", "leave") and len(alive) > 1:
                    getattr(model, what)(rng.choice(alive))
                elif what == "pause" and alive:
                    model.pause(rng.choice(alive), rng.uniform(0, 3 * LEASE))
                elif what == "leaders":
                    model.change_leaders()
                elif what == "logs":
                    kept = [name for name in model.logs if rng.random() < 0.8] or model.logs[:1]
                    made = [f"new-{seed}-{next(numbers)}" for _ in range(rng.randint(0, 3))]
                    model.change_logs(kept + made)
                model.run(rng.choice((0.1, 1.0, 5.0)))
            if not model.members:
                model.join("last")
            model.run(3 * LEASE)  # pauses are over
            self.check_settled(model, f"seed={seed}", within=10 + 20 * model.delay)

    @thorough
    def test_some_logs_alone(self):
        """Members that want different logs come to rest, and every log that somebody wants is held."""
        for seed in range(SEEDS):
            rng = random.Random(seed)
            names = [f"orders-{number:02}" for number in range(rng.randint(2, 16))]
            model = Model(seed, names)
            model.join("all")
            for number in range(rng.randint(1, 5)):
                wanted = set(rng.sample(names, rng.randint(1, len(names))))
                model.join(f"m{number}", wanted.__contains__)
                model.run(rng.choice((0.1, 5.0)))
            model.run(40)
            self.assertEqual(sum(model.shares()), len(names), f"seed={seed}")
            del model.moves[:]
            model.run(60)
            self.assertEqual(model.moves, [], f"seed={seed}: it moves without a reason")
