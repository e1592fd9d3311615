"""The service `Cluster`: administration. Every call is guarded; none is served by this version."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from loghouse.api.guard import Call, Rpc
from loghouse.api.v1 import log_pb2
from loghouse.auth.policy import Action
from loghouse.errors import NotSupportedError

SERVICE: Final = "log.v1.Cluster"


class ClusterService:
    """Answers the calls of `log.v1.Cluster`."""

    def rpcs(self) -> Mapping[str, Rpc]:
        """Return every call of the service, by name."""
        requests = {
            "Status": log_pb2.StatusRequest,
            "Add": log_pb2.AddRequest,
            "Remove": log_pb2.RemoveRequest,
            "Leave": log_pb2.LeaveRequest,
            "Transfer": log_pb2.TransferRequest,
            "Trim": log_pb2.TrimRequest,
        }
        return {name: Rpc(request, Action.ADMIN, self._refuse) for name, request in requests.items()}

    async def _refuse(self, call: Call, request: Any) -> bytes:
        name = request.DESCRIPTOR.name.removesuffix("Request")
        call.check_cluster(name)
        raise NotSupportedError(f"{SERVICE}.{name} is not served by this version")
