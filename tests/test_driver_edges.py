"""A driver at its edges: how long who waits, who is refused with what, and what is reset by whom."""

from unittest.mock import Mock

from loghouse.errors import (
    ConsensusError,
    DiskFailedError,
    DiskFullError,
    EntryDamagedError,
    IdentityError,
    MembershipError,
    NotLeaderError,
    OutcomeUnknownError,
    ResourceExhaustedError,
    StorageError,
    UnavailableError,
)
from loghouse.limits import SYNC_GROUP_SIZE_MAX
from loghouse.protocol.configuration import encode_trim
from loghouse.protocol.entry import EntryKind
from loghouse.protocol.log_state import LogState
from loghouse.raft.ready import ReadState, Role, SoftState, Ticket
from loghouse.replica.driver import COMMIT_NOTIFICATION_SECONDS
from loghouse.replica.pending_reads import BEHIND_ELECTIONS_MAX
from tests.driver.alone import ELECTION_TICKS, EdgeCase, Entry


class ProposalTests(EdgeCase):
    """Appends and changes of the configuration."""

    def test_refused(self):
        """What the core refuses is told to who asked, and nobody waits for it."""
        for error in (NotLeaderError(""), MembershipError("busy"), ResourceExhaustedError("reads", "me")):
            self.raft.error = error
            self.propose()
            self.driver.propose_configuration("configuration", self.appended, self.failed)
            self.assertEqual(self.told, [(type(error), str(error))] * 2)
            self.assertEqual((self.driver._unsettled.is_empty, self.soons), (True, []))
            self.told.clear()

    def test_asked(self):
        """The core is asked with the time in microseconds, and has its turn."""
        self.propose()
        self.assertEqual(self.raft.asked[1], 1_500_000)
        self.assertEqual((len(self.soons), self.told), (1, []))
        self.driver.propose_configuration("configuration", self.appended, self.failed)
        self.assertEqual(self.raft.asked, ("configuration", 1_500_000))
        self.assertEqual(len(self.soons), 1)

    def test_acknowledged_before(self):
        """A batch that is committed already is answered at once, by what is known of it."""
        self.raft.ticket = Ticket(index=5, term=1, base_offset=40, record_count=1, timestamp=7)
        self.propose()
        self.assertEqual((self.told, self.soons), ([("appended", 40, 7)], []))
        self.assertTrue(self.driver._unsettled.is_empty)

    def test_not_yet_committed(self):
        """One behind the commit index waits for it."""
        self.propose()
        self.assertFalse(self.driver._unsettled.is_empty)
        self.give(committed=(Entry(6),))
        self.turn()
        self.assertEqual(self.told, [("appended", 50, 1006)])

    def test_stopped(self):
        """A driver that stopped refuses all, with words for each."""
        self.propose()
        self.driver.stop()
        self.assertEqual(
            self.told.pop(),
            (OutcomeUnknownError, "the node stopped before the append was acknowledged"),
        )
        self.propose()
        self.driver.propose_configuration("configuration", self.appended, self.failed)
        self.read()
        self.assertEqual([kind for kind, _ in self.told], [UnavailableError] * 3)
        for (_, text), words in zip(
            self.told, ("nothing was appended", "nothing was changed", "go on at another node"), strict=True
        ):
            self.assertIn("the node is stopping; ", text)
            self.assertIn(words, text)
        self.driver.receive("envelope")
        self.driver.tick()
        self.assertEqual((self.raft.steps, self.raft.ticks), ([], []))

    def test_transfer(self):
        """Leadership is handed to the voter that was named, 0 for the best one; the core has its turn."""
        self.driver.transfer_leadership()
        self.driver.transfer_leadership(3)
        self.assertEqual((self.raft.transfers, len(self.soons)), ([0, 3], 1))


