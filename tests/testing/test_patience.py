"""Which calls on a real cluster are made again, and which are not."""

import grpc
from twisted.trial.unittest import SynchronousTestCase

from loghouse import errors
from loghouse.api.status import answer_of
from loghouse.testing import process
from loghouse.testing.patience import patiently


class FailedCall(grpc.RpcError):
    """A failed call, as a blocking stub raises it."""

    def __init__(self, code, details, trailers=()):
        self.code, self.details, self.trailing_metadata = lambda: code, lambda: details, lambda: trailers


def answered(error):
    """What a stub raises when a node answers with an error."""
    answer = answer_of(error)
    return FailedCall(answer.code, answer.text, answer.trailers)


NO_LEADER = answered(errors.UnavailableError("no leader is known"))
LOST = FailedCall(grpc.StatusCode.UNAVAILABLE, "Socket closed")
LATE = FailedCall(grpc.StatusCode.DEADLINE_EXCEEDED, "Deadline Exceeded")
DENIED = answered(errors.PermissionDeniedError("nobody", "produce", "default"))


class PatienceTests(SynchronousTestCase):
    """A call that ends in another way each time."""

    def setUp(self):
        self.patch(process, "POLL_SECONDS", 0)
        self.made = 0

    def call(self, *failures):
        """Return a call that fails so often, and is answered then."""
        ends = iter(failures)

        def call():
            self.made += 1
            for failure in ends:
                raise failure
            return "answer"

        return call

    def test_at_once(self):
        """A call that is answered is made once."""
        self.assertEqual(patiently(self.call()), "answer")
        self.assertEqual(self.made, 1)

    def test_nothing_done(self):
        """A call that certainly did nothing, as there was no leader, is made again."""
        self.assertEqual(patiently(self.call(NO_LEADER, NO_LEADER)), "answer")
        self.assertEqual(self.made, 3)

    def test_perhaps_done(self):
        """A call whose outcome nobody knows is made again only if that does no harm."""
        for failure in (LOST, LATE):
            self.made = 0
            error = self.assertRaises(grpc.RpcError, patiently, self.call(failure))
            self.assertEqual((error, self.made), (failure, 1))
            self.assertEqual(patiently(self.call(failure), is_repeatable=True), "answer")
            self.assertEqual(self.made, 3)

    def test_refused(self):
        """A refusal is told at once, whether the call may be repeated or not."""
        for is_repeatable in (False, True):
            self.made = 0
            error = self.assertRaises(
                grpc.RpcError, patiently, self.call(DENIED), is_repeatable=is_repeatable
            )
            self.assertEqual((error, self.made), (DENIED, 1))

    def test_patience_ends(self):
        """After its time it says what it waited for, and what it was told last."""
        call = self.call(*[LOST] * 10_000, DENIED)
        error = self.assertRaises(
            TimeoutError, patiently, call, "the moon", is_repeatable=True, seconds_max=0.001
        )
        self.assertEqual(str(error), "waited 0.001 s for the moon: Socket closed")
        self.assertIs(error.__cause__, LOST)
