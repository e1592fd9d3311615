"""The path of the console's page. What it shows, it asks the JSON API for, with its user's permissions."""

from __future__ import annotations

from loghouse.http.answers import HttpAnswer, plain_refusal
from loghouse.http.channel import HttpRequest
from loghouse.http.console.page import console_page
from loghouse.http.endpoint import Answering, Endpoint, HttpCall


class ConsoleEndpoint(Endpoint):
    """Answers with the page, for whoever may do anything here."""

    def _behaviour(self, request: HttpRequest) -> Answering | HttpAnswer:
        if request.path != b"/":  # a path that begins with two of them is none of ours
            return plain_refusal(404, "NOT_FOUND", "there is nothing at this path")
        return super()._behaviour(request)

    async def answer_get(self, call: HttpCall) -> HttpAnswer:
        """Return the page; it holds nothing of the cluster."""
        page = console_page()
        policy = (b"Content-Security-Policy", page.policy.encode())
        return HttpAnswer(body=page.body, content_type=b"text/html; charset=utf-8", headers=(policy,))
