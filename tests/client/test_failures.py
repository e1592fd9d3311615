"""What a failed call means: every error that a node answers with comes out of a client as itself."""

import grpc
from google.rpc import error_details_pb2, status_pb2
from twisted.trial.unittest import SynchronousTestCase

from loghouse import errors
from loghouse.api.status import answer_of
from loghouse.client.failures import (
    CallFailedError,
    CallFailure,
    Effect,
    failure_of,
    failure_of_error,
    leader_named,
    lost_call,
    refused_link,
    unexpected,
    unmade_call,
    unreached,
)
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
    errors.QuotaExceededError(2500, "bytes in", "'ann' used its quota"): Effect.NOTHING,
    errors.ReloadRefusedError("nothing was changed"): Effect.REFUSED,
    errors.PermissionDeniedError("nobody", "produce", "default"): Effect.REFUSED,
    errors.UnauthenticatedError("no certificate"): Effect.REFUSED,
    errors.IdentityError("two names"): Effect.REFUSED,
    errors.UnknownLogError("other"): Effect.REFUSED,
    errors.MembershipError("n2 is not caught up"): Effect.REFUSED,
    errors.NotSupportedError("not served"): Effect.REFUSED,
    errors.CursorHeldError(1500, "billing", "host-2"): Effect.REFUSED,
    errors.CursorFencedError(7, 9, "billing"): Effect.REFUSED,
    errors.CursorRewindError(3, 5, "billing"): Effect.REFUSED,
    errors.UnknownCursorError("billing"): Effect.REFUSED,
    errors.TooManyCursorsError(4096, "billing"): Effect.REFUSED,
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

    def test_details_without_fields(self):
        """A reason whose fields are missing, or are no numbers, is that error with nothing in them."""
        for value in (None, "", "x", "-1", "1.5", "\u0663", "12 "):
            for reason, names, found in (
                ("INVALID_REQUEST", (), {"field": "", "problem": ""}),
                ("OFFSET_OUT_OF_RANGE", ("lowest", "next"), {"offset": 7, "lowest": 0, "next_offset": 0}),
                ("NOT_LEADER", (), {"leader": None}),
                ("EXPECT_OFFSET", ("expected", "actual"), {"expected": 0, "actual": 0}),
                ("UNKNOWN_PRODUCER", ("producer_id",), {"producer_id": 0}),
                ("RESOURCE_EXHAUSTED", (), {"resource": "", "limit": ""}),
                ("PERMISSION_DENIED", (), {"subject": "", "action": "", "object": ""}),
                ("UNKNOWN_LOG", (), {"name": ""}),
            ):
                metadata = {} if value is None else dict.fromkeys(names, value)
                error = failure_of(
                    Call(grpc.StatusCode.ABORTED, "no", details(reason, metadata)), "h1", offset=7
                ).error
                self.assertEqual({name: getattr(error, name) for name in found}, found, (reason, value))

    def test_numbers(self):
        """Numbers among the details are taken as they are, each at its place."""
        fields = {"producer_id": "11", "sequence": "22", "expected": "33"}
        error = failure_of(
            Call(grpc.StatusCode.ABORTED, "no", details("PRODUCER_SEQUENCE", fields)), "h1"
        ).error
        self.assertEqual((error.producer_id, error.sequence, error.expected), (11, 22, 33))
        error = failure_of(
            Call(grpc.StatusCode.ABORTED, "no", details("PRODUCER_SEQUENCE_REUSED", fields)), "h1"
        ).error
        self.assertEqual((error.producer_id, error.sequence), (11, 22))
        fields = {"lowest": "1", "next": "2"}
        error = failure_of(
            Call(grpc.StatusCode.OUT_OF_RANGE, "no", details("OFFSET_OUT_OF_RANGE", fields)), "h1"
        ).error
        self.assertEqual((error.offset, error.lowest, error.next_offset), (0, 1, 2))

    def test_no_second_attempt_mends_it(self):
        """What TLS does not like about either side is permanent, however it is written."""
        for cause in (
            "CERTIFICATE_VERIFY_FAILED",
            "certificate_verify_failed",
            "WRONG_VERSION_NUMBER",
            "tlsv1_alert_unknown_ca",
            "bad_certificate",
            "CERTIFICATE_REQUIRED",
            "CERTIFICATE_EXPIRED",
            "CERTIFICATE_REVOKED",
            "Hostname Verification Check failed",
            "Peer name h9 is not in peer certificate",
        ):
            failure = failure_of(Call(grpc.StatusCode.UNAVAILABLE, f"Handshake failed: {cause}"), "h1:8400")
            self.assertIsInstance(failure.error, errors.IdentityError, cause)
            self.assertEqual(
                (failure.effect, failure.is_link, failure.is_permanent), (Effect.NOTHING, True, True)
            )
            self.assertIn("; check the address, and the CA, certificate and key", str(failure.error))

    def test_words_of_another_status(self):
        """Only a connection that is not there can be one that was never made; without words nobody knows."""
        for text in ("CERTIFICATE_EXPIRED", "failed to connect", None):
            failure = failure_of(Call(grpc.StatusCode.UNKNOWN, text), "h1:8400")
            self.assertEqual((failure.effect, failure.is_link), (Effect.UNKNOWN, True), text)
        failure = failure_of(Call(grpc.StatusCode.UNAVAILABLE, None, None), "h1:8400")
        self.assertEqual((failure.effect, str(failure.error)), (Effect.UNKNOWN, "h1:8400: UNAVAILABLE"))

    def test_texts(self):
        """Of gRPC's words the cause is told, on one line; a leader that was named is kept."""
        text = " failed to connect to all addresses; last error: A;\nlast error: B\nC "
        self.assertEqual(str(failure_of(Call(grpc.StatusCode.UNAVAILABLE, text), "h1").error), "h1: B C")
        failure = failure_of(Call(grpc.StatusCode.INTERNAL, " a\nb ", ((LEADER_KEY, "n3"),)), "h1")
        self.assertEqual((str(failure.error), failure.leader), ("h1: a b", "n3"))


