"""Clients of the Go original, made from its own log.proto alone, against a cluster of real nodes.

The same scenario in Go (`go/`, grpc-go, as the original's own clients) and in Python (`python/`). Both are
programs of their own, which write what they see as JSON lines; here it is judged. The generated code is
committed: so the tests need no protoc, and the stubs are those that somebody made long ago. The Go one is
skipped where Go or its modules cannot be had; the Python one always runs.
"""

import atexit
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import grpc
from google.protobuf import descriptor_pb2
from twisted.trial.unittest import SkipTest, SynchronousTestCase

from loghouse.api.v1 import log_pb2
from loghouse.testing.cluster_process import ClusterProcess
from tests.cluster.case import SETTINGS
from tests.processes import SKIP, long

HERE = Path(__file__).resolve().parent
PROGRAM_SECONDS = 150
BUILD_SECONDS = 280  # grpc-go and its half of Go's own library, compiled for the first time
STREAM_LENGTH = 100  # as both programs have it
AFTER_KILL = 50

# The original's messages: field -> (number, type). Its own, not ours: what breaks here breaks its clients.
ORIGINAL = {
    "Record": {
        "value": (1, "bytes"),
        "offset": (2, "uint64"),
        "term": (3, "uint64"),
        "type": (4, "uint32"),
    },
    "ProduceRequest": {"record": (1, ".log.v1.Record")},
    "ProduceResponse": {"offset": (1, "uint64")},
    "ConsumeRequest": {"offset": (1, "uint64")},
    "ConsumeResponse": {"record": (1, ".log.v1.Record")},
    "GetServersRequest": {},
    "GetServersResponse": {"servers": (1, "repeated .log.v1.Server")},
    "Server": {"id": (1, "string"), "rpc_addr": (2, "string"), "is_leader": (3, "bool")},
}
# Call -> (request, response).
CALLS = {
    "Produce": ("ProduceRequest", "ProduceResponse"),
    "Consume": ("ConsumeRequest", "ConsumeResponse"),
    "ConsumeStream": ("ConsumeRequest", "stream ConsumeResponse"),
    "ProduceStream": ("stream ProduceRequest", "stream ProduceResponse"),
    "GetServers": ("GetServersRequest", "GetServersResponse"),
}


def messages_of(file):
    """{message: {field: (number, type)}} of a FileDescriptorProto."""
    names = {number: name for name, number in descriptor_pb2.FieldDescriptorProto.Type.items()}
    found = {}
    for message in file.message_type:
        fields = found[message.name] = {}
        for field in message.field:
            kind = field.type_name or names[field.type].removeprefix("TYPE_").lower()
            is_repeated = field.label == descriptor_pb2.FieldDescriptorProto.LABEL_REPEATED
            fields[field.name] = (field.number, f"repeated {kind}" if is_repeated else kind)
    return found


def calls_of(file, service):
    """{call: (request, response)} of a service in a FileDescriptorProto."""
    (found,) = [one for one in file.service if one.name == service]
    return {
        call.name: (
            "stream " * call.client_streaming + call.input_type.removeprefix(".log.v1."),
            "stream " * call.server_streaming + call.output_type.removeprefix(".log.v1."),
        )
        for call in found.method
    }


def python_program(*arguments):
    return [sys.executable, str(HERE / "python" / "client.py"), *arguments]


class ContractTests(SynchronousTestCase):
    """What the original's clients rely on is in our own API, to the number."""

    def test_ours_has_every_number_of_the_original(self):
        """Each message, field and call of the original is in our log.proto, with its number and type."""
        file = descriptor_pb2.FileDescriptorProto()
        log_pb2.DESCRIPTOR.CopyToProto(file)
        self.assertEqual(file.package, "log.v1")
        ours = messages_of(file)
        for message, fields in ORIGINAL.items():
            self.assertLessEqual(fields.items(), ours[message].items(), message)
        self.assertLessEqual(CALLS.items(), calls_of(file, "Log").items())

    def test_stubs_are_the_originals_alone(self):
        """The committed Python stubs know exactly the original's messages and calls, and none of ours."""
        described = subprocess.run(python_program("--descriptor"), capture_output=True, check=True).stdout
        file = descriptor_pb2.FileDescriptorProto.FromString(described)
        self.assertEqual(file.package, "log.v1")
        self.assertEqual(messages_of(file), ORIGINAL)
        self.assertEqual(calls_of(file, "Log"), CALLS)


_cluster: list[ClusterProcess] = []


