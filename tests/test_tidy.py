"""House rules that no linter knows (style.md of the design, CONTRIBUTING.md): sizes, names, leftovers."""

import ast
import importlib
import os
import pkgutil
import re
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from loghouse.testing.mutation import Mutant, changed_code, find_function
from tests import mutants
from tests.processes import thorough
from tests.sources import tree_of

ROOT = Path(__file__).resolve().parent.parent
LINE_LENGTH_MAX = 110
FUNCTION_LINES_MAX = 70
FILE_LINES_MAX = 600

# Files that may be longer, each with the reason. Take an entry out when its file shrinks.
LONGER_FILES: dict[str, str] = {}
# Functions that may be longer, as "path:name", each with the reason.
LONGER_FUNCTIONS: dict[str, str] = {}

PRINT_ALLOWED = ("loghouse/cli/", "loghouse/testing/", "bench/", "examples/")
BANNED_WORDS = {"manager", "handler", "processor", "engine", "helper", "helpers", "util", "utils", "misc"}
BANNED_NAMES = {"data", "info"}  # fine as a part of a name: data_dir, dataReceived

# Text of one machine or one workplace has no business in a repository.
PLACES = re.compile(r"(?<![\w.])/(?:work|root|home/[a-z]\w*|Users/[a-z]\w*)/[\w.]", re.IGNORECASE)
# A leftover must say why, or where it is tracked: "TODO: because ..." alone says neither.
LEFTOVER = re.compile(r"\b(?:TODO|FIXME|XXX|HACK)\b(?!\([^)\s][^)]*\): \S)")
RUN_BY_PYTEST = re.compile(r"\bskip = (?:processes\.)?SKIP\b")
TEXT_SUFFIXES = {".py", ".md", ".cfg", ".toml", ".yaml", ".yml", ".proto", ".conf", ".csv", ".txt", ".sh", ""}


def sources(*folders):
    for folder in folders:
        for path in sorted((ROOT / folder).rglob("*.py")):
            if "api/v1" not in path.as_posix():
                yield path


def texts():
    """Every text file of ours that git would take."""
    skipped = {"__pycache__", "build", "dist", "dev"}
    # Not `rglob`: other tests make and remove folders at the top meanwhile.
    for folder, folders, files in os.walk(ROOT):
        at_top = Path(folder) == ROOT
        folders[:] = sorted(
            name
            for name in folders
            if name not in skipped
            and (name == ".ci" or not name.startswith("."))
            and not (at_top and (name.startswith(("tests.", "_trial_temp")) or name.endswith(".egg-info")))
        )
        for name in sorted(files):
            path = Path(folder, name)
            if path.suffix in TEXT_SUFFIXES and not name.startswith(".") and "api/v1" not in path.as_posix():
                yield path


def relative(path):
    return path.relative_to(ROOT).as_posix()


def definitions(tree):
    kinds = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef
    return [node for node in ast.walk(tree) if isinstance(node, kinds)]


