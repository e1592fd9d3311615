"""The JSON API behind the HTTP server: answers go out as fast as the client takes them."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IPushProducer
from zope.interface import implementer

from loghouse.api.rest.exchange import ApiRequest, ApiResponse, Pieces
from loghouse.api.rest.problems import UsageError, refusal
from loghouse.api.rest.service import RestService
from loghouse.errors import InvalidRequestError
from loghouse.http.answers import HttpAnswer
from loghouse.http.channel import HttpRequest
from loghouse.http.endpoint import Answering, Endpoint, HttpCall, origin_problem
from loghouse.http.site import HttpContext
from loghouse.runtime.bridge import from_asyncio, to_asyncio

_HEADERS = (b"last-event-id",)
_NO_TRACE = ("", "")


class RestEndpoint(Endpoint):
    """Everything below `/api/v1`."""

    def __init__(self, context: HttpContext) -> None:
        super().__init__(context)
        self._trace_of = trace_of if context.tracer is not None else lambda request: _NO_TRACE  # fixed
        self._service = RestService(
            context.gate, context.shares, metrics=context.metrics, tracer=context.tracer
        )

    def _begin(self, request: HttpRequest) -> HttpCall:
        # The service counts the call once it knows what is asked for.
        identity = request.channel.identify()
        self.context.gate.check_any_log(identity, self.action)
        return HttpCall(request, identity, None)

    def _behaviour(self, request: HttpRequest) -> Answering | HttpAnswer:
        problem = origin_problem(request, is_plain=self.context.tls is None)
        if problem:
            raise UsageError("CROSS_SITE", problem)
        return self._answer

    async def _answer(self, call: HttpCall) -> HttpAnswer | None:
        # The services run on asyncio.
        return await from_asyncio(self._serve(call))

    async def _serve(self, call: HttpCall) -> HttpAnswer | None:
        response = await self._service.answer(api_request_of(call, self._trace_of(call.request)))
        if response.pieces is None:
            return http_answer_of(response)
        try:
            if call.request.method == b"HEAD":
                return http_answer_of(response)
            call.stream()
            await _write(call.request, response, response.pieces)
        finally:
            await response.pieces.aclose()
        call.request.unregisterProducer()
        call.request.finish()
        return None

    def _refusal(self, error: BaseException, path: str) -> HttpAnswer:
        return http_answer_of(refusal(error, path))


async def _write(request: HttpRequest, response: ApiResponse, pieces: Pieces) -> None:
    """Write pieces, each when the client took what was written before."""
    flow = Flow()
    request.registerProducer(flow, True)
    request.setResponseCode(response.status)
    request.setHeader(b"Content-Type", response.content_type.encode())
    request.setHeader(b"X-Accel-Buffering", b"no")  # a proxy must not keep events back
    async for piece in pieces:
        request.write(piece)
        await flow.taken()


@implementer(IPushProducer)
class Flow:
    """Whether a client takes what is written; one waits for that."""

    def __init__(self) -> None:
        self._paused: Deferred[None] | None = None  # fires when the client takes more; None while it does

    def pauseProducing(self) -> None:
        """The client takes less than it is sent."""
        if self._paused is None:
            self._paused = Deferred()

    def resumeProducing(self) -> None:
        """The client took what was sent."""
        paused, self._paused = self._paused, None
        if paused is not None:
            paused.callback(None)

    def stopProducing(self) -> None:
        """The client is gone; the request's end says so to whoever writes."""

    async def taken(self) -> None:
        """Return once the client takes more."""
        if self._paused is not None:
            await to_asyncio(self._paused)


def trace_of(request: HttpRequest) -> tuple[str, str]:
    """Return `traceparent` and `tracestate` of a request: a list of states may come in several headers."""
    headers = request.requestHeaders
    parent, state = (headers.getRawHeaders(name) or () for name in (b"traceparent", b"tracestate"))
    return b",".join(parent).decode("utf-8", "replace"), b",".join(state).decode("utf-8", "replace")


def api_request_of(call: HttpCall, trace: tuple[str, str] = _NO_TRACE) -> ApiRequest:
    """Return a request as the JSON API takes it.

    Args:
        trace: The trace that it belongs to, as texts.

    Raises:
        InvalidRequestError: A parameter is there twice, or it or a header is no text.
    """
    request: Any = call.request
    query = {}
    for name, values in request.args.items():
        text = _text(name, name)
        if len(values) > 1:
            raise InvalidRequestError(text[:64], "is there more than once")
        query[text] = _text(name, values[0])
    kind = request.getHeader(b"Content-Type") or b""
    found = ((name, request.getHeader(name)) for name in _HEADERS)
    return ApiRequest(
        method="GET" if request.method == b"HEAD" else request.method.decode("ascii", "replace"),
        path="/" + "/".join(part.decode("utf-8", "replace") for part in request.postpath),
        identity=call.identity,
        place=request.place,
        trace=trace,
        query=query,
        content_type=kind.decode("ascii", "replace").partition(";")[0].strip().lower(),
        headers={name.decode(): _text(name, value) for name, value in found if value is not None},
        body=call.body,
    )


def _text(name: bytes, value: bytes) -> str:
    try:
        return value.decode()
    except UnicodeDecodeError:
        raise InvalidRequestError(name.decode("ascii", "replace")[:64], "is not UTF-8") from None


def http_answer_of(response: ApiResponse) -> HttpAnswer:
    """Return an answer of the JSON API as the server sends it."""
    return HttpAnswer(
        status=response.status,
        body=response.body,
        content_type=response.content_type.encode(),
        headers=tuple((name.encode(), value.encode()) for name, value in response.headers.items()),
    )
