"""A log's settings as a caller gives them: taken with their meaning, or refused by their names. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import timedelta
from typing import Any

from loghouse.api.v1 import log_pb2
from loghouse.client.fields import integer_of, text_of
from loghouse.errors import InvalidRequestError
from loghouse.limits import UINT32_MAX, UINT64_MAX


def settings_of(*, tags: Iterable[str], **numbers: Any) -> log_pb2.LogSettings:
    """Return the settings of a log that is to be made; see `AsyncClient.create_log`.

    Raises:
        InvalidRequestError: One is none.
    """
    return log_pb2.LogSettings(**_numbers(numbers), tags=names_of("tags", tags))


def changes_of(*, tags: Iterable[str] | None, **numbers: Any) -> log_pb2.LogChanges:
    """Return what is to change of a log: what is not None.

    Raises:
        InvalidRequestError: A setting is none.
    """
    given = {name: value for name, value in numbers.items() if value is not None}
    changed_tags = log_pb2.LogTags(tags=names_of("tags", tags)) if tags is not None else None
    return log_pb2.LogChanges(tags=changed_tags, **_numbers(given))


def names_of(field: str, names: Iterable[str]) -> list[str]:
    """Return several texts; one text is not several."""
    if isinstance(names, str) or not isinstance(names, Iterable):
        raise InvalidRequestError(field, f"is a {type(names).__name__}; give a list of str")
    return [text_of(field, name, "one of them ") for name in names]


def _numbers(given: dict[str, Any]) -> dict[str, Any]:
    numbers: dict[str, Any] = {}
    for name, value in given.items():
        if name == "retention_age":
            numbers["retention_seconds"] = _seconds_of(value)
        elif name == "replicas":
            numbers[name] = integer_of(name, value, lowest=1, highest=UINT32_MAX)
        else:
            numbers[name] = integer_of(name, value)
    return numbers


def _seconds_of(age: Any) -> int:
    """Return an age in whole seconds; a part of a second would be lost, so it is refused."""
    if isinstance(age, timedelta):
        seconds, rest = divmod(age, timedelta(seconds=1))
        if rest:
            raise InvalidRequestError("retention_age", f"{age} is no whole number of seconds")
        age = seconds
    return integer_of("retention_age", age, highest=UINT64_MAX)
