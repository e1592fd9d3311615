"""`loghouse backup` and `loghouse restore` on the real disk, with a cluster that the test plays."""

import io
import json
import os
import sys
from pathlib import Path
from types import SimpleNamespace

from twisted.trial.unittest import SynchronousTestCase

from loghouse.backup.format import LOCK_NAME
from loghouse.cli import backup
from loghouse.cli.main import main, make_parser
from loghouse.errors import BackupError, LogReplacedError, UnknownLogError
from loghouse.storage.directory import DataDirectory
from loghouse.storage.files import OsFiles
from tests.backup.case import CLUSTER, Source, run_async


class PlayedCluster:
    """What a client asks of a cluster with these logs."""

    def __init__(self, *sources):
        self.sources = {source.name: source for source in sources}
        self.uuid = CLUSTER

    async def servers(self):
        return SimpleNamespace(cluster_uuid=self.uuid, cluster_name="c")

    async def logs(self):
        return [source.described for source in self.sources.values()]

    async def describe_log(self, name):
        if name not in self.sources:
            raise UnknownLogError(name)
        return self.sources[name].described

    def log(self, name):
        return self.sources[name]


class CommandTests(SynchronousTestCase):
    """The commands as they are run."""

    def setUp(self):
        self.folder = Path(self.mktemp()).absolute()
        self.folder.mkdir()
        self.path = str(self.folder / "backup")
        self.orders, self.default = Source(), Source("default", group=1, seed=2)
        for source in (self.orders, self.default):
            source.fill(30)
        self.cluster = PlayedCluster(self.default, self.orders)
        for name in ("stdout", "stderr"):
            self.patch(sys, name, io.StringIO())

    def told(self):
        """Return what was written since."""
        texts = sys.stdout.getvalue(), sys.stderr.getvalue()
        for stream in (sys.stdout, sys.stderr):
            stream.seek(0)
            stream.truncate()
        return "".join(texts)

    def back_up(self, *words):
        """Run `loghouse backup` with these words; return its exit code and what it writes."""
        args = make_parser().parse_args(["backup", *words, self.path])
        code = run_async(backup._back_up(args, self.cluster, self.path))
        return code, self.told()

    def run_command(self, *words):
        code = main([*words])
        return code, self.told()

    def test_all(self):
        """All logs are backed up, and the same command again adds what is new."""
        end = self.orders.next_offset
        code, text = self.back_up("--all")
        self.assertEqual((code, f"orders: {end} new records, offsets 0 to {end - 1}" in text), (0, True))
        self.orders.records(1)
        self.assertIn("orders: 1 new record, ", self.back_up("--all")[1])
        code, text = self.run_command("backup", "verify", self.path)
        self.assertRegex(text, rf"(?s)default: .*\norders: offsets 0 to {end}, .* as of .*: all good")
        self.assertEqual(code, 0)

    def test_json(self):
        """Programs get objects."""
        _, text = self.back_up("--log", "orders", "--json")
        end = self.orders.next_offset
        told = json.loads(text)
        expected = {"name": "orders", "first_offset": 0, "next_offset": end, "new_records": end}
        self.assertEqual(told, {"logs": [expected], "failed": [], "gone": []})
        told = json.loads(self.run_command("backup", "verify", self.path, "--json")[1])
        self.assertEqual((told["is_damaged"], told["problems"]), (False, []))
        self.assertEqual(told["logs"][0]["next_offset"], end)

    def test_one_log_fails(self):
        """A log that cannot be gone on with is told, and the others are backed up."""
        self.back_up("--all")
        self.orders.group = self.orders.calls.group = 20
        self.default.records(2)
        code, text = self.back_up("--all")
        self.assertEqual(code, 1)
        self.assertRegex(text, r"(?s)default: 2 new records.*orders was deleted and made again")
        code, text = self.back_up("--all", "--json")
        self.assertEqual((code, json.loads(text)["failed"][0]["name"]), (1, "orders"))

    def test_gone(self):
        """A log that is gone is noted, and what is backed up of it stays."""
        self.back_up("--all")
        del self.cluster.sources["orders"]
        self.assertRegex(self.back_up("--all")[1], "log orders is not there any more")
        self.assertIn("orders", self.run_command("backup", "verify", self.path)[1])
        with self.assertRaises(UnknownLogError):
            self.back_up("--log", "orders")

    def test_directories(self):
        """A directory of other things, of another cluster, or in use is refused."""
        self.cluster.uuid = bytes(16)
        self.default.writer = self.orders.writer  # not asked
        os.mkdir(self.path)
        Path(self.path, "photo.jpg").touch()
        with self.assertRaisesRegex(BackupError, "photo.jpg"):
            self.back_up("--all")
        os.unlink(f"{self.path}/photo.jpg")
        self.cluster.uuid = CLUSTER
        self.back_up("--log", "orders")
        self.cluster.uuid = bytes(16)
        with self.assertRaisesRegex(LogReplacedError, "this backup is of the cluster c"):
            self.back_up("--log", "orders")
        descriptor = OsFiles().lock(f"{self.path}/{LOCK_NAME}")
        self.addCleanup(os.close, descriptor)
        with self.assertRaisesRegex(BackupError, "another backup into it is under way"):
            self.back_up("--log", "orders")

    def test_usage(self):
        """What is missing or too much is said in a line."""
        for words, text in (
            ((self.path,), "say which logs"),
            ((self.path, "--all", "--log", "x"), "contradict"),
            (("check", self.path), "give one DIR"),
            (("verify", "a", "b"), "give one DIR"),
        ):
            code, told = self.run_command("backup", *words)
            self.assertEqual((code, text in told), (2, True), told)
        code, told = self.run_command("backup", "verify", str(self.folder))
        self.assertEqual((code, "is no backup" in told), (1, True), told)

    # --- restoring ----------------------------------------------------------------------

    def config(self):
        path = self.folder / "node.yaml"
        for name in ("model.conf", "policy.csv"):
            (self.folder / name).touch()
        path.write_text(
            "node: n1\ncluster: new\ndata_dir: data\nlisten: 127.0.0.1:8499\nplaintext: true\n"
            "acl: {model: model.conf, policy: policy.csv}\nstorage: {segment_size: 64KiB}\n"
        )
        return str(path)

    def restore(self, *words):
        return self.run_command("restore", self.path, "--config", self.config(), *words)

    def test_restore(self):
        """The data directory is a node's of a new cluster, and no second time."""
        self.back_up("--all")
        code, text = self.restore()
        self.assertEqual(code, 0, text)
        self.assertRegex(
            text, r"(?s)orders: \d+ records; the next one gets offset \d+\n.*of a new cluster new"
        )
        directory = DataDirectory.lock(OsFiles(), str(self.folder / "data"), segment_size=65536)
        for source in (self.orders, self.default):
            log = directory.open_log(source.group)
            self.assertEqual(log.next_offset, source.next_offset)
            log.close()
        directory.close()
        code, text = self.restore()
        self.assertEqual((code, "restored into an empty one" in text), (1, True), text)

    def test_some_logs(self):
        """Some logs alone are restored; what is not there is said."""
        self.back_up("--all")
        code, text = self.restore("--log", "nothing")
        self.assertEqual((code, "holds no log nothing" in text), (1, True), text)
        told = json.loads(self.restore("--log", "orders", "--json")[1])
        self.assertEqual([log["name"] for log in told["logs"]], ["orders"])

    def test_damaged(self):
        """A damaged backup is refused with exit code 5, and leaves nothing behind."""
        self.back_up("--all")
        part = next(Path(self.path, "logs", "orders").glob("*.part"))
        content = bytearray(part.read_bytes())
        content[-100] ^= 1
        part.write_bytes(content)
        code, text = self.run_command("backup", "verify", self.path)
        self.assertEqual((code, f"DAMAGED: {part}: damaged at byte" in text), (5, True), text)
        code, text = self.restore()
        self.assertEqual((code, str(part) in text), (5, True), text)
        self.assertFalse((self.folder / "data").exists())
        code, text = self.back_up("--all")
        self.assertIn(code, (0, 5))

    def test_interrupted_at_its_end(self):
        """A restore that was interrupted when all was written is finished."""
        self.back_up("--all")
        self.restore()
        (self.folder / "data" / "restoring").touch()
        code, text = self.restore()
        self.assertEqual((code, "of a new cluster new" in text), (0, True), text)
        self.assertFalse((self.folder / "data" / "restoring").exists())
