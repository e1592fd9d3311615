"""How a command that failed ends: its exit code, what to do next, and the error as JSON."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

from loghouse import errors
from loghouse.cli.output import CommandError, ExitCode

_LOOK_AT_STATUS: Final = "`loghouse cluster status` shows"

_NEXT_STEPS: Final[Mapping[type[Exception], str]] = {
    errors.NotLeaderError: "try again",
    errors.UnavailableError: f"{_LOOK_AT_STATUS} what is missing; try again, or another --server",
    errors.OutcomeUnknownError: "the record may or may not have been appended; look at the log's end before "
    "trying again",
    errors.PermissionDeniedError: "ask for a rule in the node's policy, or use another certificate "
    "(--cert, --key)",
    errors.UnauthenticatedError: "give a client certificate of the cluster's CA (--cert, --key)",
    errors.ResourceExhaustedError: "try again later, slower or smaller",
    errors.NotSupportedError: "the node's version does not serve this call",
}

# What a client says of a connection has the address before the cause; what a node answered has not.
_NOT_REACHED: Final = re.compile(r"(?:^|: )\S+:[0-9]+: (?!the node )")
_NOT_REACHED_STEP: Final = "is a node running and ready there? try again, or another --server"

_CLUSTER_STEPS: Final[Mapping[type[Exception], str]] = {
    errors.OutcomeUnknownError: f"it may or may not have been done: {_LOOK_AT_STATUS} it, then try again",
    errors.PermissionDeniedError: "it needs a rule `p, <subject>, *, admin` in the node's policy",
    errors.MembershipError: f"{_LOOK_AT_STATUS} who is there",
}

_LOG_STEPS: Final[Mapping[type[Exception], str]] = {
    errors.OutcomeUnknownError: "it may or may not have been done: `loghouse log list` shows; then try again",
    errors.PermissionDeniedError: "changes of logs need a rule such as `p, <subject>, <log>, manage` in the "
    "node's policy",
    errors.UnknownLogError: "`loghouse log list` shows those there are",
    errors.NotSupportedError: "every node of the cluster has to be of a version with named logs",
    errors.ResourceExhaustedError: "",
}

_CURSOR_STEPS: Final[Mapping[type[Exception], str]] = {
    errors.OutcomeUnknownError: "it may or may not have been done: `loghouse cursor list` shows",
    errors.UnknownCursorError: "`loghouse cursor list` shows those there are",
}

_PRODUCE_STEPS: Final[Mapping[type[Exception], str]] = {
    # Whoever may do nothing here is refused as the one who may not even consume.
    errors.PermissionDeniedError: "ask for a rule in the node's policy that lets you produce, or use another "
    "certificate (--cert, --key)",
}

_CONSUME_STEPS: Final[Mapping[type[Exception], str]] = {
    errors.CursorHeldError: "--wait stands by until it is free",
    errors.CursorFencedError: "run it again: it goes on where the cursor stands by then",
}

_OWN_STEPS: Final = {
    "consume": _CONSUME_STEPS,
    "cursor": _CURSOR_STEPS,
    "cluster": _CLUSTER_STEPS,
    "log": _LOG_STEPS,
    "produce": _PRODUCE_STEPS,
    "node": _CLUSTER_STEPS,
}

_EXIT_CODES: Final[Mapping[type[Exception], ExitCode]] = {
    errors.ConfigError: ExitCode.USAGE,
    errors.ReloadRefusedError: ExitCode.USAGE,
    errors.UnavailableError: ExitCode.UNAVAILABLE,
    errors.NotLeaderError: ExitCode.UNAVAILABLE,
    errors.CursorHeldError: ExitCode.UNAVAILABLE,
    errors.OutcomeUnknownError: ExitCode.OUTCOME_UNKNOWN,
    errors.DamageError: ExitCode.DAMAGED,
    errors.EntryError: ExitCode.DAMAGED,
}


def exit_code(error: Exception) -> ExitCode:
    """Return how a command ends that failed so."""
    if isinstance(error, CommandError):
        return error.exit_code
    return _nearest(_EXIT_CODES, error) or ExitCode.FAILED


def next_step(error: Exception, command: str) -> str:
    """Return what to do after an error, in words for that command; empty when its text says it all."""
    if isinstance(error, errors.UnavailableError) and _NOT_REACHED.search(str(error)):
        return _NOT_REACHED_STEP
    own = _nearest(_OWN_STEPS.get(command, {}), error)
    return (own if own is not None else _nearest(_NEXT_STEPS, error)) or ""


def failure_as_json(error: Exception, text: str) -> dict[str, Any]:
    """Return an error as scripts read it: its text, the reason's name, and the values it speaks of."""
    problem: dict[str, Any] = {"error": text}
    if isinstance(error, errors.RequestError | errors.ProtocolError):
        problem["reason"] = reason_of(error)
        problem["details"] = {
            name: value
            for name, value in vars(error).items()
            if not name.startswith("_") and isinstance(value, str | int | None)
        }
    return problem


def reason_of(error: Exception) -> str:
    """Return an error's name as the nodes write it: `NotLeaderError` is NOT_LEADER."""
    name = type(error).__name__.removesuffix("Error")
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name).upper()


def _nearest(table: Mapping[type[Exception], Any], error: Exception) -> Any:
    return next((table[kind] for kind in type(error).__mro__ if kind in table), None)
