"""The service tree of one node: what starts after what, and the ordered stop.

Everything that can fail at boot fails synchronously in `startService`, so twistd
exits with a code that is not 0 and a reason. The stop is one coroutine: servers
first, with a grace for calls under way, then the log.
"""

from __future__ import annotations

import os
import random
import signal
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, cast

from twisted.application.service import IService, Service
from twisted.internet.defer import Deferred, DeferredLock, maybeDeferred
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import LoopingCall
from twisted.internet.threads import deferToThreadPool
from twisted.logger import Logger
from twisted.python.failure import Failure

from loghouse import __version__
from loghouse.api.server import GrpcServer
from loghouse.auth.credentials import Credentials
from loghouse.auth.policy import Authorizer, Rules
from loghouse.cluster.cluster import Cluster, ClusterOptions
from loghouse.config.settings import LoggingConfig, NodeConfig
from loghouse.errors import ConfigError, LoghouseError, ReloadRefusedError
from loghouse.gossip import config as swim_config
from loghouse.http.counters import Counters
from loghouse.http.delays import Delays
from loghouse.metrics import NO_METRICS, Metrics
from loghouse.net.accept import own_hello
from loghouse.net.one_port import OnePort, OnePortOptions, replicas_allowed
from loghouse.net.peer import DialContext
from loghouse.node.api import Reloaded
from loghouse.node.audit import Audit, left_out_line
from loghouse.node.gate import Gate
from loghouse.node.node import HAND_OVER_SECONDS_MAX, SETTLE_SECONDS_MAX, Node
from loghouse.node.options import NodeOptions
from loghouse.protocol.configuration import Retention
from loghouse.raft import config as raft_config
from loghouse.runtime.bridge import call_from_thread, from_asyncio, later, soon
from loghouse.runtime.line_file import LineFile
from loghouse.runtime.scheduling import Clocks
from loghouse.runtime.threads import ThreadQueue
from loghouse.service.proving import credentials_of, paths_of_tls
from loghouse.service.reloading import Fresh, compare, in_force, material_told, read_fresh, rules_told
from loghouse.service.start_checks import read_policy
from loghouse.service.subject_checks import append_check, cursor_check
from loghouse.service.tracing import export_of
from loghouse.storage.files import OsFiles

if TYPE_CHECKING:
    from loghouse.http.server import HttpServer
    from loghouse.service.systemd import SystemdNotifier
    from loghouse.tracing.spans import Tracer

WATCH_SECONDS: Final = 5.0
EXIT_DISK_FAILED: Final = 1
_SWIM: Final = {"local": swim_config.LOCAL, "lan": swim_config.LAN, "wan": swim_config.WAN}
_RAFT: Final = {"local": raft_config.LAN, "lan": raft_config.LAN, "wan": raft_config.WAN}
LEAVE_SECONDS_MAX: Final = 1.0
WARNINGS_TOLD_MAX: Final = 20  # of one policy
AUDIT_CLOSE_SECONDS_MAX: Final = 1.0  # for what waits to be written


def make_service(
    config: NodeConfig, change_logging: Callable[[LoggingConfig], None] | None = None
) -> IService:
    """Compose a node's service tree from its settings; nothing is opened, bound or started yet.

    Args:
        change_logging: Lets the diagnostics go on with other settings; None when they are not the node's.

    Raises:
        LoghouseError: Certificates or policy are missing or wrong.
    """
    from twisted.internet import reactor

    service = NodeService(config, cast(Any, reactor))
    service.change_logging = change_logging or service.change_logging
    return cast(IService, service)


class FileWatch:
    """Calls `reload` when one of the files changed; looks at their times and sizes, never inside.

    Args:
        paths: The files.
        reload: Returns None, or a Deferred when it goes on; until that fires nobody looks.
    """

    def __init__(self, paths: Iterable[Path], reload: Callable[[], Deferred[None] | None]) -> None:
        self._paths = tuple(paths)
        self._reload = reload
        self._is_reloading = False
        self._seen = self._look()

    def _look(self) -> tuple[tuple[int, int, int] | None, ...]:
        return tuple(_stamp(path) for path in self._paths)

    def check(self) -> None:
        """Reload if something changed since the last look."""
        if self._is_reloading:
            return
        seen = self._look()
        if seen != self._seen:
            self._seen = seen
            self._is_reloading = True
            maybeDeferred(self._reload).addBoth(self._reloaded)

    def _reloaded(self, outcome: object) -> object:
        self._is_reloading = False
        return outcome


