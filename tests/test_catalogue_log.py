"""Following and changing the catalogue's log, which the test plays; and who is answered at a stop."""

from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from loghouse.api.v1.log_pb2 import Record
from loghouse.catalogue import catalogue as catalogue_module
from loghouse.catalogue.records import CataloguedNode, NodeSet, encode_record
from loghouse.errors import (
    ExpectOffsetError,
    NotSupportedError,
    OffsetOutOfRangeError,
    OutcomeUnknownError,
    UnavailableError,
    UnknownLogError,
)
from loghouse.node.catalogue_log import CHANGES_TRIED_MAX, RETRY_SECONDS, CatalogueLog
from loghouse.protocol.batch import decode_batch, encode_batch
from loghouse.protocol.entry import EntryKind, make_entry
from loghouse.replica.api import Appended, Fetched, LogBounds
from tests.test_named_logs import NamedLogsCase

SEED = 77


def node_set(name):
    return NodeSet(node=CataloguedNode(name=name, disk_uuid=name.encode().ljust(16, b"-")))


class PlayedLog:
    """A log in memory: what is appended can be read at once."""

    name, group, seed, leader_name = "_catalog", 2, SEED, "n1"

    def __init__(self):
        self.values = []
        self.lowest = 0
        self.waiting = []
        self.overtaking = 0  # how many appends others are quicker with
        self.problem = None  # what the next requests are refused with

    def add(self, value):
        self.values.append(value)
        waiting, self.waiting = self.waiting, []
        for done in waiting:
            done.callback(None)

    def wait_for(self, offset):
        if offset < len(self.values):
            return succeed(None)
        done = Deferred()
        self.waiting.append(done)
        return done

    def fetch(self, offset, size_max):
        if self.problem is not None:
            return fail(self.problem)
        if offset < self.lowest:
            return fail(OffsetOutOfRangeError(offset, self.lowest, len(self.values)))
        frames = b"".join(
            make_entry(
                SEED,
                index=at + 1,
                term=1,
                kind=EntryKind.RECORDS,
                base_offset=at,
                record_count=1,
                timestamp=1,
                payload=encode_batch([Record(value=self.values[at])]),
            ).frame
            for at in range(offset, len(self.values))
        )
        return succeed(Fetched(frames=frames, next_offset=len(self.values)))

    def bounds(self):
        if self.problem is not None:
            return fail(self.problem)
        return succeed(LogBounds(lowest=self.lowest, next_offset=len(self.values)))

    def propose(self, proposal, appended, failed):
        if self.overtaking:
            self.overtaking -= 1
            self.add(encode_record(node_set(f"other-{self.overtaking}")))
        if proposal.expect_offset not in (None, len(self.values)):
            failed(ExpectOffsetError(proposal.expect_offset, len(self.values)))
            return
        offset = len(self.values)
        self.add(decode_batch(proposal.payload, 0).records[0].value)
        appended(Appended(base_offset=offset, record_count=1, timestamp=1, index=offset + 1, term=1))


class CatalogueLogCase(SynchronousTestCase):
    """The catalogue on node n1, over a log that is played."""

    def setUp(self):
        self.log, self.clock, self.changes = PlayedLog(), Clock(), []
        self.followed = CatalogueLog(
            self.log, node_name="n1", scheduler=self.clock, changed=lambda: self.changes.append(1)
        )
        self.followed.start()
        self.addCleanup(self.followed.stop)

    def change(self, name):
        """Ask for a node to be registered, unless it is; returns the Deferred and what was decided with."""
        seen = []

        def decide(catalogue):
            seen.append(sorted(catalogue.nodes))
            return None if name in catalogue.nodes else node_set(name)

        return Deferred.fromCoroutine(self.followed.change(decide)), seen


class ChangeTests(CatalogueLogCase):
    """Compare and append."""

    def test_change(self):
        """A change is in, and known, when it is answered; what is there already is not done again."""
        done, _ = self.change("n1")
        self.assertTrue(self.successResultOf(done))
        self.assertEqual(list(self.followed.catalogue.nodes), ["n1"])
        done, _ = self.change("n1")
        self.assertFalse(self.successResultOf(done))
        self.assertEqual(len(self.log.values), 1)

    def test_overtaken(self):
        """When another record was first, the change is decided again with that in view."""
        self.log.overtaking = 2
        done, seen = self.change("n1")
        self.assertTrue(self.successResultOf(done))
        self.assertEqual(seen, [[], ["other-1"], ["other-0", "other-1"]])
        self.assertEqual(len(self.log.values), 3)

    def test_always_overtaken(self):
        """Who is overtaken all the time is told so, and nothing was done."""
        self.log.overtaking = CHANGES_TRIED_MAX
        done, seen = self.change("n1")
        self.failureResultOf(done, UnavailableError)
        self.assertEqual(len(seen), CHANGES_TRIED_MAX)
        self.assertNotIn("n1", self.followed.catalogue.nodes)

    def test_one_at_a_time(self):
        """Changes of one node wait for each other; one that fails does not keep the next."""
        self.log.problem = UnavailableError("no leader")
        first, _ = self.change("n1")
        self.failureResultOf(first, UnavailableError)
        self.log.problem = None
        second, _ = self.change("n1")
        self.assertTrue(self.successResultOf(second))

    def test_unknown_outcome(self):
        """An append that may be in says that asking again does no harm."""
        self.patch(
            self.log, "propose", lambda proposal, appended, failed: failed(OutcomeUnknownError("cut off"))
        )
        done, _ = self.change("n1")
        self.assertIn("nothing is done twice", str(self.failureResultOf(done, OutcomeUnknownError).value))


