"""What an HTTP server hands to the JSON API, and what it gets back. Nothing here knows of sockets."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from loghouse.auth.identity import Identity

JSON: Final = "application/json"
PROBLEM: Final = "application/problem+json"
EVENTS: Final = "text/event-stream"
OCTETS: Final = "application/octet-stream"


@dataclass(frozen=True, slots=True, kw_only=True)
class ApiRequest:
    """One request, whole.

    Attributes:
        path: What comes behind `/api/v1`, its escapes resolved; begins with `/`.
        query: The parameters behind `?`, each once.
        content_type: The media type of the body, without parameters, in lower case; empty: none was named.
        headers: Others that matter, by name in lower case.
        identity: Who asks; the certificate was verified.
        place: Where from, for the audit: an address.
        trace: `traceparent` and `tracestate`, as they came; empty where they are not there, or nobody traces.
    """

    method: str
    path: str
    identity: Identity
    place: str = ""
    trace: tuple[str, str] = ("", "")
    query: Mapping[str, str] = field(default_factory=dict)
    content_type: str = ""
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""


class Pieces:
    """The pieces of a long answer, each made when it is asked for. Whoever has them closes them, once."""

    def __init__(self, source: AsyncGenerator[bytes, None], ended: Callable[[], None]) -> None:
        """Have the pieces of a generator; `ended` is called when they are closed, begun or not."""
        self._source = source
        self._ended = ended

    def __aiter__(self) -> AsyncGenerator[bytes, None]:
        return self._source

    async def aclose(self) -> None:
        """Make no more."""
        try:
            await self._source.aclose()
        finally:
            self._ended()


@dataclass(frozen=True, slots=True, kw_only=True)
class ApiResponse:
    """The answer to one request: its body at once, or piece by piece.

    `pieces` are taken one after the other, each when the client took the one before.
    """

    status: int
    content_type: str = JSON
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""
    pieces: Pieces | None = None


def json_bytes(value: Any) -> bytes:
    """Return a value as JSON on one line."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()
