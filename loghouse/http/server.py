"""The HTTP server behind `http_listen` in node.yaml: from bind to the last connection."""

from __future__ import annotations

import socket
from typing import Any, Final

from twisted.internet.defer import Deferred, maybeDeferred, succeed
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET

from loghouse.config.values import Address
from loghouse.http.answers import plain_refusal
from loghouse.http.collector import Watched
from loghouse.http.console_endpoint import ConsoleEndpoint
from loghouse.http.health import Health, Probed
from loghouse.http.metrics import MetricsPage
from loghouse.http.rest import RestEndpoint
from loghouse.http.site import HttpContext, HttpSite
from loghouse.net.one_port import listening, take_address
from loghouse.runtime.bulk_tls import BulkTlsFactory

BACKLOG: Final = 128
LAST_ANSWERS_SECONDS: Final = 1.0


class Missing(Resource):
    """Whatever else is asked for, and all below it."""

    isLeaf = True

    def render(self, request: Any) -> int:
        """Say that there is nothing."""
        request.answer(plain_refusal(404, "NOT_FOUND", "there is nothing at this path"))
        return NOT_DONE_YET


class Tree(Resource):
    """A path that has others below it and is nothing itself."""

    def getChild(self, path: bytes, request: Any) -> Resource:
        """Nothing more than what was put here."""
        return Missing()

    def render(self, request: Any) -> int:
        """Say that there is nothing."""
        return Missing().render(request)


def make_tree(context: HttpContext, node: Probed) -> Tree:
    """Return all that is served: what answers at which path is put in here, and nowhere else.

    What asks who calls is an `Endpoint`. `/metrics` comes with `HttpServer.watch`.
    """
    tree = Tree()
    tree.putChild(b"healthz", Health(node, is_ready=False))
    tree.putChild(b"readyz", Health(node, is_ready=True))
    tree.putChild(b"", ConsoleEndpoint(context))
    api = Tree()
    api.putChild(b"v1", RestEndpoint(context))
    tree.putChild(b"api", api)
    return tree


class HttpServer:
    """Listens, serves, and stops in order."""

    def __init__(self, context: HttpContext, node: Probed) -> None:
        """Make the parts; nothing is bound yet."""
        self._context = context  # fixed
        self.tree = make_tree(context, node)  # fixed
        self.site = HttpSite(self.tree, context)  # counts connections; fixed
        self._socket: socket.socket | None = None  # has the address; made by `bind`, closed by `listen`
        self._port: Any = None  # Twisted's listening port; made by `listen`
        self.address = ""  # where a browser goes; set by `bind`

    def watch(self, watched: Watched) -> None:
        """Serve metrics, too."""
        self.tree.putChild(b"metrics", MetricsPage(self._context, watched))

    def bind(self, host: str, port: int) -> int:
        """Take the address and return the port. Until `listen` the kernel refuses who connects.

        Raises:
            ConfigError: The address cannot be had.
        """
        self._socket = take_address(host, port)
        port = int(self._socket.getsockname()[1])
        scheme = "http" if self._context.tls is None else "https"
        self.address = f"{scheme}://{Address(host, port)}/"
        return port

    def listen(self) -> None:
        """Begin to accept at the address of `bind`.

        Raises:
            ConfigError: Another process that had bound the address, too, listens by now.
        """
        taken, context = self._socket, self._context
        assert taken is not None
        with listening(*taken.getsockname()[:2]):
            taken.listen(BACKLOG)
        factory: Any = self.site
        if context.tls is not None:
            factory = BulkTlsFactory(context.tls, False, self.site, clock=context.reactor, soon=context.soon)
            factory.noisy = False
        self._port = context.reactor.adoptStreamPort(taken.fileno(), taken.family, factory)
        taken.close()

    def enter_stop(self) -> None:
        """Begin nothing new but answers about health, which say from now on that the node stops."""
        self.site.close_idle()

    def stop(self) -> Deferred[None]:
        """Take no more connections; fires when those that are left have ended, or were cut off."""
        self.site.close_idle()
        port, self._port = self._port, None
        closed = maybeDeferred(port.stopListening) if port is not None else succeed(None)
        empty = self.site.when_empty()
        empty.addTimeout(LAST_ANSWERS_SECONDS, self._context.reactor, lambda _, __: self.abort())
        return empty.addCallback(lambda _: closed)

    def abort(self) -> None:
        """Cut every connection off, and give the address back."""
        self.site.abort_all()
        port, self._port = self._port, None
        if port is not None:
            port.stopListening()
        if self._socket is not None:
            self._socket.close()
