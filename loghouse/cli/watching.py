"""Showing the same thing again and again, until whoever watches has seen enough."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Final, TypeVar

from loghouse.cli.output import complain, write_line
from loghouse.errors import OutcomeUnknownError, UnavailableError

T = TypeVar("T")

WATCH_SECONDS: Final = 1.0
CLEAR_SCREEN: Final = "\x1b[H\x1b[2J"


def show_again(
    command: str,
    ask: Callable[[], T],
    show: Callable[[T], None],
    *,
    as_json: bool,
    wait: Callable[[float], bool],
) -> None:
    """Ask and show again and again; a node that is away for a while is no reason to stop.

    Args:
        command: Its name, before what is said of such a node.
        wait: Waits so many seconds; True when there is nobody to show it to any more.
    """
    while True:
        try:
            answer = ask()
        except (UnavailableError, OutcomeUnknownError) as error:
            complain(f"loghouse {command}: {error}")
        else:
            if not as_json and sys.stdout.isatty():
                sys.stdout.write(CLEAR_SCREEN)
            show(answer)
            if not as_json:
                write_line()
            sys.stdout.flush()
        if wait(WATCH_SECONDS):
            return
