"""Planting known bugs: a mutant changes the source of one function, in memory, for the time of a run.

The changed function's code object is put into the function that everybody already
holds, so no import is redone and nothing else in the program notices.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import CodeType, FunctionType
from typing import Any


@dataclass(frozen=True, slots=True)
class Edit:
    """In the function `target` (`package.module:Class.function`), `old` becomes `new`.

    `old` must occur exactly once, so that a mutant cannot rot unnoticed when the product changes.
    """

    target: str
    old: str
    new: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Mutant:
    """A known bug. `citation` says where it was seen before, `options` what the swarm must have for it.

    `options` are fields of `SwarmOptions` (or `raft`, `disk`, `network` with fields of those) that each seed
    gets; `faults` maps classes of faults to the mean seconds between two, in election timeouts (0: none).
    `first_seed` is where the hunt begins: where it was caught last, when that takes long to find.
    """

    name: str
    citation: str
    description: str
    edits: tuple[Edit, ...]
    options: tuple[tuple[str, Any], ...] = ()
    faults: tuple[tuple[str, float], ...] = ()
    first_seed: int = 1


def find_function(target: str) -> FunctionType:
    """Return the function that a target names; the one behind a property or class method.

    Raises:
        LookupError: There is none.
    """
    module_name, _, path = target.partition(":")
    found: Any = importlib.import_module(module_name)
    for name in path.split("."):
        if not hasattr(found, name):
            raise LookupError(f"{target}: no {name!r}")
        found = inspect.getattr_static(found, name)
    if isinstance(found, property):
        found = found.fget
    elif isinstance(found, (classmethod, staticmethod)):
        found = found.__func__
    function = inspect.unwrap(found)
    if not isinstance(function, FunctionType):
        raise LookupError(f"{target} is not a function")
    return function


def changed_code(function: FunctionType, edits: list[Edit]) -> CodeType:
    """Return the code of a function with its source text edited.

    Raises:
        LookupError: The old text is not there exactly once.
    """
    source = textwrap.dedent(inspect.getsource(function))
    for edit in edits:
        count = source.count(edit.old)
        if count != 1:
            raise LookupError(f"{edit.target}: {edit.old!r} occurs {count} times, expected once")
        source = source.replace(edit.old, edit.new)
    tree = ast.parse(source)
    definition = tree.body[0]
    assert isinstance(definition, ast.FunctionDef | ast.AsyncFunctionDef)
    definition.decorator_list = []
    if "__class__" in function.__code__.co_freevars:
        # super() needs the cell of a class: define the function inside one.
        tree.body = [ast.ClassDef("Holder", [], [], [definition], [])]
    name = f"<mutant of {function.__qualname__}>"
    module_code = compile(
        ast.fix_missing_locations(tree), name, "exec", dont_inherit=True, flags=_ANNOTATIONS
    )
    return _find_code(module_code, function.__name__)


_ANNOTATIONS = importlib.import_module("__future__").annotations.compiler_flag


def _find_code(code: CodeType, name: str) -> CodeType:
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            if constant.co_name == name:
                return constant
            if constant.co_name == "Holder":
                return _find_code(constant, name)
    raise LookupError(name)


@contextmanager
def planted(mutant: Mutant) -> Iterator[None]:
    """Run with a bug planted; it is gone afterwards."""
    before: list[tuple[FunctionType, CodeType]] = []
    by_target: dict[str, list[Edit]] = {}
    for edit in mutant.edits:
        by_target.setdefault(edit.target, []).append(edit)
    try:
        for target, edits in by_target.items():
            function = find_function(target)
            code = changed_code(function, edits)
            before.append((function, function.__code__))
            function.__code__ = code
        yield
    finally:
        for function, code in reversed(before):
            function.__code__ = code
