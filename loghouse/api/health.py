"""The standard health service: SERVING while this node can answer appends and checked reads.

`Check` looks at the node; `Watch` is told by `refresh`, which the server calls every second and whoever knows
of a change may call at once.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any, Final

from grpc_health.v1 import health_pb2

from loghouse.api import cluster_service, log_service, logs_service
from loghouse.api.guard import Call, Rpc, Shape
from loghouse.errors import UnknownServiceError
from loghouse.limits import NAME_SIZE_MAX
from loghouse.node.api import NodeLike

SERVICE: Final = "grpc.health.v1.Health"
_KNOWN: Final = frozenset(["", log_service.SERVICE, cluster_service.SERVICE, logs_service.SERVICE])
_Status = health_pb2.HealthCheckResponse


class HealthService:
    """Answers `grpc.health.v1.Health` from a node."""

    def __init__(self, node: NodeLike) -> None:
        self._node = node
        self._watchers: set[asyncio.Event] = set()
        self.is_stopping = False
        self._last = self._status()

    def rpcs(self) -> Mapping[str, Rpc]:
        """Return every call of the service, by name."""
        request = health_pb2.HealthCheckRequest
        return {
            "Check": Rpc(request, None, self._check),
            "Watch": Rpc(request, None, self._watch, Shape.SERVER_STREAM),
        }

    def refresh(self) -> None:
        """Look at the node; tell the watchers when something changed."""
        status = self._status()
        if status != self._last:
            self._last = status
            for watcher in self._watchers:
                watcher.set()

    def enter_stop(self) -> None:
        """Say NOT_SERVING from now on: balancers take their traffic elsewhere before the server stops."""
        self.is_stopping = True
        self.refresh()

    def _status(self) -> int:
        is_serving = self._node.is_serving and not self.is_stopping
        return int(_Status.SERVING if is_serving else _Status.NOT_SERVING)

    async def _check(self, call: Call, request: Any) -> bytes:
        call.check_cluster()
        if request.service not in _KNOWN:
            raise UnknownServiceError(request.service[:NAME_SIZE_MAX])
        return bytes(_Status(status=self._status()).SerializeToString())

    async def _watch(self, call: Call, request: Any) -> None:
        watcher = asyncio.Event()
        self._watchers.add(watcher)
        told = None
        try:
            while True:
                call.check_cluster()
                watcher.clear()
                # The protocol wants an unknown service watched, not refused: it might come.
                known = request.service in _KNOWN
                status = self._status() if known else int(_Status.SERVICE_UNKNOWN)
                if status != told:
                    await call.write(_Status(status=status).SerializeToString())
                    told = status
                await watcher.wait()
        finally:
            self._watchers.discard(watcher)
