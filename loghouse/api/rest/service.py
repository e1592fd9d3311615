"""The JSON API: a table of routes, and what answers each from the services that answer gRPC.

Every request passes the same gate as a gRPC call of its kind, on any node.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from twisted.internet.threads import deferToThread
from twisted.logger import Logger

from loghouse import __version__
from loghouse.api.cluster_service import ClusterService
from loghouse.api.guard import Rpc
from loghouse.api.logs_service import LogsService
from loghouse.api.rest.call import RestCall
from loghouse.api.rest.choosing import CHOOSING, choice_of
from loghouse.api.rest.exchange import EVENTS, JSON, OCTETS, ApiRequest, ApiResponse, Pieces, json_bytes
from loghouse.api.rest.forms import (
    batch_from_json,
    batch_from_octets,
    cluster_form,
    cursor_form,
    log_form,
    members_form,
    number_of,
)
from loghouse.api.rest.openapi import PREFIX, ApiRoute, document
from loghouse.api.rest.problems import UsageError, refusal
from loghouse.api.rest.reading import RecordShape, RestReads
from loghouse.api.rest.routes import ROUTES, SCHEMAS
from loghouse.api.tracing import log_service_class
from loghouse.api.v1 import log_pb2
from loghouse.errors import (
    InvalidRequestError,
    OffsetOutOfRangeError,
    OutcomeUnknownError,
    UnavailableError,
)
from loghouse.limits import (
    MICROSECONDS,
    REST_ANSWER_SIZE_MAX,
    REST_BODY_AT_ONCE_MAX,
    REST_COUNT_DEFAULT,
    REST_COUNT_MAX,
    REST_SECONDS,
)
from loghouse.metrics import NO_METRICS, Metrics
from loghouse.node.api import LogLike
from loghouse.node.gate import Gate, report_unexpected
from loghouse.protocol.cursor_messages import CursorOperation, CursorPage
from loghouse.protocol.record_range import Consistency, RecordRange
from loghouse.runtime.bridge import to_asyncio
from loghouse.shares import Shares

if TYPE_CHECKING:
    from loghouse.tracing.spans import Tracer

_Behaviour = Callable[[RestCall, ApiRequest, str], Awaitable[ApiResponse]]


@dataclass(frozen=True, slots=True)
class _Bound:
    """A route, and what answers it: the call, the request and the log that the path names (or "")."""

    route: ApiRoute
    behaviour: _Behaviour


class RestService:
    """Answers requests below `/api/v1` from the node behind the gate."""

    logger = Logger()

    def __init__(
        self,
        gate: Gate,
        shares: Shares,
        *,
        request_seconds: float = REST_SECONDS,
        metrics: Metrics = NO_METRICS,
        tracer: Tracer | None = None,
    ) -> None:
        """Serve a node.

        Args:
            shares: Counts what subjects hold, for all servers of the node.
            request_seconds: How long a request may wait for a leader or a disk.
            metrics: Told of refusals, and what appends and reads are counted in.
            tracer: Makes spans of appends; None: nobody traces.
        """
        self._gate = gate  # checks every request, and has the node; fixed
        self._shares = shares  # what subjects hold; fixed
        self._request_seconds = request_seconds  # fixed
        self._metrics = metrics  # told of refusals; fixed
        tally = tallies.http if (tallies := metrics.tallies) is not None else None
        log_service = log_service_class(tracer)(gate, tally)
        # What gRPC's services do for each call, by its name; fixed.
        self._rpcs: dict[str, Rpc] = {
            **LogsService(gate).rpcs(),
            **ClusterService(gate.node).rpcs(),
            **log_service.rpcs(),
        }
        self._reads = RestReads(log_service)  # reads records; fixed
        self._table = [_Bound(route, getattr(self, f"_{route.name}")) for route in ROUTES]  # fixed
        self._document = json_bytes(document(ROUTES, SCHEMAS, __version__))  # the OpenAPI document; fixed

    async def answer(self, request: ApiRequest) -> ApiResponse:
        """Answer a request; never raises but when it is cancelled.

        Whoever takes `pieces` of the answer closes them; the call ends then.
        """
        call: RestCall | None = None
        response: ApiResponse | None = None
        try:
            bound, log = self._find(request)
            bound.route.check(request, log)
            call = RestCall(self._gate, self._shares, request.identity, bound.route.action, request.trace)
            response = await self._within_time(bound, call, request, log)
        except Exception as error:
            response = self._refused(error, request)
        finally:
            if call is not None and (response is None or response.pieces is None):
                call.end()
        if call is not None and call.leader:
            response = replace(response, headers={**response.headers, "Loghouse-Leader": call.leader})
        return response

    async def _within_time(self, bound: _Bound, call: RestCall, request: ApiRequest, log: str) -> ApiResponse:
        seconds = self._request_seconds
        try:
            async with asyncio.timeout(seconds):
                await call.wait(call.received(len(request.body)))
                response = await bound.behaviour(call, request, log)
                call.sent(len(response.body))
                return response
        except TimeoutError:
            if request.method == "POST":
                raise OutcomeUnknownError(f"not done within {seconds:g} s; it may still be done") from None
            raise UnavailableError(f"no answer within {seconds:g} s; is there a leader?") from None

    def _refused(self, error: Exception, request: ApiRequest) -> ApiResponse:
        self._metrics.request_refused(type(error).__name__)
        response = refusal(error, f"{PREFIX}{request.path}")
        asked = f"{request.method} {request.path}"
        self._gate.audit.refused(error, who=request.identity.subject, what=asked, where=request.place)
        if response.status == 500:
            report_unexpected(asked, error)
        elif response.status in (401, 403):
            self.logger.warn(
                "refused {method} of {peer}: {error}",
                method=asked,
                peer=request.identity.subject,
                error=error,
            )
        return response

    def _find(self, request: ApiRequest) -> tuple[_Bound, str]:
        """Return what answers a request, and the log that its path names.

        Raises:
            UsageError: Nothing is there, or it cannot be asked so.
        """
        allowed = []
        for bound in self._table:
            log = bound.route.match(request.path)
            if log is not None:
                if bound.route.method == request.method:
                    return bound, log
                allowed.append(bound.route.method)
        if not allowed:
            raise UsageError("NO_SUCH_PATH", f"nothing is at {PREFIX}{request.path[:200]}")
        methods = ", ".join(allowed)
        raise UsageError(
            "METHOD_NOT_ALLOWED", f"{request.method} is not possible there; {methods} is", {"Allow": methods}
        )

    async def _ask(self, call: RestCall, name: str, request: Any, reply: type[Any]) -> Any:
        """Do what gRPC's call of that name does."""
        answer = await self._rpcs[name].behaviour(call, request)
        return reply.FromString(answer)

    # --- the cluster and its logs -------------------------------------------------------------

    async def _get_openapi(self, call: RestCall, request: ApiRequest, log: str) -> ApiResponse:
        return ApiResponse(status=200, body=self._document)

    async def _get_cluster(self, call: RestCall, request: ApiRequest, log: str) -> ApiResponse:
        reply = await self._ask(call, "GetServers", log_pb2.GetServersRequest(), log_pb2.GetServersResponse)
        node = self._gate.node.name
        return _json(cluster_form(reply, node=node, version=__version__, subject=call.subject))

    async def _get_members(self, call: RestCall, request: ApiRequest, log: str) -> ApiResponse:
        asked = log_pb2.StatusRequest(log=request.query.get("log", ""))
        return _json(members_form(await self._ask(call, "Status", asked, log_pb2.StatusResponse)))

    async def _get_logs(self, call: RestCall, request: ApiRequest, log: str) -> ApiResponse:
        asked = log_pb2.ListLogsRequest(
            after=request.query.get("after", ""), count_max=_count(request, REST_COUNT_DEFAULT)
        )
        reply = await self._ask(call, "List", asked, log_pb2.ListLogsResponse)
        return _json({"logs": [log_form(one) for one in reply.logs], "next": reply.next})

    async def _get_log(self, call: RestCall, request: ApiRequest, log: str) -> ApiResponse:
        asked = log_pb2.DescribeLogRequest(name=log)
        return _json(log_form((await self._ask(call, "Describe", asked, log_pb2.DescribeLogResponse)).log))

    async def _get_bounds(self, call: RestCall, request: ApiRequest, log: str) -> ApiResponse:
        reply = await self._ask(call, "Bounds", log_pb2.BoundsRequest(log=log), log_pb2.BoundsResponse)
        return _json({"lowest": reply.lowest, "next": reply.next})

    async def _get_offset(self, call: RestCall, request: ApiRequest, log: str) -> ApiResponse:
        asked = log_pb2.FindOffsetRequest(log=log, timestamp=_time_of(request.query.get("time", "")))
        reply = await self._ask(call, "FindOffset", asked, log_pb2.FindOffsetResponse)
        return _json({"offset": reply.offset, "timestamp": reply.timestamp})

    async def _get_cursors(self, call: RestCall, request: ApiRequest, log: str) -> ApiResponse:
        after, count = request.query.get("after", ""), _count(request, REST_COUNT_DEFAULT)
        page, cursors = await self._ask_cursors(call, log, CursorOperation.LIST, after, count_max=count)
        return _json({"cursors": cursors, "next": page.next})

    async def _get_cursor(self, call: RestCall, request: ApiRequest, log: str) -> ApiResponse:
        _, [cursor] = await self._ask_cursors(call, log, CursorOperation.GET, request.query["name"])
        return _json(cursor)

    async def _ask_cursors(
        self, call: RestCall, log: str, operation: CursorOperation, name: str, count_max: int = 0
    ) -> tuple[CursorPage, list[dict[str, Any]]]:
        """Look at cursors, and return what the leader says, and each of them as JSON."""
        found = call.find_log(log)
        order = call.cursor_order(found, operation=operation, name=name, count_max=count_max)
        page = await to_asyncio(found.order_cursor(order))
        return page, [cursor_form(cursor) for cursor in page.cursors]

    # --- records ------------------------------------------------------------------------------

    async def _get_records(self, call: RestCall, request: ApiRequest, log: str) -> ApiResponse:
        found = call.find_log(log)
        count, shape = _count(request, REST_COUNT_DEFAULT), _shape(request)
        if any(name in request.query for name in CHOOSING):
            return _json(await self._choose_records(call, found, request, count, shape))
        offset = await self._start(found, request, "earliest")
        return _json(await self._reads.page(call, found, offset, count, shape))

    async def _choose_records(
        self, call: RestCall, log: LogLike, request: ApiRequest, count: int, shape: RecordShape
    ) -> dict[str, Any]:
        """Return those records of a range that the query chooses."""
        newest = _count(request, count, "newest") if "newest" in request.query else None
        choice = choice_of(request.query, count, newest)
        lowest, next_offset = await self._reads.bounds(log, choice.consistency)
        first = await self._start(log, request, "earliest", (lowest, next_offset))
        end, until = next_offset, request.query.get("until", "")
        if until.isascii() and until.isdigit():
            end = number_of("until", until)
        elif "until" in request.query:
            end, _ = await to_asyncio(log.find_offset(_time_of(until, "until")))
        if end < first:
            raise InvalidRequestError("until", f"is offset {end}, before the first one to read, {first}")
        if not lowest <= first <= next_offset:
            raise OffsetOutOfRangeError(first, lowest, next_offset)
        wanted = RecordRange(
            first=first,
            end=min(end, next_offset),
            is_reverse=choice.is_backwards,
            count_max=choice.count_max,
            filter=choice.filter,
            consistency=choice.consistency,
        )
        answer = await self._reads.chosen(call, log, wanted, shape)
        if choice.is_newest:
            answer["records"].reverse()
        return answer

    async def _follow_records(self, call: RestCall, request: ApiRequest, log: str) -> ApiResponse:
        found, shape = call.find_log(log), _shape(request)
        is_live = _choice(request, "live", ("false", "true")) == "true"
        offset = await self._start(found, request, "latest")
        where = f"{PREFIX}{request.path}"
        events = self._reads.follow(call, found, offset, shape, is_live=is_live, where=where)
        return ApiResponse(status=200, content_type=EVENTS, pieces=Pieces(events, call.end))

    async def _start(
        self, log: LogLike, request: ApiRequest, usual: str, known: tuple[int, int] | None = None
    ) -> int:
        """Return the offset at which a request begins to read.

        Args:
            known: The lowest offset of the log and the next one; None: the leader is asked, where it matters.
        """
        query = request.query
        given = [name for name in ("offset", "time", "last") if name in query]
        if len(given) > 1:
            raise InvalidRequestError(given[1], f"cannot be together with {given[0]}")
        resumed = request.headers.get("last-event-id", "")
        if resumed:
            return number_of("Last-Event-ID", resumed)
        if "time" in query:
            offset, _ = await to_asyncio(log.find_offset(_time_of(query["time"])))
            return offset
        asked = query.get("offset", usual)
        if "last" not in query and asked not in ("earliest", "latest"):
            return number_of("offset", asked)
        lowest, next_offset = known or await self._reads.bounds(log, Consistency.CONFIRMED)
        if "last" in query:
            return max(lowest, next_offset - number_of("last", query["last"]))
        return lowest if asked == "earliest" else next_offset

    async def _append_records(self, call: RestCall, request: ApiRequest, log: str) -> ApiResponse:
        call.check_log(log)
        body = request.body
        if request.content_type == JSON:
            is_long = len(body) > REST_BODY_AT_ONCE_MAX
            made = (
                await to_asyncio(deferToThread(batch_from_json, body)) if is_long else batch_from_json(body)
            )
        elif request.content_type == OCTETS:
            made = batch_from_octets(body, request.query)
        else:
            kind = request.content_type or "a body of no type"
            raise UsageError("UNSUPPORTED_MEDIA_TYPE", f"{kind[:100]} is not taken; {JSON} and {OCTETS} are")
        made.log = log
        reply = await self._ask(call, "ProduceBatch", made, log_pb2.ProduceBatchResponse)
        names = ("base_offset", "record_count", "timestamp")
        return _json({name: getattr(reply, name) for name in names}, 201)

    async def _register_producer(self, call: RestCall, request: ApiRequest, log: str) -> ApiResponse:
        asked = log_pb2.RegisterProducerRequest(log=log)
        reply = await self._ask(call, "RegisterProducer", asked, log_pb2.RegisterProducerResponse)
        return _json({"producer_id": reply.producer_id}, 201)


