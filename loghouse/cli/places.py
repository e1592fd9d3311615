"""Places in a log as people say them: an offset, a time, so long ago."""

from __future__ import annotations

import argparse
from datetime import UTC, datetime, timedelta
from typing import Final

from loghouse.cli.parser import AGO
from loghouse.config.values import parse_seconds

FROM_ALLOWED: Final = (
    "an offset, earliest, latest, or a time such as 2026-11-23T08:30:00Z or 2h (so long ago)"
)


def start(text: str) -> int | str | datetime:
    """Read where to begin.

    Raises:
        argparse.ArgumentTypeError: It is no place.
    """
    if text in ("earliest", "latest"):
        return text
    return until(text)


def until(text: str) -> int | datetime:
    """Read an offset or a time; one without a zone is of this machine's.

    Raises:
        argparse.ArgumentTypeError: It is neither.
    """
    if text.isascii() and text.isdecimal() and int(text) < 2**64:
        return int(text)
    ago = AGO.fullmatch(text)
    try:
        if ago is not None:
            return datetime.now(UTC) - timedelta(seconds=parse_seconds(ago[1]))
        return datetime.fromisoformat(text).astimezone()
    except (ValueError, OverflowError):
        pass
    try:
        return datetime.combine(datetime.now().date(), datetime.strptime(text, "%H:%M").time()).astimezone()
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"{text!r} is no place in the log; allowed: {FROM_ALLOWED}"
        ) from None