def shared_cluster() -> ClusterProcess:
    """The three nodes that the programs of this file share."""
    if not _cluster:
        folder = Path(tempfile.mkdtemp(prefix="loghouse-compat-"))
        cluster = ClusterProcess(folder, settings=SETTINGS, is_forked=True)
        _cluster.append(cluster)
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
        atexit.register(cluster.close)
        cluster.start()
        cluster.wait_voters()
    return _cluster[-1]


class Program:
    """A running client: its steps as they come, and the last word."""

    def __init__(self, command, folder):
        self.errors = folder / "stderr"
        with open(self.errors, "wb") as errors:
            self.process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                env={name: value for name, value in os.environ.items() if name != "PYTHONPATH"},
            )
        self._deadline = threading.Timer(PROGRAM_SECONDS, self.process.kill)
        self._deadline.start()

    def steps(self):
        """Yield the facts of each step until the program ends."""
        for line in self.process.stdout:
            yield json.loads(line)
        if self.process.wait() != 0:
            text = self.errors.read_text()
            raise AssertionError(f"the client ended with {self.process.returncode}:\n{text}")

    def say(self, line):
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()

    def close(self):
        self._deadline.cancel()
        self.process.kill()
        self.process.wait()
        self.process.stdin.close()
        self.process.stdout.close()


