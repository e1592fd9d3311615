"""Calls on real clusters whose leader may change meanwhile, as on a busy machine."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, TypeVar

import grpc

from loghouse.client.failures import Effect, failure_of
from loghouse.testing.process import DEADLINE_SECONDS, wait_until

T = TypeVar("T")
# How a call ends that an election, or a handshake that came too late, fell into.
_MAY_PASS: Final = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED)


def patiently(
    call: Callable[[], T],
    what: str = "an answer",
    *,
    is_repeatable: bool = False,
    seconds_max: float = DEADLINE_SECONDS,
) -> T:
    """Make a call of gRPC, again while the cluster has no leader or is not reached; return its answer.

    For tests that do not test that. A call that may have been done is not made again, unless it
    `is_repeatable`: done twice it does no harm, as a read does none.

    Raises:
        grpc.RpcError: The call failed in another way.
        TimeoutError: There was none after `seconds_max`; the text says for `what`, and why in vain.
    """
    answers: list[T] = []
    told: list[grpc.RpcError] = []

    def is_answered() -> bool:
        try:
            answers.append(call())
        except grpc.RpcError as error:
            told[:] = [error]
            if error.code() not in _MAY_PASS:
                raise
            if not is_repeatable and failure_of(error, "").effect is not Effect.NOTHING:
                raise
        return bool(answers)

    try:
        wait_until(is_answered, what, seconds_max)
    except TimeoutError as error:
        raise TimeoutError(f"{error}: {told[-1].details()}") from told[-1]
    return answers[0]
