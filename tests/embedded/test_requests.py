"""The order of an embedded log's work, and how callers' requests are taken in rounds."""

import threading

from twisted.trial.unittest import SynchronousTestCase

from loghouse.embedded import requests as requests_module
from loghouse.embedded.requests import COMPANY_MIN, ROUND_SIZE_MAX, Errand, Request, Rounds
from loghouse.embedded.turns import TurnQueue, Turns
from loghouse.errors import OutcomeUnknownError, UnavailableError
from loghouse.limits import MIB
from loghouse.protocol.entry import Codec, EntryKind
from loghouse.replica.api import Appended


class TurnsTests(SynchronousTestCase):
    """Work is done in the order in which a reactor would do it."""

    def setUp(self):
        self.now = 100.0
        self.done = []
        self.turns = Turns(lambda: self.now)

    def note(self, name):
        return lambda *args: self.done.append((name, *args) if args else name)

    def run_all(self):
        self.turns.run()
        done, self.done = self.done, []
        return done

    def test_order(self):
        """What is due goes first, then what was asked for soon, then one job, and so on."""
        turns = self.turns
        turns.submit((lambda: 1, self.note("job"), None))
        turns.submit((lambda: turns.later(0, self.note("timer")), lambda _: None, None))
        turns.submit((lambda: 2, self.note("last job"), None))
        turns.soon(lambda: turns.soon(self.note("soon")))
        turns.later(0, self.note("due"))
        self.assertEqual(self.run_all(), ["due", "soon", ("job", 1), "timer", ("last job", 2)])
        self.assertEqual(self.run_all(), [])

    def test_timers(self):
        """Timers ring at their time, not before, the earlier ones first; of equals the one made first."""
        turns = self.turns
        for seconds, name in ((2.0, "c"), (1.0, "a"), (1.0, "b"), (1.0, "b2"), (1.0, "b3")):
            turns.later(seconds, self.note(name))
        turns.callLater(3.0, self.note("args"), 1, 2)
        equals = ["a", "b", "b2", "b3"]
        for now, expected in ((100.9, []), (101.0, equals), (102.5, ["c"]), (103.0, [("args", 1, 2)])):
            self.now = now
            self.assertEqual(self.run_all(), expected)

    def test_cancel(self):
        """A cancelled timer does not ring; a timer is active until it rang or was cancelled."""
        first, second = (self.turns.later(1.0, self.note(number)) for number in range(2))
        first.cancel()
        self.assertEqual((first.active(), second.active()), (False, True))
        self.now += 1.0
        self.assertEqual(self.run_all(), [1])
        self.assertFalse(second.active())
        self.turns.later(5.0, self.note("far")).cancel()
        self.assertEqual((self.run_all(), self.turns._timers), ([], []))

    def test_queue(self):
        """The disk's thread is the same queue: its failures are told, and a stop does what is left."""
        queue = TurnQueue(self.turns)

        def fail():
            raise ValueError("no")

        queue.submit(fail, self.note("done"), lambda error: self.done.append(str(error)))
        queue.submit(lambda: 5, self.note("done"), self.note("failed"))
        queue.stop()
        self.assertEqual(self.done, ["no", ("done", 5)])


class RequestTests(SynchronousTestCase):
    """One request, and what becomes of it."""

    def test_outcomes(self):
        """It is settled by an offset or an error, whichever comes first."""
        appended = Appended(base_offset=0, record_count=2, timestamp=9, index=1, term=1)
        for tell in (lambda one: one.outcome(appended), lambda one: one.appended(0, 9)):
            request = Request(b"x", 2)
            self.assertEqual((request.is_settled, request.error, request.gate), (False, None, None))
            request.wake()  # nobody waits
            tell(request)
            request.failed(UnavailableError("late"))
            self.assertEqual((request.is_settled, request.result()), (True, 0))
        request = Request(b"x", 2)
        for text in ("first", "second"):
            request.failed(OutcomeUnknownError(text))
        self.assertEqual(str(self.assertRaises(OutcomeUnknownError, request.result)), "first")
        self.assertTrue(request.is_settled)

    def test_shares(self):
        """A plain batch of records may share an entry; one with a codec, an offset or a trim may not."""
        for fields, may_share in (
            ({}, True),
            ({"attributes": Codec.ZSTD}, False),
            ({"expect_offset": 0}, False),
            ({"kind": EntryKind.TRIM}, False),
        ):
            request = Request(b"x", 1, **fields)
            self.assertIs(request.may_share, may_share, fields)
            self.assertTrue(request.is_wanted)

    def test_proposal(self):
        """The log gets all of it."""
        proposal = Request(b"x", 3, attributes=Codec.ZSTD, expect_offset=7, kind=EntryKind.TRIM).proposal
        self.assertEqual(
            (proposal.payload, proposal.record_count, proposal.attributes, proposal.expect_offset),
            (b"x", 3, Codec.ZSTD, 7),
        )
        self.assertEqual((proposal.kind, Request(b"x", 3).proposal.kind), (EntryKind.TRIM, EntryKind.RECORDS))
        self.assertEqual(Request(b"x", 3).proposal.attributes, 0)

    def test_errand(self):
        """An errand's error is its caller's."""
        for work, error in ((lambda: None, None), (lambda: 1 / 0, ZeroDivisionError)):
            errand = Errand(work)
            self.assertEqual((errand.payload, errand.record_count), (b"", 0))
            errand.run()
            if error is None:
                self.assertEqual(errand.result(), 0)
            else:
                self.assertRaises(error, errand.result)


