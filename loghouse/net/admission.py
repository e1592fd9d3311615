"""Who may be connected: strangers, clients and nodes, each with places of their own. Pure.

A connection is a stranger until its certificate is verified: a link's when it greets, a gRPC client's at its
first call. Strangers cost little and are never many: a newcomer is always let in, and the oldest one of
whoever has most goes for it, so nobody keeps others out by holding connections without a certificate.
"""

from __future__ import annotations

import ipaddress
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

from loghouse.errors import ResourceExhaustedError
from loghouse.limits import (
    ADDRESSES_KNOWN_MAX,
    CONNECTIONS_MAX,
    CONNECTIONS_OF_NODES_MAX,
    CONNECTIONS_PER_ADDRESS_MAX,
    CONNECTIONS_PER_CLIENT_MAX,
    CONNECTIONS_PER_NODE_MAX,
    CONNECTIONS_WITHOUT_RULE_MAX,
    STRANGERS_MAX,
    STRANGERS_PER_ADDRESS_MAX,
    Quota,
)
from loghouse.metrics import NO_METRICS, Metrics
from loghouse.shares import Ledger


@dataclass(frozen=True, slots=True, kw_only=True)
class ConnectionLimits:
    """Bounds on open connections: what is not for strangers and nodes is for clients."""

    all_max: int = CONNECTIONS_MAX
    per_address_max: int = CONNECTIONS_PER_ADDRESS_MAX
    strangers_max: int = STRANGERS_MAX
    strangers_per_address_max: int = STRANGERS_PER_ADDRESS_MAX
    nodes_max: int = CONNECTIONS_OF_NODES_MAX
    per_client_max: int = CONNECTIONS_PER_CLIENT_MAX
    per_node_max: int = CONNECTIONS_PER_NODE_MAX

    @property
    def clients_max(self) -> int:
        """What is left for clients; one place stays free, so that the port never pauses."""
        return self.all_max - self.strangers_max - self.nodes_max - 1


