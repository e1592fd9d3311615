"""What `bench.timeline` makes of the notes that nodes and a client take, without any of them."""

import importlib
from xml.etree import ElementTree

from twisted.trial.unittest import SynchronousTestCase

from bench.inside import timestamps
from bench.timeline_figure import LANES, draw, typical
from bench.timeline_notes import (
    CLIENT,
    DISK_PLACES,
    FOLLOWERS,
    LEADER,
    STAGES,
    AtWork,
    Note,
    at_work,
    committed_by,
    entries_of,
    in_order_of_sending,
    read_notes,
    syncs_of,
    thread_times,
    under_way,
)

ONE, TWO = FOLLOWERS  # members 2 and 3; the leader is member 1


def disk(moment, last, count):
    """The way of a group to the disk and back, a nanosecond for each place."""
    notes = [Note(moment, "given to the disk", (last, count))]
    return notes + [Note(moment + 1 + step, place) for step, place in enumerate(DISK_PLACES)]


def run_of(entry_count, *, period=1000):
    """Notes of the leader and of its followers, and a client's calls: two appends in each entry.

    Entry n begins at n times the period; the follower that is sent to first answers last.
    """
    leader, one, two, calls = [], [], [], {}
    for index in range(1, entry_count + 1):
        now, offset = index * period, 2 * index
        streams = 2 * index, 2 * index + 1
        leader += [Note(now + 10 + place, "taken", (stream,)) for place, stream in enumerate(streams)]
        leader.append(Note(now + 20, "proposed", (index, offset, 2)))
        leader += [Note(now + 30, "sent", (index, 1, 1, 2)), Note(now + 35, "sent", (index, 1, 1, 3))]
        leader += disk(now + 40, index, 1)
        for notes, at, member, answer in ((one, 50, 2, 120), (two, 60, 3, 100)):
            notes.append(Note(now + at, "received", (index, 1, 1, member)))
            notes += disk(now + at + 5, index, 1)
            notes.append(Note(now + at + 20, "sent", (index, 0, member, 1)))
            leader.append(Note(now + answer, "received", (index, 0, member, 1)))
        leader.append(Note(now + 101, "committed", (index,)))
        leader += [
            Note(now + 102 + place, "answered", (stream, offset + place))
            for place, stream in enumerate(streams)
        ]
        leader.append(Note(now + 110, "answers written"))
        for place in range(2):
            calls[offset + place] = now + place, now + 130 + place
    leader.sort(key=lambda note: note.moment)
    return leader, one, two, calls


class EntryTests(SynchronousTestCase):
    """Notes become entries."""

    def setUp(self):
        self.leader, self.one, self.two, self.calls = run_of(3)

    def entries(self):
        return entries_of(self.leader, [self.one, self.two], self.calls)

    def test_places(self):
        """An entry has the first and the last of its appends, and each place of each node."""
        entry = self.entries()[1]
        self.assertEqual((entry.index, entry.base_offset, entry.count), (2, 4, 2))
        for who, what, moment in (
            (CLIENT, "asks, first", 2000),
            (CLIENT, "asks, last", 2001),
            (LEADER, "taken, first", 2010),
            (LEADER, "taken, last", 2011),
            (LEADER, "proposed", 2020),
            (LEADER, f"sent to {ONE}", 2030),
            (LEADER, f"sent to {TWO}", 2035),
            (LEADER, "sync ends", 2044),
            (ONE, "received", 2050),
            (TWO, "sync begins", 2068),
            (ONE, "answer sent", 2070),
            (LEADER, f"answer of {TWO}", 2100),
            (LEADER, "committed", 2101),
            (LEADER, "answered, last", 2103),
            (LEADER, "answers written", 2110),
            (CLIENT, "has the answer, last", 2131),
        ):
            self.assertEqual(entry.passed[who, what], moment, (who, what))

    def test_incomplete(self):
        """Of an entry of which something is not known, such as one of the warm-up, nothing is told."""
        del self.calls[4]
        self.two = [note for note in self.two if note.moment < 3000]
        self.assertEqual([entry.index for entry in self.entries()], [1])

    def test_shared(self):
        """Entries that go to a follower, to its disk and back together have each place from that."""
        first, second = 1, 2
        together = [Note(2150, "received", (second, 2, 1, 2)), *disk(2155, second, 2)]
        together.append(Note(2170, "sent", (second, 0, 2, 1)))
        self.one = together + [note for note in self.one if note.moment > 3000]
        entries = {entry.index: entry for entry in self.entries()}
        for index in (first, second):
            self.assertEqual(entries[index].passed[ONE, "received"], 2150)
            self.assertEqual(entries[index].passed[ONE, "sync begins"], 2158)
            self.assertEqual(entries[index].passed[ONE, "answer sent"], 2170)

    def test_sent_again(self):
        """What is sent a second time was sent the first time; a sync between two groups is of neither."""
        self.leader += [Note(1500, "sent", (1, 1, 1, 2)), Note(1600, "sync begins"), Note(1610, "sync ends")]
        self.leader.sort(key=lambda note: note.moment)
        entry = self.entries()[0]
        self.assertEqual(entry.passed[LEADER, f"sent to {ONE}"], 1030)
        self.assertEqual(entry.passed[LEADER, "sync begins"], 1043)

    def test_order_of_followers(self):
        """The follower to which the leader sends first comes first; one that has nothing comes last."""
        self.assertEqual(in_order_of_sending(self.leader, [self.two, self.one]), [self.one, self.two])
        self.assertEqual(in_order_of_sending(self.leader, [[], self.one]), [self.one, []])

    def test_majority(self):
        """An entry is committed by the last that came before it: here the second follower's answer."""
        self.assertEqual([committed_by(entry) for entry in self.entries()], [f"answer of {TWO}"] * 3)
        entry = self.entries()[0]
        entry.passed[LEADER, "back on the loop"] = entry.passed[LEADER, "committed"]
        self.assertEqual(committed_by(entry), "the leader's own disk")

    def test_lines(self):
        """A node's lines are read in the order of their moments."""
        notes = read_notes("20\tsent\t5 1 1 2\n10\tsync begins\t\n")
        self.assertEqual(notes, [Note(10, "sync begins"), Note(20, "sent", (5, 1, 1, 2))])


