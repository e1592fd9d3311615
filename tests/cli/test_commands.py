"""Commands over a client that is a script: what is asked of it, with what, and when a command ends."""

import asyncio
import io
import sys
from contextlib import contextmanager
from types import SimpleNamespace

from loghouse.cli import bench, consume, demo, produce
from loghouse.cli import output as output_module
from loghouse.cli.output import CommandError, ExitCode
from loghouse.client.records import NewRecord
from loghouse.errors import OutcomeUnknownError, UnavailableError
from loghouse.limits import KIB
from tests.cli.test_edges import SaidCase
from tests.fakes.clock_loop import ClockLoop


class Bar:
    """In the place of a progress bar: how it was made, and how far it went."""

    def __init__(self, total, unit, description, *, is_alone=True):
        self.made = (total, unit, description)
        self.is_alone = is_alone
        self.steps = []

    def __enter__(self):
        return self

    def __exit__(self, *error):
        return None

    def update(self, count):
        self.steps.append(count)


class BarCase(SaidCase):
    """Bars of the commands' modules are kept in `bars`."""

    def setUp(self):
        super().setUp()
        self.bars = []

        def bar(*made, **fields):
            self.bars.append(Bar(*made, **fields))
            return self.bars[-1]

        for module in (bench, consume, produce):
            self.patch(module, "progress_bar", bar)


class Batch:
    """Records from an offset to before another."""

    def __init__(self, base, next_offset):
        self.base, self.next_offset = base, next_offset

    def __len__(self):
        return self.next_offset - self.base

    def before(self, end):
        return Batch(self.base, min(self.next_offset, end))

    def values(self):
        return [b"%d" % number for number in range(self.base, self.next_offset)]


class AsyncLog:
    """The client of `consume`: a log of ten records, three in a batch, two batches in an answer."""

    def __init__(self, bounds=(0, 10)):
        self.bounds = bounds
        self.asked = []
        self.given = 0

    async def __aenter__(self):
        return self

    async def __aexit__(self, *error):
        self.asked.append("closed")

    async def servers(self, *, timeout_seconds):
        self.asked.append(("servers", timeout_seconds))

    async def find_range(self, start, *, follow):
        self.asked.append(("find", start, follow))
        return self.bounds

    async def read_range(self, offset, end, *, is_unconfirmed):
        self.asked.append(("read", offset, end, is_unconfirmed))
        try:
            for base in range(offset, 10, 6):
                self.given += 1
                yield iter([Batch(at, min(at + 3, 10)) for at in (base, base + 3) if at < 10])
        finally:
            self.asked.append("let go")


class Output(io.BytesIO):
    """A file that counts its flushes."""

    def __init__(self, is_terminal=False):
        super().__init__()
        self.flushes = 0
        self.is_terminal = is_terminal

    def isatty(self):
        return self.is_terminal

    def flush(self):
        self.flushes += 1


# What `consume` takes when nothing chooses among the records.
SELECTION = {
    "cursor": None,
    "last": None, "until": None, "record_key": None, "header": [], "reverse": False, "local": False,
    "grep": None, "template": None,
}  # fmt: skip


