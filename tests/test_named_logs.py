"""Named logs on a node alone: the catalogue is founded, logs are born, served, altered, and put away."""

import os

from twisted.internet.defer import Deferred
from twisted.logger import formatEvent, globalLogPublisher

from loghouse.catalogue.records import LogSettings
from loghouse.errors import (
    DiskFailedError,
    EntryDamagedError,
    InvalidRequestError,
    ResourceExhaustedError,
    UnavailableError,
    UnknownLogError,
)
from loghouse.limits import MIB
from loghouse.node import catalogue_log
from loghouse.node.api import proposing
from loghouse.node.catalogue_log import records_of
from loghouse.protocol.entry import frame_seed
from loghouse.replica.api import Proposal
from tests.test_node import NodeTestCase

ONE = LogSettings(replicas=1)


class NamedLogsCase(NodeTestCase):
    """A node alone, with shortcuts."""

    def setUp(self):
        super().setUp()
        self.node = self.start()

    def result(self, asked, seconds=15.0):
        """What a request comes to, while time passes."""
        outcome = []
        asked.addBoth(outcome.append)
        for _ in range(round(seconds / 0.1)):
            self.settle()
            self.readers.drain()
            if outcome:
                return outcome[0]
            self.monotonic += 0.1
            self.wall += 0.1
            self.clock.advance(0.1)
        self.fail("no answer")

    def refused(self, asked, error):
        failure = self.result(asked)
        self.assertIs(failure.type, error, failure)
        return str(failure.value)

    def create(self, name="orders", settings=ONE, on=()):
        return self.node.log_administration.create(name, settings, on=on, by="root")

    def created(self, name="orders", settings=ONE):
        return self.result(self.create(name, settings))

    def append_to(self, name, payload=b"\x0a\x03\x0a\x01x"):
        log = self.node.log(name)
        return self.result(proposing(log.propose, Proposal(payload=payload, record_count=1))).base_offset

    def logs_on_disk(self):
        return sorted(os.listdir(f"{self.path}/logs"))


class CreationTests(NamedLogsCase):
    """Creating logs."""

    def test_create(self):
        """A created log takes records of its own, beside the default one."""
        self.append(self.node, 5)
        created = self.created()
        self.assertEqual((created.name, created.group, created.leader), ("orders", 16, "node-1"))
        self.assertEqual([one.node for one in created.replicas], ["node-1"])
        self.assertEqual([self.append_to("orders") for _ in range(3)], [0, 1, 2])
        self.assertEqual(self.append(self.node), 5)
        self.assertEqual(self.logs_on_disk(), ["1", "16", "2"])

    def test_nothing_before(self):
        """A cluster that has no named logs has one group, no list of groups, and describes its one log."""
        self.assertEqual(self.logs_on_disk(), ["1"])
        self.assertNotIn("groups", os.listdir(self.path))
        (only,) = self.result(self.node.log_administration.list())
        self.assertEqual((only.name, only.group, only.leader), ("default", 1, "node-1"))
        self.refused(self.node.log_administration.describe("orders"), UnknownLogError)
        self.refused(self.node.log_administration.delete("orders", by="root"), UnknownLogError)

    def test_twice(self):
        """Creating a log again with equal settings is success, with others it is refused."""
        first = self.created()
        self.assertEqual(self.created(), first)
        other = LogSettings(replicas=1, retention_bytes=5)
        self.assertIn("alter", self.refused(self.create(settings=other), InvalidRequestError))

    def test_too_few_nodes(self):
        """More replicas than nodes are refused, and nothing is made."""
        self.refused(self.create(settings=LogSettings(replicas=3)), ResourceExhaustedError)
        self.assertEqual(self.logs_on_disk(), ["1", "2"])

    def test_many(self):
        """Logs that are asked for at once are all made, each with a number of its own."""
        asked = [self.create(f"log-{number}") for number in range(5)]
        groups = [self.result(one).group for one in asked]
        self.assertEqual(sorted(groups), [16, 17, 18, 19, 20])
        names = [one.name for one in self.result(self.node.log_administration.list())]
        self.assertEqual(names, ["default", "log-0", "log-1", "log-2", "log-3", "log-4"])

    def test_audit_trail(self):
        """The catalogue's log says what was done, and who asked for it."""
        self.created()
        fetched = self.result(self.node.log("_catalog").fetch(0, MIB))
        texts = [value.decode() for _, value in records_of(self.node.log("_catalog").seed, fetched.frames)]
        self.assertIn('"kind":"node set"', texts[0])
        self.assertIn('"name":"default"', texts[1])
        self.assertIn('"by":"root","name":"orders"', texts[2])


