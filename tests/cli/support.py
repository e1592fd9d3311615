"""Runs the command in this process, with its streams caught."""

import asyncio
import io
import os
import sys
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from loghouse.cli.main import main
from tests.fakes.served import ServedNode, reactor_thread


class _Terminal(io.StringIO):
    """A stderr that a person looks at."""

    def isatty(self):
        return True


class CommandCase(SynchronousTestCase):
    """A fresh current directory, a clean environment, and `run`."""

    def setUp(self):
        self.folder = Path(self.mktemp()).absolute()
        self.folder.mkdir(parents=True)
        self.addCleanup(os.chdir, os.getcwd())
        os.chdir(self.folder)
        for name in [name for name in os.environ if name.startswith("LOGHOUSE_")]:
            self.addCleanup(os.environ.__setitem__, name, os.environ.pop(name))

    def run_command(self, *arguments, stdin=None, terminal=False):
        """Return (exit code, stdout, stderr) of `loghouse ARGUMENTS`."""
        streams = sys.stdout, sys.stderr, sys.stdin
        loop = asyncio.get_event_loop()
        sys.stdout = io.TextIOWrapper(io.BytesIO(), encoding="utf-8")
        sys.stderr = _Terminal() if terminal else io.StringIO()
        try:
            if stdin is not None:
                path = self.folder / "stdin"
                path.write_bytes(stdin)
                sys.stdin = path.open()
            try:
                code = main([str(argument) for argument in arguments])
            except SystemExit as exit_:
                code = exit_.code
            sys.stdout.flush()
            return code, sys.stdout.buffer.getvalue().decode(), sys.stderr.getvalue()
        finally:
            asyncio.set_event_loop(loop)  # `asyncio.run` leaves none; the reactor of the other tests is on it
            if stdin is not None:
                sys.stdin.close()
            sys.stdout, sys.stderr, sys.stdin = streams


class NodeCase(CommandCase):
    """A fake node behind real servers, on a thread of its own."""

    def setUp(self):
        super().setUp()
        self.node = self.serve()
        self.cluster = self.node.cluster
        self.target = ["--server", self.node.address, "--plaintext"]

    def serve(self, name="n1", credentials=None):
        """Return a node that serves until the test's end."""
        node = ServedNode(name=name, credentials=credentials, reactor=reactor_thread().reactor)
        self.addCleanup(self.run_there, node.stop)
        return self.run_there(node.start)

    def run_there(self, method):
        """Return what an async method of the node returns."""
        return reactor_thread().run(method())

    def add(self, *records):
        reactor_thread().call(self.cluster.add_records, *records)

    def clear(self):
        """Let the log be empty again."""
        self.cluster.entries.clear()
        self.cluster.next_offset = 0
