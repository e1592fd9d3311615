"""Which slow tests run: all by default. `make test` leaves some out, CI what one runner has done already."""

import os
from collections.abc import Callable
from typing import Any


def _reason(knob: str) -> str | None:
    return f"{knob} is 0" if os.environ.get(knob) == "0" else None


# Tests of real processes take minutes, and one of the two runners is enough for them: 0 leaves them out.
SKIP = _reason("LOGHOUSE_PROCESS_TESTS")
# Bugs that are planted for one named test each: what one runner has tried the other need not.
PLANTED = _reason("LOGHOUSE_PLANTED_BUGS")
# Tests whose work is done by processes that they start: the runner is none of those processes' business.
CHILDREN = _reason("LOGHOUSE_CHILD_TESTS")
_LONG = _reason("LOGHOUSE_LONG_TESTS")
_THOROUGH = _reason("LOGHOUSE_THOROUGH_TESTS")


def long(test: Callable[..., Any]) -> Callable[..., Any]:
    """Mark a test that takes ten seconds and more: LOGHOUSE_LONG_TESTS=0 leaves it out."""
    if _LONG is not None:
        test.skip = _LONG  # type: ignore[attr-defined]
    return test


def thorough(test: Callable[..., Any]) -> Callable[..., Any]:
    """Mark tests, or a class of them, that try case after case, always the same ones.

    So do those that simulate a cluster, and those that read source text. LOGHOUSE_THOROUGH_TESTS=0 leaves
    them out.
    """
    if _THOROUGH is not None:
        test.skip = _THOROUGH  # type: ignore[attr-defined]
    return test


def in_children(test: Callable[..., Any]) -> Callable[..., Any]:
    """Mark tests whose work is done by processes that they start: LOGHOUSE_CHILD_TESTS=0 leaves them out."""
    if CHILDREN is not None:
        test.skip = CHILDREN  # type: ignore[attr-defined]
    return test