class ConsumeTests(BarCase):
    """`consume`, from its options to what is read."""

    def consume(self, bounds=(0, 10), *, terminal=False, **options):
        options = {
            "dir": None,
            "start": 0,
            "follow": False,
            "count": None,
            "format": "raw",
            "offsets": False,
            **SELECTION,
            **options,
        }
        args = SimpleNamespace(**options, timeout=10.0)
        self.log, self.output = AsyncLog(bounds), Output(terminal)
        self.patch(consume, "connect_async", lambda given: self.log)
        self.written = []

        def write(batch, *, with_offsets):
            self.written.append((batch.base, batch.next_offset, with_offsets))
            return b"\x07%d" % batch.base

        self.patch(consume, "WRITERS", {"raw": write})
        loop = ClockLoop()
        self.addCleanup(loop.close)
        loop.run_until_complete(consume._run(args, self.output))

    def test_whole(self):
        """A node is found first; then all is read up to where the log ended, with a bar, flushed once."""
        self.consume()
        self.assertEqual(
            self.log.asked,
            [("servers", 3.0), ("find", 0, False), ("read", 0, 10, False), "let go", "closed"],
        )
        self.assertEqual(self.written, [(0, 3, False), (3, 6, False), (6, 9, False), (9, 10, False)])
        self.assertEqual(self.output.getvalue(), b"\x070\x073\x076\x079")
        self.assertEqual(self.output.flushes, 1)
        (bar,) = self.bars
        self.assertEqual((bar.made, bar.steps), ((10, " records", "reading"), [3, 3, 3, 1]))
        self.assertTrue(bar.is_alone)

    def test_ends(self):
        """Reading ends at the end, within a batch, too; at or behind the end nothing is asked for."""
        for bounds, count, ranges, expected in (
            ((0, 4), None, ("read", 0, 4, False), [(0, 3), (3, 4)]),
            ((0, 3), None, ("read", 0, 3, False), [(0, 3)]),
            ((2, 10), 3, ("read", 2, 5, False), [(2, 5)]),
            ((2, 10), 20, ("read", 2, 10, False), [(2, 5), (5, 8), (8, 10)]),
            ((2, 10), 0, None, []),
            ((5, 5), None, None, []),
            ((6, 5), None, None, []),
            ((4, 5), None, ("read", 4, 5, False), [(4, 5)]),
            ((7, None), None, ("read", 7, None, True), [(7, 10)]),
            ((7, None), 2, ("read", 7, 9, True), [(7, 9)]),
        ):
            self.consume(bounds, count=count)
            self.assertEqual([(base, next_offset) for base, next_offset, _ in self.written], expected)
            asked = [one for one in self.log.asked if one[0] == "read"]
            self.assertEqual(asked, [ranges] if ranges else [])
            self.assertEqual("let go" in self.log.asked, ranges is not None)
        self.assertEqual(self.log.given, 1)

    def test_follow(self):
        """Who follows sees each batch at once, without a bar's steps; a count ends it."""
        self.consume((4, None), follow=True, offsets=True)
        self.assertIn(("read", 4, None, False), self.log.asked)
        self.assertEqual(self.written, [(4, 7, True), (7, 10, True)])
        self.assertEqual((self.output.flushes, self.bars[-1].made[0], self.bars[-1].steps), (3, None, []))
        self.assertFalse(self.bars[-1].is_alone)
        self.consume((4, None), follow=True, count=1)
        self.assertEqual((self.written, self.output.flushes), ([(4, 5, False)], 2))

    def test_terminal(self):
        """Between the records of a terminal comes no bar, and what it would obey is visible."""
        self.consume((0, 3), terminal=True)
        self.assertEqual((self.bars[-1].made[0], self.bars[-1].steps), (3, []))
        self.assertFalse(self.bars[-1].is_alone)
        self.assertNotIn(b"\x07", self.output.getvalue())

    def test_range(self):
        """How the range is asked for, and that only an end which nobody knows is unconfirmed."""
        for bounds, follow, count, expected in (
            ((3, 9), False, None, (3, 9, False)),
            ((3, None), False, None, (3, None, True)),
            ((3, None), True, None, (3, None, False)),
            ((3, None), True, 4, (3, 7, False)),
            ((3, 9), False, 4, (3, 7, False)),
            ((3, 9), False, 40, (3, 9, False)),
        ):
            log = AsyncLog(bounds)
            args = SimpleNamespace(start="latest", follow=follow, count=count, **SELECTION)
            loop = asyncio.new_event_loop()
            self.assertEqual(loop.run_until_complete(consume._range(args, log)), expected)
            loop.close()
            self.assertEqual(log.asked, [("find", "latest", follow)])


