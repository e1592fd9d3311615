"""The one gate of a node: what the gRPC server and the binary server both ask before they do anything.

A server reads a request, however its protocol frames it, and asks here: does the caller's certificate still
count, may the caller do this, is there such a log, is the batch what it says. A checked batch becomes a
`Proposal` here. A refusal is one of `loghouse.errors`; how it is told is each protocol's own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any, Final

from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from loghouse.auth.identity import Identity
from loghouse.auth.policy import ANY_OBJECT, Action, Authorizer
from loghouse.catalogue.records import LogSettings
from loghouse.errors import (
    InvalidRequestError,
    OutcomeUnknownError,
    PermissionDeniedError,
    RequestError,
    UnauthenticatedError,
    UnavailableError,
    UnknownLogError,
)
from loghouse.limits import NAME_SIZE_MAX, RECORD_SIZE_MAX
from loghouse.node.api import LogDescription, LogLike, NodeLike
from loghouse.node.audit import Audit
from loghouse.protocol.checking import check_steps
from loghouse.protocol.cursor_messages import CursorOperation, CursorOrder
from loghouse.protocol.cursors import CursorChange, check_texts
from loghouse.protocol.entry import CATALOGUE_LOG, DEFAULT_LOG, Buffer
from loghouse.replica.api import Proposal
from loghouse.replica.coalescing import Share, may_share

UNEXPECTED: Final = "the node failed in a way it did not expect; its log says more"

_logger = Logger()


class Gate:
    """Decides about every request to one node, by one policy.

    Attributes:
        node: What is asked once a request has passed.
        authorizer: The policy.
        record_size_max: Bytes that a record of any log may have.
    """

    def __init__(
        self,
        node: NodeLike,
        authorizer: Authorizer,
        *,
        clock: Callable[[], float],
        check_caller: Callable[[Identity], None] | None = None,
        record_size_max: int = RECORD_SIZE_MAX,
        audit: Audit | None = None,
    ) -> None:
        """Guard a node."""
        self.audit = audit or Audit(clock)  # is told of refusals, and of acts of administration
        self.node = node
        self.authorizer = authorizer
        self.record_size_max = record_size_max  # bytes one record may have
        self._clock = clock  # seconds since the epoch
        # Raises IdentityError for a certificate that is denied, or whose CA was removed. None where
        # connections look at their own certificates by the second.
        self._check_caller = check_caller

    # --- who, and may they ------------------------------------------------------------------

    def check_permission(self, identity: Identity, object_: str, action: Action | None) -> None:
        """Raise unless the caller's certificate still counts and the policy allows the caller this action.

        Streams ask again for every message, so a new policy or an expired certificate ends them.

        Args:
            object_: A log, or `*`: the cluster. The catalogue may be consumed by whoever may administer
                the cluster, and changed by nobody.
            action: None when any permission at all, on whatever object, is enough. Whoever may administer
                the cluster may manage every log.

        Raises:
            UnauthenticatedError, IdentityError: The certificate has expired, is denied, or has lost its CA.
            PermissionDeniedError: The policy does not allow it.
        """
        if self._check_caller is not None:
            self._check_caller(identity)
        subject = identity.subject
        if identity.has_expired(self._clock()):
            raise UnauthenticatedError(f"the certificate of {subject!r} has expired; get a new one")
        permits = self.authorizer.permits
        if action is None:
            self.authorizer.check_anything(subject)
            return
        if object_ == DEFAULT_LOG:
            is_permitted = permits(subject, object_, action)
        elif object_ == CATALOGUE_LOG:
            is_permitted = action == Action.CONSUME and permits(subject, ANY_OBJECT, Action.ADMIN)
        else:
            # Whoever may do nothing here is remembered: a stranger's invented logs cost no decisions.
            is_permitted = self.authorizer.permits_anything(subject) and permits(subject, object_, action)
        if not is_permitted and action == Action.MANAGE and object_ != CATALOGUE_LOG:
            is_permitted = permits(subject, ANY_OBJECT, Action.ADMIN)
        if not is_permitted:
            raise PermissionDeniedError(subject, action, object_)

    def may_see(self, identity: Identity, name: str) -> bool:
        """Whether the caller may learn that there is a log of that name.

        Any permission on it is enough, or that to administer the cluster.
        """
        subject = identity.subject
        if name != CATALOGUE_LOG and self.authorizer.permits_some(subject, name):
            return True
        return self.authorizer.permits(subject, ANY_OBJECT, Action.ADMIN)

    def cursor_order(self, identity: Identity, log: LogLike, *, operation: int, **fields: Any) -> CursorOrder:
        """Return what a caller asks of a log's cursors, who may consume that log.

        Raises:
            InvalidRequestError: It is the catalogue, which nobody but the nodes writes to; or a text is too
                long, or cannot be shown.
        """
        if log.name == CATALOGUE_LOG:
            raise InvalidRequestError("log", f"{CATALOGUE_LOG} keeps no cursors")
        is_admin = operation in (CursorOperation.SET, CursorOperation.DELETE) and self.authorizer.permits(
            identity.subject, ANY_OBJECT, Action.ADMIN
        )
        order = CursorOrder(operation=operation, subject=identity.subject, is_admin=is_admin, **fields)
        check_texts(order.name, order.holder, order.subject)
        return order

    def check_any_log(self, identity: Identity, action: Action | None) -> None:
        """Raise when the caller may not do this, whichever log a request that is not read yet will name.

        Raises:
            UnauthenticatedError, IdentityError, PermissionDeniedError: As `check_permission`.
        """
        try:
            self.check_permission(identity, DEFAULT_LOG, action)
        except PermissionDeniedError:
            if action is None:
                raise
            subject = identity.subject
            if self.authorizer.permits_on_any(subject, action):
                return
            if action == Action.CONSUME and self.authorizer.permits(subject, ANY_OBJECT, Action.ADMIN):
                return  # it may be the catalogue
            if action == Action.ADMIN:
                self.check_permission(identity, ANY_OBJECT, action)
            raise

    def record_size_max_of(self, log: LogLike) -> int:
        """Return how many bytes a record of a log may have: by the node's limit or its own."""
        return min(self.record_size_max, log.record_size_max or self.record_size_max)

    def check_batch(
        self, log: LogLike, payload: Buffer, record_count: int, codec: int, payload_crc: int | None
    ) -> Iterator[int]:
        """Check a batch for a log, in steps. See `checking.check_steps`."""
        return check_steps(self.record_size_max_of(log), payload, record_count, codec, payload_crc)

    def find_log(self, identity: Identity, name: str, action: Action, group: int = 0) -> LogLike:
        """Return the log of that name (empty: the default one), if the caller may do this on it.

        Permission first: a caller who may do nothing here does not learn which logs there are.

        Args:
            group: The log's number, when the caller knows it: another one of that name is not meant.

        Raises:
            UnauthenticatedError, IdentityError, PermissionDeniedError: As `check_permission`.
            InvalidRequestError: No log can have that name.
            UnknownLogError: This cluster has no such log.
        """
        if len(name) > NAME_SIZE_MAX:
            raise InvalidRequestError(
                "log", f"has {len(name)} characters; at most {NAME_SIZE_MAX} are allowed"
            )
        self.check_permission(identity, name or DEFAULT_LOG, action)
        log = self.node.log(name)
        if group and log.group != group:
            raise UnknownLogError(name)
        return log


