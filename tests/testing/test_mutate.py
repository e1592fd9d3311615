"""Random mutants: which changes there are, that they are made, and what is judged by which tests."""

import ast
import os
import re
import subprocess
import sys
import textwrap
import time

from twisted.trial.unittest import SynchronousTestCase

from bench.mutate import child
from bench.mutate.campaign import ROOT, Sources, Verdict, read_equivalent
from bench.mutate.nearest import FAR, Nearest
from bench.mutate.operators import applied, changes, probed
from bench.mutate.report import Score, written
from tests import processes


def parse(source):
    return ast.parse(textwrap.dedent(source))


def texts(source):
    """Return the diffs of all changes, and see that each can be compiled."""
    tree = parse(source)
    for change in changes(tree):
        compile(applied(tree, change), "x", "exec")
    return [change.text(tree) for change in changes(tree)]


class OperatorTests(SynchronousTestCase):
    """An operator makes of a piece of code what a careless change could."""

    def become(self, old, *new):
        """Check that these are all changes of a line of a function."""
        found = texts(f"def f():\n  while x:\n    {old}")
        lines = [text.splitlines()[-1].removeprefix("+").strip() for text in found]
        self.assertEqual(lines, ["while not x:", *new])

    def test_conditions(self):
        """Comparisons move by one or turn round, `and` becomes `or`, either side is left out."""
        self.become("a(b < c)", "pass", "a(b <= c)")
        self.become("a(b is c)", "pass", "a(b is not c)")
        self.become("a(b and c)", "pass", "a(b or c)", "a(c)", "a(b)")
        self.become("a(not b)", "pass", "a(b)")
        self.become("a(b if c else d)", "pass", "a(b if not c else d)", "a(b)", "a(d)")
        self.become("a([b for b in c if d])", "pass", "a([b for b in c])")

    def test_numbers(self):
        """Numbers are one more or less, sums are differences."""
        self.become("a(2)", "pass", "a(3)", "a(1)")
        self.become("a(True)", "pass", "a(False)")
        self.become("a += b", "a -= b", "pass")
        self.become("a(b[c:])", "pass", "a(b[:])")
        self.become("a(min(b, c))", "pass", "a(max(b, c))")

    def test_statements(self):
        """Statements go, results are None, loops end early, errors are swallowed or let through."""
        self.become("self.a = b", "pass")
        self.become("a = b")
        self.become("raise a(1)", "pass")
        self.become("return a", "return None")
        self.become("return True", "return None", "return False")
        self.become("return False", "return True")
        self.become("break", "continue")
        self.become("a(b, c, d=e)", "pass", "a(c, b, d=e)", "a(b, c)")
        self.become("return ''", "return '?'")
        found = texts("try:\n  a()\nexcept B:\n  c()\nfinally:\n  d()")
        self.assertEqual(found, ["-    d()\n+    pass", "-a()\n+pass", *["-    c()\n+    pass"], *found[3:]])
        self.assertEqual(found[3:], ["-    c()\n+    raise", "-c()\n+pass", "-d()\n+pass"])

    def test_truth(self):
        """A result that is true or false is turned round: None would be false as well."""
        source = "{} f() -> bool:\n  if a: return False\n  def g(): return b\n  return {}"
        for kind in ("def", "async def"):
            found = texts(source.format(kind, "c"))
            self.assertEqual(
                [text.splitlines()[-1].strip("+ ") for text in found],
                ["if not a:", "return True", "return None", "return not c"],
            )
        found = texts(source.format("def", "c < d"))
        self.assertEqual(found[-2:], ["-return c < d\n+return not c < d", "-return c < d\n+return c <= d"])

    def test_left_alone(self):
        """Texts, annotations, log events and declarations are no bugs."""
        source = '''
            """Doc 1."""
            import a
            from typing import Protocol
            if TYPE_CHECKING:
                b(1)
            @c(2)
            class D(Protocol):
                def e(self): return 3
            @f(4)
            def g(h: i[5]) -> j[6]:
                self.logger.info("k", l=7)
                assert m == 8
                raise N(9)
        '''
        self.assertEqual(texts(source), ["-raise N(9)\n+pass"])

    def test_protocols(self):
        """A protocol of `typing` only declares; Twisted's protocols are classes that run."""
        for source, count in (
            ("from typing import Any, Protocol\nclass A(Protocol): b = 0", 0),
            ("from typing import Protocol\nclass A(B, Protocol[T]): b = 0", 0),
            ("from typing import Protocol as P\nclass A(P): b = 0", 0),
            ("import typing\nclass A(typing.Protocol): b = 0", 0),
            ("from twisted.internet.protocol import Protocol\nclass A(Protocol): b = 0", 1),
            ("from twisted.internet import protocol\nclass A(protocol.Protocol): b = 0", 1),
            ("class A(ProtocolError): b = 0", 1),
        ):
            self.assertEqual(len(texts(source)), count, source)

    def test_places(self):
        """A change knows its function, its line, and whether only an import comes there."""
        source = """
            a = 0
            class B:
                c = 0
                def d(self, e=0):
                    return (
                        0)
        """
        found = [(one.scope, one.line, one.is_at_import) for one in changes(parse(source)) if one.path]
        expected = [("", 2, True), ("B", 4, True), ("B.d", 5, True), ("B.d", 6, False), ("B.d", 7, False)]
        self.assertEqual(found, expected)

    def test_probes(self):
        """A probe stands right before its statement, also when several are in one list or inside another."""
        tree = parse("def f():\n  if a:\n    b(1)\n  c(2)")
        numbered = [(change.statement, number) for number, change in enumerate(changes(tree))]
        calls = ast.unparse(probed(tree, numbered, "p")).replace("\n", " ").split()
        self.assertEqual(
            " ".join(calls), "def f(): p(0) if a: p(3) p(2) p(1) b(1) p(6) p(5) p(4) c(2)".replace("  ", " ")
        )


