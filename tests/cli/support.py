"""Runs the command in this process, with its streams caught."""

import asyncio
import io
import os
import sys
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from loghouse.cli.main import main


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
