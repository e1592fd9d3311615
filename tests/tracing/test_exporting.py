"""Where a node's spans go, and what `tracing: true` makes of a node."""

import threading
from types import SimpleNamespace
from unittest import mock

from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from twisted.trial.unittest import SynchronousTestCase

from loghouse.api.log_service import LogService
from loghouse.errors import ConfigError
from loghouse.net.appending import Appender, Appends
from loghouse.net.traced_appends import TracedAppends
from loghouse.node.forwarding import Forwarder
from loghouse.protocol.client_messages import Produce
from loghouse.protocol.trace_messages import RequestTrace
from loghouse.replica.coalescing import Coalescer
from loghouse.replica.driver import RaftDriver
from loghouse.replica.tracing import TracedDriver
from loghouse.service import node_service
from loghouse.tracing import exporting
from loghouse.tracing.exporting import Export
from loghouse.tracing.spans import end
from tests.driver.town import TownTestCase
from tests.service.case import ServiceCase
from tests.tracing.spans import SAMPLED


def points(**exporters):
    """Installed exporters, by name."""
    found = [SimpleNamespace(name=name, load=lambda make=make: make) for name, make in exporters.items()]
    return mock.patch.object(exporting, "entry_points", return_value=found)


def export(**environment):
    return Export(node="n1", cluster="c1", environment=environment)


class ExportTests(SynchronousTestCase):
    """OpenTelemetry's variables say where."""

    def sent(self, made):
        """What a node has sent: the names of its spans, and whose they are."""
        end(made.tracer.received("serve append", SAMPLED, ""))
        made.stop()
        return made._provider.resource.attributes

    def test_by_name(self):
        """The exporter of that name gets what ended, at the latest at the stop, with the node's name."""
        kept = InMemorySpanExporter()
        with points(kept=lambda: kept):
            made = export(OTEL_TRACES_EXPORTER="kept")
        made.start()
        told = self.sent(made)
        self.assertEqual([span.name for span in kept.get_finished_spans()], ["serve append"])
        names = [told[f"service.{key}"] for key in ("name", "namespace", "instance.id")]
        self.assertEqual(names, ["loghouse", "c1", "n1"])

    def test_service_name(self):
        """The environment may say the service's name."""
        told = self.sent(export(OTEL_TRACES_EXPORTER="none", OTEL_SERVICE_NAME="orders"))
        self.assertEqual(told["service.name"], "orders")

    def test_none(self):
        """`none` makes spans, and sends none."""
        made = export(OTEL_TRACES_EXPORTER="none")
        made.start()
        self.sent(made)

    def test_nobody_takes_them(self):
        """A stop does not wait longer than it may for a collector that does not answer."""
        answers = threading.Event()
        self.addCleanup(answers.set)
        made = export(OTEL_TRACES_EXPORTER="none")
        self.patch(made._provider, "shutdown", answers.wait)
        self.patch(exporting, "STOP_SECONDS_MAX", 0.0)
        made.stop()
        self.assertFalse(answers.is_set())

    def test_otlp(self):
        """Without a name it is OTLP over gRPC, or what the protocol's variables say."""
        with points(otlp_proto_grpc="grpc", otlp_proto_http="http"):
            for variables, expected in (
                ({}, "grpc"),
                ({"OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf"}, "http"),
                ({"OTEL_EXPORTER_OTLP_TRACES_PROTOCOL": "http/protobuf"}, "http"),
            ):
                self.assertEqual(export(**variables)._make_exporter, expected)

    def test_not_installed(self):
        """What is not installed is named, with what is."""
        with points(console=None):
            error = self.assertRaises(ConfigError, export, OTEL_TRACES_EXPORTER="kafka")
        self.assertEqual(
            list(error.problems),
            ["tracing: no exporter 'kafka' is installed (OTEL_TRACES_EXPORTER); there are: console, none"],
        )


class ServiceTests(ServiceCase):
    """`tracing` in node.yaml."""

    def kept(self):
        """Let the node's spans stay here."""
        exporter = InMemorySpanExporter()
        self.patch(exporting, "_exporter_of", lambda environment: lambda: exporter)
        return exporter

    async def test_on(self):
        """A node with it makes spans of what comes over the binary protocol, and sends them when it stops."""
        kept = self.kept()
        service = self.start("tracing: true")
        await self.lead(service)
        connection = await self.connect()
        connection._session.trace_next(RequestTrace(traceparent=SAMPLED))
        answer = connection.produce(b"\n\x03\n\x01a", record_count=1)
        self.assertEqual((await answer).base_offset, 0)
        await service.stopService()
        names = {span.name for span in kept.get_finished_spans()}
        self.assertEqual(names, {"serve append", "replicate", "sync", "commit"})

    async def test_reload(self):
        """A node whose settings were read again traces on: logs that come later, too."""
        self.kept()
        service = self.start("tracing: true")
        await self.lead(service)
        tracer = service.node.options.tracer
        await service.reload("root")
        self.assertIsNotNone(tracer)
        self.assertIs(service.node.options.tracer, tracer)

    def test_off(self):
        """Without it nothing of tracing is in a node."""
        service = self.make()
        self.assertIsNone(service._export)
        self.assertIsNone(service.node.options.tracer)

    def test_not_installed(self):
        """Without OpenTelemetry the node does not start, and says what to install."""
        with mock.patch.dict("sys.modules", {"loghouse.tracing.exporting": None}):
            error = self.assertRaises(ConfigError, self.make, "tracing: true")
        self.assertIn("pip install 'loghouse[otel]'", error.problems[0])
        self.assertIs(node_service.ConfigError, ConfigError)


class OffTests(TownTestCase):
    """A node that traces nothing is made of the same parts as ever."""

    def test_parts(self):
        """None of them is a traced one, and none looks for a trace."""
        _, leader, *_ = self.led()
        self.assertIs(type(leader.driver), RaftDriver)
        self.assertIs(type(leader.node.forwarder), Forwarder)
        self.assertEqual((Appender.coalescer_class, LogService.coalescer_class), (Coalescer, Coalescer))

    def test_a_trace_that_comes(self):
        """What a session is told of a trace is dropped."""
        appends = Appends.__new__(Appends)
        self.assertIsNone(appends.trace(RequestTrace(traceparent=SAMPLED)))
        self.assertTrue(issubclass(TracedAppends, Appends) and issubclass(TracedDriver, RaftDriver))
        self.assertNotIn("trace", Produce.__slots__)