class EndTests(BarCase):
    """How `consume` ends."""

    def run_it(self, output, *, follow=True, gone=True, cancelled=False):
        """Run it against a log that has nothing; its reader is gone at once, if anybody looks."""
        self.watched = []

        def watch(stop):
            self.watched.append(stop)
            if gone:
                stop()

        class Log(AsyncLog):
            async def find_range(self, start, *, follow):
                if cancelled:
                    asyncio.current_task().cancel()
                if follow:
                    await asyncio.sleep(3600.0)
                return 5, 5

        self.patch(output_module, "watch_reader", watch)
        self.patch(consume, "connect_async", lambda args: Log())
        args = SimpleNamespace(dir=None, follow=follow, start=0, count=None, timeout=1.0, **SELECTION)
        loop = ClockLoop()
        self.addCleanup(loop.close)
        loop.run_until_complete(consume._run(args, output))

    def test_reader_is_gone(self):
        """Who follows ends when nobody reads its stdout any more; no other output is watched."""
        stream, sys.stdout = sys.stdout, io.TextIOWrapper(io.BytesIO())
        try:
            stdout = sys.stdout.buffer
            self.assertRaises(BrokenPipeError, self.run_it, stdout)
            self.assertEqual(len(self.watched), 1)
            self.watched[0]()  # it may be told again when the loop is closed
            self.run_it(stdout, follow=False)
            self.assertEqual(self.watched, [])
            self.run_it(Output(), follow=False)
            self.assertEqual(self.watched, [])
            self.assertRaises(asyncio.CancelledError, self.run_it, Output(), cancelled=True)
            self.assertEqual(self.watched, [])
            self.assertRaises(asyncio.CancelledError, self.run_it, stdout, gone=False, cancelled=True)
            self.assertEqual(len(self.watched), 1)
        finally:
            sys.stdout = stream

    def test_calls_end(self):
        """Whatever happened, gRPC's calls may end before the loop does."""
        noted = []

        async def run(args, output):
            noted.append((args, output))
            raise UnavailableError("no")

        async def let_calls_end():
            noted.append("ended")

        self.patch(consume, "_run", run)
        self.patch(consume, "let_calls_end", let_calls_end)
        loop = ClockLoop()
        self.addCleanup(loop.close)
        with self.assertRaises(UnavailableError):
            loop.run_until_complete(consume._run_to_the_end("args", "output"))
        self.assertEqual(noted, [("args", "output"), "ended"])


class Delivery:
    """One record under way; done after so many others were taken."""

    def __init__(self, offset, log):
        self.number, self.log = offset, log

    @property
    def is_done(self):
        return self.log.taken > self.number + 2 or self.log.is_closed

    def offset(self):
        if self.log.error is not None and self.number >= self.log.fails_at:
            raise self.log.error
        return self.number


class Log:
    """A client: its clock goes on by a second with each append."""

    def __init__(self, clock=None):
        self.clock = clock if clock is not None else [0.0]
        self.asked = []
        self.taken = 0
        self.is_closed = False
        self.error = None
        self.fails_at = 0
        self.batches = []

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.asked.append("closed")

    def append(self, value, **fields):
        self.clock[0] += 1.0
        self.taken += 1
        self.asked.append(("append", value, *([fields] if fields else [])))
        if self.error is not None and self.taken > self.fails_at:
            raise self.error
        return 10 + self.taken

    @contextmanager
    def producer(self, **options):
        self.asked.append(("producer", options))

        def append(value, **fields):
            self.clock[0] += 1.0
            self.taken += 1
            return Delivery(self.taken - 1, self)

        try:
            yield SimpleNamespace(append=append)
        finally:
            self.is_closed = True

    def bounds(self):
        return SimpleNamespace(lowest=2, next_offset=12 if self.batches else 2)

    def read_batches(self, offset):
        self.asked.append(("read", offset))
        for batch in self.batches:
            self.asked.append("batch")
            yield batch


