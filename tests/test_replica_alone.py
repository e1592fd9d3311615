"""A replica by itself, over a real log, with a node that a test plays: what it begins, refuses and tells."""

import contextlib
import dataclasses
import errno
import random
from collections import deque
from types import SimpleNamespace
from unittest.mock import patch

from twisted.internet.task import Clock
from twisted.logger import globalLogPublisher
from twisted.trial.unittest import SynchronousTestCase

from loghouse.errors import (
    DamageError,
    DiskFullError,
    IdentityError,
    MembershipError,
    NotLeaderError,
    OutcomeUnknownError,
    UnavailableError,
)
from loghouse.metrics import NO_METRICS
from loghouse.protocol.configuration import Configuration, MemberRole
from loghouse.protocol.raft_messages import AppendEntries, Envelope, Heartbeat
from loghouse.raft.config import LAN
from loghouse.raft.membership import bootstrap_entry
from loghouse.raft.ready import Damage, Role, SoftState
from loghouse.replica import damage as damage_module
from loghouse.replica import replica as replica_module
from loghouse.replica.api import Proposal
from loghouse.replica.budgets import Budgets
from loghouse.replica.damage import LogRepair
from loghouse.replica.replica import HEARD_TICKS, Replica, ReplicaOptions
from loghouse.runtime.scheduling import Clocks
from loghouse.storage.directory import DataDirectory, DiskIdentity
from loghouse.testing.disk import SimDisk
from tests.driver.queue import ManualQueue
from tests.storage.entries import CLUSTER, Writer

DISK_UUID = b"n" * 16


class ReplicaCase(SynchronousTestCase):
    """A replica named "n", whose log says who its members are. The case is the node."""

    voters = ("n",)
    own_disk = DISK_UUID

    def setUp(self):
        self.is_ending = False
        self.sent, self.messages, self.roles, self.readable, self.failures = [], [], [], [], []
        self.events = []
        globalLogPublisher.addObserver(self.note_event)
        self.addCleanup(globalLogPublisher.removeObserver, self.note_event)
        self.files = SimDisk()
        self.directory = DataDirectory.lock(self.files, "/data", segment_size=1 << 16, reserve_size=0)
        self.directory.create(
            DiskIdentity(cluster_uuid=CLUSTER, disk_uuid=DISK_UUID, cluster_name="c", node_name="n"),
            begin=self.begin,
        )
        opened = LogRepair(self.files, self.directory, 1)
        self.log = opened.open_log()
        self.clock = Clock()
        self.soons = deque()
        self.disk = ManualQueue()
        self.replica = Replica(
            self,
            opened,
            options=ReplicaOptions(
                node_name="n",
                disk_uuid=self.own_disk,
                data_dir="/data",
                raft=LAN,
                scrub_rate=0,
                metrics=NO_METRICS,
            ),
            files=self.files,
            clocks=Clocks(
                self.clock, self.soons.append, self.clock.callLater, lambda: 1000.0, self.clock.seconds
            ),
            rng=random.Random(1),
            disk=self.disk,
            readers=ManualQueue(),
        )

    def begin(self, log):
        configuration = Configuration()
        for name in self.voters:
            configuration = configuration.with_member(name, name.encode() * 16, MemberRole.VOTER)
        log.save_hard_state(term=1, vote=0)
        log.append([bootstrap_entry(log.seed, configuration, 0)])
        log.sync(1)

    def note_event(self, event):
        if "log_format" in event and event["log_namespace"].startswith("loghouse.replica"):
            self.events.append(event["log_format"].format(**event))

    def told(self):
        events, self.events = self.events, []
        return events

    def settle(self):
        """Let the reactor's turns and the disk do what they have to."""
        while self.soons or self.disk.waiting:
            if self.soons:
                self.soons.popleft()()
            else:
                self.disk.step()

    def started(self):
        self.replica.start()
        self.settle()
        return self.replica

    # --- the node ---------------------------------------------------------------------------

    def send_raft(self, envelope):
        self.sent.append(envelope)

    def send(self, name, message):
        self.messages.append((name, message))
        return name != "gone"

    def role_changed(self, state):
        self.roles.append(state)

    def readable_to(self, next_offset):
        self.readable.append(next_offset)

    def fatal(self, error):
        self.failures.append(error)

    # --- appends ----------------------------------------------------------------------------

    def propose(self, size=10):
        """Append a record; return what was told of it, by and by."""
        outcomes = []
        self.replica.propose(Proposal(payload=bytes(size), record_count=1), outcomes.append, outcomes.append)
        return outcomes

    def heartbeat(self, target=1, *, term=5, source=2):
        return Envelope(group=1, source=source, target=target, message=Heartbeat(term=term, commit_index=0))


