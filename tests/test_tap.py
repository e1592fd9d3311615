"""`twistd loghouse`: the plugin, its options, the boot service, and what it writes about itself."""

import contextlib
import gc
import io
import json
import os
import select
import signal
import socket
import subprocess
import sys
from pathlib import Path

from twisted.application import service
from twisted.logger import FileLogObserver, ILogObserver, Logger, LogLevel, formatEvent
from twisted.python import usage
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from loghouse import tap
from loghouse.cli import certs
from loghouse.client import connect_blocking
from loghouse.config.settings import LoggingConfig, load
from loghouse.diagnostics import PeerLines, make_observer
from loghouse.errors import DataDirectoryError
from loghouse.limits import LASTING_LINES_MAX, LOG_FILE_SIZE_MAX, LOG_LINES, LOG_TEXT_SIZE_MAX
from loghouse.runtime import daemon
from loghouse.testing.process import wait_until
from tests.processes import CHILDREN
from tests.test_config import PLAIN

ROOT = Path(__file__).resolve().parent.parent
TWISTD = [sys.executable, "-c", "from twisted.scripts.twistd import run; run()"]


def twistd(*arguments, cwd, code=None):
    """Run the twistd script with this checkout's plugin; return the finished process."""
    command = [sys.executable, "-c", code] if code else TWISTD
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(
        [*command, *arguments], cwd=cwd, env=environment, capture_output=True, text=True, timeout=60
    )


class FailingService(service.Service):
    """Refuses to start, as a node whose disk is in use does."""

    def startService(self):
        raise DataDirectoryError("data is in use by another process")


class TapCase(SynchronousTestCase):
    """A folder with a node.yaml."""

    def setUp(self):
        self.folder = Path(self.mktemp()).absolute()
        self.folder.mkdir(parents=True)
        self.path = self.folder / "node.yaml"
        self.path.write_text(PLAIN)
        (self.folder / "certs").mkdir()
        for name in ("model.conf", "policy.csv"):
            (self.folder / "certs" / name).write_text("not read here\n")


class OptionsTests(TapCase):
    """The command line of `twistd loghouse`."""

    def test_config_is_required(self):
        """Without --config the error says how to get a file."""
        error = self.assertRaises(usage.UsageError, tap.Options().parseOptions, [])
        self.assertIn("loghouse config example", str(error))

    def test_path_becomes_absolute(self):
        """A daemon changes its directory; the path still means the same file."""
        before = os.getcwd()
        self.addCleanup(os.chdir, before)
        os.chdir(self.folder)
        options = tap.Options()
        options.parseOptions(["--config", "node.yaml"])
        self.assertEqual(options["config"], str(self.path))
        self.assertEqual(options.config, load(self.path))

    def test_every_problem_is_told(self):
        """A wrong node.yaml ends the command with all its problems and exit code 1."""
        self.path.write_text("node: A\nlisten: nowhere\nplaintext: true\n")
        exit_ = self.assertRaises(SystemExit, tap.Options().parseOptions, ["-c", str(self.path)])
        for part in ("5 problem(s)", "node (line 1)", "listen (line 2)", "cluster: is missing", "data_dir"):
            self.assertIn(part, exit_.code)


