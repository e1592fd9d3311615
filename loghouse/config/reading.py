"""One pass over a settings file: values in, every problem collected with its line."""

from __future__ import annotations

import difflib
import reprlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import yaml

from loghouse.config.declaring import Setting, settings_of
from loghouse.config.strict_yaml import MeaningError, check_untagged, is_nothing, value_of, yaml_problem
from loghouse.errors import ConfigError
from loghouse.limits import MIB

FILE_SIZE_MAX: Final = 1 * MIB  # a settings file is a page of text; more is the wrong file
# Values are shown cut off: a few lines of YAML aliases can stand for billions of items.
_SHOWN: Final = reprlib.Repr()
_SHOWN.maxlevel = 2
_SHOWN.maxlist = 4
_SHOWN.maxstring = 80


class Reading:
    """One pass over a file: values in, problems collected.

    Args:
        base: Where relative paths start from.
        known: The paths of all settings there are, to say which one may be meant.
    """

    def __init__(self, base: Path, known: Sequence[str]) -> None:
        self.base = base
        self.known = known
        self.problems: list[str] = []
        self.lines: dict[str, int] = {}

    def problem(self, path: str, text: str) -> None:
        """Note a problem at a setting's path."""
        line = self.lines.get(path)
        self.problems.append(f"{path} (line {line}): {text}" if line else f"{path}: {text}")

    def section(self, section: type[Any], node: yaml.Node | None, prefix: str) -> dict[str, Any]:
        """Read a group; return attribute -> value of every setting that is given and right."""
        given = self._children(node, prefix)
        settings = {setting.key: setting for _, setting, _ in settings_of(section)}
        for key in given:
            if key not in settings:
                self.problem(prefix + key, _unknown(key, settings, prefix, self.known))
        values: dict[str, Any] = {}
        for attribute, setting, required in settings_of(section):
            path = prefix + setting.key
            child = given.get(setting.key)
            if child is None:
                if required:
                    example = f", such as {setting.key}: {setting.example}" if setting.example else ""
                    self.problem(path, f"is missing; it is required{example}")
            elif setting.section is not None:
                problem_count = len(self.problems)
                inner = self.section(setting.section, child, path + ".")
                if len(self.problems) == problem_count:
                    values[attribute] = setting.section(**inner)
            else:
                self._leaf(values, attribute, setting, child, path)
        return values

    def _leaf(
        self, values: dict[str, Any], attribute: str, setting: Setting, node: yaml.Node, path: str
    ) -> None:
        assert setting.read is not None
        try:
            value = value_of(node)
        except MeaningError as error:
            self.lines[path] = error.line
            self.problem(path, str(error))
            return
        except (yaml.YAMLError, ValueError, RecursionError) as error:
            self.problem(path, f"is not plain YAML: {yaml_problem(error)}")
            return
        try:
            values[attribute] = setting.read(value, self.base)
        except ValueError as error:
            self.problem(path, f"{_SHOWN.repr(value)} {error}")

    def _check_untagged(self, node: yaml.Node, path: str) -> None:
        try:
            check_untagged(node)
        except MeaningError as error:
            self.lines.setdefault(path, error.line)
            self.problem(path, str(error))

    def _children(self, node: yaml.Node | None, prefix: str) -> dict[str, yaml.Node]:
        if node is None:
            return {}
        where = prefix.rstrip(".") or "the file"
        if not isinstance(node, yaml.MappingNode):
            if not is_nothing(node):
                self.problem(where, "is not a group; allowed: `name: value` lines, indented below it")
            return {}
        self._check_untagged(node, where)
        children: dict[str, yaml.Node] = {}
        for key_node, value_node in node.value:
            key = str(key_node.value) if isinstance(key_node, yaml.ScalarNode) else "?"
            path = prefix + key
            self._check_untagged(key_node, path)
            if key in children:
                first = self.lines[path]
                self.lines[path] = key_node.start_mark.line + 1
                self.problem(path, f"is given twice, first on line {first}; keep one")
                continue
            self.lines[path] = key_node.start_mark.line + 1
            children[key] = value_node
        return children


def _unknown(key: str, settings: Mapping[str, Setting], prefix: str, known: Sequence[str]) -> str:
    close = difflib.get_close_matches(key, settings, n=1)
    if close:
        return f"is not a setting; did you mean {prefix}{close[0]}?"
    for path in known:
        if path.rpartition(".")[2] == key:
            return f"is not a setting here; did you mean {path}?"
    return f"is not a setting; allowed: {', '.join(settings)}"


def read_content(path: Path) -> bytes:
    """Return what a settings file holds.

    Raises:
        ConfigError: It cannot be read, or is none.
    """
    try:
        with open(path, "rb") as file:
            data = file.read(FILE_SIZE_MAX + 1)
    except OSError as error:
        raise ConfigError(
            [f"{path}: {error.strerror}; `loghouse config example` prints one to start from"]
        ) from None
    if len(data) > FILE_SIZE_MAX:
        raise ConfigError([f"{path}: has more than {FILE_SIZE_MAX} bytes; this is no settings file"])
    return data
