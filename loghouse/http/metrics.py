"""`/metrics`: what Prometheus asks for, every quarter of a minute or so."""

from __future__ import annotations

from typing import Any, Final

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, generate_latest
from twisted.web.server import NOT_DONE_YET

from loghouse.http.answers import HttpAnswer
from loghouse.http.collector import NodeCollector, Watched
from loghouse.http.endpoint import Endpoint, HttpCall
from loghouse.http.site import HttpContext

TYPE: Final = CONTENT_TYPE_PLAIN_0_0_4.encode()


class MetricsPage(Endpoint):
    """The path. Where it is open, nobody is asked who they are; else any permission at all is enough."""

    def __init__(self, context: HttpContext, watched: Watched) -> None:
        super().__init__(context)
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(NodeCollector(watched))
        ProcessCollector(registry=self._registry)

    def render(self, request: Any) -> int:
        """Answer at once where everybody may ask, else as every endpoint does."""
        if not self.context.metrics_are_open:
            return super().render(request)
        found = self._behaviour(request)
        request.answer(found if isinstance(found, HttpAnswer) else self._answer())
        return NOT_DONE_YET

    async def answer_get(self, call: HttpCall) -> HttpAnswer:
        """Return all metrics."""
        return self._answer()

    def _answer(self) -> HttpAnswer:
        return HttpAnswer(body=generate_latest(self._registry), content_type=TYPE)
