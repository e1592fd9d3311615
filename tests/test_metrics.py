"""Tests of the seam between what a node counts and who exports it."""

import ast
import re
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from loghouse.http.counters import Counters
from loghouse.http.metric_table import TABLE
from loghouse.metrics import NO_METRICS, Metrics
from tests.recording import RecordingMetrics, events_of
from tests.sources import tree_of

ROOT = Path(__file__).resolve().parent.parent / "loghouse"


class MetricsTests(SynchronousTestCase):
    """Events, their names, and who tells of them."""

    def test_every_event_is_told(self):
        """The product tells of every event that there is, and an exporter finds each by its own name."""
        called = {
            node.func.attr
            for path in ROOT.rglob("*.py")
            for node in ast.walk(tree_of(path))
            if isinstance(node, ast.Call)
            and isinstance(node.func, ast.Attribute)
            and getattr(node.func.value, "attr", "") == "_metrics"
        }
        self.assertEqual(called, set(events_of(Metrics)))
        names = re.findall(r"`(loghouse_\w+)", "".join(getattr(Metrics, one).__doc__ for one in called))
        self.assertEqual(len(set(names)), len(called))

    def test_names_follow_prometheus(self):
        """A counter's name ends in `_total`, and its labels are arguments of the event."""
        for name in events_of(Metrics):
            event = getattr(Metrics, name)
            [(metric, labels)] = re.findall(r"`(loghouse_\w+)(?:\{(\w+)\})?`", event.__doc__)
            self.assertTrue(metric.endswith("_total"), metric)
            if labels:
                self.assertIn(labels, event.__code__.co_varnames)
            self.assertEqual(TABLE[metric].labels, (labels,) if labels else (), metric)
            counters = Counters()
            getattr(counters, name)(*[1] * (event.__code__.co_argcount - 1))
            self.assertEqual([count for _, count in counters.of(metric)], [1], name)

    def test_nothing_is_counted_by_default(self):
        """Without an exporter an event does nothing, and there is nothing to hold what it tells."""
        for name in events_of(Metrics):
            count = getattr(Metrics, name).__code__.co_argcount - 1
            self.assertIsNone(getattr(NO_METRICS, name)(*["x"] * count))
        self.assertFalse(hasattr(NO_METRICS, "__dict__"))

    def test_recording(self):
        """The tests' own `Metrics` keep what they are told, and refuse what no event takes."""
        metrics = RecordingMetrics()
        metrics.raft_message_refused("older term")
        metrics.raft_message_refused("older term")
        metrics.frames_dropped("b", 3)
        self.assertEqual(metrics.counts("raft_message_refused"), {"older term": 2})
        self.assertEqual(
            (metrics.count("frames_dropped", "b"), metrics.last("frames_dropped")), (1, ("b", 3))
        )
        self.assertRaises(TypeError, metrics.frames_dropped, "b")
