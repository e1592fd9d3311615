"""`--dir`: commands on a data directory itself, without a node."""

import asyncio
import fcntl
import json
import os
import struct
import subprocess
import sys
import termios
from pathlib import Path
from types import SimpleNamespace

import loghouse
from loghouse.cli.directory import DirectoryReader
from loghouse.cli.output import ExitCode
from tests.cli.support import CommandCase
from tests.processes import in_children

ROOT = Path(__file__).resolve().parents[2]


class DirectoryTests(CommandCase):
    """Appending to a directory, reading it beside its writer, and looking after it."""

    def run_well(self, *arguments) -> str:
        code, out, err = self.run_command(*arguments)
        self.assertEqual((code, err), (ExitCode.OK, ""))
        return out

    def run_badly(self, *arguments) -> tuple[int, str]:
        code, out, err = self.run_command(*arguments)
        self.assertEqual(out, "")
        return code, err

    def test_produce_and_consume(self):
        """What is appended to a directory is read from it; it is made if there is none."""
        self.run_well("produce", "--dir", "events", "--value", "one", "--value", "two")
        self.assertEqual(self.run_well("consume", "--dir", "events", "--offsets"), "0\tone\n1\ttwo\n")
        code, out, _ = self.run_command("produce", "--dir", "events", "--json", stdin=b"three\nfour\n")
        self.assertEqual(code, ExitCode.OK)
        told = json.loads(out)
        self.assertEqual((told["records"], told["first_offset"]), (2, 2))
        self.assertEqual(
            self.run_well("consume", "--dir", "events", "--from", "1", "-n", "2"), "two\nthree\n"
        )

    @in_children
    def test_terminal(self):
        """Of records that are shown on a terminal, no bar is between them."""
        self.run_well("produce", "--dir", "events", "--value", "one", "--value", "two")
        ours, theirs = os.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
        words = [sys.executable, "-m", "loghouse", "consume", "--dir", "events"]
        places = os.pathsep.join(os.path.abspath(place) for place in filter(None, (ROOT, *sys.path)))
        subprocess.run(
            words,
            stdout=theirs,
            stderr=theirs,
            check=True,
            timeout=60,
            env={**os.environ, "PYTHONPATH": places},
        )
        os.close(theirs)
        self.assertEqual(os.read(ours, 1000), b"one\r\ntwo\r\n")
        os.close(ours)

    def test_range(self):
        """A range ends where it is to end, within what one look at the directory gives, too."""
        self.run_well("produce", "--dir", "events", "--value", "one", "--value", "two", "--value", "three")

        async def read(offset, end):
            async with DirectoryReader(SimpleNamespace(dir="events")) as reader:
                return [
                    value
                    async for batches in reader.read_range(offset, end)
                    for batch in batches
                    for value in batch.values()
                ]

        loop = asyncio.new_event_loop()  # `asyncio.run` would leave the tests behind it without theirs
        self.addCleanup(loop.close)
        for offset, end, values in (
            (0, 1, [b"one"]),
            (1, 3, [b"two", b"three"]),
            (0, 3, [b"one", b"two", b"three"]),
            (2, 2, []),
        ):
            self.assertEqual(loop.run_until_complete(read(offset, end)), values, (offset, end))

    def test_chosen(self):
        """Keys and directions, as of a node."""
        for number in range(4):
            key = ("--record-key", "odd") if number % 2 else ()
            self.run_well("produce", "--dir", "events", "--value", str(number), *key)
        for options, lines in (
            (("--record-key", "odd"), "1\n3\n"),
            (("--record-key", "odd", "--last", "1"), "3\n"),
            (("--reverse", "--count", "2"), "3\n2\n"),
            (("--record-key", "no"), ""),
            (("--follow", "--record-key", "odd", "--count", "2"), "1\n3\n"),
        ):
            self.assertEqual(self.run_well("consume", "--dir", "events", *options), lines, options)

    def test_beside_the_writer(self):
        """A directory that a program writes is read along, but not written by another."""
        with loghouse.open("events") as log:
            log.append(b"x")
            self.assertEqual(self.run_well("consume", "--dir", "events"), "x\n")
            code, err = self.run_badly("produce", "--dir", "events", "--value", "y")
            self.assertNotEqual(code, ExitCode.OK)
            self.assertIn("in use by another process", err)

    def test_inspect_and_verify(self):
        """They take the directory by its place or by the option, one of the two."""
        self.run_well("produce", "--dir", "events", "--value", "one")
        self.assertIn("node node-1 of cluster loghouse", self.run_well("inspect", "--dir", "events"))
        self.assertEqual(self.run_well("verify", "--dir", "events"), self.run_well("verify", "events"))
        self.assertEqual(self.run_badly("verify")[0], ExitCode.USAGE)
        self.assertEqual(self.run_badly("verify", "events", "--dir", "events")[0], ExitCode.USAGE)

    def test_a_node_too(self):
        """A directory and a node to connect to contradict each other."""
        for command in (("consume",), ("produce", "--value", "x")):
            code, err = self.run_badly(*command, "--dir", "events", "--server", "127.0.0.1:1")
            self.assertEqual(code, ExitCode.USAGE)
            self.assertIn("--dir and --server contradict each other", err)
