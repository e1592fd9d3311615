"""Embedded logs in processes of their own: what is imported, who is locked out, who may read along."""

import subprocess
import sys
import textwrap

from twisted.trial.unittest import SynchronousTestCase

import loghouse
from loghouse.errors import ClosedError, DataDirectoryError, DirectoryInUseError

SERVER_PACKAGES = ("twisted", "zope", "grpc", "casbin", "OpenSSL", "cryptography", "yaml", "tqdm", "uvloop")


class ProcessCase(SynchronousTestCase):
    """Runs programs, each in a Python of its own."""

    def setUp(self):
        self.path = self.mktemp()

    def run_program(self, text: str, *arguments: str) -> str:
        """Run a program; return what it printed."""
        done = subprocess.run(
            [sys.executable, "-c", textwrap.dedent(text), self.path, *arguments],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        self.assertEqual(done.returncode, 0, done.stderr)
        return done.stdout


class ImportTests(ProcessCase):
    """A program that embeds a log has nothing of the server."""

    def test_no_server(self):
        """Without any package of the server, a log is opened, written and read."""
        output = self.run_program(
            """
            import asyncio, importlib.abc, sys

            class Missing(importlib.abc.MetaPathFinder):
                def find_spec(self, name, path, target=None):
                    if name.split(".")[0] in PACKAGES:
                        raise ModuleNotFoundError(f"No module named {name!r}", name=name)

            PACKAGES = sys.argv[2].split()
            sys.meta_path.insert(0, Missing())
            import loghouse

            with loghouse.open(sys.argv[1]) as log:
                log.append(b"one", key=b"k", headers=[("h", b"v")])
                log.append_batch([b"two", b"three"], compression="zstd")
                with log.producer() as producer:
                    producer.append(b"four")
                with log.consumer("billing") as consumer:
                    consumer.done(next(iter(consumer)))
                with loghouse.open_reader(sys.argv[1]) as reader:
                    print([record.value.decode() for record in reader.read()])

            async def main():
                async with loghouse.open_async(sys.argv[1]) as log:
                    print(await log.append(b"five"))

            asyncio.run(main())
            print([name for name in PACKAGES if name in sys.modules])
            """,
            " ".join(SERVER_PACKAGES),
        )
        self.assertEqual(output.splitlines(), ["['one', 'two', 'three', 'four']", "4", "[]"])

    def test_nothing_before_it_is_asked_for(self):
        """`import loghouse` imports nothing more; a log without asyncio's form brings no asyncio."""
        output = self.run_program(
            """
            import sys, loghouse
            print([name for name in sys.modules if name.startswith("loghouse.")])
            loghouse.open(sys.argv[1]).close()
            print("asyncio" in sys.modules, "logging" in sys.modules)
            """
        )
        self.assertEqual(output.splitlines()[0], "[]")
        self.assertTrue(output.splitlines()[1].startswith("False"), output)

    def test_values_alone(self):
        """Values of one size are appended and read without what is slow to import; a key brings protobuf."""
        output = self.run_program(
            """
            import sys, loghouse
            with loghouse.open(sys.argv[1]) as log:
                log.append(b"one")
                log.append_batch([b"two", b"six"])
                print(*[record.value.decode() for record in log.read()])
                print("google.protobuf" in sys.modules, "zstandard" in sys.modules)
                log.append(b"seven", key=b"k")
                print(*[record.key.decode() for record in log.read(3)])
            """
        )
        self.assertEqual(output.splitlines(), ["one two six", "False False", "k"])

    def test_unknown_name(self):
        """A name that the package does not have is an AttributeError."""
        self.assertRaises(AttributeError, getattr, loghouse, "opne")

    def test_log_lines(self):
        """What a log says goes to Python's `logging`, where Twisted is not used."""
        output = self.run_program(
            """
            import logging, sys
            form = "%(levelname)s %(name)s %(message)s"
            logging.basicConfig(level=logging.INFO, stream=sys.stdout, format=form)
            import loghouse
            loghouse.open(sys.argv[1]).close()
            """
        )
        self.assertIn(
            "INFO loghouse.replica.damage.LogRepair log open: offsets 0 to 0 (next), term 1", output
        )


class TwoProcessesTests(ProcessCase):
    """One process writes; others read along."""

    def test_locked_out(self):
        """A second process cannot open the directory, and says who has it."""
        with loghouse.open(self.path) as log:
            log.append(b"x")
            output = self.run_program(
                """
                import sys, loghouse
                from loghouse.errors import DirectoryInUseError
                try:
                    loghouse.open(sys.argv[1])
                except DirectoryInUseError as error:
                    print(error)
                """
            )
            self.assertIn("in use by another process", output)
            self.assertRaises(DirectoryInUseError, loghouse.open, self.path)

    def test_kill(self):
        """After a process that wrote was killed, the next one finds all that it acknowledged."""
        writer = subprocess.Popen(
            [
                sys.executable,
                "-c",
                "import sys, loghouse\n"
                "log = loghouse.open(sys.argv[1])\n"
                "while True: print(log.append(b'x'), flush=True)",
                self.path,
            ],
            stdout=subprocess.PIPE,
            text=True,
        )
        try:
            for _ in range(20):
                acknowledged = int(writer.stdout.readline())
            writer.kill()
            lines = writer.communicate()[0].split("\n")[:-1]
            acknowledged = int(lines[-1]) if lines else acknowledged
        finally:
            writer.kill()
            writer.wait()
        with loghouse.open(self.path) as log:
            self.assertGreater(log.bounds().next_offset, acknowledged)
            self.assertTrue(all(record.value == b"x" for record in log.read()))

    def test_read_along(self):
        """A reader of another process gets each record once it is durable, over segments and trims."""
        sizes = {"segment_size": 64 * 1024, "reserve_size": 0}
        with loghouse.open(self.path, **sizes) as log:
            reader = subprocess.Popen(
                [
                    sys.executable,
                    "-c",
                    "import sys, loghouse\n"
                    "with loghouse.open_reader(sys.argv[1]) as log:\n"
                    "    print(log.bounds().next_offset, flush=True)\n"
                    "    for record in log.read(follow=True):\n"
                    "        if record.value == b'end': break\n"
                    "        last = record.offset\n"
                    "    print(last, log.bounds().lowest)",
                    self.path,
                ],
                stdout=subprocess.PIPE,
                text=True,
            )
            try:
                self.assertEqual(reader.stdout.readline(), "0\n")
                for _ in range(30):
                    log.append_batch([bytes(1000)] * 10)
                log.append(b"end")
                output, _ = reader.communicate(timeout=60)
            finally:
                reader.kill()
                reader.wait()
        self.assertEqual(output, "299 0\n")


class ReaderTests(ProcessCase):
    """Reading a directory without its lock."""

    def test_sees_what_is_durable(self):
        """A reader beside the writer has its bounds after each append, roll and trim."""
        with loghouse.open(self.path, segment_size=64 * 1024, reserve_size=0) as log:
            with loghouse.open_reader(self.path) as reader:
                self.assertEqual(reader.bounds(), (0, 0))
                for number in range(40):
                    log.append_batch([b"%d" % number + bytes(600)] * 5)
                    self.assertEqual(reader.bounds(), log.bounds())
                log.trim(120)
                self.assertEqual(reader.bounds(), (120, 200))
                self.assertEqual([record.offset for record in reader.read()], list(range(120, 200)))
                self.assertEqual(reader.find_offset(0), 120)
            self.assertRaises(ClosedError, reader.bounds)
            self.assertRaises(ClosedError, list, reader.read(150))

    def test_closed_directory(self):
        """A directory that nobody has open is read, too, and not changed."""
        with loghouse.open(self.path) as log:
            log.append(b"x")
        with loghouse.open_reader(self.path) as reader:
            self.assertEqual([record.value for record in reader.read()], [b"x"])
        loghouse.open(self.path).close()

    def test_no_log(self):
        """Where no log is, there is nothing to read."""
        self.assertRaises(DataDirectoryError, loghouse.open_reader, self.path)