class CheckpointTests(NamedLogsCase):
    """The catalogue's log stays short."""

    def test_checkpoint(self):
        """After some records comes a checkpoint; what was before it is trimmed: a restart does without."""
        self.patch(catalogue_log, "CHECKPOINT_RECORDS", 6)
        self.created()
        last = LogSettings(replicas=1, retention_bytes=7)
        for size in range(1, 8):
            self.result(self.node.log_administration.alter("orders", {"retention_bytes": size}, by="root"))
        catalogue = self.node.log("_catalog")

        def lowest():
            return self.result(catalogue.bounds()).lowest

        for _ in range(40):
            self.clock.advance(0.1)
            self.settle()
        self.assertGreater(lowest(), 5)
        before = self.node.catalogue_log.catalogue.checkpoint()
        self.stop(self.node)
        self.node = self.start()
        self.created(settings=last)
        self.assertEqual(self.node.catalogue_log.catalogue.checkpoint(), before)
        self.assertEqual(self.node.log("orders").catalogued.settings.retention_bytes, 7)


class LineTests(NamedLogsCase):
    """What the node writes of its logs."""

    def test_named(self):
        """Lines about a named log begin with its name, which is a field of JSON; others do not."""
        events = []
        globalLogPublisher.addObserver(events.append)
        self.addCleanup(globalLogPublisher.removeObserver, events.append)
        self.created()
        self.stop(self.node)
        self.node = self.start()
        texts = {(event.get("log"), formatEvent(event)) for event in events}
        for name in ("orders", "_catalog"):
            self.assertIn((name, f'log "{name}": leader in term 2'), texts)
            self.assertTrue(
                any(text.startswith(f'log "{name}": log open: offsets') for _, text in texts), texts
            )
        self.assertIn((None, "leader in term 3"), texts)
        namespaces = {event["log_namespace"] for event in events if event.get("log") == "orders"}
        self.assertLessEqual(
            namespaces, {"loghouse.replica.damage.LogRepair", "loghouse.replica.replica.Replica"}
        )

    def test_parts(self):
        """So do those of each part of its replica."""
        self.created()
        replica = self.node.log("orders").replica
        parts = replica.damage_control, replica.damage_control.scrubber, replica.damage_control.entry_repair
        for part in (*parts, replica.disk_room, replica.disk_room._trimmer, replica.driver):
            self.assertEqual(part.logger.log_name, "orders")
        self.assertEqual(self.node.log("").replica.logger.log_name, "")


class RestartTests(NamedLogsCase):
    """What is there after a restart."""

    def test_restart(self):
        """All logs are back after a restart, with what was in them."""
        self.created()
        self.append_to("orders")
        self.stop(self.node)
        self.node = self.start()
        described = self.result(self.node.log_administration.create("orders", ONE, on=(), by="root"))
        self.assertEqual(described.group, 16)
        self.assertEqual(self.append_to("orders"), 1)

    def test_unknown_at_first(self):
        """Right after its start a node does not deny a log that it has not heard of yet."""
        self.created()
        self.stop(self.node)
        self.node = self.make()
        self.node.startService()
        self.addCleanup(self.stop, self.node)
        for name in ("orders", "nothing"):
            self.assertRaises(UnavailableError, self.node.log, name)
        self.created()
        self.assertEqual(self.node.log("orders").group, 16)
        self.clock.advance(1)
        self.settle()
        self.assertRaises(UnknownLogError, self.node.log, "nothing")

    def test_deleted_while_away(self):
        """A log that is deleted and made again is another one, also for a node that starts later."""
        self.created()
        self.append_to("orders")
        self.result(self.node.log_administration.delete("orders", by="root"))
        self.created()
        self.stop(self.node)
        self.node = self.start()
        self.assertEqual(self.created().group, 17)
        self.assertEqual(self.append_to("orders"), 0)


class DamageTests(NamedLogsCase):
    """A log that fails is not worth the others."""

    def test_contradiction(self):
        """A log that nobody could mend stays closed; the others go on, and the process, too."""
        self.created()
        self.created("audit")
        self.node.log("orders").fatal(EntryDamagedError("contradicts what is committed"))
        self.assertEqual(self.fatal, [])
        self.clock.advance(2)
        self.settle()
        self.refused(self.node.log("orders").fetch(0, MIB), UnavailableError)
        self.assertEqual(self.append_to("audit"), 0)
        self.assertEqual(self.append(self.node), 0)

    def test_disk(self):
        """A disk that fails ends the process, whichever log met it."""
        self.created()
        self.node.log("orders").fatal(DiskFailedError("gone"))
        self.assertEqual(len(self.fatal), 1)

    def test_catalogue(self):
        """So does the catalogue: without it nothing is known."""
        self.created()
        self.node.log("_catalog").fatal(EntryDamagedError("damaged"))
        self.assertEqual(len(self.fatal), 1)