def _stamp(path: Path) -> tuple[int, int, int] | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return (status.st_mtime_ns, status.st_size, status.st_ino)


class NodeService(Service):
    """The node and its servers."""

    logger = Logger()

    def __init__(self, config: NodeConfig, reactor: Any, metrics: Metrics = NO_METRICS) -> None:
        self._config = config
        if metrics is NO_METRICS and config.http_listen is not None:
            metrics = Counters()  # somebody may ask
        self._metrics = metrics
        self._export = export_of(config)  # sends spans away; None where nothing is traced
        self._heartbeat = Delays(reactor)
        self._reactor = reactor
        self._watches: list[FileWatch] = []
        self._http: HttpServer | None = None  # made by the start; None without `http_listen`
        self._gates: list[Gate] = []  # one for each server; made by the start
        self._has_rotated = False  # whether SIGUSR1 opens the audit's file anew
        self._audit = Audit(time.time)
        self._audit_file: LineFile | None = None  # what it writes into; None: the diagnostics
        self._notifier: SystemdNotifier | None = None  # made by the start; None: not started by systemd
        self._reloading = DeferredLock()  # settings are read and taken one time after the other
        self.change_logging: Callable[[LoggingConfig], None] = lambda logging: None
        self.node = Node(
            _node_options(config, metrics, self._tracer),
            files=OsFiles(),
            clocks=Clocks(cast(IReactorTime, reactor), soon(), later(), time.time, time.monotonic),
            rng=random.SystemRandom(),
            make_queue=lambda name, count: ThreadQueue(name, call_from_thread(), count),
            on_fatal=self._die,
        )

    @property
    def _tracer(self) -> Tracer | None:
        return self._export.tracer if self._export is not None else None

    def _die(self, failure: Failure) -> None:
        """End the process at once: what the disk holds after a failed sync is known only to a new start."""
        self.logger.failure("the node cannot go on: {reason}", failure, reason=failure.getErrorMessage())
        sys.stdout.flush()
        sys.stderr.write(f"loghouse: {failure.getErrorMessage()}\n")
        sys.stderr.flush()
        os._exit(EXIT_DISK_FAILED)

    def startService(self) -> None:
        """Bind the servers, open the logs, begin to serve.

        Raises:
            LoghouseError: Says why the node cannot start.
        """
        config = self._config
        # What needs no disk fails first, and whatever fails leaves the disk as it was.
        authorizer, credentials = self._read_security()
        try:
            self.node.claim()
            self._open_audit(config.audit)
            self._server = self._bind(authorizer, credentials)
            self.node.startService()
            # Who connects is served from the next turn of the reactor on, at both addresses.
            if self._http is not None:
                self._http.listen()
            self._one_port.listen()
        except BaseException:
            self._open_audit(None)
            self._one_port.abort()
            if self._http is not None:
                self._http.abort()
            if self.node.running:
                self.node.stopService()
            else:
                self.node.release()
            raise
        if self._export is not None:
            self._export.start()
        from_asyncio(self._server.start()).addCallback(self._serves).addErrback(self._die)
        if not self.node.options.is_alone or self.node.is_in_cluster:
            self._join()
        self._watching = LoopingCall(self._check_files)
        self._watching.clock = self._reactor
        self._watching.start(WATCH_SECONDS, now=False).addErrback(
            lambda failure: self.logger.failure("watching certificates and policy", failure)
        )
        signal.signal(signal.SIGHUP, self._hung_up(signal.getsignal(signal.SIGHUP)))
        for gate in self._gates:
            gate.audit = self._audit
        if os.environ.get("NOTIFY_SOCKET"):
            from loghouse.service.systemd import SystemdNotifier

            self._notifier = SystemdNotifier(os.environ, self._reactor)
        super().startService()  # type: ignore[no-untyped-call]
        self._one_port.warn_of_expiry()
        self.logger.info(
            "node {name} of cluster {cluster} serves on {listen}",
            name=config.name,
            cluster=config.cluster,
            listen=str(config.listen),
        )
        if self._http is not None:
            self._heartbeat.start()
            self.logger.info("HTTP on {address}", address=self._http.address)

    def _serves(self, started: object) -> None:
        if self._notifier is not None:
            config = self._config
            self._notifier.ready(f"node {config.name} of cluster {config.cluster} serves on {config.listen}")

    def _join(self) -> None:
        """Look for the other nodes. One that is alone dials nobody."""
        self.node.attach(self.cluster)
        self.cluster.start(
            DialContext(
                reactor=self._reactor,
                watch=self._one_port.watch,
                hello=own_hello(self.node, f"loghouse {__version__}"),
                tls=self._one_port.tls,
                rng=random.SystemRandom(),
                soon=soon(),
                metrics=self._metrics,
            )
        )

    def _read_security(self) -> tuple[Authorizer, Credentials | None]:
        config = self._config
        authorizer = read_policy(config)

        self.node.check_subject = append_check(authorizer)
        self.node.check_cursor = cursor_check(authorizer)
        self.node.reload_settings = self.reload
        credentials = credentials_of(config)
        self._authorizer, self._credentials = authorizer, credentials
        self._warn_of_rules()
        self.cluster = Cluster(
            self.node, _cluster_options(config, self._metrics), clock=self._reactor, rng=random.SystemRandom()
        )
        self._one_port = OnePort(
            self._reactor,
            self.node,
            authorizer,
            wall_clock=time.time,
            options=OnePortOptions(
                tls=credentials,
                anonymous=config.plaintext_subject,
                record_size_max=config.limits.record_size_max,
                metrics=self._metrics,
                tracer=self._tracer,
            ),
            peers=self.cluster.accepted,
            soon=soon(),
        )
        self._one_port.shares.quotas.change(config.quotas)
        self._watch_files()
        return authorizer, credentials

    def _watch_files(self) -> None:
        """Look after the files of the policy and of TLS, where they are by now."""
        acl, credentials = self._config.acl, self._credentials
        self._watches = [FileWatch((acl.model, acl.policy), self._reload_policy)]
        if credentials is not None:
            paths = credentials.paths
            files = [paths.certificate, paths.key, paths.ca, *filter(None, [paths.denylist])]
            self._watches.append(FileWatch(files, partial(self._reload_certificates, credentials)))

    def _reload_policy(self) -> Deferred[None]:
        """Read the policy on a thread, for it is too long for a turn of the reactor; then take it."""
        authorizer = self._authorizer

        def take(rules: Rules) -> None:
            told = rules_told(authorizer.rules, rules)
            authorizer.take(rules)
            self.logger.info("the policy was read again: {told}", told=told[0] if told else "the same rules")
            self._warn_of_rules()

        return self._in_thread(authorizer.read).addCallback(take).addErrback(self._not_reloaded)

    def _reload_certificates(self, credentials: Credentials) -> Deferred[None]:
        taken = self._in_thread(credentials.read).addCallback(credentials.take)
        return taken.addCallbacks(lambda _: None, self._not_reloaded)

    def _in_thread(self, work: Callable[..., Any], *args: Any) -> Deferred[Any]:
        pool = self._reactor.getThreadPool()
        running: Deferred[Any] = deferToThreadPool(self._reactor, pool, work, *args)
        return running

    def _warn_of_rules(self) -> None:
        for text in self._authorizer.rules.warnings[:WARNINGS_TOLD_MAX]:
            self.logger.warn("the policy: {text}", text=text)

    # --- settings read again --------------------------------------------------------------

    def reload(self, by: str) -> Deferred[Reloaded]:
        """Read node.yaml and what it names again, and go on with what can change; see `NodeLike.reload`."""
        reloaded: Deferred[Reloaded] = self._reloading.run(self._reload, by)
        return reloaded

    def _reload(self, by: str) -> Deferred[Reloaded]:
        read = self._in_thread(read_fresh, self._config.path, self._authorizer, self._credentials)
        read.addCallbacks(partial(self._take, by), partial(self._refused, by))
        if self._notifier is not None:
            self._notifier.reloading(read)
        return read

    def _take(self, by: str, fresh: Fresh) -> Reloaded:
        """Put in force what can change, and tell the rest."""
        report = compare(self._config, fresh.config)
        told = (*report.changed, *rules_told(self._authorizer.rules, fresh.rules))
        if self._credentials is not None and fresh.material is not None:
            told += material_told(self._credentials.material, fresh.material)
            self._credentials.take(fresh.material, paths_of_tls(fresh.config))
        self._authorizer.take(fresh.rules)
        self._config = config = in_force(self._config, fresh.config)
        self._watch_files()
        self.change_logging(config.logging)
        for gate in self._gates:
            gate.record_size_max = config.limits.record_size_max
        self._one_port.shares.quotas.change(config.quotas)
        if config.audit != (self._audit_file.path if self._audit_file is not None else None):
            self._open_audit(config.audit)
        self.node.change(_node_options(config, self._metrics, self._tracer))
        report = replace(report, changed=told, warnings=fresh.rules.warnings[:WARNINGS_TOLD_MAX])
        # A restart does not change what a log keeps.
        paths = (line.partition(":")[0] for line in report.waiting)
        self.node.waiting_settings = tuple(path for path in paths if not path.startswith("retention."))
        self.logger.info(
            "settings were read again, asked for by {by}: {changed} changed, {waiting} wait for a restart",
            by=by,
            changed=len(report.changed),
            waiting=len(report.waiting),
        )
        for line in report.changed:
            self.logger.info("settings: {line}", line=line)
        for line in report.waiting:
            self.logger.warn("settings: {line}: needs a restart", line=line)
        self._warn_of_rules()
        return report

    def _refused(self, by: str, failure: Failure) -> Failure:
        if failure.check(ReloadRefusedError):
            self.logger.error(
                "settings read again, asked for by {by}: {error}", by=by, error=failure.getErrorMessage()
            )
        else:
            self.logger.failure("reading settings again", failure)
        return failure

    def _not_reloaded(self, failure: Failure) -> None:
        if failure.check(LoghouseError):
            self.logger.error(
                "the new file is not used, the old one still is: {error}", error=failure.getErrorMessage()
            )
        else:
            self.logger.failure("reading certificates and policy again", failure)

    def _bind(self, authorizer: Authorizer, credentials: Credentials | None) -> GrpcServer:
        config = self._config
        server = GrpcServer(
            self.node,
            authorizer,
            clock=time.time,
            credentials=credentials,
            anonymous=config.plaintext_subject,
            record_size_max=config.limits.record_size_max,
            check_caller=credentials.check if credentials is not None else lambda identity: None,
            shares=self._one_port.shares,
            callers=self._one_port.callers,
            metrics=self._metrics,
            tracer=self._tracer,
        )
        server.bind(self._one_port.grpc_address)
        if config.grpc_listen is not None:
            server.bind(str(config.grpc_listen))
        self._one_port.bind(config.listen.host, config.listen.port)
        self._gates = [self._one_port.gate, server.gate]
        self._http = self._bind_http(authorizer, credentials)
        return server

    def _bind_http(self, authorizer: Authorizer, credentials: Credentials | None) -> HttpServer | None:
        config = self._config
        listen = config.http_listen
        if listen is None:
            return None
        # A tenth of a second of processor time, which a node without HTTP need not spend.
        from loghouse.http.collector import Watched
        from loghouse.http.server import HttpServer
        from loghouse.http.site import HttpContext
        from loghouse.http.tls import HttpTls

        is_plain = credentials is None or listen.is_loopback
        default = config.plaintext_subject if credentials is None else ""
        context = HttpContext(
            reactor=self._reactor,
            gate=Gate(
                self.node,
                authorizer,
                clock=time.time,
                check_caller=credentials.check if credentials is not None else None,
                record_size_max=config.limits.record_size_max,
            ),
            shares=self._one_port.shares,
            tls=None if is_plain or credentials is None else HttpTls(credentials, clock=time.time),
            anonymous=(config.http.loopback_subject or default) if is_plain else "",
            soon=soon(),
            metrics_are_open=is_plain or config.http.metrics_are_open,
            metrics=self._metrics,
            tracer=self._tracer,
        )
        self._gates.append(context.gate)
        server = HttpServer(context, self.node)
        if isinstance(self._metrics, Counters):
            server.watch(
                Watched(
                    node=self.node,
                    cluster=self.cluster,
                    one_port=self._one_port,
                    site=server.site,
                    counters=self._metrics,
                    heartbeat=self._heartbeat,
                    credentials=credentials,
                    settings_waiting=lambda: len(self.node.waiting_settings),
                    monotonic=time.monotonic,
                )
            )
        server.bind(listen.host, listen.port)
        return server

    def _check_files(self) -> None:
        for watch in self._watches:
            watch.check()
        self._one_port.warn_of_expiry()

    def _hung_up(self, before: Any) -> Callable[[int, Any], None]:
        def run(number: int, frame: Any) -> None:
            if callable(before):
                before(number, frame)  # opens the log file anew
            self._reactor.callFromThread(self._reload_all)

        return run

    def _reopen_audit(self) -> None:
        if self._audit_file is not None:
            self._audit_file.reopen()

    def _reload_all(self) -> None:
        self._reopen_audit()
        told = partial(self._audit.done, who="SIGHUP", what="reload", where="this machine")
        # What is wrong was logged.
        self.reload("SIGHUP").addCallbacks(
            lambda _: told(), lambda failure: told(outcome=failure.getErrorMessage())
        )
        self._one_port.warn_of_expiry()

    def _open_audit(self, path: Path | None) -> None:
        """Tell refusals and acts of administration there from now on; None: in the diagnostics.

        Raises:
            ConfigError: The file cannot be written.
        """
        before, opened = self._audit_file, None
        if path is not None:
            try:
                opened = LineFile(path, lambda count: left_out_line(time.time(), count), self._audit_failed)
            except OSError as error:
                raise ConfigError(
                    [f"audit: {path}: {error.strerror}; choose a file that can be written"]
                ) from None
            if not self._has_rotated:
                self._has_rotated = True
                signal.signal(signal.SIGUSR1, self._rotated(signal.getsignal(signal.SIGUSR1)))
        self._audit_file = opened
        self._audit.write = opened.write if opened is not None else None
        if before is not None:
            before.close(AUDIT_CLOSE_SECONDS_MAX)

    def _audit_failed(self, error: OSError) -> None:
        """A line of the audit was not written; called on its thread."""
        self._reactor.callFromThread(
            self.logger.error,
            "the audit cannot be written, lines are lost: {error}; make room or fix the path",
            error=str(error),
        )

    def _rotated(self, before: Any) -> Callable[[int, Any], None]:
        def run(number: int, frame: Any) -> None:
            if callable(before):
                before(number, frame)  # opens the log file anew
            self._reactor.callFromThread(self._reopen_audit)

        return run

    def stopService(self) -> Deferred[None]:
        """Stop the servers, give calls under way their grace, close the logs."""
        super().stopService()  # type: ignore[no-untyped-call]
        if self._notifier is not None:
            self._notifier.stopping()
        if self._watching.running:
            self._watching.stop()
        return Deferred.fromCoroutine(self._stop())

    async def _stop(self) -> None:
        seconds = self._config.shutdown.drain_seconds
        self.logger.info("stopping: calls under way get {seconds} s", seconds=seconds)
        if self._http is not None:
            self._http.enter_stop()
        handing_over = self.node.administration.hand_over()
        await handing_over.addTimeout(HAND_OVER_SECONDS_MAX, self._reactor, lambda _, __: None)
        # Followers wait at the tail for ever; without this each stop would last the whole grace.
        self.node.release_waiters()
        await self._one_port.stop_accepting()
        clients_gone = self._one_port.when_clients_are_gone(seconds)
        await from_asyncio(self._server.stop(seconds))
        await clients_gone
        # Only now the other nodes: the answers to calls under way came over their links.
        await self.node.when_settled(SETTLE_SECONDS_MAX)
        if self.node.forwarder is not None:
            self.cluster.stop("the node is stopping")
        await self._one_port.leave_nodes(LEAVE_SECONDS_MAX)
        self._one_port.abort()
        self._heartbeat.stop()
        if self._http is not None:
            await self._http.stop()
        await self.node.stopService()
        self._open_audit(None)
        if self._export is not None:
            await self._in_thread(self._export.stop)
        if self._notifier is not None:
            self._notifier.end()


