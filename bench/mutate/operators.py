"""The small changes that a program can have: what each operator makes of a node of its syntax tree."""

from __future__ import annotations

import ast
import copy
import difflib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final, TypeVar

Node = TypeVar("Node", bound=ast.AST)
Trail = tuple[tuple[str, int | None], ...]
"""The way from the module down to a node: fields, each with an index if it holds a list."""


@dataclass(frozen=True, slots=True)
class Change:
    """The node at `path` becomes `node`."""

    operator: str
    scope: str  # Class.function, or empty at the module's own level
    line: int  # of the node, from 1
    path: Trail
    statement: Trail  # the innermost statement around the node
    is_at_import: bool  # that statement runs when the module is imported, in no function
    node: ast.AST

    def text(self, tree: ast.Module) -> str:
        """Return the lines of the statement that differ, as a diff without places."""
        old = at(tree, self.statement)
        inner = self.path[len(self.statement) :]
        new = _replaced(old, inner, self.node) if inner else self.node
        lines = difflib.unified_diff(
            ast.unparse(old).splitlines(), ast.unparse(new).splitlines(), n=0, lineterm=""
        )
        return "\n".join(line for line in lines if not line.startswith(("---", "+++", "@@")))


def changes(tree: ast.Module) -> Iterator[Change]:
    """Yield every change of a module, in the order of its text."""
    yield from _below(tree, (), (), "", True, False, 0, _declarations(tree))


def at(tree: ast.AST, path: Trail) -> Any:
    """Return the node at the end of a path."""
    for field, index in path:
        tree = getattr(tree, field) if index is None else getattr(tree, field)[index]
    return tree


def applied(tree: ast.Module, change: Change) -> ast.Module:
    """Return a copy of the module with the change made."""
    return ast.fix_missing_locations(_replaced(tree, change.path, change.node))


def _replaced(tree: Node, path: Trail, node: ast.AST) -> Node:
    """Return a copy of a tree with another node at the end of a path."""
    tree = copy.deepcopy(tree)
    field, index = path[-1]
    parent = at(tree, path[:-1])
    node = ast.copy_location(copy.deepcopy(node), at(tree, path))
    if index is None:
        setattr(parent, field, node)
    else:
        getattr(parent, field)[index] = node
    return tree


def probed(tree: ast.Module, probes: list[tuple[Trail, int]], name: str) -> ast.Module:
    """Return a copy of the module that calls `name(number)` before each statement that is probed."""
    tree = copy.deepcopy(tree)
    # By the lists that hold them, each from its end: paths are not valid any more when a list has changed.
    places = [(at(tree, path[:-1]), path[-1], number) for path, number in probes]
    for parent, (field, index), number in sorted(places, key=lambda place: place[1][1] or 0, reverse=True):
        statements = getattr(parent, field)
        call = ast.parse(f"{name}({number})").body[0]
        statements.insert(index, ast.copy_location(call, statements[index]))
    return ast.fix_missing_locations(tree)


# --- where a change makes sense ----------------------------------------------------------

_SCOPES: Final = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)

_FIELDS: Final[dict[type[ast.AST], tuple[str, ...]]] = {
    ast.FunctionDef: ("args", "body"),
    ast.AsyncFunctionDef: ("args", "body"),
    ast.ClassDef: ("body",),
    ast.arguments: ("kw_defaults", "defaults"),
    ast.AnnAssign: ("value",),
    ast.JoinedStr: (),  # text for people
    ast.Raise: (),  # the same: removed as a whole
    ast.Assert: (),  # for type checkers
}
"""What is looked at of nodes of which not everything is: no annotations, no decorators, no texts."""


