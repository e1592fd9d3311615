"""Known bugs that one named test each must catch: how they are written down, and how they are tried."""

import gc
import importlib
import unittest
from dataclasses import dataclass

from loghouse.testing.mutation import Mutant, planted
from tests.mutants import hunted


@dataclass(frozen=True, slots=True)
class Caught:
    """A known bug, and the test (`module:Class.method`, below `tests`) that catches it."""

    mutant: Mutant
    by: str


def bug(name, citation, description, *edits, by):
    """Return the bug of `edits`, (target, old, new) each, that the test `by` catches."""
    return Caught(hunted.bug(name, citation, description, *edits), by)


def run_test(name):
    """Run a test by its name; return whether it passed."""
    module_name, _, path = name.partition(":")
    class_name, _, method = path.partition(".")
    case = getattr(importlib.import_module(f"tests.{module_name}"), class_name)(method)
    result = unittest.TestResult()
    case.run(result)
    return result.wasSuccessful() and result.testsRun == 1


def survivors(bank):
    """The bugs that their tests do not see."""
    survived = []
    gc.freeze()  # each collection then looks at what the tests below made, not at everything that is imported
    try:
        for caught in bank:
            # What a failed test left must not be collected while `ast` parses (CPython gh-106905).
            gc.collect()
            with planted(caught.mutant):
                if run_test(caught.by):
                    survived.append(caught.mutant.name)
    finally:
        gc.unfreeze()
    gc.collect()
    return survived