class LoneTests(ReplicaCase):
    """A lone voter."""

    def test_before_the_start(self):
        """Until it runs nothing is appended, and it says so; what its log says is known."""
        self.assertIsNone(self.replica.driver)
        [error] = self.propose()
        self.assertIsInstance(error, UnavailableError)
        self.assertIn("has not joined its cluster yet; nothing was appended", str(error))
        error = self.assertRaises(UnavailableError, self.replica.member)
        self.assertIn("has not joined its cluster yet; try another node", str(error))
        self.assertEqual([one.name for one in self.replica.configuration.members], ["n"])
        self.assertIs(self.replica.leads, False)
        done = []
        self.replica.when_idle(lambda: done.append(1))
        self.assertEqual(done, [1])
        self.replica.tick()
        self.replica.stop()

    def test_leads(self):
        """It leads at once, tells its node of role and offsets, and appends."""
        self.assertIs(self.replica.has_leader, False)
        self.started()
        self.assertIs(self.replica.leads, True)
        self.assertIs(self.replica.has_leader, True)
        self.assertEqual((self.roles[-1].role, self.roles[-1].leader), (Role.LEADER, 1))
        self.assertIn(f"leader in term {self.roles[-1].term}", self.told())
        outcomes = self.propose()
        self.assertEqual(outcomes, [])
        self.settle()
        self.assertEqual([one.base_offset for one in outcomes], [0])
        self.assertEqual((self.readable[0], self.readable[-1]), (0, 1))
        self.assertIs(self.replica.member(), self.replica.driver)
        self.assertEqual(self.replica.configuration, self.replica.driver.raft.configuration)

    def test_leader_lost(self):
        """Whether a leader is known follows each change of role."""
        self.started()
        self.replica.role_changed(SoftState(Role.FOLLOWER, 0, 7))
        self.assertIs(self.replica.has_leader, False)
        self.replica.role_changed(SoftState(Role.FOLLOWER, 2, 7))
        self.assertIs(self.replica.has_leader, True)
        self.assertEqual(self.roles[-1], SoftState(Role.FOLLOWER, 2, 7))
        self.assertEqual(self.told()[-1], "follower in term 7")

    def test_made(self):
        """The core is made of what the log says, and the driver of the node's time and threads."""
        self.log.append([Writer(self.log.state, self.log.seed).records()])
        damage = Damage(9, 9)
        replica = self.replica
        for members, known, commit_index in (
            (("n",), None, 2),
            (("n",), damage, 1),
            (("n", "o"), None, 1),
        ):
            configuration = Configuration()
            for name in members:
                configuration = configuration.with_member(name, name.encode() * 16, MemberRole.VOTER)
            self.log._state.configuration = configuration
            replica.damage_control._log_repair.damage = known
            with (
                patch.object(replica_module, "Raft") as raft,
                patch.object(replica_module, "RaftDriver") as driver,
                patch.object(replica_module, "ReadAhead") as read_ahead,
                patch.object(replica_module, "WatchedWrites") as watched,
            ):
                replica._make_driver(1)
            read_ahead.assert_called_once_with(
                self.log,
                replica.readers,
                replica.damage_control.read_failed,
                scheduler=self.clock,
                pace=replica._budgets.catch_up,
            )
            watched.assert_called_once_with(self.disk, replica._budgets.cold_reads, self.clock.seconds)
            raft.assert_called_once_with(
                LAN,
                id=1,
                group=1,
                seed=self.log.seed,
                reader=read_ahead.return_value,
                hard_state=self.log.hard_state,
                rng=replica._rng,
                commit_index=commit_index,
                damage=known,
                now=1_000_000_000,
                metrics=NO_METRICS,
                caches=replica._budgets.caches,
            )
            driver.assert_called_once_with(
                raft.return_value,
                self.log,
                disk=watched.return_value,
                soon=replica._clocks.soon,
                later=replica._clocks.later,
                wall=replica._clocks.wall,
                owner=replica,
                read_ahead=read_ahead.return_value,
                tally=None,
            )

    def test_parts(self):
        """Its parts are given the node's files, threads, time and chance."""
        opened = SimpleNamespace(log=self.log, damage=None)
        clocks, rng = self.replica._clocks, random.Random(5)
        given = {"files": self.files, "clocks": clocks, "disk": self.disk, "readers": self.replica.readers}
        options = dataclasses.replace(self.replica.options, scrub_rate=77)
        with (
            patch.object(replica_module, "DamageControl") as control,
            patch.object(replica_module, "DiskRoom") as room,
        ):
            budgets = Budgets.for_node(LAN)
            made = Replica(self, opened, options=options, rng=rng, budgets=budgets, **given)
        choose_id = control.call_args.kwargs["choose_id"]
        control.assert_called_once_with(
            made,
            opened,
            **given,
            choose_id=choose_id,
            scrub_rate=77,
            metrics=NO_METRICS,
            scrub_pace=budgets.scrubbing,
        )
        self.assertEqual(choose_id(), random.Random(5).getrandbits(64))
        room.assert_called_once_with(
            made, self.log, disk=self.disk, clocks=clocks, data_dir="/data", log_name=""
        )
        self.assertEqual((made.is_writable, made.has_leader, made.driver), (True, False, None))
        with (
            patch.object(damage_module, "EntryRepair") as repair,
            patch.object(damage_module, "Scrubber") as scrubber,
        ):
            made = damage_module.DamageControl(
                self.replica,
                opened,
                **given,
                choose_id=choose_id,
                scrub_rate=77,
                metrics=NO_METRICS,
                scrub_pace=budgets.scrubbing,
            )
        repair.assert_called_once_with(
            self.files,
            self.log,
            made,
            readers=self.replica.readers,
            disk=self.disk,
            choose_id=choose_id,
        )
        scrubber.assert_called_once_with(
            self.files,
            self.log,
            made,
            readers=self.replica.readers,
            rate=77,
            monotonic=clocks.monotonic,
            metrics=NO_METRICS,
            pace=budgets.scrubbing,
        )

    def test_ticks(self):
        """A tick is the core's, the disk room's and the damage's; while nothing drives the core, nobody's."""
        ticked = []
        self.patch(self.replica.damage_control, "tick", lambda: ticked.append("damage"))
        self.patch(self.replica.disk_room, "look_at_stuck_write", lambda: ticked.append("room"))
        self.replica.tick()
        self.assertEqual(ticked, [])
        self.started()
        self.patch(self.replica.driver, "tick", lambda: ticked.append("core"))
        ticked.clear()
        self.replica.tick()
        self.assertEqual(ticked, ["core", "room", "damage"])

    def test_stopped(self):
        """Once stopped it takes nothing, knows no leader, and its log stays open."""
        self.started()
        waiting = self.propose()
        self.replica.stop()
        self.assertEqual([type(one) for one in waiting], [OutcomeUnknownError])
        self.assertEqual((self.replica.is_writable, self.replica.has_leader), (False, False))
        [error] = self.propose()
        self.assertIsInstance(error, DiskFullError)
        self.assertEqual(self.log.failure, "")

    def test_full_disk(self):
        """A full disk refuses appends at once, and tells the core of each driver."""
        self.started()
        self.replica.disk_filled(True)
        self.assertIs(self.replica.is_writable, False)
        [error] = self.propose()
        self.assertIsInstance(error, DiskFullError)
        self.assertIn("/data", str(error))
        self.assertIs(self.replica.driver.raft.disk_is_full, True)
        old = self.replica.driver
        old.stop()
        self.replica.restart_core(old)
        self.settle()
        self.assertIs(self.replica.driver.raft.disk_is_full, True)
        self.replica.disk_filled(False)
        self.assertEqual(self.propose(), [])

    def test_restarted(self):
        """Another core goes on over the same log, as the same member, behind a sync."""
        self.started()
        self.propose()
        self.settle()
        old = self.replica.driver
        old.stop()
        self.replica.restart_core(old)
        self.assertIsNone(self.replica.driver)
        self.replica.receive(self.heartbeat(), is_member=True)
        self.assertIsNone(self.replica.driver)  # what comes meanwhile is said again
        self.settle()
        self.assertIsNot(self.replica.driver, old)
        self.assertEqual(self.replica.driver.raft.id, 1)
        self.assertEqual(self.replica.driver.readable_offset, 1)
        self.assertEqual(self.readable[-1], 1)
        self.propose()
        self.settle()
        self.assertEqual(self.readable[-1], 2)

    def test_restarted_on_a_full_disk(self):
        """It goes on when only the watermark had no room, and ends when the disk refused the sync."""
        self.started()
        for error, goes_on in ((errno.ENOSPC, True), (errno.EIO, False)):
            old = self.replica.driver
            outcomes = self.propose()
            old.stop()
            kind = "pwritev" if goes_on else "fdatasync"
            while self.disk.waiting:
                self.disk.step()
            self.assertEqual(len(outcomes), 1)
            # Something that the sync has to do.
            self.log._watermark.commit_index = 0
            self.files.fail(error, kinds=(kind,), path_part=".store")
            self.replica.restart_core(old)
            self.settle()
            self.assertEqual(self.replica.driver is not None, goes_on)
            self.assertEqual(bool(self.failures), not goes_on)
            self.files.faults.clear()

    def test_ending(self):
        """A node that ends begins no other core, and takes no message."""
        self.started()
        old = self.replica.driver
        old.stop()
        self.replica.restart_core(old)
        self.is_ending = True
        self.assertIs(self.replica.is_ending, True)
        self.settle()
        self.assertIsNone(self.replica.driver)
        self.replica.receive(self.heartbeat(), is_member=True)
        self.assertIsNone(self.replica.driver)

    def test_idle(self):
        """Who waits for idleness is told when nothing is under way, or at once when the disk is full."""
        self.started()
        self.propose()
        done = []
        self.replica.when_idle(lambda: done.append("idle"))
        self.assertEqual(done, [])
        self.replica.driver.is_full = True
        self.replica.when_idle(lambda: done.append("full"))
        self.assertEqual(done, ["full"])
        self.replica.driver.is_full = False
        self.settle()
        self.assertEqual(done, ["full", "idle"])

    def test_last_words(self):
        """What is no damage, and what nobody else could mend, needs no last words."""
        self.started()
        self.assertIs(self.replica.last_words(ValueError("x"), self.fail), False)
        self.assertIs(self.replica.last_words(DamageError("x", 1, "?"), self.fail), False)
        self.assertIs(self.replica.is_writable, True)

    def test_refused_change(self):
        """A change that is refused is tried again by who looks; another error ends the process."""
        self.started()
        alone = self.replica.configuration
        self.replica.change_configuration(alone.with_member("o", b"o" * 16, MemberRole.LEARNER))
        self.settle()
        self.assertEqual([one.name for one in self.replica.configuration.members], ["n", "o"])
        index = self.replica.driver.raft.last_index
        self.assertIn(f"configuration {index} is in force", self.told())
        # A voter that was never heard may not be made one.
        learner = self.replica.configuration
        before = learner.members
        asked = []
        self.patch(
            self.replica.driver.raft,
            "check_voters",
            lambda configuration, *, within_ticks: asked.append(within_ticks) or self.refuse(),
        )
        self.replica.change_configuration(learner.with_member("o", b"o" * 16, MemberRole.VOTER))
        self.settle()
        self.assertEqual((self.replica.configuration.members, asked), (before, [HEARD_TICKS]))
        self.assertEqual(self.failures, [])

    def refuse(self):
        raise MembershipError("not heard")

    def test_failed_change(self):
        """What becomes of a change that is proposed: a refusal is nothing, a bug ends the process."""
        self.started()
        driver = self.replica.driver
        for error, is_fatal in (
            (MembershipError("busy"), False),
            (NotLeaderError(""), False),
            (ValueError("bug"), True),
        ):
            self.patch(driver, "propose_configuration", lambda _c, _a, failed, error=error: failed(error))
            self.replica.change_configuration(self.replica.configuration)
            self.assertEqual(self.failures, [error] if is_fatal else [])

    def test_passed_on(self):
        """What its parts say reaches the node."""
        self.started()
        self.assertEqual(self.replica.node_name, "n")
        self.assertIs(self.replica.send_to("there", "m"), True)
        self.assertIs(self.replica.send_to("gone", "m"), False)
        self.assertEqual(self.messages, [("there", "m"), ("gone", "m")])
        self.replica.send("envelope")
        self.assertEqual(self.sent, ["envelope"])
        self.replica.fatal("error")
        self.assertEqual(self.failures, ["error"])


