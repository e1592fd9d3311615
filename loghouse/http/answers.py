"""What is answered over HTTP: JSON, and how errors look there."""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import ceil
from typing import Any, Final

from loghouse.api.status import told_of
from loghouse.errors import QuotaExceededError
from loghouse.node.gate import report_unexpected
from loghouse.text import visible_json

JSON: Final = b"application/json; charset=utf-8"
# What gRPC's codes are over HTTP, as Google's own gateways have it.
_STATUSES: Final = {
    "INVALID_ARGUMENT": 400,
    "OUT_OF_RANGE": 416,
    "UNAUTHENTICATED": 401,
    "PERMISSION_DENIED": 403,
    "NOT_FOUND": 404,
    "ABORTED": 409,
    "FAILED_PRECONDITION": 409,
    "RESOURCE_EXHAUSTED": 429,
    "UNIMPLEMENTED": 501,
    "UNAVAILABLE": 503,
}
INTERNAL_ERROR: Final = 500
FULL_DISK: Final = 507
# Every answer: nobody frames, guesses at or keeps what a node says.
HEADERS: Final = (
    (b"Server", b"loghouse"),
    (b"Cache-Control", b"no-store"),
    (b"X-Content-Type-Options", b"nosniff"),
    (b"X-Frame-Options", b"DENY"),
    (b"Referrer-Policy", b"no-referrer"),
    (b"Cross-Origin-Resource-Policy", b"same-origin"),
    (b"Content-Security-Policy", b"default-src 'none'; frame-ancestors 'none'"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpAnswer:
    """A whole answer. `headers` are those beside `HEADERS`, or in the place of one of them."""

    status: int = 200
    body: bytes = b""
    content_type: bytes = JSON
    headers: tuple[tuple[bytes, bytes], ...] = ()


def json_answer(value: Any, status: int = 200) -> HttpAnswer:
    """Return an answer that is one line of JSON."""
    return HttpAnswer(status=status, body=f"{visible_json(value)}\n".encode())


def plain_refusal(status: int, reason: str, text: str, **headers: str) -> HttpAnswer:
    """Return the refusal of a request that HTTP itself does not allow."""
    answer = json_answer({"error": {"reason": reason, "message": text}}, status)
    lines = tuple((name.encode(), value.encode()) for name, value in headers.items())
    return HttpAnswer(status=status, body=answer.body, headers=lines)


def refusal(error: BaseException, asked: str) -> HttpAnswer:
    """Return what a caller is told of a failure; one that is no refusal goes into the diagnostics.

    Args:
        asked: What was asked for, for the diagnostics.
    """
    told = told_of(error)
    status = _STATUSES.get(told.code.name, INTERNAL_ERROR)
    if status == INTERNAL_ERROR:
        report_unexpected(asked, error)
    if told.reason == "DISK_FULL":
        status = FULL_DISK
    details = {"details": dict(told.details)} if told.details else {}
    answer = json_answer({"error": {"reason": told.reason, "message": told.text, **details}}, status)
    if isinstance(error, QuotaExceededError):
        return replace(answer, headers=((b"Retry-After", b"%d" % ceil(error.retry_seconds)),))
    return answer