def details(reason, metadata):
    """The trailers of an error with such details."""
    status = status_pb2.Status()
    status.details.add().Pack(error_details_pb2.ErrorInfo(reason=reason, metadata=metadata))
    return (("grpc-status-details-bin", status.SerializeToString()),)


class BinaryTests(SynchronousTestCase):
    """Errors of the binary protocol come as errors already."""

    def test_every_error(self):
        """Each has the effect that it has by gRPC; the address is told where the text alone says little."""
        for error, effect in SURE.items():
            failure = failure_of_error(error, "h1:8400")
            self.assertEqual((failure.effect, failure.is_link, failure.is_permanent), (effect, False, False))
            if type(error) in (errors.UnavailableError, errors.OutcomeUnknownError):
                self.assertEqual(
                    (type(failure.error), str(failure.error)), (type(error), f"h1:8400: {error}")
                )
            else:
                self.assertIs(failure.error, error)
            leader = error.leader or "" if isinstance(error, errors.NotLeaderError) else ""
            self.assertEqual(failure.leader, leader)


class MadeTests(SynchronousTestCase):
    """Failures that a client finds by itself."""

    def test_what_they_mean(self):
        """Whether anything was done, whether the server is there, and whether it ever will be."""
        denied = errors.IdentityError("another cluster")
        for failure, kind, text, meaning in (
            (CallFailure(error=denied, effect=Effect.REFUSED), errors.IdentityError, "another cluster",
             (Effect.REFUSED, False, False)),
            (refused_link(denied), errors.IdentityError, "another cluster", (Effect.NOTHING, True, True)),
            (unreached("h1", "gone").failure, errors.UnavailableError, "h1: gone",
             (Effect.NOTHING, True, False)),
            (unmade_call("h1: gone"), errors.UnavailableError, "h1: gone", (Effect.NOTHING, True, False)),
            (lost_call("h1: gone"), errors.OutcomeUnknownError, "h1: gone", (Effect.UNKNOWN, True, False)),
            (unexpected(KeyError("x"), "h1"), errors.OutcomeUnknownError, "h1: KeyError: 'x'",
             (Effect.UNKNOWN, True, False)),
        ):  # fmt: skip
            self.assertEqual((type(failure.error), str(failure.error)), (kind, text))
            self.assertEqual((failure.effect, failure.is_link, failure.is_permanent), meaning, text)
            self.assertEqual(failure.leader, "")
            raised = CallFailedError(failure)
            self.assertEqual((str(raised), raised.failure), (text, failure))

    def test_cause(self):
        """What is no error of ours is the cause of the one that tells of it."""
        cause = KeyError("x")
        self.assertIs(unexpected(cause, "h1").error.__cause__, cause)
