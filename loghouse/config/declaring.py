"""How a setting is declared: once, on its dataclass, with what reads it and what the example shows."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from dataclasses import MISSING, dataclass, field
from typing import Any

from loghouse.config.values import Reader, format_size


@dataclass(frozen=True, slots=True)
class Setting:
    """How one setting is read and shown. `section` is set when it is a group of settings."""

    comment: str
    read: Reader | None = None
    example: str = ""
    shown: bool = True  # False: the example has it commented out
    section: type[Any] | None = None
    key: str = ""  # in the file; that of its attribute, unless it is given
    is_live: bool = False  # True: a node that runs takes a new value


def declare(
    read: Reader,
    comment: str,
    default: Any = MISSING,
    *,
    example: str = "",
    key: str = "",
    shown: bool = False,
    live: bool = False,
    default_factory: Callable[[], Any] | None = None,
) -> Any:
    """Declare a setting; one with a default is commented out in the example, unless it is `shown`.

    Args:
        shown: Whether the example has it as it is nevertheless.
        default_factory: Makes the default, in the place of `default`.
        live: Whether a node that runs takes a new value when it reads its settings again.
    """
    shown = shown or (default is MISSING and default_factory is None)
    declared = Setting(comment, read, example or _text_of(default), shown, key=key, is_live=live)
    if default_factory is not None:
        return field(default_factory=default_factory, metadata={"setting": declared})
    return field(default=default, metadata={"setting": declared})


def _text_of(default: Any) -> str:
    """Return a default as node.yaml has it."""
    if isinstance(default, bool):
        return str(default).lower()
    return format_size(default) if isinstance(default, int) else str(default).removesuffix(".0")


def group(
    section: type[Any], comment: str, *, optional: bool = False, required: bool = False, shown: bool
) -> Any:
    """Declare a group: None when an optional one is left out, else made of its defaults."""
    metadata = {"setting": Setting(comment, section=section, shown=shown)}
    if optional:
        return field(default=None, metadata=metadata)
    if required:
        return field(metadata=metadata)
    return field(default_factory=section, metadata=metadata)


def settings_of(section: type[Any]) -> Iterator[tuple[str, Setting, bool]]:
    """Yield (attribute, setting, required) of a section, in order."""
    for item in dataclasses.fields(section):
        declared = item.metadata.get("setting")
        if declared is not None:
            declared = dataclasses.replace(declared, key=declared.key or item.name)
            yield item.name, declared, item.default is MISSING and item.default_factory is MISSING


def paths_of(section: type[Any]) -> list[str]:
    """Return the path of every setting of a file: `node`, `tls.ca`, ..."""
    paths = []
    for _, declared, _ in settings_of(section):
        if declared.section is None:
            paths.append(declared.key)
        else:
            paths.extend(f"{declared.key}.{inner.key}" for _, inner, _ in settings_of(declared.section))
    return paths


def example_of(section: type[Any], head: list[str]) -> str:
    """Return a file with every setting, below some lines of comment."""
    lines = [*head, ""]
    for _, declared, _ in settings_of(section):
        mark = "" if declared.shown else "# "
        lines.append(f"# {declared.comment}")
        if declared.section is None:
            lines += [f"{mark}{declared.key}: {declared.example}", ""]
            continue
        lines.append(f"{mark}{declared.key}:")
        for _, inner, _ in settings_of(declared.section):
            inner_mark = mark if inner.shown else "# "
            lines.append(f"{mark}  # {inner.comment}")
            lines.append(f"{inner_mark}  {inner.key}: {inner.example}")
        lines.append("")
    return "\n".join(lines)
