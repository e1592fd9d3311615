"""How far another node's wall clock is away, by the date of an answer over HTTP."""

from __future__ import annotations

import json
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from email.utils import parsedate_to_datetime
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from typing import Final

from loghouse.config.values import Address
from loghouse.limits import KIB, NAME_SIZE_MAX
from loghouse.text import visible

ASK_SECONDS_MAX: Final = 3.0  # for each step: the connection, the head, the body
ANSWER_SIZE_MAX: Final = 64 * KIB


@dataclass(frozen=True, slots=True)
class PeerClock:
    """What an answer says: who answered, and by how many seconds its clock is ahead (below 0: behind).

    `ahead_seconds` is what is certain: an answer is some time on its way, and a date has no fractions.
    """

    node: str
    ahead_seconds: float

    @property
    def text(self) -> str:
        """How far it is away, for people."""
        away = timedelta(seconds=int(abs(self.ahead_seconds)))
        return f"{away} {'ahead of' if self.ahead_seconds > 0 else 'behind'} this machine's"


def ask_clock(address: Address, tls: ssl.SSLContext | None, wall: Callable[[], float]) -> PeerClock | None:
    """Ask a node for its health, and look at the date of the answer.

    Args:
        address: Where it serves HTTP.
        tls: None for plain HTTP.
        wall: This machine's wall clock, seconds since the epoch.

    Returns:
        None when nobody answers there, or no node.
    """
    if tls is None:
        connection = HTTPConnection(address.host, address.port, timeout=ASK_SECONDS_MAX)
    else:
        connection = HTTPSConnection(address.host, address.port, timeout=ASK_SECONDS_MAX, context=tls)
    try:
        connection.connect()
        begin = wall()
        connection.request("GET", "/healthz")
        answer = connection.getresponse()
        end = wall()
        told = json.loads(answer.read(ANSWER_SIZE_MAX))
        date = parsedate_to_datetime(answer.headers["Date"] or "").timestamp()
        node = visible(str(told["node"]))[:NAME_SIZE_MAX]
        return PeerClock(node, _ahead_seconds(date, begin, end))
    except (OSError, HTTPException, ValueError, LookupError, TypeError, OverflowError):
        return None
    finally:
        connection.close()


def _ahead_seconds(date: float, begin: float, end: float) -> float:
    """Return by how much a clock is ahead at least that said `date` at some time between two of this one."""
    if date > end:
        return date - end
    return min(0.0, date + 1.0 - begin)
