"""Routes of the JSON API, and the OpenAPI 3.1 document that is made of them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from loghouse.api.rest.exchange import JSON, OCTETS, PROBLEM, ApiRequest
from loghouse.auth.policy import Action
from loghouse.errors import InvalidRequestError
from loghouse.limits import NAME_SIZE_MAX

PREFIX: Final = "/api/v1"
_NAME: Final = re.compile(r"[^/]+")


@dataclass(frozen=True, slots=True)
class Parameter:
    """A parameter of a query: its name, its schema, and what it does."""

    name: str
    schema: Mapping[str, Any]
    text: str
    is_needed: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class ApiRoute:
    """What may be asked at one path by one method.

    Attributes:
        name: What it does, as `operationId`.
        path: Below `PREFIX`; `{log}` in it is the name of a log.
        action: The permission that it needs; None: any permission at all is enough.
        reply: The schema of the answer, by name; empty: anything.
        statuses: Which refusals may come, beside those that may always come.
        body: The schema of the request's body, by name; empty: there is none.
    """

    name: str
    method: str = "GET"
    path: str
    summary: str
    action: Action | None = None
    parameters: Sequence[Parameter] = ()
    reply: str = ""
    status: int = 200
    media_type: str = JSON
    statuses: Sequence[int] = ()
    body: str = ""

    def match(self, path: str) -> str | None:
        """Return the log that a path names, "" when this path names none, None when it is another path."""
        before, _, behind = self.path.partition("{log}")
        if before == self.path:
            return "" if path == before else None
        if not (path.startswith(before) and path.endswith(behind)):
            return None
        log = path[len(before) : len(path) - len(behind)]
        return log if _NAME.fullmatch(log) else None

    def check(self, request: ApiRequest, log: str) -> None:
        """Raise InvalidRequestError when a request has what nobody reads, or lacks what is needed."""
        known = {parameter.name for parameter in self.parameters}
        for name in request.query:
            if name not in known:
                has = f"known: {', '.join(sorted(known))}" if known else "there is none here"
                raise InvalidRequestError(name[:64], f"is no parameter; {has}")
        for parameter in self.parameters:
            if parameter.is_needed and parameter.name not in request.query:
                raise InvalidRequestError(parameter.name, "is missing")
        if len(log) > NAME_SIZE_MAX:
            raise InvalidRequestError(
                "log", f"has {len(log)} characters; at most {NAME_SIZE_MAX} are allowed"
            )


def document(routes: Sequence[ApiRoute], schemas: Mapping[str, Any], version: str) -> dict[str, Any]:
    """Return the OpenAPI document."""
    paths: dict[str, dict[str, Any]] = {}
    for route in routes:
        paths.setdefault(f"{PREFIX}{route.path}", {})[route.method.lower()] = _operation(route)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Loghouse",
            "version": version,
            "license": {"name": "MIT", "identifier": "MIT"},
            "description": "A replicated append-only log. Every node answers for every log. Offsets count "
            "records from 0 and have no gaps; times are microseconds since the epoch; sizes are bytes. Who "
            "may do what is up to the node's policy, by the client certificate.",
        },
        "servers": [{"url": "/"}],
        "paths": paths,
        "components": {"schemas": dict(schemas)},
    }


def _operation(route: ApiRoute) -> dict[str, Any]:
    operation: dict[str, Any] = {"operationId": route.name, "summary": route.summary}
    needs = f"Needs the permission `{route.action}`." if route.action else "Needs any permission at all."
    operation["description"] = needs
    operation["parameters"] = [_parameter(parameter) for parameter in route.parameters]
    if "{log}" in route.path:
        schema = {"type": "string", "maxLength": NAME_SIZE_MAX}
        named = {"name": "log", "in": "path", "required": True, "schema": schema, "description": "Its name."}
        operation["parameters"].insert(0, named)
    if route.body:
        content = {JSON: {"schema": _reference(route.body)}, OCTETS: {"schema": {"type": "string"}}}
        operation["requestBody"] = {"required": True, "content": content}
    reply = _reference(route.reply) if route.reply else {}
    operation["responses"] = {
        str(route.status): {"description": route.summary, "content": {route.media_type: {"schema": reply}}},
        **{str(status): _refusal() for status in sorted({400, 401, 403, 429, 500, 503, *route.statuses})},
    }
    return operation


def _parameter(parameter: Parameter) -> dict[str, Any]:
    return {
        "name": parameter.name,
        "in": "query",
        "required": parameter.is_needed,
        "schema": dict(parameter.schema),
        "description": parameter.text,
    }


def _refusal() -> dict[str, Any]:
    return {"description": "A refusal.", "content": {PROBLEM: {"schema": _reference("Problem")}}}


def _reference(name: str) -> dict[str, str]:
    return {"$ref": f"#/components/schemas/{name}"}