class OriginalClientTests(SynchronousTestCase):
    """Every call of the original, by its own stubs, with TLS both ways, and a leader that dies meanwhile."""

    skip = SKIP

    def setUp(self):
        self.folder = Path(self.mktemp()).absolute()
        self.folder.mkdir(parents=True)

    def test_python(self):
        """Stock grpcio with stubs of the original's log.proto."""
        self.run_client("python", python_program())

    @long
    def test_go(self):
        """Stock grpc-go with stubs of the original's log.proto, its resolver and its picker."""
        binary = self.build()
        described = subprocess.run([binary, "-descriptor"], capture_output=True, check=True).stdout
        file = descriptor_pb2.FileDescriptorProto.FromString(described)
        self.assertEqual((messages_of(file), calls_of(file, "Log")), (ORIGINAL, CALLS))
        steps = self.run_client("go", [str(binary)])
        (balanced,) = steps["balanced"]
        leader = balanced["leader"]
        self.assertEqual(set(balanced["produced"]), {leader}, "produce goes to the leader")
        self.assertNotIn(leader, balanced["consumed"], "consume goes to the followers")
        self.assertEqual(len(set(balanced["consumed"])), 2, "to both of them")

    def build(self):
        """Compile the Go program, or skip: then the text says what is missing."""
        go = shutil.which("go")
        if go is None:
            raise SkipTest("go is not installed; the same calls are tested with Python stubs")
        environment = {**os.environ, "GOFLAGS": "-mod=readonly", "GOTOOLCHAIN": "local"}
        options = {"cwd": HERE / "go", "env": environment, "capture_output": True, "text": True}
        try:
            modules = subprocess.run([go, "mod", "download"], timeout=BUILD_SECONDS / 4, **options)
        except subprocess.TimeoutExpired:
            raise SkipTest(
                "`go mod download` takes too long: the modules of grpc-go are not at hand"
            ) from None
        if modules.returncode:
            raise SkipTest(f"the modules of grpc-go cannot be had: {modules.stderr.strip()[-300:]}")
        binary = self.folder / "client"
        built = subprocess.run([go, "build", "-o", binary, "."], timeout=BUILD_SECONDS, **options)
        self.assertEqual(built.returncode, 0, built.stderr)
        return binary

    # --- the scenario ---------------------------------------------------------------------

    def run_client(self, name, command):
        """Run a client to its end, kill the leader when it asks for that, and judge all it saw."""
        cluster = shared_cluster()
        for node in cluster.nodes:
            if not node.is_running:
                node.start()
        cluster.wait_leader()
        self.addresses = [node.address for node in cluster.nodes]
        addresses = ",".join(self.addresses)
        certs = cluster.certificates.folder
        program = Program(
            [*command, "--addresses", addresses, "--certs", str(certs), "--name", name], self.folder
        )
        self.addCleanup(program.close)
        steps = {}
        for step in program.steps():
            steps.setdefault(step["step"], []).append(step)
            if step["step"] == "kill":
                self.node_at(step["address"]).kill()
                program.say("killed")
        self.judge_unary(name, steps)
        self.judge_streams(name, steps)
        self.judge_refusals(steps)
        self.judge_failover(name, steps)
        self.judge_nodes(cluster, steps)
        return steps

    def node_at(self, address):
        return next(node for node in shared_cluster().nodes if node.address == address)

    def judge_unary(self, name, steps):
        told = steps["servers"][0]["of"]
        self.assertEqual(set(told), set(self.addresses))
        for address, servers in told.items():
            self.assertEqual({server["rpc_addr"] for server in servers}, set(self.addresses), address)
            self.assertEqual([server["is_leader"] for server in servers].count(True), 1, servers)
            self.assertEqual({server["id"] for server in servers}, {"node-1", "node-2", "node-3"}, address)
        offsets = steps["produce"][0]["offsets"]
        self.assertEqual(offsets, list(range(offsets[0], offsets[0] + 3)), "through any node")
        expected = [
            {"from": address, "offset": offset, "value": f"{name}/unary/{number}", "term": 7, "type": 3}
            for address in self.addresses
            for number, offset in enumerate(offsets)
        ]
        # The server's own offset; term and type as they were sent.
        self.assertEqual(steps["consume"][0]["records"], expected)

    def judge_streams(self, name, steps):
        first = steps["produce"][0]["offsets"][0]
        offsets = steps["produce_stream"][0]["offsets"]
        self.assertEqual(offsets, list(range(first + 3, first + 3 + STREAM_LENGTH)))
        values = [f"{name}/unary/{number}" for number in range(3)]
        values += [f"{name}/stream/{number}" for number in range(STREAM_LENGTH)]
        streams = steps["consume_stream"][0]["of"]
        self.assertEqual(set(streams), set(self.addresses))
        for records in streams.values():
            self.assertEqual([record["value"] for record in records], values)
            self.assertEqual([record["offset"] for record in records], [*range(first, first + len(values))])

    def judge_refusals(self, steps):
        """Codes and details as docs/clients.md tells them."""
        next_offset = steps["produce_stream"][0]["offsets"][-1] + 1
        self.assertEqual(len(steps["out_of_range"]), 3)
        for told in steps["out_of_range"]:
            self.assertEqual(told["code"], grpc.StatusCode.OUT_OF_RANGE.value[0])
            self.assertEqual(
                told["message"],
                f"offset {next_offset} is out of range; offsets held: 0 to {next_offset - 1}",
            )
            self.assertEqual(told["reason"], "OFFSET_OUT_OF_RANGE")
            self.assertEqual(
                told["metadata"],
                {"lowest": "0", "highest": str(next_offset - 1), "next": str(next_offset)},
            )
            # What the original's clients show.
            self.assertEqual(
                (told["locale"], told["localized"]),
                ("en-US", f"The requested offset is outside the log's range: {next_offset}"),
            )
        self.assertEqual(steps["empty_produce"][0]["code"], grpc.StatusCode.INVALID_ARGUMENT.value[0])
        self.assertEqual(steps["denied"][0]["code"], grpc.StatusCode.PERMISSION_DENIED.value[0])
        self.assertEqual(steps["denied"][0]["message"], "'nobody' is not permitted to produce 'default'")

    def judge_failover(self, name, steps):
        """Every consumer saw each offset once and all that was acknowledged; one had to go elsewhere."""
        (seen,) = steps["failover"]
        acked, last = seen["acked"], seen["last"]
        self.assertEqual(
            [entry["value"] for entry in acked], [f"{name}/failover/{n}" for n in range(len(acked))]
        )
        self.assertGreaterEqual(len(acked), 2 * AFTER_KILL)
        (killed,) = (step["address"] for step in steps["kill"])
        self.assertEqual(set(seen["streams"]), set(self.addresses))
        for address, stream in seen["streams"].items():
            records = [entry for entry in stream["records"] if entry["offset"] <= last]
            offsets = [entry["offset"] for entry in records]
            self.assertEqual(offsets, list(range(seen["first"], last + 1)), "each offset once, in order")
            self.assertEqual([entry for entry in acked if entry not in records], [], "acknowledged, not read")
            values = [entry["value"] for entry in records]
            twice = {value for value in values if values.count(value) > 1}
            self.assertLessEqual(twice, set(seen["retried"]), "only what was sent twice may be there twice")
            if address == killed:
                self.assertNotEqual(stream["breaks"], [], "its node died while it streamed")
            else:
                self.assertEqual(stream["breaks"], [], "followers stream on, whoever leads")
        self.assertEqual(set(seen["servers"]), set(self.addresses) - {killed})
        for servers in seen["servers"].values():
            leaders = [server["rpc_addr"] for server in servers if server["is_leader"]]
            self.assertEqual(len(leaders), 1, servers)
            self.assertNotEqual(leaders, [killed])

    def judge_nodes(self, cluster, steps):
        """The killed node comes back, and all three have the same, to the byte."""
        self.node_at(steps["kill"][0]["address"]).start()
        cluster.wait_leader()
        cluster.wait_caught_up()
        self.assertEqual(cluster.frame_problems(), [])
