"""How commands connect: with which options and for how long; and what they say of a cluster."""

import json
import os
from types import SimpleNamespace

from loghouse.cli import cluster, servers, target
from loghouse.cli.output import ExitCode
from loghouse.cli.watching import WATCH_SECONDS
from loghouse.errors import DeadlineError, OutcomeUnknownError, UnavailableError
from tests.cli.test_commands import Log
from tests.cli.test_edges import SaidCase


class TargetTests(SaidCase):
    """How commands connect."""

    def setUp(self):
        super().setUp()
        self.made = []
        self.error = None
        case = self

        class Client:
            def servers(self, *, timeout_seconds):
                case.made.append(("servers", timeout_seconds))
                if case.error is not None:
                    raise case.error

            def close(self):
                case.made.append("closed")

        def connect(where, **options):
            self.made.append((where, options))
            return Client()

        self.patch(target, "connect_blocking", connect)
        self.patch(target, "connect_asyncio", connect)
        self.args = SimpleNamespace(
            server="h1:1,h2:2", cluster=None, config=None, plaintext=True, ca=None, cert=None, key=None,
            timeout=10.0, direct=False, transport="grpc", log="orders",
        )  # fmt: skip

    OPTIONS = {
        "tls": None, "log": "orders", "timeout_seconds": 10.0, "is_direct": False, "transport": "grpc",
        "cluster": "",
    }  # fmt: skip

    def test_options(self):
        """Every option reaches the client; a node is looked for at most three seconds."""
        for timeout, patience in ((10.0, 3.0), (0.5, 0.5), (3.5, 3.0)):
            self.made.clear()
            self.args.timeout = timeout
            target.connect(self.args)
            options = {**self.OPTIONS, "timeout_seconds": timeout}
            self.assertEqual(self.made, [("h1:1,h2:2", options), ("servers", patience)])

    def test_direct(self):
        """Other nodes are let alone when the command says so, or the line; asyncio's client is the same."""
        for by_command, by_line, expected in (
            (True, False, True), (False, True, True), (False, False, False), (True, True, True),
        ):  # fmt: skip
            self.made.clear()
            self.args.direct = by_line
            target.connect(self.args, is_direct=by_command)
            self.assertEqual(self.made[0][1]["is_direct"], expected)
        for by_line in (False, True):
            self.made.clear()
            self.args.direct = by_line
            target.connect_async(self.args)
            self.assertEqual(self.made, [("h1:1,h2:2", {**self.OPTIONS, "is_direct": by_line})])

    def test_nobody_answers(self):
        """The client is closed again."""
        self.error = DeadlineError("no")
        self.assertRaises(DeadlineError, target.connect, self.args)
        self.assertEqual(self.made[-1], "closed")

    def test_cluster(self):
        """The line's cluster, the environment's, the file's, none."""
        self.addCleanup(os.environ.pop, "LOGHOUSE_CLUSTER", None)
        settings = SimpleNamespace(cluster="file")
        for line, environment, file, expected in (
            ("line", "env", settings, "line"),
            (None, "env", settings, "env"),
            (None, None, settings, "file"),
            (None, None, None, ""),
        ):
            os.environ.pop("LOGHOUSE_CLUSTER", None)
            if environment:
                os.environ["LOGHOUSE_CLUSTER"] = environment
            self.args.cluster = line
            self.assertEqual(target._cluster(self.args, file), expected)


class StatusTests(SaidCase):
    """`cluster status` and `servers`."""

    def setUp(self):
        super().setUp()
        self.made = []
        self.answers = []
        case = self

        class Client(Log):
            def status(self):
                case.made.append("status")
                answer = case.answers.pop(0)
                if isinstance(answer, Exception):
                    raise answer
                return answer

            def servers(self):
                return case.answers.pop(0)

        def connect(args, *, is_direct=False):
            self.made.append(is_direct)
            return Client()

        self.patch(cluster, "connect", connect)
        self.patch(servers, "connect", connect)
        self.patch(
            cluster,
            "show",
            lambda status, as_json, log, *, copies: cluster.write_line(f"{status} {as_json}{log}{copies}"),
        )
        self.patch(cluster, "_copies", lambda status, args: "")
        self.patch(cluster, "can_append", lambda status: status == "good")

    def test_once(self):
        """The node that was named is asked, and no other; its answer is the exit code, too."""
        for status, code in (("good", ExitCode.OK), ("bad", ExitCode.UNAVAILABLE)):
            for as_json in (False, True):
                self.made.clear()
                self.answers = [status]
                codes = []
                args = SimpleNamespace(watch=False, json=as_json, log="")
                out, _ = self.said(lambda args=args, codes=codes: codes.append(cluster.run_status(args)))
                self.assertEqual((codes, out), ([code], f"{status} {as_json}\n"))
                self.assertEqual(self.made, [True, "status"])

    def test_watch(self):
        """Again each second until nobody looks; a node that is away is complained of, and no end."""
        self.answers = ["good", UnavailableError("away"), OutcomeUnknownError("?"), "bad"]
        waits = []

        class Gone:
            def set(self):
                pass

            def wait(self, seconds):
                waits.append(seconds)
                return len(waits) == 4

        self.patch(cluster, "threading", SimpleNamespace(Event=Gone))
        self.patch(cluster, "watch_reader", lambda on_gone: None)
        codes = []
        args = SimpleNamespace(watch=True, json=False, log=" orders")
        out, err = self.said(lambda: codes.append(cluster.run_status(args)))
        self.assertEqual((codes, out), ([None], "good False orders\n\nbad False orders\n\n"))
        self.assertEqual(err, "loghouse cluster: away\nloghouse cluster: ?\n")
        self.assertEqual(waits, [WATCH_SECONDS] * 4)

    def test_servers(self):
        """Every node with all that is known of it; what is not is a dash."""
        nodes = [
            SimpleNamespace(
                name="n1", address="h:1", grpc_address="h:2", is_leader=True, role="voter", is_alive=True
            ),
            SimpleNamespace(
                name="n2", address="h:3", grpc_address="", is_leader=False, role="", is_alive=False
            ),
        ]
        view = SimpleNamespace(cluster_uuid=b"\x01" * 16, cluster_name="c1", servers=nodes)
        self.answers = [view]
        out, _ = self.said(servers.run, SimpleNamespace(json=False))
        uuid = "01" * 16
        self.assertEqual(
            out,
            f"cluster c1 ({uuid})\n"
            "NODE  ADDRESS  GRPC  ROLE   LEADS   STATE\n"
            "n1    h:1      h:2   voter  leader  alive\n"
            "n2    h:3      -     -              not alive\n",
        )
        self.answers = [view]
        out, _ = self.said(servers.run, SimpleNamespace(json=True))
        told = [{"id": one.name, **{k: v for k, v in vars(one).items() if k != "name"}} for one in nodes]
        self.assertEqual(json.loads(out), {"cluster": "c1", "cluster_uuid": uuid, "servers": told})
        self.assertEqual(self.made, [False, False])
