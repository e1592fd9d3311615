"""The service `Cursors`: named positions of a log, each moved by one holder at a time.

Every call works on every node; the log's leader decides. What is asked for is checked there, too.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from loghouse.api.gated_call import GatedCall
from loghouse.api.guard import Rpc
from loghouse.api.v1 import log_pb2
from loghouse.auth.policy import Action
from loghouse.limits import LEASE_SECONDS_DEFAULT
from loghouse.protocol.cursor_messages import CursorOperation, CursorPage, DescribedCursor
from loghouse.protocol.cursors import REWIND
from loghouse.runtime.bridge import to_asyncio

SERVICE: Final = "log.v1.Cursors"

_LEASE_MILLISECONDS: Final = int(LEASE_SECONDS_DEFAULT * 1000)


class CursorsService:
    """Answers the calls of `log.v1.Cursors` from the node behind the gate."""

    def rpcs(self) -> Mapping[str, Rpc]:
        """Return every call of the service, by name."""
        consume = Action.CONSUME
        return {
            "Acquire": Rpc(log_pb2.AcquireCursorRequest, consume, self._acquire),
            "Advance": Rpc(log_pb2.AdvanceCursorRequest, consume, self._advance),
            "Renew": Rpc(log_pb2.HeldCursorRequest, consume, self._renew),
            "Release": Rpc(log_pb2.HeldCursorRequest, consume, self._release),
            "Get": Rpc(log_pb2.NamedCursorRequest, consume, self._get),
            "List": Rpc(log_pb2.ListCursorsRequest, consume, self._list),
            "Set": Rpc(log_pb2.SetCursorRequest, consume, self._set),
            "Delete": Rpc(log_pb2.NamedCursorRequest, consume, self._delete),
        }

    async def _acquire(self, call: GatedCall, request: Any) -> bytes:
        lease = request.lease_milliseconds or _LEASE_MILLISECONDS
        fields = {"holder": request.holder, "lease_milliseconds": lease}
        return _one(await _ask(call, request, CursorOperation.ACQUIRE, request.name, **fields))

    async def _advance(self, call: GatedCall, request: Any) -> bytes:
        flags = REWIND if request.rewind else 0
        fields = {"epoch": request.epoch, "position": request.position, "flags": flags}
        return _one(await _ask(call, request, CursorOperation.ADVANCE, request.name, **fields))

    async def _renew(self, call: GatedCall, request: Any) -> bytes:
        return _one(await _ask(call, request, CursorOperation.RENEW, request.name, epoch=request.epoch))

    async def _release(self, call: GatedCall, request: Any) -> bytes:
        return _one(await _ask(call, request, CursorOperation.RELEASE, request.name, epoch=request.epoch))

    async def _get(self, call: GatedCall, request: Any) -> bytes:
        return _one(await _ask(call, request, CursorOperation.GET, request.name))

    async def _set(self, call: GatedCall, request: Any) -> bytes:
        return _one(await _ask(call, request, CursorOperation.SET, request.name, position=request.position))

    async def _delete(self, call: GatedCall, request: Any) -> bytes:
        await _ask(call, request, CursorOperation.DELETE, request.name)
        return bytes(log_pb2.DeleteCursorResponse().SerializeToString())

    async def _list(self, call: GatedCall, request: Any) -> bytes:
        count_max = min(request.count_max, 2**16 - 1)
        page = await _ask(call, request, CursorOperation.LIST, request.after, count_max=count_max)
        response = log_pb2.ListCursorsResponse(cursors=map(as_message, page.cursors), next=page.next)
        return bytes(response.SerializeToString())


async def _ask(
    call: GatedCall, request: Any, operation: CursorOperation, name: str, **fields: Any
) -> CursorPage:
    log = call.find_log(request.log, request.group)
    order = call.cursor_order(log, operation=operation, name=name, **fields)
    return await to_asyncio(log.order_cursor(order))


def _one(page: CursorPage) -> bytes:
    """Return the answer that tells of one cursor; of none, when it was deleted meanwhile."""
    response = log_pb2.CursorResponse(waiting=page.waiting)
    for cursor in page.cursors:
        response.cursor.CopyFrom(as_message(cursor))
    return bytes(response.SerializeToString())


def as_message(cursor: DescribedCursor) -> log_pb2.Cursor:
    """Return a cursor as gRPC tells of it."""
    return log_pb2.Cursor(
        name=cursor.name,
        position=cursor.position,
        epoch=cursor.epoch,
        holder=cursor.holder,
        subject=cursor.subject,
        lease_milliseconds=cursor.lease_milliseconds,
        left_milliseconds=cursor.left_milliseconds,
        waiting_count=cursor.waiting_count,
        lag=cursor.known_lag,
    )