def _below(
    node: ast.AST,
    path: Trail,
    statement: Trail,
    scope: str,
    is_at_import: bool,
    is_truth: bool,
    line: int,
    declared: frozenset[ast.AST],
) -> Iterator[Change]:
    """Yield the changes below a node.

    Args:
        is_truth: The function around it returns a bool.
        declared: Classes of which nothing runs.
    """
    line = getattr(node, "lineno", line)
    if isinstance(node, _SCOPES):
        scope = f"{scope}.{node.name}".lstrip(".")
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
        is_truth = node.returns is not None and ast.unparse(node.returns) == "bool"
    # Parameters' defaults belong to the definition, which runs where it stands.
    for field in _FIELDS.get(type(node), node._fields):
        inside = is_at_import and not (field == "body" and isinstance(node, _SCOPES[:2]))
        value = getattr(node, field)
        for index, child in enumerate(value) if isinstance(value, list) else ((None, value),):
            if not isinstance(child, ast.AST) or child in declared or _is_left_alone(child):
                continue
            where: Trail = (*path, (field, index))
            around = where if isinstance(child, ast.stmt) else statement
            is_bool = is_truth and isinstance(child, ast.Return)
            for operator in (_truth,) if is_bool else _OPERATORS.get(type(child), ()):
                for new in operator(child):
                    if ast.unparse(new) != ast.unparse(child):
                        name, place = operator.__name__.strip("_"), getattr(child, "lineno", line)
                        yield Change(name, scope, place, where, around, inside, new)
            yield from _below(child, where, around, scope, inside, is_truth, line, declared)


def _is_left_alone(node: ast.AST) -> bool:
    """Whether no test could or should notice a change: log events, what type checkers read."""
    if isinstance(node, ast.Expr):
        if isinstance(node.value, ast.Call):
            return ".logger." in f".{ast.unparse(node.value.func)}"
        return isinstance(node.value, ast.Constant)  # a docstring
    if isinstance(node, ast.If):
        return "TYPE_CHECKING" in ast.unparse(node.test)
    return False


def _declarations(tree: ast.Module) -> frozenset[ast.AST]:
    """Return the classes of a module that are protocols of `typing`; Twisted's are classes as any."""
    names = {"typing.Protocol"}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module == "typing":
            names.update(name.asname or name.name for name in node.names if name.name == "Protocol")
    return frozenset(
        node
        for node in ast.walk(tree)
        if isinstance(node, ast.ClassDef)
        # `Protocol[T]` is one, too.
        and any(ast.unparse(base).partition("[")[0] in names for base in node.bases)
    )


# --- operators: each yields what may stand in the place of a node -------------------------


def _with(node: ast.AST, **fields: Any) -> Any:
    """Return a copy of a node with some fields replaced."""
    new = copy.copy(node)
    for name, value in fields.items():
        setattr(new, name, value)
    return new


_COMPARISONS: Final[dict[type[ast.cmpop], type[ast.cmpop]]] = {
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
}
_ARITHMETIC: Final[dict[type[ast.operator], type[ast.operator]]] = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.FloorDiv,
    ast.FloorDiv: ast.Mult,
    ast.Div: ast.Mult,
    ast.Mod: ast.FloorDiv,
    ast.LShift: ast.RShift,
    ast.RShift: ast.LShift,
    ast.BitAnd: ast.BitOr,
    ast.BitOr: ast.BitAnd,
    ast.BitXor: ast.BitOr,
}
_TWINS: Final = {"min": "max", "max": "min", "any": "all", "all": "any"}


def _comparison(node: ast.Compare) -> Iterator[ast.AST]:
    for index, one in enumerate(node.ops):
        yield _with(node, ops=[*node.ops[:index], _COMPARISONS[type(one)](), *node.ops[index + 1 :]])


def _boolean(node: ast.BoolOp) -> Iterator[ast.AST]:
    yield _with(node, op=ast.Or() if isinstance(node.op, ast.And) else ast.And())
    for index in range(len(node.values)):
        left = node.values[:index] + node.values[index + 1 :]
        yield left[0] if len(left) == 1 else _with(node, values=left)


def _sign(node: ast.UnaryOp) -> Iterator[ast.AST]:
    if isinstance(node.op, ast.Not | ast.USub):
        yield node.operand


def _arithmetic(node: ast.BinOp | ast.AugAssign) -> Iterator[ast.AST]:
    if type(node.op) in _ARITHMETIC:
        yield _with(node, op=_ARITHMETIC[type(node.op)]())


def _constant(node: ast.Constant) -> Iterator[ast.AST]:
    if isinstance(node.value, bool):
        yield ast.Constant(not node.value)
    elif isinstance(node.value, int | float):
        yield ast.Constant(node.value + 1)
        if node.value:
            yield ast.Constant(node.value - 1)