class LostTests(EdgeCase):
    """Appends whose leadership was lost."""

    def lose(self):
        self.propose()
        self.turn()
        self.raft.role = Role.FOLLOWER

    def ticks(self, count):
        for _ in range(count):
            self.driver.tick()
            self.turn()

    def test_given_up(self):
        """They are given up two elections later, and no tick sooner."""
        self.lose()
        self.ticks(2 * ELECTION_TICKS)
        self.assertEqual(self.told, [])
        self.ticks(1)
        self.assertEqual(
            self.told, [(OutcomeUnknownError, "leadership was lost before the append was acknowledged")]
        )

    def test_counted_anew(self):
        """Each loss is counted from its beginning: after one that was given up, and after leading again."""
        self.lose()
        self.ticks(2 * ELECTION_TICKS + 1)
        self.told.clear()
        self.raft.role = Role.LEADER
        self.lose()
        self.ticks(2 * ELECTION_TICKS)
        self.assertEqual(self.told, [])
        self.raft.role = Role.LEADER
        self.ticks(1)
        self.raft.role = Role.FOLLOWER
        self.ticks(2 * ELECTION_TICKS)
        self.assertEqual(self.told, [])
        self.ticks(1)
        self.assertEqual(len(self.told), 1)

    def test_given_up_twice(self):
        """Who waits after some were given up has his own two elections, led meanwhile or not."""
        self.lose()
        self.ticks(2 * ELECTION_TICKS + 1)
        self.told.clear()
        self.propose()
        self.ticks(2 * ELECTION_TICKS)
        self.assertEqual(self.told, [])
        self.ticks(1)
        self.assertEqual(len(self.told), 1)

    def test_nobody_waits(self):
        """While nobody waits nothing is counted."""
        self.raft.role = Role.FOLLOWER
        self.ticks(5 * ELECTION_TICKS)
        self.propose()
        self.ticks(2 * ELECTION_TICKS)
        self.assertEqual(self.told, [])

    def test_leader_waits(self):
        """A leader waits as long as it leads."""
        self.propose()
        self.ticks(5 * ELECTION_TICKS)
        self.assertEqual(self.told, [])
        self.assertEqual(self.raft.ticks[0], 1_500_000)


class ReadTests(EdgeCase):
    """Reads that wait for an index, and for the entries up to it."""

    def confirm(self, index):
        self.read()
        self.give(read_states=(ReadState(self.raft.read_id, index),))
        self.turn()

    def test_readable(self):
        """A read of what is readable here is done at once."""
        self.confirm(5)
        self.assertEqual((self.told, self.driver._reads, self.driver._behind), ([5], {}, []))

    def test_behind(self):
        """One that is behind is done once it is readable, not before."""
        self.confirm(7)
        self.confirm(6)
        self.assertEqual(self.told, [])
        self.raft.durable_index = 6
        self.give(committed=(Entry(6), Entry(7)))
        self.turn()
        self.assertEqual((self.told, self.driver.readable_index), ([6], 6))
        self.owner.committed.assert_called_once_with()

    def test_given_up(self):
        """One that is not got to in so many elections goes elsewhere, and no tick sooner."""
        self.confirm(7)
        count = BEHIND_ELECTIONS_MAX * ELECTION_TICKS
        for _ in range(count - 1):
            self.driver.tick()
        self.assertEqual(self.told, [])
        self.confirm(8)
        self.driver.tick()
        self.assertEqual(
            self.told, [(UnavailableError, "this node is behind the leader; go on at another node")]
        )
        self.assertEqual([one.index for one in self.driver._behind], [8])

    def test_until_readable(self):
        """Who waits for an index is told once it is readable, at once if it is; and by a stop."""
        for index in (5, 6, 7):
            self.driver.when_readable(index, lambda index: self.told.append(index), self.failed)
        self.assertEqual(self.told, [5])
        self.raft.durable_index = 6
        self.give(committed=(Entry(6), Entry(7)))
        self.turn()
        self.assertEqual(self.told, [5, 6])
        self.driver.stop()
        stopping = UnavailableError, "the node is stopping; go on at another node"
        self.assertEqual(self.told, [5, 6, stopping])

    def test_not_confirmed(self):
        """One that the leader did not confirm is told; an answer to none is nothing."""
        self.confirm(None)
        self.assertEqual(self.told, [(UnavailableError, "the leader did not confirm the read; try again")])
        self.give(read_states=(ReadState(99, 5),))
        self.turn()
        self.assertEqual(len(self.told), 1)

    def test_refused(self):
        """What the core refuses is told at once."""
        self.raft.error = ResourceExhaustedError("reads", "me")
        self.read()
        self.assertEqual((self.told[0][0], self.soons), (ResourceExhaustedError, []))

    def test_stopped(self):
        """A stop tells all of them."""
        self.read()
        self.confirm(9)
        self.driver.stop()
        self.assertEqual(self.told, [(UnavailableError, "the node is stopping; go on at another node")] * 2)


