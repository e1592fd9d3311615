"""Which records `consume` writes, and how: those of a key or a pattern, by a template, with colours."""

from __future__ import annotations

import argparse
import os
import re
from collections.abc import Callable, Iterable, Mapping
from typing import BinaryIO, Final, TypeAlias

from loghouse.cli.output import CommandError, ExitCode, time_text
from loghouse.cli.record_output import for_terminal, record_as_bytes
from loghouse.client import Record
from loghouse.client.choice import ReadOptions

Paint: TypeAlias = Callable[[str, bytes], bytes]

_COLOURS: Final[Mapping[str, bytes]] = {
    "offset": b"\x1b[36m",
    "time": b"\x1b[32m",
    "key": b"\x1b[33m",
    "match": b"\x1b[1;31m",
}
_RESET: Final = b"\x1b[0m"
_ESCAPES: Final = {"n": b"\n", "t": b"\t", "\\": b"\\", "0": b"\0"}
_PIECES: Final = re.compile(r"%(.?)|\\(.?)|([^%\\]+)", re.DOTALL)

_FIELDS: Final[Mapping[str, Callable[[Record, Paint], bytes]]] = {
    "o": lambda record, paint: paint("offset", b"%d" % record.offset),
    "t": lambda record, paint: paint("time", time_text(record.timestamp).encode()),
    "T": lambda record, paint: paint("time", b"%d" % record.timestamp),
    "k": lambda record, paint: paint("key", record.key or b""),
    "K": lambda record, paint: b"%d" % (-1 if record.key is None else len(record.key)),
    "v": lambda record, paint: paint("value", record.value),
    "h": lambda record, paint: paint(
        "value", b",".join(name.encode() + b"=" + value for name, value in record.headers)
    ),
    "s": lambda record, paint: b"%d" % len(record.value),
    "%": lambda record, paint: b"%",
}
TEMPLATE_ALLOWED: Final = (
    r"%o offset, %t time, %T microseconds, %k key, %K its size (-1: none), %v value, %h headers, %s size, "
    r"%% percent, \n, \t, \0, \\"
)


def wants_colours(output: BinaryIO) -> bool:
    """Whether output goes to a terminal of somebody who did not say no (https://no-color.org)."""
    return output.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def pattern(text: str) -> re.Pattern[bytes]:
    """Read a regular expression for values.

    Raises:
        argparse.ArgumentTypeError: It is none.
    """
    try:
        return re.compile(text.encode())
    except (re.error, UnicodeEncodeError) as error:
        raise argparse.ArgumentTypeError(f"{text!r} is no regular expression: {error}") from None


class Template:
    """A line for each record, such as `%o %t %k %v`."""

    def __init__(self, text: str) -> None:
        """Read it.

        Raises:
            argparse.ArgumentTypeError: It holds what no record has.
        """
        self._parts: list[Callable[[Record, Paint], bytes]] = []  # in their order; fixed
        for field, escape, plain in (match.groups() for match in _PIECES.finditer(text)):
            if plain is not None:
                self._parts.append(_text(plain.encode()))
            elif field is not None and field in _FIELDS:
                self._parts.append(_FIELDS[field])
            elif escape is not None and escape in _ESCAPES:
                self._parts.append(_text(_ESCAPES[escape]))
            else:
                wrong = f"%{field}" if field is not None else f"\\{escape}"
                raise argparse.ArgumentTypeError(
                    f"{wrong!r} in {text!r} is unknown; allowed: {TEMPLATE_ALLOWED}"
                )

    def render(self, record: Record, paint: Paint) -> bytes:
        """Return the line of a record."""
        return b"".join(part(record, paint) for part in self._parts) + b"\n"


def _text(text: bytes) -> Callable[[Record, Paint], bytes]:
    return lambda record, paint: text


