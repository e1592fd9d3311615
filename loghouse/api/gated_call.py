"""What every call of every server asks the node's gate (`node.gate`), whatever carries it: gRPC or HTTP."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from loghouse.auth.identity import Identity
from loghouse.auth.policy import ANY_OBJECT, Action
from loghouse.errors import InvalidRequestError, PermissionDeniedError, ResourceExhaustedError
from loghouse.limits import NAME_SIZE_MAX
from loghouse.node.api import LogLike
from loghouse.node.gate import Gate
from loghouse.protocol.cursor_messages import CursorOrder
from loghouse.protocol.entry import DEFAULT_LOG
from loghouse.shares import Holding, Shares, SubjectUse


class GatedCall:
    """One call under way, of a caller who is known. Whoever makes one ends it.

    `subject` is the caller's casbin subject, `log` what it asked for last.
    """

    __slots__ = ("_gate", "_identity", "_shares", "_use", "action", "log", "quotas", "subject")

    def __init__(self, gate: Gate, shares: Shares, identity: Identity, action: Action | None) -> None:
        """Begin a call.

        Args:
            action: What it needs; None means that any permission at all is enough.

        Raises:
            PermissionDeniedError: There is nothing that the caller may do with this call.
            ResourceExhaustedError: The caller has its share of calls, or as many as its quota allows.
            UnauthenticatedError, IdentityError: Its certificate does not count.
        """
        self._gate = gate
        self._shares = shares
        self._identity = identity
        self.action = action
        self.subject = identity.subject
        self.log: LogLike | None = None
        gate.check_any_log(identity, action)
        self.quotas = shares.quotas  # whoever has much to do looks first whether there are any
        self._use: SubjectUse | None = None  # where it counts against the quota of requests
        if self.quotas.is_used:
            use = self.quotas.of(self.subject)
            use.begin()
            self._use = use
        try:
            shares.calls.take(self.subject)
        except ResourceExhaustedError:
            self._end_use()
            raise

    def end(self) -> None:
        """It is answered, or nobody waits for the answer."""
        self._end_use()
        self._shares.calls.give_back(self.subject)

    def name_leader(self, name: str) -> None:
        """Tell the caller which other node leads the log; nothing where a protocol has no place for that."""

    def trace_texts(self) -> tuple[str, str]:
        """Return `traceparent` and `tracestate` as they came; empty where a protocol has no place for it."""
        return "", ""

    def _end_use(self) -> None:
        if self._use is not None:
            self._use.end()

    # --- quotas of bytes ----------------------------------------------------------------------

    def received(self, size: int) -> float:
        """Count the bytes of a request; return for how many seconds it, and the connection, has to wait.

        Raises:
            QuotaExceededError: For too long; it is refused.
        """
        quotas = self.quotas
        if not quotas.is_used:
            return 0.0
        use, now = quotas.of(self.subject), quotas.seconds()
        use.receive(size, now)
        return use.hold_seconds(now)

    def sent(self, size: int) -> None:
        """Count the bytes of an answer."""
        quotas = self.quotas
        if quotas.is_used:
            quotas.of(self.subject).send(size, quotas.seconds())

    def answer_seconds(self, *, is_last: bool = False) -> float:
        """Return for how many seconds the next answer has to wait.

        Args:
            is_last: There is one answer alone, and its caller may come again.

        Raises:
            QuotaExceededError: For too long, and it is the last one.
        """
        quotas = self.quotas
        if not quotas.is_used:
            return 0.0
        use, now = quotas.of(self.subject), quotas.seconds()
        if is_last:
            use.check_send(now)
        return use.send_seconds(now)

    async def may_answer(self, *, is_last: bool = True) -> None:
        """Return once the next answer may be made: at once, unless the caller has used its quota.

        Args:
            is_last: As for `answer_seconds`.
        """
        await self.wait(self.answer_seconds(is_last=is_last))

    async def wait(self, seconds: float) -> None:
        """Let so many seconds pass."""
        if seconds:
            await asyncio.sleep(seconds)

    def answer_size_max(self, size: int) -> int:
        """Return how much of an answer of `size` bytes to make at a time."""
        quotas = self.quotas
        return quotas.of(self.subject).size_max(size) if quotas.is_used else size

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

    def cursor_order(self, log: LogLike, **fields: Any) -> CursorOrder:
        """Return what the caller asks of a log's cursors; see `Gate.cursor_order`."""
        return self._gate.cursor_order(self._identity, log, **fields)

    def check_also(self, log: LogLike, action: Action) -> None:
        """Raise unless the caller may do this on a log, too; as `Gate.check_permission`."""
        self._gate.check_permission(self._identity, log.name, action)

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
