"""What one subject may use: rates with a burst, requests, patterns, and a table that does not grow."""

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from loghouse.errors import QuotaExceededError
from loghouse.limits import (
    KIB,
    MIB,
    QUOTA_BURST_SECONDS,
    QUOTA_HOLD_SECONDS_MAX,
    QUOTA_SUBJECTS_MAX,
    QUOTA_SUBJECTS_SHOWN_MAX,
)
from loghouse.shares import NO_QUOTA, OTHERS, Quotas, SubjectQuota


class QuotaCase(SynchronousTestCase):
    """Quotas on a clock that the test moves."""

    def setUp(self):
        self.clock = Clock()
        self.quotas = Quotas(self.clock.seconds)

    def use(self, subject="ann", **quota):
        """Return the use of a subject that alone has a quota."""
        self.quotas.change({subject: SubjectQuota(**quota)})
        return self.quotas.of(subject)


class RateTests(QuotaCase):
    """Bytes a second."""

    def test_burst(self):
        """A second's worth is free at once; what is beyond it holds the connection for as long."""
        use = self.use(bytes_in=MIB)
        use.receive(MIB, 0.0)
        self.assertEqual(use.hold_seconds(0.0), 0.0)
        use.receive(MIB // 2, 0.0)
        self.assertEqual(use.hold_seconds(0.0), 0.5)
        self.assertAlmostEqual(use.hold_seconds(0.4), 0.1)
        self.assertEqual(use.hold_seconds(0.5), 0.0)

    def test_refused(self):
        """A hold has a bound; who comes behind it is told how long it lasts, and nothing is counted."""
        use = self.use(bytes_in=MIB)
        use.receive(10 * MIB, 0.0)
        self.assertEqual(use.hold_seconds(0.0), QUOTA_HOLD_SECONDS_MAX)
        for now, seconds in ((0.0, 9.0), (2.0, 7.0), (6.5, 2.5)):
            error = self.assertRaises(QuotaExceededError, use.receive, MIB, now)
            self.assertEqual((error.retry_seconds, error.resource), (seconds, "bytes in"))
            self.assertIn(
                f"'ann' used its quota of {MIB} bytes a second; try again in {seconds:g} s", str(error)
            )
        use.receive(MIB, 7.0)

    def test_answers(self):
        """Answers wait likewise, one alone is refused, and none is larger than a second's worth."""
        use = self.use(bytes_out=MIB)
        self.assertEqual((use.size_max(KIB), use.size_max(8 * MIB)), (KIB, MIB))
        use.check_send(0.0)
        use.send(5 * MIB, 0.0)
        self.assertEqual(use.send_seconds(0.0), 4.0)
        self.assertEqual(self.assertRaises(QuotaExceededError, use.check_send, 1.0).retry_seconds, 3.0)
        use.check_send(2.0)

    def test_no_quota(self):
        """Who has none never waits, whatever others do."""
        greedy, other = self.use(bytes_in=MIB, bytes_out=MIB), self.quotas.of("bob")
        for _ in range(1000):
            other.receive(MIB, 0.0)
            other.send(MIB, 0.0)
            other.begin()
        greedy.receive(100 * MIB, 0.0)
        self.assertEqual((other.hold_seconds(0.0), other.send_seconds(0.0)), (0.0, 0.0))
        self.assertEqual(other.size_max(8 * MIB), 8 * MIB)
        other.check_send(0.0)

    @settings(deadline=None)
    @given(st.lists(st.tuples(st.floats(0, 3), st.integers(1, 4 * MIB)), min_size=1, max_size=60))
    def test_long_run(self, steps):
        """Over any time no more is taken than the rate, the burst, and what one hold and one request are."""
        use = self.use(bytes_in=MIB)
        now = taken = 0.0
        for pause, size in steps:
            now += pause
            try:
                use.receive(size, now)
            except QuotaExceededError as error:
                now += error.retry_seconds
                use.receive(size, now)
            taken += size
            now += use.hold_seconds(now)
            allowed = now + QUOTA_BURST_SECONDS + QUOTA_HOLD_SECONDS_MAX
            self.assertLessEqual(taken - size, allowed * MIB * 1.001)


class LatencyTests(QuotaCase):
    """Others while one subject asks for far more than it may have."""

    def test_others(self):
        """In ten simulated seconds a greedy subject gets its rate, and another waits for nobody."""
        use = self.use("greedy", bytes_in=MIB)
        other = self.quotas.of("other")
        served = refused = 0
        waits = []
        greedy_at = 0.0
        for step in range(10_000):
            now = step / 1000
            self.clock.rightNow = now
            if now >= greedy_at:
                try:
                    use.receive(256 * KIB, now)
                    served += 256 * KIB
                    greedy_at = now + use.hold_seconds(now)
                except QuotaExceededError as error:
                    refused += 1
                    greedy_at = now + error.retry_seconds
            other.receive(KIB, now)
            waits.append(other.hold_seconds(now))
        self.assertEqual(max(waits), 0.0)
        self.assertLess(abs(served / MIB - 11), 0.5)
        self.assertEqual(refused, 0)


class RuleTests(QuotaCase):
    """Which rule counts for whom."""

    def test_best_fit(self):
        """The name itself, else the longest beginning, else `*`; without one there is no quota."""
        rules = {
            name: SubjectQuota(requests=number)
            for number, name in enumerate(("*", "team-*", "team-a-*", "team-a-x"), 1)
        }
        self.quotas.change(rules)
        for subject, expected in (("bob", 1), ("team-b", 2), ("team-a-y", 3), ("team-a-x", 4), ("team", 1)):
            self.assertEqual(self.quotas.of(subject).quota.requests, expected, subject)
        self.quotas.change({"team-*": SubjectQuota(requests=2)})
        self.assertEqual(self.quotas.of("bob").quota, NO_QUOTA)

    def test_each_its_own(self):
        """A pattern gives each subject its own, not all of them one together."""
        self.quotas.change({"*": SubjectQuota(bytes_in=MIB)})
        self.quotas.of("a").receive(100 * MIB, 0.0)
        self.assertEqual(self.quotas.of("b").hold_seconds(0.0), 0.0)

    def test_change(self):
        """Other rules count at once for who is there already, and for nobody any more when there are none."""
        self.assertFalse(self.quotas.is_used)
        use = self.use(requests=1)
        self.assertTrue(self.quotas.is_used)
        use.begin()
        self.assertRaises(QuotaExceededError, use.begin)
        self.quotas.change({"*": SubjectQuota(requests=2)})
        use.begin()
        self.assertRaises(QuotaExceededError, use.begin)
        self.quotas.change({})
        self.assertFalse(self.quotas.is_used)
        use.begin()
        self.assertEqual(use.requests, 3)

    def test_connections(self):
        """Of connections there are as many as the quota says; 0 is no quota."""
        self.assertEqual(self.quotas.connections_of("ann"), 0)
        self.use(connections=3)
        self.assertEqual([self.quotas.connections_of(one) for one in ("ann", "bob")], [3, 0])


class TallyTests(QuotaCase):
    """What is counted of the subjects that have quotas."""

    def test_bytes(self):
        """Bytes count that were taken, in and out, where there is a quota of them; over other quotas, too."""
        use = self.use(bytes_in=MIB)
        use.receive(10 * MIB, 0.0)
        use.send(KIB, 0.0)
        self.assertRaises(QuotaExceededError, use.receive, KIB, 0.0)
        self.quotas.change({"*": SubjectQuota(bytes_out=MIB)})
        use.receive(KIB, 0.0)
        use.send(2 * KIB, 0.0)
        tally = self.quotas.tallies["ann"]
        self.assertEqual((tally.bytes_in, tally.bytes_out), (10 * MIB, 2 * KIB))

    def test_refusals(self):
        """Each refusal counts, by what was used up."""
        use = self.use(bytes_in=MIB, bytes_out=MIB, requests=1)
        use.receive(10 * MIB, 0.0)
        use.send(10 * MIB, 0.0)
        use.begin()
        for ask, times in ((use.check_receive, 1), (use.check_send, 2), (lambda now: use.begin(), 3)):
            for _ in range(times):
                self.assertRaises(QuotaExceededError, ask, 0.0)
        self.quotas.connection_refused("ann")
        expected = {"bytes in": 1, "bytes out": 2, "requests": 3, "connections": 1}
        self.assertEqual(self.quotas.tallies["ann"].refusals, expected)

    def test_remembered(self):
        """What was counted of a subject stays when the subject itself is forgotten."""
        self.use(bytes_in=MIB).receive(KIB, 0.0)
        self.quotas.change({"*": SubjectQuota(bytes_in=MIB)})
        self.clock.advance(1.0)
        for number in range(QUOTA_SUBJECTS_MAX + 1):
            self.quotas.of(f"s{number}")
        self.assertNotIn("ann", self.quotas._uses)
        self.quotas.of("ann").receive(KIB, 0.0)
        self.assertEqual(self.quotas.tallies["ann"].bytes_in, 2 * KIB)

    def test_bounded(self):
        """The first subjects have a tally each, the others one together; who has no quota has none."""
        self.quotas.of("nobody")
        self.quotas.change({"s*": SubjectQuota(bytes_in=MIB)})
        for number in range(QUOTA_SUBJECTS_SHOWN_MAX + 5):
            self.quotas.of(f"s{number}").receive(KIB, 0.0)
        tallies = self.quotas.tallies
        self.assertEqual(len(tallies), QUOTA_SUBJECTS_SHOWN_MAX + 1)
        self.assertEqual((tallies["s0"].bytes_in, tallies[OTHERS].bytes_in), (KIB, 5 * KIB))
        self.assertNotIn("nobody", tallies)

    def test_shown(self):
        """The uses that are shown are those of subjects with a quota now, and a tally."""
        self.quotas.change({"s*": SubjectQuota(bytes_in=MIB), "ann": SubjectQuota(requests=1)})
        for subject in ("ann", "s1", "bob"):
            self.quotas.of(subject)
        self.assertEqual([use.subject for use in self.quotas.uses_shown()], ["ann", "s1"])
        self.quotas.change({"ann": SubjectQuota(requests=1)})
        self.assertEqual([use.subject for use in self.quotas.uses_shown()], ["ann"])


class TableTests(QuotaCase):
    """The table of who used what."""

    def test_bound(self):
        """Subjects at rest are forgotten before there are too many; those that owe or ask are kept."""
        self.quotas.change({"*": SubjectQuota(bytes_in=MIB)})
        owing, asking = self.quotas.of("owing"), self.quotas.of("asking")
        owing.receive(100 * MIB, 0.0)
        asking.begin()
        for number in range(2 * QUOTA_SUBJECTS_MAX):
            self.quotas.of(f"s{number}")
            self.assertLessEqual(len(self.quotas._uses), QUOTA_SUBJECTS_MAX)
        self.assertIs(self.quotas.of("owing"), owing)
        self.assertIs(self.quotas.of("asking"), asking)

    def test_full(self):
        """When all of them are busy one more is served, and not remembered."""
        self.quotas.change({"*": SubjectQuota(requests=1)})
        for number in range(QUOTA_SUBJECTS_MAX):
            self.quotas.of(f"s{number}").begin()
        self.assertIsNot(self.quotas.of("new"), self.quotas.of("new"))
        self.assertEqual(len(self.quotas._uses), QUOTA_SUBJECTS_MAX)
