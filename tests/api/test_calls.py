"""One call behind the guard, without a network: what is asked of grpc, when, and how each end is answered."""

import asyncio

import grpc
from grpc import aio
from twisted.trial.unittest import SynchronousTestCase

from loghouse.api import guard as guard_module
from loghouse.api.guard import Call, Guard, Rpc, Shape, _answer, handlers_of
from loghouse.api.health import HealthService
from loghouse.api.pipeline import Pipeline
from loghouse.api.v1 import log_pb2
from loghouse.auth.identity import Identity
from loghouse.auth.policy import Action
from loghouse.errors import (
    InvalidRequestError,
    NotLeaderError,
    PermissionDeniedError,
    ResourceExhaustedError,
    UnauthenticatedError,
    UnavailableError,
)
from loghouse.protocol.checking import PARSED_SIZE_MAX
from loghouse.shares import Shares
from tests.fakes.clock_loop import timed

NEVER = float("inf")


class Caller:
    """A connection of the one port: notes what it is told."""

    def __init__(self, identity=None, error=None):
        self.identity = identity
        self.error = error
        self.noted = []

    def identify(self, identity, *, has_rule):
        self.noted.append(("identify", identity.subject, has_rule))
        if self.error is not None:
            raise self.error
        self.identity = identity

    def delivered(self, size):
        self.noted.append(size)

    def __getattr__(self, name):
        return lambda: self.noted.append(name)


class Found:
    """The connections of the one port: each peer is of the same caller, or of none."""

    def __init__(self, caller):
        self.caller = caller

    def find(self, peer):
        assert peer == "unix:1", peer
        return self.caller


class Gate:
    """Lets everybody do everything, and notes what it was asked; `error` is what it says instead."""

    error = None

    def __init__(self):
        self.asked = []
        self.authorizer = self

    def permits_anything(self, subject):
        return subject == "root"

    def _ask(self, *asked):
        self.asked.append(asked)
        if self.error is not None:
            raise self.error

    def check_any_log(self, identity, action):
        self._ask("any log", identity.subject, action)

    def check_permission(self, identity, place, action):
        self._ask("permission", identity.subject, place, action)

    def find_log(self, identity, name, action, group=0):
        self._ask("log", identity.subject, name, action, group)
        return f"log {name}"


class Context:
    """grpc's side of a call: gives `messages` one by one, each after its seconds."""

    def __init__(self, *messages, version=b"TLSv1.3"):
        self.messages = list(messages)
        self.version = version
        self.written = []
        self.trailers = ()
        self.aborted = None
        self.is_cancelled = False

    def peer(self):
        return "unix:1"

    def auth_context(self):
        return {"ssl_tls_version": [self.version]} if self.version else {}

    async def read(self):
        seconds, message = self.messages.pop(0) if self.messages else (NEVER, None)
        if seconds == NEVER:
            await asyncio.get_running_loop().create_future()
        await asyncio.sleep(seconds)
        if isinstance(message, Exception):
            raise message
        return message

    async def write(self, message):
        self.written.append(message)

    def set_trailing_metadata(self, trailers):
        self.trailers = trailers

    def trailing_metadata(self):
        return self.trailers

    def cancelled(self):
        return self.is_cancelled

    async def abort(self, code, text, trailers):
        self.aborted = code, text, trailers


REQUEST = log_pb2.ProduceRequest(log="l")


class CallCase(SynchronousTestCase):
    """A guard for `anonymous` callers, and calls of one kind behind it."""

    def guard(self, *, caller=None, anonymous="root", **options):
        self.gate = Gate()
        self.shares = Shares()
        return Guard(self.gate, anonymous=anonymous, shares=self.shares, callers=Found(caller), **options)

    def rpc(self, behaviour=None, shape=Shape.UNARY, action=Action.PRODUCE, check=None):
        async def nothing(call, *request):
            return b"done"

        return Rpc(log_pb2.ProduceRequest, action, behaviour or nothing, shape, check)

    async def raises(self, kind, work):
        try:
            result = await work
        except kind as error:
            return error
        raise self.failureException(f"gave {result!r}")


