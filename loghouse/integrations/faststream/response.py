"""What a handler may answer with, and what is published."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from faststream.response import BatchPublishCommand, PublishCommand, PublishType, Response


class LoghouseResponse(Response):
    """An answer with the parts that a record has.

        return LoghouseResponse(bill, key=b"customer-7")

    Args:
        body: What becomes the record's value.
        key: The record's key; None for none.
        timestamp: A time of its own (microseconds since the epoch when a number); None: when it is appended.
    """

    def __init__(
        self,
        body: Any,
        *,
        key: bytes | None = None,
        headers: dict[str, Any] | None = None,
        correlation_id: str | None = None,
        timestamp: datetime | int | None = None,
    ) -> None:
        super().__init__(body, headers=headers, correlation_id=correlation_id)
        self.key = key
        self.timestamp = timestamp

    def get_publish_key(self) -> bytes | None:
        """Return the key."""
        return self.key

    def as_publish_command(self) -> LoghousePublishCommand:
        """Return what is published of it."""
        return LoghousePublishCommand(
            self.body,
            key=self.key,
            headers=self.headers,
            correlation_id=self.correlation_id,
            timestamp=self.timestamp,
            _publish_type=PublishType.PUBLISH,
        )


class LoghousePublishCommand(BatchPublishCommand):
    """One record, or several, on the way to a log (`destination`). What publishing middlewares see."""

    def __init__(
        self,
        body: Any,
        /,
        *bodies: Any,
        log: str = "",
        key: bytes | None = None,
        headers: dict[str, Any] | None = None,
        correlation_id: str | None = None,
        reply_to: str = "",
        timestamp: datetime | int | None = None,
        _publish_type: PublishType,
    ) -> None:
        super().__init__(
            body,
            *bodies,
            destination=log,
            headers=headers,
            correlation_id=correlation_id,
            reply_to=reply_to,
            _publish_type=_publish_type,
        )
        self.key = key
        self.timestamp = timestamp

    @classmethod
    def from_cmd(cls, cmd: PublishCommand, *, batch: bool = False) -> LoghousePublishCommand:
        """Return any command as one of these; with `batch` each element of a list is a record."""
        body, bodies = cls._parse_bodies(cmd.body, batch=batch)
        return cls(
            body,
            *bodies,
            log=cmd.destination,
            key=getattr(cmd, "key", None),
            headers=cmd.headers,
            correlation_id=cmd.correlation_id,
            reply_to=cmd.reply_to,
            timestamp=getattr(cmd, "timestamp", None),
            _publish_type=cmd.publish_type,
        )
