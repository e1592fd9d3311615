"""Refusals as RFC 9457 problems: what happened, where, and what to do."""

from __future__ import annotations

from collections.abc import Mapping
from http import HTTPStatus
from math import ceil
from typing import Any, Final

from loghouse import errors
from loghouse.api.rest.exchange import PROBLEM, ApiResponse, json_bytes
from loghouse.api.status import told_of
from loghouse.errors import LoghouseError

RETRY_SECONDS: Final = 1

# HTTP's status of each reason, and what to do.
_TABLE: Final[Mapping[str, tuple[int, str]]] = {
    "INVALID_REQUEST": (400, "Correct the field that the text names; /api/v1/openapi.json describes each."),
    "OFFSET_OUT_OF_RANGE": (
        416,
        "Read from `lowest` to before `next`, or ask for offset=earliest or latest.",
    ),
    "NOT_LEADER": (503, "Try again in a second: the log is between two leaders."),
    "UNAVAILABLE": (503, "Try again in a second, here or at another node. Nothing was appended."),
    "OUTCOME_UNKNOWN": (
        504,
        "Read the end of the log before you append again; or use a producer, whose second append of a batch "
        "is answered with the first one's offset.",
    ),
    "EXPECT_OFFSET": (412, "Read what came in between, and decide again with the offset that is next now."),
    "PRODUCER_SEQUENCE": (409, "Send the batch whose sequence is expected, or register a new producer."),
    "PRODUCER_SEQUENCE_REUSED": (409, "Send the same bytes again, or other records as the next sequence."),
    "UNKNOWN_PRODUCER": (409, "Register a producer: POST /api/v1/logs/LOG/producers."),
    "RESOURCE_EXHAUSTED": (429, "Try again later, slower or smaller."),
    "QUOTA_EXCEEDED": (429, "Try again after the time in `retry_milliseconds`."),
    "DISK_FULL": (507, "Free space on the node, or shorten the retention of its logs; appends then go on."),
    "PERMISSION_DENIED": (403, "Ask an operator for a rule in the policy, or use another certificate."),
    "UNAUTHENTICATED": (401, "Come with a client certificate of the cluster's CA that has not expired."),
    "BAD_CERTIFICATE": (401, "Come with a certificate that names one client of this cluster."),
    "UNKNOWN_LOG": (404, "GET /api/v1/logs lists the logs; `loghouse log create` makes one."),
    "UNKNOWN_SERVICE": (404, "GET /api/v1/openapi.json describes every path."),
    "MEMBERSHIP": (409, "See `loghouse cluster status`."),
    "NOT_SUPPORTED": (501, "Upgrade the node."),
    "RELOAD_REFUSED": (409, "Mend the lines that the text names; `loghouse config check` tries them."),
    "CURSOR_HELD": (409, "Try again after the time in `milliseconds`."),
    "CURSOR_FENCED": (409, "Acquire the cursor again, and go on from its position."),
    "CURSOR_REWIND": (409, "Go on from the position in `current`."),
    "UNKNOWN_CURSOR": (404, "`loghouse cursor list` lists the log's cursors."),
    "TOO_MANY_CURSORS": (409, "Delete a cursor that nobody uses."),
    "INTERNAL": (500, "Look into the node's diagnostics."),
    # Those of HTTP itself.
    "NO_SUCH_PATH": (404, "GET /api/v1/openapi.json describes every path."),
    "METHOD_NOT_ALLOWED": (405, "Use one of the methods in the header Allow."),
    "CROSS_SITE": (403, "Ask from this machine by its loopback address, or from a page of this node."),
    "UNSUPPORTED_MEDIA_TYPE": (415, "Send application/json, or application/octet-stream for one value."),
}


class UsageError(LoghouseError):
    """A request that HTTP itself refuses: no such path, method or media type.

    Attributes:
        reason: Its name.
        headers: What the status asks for besides.
    """

    was_appended = False

    def __init__(self, reason: str, text: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(text)
        self.reason = reason
        self.headers = dict(headers or {})


def problem_of(error: BaseException, where: str) -> tuple[int, dict[str, Any]]:
    """Return the status and the problem object that tells of any exception.

    Args:
        where: The path that was asked for.
    """
    if isinstance(error, UsageError):
        reason, text, details = error.reason, str(error), {}
    else:
        told = told_of(error)
        reason, text, details = told.reason, told.text, dict(told.details)
    status, remedy = _TABLE[reason]
    is_known = isinstance(error, LoghouseError)
    problem: dict[str, Any] = {
        "type": f"urn:loghouse:problem:{reason.lower().replace('_', '-')}",
        "title": HTTPStatus(status).phrase,
        "status": status,
        "reason": reason,
        "detail": text,
        "instance": where,
        "remedy": remedy,
        "may_retry": is_known and error.may_retry,  # type: ignore[attr-defined]
        "was_appended": error.was_appended if is_known else None,  # type: ignore[attr-defined]
    }
    if details:
        problem["details"] = details
    return status, problem


def refusal(error: BaseException, where: str) -> ApiResponse:
    """Return the response that tells of any exception."""
    status, problem = problem_of(error, where)
    headers = dict(error.headers) if isinstance(error, UsageError) else {}
    if isinstance(error, errors.QuotaExceededError):
        headers["Retry-After"] = str(ceil(error.retry_seconds))  # it has no fractions
    elif isinstance(error, errors.NotLeaderError | errors.UnavailableError | errors.ResourceExhaustedError):
        headers["Retry-After"] = str(RETRY_SECONDS)
    return ApiResponse(status=status, content_type=PROBLEM, headers=headers, body=json_bytes(problem))
