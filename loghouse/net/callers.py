"""The connections of gRPC clients, shared by the port that carries their bytes and the guard of calls.

TLS of such a connection ends in the gRPC server, so the port sees neither the end of the handshake nor the
certificate. Each spliced connection therefore comes from a Unix address of its own, and gRPC gives that
address with every call: the first call says whose connection it is, which was a stranger's before.

gRPC holds unfinished requests, up to the largest message for each open call, and does not say how many bytes
those are. So bytes that a connection brought and no call received count here, against the subject's share.
While no call awaits a message only headers of a call can come. After as many bytes as headers may have, the
connection is not read until a call begins: an endless header block costs gRPC many times its bytes.
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

STEP: Final = 64 * KIB  # unread bytes of a connection that are free, and the unit of the charge
MESSAGE_OVERHEAD: Final = 256  # headers and frames of a message of a connection, at most, and ...
OVERHEAD_SHIFT: Final = 8  # ... one byte for each 2 ** 8 of a message: frames and TLS records
ANSWER_OVERHEAD: Final = 128  # what a client sends back for one piece it gets: window updates, pings


class Caller:
    """One spliced connection."""

    logger = Logger()

    def __init__(
        self, callers: Callers, name: str, ticket: ConnectionTicket, drop: Callable[[], None]
    ) -> None:
        self.name = name  # the abstract Unix address it comes from; fixed
        self.identity: Identity | None = None  # whose it is; None until the first call
        self._callers = callers  # all of them; fixed
        self._ticket = ticket  # its place among all connections; a stranger's until the first call
        self.drop = drop  # aborts the connection; fixed
        self._call_count = 0  # open calls
        self._unread = 0  # bytes that no call has received, estimated; 0 without an open call
        self._charged = 0  # those of them that are taken from the subject's share, in whole steps
        self._reading_count = 0  # open calls that await a message
        self._quiet = 0  # bytes that came since the last sign of a call, less what answers explain
        self.go_on: Callable[[], None] = lambda: None  # reads the connection again; set by its splice

    # --- the guard's side -----------------------------------------------------------------

    def identify(self, identity: Identity, *, has_rule: bool) -> None:
        """Say whose connection it is.

        Raises:
            ResourceExhaustedError: The subject has too many; the connection is to be dropped.
        """
        self._ticket.identify(identity.subject, is_node=False, has_rule=has_rule)
        self.identity = identity

    @property
    def place(self) -> str:
        """The host that the connection is of."""
        return self._ticket.network

    def call_begun(self) -> None:
        """A call begins."""
        self._call_count += 1
        self.note_sign()

    def read_begun(self) -> None:
        """A call awaits a message."""
        self._reading_count += 1
        self.note_sign()

    def read_ended(self) -> None:
        """A call no longer awaits a message."""
        self._reading_count -= 1

    def call_ended(self) -> None:
        """A call has ended; after the last one nothing is unread."""
        self._call_count -= 1
        if not self._call_count:
            self._unread = 0
            self._give_back()

    def delivered(self, size: int) -> None:
        """A call received a message of `size` bytes."""
        self._less_unread(size + (size >> OVERHEAD_SHIFT) + MESSAGE_OVERHEAD)

    @property
    def has_calls(self) -> bool:
        """Whether a call is open."""
        return self._call_count > 0

    def note_sign(self) -> None:
        """The client does something: let as many bytes come without a call as at the start."""
        is_held, self._quiet = self._quiet >= QUIET_SIZE_MAX, 0
        if is_held:
            self.go_on()

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
        """The client was sent `size` bytes."""
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
            self.drop()
            return
        self._charged += amount

    def _give_back(self) -> None:
        if self._charged:
            assert self.identity is not None
            self._callers.bodies.give_back(self.identity.subject, self._charged)
            self._charged = 0


class Callers:
    """All spliced connections, by the address that gRPC sees."""

    def __init__(self, bodies: Ledger) -> None:
        self.bodies = bodies  # counts bytes of unfinished requests by subject; fixed
        # No other process can guess such a name and take it before.
        self._prefix = f"loghouse-{os.urandom(8).hex()}-"
        self._numbers = itertools.count(1)  # of the connections, for their names
        self._callers: dict[str, Caller] = {}  # the open ones, by the name that gRPC gives them

    def add(self, ticket: ConnectionTicket, drop: Callable[[], None]) -> Caller:
        """Return a new connection; its `name` is the abstract Unix address it is to come from."""
        caller = Caller(self, f"{self._prefix}{next(self._numbers)}", ticket, drop)
        self._callers[_peer(caller)] = caller
        return caller

    def find(self, peer: str) -> Caller | None:
        """Return the connection that gRPC calls `peer`; None if that did not come by the port."""
        return self._callers.get(peer)

    def forget(self, caller: Caller) -> None:
        """The connection is gone."""
        self._callers.pop(_peer(caller), None)


def _peer(caller: Caller) -> str:
    return f"unix-abstract:{caller.name}"
