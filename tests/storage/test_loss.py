"""A member's damaged log: what it held is remembered before anything is cut, and nothing is thrown away.

LOGHOUSE_CRASH_STATES is the number of power losses tried.
"""

import os
import random

from loghouse.errors import DamageError, DataDirectoryError
from loghouse.limits import ENTRY_HEADER_SIZE, STORE_HEADER_SIZE
from loghouse.protocol.configuration import Configuration, MemberRole
from loghouse.protocol.entry import crc32c
from loghouse.protocol.hard_state import HardState
from loghouse.storage.hard_state import SLOT_SIZE
from loghouse.storage.loss import NAME, UNKNOWN_INDEX, Loss, read_loss, remove_loss, write_loss
from loghouse.storage.others import last_configuration
from loghouse.storage.repair import accept_data_loss, cut_for_refetch
from loghouse.storage.start import write_start
from loghouse.storage.store import WATERMARK_POSITIONS
from loghouse.storage.traces import last_known
from loghouse.testing.crash_states import crash_states
from tests.processes import thorough
from tests.storage.test_damage import DIRECTORY, STORE
from tests.storage.test_damage import DamageCase as _DamageCase
from tests.vectors import disk as vectors

STATES_MAX = int(os.environ.get("LOGHOUSE_CRASH_STATES", "250"))
COUNT = 30


