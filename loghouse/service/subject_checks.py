"""What a leader asks its own policy about whoever another node passes a request on for."""

from __future__ import annotations

from collections.abc import Callable

from loghouse.auth.policy import ANY_OBJECT, Action, Authorizer
from loghouse.protocol.entry import CATALOGUE_LOG


def append_check(authorizer: Authorizer) -> Callable[[str, str], None]:
    """Return what raises PermissionDeniedError for a subject that may not append to a log."""

    def check(subject: str, log: str) -> None:
        # To the catalogue nodes append for themselves; what clients ask for does not get so far.
        if log != CATALOGUE_LOG:
            authorizer.check(subject, log, Action.PRODUCE)

    return check


def cursor_check(authorizer: Authorizer) -> Callable[[str, str, bool], None]:
    """Return the same for a log's cursors, and for a subject that is said to be an administrator."""

    def check(subject: str, log: str, is_admin: bool) -> None:
        authorizer.check(subject, log, Action.CONSUME)
        if is_admin:
            authorizer.check(subject, ANY_OBJECT, Action.ADMIN)

    return check
