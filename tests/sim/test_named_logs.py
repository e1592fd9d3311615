"""Named logs on three production nodes over simulated disks, links and clocks."""

import os
from dataclasses import replace

from twisted.internet.defer import maybeDeferred
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from loghouse.catalogue.records import LogSettings
from loghouse.errors import DamageError, UnavailableError, UnknownLogError
from loghouse.limits import MIB
from loghouse.node.api import CopyTrouble, proposing
from loghouse.replica.api import Appended, Proposal
from loghouse.testing.full.cluster import FullCluster
from loghouse.testing.full.swarm import FullOptions, draw_named_options
from loghouse.testing.worlds import NAMED, named_world
from tests.processes import thorough
from tests.sim.seeds import SeedTests

RECORD = b"\x0a\x03\x0a\x01x"


class SeedsTests(SeedTests, SynchronousTestCase):
    """Named logs keep every promise, whatever happens to their nodes."""

    once_failing = "once_failing_named.txt"
    options = ("--logs",)
    seed_count = int(os.environ.get("LOGHOUSE_SIM_LOGS_SEEDS", "3"))
    fault_kinds_min = 10
    repeated_seed = "3"

    def run_seed(self, seed):
        result = FullCluster(draw_named_options(seed)).run()
        self.flushLoggedErrors()
        return result

    def test_so_many_logs(self):
        """A campaign may ask for a number of logs in every seed; all else is as the seed says."""
        world = named_world(8)
        for seed in range(1, 6):
            self.assertEqual(world.draw(seed), replace(NAMED.draw(seed), logs=8))
        self.assertEqual((world.flag, world.cluster), ("--logs 8 ", FullCluster))


class NamedLogsCase(SynchronousTestCase):
    """A cluster without faults, and what is asked of its nodes."""

    def begin(self, **options):
        self.cluster = FullCluster(FullOptions(seed=3, tick_seconds=0.1, faults=(), **options))
        self.clock = self.cluster.clock
        self.cluster.boot()
        self.until(lambda: self.leader() is not None and len(self.leader().raft.configuration.voters) == 3)

    def leader(self):
        return self.cluster.leader()

    def node(self, number):
        return self.cluster.nodes[number].node

    def until(self, is_so, seconds=30.0):
        deadline = self.clock.seconds() + seconds
        while not is_so():
            self.assertLess(self.clock.seconds(), deadline, "too late")
            self.clock.advance(0.05)

    def ask(self, number, what, seconds=30.0):
        """What a node answers."""
        answers = []
        self.cluster.nodes[number].order("ask", what, answers.append)
        self.until(lambda: answers, seconds)
        return answers[0]

    def create(self, number, name, replicas=3, on=()):
        settings = LogSettings(replicas=replicas)
        return self.ask(number, lambda node: node.log_administration.create(name, settings, on=on, by="root"))

    def append(self, number, name):
        proposal = Proposal(payload=RECORD, record_count=1)
        for _ in range(50):
            answer = self.ask(number, lambda node: proposing(node.log(name).propose, proposal))
            if not isinstance(answer, Failure | UnavailableError):
                return answer.base_offset
            self.clock.advance(0.2)
        self.fail(f"not appended: {answer}")


