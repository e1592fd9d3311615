"""The simulator catches every known bug that is planted.

Here only the cheap ones, unless `LOGHOUSE_SIM_SECONDS` is set; `python -m loghouse.testing.sim --ci`
hunts them all.
"""

import importlib
import os
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from loghouse.testing.bank import hunt, options_for
from loghouse.testing.mutation import Edit, Mutant, find_function, planted
from loghouse.testing.worlds import CORE, FULL
from tests.mutants import BANK, FULL_BANK
from tests.mutants.named import Caught
from tests.processes import long

CHEAP = {
    "vote-twice",
    "pre-vote-counted",
    "ack-before-durable",
    "leader-counts-memory",
    "commit-goes-back",
    "producers-survive-cut",
    "no-sync",
    "term-not-synced",
    "new-segment-name-lost",
    "damage-is-torn-tail",
    "trim-too-far",
    "after-persist-sent-now",
    "dirty-read",
}
CHEAP_FULL = {
    "promise-before-disk",
    "durable-when-handed-over",
    "vote-lost-on-the-way",
    "tail-not-woken",
    "retry-is-another-batch",
    "miss-without-the-leader",
}


class MutantTests(SynchronousTestCase):
    """A planted bug breaks a rule within some seeds, and those seeds are clean without it."""

    def test_bank(self):
        """There are at least 30 bugs of the core, 15 of whole nodes, each with a name and a citation."""
        for bank, count, cheap in ((BANK, 30, CHEAP), (FULL_BANK, 15, CHEAP_FULL)):
            names = [mutant.name for mutant in bank]
            self.assertEqual(len(names), len(set(names)))
            self.assertGreaterEqual(len(names), count)
            self.assertEqual(cheap - set(names), set())
        for mutant in (*BANK, *FULL_BANK):
            self.assertTrue(mutant.citation and mutant.description, mutant.name)

    def test_all_can_be_planted(self):
        """Every bug fits the product as it is now, and leaves no trace when it is gone."""
        for mutant in (*BANK, *FULL_BANK):
            functions = [find_function(edit.target) for edit in mutant.edits]
            before = [function.__code__ for function in functions]
            with planted(mutant):
                for function, code in zip(functions, before, strict=True):
                    self.assertIsNot(function.__code__, code, mutant.name)
            self.assertEqual([function.__code__ for function in functions], before, mutant.name)

    def test_only_the_product_is_edited(self):
        """No bug is planted in the simulator itself: what is caught there must be what ships."""
        edits = [edit for mutant in all_mutants() for edit in mutant.edits]
        wrong = [edit.target for edit in edits if not _is_product(edit.target)]
        self.assertEqual(wrong, [])
        self.assertGreater(len(edits), 200)

    def test_text_that_is_gone(self):
        """A bug whose place in the product changed is noticed, not silently left out."""
        edit = Edit("loghouse.raft.raft_log:RaftLog.commit", "no such text", "")
        mutant = Mutant(name="x", citation="x", description="x", edits=(edit,))
        self.assertRaises(LookupError, planted(mutant).__enter__)

    @long
    def test_caught(self):
        """The bugs are caught, each within its budget."""
        everything = "LOGHOUSE_SIM_SECONDS" in os.environ
        survivors = []
        for mutant in BANK:
            if everything or mutant.name in CHEAP:
                catch = hunt(mutant, seconds=60)
                if not catch.rule:
                    survivors.append((catch.mutant, catch.violation))
        self.assertEqual(survivors, [])

    @long
    def test_caught_in_whole_nodes(self):
        """The bugs of the driver and what is around it are caught, each within its budget."""
        everything = "LOGHOUSE_SIM_SECONDS" in os.environ
        survivors = []
        for mutant in FULL_BANK:
            if everything or mutant.name in CHEAP_FULL:
                catch = hunt(mutant, seconds=60, world=FULL)
                self.flushLoggedErrors()
                if not catch.rule:
                    survivors.append((catch.mutant, catch.violation))
        self.assertEqual(survivors, [])

    def test_options_are_taken(self):
        """What a bug asks of the swarm is what its seeds get, and such a seed is clean without the bug."""
        mutant = next(mutant for mutant in BANK if mutant.name == "old-term-commit")
        options = options_for(mutant, 3)
        self.assertEqual((options.voters, options.raft.append_size_max), (3, 1))
        self.assertEqual({kind for kind, _ in options.faults}, {"crash", "crash_point"})
        self.assertIsNone(CORE.run(options).violation)


def all_mutants():
    """Yield every planted bug: of the banks, and those that a named test catches."""
    for path in sorted(Path(__file__).parent.glob("*.py")):
        if path.stem not in ("__init__", "test_mutants"):
            for bank in vars(importlib.import_module(f"tests.mutants.{path.stem}")).values():
                for bug in bank if isinstance(bank, tuple) else ():
                    if isinstance(bug, Caught | Mutant):
                        yield bug.mutant if isinstance(bug, Caught) else bug


def _is_product(target):
    return target.startswith("loghouse.") and not target.startswith("loghouse.testing.")
