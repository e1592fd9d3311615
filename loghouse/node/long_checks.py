"""Checks of batches that take longer than a turn of the reactor may: in a thread, one at a time, in turns.

A thread that works in Python or parses holds the GIL, and the reactor waits for it. So there is one, it rests
between its steps, and subjects take turns: whoever sends batches that are long to check waits for himself.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any, Final

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

REST_SECONDS: Final = 4e-7  # for each record walked over, which takes half of it: the reactor has the rest


class LongCheck:
    """One check, waiting or under way. `done` is called with None or the error, unless it is cancelled."""

    __slots__ = ("done", "is_wanted", "steps", "subject")

    def __init__(
        self, subject: str, steps: Iterator[int], done: Callable[[BaseException | None], object]
    ) -> None:
        self.subject = subject
        self.steps = steps
        self.done = done
        self.is_wanted = True

    def cancel(self) -> None:
        """Nobody waits for it any more."""
        self.is_wanted = False

    def finish(self) -> None:
        """Do the rest of the steps, in a thread."""
        for worked in self.steps:
            if not self.is_wanted:
                return
            if worked:
                time.sleep(worked * REST_SECONDS)


class LongChecks:
    """The checks that wait for the thread; a server has one."""

    def __init__(self, in_thread: Callable[..., Deferred[Any]]) -> None:
        self._in_thread = in_thread  # runs a function off the reactor
        self._lines: dict[str, deque[LongCheck]] = {}  # the subject whose turn it is first
        self._is_running = False

    def run(
        self, subject: str, steps: Iterator[int], done: Callable[[BaseException | None], object]
    ) -> LongCheck:
        """Take the rest of a check (`checking.check_steps`), and tell `done` how it ends."""
        check = LongCheck(subject, steps, done)
        self._lines.setdefault(subject, deque()).append(check)
        self._run_next()
        return check

    def _run_next(self) -> None:
        while self._lines and not self._is_running:
            subject = next(iter(self._lines))
            check = self._lines[subject].popleft()
            if check.is_wanted:
                self._is_running = True
                self._in_thread(check.finish).addBoth(self._ended, check)
            else:
                self._end_turn(subject)

    def _end_turn(self, subject: str) -> None:
        line = self._lines.pop(subject)
        if line:
            self._lines[subject] = line  # behind all others

    def _ended(self, result: Any, check: LongCheck) -> None:
        self._is_running = False
        self._end_turn(check.subject)
        if check.is_wanted:
            check.done(result.value if isinstance(result, Failure) else None)
        self._run_next()
