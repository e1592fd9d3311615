"""Every error has its status, and no status is UNKNOWN."""

import grpc
from google.rpc import error_details_pb2, status_pb2
from twisted.trial.unittest import SynchronousTestCase

from loghouse import errors
from loghouse.api.status import _TABLE, TEXT_SIZE_MAX, answer_of


def descendants(kind):
    for child in kind.__subclasses__():
        yield child
        yield from descendants(child)


class StatusTests(SynchronousTestCase):
    """`answer_of` for every kind of error."""

    ROWS = [
        (
            errors.InvalidRequestError("record", "is missing"),
            "INVALID_ARGUMENT",
            {"field": "record", "problem": "is missing"},
        ),
        (errors.OffsetOutOfRangeError(9, 2, 5), "OUT_OF_RANGE", {"lowest": "2", "highest": "4", "next": "5"}),
        (errors.OffsetOutOfRangeError(9, 5, 5), "OUT_OF_RANGE", {"lowest": "5", "next": "5"}),
        (errors.NotLeaderError("n2"), "UNAVAILABLE", {"leader": "n2"}),
        (errors.NotLeaderError(), "UNAVAILABLE", {}),
        (errors.UnavailableError("no"), "UNAVAILABLE", {}),
        (errors.OutcomeUnknownError("?"), "ABORTED", {}),
        (errors.ExpectOffsetError(1, 2), "FAILED_PRECONDITION", {"expected": "1", "actual": "2"}),
        (
            errors.SequenceError(7, 8, 9),
            "FAILED_PRECONDITION",
            {"producer_id": "7", "sequence": "8", "expected": "9"},
        ),
        (
            errors.SequenceReusedError(7, 8),
            "FAILED_PRECONDITION",
            {"producer_id": "7", "sequence": "8"},
        ),
        (errors.UnknownProducerError(7), "FAILED_PRECONDITION", {"producer_id": "7"}),
        (
            errors.CursorHeldError(1500, "b", "h"),
            "FAILED_PRECONDITION",
            {"milliseconds": "1500", "name": "b", "holder": "h"},
        ),
        (
            errors.CursorFencedError(7, 9, "b"),
            "FAILED_PRECONDITION",
            {"epoch": "7", "current": "9", "name": "b"},
        ),
        (
            errors.CursorRewindError(3, 5, "b"),
            "FAILED_PRECONDITION",
            {"position": "3", "current": "5", "name": "b"},
        ),
        (errors.UnknownCursorError("b"), "NOT_FOUND", {"name": "b"}),
        (errors.TooManyCursorsError(4, "b"), "FAILED_PRECONDITION", {"count": "4", "name": "b"}),
        (errors.ResourceExhaustedError("a", "b"), "RESOURCE_EXHAUSTED", {"resource": "a", "limit": "b"}),
        (
            errors.DiskFullError("/d"),
            "RESOURCE_EXHAUSTED",
            {
                "resource": "disk",
                "limit": "no space left under /d; free some, appends resume by themselves",
                "directory": "/d",
            },
        ),
        (
            errors.PermissionDeniedError("eve", "produce", "default"),
            "PERMISSION_DENIED",
            {"subject": "eve", "action": "produce", "object": "default"},
        ),
        (errors.UnauthenticatedError("no"), "UNAUTHENTICATED", {}),
        (errors.IdentityError("no"), "UNAUTHENTICATED", {}),
        (errors.UnknownLogError("x"), "NOT_FOUND", {"log": "x"}),
        (errors.UnknownServiceError("x"), "NOT_FOUND", {"service": "x"}),
        (errors.MembershipError("no"), "FAILED_PRECONDITION", {}),
        (errors.NotSupportedError("later"), "UNIMPLEMENTED", {}),
        (errors.ReloadRefusedError("nothing was changed"), "FAILED_PRECONDITION", {}),
        (
            errors.QuotaExceededError(2500, "bytes in", "too many"),
            "RESOURCE_EXHAUSTED",
            {"retry_milliseconds": "2500", "resource": "bytes in", "limit": "too many"},
        ),
    ]

    def test_rows(self):
        """Each error gives its code, its own text, and an ErrorInfo with its details."""
        for error, code, metadata in self.ROWS:
            answer = answer_of(error)
            self.assertEqual(answer.code, grpc.StatusCode[code], repr(error))
            self.assertEqual(answer.text, str(error))
            ((key, value),) = answer.trailers
            self.assertEqual(key, "grpc-status-details-bin")
            status = status_pb2.Status.FromString(value)
            self.assertEqual((status.code, status.message), (answer.code.value[0], answer.text))
            info = error_details_pb2.ErrorInfo()
            self.assertTrue(status.details[0].Unpack(info))
            self.assertEqual((info.domain, dict(info.metadata)), ("loghouse", metadata))

    def test_every_request_error_has_a_row(self):
        """No refusal is answered by accident, and the rows above are all there are."""
        kinds = {kind for kind in descendants(errors.RequestError) if kind.__module__ == errors.__name__}
        # What a client says itself: nobody answered, it is closed, it is used where it cannot work, or what
        # its cursor stands at was trimmed, or its row in a database is another one's.
        kinds -= {
            errors.DeadlineError,
            errors.ClosedError,
            errors.ClientUseError,
            errors.CursorTrimmedError,
            errors.PositionTakenError,
        }
        self.assertLessEqual(kinds, set(_TABLE))
        self.assertEqual({type(error) for error, _, _ in self.ROWS}, set(_TABLE))

    def test_nothing_else_shows(self):
        """Storage errors, broken invariants and foreign exceptions are INTERNAL and say nothing."""
        for error in (errors.DiskFailedError("/secret"), AssertionError("secret"), KeyError("secret")):
            answer = answer_of(error)
            self.assertEqual(answer.code, grpc.StatusCode.INTERNAL)
            self.assertTrue(answer.is_internal)
            self.assertNotIn("secret", answer.text + repr(answer.trailers))

    def test_texts_are_bounded(self):
        """Whatever a text holds, the trailers stay far below what clients accept."""
        answer = answer_of(errors.InvalidRequestError("f" * 10_000, "p" * 10_000))
        self.assertEqual(len(answer.text), TEXT_SIZE_MAX)
        self.assertLess(len(answer.trailers[0][1]), 4 * TEXT_SIZE_MAX)
