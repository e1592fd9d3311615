"""Foreign text is shown, never obeyed; and a line is what an editor shows."""

import json
import unicodedata

from twisted.trial.unittest import SynchronousTestCase

from loghouse.text import check_lines, hidden_in, split_lines, visible, visible_json

OBEYED = [
    chr(code)
    for code in range(0x3000)
    if unicodedata.category(chr(code)) in {"Cc", "Zl", "Zp"}
    or unicodedata.bidirectional(chr(code)) in {"LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI"}
]


class VisibleTests(SynchronousTestCase):
    """What a terminal obeys."""

    def test_every_control(self):
        """Of C0, C1, separators and bidirectional controls none is left, and each differs from the others."""
        self.assertGreater(len(OBEYED), 70)
        shown = [visible(f"a{character}b") for character in OBEYED]
        self.assertTrue(all(text.isprintable() for text in shown))
        self.assertEqual(len(set(shown)), len(OBEYED))
        self.assertEqual(visible("a\nb\tc\x1b", keep="\n\t"), "a\nb\tc\\x1b")

    def test_text_stays(self):
        """Words in whatever script, and emoji made of several characters, stay as they are."""
        for text in (
            "F\u0151tan\u00fas\u00edtv\u00e1ny",
            "\u05d0\u05d1",
            "\U0001f469\u200d\U0001f680",
            "a b",
        ):
            self.assertEqual(visible(text), text)

    def test_json(self):
        """JSON shows no control, and a parser reads what went in; also half a surrogate pair."""
        value = {"".join(OBEYED): ["".join(OBEYED), "\ud800", 1]}
        text = visible_json(value)
        self.assertTrue(text.isprintable())
        self.assertEqual(json.loads(text), value)
        self.assertEqual(visible_json({"\u0151": "\x9b"}), '{"\u0151": "\\u009b"}')
        self.assertEqual(visible_json([1], indent=1), "[\n 1\n]")

    def test_escapes(self):
        """Two digits up to U+00FF, four beyond."""
        for character, shown in (
            ("\0", "\\x00"),
            ("\x9f", "\\x9f"),
            ("\u061c", "\\u061c"),
            ("\u2028", "\\u2028"),
            ("\ud800", "\\ud800"),
        ):
            self.assertEqual(visible(character), shown)

    def test_hidden(self):
        """The first character that shows as nothing is found; tabs and spaces are none, nor is text."""
        for text, found in (
            ("", ""),
            ("a b\tc \u0151\u05d0", ""),
            ("a\x1bb\u2028", "\x1b"),
            ("a\u00a0", "\u00a0"),
            ("a\u2800b", "\u2800"),
            ("\u3164", "\u3164"),
            ("a\ufe0f", "\ufe0f"),
            ("\n", "\n"),
        ):
            self.assertEqual(hidden_in(text), found, ascii(text))


class LineTests(SynchronousTestCase):
    """Lines of files."""

    def test_newlines_alone(self):
        """LF and CR LF end lines; a byte order mark begins none."""
        self.assertEqual(split_lines("\ufeffa\r\nb\tc\n\nd"), ["a", "b\tc", "", "d"])

    def test_others(self):
        """Whatever else could end or hide a line is refused with the number of the line shown."""
        for character in OBEYED:
            if character in "\n\t":
                continue
            for text in (f"a\nb{character}c", f"a\n# {character}"):
                if character == "\r" and text.endswith(character):
                    continue
                self.assertIn("2: ", str(self.assertRaises(ValueError, split_lines, text)))
                for encoding in ("utf-8", "utf-16"):
                    self.assertRaises(ValueError, check_lines, text.encode(encoding))

    def test_no_text(self):
        """What is no text is nobody's line: its reader will say so; text is looked at as it is."""
        for data in (b"\x1b\x80", b"\xff\xfe\x1b", b"", b"a\n", "a\r\n"):
            check_lines(data)
        self.assertRaisesRegex(ValueError, "^1: holds the character U\\+001B,", check_lines, "\x1b")
