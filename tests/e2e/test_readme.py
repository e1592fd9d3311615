"""What the README and the other pages tell people to type works as it stands there, against a real node."""

import contextlib
import io
import os
import re
import shlex
import signal
import stat
import subprocess
import sys
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from loghouse.cli.main import make_parser
from loghouse.config.values import parse_address
from loghouse.testing.process import free_port, wait_until
from tests.processes import SKIP, long

ROOT = Path(__file__).resolve().parent.parent.parent
PAGES = (ROOT / "README.md", ROOT / "docs" / "operations.md")
SECONDS_MAX = 60


def blocks(page: Path, language: str) -> list[str]:
    """The fenced blocks of a page in that language."""
    return re.findall(rf"(?ms)^```{language}\n(.*?)^```$", page.read_text())


def section(page: Path, title: str) -> str:
    """The text under a heading, up to the next."""
    text = page.read_text()
    _, _, rest = text.partition(f"\n## {title}\n")
    assert rest, f"{page.name} has no section {title!r}"
    return rest.partition("\n## ")[0]


def commands(text: str) -> list[str]:
    """The lines of the shell blocks in a text; what is indented is a picture."""
    found = re.findall(r"(?ms)^```\n(.*?)^```$", text)
    return [line for block in found for line in block.splitlines() if line[:1].strip()]


class ReadmeCase(SynchronousTestCase):
    """An empty folder in which `loghouse` and `twistd` are this checkout's, and a port of our own."""

    skip = SKIP

    def setUp(self):
        self.folder = Path(self.mktemp()).absolute()
        self.port = str(free_port())
        tools = self.folder / ".venv" / "bin"
        tools.mkdir(parents=True)
        (tools / "python").symlink_to(sys.executable)
        for name, module in (
            ("loghouse", "-m loghouse.cli.main"),
            ("twistd", "-c 'from twisted.scripts.twistd import run; run()'"),
        ):
            script = tools / name
            script.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} {module} "$@"\n')
            script.chmod(script.stat().st_mode | stat.S_IXUSR)
        (self.folder / "README.md").write_bytes((ROOT / "README.md").read_bytes())
        self.environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("LOGHOUSE_")},
            "PATH": f"{tools}:{os.environ['PATH']}",
            "PYTHONPATH": os.pathsep.join([str(ROOT), *filter(None, sys.path)]),
        }

    def start(self, line):
        """Start a line of the page; it leads a process group of its own."""
        process = subprocess.Popen(
            ["sh", "-c", f"exec {line}" if line.startswith(".venv/bin/") else line],
            cwd=self.folder,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        self.addCleanup(self.end, process)
        return process

    def end(self, process):
        # The nodes of `make run` lead groups of their own: whoever started them must end them.
        for number in (signal.SIGTERM, signal.SIGKILL):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, number)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(SECONDS_MAX)
        for stream in (process.stdout, process.stderr):
            stream.close()

    def do(self, line):
        """Run a line to its end, successfully; return what it printed."""
        process = self.start(line)
        out, err = process.communicate(timeout=SECONDS_MAX)
        self.assertEqual(process.returncode, 0, f"{line}\n{out}\n{err}")
        return out


