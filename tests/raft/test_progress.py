"""What a leader knows of a follower: the whole record after each thing that may happen to it."""

from twisted.trial.unittest import SynchronousTestCase

from loghouse.raft.progress import Inflights, Progress, ProgressState

PROBE, REPLICATE, SNAPSHOT = ProgressState.PROBE, ProgressState.REPLICATE, ProgressState.SNAPSHOT


def told(progress):
    """State, what is held, what comes next, paused, pending snapshot, ticks waited, entries in flight."""
    return (
        progress.state,
        progress.match_index,
        progress.next_index,
        progress.paused,
        progress.pending_snapshot,
        progress.waited_ticks,
        len(progress.inflights),
    )


def probing(**fields):
    return Progress(**{"next_index": 8, "inflights": Inflights(10, 1000), "match_index": 4, **fields})


def replicating():
    """Holds 4; 5 to 7 are in flight."""
    progress = probing(state=REPLICATE)
    progress.inflights.add(5, 1, 100)
    progress.inflights.add(7, 2, 200)
    return progress


def waiting(index=20):
    """Holds 4; waits 3 ticks for a snapshot at 20."""
    progress = replicating()
    progress.become_snapshot(index)
    progress.waited_ticks = 3
    return progress


class InflightsTests(SynchronousTestCase):
    """Appends in flight."""

    def test_counted(self):
        """Entries and bytes are counted apart, and given back for each append that is acknowledged whole."""
        inflights = Inflights(10, 1000)
        self.assertEqual((len(inflights), inflights.size, inflights.room()), (0, 0, (10, 1000)))
        for last_index, count, size in [(5, 1, 100), (7, 2, 210), (10, 3, 330)]:
            inflights.add(last_index, count, size)
        self.assertEqual((len(inflights), inflights.size, inflights.room()), (6, 640, (4, 360)))
        for index, count, size in [
            (4, 6, 640),
            (5, 5, 540),
            (6, 5, 540),
            (9, 3, 330),
            (10, 0, 0),
            (11, 0, 0),
        ]:
            inflights.free_to(index)
            self.assertEqual((len(inflights), inflights.size), (count, size), index)

    def test_no_room(self):
        """There may be less than none: a single large entry goes whatever its size."""
        inflights = Inflights(1, 100)
        inflights.add(5, 3, 700)
        self.assertEqual(inflights.room(), (-2, -600))

    def test_cleared(self):
        """Forgotten ones are not given back a second time."""
        inflights = Inflights(10, 1000)
        inflights.add(5, 1, 100)
        inflights.clear()
        inflights.add(9, 2, 200)
        inflights.free_to(5)
        self.assertEqual((len(inflights), inflights.size, inflights.room()), (2, 200, (8, 800)))


class StateTests(SynchronousTestCase):
    """From one state to another."""

    def test_at_first(self):
        """A new one is probed, and nothing is known of it."""
        progress = Progress(next_index=9, inflights=Inflights(1, 1))
        self.assertEqual(told(progress), (PROBE, 0, 9, False, 0, 0, 0))
        self.assertFalse(progress.must_probe or progress.active or progress.wants_look)
        numbers = (
            "silent_ticks",
            "caught_up_ticks",
            "no_room_ticks",
            "sent_commit",
            "timestamp",
        )
        self.assertEqual([getattr(progress, name) for name in numbers], [0] * 5)

    def test_probe(self):
        """A probe begins behind what is held, or behind the snapshot that was sent; nothing is in flight."""
        for progress, expected in [
            (probing(paused=True), (PROBE, 4, 5, False, 0, 0, 0)),
            (replicating(), (PROBE, 4, 5, False, 0, 0, 0)),
            (waiting(), (PROBE, 4, 21, False, 0, 0, 0)),
            (waiting(2), (PROBE, 4, 5, False, 0, 0, 0)),
        ]:
            progress.become_probe()
            self.assertEqual(told(progress), expected)

    def test_replicate(self):
        """A stream begins behind what is held."""
        for progress in (probing(paused=True), replicating(), waiting()):
            progress.become_replicate()
            self.assertEqual(told(progress), (REPLICATE, 4, 5, False, 0, 0, 0))

    def test_snapshot(self):
        """A snapshot is waited for from then on."""
        for progress in (probing(paused=True), replicating(), waiting(9)):
            next_index = progress.next_index
            progress.become_snapshot(20)
            self.assertEqual(told(progress), (SNAPSHOT, 4, next_index, False, 20, 0, 0))

    def test_lost(self):
        """What it lost is sent again from where it ends now, whatever was going on."""
        for progress in (probing(paused=True), replicating(), waiting()):
            progress.lost(2)
            self.assertEqual(told(progress), (PROBE, 2, 3, False, 0, 0, 0))


class AnswerTests(SynchronousTestCase):
    """What an answer tells."""

    def test_acknowledged(self):
        """What is held rises only, what comes next is behind it, and a probe may go on."""
        for index, is_new, match_index, next_index, paused in [
            (3, False, 4, 8, True),
            (4, False, 4, 8, True),
            (5, True, 5, 8, False),
            (7, True, 7, 8, False),
            (8, True, 8, 9, False),
            (20, True, 20, 21, False),
        ]:
            progress = probing(paused=True)
            self.assertIs(progress.acknowledge(index), is_new, index)
            self.assertEqual(told(progress), (PROBE, match_index, next_index, paused, 0, 0, 0))
        progress = probing(next_index=3, paused=True)
        self.assertIs(progress.acknowledge(4), False)
        self.assertEqual(told(progress), (PROBE, 4, 5, True, 0, 0, 0))

    def test_refused_probe(self):
        """The probe goes back to what may fit, at least one entry, never behind what is held."""
        for index, hint, next_index in [
            (7, 6, 6),
            (7, 7, 7),
            (7, 8, 7),
            (7, 99, 7),
            (7, 5, 5),
            (7, 4, 5),
            (7, 0, 5),
        ]:
            progress = probing(paused=True)
            self.assertIs(progress.reject(index, hint), True, hint)
            self.assertEqual(told(progress), (PROBE, 4, next_index, False, 0, 0, 0))

    def test_stale_refusals(self):
        """A refusal of another probe than the last, or of what is held by now, changes nothing."""
        for make, index in [(probing, 6), (probing, 8), (waiting, 6), (replicating, 4), (replicating, 3)]:
            progress, before = make(), told(make())
            self.assertIs(progress.reject(index, 2), False)
            self.assertEqual(told(progress), before)

    def test_refused_stream(self):
        """In a stream, a refusal of what is not known to be held makes a probe from there."""
        for index in (5, 7):
            progress = replicating()
            self.assertIs(progress.reject(index, 2), True)
            self.assertEqual(told(progress), (PROBE, 4, 5, False, 0, 0, 0))
