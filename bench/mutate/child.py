"""What happens in a forked process: changed source is imported, and tests run over it.

A process that was forked has imported nothing of the product and nothing of its tests, only the libraries
that both need (`LIBRARIES`). So whatever is changed counts everywhere, constants and defaults included.
"""

from __future__ import annotations

import ast
import builtins
import gc
import importlib
import json
import os
import resource
import select
import shutil
import signal
import sys
import tempfile
import time
import unittest
from collections.abc import Callable, Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any, Final

LIBRARIES: Final = (
    "OpenSSL.SSL",
    "casbin",
    "construct",
    "cryptography.hazmat.primitives.serialization.pkcs12",
    "cryptography.x509",
    "fastcrc",
    "google.protobuf.json_format",
    "grpc_health.v1.health",
    "grpc_reflection.v1alpha.reflection",
    "grpc_status.rpc_status",
    "hypothesis.strategies",
    "service_identity",
    "tqdm",
    "twisted.internet.asyncioreactor",
    "twisted.internet.defer",
    "twisted.internet.ssl",
    "twisted.protocols.tls",
    "twisted.trial.unittest",
    "unittest.mock",
    "uvloop",
    "yaml",
    "zstandard",
)
"""Imported once, before all forks. None of them may install a reactor: its sockets would be shared."""

PROBE: Final = "_loghouse_mutant_reached"
"""The name of what notes that a statement is reached, among Python's built-in names."""

MEMORY_MAX: Final = (
    4 << 30
)  # bytes of addresses: a mutant that collects for ever must not take the machine down

CPU_SIGNAL: Final = signal.SIGPROF  # ends a process that used its processor time

Trees = dict[str, tuple[Path, ast.Module]]
"""Changed modules: their names, files and syntax trees."""


def import_libraries() -> None:
    """Import what every child needs, and see that no child will share a reactor."""
    for name in LIBRARIES:
        importlib.import_module(name)
    assert "twisted.internet.reactor" not in sys.modules
    gc.freeze()


# --- a process ----------------------------------------------------------------------------


def run_forked(work: Callable[[Callable[[str], None]], None], patience: Callable[[str], float]) -> list[str]:
    """Run work in a forked process; returns the lines that it told, "hung" as the last one if it did not end.

    Args:
        work: Takes what tells a line to this process. It may bound its own processor time (`_bound_cpu`).
        patience: Seconds of the wall clock from a line until the next one; "" is the beginning. The process
            and all that it started are killed when that passes: what waits uses no processor.
    """
    reading, writing = os.pipe()
    folder = tempfile.mkdtemp(prefix="mutant-")
    pid = os.fork()
    if pid == 0:
        os.close(reading)
        _be_alone(folder)
        try:
            work(lambda line: _write_line(writing, line))
        finally:
            os._exit(0)
    os.close(writing)
    lines: list[str] = []
    rest = b""
    is_waited = False
    try:
        while select.select([reading], [], [], patience(lines[-1] if lines else ""))[0]:
            chunk = os.read(reading, 1 << 16)
            if not chunk:
                _, status = os.waitpid(pid, 0)
                is_waited = True
                return (
                    [*lines, "hung"]
                    if os.WIFSIGNALED(status) and os.WTERMSIG(status) == CPU_SIGNAL
                    else lines
                )
            *whole, rest = (rest + chunk).split(b"\n")
            lines += [line.decode() for line in whole]
        return [*lines, "hung"]
    finally:
        os.close(reading)
        for end in (os.killpg, os.kill):  # the group is not there yet when it ended at once
            try:
                end(pid, signal.SIGKILL)
            except OSError:
                continue
        if not is_waited:
            os.waitpid(pid, 0)
        shutil.rmtree(folder, ignore_errors=True)


def _write_line(writing: int, line: str) -> None:
    os.write(writing, f"{line}\n".encode())


def _bound_cpu(seconds: float) -> None:
    """End this process once it has used so much more processor time: however slow the machine is just now."""
    signal.setitimer(signal.ITIMER_PROF, seconds)


def _be_alone(folder: str) -> None:
    """Become a process group with a folder of its own, that says nothing and cannot take all memory."""
    os.setsid()
    os.chdir(folder)
    signal.signal(CPU_SIGNAL, signal.SIG_DFL)
    os.environ["TMPDIR"] = folder
    tempfile.tempdir = None
    nothing = os.open(os.devnull, os.O_RDWR)
    for fd in (0, 1, 2):
        os.dup2(nothing, fd)
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_MAX, MEMORY_MAX))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


# --- imports --------------------------------------------------------------------------------


