"""`streams`: what is open on a connection, what it costs, and when it is over."""

from dataclasses import replace

from twisted.trial.unittest import SynchronousTestCase

from loghouse import limits
from loghouse.errors import InvalidRequestError, ProtocolError, ResourceExhaustedError, UnavailableError
from loghouse.protocol import streams
from loghouse.protocol.client_messages import (
    Bounds,
    BoundsReply,
    Describe,
    Failure,
    Fetch,
    FetchReply,
    Follow,
    FollowFrames,
    Produce,
    ProduceReply,
)
from loghouse.protocol.streams import STREAM_MAX, AskedStreams, ServedStream, ServedStreams

BOUNDS_REPLY = BoundsReply(lowest=0, next_offset=1)
PRODUCE_REPLY = ProduceReply(base_offset=0, record_count=1, timestamp=1)
FRAMES = FollowFrames(next_offset=1, frames=b"x" * 30)
REFUSAL = Failure.of(UnavailableError("later"))
MOST = limits.FOLLOW_CREDIT_MAX


def served(*requests):
    """The acceptor's side with these open, from stream 1 on."""
    table = ServedStreams()
    for stream, request in enumerate(requests, 1):
        table.begin(stream, request)
    return table


class ServedTests(SynchronousTestCase):
    """What the dialler asked for."""

    def broken(self, text, call, *args):
        with self.assertRaises(ProtocolError) as caught:
            call(*args)
        self.assertEqual(str(caught.exception), text)

    def test_cost(self):
        """An append counts its batch and a kilobyte, a read 64 KiB, a follow nothing but its credit."""
        batch = Produce(batch=b"x" * 100, record_count=1)
        table = served(batch, Fetch(offset=0), Bounds(), Describe(), Follow(offset=0, credit=7))
        self.assertEqual(
            table.open,
            {
                1: ServedStream(Produce, 1024 + 100, 0),
                2: ServedStream(Fetch, 65536, 0),
                3: ServedStream(Bounds, 65536, 0),
                4: ServedStream(Describe, 65536, 0),
                5: ServedStream(Follow, 0, 7),
            },
        )

    def test_full(self):
        """It is full when what is open costs more than its bound: at the bound it is not."""
        size = limits.REQUESTS_SIZE_MAX - limits.APPEND_COST
        for more, is_full in [(0, False), (1, True)]:
            table = served(Follow(offset=0, credit=1), Produce(batch=bytes(size + more), record_count=1))
            self.assertIs(table.is_full, is_full)
            table.answer(2, PRODUCE_REPLY)
            self.assertFalse(table.is_full)

    def test_cost_is_given_back(self):
        """Whatever ends a request gives back what it cost, once."""
        ways = [
            lambda table: table.answer(1, BOUNDS_REPLY),
            lambda table: table.answer(1, REFUSAL),
            lambda table: table.cancel(1),
            lambda table: table.end(1),
        ]
        for way in ways:
            table = served(Bounds(), Bounds())
            way(table)
            self.assertEqual((list(table.open), table._size), ([2], limits.READ_COST))
            self.assertFalse(table.end(1))
            self.assertEqual(table._size, limits.READ_COST)
            self.assertTrue(table.end(2))
            self.assertEqual(table._size, 0)

    def test_follows_are_given_back(self):
        """A follow that ended makes place for another; its frames do not end it."""
        self.patch(streams, "FOLLOWS_PER_CONNECTION_MAX", 2)
        follow = Follow(offset=0, credit=100)
        for end in (
            lambda table: table.answer(1, REFUSAL),
            lambda table: table.cancel(1),
            lambda table: table.end(1),
        ):
            table = served(follow, follow)
            table.answer(1, FRAMES, credit_used=30)
            with self.assertRaises(ResourceExhaustedError) as caught:
                table.begin(3, follow)
            self.assertEqual(caught.exception.resource, "follows")
            self.assertEqual(
                caught.exception.limit,
                "at most 2 open on one connection; cancel one, or open another connection",
            )
            table.begin(4, Bounds())
            end(table)
            table.begin(5, follow)
            self.assertRaises(ResourceExhaustedError, table.begin, 6, follow)

    def test_numbers_grow(self):
        """A stream's number is larger than all before, also than those refused unread."""
        table = served()
        self.broken("stream 0 opened behind stream 0; numbers only grow", table.begin, 0, Bounds())
        table.begin(3, Bounds())
        for stream in (3, 2):
            text = f"stream {stream} opened behind stream 3; numbers only grow"
            self.broken(text, table.begin, stream, Bounds())
        table.pass_over(7)
        self.assertNotIn(7, table.open)
        self.broken("stream 7 opened behind stream 7; numbers only grow", table.begin, 7, Bounds())
        table.begin(8, Bounds())

    def test_credit(self):
        """Credit adds up to its bound, and not beyond it; what is sent is taken off."""
        for first, is_taken in [(MOST, True), (MOST + 1, False)]:
            table = served()
            follow = Follow(offset=0, credit=first)
            if is_taken:
                table.begin(1, follow)
                self.assertEqual(table.open[1].credit, MOST)
            else:
                error = self.assertRaises(InvalidRequestError, table.begin, 1, follow)
                self.assertEqual(str(error), f"credit: {MOST + 1} bytes; at most {MOST} are allowed")
                self.assertEqual(table.open, {})
        table = served(Follow(offset=0, credit=20))
        table.answer(1, FRAMES, credit_used=30)
        self.assertEqual(table.open[1].credit, -10)
        self.assertIs(table.add_credit(1, MOST + 10), True)
        self.assertEqual(table.open[1].credit, MOST)
        error = self.assertRaises(InvalidRequestError, table.add_credit, 1, 1)
        self.assertEqual(str(error), f"credit: {MOST + 1} bytes; at most {MOST} are allowed")

    def test_credit_of_others(self):
        """Credit for a stream that is over is late; for one that is no follow, or never was, a mistake."""
        table = served(Follow(offset=0, credit=1), Bounds())
        self.broken("credit for stream 2, which is a Bounds", table.add_credit, 2, 1)
        table.end(1)
        self.assertIs(table.add_credit(1, 1), False)
        for stream in (0, 3):
            self.broken(f"stream {stream} was never opened", table.add_credit, stream, 1)

    def test_cancel(self):
        """A cancel ends what is open, comes late for what was, and is a mistake for the rest."""
        table = served(Bounds(), Bounds())
        self.assertIs(table.cancel(1), True)
        self.assertIs(table.cancel(1), False)
        self.assertEqual(list(table.open), [2])
        for stream in (0, 3):
            self.broken(f"stream {stream} was never opened", table.cancel, stream)

    def test_answers(self):
        """An answer ends its request; it must be the one that belongs to it."""
        table = served(Fetch(offset=0), Produce(batch=b"", record_count=1))
        table.answer(1, FetchReply(next_offset=1, frames=b""))
        self.assertEqual(list(table.open), [2])
        self.assertRaises(AssertionError, table.answer, 2, BOUNDS_REPLY)