class BootServiceTests(TapCase):
    """The outermost service."""

    def boot(self, **twistd_options):
        return tap.BootService(load(self.path), twistd_options or None)

    def test_what_the_start_made_is_not_collected_again(self):
        """Full collections leave out what was made at the start: they would stop the reactor for long."""
        self.addCleanup(gc.unfreeze)
        self.boot().startService()
        self.assertGreater(gc.get_freeze_count(), 10_000)

    def test_failed_start_is_logged_and_raised(self):
        """The reason reaches the diagnostics and the caller, who makes it an exit code."""
        self.addCleanup(setattr, sys, "excepthook", sys.excepthook)
        events = []
        self.patch(tap.BootService, "logger", Logger(observer=events.append))
        boot = self.boot()
        FailingService().setServiceParent(boot)
        self.assertRaises(DataDirectoryError, boot.startService)
        self.assertEqual(events[0]["log_level"], LogLevel.critical)
        self.assertIn("in use by another", events[0]["reason"])

    def test_failed_start_is_one_line(self):
        """What Python prints for the error is its text, not a traceback."""
        self.addCleanup(setattr, sys, "excepthook", sys.excepthook)
        self.patch(tap.BootService, "logger", Logger(observer=lambda event: None))
        self.patch(sys, "__stderr__", io.StringIO())
        boot = self.boot()
        FailingService().setServiceParent(boot)
        error = self.assertRaises(DataDirectoryError, boot.startService)
        sys.excepthook(type(error), error, None)
        self.assertEqual(
            sys.__stderr__.getvalue(), "twistd loghouse: cannot start: data is in use by another process\n"
        )

    def test_diagnostics_follow_the_file(self):
        """twistd's application gets an observer of node.yaml's format for twistd's own log file."""
        self.path.write_text(PLAIN + "logging: {format: json, level: warn}\n")
        log_file = self.folder / "node.log"
        application = service.Application("loghouse")
        self.boot(nodaemon=True, logfile=str(log_file)).setServiceParent(application)
        logger = Logger(namespace="test", observer=application.getComponent(ILogObserver))
        logger.info("too quiet")
        logger.warn("disk is {state}", state="slow")
        lines = log_file.read_text().splitlines()
        self.assertEqual([json.loads(line)["message"] for line in lines], ["disk is slow"])

    def test_unwritable_log_file(self):
        """A log file that cannot be written ends the command with its path and what to do."""
        boot = self.boot(nodaemon=False, logfile=str(self.folder / "absent" / "node.log"))
        exit_ = self.assertRaises(SystemExit, boot.setServiceParent, service.Application("loghouse"))
        self.assertIn("absent/node.log: No such file", exit_.code)
        self.assertIn("--logfile", exit_.code)

    def test_syslog_is_left_to_twistd(self):
        """With --syslog twistd keeps its own observer."""
        application = service.Application("loghouse")
        self.boot(syslog=True).setServiceParent(application)
        self.assertIsNone(application.getComponent(ILogObserver))


