"""A path behind the node's gate: who calls and whether they may is asked before anything is answered.

A browser sends what any page tells it to, with the certificate of its user, or from the machine whose
loopback address is trusted. So a request that another site's page made is refused (`Origin`,
`Sec-Fetch-Site`), and without TLS one that came here under another machine's name (`Host`).
"""

from __future__ import annotations

import ipaddress
from collections.abc import Awaitable, Callable
from typing import Any, ClassVar, Final, cast
from urllib.parse import urlsplit

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.error import ConnectionDone, ConnectionLost
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET

from loghouse.api.gated_call import GatedCall
from loghouse.auth.identity import Identity
from loghouse.auth.policy import Action
from loghouse.errors import (
    IdentityError,
    PermissionDeniedError,
    UnauthenticatedError,
    UnavailableError,
)
from loghouse.http.answers import HttpAnswer, plain_refusal, refusal
from loghouse.http.channel import HttpRequest
from loghouse.http.site import HttpContext
from loghouse.limits import HTTP_ANSWER_SECONDS

Answering = Callable[["HttpCall"], Awaitable[HttpAnswer | None]]
SAFE_METHODS: Final = frozenset((b"GET", b"HEAD"))


class HttpCall:
    """One request under way, of a caller who is known.

    `request` is Twisted's: a behaviour that returns None has written its answer, and finished it, itself.
    """

    __slots__ = ("_streams", "end_stream", "gated", "identity", "is_streaming", "request")

    def __init__(self, request: HttpRequest, identity: Identity, gated: GatedCall | None) -> None:
        """Begin.

        Args:
            gated: Asks the gate and counts the call, until its end; None: whoever answers does that.
        """
        self.request = request
        self.identity = identity
        self.is_streaming = False
        self.end_stream: Callable[[], object] = lambda: None
        self._streams = request.channel.site.streams  # Twisted takes the channel away at the end
        self.gated = gated

    @property
    def subject(self) -> str:
        """The caller's casbin subject."""
        return self.identity.subject

    @property
    def body(self) -> bytes:
        """The whole body of the request."""
        content: Any = self.request.content
        return bytes(content.getvalue())

    def stream(self) -> None:
        """Take as long as it likes from here on, at most until the node stops: the answer has no end."""
        self.is_streaming = True
        self._streams.add(self.end_stream)

    def end(self) -> None:
        """It is answered, or nobody waits for the answer."""
        self._streams.discard(self.end_stream)
        if self.gated is not None:
            self.gated.end()


