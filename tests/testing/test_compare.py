"""What `make compare` does with systems: by one that answers from a list, without any installed."""

import json
import os
import tempfile
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from bench.compare import plots, report
from bench.compare.peer import Peer, Servers, UnavailableError
from bench.compare.peers import all_peers
from bench.compare.runner import compare
from bench.compare.shape import SHAPES, Shape, shape_of


class FakePeer(Peer):
    """A system with given rates; `calls` notes what is asked of it and of others with the same list."""

    version, durability = "v1", "on 2 of 3"

    def __init__(self, name, rates, calls, problem=None):
        self.name, self.rates, self.calls, self.problem = name, list(rates), calls, problem

    def install(self):
        if self.problem:
            raise UnavailableError(self.problem)

    def start(self, folder, certificates):
        assert folder.is_dir()
        self.calls.append((self.name, "start"))

    def append(self, shape):
        self.calls.append((self.name, shape.name))
        rate = self.rates.pop(0)
        if rate is None:
            raise RuntimeError("the client failed")
        return {"per_second": rate, "p50_seconds": 1 / rate, "p99_seconds": 2 / rate}

    def pids(self):
        return [os.getpid()]

    def stop(self):
        self.calls.append((self.name, "stop"))


class CompareCase(SynchronousTestCase):
    """Comparisons with peers that are none."""

    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = Path(folder.name)
        self.calls = []

    def compare(self, ours, theirs, *, shapes=("1k64",), problem=None):
        peer = FakePeer("peer", theirs, self.calls, problem)
        return compare(
            FakePeer("Loghouse", ours, self.calls),
            [peer],
            [shape_of(name) for name in shapes],
            len(theirs) - 1 if len(shapes) == 1 else 1,
            self.folder,
        )

    def figures(self, **options):
        found = self.compare([1, 100, 300, 200], [1, 100, 100, 400], **options)
        return {"date": "2026-11-30", "interpreter": "CPython 3.11.7 without PGO", "rounds": 3, **found}


class RunnerTests(CompareCase):
    """Who runs when."""

    def test_turns(self):
        """After one warm round of each, ours and the peer's take turns; then all is stopped."""
        self.figures()
        ours, theirs = ("Loghouse", "1k64"), ("peer", "1k64")
        self.assertEqual(self.calls[:2], [("Loghouse", "start"), ("peer", "start")])
        self.assertEqual(self.calls[2:-2], [ours, theirs] * 4)
        self.assertEqual(self.calls[-2:], [("Loghouse", "stop"), ("peer", "stop")])

    def test_cost(self):
        """Each round has the processor time and the memory of the servers."""
        pair = self.figures()["cells"][0]["pairs"][0]
        for side in pair.values():
            self.assertGreaterEqual(side["cpu_microseconds"], 0.0)
            self.assertGreater(side["resident_mib"], 1.0)

    def test_unavailable(self):
        """A peer that cannot be had is named with the reason, and nothing is started for it."""
        found = self.compare([], [1, 1], problem="peer: there is no Go here to build it")
        self.assertEqual(found, {"cells": [], "unavailable": ["peer: there is no Go here to build it"]})
        self.assertEqual(self.calls, [])

    def test_failure(self):
        """When a client fails, both systems are stopped, and the failure is told."""
        self.assertRaises(RuntimeError, self.compare, [1, 1], [None, 1])
        self.assertEqual(self.calls[-2:], [("Loghouse", "stop"), ("peer", "stop")])

    def test_servers(self):
        """Servers are ended together, also one that does not listen to the first word."""
        servers = Servers()
        for command in (["sleep", "60"], ["sleep", "61"]):
            servers.start(command, self.folder / "out")
        self.assertEqual(len(servers.pids), 2)
        pids = servers.pids
        servers.stop()
        self.assertEqual(servers.pids, [])
        for pid in pids:
            self.assertRaises(ProcessLookupError, os.kill, pid, 0)