class AskedTests(SynchronousTestCase):
    """What this side asked for."""

    def broken(self, text, stream, reply):
        table = AskedStreams()
        table.begin(Bounds())
        table.begin(Follow(offset=0, credit=1))
        with self.assertRaises(ProtocolError) as caught:
            table.accept(stream, reply)
        self.assertEqual(str(caught.exception), text)

    def test_numbers(self):
        """Streams are numbered from 1 on, and used once."""
        table = AskedStreams()
        self.assertEqual([table.begin(Bounds()) for _ in range(2)], [1, 2])
        self.assertIs(table.end(1), True)
        self.assertIs(table.end(1), False)
        self.assertEqual(table.begin(Bounds()), 3)
        self.assertEqual(table.open, {2: Bounds, 3: Bounds})

    def test_bounded(self):
        """So many are open at a time, 256 if nothing else is said."""
        table = AskedStreams(2)
        table.begin(Bounds())
        table.begin(Bounds())
        with self.assertRaises(ResourceExhaustedError) as caught:
            table.begin(Bounds())
        self.assertEqual(caught.exception.resource, "requests")
        self.assertEqual(caught.exception.limit, "at most 2 open on one connection")
        table.end(1)
        table.begin(Bounds())
        table = AskedStreams()
        for _ in range(256):
            table.begin(Bounds())
        self.assertRaises(ResourceExhaustedError, table.begin, Bounds())

    def test_used_up(self):
        """Behind the last number of 32 bits a new connection is needed."""
        self.assertEqual(STREAM_MAX, 0xFFFF_FFFF)
        table = AskedStreams()
        table._last = STREAM_MAX - 1
        self.assertFalse(table.is_used_up)
        self.assertEqual(table.begin(Bounds()), STREAM_MAX)
        self.assertTrue(table.is_used_up)
        self.assertRaises(ResourceExhaustedError, table.begin, Bounds())

    def test_accepted(self):
        """A reply or a failure ends a request, many answer a follow until it fails; late ones are dropped."""
        table = AskedStreams()
        for request in (Bounds(), Bounds(), Follow(offset=0, credit=1)):
            table.begin(request)
        self.assertIs(table.accept(1, BOUNDS_REPLY), True)
        self.assertIs(table.accept(1, BOUNDS_REPLY), False)
        self.assertIs(table.accept(2, REFUSAL), True)
        self.assertEqual(list(table.open), [3])
        for _ in range(2):
            self.assertIs(table.accept(3, FRAMES), True)
        self.assertIs(table.accept(3, REFUSAL), True)
        self.assertIs(table.accept(3, FRAMES), False)
        self.assertEqual(table.open, {})

    def test_false_answers(self):
        """An answer that nobody asked for, or of another request, breaks the rules."""
        for stream in (0, 3):
            self.broken(f"an answer on stream {stream}, which was never opened", stream, BOUNDS_REPLY)
        self.broken("ProduceReply in answer to Bounds on stream 1", 1, PRODUCE_REPLY)
        self.broken("BoundsReply in answer to Follow on stream 2", 2, BOUNDS_REPLY)
        self.broken("FollowFrames in answer to Bounds on stream 1", 1, replace(FRAMES, next_offset=2))
