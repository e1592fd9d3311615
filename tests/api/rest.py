"""The JSON API of a fake node, without sockets."""

import json

from twisted.internet.defer import succeed

from loghouse.api.rest.exchange import EVENTS, JSON, PROBLEM, ApiRequest
from loghouse.api.rest.routes import ROUTES, SCHEMAS
from loghouse.api.rest.service import RestService
from loghouse.auth.identity import Identity
from loghouse.node.gate import Gate
from loghouse.shares import Shares
from tests.api.schemas import schema_problems
from tests.fakes.secured import SecuredCase

REPLIES = {route.name: route for route in ROUTES}


class RestCase(SecuredCase):
    """A test of the JSON API of `self.node`; `root` may do everything, `ann` nothing with the default log."""

    policy = (
        "p, root, *, produce\np, root, *, consume\np, root, *, manage\np, root, *, admin\n"
        "p, ann, team-a-*, consume\n"
        "p, reader, default, consume\n"
    )

    async def begin(self):
        self.serve()

    def serve(self, **arguments):
        self.shares = Shares()
        gate = Gate(self.node, self.authorizer, clock=lambda: self.wall_clock())
        self.rest = RestService(gate, self.shares, **arguments)

    def request(self, method, path, *, subject="root", body=b"", content_type="", told=(), **query):
        if not isinstance(body, bytes):
            body, content_type = json.dumps(body).encode(), content_type or JSON
        identity = Identity(subject=subject, expires_at=float("inf"))
        return ApiRequest(
            method=method,
            path=path,
            identity=identity,
            query={name: str(value) for name, value in query.items()},
            content_type=content_type,
            headers=dict(told),
            body=body,
        )

    async def ask(self, method, path, **arguments):
        """Ask, check the answer by the document, and return its status and value."""
        response = await self.rest.answer(self.request(method, path, **arguments))
        value = json.loads(response.body)
        self.check_documented(method, path, response.status, response.content_type, value)
        self.assertEqual(self.shares.calls.held, 0)
        self.headers = response.headers
        return response.status, value

    async def get(self, path, **arguments):
        status, value = await self.ask("GET", path, **arguments)
        self.assertEqual(status, 200, value)
        return value

    async def post(self, path, body, **arguments):
        return await self.ask("POST", path, body=body, **arguments)

    async def refused(self, method, path, status, reason, **arguments):
        found, problem = await self.ask(method, path, **arguments)
        self.assertEqual((found, problem["reason"]), (status, reason), problem)
        return problem

    def check_documented(self, method, path, status, content_type, value):
        route = next((one for one in ROUTES if one.method == method and one.match(path) is not None), None)
        if route is None:
            schema = "Problem"
        elif status == route.status:
            self.assertEqual(content_type, route.media_type)
            schema = route.reply
        else:
            self.assertIn(status, {400, 401, 403, 429, 500, 503, *route.statuses}, path)
            schema = "Problem"
        if schema == "Problem":
            self.assertEqual(content_type, PROBLEM)
        if schema:
            self.assertEqual(list(schema_problems(value, SCHEMAS[schema], SCHEMAS)), [])

    async def follow(self, path="/logs/default/follow", **arguments):
        """Begin to follow; return the pieces, closed at the test's end."""
        response = await self.rest.answer(self.request("GET", path, **arguments))
        self.assertEqual((response.status, response.content_type), (200, EVENTS), response.body)
        self.closers.append(response.pieces.aclose)
        return response.pieces.__aiter__()

    async def event(self, pieces):
        """Return the next event, its id, name and value; comments are left out."""
        while (piece := await anext(pieces)).startswith((b":", b"retry:")):
            pass
        self.assertTrue(piece.endswith(b"\n\n"))
        fields = dict(line.split(": ", 1) for line in piece.decode().strip().split("\n"))
        return fields.get("id"), fields["event"], json.loads(fields["data"])


def nothing_new(*arguments):
    """Stands for waiting that is over at once."""
    return succeed(None)