class BenchTests(BarCase):
    """`bench`: what is measured."""

    def setUp(self):
        super().setUp()
        self.clock = [0.0]
        self.patch(bench, "time", SimpleNamespace(monotonic=lambda: self.clock[0]))
        self.log = Log(self.clock)
        self.patch(bench, "connect", lambda args: self.log)
        self.reports = []
        self.patch(bench, "_report", lambda args, *figures: self.reports.append(figures))

    def produce(self, **options):
        options = {"sync": False, "batch": None, "codec": "none", "size": 7, "records": 5, **options}
        bench.run_produce(SimpleNamespace(**options))

    def test_sync(self):
        """Each record by itself, timed from its call to its answer."""
        self.produce(sync=True)
        values = [one[1] for one in self.log.asked[:-1]]
        self.assertEqual((len(values), len(set(values)), len(values[0])), (5, 1, 7))
        self.assertEqual(self.reports, [(5, 35, 5.0, [1.0] * 5)])
        self.assertEqual((self.bars[0].made, self.bars[0].steps), ((5, " records", "appending"), [1] * 5))

    def test_batches(self):
        """Each record from its append to when its answer is seen; those left at the end are waited for."""
        for options, batch, codec in (({}, 256 * KIB, "none"), ({"batch": 9, "codec": "zstd"}, 9, "zstd")):
            self.log = Log(self.clock)
            self.bars.clear()
            self.produce(**options)
            told = {"batch_bytes": batch, "buffer_bytes": produce.BUFFER_SIZE, "compression": codec}
            self.assertEqual(self.log.asked, [("producer", told), "closed"])
            self.assertEqual(self.reports.pop(), (5, 35, 5.0, [2.0, 2.0, 2.0, 1.0, 0.0]))
            self.assertEqual(self.bars[0].steps, [0, 0, 1, 1, 1, 1, 1])

    def test_failure(self):
        """A record that fails at the end is no measure."""
        self.log.error, self.log.fails_at = UnavailableError("no"), 4
        self.assertRaises(UnavailableError, self.produce)
        self.assertEqual(self.reports, [])

    def test_contradictions(self):
        """What is for batches goes not with --sync, and the first such option is named."""
        for options, option in (
            ({"batch": 9}, "--batch"),
            ({"codec": "zstd"}, "--codec"),
            ({"batch": 9, "codec": "zstd"}, "--batch"),
        ):
            error = self.assertRaises(CommandError, self.produce, sync=True, **options)
            text = f"{option} is for batches; --sync appends each record by itself"
            self.assertEqual((str(error), error.exit_code), (text, ExitCode.USAGE))

    def test_consume(self):
        """As many records as there are, or as are wanted, and no batch more."""
        for records, counts, size in (
            (None, [3, 3, 4], 12),
            (20, [3, 3, 4], 12),
            (6, [3, 3], 6),
            (5, [3, 2], 5),
            (1, [1], 1),
        ):
            self.log = Log(self.clock)
            self.log.batches = [Batch(2, 5), Batch(5, 8), Batch(8, 12)]
            bench.run_consume(SimpleNamespace(records=records))
            self.assertEqual(self.log.asked, [("read", 2), *["batch"] * len(counts), "closed"])
            self.assertEqual(self.reports.pop(), (sum(counts), size, 0.0, ()))
            bar = self.bars.pop()
            self.assertEqual((bar.made, bar.steps), ((sum(counts), " records", "reading"), counts))

    def test_consume_nothing(self):
        """An empty log is no measure."""
        error = self.assertRaises(CommandError, bench.run_consume, SimpleNamespace(records=None))
        self.assertEqual(str(error), "the log is empty; `loghouse bench produce` fills it")


