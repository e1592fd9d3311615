"""The YAML of settings files: what is written is what is meant.

YAML 1.1 turns `24:00` into 1440, `010` into 8, `yes` into true, and a newer YAML does not. So a value without
quotes is a plain decimal number, `true` or `false`, or a text that no YAML takes for something else.
Aliases, merge keys and tags, which no setting needs, are refused.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Final

import yaml

from loghouse.errors import ConfigError
from loghouse.text import check_lines

_TAG: Final = "tag:yaml.org,2002:"
_DECIMAL: Final = re.compile(r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?")
# Texts to PyYAML: 089, 0o17, 1e3, -.5 and y are none to YAML 1.2 or to the letter of 1.1.
_NUMBER_ELSEWHERE: Final = re.compile(
    r"[-+]?(?:0[0-9_]+|0o[0-7_]+|[0-9_]*\.?[0-9_]+[eE][-+]?[0-9]+|[0-9_]+\.[eE][-+]?[0-9]+|\.[0-9_]+)"
)
_BOOLEANS: Final = {"true", "True", "TRUE", "false", "False", "FALSE"}
_BOOLEANS_ELSEWHERE: Final = {"y", "Y", "n", "N"}
_NUMBERS: Final = (
    (re.compile(r".*:"), "counts in sixties"),
    (re.compile(r"[-+]?0x"), "is hexadecimal"),
    (re.compile(r"[-+]?0b"), "is binary"),
    (re.compile(r"[-+]?0[0-9_]+\Z"), "is octal"),
    (re.compile(r".*_"), "has underscores"),
)


class MeaningError(ValueError):
    """A value that would be taken for another. `line` is where it is."""

    def __init__(self, text: str, line: int) -> None:
        super().__init__(text, line)
        self.line = line

    def __str__(self) -> str:
        return str(self.args[0])


def _line_of(node: yaml.Node) -> int:
    return int(node.start_mark.line) + 1


class _Loader(yaml.SafeLoader):
    """Refuses aliases: a few lines of them can stand for billions of items."""

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            event: Any = self.peek_event()  # type: ignore[no-untyped-call]
            raise yaml.composer.ComposerError(
                None, None, f"*{event.anchor} is an alias; write the value out", event.start_mark
            )
        return super().compose_node(parent, index)


def compose(content: bytes | str, path: Path) -> yaml.Node | None:
    """Parse a file's text; its values are not looked at yet.

    Raises:
        ConfigError: It is not YAML, or has aliases, or characters that hide a part of a line.
    """
    try:
        check_lines(content)  # YAML ends lines where no editor does
    except ValueError as error:
        raise ConfigError([f"{path}: line {error}"]) from None
    try:
        return yaml.compose(content, Loader=_Loader)
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        raise ConfigError([f"{path}: is not YAML: {yaml_problem(error)}"]) from None


def value_of(node: yaml.Node) -> object:
    """Return the value of a setting.

    Raises:
        MeaningError: It, or a part of it, would be taken for something else than what is written.
        yaml.YAMLError, ValueError, RecursionError: It is not plain YAML.
    """
    _check_meaning(node)
    loader = yaml.SafeLoader("")
    try:
        return loader.construct_document(node)
    finally:
        loader.dispose()


def is_nothing(node: yaml.Node) -> bool:
    """Whether nothing is written where a group could be."""
    return isinstance(node, yaml.ScalarNode) and node.style is None and node.value == ""


def check_untagged(node: yaml.Node) -> None:
    """Check a group as a whole, or the name of a setting; what is in the group is not looked at.

    Raises:
        MeaningError: It has a tag.
    """
    if isinstance(node, yaml.ScalarNode):
        _check_tag(node, _kind_of(node.value) if node.style is None else "str")
    else:
        _check_tag(node, "map" if isinstance(node, yaml.MappingNode) else "seq")


def yaml_problem(error: BaseException) -> str:
    """Return what is wrong with the YAML, in a line."""
    if isinstance(error, yaml.MarkedYAMLError):
        mark = error.problem_mark or error.context_mark
        where = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
        return f"{where}{error.problem or error.context}"
    if isinstance(error, RecursionError):
        return "it is nested too deeply"
    return str(error).splitlines()[0] if str(error) else type(error).__name__


def _check_meaning(node: yaml.Node) -> None:
    if isinstance(node, yaml.SequenceNode):
        _check_tag(node, "seq")
        for item in node.value:
            _check_meaning(item)
    elif isinstance(node, yaml.MappingNode):
        _check_tag(node, "map")
        for key, value in node.value:
            _check_meaning(key)
            _check_meaning(value)
    elif isinstance(node, yaml.ScalarNode) and node.style is None:
        _check_plain(node, node.value)
    else:
        _check_tag(node, "str")


def _check_tag(node: yaml.Node, kind: str) -> None:
    if node.tag != _TAG + kind:
        raise MeaningError(f"has the tag {node.tag.replace(_TAG, '!!')}; leave it out", _line_of(node))


def _kind_of(text: str) -> str:
    """Return what YAML 1.1 takes a text without quotes for: str, int, bool, ..."""
    resolver: Any = yaml.SafeLoader("")
    return str(resolver.resolve(yaml.ScalarNode, text, (True, False))).removeprefix(_TAG)


def _check_plain(node: yaml.Node, text: str) -> None:
    """Raise unless what is written without quotes means itself."""
    kind = _kind_of(text)
    _check_tag(node, kind)
    quotes = "or put a text into quotes"
    if kind in ("int", "float") and not _DECIMAL.fullmatch(text):
        why = next((why for pattern, why in _NUMBERS if pattern.match(text)), "is a number")
        raise MeaningError(f"`{text}` {why} in YAML; write plain decimal digits, {quotes}", _line_of(node))
    if kind == "str" and _NUMBER_ELSEWHERE.fullmatch(text):
        raise MeaningError(
            f"`{text}` is a number to some YAML; write plain decimal digits, {quotes}", _line_of(node)
        )
    if kind == "bool" and text not in _BOOLEANS:
        raise MeaningError(
            f"`{text}` is a truth value in YAML; write true or false, {quotes}", _line_of(node)
        )
    if kind == "str" and text in _BOOLEANS_ELSEWHERE:
        raise MeaningError(
            f"`{text}` is a truth value to some YAML; write true or false, {quotes}", _line_of(node)
        )
    if kind == "null" and text:
        raise MeaningError(f"`{text}` is nothing in YAML; leave the setting out, {quotes}", _line_of(node))
    if kind == "timestamp":
        raise MeaningError(f"`{text}` is a date in YAML; put it into quotes", _line_of(node))
    if kind in ("merge", "value"):
        raise MeaningError(f"`{text}` has a meaning of its own in YAML; put it into quotes", _line_of(node))
