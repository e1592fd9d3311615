"""A real `twistd loghouse`: real certificates, real gRPC, real files, and what can go wrong with them."""

import atexit
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, ClassVar

import grpc
from cryptography import x509
from google.rpc import error_details_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from grpc_status import rpc_status
from twisted.trial.unittest import SkipTest, SynchronousTestCase

from loghouse.api.v1 import log_pb2, log_pb2_grpc
from loghouse.auth.certificates import make_ca, make_client_certificate, make_node_certificate, write_issued
from loghouse.limits import MIB
from loghouse.protocol.batch import encode_batch
from loghouse.testing.process import Certificates, NodeProcess, wait_until
from tests.processes import SKIP, long

SMALL_SEGMENTS = "storage:\n  segment_size: 64KiB\n"


def error_details(error: grpc.RpcError) -> dict[str, str]:
    """The ErrorInfo metadata of a failed call, with its reason."""
    status = rpc_status.from_call(error)
    assert status is not None, error
    for detail in status.details:
        if detail.Is(error_details_pb2.ErrorInfo.DESCRIPTOR):
            info = error_details_pb2.ErrorInfo()
            detail.Unpack(info)
            return {"reason": info.reason, **info.metadata}
    raise AssertionError(f"no ErrorInfo in {status}")


class ProcessTestCase(SynchronousTestCase):
    """Makes certificates and nodes, and ends what it started."""

    skip = SKIP

    def setUp(self):
        self.folder = Path(self.mktemp()).absolute()
        self.certificates = Certificates(self.folder / "certs")

    def make_node(self, name: str = "node", settings: str = "") -> NodeProcess:
        node = NodeProcess(self.folder / name, self.certificates, settings=settings, is_forked=True)
        self.addCleanup(node.close)
        return node

    def started(self, **options: Any) -> NodeProcess:
        node = self.make_node(**options)
        node.start()
        return node

    def serving(self, **options: Any) -> tuple[NodeProcess, log_pb2_grpc.LogStub]:
        """Return a node that was started, and a stub of `root`."""
        node = self.started(**options)
        return node, self.stub(node)

    def stub(self, node: NodeProcess, subject: str = "root") -> log_pb2_grpc.LogStub:
        channel = node.channel(subject)
        self.addCleanup(channel.close)
        return log_pb2_grpc.LogStub(channel)

    def assertStatus(self, code: grpc.StatusCode, call, *args, **kwargs) -> grpc.RpcError:
        error = self.assertRaises(grpc.RpcError, call, *args, timeout=20, **kwargs)
        self.assertEqual(error.code(), code, error)
        return error

    def produce(self, stub, *values: bytes) -> list[int]:
        return [
            stub.Produce(log_pb2.ProduceRequest(record=log_pb2.Record(value=value)), timeout=20).offset
            for value in values
        ]

    def consume(self, stub, offset: int) -> bytes:
        return stub.Consume(log_pb2.ConsumeRequest(offset=offset), timeout=20).record.value

    def assertStopped(self, node: NodeProcess) -> None:
        """Stop the node by SIGTERM: twistd ends by that signal, after the log was closed clean."""
        self.assertEqual(node.stop(), -signal.SIGTERM)
        self.assertIn("log closed", node.output())

    def tree(self, folder: Path) -> dict[str, tuple[object, ...]]:
        """Everything below a folder but what the node wrote to us: modes, and files with bytes and times."""
        found = {}
        for path in sorted(folder.rglob("*")):
            status = path.lstat()
            content = (path.read_bytes(), status.st_mtime_ns) if path.is_file() else ()
            if path.name != "output.log":
                found[str(path.relative_to(folder))] = (status.st_mode, *content)
        return found

    def refused(self, node: NodeProcess, **options: Any) -> str:
        """Start the node, expect it to end with an exit code that is not 0, and return what it wrote."""
        (node.folder / "run").mkdir(exist_ok=True)
        node.environment["XDG_RUNTIME_DIR"] = str(node.folder / "run")
        before = self.tree(node.folder)
        node.output_path.unlink(missing_ok=True)
        node.output_path.touch()
        node.start(wait=False, **options)
        self.assertNotEqual(node.wait(), 0)
        self.assertEqual(self.tree(node.folder), before, "a refused start must touch nothing")
        output = node.output()
        self.assertNotIn("Traceback", output)
        return output

    def loghouse(self, *words: object) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "loghouse.cli.main", *map(str, words)],
            capture_output=True,
            text=True,
            timeout=60,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
            cwd=self.folder,  # no client.yaml of who runs the tests is found there
            check=False,
        )