class LossTests(_DamageCase):
    """The file `damage`, and the cut before the damage."""

    def setUp(self):
        self.make(COUNT)

    @property
    def stores(self):
        return sorted(path for path in self.disk.contents() if path.endswith(".store"))

    def flip_payload(self, path, disk=None):
        """Flip a bit in the first frame's payload; returns the last good index."""
        (disk or self.disk).flip(path, 8 * (STORE_HEADER_SIZE + ENTRY_HEADER_SIZE + 3))
        return int(path.rpartition("/")[2][:20]) - 1

    def see_term(self, term):
        """Let the log's member have seen a term before it stopped."""
        log = self.boot().open_log()
        log.save_hard_state(term=term, vote=0)
        self.disk.stop_process()

    def cut(self, disk=None):
        return cut_for_refetch(disk or self.disk, DIRECTORY, cluster=self.cluster, group=1)

    def loss(self, disk=None):
        return read_loss(disk or self.disk, DIRECTORY, self.seed)

    def assertUnchanged(self):
        self.assertEqual(self.disk.contents(), self.before)

    def assertRefused(self, *words):
        self.before = self.disk.contents()
        with self.assertRaises(DamageError) as caught:
            self.cut()
        for word in ("empty", *words):
            self.assertIn(word, str(caught.exception))
        self.assertUnchanged()

    def test_cut_in_every_segment(self):
        """Wherever the damage is: the log opens before it, tells what it held, and kept every byte aside."""
        for path in self.stores:
            with_damage = self.disk.content(path)
            last_good = self.flip_payload(path)
            damaged = self.disk.content(path)
            self.assertNotEqual(with_damage, damaged)
            self.cut()
            self.assertEqual(self.loss(), Loss(COUNT, 1, is_cut=True))
            aside = {name: body for name, body in self.disk.contents().items() if "/lost+found/" in name}
            cut = next(body for name, body in aside.items() if name.endswith(f"-{STORE_HEADER_SIZE}.cut"))
            self.assertEqual(damaged[STORE_HEADER_SIZE:].rstrip(b"\0"), cut.rstrip(b"\0"))
            log = self.boot().open_log()
            self.assertEqual((log.last_index, log.hard_state.term), (last_good, 1))
            self.assertLessEqual(log.commit_index, last_good)
            self.restore()

    def test_whole_log(self):
        """Where no damage is found (a disk that failed to read once), nothing is cut."""
        write_loss(self.disk, DIRECTORY, self.seed, Loss(COUNT, 1))
        repair = self.cut()
        self.assertEqual((repair.actions, repair.last_index), ((), COUNT))
        self.assertEqual(self.loss(), Loss(COUNT, 1, is_cut=True))

    def test_what_was_known_stays_known(self):
        """Damage again before the repair is done: the higher of the two ends counts, by term first."""
        for known, wanted in (((50, 1), (50, 1)), ((5, 3), (5, 3)), ((5, 1), (COUNT, 1))):
            self.see_term(3)
            write_loss(self.disk, DIRECTORY, self.seed, Loss(*known, is_cut=True))
            self.flip_payload(self.stores[1])
            self.cut()
            self.assertEqual(self.loss(), Loss(*wanted, is_cut=True))
            self.restore()

    def test_headers_behind_the_watermark_count(self):
        """The watermark may be a sync behind: what follows it with a whole header may be acknowledged."""
        self.make(COUNT, unsynced=2)
        self.assertEqual(last_known(self.disk, DIRECTORY, self.seed, HardState(1, 1)), Loss(COUNT + 2, 1))

    def test_missing_and_broken_files(self):
        """A lost start, store or header block: cut before it, the end still known, and the log opens."""
        middle = self.stores[2]
        last_good = int(middle.rpartition("/")[2][:20]) - 1
        for name, break_it, end in (
            ("no start", lambda: self.disk.unlink(f"{DIRECTORY}/start"), COUNT),
            ("start", lambda: self.disk.flip(f"{DIRECTORY}/start", 8 * 20), COUNT),
            ("no first store", lambda: self.disk.unlink(STORE), 0),
            ("no middle store", lambda: self.disk.unlink(middle), last_good),
            ("header block", lambda: self.disk.flip(middle, 8 * 20), last_good),
        ):
            break_it()
            with self.assertRaises(DamageError):
                self.boot().open_log()
            self.disk.stop_process()
            self.cut()
            self.assertEqual(self.loss(), Loss(COUNT, 1, is_cut=True), name)
            log = self.boot().open_log()
            self.assertEqual((log.first_index, log.last_index), (1, end), name)
            self.restore()

    @thorough
    def test_power_losses(self):
        """After a power loss at any step, `damage` is there before any cut, and a second run finishes."""
        self.check_power_losses(self.flip_payload(self.stores[1]))

    def test_power_losses_without_the_newest_store(self):
        """The same when the newest store is gone: its traces are there until `damage` is."""
        self.boot().open_log().close()
        self.disk.stop_process()
        newest = self.stores[-1]
        self.disk.unlink(newest)
        self.disk.sync_directory(DIRECTORY)
        self.image = self.disk.contents()
        self.check_power_losses(int(newest[-26:-6]) - 1)

    def check_power_losses(self, last_good):
        image = self.disk.start_trace()
        self.cut()
        trace, self.disk.trace = self.disk.trace, None
        states = list(crash_states(image, trace))
        self.assertGreater(len(states), 20)
        for done, crashed in random.Random(4).sample(states, min(len(states), STATES_MAX)):
            found = self.loss(crashed)
            if found is None:
                for path in self.stores:
                    if not path.startswith(f"{DIRECTORY}/lost+found"):
                        self.assertEqual(crashed.content(path)[:512], self.image[path][:512], done)
                self.assertEqual(
                    sum(path.endswith(".store") for path in crashed.contents()), self.count, done
                )
            else:
                self.assertEqual(found.pair, (1, COUNT), done)
            self.cut(crashed)
            self.assertEqual(self.loss(crashed), Loss(COUNT, 1, is_cut=True), done)
            self.disk, kept = crashed, self.disk
            log = self.boot().open_log()
            self.assertEqual(log.last_index, last_good, done)
            self.disk = kept

    def test_power_losses_while_data_loss_is_accepted(self):
        """`recover` on a lone node, interrupted anywhere: still refused, or done; run again, it is done."""
        newest = self.stores[-1]
        self.boot().open_log().close()
        self.disk.stop_process()
        self.disk.unlink(newest)
        self.disk.sync_directory(DIRECTORY)
        last_good = int(newest[-26:-6]) - 1
        image = self.disk.start_trace()
        accept_data_loss(self.disk, DIRECTORY, cluster=self.cluster, group=1)
        trace, self.disk.trace = self.disk.trace, None
        finished = self.disk.contents()
        states = list(crash_states(image, trace))
        self.assertGreater(len(states), 10)
        for done, crashed in random.Random(4).sample(states, min(len(states), STATES_MAX)):
            self.disk = crashed
            try:
                self.assertEqual(self.boot().open_log().last_index, last_good, done)
            except DamageError:
                self.disk.stop_process()
                accept_data_loss(crashed, DIRECTORY, cluster=self.cluster, group=1)
                self.assertEqual(self.boot().open_log().last_index, last_good, done)
            else:
                # All of it was done: nothing that tells of the loss was removed before.
                aside = {path for path in finished if "/lost+found/" in path}
                self.assertLessEqual(aside, set(crashed.contents()), done)

    @property
    def count(self):
        return sum(path.endswith(".store") for path in self.image)

    def test_term_and_vote_are_needed(self):
        """Without term and vote a member would vote twice: refused, with what to do."""
        self.flip_payload(self.stores[1])
        for position in (3, SLOT_SIZE + 3):
            self.disk.flip(f"{DIRECTORY}/hard_state", 8 * position)
        self.assertRefused("term and vote")

    def test_end_that_nothing_tells(self):
        """When nothing tells how far the log went, nobody guesses: it may have been anything of its terms."""
        self.see_term(4)
        for position in WATERMARK_POSITIONS:
            self.disk.flip(self.stores[-1], 8 * (position + 9))
        self.cut()
        self.assertEqual(self.loss(), Loss(UNKNOWN_INDEX, 4, is_cut=True))
        self.assertEqual(self.boot().open_log().last_index, COUNT)

    def test_newest_store_that_is_gone(self):
        """What it held is told by `held` after a clean stop, else by nothing; the traces are kept aside."""
        newest = self.stores[-1]
        for is_closed in (False, True):
            if is_closed:
                self.boot().open_log().close()
                self.disk.stop_process()
            traces = {suffix: self.disk.content(newest[:-6] + suffix) for suffix in (".index", ".state")}
            self.disk.unlink(newest)
            self.cut()
            self.assertEqual(self.loss(), Loss(COUNT if is_closed else UNKNOWN_INDEX, 1, is_cut=True))
            self.assertEqual(self.boot().open_log().last_index, int(newest[-26:-6]) - 1)
            for suffix, content in traces.items():
                aside = newest.replace("/1/", "/1/lost+found/")[:-6] + suffix
                self.assertEqual(self.disk.content(aside), content.rstrip(b"\0"))
            self.restore()

    def test_end_behind_a_crash_in_creation(self):
        """A last store with nothing in it was never in use: the one before tells the end."""
        base = COUNT + 1
        self.disk.replace(f"{DIRECTORY}/{base:020d}.store", bytes(8192))
        self.assertEqual(last_known(self.disk, DIRECTORY, self.seed, HardState(1, 1)), Loss(COUNT, 1))
        for path in list(self.disk.contents()):
            if path.endswith((".store", ".index", ".state")):
                self.disk.unlink(path)
        with self.assertRaises(DamageError):
            last_known(self.disk, DIRECTORY, self.seed, HardState(1, 1))

    def test_newer_entries_are_no_damage(self):
        """A whole entry of a kind from the future is not cut."""
        content = bytearray(self.disk.content(STORE))
        content[STORE_HEADER_SIZE + 9] = 99
        head = content[STORE_HEADER_SIZE + 4 : STORE_HEADER_SIZE + 64]
        content[STORE_HEADER_SIZE : STORE_HEADER_SIZE + 4] = crc32c(bytes(head), self.seed).to_bytes(4, "big")
        self.disk.replace(STORE, bytes(content))
        with self.assertRaises(DataDirectoryError):
            self.cut()
        self.assertEqual(self.disk.content(STORE), bytes(content))

    def test_file(self):
        """Written, read, removed; any flipped bit makes it damage, never another pair."""
        self.assertIsNone(self.loss())
        for loss in (Loss(7, 3), Loss(2**64 - 1, 2**64 - 1, is_cut=True)):
            write_loss(self.disk, DIRECTORY, self.seed, loss)
            self.assertEqual(self.loss(), loss)
        path = f"{DIRECTORY}/{NAME}"
        for bit in range(8 * Loss.SIZE):
            self.disk.flip(path, bit)
            with self.assertRaises(DamageError):
                self.loss()
            self.disk.flip(path, bit)
        remove_loss(self.disk, DIRECTORY)
        self.assertIsNone(self.loss())

    def test_vector(self):
        """The published bytes read back, and are written so."""
        vector = next(v for v in vectors.small_file_vectors() if v["name"].startswith("damage"))
        content = bytes.fromhex(vector["hex"])
        self.assertEqual(Loss.decode(content, vectors.SEED), Loss(6, 1, is_cut=True))
        self.assertEqual(Loss(6, 1, is_cut=True).encode(vectors.SEED), content)
        self.assertIsNone(Loss.decode(content[:-1], vectors.SEED))
        newer = content[:9] + b"\2" + content[10:-4]
        self.assertIsNone(Loss.decode(newer + crc32c(newer, vectors.SEED).to_bytes(4, "big"), vectors.SEED))

    def test_last_configuration(self):
        """The newest state file that can be read tells the configuration, else `start`."""
        self.assertEqual(last_configuration(self.disk, DIRECTORY, self.seed), Configuration())
        with_one = Configuration().with_member("a", bytes(16), MemberRole.VOTER)
        directory = self.boot()
        state = directory.open_log().state_at(0)
        state.configuration = with_one
        write_start(self.disk, DIRECTORY, self.seed, state, installing=False)
        self.assertEqual(last_configuration(self.disk, DIRECTORY, self.seed), with_one)
        self.disk.unlink(f"{DIRECTORY}/start")
        self.assertEqual(last_configuration(self.disk, DIRECTORY, self.seed), Configuration())
