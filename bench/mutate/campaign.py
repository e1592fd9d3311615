"""A campaign: draw mutants, see which tests reach them, and let those tests judge each one."""

from __future__ import annotations

import ast
import json
import multiprocessing
import os
import random
import time
import tomllib
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, TypeVar

from bench.mutate import child
from bench.mutate.nearest import FAR, Nearest, module_of
from bench.mutate.operators import Change, applied, changes, probed

R = TypeVar("R")

ROOT: Final = Path(__file__).resolve().parents[2]
EQUIVALENT: Final = ROOT / "tests/testing/equivalent_mutants.toml"

# Seconds of processor time: for imports, and the least that a mutant's test gets.
IMPORT_SECONDS: Final = 20.0
TEST_SECONDS_MIN: Final = 5.0
SLOWER_MAX: Final = 20  # a mutant's test may take so many times what it takes without the mutant
# Seconds of the wall clock, for what waits and uses no processor: of a test of the product as it is, and the
# least of a mutant's test. A machine with other work stretches them.
PROBE_SECONDS: Final = 120.0
WAIT_SECONDS_MIN: Final = 20.0
# A test that waits more than this beyond its processor time may fail by other work of the machine.
WAITS_SECONDS: Final = 0.2


@dataclass(frozen=True, slots=True)
class RandomMutant:
    """One change of one module of the product; `text` is its diff."""

    module: str
    file: Path
    change: Change
    text: str

    @property
    def key(self) -> tuple[str, str, str]:
        """What tells it from others, also when lines before it come or go."""
        return self.module, self.change.scope, self.text

    @property
    def place(self) -> str:
        """File, line and function."""
        return f"{self.file.relative_to(ROOT)}:{self.change.line} {self.change.scope}".rstrip()


@dataclass(slots=True)
class Verdict:
    """What became of a mutant: "caught", "survived", "not covered", "equivalent" or "not tried"."""

    mutant: RandomMutant
    outcome: str
    by: str = ""  # the test that caught it, or why it is equivalent
    is_hung: bool = False  # it was caught by the time limit
    test_count: int = 0  # how many tests could have caught it

    def __str__(self) -> str:
        """Return a line, and the diff of a mutant that nothing caught."""
        if self.outcome == "caught":
            return f"caught {'by time ' * self.is_hung}{self.mutant.place} by {self.by}"
        return f"{self.outcome.upper()} {self.mutant.place} ({self.test_count} tests)\n{self.mutant.text}"


@dataclass(slots=True)
class Probed:
    """What the tests do without a mutant."""

    seconds: dict[str, float] = field(default_factory=dict)  # of processor time, of each test that passes
    waits: dict[str, float] = field(default_factory=dict)  # seconds of the wall clock beyond that
    modules: dict[str, str] = field(default_factory=dict)  # of each test: the test module it was found in
    reached: dict[int, list[str]] = field(default_factory=lambda: defaultdict(list))  # tests, by probe
    failing: list[str] = field(default_factory=list)  # these judge nothing
    is_whole: bool = True  # False when there was no time for all of them


def source_files(package: str) -> list[Path]:
    """Return the files of a part of the product: a folder, or a module beside the folders.

    Raises:
        LookupError: There is none of that name.
    """
    place = ROOT / "loghouse" / package
    files = sorted(place.rglob("*.py")) if place.is_dir() else [place.with_suffix(".py")]
    if not files[0].exists():
        raise LookupError(f"loghouse has no part {package!r}")
    return [file for file in files if not file.name.endswith(("_pb2.py", "_pb2_grpc.py"))]


