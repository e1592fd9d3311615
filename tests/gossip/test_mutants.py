"""Known bugs are planted one at a time, and the test that is named for each must fail.

Without a bug those tests pass: they are part of this suite.
"""

import importlib
import unittest

from twisted.trial.unittest import SynchronousTestCase

from loghouse.testing.mutation import planted
from tests.mutants.gossip import GOSSIP


def run_test(name):
    """Run a test by its name; return whether it passed."""
    module_name, _, path = name.partition(":")
    class_name, _, method = path.partition(".")
    case = getattr(importlib.import_module(f"tests.gossip.{module_name}"), class_name)(method)
    result = unittest.TestResult()
    case.run(result)
    return result.wasSuccessful() and result.testsRun == 1


class MutantTests(SynchronousTestCase):
    """Every mutant of membership is caught."""

    def test_names(self):
        """No two mutants have the same name."""
        names = [caught.mutant.name for caught in GOSSIP]
        self.assertEqual(len(names), len(set(names)))

    def test_caught(self):
        """Each bug makes the test that is named for it fail."""
        survivors = []
        for caught in GOSSIP:
            with planted(caught.mutant):
                if run_test(caught.by):
                    survivors.append(caught.mutant.name)
        self.assertEqual(survivors, [])
