"""Three real nodes with the console, some logs, and pages of a browser that look at them."""

import json
import os
import shutil
import tempfile
import threading
import time
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from loghouse.api.v1 import log_pb2, log_pb2_grpc
from loghouse.testing.cluster_process import ClusterProcess
from loghouse.testing.patience import patiently
from loghouse.testing.process import free_port
from tests.console.browser import LOST, NO_BROWSER, NOT_NOW, chromium

LOGS = ("orders", "payments", "clicks", "audit-trail", "invoices")
SCRIPT = "<script>document.title = 'owned'</script><img src=x onerror=\"document.title = 'owned'\">"
SHOTS = os.environ.get("LOGHOUSE_SCREENSHOTS", "")
MILLISECONDS = 30_000


class ConsoleCluster(ClusterProcess):
    """Three nodes; `console` is the address of one's page."""

    def __init__(self, folder):
        self.ports = {}
        super().__init__(folder, is_forked=True)

    def _make(self, number):
        port = self.ports[f"node-{number}"] = free_port()
        self.settings = f"http_listen: 127.0.0.1:{port}\nhttp: {{loopback_subject: root}}\n"
        return super()._make(number)

    def console(self, node):
        return f"http://127.0.0.1:{self.ports[node.name]}/"

    def create_logs(self):
        with self.nodes[0].channel() as channel:
            stub = log_pb2_grpc.LogsStub(channel)
            for number, name in enumerate(LOGS):
                settings = log_pb2.LogSettings(
                    replicas=3, retention_seconds=604800 * (number % 2), tags=["billing"] * (number % 2)
                )
                request = log_pb2.CreateLogRequest(name=name, settings=settings)
                patiently(lambda request=request: stub.Create(request, timeout=30), is_repeatable=True)

    def append(self, node, log, records):
        batch = log_pb2.RecordBatch(records=records).SerializeToString()
        request = log_pb2.ProduceBatchRequest(batch=batch, record_count=len(records), log=log)
        with self.stub(node) as stub:
            return patiently(lambda: stub.ProduceBatch(request, timeout=30))

    def next_offset(self, log):
        with self.stub(self.nodes[0]) as stub:
            request = log_pb2.BoundsRequest(log=log)
            return patiently(lambda: stub.Bounds(request, timeout=30), is_repeatable=True).next


def orders(first, count):
    """Records as a shop would write them."""
    return [
        log_pb2.Record(
            key=f"customer-{number % 97}".encode(),
            value=json.dumps({"order": number, "total": number * 37 % 9000 / 100}).encode(),
            headers=[log_pb2.Header(key="source", value=b"shop")],
        )
        for number in range(first, first + count)
    ]


class Writer:
    """Appends batches to a log, so many records a second, until it is stopped."""

    def __init__(self, cluster, node, log, per_second, count=100):
        self._cluster, self._node, self._log = cluster, node, log
        self._batch = orders(0, count)
        self._seconds = count / per_second
        self._is_stopping = threading.Event()
        self.appended = 0
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self):
        batch = log_pb2.RecordBatch(records=self._batch).SerializeToString()
        request = log_pb2.ProduceBatchRequest(batch=batch, record_count=len(self._batch), log=self._log)
        due = time.monotonic()
        with self._cluster.stub(self._node) as stub:
            while not self._is_stopping.is_set():
                try:
                    stub.ProduceBatch(request, timeout=10)
                    self.appended += len(self._batch)
                except Exception:  # the node was killed, or its leader: others go on
                    self._is_stopping.wait(0.2)
                due = max(due + self._seconds, time.monotonic() - 1)
                self._is_stopping.wait(max(0.0, due - time.monotonic()))

    def stop(self):
        self._is_stopping.set()
        self._thread.join(20)


class ConsoleCase(SynchronousTestCase):
    """A test with a cluster that the tests of its class share, and a browser of its own."""

    skip = NO_BROWSER
    cluster = None

    @classmethod
    def start_cluster(cls):
        cls.folder = Path(tempfile.mkdtemp(prefix="loghouse-console-"))
        cls.cluster = ConsoleCluster(cls.folder)
        cls.cluster.start()
        cls.cluster.wait_voters()
        cls.cluster.create_logs()
        for number, log in enumerate(("default", *LOGS)):
            cls.cluster.append(cls.cluster.nodes[0], log, orders(0, 400 + 150 * number))

    @classmethod
    def tearDownClass(cls):
        if cls.cluster is not None:
            cls.cluster.close()
            shutil.rmtree(cls.folder, ignore_errors=True)

    def setUp(self):
        if self.cluster is None:
            self.start_cluster()
        opened = chromium()
        self.browser = opened.__enter__()
        self.addCleanup(opened.__exit__, None, None, None)
        self.errors = []
        self.may_lose = False

    def tearDown(self):
        allowed = (NOT_NOW, *LOST) if self.may_lose else (NOT_NOW,)
        wrong = [text for text in self.errors if not any(one in text for one in allowed)]
        self.assertEqual(wrong, [])

    def open(self, path="", node=None, **options):
        """A page of a node's console; whatever its console complains of fails the test."""
        options.setdefault("viewport", {"width": 1280, "height": 860})
        page = self.browser.new_context(**options).new_page()
        page.set_default_timeout(MILLISECONDS)
        page.on("console", self.told)
        page.on("pageerror", lambda error: self.errors.append(str(error)))
        page.goto(self.cluster.console(node or self.cluster.nodes[0]) + path)
        return page

    def told(self, message):
        if message.type in ("error", "warning"):
            self.errors.append(f"{message.text} ({message.location.get('url', '')})")

    def wait(self, page, expression):
        """Wait until an expression of the page holds."""
        # Playwright's own wait asks by `eval`, which the page's policy forbids.
        deadline = time.monotonic() + MILLISECONDS / 1000
        while not page.evaluate(expression):
            self.assertLess(time.monotonic(), deadline, f"it never came: {expression}")
            page.wait_for_timeout(100)

    def rest(self, page, seconds):
        """Let plots fill for a picture; without pictures there is nothing to wait for."""
        if SHOTS:
            page.wait_for_timeout(1000 * seconds)

    def write(self, log="default", per_second=300, node=None, **options):
        writer = Writer(self.cluster, node or self.cluster.nodes[0], log, per_second, **options)
        self.addCleanup(writer.stop)
        return writer

    def shoot(self, page, name):
        """Keep a picture for the documents, when they are made anew."""
        if SHOTS:
            Path(SHOTS).mkdir(parents=True, exist_ok=True)
            page.screenshot(path=str(Path(SHOTS, f"console-{name}.png")))