class _Changed(MetaPathFinder, Loader):
    """Finds and loads modules whose source is changed; files and line numbers stay the same."""

    def __init__(self, trees: Trees) -> None:
        self._trees = trees

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname not in self._trees:
            return None
        file, _ = self._trees[fullname]
        folders = [str(file.parent)] if file.name == "__init__.py" else None
        return spec_from_file_location(fullname, file, loader=self, submodule_search_locations=folders)

    def exec_module(self, module: ModuleType) -> None:
        file, tree = self._trees[module.__name__]
        exec(compile(tree, str(file), "exec", dont_inherit=True), vars(module))


def _begin_imports(root: Path, trees: Trees) -> None:
    sys.path.insert(0, str(root))
    sys.meta_path.insert(0, _Changed(trees))
    importlib.import_module("tests")
    from hypothesis import settings

    # The same examples every time: a mutant is caught or not, whoever asks.
    settings.register_profile("mutants", settings(), derandomize=True, database=None, print_blob=False)
    settings.load_profile("mutants")


# --- tests ----------------------------------------------------------------------------------


class _Listener(unittest.TestResult):
    """Tells of each test when it begins, and when it ends what became of it and which probes it passed."""

    def __init__(self, tell: Callable[[str], None], reached: set[int]) -> None:
        super().__init__()
        self._tell = tell
        self._reached = reached
        self._begin = (0.0, 0.0)
        self._is_good = True

    def startTest(self, test: unittest.TestCase) -> None:
        super().startTest(test)
        self._tell(f"begin {test.id()}")
        self._is_good = True
        self._reached.clear()
        self._begin = (time.process_time(), time.perf_counter())

    def stopTest(self, test: unittest.TestCase) -> None:
        super().stopTest(test)
        cpu, wall = time.process_time() - self._begin[0], time.perf_counter() - self._begin[1]
        self._tell(json.dumps([test.id(), self._is_good, cpu, wall, sorted(self._reached)]))

    def addError(self, test: unittest.TestCase, err: Any) -> None:
        super().addError(test, err)
        self._note_failure(test)

    def addFailure(self, test: unittest.TestCase, err: Any) -> None:
        super().addFailure(test, err)
        self._note_failure(test)

    def addUnexpectedSuccess(self, test: unittest.TestCase) -> None:
        super().addUnexpectedSuccess(test)
        self._note_failure(test)

    def _note_failure(self, test: unittest.TestCase) -> None:
        self._is_good = False
        if not isinstance(test, unittest.TestCase):  # a class or module did not begin or end
            self._tell(json.dumps([test.id(), False, 0.0, 0.0, []]))


def _cases(suite: Any) -> list[unittest.TestCase]:
    return [case for one in suite for case in (_cases(one) if isinstance(one, unittest.TestSuite) else [one])]


def probe(root: Path, trees: Trees, test: str) -> Callable[[Callable[[str], None]], None]:
    """Return work that runs a whole test module over probed modules.

    It tells "import" and the probes passed by then, and of every test as `_Listener` does.
    """

    def work(tell: Callable[[str], None]) -> None:
        reached: set[int] = set()
        setattr(builtins, PROBE, reached.add)
        _begin_imports(root, trees)
        module = importlib.import_module(test)
        tell(json.dumps(["import", True, 0.0, 0.0, sorted(reached)]))
        unittest.defaultTestLoader.loadTestsFromModule(module).run(_Listener(tell, reached))

    return work


def judge(
    root: Path, trees: Trees, tests: Sequence[tuple[str, float]], import_seconds: float
) -> Callable[[Callable[[str], None]], None]:
    """Return work that runs single tests over changed modules, and stops at the first that fails.

    It tells "begin" and the test's name before each, "caught" when one failed, "survived" at the end.

    Args:
        tests: Names, each with the seconds of processor time that it may take.
        import_seconds: What the imports may take, and those of each test module beside its test.
    """

    def work(tell: Callable[[str], None]) -> None:
        _bound_cpu(import_seconds)
        try:
            _begin_imports(root, trees)
        except BaseException:
            tell("begin import")
            tell("caught")
            return
        for name, seconds in tests:
            tell(f"begin {name}")
            result = unittest.TestResult()
            _bound_cpu(import_seconds)
            try:
                case = _load(name)
                _bound_cpu(seconds)
                unittest.TestSuite([case]).run(result)
            except BaseException:
                tell("caught")
                return
            if result.errors or result.failures or result.unexpectedSuccesses:
                tell("caught")
                return
        tell("survived")

    return work


def _load(name: str) -> unittest.TestCase:
    module, class_name, method = name.rsplit(".", 2)
    case: unittest.TestCase = getattr(importlib.import_module(module), class_name)(method)
    return case
