"""The standard reflection service, behind the guard: `grpcurl list` works for whoever may do anything."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from typing import Any, Final

from grpc_reflection.v1alpha import reflection_pb2
from grpc_reflection.v1alpha.reflection import aio as reflection_aio

from loghouse.api.guard import Call, Rpc, Shape

SERVICE: Final = "grpc.reflection.v1alpha.ServerReflection"


class ReflectionService:
    """Describes the named services; the answers are grpc's own."""

    def __init__(self, services: list[str]) -> None:
        self._servicer = reflection_aio.ReflectionServicer([*services, SERVICE])

    def rpcs(self) -> Mapping[str, Rpc]:
        """Return every call of the service, by name."""
        request = reflection_pb2.ServerReflectionRequest
        return {"ServerReflectionInfo": Rpc(request, None, self._answer, Shape.STREAM)}

    async def _answer(self, call: Call) -> None:
        async for response in self._servicer.ServerReflectionInfo(_requests(call), None):
            await call.write(response.SerializeToString())


async def _requests(call: Call) -> AsyncIterator[Any]:
    while (request := await call.read()) is not None:
        call.check_cluster()
        yield request
