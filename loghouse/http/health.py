"""`/healthz` and `/readyz`: whether this node works, and whether it serves; for anybody who can reach it.

`/healthz` fails for what only an operator of this node can mend. `/readyz` fails, too, while the node should
get no traffic: a log has no leader, or this copy of it is behind. Both say why in one line of JSON.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final, Protocol

from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET

from loghouse.http.answers import HttpAnswer, json_answer, plain_refusal
from loghouse.node.condition import Hindrance

FAULTS: Final = frozenset((Hindrance.DISK_NOT_WRITABLE, Hindrance.DAMAGED_LOG))
LOGS_SHOWN_MAX: Final = 20
STOPPING: Final = "stopping"


class Probed(Protocol):
    """A node, as its health is asked for."""

    @property
    def name(self) -> str:
        """The node's name in the cluster."""

    def hindrances(self) -> Iterable[tuple[Hindrance, str]]:
        """Return what keeps it from serving, each with the name of a log."""


def health_of(node: Probed, *, is_stopping: bool, is_ready: bool) -> HttpAnswer:
    """Return the answer of `/readyz`, or of `/healthz`.

    Args:
        is_ready: Whether it is `/readyz` that is asked.
    """
    logs: dict[str, list[str]] = {}
    for hindrance, log in node.hindrances():
        if is_ready or hindrance in FAULTS:
            logs.setdefault(hindrance.value, []).append(log)
    reasons: list[dict[str, Any]] = [{"reason": STOPPING}] if is_stopping and is_ready else []
    reasons += [
        {"reason": reason, "log_count": len(names), "logs": sorted(names)[:LOGS_SHOWN_MAX]}
        for reason, names in logs.items()
    ]
    value: dict[str, Any] = {"status": "unavailable" if reasons else "ok", "node": node.name}
    if reasons:
        value["reasons"] = reasons
    return json_answer(value, 503 if reasons else 200)


class Health(Resource):
    """One of the two paths."""

    isLeaf = True

    def __init__(self, node: Probed, *, is_ready: bool) -> None:
        super().__init__()
        self._node = node
        self._is_ready = is_ready

    def render(self, request: Any) -> int:
        """Answer at once, also while the node stops."""
        if request.method not in (b"GET", b"HEAD") or request.postpath:
            answer = plain_refusal(405 if not request.postpath else 404, "NOT_FOUND", "GET this path alone")
        else:
            is_stopping = request.channel.site.is_stopping
            answer = health_of(self._node, is_stopping=is_stopping, is_ready=self._is_ready)
        request.answer(answer)
        return NOT_DONE_YET