class TurnTests(EdgeCase):
    """What a turn hands out, and what it writes."""

    def test_one_turn(self):
        """However often it is asked for, a turn comes once, at the end of the reactor's."""
        for _ in range(3):
            self.driver.start()
            self.driver.receive("envelope")
        self.assertEqual((len(self.soons), len(self.raft.steps)), (1, 3))
        self.turn()
        self.driver.start()
        self.assertEqual(len(self.soons), 1)

    def test_soft_state(self):
        """A change of role is told, and what was read ahead is forgotten."""
        state = SoftState(Role.FOLLOWER, 2, 9)
        self.give()
        self.turn()
        self.owner.role_changed.assert_not_called()
        self.read_ahead.forget.assert_not_called()
        self.give(soft_state=state)
        self.turn()
        self.owner.role_changed.assert_called_once_with(state)
        self.read_ahead.forget.assert_called_once_with()

    def test_written(self):
        """Entries go to the disk, are durable, and what waited for that is sent."""
        self.give(entries=(Entry(6),), messages_after_persist=("after",), token=4)
        self.turn()
        self.owner.send.assert_not_called()
        self.disk.drain()
        self.assertEqual(self.log.done, [("append", 6), ("sync", 5)])
        self.assertEqual(self.raft.persisted_tokens, [4])
        self.owner.send.assert_called_once_with("after")

    def test_sent_first(self):
        """What may leave at once does, and the write begins behind the turn."""
        self.give(entries=(Entry(6),), messages_now=("now",))
        self.soons.pop(0)()
        self.owner.send.assert_called_once_with("now")
        self.assertEqual((len(self.disk.waiting), len(self.soons)), (0, 1))
        self.turn()
        self.assertEqual(len(self.disk.waiting), 1)

    def test_nothing_to_send_first(self):
        """Without anything to send it begins at once."""
        self.give(entries=(Entry(6),))
        self.soons.pop(0)()
        self.assertEqual((len(self.disk.waiting), len(self.soons)), (1, 0))

    def test_groups(self):
        """What waits shares a write, up to so many bytes."""
        half = SYNC_GROUP_SIZE_MAX // 2
        self.give(entries=(Entry(6),))
        self.turn()
        for index, size in ((7, half), (8, half - 1), (9, 1), (10, 1)):
            self.give(entries=(Entry(index, size=size),), token=index)
        self.turn()
        for _ in range(3):
            self.disk.drain()
            self.turn()
        appends = [done[1:] for done in self.log.done if done[0] == "append"]
        self.assertEqual(appends, [(6,), (7, 8, 9), (10,)])
        self.assertEqual(self.raft.persisted_tokens, [1, 9, 10])

    def test_core_that_fails(self):
        """A contradiction that the core meets ends the process; the next turn is taken all the same."""
        error = EntryDamagedError("x")
        self.patch(self.raft, "ready", Mock(side_effect=error))
        self.driver.start()
        self.turn()
        self.owner.fatal.assert_called_once_with(error)
        self.patch(self.raft, "ready", Mock(return_value=None))
        self.driver.start()
        self.turn()
        self.raft.ready.assert_called()

    def test_bug_behind_a_write(self):
        """What fails when a write has ended ends the process."""
        error = ValueError("bug")
        self.patch(self.raft, "persisted", Mock(side_effect=error))
        self.give(entries=(Entry(6),))
        self.turn()
        self.disk.drain()
        self.owner.fatal.assert_called_once_with(error)

    def test_turn_within_a_turn(self):
        """What a turn calls begins no other turn within it."""
        self.owner.send.side_effect = lambda envelope: self.driver._turn()
        self.give(messages_now=("first",))
        self.give(messages_now=("second",))
        self.turn()
        self.assertEqual([call[0][0] for call in self.owner.send.call_args_list], ["first", "second"])

    def test_order(self):
        """A turn hands out all that the core has, and writes what must be written."""
        self.give(entries=(Entry(6),), token=6)
        self.give(committed=(Entry(6),), token=7)
        self.give(entries=(Entry(7),), token=8)
        self.turn()
        self.assertEqual(self.raft.ready_next, [])
        self.disk.drain()
        self.turn()
        self.assertEqual(self.raft.persisted_tokens[-1], 8)
        self.assertEqual(
            [done for done in self.log.done if done[0] == "append"], [("append", 6), ("append", 7)]
        )

    def test_nothing_to_write(self):
        """What needs no disk is durable at once, and what waited for that leaves."""
        self.give(messages_after_persist=("after",), token=3)
        self.turn()
        self.assertEqual((self.raft.persisted_tokens, len(self.disk.waiting)), ([3], 0))
        self.owner.send.assert_called_once_with("after")

    def test_goes_on(self):
        """When a write ends, the next one begins at once; behind what was sent it waits for the turn."""
        for messages, waiting in (((), 1), (("after",), 0)):
            self.setUp()
            self.give(entries=(Entry(6),), messages_after_persist=messages)
            self.turn()
            self.give(entries=(Entry(7),))
            self.turn()
            self.assertEqual(len(self.disk.waiting), 1)
            self.disk.step()
            self.assertEqual(len(self.disk.waiting), waiting)
            self.turn()
            self.assertEqual(len(self.disk.waiting), 1)

    def test_answers_at_once(self):
        """When nothing is left to write, what the core has to say then is said before the turn ends."""
        self.propose()
        self.give(entries=(Entry(6),))
        self.turn()
        self.raft.ready_next.append(self.ready(committed=(Entry(6),)))
        self.disk.step()
        self.assertEqual(self.told, [("appended", 50, 1006)])
        self.assertEqual(len(self.soons), 1)

    def test_full(self):
        """A full disk is told once, waits, and is tried again; room is told once, too."""
        self.log.error = DiskFullError("/data")
        self.give(entries=(Entry(6),))
        self.turn()
        self.disk.drain()
        for _ in range(2):
            self.assertTrue(self.driver.is_full)
            self.driver.retry_write()
            self.driver.retry_write()  # never twice at a time
            self.assertEqual(len(self.disk.waiting), 1)
            self.disk.drain()
        self.owner.disk_filled.assert_called_once_with(True)
        self.log.error = None
        self.driver.retry_write()
        self.disk.drain()
        self.assertFalse(self.driver.is_full)
        self.assertEqual(self.owner.disk_filled.call_args_list[1:], [((False,),)])
        self.driver.retry_write()
        self.assertEqual(len(self.disk.waiting), 0)

    def test_failed_disk(self):
        """Another error ends the process, and who waits is told that nothing is known."""
        self.propose()
        self.log.error = DiskFailedError("broken")
        self.give(entries=(Entry(6),))
        self.turn()
        self.disk.drain()
        self.owner.fatal.assert_called_once_with(self.log.error)
        self.owner.disk_filled.assert_not_called()
        self.assertEqual(self.told, [(OutcomeUnknownError, "the disk failed during the append")])

    def test_must_go_back(self):
        """What found no room is forgotten by a follower for whom nobody waits, and by who is alone."""
        self.assertFalse(self.driver.must_go_back)
        self.log.error = DiskFullError("/data")
        self.raft.role = Role.FOLLOWER
        self.give(entries=(Entry(6, kind=EntryKind.NOOP),))
        self.turn()
        self.assertFalse(self.driver.must_go_back)
        self.disk.drain()
        self.assertTrue(self.driver.must_go_back)
        self.driver.retry_write()
        self.assertFalse(self.driver.must_go_back)
        self.disk.drain()
        self.raft.role = Role.LEADER
        self.assertFalse(self.driver.must_go_back)
        self.raft.is_alone = True
        self.assertFalse(self.driver.must_go_back)  # an entry of its own waits for room, no records
        self.give(entries=(Entry(7),))
        self.turn()
        self.assertTrue(self.driver.must_go_back)
        self.raft.is_alone = False
        self.raft.role = Role.FOLLOWER
        self.propose()
        self.assertFalse(self.driver.must_go_back)
        self.driver.stop()
        self.assertFalse(self.driver.must_go_back)

    def test_go_back(self):
        """Who is alone and goes back certainly did not append what is not on his disk."""
        self.raft.is_alone = True
        for index in (5, 6):
            self.raft.commit_index = 4
            self.raft.ticket = Ticket(index=index, term=1, base_offset=1, record_count=1, timestamp=1)
            self.propose()
        self.driver.go_back("/data")
        self.assertEqual([kind for kind, _ in self.told], [DiskFullError, OutcomeUnknownError])
        self.setUp()
        self.propose()
        self.driver.go_back("/data")
        self.assertEqual([kind for kind, _ in self.told], [OutcomeUnknownError])

    def test_beyond_repair(self):
        """What contradicts the log ends the process; a stranger's contradiction is its own fault."""
        for error, is_strangers in (
            (EntryDamagedError("x"), True),
            (ConsensusError("x"), True),
            (StorageError("x"), False),
        ):
            self.raft.error = error
            self.driver.receive("envelope")
            self.owner.fatal.assert_called_with(error)
            self.owner.fatal.reset_mock()
            if is_strangers:
                raised = self.assertRaises(IdentityError, self.driver.receive, "e", is_member=False)
                self.assertIn("is no member by this node's log and contradicts it: x", str(raised))
                self.owner.fatal.assert_not_called()
            else:
                self.driver.receive("e", is_member=False)
                self.owner.fatal.assert_called_with(error)
                self.owner.fatal.reset_mock()
            self.assertEqual(self.soons, [])

    def test_unreadable(self):
        """Damage that the core met is told at the end of a turn, once."""
        self.raft.unreadable = "damage"
        self.driver.start()
        self.turn()
        self.driver.start()
        self.turn()
        self.owner.damage_found.assert_called_once_with("damage")

    def test_stopped_meanwhile(self):
        """A write that ends behind a stop makes nothing durable, and sends nothing."""
        self.give(entries=(Entry(6),), messages_after_persist=("after",))
        self.turn()
        self.driver.stop()
        self.read_ahead.forget.assert_called_once_with()
        self.disk.drain()
        self.turn()
        self.assertEqual(self.raft.persisted_tokens, [])
        self.owner.send.assert_not_called()