class JoiningTests(ReplicaCase):
    """A node whose log does not say yet which member it is."""

    voters = ("a", "b", "c")

    def test_first_message(self):
        """The leader's first message tells which member it is."""
        self.started()
        self.assertIsNone(self.replica.driver)
        self.replica.receive(self.heartbeat(0), is_member=True)
        self.assertIsNone(self.replica.driver)
        self.replica.receive(self.heartbeat(4), is_member=True)
        self.assertEqual(self.replica.driver.raft.id, 4)
        self.assertIn("this node is member 4", self.told())
        self.settle()
        self.assertEqual(self.replica.driver.raft.term, 5)

    def test_another_id(self):
        """A higher id renews it, and the message is said again; a lower one changes nothing."""
        self.test_first_message()
        old = self.replica.driver
        self.replica.receive(self.heartbeat(3), is_member=True)
        self.assertIs(self.replica.driver, old)
        self.replica.receive(self.heartbeat(9), is_member=True)
        self.assertIsNone(self.replica.driver)
        self.assertIn("this node is member 9 from now on, no longer 4", self.told())
        self.settle()
        self.assertEqual(self.replica.driver.raft.id, 9)
        self.replica.receive(self.heartbeat(9, term=6), is_member=True)
        self.settle()
        self.assertEqual(self.replica.driver.raft.term, 6)

    def test_former_member(self):
        """A disk that lost what a member promised is not that member, whoever calls it so."""
        self.replica.options = dataclasses.replace(self.replica.options, member_min=4)
        self.replica.start()
        self.replica.receive(self.heartbeat(3), is_member=True)
        self.assertIsNone(self.replica.driver)
        self.replica.receive(self.heartbeat(4), is_member=True)
        self.assertEqual(self.replica.driver.raft.id, 4)

    def test_stranger(self):
        """What a stranger sends that contradicts the log is its fault alone."""
        self.test_first_message()
        message = AppendEntries(term=7, prev_log_index=0, prev_log_term=9, commit_index=0)
        envelope = Envelope(group=1, source=2, target=4, message=message)
        self.settle()
        with contextlib.suppress(IdentityError):
            self.replica.receive(envelope, is_member=False)
        self.settle()
        self.assertEqual(self.failures, [])

    def test_restarted(self):
        """A core that is restarted stays the member it was, unless it is told another id."""
        self.test_first_message()
        for id_, wanted in ((0, 4), (7, 7)):
            old = self.replica.driver
            old.stop()
            self.replica.restart_core(old, id_) if id_ else self.replica.restart_core(old)
            self.settle()
            self.assertEqual(self.replica.driver.raft.id, wanted)

    def test_handed_on(self):
        """A message goes to the core with what is known of its sender."""
        self.test_first_message()
        taken = []
        self.patch(
            self.replica.driver, "receive", lambda envelope, *, is_member: taken.append((envelope, is_member))
        )
        for target in (1, 4):
            for is_member in (False, True):
                self.replica.receive(self.heartbeat(target), is_member=is_member)
        self.assertEqual([is_member for _, is_member in taken], [False, True] * 2)
        self.is_ending = True
        self.replica.receive(self.heartbeat(4), is_member=True)
        self.replica.receive(self.heartbeat(9), is_member=True)
        self.assertEqual(len(taken), 4)

    def test_damage(self):
        """Damage that the core meets is its damage control's; a member notes it as its last words."""
        self.test_first_message()
        found, noted = [], []
        self.patch(self.replica.damage_control, "damage_found", found.append)
        self.patch(self.replica.damage_control, "note", lambda error, done: noted.append((error, done)))
        error = DamageError("x", 1, "?")
        self.replica.damage_found(error)
        self.assertEqual(found, [error])
        self.assertIs(self.replica.last_words(ValueError("x"), self.fail), False)
        self.assertIs(self.replica.last_words(error, self.fail), True)
        self.assertEqual((noted, self.replica.is_writable), ([(error, self.fail)], False))
        self.assertTrue(self.replica.driver._is_stopped)

    def test_committed(self):
        """What is readable is told to the node, and to the keeper of the disk's room."""
        self.assertRaises(UnavailableError, self.replica.committed)
        self.test_first_message()
        told = []
        self.patch(self.replica.disk_room, "committed", told.append)
        self.replica.driver.readable_offset = 77
        self.replica.committed()
        self.assertEqual((self.readable[-1], told), (77, [self.replica.driver]))


class FormerMemberTests(ReplicaCase):
    """A copy that came back empty, and got the group's first entry again, which names it."""

    voters = ("n", "b", "c")

    def test_own_log(self):
        """It is not the member that it was, which may have voted; the one that it is by its log, it is."""
        self.replica.options = dataclasses.replace(self.replica.options, member_min=4)
        self.replica.start()
        self.assertIsNone(self.replica.driver)
        self.replica.options = dataclasses.replace(self.replica.options, member_min=1)
        self.replica.start()
        self.assertEqual(self.replica.driver.raft.id, 1)


class OtherDiskTests(ReplicaCase):
    """A member of the same name with another disk."""

    own_disk = b"other".ljust(16)

    def test_not_this_one(self):
        """A configuration that names this node with another disk names another member."""
        self.started()
        self.assertIsNone(self.replica.driver)
