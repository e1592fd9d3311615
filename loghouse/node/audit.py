"""What is told of every refusal and every act of administration: who, what, from where, and how it ended.

All servers of a node tell it here, by way of the gate. The lines go to a file of their own, or to the node's
diagnostics. So many a second are told of one subject, and of all: what is left out is counted and said.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, Final

from twisted.logger import Logger

from loghouse.errors import (
    IdentityError,
    PermissionDeniedError,
    QuotaExceededError,
    ResourceExhaustedError,
    UnauthenticatedError,
)
from loghouse.limits import AUDIT_LINES, LOG_TEXT_SIZE_MAX
from loghouse.shares import Ledger
from loghouse.text import visible_json

DONE: Final = "done"
_AUDITED: Final = (PermissionDeniedError, UnauthenticatedError, IdentityError, QuotaExceededError)


class Audit:
    """Tells what was refused and what was changed.

    Attributes:
        write: Takes each line, JSON without an end; None writes it into the diagnostics.
    """

    logger = Logger()

    def __init__(self, clock: Callable[[], float], write: Callable[[str], None] | None = None) -> None:
        self.write = write
        self._clock = clock  # seconds since the epoch
        self._second = -1.0  # the one whose lines are counted
        self._lines = Ledger(AUDIT_LINES)
        self._left_out = 0

    def refused(self, error: BaseException, *, who: str, what: str, where: str) -> None:
        """Tell a refusal, if it is one that somebody has to know of: of an identity, a permission, a quota.

        Args:
            who: The subject; empty when nobody knows.
        """
        if isinstance(error, _AUDITED):
            self._tell("refusal", who, what, where, str(error))

    def done(self, *, who: str, what: str, where: str, outcome: str = DONE) -> None:
        """Tell an act of administration that was carried out, or why it was not."""
        self._tell("administration", who, what, where, outcome)

    def _tell(self, kind: str, who: str, what: str, where: str, outcome: str) -> None:
        now = self._clock()
        second = now // 1.0
        if second != self._second:
            self._second = second
            self._lines = Ledger(AUDIT_LINES)
            if self._left_out:
                count, self._left_out = self._left_out, 0
                self._put(left_out_line(now, count), "others")
        try:
            self._lines.take(who)
        except ResourceExhaustedError:
            self._left_out += 1
            return
        line = {
            "time": _time(now),
            "kind": kind,
            "who": _short(who) or "a stranger",
            "what": _short(what),
            "from": _short(where),
            "outcome": _short(outcome),
        }
        self._put(visible_json(line), who or where)

    def _put(self, line: str, peer: str) -> None:
        if self.write is not None:
            self.write(line)
        else:
            self.logger.info("audit: {line}", line=line, peer=peer)


def left_out_line(now: float, count: int) -> str:
    """Return the line that stands for so many that are not there."""
    line: dict[str, Any] = {"time": _time(now), "kind": "left out", "count": count}
    return visible_json(line)


def _time(now: float) -> str:
    try:
        return datetime.fromtimestamp(now, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    except (ValueError, OverflowError, OSError):  # a clock that is thousands of years ahead
        return f"{now:.3f}"


def _short(text: str) -> str:
    return text if len(text) <= LOG_TEXT_SIZE_MAX else text[:LOG_TEXT_SIZE_MAX] + "..."