class IdentityTests(CallCase):
    """Who calls."""

    @timed
    async def test_anonymous(self):
        """Without TLS everybody is the same subject, whose permission never ends."""
        guard = self.guard(anonymous="somebody")
        identity, caller = guard.identify(Context())
        self.assertEqual((identity, caller), (Identity(subject="somebody", expires_at=NEVER), None))

    @timed
    async def test_old_tls(self):
        """An older TLS gets no further; without a word of it a certificate is asked for."""
        guard = self.guard(anonymous="")
        error = self.assertRaises(UnauthenticatedError, guard.identify, Context(version=b"TLSv1.2"))
        self.assertEqual(str(error), "TLSv1.2 is too old; TLS 1.3 is needed")
        for version in (b"TLSv1.3", b""):
            error = self.assertRaises(UnauthenticatedError, guard.identify, Context(version=version))
            self.assertNotIn("TLS 1.3", str(error))

    @timed
    async def test_first_call_of_a_connection(self):
        """The first call on a connection says whose it is, once, and whether that one has a permission."""
        for subject in ("root", "nobody"):
            caller = Caller()
            guard = self.guard(caller=caller, anonymous=subject)
            for _ in range(2):
                identity, found = guard.identify(Context())
                self.assertEqual((identity.subject, found), (subject, caller))
            self.assertEqual(caller.noted, [("identify", subject, subject == "root")])

    @timed
    async def test_connection_that_is_refused(self):
        """A connection that may not be ends half a second after its refusal."""
        caller = Caller(error=ResourceExhaustedError("connections", "many"))
        guard = self.guard(caller=caller)
        self.assertRaises(ResourceExhaustedError, guard.identify, Context())
        await asyncio.sleep(0.499)
        self.assertNotIn("drop", caller.noted)
        await asyncio.sleep(0.001)
        self.assertEqual(caller.noted[1:], ["drop"])


class OneCallTests(CallCase):
    """A call from its beginning to its end."""

    @timed
    async def test_counted(self):
        """A call counts as its subject's, and its connection's, until it ends."""
        caller = Caller(identity=Identity(subject="root", expires_at=NEVER))
        guard = self.guard(caller=caller)
        call = Call(guard, self.rpc(), Context())
        self.assertEqual((call.subject, call.log, self.shares.calls.held_by("root")), ("root", None, 1))
        self.assertEqual(self.gate.asked, [("any log", "root", Action.PRODUCE)])
        call.end()
        self.assertEqual(self.shares.calls.held, 0)
        self.assertEqual(caller.noted, ["call_begun", "call_ended"])

    @timed
    async def test_held(self):
        """A follower, and the bytes of an answer, count within their block, however it ends."""
        call = Call(self.guard(), self.rpc(), Context())
        for ledger, block, amount in (
            (self.shares.followers, call.following, 1),
            (self.shares.answers, lambda: call.holding(100_000_000), None),
        ):
            if amount is not None:
                with self.assertRaises(KeyError), block():
                    self.assertEqual(ledger.held_by("root"), amount)
                    raise KeyError
                self.assertEqual(ledger.held, 0)
        size = 1 << 20
        with self.assertRaises(KeyError), call.holding(size):
            self.assertGreaterEqual(self.shares.answers.held_by("root"), size - (1 << 16))
            raise KeyError
        self.assertEqual(self.shares.answers.held, 0)
        call.end()

    @timed
    async def test_asks_the_gate(self):
        """A log is found for the call's action, and remembered; the cluster is asked for as a whole."""
        call = Call(self.guard(), self.rpc(action=Action.ADMIN), Context())
        self.assertEqual((call.find_log("l"), call.log), ("log l", "log l"))
        call.check_cluster()
        self.assertEqual(
            self.gate.asked[1:],
            [("log", "root", "l", Action.ADMIN, 0), ("permission", "root", "*", Action.ADMIN)],
        )

    @timed
    async def test_receive(self):
        """The only request is waited for as long as a message may take; its connection is told meanwhile."""
        caller = Caller(identity=Identity(subject="root", expires_at=NEVER))
        guard = self.guard(caller=caller, message_seconds=7.0)
        data = REQUEST.SerializeToString()
        call = Call(guard, self.rpc(), Context((6.9, data)))
        self.assertEqual(await call.receive(), REQUEST)
        self.assertEqual(caller.noted, ["call_begun", "read_begun", "read_ended", len(data)])
        call = Call(guard, self.rpc(), Context((7.1, data)))
        error = await self.raises(InvalidRequestError, call.receive())
        self.assertEqual((error.field, error.problem), ("request", "was not complete within 7 s"))
        self.assertEqual(caller.noted[-2:], ["read_begun", "read_ended"])
        call = Call(guard, self.rpc(), Context((0, aio.EOF)))
        error = await self.raises(InvalidRequestError, call.receive())
        self.assertEqual((error.field, error.problem), ("request", "is missing; the call ended without one"))

    @timed
    async def test_without_a_connection(self):
        """A call that came by another door is read and parsed as well; its end is the stream's."""
        data = REQUEST.SerializeToString()
        call = Call(self.guard(), self.rpc(), Context((0, data), (0, data), (0, aio.EOF), (0, aio.EOF)))
        self.assertEqual((await call.read(), await call.read_raw()), (REQUEST, data))
        self.assertEqual((await call.read(), await call.read_raw()), (None, None))

    @timed
    async def test_stopping(self):
        """A stream of a node that stops is told so at its next message; calls that need nothing go on."""
        for action, is_refused in ((Action.PRODUCE, True), (None, False)):
            guard = self.guard()
            guard.check_open(self.rpc(action=action))
            self.assertEqual(guard.turned_away_count, 0)
            call = Call(guard, self.rpc(action=action), Context((0, b""), (0, b""), (0, aio.EOF)))
            self.assertEqual(await call.read_raw(), b"")
            guard.is_stopping = True
            if is_refused:
                error = await self.raises(UnavailableError, call.read_raw())
                self.assertEqual(str(error), "the node is stopping; nothing was done, try another node")
            else:
                self.assertEqual(await call.read_raw(), b"")
            self.assertEqual(guard.turned_away_count, int(is_refused))
            self.assertIsNone(await call.read_raw())

    @timed
    async def test_large_requests_are_looked_at(self):
        """Beyond what may be parsed at once, a request is checked first: by its own check, if it has one."""
        checked = []

        async def check(call, message):
            checked.append(len(message))

        self.patch(guard_module, "check_fields", lambda message: checked.append(-len(message)))
        for size, own, expected in (
            (PARSED_SIZE_MAX, check, []),
            (PARSED_SIZE_MAX + 1, check, [PARSED_SIZE_MAX + 1]),
            (PARSED_SIZE_MAX, None, []),
            (PARSED_SIZE_MAX + 1, None, [-PARSED_SIZE_MAX - 1]),
        ):
            call = Call(self.guard(), self.rpc(check=own), Context())
            request = log_pb2.ProduceRequest(log="x" * size)
            request.log = "x" * (2 * size - request.ByteSize())
            await call.parse(request.SerializeToString())
            self.assertEqual(checked, expected)
            checked.clear()
        error = await self.raises(InvalidRequestError, call.parse(b"\xff"))
        self.assertEqual(error.problem, "is not a serialized ProduceRequest")