def _json(value: Any, status: int = 200) -> ApiResponse:
    return ApiResponse(status=status, body=json_bytes(value))


def _count(request: ApiRequest, usual: int, name: str = "count") -> int:
    count = number_of(name, request.query.get(name, str(usual)), REST_COUNT_MAX)
    if not count:
        raise InvalidRequestError(name, f"must be a number from 1 to {REST_COUNT_MAX}")
    return count


def _shape(request: ApiRequest) -> RecordShape:
    size_max = number_of(
        "value_size_max", request.query.get("value_size_max", str(REST_ANSWER_SIZE_MAX)), REST_ANSWER_SIZE_MAX
    )
    is_text = _choice(request, "encoding", ("text", "base64")) == "text"
    return RecordShape(is_text=is_text, value_size_max=size_max)


def _choice(request: ApiRequest, name: str, choices: Sequence[str]) -> str:
    chosen = request.query.get(name, choices[0])
    if chosen not in choices:
        raise InvalidRequestError(name, f"must be one of {', '.join(choices)}")
    return chosen


def _time_of(text: str, name: str = "time") -> int:
    """Return microseconds since the epoch: of such a number, or of an ISO 8601 time (UTC without a zone)."""
    if text.isascii() and text.isdigit():
        return number_of(name, text)
    try:
        time = datetime.fromisoformat(text)
    except ValueError:
        raise InvalidRequestError(
            name, "must be microseconds since the epoch, or a time as 2026-01-31T12:00:00Z"
        ) from None
    if time.tzinfo is None:
        time = time.replace(tzinfo=UTC)
    return max(0, int(time.timestamp() * MICROSECONDS))
