"""What a replica decides about damage, alone: mend it, send readers elsewhere, or end for the next start."""

from types import SimpleNamespace
from unittest.mock import patch

from twisted.internet.task import Clock
from twisted.logger import LogLevel

from loghouse.errors import DamageError, DiskFailedError, UnavailableError
from loghouse.limits import INDEX_ENTRY_SIZE
from loghouse.metrics import NO_METRICS
from loghouse.protocol.configuration import Configuration, MemberRole
from loghouse.protocol.repair_messages import EntriesReply
from loghouse.raft.ready import Damage
from loghouse.replica.damage import NOTE_SECONDS_MAX, PLACES_MAX, DamageControl
from loghouse.runtime.deferring import deferred
from loghouse.runtime.scheduling import Clocks
from loghouse.storage.log import Log
from loghouse.testing.disk import disk_error
from tests.test_mending import FIRST_ID, MendingCase


class ControlTests(MendingCase):
    """What a replica decides about damage."""

    def setUp(self):
        super().setUp()
        self.clock = Clock()
        self.node_name = "n"
        self.configuration = Configuration()
        for name in ("n", "a"):
            self.configuration = self.configuration.with_member(name, name.encode() * 16, MemberRole.VOTER)
        self.driver = SimpleNamespace(raft=SimpleNamespace(commit_index=9, durable_index=7, damage=None))
        self.log_repair = SimpleNamespace(log=self.log, damage=None, note=self.note, forget=self.forget)
        self.done = []
        self.control = DamageControl(
            self,
            self.log_repair,
            files=self.disk,
            disk=self.writer,
            readers=self.readers,
            clocks=Clocks(self.clock, None, None, None, self.clock.seconds),
            choose_id=lambda: FIRST_ID,
            scrub_rate=0,
            metrics=NO_METRICS,
        )

    def note(self, log):
        self.done.append(("note", log))

    def forget(self):
        self.done.append("forget")

    def noted(self, error):
        return deferred(lambda done, _: self.control.note(error, done))

    def alone(self):
        self.configuration = Configuration().with_member("n", b"n" * 16, MemberRole.VOTER)

    def test_last_words(self):
        """The next start is told to repair the log; the error of the end names the place and the remedy."""
        noted = self.noted(DamageError("f", 5, "is wrong", remedy="x"))
        self.assertNoResult(noted)
        self.settle()
        last = self.successResultOf(noted)
        self.assertEqual((last.file, last.position, last.problem), ("f", 5, "is wrong"))
        self.assertEqual(
            str(last),
            "f: damaged at byte 5: is wrong; start this node again: it repairs that from the other members",
        )
        self.assertEqual((self.done, self.told()), ([("note", self.log)], []))

    def test_last_words_in_vain(self):
        """A disk that fails, or hangs for some seconds, does not keep the process from its end."""
        self.log_repair.note = lambda log: 1 // 0
        noted = self.noted(DamageError("f", 5, "x"))
        self.settle()
        self.assertEqual(self.successResultOf(noted).file, "f")
        [(level, text)] = self.told()
        self.assertEqual(level, LogLevel.critical)
        self.assertTrue(text.startswith("cannot note the damage: integer division"), text)
        noted = self.noted(DamageError("f", 5, "x"))
        self.clock.advance(NOTE_SECONDS_MAX - 0.1)
        self.assertNoResult(noted)
        self.clock.advance(0.1)
        self.assertEqual(self.successResultOf(noted).position, 5)

    def test_read_failed(self):
        """Who reads what is being mended is sent elsewhere; other failures stay what they are."""
        self.flip(self.position(2) + 20)
        error = DamageError(self.path, self.position(2), "x")
        told = self.control.read_failed(error)
        self.assertEqual(
            str(told),
            str(
                UnavailableError(
                    "these records are damaged on this node's disk and are being repaired from the other "
                    "members; read them from another node, or try again"
                )
            ),
        )
        self.assertEqual(self.control.entry_repair.pending, 1)
        other = KeyError("x")
        self.assertIs(self.control.read_failed(other), other)
        self.assertNotIsInstance(self.control.read_failed(disk_error(24)), OSError)
        self.assertEqual((self.failures, self.told()), ([], []))

    def test_beyond(self):
        """A member ends for damage that cannot be mended; a lone node tells each place once, to a bound."""
        error = DamageError("/other", 5, "x")
        self.assertIs(self.control.read_failed(error), error)
        self.assertEqual(self.failures, [error])
        self.assertEqual(self.told(), [(LogLevel.critical, f"damage was met: {error}")])
        self.alone()
        for place in range(2 * PLACES_MAX):
            for _ in range(2):
                self.control.damage_found(DamageError("/other", place, "x"))
        self.assertEqual(len(self.told()), PLACES_MAX - 1)
        self.assertEqual(self.failures, [error])
        self.is_ending = True
        self.control.damage_found(DamageError("/another", 1, "x"))
        self.assertEqual(self.told(), [])

    def test_alone(self):
        """A lone node mends nothing, unless its log is being repaired: then there are others."""
        self.flip(self.position(2) + 20)
        self.alone()
        error = DamageError(self.path, self.position(2), "x")
        self.control.damage_found(error)
        self.assertEqual((self.control.is_member, self.control.entry_repair.pending), (False, 0))
        self.log_repair.damage = Damage(9, 1)
        self.control.damage_found(error)
        self.assertEqual((self.control.is_member, self.control.entry_repair.pending), (True, 1))
        self.assertEqual(self.failures, [])

    def test_what_mending_is_told(self):
        """The others' names, and what is committed for certain and on the disk."""
        self.assertEqual(self.control.mend_sources(), ["a"])
        for commit, durable, known in ((9, 7, 7), (7, 9, 7)):
            self.driver.raft.commit_index, self.driver.raft.durable_index = commit, durable
            self.assertEqual(self.control.committed_index, known)
        self.driver = None
        self.assertEqual(self.control.committed_index, 0)
        self.assertTrue(self.control.send_to("a", "message"))
        self.unreachable = {"a"}
        self.assertFalse(self.control.send_to("a", "message"))
        self.assertEqual(self.take_sent(), [("a", "message")] * 2)
        error = DamageError("f", 5, "x")
        self.control.beyond_mending(error)
        self.assertEqual(self.failures, [error])
        text = f"damage cannot be repaired in place: {error}"
        self.assertEqual(self.told(), [(LogLevel.critical, text)])

    def test_index(self):
        """An index that the scrubber found wrong is made anew; a disk that fails at that ends the process."""
        entries = b"x" * INDEX_ENTRY_SIZE
        self.control.index_wrong(self.segment.base_index, entries)
        text = f"the index of segment {self.segment.base_index} did not fit its store: it is rebuilt"
        self.assertEqual(self.told(), [(LogLevel.warn, text)])
        self.settle()
        self.assertEqual(self.disk.content(self.segment.index_path), entries)
        error = DiskFailedError("broken")
        with patch.object(Log, "mend_index", side_effect=error):
            self.control.index_wrong(self.segment.base_index, entries)
            self.settle()
        self.assertEqual(self.failures, [error])

    def test_messages(self):
        """Questions are served, answers go to who asked."""
        self.driver.raft.commit_index = self.driver.raft.durable_index = self.log.last_index
        self.control.message_received("a", self.request(3, 0))
        self.settle()
        self.assertEqual([name for name, _ in self.take_sent()], ["a"])
        self.flip(self.position(2) + 20)
        self.control.damage_found(DamageError(self.path, self.position(2), "x"))
        self.control.tick()
        self.settle()
        [(name, request)] = self.take_sent()
        self.control.message_received(
            name, EntriesReply(request_id=request.request_id, frames=self.entry(2).frame)
        )
        self.settle()
        self.assert_whole()

    def test_repaired(self):
        """Once the core knows of no damage any more, the file that told of it goes, once."""
        self.control.tick()
        self.log_repair.damage = self.driver.raft.damage = Damage(9, 1)
        self.control.tick()
        self.settle()
        self.assertEqual(self.done, [])
        driver, self.driver = self.driver, None
        self.control.tick()
        self.driver = driver
        self.driver.raft.damage = None
        for _ in range(2):
            self.control.tick()
            self.settle()
        self.assertEqual((self.done, self.control.damage), (["forget"], None))
        text = "the damaged log is repaired: everything it held came from the leader"
        self.assertEqual(self.told(), [(LogLevel.info, text)])
        self.log_repair.damage = Damage(9, 1)
        self.log_repair.forget = lambda: 1 // 0
        self.control.tick()
        self.settle()
        self.assertEqual([type(error) for error in self.failures], [ZeroDivisionError])
