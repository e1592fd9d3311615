"""`twistd loghouse`: options, and the composition root of a node.

Imported by twistd only when the user types `loghouse`, so installing our reactor here disturbs no other
command.
"""

from __future__ import annotations

import gc
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any, TextIO, cast

# gRPC's C core writes lines of its own past any logger; what it knows reaches us as errors, too.
os.environ.setdefault("GRPC_VERBOSITY", "NONE")

# Modules are no garbage: without the collector they load in 0.94 of the time.
_collects = gc.isenabled()
gc.disable()

from loghouse.errors import ConfigError, LoghouseError, ReactorError, what_brings
from loghouse.runtime import reactor as _reactor

try:
    _reactor.install()  # before anything below imports the default reactor
except ReactorError as error:
    sys.exit(f"twistd loghouse: {error}")

from twisted.application.service import IService, MultiService
from twisted.logger import ILogObserver, Logger
from twisted.python import usage
from twisted.python.components import Componentized

from loghouse import __version__
from loghouse.config.settings import LoggingConfig, NodeConfig, load
from loghouse.diagnostics import Diagnostics, make_observer
from loghouse.runtime.daemon import (
    DiagnosticsFile,
    NotStartedError,
    StartNews,
    print_one_line,
    settle_pid_file,
)

try:
    from loghouse.service.node_service import make_service
except ModuleNotFoundError as error:
    sys.exit(f"twistd loghouse: {what_brings(error)}")

if _collects:
    gc.enable()


class Options(usage.Options):
    """The command line of `twistd loghouse`."""

    synopsis = "[twistd options] loghouse --config node.yaml"
    longdesc = (
        "Run one node of Loghouse, a replicated append-only log. All settings are in node.yaml: "
        "`loghouse config example` prints a commented one, `loghouse config check node.yaml` checks yours."
    )
    optParameters = [["config", "c", None, "The node's settings (node.yaml)."]]

    config: NodeConfig

    def opt_version(self) -> None:
        """Print the version of Loghouse and exit."""
        print(f"loghouse {__version__}")  # noqa: T201 - the answer to --version
        sys.exit(0)

    def postOptions(self) -> None:
        """Read and check node.yaml; a daemon changes its directory later, so paths become absolute here.

        Raises:
            UsageError: No --config.
            SystemExit: node.yaml is wrong; every problem is printed.
        """
        if not self["config"]:
            raise usage.UsageError("--config is missing; `loghouse config example > node.yaml` makes one")
        parent = getattr(self, "parent", None)
        if parent is not None and "nodaemon" in parent:
            settle_pid_file(parent)
        path = Path(os.path.abspath(self["config"]))
        try:
            self.config = load(path)
        except ConfigError as error:
            lines = "".join(f"\n  {problem}" for problem in error.problems)
            sys.exit(f"twistd loghouse: {path} has {len(error.problems)} problem(s):{lines}")
        self["config"] = str(path)


class BootService(MultiService):
    """The outermost service: sets up diagnostics, and gives a failed start one line and an exit code."""

    logger = Logger()

    def __init__(self, config: NodeConfig, twistd_options: Any = None) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._config = config
        self._twistd_options = twistd_options
        self._news: StartNews | None = None
        self._diagnostics: Diagnostics | None = None

    def setServiceParent(self, parent: Any) -> None:
        """Join twistd's application and tell it where diagnostics go, in node.yaml's format.

        twistd asks its application for an observer unless `--logger` names one.
        """
        if isinstance(parent, Componentized) and self._twistd_options is not None:
            file = _log_file(self._twistd_options)
            if not self._twistd_options.get("nodaemon"):
                self._news = StartNews()
            if file is not None:
                self._diagnostics = make_observer(self._config.logging, file)
                parent.setComponent(ILogObserver, self._diagnostics)
        super().setServiceParent(parent)  # type: ignore[no-untyped-call]

    def change_logging(self, config: LoggingConfig) -> None:
        """Go on with other settings of the diagnostics, unless somebody else writes them."""
        if self._diagnostics is not None:
            self._diagnostics.change(config)

    def privilegedStartService(self) -> None:
        """Start what needs the rights of the user who typed the command."""
        try:
            super().privilegedStartService()  # type: ignore[no-untyped-call]
        except (LoghouseError, OSError) as error:
            raise self._refused(error) from None

    def startService(self) -> None:
        """Start the node, synchronously as far as anything can fail.

        Raises:
            LoghouseError, OSError: The node cannot start; twistd exits with code 1.
        """
        try:
            super().startService()  # type: ignore[no-untyped-call]
        except (LoghouseError, OSError) as error:
            raise self._refused(error) from None
        # What the start made stays: looking at it in every full collection would stop the reactor for 60 ms.
        gc.collect()
        gc.freeze()
        if self._news is not None:
            self._news.close()

    def _refused(self, error: Exception) -> Exception:
        self.logger.critical("cannot start: {reason}", reason=str(error))
        # twistd lets the error fly (it must, to remove its pid file), and Python would print a traceback.
        sys.excepthook = _print_one_line
        return self._news.failed(error) if self._news is not None else error


def _print_one_line(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    if isinstance(error, (LoghouseError, OSError)):
        print_one_line(error)
    elif not isinstance(error, NotStartedError):  # that was told before
        sys.__excepthook__(kind, error, trace)


def _log_file(options: Any) -> TextIO | None:
    """Return the file that twistd would write diagnostics to; None leaves the choice (syslog) to twistd."""
    if options.get("syslog"):
        return None
    name = options.get("logfile")
    if options.get("nodaemon") and name in (None, "", "-"):
        return sys.stdout
    if name == "-":
        return None  # twistd explains that a daemon cannot log to stdout
    path = os.path.abspath(name or "twistd.log")
    try:
        file = DiagnosticsFile(path)
    except OSError as error:
        sys.exit(f"twistd loghouse: {path}: {error.strerror}; choose another with twistd --logfile")
    # The node adds reading its certificates and policy again to SIGHUP.
    for number, work in ((signal.SIGHUP, file.reopen), (signal.SIGUSR1, file.rotate_or_reopen)):
        signal.signal(number, _soon(work))
    return cast(TextIO, file)


def _soon(work: Callable[[], None]) -> Callable[[int, FrameType | None], None]:
    from twisted.internet import reactor

    return lambda number, frame: cast(Any, reactor).callFromThread(work)


def makeService(options: Options) -> IService:
    """Build the node's service tree; nothing is opened, bound or started yet."""
    parent = getattr(options, "parent", None)
    # `twist` has its own observer and no application to ask; only twistd's options know `nodaemon`.
    twistd_options = parent if parent is not None and "nodaemon" in parent else None
    boot = BootService(options.config, twistd_options)
    make_service(options.config, boot.change_logging).setServiceParent(boot)
    return cast(IService, boot)