@thorough
class NamedLogsTests(NamedLogsCase):
    """What a cluster does with named logs."""

    def test_create(self):
        """A log that is created through one node takes records through every node, soon after."""
        self.begin()
        created = self.create(2, "orders")
        self.assertEqual((created.group, len(created.replicas)), (16, 3))
        self.assertIn(created.leader, {"n1", "n2", "n3"})
        self.assertEqual([self.append(number, "orders") for number in (1, 2, 3)], [0, 1, 2])
        for number in (1, 2, 3):
            listed = self.ask(number, lambda node: node.log_administration.list())
            self.assertEqual([one.name for one in listed], ["default", "orders"])

    def test_create_on_two(self):
        """A log is where it was wanted, under member ids of its own."""
        self.begin()
        created = self.create(2, "orders", replicas=2, on=("n2", "n3"))
        self.assertEqual(sorted(one.node for one in created.replicas), ["n2", "n3"])
        self.assertEqual(self.append(2, "orders"), 0)
        self.assertNotIn("16", self.cluster.nodes[1].machine.disk.list_directory("/data/logs"))

    def test_first_lead(self):
        """The leads of many logs are spread over the nodes, each by the first of its replicas at once."""
        self.begin()
        leaders = []
        for number in range(6):
            began = self.clock.seconds()
            leaders.append(self.create(1, f"log-{number}").leader)
            if number:
                self.assertLess(self.clock.seconds() - began, 1.0)
        self.assertEqual({leader: leaders.count(leader) for leader in leaders}, dict.fromkeys(leaders, 2))

    def test_power_loss(self):
        """After all nodes lost their power every log is back, with its records."""
        self.begin()
        for name in ("orders", "audit"):
            self.create(1, name)
            self.append(2, name)
        for host in self.cluster.nodes.values():
            host.lose_power()
        for host in self.cluster.nodes.values():
            host.restart_after(0.1)
        self.until(lambda: all(host.node is not None for host in self.cluster.nodes.values()))
        self.until(lambda: "audit" in self.node(3)._logs_by_name)
        self.assertEqual([self.append(3, name) for name in ("orders", "audit")], [1, 1])

    def test_delete(self):
        """A deleted log goes from every disk, also from that of a node that was away; its name is free."""
        self.begin()
        self.create(1, "orders")
        self.append(1, "orders")
        self.cluster.nodes[3].kill()
        self.ask(1, lambda node: node.log_administration.delete("orders", by="root"))
        again = self.create(1, "orders", replicas=2)
        self.assertEqual(again.group, 17)
        self.cluster.nodes[3].restart_after(0.0)
        self.until(lambda: self.cluster.nodes[3].node is not None)
        self.until(lambda: self.node(3).logs.keys() == {1, 2, 17})
        for number in (1, 2, 3):
            disk = self.cluster.nodes[number].machine.disk
            self.until(lambda disk=disk: "16" not in disk.list_directory("/data/logs"))
            self.assertTrue(any(name.startswith("gone-16-") for name in disk.list_directory("/data/logs")))
        unknown = self.ask(2, lambda node: node.log_administration.describe("nothing"))
        self.assertIs(getattr(unknown, "type", type(unknown)), UnknownLogError)

    def test_damage(self):
        """A damaged log is closed, cut, and gets what it lost from the others; its node goes on meanwhile."""
        self.begin()
        self.create(1, "orders")
        for _ in range(3):
            self.append(1, "orders")
        log = next(
            node.log("orders")
            for node in (self.node(1), self.node(2), self.node(3))
            if not node.log("orders").replica.leads
        )
        self.until(lambda: log.driver.readable_offset == 3)
        life = next(host for host in self.cluster.nodes.values() if host.node is log._node).life
        store = f"/data/logs/{log.group}/{1:020d}.store"
        before = log.replica
        life.enter(log.fatal, DamageError(store, 5000, "found by hand"))
        self.assertIsNone(log.replica)
        self.until(lambda: log.replica is not None and log.driver is not None)
        self.assertIsNot(log.replica, before)
        self.until(lambda: log.driver.readable_offset == 3)
        self.assertEqual(self.append(2, "orders"), 3)

    def test_replace(self):
        """A replica on a node that is lost is replaced by one on another, which learns everything."""
        self.begin(spares=0)
        self.create(1, "orders", replicas=2, on=("n1", "n2"))
        self.assertEqual(self.append(1, "orders"), 0)
        self.ask(1, lambda node: node.log_administration.replace("orders", lost="n2", new="n3", by="root"))
        log = self.node(3).log("orders")
        self.until(lambda: {one.name for one in log.configuration.members} == {"n1", "n3"})
        self.assertEqual(len(log.configuration.voters), 2)
        self.until(lambda: log.driver is not None and log.driver.readable_offset == 1)
        fetched = self.ask(3, lambda node: node.log("orders").fetch(0, MIB))
        self.assertEqual(fetched.next_offset, 1)

    def names(self, number):
        """What is in a node's folder of logs."""
        return self.cluster.nodes[number].machine.disk.list_directory("/data/logs")

    def replace_replica(self, lost, new):
        asked = self.ask(
            1, lambda node: node.log_administration.replace("orders", lost=lost, new=new, by="root")
        )
        self.assertEqual(sorted(one.node for one in asked.replicas), sorted({"n1", "n2", "n3"} - {lost}))

    def test_replaced_copies_go(self):
        """A replaced copy stays until its group is rid of it, and goes then, also after a restart."""
        self.begin(spares=0)
        self.create(1, "orders", replicas=2, on=("n1", "n2"))
        self.append(1, "orders")
        self.cluster.nodes[3].kill()
        self.replace_replica("n2", "n3")
        self.clock.advance(20.0)
        self.assertEqual(self.append(2, "orders"), 1, "it still counts for the majority")
        self.assertIn("16", self.names(2))
        (stray,) = self.ask(2, lambda node: node.log_administration.strays())
        self.assertEqual((stray.group, stray.name), (16, "orders"))
        self.assertGreater(stray.size, 0)
        self.cluster.nodes[2].kill()
        self.cluster.nodes[2].restart_after(0.5)
        self.until(lambda: self.cluster.nodes[2].node is not None)
        self.clock.advance(5.0)
        self.assertIn("16", self.names(2))
        self.cluster.nodes[3].restart_after(0.0)
        self.until(lambda: "16" not in self.names(2), 60.0)
        self.assertTrue(any(name.startswith("gone-16-") for name in self.names(2)))
        self.assertEqual(self.ask(2, lambda node: node.log_administration.strays()), [])
        self.assertEqual(self.append(2, "orders"), 2)
        fetched = self.ask(2, lambda node: node.log("orders").fetch(0, MIB))
        self.assertEqual(fetched.next_offset, 3)

    def test_replaced_and_back(self):
        """Who follows a log whose copy is given back goes on; a copy may return, with all it missed."""
        self.begin(spares=0)
        self.create(1, "orders", replicas=2, on=("n1", "n2"))
        self.append(1, "orders")
        served, follower = self.node(2).log("orders"), []
        served.wait_for(1).addBoth(follower.append)
        self.replace_replica("n2", "n3")
        self.until(lambda: "16" not in self.names(2), 60.0)
        self.append(1, "orders")
        self.until(lambda: follower)
        self.assertEqual(follower, [None])
        self.replace_replica("n3", "n2")
        self.until(lambda: "16" not in self.names(3), 60.0)
        self.assertEqual([one.id for one in served.configuration.named("n2")], [4])
        self.until(lambda: served.driver.readable_offset == 2)
        self.assertEqual(self.append(2, "orders"), 2)
        fetched = self.ask(2, lambda node: node.log("orders").reads.fetch(0, MIB))
        self.assertEqual(fetched.next_offset, 3)