class ChoiceTests(SynchronousTestCase):
    """Which mutants, and which tests."""

    def test_same_seed(self):
        """The same seed draws the same mutants, another one draws others; lines restrict them."""
        file = ROOT / "loghouse/shares.py"
        sources = Sources()
        drawn = [[one.key for one in sources.draw([file], 20, seed)] for seed in ("1", "1", "2")]
        self.assertEqual(drawn[0], drawn[1])
        self.assertNotEqual(drawn[0], drawn[2])
        line = sources.draw([file], 1, "1")[0].change.line
        self.assertEqual({one.change.line for one in sources.draw([file], 99, "1", {file: {line}})}, {line})

    @processes.thorough
    def test_distance(self):
        """What names the module is nearer than what names its package; some tests judge nothing."""
        nearest = Nearest(ROOT)
        for test, distance in (
            ("tests.raft.test_parts", 0),
            ("tests.raft.test_paper", 3),
            ("tests.test_text", FAR),
        ):
            self.assertEqual(nearest.distance(test, "loghouse.raft.raft_log"), distance, test)
        self.assertIn("tests.raft.test_parts", nearest.tests())
        for module in ("tests.mutants.test_mutants", "tests.test_driving_mutants", "tests.raft.group"):
            self.assertNotIn(module, nearest.tests())

    @processes.thorough
    def test_equivalent(self):
        """Each mutant that is listed as equivalent is one of the product's, and has a reason."""
        sources = Sources()
        listed = read_equivalent()
        scopes = {(module, scope) for module, scope, _ in listed}
        known = set()
        for module in sorted({module for module, _ in scopes}):
            file = (ROOT / module.replace(".", "/")).with_suffix(".py")
            # The diff of a mutant takes a while to make: of the functions that are listed alone.
            found = changes(sources.tree(file))
            known |= {sources.mutant(file, one).key for one in found if (module, one.scope) in scopes}
        self.assertEqual([key for key in listed if key not in known], [])
        self.assertTrue(all(listed.values()))


class ReportTests(SynchronousTestCase):
    """The numbers say what was judged."""

    def test_score(self):
        """What is equivalent or was not tried is not judged; what no test reaches survived."""
        outcomes = ["caught"] * 6 + ["survived", "not covered", "equivalent", "not tried"]
        score = Score.of([Verdict(None, outcome, is_hung=outcome == "caught") for outcome in outcomes])
        self.assertEqual((score.judged, score.hung, score.percent), (8, 6, 75))
        self.assertEqual(Score.of([]).percent, 100)

    def test_rows(self):
        """A package has one row, in alphabetical order; the rest of the page stays."""
        text = "# Page\n\n| a |\n|---|\n| raft | old |\n| text | old |\n\nEnd.\n"
        score = Score.of([Verdict(None, "caught")])
        text = written(written(text, "raft", 2, score), "net", 1, score)
        rows = ["| net | 1 | 1 | 1 | 0 | 0 | 0 | 0 | 100 % |", "| raft | 2 | 1 | 1 | 0 | 0 | 0 | 0 | 100 % |"]
        self.assertEqual(
            text, "\n".join(["# Page", "", "| a |", "|---|", *rows, "| text | old |", "", "End.", ""])
        )


class CommandTests(SynchronousTestCase):
    """The command judges real mutants by real tests."""

    skip = processes.SKIP

    def test_bounds(self):
        """What computes for ever is ended by its processor time, what waits for ever by the clock."""

        def compute(tell):
            tell("begin a")
            child._bound_cpu(0.05)
            while True:
                pass

        def wait(tell):
            tell("begin b")
            time.sleep(3600)

        def end(tell):
            tell("begin c")
            os._exit(1)

        for work, seconds, lines in (
            (compute, 3600.0, ["begin a", "hung"]),
            (wait, 0.3, ["begin b", "hung"]),
            (end, 3600.0, ["begin c"]),
        ):
            self.assertEqual(child.run_forked(work, lambda line, seconds=seconds: seconds), lines)

    def test_shares(self):
        """Mutants of a small module are caught by its tests, and the bound of the score is kept."""
        command = [sys.executable, "-m", "bench.mutate", "text", "--count=6", "--jobs=1"]
        command += ["--tests", "tests.test_text", "--at-least"]
        environ = {**os.environ, "PYTHONPATH": str(ROOT)}
        for bound, status in (("0", 0), ("101", 1)):
            done = subprocess.run(
                [*command, bound], capture_output=True, text=True, env=environ, check=False, cwd=ROOT
            )
            self.assertEqual((done.returncode, done.stderr), (status, ""))
            self.assertIn("\ncaught loghouse/text.py:", done.stdout)
            score = re.search(
                r"^text: (\d) judged, .*; (\d) equivalent, 0 not tried$", done.stdout, re.MULTILINE
            )
            self.assertEqual(sum(map(int, score.groups())), 6)