class TourTests(ReadmeCase):
    """The five minutes' tour, with the node that `make run` starts."""

    @long
    def test_every_line(self):
        """Each line of the tour does what the page says, and the Python snippet reads what it wrote."""
        make_run = self.start(f".venv/bin/loghouse demo --file README.md --listen 127.0.0.1:{self.port}")
        for line in make_run.stdout:
            if line.startswith("serving until"):
                break
        known = {
            "loghouse produce --value": self.check_produce,
            "printf": self.check_pipe,
            "loghouse consume --offset 0 --count": self.check_consume,
            "loghouse consume --offset 0 --follow": self.check_follow,
            "loghouse consume --cursor": self.check_cursor,
            "loghouse cursor list": self.check_cursors,
            "loghouse servers": self.check_servers,
            "loghouse inspect": self.check_inspect,
            "loghouse verify": self.check_verify,
        }
        lines = commands(section(ROOT / "README.md", "Five minutes"))
        for line in lines:
            (check,) = (known[start] for start in known if line.replace(".venv/bin/", "").startswith(start))
            check(line)
        self.assertEqual(len(lines), len(known))
        _, snippet = blocks(ROOT / "README.md", "python")
        (self.folder / "snippet.py").write_text(snippet.replace(":8400", f":{self.port}"))
        self.assertRegex(self.do(".venv/bin/python snippet.py"), r"^\d+ b'from Python'\n$")
        make_run.send_signal(signal.SIGINT)
        self.assertEqual(make_run.wait(SECONDS_MAX), 0)

    def check_produce(self, line):
        self.assertRegex(self.do(line), r"^appended 1 record .* offset \d+,")

    def check_pipe(self, line):
        self.assertRegex(self.do(line), r"^appended 2 records .* offsets \d+ to \d+,")

    def check_consume(self, line):
        self.assertEqual(self.do(line).splitlines(), (self.folder / "README.md").read_text().splitlines()[:3])

    def check_follow(self, line):
        process = self.start(line)
        for shown in process.stdout:
            if shown == "two\n":  # the last record that the lines before appended
                break
        process.send_signal(signal.SIGINT)
        self.assertEqual(process.wait(SECONDS_MAX), 130)
        self.assertEqual(process.stderr.read(), "")

    def check_cursor(self, line):
        shown = (self.folder / "README.md").read_text().splitlines()
        for three in (shown[:3], shown[3:6]):
            self.assertEqual(self.do(line).splitlines(), three)

    def check_cursors(self, line):
        self.assertRegex(self.do(line), r"(?m)^mine +6 +\d+ +nobody +- +root$")

    def check_servers(self, line):
        self.assertIn(f'"address": "127.0.0.1:{self.port}"', self.do(line))

    def check_inspect(self, line):
        self.assertIn("00000000000000000001.store", self.do(line))

    def check_verify(self, line):
        self.assertIn("all good", self.do(line))


class OwnNodeTests(ReadmeCase):
    """A node of one's own: certificates, settings, daemon, client."""

    @long
    def test_every_line(self):
        """The certificates fit the example node.yaml, the daemon serves, and the client's file finds it."""
        self.addCleanup(self.stop_daemon)
        lines = commands(section(ROOT / "README.md", "A node of your own"))
        for line in lines:
            if "produce" in line:
                self.wait_serving()
            out = self.do(line)
            for name in ("node.yaml", "client.yaml"):  # the only thing changed: a port that is free here
                if f"> {name}" in line:
                    path = self.folder / name
                    self.assertIn("127.0.0.1:8400", path.read_text())
                    path.write_text(path.read_text().replace(":8400", f":{self.port}"))
        self.assertRegex(out, r"^appended 1 record .* offset 0,")
        self.assertEqual(len(lines), 6)

    def wait_serving(self):
        log = self.folder / "twistd.log"
        wait_until(lambda: f"serves on 127.0.0.1:{self.port}" in log.read_text(), "the daemon to serve")

    def stop_daemon(self):
        pid_file = self.folder / "twistd.pid"
        if pid_file.exists():
            os.kill(int(pid_file.read_text()), signal.SIGTERM)
            wait_until(lambda: not pid_file.exists(), "the daemon to end")


class PageTests(SynchronousTestCase):
    """Commands and links of the pages, without running them."""

    def words(self):
        """Yield (page, line, words) of each `loghouse` command in shell blocks."""
        for page in PAGES:
            for line in commands(page.read_text()):
                for part in re.split(r"&&|\||>", line):
                    words = shlex.split(part, comments=True)
                    if words and words[0].rpartition("/")[2] == "loghouse":
                        yield page.name, line, words[1:]

    def test_commands_parse(self):
        """Every `loghouse` command has options and arguments that the command takes."""
        found = list(self.words())
        self.assertGreater(len(found), 12)
        for page, line, words in found:
            stderr = io.StringIO()
            try:
                with contextlib.redirect_stderr(stderr):
                    make_parser().parse_args(words)
            except SystemExit:
                self.fail(f"{page}: {line}\n{stderr.getvalue()}")

    def test_address_is_the_default(self):
        """The snippet's address is where `make run` listens."""
        _, snippet = blocks(ROOT / "README.md", "python")
        (listen,) = re.findall(r"(?m)^LISTEN \?= (\S+)$", (ROOT / "Makefile").read_text())
        self.assertIn(f'"loghouse://{parse_address(listen)}"', snippet)