class ServingTests(ProcessTestCase):
    """What a client sees of a healthy node."""

    def test_all_calls(self):
        """Every call works over mTLS."""
        node, stub = self.serving()
        self.assertEqual(self.produce(stub, b"a", b"b"), [0, 1])
        self.assertEqual(self.consume(stub, 1), b"b")
        batch = encode_batch([log_pb2.Record(value=b"c"), log_pb2.Record(value=b"d")])
        request = log_pb2.ProduceBatchRequest(batch=batch, record_count=2)
        self.assertEqual(stub.ProduceBatch(request).base_offset, 2)
        self.assertEqual([r.base_offset for r in stub.ProduceBatchStream(iter([request] * 3))], [4, 6, 8])
        singles = [log_pb2.ProduceRequest(record=log_pb2.Record(value=b"%d" % n)) for n in range(20)]
        self.assertEqual([r.offset for r in stub.ProduceStream(iter(singles))], list(range(10, 30)))
        stream = stub.ConsumeStream(log_pb2.ConsumeRequest(offset=28))
        self.assertEqual([next(stream).record.offset for _ in range(2)], [28, 29])
        self.produce(stub, b"new")
        self.assertEqual(next(stream).record.value, b"new", "the tail is followed")
        stream.cancel()
        bounds = stub.Bounds(log_pb2.BoundsRequest())
        self.assertEqual((bounds.lowest, bounds.next), (0, 31))
        self.assertEqual(stub.FindOffset(log_pb2.FindOffsetRequest(timestamp=1)).offset, 0)
        self.assertEqual(stub.FindOffset(log_pb2.FindOffsetRequest(timestamp=2**62)).offset, 31)
        (server,) = stub.GetServers(log_pb2.GetServersRequest()).servers
        self.assertEqual((server.id, server.rpc_addr, server.is_leader), ("node-1", node.address, True))
        producer_id = stub.RegisterProducer(log_pb2.RegisterProducerRequest()).producer_id
        request = log_pb2.ProduceRequest(
            record=log_pb2.Record(value=b"once"), producer_id=producer_id, producer_sequence=0
        )
        self.assertEqual([stub.Produce(request).offset for _ in range(3)], [31] * 3, "appended once")
        cluster = log_pb2_grpc.ClusterStub(node.channel())
        status = cluster.Status(log_pb2.StatusRequest())
        self.assertEqual((status.node, status.leader, status.lowest_offset), ("node-1", "node-1", 0))
        (member,) = status.members
        self.assertEqual((member.name, member.role, member.liveness), ("node-1", "voter", "alive"))
        self.assertEqual((member.is_leader, member.match_index), (True, status.commit_index))
        self.assertEqual(cluster.Trim(log_pb2.TrimRequest(offset=2)).lowest, 2)
        self.assertStatus(grpc.StatusCode.FAILED_PRECONDITION, cluster.Leave, log_pb2.LeaveRequest())
        self.assertStopped(node)

    def test_restart_keeps_everything(self):
        """After SIGTERM and a restart the records are there and offsets go on."""
        node = self.started(settings=SMALL_SEGMENTS)
        values = [os.urandom(5000) for _ in range(60)]
        self.assertEqual(self.produce(self.stub(node), *values), list(range(60)))
        self.assertStopped(node)
        node.start()
        stub = self.stub(node)
        self.assertEqual([self.consume(stub, offset) for offset in range(60)], values)
        self.assertEqual(self.produce(stub, b"next"), [60])

    def test_out_of_range(self):
        """Consume beyond the end is OUT_OF_RANGE with both bounds; the follower of a stream waits instead."""
        _, stub = self.serving()
        self.produce(stub, b"a", b"b")
        error = self.assertStatus(
            grpc.StatusCode.OUT_OF_RANGE, stub.Consume, log_pb2.ConsumeRequest(offset=2)
        )
        details = error_details(error)
        self.assertEqual((details["lowest"], details["highest"]), ("0", "1"))

    def test_bad_requests_append_nothing(self):
        """Missing record, false count or checksum, unknown codec name their field and append nothing."""
        _, stub = self.serving()
        batch = encode_batch([log_pb2.Record(value=b"x")])
        invalid = grpc.StatusCode.INVALID_ARGUMENT
        self.assertIn("record", self.assertStatus(invalid, stub.Produce, log_pb2.ProduceRequest()).details())
        for name, request in [
            ("record_count", log_pb2.ProduceBatchRequest(batch=batch, record_count=2)),
            ("batch_crc", log_pb2.ProduceBatchRequest(batch=batch, record_count=1, batch_crc=1)),
            ("codec", log_pb2.ProduceBatchRequest(batch=batch, record_count=1, codec=7)),
            ("batch", log_pb2.ProduceBatchRequest(batch=b"\xff\xff", record_count=1)),
        ]:
            self.assertIn(name, self.assertStatus(invalid, stub.ProduceBatch, request).details())
        large = log_pb2.Record(value=bytes(MIB + 1))
        error = self.assertStatus(invalid, stub.Produce, log_pb2.ProduceRequest(record=large))
        self.assertIn(str(MIB), error.details())
        self.assertEqual(stub.Bounds(log_pb2.BoundsRequest()).next, 0)
        self.assertEqual(self.produce(stub, b"fine"), [0])

    def test_permissions(self):
        """`nobody` may do nothing, and is told what it lacks."""
        node = self.started()
        nobody = self.stub(node, "nobody")
        request = log_pb2.ProduceRequest(record=log_pb2.Record(value=b"x"))
        error = self.assertStatus(grpc.StatusCode.PERMISSION_DENIED, nobody.Produce, request)
        for word in ("nobody", "produce", "default"):
            self.assertIn(word, error.details())
        self.assertStatus(grpc.StatusCode.PERMISSION_DENIED, nobody.GetServers, log_pb2.GetServersRequest())

    def test_certificates_required(self):
        """No certificate, a foreign CA's and an expired one are refused in the handshake."""
        node = self.started()
        ca = self.certificates.path("ca").read_bytes()
        now = datetime.now(UTC)
        foreign = make_client_certificate(make_ca("other", now=now), name="root", now=now)
        past = now - timedelta(days=900)
        expired = make_client_certificate(self.certificates.authority, name="root", now=past)
        for name, credentials in [
            ("none", grpc.ssl_channel_credentials(ca)),
            ("foreign", grpc.ssl_channel_credentials(ca, foreign.key_pem, foreign.certificate_pem)),
            ("expired", grpc.ssl_channel_credentials(ca, expired.key_pem, expired.certificate_pem)),
        ]:
            with grpc.secure_channel(node.address, credentials) as channel:
                stub = log_pb2_grpc.LogStub(channel)
                error = self.assertRaises(grpc.RpcError, stub.Bounds, log_pb2.BoundsRequest(), timeout=20)
                self.assertEqual(error.code(), grpc.StatusCode.UNAVAILABLE, name)
        self.assertEqual(self.produce(self.stub(node), b"still serving"), [0])

    def test_denied_certificate(self):
        """A certificate put on the denylist is refused at the next call, without a restart; others go on."""
        denylist = self.folder / "denylist"
        denylist.parent.mkdir(parents=True, exist_ok=True)
        denylist.touch()
        node = self.make_node()
        settings = node.config_path.read_text()
        node.config_path.write_text(settings.replace("tls:\n", f"tls:\n  denylist: {denylist}\n"))
        node.start()
        stub = self.stub(node)
        self.produce(stub, b"before")
        pem = self.certificates.path("root").read_bytes()
        denylist.write_text(f"serial:{x509.load_pem_x509_certificate(pem).serial_number:x}\n")
        os.kill(node.process.pid, signal.SIGHUP)
        wait_until(lambda: not self._answers(stub), "the certificate to be refused")
        error = self.assertRaises(grpc.RpcError, stub.Bounds, log_pb2.BoundsRequest(), timeout=20)
        self.assertIn("denylist", error.details())
        # Another certificate is judged by the policy as before.
        request = log_pb2.ProduceRequest(record=log_pb2.Record(value=b"x"))
        denied = self.assertStatus(
            grpc.StatusCode.PERMISSION_DENIED, self.stub(node, "nobody").Produce, request
        )
        self.assertIn("nobody", denied.details())

    def test_health_and_reflection(self):
        """Health says SERVING, and reflection lists the services, as grpcurl would."""
        node = self.started()
        with node.channel() as channel:
            health = health_pb2_grpc.HealthStub(channel)
            self.assertEqual(health.Check(health_pb2.HealthCheckRequest(), timeout=20).status, 1)
            reflection = reflection_pb2_grpc.ServerReflectionStub(channel)
            request = reflection_pb2.ServerReflectionRequest(list_services="")
            (reply,) = reflection.ServerReflectionInfo(iter([request]), timeout=20)
            names = {service.name for service in reply.list_services_response.service}
            self.assertLessEqual({"log.v1.Log", "grpc.health.v1.Health"}, names)

    def test_daemon(self):
        """`twistd loghouse` goes into the background, serves, and stops on SIGTERM."""
        node = self.make_node()
        pid_file = self.folder / "twistd.pid"
        twistd = Path(sys.executable).with_name("twistd")
        command = [sys.executable, twistd, f"--pidfile={pid_file}", f"--logfile={self.folder}/twistd.log"]
        subprocess.run(
            [*command, "loghouse", "--config", node.config_path],
            check=True,
            timeout=60,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        )
        pid = int(pid_file.read_text())
        self.addCleanup(lambda: pid_file.exists() and os.kill(pid, 9))
        stub = self.stub(node)
        wait_until(lambda: self._answers(stub), "the daemon to serve")
        self.assertEqual(self.produce(stub, b"x"), [0])
        os.kill(pid, 15)
        wait_until(lambda: not pid_file.exists(), "the daemon to end")

    def _answers(self, stub) -> bool:
        try:
            stub.Bounds(log_pb2.BoundsRequest(), timeout=5)
        except grpc.RpcError:
            return False
        return True