class FollowTests(CatalogueLogCase):
    """Reading the log as it grows."""

    def test_grows(self):
        """Each record is applied as soon as it is there, and told."""
        for name in ("n1", "n2"):
            self.log.add(encode_record(node_set(name)))
        self.assertEqual(list(self.followed.catalogue.nodes), ["n1", "n2"])
        self.assertEqual(len(self.changes), 2)

    def test_error(self):
        """What cannot be read now is read a moment later."""
        self.log.problem = UnavailableError("stopping")
        self.log.add(encode_record(node_set("n1")))
        self.assertEqual(self.changes, [])
        self.log.problem = None
        self.clock.advance(RETRY_SECONDS)
        self.assertEqual(list(self.followed.catalogue.nodes), ["n1"])

    def test_later_version(self):
        """A record that this version does not know ends the following, and every change from here."""
        self.log.add(b'{"kind":"log folded"}')
        self.log.add(encode_record(node_set("n1")))
        self.assertEqual(self.followed.catalogue.next_offset, 0)
        self.assertIn("'log folded'", self.followed.problem)
        done, _ = self.change("n2")
        self.failureResultOf(done, NotSupportedError)

    def test_trimmed(self):
        """Where the beginning is trimmed it goes on at the checkpoint."""
        self.followed.stop()
        for name in ("n1", "n2"):
            self.log.add(encode_record(node_set(name)))
        whole = CatalogueLog(self.log, node_name="n1", scheduler=self.clock, changed=lambda: None)
        whole.start()
        self.addCleanup(whole.stop)
        self.log.add(encode_record(whole.catalogue.checkpoint()))
        self.log.lowest = 2
        late = CatalogueLog(self.log, node_name="n1", scheduler=self.clock, changed=lambda: None)
        late.start()
        self.addCleanup(late.stop)
        self.clock.advance(RETRY_SECONDS)
        self.assertEqual(list(late.catalogue.nodes), ["n1", "n2"])

    def test_stop(self):
        """Who waits for a record when the node stops is told."""
        waiting = self.followed.when_applied(3)
        given_up = self.followed.when_applied(3)
        given_up.addErrback(lambda _: None)
        given_up.cancel()
        self.followed.stop()
        self.failureResultOf(waiting, UnavailableError)


class StrayTests(NamedLogsCase):
    """What nobody knows is kept."""

    def test_kept(self):
        """A log that is gone from the catalogue without a tombstone is not served, and stays on the disk."""
        self.created()
        self.patch(catalogue_module, "TOMBSTONES_MAX", 0)
        self.result(self.node.log_administration.delete("orders", by="root"))
        for _ in range(12):
            self.clock.advance(0.1)
            self.settle()
        self.assertRaises(UnknownLogError, self.node.log, "orders")
        self.assertEqual(self.logs_on_disk(), ["1", "16", "2"])


class StopTests(NamedLogsCase):
    """Who asks while the node stops."""

    def test_answered(self):
        """A request for a log that is under way is answered; so is who waits for changes."""
        self.patch(self.node.membership, "administer", lambda order: Deferred())
        asked, watching = self.create(), self.node.log_administration.changed(-1)
        gone = self.node.log_administration.changed(5)
        gone.addErrback(lambda _: None)
        gone.cancel()
        told = []
        for one in (asked, watching):
            one.addErrback(lambda failure: told.append(failure.type))
        self.assertEqual(told, [])
        self.stop(self.node)
        self.assertEqual(told, [OutcomeUnknownError, UnavailableError])

    def test_too_late(self):
        """So it is after a while, when nobody answers this node."""
        self.patch(self.node.membership, "administer", lambda order: Deferred())
        asked = self.create()
        self.clock.advance(15)
        self.assertIn("nothing is done twice", str(self.failureResultOf(asked, OutcomeUnknownError).value))

    def test_changes(self):
        """Who waits for a change is told of the first one that comes."""
        watching = self.node.log_administration.changed(-1)
        self.assertNoResult(watching)
        self.created()
        self.assertGreaterEqual(self.successResultOf(watching), 0)
        self.assertEqual(self.successResultOf(self.node.log_administration.changed(0)), 2)
