"""Which test files are near a part of the product: those that name it, themselves or by what they share."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import Final

_LEFT_OUT: Final = (
    "tests/mutants/",  # planted bugs measure themselves
    "tests/cluster/",  # processes of their own do not have the mutant
    "tests/compat/",
    "tests/e2e/",
    "tests/test_docs.py",  # read the text, which is not changed
    "tests/test_floors.py",
    "tests/test_packaging.py",
    "tests/test_tidy.py",
    "tests/test_words.py",
    "tests/testing/test_mutate.py",
)
"""Tests that judge no mutant."""

FAR: Final = 5


def module_of(path: Path) -> str:
    """Return the dotted name of a file, relative to the top of the repository."""
    return ".".join(part for part in path.with_suffix("").parts if part != "__init__")


class Nearest:
    """The test files of a repository, and what of the product each of them names."""

    def __init__(self, root: Path) -> None:
        """Read the imports of every module of the tests."""
        self._root = root
        found = (path.relative_to(root) for path in sorted(root.glob("tests/**/*.py")))
        self._files = {module_of(path): path for path in found}
        self._imports = {module: set(self._read(path)) for module, path in self._files.items()}

    def _read(self, path: Path) -> Iterator[str]:
        left: list[ast.AST] = [ast.parse((self._root / path).read_text())]
        while left:
            node = left.pop()
            if isinstance(node, ast.Import):
                yield from (alias.name for alias in node.names)
            elif isinstance(node, ast.ImportFrom) and node.module:
                yield node.module
                yield from (f"{node.module}.{alias.name}" for alias in node.names)
            # Statements alone: what is in them, ten times as much, imports nothing.
            for field in ("body", "orelse", "finalbody", "handlers", "cases"):
                left.extend(getattr(node, field, ()))

    def tests(self) -> list[str]:
        """Return the modules with tests that may judge a mutant."""
        return [
            module
            for module, path in self._files.items()
            if path.name.startswith("test_")
            and not path.as_posix().startswith(_LEFT_OUT)
            and not path.stem.endswith("_mutants")
        ]

    def distance(self, test: str, module: str) -> int:
        """Return how far a test module is from one of the product.

        0: it names the module and is called after it or its package. 1: it names the module. 2: what it
        shares with other tests does. 3: it names others of that package. 4: what it shares does. `FAR`:
        nothing does.
        """
        package, name = module.split(".")[1], module.split(".")[-1]
        own = self._imports[test]
        shared = self._shared(test)
        if module in own:
            return 0 if test.startswith((f"tests.{package}.", f"tests.test_{name}")) else 1
        if module in shared:
            return 2
        for distance, names in ((3, own), (4, shared)):
            if any(f"{one}.".startswith(f"loghouse.{package}.") for one in names):
                return distance
        return FAR

    def _shared(self, test: str) -> set[str]:
        """Return what is named by the modules of the tests that this one imports, and so on."""
        names: set[str] = set()
        seen: set[str] = set()
        left = [test]
        while left:
            for name in self._imports[left.pop()]:
                if name in self._imports and name not in seen:
                    seen.add(name)
                    left.append(name)
                    names |= self._imports[name]
        return names
