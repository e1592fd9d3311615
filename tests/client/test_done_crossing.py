"""What is done, on its way from one thread to the loop of a consumer."""

from types import SimpleNamespace

from twisted.trial.unittest import SynchronousTestCase

from loghouse.client.consumer_settings import position_behind
from loghouse.client.done_crossing import DoneCrossing
from loghouse.errors import ClosedError, InvalidRequestError


class CrossingTests(SynchronousTestCase):
    """`DoneCrossing`."""

    def setUp(self):
        self.soon, self.told = [], []
        consumer = SimpleNamespace(done=self.told.append)
        self.crossing = DoneCrossing(consumer, self.soon.append, position_behind)

    def test_together(self):
        """What is said before the loop comes is passed on once: the furthest of each share, in any order."""
        for position in (3, 9, 5):
            self.crossing.note(position)
        self.crossing.note(7, "orders")
        self.assertEqual(
            (len(self.soon), self.crossing.position(), self.crossing.position("orders")), (2, 9, 7)
        )
        for work in self.soon:
            work()
        self.assertEqual((self.told, self.crossing.position()), ([9, 7], 0))

    def test_again(self):
        """What is said later has the loop come again."""
        self.crossing.note(1)
        self.soon.pop()()
        self.crossing.note(2)
        self.soon.pop()()
        self.assertEqual(self.told, [1, 2])

    def test_nothing(self):
        """What cannot be done is refused where it is said; what is forgotten is not passed on."""
        self.assertRaises(InvalidRequestError, self.crossing.note, "all")
        self.crossing.note(4)
        self.crossing.forget()
        self.soon.pop()()
        self.assertEqual((self.told, self.soon), ([], []))

    def test_lost(self):
        """A consumer that cannot take it is no error here: it tells whoever does something next."""

        def refuse(done):
            raise ClosedError("the consumer is closed")

        crossing = DoneCrossing(SimpleNamespace(done=refuse), self.soon.append, position_behind)
        crossing.note(4)
        self.soon.pop()()
        self.assertEqual(crossing.position(), 0)
