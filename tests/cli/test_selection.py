"""Which records `consume` writes, and how; and where it begins and ends."""

import argparse
import asyncio
import io
import os
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace

from twisted.trial.unittest import SynchronousTestCase

from loghouse.api.v1.log_pb2 import EncodedRecords
from loghouse.api.v1.log_pb2 import Record as Message
from loghouse.cli import consume, places
from loghouse.cli.output import CommandError
from loghouse.cli.parser import joined
from loghouse.cli.record_output import WRITERS, record_as_bytes
from loghouse.cli.selection import Template, check, pattern, selection_of
from loghouse.client import Batch
from tests.cli.test_commands import SELECTION

TIME = 1_764_000_000_000_000


def batch(*records, offset=7):
    encoded = EncodedRecords(
        records=[Message(value=value, key=key).SerializeToString() for key, value in records]
    )
    return Batch(offset, TIME, encoded, 0, len(records))


RECORDS = ((b"a", b"one"), (b"b", b"two\x1b[0m"), (b"a", b"three one"), (b"", b"\xff"))


class Terminal(io.BytesIO):
    """Where a person looks."""

    def isatty(self):
        return True


class SelectionTests(SynchronousTestCase):
    """`Selection`, from options to bytes."""

    def setUp(self):
        self.patch(os, "environ", {"TERM": "xterm"})

    def write(self, output=None, **options):
        args = SimpleNamespace(**{"format": "lines", "offsets": False, "count": None, **SELECTION, **options})
        self.selection = selection_of(args, output or io.BytesIO())
        return None if self.selection is None else self.selection.write(batch(*RECORDS))

    def test_all(self):
        """Nothing to choose by, and no colours: batches are written whole."""
        self.assertIsNone(self.write())
        self.assertIsNone(self.write(offsets=True))
        self.assertIsNone(self.write(Terminal()))

    def test_key_and_pattern(self):
        """Those of a key, those in whose values a pattern is found, those of which both holds."""
        self.assertEqual(self.write(record_key="a"), b"one\nthree one\n")
        self.assertEqual(self.write(record_key=""), b"\xff\n")
        self.assertEqual(
            self.write(grep=pattern("one|two"), offsets=True), b"7\tone\n8\ttwo\x1b[0m\n9\tthree one\n"
        )
        self.assertEqual(self.write(record_key="a", grep=pattern("^t")), b"three one\n")

    def test_count(self):
        """So many are written as were asked for, of those that were chosen."""
        self.assertEqual(self.write(record_key="a", count=1), b"one\n")
        self.assertTrue(self.selection.is_over)
        self.assertEqual(self.write(record_key="a", count=0), b"")
        self.assertEqual(self.write(record_key="a", count=3), b"one\nthree one\n")
        self.assertFalse(self.selection.is_over)

    def test_formats(self):
        """A record alone is written as among others."""
        for format_, write in WRITERS.items():
            for with_offsets in (False, True):
                whole = write(batch(*RECORDS), with_offsets=with_offsets)
                single = [record_as_bytes(format_, one, with_offsets=with_offsets) for one in batch(*RECORDS)]
                self.assertEqual(b"".join(single), whole, format_)

    def test_template(self):
        """A line for each record, with what is asked for."""
        template = Template(r"%o %t %T %k=%v %s %h%%\t.")
        self.assertEqual(
            self.write(template=template, record_key="b"),
            b"8 2025-11-24T16:00:00.000000Z 1764000000000000 b=two\x1b[0m 7 %\t.\n",
        )
        for wrong in ("%q", "%", "\\x", "a\\"):
            self.assertRaises(argparse.ArgumentTypeError, Template, wrong)

    def test_colours(self):
        """On a terminal offsets, keys and matches have colours, and records none of their own."""
        shown = self.write(Terminal(), offsets=True, grep=pattern("one"))
        self.assertEqual(
            shown,
            b"\x1b[36m7\x1b[0m\t\x1b[1;31mone\x1b[0m\n\x1b[36m9\x1b[0m\tthree \x1b[1;31mone\x1b[0m\n",
        )
        self.assertIn(rb"two\x1b[0m" + b"\n", self.write(Terminal(), offsets=True))
        self.assertEqual(
            self.write(Terminal(), template=Template("%k"), record_key="b"), b"\x1b[33mb\x1b[0m\n"
        )
        self.assertEqual(self.write(Terminal(), format="json", record_key="b").count(b"\x1b"), 0)

    def test_no_colours(self):
        """NO_COLOR, a dumb terminal and a pipe get none."""
        for environment in ({"NO_COLOR": "1"}, {"TERM": "dumb"}):
            self.patch(os, "environ", environment)
            self.assertIsNone(self.write(Terminal(), offsets=True))
            self.assertEqual(self.write(Terminal(), grep=pattern("two")), rb"two\x1b[0m" + b"\n")

    def test_contradictions(self):
        """What cannot be meant is said."""
        plain = {"format": "lines", "offsets": False, "follow": False, **SELECTION}
        for options in (
            {"template": 1, "format": "json"},
            {"template": 1, "offsets": True},
            {"follow": True, "until": datetime.now(UTC)},
            {"follow": True, "reverse": True},
        ):
            self.assertRaises(CommandError, check, SimpleNamespace(**{**plain, **options}))
        check(SimpleNamespace(**{**plain, "follow": True, "until": 9}))


class PlaceTests(SynchronousTestCase):
    """Where to begin and to end."""

    def test_ago(self):
        """A time span is so long ago, with or without a minus."""
        for text, seconds in (("2h", 7200), ("-90s", 90), ("1.5d", 129_600)):
            found = places.start(text)
            self.assertLess(
                abs(datetime.now(UTC) - timedelta(seconds=seconds) - found), timedelta(seconds=60)
            )
        for text in ("2 h", "--2h", "h", "1e3h", "-7"):
            self.assertRaises(argparse.ArgumentTypeError, places.start, text)
        self.assertRaises(argparse.ArgumentTypeError, places.until, "latest")
        self.assertEqual((places.start("latest"), places.until("7")), ("latest", 7))

    def test_joined(self):
        """What would look like an option belongs to the word before; nothing else does."""
        words = ["consume", "--from", "-1h", "--until", "-5m", "-n", "3", "--from", "-f"]
        self.assertEqual(joined(words), ["consume", "--from=-1h", "--until=-5m", "-n", "3", "--from", "-f"])

    def range_of(self, **options):
        class Log:
            async def find_range(self, start, *, follow):
                end = None if follow else 50
                if isinstance(start, datetime):
                    return 33, end
                return {"earliest": 10, "latest": 50}.get(start, start), end

        args = SimpleNamespace(
            **{"start": "earliest", "follow": False, "count": None, **SELECTION, **options}
        )
        loop = asyncio.new_event_loop()
        self.addCleanup(loop.close)
        return loop.run_until_complete(consume._range(args, Log()))

    def test_range(self):
        """The last ones, up to an offset or a time; what is chosen is counted when it is written."""
        for options, expected in (
            ({"last": 5}, (45, 50, False)),
            ({"last": 500}, (10, 50, False)),
            ({"last": 5, "follow": True}, (45, None, False)),
            ({"until": 40}, (10, 40, False)),
            ({"until": 60}, (10, 50, False)),
            ({"until": 60, "follow": True}, (10, 60, False)),
            ({"until": datetime.now(UTC)}, (10, 33, False)),
            ({"until": 40, "count": 3}, (10, 13, False)),
            ({"until": 40, "count": 3, "record_key": "k"}, (10, 40, False)),
        ):
            self.assertEqual(self.range_of(**options), expected, options)