def _condition(node: ast.If | ast.While | ast.IfExp) -> Iterator[ast.AST]:
    if not isinstance(node.test, ast.Compare | ast.UnaryOp | ast.Constant):
        yield _with(node, test=ast.UnaryOp(ast.Not(), node.test))


def _choice(node: ast.IfExp) -> Iterator[ast.AST]:
    yield node.body
    yield node.orelse


def _filter(node: ast.comprehension) -> Iterator[ast.AST]:
    for index in range(len(node.ifs)):
        yield _with(node, ifs=node.ifs[:index] + node.ifs[index + 1 :])


def _slice(node: ast.Slice) -> Iterator[ast.AST]:
    if node.lower is not None:
        yield _with(node, lower=None)
    if node.upper is not None:
        yield _with(node, upper=None)


def _arguments(node: ast.Call) -> Iterator[ast.AST]:
    name = node.func.id if isinstance(node.func, ast.Name) else ""
    for index in range(len(node.args) - 1 if name not in _TWINS else 0):
        one, two = node.args[index : index + 2]
        if not isinstance(one, ast.Starred) and not isinstance(two, ast.Starred):
            yield _with(node, args=[*node.args[:index], two, one, *node.args[index + 2 :]])
    for index, keyword in enumerate(node.keywords):
        if keyword.arg is not None:
            yield _with(node, keywords=node.keywords[:index] + node.keywords[index + 1 :])
    if name in _TWINS:
        yield _with(node, func=ast.Name(_TWINS[name], ast.Load()))


def _result(node: ast.Return) -> Iterator[ast.AST]:
    is_constant = isinstance(node.value, ast.Constant)
    if is_constant and node.value.value == "":
        yield ast.Return(ast.Constant("?"))  # nearly nobody tells no text from None
    elif node.value is not None and not (is_constant and node.value.value is False):
        yield ast.Return(ast.Constant(None))  # as good as False: only its type differs


def _truth(node: ast.Return) -> Iterator[ast.AST]:
    """Where a bool is returned, None would be nothing but False: turn it round. Constants are, anyway."""
    if node.value is not None and not isinstance(node.value, ast.Constant):
        yield ast.Return(ast.UnaryOp(ast.Not(), node.value))


def _removal(node: ast.stmt) -> Iterator[ast.AST]:
    if isinstance(node, ast.Assign | ast.AnnAssign):
        targets = node.targets if isinstance(node, ast.Assign) else [node.target]
        places = [one for target in targets for one in getattr(target, "elts", [target])]
        if node.value is None or not all(isinstance(one, ast.Attribute | ast.Subscript) for one in places):
            return  # without its name the rest would not run at all
    yield ast.Pass()


def _loop(node: ast.Break | ast.Continue) -> Iterator[ast.AST]:
    yield ast.Continue() if isinstance(node, ast.Break) else ast.Break()


def _except(node: ast.ExceptHandler) -> Iterator[ast.AST]:
    yield _with(node, body=[ast.Pass()])
    if not isinstance(node.body[0], ast.Raise):
        yield _with(node, body=[ast.Raise()])


def _finally(node: ast.Try) -> Iterator[ast.AST]:
    if node.finalbody:
        yield _with(node, finalbody=[ast.Pass()])


_OPERATORS: Final[dict[type[ast.AST], tuple[Callable[[Any], Iterator[ast.AST]], ...]]] = {
    ast.Compare: (_comparison,),
    ast.BoolOp: (_boolean,),
    ast.UnaryOp: (_sign,),
    ast.BinOp: (_arithmetic,),
    ast.AugAssign: (_arithmetic, _removal),
    ast.Constant: (_constant,),
    ast.If: (_condition,),
    ast.While: (_condition,),
    ast.IfExp: (_condition, _choice),
    ast.comprehension: (_filter,),
    ast.Slice: (_slice,),
    ast.Call: (_arguments,),
    ast.Return: (_result,),
    ast.Expr: (_removal,),
    ast.Assign: (_removal,),
    ast.AnnAssign: (_removal,),
    ast.Delete: (_removal,),
    ast.Raise: (_removal,),
    ast.Break: (_loop,),
    ast.Continue: (_loop,),
    ast.ExceptHandler: (_except,),
    ast.Try: (_finally,),
}
