"""Text that others wrote: shown so that no terminal obeys it, read as the lines an editor shows. Pure.

Control characters (C0, DEL, C1) can move a terminal's cursor, set its title or hide what stands there; line
and paragraph separators end a line for some programs and not for others; bidirectional controls make a line
appear in another order than it is in.
"""

from __future__ import annotations

import codecs
import json
import re
from typing import Any, Final

_BIDIRECTIONAL: Final = "\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069"
_INVISIBLE: Final = re.compile(f"[\x00-\x1f\x7f-\x9f\u2028\u2029{_BIDIRECTIONAL}\ud800-\udfff]")
_HIDING: Final = re.compile(f"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029{_BIDIRECTIONAL}]")
# Letters and marks that show as nothing; the others of the kind are not `isprintable`.
_BLANK: Final = re.compile(
    "[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180d\u180f\u2800\u3164\ufe00-\ufe0f\uffa0\U000e0100-\U000e01ef]"
)
_BYTE_ORDER_MARK: Final = "\ufeff"


def visible(text: str, keep: str = "") -> str:
    r"""Return text with every character that a terminal would obey as an escape: ``\x1b``, ``\u202e``.

    Args:
        text: Anything.
        keep: Characters that stay as they are, such as the newlines of a text of several lines.
    """
    return _INVISIBLE.sub(lambda found: found[0] if found[0] in keep else _escape(found[0]), text)


def visible_json(value: Any, **options: Any) -> str:
    """Return a value as JSON with such characters as escapes; a parser reads the same from it."""
    text = json.dumps(value, ensure_ascii=False, **options)
    # Outside of its strings JSON has only spaces and newlines of ours, inside C0 is escaped already.
    return _INVISIBLE.sub(lambda found: found[0] if found[0] == "\n" else f"\\u{ord(found[0]):04x}", text)


def _escape(character: str) -> str:
    code = ord(character)
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"


def hidden_in(text: str) -> str:
    """Return the first character of a line that nobody sees, tabs aside; empty when there is none."""
    return next((one for one in text if not (one.isprintable() or one == "\t") or _BLANK.match(one)), "")


def check_lines(data: bytes | str) -> None:
    """Raise as `split_lines` for a file whose lines others will split, in UTF-8 or marked UTF-16."""
    if isinstance(data, bytes):
        is_wide = data[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
        try:
            data = data.decode("utf-16" if is_wide else "utf-8")
        except UnicodeDecodeError:
            return  # no text at all, as its reader will say
    split_lines(data)


def split_lines(text: str) -> list[str]:
    """Return the lines of a file for people: a newline ends one (or CR and newline), and nothing else does.

    A byte order mark at the beginning is not a part of the text.

    Raises:
        ValueError: A line holds a character that editors do not show; the text begins with the line's number.
    """
    lines = text.removeprefix(_BYTE_ORDER_MARK).split("\n")
    lines = [line.removesuffix("\r") for line in lines]
    for number, line in enumerate(lines, start=1):
        hidden = _HIDING.search(line)
        if hidden is not None:
            raise ValueError(
                f"{number}: holds the character U+{ord(hidden[0]):04X}, which editors do not show and"
                " which may hide a part of the line; remove it"
            )
    return lines