@thorough
class EmptiedDiskTests(NamedLogsCase):
    """A node comes back with an empty disk, under its name."""

    def empty(self, number):
        """Put an empty disk into a machine, and start it."""
        host = self.cluster.nodes[number]
        host.kill()
        self.cluster.atlas.expect_loss(host)
        for books in (self.cluster, *self.cluster._books.values()):
            for one in books.oracle.numbers_of(host.machine.disk_uuid):
                books.oracle.view(one).excused = True
        host.replace_disk()
        host.restart_after(0.5)
        self.until(lambda: host.node is not None)

    def troubles(self, number):
        """What a node says of the copies of logs, as (log, node, trouble)."""
        found = self.ask(number, lambda node: node.log_administration.problems())
        return {(one.log, one.node, one.trouble) for one in found}

    def holds(self, number, name, count):
        """Whether a node votes in a log, and has so many of its records."""
        node = self.cluster.nodes[number].node
        log = node.logs.get(node._logs_by_name[name].group) if name in node._logs_by_name else None
        is_voter = log is not None and log.member_id in log.configuration.voters
        return is_voter and log.driver.readable_offset == count

    def test_all_copies_again(self):
        """It gets all its copies again by itself, as other members; until then each is said to be missing."""
        self.begin(spares=0)
        names = ("orders", "audit", "events")
        for name in names:
            self.create(1, name)
            self.append(1, name)
        self.clock.advance(20.0)  # all are asleep
        old = {name: self.node(3).log(name).member_id for name in names}
        self.empty(3)
        seen = set()

        def is_whole():
            for number in (1, 2):
                seen.update(self.troubles(number))
            return all(self.holds(3, name, 1) for name in names)

        self.until(is_whole, 60.0)
        self.assertLessEqual({(name, "n3", CopyTrouble.NO_COPY) for name in names}, seen)
        for name in names:
            log = self.node(3).log(name)
            self.assertGreater(log.member_id, old[name])
            self.assertEqual(len(log.configuration.members), 3)
            self.assertEqual(self.append(3, name), 1)
        self.until(lambda: not any(map(self.troubles, (1, 2, 3))))

    def test_no_vote_for_who_forgot(self):
        """An emptied voter does not stand in for itself: without it there is no majority, and no leader."""
        self.begin(voters=5, spares=0)
        self.until(lambda: len(self.leader().raft.configuration.voters) == 5)
        self.create(1, "orders", on=("n2", "n3", "n4"))
        self.append(1, "orders")
        self.cluster.nodes[4].kill()
        self.empty(3)
        self.clock.advance(30.0)
        self.assertNotIn("16", self.cluster.nodes[3].machine.disk.list_directory("/data/logs"))
        for number in (1, 2, 3):
            self.assertEqual(self.node(number).log("orders").leader_name, "")
            self.assertIn(("orders", f"n{number}", CopyTrouble.NO_LEADER), self.troubles(number))
        self.cluster.nodes[4].restart_after(0.0)
        self.until(lambda: self.holds(3, "orders", 1), 60.0)
        self.assertEqual(self.append(3, "orders"), 1)

    def test_lost(self):
        """A log whose every copy was there is lost, and said to be; the others are made whole."""
        self.begin(spares=0)
        self.create(1, "single", replicas=1, on=("n3",))
        self.create(1, "orders")
        self.append(1, "single")
        self.empty(3)
        self.until(lambda: self.holds(3, "orders", 0), 60.0)
        for number in (1, 2, 3):
            lost = {("single", f"n{number}", CopyTrouble.LOST)}
            self.until(lambda number=number, lost=lost: self.troubles(number) == lost)
        self.assertNotIn("16", self.cluster.nodes[3].machine.disk.list_directory("/data/logs"))