class Sources:
    """The product's modules as syntax trees, each read once."""

    def __init__(self) -> None:
        self._trees: dict[Path, ast.Module] = {}

    def tree(self, file: Path) -> ast.Module:
        """Return the tree of a file; nobody changes it."""
        if file not in self._trees:
            self._trees[file] = ast.parse(file.read_text())
        return self._trees[file]

    def mutant(self, file: Path, change: Change) -> RandomMutant:
        """Return a change of a file with its diff."""
        return RandomMutant(module_of(file.relative_to(ROOT)), file, change, change.text(self.tree(file)))

    def draw(
        self, files: Iterable[Path], count: int, seed: str, lines: dict[Path, set[int]] | None = None
    ) -> list[RandomMutant]:
        """Draw mutants by chance; with `lines`, only of those lines of each file."""
        found = [
            (file, change)
            for file in files
            for change in changes(self.tree(file))
            if lines is None or change.line in lines.get(file, ())
        ]
        drawn = random.Random(seed).sample(range(len(found)), min(count, len(found)))
        return [self.mutant(*found[index]) for index in sorted(drawn)]

    def all_of(self, file: Path) -> list[RandomMutant]:
        """Return every mutant of a file."""
        return [self.mutant(file, change) for change in changes(self.tree(file))]


def read_equivalent() -> dict[tuple[str, str, str], str]:
    """Return the mutants that change nothing anybody could notice, each with the reason."""
    entries = tomllib.loads(EQUIVALENT.read_text()).get("mutant", [])
    return {(one["module"], one["scope"], one["change"].strip()): one["reason"] for one in entries}


