"""A call that came by HTTP, as the services see it."""

from __future__ import annotations

from loghouse.api.gated_call import GatedCall
from loghouse.auth.identity import Identity
from loghouse.auth.policy import Action
from loghouse.node.gate import Gate
from loghouse.shares import Shares


class RestCall(GatedCall):
    """One request under way. Whoever makes one ends it. `leader`: another node that leads, or empty."""

    __slots__ = ("_trace", "leader")

    def __init__(
        self,
        gate: Gate,
        shares: Shares,
        identity: Identity,
        action: Action | None,
        trace: tuple[str, str] = ("", ""),
    ) -> None:
        """Begin a call.

        Args:
            trace: `traceparent` and `tracestate` of the request, as they came.

        Raises:
            PermissionDeniedError: There is nothing that the caller may do with this call.
            ResourceExhaustedError: The caller has its share of calls.
            UnauthenticatedError, IdentityError: As `Gate.check_permission`.
        """
        super().__init__(gate, shares, identity, action)
        self._trace = trace  # fixed
        self.leader = ""

    def name_leader(self, name: str) -> None:
        """Have the response name the leader."""
        self.leader = name

    def trace_texts(self) -> tuple[str, str]:
        """Return what the request's headers have."""
        return self._trace
