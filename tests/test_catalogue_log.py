"""Following and changing the catalogue's log, which the test plays; and who is answered at a stop."""

from twisted.internet.defer import CancelledError, Deferred, fail, succeed
from twisted.internet.task import Clock
from twisted.logger import Logger
from twisted.trial.unittest import SynchronousTestCase

from loghouse.api.v1.log_pb2 import Record
from loghouse.catalogue import catalogue as catalogue_module
from loghouse.catalogue.records import CataloguedNode, LogDeleted, NodeSet, decode_record, encode_record
from loghouse.errors import (
    EntryDamagedError,
    ExpectOffsetError,
    NotSupportedError,
    OffsetOutOfRangeError,
    OutcomeUnknownError,
    UnavailableError,
    UnknownLogError,
)
from loghouse.limits import KIB
from loghouse.node import catalogue_log
from loghouse.node.catalogue_log import CHANGES_TRIED_MAX, RETRY_SECONDS, CatalogueLog
from loghouse.protocol.batch import decode_batch, encode_batch
from loghouse.protocol.compression import compress
from loghouse.protocol.entry import Codec, EntryKind, make_entry
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
        self.back = 0  # how many records before the asked one a fetch begins
        self.asked = []  # each fetch, as (offset, size_max)
        self.proposals = []
        self.trims = []  # each as (offset, Deferred)

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
        self.asked.append((offset, size_max))
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
            for at in range(max(offset - self.back, 0), len(self.values))
        )
        return succeed(Fetched(frames=frames, next_offset=len(self.values)))

    def bounds(self):
        if self.problem is not None:
            return fail(self.problem)
        return succeed(LogBounds(lowest=self.lowest, next_offset=len(self.values)))

    def trim(self, offset):
        self.trims.append((offset, Deferred()))
        return self.trims[-1][1]

    def propose(self, proposal, appended, failed):
        self.proposals.append(proposal)
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
        self.assertIs(self.successResultOf(done), True)
        self.assertEqual(list(self.followed.catalogue.nodes), ["n1"])
        [proposal] = self.log.proposals
        self.assertEqual((proposal.record_count, proposal.expect_offset, proposal.subject), (1, 0, "node n1"))
        done, _ = self.change("n1")
        self.assertIs(self.successResultOf(done), False)
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
        error = self.failureResultOf(done, UnavailableError).value
        text = "others change the catalogue all the time; nothing was done, try again"
        self.assertEqual((str(error), len(seen), CHANGES_TRIED_MAX), (text, 16, 16))
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
        error = self.failureResultOf(done, OutcomeUnknownError).value
        text = "the catalogue may or may not have it: cut off; ask again, nothing is done twice"
        self.assertEqual(str(error), text)

    def test_applied_first(self):
        """A change is answered when it is applied here, not before; the next one waits for that."""
        self.log.problem = UnavailableError("stopping")
        self.patch(self.log, "bounds", lambda: succeed(LogBounds(lowest=0, next_offset=0)))
        first, _ = self.change("n1")
        second, seen = self.change("n2")
        self.assertEqual((len(self.log.values), seen), (1, []))
        self.assertNoResult(first)
        self.log.problem = None
        self.clock.advance(0.5)
        self.successResultOf(first)
        self.successResultOf(second)
        self.assertEqual(seen, [["n1"]])

    def test_catch_up(self):
        """Caught up is who has applied all that the log's leader has."""
        self.successResultOf(Deferred.fromCoroutine(self.followed.catch_up()))
        self.log.problem = UnavailableError("stopping")
        self.log.add(encode_record(node_set("n1")))
        for next_offset, is_there in ((0, True), (1, False)):
            bounds = LogBounds(lowest=0, next_offset=next_offset)
            self.patch(self.log, "bounds", lambda bounds=bounds: succeed(bounds))
            done = Deferred.fromCoroutine(self.followed.catch_up())
            self.assertIs(done.called, is_there)
        self.log.problem = None
        self.clock.advance(0.5)
        self.successResultOf(done)


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
        self.assertEqual(self.log.asked, [(0, 512 * KIB)])
        self.log.problem = None
        self.clock.advance(0.49)
        self.assertEqual(len(self.log.asked), 1)
        self.clock.advance(0.02)
        self.assertEqual(list(self.followed.catalogue.nodes), ["n1"])

    def test_said_once(self):
        """Why the log cannot be read is logged once, while it is the same."""
        events = []
        self.patch(CatalogueLog, "logger", Logger(observer=events.append))
        self.log.problem = EntryDamagedError("damaged")
        self.log.add(encode_record(node_set("n1")))
        self.clock.pump([0.5] * 3)
        self.log.problem = EntryDamagedError("damaged elsewhere")
        self.clock.pump([0.5] * 2)
        self.assertEqual([event["error"] for event in events], ["damaged", "damaged elsewhere"])
        self.assertEqual(events[0]["log_format"], "the catalogue cannot be read here: {error}")
        self.assertEqual(len(self.log.asked), 6)
        self.log.problem = UnavailableError("stopping")
        self.clock.advance(0.5)
        self.assertEqual(len(events), 2)

    def test_unexpected(self):
        """An error that nobody expected is logged as one, and ends the following."""
        self.log.problem = ValueError("broken")
        self.log.add(encode_record(node_set("n1")))
        self.assertEqual(len(self.flushLoggedErrors(ValueError)), 1)
        self.clock.advance(5)
        self.assertEqual(len(self.log.asked), 1)

    def test_seen_before(self):
        """A fetch may begin before the record that was asked for: what is known is passed over."""
        self.log.back = 1
        for name in ("n1", "n2", "n3"):
            self.log.add(encode_record(node_set(name)))
        self.assertEqual(list(self.followed.catalogue.nodes), ["n1", "n2", "n3"])
        self.assertEqual([offset for offset, _ in self.log.asked], [0, 1, 2])

    def test_says_nothing(self):
        """A record that does not fit is logged, and passed over."""
        events = []
        self.patch(CatalogueLog, "logger", Logger(observer=events.append))
        self.log.add(encode_record(node_set("n1")))
        self.log.add(encode_record(LogDeleted(group=99)))
        self.log.add(encode_record(node_set("n2")))
        [event] = events
        self.assertEqual((event["offset"], event["why"]), (1, "there is no group 99"))
        self.assertEqual(event["log_format"], "record {offset} of the catalogue says nothing: {why}")
        self.assertEqual(self.followed.catalogue.next_offset, 3)

    def test_out_of_range(self):
        """An end below the asked offset does not lead back; a beginning above it leads there."""
        for name in ("n1", "n2"):
            self.log.add(encode_record(node_set(name)))
        self.log.problem = OffsetOutOfRangeError(2, 1, 2)
        self.log.add(encode_record(node_set("n3")))
        self.log.problem = OffsetOutOfRangeError(2, 5, 9)
        self.clock.advance(0.49)
        self.assertEqual([offset for offset, _ in self.log.asked], [0, 1, 2])
        self.patch(self.log, "wait_for", lambda offset: succeed(None))
        self.clock.advance(0.02)
        self.clock.advance(0.5)
        self.assertEqual([offset for offset, _ in self.log.asked], [0, 1, 2, 2, 5])

    def test_later_version(self):
        """A record that this version does not know ends the following, and every change from here."""
        events = []
        self.patch(CatalogueLog, "logger", Logger(observer=events.append))
        self.log.problem = UnavailableError("stopping")
        self.log.add(encode_record(node_set("n1")))
        self.log.add(b'{"kind":"log folded"}')
        self.log.add(encode_record(node_set("n2")))
        self.log.problem = None
        self.clock.advance(0.5)
        self.assertEqual((self.followed.catalogue.next_offset, len(self.changes)), (1, 1))
        problem = self.followed.problem
        self.assertIn("'log folded'", problem)
        self.assertTrue(problem.startswith("record 1 of the catalogue: "), problem)
        self.assertTrue(problem.endswith("; upgrade this node"), problem)
        self.assertEqual([event["problem"] for event in events], [problem])
        count = len(self.log.asked)
        self.clock.advance(5)
        self.assertEqual(len(self.log.asked), count)
        done, _ = self.change("n2")
        self.assertEqual(str(self.failureResultOf(done, NotSupportedError).value), problem)

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
        error = self.failureResultOf(waiting, UnavailableError).value
        self.assertEqual(str(error), "the node is stopping; try another node")
        self.log.add(encode_record(node_set("n1")))
        self.clock.advance(5)
        self.assertEqual((self.log.asked, self.changes), ([], []))

    def test_stop_before_start(self):
        """What was not started can be stopped."""
        CatalogueLog(self.log, node_name="n1", scheduler=self.clock, changed=lambda: None).stop()

    def test_applied(self):
        """Who waits for a record is told when that one is applied, and after the node has looked at it."""
        first, second, third, gone = (self.followed.when_applied(offset) for offset in (0, 1, 1, 0))
        gone.addErrback(lambda failure: self.changes.append(failure.type))
        self.patch(self.followed, "_changed", gone.cancel)
        seen = []
        first.addCallback(lambda _: seen.append(len(self.changes)))
        self.log.add(encode_record(node_set("n1")))
        self.assertEqual((seen, self.changes), ([1], [CancelledError]))
        third.addErrback(lambda _: None)
        third.cancel()
        self.assertNoResult(second)
        self.successResultOf(self.followed.when_applied(0))
        self.assertNoResult(self.followed.when_applied(1))
        self.log.add(encode_record(node_set("n2")))
        self.assertIsNone(self.successResultOf(second))


