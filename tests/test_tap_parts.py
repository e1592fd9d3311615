"""The pieces of `twistd loghouse` one by one: which file is logged to, what is told of a start, lines."""

import io
import json
import os
import signal
import stat
import sys
from importlib.util import module_from_spec
from pathlib import Path
from types import SimpleNamespace

from twisted.application import service
from twisted.logger import ILogObserver, Logger, LogLevel
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from loghouse import __version__, tap
from loghouse.config.settings import LoggingConfig, load
from loghouse.diagnostics import (
    LASTING_MINUTES,
    PEERS_NAMED_MAX,
    PeerLines,
    format_json,
    format_text,
    make_observer,
)
from loghouse.errors import DataDirectoryError, ReactorError
from loghouse.limits import LASTING_LINES_MAX, LOG_FILE_SIZE_MAX, LOG_LINES, LOG_TEXT_SIZE_MAX
from loghouse.runtime import daemon
from loghouse.runtime import reactor as reactor_module
from loghouse.service.node_service import NodeService
from tests.test_tap import FailingService, TapCase


class CommandTests(TapCase):
    """Options and what is made of them."""

    def test_version(self):
        """--version prints one line and ends with 0."""
        out = io.StringIO()
        self.patch(sys, "stdout", out)
        exit_ = self.assertRaises(SystemExit, tap.Options().parseOptions, ["--version"])
        self.assertEqual((exit_.code, out.getvalue()), (0, f"loghouse {__version__}\n"))

    def test_pid_file(self):
        """Under twistd the pid file is settled; under what has none nothing is."""
        for parent, expected in (
            ({"nodaemon": True, "pidfile": "twistd.pid"}, ""),
            ({"pidfile": "twistd.pid"}, "twistd.pid"),
        ):
            options = tap.Options()
            options.parent = parent
            options.parseOptions(["-c", str(self.path)])
            self.assertEqual(parent["pidfile"], expected)

    def test_make_service(self):
        """The node is the one service inside; only twistd's options are asked for a log file."""
        for parent, keeps in ((None, False), ({"logfile": ""}, False), ({"nodaemon": True}, True)):
            options = tap.Options()
            options.config, options.parent = load(self.path), parent
            boot = tap.makeService(options)
            [inner] = list(boot)
            self.assertIsInstance(inner, NodeService)
            self.assertIs(boot._twistd_options, parent if keeps else None)

    def test_log_file(self):
        """Which file is logged to, by twistd's options."""
        before = os.getcwd()
        self.addCleanup(os.chdir, before)
        os.chdir(self.folder)
        for number in (signal.SIGHUP, signal.SIGUSR1):
            self.addCleanup(signal.signal, number, signal.getsignal(number))
        for options, expected in (
            ({"nodaemon": True}, sys.stdout),
            ({"nodaemon": True, "logfile": ""}, sys.stdout),
            ({"nodaemon": True, "logfile": "-"}, sys.stdout),
            ({"nodaemon": True, "logfile": "own.log"}, "own.log"),
            ({"nodaemon": True, "logfile": "-", "syslog": True}, None),
            ({"nodaemon": False, "logfile": "-"}, None),
            ({"nodaemon": False, "logfile": None}, "twistd.log"),
            ({"nodaemon": False, "logfile": "own.log"}, "own.log"),
        ):
            file = tap._log_file(options)
            if isinstance(expected, str):
                self.addCleanup(file.close)
                self.assertEqual(file.path, str(self.folder / expected))
            else:
                self.assertIs(file, expected)

    def test_signals(self):
        """SIGHUP opens the log file anew, SIGUSR1 rotates it, both on the reactor's thread."""
        from twisted.internet import reactor

        for number in (signal.SIGHUP, signal.SIGUSR1):
            self.addCleanup(signal.signal, number, signal.getsignal(number))
        soon = []
        self.patch(reactor, "callFromThread", soon.append)
        file = tap._log_file({"nodaemon": True, "logfile": str(self.folder / "own.log")})
        self.addCleanup(file.close)
        for number, work in ((signal.SIGHUP, file.reopen), (signal.SIGUSR1, file.rotate_or_reopen)):
            signal.getsignal(number)(number, None)
            self.assertEqual(soon.pop(), work)
        self.assertEqual(soon, [])

    def test_who_is_told(self):
        """A daemon's start has somebody at the terminal who is told, in the foreground it has not."""
        self.patch(tap, "_log_file", lambda options: None)
        for nodaemon in (True, False):
            boot = tap.BootService(load(self.path), {"nodaemon": nodaemon})
            boot.setServiceParent(service.Application("loghouse"))
            self.assertEqual(boot._news is None, nodaemon)
            if boot._news is not None:
                boot._news.close()
        boot = tap.BootService(load(self.path), None)
        boot.setServiceParent(service.Application("loghouse"))
        self.assertIsNone(boot._news)
        inner = tap.BootService(load(self.path), {"nodaemon": False})
        inner.setServiceParent(service.MultiService())  # no application: nobody to ask for an observer
        self.assertIsNone(inner._news)


