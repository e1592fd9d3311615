"""Copies that were replaced are given back when both the catalogue and their group are rid of them."""

from types import SimpleNamespace

from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from loghouse.catalogue.records import LogDeleted, LogPlaced
from loghouse.errors import UnavailableError
from loghouse.node import releases
from loghouse.node.api import StrayLog
from loghouse.node.forwarding import AdminOrder, AdminResult
from loghouse.protocol.forward_messages import AdminOperation
from tests.test_catalogue_log import node_set
from tests.test_named_parts import UUID, NamedCase, created, placed

LEFT, THERE = AdminResult(number=1), AdminResult(number=0)


class ReleaseCase(NamedCase):
    """Node n1 with a copy of log `a`, group 16, that n3 gets in its place."""

    def setUp(self):
        super().setUp()
        self.asked, self.nodes, self.now = [], [], 0.0
        self.born(("n1", UUID))
        self.served[2].replica = SimpleNamespace(log=None)
        self.hosted.sizes[2] = 5
        for name in ("n1", "n2", "n3"):
            self.add(node_set(name))
        self.add(created("a", 16, placed(1, "n1"), placed(2, "n2")))
        self.log = self.open()
        self.hosted.sizes[16] = 7
        self.stops = []
        self.served[16].replica.stop = lambda: self.stops.append(16)
        self.node.forwarder = self
        self.named.knows_all = True

    def administer(self, node, group, order):
        answer = Deferred()
        self.asked.append((order, answer))
        self.nodes.append((node, group))
        return answer

    def replaced(self):
        self.add(LogPlaced(group=16, replicas=(placed(2, "n2"), placed(3, "n3"))))

    def look(self, seconds=1.0):
        self.now += seconds
        self.named.look(self.now, self.now)


class AskingTests(ReleaseCase):
    """A node that has the log is asked, and its answer decides."""

    def test_placed_here(self):
        """Nothing is asked of a log that belongs here, nor of one that is not on the disk."""
        self.look()
        del self.hosted.sizes[16]
        self.replaced()
        self.look()
        self.assertEqual(self.asked, [])

    def test_given_back(self):
        """Once the group has no member here, the copy is stopped, closed, and put away."""
        self.replaced()
        self.look()
        [(order, answer)] = self.asked
        self.assertEqual(order, AdminOrder(operation=AdminOperation.HAS_LEFT, name="n1", number=4))
        self.assertEqual((self.hosted.released, self.stops), ([], []))
        answer.callback(LEFT)
        self.assertEqual((self.hosted.released, self.stops), ([(16, self.log)], [16]))
        self.assertIsNone(self.served[16].replica)
        self.assertEqual([event["name"] for event in self.events if "put away" in event["log_format"]], ["a"])
        self.look(9.0)
        self.assertEqual(len(self.asked), 1)

    def test_not_open(self):
        """After a restart it is not opened any more, and goes all the same."""
        self.replaced()
        self.served[16].replica = None
        self.look()
        self.asked[0][1].callback(LEFT)
        self.assertEqual((self.hosted.released, self.stops), ([(16, None)], []))

    def test_still_a_member(self):
        """While it is a member it stays, and others are asked again later, one question at a time."""
        self.replaced()
        for _ in range(9):
            self.look()
        self.assertEqual(len(self.asked), 1)
        self.asked[0][1].callback(THERE)
        self.look(0.0)
        self.asked[1][1].errback(UnavailableError("no leader"))
        self.look(releases.ASK_SECONDS - 0.5)
        self.assertEqual(len(self.asked), 2)
        self.look(0.5)
        self.assertEqual((len(self.asked), self.hosted.released), (3, []))
        self.assertEqual(self.nodes, [("n3", 16), ("n2", 16), ("n3", 16)], "whoever has it, in turn")

    def test_alone(self):
        """A node without others asks nobody."""
        self.replaced()
        self.node.forwarder = None
        self.look()
        self.assertEqual(self.asked, [])

    def test_wanted_again(self):
        """A copy that the catalogue wants here again by the time of the answer stays."""
        self.replaced()
        self.look()
        self.add(LogPlaced(group=16, replicas=(placed(2, "n2"), placed(4, "n1"))))
        self.asked[0][1].callback(LEFT)
        self.assertEqual((self.hosted.released, self.stops), ([], []))
        self.look(9.0)
        self.assertEqual(len(self.asked), 1)

    def test_changed_meanwhile(self):
        """Nothing is given back on a node that stops, of a log that was deleted, or while it is busy."""
        self.replaced()
        self.look()
        self.hosted.is_busy = True
        self.asked[0][1].callback(LEFT)
        self.hosted.is_busy = False
        self.look(9.0)
        self.node.is_ending = True
        self.asked[1][1].callback(LEFT)
        self.node.is_ending = False
        self.look(9.0)
        self.add(LogDeleted(group=16))
        self.asked[2][1].callback(LEFT)
        self.assertEqual((self.hosted.released, self.hosted.buried), ([], [(16, self.log)]))

    def test_few_at_once(self):
        """Of very many copies only some are asked for at once."""
        self.patch(releases, "ASKED_AT_ONCE_MAX", 1)
        self.add(created("b", 17, placed(1, "n2")))
        self.hosted.sizes[17] = 9
        self.replaced()
        self.look()
        self.look()
        self.assertEqual(len(self.asked), 1)
        self.asked[0][1].callback(LEFT)
        self.look()
        self.assertEqual([order.number for order, _ in self.asked], [4, 2])

    def test_bug(self):
        """An answer that this node cannot take is told, and ends nothing."""
        self.replaced()
        self.look()
        self.patch(releases.Releases, "logger", self.named.logger)
        self.asked[0][1].callback(None)
        self.assertEqual(len(self.flushed()), 1)

    def flushed(self):
        return [event for event in self.events if "giving a copy back" in event.get("log_format", "")]