class Endpoint(Resource):
    """One path, or all below it. A subclass sets `action` and has `answer_get`, `answer_post` and so on.

    Attributes:
        action: What every method needs of whatever object; None: any permission at all. A behaviour asks
            more of `call.gated`: `check_cluster`, `find_log`.
    """

    isLeaf = True
    logger = Logger()
    action: ClassVar[Action | None] = None

    def __init__(self, context: HttpContext) -> None:
        super().__init__()
        self.context = context
        self._metrics = context.metrics

    def render(self, request: Any) -> int:
        """Answer a request, now or later."""
        call = None
        try:
            behaviour = self._behaviour(request)
            if isinstance(behaviour, HttpAnswer):
                request.answer(behaviour)
                return NOT_DONE_YET
            if request.channel.site.is_stopping:
                raise UnavailableError("the node is stopping; nothing was done, try another node")
            call = self._begin(request)
        except Exception as error:
            self._refuse(request, error, "")
            return NOT_DONE_YET
        self._run(call, behaviour)
        return NOT_DONE_YET

    def _begin(self, request: HttpRequest) -> HttpCall:
        """Begin a call; see `GatedCall` for what is raised, and `HttpChannel.identify`."""
        identity = request.channel.identify()
        gated = GatedCall(self.context.gate, self.context.shares, identity, self.action)
        return HttpCall(request, identity, gated)

    def _behaviour(self, request: HttpRequest) -> Answering | HttpAnswer:
        """Return what answers, or why nothing does."""
        problem = origin_problem(request, is_plain=self.context.tls is None)
        if problem:
            return plain_refusal(403, "CROSS_SITE", problem)
        method = b"GET" if request.method == b"HEAD" else request.method
        found = getattr(self, f"answer_{method.decode('ascii', 'replace').lower()}", None)
        if found is None or not method.isupper():
            methods = sorted(name[7:].upper() for name in dir(self) if name.startswith("answer_"))
            allowed = ", ".join(methods)
            return plain_refusal(405, "METHOD_NOT_ALLOWED", f"allowed here: {allowed}", Allow=allowed)
        return cast(Answering, found)

    def _run(self, call: HttpCall, behaviour: Answering) -> None:
        request = call.request
        is_gone = False

        def gone(reason: Failure) -> None:
            nonlocal is_gone
            is_gone = True
            running.cancel()

        async def answer() -> HttpAnswer | None:
            return await behaviour(call)

        def late() -> None:
            if not call.is_streaming:
                running.cancel()

        call.end_stream = lambda: running.cancel()
        request.notifyFinish().addErrback(gone)
        running: Deferred[HttpAnswer | None] = Deferred.fromCoroutine(answer())
        timer = self.context.reactor.callLater(HTTP_ANSWER_SECONDS, late)

        def done(outcome: HttpAnswer | Failure | None) -> None:
            if timer.active():
                timer.cancel()
            call.end()
            if isinstance(outcome, Failure):
                if not is_gone:
                    self._failed(request, outcome, call.subject)
            elif outcome is not None and not is_gone:
                request.answer(outcome)

        running.addBoth(done).addErrback(lambda failure: self.logger.failure("answering HTTP", failure))

    def _failed(self, request: HttpRequest, failure: Failure, subject: str) -> None:
        if request.startedWriting:
            request.channel.abort()  # nothing else tells a client that a stream is not whole
            return
        error: Any = failure.value
        if failure.check(CancelledError, ConnectionDone, ConnectionLost):
            error = UnavailableError(f"no answer within {HTTP_ANSWER_SECONDS:g} s; try again")
        self._refuse(request, error, subject)

    def _refuse(self, request: HttpRequest, error: BaseException, subject: str) -> None:
        self._metrics.request_refused(type(error).__name__)
        path = request.path.decode("ascii", "replace")
        who = getattr(error, "subject", "") or subject
        self.context.gate.audit.refused(error, who=who, what=f"HTTP {path}", where=request.place)
        if isinstance(error, PermissionDeniedError | UnauthenticatedError | IdentityError):
            self.logger.warn(
                "refused {method} of {peer}: {error}",
                method=path,
                peer=subject or getattr(request.getClientAddress(), "host", "a stranger"),
                error=error,
            )
        request.answer(self._refusal(error, path))

    def _refusal(self, error: BaseException, path: str) -> HttpAnswer:
        """Return what a caller is told of a failure."""
        return refusal(error, path)


def origin_problem(request: HttpRequest, *, is_plain: bool) -> str:
    """Return why a request cannot be one that a user of this node meant; empty when it can.

    Args:
        is_plain: Whether there is no TLS, so that only this machine can be meant.
    """
    headers = request.requestHeaders
    host = (headers.getRawHeaders(b"Host") or [b""])[0].decode("ascii", "replace")
    name = urlsplit(f"//{host}").hostname or "" if _is_host(host) else ""
    if is_plain and not _is_this_machine(name):
        return f"{host[:100]!r} is not this machine; ask by its loopback address"
    for origin in headers.getRawHeaders(b"Origin", ()):
        if origin.decode("ascii", "replace").partition("://")[2] != host:
            return "it comes from a page of another site"
    site = headers.getRawHeaders(b"Sec-Fetch-Site", [b"same-origin"])[-1]
    mode = headers.getRawHeaders(b"Sec-Fetch-Mode", [b""])[-1]
    is_visit = mode == b"navigate" and request.method in SAFE_METHODS
    if site not in (b"same-origin", b"none") and not is_visit:
        return "it comes from a page of another site"
    return ""


def _is_host(host: str) -> bool:
    try:
        urlsplit(f"//{host}").port  # noqa: B018 - raises for what is no port
    except ValueError:
        return False
    return not any(mark in host for mark in "/?#@\\")


def _is_this_machine(name: str) -> bool:
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return name == "localhost"
