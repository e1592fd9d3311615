"""The documents are true: what they name exists, and what they cite is in this repository."""

import argparse
import ast
import importlib
import re
import shlex
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from xml.etree import ElementTree

from twisted.trial.unittest import SynchronousTestCase

from loghouse import errors
from loghouse.cli.main import make_parser
from loghouse.config.declaring import settings_of
from loghouse.config.settings import NodeConfig, all_paths, example_text
from loghouse.errors import LoghouseError
from loghouse.http.metric_table import TABLE
from loghouse.protocol.failures import FAILURE_FIELDS
from tests.mutants import BANK, FULL_BANK
from tests.mutants.named import Caught
from tests.processes import thorough
from tests.test_tidy import ROOT, relative, sources, texts

DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
CODE = re.compile(r"```[a-z]*\n(.*?)```|`([^`\n]+)`", re.DOTALL)
# The documents whose numbered sections are cited, by the name that a citation uses.
CITED = {name: ROOT / "docs" / f"{name}.md" for name in ("design", "wire_format", "disk_format")}
CITATION = re.compile(
    r"\b(architecture|design|house|reliability|style|wire_format|disk_format) ([A-Z]?\d+)\b"
)
# What a path begins with when it is one of this repository's.
TOPS = ("loghouse/", "tests/", "docs/", "deploy/", "bench/", "examples/", "proto/", "certs/")
TOPS = (*TOPS, "twisted/", ".ci/")
# What looks like a path and is none: the protocol's name in TLS.
NO_PATHS = {"loghouse/1"}
# A dotted name of the package, with the name of a class behind it.
DOTTED = re.compile(r"(?<![\w./-])loghouse(?:\.[a-z_0-9]+)+(?:\.[A-Z]\w*)?(?![\w/-])")


def code_of(document: Path) -> Iterator[str]:
    """Every piece of code in a document: a block's lines, one by one, and what stands between backticks."""
    for block, inline in CODE.findall(document.read_text()):
        yield from (re.sub(r"\\\n\s*", "", block).splitlines() if block else [inline])


def commands_of(document: Path, program: str) -> Iterator[list[str]]:
    """The calls of a program in a document, as words, without comments, pipes and what follows them."""
    for line in code_of(document):
        for part in re.split(r"\||&&|;|\$\(", line):
            try:
                words = shlex.split(part, comments=True)
            except ValueError:
                continue  # not a command line
            while words and (words[0] == "$" or re.match(r"[A-Z_]+=", words[0])):
                words.pop(0)
            is_complaint = len(words) > 1 and words[1].endswith(":")  # `loghouse produce: no log named ...`
            if words and words[0].removeprefix(".venv/bin/") == program and not is_complaint:
                yield words[1:]


