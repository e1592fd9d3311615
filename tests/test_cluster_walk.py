"""Random walks of three whole nodes through crashes, cuts, slow and emptied disks, under load.

`LOGHOUSE_WALK_SEEDS` says how many walks; each has a seed of its own and can be run alone by it.
"""

import os
import random

from twisted.python.failure import Failure

from loghouse.errors import OutcomeUnknownError, RequestError
from loghouse.protocol.entry import EntryKind, decode_entries
from tests.driver.town import TownTestCase
from tests.processes import thorough

SEEDS = int(os.environ.get("LOGHOUSE_WALK_SEEDS", "4"))
STEPS = 60


class Walk:
    """Produces through any node, each batch until it is acknowledged, and lets things go wrong."""

    def __init__(self, town, seed: int) -> None:
        self.town = town
        self.rng = random.Random(seed)
        self.acknowledged: dict[int, int] = {}  # sequence to offset
        self.sequence = 0
        self.under_way = self.asked = None
        self.asked_life = (0, False)
        self.producer = 0
        self.crashes = self.wipes = 0

    def step(self) -> None:
        """Do one thing at random, then let some time pass."""
        town, rng = self.town, self.rng
        up = town.running
        chance = rng.random()
        if chance < 0.08 and len(up) == 3:
            rng.choice(up).crash()
            self.crashes += 1
        elif chance < 0.20 and len(up) < 3:
            back = rng.choice([one for one in town.residents.values() if not one.is_running])
            if self.wipes == 0 and rng.random() < 0.5:
                back.wipe()  # one disk of three may be lost; a second one only when the first is replaced
                self.wipes += 1
            back.start()
        elif chance < 0.28:
            town.heal()
            town.cut(rng.choice(up).name)
        elif chance < 0.45:
            town.heal()
        elif chance < 0.52:
            rng.choice(up).disk_queue.is_held = True
        elif chance < 0.65:
            for one in up:
                one.disk_queue.release()
        self.produce()
        town.advance(rng.choice((0.05, 0.3, 1.0, 2.5)))

    def produce(self) -> None:
        """Ask again for what has no answer yet, as a client with a producer id does; never two at once."""
        if self.under_way is not None and self.asked.life == self.asked_life:
            return
        self.asked = self.rng.choice(self.town.running)
        self.asked_life = self.asked.life
        done = self.under_way = self.asked.propose(
            producer_id=self.producer, producer_sequence=self.sequence, subject="root"
        )
        done.addBoth(self._answered, done)

    def _answered(self, outcome, done) -> None:
        if done is not self.under_way:
            return  # of a node that crashed: its client is gone
        self.under_way = None
        if isinstance(outcome, Failure):
            outcome.trap(RequestError)
        else:
            self.acknowledged[self.sequence] = outcome.base_offset
            self.sequence += 1


def readable_offset(node) -> int:
    """Where a node's readers end, 0 before it joined."""
    return node.log("").driver.readable_offset if node.log("").driver is not None else 0


class WalkTests(TownTestCase):
    """Nothing acknowledged is lost or doubled, and all nodes end with the same bytes."""

    def walk(self, seed: int) -> Walk:
        town = self.built(seed=seed)
        walk = Walk(town, seed)
        walk.producer = self.result(town, town["b"].log.register_producer("root"))
        for _ in range(STEPS):
            walk.step()
        town.recover()
        town.until(lambda: walk.under_way is None or walk.asked.life != walk.asked_life, 60)
        town.until(lambda: town.leader, 60)
        last = self.result(town, self.retried(town), 60)
        town.until(lambda: {readable_offset(one.node) for one in town.running} == {last + 1}, 60)
        self.check(town, walk)
        return walk

    def retried(self, town):
        """Append at the leader, again when it is not known what became of it."""
        return town.leader.propose().addCallbacks(
            lambda appended: appended.base_offset,
            lambda failure: failure.trap(OutcomeUnknownError) and self.retried(town),
        )

    def check(self, town, walk: Walk) -> None:
        logs = []
        for one in town.running:
            log = one.store
            high = one.driver.readable_index
            entries = log.entries(log.first_index, high + 1, 1 << 30)
            logs.append(b"".join(bytes(entry.head) + bytes(entry.payload) for entry in entries))
        shortest = min(map(len, logs))
        self.assertGreater(shortest, 0)
        self.assertEqual(len({log[:shortest] for log in logs}), 1)
        found: dict[int, int] = {}
        offset = 0
        for entry in decode_entries(town.running[0].log.seed, logs[0]):
            if entry.kind == EntryKind.RECORDS:
                self.assertEqual(entry.base_offset, offset)
                offset += entry.record_count
                if entry.producer_id:
                    self.assertNotIn(entry.producer_sequence, found, "a batch is there twice")
                    found[entry.producer_sequence] = entry.base_offset
        for sequence, acknowledged in walk.acknowledged.items():
            self.assertEqual(found.get(sequence), acknowledged, f"batch {sequence} is lost or elsewhere")

    @thorough
    def test_walks(self):
        """Walks with crashes, cuts and held disks keep every acknowledged batch, once, everywhere."""
        walks = [self.walk(seed) for seed in range(1, SEEDS + 1)]
        self.assertGreater(sum(len(walk.acknowledged) for walk in walks), 10 * SEEDS)
        self.assertGreater(sum(walk.crashes for walk in walks), 0)
        self.assertGreater(sum(walk.wipes for walk in walks), 0)