class Selection:
    """Writes records one by one: those that were asked for, until there are enough of them."""

    def __init__(self, args: argparse.Namespace, output: BinaryIO) -> None:
        """Select as the options of `consume` say."""
        self._key = args.record_key.encode() if args.record_key is not None else None  # fixed
        self._grep: re.Pattern[bytes] | None = args.grep  # fixed
        self._template: Template | None = args.template  # fixed
        self._format: str = args.format  # fixed
        self._with_offsets: bool = args.offsets  # fixed
        self._is_terminal = output.isatty()  # fixed
        self._has_colours = wants_colours(output)  # fixed
        self._left: int | None = args.count  # how many more are to be written; None: all

    @property
    def is_over(self) -> bool:
        """Whether there are enough."""
        return self._left == 0

    def write(self, records: Iterable[Record]) -> bytes:
        """Return what is written of records."""
        lines = []
        for record in records:
            if self._left == 0:
                break
            if self._key is not None and record.key != self._key:
                continue
            if self._grep is not None and not self._grep.search(record.value):
                continue
            if self._left is not None:
                self._left -= 1
            lines.append(self._line(record))
        return b"".join(lines)

    def _line(self, record: Record) -> bytes:
        if self._template is not None:
            return self._template.render(record, self._paint)
        if self._has_colours and self._format in ("lines", "hex"):
            offset = self._paint("offset", b"%d" % record.offset) + b"\t" if self._with_offsets else b""
            value = record.value if self._format == "lines" else record.value.hex().encode()
            return offset + self._paint("value" if self._format == "lines" else "hex", value) + b"\n"
        text = record_as_bytes(self._format, record, with_offsets=self._with_offsets)
        return for_terminal(text) if self._is_terminal else text

    def _paint(self, what: str, text: bytes) -> bytes:
        """Return text as the output takes it, in the colour of what it is."""
        if not self._is_terminal:
            return text
        if what == "value" and self._grep is not None and self._has_colours:
            return self._highlighted(text, self._grep)
        colour = _COLOURS.get(what) if self._has_colours and text else None
        shown = for_terminal(text)
        return colour + shown + _RESET if colour is not None else shown

    def _highlighted(self, text: bytes, grep: re.Pattern[bytes]) -> bytes:
        pieces, position = [], 0
        for match in grep.finditer(text):
            if match.end() > match.start():
                pieces += [for_terminal(text[position : match.start()]), _COLOURS["match"]]
                pieces += [for_terminal(match[0]), _RESET]
                position = match.end()
        return b"".join([*pieces, for_terminal(text[position:])])


def selection_of(args: argparse.Namespace, output: BinaryIO) -> Selection | None:
    """Return what selects records; None when all are written, batch by batch, which is faster."""
    chooses = any(one is not None for one in (args.record_key, args.grep, args.template)) or args.reverse
    has_colours = args.offsets and args.format in ("lines", "hex") and wants_colours(output)
    return Selection(args, output) if chooses or has_colours else None


def choices_of(args: argparse.Namespace) -> ReadOptions:
    """Return what the server is asked to choose by; nothing when all records are read in their order."""
    choices: ReadOptions = {}
    if args.record_key is not None:
        choices["key"] = os.fsencode(args.record_key)
    if args.header:
        choices["headers"] = args.header
    if args.reverse:
        choices["reverse"] = True
    if args.local:
        choices["consistency"] = "local"
    return choices


def check(args: argparse.Namespace) -> None:
    """Raise CommandError when options contradict each other."""
    if args.template is not None and (args.format != "lines" or args.offsets):
        raise CommandError("--template says all; leave out --format, --json and --offsets", ExitCode.USAGE)
    if args.follow and args.until is not None and not isinstance(args.until, int):
        raise CommandError("--follow ends at an offset, not at a time: give --until OFFSET", ExitCode.USAGE)
    if args.follow and args.reverse:
        raise CommandError("--follow goes forwards: leave out --reverse", ExitCode.USAGE)