def words_of(name):
    """The words of a snake_case or CamelCase name, in lower case."""
    return {word.lower() for word in re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+", name)}


@thorough
class SizeTests(SynchronousTestCase):
    """Lines, functions and files stay readable."""

    def test_lines(self):
        """No line of Python is longer than the limit; notes for tools at its end do not count."""
        long = [
            f"{relative(path)}:{number}: {len(line)} columns"
            for path in sources("loghouse", "tests", "twisted")
            for number, line in enumerate(path.read_text().splitlines(), 1)
            if len(re.sub(r"  # (?:type: ignore|noqa|pragma).*", "", line)) > LINE_LENGTH_MAX
        ]
        self.assertEqual(long, [])

    def test_functions(self):
        """No function of ours is longer than the limit."""
        long = {}
        for path in sources("loghouse", "twisted"):
            for node in definitions(tree_of(path)):
                line_count = node.end_lineno - node.lineno + 1
                if not isinstance(node, ast.ClassDef) and line_count > FUNCTION_LINES_MAX:
                    long[f"{relative(path)}:{node.name}"] = line_count
        self.assertEqual({k: v for k, v in long.items() if k not in LONGER_FUNCTIONS}, {})

    def test_files(self):
        """No file is longer than the limit, unless it is listed with a reason."""
        long = {
            relative(path): line_count
            for path in sources("loghouse", "tests", "twisted")
            if (line_count := len(path.read_text().splitlines())) > FILE_LINES_MAX
        }
        self.assertEqual({k: v for k, v in long.items() if k not in LONGER_FILES}, {})


@thorough
class NameTests(SynchronousTestCase):
    """Names say what a thing is."""

    def test_banned_words(self):
        """No module, class or function of ours is a manager, handler, helper and the like."""
        found = []
        for path in sources("loghouse"):
            names = [path.stem, *(node.name for node in definitions(tree_of(path)))]
            found += [
                f"{relative(path)}: {name}"
                for name in names
                if words_of(name) & BANNED_WORDS or name.lower() in BANNED_NAMES
            ]
        self.assertEqual(found, [])

    def test_words_are_found(self):
        """The rule sees a banned word in any spelling."""
        for name in ("RequestHandler", "string_utils", "HTTPManager", "_handler"):
            self.assertTrue(words_of(name) & BANNED_WORDS, name)
        for name in ("handle", "handlebar", "Utility", "data_dir"):
            self.assertFalse(words_of(name) & BANNED_WORDS, name)


@thorough
class KnobTests(SynchronousTestCase):
    """Whatever a run of CI leaves out, another one does."""

    def test_run_by_one_runner_alone(self):
        """Where coverage is counted, the least is done; trial does the rest, but for tests of processes."""
        found = []
        for path in sources("tests"):
            if relative(path).startswith(("tests/cluster/", "tests/compat/", "tests/e2e/")):
                continue  # pytest runs all of these
            for node in ast.walk(tree_of(path)):
                if isinstance(node, ast.ClassDef) and re.search(
                    r"\bskip = (processes\.)?SKIP\b", ast.unparse(node)
                ):
                    marks = [ast.unparse(mark) for one in definitions(node) for mark in one.decorator_list]
                    left_out = {"thorough", "in_children"} & {mark.rpartition(".")[2] for mark in marks}
                    found += [f"{relative(path)}:{node.name}: {mark}" for mark in left_out]
        self.assertEqual(found, [])


@thorough
class LeftoverTests(SynchronousTestCase):
    """Nothing of the workshop is left in the house."""

    def test_print(self):
        """`print` is for the command line and for test support."""
        found = []
        for path in sources("loghouse", "twisted"):
            if relative(path).startswith(PRINT_ALLOWED):
                continue
            lines = path.read_text().splitlines()
            for node in ast.walk(tree_of(path)):
                called = isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
                if called and node.func.id == "print" and "noqa: T201 - " not in lines[node.lineno - 1]:
                    found.append(f"{relative(path)}:{node.lineno}")
        self.assertEqual(found, [])

    def test_leftovers(self):
        """A TODO says in brackets where it is tracked or what it waits for, and then what is to do."""
        found = [
            f"{relative(path)}:{number}: {line.strip()}"
            for path in texts()
            if path != Path(__file__).resolve()
            for number, line in enumerate(path.read_text(errors="replace").splitlines(), 1)
            if LEFTOVER.search(line)
        ]
        self.assertEqual(found, [])
        self.assertTrue(LEFTOVER.search("# TODO: later"))
        self.assertFalse(LEFTOVER.search("# TODO(when Twisted 27 is out): use its own"))

    def test_places(self):
        """No file names a path of somebody's machine."""
        found = [
            f"{relative(path)}:{number}: {line.strip()}"
            for path in texts()
            for number, line in enumerate(path.read_text(errors="replace").splitlines(), 1)
            if PLACES.search(line)
        ]
        self.assertEqual(found, [])
        self.assertTrue(PLACES.search("open('" + "/" + "home/ann/x')"))
        self.assertFalse(PLACES.search("https://example.com/work/x"))

    def test_no_init_beside_the_plugin(self):
        """An __init__.py under twisted/ would hide Twisted's own package."""
        self.assertEqual([relative(path) for path in (ROOT / "twisted").rglob("__init__.py")], [])


@thorough
class PlantedBugTests(SynchronousTestCase):
    """The banks of planted bugs go with the code; others try whether each bug is caught, for minutes."""

    def test_texts(self):
        """What a planted bug changes is in the code once, and the test that is to catch it is there."""
        stale = []
        for bug in known_bugs():
            mutant = getattr(bug, "mutant", bug)
            try:
                for target in {edit.target for edit in mutant.edits}:
                    edits = [edit for edit in mutant.edits if edit.target == target]
                    changed_code(find_function(target), edits)
                if bug is not mutant:
                    module, _, path = bug.by.partition(":")
                    case, _, method = path.partition(".")
                    getattr(getattr(importlib.import_module(f"tests.{module}"), case), method)
            except (LookupError, AttributeError) as error:
                stale.append(f"{mutant.name}: {error}")
        self.assertEqual(stale, [])

    def test_all(self):
        """All the bugs are looked at."""
        self.assertGreater(len({getattr(bug, "mutant", bug).name for bug in known_bugs()}), 250)


def known_bugs():
    """The bugs of all banks, bare or with the tests that catch them."""
    for found in pkgutil.iter_modules(mutants.__path__):
        for value in vars(importlib.import_module(f"tests.mutants.{found.name}")).values():
            if isinstance(value, tuple):
                yield from (bug for bug in value if isinstance(getattr(bug, "mutant", bug), Mutant))


@thorough
class EventTests(SynchronousTestCase):
    """Log events do not get in the way of Twisted's own."""

    def test_keys(self):
        """No event has a key of Twisted's old observers: they take `warning` for one of Python's."""
        taken = {
            "warning",
            "isError",
            "failure",
            "message",
            "printed",
            "system",
            "time",
            "filename",
            "category",
        }
        wrong = [
            f"{relative(path)}:{call.lineno}: {keyword.arg}"
            for path in sources("loghouse")
            for call in ast.walk(tree_of(path))
            if isinstance(call, ast.Call)
            and isinstance(call.func, ast.Attribute)
            and isinstance(call.func.value, ast.Attribute | ast.Name)
            and getattr(call.func.value, "attr", getattr(call.func.value, "id", "")) == "logger"
            for keyword in call.keywords
            if keyword.arg in taken
        ]
        self.assertEqual(wrong, [])
