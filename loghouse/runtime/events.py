"""Events of modules that run with Twisted and without it.

In a process that uses Twisted's logger they go there, as those of all other modules do. Elsewhere they go to
Python's `logging`, to a logger named after the class: a program with a log of its own decides what it shows.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any, Final, Protocol

from loghouse.protocol.entry import DEFAULT_LOG

_LEVELS: Final = {"debug": 10, "info": 20, "warn": 30, "error": 40, "critical": 50}  # of `logging`


def _saying(level: str) -> Callable[..., None]:
    def say(self: Logger, text: str, **fields: object) -> None:
        self.say(level, text, fields)

    return say


class Logger:
    """What a class says, as `twisted.logger.Logger`: a text with `{names}`, and their values."""

    __slots__ = ("_namespace", "log_name")

    def __init__(self, namespace: str = "", log_name: str = "") -> None:
        """Belong to a class, which gives its name. Texts begin with `log_name`, unless it is empty."""
        self._namespace = namespace
        self.log_name = log_name  # letters, digits, `-` and `_` alone; fixed

    def of_log(self, name: str) -> Logger:
        """Return the logger of the same class whose texts begin with a log's name."""
        return Logger(self._namespace, name)

    def _about(self, text: str, fields: dict[str, Any]) -> str:
        if not self.log_name:
            return text
        fields["log"] = self.log_name
        return f'log "{self.log_name}": {text}'

    def __get__(self, instance: object, owner: type) -> Logger:
        return Logger(f"{owner.__module__}.{owner.__name__}")

    debug = _saying("debug")  # what helps in the search for a bug
    info = _saying("info")  # what happened
    warn = _saying("warn")  # what an operator should look at
    error = _saying("error")  # what an operator must look at
    critical = _saying("critical")  # what ends a node, or loses what it held

    def failure(self, text: str, error: BaseException, **fields: Any) -> None:
        """Say that an error was met that nobody expected."""
        text = self._about(text, fields)
        if "twisted.logger" in sys.modules:
            from twisted.logger import Logger as TwistedLogger
            from twisted.python.failure import Failure

            TwistedLogger(self._namespace).failure(text, Failure(error), **fields)
        else:
            import logging

            logging.getLogger(self._namespace).critical("%s", _formatted(text, fields), exc_info=error)

    def say(self, level: str, text: str, fields: dict[str, object]) -> None:
        """Give an event to whoever keeps this process's log."""
        text = self._about(text, fields)
        if "twisted.logger" in sys.modules:
            from twisted.logger import Logger as TwistedLogger
            from twisted.logger import LogLevel

            TwistedLogger(self._namespace).emit(LogLevel.lookupByName(level), text, **fields)
        else:
            import logging

            logging.getLogger(self._namespace).log(_LEVELS[level], "%s", _formatted(text, fields))


def _formatted(text: str, fields: dict[str, object]) -> str:
    return text.format(**fields)


class Speaker(Protocol):
    """Whatever has a logger."""

    logger: Any


def name_lines(log_name: str, *speakers: Speaker) -> None:
    """Let what these say begin with the log's name; what is said of the default log begins as ever."""
    if log_name not in ("", DEFAULT_LOG):
        for speaker in speakers:
            speaker.logger = speaker.logger.of_log(log_name)