def limits_for(all_max: int) -> ConnectionLimits:
    """Return the limits when there can be only so many connections: every part smaller alike."""

    def part(count: int) -> int:
        return max(1, count * all_max // CONNECTIONS_MAX)

    return ConnectionLimits(
        all_max=all_max,
        per_address_max=part(CONNECTIONS_PER_ADDRESS_MAX),
        strangers_max=part(STRANGERS_MAX),
        strangers_per_address_max=part(STRANGERS_PER_ADDRESS_MAX),
        nodes_max=part(CONNECTIONS_OF_NODES_MAX),
        per_client_max=part(CONNECTIONS_PER_CLIENT_MAX),
    )


class Admission:
    """Counts connections; every `ConnectionTicket` must be closed once."""

    def __init__(self, limits: ConnectionLimits, metrics: Metrics = NO_METRICS) -> None:
        self._limits = limits
        self._metrics = metrics
        self.all = 0
        self.clients = Ledger(Quota("connections", limits.clients_max, limits.per_client_max))
        self.nodes = Ledger(Quota("connections of nodes", limits.nodes_max, limits.per_node_max))
        self._by_address: Counter[str] = Counter()
        self._strangers: dict[ConnectionTicket, None] = {}  # oldest first
        self._strangers_by_address: Counter[str] = Counter()
        self._known: dict[str, None] = {}  # addresses that somebody with a certificate came from

    @property
    def strangers(self) -> int:
        """How many have not shown who they are."""
        return len(self._strangers)

    @property
    def is_full(self) -> bool:
        """Whether not one connection more may be accepted."""
        return self.all >= self._limits.all_max

    def enter(self, address: str, drop: Callable[[], None] = lambda: None) -> ConnectionTicket:
        """Count a new connection from this host, a stranger's.

        Args:
            drop: Closes it; called when it is a stranger still and its place is needed.

        Raises:
            ResourceExhaustedError: The host has too many; close it at once.
        """
        limits = self._limits
        network = network_of(address)
        if self._by_address[network] >= limits.per_address_max:
            self._metrics.connection_refused("too many from one address")
            raise ResourceExhaustedError(
                f"connections from {network}", f"at most {limits.per_address_max} are allowed"
            )
        if self._strangers_by_address[network] >= limits.strangers_per_address_max:
            self._drop_stranger_of(network)
        elif self.strangers >= limits.strangers_max:
            self._drop_stranger_of(self._most_crowded())
        self.all += 1
        self._by_address[network] += 1
        self._strangers_by_address[network] += 1
        ticket = ConnectionTicket(self, network, drop)
        self._strangers[ticket] = None
        return ticket

    def _most_crowded(self) -> str:
        """Return whose stranger goes: the host's with most of them, one nobody knows rather than another."""
        counts = self._strangers_by_address
        return max(counts, key=lambda network: (network not in self._known, counts[network]))

    def _drop_stranger_of(self, network: str) -> None:
        self._metrics.stranger_dropped()
        oldest = next(ticket for ticket in self._strangers if ticket.network == network)
        oldest.drop()

    def _leave_strangers(self, ticket: ConnectionTicket) -> None:
        del self._strangers[ticket]
        _decrease(self._strangers_by_address, ticket.network)

    def _identify(self, ticket: ConnectionTicket, subject: str, ledger: Ledger, share: int) -> None:
        try:
            ledger.take(subject, share=share)
        except ResourceExhaustedError:
            self._metrics.connection_refused("too many of one subject, or of all")
            raise
        self._known.pop(ticket.network, None)
        self._known[ticket.network] = None
        if len(self._known) > ADDRESSES_KNOWN_MAX:
            del self._known[next(iter(self._known))]

    def _leave(self, network: str) -> None:
        self.all -= 1
        _decrease(self._by_address, network)


class ConnectionTicket:
    """One connection's place in the counts."""

    __slots__ = ("_admission", "_drop", "_is_open", "_is_stranger", "_ledger", "_subject", "network")

    def __init__(self, admission: Admission, network: str, drop: Callable[[], None]) -> None:
        self.network = network
        self._admission = admission
        self._drop = drop
        self._subject = ""
        self._ledger: Ledger | None = None
        self._is_stranger = True
        self._is_open = True

    def identify(self, subject: str, *, is_node: bool, has_rule: bool = True) -> None:
        """The peer has shown who it is; `has_rule`: there is something it may do here.

        Raises:
            ResourceExhaustedError: It has too many connections, or this one was closed meanwhile.
        """
        if not self._is_open:
            raise ResourceExhaustedError("connections", "this one was closed to make room for others")
        assert self._is_stranger
        ledger = self._admission.nodes if is_node else self._admission.clients
        share = ledger.quota.share
        if not is_node and not has_rule:
            share = min(share, CONNECTIONS_WITHOUT_RULE_MAX)
        self._admission._identify(self, subject, ledger, share)
        self._subject, self._ledger = subject, ledger
        self._pass_on()

    def _pass_on(self) -> None:
        if self._is_stranger:
            self._is_stranger = False
            self._admission._leave_strangers(self)

    def drop(self) -> None:
        """Its place is needed."""
        self.close()
        self._drop()

    def close(self) -> None:
        """The connection is gone."""
        if self._is_open:
            self._pass_on()
            self._is_open = False
            self._admission._leave(self.network)
            if self._ledger is not None:
                self._ledger.give_back(self._subject)


def network_of(address: str) -> str:
    """Return what counts as one host: an IPv4 address, or the /64 that an IPv6 host may choose freely in."""
    try:
        parsed = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if isinstance(parsed, ipaddress.IPv4Address):
        return address
    if parsed.ipv4_mapped is not None:
        return str(parsed.ipv4_mapped)
    return str(ipaddress.ip_network((parsed, 64), strict=False))


def _decrease(counts: Counter[str], key: str) -> None:
    counts[key] -= 1
    if counts[key] <= 0:
        del counts[key]
