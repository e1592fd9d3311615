"""The gRPC server: one grpc.aio server, its services, its limits, and its ordered stop."""

from __future__ import annotations

import asyncio
import ipaddress
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from grpc import aio

from loghouse.api import cluster_service, cursors_service, health, log_service, logs_service, reflection
from loghouse.api.cluster_service import ClusterService
from loghouse.api.credentials import grpc_credentials
from loghouse.api.cursors_service import CursorsService
from loghouse.api.guard import Guard, handlers_of
from loghouse.api.health import HealthService
from loghouse.api.logs_service import LogsService
from loghouse.api.reflection import ReflectionService
from loghouse.api.tracing import log_service_class
from loghouse.auth.credentials import Credentials
from loghouse.auth.identity import Identity
from loghouse.auth.policy import Authorizer
from loghouse.errors import ConfigError
from loghouse.limits import (
    BODIES,
    GRPC_CALLS_MAX,
    GRPC_MESSAGE_SIZE_MAX,
    GRPC_METADATA_SIZE_MAX,
    GRPC_STREAMS_PER_CONNECTION_MAX,
    RECORD_SIZE_MAX,
)
from loghouse.metrics import NO_METRICS, Metrics
from loghouse.net.callers import Callers
from loghouse.node.api import NodeLike
from loghouse.node.gate import Gate
from loghouse.shares import Ledger, Shares

if TYPE_CHECKING:
    from loghouse.tracing.spans import Tracer

CALLS_BEGUN_MAX: Final = 2 * GRPC_CALLS_MAX  # also those that are about to be refused
HEALTH_SECONDS: Final = 1.0
QUIET_SECONDS: Final = 0.1
TURN_AWAY_SECONDS_MAX: Final = 1.0

_OPTIONS: Final[tuple[tuple[str, int], ...]] = (
    # A taken port is an error at boot, not half of the connections.
    ("grpc.so_reuseport", 0),
    ("grpc.max_receive_message_length", GRPC_MESSAGE_SIZE_MAX),
    ("grpc.max_send_message_length", GRPC_MESSAGE_SIZE_MAX),
    # Equal, so that nothing is refused at random between a soft and a hard limit.
    ("grpc.max_metadata_size", GRPC_METADATA_SIZE_MAX),
    ("grpc.absolute_max_metadata_size", GRPC_METADATA_SIZE_MAX),
    ("grpc.max_concurrent_streams", GRPC_STREAMS_PER_CONNECTION_MAX),
    # Only identity: a few compressed bytes must not become eight megabytes before anybody looked at them.
    ("grpc.compression_enabled_algorithms_bitset", 1),
    ("grpc.server_handshake_timeout_ms", 5_000),
    # A client that vanished is noticed, and what its streams hold is freed.
    ("grpc.keepalive_time_ms", 60_000),
    ("grpc.keepalive_timeout_ms", 20_000),
    # Clients may ping every ten seconds, also without a call; a third early ping ends the connection.
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
    ("grpc.http2.max_ping_strikes", 2),
)


def channel_options() -> list[tuple[str, int]]:
    """Return the limits of every gRPC server of ours, for a grpc server."""
    return list(_OPTIONS)