class StartTests(TapCase):
    """A start that fails, and one that does not."""

    def setUp(self):
        super().setUp()
        self.addCleanup(setattr, sys, "excepthook", sys.excepthook)
        self.events = []
        self.patch(tap.BootService, "logger", Logger(observer=self.events.append))

    def test_with_somebody_at_the_terminal(self):
        """A daemon tells the reason there, and twistd where to look; then the terminal is free."""
        reading, writing = os.pipe()
        self.addCleanup(os.close, reading)
        self.patch(os, "dup", lambda fd: writing if fd == 2 else -1)
        boot = tap.BootService(load(self.path))
        boot._news = daemon.StartNews()
        FailingService().setServiceParent(boot)
        error = self.assertRaises(daemon.NotStartedError, boot.startService)
        self.assertEqual(str(error), "see the line above")
        told = os.read(reading, 1000)
        self.assertEqual(told, b"twistd loghouse: cannot start: data is in use by another process\n")
        self.assertEqual(os.read(reading, 1000), b"")  # closed
        boot._news.close()  # once more: nothing happens

    def test_terminal_is_closed_once(self):
        """The terminal is let go once, whatever its number; what has that number later stays open."""
        closed = []
        self.patch(os, "close", closed.append)
        for number in (0, 7):
            self.patch(os, "dup", lambda fd, number=number: number)
            news = daemon.StartNews()
            self.assertEqual(closed, [])
            news.close()
            news.close()
            self.assertEqual(closed, [number])
            closed.clear()

    def test_started(self):
        """A daemon that started lets the terminal go."""
        closed = []
        boot = tap.BootService(load(self.path))
        boot._news = SimpleNamespace(close=lambda: closed.append(True))
        frozen, collected = [], []
        self.patch(tap.gc, "freeze", lambda: frozen.append(len(collected)))
        self.patch(tap.gc, "collect", lambda: collected.append(True))
        boot.startService()
        self.assertEqual((closed, frozen, self.events), ([True], [1], []))
        self.assertTrue(boot.running)

    def test_privileged(self):
        """What fails with the rights of the user who typed the command is told like any other failure."""

        class Failing(service.Service):
            def privilegedStartService(self):
                raise PermissionError(13, "no")

        boot = tap.BootService(load(self.path))
        Failing().setServiceParent(boot)
        self.assertRaises(PermissionError, boot.privilegedStartService)
        [event] = self.events
        self.assertEqual((event["log_level"], event["reason"]), (LogLevel.critical, "[Errno 13] no"))

    def test_printed(self):
        """Errors of ours are one line, what was told before is nothing, and a bug is a traceback."""
        err, shown = io.StringIO(), []
        self.patch(sys, "__stderr__", err)
        self.patch(sys, "__excepthook__", lambda *args: shown.append(args))
        for error in (DataDirectoryError("in use"), OSError("no\x1b\nroom"), daemon.NotStartedError("x")):
            tap._print_one_line(type(error), error, None)
        lines = ["twistd loghouse: cannot start: in use", "twistd loghouse: cannot start: no\\x1b", "room"]
        self.assertEqual((err.getvalue().splitlines(), shown), (lines, []))
        bug = ValueError("bug")
        tap._print_one_line(ValueError, bug, None)
        self.assertEqual(shown, [(ValueError, bug, None)])
        self.patch(sys, "__stderr__", None)
        daemon.print_one_line(bug)  # a process without a terminal


