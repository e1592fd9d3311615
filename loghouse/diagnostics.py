"""What a node writes about itself: `twisted.logger` events as text or as one JSON object a line."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Final, TextIO

from twisted.logger import (
    FileLogObserver,
    FilteringLogObserver,
    ILogObserver,
    LogEvent,
    LogLevel,
    LogLevelFilterPredicate,
    formatEvent,
    formatEventAsClassicLogText,
)
from zope.interface import implementer

from loghouse.config.settings import LoggingConfig
from loghouse.errors import ResourceExhaustedError
from loghouse.limits import LASTING_LINES_MAX, LOG_LINES, LOG_TEXT_SIZE_MAX
from loghouse.shares import Ledger
from loghouse.text import visible, visible_json

LASTING_MINUTES: Final = 60
PEERS_NAMED_MAX: Final = 5  # in one line about lines

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


def format_text(event: LogEvent) -> str | None:
    """Return one event as Twisted's text, safe to show: peers choose some of what is in it."""
    text = formatEventAsClassicLogText(event)
    return None if text is None else visible(text, keep="\n\t")


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
    return visible_json(line)


def _json_line(event: LogEvent) -> str:
    """Return one event as written; one that cannot be formatted is named, never lost and never raised."""
    try:
        return format_json(event) + "\n"
    except Exception as error:
        return visible_json({"level": "error", "message": f"unformattable event: {error!r}"}) + "\n"


@implementer(ILogObserver)
class PeerLines:
    """Passes on so many lines a minute that a peer caused, and all peers together; says what it leaves out.

    Such events name a `peer`. They count for whom they are `about`, a subject for one, if they say so. What
    is `lasting`, a text about a state that lasts, is said once in `LASTING_MINUTES`: a node that was removed
    and tries again and again is one line of its own, and one of each other node.
    """

    def __init__(self, observer: ILogObserver) -> None:
        self._observer = observer
        self._said: dict[str, int] = {}
        self._begin(-1)

    def _begin(self, minute: int) -> None:
        self._minute = minute
        self._lines = Ledger(LOG_LINES)
        self._left_out: Counter[str] = Counter()

    def __call__(self, event: LogEvent) -> None:
        """Pass one event on, or count it."""
        minute = int(event.get("log_time", 0.0) // 60)
        if minute != self._minute:
            left_out = self._left_out
            self._begin(minute)
            if left_out:
                self._tell("{count} lines about peers were left out: {peers}", event, left_out)
        if "peer" not in event:
            self._observer(event)
            return
        if "lasting" in event and not self._is_new(str(event["lasting"]), minute):
            return
        about = str(event.get("about") or event["peer"])[:LOG_TEXT_SIZE_MAX]
        try:
            self._lines.take(about)
        except ResourceExhaustedError:
            if not self._left_out:
                self._tell("more lines about {peers} are left out until the next minute", event, {about: 1})
            if about in self._left_out or len(self._left_out) < LOG_LINES.total:
                self._left_out[about] += 1
            else:
                self._left_out["others"] += 1
            return
        self._observer({key: _shortened(key, value) for key, value in event.items()})

    def _is_new(self, text: str, minute: int) -> bool:
        """Whether this was not said lately; notes that it is said now."""
        said = self._said.get(text)
        if said is not None and minute - said < LASTING_MINUTES:
            return False
        self._said.pop(text, None)
        if len(self._said) >= LASTING_LINES_MAX:
            del self._said[next(iter(self._said))]
        self._said[text] = minute
        return True

    def _tell(self, format: str, event: LogEvent, left_out: Mapping[str, int]) -> None:
        most = sorted(left_out, key=lambda about: -left_out[about])[:PEERS_NAMED_MAX]
        names = ", ".join(most) + (", ..." if len(left_out) > len(most) else "")
        own: LogEvent = {
            "log_format": format,
            "log_level": LogLevel.warn,
            "log_namespace": "loghouse.diagnostics",
            "log_time": event.get("log_time", 0.0),
            "count": sum(left_out.values()),
            "peers": names,
        }
        self._observer(own)


def _shortened(key: str, value: Any) -> Any:
    """Return a field of an event about a peer; what the peer says of itself cannot be longer than so much."""
    if key.startswith("log_") or key in _ENVELOPE or isinstance(value, (bool, int, float)):
        return value
    text = str(value)
    return text if len(text) <= LOG_TEXT_SIZE_MAX else text[:LOG_TEXT_SIZE_MAX] + "..."


@implementer(ILogObserver)
class Diagnostics:
    """What node.yaml's `logging` asks for, written to a file; another level while the node runs."""

    def __init__(self, config: LoggingConfig, file: TextIO) -> None:
        """Write from now on."""
        written = FileLogObserver(file, _json_line if config.format == "json" else format_text)
        level = LogLevel.levelWithName(config.level)
        self._levels = LogLevelFilterPredicate(defaultLogLevel=level)
        self._filtered = FilteringLogObserver(PeerLines(written), [self._levels])

    def __call__(self, event: LogEvent) -> None:
        """Write one event, if it is important enough."""
        self._filtered(event)

    def change(self, config: LoggingConfig) -> None:
        """Go on with another level; the format stays."""
        self._levels.defaultLogLevel = level = LogLevel.levelWithName(config.level)
        self._levels.setLogLevelForNamespace("", level)


def make_observer(config: LoggingConfig, file: TextIO) -> Diagnostics:
    """Return the observer that node.yaml's `logging` asks for, writing to `file`."""
    return Diagnostics(config, file)