class MeasureTests(SynchronousTestCase):
    """How much is under way, and who is at work."""

    def test_under_way(self):
        """Counts are by time: one for half of it, two for a quarter."""
        found = under_way([(0, 50), (25, 75)], 0, 100)
        self.assertEqual((found.mean, found.p50, found.p99), (1.0, 1, 2))

    def test_under_way_at_the_edges(self):
        """What begins before, or ends after, counts for the part that is inside; what is outside does not."""
        found = under_way([(0, 15), (15, 99), (0, 5), (30, 40)], 10, 20)
        self.assertEqual((found.mean, found.p50, found.p99), (1.0, 1, 1))
        self.assertEqual(under_way([], 10, 20).mean, 0.0)

    def test_at_work(self):
        """Turns inside of turns count once; only what is inside of a span counts."""
        turns = AtWork([(10, 30), (15, 20), (50, 60)])
        for begin, end, expected in ((0, 100, 30), (20, 55, 15), (30, 50, 0), (12, 14, 2), (0, 5, 0)):
            self.assertEqual(turns.within(begin, end), expected, (begin, end))
        self.assertEqual(turns.spans(25, 50), [(10, 30)])
        self.assertEqual(at_work([Note(5, "at work", (9,)), Note(6, "taken", (1,))]).within(0, 10), 4)

    def test_syncs(self):
        """A sync is from its beginning to its end; one without a beginning is none."""
        notes = [Note(1, "sync ends"), *disk(10, 1, 1), *disk(30, 2, 1)]
        self.assertEqual(syncs_of(notes), [(13, 14), (33, 34)])

    def test_threads(self):
        """A thread's shares are between its first and its last note of the time; one note tells nothing."""
        notes = [
            Note(0, "thread", (0, 5, 5)),
            Note(100, "thread", (0, 50, 10)),
            Note(200, "thread", (0, 100, 20)),
            Note(150, "thread", (7, 9, 9)),
        ]
        self.assertEqual(thread_times(notes, 50, 250), {0: (0.5, 0.1)})


class PlaceTests(SynchronousTestCase):
    """What is noted is there."""

    def test_methods(self):
        """Each method that a node takes notes of exists, and is its class's own or inherited."""
        for module, cls, method in (
            *(place[1:4] for place in timestamps.PLACES),
            *timestamps.TURNS,
        ):
            self.assertTrue(callable(getattr(getattr(importlib.import_module(module), cls), method)), method)

    def test_known(self):
        """Each place that an entry is known by is one that is noted, or made of those."""
        noted = {place[0] for place in timestamps.PLACES}
        made = {"asks", "has the answer", "answer sent", *(f"answer of {who}" for who in FOLLOWERS)}
        made |= {f"sent to {who}" for who in FOLLOWERS}
        places = {place for stage in STAGES for place in (stage.begin, stage.end)}
        places |= {place for lane in LANES for place in (lane.begin, lane.end)}
        self.assertEqual({what.partition(",")[0] for _, what in places} - noted - made, set())


class FigureTests(SynchronousTestCase):
    """The drawing."""

    def setUp(self):
        *nodes, calls = run_of(9)
        self.entries = entries_of(nodes[0], nodes[1:], calls)

    def test_typical(self):
        """It is of an entry that takes the median time, the nearest to the middle of the run."""
        self.assertEqual(typical(self.entries), 4)
        self.entries[4].passed[CLIENT, "has the answer, last"] += 500
        self.assertIn(typical(self.entries), (3, 5))
        self.assertEqual(typical(self.entries[:1]), 0)

    def test_drawing(self):
        """It is small, has words for those who do not see it, colours for light and dark, and all lanes."""
        drawing = draw(self.entries, {LEADER: AtWork([(5000, 5100), (9_999_000, 9_999_999)])}, 64)
        self.assertLess(len(drawing), 10_000)
        root = ElementTree.fromstring(drawing)
        found = {element.tag.rpartition("}")[2]: element.text or "" for element in root}
        self.assertIn("prefers-color-scheme:dark", found["style"])
        self.assertIn("the one in the middle has 2 appends", found["desc"])
        self.assertIn("64 appends in flight", found["title"])
        texts = {element.text for element in root if element.tag.endswith("text")}
        self.assertLessEqual({lane.name for lane in LANES}, texts)
        (work,) = (element for element in root if element.get("class") == "work")
        self.assertEqual(work.get("d").count("M"), 1)  # the other turn is outside