class ShapeTests(SynchronousTestCase):
    """Names of shapes."""

    def test_names(self):
        """A name and its shape are one another's; what is none is refused with how to write one."""
        self.assertEqual(shape_of("64k16"), Shape(65536, 16))
        self.assertEqual(shape_of("100b1"), Shape(100, 1))
        self.assertEqual([shape_of(shape.name) for shape in SHAPES], list(SHAPES))
        for name in ("", "1k", "k64", "0k1", "1k0", "1m4"):
            with self.assertRaisesRegex(ValueError, "as in 1k64"):
                shape_of(name)

    def test_counts(self):
        """No round appends more than 64 MiB, or so little that its p99 is one record."""
        for shape in SHAPES:
            self.assertLessEqual(shape.size * shape.count, 64 << 20)
            self.assertGreaterEqual(shape.count, 200)


class ReportTests(CompareCase):
    """What is said about the figures."""

    def test_medians(self):
        """Ratios are of pairs, not of medians; p99 the same."""
        figures = self.figures()
        (cell,) = figures["cells"]
        self.assertEqual(report.medians(cell, "per_second"), (200, 100))
        self.assertEqual(report.ratios(cell, "per_second"), (1.0, 0.5, 3.0))
        (row,) = report.rows(figures)
        self.assertEqual(row[:5], ("peer v1", "1 KiB x 64", "200", "100", "1.00 (0.50 to 3.00)"))

    def test_text(self):
        """The table for a terminal has a line for each cell, and one for each peer that is missing."""
        figures = {**self.figures(), "unavailable": ["Kafka: no Java"]}
        lines = report.text(figures).splitlines()
        self.assertEqual(len(lines), 3)
        self.assertEqual(lines[-1], "Not compared: Kafka: no Java")

    def test_document(self):
        """The section between the markers is replaced, as often as one likes, and nothing else."""
        section = report.markdown(self.figures(), ["images/compare-p99-size.svg"])
        document = f"before\n{report.BEGIN}\nold\n{report.END}\nafter\n"
        made = report.replaced(document, section)
        self.assertEqual(report.replaced(made, section), made)
        self.assertTrue(made.startswith("before\n") and made.endswith("\nafter\n"))
        self.assertNotIn("old", made)
        for part in ("| peer v1 | 1 KiB x 64 |", "without PGO", "on 2 of 3", "(images/compare-p99-size.svg)"):
            self.assertIn(part, made)

    def test_no_markers(self):
        """A document without markers is left alone, with an error that names them."""
        with self.assertRaisesRegex(ValueError, "make compare"):
            report.replaced("a document", "section")

    def test_place(self):
        """docs/performance.md has the place."""
        document = Path(report.__file__).parents[2] / "docs/performance.md"
        self.assertIn("anew", report.replaced(document.read_text(), "anew\n"))

    def test_lines(self):
        """A plot has a line for each system, along the records in flight or their size."""
        figures = self.compare([1, 8, 1, 9, 1, 7], [1, 4, 1, 3, 1, 2], shapes=["1k64", "1k16", "64k16"])
        json.dumps(figures)
        self.assertEqual(
            plots.lines(figures, "per_second", "window"),
            {"Loghouse": [(16.0, 9.0), (64.0, 8.0)], "peer": [(16.0, 3.0), (64.0, 4.0)]},
        )
        self.assertEqual(
            plots.lines(figures, "per_second", "size"),
            {"Loghouse": [(1024.0, 9.0), (65536.0, 7.0)], "peer": [(1024.0, 3.0), (65536.0, 2.0)]},
        )

    def test_dressed(self):
        """A drawing gets words and colours for dark pages in its root, and loses what nobody sees."""
        unseen = "<metadata>m</metadata>\n <!-- a\n -->"
        drawing = f'<?xml version="1.0"?>\n<svg width="1">\n {unseen}\n <a d="M 1.23456"/>\n</svg>\n'
        made = plots.dressed(drawing, "p99", "of both")
        self.assertIn('<svg width="1">\n<title>p99</title><desc>of both</desc><style>@media', made)
        self.assertTrue(made.endswith('</style>\n<a d="M 1.2"/>\n</svg>\n'))
        self.assertNotIn("metadata", made)


class PeerTests(SynchronousTestCase):
    """The systems that have a name."""

    def test_not_yet(self):
        """A system that is not started yet says so when it is asked for."""
        with self.assertRaisesRegex(UnavailableError, "Kafka: "):
            all_peers()["kafka"].install()