class ServedTests(NamedLogsCase):
    """Which logs a node serves, and under which name it finds them."""

    def test_serve(self):
        """A log that is served is found by group and name, and checks what is fetched from others."""
        before = self.node.logs
        log = self.node.serve("orders", 16)
        self.assertEqual((before.keys(), self.node.logs.keys()), ({1}, {1, 16}))
        self.assertIs(self.node.log("orders"), log)
        self.assertIs(self.node.logs[16], log)
        self.assertEqual(log.seed, frame_seed(self.node.cluster_uuid, 16))
        self.assertEqual((log.name, log.group), ("orders", 16))

    def test_forget(self):
        """A log that was made again under its name is found when the first one is forgotten."""
        first = self.node.serve("orders", 16)
        second = self.node.serve("orders", 17)
        waiting = first.wait_for(0)
        self.node.forget(first)
        self.failureResultOf(waiting, UnknownLogError)
        self.assertIs(self.node.log("orders"), second)
        self.assertEqual(self.node.logs.keys(), {1, 17})
        self.node.forget(second)
        self.assertRaises(UnknownLogError, self.node.log, "orders")

    def test_before_joining(self):
        """A node that has not joined has no catalogue, and its logs no seed."""
        node = self.make()
        self.assertIsNone(node.catalogue_log)
        self.assertEqual(node.serve("orders", 16).seed, 0)
        failure = self.failureResultOf(Deferred.fromCoroutine(node.catch_up_with_logs()), UnavailableError)
        text = "this node has not joined its cluster yet; try another node"
        self.assertEqual(str(failure.value), text)
        self.assertRaises(UnknownLogError, node.log, "audit")
        node.leader_known(1)

    def test_catch_up(self):
        """Who has a node know all logs waits until it does."""
        caught_up = Deferred()
        self.patch(self.node._named, "catch_up", lambda: caught_up)
        waiting = Deferred.fromCoroutine(self.node.catch_up_with_logs())
        self.assertNoResult(waiting)
        caught_up.errback(UnavailableError("no leader"))
        self.failureResultOf(waiting, UnavailableError)

    def test_not_known_yet(self):
        """A node that does not know all logs yet says so, until the leader of the default log is known."""
        named = self.node._named
        named.knows_all = False
        error = self.assertRaises(UnavailableError, self.node.log, "orders")
        self.assertEqual(str(error), "this node does not know yet whether log 'orders' exists; try again")
        asked = []
        self.patch(named, "find_out", lambda: asked.append(1))
        self.node.leader_known(16)
        self.assertEqual(asked, [])
        self.node.leader_known(1)
        self.assertEqual(asked, [1])


class EndTests(NamedLogsCase):
    """Deleting logs, and what is asked of them afterwards."""

    def test_delete(self):
        """A deleted log is unknown at once; its files are put away, and removed after a day."""
        self.created()
        kept = self.node.log("orders")
        self.append_to("orders")
        waiting = kept.wait_for(5)
        self.result(self.node.log_administration.delete("orders", by="root"))
        self.failureResultOf(waiting, UnknownLogError)
        self.assertRaises(UnknownLogError, self.node.log, "orders")
        self.refused(proposing(kept.propose, Proposal(payload=b"", record_count=1)), UnknownLogError)
        self.refused(kept.fetch(0, MIB), UnknownLogError)
        self.settle()
        gone = [name for name in self.logs_on_disk() if name.startswith("gone-16-")]
        self.assertEqual(len(gone), 1)
        self.wall += 86_500
        self.monotonic += 86_500
        self.clock.advance(1)
        self.settle()
        self.assertEqual(self.logs_on_disk(), ["1", "2"])

    def test_default_stays(self):
        """The default log cannot be deleted."""
        self.created()
        self.refused(self.node.log_administration.delete("default", by="root"), InvalidRequestError)

    def test_limits(self):
        """A log that may not grow faster refuses what is more, for a while; 0 lifts that."""
        self.created()
        alter = self.node.log_administration.alter
        self.result(alter("orders", {"append_bytes_per_second_max": 10, "record_bytes_max": 7}, by="root"))
        self.assertEqual(self.node.log("orders").record_size_max, 7)
        self.append_to("orders", bytes(25))
        proposal = Proposal(payload=b"x", record_count=1)
        text = self.refused(proposing(self.node.log("orders").propose, proposal), ResourceExhaustedError)
        self.assertIn("log orders: grows by at most 10 bytes a second", text)
        self.monotonic += 3.0
        self.assertEqual(self.append_to("orders", b"x"), 1)
        self.append_to("orders", bytes(100))
        self.result(alter("orders", {"append_bytes_per_second_max": 0}, by="root"))
        self.assertEqual(self.append_to("orders", b"x"), 3)

    def test_alter(self):
        """Altered retention comes into force in the log itself; of the default log, too."""
        self.created()
        for name in ("orders", "default"):
            asked = self.node.log_administration.alter(name, {"retention_bytes": 7}, by="root")
            self.assertEqual(self.result(asked).settings.retention_bytes, 7)
            for _ in range(22):
                self.clock.advance(0.1)
                self.settle()
            self.assertEqual(self.node.log(name).configuration.retention.size_max, 7)