class AnswerTests(CallCase):
    """How a call is answered."""

    def answer(self, behaviour, context, shape=Shape.UNARY, **options):
        guard = self.guard(**options)
        self.reports = []
        guard.report = lambda error, method, subject, where: self.reports.append(
            (str(error), method, subject)
        )
        return _answer(guard, self.rpc(behaviour, shape), "/s/m")(None, context)

    @timed
    async def test_done(self):
        """A call's own request is given to what does it; a stream reads by itself."""

        async def unary(call, request):
            return request.SerializeToString()

        async def stream(call):
            await call.write(b"written")

        data = REQUEST.SerializeToString()
        self.assertEqual(await self.answer(unary, Context((0, data))), data)
        context = Context()
        self.assertIsNone(await self.answer(stream, context, Shape.STREAM))
        self.assertEqual((context.written, context.aborted, self.reports), ([b"written"], None, []))

    @timed
    async def test_refused(self):
        """An error is told with its status and details, behind the trailers that are there."""

        async def refuse(call, request):
            call.name_leader("n9")
            raise NotLeaderError("n2")

        context = Context((0, REQUEST.SerializeToString()))
        self.assertIsNone(await self.answer(refuse, context))
        code, text, trailers = context.aborted
        self.assertEqual((code, text), (grpc.StatusCode.UNAVAILABLE, str(NotLeaderError("n2"))))
        self.assertEqual(trailers[0], ("loghouse-leader", "n9"))
        self.assertEqual([name for name, _ in trailers[1:]], ["grpc-status-details-bin"])
        self.assertEqual(self.reports, [(text, "/s/m", "root")])
        self.assertEqual(self.shares.calls.held, 0)

    @timed
    async def test_whose_refusal(self):
        """The error's own subject is told before the caller's; without either nobody is."""

        async def deny(call, request):
            raise PermissionDeniedError("eve", "produce", "l")

        await self.answer(deny, Context((0, REQUEST.SerializeToString())))
        self.assertEqual(self.reports[0][1:], ("/s/m", "eve"))
        await self.answer(deny, Context(version=b"TLSv1.2"), anonymous="")
        self.assertEqual(self.reports[0][1:], ("/s/m", ""))

    @timed
    async def test_nobody_hears(self):
        """To a client that is gone, and of a server that has stopped, nothing is answered."""

        async def fail(call, request):
            raise UnavailableError("no")

        gone = Context((0, REQUEST.SerializeToString()))
        gone.is_cancelled = True
        await self.raises(asyncio.CancelledError, self.answer(fail, gone))
        self.assertEqual((gone.aborted, self.reports, self.shares.calls.held), (None, [], 0))

    @timed
    async def test_our_own_mistakes(self):
        """What is no refusal is written into the diagnostics, and is not told."""
        noted = []
        self.patch(guard_module, "report_unexpected", lambda method, error: noted.append((method, error)))

        async def fail(call, request):
            raise KeyError("secret")

        context = Context((0, REQUEST.SerializeToString()))
        await self.answer(fail, context)
        self.assertEqual(context.aborted[0], grpc.StatusCode.INTERNAL)
        self.assertNotIn("secret", context.aborted[1])
        ((method, error),) = noted
        self.assertEqual((method, type(error)), ("/s/m", KeyError))

    @timed
    async def test_handlers(self):
        """To grpc every request is a stream; the answers of a unary call are none."""
        rpcs = {shape.value: self.rpc(shape=shape) for shape in Shape}
        handler = handlers_of(self.guard(), "s", rpcs)

        class Details:
            def __init__(self, method):
                self.method = method

        found = {name: handler.service(Details(f"/s/{name}")) for name in rpcs}
        self.assertEqual(
            {name: (one.request_streaming, one.response_streaming) for name, one in found.items()},
            {"unary": (True, False), "server stream": (True, True), "stream": (True, True)},
        )
        self.assertIsNone(handler.service(Details("/s/other")))