def subparsers_of(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            return dict(action.choices)
    return {}


def problem_of(words: list[str]) -> str:
    """What is wrong with a call of the `loghouse` command: a subcommand or an option that does not exist."""
    parser, path = make_parser(), "loghouse"
    for word in words:
        if word.startswith("-"):
            option = word.split("=")[0]
            if option not in parser._option_string_actions:
                return f"{path}: no option {option}"
        elif subparsers_of(parser):
            # `loghouse cluster add|remove` and `loghouse produce / consume` name several at once.
            for name in word.strip(".,").split("|"):
                if name not in subparsers_of(parser):
                    return f"{path}: no command {name!r}"
            path, parser = f"{path} {name}", subparsers_of(parser)[name]
    return ""


def anchors_of(document: Path) -> set[str]:
    titles = re.findall(r"^#+ (.+)$", document.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@thorough
class DocumentTests(SynchronousTestCase):
    """Commands, paths, links and citations."""

    def test_make_targets(self):
        """Every `make` target that a document names is in the Makefile."""
        rules = re.findall(r"^([\w.-]+):(?!=)", (ROOT / "Makefile").read_text(), re.MULTILINE)
        wrong = [
            f"{relative(document)}: make {word}"
            for document in DOCUMENTS
            for words in commands_of(document, "make")
            for word in words
            if re.fullmatch(r"[a-z][\w-]*", word) and word not in rules
        ]
        self.assertEqual(wrong, [])

    def test_commands(self):
        """Every `loghouse` command and option that a document names exists."""
        wrong = [
            f"{relative(document)}: {problem}"
            for document in DOCUMENTS
            for words in commands_of(document, "loghouse")
            if (problem := problem_of(words))
        ]
        self.assertEqual(wrong, [])

    def test_modules_that_are_run(self):
        """Every module of ours that a document runs with `python -m` can be found."""
        wrong = [
            f"{relative(document)}: {words}"
            for document in DOCUMENTS
            for program in ("python", "python3")
            for words in commands_of(document, program)
            if words[:1] == ["-m"]
            and words[1].startswith(("loghouse", "bench", "tests", "examples"))
            and find_spec(words[1]) is None
        ]
        self.assertEqual(wrong, [])

    def test_paths(self):
        """Every path of this repository that a document names exists; `*` stands for anything."""
        wrong = []
        for document in DOCUMENTS:
            if document.name == "CHANGELOG.md":
                continue  # it tells of what is gone
            for line in code_of(document):
                for word in re.findall(r"(?<![\w./-])[\w.*/-]+", line):
                    path = word.rstrip(".,/")
                    if word.startswith(TOPS) and path not in NO_PATHS and not _is_there(path):
                        wrong.append(f"{relative(document)}: {word}")
        self.assertEqual(wrong, [])

    def test_modules(self):
        """Every module of the package that a document names by its dotted name exists, or has that name."""
        wrong = [
            f"{relative(document)}: {name}"
            for document in DOCUMENTS
            for line in code_of(document)
            for name in DOTTED.findall(line)
            if not _can_be_found(name)
        ]
        self.assertEqual(wrong, [])

    def test_links(self):
        """Every link to a file, and to a title in one, leads somewhere."""
        wrong = []
        for document in DOCUMENTS:
            for link in re.findall(r"\]\(([^)\s]+)\)", document.read_text()):
                if "://" in link:
                    continue
                name, _, anchor = link.partition("#")
                target = document.parent / name if name else document
                if not target.exists() or (anchor and anchor not in anchors_of(target)):
                    wrong.append(f"{relative(document)}: {link}")
        self.assertEqual(wrong, [])

    def test_citations(self):
        """A numbered section that code or documents cite is one of a document in this repository."""
        sections = {
            name: set(re.findall(r"^## (\d+)\.", path.read_text(), re.MULTILINE))
            for name, path in CITED.items()
        }
        wrong = []
        for path in texts():
            if path.suffix not in {".py", ".md"}:
                continue
            for name, number in CITATION.findall(path.read_text()):
                if number not in sections.get(name, ()):
                    wrong.append(f"{relative(path)}: {name} {number}")
        self.assertEqual(wrong, [])

    def test_decisions(self):
        """Every ADR that is cited exists, and each is in the index by its title."""
        records = sorted((ROOT / "docs" / "adr").glob("0*.md"))
        numbers = {int(record.name[:4]) for record in records}
        wrong = [
            f"{relative(path)}: ADR {number}"
            for path in [*sources("loghouse", "tests", "bench", "examples"), *DOCUMENTS]
            for number in re.findall(r"\bADRs? (\d+)", path.read_text())
            if int(number) not in numbers
        ]
        self.assertEqual(wrong, [])
        index = (ROOT / "docs" / "adr" / "README.md").read_text()
        missing = [record.name for record in records if f"]({record.name})" not in index]
        self.assertEqual(missing, [])


def _is_there(path: str) -> bool:
    """Whether a path is in the repository, is found by protoc, or is made by use, as certificates are."""
    return any(ROOT.glob(path)) or (ROOT / "proto" / path).exists() or path.startswith("certs/")


def _can_be_found(name: str) -> bool:
    """Whether a dotted name is a module, or something in one."""
    parts = name.split(".")
    for count in range(len(parts), 0, -1):
        try:
            spec = find_spec(".".join(parts[:count]))
        except ModuleNotFoundError:
            continue
        if spec is not None:
            rest = parts[count:]
            if not rest:
                return True
            text = Path(spec.origin or "").read_text()
            return re.search(rf"\b{re.escape(rest[0])}\b", text) is not None
    return False


def section_of(name: str, title: str) -> str:
    """The text of a page of docs/ below a title of the second rank."""
    text = (ROOT / "docs" / f"{name}.md").read_text().partition(f"\n## {title}\n")[2]
    assert text, f"{name}.md has no section {title!r}"
    return text.partition("\n## ")[0]


def rows_of(text: str) -> list[list[str]]:
    """The rows of all tables in a text, without their heads: cells without what stands around them."""
    lines = [line for line in text.splitlines() if line.startswith("|")]
    rows = [[cell.strip() for cell in line.removeprefix("|").removesuffix("|").split("|")] for line in lines]
    heads = {index + step for index, line in enumerate(lines) if line.startswith("|---") for step in (-1, 0)}
    return [row for index, row in enumerate(rows) if index not in heads]


@thorough
class MapTests(SynchronousTestCase):
    """docs/README.md is where a newcomer begins."""

    def test_all_pages(self):
        """The map leads to each page of docs/, and the repository's README to the map."""
        links = set(re.findall(r"\]\(([^)#\s]+)", (ROOT / "docs" / "README.md").read_text()))
        pages = {path.name for path in (ROOT / "docs").glob("*.md")} - {"README.md"}
        self.assertEqual(sorted(pages - links), [])
        self.assertIn("](docs/README.md)", (ROOT / "README.md").read_text())

    def test_pictures(self):
        """Each drawing is small, has words for those who do not see it, and colours for light and dark."""
        drawings = sorted((ROOT / "docs" / "images").glob("*.svg"))
        self.assertTrue(drawings)
        for path in drawings:
            text = path.read_text()
            self.assertLess(len(text), 10_000, path.name)
            root = ElementTree.fromstring(text)
            found = {element.tag.rpartition("}")[2]: element.text for element in root}
            self.assertTrue(found["title"] and found["desc"], path.name)
            self.assertIn("@media (prefers-color-scheme:dark)", found["style"] or "", path.name)


@thorough
class SettingsTests(SynchronousTestCase):
    """The page of operations has every setting, and says which change while a node runs."""

    def test_all(self):
        """The table has each setting of node.yaml, in order, with its default, and says when to change it."""
        shown = dict(re.findall(r"^# +(\w+): (\S+)$", example_text(), re.MULTILINE))
        rows = rows_of(section_of("operations", "Settings"))
        self.assertEqual([row[0].strip("`") for row in rows], all_paths())
        for path, default, text in rows:
            self.assertGreater(len(text), 40, path)
            if re.fullmatch(r"`?[\w]*\d\w*`?|`(?:false|lan|info|text|unlimited|root)`", default):
                self.assertEqual(default.strip("`"), shown[path.strip("`").rpartition(".")[2]], path)

    def test_required(self):
        """What has no default is called required, or belongs to a group that is."""
        required = set()
        for _, setting, is_required in settings_of(NodeConfig):
            inner = settings_of(setting.section) if setting.section is not None else []
            prefix = f"{setting.key}."
            required |= {prefix + one.key for _, one, needed in inner if needed}
            required |= {setting.key} if is_required and setting.section is None else set()
        rows = rows_of(section_of("operations", "Settings"))
        self.assertEqual({row[0].strip("`") for row in rows if row[1] == "required"}, required)

    def test_live(self):
        """The table has every setting that is declared so, and no other."""
        section = section_of("operations", "Change settings while it runs")
        rows = re.findall(r"^\| (`.*?) \|", section, re.MULTILINE)
        told = [path for row in rows for path in re.findall(r"`([^`]+)`", row)]
        declared = []
        for _, setting, _ in settings_of(NodeConfig):
            prefix = f"{setting.key}." if setting.section is not None else ""
            inner = settings_of(setting.section) if setting.section is not None else [("", setting, False)]
            declared += [f"{prefix}{one.key}" for _, one, _ in inner if one.is_live]
        self.assertEqual(sorted(told), sorted(declared))


@thorough
class ErrorTests(SynchronousTestCase):
    """Whoever meets an error finds what to do about it."""

    # Nobody raises these: each error that is one has a row of its own.
    BASES = frozenset((errors.LoghouseError, errors.EntryError, errors.ConsensusError))

    def test_what_to_do(self):
        """The page of operations has a row of each error, with its number, what happened, what to do."""
        declared = {
            (str(one.code), one.__name__)
            for one in vars(errors).values()
            if isinstance(one, type) and issubclass(one, LoghouseError) and one not in self.BASES
        }
        rows = rows_of(section_of("operations", "Errors"))
        self.assertEqual(len(rows), len(declared))
        self.assertEqual({(number, name.strip("`")) for number, name, *_ in rows}, declared)
        for row in rows:
            self.assertEqual(len(row), 4, row)
            self.assertTrue(all(len(cell) > 5 for cell in row[2:]), row)

    def test_bases(self):
        """No code of ours raises an error that is left out there."""
        pattern = re.compile(rf"raise (?:errors\.)?(?:{'|'.join(one.__name__ for one in self.BASES)})\(")
        self.assertEqual(
            [relative(path) for path in sources("loghouse") if pattern.search(path.read_text())], []
        )

    def test_wire(self):
        """The page of the wire has every number that is sent, with its details in their order."""
        rows = {row[0]: row[2:4] for row in rows_of(section_of("wire_format", "4. Errors"))}
        expected = {
            str(one.code): [", ".join(numbers), ", ".join(texts)]
            for one, (numbers, texts) in FAILURE_FIELDS.items()
        }
        expected[str(errors.NotLeaderError.code)][1] = "leader, or empty"
        self.assertEqual(rows, expected)


def metrics_of(text: str) -> set[str]:
    """The metrics that a text names; the parts of a histogram are that histogram."""
    return {re.sub(r"_(?:sum|count|bucket)$", "", name) for name in re.findall(r"\bloghouse_\w+", text)}


@thorough
class MetricTests(SynchronousTestCase):
    """Whoever sees a metric move finds what to do about it."""

    def test_what_to_do(self):
        """Each metric is in an alert, or in the table of those that have none, beside the list of all."""
        text = section_of("monitoring", "Alerts") + section_of("monitoring", "Numbers that have no alert")
        self.assertEqual(sorted(set(TABLE) - metrics_of(text)), [])

    def test_no_others(self):
        """No page for operators names a metric that nodes do not have."""
        for name in ("console", "monitoring", "operations", "operator_guide"):
            text = (ROOT / "docs" / f"{name}.md").read_text()
            self.assertEqual(sorted(metrics_of(text) - set(TABLE)), [], name)


@thorough
class PlantedBugTests(SynchronousTestCase):
    """docs/simulation.md: every planted bug, and how many a named test catches."""

    def setUp(self):
        self.text = (ROOT / "docs" / "simulation.md").read_text()

    def test_banks(self):
        """The tables name the bugs of both banks, in order, and the text says how many there are."""
        core, whole = (
            re.findall(r"^\| ([a-z-]+) \| [A-Z]", part, re.MULTILINE)
            for part in self.text.partition("## Planted bugs")[2].split("### Planted in whole nodes")
        )
        self.assertEqual(core, [mutant.name for mutant in BANK])
        self.assertEqual(whole, [mutant.name for mutant in FULL_BANK])
        self.assertIn(f"All {len(BANK)} are caught", self.text)
        self.assertIn(f"all {len(FULL_BANK)} fit", self.text)

    def test_named(self):
        """The table of bugs that a named test catches counts those of each module."""
        rows = re.findall(r"\| (\d+) \| `(tests/mutants/\w+)\.py` \|", self.text)
        counts = [(str(len(_caught(path.replace("/", ".")))), path) for _, path in rows]
        self.assertEqual(rows, counts)
        modules = {path.stem for path in (ROOT / "tests" / "mutants").glob("*.py")}
        with_named = {name for name in modules - {"__init__"} if _caught(f"tests.mutants.{name}")}
        self.assertEqual({Path(path).name for _, path in rows}, with_named)


def _caught(module: str) -> set[str]:
    """Return the names of the bugs in a module that name the test which catches them."""
    banks = [bank for bank in vars(importlib.import_module(module)).values() if isinstance(bank, tuple)]
    return {bug.mutant.name for bank in banks for bug in bank if isinstance(bug, Caught)}


@thorough
class AttackTableTests(SynchronousTestCase):
    """docs/security.md: every attack has a test, and every test that it names is there."""

    def setUp(self):
        lines = (ROOT / "docs" / "security.md").read_text().splitlines()
        self.rows = [line.strip("|").split("|") for line in lines if re.match(r"\| \d", line)]

    def test_every_attack_is_there(self):
        """The numbers go from 1 up, without a gap."""
        numbers = sorted(int(number) for row in self.rows for number in row[0].split(","))
        self.assertEqual(numbers, list(range(1, len(numbers) + 1)))
        self.assertGreaterEqual(len(numbers), 63)

    def test_tests_exist(self):
        """Each row names its tests as `FILE::CLASS::METHOD`, and they are in the tree."""
        wrong = []
        for row in self.rows:
            named = re.findall(r"`([^`]+)`", row[-1]) if len(row) == 4 else []
            wrong += [name for name in named if not _is_test(name)] or ([] if named else [row[0]])
        self.assertEqual(wrong, [])


def _is_test(name: str) -> bool:
    path, _, rest = name.partition("::")
    if not (ROOT / path).is_file():
        return False
    tree = ast.parse((ROOT / path).read_text())
    return any(
        f"{group.name}::{getattr(method, 'name', '')}" == rest
        for group in tree.body
        if isinstance(group, ast.ClassDef)
        for method in group.body
    )
