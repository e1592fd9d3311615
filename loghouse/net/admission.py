"""Admission of connections: strangers, clients and nodes have separate places. Pure.

A connection is a stranger's until its certificate is verified: that of a link when it greets, that of a gRPC
client at its first call. A new stranger is always admitted. If all places of strangers are taken, the oldest
one of the host that has most is dropped, so nobody keeps others out by connections without a certificate.
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
    """Bounds on open connections. Clients have what strangers and nodes leave."""

    all_max: int = CONNECTIONS_MAX
    per_address_max: int = CONNECTIONS_PER_ADDRESS_MAX
    strangers_max: int = STRANGERS_MAX
    strangers_per_address_max: int = STRANGERS_PER_ADDRESS_MAX
    nodes_max: int = CONNECTIONS_OF_NODES_MAX
    per_client_max: int = CONNECTIONS_PER_CLIENT_MAX
    per_node_max: int = CONNECTIONS_PER_NODE_MAX

    @property
    def clients_max(self) -> int:
        """The places of clients. One of all places stays free, so that the port never pauses."""
        return self.all_max - self.strangers_max - self.nodes_max - 1


def limits_for(all_max: int) -> ConnectionLimits:
    """Return the limits for `all_max` connections at most: every part is smaller in proportion."""

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

    def __init__(
        self,
        limits: ConnectionLimits,
        metrics: Metrics = NO_METRICS,
        quota_of: Callable[[str], int] = lambda subject: 0,
        quota_used_up: Callable[[str], None] = lambda subject: None,
    ) -> None:
        self._limits = limits  # fixed
        self.quota_of = quota_of  # how many connections a subject's quota allows; 0: no quota; fixed
        self._quota_used_up = quota_used_up  # told of a subject that has them all, and wants one more; fixed
        self._metrics = metrics  # counts refusals; fixed
        self.all = 0  # open connections, of strangers, clients and nodes
        # Connections of clients, by subject.
        self.clients = Ledger(Quota("connections", limits.clients_max, limits.per_client_max))
        # Connections of nodes, by subject.
        self.nodes = Ledger(Quota("connections of nodes", limits.nodes_max, limits.per_node_max))
        self._by_address: Counter[str] = Counter()  # open connections of each network
        self._strangers: dict[ConnectionTicket, None] = {}  # the strangers' connections, oldest first
        self._strangers_by_address: Counter[str] = Counter()  # those of each network
        # The networks of the last clients and nodes that were identified, oldest first.
        self._known: dict[str, None] = {}

    @property
    def strangers(self) -> int:
        """How many connections are strangers'."""
        return len(self._strangers)

    @property
    def is_full(self) -> bool:
        """Whether every place is taken."""
        return self.all >= self._limits.all_max

    def enter(self, address: str, drop: Callable[[], None] = lambda: None) -> ConnectionTicket:
        """Count a new connection from a host, a stranger's.

        Args:
            drop: Closes the connection; called if it is still a stranger's and its place is needed.

        Raises:
            ResourceExhaustedError: The host has too many connections; close this one at once.
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
        """Return the network that loses a stranger: an unknown one first, else the one with most."""
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
            if ledger is self.clients and 0 < self.quota_of(subject) <= ledger.held_by(subject):
                self._quota_used_up(subject)
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
        self.network = network  # the host that counts, as `network_of` has it; fixed
        self._admission = admission  # fixed
        self._drop = drop  # closes the connection; fixed
        self._subject = ""  # whose it is; empty until `identify`
        self._ledger: Ledger | None = None  # what counts it by subject; None until `identify`
        self._is_stranger = True  # until `identify`, or `close`
        self._is_open = True  # until `close`

    def identify(self, subject: str, *, is_node: bool, has_rule: bool = True) -> None:
        """Count the connection as its subject's: the peer has shown who it is.

        Args:
            has_rule: Whether the policy allows the subject anything.

        Raises:
            ResourceExhaustedError: The subject has too many connections, or this one was dropped meanwhile.
        """
        if not self._is_open:
            raise ResourceExhaustedError("connections", "this one was closed to make room for others")
        assert self._is_stranger
        ledger = self._admission.nodes if is_node else self._admission.clients
        share = ledger.quota.share
        if not is_node:
            share = min(share, self._admission.quota_of(subject) or share)
            if not has_rule:
                share = min(share, CONNECTIONS_WITHOUT_RULE_MAX)
        self._admission._identify(self, subject, ledger, share)
        self._subject, self._ledger = subject, ledger
        self._pass_on()

    def _pass_on(self) -> None:
        if self._is_stranger:
            self._is_stranger = False
            self._admission._leave_strangers(self)

    def drop(self) -> None:
        """Close the connection: its place is needed."""
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
    """Return what counts as one host: an IPv4 address, or the /64 in which an IPv6 host may choose."""
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
