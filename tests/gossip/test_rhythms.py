"""When a member of gossip speaks, tries, writes and forgets, to the tick."""

from dataclasses import replace
from itertools import pairwise

from twisted.trial.unittest import SynchronousTestCase

from loghouse.gossip.config import LAN
from loghouse.limits import INCARNATION_RESERVE
from loghouse.protocol.gossip_messages import Liveness, PushPull, SwimBroadcast
from tests.gossip.bench import Bench, alive, left, suspect

ALIVE, LEFT = Liveness.ALIVE, Liveness.LEFT


class RhythmTests(SynchronousTestCase):
    """When a member speaks by itself."""

    CONFIG = replace(LAN, gossip_ticks=3, push_pull_ticks=3)

    def first(self, bench, kind):
        """Return after how many ticks the first message of a kind goes out."""
        for ticks in range(1, 50):
            bench.tick()
            if bench.sent_to("a", kind):
                return ticks
        raise AssertionError(kind)

    def test_first(self):
        """Members begin by chance within one interval, each tick of it as likely."""
        for kind in (SwimBroadcast, PushPull):
            found = set()
            for seed in range(40):
                bench = Bench(config=self.CONFIG, seed=seed).meet("a")
                bench.forget_sent()
                found.add(self.first(bench, kind))
            self.assertEqual(found, {1, 2, 3}, kind)

    def test_after_silence(self):
        """What is new after a time without news is told in the next tick, whichever that is."""
        for ticks in range(100, 104):
            bench = Bench(config=self.CONFIG).meet("a")
            bench.silent = set()
            bench.tick(ticks)
            bench.forget_sent()
            bench.meet("b")
            bench.silent = None
            bench.tick()
            told = [message for name in "ab" for message in bench.sent_to(name, SwimBroadcast)]
            self.assertTrue(told, ticks)

    def test_leaving_is_shown(self):
        """A member that leaves says so of itself."""
        bench = Bench().meet("a")
        self.assertIs(bench.liveness("me"), ALIVE)
        bench.swim.leave()
        self.assertIs(bench.liveness("me"), LEFT)

    def test_answers_write_nothing(self):
        """An answer at the only address that is known is no reason to write the book."""
        bench = Bench().meet("a", "b")
        bench.silent = set()
        bench.tick(100)
        count = len(bench.books)
        bench.tick(100)
        self.assertEqual((len(bench.books), bench.swim.last_book()), (count, None))

    def ticks_of(self, bench, count, is_sent):
        """Return in which of the next ticks something is sent."""
        found = []
        for tick in range(1, count + 1):
            bench.forget_sent()
            bench.tick()
            if is_sent():
                found.append(tick)
        return found

    def test_whole_views(self):
        """Views are exchanged at a steady pace, beyond 32 members at half of it, beyond 64 at a third."""
        for others, ticks in ((1, 3), (31, 3), (32, 6), (63, 6), (64, 9)):
            bench = Bench(config=self.CONFIG).meet(*(f"n{number}" for number in range(others)))
            bench.silent = set()
            found = self.ticks_of(
                bench, 40, lambda bench=bench: any(isinstance(one.message, PushPull) for one in bench.sent)
            )
            self.assertEqual({later - earlier for earlier, later in pairwise(found)}, {ticks}, others)

    def test_reaching_out(self):
        """Seeds are tried at once, then more and more rarely."""
        bench = Bench(seeds=("seed.example:1",))
        found = self.ticks_of(bench, 360, lambda: bench.sent_to("seed.example:1", PushPull))
        self.assertEqual(found, [1, 11, 31, 71, 151, 251, 351])

    def test_news_for_who_is_gone(self):
        """Who is gone is told the news for a while, so that it can object."""
        bench = Bench(config=replace(LAN, gossip_ticks=1, gossip_to_dead_ticks=20)).meet("a", "b")
        bench.silent = {"b"}
        bench.tick(10)
        bench.hear("b", left("b", 1))
        bench.silent = set()
        found = []
        for tick in range(1, 31):
            bench.forget_sent()
            bench.hear("a", alive("a", 1 + tick))
            bench.tick()
            if bench.sent_to("b", SwimBroadcast):
                found.append(tick)
        self.assertEqual(found, list(range(1, 20)))

    def test_forgotten(self):
        """Who is gone for so long is no longer shown; who came back meanwhile is."""
        bench = Bench(config=replace(LAN, gossip_to_dead_ticks=20, dead_reclaim_ticks=25)).meet("a", "b", "c")
        bench.silent = set()
        bench.tick(5)
        bench.hear("b", left("b", 1))
        bench.hear("c", left("c", 1))
        bench.hear("c", alive("c", 2))
        bench.tick(24)
        self.assertEqual([bench.liveness(name) for name in "abc"], [ALIVE, LEFT, ALIVE])
        bench.tick()
        self.assertEqual([bench.liveness(name) for name in "abc"], [ALIVE, None, ALIVE])

    def test_reserve(self):
        """Another book is asked for when half of the incarnations that the last one covers are used."""
        bench = Bench().meet("a")
        bench.silent = set()
        bench.tick(100)
        self.assertEqual(bench.swim.incarnation, 1)
        [*_, last] = bench.books
        count = len(bench.books)
        half = last.incarnation - INCARNATION_RESERVE // 2
        bench.hear("a", suspect("me", half - 1))
        bench.tick()
        self.assertEqual((bench.swim.incarnation, len(bench.books)), (half, count))
        bench.hear("a", suspect("me", half))
        bench.tick()
        self.assertEqual((bench.swim.incarnation, len(bench.books)), (half + 1, count + 1))
        self.assertEqual(bench.books[-1].incarnation, half + 1 + INCARNATION_RESERVE)
