"""What a failed call means: every error that a node answers with comes out of a client as itself."""

import grpc
from twisted.trial.unittest import SynchronousTestCase

from loghouse import errors
from loghouse.api.status import answer_of
from loghouse.client.failures import Effect, failure_of, leader_named
from loghouse.protocol.failures import LEADER_KEY


class Call:
    """A failed call, as grpc tells of it."""

    def __init__(self, code, details, trailers=()):
        self.code, self.details, self.trailing_metadata = lambda: code, lambda: details, lambda: trailers


def answered(error, *trailers):
    """The failure that a client sees when a node answers with an error."""
    answer = answer_of(error)
    return failure_of(Call(answer.code, answer.text, (*answer.trailers, *trailers)), "h1:8400", offset=7)


SURE = {
    errors.InvalidRequestError("record", "has 2 bytes"): Effect.REFUSED,
    errors.OffsetOutOfRangeError(7, 10, 20): Effect.REFUSED,
    errors.NotLeaderError("n2"): Effect.NOTHING,
    errors.NotLeaderError(): Effect.NOTHING,
    errors.UnavailableError("no leader is known"): Effect.NOTHING,
    errors.OutcomeUnknownError("leadership was lost"): Effect.UNKNOWN,
    errors.ExpectOffsetError(3, 4): Effect.REFUSED,
    errors.SequenceError(5, 6, 7): Effect.REFUSED,
    errors.SequenceReusedError(5, 6): Effect.REFUSED,
    errors.UnknownProducerError(9): Effect.REFUSED,
    errors.ResourceExhaustedError("proposals", "64 wait"): Effect.NOTHING,
    errors.DiskFullError("/var/lib"): Effect.NOTHING,
    errors.PermissionDeniedError("nobody", "produce", "default"): Effect.REFUSED,
    errors.UnauthenticatedError("no certificate"): Effect.REFUSED,
    errors.IdentityError("two names"): Effect.REFUSED,
    errors.UnknownLogError("other"): Effect.REFUSED,
    errors.MembershipError("n2 is not caught up"): Effect.REFUSED,
    errors.NotSupportedError("not served"): Effect.REFUSED,
}


class MirrorTests(SynchronousTestCase):
    """Typed errors cross the wire."""

    def test_every_error(self):
        """Each comes back as its own class with its own text and attributes, and the right effect."""
        for error, effect in SURE.items():
            failure = answered(error)
            self.assertIs(type(failure.error), type(error))
            self.assertIn(str(error), str(failure.error))
            for name, value in vars(error).items():
                self.assertEqual(getattr(failure.error, name), value, f"{type(error).__name__}.{name}")
            self.assertEqual((failure.effect, failure.is_link), (effect, False), repr(error))

    def test_empty_log(self):
        """An empty log's bounds come back, too."""
        error = answered(errors.OffsetOutOfRangeError(7, 0, 0)).error
        self.assertEqual((error.lowest, error.next_offset), (0, 0))

    def test_leader(self):
        """The leader is taken from the error's details, or from the trailer."""
        self.assertEqual(answered(errors.NotLeaderError("n2")).leader, "n2")
        self.assertEqual(answered(errors.UnavailableError("no"), (LEADER_KEY, "n3")).leader, "n3")
        self.assertEqual(answered(errors.UnavailableError("no")).leader, "")
        self.assertEqual(leader_named(((LEADER_KEY, "n3"),)), "n3")
        self.assertEqual(leader_named(None), "")

    def test_internal(self):
        """A bug of the node leaves the outcome open, but the node can be reached."""
        failure = answered(ZeroDivisionError())
        self.assertIsInstance(failure.error, errors.OutcomeUnknownError)
        self.assertEqual((failure.effect, failure.is_link), (Effect.UNKNOWN, False))


class LinkTests(SynchronousTestCase):
    """gRPC's own errors."""

    def test_never_sent(self):
        """A connection that was never made did nothing; the text is the cause alone."""
        for cause in (
            "UNKNOWN: ipv4:1.2.3.4:1: Failed to connect to remote host: connect() timed out",
            "UNAVAILABLE: ipv4:1.2.3.4:1: Handshake read failed (Endpoint closing)",
            "DNS resolution failed for h1:8400",
        ):
            failure = failure_of(Call(grpc.StatusCode.UNAVAILABLE, cause), "h1:8400")
            self.assertEqual((failure.effect, failure.is_link), (Effect.NOTHING, True), cause)
        text = "failed to connect to all addresses; last error: UNKNOWN: ipv4:1.2.3.4:1: Connection refused"
        failure = failure_of(Call(grpc.StatusCode.UNAVAILABLE, text), "h1:8400")
        self.assertEqual((failure.effect, failure.is_link), (Effect.NOTHING, True))
        self.assertEqual(str(failure.error), "h1:8400: UNKNOWN: ipv4:1.2.3.4:1: Connection refused")

    def test_broken_or_silent(self):
        """What broke after it was sent, or was not answered, may have been done."""
        for code, text in (
            (grpc.StatusCode.UNAVAILABLE, "Socket closed"),
            (grpc.StatusCode.UNAVAILABLE, "GOAWAY received"),
            (grpc.StatusCode.DEADLINE_EXCEEDED, "Deadline Exceeded"),
            (grpc.StatusCode.CANCELLED, "CANCELLED"),
            (grpc.StatusCode.INTERNAL, "RST_STREAM with error code 2"),
            (grpc.StatusCode.UNKNOWN, None),
        ):
            failure = failure_of(Call(code, text), "h1:8400")
            self.assertIsInstance(failure.error, errors.OutcomeUnknownError, text)
            self.assertEqual((failure.effect, failure.is_link), (Effect.UNKNOWN, True), text)

    def test_without_reason(self):
        """Refusals of something between client and node are refusals, too."""
        for code, kind in (
            (grpc.StatusCode.UNIMPLEMENTED, errors.NotSupportedError),
            (grpc.StatusCode.UNAUTHENTICATED, errors.UnauthenticatedError),
            (grpc.StatusCode.PERMISSION_DENIED, errors.RequestError),
        ):
            failure = failure_of(Call(code, "no"), "h1:8400")
            self.assertIs(type(failure.error), kind)
            self.assertEqual(failure.effect, Effect.REFUSED)
        failure = failure_of(Call(grpc.StatusCode.RESOURCE_EXHAUSTED, "message larger than max"), "h1:8400")
        self.assertIsInstance(failure.error, errors.ResourceExhaustedError)
        self.assertIn("message larger than max", str(failure.error))

    def test_foreign_details(self):
        """Details that are not ours are no reason to fail."""
        for packed in (b"\xff\xff\xff", "text", b""):
            call = Call(grpc.StatusCode.UNAVAILABLE, "busy", (("grpc-status-details-bin", packed),))
            self.assertEqual(failure_of(call, "h1:8400").effect, Effect.UNKNOWN)