class CommitTests(EdgeCase):
    """What is told of commits, here and to others."""

    def test_begin(self):
        """At first all that the log knows to be committed is readable."""
        driver = self.driver
        self.assertEqual((driver.readable_index, driver.readable_offset, driver.lowest_offset), (5, 50, 4))

    def test_trims(self):
        """A trim raises the lowest offset once it is readable; a lower one changes nothing."""
        for index, lowest in ((6, 20), (7, 10), (8, 21)):
            self.raft.durable_index = index - 1
            self.give(committed=(Entry(index, kind=EntryKind.TRIM, payload=encode_trim(lowest)),))
            self.turn()
            before = self.driver.lowest_offset
            self.raft.durable_index = index
            self.driver._publish()
            self.assertEqual(self.driver.lowest_offset, max(before, lowest))
            self.assertEqual(self.driver.readable_offset, 10 * index)

    def test_notification(self):
        """A commit that no entry carried to others is told a moment later, once."""
        self.raft.has_unnotified_commit = True
        self.driver.start()
        self.turn()
        self.driver.start()
        self.turn()
        self.assertEqual(len(self.clock.getDelayedCalls()), 1)
        self.clock.advance(COMMIT_NOTIFICATION_SECONDS * 0.9)
        self.assertEqual(self.raft.notified, [])
        self.raft.commit_index = 9
        self.clock.advance(COMMIT_NOTIFICATION_SECONDS * 0.2)
        self.assertEqual((self.raft.notified, len(self.soons)), ([5], 1))

    def test_newer_commit(self):
        """When newer commits took its place they get their own time."""
        self.raft.has_unnotified_commit, self.raft.can_notify = True, False
        self.driver.start()
        self.turn()
        self.raft.commit_index = 9
        self.clock.advance(COMMIT_NOTIFICATION_SECONDS)
        self.assertEqual(len(self.clock.getDelayedCalls()), 1)
        self.raft.has_unnotified_commit = False
        self.clock.advance(COMMIT_NOTIFICATION_SECONDS)
        self.assertEqual((self.raft.notified, self.clock.getDelayedCalls(), self.soons), ([5, 9], [], []))

    def test_notification_of_a_stopped(self):
        """A stop takes it back."""
        self.raft.has_unnotified_commit = True
        self.driver.start()
        self.turn()
        self.driver.stop()
        self.assertEqual((self.clock.getDelayedCalls(), self.driver._notification), ([], None))

    def test_snapshot(self):
        """A snapshot that is installed is what readers have; one that is behind changes nothing."""
        self.log.state = LogState(index=9, term=2, next_offset=90, lowest_offset=1)
        self.give(snapshot=LogState(index=9, term=2), token=3)
        self.turn()
        self.disk.drain()
        self.turn()
        driver = self.driver
        self.assertEqual((driver.readable_index, driver.readable_offset, driver.lowest_offset), (9, 90, 3))
        self.owner.committed.assert_called()
        self.log.state = LogState(index=8, term=2, next_offset=80, lowest_offset=70)
        driver._take_start()
        self.assertEqual((driver.readable_index, driver.readable_offset, driver.lowest_offset), (9, 90, 3))

    def test_skipped(self):
        """A snapshot takes the place of commits that were not readable yet; who waits below it is told."""
        self.propose()
        self.turn()
        self.raft.durable_index = 5
        self.give(committed=(Entry(6, term=1),))
        self.turn()
        self.assertEqual((self.told.pop()[0], len(self.driver._applied)), ("appended", 1))
        self.raft.ticket = Ticket(index=7, term=1, base_offset=70, record_count=1, timestamp=7)
        self.propose()
        self.give(snapshot=LogState(index=9, term=1), token=3)
        self.turn()
        self.assertEqual((len(self.driver._applied), self.driver.readable_index), (0, 5))
        self.assertEqual(self.told, [(OutcomeUnknownError, "the log moved on without this node")])

    def test_idle(self):
        """Who waits for idleness waits for the turn, the disk and the commits."""
        done = []
        self.driver.when_idle(lambda: done.append(1))
        self.assertEqual(done, [1])
        self.give(entries=(Entry(6),))
        self.driver.when_idle(lambda: done.append(2))
        self.propose()
        self.turn()
        self.disk.drain()
        self.turn()
        self.assertEqual(done, [1])
        self.give(committed=(Entry(6),))
        self.turn()
        self.assertEqual(done, [1, 2])
        self.propose()
        self.driver.when_idle(lambda: done.append(3))
        self.driver.stop()
        self.driver.when_idle(lambda: done.append(4))
        self.assertEqual(done, [1, 2, 3, 4])
