"""What a node writes about itself: `twisted.logger` events as text or as one JSON object a line."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any, Final, TextIO

from twisted.logger import (
    FilteringLogObserver,
    ILogObserver,
    LogEvent,
    LogLevel,
    LogLevelFilterPredicate,
    formatEvent,
    textFileLogObserver,
)
from zope.interface import implementer

from loghouse.config import LoggingConfig

# What twisted.logger puts into every event; a line has them under shorter names, or has no use for them.
_ENVELOPE: Final = frozenset({"message", "time", "system", "isError", "format", "failure", "why"})


def _plain(value: object) -> object:
    """Return a value as JSON can hold it: numbers and words as they are, bytes in hex, the rest as text."""
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, (bytes, bytearray, memoryview)):
        return bytes(value).hex()
    if isinstance(value, (list, tuple, set, frozenset)):
        return [_plain(item) for item in value]
    return str(value)


def format_json(event: LogEvent) -> str:
    """Return one event as one line of JSON: time, level, logger, message, then the event's own fields."""
    moment = datetime.fromtimestamp(event.get("log_time", 0.0), UTC)
    level = event.get("log_level")
    line: dict[str, Any] = {
        "time": moment.isoformat(timespec="microseconds"),
        "level": level.name if level is not None else "info",
        "logger": event.get("log_namespace", ""),
        "message": formatEvent(event),
    }
    for key, value in event.items():
        if not key.startswith("log_") and key not in _ENVELOPE and key not in line:
            line[key] = _plain(value)
    failure = event.get("log_failure")
    if failure is not None:
        line["traceback"] = failure.getTraceback()
    return json.dumps(line, ensure_ascii=False)


@implementer(ILogObserver)
class JSONLogObserver:
    """Writes each event as one line of JSON."""

    def __init__(self, file: TextIO) -> None:
        self._file = file

    def __call__(self, event: LogEvent) -> None:
        """Write one event; one that cannot be formatted is named, never lost and never raised."""
        try:
            line = format_json(event)
        except Exception as error:
            line = json.dumps({"level": "error", "message": f"unformattable event: {error!r}"})
        self._file.write(line + "\n")
        self._file.flush()


def make_observer(config: LoggingConfig, file: TextIO) -> ILogObserver:
    """Return the observer that node.yaml's `logging` asks for, writing to `file`."""
    written = JSONLogObserver(file) if config.format == "json" else textFileLogObserver(file)
    level = LogLevel.levelWithName(config.level)
    observer: ILogObserver = FilteringLogObserver(written, [LogLevelFilterPredicate(defaultLogLevel=level)])
    return observer