@thorough
class QuietLogsTests(NamedLogsCase):
    """What happens to logs that sleep when something happens to their nodes."""

    def setUp(self):
        super().setUp()
        self.begin()
        for name in ("orders", "audit", "events"):
            self.create(1, name)
            self.append(1, name)
        self.until_asleep()

    def replicas(self):
        nodes = [host.node for host in self.cluster.nodes.values() if host.is_up and host.node is not None]
        return [log for node in nodes for log in node.logs.values() if log.group != 1]

    def until_asleep(self, count=12):
        self.until(lambda: len(self.replicas()) == count and all(log.is_asleep for log in self.replicas()))

    def leading(self):
        """A node that leads a named log, and the names of those that it leads."""
        for number in self.cluster.numbers():
            names = [
                log.name for log in self.node(number).logs.values() if log.replica.leads and log.group > 2
            ]
            if names:
                return number, names
        return self.fail("nobody leads")

    def _append(self, node, name):
        return proposing(node.log(name).propose, Proposal(payload=RECORD, record_count=1))

    def append_all(self, number, names):
        """Append to each until that succeeds, at a node that may ask a leader that is gone."""
        for name in names:
            for _ in range(50):
                answer = self.ask(number, lambda node, name=name: maybeDeferred(self._append, node, name))
                if isinstance(answer, Appended):
                    break
                self.clock.advance(0.05)
            else:
                self.fail(f"not appended: {answer}")

    def test_asleep(self):
        """Quiet logs are asleep on all nodes, the catalogue too, and answer as ever."""
        self.clock.advance(60.0)
        self.assertTrue(all(log.is_asleep for log in self.replicas()))
        self.assertFalse(self.node(1).membership.is_asleep)
        self.assertTrue(all(node.is_serving for node in map(self.node, (1, 2, 3))))
        for number in (1, 2, 3):
            self.assertEqual(self.ask(number, lambda node: node.log("orders").bounds()).next_offset, 1)
        self.assertEqual([self.append(number, "orders") for number in (1, 2, 3)], [1, 2, 3])
        self.until_asleep()

    def test_leader_killed(self):
        """When the process of a leader is killed all that it led takes appends again within three seconds."""
        number, names = self.leading()
        self.cluster.nodes[number].kill()
        began = self.clock.seconds()
        self.append_all(number % 3 + 1, names)
        self.assertLess(self.clock.seconds() - began, 3.0)
        self.until_asleep(8)
        self.cluster.nodes[number].restart_after(0.0)
        self.until_asleep()
        self.append(number, names[0])

    def test_leader_without_power(self):
        """The same when nothing tells that its node is gone."""
        number, names = self.leading()
        host = self.cluster.nodes[number]
        host.pause(8.0)
        began = self.clock.seconds()
        self.append_all(number % 3 + 1, names)
        self.assertLess(self.clock.seconds() - began, 6.0)
        self.clock.advance(8.0)
        self.until_asleep()
        self.append(number, names[0])

    def test_all_killed(self):
        """After all processes were killed and began again, every log is led in less than two timeouts."""
        for host in self.cluster.nodes.values():
            host.kill()
            host.restart_after(0.1)
        self.until(lambda: all(host.node is not None for host in self.cluster.nodes.values()))
        began = self.clock.seconds()
        self.append_all(2, ("orders", "audit", "events"))
        self.assertLess(self.clock.seconds() - began, 2.0)
        self.until_asleep()
        self.assertEqual(self.append(2, "orders"), 2)

    def test_leader_closes_its_log(self):
        """A leader whose log is closed for damage is replaced, though its node lives and beats."""
        number, [name, *_] = self.leading()
        log = self.node(number).log(name)
        store = f"/data/logs/{log.group}/{1:020d}.store"
        life = self.cluster.nodes[number].life
        log._node._named.hosted.damaged[log.group] = "found by hand"  # it stays closed
        life.enter(log.fatal, DamageError(store, 5000, "found by hand"))
        self.assertIsNone(log.replica)
        self.assertEqual(self.append(number % 3 + 1, name), 1)