class Campaign:
    """Mutants, and the tests that are near them."""

    def __init__(
        self,
        sources: Sources,
        mutants: Sequence[RandomMutant],
        *,
        seconds_each: float,
        seconds_in_all: float = float("inf"),
        only: Sequence[str] = (),
        tell: Callable[[str], None] = print,
    ) -> None:
        """Take mutants.

        Args:
            seconds_each: The nearest tests of a mutant that together take so long judge it.
            seconds_in_all: A third of it may go to looking which tests reach what. Mutants that are left when
                it is over are not tried.
            only: Test modules; without them all that are near.
        """
        self._sources = sources
        self.mutants = mutants
        self._seconds_each = seconds_each
        self._seconds_in_all = seconds_in_all
        self._only = only
        self._tell = tell
        self._nearest = Nearest(ROOT)
        self._equivalent = read_equivalent()
        self._begin = time.monotonic()
        self.probed = Probed()

    def run(self, jobs: int = 1) -> list[Verdict]:
        """Judge all mutants; returns their verdicts in the same order."""
        child.import_libraries()
        self._begin = time.monotonic()
        self._probe(jobs)
        verdicts = []
        for verdict in _spread(jobs, self._judge, len(self.mutants)):
            verdicts.append(verdict)
            self._tell(str(verdict))
        return verdicts

    # --- which test reaches what ----------------------------------------------------------

    def _probe(self, jobs: int) -> None:
        """Run the tests that are near over the product as it is, with a probe at each mutant."""
        by_file: dict[Path, list[tuple[int, RandomMutant]]] = defaultdict(list)
        for number, mutant in enumerate(self.mutants):
            by_file[mutant.file].append((number, mutant))
        trees: child.Trees = {}
        for file, numbered in by_file.items():
            probes = [(mutant.change.statement, number) for number, mutant in numbered]
            trees[module_of(file.relative_to(ROOT))] = (
                file,
                probed(self._sources.tree(file), probes, child.PROBE),
            )
        modules = {mutant.module for mutant in self.mutants}
        distances = [(self._distance(test, modules), test) for test in self._only or self._nearest.tests()]
        near = [test for distance, test in sorted(distances) if distance < FAR]
        told = _spread(jobs, lambda number: self._probe_one(trees, near[number]), len(near))
        for test, lines in zip(near, told, strict=True):
            self._take_probed(lines, test)
        self._tell(f"{len(self.probed.seconds)} tests of {len(near)} files; failing: {self.probed.failing}")

    def _distance(self, test: str, modules: Iterable[str]) -> int:
        return min(self._nearest.distance(test, module) for module in modules)

    def _probe_one(self, trees: child.Trees, test: str) -> list[str]:
        begin = time.monotonic()
        end = self._begin + self._seconds_in_all / 3
        if begin > end:
            return ["hung"]
        lines = child.run_forked(
            child.probe(ROOT, trees, test),
            lambda line: min(PROBE_SECONDS * _load(), max(0.0, end - time.monotonic())),
        )
        self._tell(f"{time.monotonic() - begin:6.1f} s {test}")
        return lines

    def _take_probed(self, lines: Sequence[str], module: str) -> None:
        at_import: list[int] = []
        if lines[-1:] == ["hung"]:
            self.probed.is_whole = False
        elif not lines or not lines[0].startswith('["import"'):
            self.probed.failing.append(module)  # it cannot even be imported
        for line in lines:
            if not line.startswith("["):
                continue
            test, is_good, cpu_seconds, wall_seconds, reached = json.loads(line)
            if test == "import":
                at_import = reached
            elif test.endswith(".runTest"):
                continue  # what a class without tests has
            elif not is_good:
                self.probed.failing.append(test)
            else:
                self.probed.seconds[test] = cpu_seconds
                self.probed.waits[test] = wall_seconds - cpu_seconds
                self.probed.modules[test] = module
                for number in {*at_import, *reached}:
                    self.probed.reached[number].append(test)

    # --- verdicts ---------------------------------------------------------------------------

    def _tests_of(self, number: int) -> list[str]:
        """Return the tests that reach a mutant, nearest and fastest first, as many as may judge."""
        module = self.mutants[number].module
        seconds = self.probed.seconds

        def order(test: str) -> tuple[int, float]:
            return self._distance(self.probed.modules[test], [module]), seconds[test]

        failing = set(self.probed.failing)
        chosen = []
        spent = 0.0
        for test in sorted(set(self.probed.reached[number]) - failing, key=order):
            chosen.append(test)
            spent += seconds[test]
            if spent > self._seconds_each:
                break
        return chosen

    def _judge(self, number: int) -> Verdict:
        mutant = self.mutants[number]
        if mutant.key in self._equivalent:
            return Verdict(mutant, "equivalent", self._equivalent[mutant.key])
        tests = self._tests_of(number)
        if time.monotonic() - self._begin > self._seconds_in_all or not (tests or self.probed.is_whole):
            return Verdict(mutant, "not tried", test_count=len(tests))
        if not tests:
            return Verdict(mutant, "not covered")
        tree = applied(self._sources.tree(mutant.file), mutant.change)
        left, suspect = tests, ""
        while left:
            limits = [(test, self._cpu_seconds(test)) for test in left]
            work = child.judge(ROOT, {mutant.module: (mutant.file, tree)}, limits, IMPORT_SECONDS)
            lines = child.run_forked(work, self._patience)
            if lines[-1:] == ["survived"]:
                break
            begun = [line.removeprefix("begin ") for line in lines if line.startswith("begin ")]
            by = begun[-1] if begun else "import"
            is_hung = lines[-1:] == ["hung"]
            if is_hung or by == suspect or self.probed.waits.get(by, 0.0) < WAITS_SECONDS:
                return Verdict(mutant, "caught", by, is_hung=is_hung, test_count=len(tests))
            # It waited for something; other work of the machine may have made it late. Once more, it first.
            left, suspect = tests[tests.index(by) :], by
        return Verdict(mutant, "survived", test_count=len(tests))

    def _cpu_seconds(self, test: str) -> float:
        return max(TEST_SECONDS_MIN, SLOWER_MAX * self.probed.seconds[test])

    def _patience(self, line: str) -> float:
        """Return how long to wait for a test that may be standing still."""
        test = line.removeprefix("begin ")
        seconds = self.probed.seconds.get(test, 0.0) + self.probed.waits.get(test, 0.0)
        return max(WAIT_SECONDS_MIN, SLOWER_MAX * seconds) * _load()


def _load() -> float:
    """Return by how much this machine is slower than one without other work, at least 1."""
    return max(1.0, os.getloadavg()[0] / (os.cpu_count() or 1))


def _spread(jobs: int, work: Callable[[int], R], count: int) -> Iterator[R]:
    """Yield `work` of 0, 1, ... in that order, done by forked workers; they fork once more for each."""
    if jobs == 1:
        yield from map(work, range(count))
        return
    context = multiprocessing.get_context("fork")
    with ProcessPoolExecutor(jobs, mp_context=context, initializer=_take_work, initargs=(work,)) as pool:
        yield from pool.map(_do_work, range(count))


_work: Callable[[int], Any]  # what this worker does; set once, by the fork


def _take_work(work: Callable[[int], Any]) -> None:
    global _work
    _work = work


def _do_work(number: int) -> Any:
    return _work(number)