class Noting(Request):
    """Counts how often it is woken."""

    def __init__(self, number):
        super().__init__(b"x", number)
        self.woken = 0

    def wake(self):
        self.woken += 1


class Gate:
    """Stands for the lock that a caller waits for: the wait is interrupted."""

    def __init__(self, *, is_open, meanwhile=lambda: None):
        self.is_open = is_open
        self.meanwhile = meanwhile

    def acquire(self, blocking=True):
        if blocking:
            self.meanwhile()
            raise KeyboardInterrupt
        return self.is_open


class Company:
    """Stands for the event that is set once there is company: a test comes when a round waits for it."""

    def __init__(self, come):
        self.come = come
        self.waits = []
        self.set_count = 0

    def clear(self):
        pass

    def set(self):
        self.set_count += 1

    def wait(self, seconds):
        self.waits.append(seconds)
        self.come()


class RoundsTests(SynchronousTestCase):
    """Requests are taken in rounds, by one thread at a time."""

    def setUp(self):
        self.taken = []
        self.rounds = Rounds(self.work)

    def work(self, requests):
        self.taken.append([request.record_count for request in requests])
        for request in requests:
            request.base_offset = request.record_count

    def leave(self, *numbers):
        """Leave requests, told apart by their counts; returns them."""
        left = [Noting(number) for number in numbers]
        self.assertEqual([self.rounds.leave(one) for one in left], [False] * len(left))
        return left

    def begin(self):
        """Leave a request that finds nobody at work; returns it."""
        own = Noting(0)
        self.assertTrue(self.rounds.leave(own))
        return own

    def test_alone(self):
        """Who finds nobody at work does its own request; then nobody is at work."""
        for number in range(2):
            request = Request(b"x", number)
            self.rounds.settle(request)
            self.assertEqual(request.result(), number)
        self.assertEqual(self.taken, [[0], [1]])

    def test_taken_along(self):
        """What was left meanwhile is taken along by the next round, and woken; then nobody is at work."""
        own = self.begin()
        others = self.leave(1, 2)
        self.rounds.work_on(own)
        self.assertEqual(self.taken, [[0, 1, 2]])
        self.assertEqual([one.woken for one in (own, *others)], [0, 1, 1])
        self.begin()

    def test_handed_over(self):
        """Who is done lets the next one that waits work, and nobody begins beside that one."""
        own, left = self.begin(), []

        def work(requests):
            self.work(requests)
            if own in requests:
                left.extend(self.leave(1))

        self.rounds._work = work
        self.rounds.work_on(own)
        self.assertEqual((self.taken, left[0].woken), ([[0]], 1))
        self.leave(2)
        self.rounds.work_through(left[0])
        self.assertEqual((self.taken, left[0].woken), ([[0], [1, 2]], 2))

    def test_work_fails(self):
        """What ends the log is raised to who works; the others are woken, and nobody is at work."""
        own = self.begin()
        [other] = self.leave(1)

        def work(requests):
            raise KeyboardInterrupt

        self.rounds._work = work
        self.assertRaises(KeyboardInterrupt, self.rounds.work_through, own)
        self.assertEqual((own.woken, other.woken), (1, 1))
        self.begin()

    def test_size_of_a_round(self):
        """A round has half of what may be under way, to the byte, but one request whatever its size."""
        self.assertEqual(ROUND_SIZE_MAX, 32 * MIB)
        self.patch(requests_module, "ROUND_SIZE_MAX", 10)
        for sizes, first in (
            ((4, 6), 2),
            ((4, 6, 1), 2),
            ((4, 7), 1),
            ((11, 1), 1),
            ((10, 0), 2),
            ((5, 5, 5, 5, 5), 2),
        ):
            self.rounds._left = [Request(bytes(size), number) for number, size in enumerate(sizes)]
            taken = self.rounds._take()
            self.assertEqual([one.record_count for one in taken], list(range(first)), sizes)
            left = [one.record_count for one in self.rounds._left]
            self.assertEqual(left, list(range(first, len(sizes))), sizes)

    def round_after(self, count, *, come):
        """Have a round of so many requests, and another one that waits for company; returns what waited."""
        own = self.begin()
        self.leave(*range(1, count))
        self.rounds.work_on(own)
        self.rounds._joined = company = Company(come)
        last = Request(b"x", 100)
        self.rounds.settle(last)
        return company

    def test_company(self):
        """After a round of four the next one waits a moment for as many; whoever completes them ends that."""
        come = []
        company = self.round_after(4, come=lambda: come.extend(self.leave(101, 102, 103)))
        self.assertEqual((COMPANY_MIN, company.waits, company.set_count), (4, [0.0002], 1))
        self.assertEqual(self.taken, [[0, 1, 2, 3], [100, 101, 102, 103]])
        self.assertEqual(self.rounds._wanted, 0)

    def test_not_complete(self):
        """Fewer do not end the wait: its time does."""
        company = self.round_after(5, come=lambda: self.leave(101, 102, 103))
        self.assertEqual((len(company.waits), company.set_count), (1, 0))
        self.assertEqual(self.taken[1], [100, 101, 102, 103])

    def test_no_company(self):
        """After a round of three nobody waits."""
        company = self.round_after(3, come=lambda: None)
        self.assertEqual(company.waits, [])

    def test_company_is_there(self):
        """Nobody waits when as many have come already."""
        own = self.begin()
        self.leave(1, 2, 3)
        self.rounds._company = 4
        self.rounds._joined = company = Company(lambda: None)
        self.rounds.work_on(own)
        self.assertEqual((company.waits, self.taken), ([], [[0, 1, 2, 3]]))

    def interrupted(self, **fields):
        """Interrupt one that waits while another is at work; returns it."""
        self.rounds = Rounds(self.work)
        self.begin()
        self.rounds._left.clear()
        request = Noting(1)
        self.assertFalse(self.rounds._leave(request, waits=True))
        self.assertTrue(request.gate.locked())
        request.gate = Gate(**fields, meanwhile=lambda: self.meanwhile(request))
        self.assertRaises(KeyboardInterrupt, self.rounds._wait, request)
        return request

    def test_interrupted_while_it_waits(self):
        """Who gives up waiting takes its request back; if it was told to work, the next one is."""
        for is_told in (False, True):
            left = []
            self.meanwhile = lambda request, left=left: left.extend(self.leave(2))
            self.interrupted(is_open=is_told)
            self.assertEqual((self.rounds._left, left[0].woken), (left, int(is_told)))
            self.assertTrue(self.rounds._is_busy)

    def test_interrupted_when_it_was_done(self):
        """Whose request was done meanwhile has nothing to hand over."""

        def meanwhile(request):
            self.work(self.rounds._take())

        self.meanwhile = meanwhile
        self.assertEqual(self.interrupted(is_open=True).result(), 1)
        self.assertTrue(self.rounds._is_busy)

    def test_settled_by_another_thread(self):
        """Who waits is woken when its request was done by another thread, and does not work."""
        own = self.begin()
        waiting = Request(b"x", 1)
        thread = threading.Thread(target=self.rounds.settle, args=(waiting,))
        thread.start()
        while not self.rounds._left[1:]:
            threading.Event().wait(0.001)
        self.rounds.work_on(own)
        thread.join(10)
        self.assertFalse(thread.is_alive())
        self.assertEqual((self.taken, waiting.result()), ([[0, 1]], 1))

    def test_exclusively(self):
        """An errand is done as a request is, and raises what it raised."""
        self.rounds._work = lambda requests: [one.run() for one in requests]
        done = []
        self.rounds.exclusively(lambda: done.append(1))
        self.assertEqual(done, [1])
        self.assertRaises(ZeroDivisionError, self.rounds.exclusively, lambda: 1 / 0)