class HealthNode:
    is_serving = True


class HealthTests(CallCase):
    """`HealthService`: watchers hear of each change, and of nothing else."""

    @timed
    async def test_watch(self):
        """The status now, and each other one after it, also when it stops; of no service: unknown, once."""
        node = HealthNode()
        service = HealthService(node)
        contexts = {"": Context(), "other": Context()}
        watching = []
        for name, context in contexts.items():
            call = Call(self.guard(), self.rpc(action=None), context)

            class Request:
                service = name

            watching.append(asyncio.ensure_future(service.rpcs()["Watch"].behaviour(call, Request)))
        await asyncio.sleep(1.0)

        async def statuses():
            await asyncio.sleep(1.0)
            return [context.written[-1] if context.written else None for context in contexts.values()], [
                len(context.written) for context in contexts.values()
            ]

        self.assertEqual(await statuses(), ([b"\x08\x01", b"\x08\x03"], [1, 1]))
        service.refresh()
        self.assertEqual((await statuses())[1], [1, 1])
        node.is_serving = False
        service.refresh()
        self.assertEqual(await statuses(), ([b"\x08\x02", b"\x08\x03"], [2, 1]))
        node.is_serving = True
        service.refresh()
        self.assertEqual(await statuses(), ([b"\x08\x01", b"\x08\x03"], [3, 1]))
        self.assertFalse(service.is_stopping)
        service.enter_stop()
        self.assertEqual(await statuses(), ([b"\x08\x02", b"\x08\x03"], [4, 1]))
        self.assertTrue(service.is_stopping)
        for one in watching:
            one.cancel()
        await asyncio.wait(watching)
        self.assertEqual(service._watchers, set())
        rpcs = service.rpcs()
        self.assertEqual({name: (rpc.action, rpc.shape) for name, rpc in rpcs.items()},
                         {"Check": (None, Shape.UNARY), "Watch": (None, Shape.SERVER_STREAM)})  # fmt: skip


class PipelineTests(CallCase):
    """`Pipeline`: what becomes of answers that nobody gets."""

    @timed
    async def test_an_append_fails(self):
        """The first failure ends the stream; what is behind it is not waited for."""
        made = []

        async def submit(request):
            answer = asyncio.get_running_loop().create_future()
            made.append(answer)
            return answer

        context = Context(*[(0, REQUEST.SerializeToString())] * 3)
        call = Call(self.guard(), self.rpc(), context)
        running = asyncio.ensure_future(Pipeline(call, submit).run())
        await asyncio.sleep(1.0)
        self.assertEqual(len(made), 3)
        made[0].set_result(b"first")
        made[2].set_exception(UnavailableError("third"))
        made[1].set_exception(UnavailableError("second"))
        error = await self.raises(UnavailableError, running)
        self.assertEqual((str(error), context.written), ("second", [b"first"]))
        left = asyncio.all_tasks() - {asyncio.current_task()}
        self.assertEqual(left, set())

    @timed
    async def test_client_is_gone(self):
        """What was proposed for a client that is gone is not waited for."""
        made = []

        async def submit(request):
            made.append(asyncio.get_running_loop().create_future())
            return made[-1]

        call = Call(self.guard(), self.rpc(), Context(*[(0, REQUEST.SerializeToString())] * 2))
        running = asyncio.ensure_future(Pipeline(call, submit).run())
        await asyncio.sleep(1.0)
        running.cancel()
        await asyncio.wait({running})
        self.assertEqual([one.cancelled() for one in made], [True, True])
        self.assertEqual(asyncio.all_tasks() - {asyncio.current_task()}, set())
