"""Random walks of three whole nodes whose disks damage sealed segments, through crashes and cuts.

`LOGHOUSE_MENDING_SEEDS` says how many walks; each has a seed of its own and can be run alone by it.
"""

import os
import random

from twisted.python.failure import Failure

from loghouse.errors import RequestError
from loghouse.limits import KIB
from loghouse.protocol.entry import decode_entries
from tests.test_entry_repair import RECORD_SIZE, EntryRepairTestCase, committed_of, repair_of

SEEDS = int(os.environ.get("LOGHOUSE_MENDING_SEEDS", "2"))
STEPS = 50


class Rot:
    """Damages what is committed and sealed, each entry on one node at most; reads, and compares."""

    def __init__(self, case, town, seed: int) -> None:
        self.case = case
        self.town = town
        self.rng = random.Random(seed)
        self.frames: dict[int, bytes] = {}  # by index, as first read
        self.flips = self.reads = self.refused = self.crashes = 0

    def step(self) -> None:
        """Do one thing at random, then let some time pass."""
        town, rng = self.town, self.rng
        up = town.running
        chance = rng.random()
        if chance < 0.5:
            self.damage(rng.choice(up))
        elif chance < 0.6 and len(up) == 3:
            rng.choice(up).crash()
            self.crashes += 1
        elif chance < 0.75 and len(up) < 3:
            next(one for one in town.residents.values() if not one.is_running).start()
        elif chance < 0.82:
            town.heal()
            town.cut(rng.choice(up).name)
        elif chance < 0.92:
            town.heal()
        else:
            rng.choice(up).disk_queue.is_held = True
        if rng.random() < 0.3:
            for one in up:
                one.disk_queue.release()
        rng.choice(town.running).propose(RECORD_SIZE).addErrback(lambda failure: failure.trap(RequestError))
        self.read(rng.choice(town.running))
        town.advance(rng.choice((0.05, 0.3, 1.0, 2.0)))

    def damage(self, resident) -> None:
        """Flip bits in entries that are this node's to lose."""
        rng, log = self.rng, resident.store
        lot = "abc".index(resident.name)
        committed = committed_of(resident)
        sealed = [one for one in log.view.segments[:-1] if one.last_index <= committed] if log else []
        if not sealed:
            return
        segment = rng.choice(sealed)
        for _ in range(rng.choice((1, 1, 4))):
            number = rng.randrange(segment.end.count)
            header = segment.known_header(number)
            if header is not None and header.index % 3 == lot:
                bit = rng.randrange(8 * header.position, 8 * (header.position + header.length))
                resident.disk.flip(segment.path, bit)
                self.flips += 1

    def read(self, resident) -> None:
        """Read somewhere: what comes must be what was read there before."""
        replica = resident.driver
        if replica is None or not replica.readable_offset:
            return
        self.reads += 1
        offset = self.rng.randrange(replica.lowest_offset, replica.readable_offset)
        resident.log.fetch(offset, KIB).addCallbacks(self._compare, self._refused)

    def _compare(self, fetched) -> None:
        for entry in decode_entries(self.town.seed_of_log, fetched.frames):
            self.case.assertEqual(self.frames.setdefault(entry.index, entry.frame), entry.frame)

    def _refused(self, failure: Failure) -> None:
        failure.trap(RequestError)
        self.refused += 1


class RotTests(EntryRepairTestCase):
    """However disks rot, what is served is right, and in the end every disk has all of it."""

    def walk(self, seed: int) -> Rot:
        town = self.filled(seed=seed, scrub_rate=1 << 20)
        town.seed_of_log = town.leader.log.seed
        rot = Rot(self, town, seed)
        for _ in range(STEPS):
            rot.step()
        town.recover()
        town.until(lambda: town.leader, 60)
        town.until(lambda: self.is_settled(town), 300)
        whole = [self.sealed_bytes(one) for one in town.running]
        self.assertEqual(len({tuple(sorted(found)) for found in whole}), 1)
        self.assertEqual(*whole[:2])
        self.assertEqual(*whole[1:])
        return rot

    def is_settled(self, town) -> bool:
        """Whether everybody has everything, and nobody is damaged or mending."""
        last = town.leader.store.last_index if town.leader else -1
        return len(town.running) == 3 and all(
            committed_of(one) == last
            and one.driver.raft.damage is None
            and not repair_of(one).pending
            and not self.is_damaged(one)
            for one in town.running
        )

    def is_damaged(self, resident) -> bool:
        """Look at every frame of the sealed segments behind the node's back."""
        scans = [(one, one.scan_headers(one.end.count)) for one in self.sealed(resident)]
        if any(scan.count < one.end.count for one, scan in scans):
            return True
        for one in self.sealed(resident):
            content = resident.disk.content(one.path)[4096 : one.end.position]
            try:
                list(decode_entries(one.seed, content))
            except Exception:
                return True
        return False

    def test_walks(self):
        """Nothing damaged is ever served, nobody ends over it, and it is all mended in the end."""
        rots = [self.walk(seed) for seed in range(1, SEEDS + 1)]
        self.assertGreater(sum(rot.flips for rot in rots), 5 * SEEDS)
        self.assertGreater(sum(rot.reads for rot in rots), 10 * SEEDS)
        self.assertGreater(sum(rot.crashes for rot in rots), 0)