class ComingBackTests(ReleaseCase):
    """A node that a log was taken from, and that gets it again."""

    def test_no_founder_any_more(self):
        """It begins with nothing, though it was a founder: it is another member than in the first entry."""
        self.served[16].replica = None
        self.hosted.opens.clear()
        self.add(LogPlaced(group=16, replicas=(placed(2, "n2"), placed(3, "n1"))))
        [(group, first, _)] = self.hosted.opens
        self.assertEqual((group, first), (16, None))
        self.open(last_index=1)
        self.assertEqual(self.served[16].stands, 1, "that of its first life")


class EndedTests(ReleaseCase):
    """Logs that were deleted while nobody here could put them away."""

    def test_deleted_while_away(self):
        """A log that is on the disk and was never served by this process goes by its tombstone."""
        self.named.log.catalogue.tombstones[40] = 1
        self.hosted.sizes |= {40: 1, 41: 1}
        self.hosted.is_busy = True
        self.look()
        self.assertEqual(self.hosted.buried, [])
        self.hosted.is_busy = False
        self.look()
        self.assertEqual(self.hosted.buried, [(40, None)])


class StrayTests(ReleaseCase):
    """What is on the disk and does not belong there is told."""

    def strays(self):
        asked = Deferred.fromCoroutine(self.named.strays())
        self.hosted.measured()
        return self.successResultOf(asked)

    def test_told(self):
        """Replaced copies and what the catalogue does not know are; what belongs here, or ended, is not."""
        self.named.log.catalogue.tombstones[40] = 1
        self.hosted.sizes |= {1: 1, 40: 1, 99: 3}
        self.assertEqual(self.strays(), [StrayLog(group=99, name="", size=3)])
        self.replaced()
        replaced = StrayLog(group=16, name="a", size=7)
        self.assertEqual(self.strays(), [replaced, StrayLog(group=99, name="", size=3)])

    def test_made_meanwhile(self):
        """A log that is made while the disk is looked at is no stray."""
        self.hosted.sizes[17] = 3
        asked = Deferred.fromCoroutine(self.named.strays())
        self.add(created("b", 17, placed(1, "n1")))
        self.hosted.measured()
        self.assertEqual(self.successResultOf(asked), [])

    def test_not_known(self):
        """A node that does not know all logs yet does not call any a stray."""
        self.named.knows_all = False
        self.failureResultOf(Deferred.fromCoroutine(self.named.strays()), UnavailableError)

    def test_no_catalogue(self):
        """Without a catalogue the default log alone belongs here."""
        self.named.log, log = None, self.named.log
        self.hosted.sizes = {1: 1, 2: 2}
        self.assertEqual(self.strays(), [StrayLog(group=2, name="", size=2)])
        self.named.log = log


class PaceTests(SynchronousTestCase):
    """How often is asked, and of how many at once."""

    def setUp(self):
        self.asked, self.answers = [], []
        self.releases = releases.Releases("n1", self.fail)

    def administer(self, node, group, order):
        self.asked.append(group)
        self.answers.append(Deferred())
        return self.answers[-1]

    def look(self, now, *groups):
        logs = [SimpleNamespace(group=group, next_member=4, nodes=("n2", "n3")) for group in groups]
        self.asked.clear()
        self.releases.look(now, logs, self)
        return list(self.asked)

    def test_after_an_answer(self):
        """A log is left alone for two seconds; one that belonged here meanwhile is a new one."""
        for now, groups, asked in (
            (1.0, (16, 17), [16, 17]),
            (2.9, (16, 17), []),
            (3.0, (16,), [16]),
            (3.5, (16, 17), [17]),
        ):
            self.assertEqual(self.look(now, *groups), asked, now)
            for answer in self.answers:
                answer.callback(THERE)
            self.answers.clear()

    def test_unanswered(self):
        """Nothing is asked twice at once, however long the answer takes, and of sixteen logs at most."""
        self.assertEqual(self.look(1.0, *range(16, 40)), list(range(16, 32)))
        self.assertEqual(self.look(100.0, *range(16, 40)), [])
        self.answers[0].callback(THERE)
        self.answers[1].errback(UnavailableError("gone"))
        self.assertEqual(self.look(101.0, *range(16, 40)), [16, 17])
