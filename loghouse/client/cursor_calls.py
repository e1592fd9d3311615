"""What is asked about cursors, as gRPC says it."""

from __future__ import annotations

from typing import Any

from loghouse.api.v1 import log_pb2
from loghouse.client.channels import LogId
from loghouse.protocol.cursor_messages import (
    NO_LAG,
    CursorOperation,
    CursorOrder,
    CursorPage,
    DescribedCursor,
)


def cursor_request(order: CursorOrder, log: LogId) -> tuple[str, Any]:
    """Return the method of `log.v1.Cursors`, and its request."""
    where: dict[str, Any] = {"log": log.name, "group": log.pin}
    operation = CursorOperation(order.operation)
    if operation is CursorOperation.LIST:
        return "List", log_pb2.ListCursorsRequest(**where, after=order.name, count_max=order.count_max)
    where["name"] = order.name
    request: Any
    match operation:
        case CursorOperation.ACQUIRE:
            lease = order.lease_milliseconds
            request = log_pb2.AcquireCursorRequest(**where, holder=order.holder, lease_milliseconds=lease)
        case CursorOperation.ADVANCE:
            rewind = bool(order.flags)
            request = log_pb2.AdvanceCursorRequest(
                **where, epoch=order.epoch, position=order.position, rewind=rewind
            )
        case CursorOperation.RENEW | CursorOperation.RELEASE:
            request = log_pb2.HeldCursorRequest(**where, epoch=order.epoch)
        case CursorOperation.SET:
            request = log_pb2.SetCursorRequest(**where, position=order.position)
        case _:
            request = log_pb2.NamedCursorRequest(**where)
    return operation.name.title(), request


def cursor_page(reply: Any) -> CursorPage:
    """Return what an answer of `log.v1.Cursors` tells."""
    if isinstance(reply, log_pb2.ListCursorsResponse):
        return CursorPage(cursors=tuple(map(_described, reply.cursors)), next=reply.next)
    if isinstance(reply, log_pb2.CursorResponse):
        return CursorPage(cursors=(_described(reply.cursor),), waiting=tuple(reply.waiting))
    return CursorPage()


def _described(cursor: log_pb2.Cursor) -> DescribedCursor:
    return DescribedCursor(
        name=cursor.name,
        position=cursor.position,
        epoch=cursor.epoch,
        holder=cursor.holder,
        subject=cursor.subject,
        lease_milliseconds=cursor.lease_milliseconds,
        left_milliseconds=cursor.left_milliseconds,
        waiting_count=cursor.waiting_count,
        lag=cursor.lag if cursor.HasField("lag") else NO_LAG,
    )