class GrpcServer:
    """Serves a node over gRPC.

    `bind` may be called for several addresses, before `start`, without a running loop: whatever can go wrong
    at boot goes wrong there, synchronously. Then `start`, and `stop` once.

    Args:
        node: What is served.
        authorizer: Decides about every call.
        clock: Seconds since the epoch, to notice certificates that expire on open connections.
        credentials: mTLS; None is plaintext, which only loopback addresses may have.
        anonymous: The subject of every caller without TLS. Without TLS and without this nothing is permitted.
        record_size_max: Bytes one record may have.
        shares: Counts what subjects hold, calls among it; one more is RESOURCE_EXHAUSTED.
        callers: The connections that come through the one port.
        check_caller: Raises IdentityError for a certificate that is denied, or whose CA was removed; asked at
            every call.
        metrics: Told of refusals, and what appends and reads are counted in.
        tracer: Makes spans of appends; None: nobody traces.
    """

    def __init__(
        self,
        node: NodeLike,
        authorizer: Authorizer,
        *,
        clock: Callable[[], float],
        credentials: Credentials | None,
        anonymous: str = "",
        record_size_max: int = RECORD_SIZE_MAX,
        shares: Shares | None = None,
        callers: Callers | None = None,
        check_caller: Callable[[Identity], None] = lambda identity: None,
        metrics: Metrics = NO_METRICS,
        tracer: Tracer | None = None,
    ) -> None:
        self._credentials = credentials
        gate = self.gate = Gate(
            node, authorizer, clock=clock, check_caller=check_caller, record_size_max=record_size_max
        )
        self._guard = guard = Guard(
            gate,
            anonymous="" if credentials else anonymous,
            shares=shares or Shares(),
            callers=callers or Callers(Ledger(BODIES)),
            metrics=metrics,
        )
        self.health = HealthService(node)
        self._health_timer: asyncio.TimerHandle | None = None
        self._server = aio.server(options=channel_options(), maximum_concurrent_rpcs=CALLS_BEGUN_MAX)
        tallies = metrics.tallies
        services: list[tuple[str, Any]] = [
            (
                log_service.SERVICE,
                log_service_class(tracer)(gate, tallies.grpc if tallies is not None else None),
            ),
            (cluster_service.SERVICE, ClusterService(node)),
            (logs_service.SERVICE, LogsService(gate)),
            (cursors_service.SERVICE, CursorsService()),
            (health.SERVICE, self.health),
        ]
        services.append((reflection.SERVICE, ReflectionService([name for name, _ in services])))
        self._server.add_generic_rpc_handlers(
            tuple(handlers_of(guard, name, service.rpcs()) for name, service in services)
        )

    def bind(self, address: str) -> int:
        """Listen on `host:port` (port 0: any free one) or `unix:PATH`; return the port.

        Raises:
            ConfigError: The address cannot be had, or is not a loopback one although there is no TLS.
        """
        try:
            if self._credentials is not None:
                return int(self._server.add_secure_port(address, grpc_credentials(self._credentials)))
            if not _is_loopback(address):
                raise ConfigError([f"{address}: without TLS only loopback addresses are allowed"])
            return int(self._server.add_insecure_port(address))
        except RuntimeError:
            raise ConfigError(
                [f"{address}: cannot listen for gRPC; is it in use, or not an address of this host?"]
            ) from None

    async def start(self) -> None:
        """Begin to serve."""
        await self._server.start()
        self._refresh_health()

    async def stop(self, grace_seconds: float) -> None:
        """Take no new calls, give those under way `grace_seconds`, cancel the rest, and close."""
        if self._health_timer is not None:
            self._health_timer.cancel()
        self.health.enter_stop()
        if grace_seconds > 0:
            await self._turn_away()
        await self._server.stop(grace_seconds)

    async def _turn_away(self) -> None:
        """Answer new calls UNAVAILABLE until none comes any more, or for `TURN_AWAY_SECONDS_MAX`.

        grpc cancels the calls that reach it between the stop and the client's hearing of it, and a client
        that sees CANCELLED cannot know whether its records were appended.
        """
        self._guard.is_stopping = True
        loop = asyncio.get_running_loop()
        end = loop.time() + TURN_AWAY_SECONDS_MAX
        count = -1
        while self._guard.turned_away_count != count and loop.time() < end:
            count = self._guard.turned_away_count
            await asyncio.sleep(QUIET_SECONDS)

    def _refresh_health(self) -> None:
        self.health.refresh()
        loop = asyncio.get_running_loop()
        self._health_timer = loop.call_later(HEALTH_SECONDS, self._refresh_health)


def _is_loopback(address: str) -> bool:
    if address.startswith("unix:"):
        return True  # guarded by the file system
    host = address.rpartition(":")[0].strip("[]")
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