class ImportTests(SynchronousTestCase):
    """What happens when twistd imports the plugin's module."""

    def imported(self):
        """Execute the module once more, apart from the one that is there."""
        module = module_from_spec(tap.__spec__)
        tap.__spec__.loader.exec_module(module)

    def test_reactor(self):
        """Our reactor is installed, before the default one can be."""
        installed = []
        self.patch(reactor_module, "install", lambda: installed.append(True))
        self.imported()
        self.assertEqual(installed, [True])

    def test_other_reactor(self):
        """Under another reactor twistd ends with one line."""

        def refuse():
            raise ReactorError("leave --reactor out")

        self.patch(reactor_module, "install", refuse)
        error = self.assertRaises(SystemExit, self.imported)
        self.assertEqual(error.code, "twistd loghouse: leave --reactor out")

    def test_lines_of_grpc(self):
        """gRPC's own lines are off, unless the user wants them."""
        for before, after in ((None, "NONE"), ("DEBUG", "DEBUG")):
            environment = {} if before is None else {"GRPC_VERBOSITY": before}
            self.patch(os, "environ", environment)
            self.imported()
            self.assertEqual(environment, {"GRPC_VERBOSITY": after})


class PidFileTests(SynchronousTestCase):
    """A pid file of an earlier process."""

    def test_none(self):
        """No name is no file; one that is not there, or cannot be read, is left alone."""
        folder = Path(self.mktemp())
        folder.mkdir()
        for name in ("", str(folder / "absent"), str(folder)):
            options = {"nodaemon": False, "pidfile": name}
            daemon.settle_pid_file(options)
            self.assertEqual(options["pidfile"], name)
        gone = folder / "gone"
        gone.write_text("999999999")  # no process has it: twistd removes the file by itself
        daemon.settle_pid_file({"nodaemon": True, "pidfile": str(gone)})
        self.assertTrue(gone.exists())

    def test_taken_away_meanwhile(self):
        """A stale file that somebody else removes first is gone, which is all that was wanted."""
        folder = Path(self.mktemp())
        folder.mkdir()
        path = folder / "own.pid"
        path.write_text("12x")
        is_stale = daemon._is_stale
        self.patch(daemon, "_is_stale", lambda path: is_stale(path) and path.unlink() is None)
        daemon.settle_pid_file({"nodaemon": False, "pidfile": str(path)})
        self.assertFalse(path.exists())

    def test_sizes(self):
        """A file takes all that fits into its size, also what it had before; the next line is in another."""
        folder = Path(self.mktemp()).absolute()
        folder.mkdir()
        path = folder / "own.log"
        path.write_text("before")
        file = daemon.DiagnosticsFile(str(path))
        self.addCleanup(lambda: file.close())
        file.write("x" * (LOG_FILE_SIZE_MAX - 6))
        self.assertEqual([one.name for one in folder.iterdir()], ["own.log"])
        file.write("next")
        self.assertEqual(path.read_text(), "next")
        self.assertEqual((folder / "own.log.1").stat().st_size, LOG_FILE_SIZE_MAX)

    def test_reopened(self):
        """A file that is opened anew is closed under its old name."""
        folder = Path(self.mktemp()).absolute()
        folder.mkdir()
        file = daemon.DiagnosticsFile(str(folder / "own.log"))
        self.addCleanup(lambda: file.close())
        before = file._file
        (folder / "own.log").rename(folder / "moved.log")
        file.reopen()
        self.assertEqual((before.closed, file._file.closed), (True, False))

    def test_mode(self):
        """A file that is opened anew has the rights of the first one; one that is there keeps its own."""
        folder = Path(self.mktemp()).absolute()
        folder.mkdir()
        path = folder / "own.log"
        file = daemon.DiagnosticsFile(str(path))
        self.addCleanup(lambda: file.close())
        path.chmod(0o640)
        first = file._mode
        moved = folder / "moved.log"
        path.rename(moved)
        before = os.umask(0o077)
        self.addCleanup(os.umask, before)
        file.reopen()
        self.assertEqual(stat.S_IMODE(path.stat().st_mode), stat.S_IMODE(first))
        path.chmod(0o600)
        file.write("x\n")
        file.reopen()
        self.assertEqual((stat.S_IMODE(path.stat().st_mode), file.size), (0o600, 2))
        self.assertFalse(file.closed)

    def test_reopen_in_vain(self):
        """When the path cannot be opened, the file at hand is written on."""
        folder = Path(self.mktemp()).absolute()
        folder.mkdir()
        file = daemon.DiagnosticsFile(str(folder / "own.log"))
        self.addCleanup(lambda: file.close())
        events = []
        self.patch(daemon.DiagnosticsFile, "logger", Logger(observer=events.append))
        (folder / "own.log").rename(folder / "moved.log")
        (folder / "own.log").mkdir()
        file.reopen()
        file.write("still\n")
        self.assertEqual((folder / "moved.log").read_text(), "still\n")
        self.assertEqual([event["log_level"] for event in events], [LogLevel.error])


