"""What every call of every server asks the node's gate (`node.gate`), whatever carries it: gRPC or HTTP."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from loghouse.auth.identity import Identity
from loghouse.auth.policy import ANY_OBJECT, Action
from loghouse.errors import InvalidRequestError, PermissionDeniedError
from loghouse.limits import NAME_SIZE_MAX
from loghouse.node.api import LogLike
from loghouse.node.gate import Gate
from loghouse.protocol.entry import DEFAULT_LOG
from loghouse.shares import Holding, Shares


class GatedCall:
    """One call under way, of a caller who is known. Whoever makes one ends it.

    `subject` is the caller's casbin subject, `log` what it asked for last.
    """

    __slots__ = ("_gate", "_identity", "_shares", "action", "log", "subject")

    def __init__(self, gate: Gate, shares: Shares, identity: Identity, action: Action | None) -> None:
        """Begin a call.

        Args:
            action: What it needs; None means that any permission at all is enough.

        Raises:
            PermissionDeniedError: There is nothing that the caller may do with this call.
            ResourceExhaustedError: The caller has its share of calls.
            UnauthenticatedError, IdentityError: Its certificate does not count.
        """
        self._gate = gate
        self._shares = shares
        self._identity = identity
        self.action = action
        self.subject = identity.subject
        self.log: LogLike | None = None
        gate.check_any_log(identity, action)
        shares.calls.take(self.subject)

    def end(self) -> None:
        """It is answered, or nobody waits for the answer."""
        self._shares.calls.give_back(self.subject)

    def name_leader(self, name: str) -> None:
        """Tell the caller which other node leads the log; nothing where a protocol has no place for that."""

    @contextmanager
    def following(self) -> Iterator[None]:
        """Be a follower within this block.

        Raises:
            ResourceExhaustedError: The caller has its share of followers.
        """
        followers = self._shares.followers
        followers.take(self.subject)
        try:
            yield
        finally:
            followers.give_back(self.subject)

    @contextmanager
    def holding(self, size: int) -> Iterator[None]:
        """Hold so many bytes of an answer within this block: until the caller took it.

        Raises:
            ResourceExhaustedError: The caller has its share of answers that it does not take.
        """
        holding = Holding(self._shares.answers, self.subject)
        holding.hold(size)
        try:
            yield
        finally:
            holding.close()

    def find_log(self, name: str, group: int = 0) -> LogLike:
        """Return a log on which the caller may (still) do this; see `Gate.find_log` for what is raised."""
        assert self.action is not None
        self.log = self._gate.find_log(self._identity, name, self.action, group)
        return self.log

    def check_log(self, name: str) -> None:
        """Raise unless the caller may do this on a log of that name, whether there is one or not.

        Raises:
            As `Gate.check_permission`.
        """
        self._gate.check_permission(self._identity, name, self.action)

    def may_see(self, name: str) -> bool:
        """Whether the caller may learn that there is a log of that name."""
        return self._gate.may_see(self._identity, name)

    def check_seen(self, name: str) -> None:
        """Raise unless the caller may learn of a log (empty: the default one), and still do anything here.

        Raises:
            PermissionDeniedError: Names the least that a rule could allow.
            UnauthenticatedError, IdentityError: As `Gate.check_permission`.
            InvalidRequestError: No log can have that name.
        """
        self.check_cluster()
        if len(name) > NAME_SIZE_MAX:
            raise InvalidRequestError(
                "name", f"has {len(name)} characters; at most {NAME_SIZE_MAX} are allowed"
            )
        if not self.may_see(name or DEFAULT_LOG):
            raise PermissionDeniedError(self.subject, Action.CONSUME, name or DEFAULT_LOG)

    def check_cluster(self) -> None:
        """Raise unless the caller may (still) do this on the cluster; see `Gate.check_permission`."""
        self._gate.check_permission(self._identity, ANY_OBJECT, self.action)
