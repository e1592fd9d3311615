"""Which server the next call goes to: what a client knows of its cluster, and the choice made of it.

    learn from what a server tells of its cluster, a leader's name beside an answer, a failed or answered call
        -> append: the leader; when it is unknown or away, any other (it passes the append on)
        -> read:   the followers in turn (streams by themselves); the leader when it is alone
        -> ask:    any of them, the addresses that the client was given included

Pure: time is an argument, chance an injected generator. An address that failed is left alone for a while that
doubles with every failure; when every address is, the one whose while ends first is tried.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Container, Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Final, NamedTuple

from loghouse.client.target import is_dialable
from loghouse.errors import IdentityError, UnavailableError
from loghouse.protocol.backoff import Backoff
from loghouse.protocol.entry import DEFAULT_GROUP

PROBATION_SECONDS: Final = 0.2
PROBATION_SECONDS_MAX: Final = 10.0
REFRESH_SECONDS: Final = 30.0


class Purpose(Enum):
    """What a server is wanted for."""

    APPEND = "append"
    READ = "read"
    STREAM = "stream"
    ASK = "ask"


@dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    """A node as its cluster describes it; `grpc_address` is its direct gRPC address, if it has one."""

    name: str
    address: str
    grpc_address: str = ""
    is_leader: bool = False
    role: str = "voter"
    is_alive: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterView:
    """The cluster's uuid (16 bytes), its name, and its servers.

    Of a named log they are those that hold it; `group` is its number, and of two views that with the higher
    `epoch` is the newer.
    """

    cluster_uuid: bytes
    cluster_name: str
    servers: tuple[Server, ...]
    group: int = DEFAULT_GROUP
    epoch: int = 0

    @property
    def leader(self) -> Server | None:
        """The server that leads, if one was known."""
        return next((server for server in self.servers if server.is_leader), None)


class _Probation(NamedTuple):
    """How an address that failed is left alone: until when, and whether it ever does, as things are."""

    backoff: Backoff
    until: float
    is_permanent: bool


class Balancer:
    """Chooses servers of one cluster.

    Args:
        seeds: The addresses that the client was given.
        rng: Where turns begin, so that many clients do not all begin at the same server.
        is_direct: Choose among the seeds alone, whatever servers they tell of.
        is_grpc: Prefer the addresses that servers have for gRPC alone.
        others: Gives addresses that will do as well, when no other one does.
    """

    def __init__(
        self,
        seeds: Sequence[str],
        rng: random.Random,
        *,
        is_direct: bool = False,
        is_grpc: bool = False,
        others: Callable[[], Iterable[str]] = tuple,
    ) -> None:
        assert seeds
        self._seeds = tuple(seeds)
        self._others = others
        self._is_direct = is_direct
        self._is_grpc = is_grpc
        self._rng = rng
        # One turn for each purpose: a reader asks for the bounds before each stream, and a common turn would
        # then send every stream to the same of two followers.
        self._turns = {purpose: rng.randrange(1 << 16) for purpose in Purpose}
        self._leader_name = ""
        self._leader_addresses: tuple[str, ...] = ()  # where it can be dialled: each append asks
        self._probations: dict[str, _Probation] = {}
        self._refresh_at = float("-inf")
        self._dialable: tuple[Server, ...] = ()
        """Those of the view that can be chosen: with an address that means something."""
        self.view: ClusterView | None = None

    # --- what is learned ----------------------------------------------------------------

    def check_cluster(self, cluster_uuid: bytes, address: str) -> None:
        """Raise when the server at `address` is of another cluster than those before.

        Raises:
            IdentityError: It is, or it told no uuid.
            UnavailableError: It is of no cluster yet: a new node that is still joining.
        """
        if len(cluster_uuid) == 16 and not any(cluster_uuid):
            raise UnavailableError(f"{address}: the node has not joined its cluster yet")
        if len(cluster_uuid) != 16:
            raise IdentityError(f"{address}: its cluster uuid has {len(cluster_uuid)} bytes, not 16")
        if self.view is not None and cluster_uuid != self.view.cluster_uuid:
            raise IdentityError(
                f"{address} belongs to cluster {cluster_uuid.hex()}, "
                f"but this client talks to {self.view.cluster_uuid.hex()}; "
                "make a new client if the cluster was made anew"
            )

    def learned(self, view: ClusterView, now: float) -> None:
        """Note what a server told of its cluster; addresses that are not in it any more are forgotten."""
        self.view = view
        self._dialable = tuple(server for server in view.servers if self._addresses_of(server))
        leader = view.leader
        self._led_by(leader.name if leader is not None else "")
        self._refresh_at = now + REFRESH_SECONDS * (0.8 + 0.4 * self._rng.random())
        known = self.addresses()
        self._probations = {a: p for a, p in self._probations.items() if a in known}

    def shows_leader(self, view: ClusterView) -> bool:
        """Whether a view says who leads, and where: a node that just started may not know that yet."""
        leader = view.leader
        return leader is not None and (self._is_direct or bool(self._addresses_of(leader)))

    def hinted(self, leader_name: str) -> None:
        """Note that a node named the leader."""
        if self._is_direct:
            return
        if self._server(leader_name) is None:
            self.expire()
        else:
            self._led_by(leader_name)

    def _led_by(self, name: str) -> None:
        self._leader_name = name
        leader = self._server(name)
        self._leader_addresses = self._addresses_of(leader) if leader is not None else ()

    def failed(self, address: str, now: float, *, is_permanent: bool = False) -> None:
        """Note that a call could not be made there, or was not answered.

        Args:
            is_permanent: Whether it never will, as things are.
        """
        before = self._probations.get(address)
        if before is not None:
            backoff = before.backoff
        else:
            backoff = Backoff(self._rng.random, PROBATION_SECONDS, PROBATION_SECONDS_MAX)
        self._probations[address] = _Probation(backoff, now + backoff.next_seconds(), is_permanent)
        self.expire()

    @property
    def is_hopeless(self) -> bool:
        """Whether no address that there is will ever do, as things are."""
        found = [self._probations.get(address) for address in self.addresses()]
        return all(probation is not None and probation.is_permanent for probation in found)

    def succeeded(self, address: str) -> None:
        """Note that a call was answered there."""
        if self._probations:
            self._probations.pop(address, None)

    def does_not_lead(self, address: str) -> None:
        """Note that the node there cannot append now, and named no leader."""
        if address in self._leader_addresses:
            self._led_by("")
        self.expire()

    def expire(self) -> None:
        """What is known should be asked for again."""
        self._refresh_at = float("-inf")

    # --- what is chosen -----------------------------------------------------------------

    def is_stale(self, now: float) -> bool:
        """Whether the servers should be asked for again."""
        return now >= self._refresh_at

    def leads(self, address: str) -> bool:
        """Whether the server there is the leader, as far as is known."""
        return address in self._leader_addresses

    def address(self, purpose: Purpose, now: float) -> str:
        """Return where to dial next."""
        leader = self.leader_address(now) if purpose is Purpose.APPEND else None
        return leader if leader is not None else next(self.addresses_in_turn(purpose, now))

    def address_beside(self, tried: Container[str], purpose: Purpose, now: float) -> str | None:
        """Return where to dial next besides some; None when all others failed a moment ago."""
        found = (a for a in self.addresses_in_turn(purpose, now) if not self._is_avoided(a, now))
        return next((address for address in found if address not in tried), None)

    def addresses_in_turn(self, purpose: Purpose, now: float) -> Iterator[str]:
        """Yield every address once, the best one first; each call begins one server further."""
        self._turns[purpose] += 1
        tried: set[str] = set()
        for address in self._preferred(purpose, now):
            if address not in tried and not self._is_avoided(address, now):
                tried.add(address)
                yield address
        left = [address for address in self.addresses() if address not in tried]
        yield from sorted(left, key=self._until)

    def leader_address(self, now: float) -> str | None:
        """Return where the leader can be dialled, or None when it is unknown or away."""
        for address in self._leader_addresses:
            if not (self._probations and self._is_avoided(address, now)):
                return address
        return None

    def address_of(self, name: str, now: float) -> str | None:
        """Return where to dial the server of that name, or None when the cluster has none."""
        server = self._server(name)
        if server is None:
            return None
        addresses = self._addresses_of(server)
        return next((address for address in addresses if not self._is_avoided(address, now)), addresses[-1])

    def addresses(self) -> set[str]:
        """Return every address that may be chosen."""
        known = {address for server in self._servers for address in self._addresses_of(server)}
        return known | set(self._seeds) | set(self._others())

    def of_log(self) -> Balancer:
        """Return what chooses among the servers of one log; any server of the cluster serves it, too."""
        return Balancer(
            self._seeds, self._rng, is_direct=self._is_direct, is_grpc=self._is_grpc, others=self.addresses
        )

    def _preferred(self, purpose: Purpose, now: float) -> Iterable[str]:
        leader = self._server(self._leader_name)
        followers = [server for server in self._servers if server is not leader and server.is_alive]
        turn = self._turns[purpose] % len(followers) if followers else 0
        ordered = followers[turn:] + followers[:turn]
        if leader is not None:
            ordered = [leader, *ordered] if purpose is Purpose.APPEND else [*ordered, leader]
        for server in ordered:
            usable = [address for address in self._addresses_of(server) if not self._is_avoided(address, now)]
            yield from usable[:1]
        turn = self._turns[purpose] % len(self._seeds)
        yield from self._seeds[turn:] + self._seeds[:turn]

    @property
    def _servers(self) -> tuple[Server, ...]:
        return self._dialable if not self._is_direct else ()

    def _addresses_of(self, server: Server) -> tuple[str, ...]:
        """Return where a server can be dialled, the better one first; what is no address is left out."""
        told = (server.grpc_address, server.address) if self._is_grpc else (server.address,)
        return tuple(address for address in dict.fromkeys(told) if is_dialable(address))

    def _server(self, name: str) -> Server | None:
        return next((server for server in self._servers if server.name == name), None) if name else None

    def _is_avoided(self, address: str, now: float) -> bool:
        return now < self._until(address)

    def _until(self, address: str) -> float:
        probation = self._probations.get(address)
        return probation.until if probation is not None else float("-inf")