class PeerLinesTests(SynchronousTestCase):
    """Lines that peers cause."""

    def setUp(self):
        self.seen = []
        self.lines = PeerLines(self.seen.append)

    def emit(self, peer, minute=0, **fields):
        event = {"log_time": 60.0 * minute, "log_format": "{peer}: {error}", "peer": peer, **fields}
        self.lines({"error": "broken", **event})

    def texts(self):
        return [formatEvent(event) for event in self.seen]

    def test_share_of_one(self):
        """One subject's lines end at its share, whatever address it comes from; another's go on."""
        for number in range(LOG_LINES.share + 50):
            self.emit(f"nobody at 10.0.0.{number}", about="nobody")
        self.emit("root at 10.0.0.9", about="root")
        texts = self.texts()
        self.assertEqual(len(texts), LOG_LINES.share + 2)
        self.assertEqual(texts[-2], "more lines about nobody are left out until the next minute")
        self.assertEqual(texts[-1], "root at 10.0.0.9: broken")

    def test_total(self):
        """Lines of many addresses end at what there is for all; the node's own lines do not."""
        for number in range(3 * LOG_LINES.total):
            self.emit(f"10.0.{number // 250}.{number % 250}")
        self.lines({"log_time": 0.0, "log_format": "log closed"})
        texts = self.texts()
        self.assertEqual(len(texts), LOG_LINES.total + 2)
        self.assertEqual(texts[-1], "log closed")
        self.assertLessEqual(len(self.lines._left_out), LOG_LINES.total + 1)

    def test_summary(self):
        """In the next minute it is said how many were left out, and whose; then all begins again."""
        for _ in range(LOG_LINES.share + 7):
            self.emit("10.0.0.1")
        self.emit("10.0.0.1", minute=1)
        self.assertEqual(
            self.texts()[-2:], ["7 lines about peers were left out: 10.0.0.1", "10.0.0.1: broken"]
        )

    def test_lasting(self):
        """What lasts is said once an hour, whoever says it how often; something else is said at once."""
        for minute in range(60):
            for peer in ("node-1", "node-2"):
                self.emit(peer, minute, error="it was removed", lasting="it was removed")
        self.assertEqual(self.texts(), ["node-1: it was removed"])
        self.emit("node-1", 59, error="expired", lasting="expired")
        self.emit("node-1", 60, error="it was removed", lasting="it was removed")
        self.assertEqual(self.texts()[1:], ["node-1: expired", "node-1: it was removed"])

    def test_lasting_texts_are_bounded(self):
        """However many states last, so many texts are remembered."""
        for number in range(3 * LASTING_LINES_MAX):
            self.emit(f"node-{number}", number // 50, lasting=str(number))
        self.assertEqual(len(self.lines._said), LASTING_LINES_MAX)

    def test_long_texts(self):
        """What a peer says of itself does not make a line longer than so much."""
        self.emit("10.0.0.1", error="A" * 2000)
        self.assertEqual(self.texts(), [f"10.0.0.1: {'A' * LOG_TEXT_SIZE_MAX}..."])

    def test_observer_has_it(self):
        """What a node writes goes through it."""
        file = io.StringIO()
        logger = Logger(namespace="loghouse.test", observer=make_observer(LoggingConfig(), file))
        for _ in range(2 * LOG_LINES.share):
            logger.warn("closing link of {peer}", peer="nobody")
        self.assertLess(len(file.getvalue().splitlines()), LOG_LINES.share + 5)


class ObserverTests(SynchronousTestCase):
    """Events as lines."""

    def emit(self, write, **settings):
        file = io.StringIO()
        write(Logger(namespace="loghouse.test", observer=make_observer(LoggingConfig(**settings), file)))
        return file.getvalue()

    def test_json_line(self):
        """An event is one object with its own fields beside time, level, logger and message."""
        text = self.emit(
            lambda logger: logger.info("leader {term}", term=3, uuid=b"\x01", peers=("a", "b"), odd=object),
            format="json",
        )
        line = json.loads(text)
        self.assertTrue(text.endswith("}\n"))
        self.assertTrue(line.pop("time").endswith("+00:00"))
        self.assertEqual(
            line,
            {
                "level": "info",
                "logger": "loghouse.test",
                "message": "leader 3",
                "term": 3,
                "uuid": "01",
                "peers": ["a", "b"],
                "odd": "<class 'object'>",
            },
        )

    def test_json_failure_has_its_traceback(self):
        """A failure's traceback is a field; the line stays one line."""

        def write(logger):
            try:
                raise ValueError("bug\nof two lines")
            except ValueError:
                logger.failure("while testing", Failure())

        text = self.emit(write, format="json")
        self.assertEqual(text.count("\n"), 1)
        self.assertIn("ValueError: bug", json.loads(text)["traceback"])

    def test_newlines_in_values_start_no_new_line(self):
        """A value with newlines cannot fake another line, in either format."""
        for format_ in ("text", "json"):
            text = self.emit(lambda logger: logger.info("name {n}", n="a\n2026 fake"), format=format_)
            self.assertEqual(
                len([line for line in text.splitlines() if not line.startswith("\t")]), 1, format_
            )

    def test_names_that_peers_choose(self):
        """What a terminal would obey is shown, in both formats."""

        def write(logger):
            logger.warn("refused {name}", name="\x1b[2J\x9b\u202eevil")

        for format_ in ("text", "json"):
            text = self.emit(write, format=format_)
            self.assertTrue(text.rstrip("\n").isprintable(), text)
            self.assertIn("evil", text)

    def test_unformattable_event_is_named(self):
        """An event that cannot be written leaves a line that says so."""

        class Odd:
            def __str__(self):
                raise ValueError("no text")

        text = self.emit(lambda logger: logger.info("x", odd=Odd()), format="json")
        self.assertIn("unformattable event", json.loads(text)["message"])

    def test_text_and_level(self):
        """Text goes through Twisted's own observer, filtered by level."""
        text = self.emit(lambda logger: (logger.info("low"), logger.error("high")), level="error")
        self.assertIn("high", text)
        self.assertNotIn("low", text)
        self.assertIsInstance(FileLogObserver, type)


class PidFileTests(SynchronousTestCase):
    """Which pid file is written, and which one of an earlier process counts."""

    def settle(self, *, content=None, nodaemon=False, name="other.pid"):
        folder = Path(self.mktemp())
        folder.mkdir()
        path = folder / name
        if content is not None:
            path.write_text(content)
        options = {"nodaemon": nodaemon, "pidfile": str(path)}
        daemon.settle_pid_file(options)
        return options["pidfile"], path.exists()

    def test_foreground(self):
        """In the foreground none is written, unless it was asked for."""
        options = {"nodaemon": True, "pidfile": "twistd.pid"}
        daemon.settle_pid_file(options)
        self.assertEqual(options["pidfile"], "")
        self.assertNotEqual(self.settle(nodaemon=True)[0], "")
        options = {"nodaemon": False, "pidfile": "twistd.pid"}
        daemon.settle_pid_file(options)
        self.assertEqual(options["pidfile"], "twistd.pid")

    def test_stale(self):
        """The own number, another program's, and none at all are stale; a living twistd's is not."""
        other = subprocess.Popen(["sleep", "60"])
        living = subprocess.Popen([sys.executable, "-c", "input()", "twistd"], stdin=subprocess.PIPE)
        for process in (other, living):
            self.addCleanup(process.communicate)
            self.addCleanup(process.kill)
        command = Path(f"/proc/{living.pid}/cmdline")
        wait_until(lambda: b"twistd" in command.read_bytes(), "the process to be one")
        for content, stays in (
            (str(os.getpid()), False),
            (str(other.pid), False),
            ("", False),
            ("12x", False),
            (str(living.pid), True),
        ):
            self.assertEqual(self.settle(content=content)[1], stays, content)


class DiagnosticsFileTests(SynchronousTestCase):
    """twistd's log file, when somebody rotates it."""

    def setUp(self):
        self.path = Path(self.mktemp()).absolute()
        self.file = daemon.DiagnosticsFile(str(self.path))
        self.addCleanup(lambda: self.file.close())

    def test_moved(self):
        """After a move the old file goes on, until either signal: then the path is there again."""
        for number, follow in enumerate((self.file.reopen, self.file.rotate_or_reopen)):
            moved = Path(f"{self.path}.moved{number}")
            self.file.write("old\n")
            self.path.rename(moved)
            self.file.write("old, too\n")
            follow()
            self.file.write(f"new {number}\n")
            self.assertEqual(moved.read_text().splitlines()[-2:], ["old", "old, too"])
            self.assertEqual(self.path.read_text(), f"new {number}\n")

    def test_mode(self):
        """Who may read the first file may read each later one; twistd's umask does not count."""
        self.path.chmod(0o640)
        file = daemon.DiagnosticsFile(str(self.path))
        self.addCleanup(file.close)
        self.addCleanup(os.umask, os.umask(0o077))
        file.rotate()
        self.assertEqual(self.path.stat().st_mode & 0o777, 0o640)

    def test_truncated(self):
        """After logrotate's copytruncate it goes on at the start, without a hole."""
        self.file.write("old\n")
        os.truncate(self.path, 0)
        self.file.write("new\n")
        self.assertEqual(self.path.read_text(), "new\n")

    def test_in_place(self):
        """A file that nobody moved is rotated by SIGUSR1; there are at most so many old ones."""
        for number in range(15):
            self.file.write(f"{number}\n")
            self.file.rotate_or_reopen()
        old = sorted(self.path.parent.glob(f"{self.path.name}.*"))
        self.assertEqual(len(old), 10)
        self.assertEqual(Path(f"{self.path}.1").read_text(), "14\n")
        self.assertEqual(self.path.read_text(), "")

    def test_size(self):
        """It rotates by itself at its size."""
        self.file.write("x" * LOG_FILE_SIZE_MAX)
        self.file.write("next\n")
        self.assertEqual(self.path.read_text(), "next\n")

    def test_no_new_file(self):
        """When there can be no new file, the old one goes on."""
        moved = Path(f"{self.path}.moved")
        self.path.rename(moved)
        self.path.mkdir()
        self.file.reopen()
        self.file.write("still\n")
        self.assertEqual(moved.read_text(), "still\n")


class TwistdTests(TapCase):
    """The real command."""

    skip = CHILDREN

    def test_help_imports_neither_tap_nor_reactor(self):
        """`twistd --help` lists loghouse without disturbing any other plugin."""
        code = (
            "import sys\nfrom twisted.scripts.twistd import run\nimport atexit\n"
            "atexit.register(lambda: print('IMPORTED', [m for m in "
            "('loghouse.tap', 'loghouse.runtime.reactor', 'twisted.internet.reactor') "
            "if m in sys.modules]))\nrun()"
        )
        done = twistd("--help", cwd=self.folder, code=code)
        self.assertIn("Run a node of Loghouse", done.stdout)
        self.assertIn("IMPORTED []", done.stdout)

    def test_other_reactor_is_explained(self):
        """`--reactor=epoll` fails with what to do, not a traceback."""
        done = twistd("-n", "--reactor=epoll", "loghouse", "--config", str(self.path), cwd=self.folder)
        self.assertEqual(done.returncode, 1, done.stdout)
        self.assertEqual(
            done.stderr,
            "twistd loghouse: loghouse needs the asyncio reactor, found EPollReactor; leave --reactor out\n",
        )

    def test_bad_file_prints_all_problems(self):
        """Foreground and daemon alike exit with 1 and every problem, before anything is made."""
        self.path.write_text(PLAIN + "nodes: 1\nlogging: {level: loud}\n")
        for mode in (["-n"], []):
            done = twistd(*mode, "loghouse", "--config", str(self.path), cwd=self.folder)
            self.assertEqual(done.returncode, 1, done.stdout)
            self.assertIn("has 2 problem(s)", done.stderr)
            self.assertIn("nodes (line 8): is not a setting; did you mean node?", done.stderr)
            self.assertIn("logging.level (line 9): 'loud' is not known", done.stderr)
        self.assertEqual(sorted(os.listdir(self.folder)), ["certs", "node.yaml"])


class RunningTests(TapCase):
    """A real node under twistd."""

    skip = CHILDREN

    def setUp(self):
        super().setUp()
        (self.folder / "policy").mkdir()
        certs.write_policy(self.folder / "policy")
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.address = f"127.0.0.1:{free.getsockname()[1]}"
        text = PLAIN.replace("127.0.0.1:8400", self.address).replace("certs/", "policy/")
        self.path.write_text(text + "logging: {format: json}\n")

    def test_daemon(self):
        """The daemon serves from its file's paths, logs JSON, and SIGTERM stops it in order."""
        rundir = self.folder / "elsewhere"
        rundir.mkdir()
        done = twistd("--rundir", str(rundir), "loghouse", "--config", "node.yaml", cwd=self.folder)
        self.assertEqual((done.returncode, done.stderr), (0, ""), done.stdout)
        process_id = int((self.folder / "twistd.pid").read_text())
        descriptor = os.pidfd_open(process_id)
        self.addCleanup(os.close, descriptor)
        self.addCleanup(kill_quietly, process_id)
        with connect_blocking(self.address, timeout_seconds=20) as log:
            self.assertEqual(log.bounds(), (0, 0))
        self.assertTrue((self.folder / "data").is_dir())
        log_path = self.folder / "twistd.log"
        for number in (signal.SIGHUP, signal.SIGUSR1):
            log_path.rename(self.folder / f"moved-{number}.log")
            os.kill(process_id, number)
            wait_until(log_path.exists, "a new log file")
        os.kill(process_id, signal.SIGTERM)
        self.assertTrue(select.select([descriptor], [], [], 30)[0], "the daemon did not end")
        lines = [json.loads(line) for line in (self.folder / "twistd.log").read_text().splitlines()]
        self.assertIn("log closed", [line["message"] for line in lines])
        self.assertEqual(os.listdir(rundir), [])
        self.assertFalse((self.folder / "twistd.pid").exists())

    def test_refused_start(self):
        """A port in use: one line on stderr, the reason in the log, exit code 1, no pid file."""
        with socket.create_server(("127.0.0.1", 0)) as taken:
            port = taken.getsockname()[1]
            self.path.write_text(self.path.read_text().replace(self.address, f"127.0.0.1:{port}"))
            (self.folder / "twistd.pid").write_text(str(os.getpid()))  # nobody asks for it in the foreground
            done = twistd("-n", "loghouse", "--config", "node.yaml", cwd=self.folder)
            self.assertEqual(done.returncode, 1)
            self.assertEqual(len(done.stderr.splitlines()), 1, done.stderr)
            self.assertRegex(done.stderr, rf"^twistd loghouse: cannot start: .*{port}")
            reasons = [json.loads(line) for line in done.stdout.splitlines()]
            self.assertTrue(any(line["level"] == "critical" for line in reasons), reasons)
            done_daemon = twistd("loghouse", "--config", "node.yaml", cwd=self.folder)
            self.assertEqual(done_daemon.returncode, 1)
            self.assertEqual(done_daemon.stderr.splitlines()[0], done.stderr.strip())
            self.assertIn("see the line above", done_daemon.stderr)
            # The parent ends as soon as it heard of the error; its child then removes the file, and ends.
            wait_until(lambda: not (self.folder / "twistd.pid").exists(), "the pid file to go")


def kill_quietly(process_id):
    """End a daemon that a failed test left behind."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(process_id, signal.SIGKILL)
