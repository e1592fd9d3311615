"""How many connections may be open: in all, from one address, of one identity, and of strangers. Pure."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from loghouse.errors import ResourceExhaustedError
from loghouse.limits import (
    CONNECTIONS_MAX,
    CONNECTIONS_PER_ADDRESS_MAX,
    CONNECTIONS_PER_CLIENT_MAX,
    CONNECTIONS_PER_NODE_MAX,
    STRANGERS_MAX,
    STRANGERS_PER_ADDRESS_MAX,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ConnectionLimits:
    """Bounds on open connections. A stranger is one whose certificate was not seen yet."""

    all_max: int = CONNECTIONS_MAX
    per_address_max: int = CONNECTIONS_PER_ADDRESS_MAX
    strangers_max: int = STRANGERS_MAX
    strangers_per_address_max: int = STRANGERS_PER_ADDRESS_MAX
    per_client_max: int = CONNECTIONS_PER_CLIENT_MAX
    per_node_max: int = CONNECTIONS_PER_NODE_MAX


class Admission:
    """Counts connections; every `Ticket` must be closed once."""

    def __init__(self, limits: ConnectionLimits) -> None:
        self._limits = limits
        self.all = 0
        self.strangers = 0
        self.refused = 0
        self._by_address: Counter[str] = Counter()
        self._strangers_by_address: Counter[str] = Counter()
        self._by_subject: Counter[str] = Counter()

    @property
    def is_full(self) -> bool:
        """Whether not one connection more may be accepted."""
        return self.all >= self._limits.all_max

    def enter(self, address: str) -> Ticket:
        """Count a new connection from this host, a stranger's.

        Raises:
            ResourceExhaustedError: A bound is reached; close it at once.
        """
        limits = self._limits
        for count, count_max, what in (
            (self.all, limits.all_max, "connections"),
            (self._by_address[address], limits.per_address_max, f"connections from {address}"),
            (self.strangers, limits.strangers_max, "connections not yet authenticated"),
            (
                self._strangers_by_address[address],
                limits.strangers_per_address_max,
                f"connections not yet authenticated from {address}",
            ),
        ):
            if count >= count_max:
                self.refused += 1
                raise ResourceExhaustedError(what, f"at most {count_max} are allowed")
        self.all += 1
        self.strangers += 1
        self._by_address[address] += 1
        self._strangers_by_address[address] += 1
        return Ticket(self, address)

    def _leave_strangers(self, address: str) -> None:
        self.strangers -= 1
        _decrease(self._strangers_by_address, address)

    def _identify(self, subject: str, *, is_node: bool) -> None:
        count_max = self._limits.per_node_max if is_node else self._limits.per_client_max
        if self._by_subject[subject] >= count_max:
            self.refused += 1
            raise ResourceExhaustedError(f"connections of {subject!r}", f"at most {count_max} are allowed")
        self._by_subject[subject] += 1

    def _leave(self, address: str, subject: str) -> None:
        self.all -= 1
        _decrease(self._by_address, address)
        if subject:
            _decrease(self._by_subject, subject)


class Ticket:
    """One connection's place in the counts."""

    __slots__ = ("_address", "_admission", "_is_open", "_is_stranger", "_subject")

    def __init__(self, admission: Admission, address: str) -> None:
        self._admission = admission
        self._address = address
        self._subject = ""
        self._is_stranger = True
        self._is_open = True

    def identify(self, subject: str, *, is_node: bool) -> None:
        """The peer has shown who it is.

        Raises:
            ResourceExhaustedError: It has too many connections.
        """
        assert self._is_stranger
        assert self._is_open
        self._admission._identify(subject, is_node=is_node)
        self._subject = subject
        self.pass_on()

    def pass_on(self) -> None:
        """Somebody else authenticates this connection; here it is a stranger no more."""
        if self._is_stranger:
            self._is_stranger = False
            self._admission._leave_strangers(self._address)

    def close(self) -> None:
        """The connection is gone."""
        if self._is_open:
            self.pass_on()
            self._is_open = False
            self._admission._leave(self._address, self._subject)


def _decrease(counts: Counter[str], key: str) -> None:
    counts[key] -= 1
    if counts[key] <= 0:
        del counts[key]