class TidyingTests(CatalogueLogCase):
    """Checkpoints, and trims to them."""

    def setUp(self):
        super().setUp()
        self.patch(catalogue_log, "CHECKPOINT_RECORDS", 2)
        for name in ("n1", "n2"):
            self.log.add(encode_record(node_set(name)))
        self.followed.look(5)
        self.assertEqual(len(self.log.values), 2)

    def test_others(self):
        """Only the leader makes checkpoints, and not where it cannot read, or stops."""
        self.log.add(encode_record(node_set("n3")))
        for name, value in (("_is_stopped", True), ("problem", "later"), ("_is_tidying", True)):
            was = getattr(self.followed, name)
            setattr(self.followed, name, value)
            self.followed.look(5)
            setattr(self.followed, name, was)
        self.log.leader_name = "n2"
        self.followed.look(5)
        self.assertEqual(len(self.log.values), 3)
        self.log.leader_name = "n1"
        self.followed.look(5)
        self.assertEqual(len(self.log.values), 4)

    def test_checkpoint(self):
        """More records than that are followed by a checkpoint; the next look trims to it, once."""
        self.log.add(encode_record(node_set("n3")))
        self.followed.look(5)
        checkpoint = decode_record(self.log.values[3])
        self.assertEqual((checkpoint.offset, checkpoint.at, checkpoint.by), (3, 5, "node n1"))
        self.assertEqual(self.log.trims, [])
        self.followed.look(6)
        self.followed.look(6)
        [(offset, done)] = self.log.trims
        self.assertEqual(offset, 3)
        done.callback(None)
        self.followed.look(7)
        self.assertEqual((len(self.log.trims), len(self.log.values)), (1, 4))
        self.log.add(encode_record(node_set("n4")))
        self.followed.look(7)
        self.assertEqual(len(self.log.values), 5)
        self.log.add(encode_record(node_set("n5")))
        self.followed.look(7)
        self.assertEqual(len(self.log.values), 7)

    def test_again(self):
        """A trim that found no leader is tried again, silently; another error is logged."""
        self.log.add(encode_record(node_set("n3")))
        self.followed.look(5)
        for error in (UnavailableError("no leader"), ValueError("broken")):
            self.followed.look(5)
            self.log.trims[-1][1].errback(error)
        self.assertEqual(len(self.flushLoggedErrors(ValueError)), 1)
        self.followed.look(5)
        self.assertEqual([offset for offset, _ in self.log.trims], [3, 3, 3])


class RecordsTests(SynchronousTestCase):
    """The records in fetched frames."""

    def test_records(self):
        """Each record has its offset, whatever the codec; other entries have none."""
        batches = ((0, [b"a", b"b"], Codec.NONE), (2, [b"c", b"d"], Codec.ZSTD))
        frames = make_entry(SEED, index=1, term=1, kind=EntryKind.NOOP, base_offset=0, timestamp=1).frame
        for offset, values, codec in batches:
            frames += make_entry(
                SEED,
                index=2 + offset // 2,
                term=1,
                kind=EntryKind.RECORDS,
                base_offset=offset,
                record_count=2,
                timestamp=1,
                attributes=codec,
                payload=compress(encode_batch([Record(value=value) for value in values]), codec),
            ).frame
        found = list(catalogue_log.records_of(SEED, frames))
        self.assertEqual(found, [(0, b"a"), (1, b"b"), (2, b"c"), (3, b"d")])


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
