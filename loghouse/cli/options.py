"""Values of the command line that several commands take."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable

from loghouse.limits import UINT64_MAX


def number(
    what: str, *, lowest: int = 0, highest: int = UINT64_MAX, allowed: str = ""
) -> Callable[[str], int]:
    """Return what reads a whole number from an option; a complaint says that it is not `what`."""

    def read(text: str) -> int:
        if not text.isascii() or not text.isdecimal() or not lowest <= int(text) <= highest:
            hint = allowed or f"a number from {lowest}"
            raise argparse.ArgumentTypeError(f"{text!r} is not {what}; allowed: {hint}")
        return int(text)

    return read


def header(text: str) -> tuple[str, bytes]:
    """Read the name and the value of a header.

    Raises:
        argparse.ArgumentTypeError: It is none.
    """
    name, separator, value = text.partition("=")
    if not separator or not name:
        raise argparse.ArgumentTypeError(f"{text!r} is no header; allowed: NAME=TEXT")
    return name, os.fsencode(value)