class RefusedStartTests(ProcessTestCase):
    """A node that cannot trust its directory does not start, says why, and touches nothing."""

    once_filled: ClassVar[Path | None] = None  # a data directory that a node filled and closed, for copies

    def filled(self) -> NodeProcess:
        if self.once_filled is not None:
            node = self.make_node(settings=SMALL_SEGMENTS)
            shutil.copytree(self.once_filled, node.data_dir)
            return node
        node = self.started(settings=SMALL_SEGMENTS)
        self.produce(self.stub(node), *(os.urandom(5000) for _ in range(60)))
        node.stop()
        node.output_path.unlink()
        kept = Path(tempfile.mkdtemp(prefix="loghouse-filled-"))
        atexit.register(shutil.rmtree, kept, ignore_errors=True)
        RefusedStartTests.once_filled = kept / "data"
        shutil.copytree(node.data_dir, kept / "data")
        return node

    def stores(self, node: NodeProcess) -> list[Path]:
        return sorted(node.data_dir.rglob("*.store"))

    def test_in_use(self):
        """A directory that another node holds is refused."""
        node = self.started()
        other = self.make_node("other")
        other.config_path.write_text(
            other.config_path.read_text().replace(str(other.data_dir), str(node.data_dir))
        )
        other.start(wait=False)
        self.assertNotEqual(other.wait(), 0)
        self.assertIn(str(node.data_dir), other.output())
        self.assertIn("use", other.output())
        self.assertEqual(self.produce(self.stub(node), b"undisturbed"), [0])

    @long
    def test_leaves_nothing(self):
        """A first start that fails, whatever the reason, leaves no data directory, and nothing else."""
        node = self.make_node()
        text = node.config_path.read_text()
        taken = socket.create_server(("127.0.0.1", 0))
        self.addCleanup(taken.close)
        used = f"127.0.0.1:{taken.getsockname()[1]}"
        bad = self.folder / "bad"
        bad.write_text("neither a key nor a policy\n")
        certs = self.certificates
        for what, old, new, told in (
            ("port in use", f"listen: {node.address}", f"listen: {used}", "cannot listen"),
            ("no such address", f"listen: {node.address}", "listen: 192.0.2.1:8400", "cannot listen"),
            ("gRPC port in use", "tls:", f"grpc_listen: {used}\ntls:", "cannot listen for gRPC"),
            ("bad key", str(certs.key_path("node-1")), str(bad), "bad"),
            ("key of another", str(certs.key_path("node-1")), str(certs.key_path("node-2")), "node-2.key"),
            ("bad CA", str(certs.path("ca")), str(bad), "bad"),
            ("bad policy", f"{certs.folder}/policy.csv", str(bad), "bad"),
            ("bad model", f"{certs.folder}/model.conf", str(bad), "bad"),
            ("no parent", f"data_dir: {node.data_dir}", f"data_dir: {node.folder}/no/data", "make the dir"),
        ):
            with self.subTest(what):
                self.assertIn(old, text)
                node.config_path.write_text(text.replace(old, new))
                self.assertIn(told, self.refused(node))
        node.config_path.write_text(text)
        self.assertIn("no space left", self.refused(node, prefix=("prlimit", "--fsize=16000")))

    def test_damage_without_a_lock_file(self):
        """A start that is refused for damage does not even leave the lock file that was missing."""
        node = self.filled()
        (node.data_dir / "lock").unlink()
        (hard_state,) = node.data_dir.rglob("hard_state")
        hard_state.write_bytes(bytes(hard_state.stat().st_size))
        self.assertIn("hard_state", self.refused(node))

    def test_other_cluster(self):
        """A directory of another cluster is refused, naming both."""
        node = self.filled()
        node.config_path.write_text(
            node.config_path.read_text().replace("cluster: test", "cluster: elsewhere")
        )
        output = self.refused(node)
        self.assertIn("elsewhere", output)
        self.assertIn("'test'", output)

    def test_certificate_of_another(self):
        """A node that would show another node's certificate is refused, naming both and the command."""
        node = self.make_node()
        text = node.config_path.read_text()
        node.config_path.write_text(
            text.replace("node-1.pem", "node-2.pem").replace("node-1.key", "node-2.key")
        )
        output = self.refused(node)
        self.assertIn("node-2.pem: is the certificate of node 'node-2' of cluster 'test'", output)
        self.assertIn("loghouse certs node node-1 --cluster test", output)
        self.assertFalse(node.data_dir.exists())

    def test_certificate_expires(self):
        """A certificate with a few days left is told when the node starts."""
        node = self.make_node()
        name = "node-1"
        issued = make_node_certificate(
            self.certificates.authority,
            cluster="test",
            node=name,
            hosts=["127.0.0.1"],
            now=datetime.now(UTC),
            days=5,
        )
        paths = self.certificates.path(name), self.certificates.key_path(name)
        write_issued(issued, *paths, may_replace=True)
        node.start()
        self.assertEqual(node.output().count(f"{paths[0]}: the certificate of CN={name} expires on"), 1)

    def test_damage(self):
        """One flipped byte of acknowledged data is found by `loghouse verify`, which names the file."""
        node = self.filled()
        victim = self.stores(node)[1]
        content = bytearray(victim.read_bytes())
        content[4096 + 64 + 1000] ^= 1
        victim.write_bytes(content)
        verify = self.loghouse("verify", node.data_dir)
        self.assertNotEqual(verify.returncode, 0, verify.stdout)
        self.assertIn(victim.name, verify.stdout + verify.stderr)

    def test_damaged_tail_segment(self):
        """Damage before the durable mark in the last segment refuses the start with the command to run."""
        node = self.filled()
        victim = self.stores(node)[-1]
        content = bytearray(victim.read_bytes())
        content[4096 + 20] ^= 1
        victim.write_bytes(content)
        output = self.refused(node)
        for word in (victim.name, "byte", "loghouse recover", "--accept-data-loss"):
            self.assertIn(word, output)
        recovered = self.loghouse("recover", node.data_dir, "--accept-data-loss")
        self.assertEqual(recovered.returncode, 0, recovered.stderr)
        node.start()
        self.assertStopped(node)

    def test_hard_state_gone(self):
        """A directory without a valid hard state is damage, never a new disk."""
        node = self.filled()
        (hard_state,) = node.data_dir.rglob("hard_state")
        hard_state.write_bytes(bytes(hard_state.stat().st_size))
        self.assertIn("hard_state", self.refused(node))

    def test_log_gone(self):
        """`node` there but the log gone is damage, never a new disk."""
        node = self.filled()
        shutil.rmtree(node.data_dir / "logs")
        self.assertIn("logs", self.refused(node))

    def test_torn_tail(self):
        """Bytes behind the durable mark that are no entry are cut with one warning, and the start goes on."""
        node = self.started()
        self.produce(self.stub(node), b"a", b"b")
        node.kill()
        (store,) = self.stores(node)
        content = store.read_bytes()
        end = len(content.rstrip(b"\0"))
        with open(store, "r+b") as file:
            file.seek((end + 63) // 64 * 64)
            file.write(b"\xff" * 100)
        node.output_path.unlink()
        node.start()
        self.assertEqual(node.output().count("torn tail at byte"), 1, node.output())
        stub = self.stub(node)
        self.assertEqual([self.consume(stub, 0), self.consume(stub, 1)], [b"a", b"b"])
        self.assertEqual(self.produce(stub, b"c"), [2])


class FaultTests(ProcessTestCase):
    """Disks that fail or fill up under a running node."""

    def test_failed_sync(self):
        """EIO from fdatasync ends the node with a code that is not 0; nothing acknowledged is lost."""
        node = self.make_node()
        site = self.folder / "site"
        site.mkdir()
        (site / "sitecustomize.py").write_text(
            "import errno, os\n"
            "real, calls = os.fdatasync, 0\n"
            "def fdatasync(fd):\n"
            "    global calls\n"
            "    calls += 1\n"
            "    if calls > 30:\n"
            "        raise OSError(errno.EIO, os.strerror(errno.EIO))\n"
            "    return real(fd)\n"
            "os.fdatasync = fdatasync\n"
        )
        node.start(prefix=("env", f"LOGHOUSE_TEST_SITE={site}", "sh", "-c", _WITH_SITE, "sh"))
        stub = self.stub(node)
        acknowledged = []
        with self.assertRaises(grpc.RpcError):
            for number in range(1000):
                acknowledged += self.produce(stub, b"%d" % number)
        self.assertNotEqual(node.wait(), 0)
        self.assertIn("Input/output error", node.output())
        node.start()
        stub = self.stub(node)
        self.assertGreater(len(acknowledged), 3)
        for offset in acknowledged:
            self.assertEqual(self.consume(stub, offset), b"%d" % offset)

    def test_disk_full(self):
        """On a full disk appends are refused, reads and restart work, and appends resume with space."""
        mount = self.folder / "mount"
        mount.mkdir(parents=True)
        made = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(mount)], capture_output=True, check=False
        )
        if made.returncode:
            raise SkipTest("mounting a tmpfs is not allowed here")
        self.addCleanup(subprocess.run, ["umount", "-l", str(mount)], check=True)
        node = self.make_node(settings="storage:\n  segment_size: 256KiB\n  reserve_size: 64KiB\n")
        node.data_dir = mount / "data"
        node.config_path.write_text(
            node.config_path.read_text().replace(str(self.folder / "node/data"), str(node.data_dir))
        )
        ballast = mount / "ballast"
        ballast.write_bytes(bytes(MIB))
        node.start()
        stub = self.stub(node)
        value, count = bytes(20_000), 0
        error = None
        while error is None and count < 1000:
            try:
                count += len(self.produce(stub, value))
            except grpc.RpcError as caught:
                error = caught
        assert error is not None
        self.assertEqual(error.code(), grpc.StatusCode.RESOURCE_EXHAUSTED, node.output())
        self.assertIn("space", error.details())
        self.assertEqual(self.consume(stub, count - 1), value)
        node.stop()
        node.start()
        stub = self.stub(node)
        self.assertEqual(self.consume(stub, count - 1), value)
        ballast.unlink()
        wait_until(lambda: self._appends(stub, value), "appends to resume")
        self.assertEqual(stub.Bounds(log_pb2.BoundsRequest()).next, count + 1)

    def _appends(self, stub, value: bytes) -> bool:
        try:
            self.produce(stub, value)
        except grpc.RpcError:
            return False
        return True


# Puts the fault's sitecustomize in front of the child's path, then runs the node in its place.
_WITH_SITE = 'PYTHONPATH="$LOGHOUSE_TEST_SITE:$PYTHONPATH" exec "$@"'