class ProduceTests(BarCase):
    """`produce`: what is acknowledged, and what is said of it."""

    def setUp(self):
        super().setUp()
        self.log = Log()
        self.patch(produce, "connect", lambda args: self.log)
        self.patch(produce, "time", SimpleNamespace(monotonic=lambda: self.log.clock[0]))

    def run_it(self, **options):
        options = {
            "dir": None, "value": None, "file": None, "format": "lines", "codec": "none", "batch": None,
            "rate": None, "record_key": None, "header": [], "json": False, **options,
        }  # fmt: skip
        return self.said(produce.run, SimpleNamespace(**options))

    def test_values(self):
        """A call each, with the line's key and headers, and the bar in bytes."""
        out, err = self.run_it(value=["a", "bc"], record_key="k", header=[("h", b"1")])
        fields = {"key": b"k", "headers": (("h", b"1"),), "timestamp": None}
        self.assertEqual(self.log.asked, [("append", b"a", fields), ("append", b"bc", fields), "closed"])
        self.assertEqual(out, "appended 2 records (3 B), offsets 11 to 12, in 2.000 s (2 B/s)\n")
        self.assertEqual((err, self.bars[0].made), ("", (3, "B", "appending")))

    def test_values_that_fail(self):
        """What is durable is told, and nothing is reported."""
        self.log.error, self.log.fails_at = OutcomeUnknownError("?"), 1
        args = SimpleNamespace(
            value=["a", "b", "c"], dir=None, file=None, format="lines", codec="none", batch=None, rate=None,
            record_key=None, header=[], json=False,
        )  # fmt: skip
        streams = self.said(lambda: self.assertRaises(OutcomeUnknownError, produce.run, args))
        text = "1 record acknowledged as durable, the last at offset 11; those sent after may or may not"
        self.assertEqual(streams[0], "")
        self.assertIn(text, streams[1])
        self.assertEqual(len(self.log.asked), 3)

    def test_files(self):
        """The files' bytes are the bar's total; each record is counted when its answer is there."""
        with open("a", "wb") as first, open("b", "wb") as second:
            first.write(b"1\n22\n333\n")
            second.write(b"4444")
        out, _ = self.run_it(file=["a", "b"], codec="zstd", batch=99)
        told = {"batch_bytes": 99, "buffer_bytes": produce.BUFFER_SIZE, "compression": "zstd"}
        self.assertEqual(self.log.asked, [("producer", told), "closed"])
        self.assertEqual((self.bars[0].made, self.bars[0].steps), ((13, "B", "appending"), [1, 2, 3, 4]))
        self.assertEqual(out, "appended 4 records (10 B), offsets 0 to 3, in 4.000 s (2 B/s)\n")

    def test_batches_that_fail(self):
        """What was acknowledged before a failure counts."""
        totals = produce.AppendTotals()
        self.log.error, self.log.fails_at = UnavailableError("no"), 2
        steps = []
        records = [NewRecord(b"x" * size) for size in (1, 2, 3, 4, 5, 6)]
        self.assertRaises(
            UnavailableError, produce.append, self.log, records, totals, 5, "none", steps.append
        )
        self.assertEqual((totals.record_count, totals.size, totals.last_offset, steps), (2, 3, 1, [1, 2]))
        self.assertEqual((totals.ranges, totals.seconds), ([range(2)], 5.0))

    def test_ranges(self):
        """Offsets that follow each other are a range."""
        totals = produce.AppendTotals()
        for offset in (4, 5, 6, 9, 10, 2):
            totals.note(offset, 3)
        self.assertEqual(totals.ranges, [range(4, 7), range(9, 11), range(2, 3)])
        self.assertEqual(
            (totals.record_count, totals.size, totals.first_offset, totals.last_offset), (6, 18, 4, 2)
        )

    def test_contradictions(self):
        """What does not go with --value."""
        for options, text in (
            ({"format": "json"}, "--value and --format json do not go together"),
            ({"codec": "zstd"}, "--codec is for batches; each --value is appended by itself"),
            ({"batch": 7}, "--batch is for batches; each --value is appended by itself"),
        ):
            error = self.assertRaises(CommandError, self.run_it, value=["a"], **options)
            self.assertEqual((str(error), error.exit_code), (text, ExitCode.USAGE))


class DemoTests(SaidCase):
    """`demo` with one node."""

    def test_one(self):
        """It takes the file and gives it back; the figures are those of the trip."""
        said = []
        node = SimpleNamespace(name="node-1", listen="127.0.0.1:1", log_path=self.folder / "n.log")
        cast = SimpleNamespace(nodes=[node], start_all=lambda: said.append("started"))
        trips = []
        self.patch(demo, "trip", lambda *given: trips.append(given) or ("appended", 2.0))
        self.patch(demo, "figures", lambda *given: given)
        self.assertEqual(demo._show_one(cast, "path", said.append), ("appended", 2.0))
        self.assertEqual(trips, [(cast, node, "path", [node], said.append)])
        self.assertEqual(said[0], "started")
        self.assertTrue(said[1].startswith("node node-1 serves gRPC on 127.0.0.1:1 (its diagnostics: "))
