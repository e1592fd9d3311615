"""The service `Cluster`: administration, for subjects with the `admin` permission.

Every call works on every node; what only the leader can do, the node passes on.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Final

from loghouse import __version__
from loghouse.api.gated_call import GatedCall
from loghouse.api.guard import Rpc
from loghouse.api.v1 import log_pb2
from loghouse.auth.policy import Action
from loghouse.errors import InvalidRequestError, UnavailableError
from loghouse.node.api import GroupAdmin, LogProblem, NodeLike, Reloaded, StrayLog
from loghouse.protocol.configuration import ROLE_TEXTS
from loghouse.protocol.gossip_messages import LIVENESS_TEXTS
from loghouse.protocol.message import check_name
from loghouse.runtime.bridge import to_asyncio

SERVICE: Final = "log.v1.Cluster"

_Administer = Callable[[Any], Awaitable[Any]]


class ClusterService:
    """Answers the calls of `log.v1.Cluster` from a node."""

    def __init__(self, node: NodeLike) -> None:
        self._node = node

    def rpcs(self) -> Mapping[str, Rpc]:
        """Return every call of the service, by name."""
        calls = {
            "Status": (log_pb2.StatusRequest, self._status),
            "Add": (log_pb2.AddRequest, self._add),
            "Remove": (log_pb2.RemoveRequest, self._remove),
            "Leave": (log_pb2.LeaveRequest, self._leave),
            "Transfer": (log_pb2.TransferRequest, self._transfer),
        }
        rpcs = {
            name: Rpc(request, Action.ADMIN, self._on_cluster(administer))
            for name, (request, administer) in calls.items()
        }
        rpcs["Trim"] = Rpc(log_pb2.TrimRequest, Action.ADMIN, self._trim)
        rpcs["Reload"] = Rpc(log_pb2.ReloadRequest, Action.ADMIN, self._reload)
        return rpcs

    def _on_cluster(self, administer: _Administer) -> Callable[..., Awaitable[bytes]]:
        """Return what answers a call about the whole cluster: permission first, then the work."""

        async def answer(call: GatedCall, request: Any) -> bytes:
            call.check_cluster()
            response = await administer(request)
            return bytes(response.SerializeToString())

        return answer

    async def _status(self, request: Any) -> Any:
        node = self._node
        status = await to_asyncio(self._group(request).status())
        strays, problems = await self._strays(), await self._problems()
        return log_pb2.StatusResponse(
            cluster_uuid=node.cluster_uuid,
            cluster_name=node.cluster_name,
            node=node.name,
            version=__version__,
            term=status.term,
            leader=status.leader,
            commit_index=status.commit_index,
            lowest_offset=status.lowest_offset,
            next_offset=status.next_offset,
            members=[
                log_pb2.MemberStatus(
                    name=member.name,
                    id=member.id,
                    role=ROLE_TEXTS[member.role],
                    liveness=LIVENESS_TEXTS[member.liveness],
                    is_leader=member.is_leader,
                    match_index=member.match_index,
                    address=member.address,
                    version=member.version,
                )
                for member in status.members
            ],
            removed=status.removed,
            strays=[
                log_pb2.StrayLog(group=stray.group, name=stray.name, size=stray.size)
                for stray in strays or ()
            ],
            knows_strays=strays is not None,
            problems=[
                log_pb2.LogProblem(
                    log=problem.log, node=problem.node, reason=problem.trouble.value, entries=problem.entries
                )
                for problem in problems or ()
                if request.log in ("", problem.log)
            ],
            log_count=len(node.logs) if problems is not None else 0,
            waiting_settings=node.waiting_settings,
        )

    async def _strays(self) -> Sequence[StrayLog] | None:
        """Return the logs on this node's disk that do not belong there; None while it cannot tell."""
        try:
            strays: Sequence[StrayLog] = await to_asyncio(self._node.log_administration.strays())
        except UnavailableError:
            return None
        return strays

    async def _problems(self) -> Sequence[LogProblem] | None:
        """Return what needs attention of the copies of logs; None while the node cannot tell."""
        try:
            problems: Sequence[LogProblem] = await to_asyncio(self._node.log_administration.problems())
        except UnavailableError:
            return None
        return problems

    async def _add(self, request: Any) -> Any:
        await to_asyncio(self._node.administration.add(_node_name(request), request.learner))
        return log_pb2.AddResponse()

    async def _remove(self, request: Any) -> Any:
        await to_asyncio(self._node.administration.remove(_node_name(request)))
        return log_pb2.RemoveResponse()

    async def _leave(self, request: Any) -> Any:
        await to_asyncio(self._node.administration.leave())
        return log_pb2.LeaveResponse()

    async def _transfer(self, request: Any) -> Any:
        name = _node_name(request) if request.name else ""
        leader: str = await to_asyncio(self._group(request).transfer(name))
        return log_pb2.TransferResponse(leader=leader)

    def _group(self, request: Any) -> GroupAdmin:
        """Return what administers the group of the log that a request names; raises UnknownLogError."""
        return self._node.log(request.log).administration if request.log else self._node.administration

    async def _trim(self, call: GatedCall, request: Any) -> bytes:
        lowest: int = await to_asyncio(call.find_log(request.log, request.group).trim(request.offset))
        return bytes(log_pb2.TrimResponse(lowest=lowest).SerializeToString())

    async def _reload(self, call: GatedCall, request: Any) -> bytes:
        call.check_cluster()
        reloaded: Reloaded = await to_asyncio(self._node.reload(call.subject))
        response = log_pb2.ReloadResponse(
            node=self._node.name,
            changed=reloaded.changed,
            waiting=reloaded.waiting,
            warnings=reloaded.warnings,
        )
        return bytes(response.SerializeToString())


def _node_name(request: Any) -> str:
    """Return the node that a request names; raises InvalidRequestError when none can be called so."""
    name = str(request.name)
    try:
        check_name("node", name)
    except ValueError as error:
        raise InvalidRequestError("name", str(error)) from None
    return name