def describe_log(node: NodeLike, name: str) -> Deferred[LogDescription]:
    """Describe a log (empty: the default one). The catalogue is on every member, as the default one is.

    Raises (as failures):
        UnknownLogError: This cluster has no such log.
    """
    admin = node.log_administration
    if name != CATALOGUE_LOG:
        return admin.describe(name)
    log = node.log(name)

    def as_catalogue(default: LogDescription) -> LogDescription:
        leader = log.leader_name
        replicas = tuple(replace(one, is_leader=one.node == leader) for one in default.replicas)
        settings = LogSettings(replicas=default.settings.replicas)
        return LogDescription(
            name=name, group=log.group, epoch=0, settings=settings, replicas=replicas, leader=leader
        )

    return admin.describe(DEFAULT_LOG).addCallback(as_catalogue)


def proposal_alone(
    share: Share,
    subject: str,
    *,
    attributes: int,
    expect_offset: int | None,
    producer_id: int,
    producer_sequence: int,
    cursor: CursorChange | None = None,
) -> Proposal | None:
    """Return the proposal of a checked batch that needs an entry of its own; None when it may share one."""
    if cursor is None and may_share(
        attributes=attributes, producer_id=producer_id, expect_offset=expect_offset
    ):
        return None
    return Proposal(
        payload=share.payload,
        payload_crc=share.payload_crc,
        record_count=share.record_count,
        attributes=attributes,
        expect_offset=expect_offset,
        producer_id=producer_id,
        producer_sequence=producer_sequence,
        subject=subject,
        cursor=cursor,
    )


# --- failures ---------------------------------------------------------------------------------


def report_unexpected(asked: str, error: BaseException) -> None:
    """Write a failure that is no refusal into the node's diagnostics, the only place that has all of it."""
    _logger.failure("{asked} failed", Failure(error), asked=asked)


def refusal_of(error: BaseException, asked: str, *, may_be_done: bool) -> RequestError:
    """Return what a caller is told of a failure.

    A refusal is told as it is. Of anything else (a bug, a broken disk) the caller learns no more than that
    it happened; the diagnostics get the rest. gRPC has a status of its own for those: INTERNAL.

    Args:
        asked: What was asked for, for the diagnostics.
        may_be_done: Whether what was asked for may have been done all the same.
    """
    if isinstance(error, RequestError):
        return error
    report_unexpected(asked, error)
    return OutcomeUnknownError(UNEXPECTED) if may_be_done else UnavailableError(UNEXPECTED)
