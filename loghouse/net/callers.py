"""Connections of gRPC clients, known to both: the port that carries their bytes, and the guard of calls.

TLS of such a connection ends in the gRPC server, so the port sees neither the handshake's end nor whose
certificate it was. Each spliced connection therefore comes from a Unix address of its own, which gRPC tells
with every call: the first call makes a stranger a client, and says whose the bytes are.

gRPC holds an unfinished request itself, up to the largest message for each open call, and does not say so.
What a connection brought and no call got is counted here instead, against its subject's share. And while no
call awaits a message, only a call's headers can come: after what these may have the connection is not read
until a call begins. An endless header block costs gRPC many times its bytes.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable
from typing import Final

from twisted.logger import Logger

from loghouse.auth.identity import Identity
from loghouse.errors import ResourceExhaustedError
from loghouse.limits import KIB, QUIET_SIZE_MAX
from loghouse.net.admission import ConnectionTicket
from loghouse.shares import Ledger

STEP: Final = 64 * KIB  # what a connection may leave unread at no charge, and what is charged at once
MESSAGE_OVERHEAD: Final = 256  # headers and frames of a message of a connection, at most, and ...
OVERHEAD_SHIFT: Final = 8  # ... one byte for each 2 ** 8 of a message: frames and TLS records
ANSWER_OVERHEAD: Final = 128  # what a client sends back for what it is sent: window updates, pings


class Caller:
    """One spliced connection. `identity` is None until its first call."""

    logger = Logger()

    def __init__(
        self, callers: Callers, name: str, ticket: ConnectionTicket, drop: Callable[[], None]
    ) -> None:
        self.name = name
        self.identity: Identity | None = None
        self._callers = callers
        self._ticket = ticket
        self._drop = drop
        self._call_count = 0
        self._unread = 0
        self._charged = 0
        self._reading_count = 0  # calls that await a message
        self._quiet = 0  # bytes since the last sign of a call
        self.go_on: Callable[[], None] = lambda: None
        """Called when the connection may be read again."""

    # --- the guard's side -----------------------------------------------------------------

    def identify(self, identity: Identity, *, has_rule: bool) -> None:
        """Say whose connection it is.

        Raises:
            ResourceExhaustedError: The subject has too many; the connection is to be dropped.
        """
        self._ticket.identify(identity.subject, is_node=False, has_rule=has_rule)
        self.identity = identity

    def call_begun(self) -> None:
        """One call more is open."""
        self._call_count += 1
        self.note_sign()

    def read_begun(self) -> None:
        """One call more awaits a message."""
        self._reading_count += 1
        self.note_sign()

    def read_ended(self) -> None:
        """One less."""
        self._reading_count -= 1

    def call_ended(self) -> None:
        """One less; with the last one all that was unread is gone."""
        self._call_count -= 1
        if not self._call_count:
            self._unread = 0
            self._give_back()

    def delivered(self, size: int) -> None:
        """A call got a message of so many bytes."""
        self._less_unread(size + (size >> OVERHEAD_SHIFT) + MESSAGE_OVERHEAD)

    @property
    def has_calls(self) -> bool:
        """Whether one is open."""
        return self._call_count > 0

    def note_sign(self) -> None:
        """The client does something: as many bytes as without a call may come again."""
        is_held, self._quiet = self._quiet >= QUIET_SIZE_MAX, 0
        if is_held:
            self.go_on()

    def drop(self) -> None:
        """Close the connection, hard."""
        self._drop()

    # --- the splice's side ----------------------------------------------------------------

    def pass_on(self, size: int) -> int:
        """Return how many of these bytes of the client may be passed on; the rest must wait for `go_on`."""
        if not self._reading_count:
            size = min(size, QUIET_SIZE_MAX - self._quiet)
            self._quiet += size
        if self._call_count:
            self._count(size)
        return size

    def _count(self, size: int) -> None:
        self._unread += size
        if self._unread > self._charged + STEP:
            self._charge()

    def sent(self, size: int) -> None:
        """So many bytes were passed on to the client."""
        if 0 < self._quiet < QUIET_SIZE_MAX:
            self._quiet = max(0, self._quiet - (size >> OVERHEAD_SHIFT) - ANSWER_OVERHEAD)
        if self._unread:
            self._less_unread((size >> OVERHEAD_SHIFT) + ANSWER_OVERHEAD)

    def closed(self) -> None:
        """The connection is gone."""
        self._call_count = 0
        self._unread = 0
        self._give_back()
        self._callers.forget(self)

    def _less_unread(self, size: int) -> None:
        self._unread = max(0, self._unread - size)
        if self._charged and self._unread <= STEP:
            self._give_back()

    def _charge(self) -> None:
        assert self.identity is not None
        subject = self.identity.subject
        amount = (self._unread - self._charged) // STEP * STEP
        try:
            self._callers.bodies.take(subject, amount)
        except ResourceExhaustedError as error:
            self.logger.warn("closing a gRPC connection of {peer}: {error}", peer=subject, error=str(error))
            self._drop()
            return
        self._charged += amount

    def _give_back(self) -> None:
        if self._charged:
            assert self.identity is not None
            self._callers.bodies.give_back(self.identity.subject, self._charged)
            self._charged = 0


class Callers:
    """All spliced connections, by the address that gRPC sees.

    Args:
        bodies: Counts bytes of unfinished requests by subject.
    """

    def __init__(self, bodies: Ledger) -> None:
        self.bodies = bodies
        # Nobody else can guess such a name, so nobody can have it before us.
        self._prefix = f"loghouse-{os.urandom(8).hex()}-"
        self._numbers = itertools.count(1)
        self._callers: dict[str, Caller] = {}

    def add(self, ticket: ConnectionTicket, drop: Callable[[], None]) -> Caller:
        """Return a new connection; its `name` is the abstract Unix address it is to come from."""
        caller = Caller(self, f"{self._prefix}{next(self._numbers)}", ticket, drop)
        self._callers[_peer(caller)] = caller
        return caller

    def find(self, peer: str) -> Caller | None:
        """Return the connection that gRPC names so; None for one that came another way."""
        return self._callers.get(peer)

    def forget(self, caller: Caller) -> None:
        """It is gone."""
        self._callers.pop(_peer(caller), None)


def _peer(caller: Caller) -> str:
    return f"unix-abstract:{caller.name}"
