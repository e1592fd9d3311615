"""Known bugs of quotas, the audit and the word to systemd: planted one at a time, each caught by its test."""

from twisted.trial.unittest import SynchronousTestCase

from tests.mutants.named import survivors
from tests.mutants.operating import AUDITED, NOTIFIED, QUOTA
from tests.processes import PLANTED
from tests.tables import Rows


class MutantTests(SynchronousTestCase):
    """Every mutant of what operators rely on is caught."""

    skip = PLANTED

    @Rows(
        quotas=("Bugs in who is held back, refused and counted are seen.", QUOTA),
        audit=("Bugs in what is told of refusals and acts, and how much, are seen.", AUDITED),
        notifier=("Bugs in what systemd is told, and when, are seen.", NOTIFIED),
    )
    def test(self, bank):
        self.assertEqual(survivors(bank), [])
