"""The service `Logs`: which logs there are, and changes of that while the cluster runs.

Every call works on every node. Who may change a log is a question of its name, before whether there is one;
who may do nothing with a log does not learn that it is there.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from loghouse.api.gated_call import GatedCall
from loghouse.api.guard import Call, Rpc, Shape
from loghouse.api.v1 import log_pb2
from loghouse.auth.policy import Action
from loghouse.catalogue.records import LogSettings
from loghouse.errors import InvalidRequestError
from loghouse.limits import LOGS_PER_PAGE_DEFAULT, LOGS_PER_PAGE_MAX, REPLICAS_PER_LOG_MAX
from loghouse.node.api import LogAdmin, LogDescription, page_of
from loghouse.node.gate import Gate, describe_log
from loghouse.protocol.message import check_name
from loghouse.runtime.bridge import to_asyncio

SERVICE: Final = "log.v1.Logs"

WATCH_REST_SECONDS: Final = 0.2
"""Between two looks of one watcher: to compare thousands of logs with those before takes time."""

_NUMBERS: Final = (
    "replicas",
    "retention_bytes",
    "retention_seconds",
    "record_bytes_max",
    "append_bytes_per_second_max",
)


class LogsService:
    """Answers the calls of `log.v1.Logs` from the node behind the gate."""

    def __init__(self, gate: Gate) -> None:
        self._gate = gate

    def rpcs(self) -> Mapping[str, Rpc]:
        """Return every call of the service, by name."""
        manage = Action.MANAGE
        return {
            "Create": Rpc(log_pb2.CreateLogRequest, manage, self._create),
            "Alter": Rpc(log_pb2.AlterLogRequest, manage, self._alter),
            "Delete": Rpc(log_pb2.DeleteLogRequest, manage, self._delete),
            "Replace": Rpc(log_pb2.ReplaceReplicaRequest, manage, self._replace),
            "List": Rpc(log_pb2.ListLogsRequest, None, self._list),
            "Describe": Rpc(log_pb2.DescribeLogRequest, None, self._describe),
            "Watch": Rpc(log_pb2.WatchLogsRequest, None, self._watch, Shape.SERVER_STREAM),
        }

    @property
    def _admin(self) -> LogAdmin:
        return self._gate.node.log_administration

    # --- changes ------------------------------------------------------------------------

    async def _create(self, call: GatedCall, request: Any) -> bytes:
        name = _log_name(call, request)
        on = [_node_name("on", node) for node in request.on[: REPLICAS_PER_LOG_MAX + 1]]
        if len(on) > REPLICAS_PER_LOG_MAX:
            raise InvalidRequestError("on", f"names more than {REPLICAS_PER_LOG_MAX} nodes")
        settings = _settings_of(request.settings)
        created = await to_asyncio(self._admin.create(name, settings, on=on, by=call.subject))
        return _serialized(log_pb2.CreateLogResponse(log=as_message(created)))

    async def _alter(self, call: GatedCall, request: Any) -> bytes:
        name = _log_name(call, request)
        given = request.changes
        changes: dict[str, object] = {one: getattr(given, one) for one in _NUMBERS if given.HasField(one)}
        if given.HasField("tags"):
            changes["tags"] = tuple(given.tags.tags)
        if not changes:
            raise InvalidRequestError("changes", "names no setting that is to change")
        altered = await to_asyncio(self._admin.alter(name, changes, by=call.subject))
        return _serialized(log_pb2.AlterLogResponse(log=as_message(altered)))

    async def _delete(self, call: GatedCall, request: Any) -> bytes:
        await to_asyncio(self._admin.delete(_log_name(call, request), by=call.subject))
        return _serialized(log_pb2.DeleteLogResponse())

    async def _replace(self, call: GatedCall, request: Any) -> bytes:
        name = _log_name(call, request)
        lost, new = _node_name("lost", request.lost), _node_name("new", request.new)
        placed = await to_asyncio(self._admin.replace(name, lost=lost, new=new, by=call.subject))
        return _serialized(log_pb2.ReplaceReplicaResponse(log=as_message(placed)))

    # --- looking ------------------------------------------------------------------------

    async def _list(self, call: GatedCall, request: Any) -> bytes:
        call.check_cluster()
        page_size = min(request.count_max or LOGS_PER_PAGE_DEFAULT, LOGS_PER_PAGE_MAX)
        logs = await to_asyncio(self._admin.list())
        page, following = page_of(logs, request.after, page_size, call.may_see)
        return _serialized(log_pb2.ListLogsResponse(logs=map(as_message, page), next=following))

    async def _describe(self, call: GatedCall, request: Any) -> bytes:
        call.check_seen(request.name)
        found = await to_asyncio(describe_log(self._gate.node, request.name))
        return _serialized(log_pb2.DescribeLogResponse(log=as_message(found)))

    async def _watch(self, call: Call, request: Any) -> None:
        admin = self._admin
        offset, known = 0, _Known()
        with call.following():
            changed = to_asyncio(admin.changed(-1))
            try:
                while True:
                    if changed.done():
                        offset = changed.result()
                        changed = to_asyncio(admin.changed(offset))
                    call.check_cluster()
                    seen = [log for log in admin.known() if call.may_see(log.name)]
                    for answer in known.take(offset, seen):
                        with call.holding(len(answer)):
                            await call.write(answer)
                    await asyncio.wait({changed})
                    await asyncio.sleep(WATCH_REST_SECONDS)
            finally:
                changed.cancel()


class _Known:
    """What a watcher was told of."""

    def __init__(self) -> None:
        self._logs: dict[str, LogDescription] | None = None  # by name; None before the first answer

    def take(self, offset: int, logs: Sequence[LogDescription]) -> Iterator[bytes]:
        """Yield the answers that tell what is new, which then is known; none when nothing is."""
        before = self._logs or {}
        changed = [log for log in logs if _is_news(log, before.get(log.name))]
        now = {log.name: log for log in logs}
        gone = [
            log_pb2.DeletedLog(name=log.name, group=log.group)
            for log in before.values()
            if log.name not in now or now[log.name].group != log.group
        ]
        is_first, self._logs = self._logs is None, now
        while changed or gone or is_first:
            is_first = False
            page, changed = changed[:LOGS_PER_PAGE_DEFAULT], changed[LOGS_PER_PAGE_DEFAULT:]
            deleted, gone = gone[:LOGS_PER_PAGE_DEFAULT], gone[LOGS_PER_PAGE_DEFAULT:]
            yield _serialized(
                log_pb2.WatchLogsResponse(offset=offset, logs=map(as_message, page), deleted=deleted)
            )


def _is_news(log: LogDescription, before: LogDescription | None) -> bool:
    """Whether the catalogue says something else of a log than before; who leads it does not count."""
    if before is None:
        return True
    return (log.group, log.epoch, log.settings) != (before.group, before.epoch, before.settings)


def as_message(log: LogDescription) -> log_pb2.LogDescription:
    """Return what clients are told of a log."""
    settings = log.settings
    return log_pb2.LogDescription(
        name=log.name,
        group=log.group,
        epoch=log.epoch,
        settings=log_pb2.LogSettings(
            **{name: getattr(settings, name) for name in _NUMBERS}, tags=settings.tags
        ),
        replicas=[
            log_pb2.LogReplica(
                node=one.node, member=one.member, is_leader=one.is_leader, is_alive=one.is_alive
            )
            for one in log.replicas
        ],
        leader=log.leader,
        created_at=log.created_at,
    )


def _settings_of(given: Any) -> LogSettings:
    numbers = {name: getattr(given, name) for name in _NUMBERS}
    if not numbers["replicas"]:
        del numbers["replicas"]
    try:
        return LogSettings(**numbers, tags=tuple(given.tags))
    except ValueError as error:
        raise InvalidRequestError("settings", str(error)) from None


def _log_name(call: GatedCall, request: Any) -> str:
    """Return the log that a request names, if the caller may change such a one.

    Raises:
        InvalidRequestError: No log can be called so.
        PermissionDeniedError: The caller may not.
    """
    name = str(request.name)
    try:
        check_name("log", name)
    except ValueError as error:
        raise InvalidRequestError("name", str(error)) from None
    call.check_log(name)
    return name


def _node_name(field: str, name: str) -> str:
    try:
        check_name("node", name)
    except ValueError as error:
        raise InvalidRequestError(field, str(error)) from None
    return name


def _serialized(message: Any) -> bytes:
    return bytes(message.SerializeToString())