class LineTests(SynchronousTestCase):
    """Events as text and JSON, and which of them are left out."""

    def setUp(self):
        self.seen = []
        self.lines = PeerLines(self.seen.append)

    def emit(self, peer, minute=0, **fields):
        self.lines({"log_time": 60.0 * minute + 59.9, "log_format": "{peer}", "peer": peer, **fields})

    def test_json(self):
        """What an event has of its own, as JSON; what Twisted adds is left out or has a shorter name."""
        try:
            raise ValueError("bug")
        except ValueError:
            failure = Failure()
        event = {
            "log_time": 1.5, "log_level": LogLevel.warn, "log_namespace": "n", "log_format": "a {b}", "b": 1,
            "time": "old", "system": "old", "isError": 1, "format": "old", "failure": "old", "why": "old",
            "message": "old", "level": "own", "logger": "own", "f": 2.5, "none": None, "yes": True,
            "bytes": b"\x01", "array": bytearray(b"\x02"), "view": memoryview(b"\x03"),
            "list": [1, (2, {3})], "frozen": frozenset([b"\x04"]), "odd": LogLevel.info,
            "log_failure": failure,
        }  # fmt: skip
        line = json.loads(format_json(event))
        self.assertIn("ValueError: bug", line.pop("traceback"))
        self.assertEqual(
            line,
            {
                "time": "1970-01-01T00:00:01.500000+00:00", "level": "warn", "logger": "n", "message": "a 1",
                "b": 1, "f": 2.5, "none": None, "yes": True, "bytes": "01", "array": "02", "view": "03",
                "list": [1, [2, [3]]], "frozen": ["04"], "odd": str(LogLevel.info),
            },
        )  # fmt: skip
        self.assertEqual(
            json.loads(format_json({"log_format": "x"})),
            {"time": "1970-01-01T00:00:00.000000+00:00", "level": "info", "logger": "", "message": "x"},
        )

    def test_written_at_once(self):
        """Each line of JSON is flushed."""
        flushed = []
        file = io.StringIO()
        file.flush = lambda: flushed.append(file.getvalue())
        Logger(namespace="n", observer=make_observer(LoggingConfig(format="json"), file)).info("a")
        self.assertEqual(len(flushed), 1)
        self.assertTrue(flushed[0].endswith("}\n"))

    def test_text(self):
        """Text keeps newlines and tabs, and shows the rest; an event without a text is no line."""
        text = format_text({"log_time": 0.0, "log_format": "a\tb\x07{c}", "c": "\x1b"})
        self.assertIn("a\tb\\x07\\x1b\n", text)
        self.assertIsNone(format_text({}))

    def test_levels(self):
        """What is below the level is not written, what is at it is."""
        for format_ in ("text", "json"):
            file = io.StringIO()
            observer = make_observer(LoggingConfig(format=format_, level="warn"), file)
            logger = Logger(namespace="loghouse.test", observer=observer)
            for level in (LogLevel.debug, LogLevel.info, LogLevel.warn, LogLevel.critical):
                logger.emit(level, "at {log_level.name}")
            self.assertEqual(
                [name in file.getvalue() for name in ("info", "warn", "critical")], [False, True, True]
            )
            self.assertEqual(file.getvalue().startswith("{"), format_ == "json")

    def test_names_of_left_out(self):
        """The five with the most are named, the first of them first, and that there are more."""
        for number in range(PEERS_NAMED_MAX + 1):
            for _ in range(LOG_LINES.share + 1 + number):
                self.lines._lines.held = 0  # room for all of them
                self.emit(f"p{number}")
        self.seen.clear()
        self.emit("root", 1)
        self.assertEqual(self.seen[0]["count"], sum(range(1, PEERS_NAMED_MAX + 2)))
        self.assertEqual(self.seen[0]["peers"], "p5, p4, p3, p2, p1, ...")
        self.assertEqual(self.seen[0]["log_time"], 119.9)
        self.assertEqual(self.seen[0]["log_level"], LogLevel.warn)
        self.seen.clear()
        for _ in range(LOG_LINES.share + 1):
            self.emit("p", 2, about="a" * 1000)
        self.assertEqual(self.seen[-1]["peers"], "a" * LOG_TEXT_SIZE_MAX)

    def test_others(self):
        """So many are counted by name; who is left out after them is one of the others."""
        for number in range(LOG_LINES.total):
            self.emit(f"first {number}")
        for number in range(LOG_LINES.total + 2):
            self.emit(f"p{number}")
        for peer, count in (("p0", 8), ("p1", 10), ("unheard", 8)):
            for _ in range(count):
                self.emit(peer)
        self.seen.clear()
        self.emit("root", 1)
        self.assertEqual(self.seen[0]["count"], LOG_LINES.total + 2 + 26)
        self.assertEqual(self.seen[0]["peers"], "p1, others, p0, p2, p3, ...")

    def test_without_a_time(self):
        """What is said of lines without a time has none of its own."""
        for _ in range(LOG_LINES.share + 1):
            self.lines({"peer": "a", "log_format": "x"})
        self.assertEqual(self.seen[-1]["log_time"], 0.0)
        self.assertEqual(self.seen[-1]["peers"], "a")

    def test_minutes(self):
        """Only another minute begins anew; a line without a time is of the first one."""
        for _ in range(LOG_LINES.share):
            self.emit("a", 3)
        self.emit("a", 3)
        self.assertEqual(len(self.seen), LOG_LINES.share + 1)
        self.emit("a", 4)
        self.assertEqual([event["log_format"] for event in self.seen[-2:]][1], "{peer}")
        self.seen.clear()
        for _ in range(LOG_LINES.share):
            self.lines({"peer": "a", "log_format": "x"})
        self.lines({"peer": "a", "log_format": "last", "log_time": 59.9})
        self.assertEqual([event["log_format"] for event in self.seen[:-1]], ["x"] * LOG_LINES.share)
        self.assertIn("left out until", self.seen[-1]["log_format"])

    def test_lasting(self):
        """What lasts is said again after an hour, not before; the oldest is forgotten for a new one."""
        for minute, is_said in ((40, True), (39 + LASTING_MINUTES, False), (40 + LASTING_MINUTES, True)):
            self.seen.clear()
            self.emit("a", minute, lasting="s")
            self.assertEqual(bool(self.seen), is_said, minute)
        lines = PeerLines(lambda event: None)
        for number in range(LASTING_LINES_MAX + 1):
            self.assertTrue(lines._is_new(str(number), 0))
        self.assertTrue(lines._is_new("0", 0))
        self.assertFalse(lines._is_new("2", 0))

    def test_said_again(self):
        """What was said again is the newest of what is remembered, and takes no room of others."""
        for count in (LASTING_LINES_MAX, LASTING_LINES_MAX - 1):
            lines = PeerLines(lambda event: None)
            for number in range(count):
                lines._is_new(str(number), number // 2 + 1)
            self.assertTrue(lines._is_new("1", LASTING_MINUTES + 1))
            self.assertEqual(len(lines._said), count)
            self.assertFalse(lines._is_new(str(count - 1), count // 2))
            for number in range(LASTING_LINES_MAX - 1):
                lines._is_new(f"new {number}", LASTING_MINUTES + 2)
            self.assertFalse(lines._is_new("1", LASTING_MINUTES + 2))

    def test_first_left_out(self):
        """The first line that is left out is told as one."""
        for _ in range(LOG_LINES.share + 2):
            self.emit("a")
        self.assertEqual((self.seen[-1]["count"], self.seen[-1]["peers"]), (1, "a"))

    def test_shortened(self):
        """Texts of a peer are cut; numbers, and what the log itself says, are not."""
        long = "x" * (LOG_TEXT_SIZE_MAX + 1)
        number = 10**300
        self.emit("a", error=long, exact=long[:-1], count=number, message=long)
        [event] = self.seen
        self.assertEqual(event["error"], long[:-1] + "...")
        self.assertEqual((event["exact"], event["count"], event["message"]), (long[:-1], number, long))
        self.assertEqual(event["log_format"], "{peer}")

    def test_without_a_peer(self):
        """A line about nobody is passed on as it is, however many there were."""
        event = {"log_time": 0.0, "error": "x" * 9999}
        self.lines(event)
        self.assertIs(self.seen[0], event)


class ApplicationTests(TapCase):
    """What twistd's application is given."""

    def test_observer(self):
        """With a file an observer, without one none."""
        for file, has_one in ((io.StringIO(), True), (None, False)):
            self.patch(tap, "_log_file", lambda options, file=file: file)
            application = service.Application("loghouse")
            tap.BootService(load(self.path), {"nodaemon": True}).setServiceParent(application)
            self.assertEqual(application.getComponent(ILogObserver) is not None, has_one)
            self.assertEqual(len(list(service.IServiceCollection(application))), 1)