def _cluster_options(config: NodeConfig, metrics: Metrics) -> ClusterOptions:
    return ClusterOptions(
        address=str(config.public_address),
        grpc_address=str(config.public_grpc_address or ""),
        join=tuple(map(str, config.join)),
        bootstrap=config.bootstrap,
        swim=_SWIM[config.timing.network],
        metrics=metrics,
    )


def _node_options(config: NodeConfig, metrics: Metrics, tracer: Tracer | None) -> NodeOptions:
    return NodeOptions(
        name=config.name,
        cluster_name=config.cluster,
        data_dir=str(config.data_dir),
        address=str(config.public_address),
        grpc_address=str(config.public_grpc_address or ""),
        is_alone=config.bootstrap and not _cluster_options(config, metrics).seeds,
        segment_size=config.storage.segment_size,
        reserve_size=config.storage.reserve_size,
        scrub_rate=config.storage.scrub_rate,
        cold_read_rate=config.storage.cold_read_rate,
        keep_deleted_seconds=config.storage.keep_deleted_seconds,
        host=config.host,
        rack=config.rack,
        replicas_max=replicas_allowed(config.limits.replicas_max),
        metrics=metrics,
        tracer=tracer,
        drain_seconds=config.shutdown.drain_seconds,
        raft=replace(_RAFT[config.timing.network], proposals_size_max=config.limits.proposals_size_max),
        retention=Retention(
            size_max=config.retention.size_max, age_max_seconds=config.retention.age_max_seconds
        ),
    )
