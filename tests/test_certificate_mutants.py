"""Known bugs of certificates and policies are planted, and the test that is named for each must fail.

Without a bug those tests pass: they are part of this suite.
"""

from twisted.trial.unittest import SynchronousTestCase

from tests.mutants.certificates import CERTIFICATES
from tests.mutants.named import run_test, survivors
from tests.processes import PLANTED


class MutantTests(SynchronousTestCase):
    """Every mutant of certificates and policies is caught."""

    skip = PLANTED

    def test_certificates(self):
        """Bugs in who counts, and in what files mean, are seen by tests that pass without them."""
        for name in sorted({one.by for one in CERTIFICATES}):
            self.assertTrue(run_test(name), name)
        self.assertEqual(survivors(CERTIFICATES), [])
