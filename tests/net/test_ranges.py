"""Reads of a range over the binary protocol, through the real port."""

from twisted.internet.defer import CancelledError

from loghouse import errors
from loghouse.api.v1.log_pb2 import Header, Record
from loghouse.limits import FETCH_SIZE_MAX, KIB, READ_WAIT_MILLISECONDS_MAX
from loghouse.protocol.range_messages import Read
from loghouse.protocol.record_filter import RecordFilter
from loghouse.protocol.record_range import Consistency, RecordRange
from tests.net.test_binary_session import SessionCase, refused, values_of
from tests.net.wire import asynchronous, until


class RangeTests(SessionCase):
    """What is asked for, and what comes."""

    async def begin(self):
        await super().begin()
        for number in range(4):
            headers = [Header(key="h", value=b"v")] if number == 3 else []
            self.node.cluster.add_records(
                Record(value=b"%d" % number, key=b"odd" if number % 2 else b"even", headers=headers)
            )

    async def read(self, **fields):
        reply = await self.connection.read(RecordRange(**fields))
        return values_of(self.connection, reply.frames), reply.next_offset

    @asynchronous
    async def test_ranges(self):
        """Either way, bounded or not, with and without a filter; frames are always in the log's order."""
        everything = [b"0", b"1", b"2", b"3"]
        odd = RecordFilter(keys=(b"odd",))
        for fields, values, next_offset in (
            ({}, everything, 4),
            ({"first": 1, "end": 3}, [b"1", b"2"], 3),
            ({"is_reverse": True}, everything, 0),
            ({"first": 2, "is_reverse": True}, [b"2", b"3"], 2),
            ({"is_reverse": True, "count_max": 1}, [b"3"], 3),
            ({"filter": odd}, [b"1", b"3"], 4),
            ({"filter": odd, "count_max": 1}, [b"1"], 2),
            ({"filter": odd, "count_max": 1, "is_reverse": True}, [b"3"], 3),
            ({"filter": RecordFilter(key_prefixes=(b"ev",))}, [b"0", b"2"], 4),
            ({"filter": RecordFilter(headers=(("h", b"v"),))}, [b"3"], 4),
            ({"filter": RecordFilter(keys=(b"no",))}, [], 4),
            ({"first": 4}, [], 4),
        ):
            self.assertEqual(await self.read(**fields), (values, next_offset), fields)

    @asynchronous
    async def test_what_is_known(self):
        """The bounds come with every answer, and whether the leader confirmed them."""
        for consistency, is_confirmed in ((Consistency.CONFIRMED, True), (Consistency.LOCAL, False)):
            reply = await self.connection.read(RecordRange(first=4, consistency=consistency))
            self.assertEqual((reply.lowest, reply.committed, reply.is_confirmed), (0, 4, is_confirmed))

    @asynchronous
    async def test_size(self):
        """As a fetch: 512 KiB if nothing is said, 2 MiB at most."""
        for asked, taken in ((0, 512 * KIB), (1, 1), (FETCH_SIZE_MAX + 1, FETCH_SIZE_MAX)):
            await self.connection.read(RecordRange(size_max=asked))
            self.assertEqual(self.node.ranges[-1].size_max, taken)

    @asynchronous
    async def test_waiting(self):
        """A read waits for the record that it begins at, and is one of the subject's followers meanwhile."""
        followers = self.shares.followers
        waiting = self.connection.read(RecordRange(first=4, wait_milliseconds=20_000))
        await until(lambda: self.node.waiters)
        self.assertEqual(followers.held, 1)
        self.node.cluster.add_values(b"4")
        reply = await waiting
        self.assertEqual((values_of(self.connection, reply.frames), reply.next_offset), ([b"4"], 5))
        self.assertEqual(followers.held, 0)
        self.assertEqual(await self.read(first=5, wait_milliseconds=1), ([], 5))
        self.assertEqual(await self.read(first=9, wait_milliseconds=1), ([], 9))
        self.assertEqual((followers.held, self.node.waiters), (0, {}))

    @asynchronous
    async def test_waiting_no_more(self):
        """Whoever cancels waits no more, and is no follower."""
        waiting = self.connection.read(RecordRange(first=4, wait_milliseconds=20_000))
        await until(lambda: self.node.waiters)
        waiting.addErrback(lambda failure: failure.trap(CancelledError))
        waiting.cancel()
        await until(lambda: not self.node.waiters)
        self.assertEqual(self.shares.followers.held, 0)
        self.assertEqual(await self.read(first=3), ([b"3"], 4))

    @asynchronous
    async def test_refused(self):
        """Each mistake by the name of its field; the connection goes on."""
        for fields, field in (
            ({"first": 2, "end": 1}, "end"),
            ({"consistency": 9}, "consistency"),
            ({"wait_milliseconds": READ_WAIT_MILLISECONDS_MAX + 1}, "wait_milliseconds"),
            ({"filter": RecordFilter(keys=(b"k",) * 17)}, "filter"),
            ({"filter": RecordFilter(keys=(bytes(4097),))}, "filter"),
        ):
            asked = self.connection.read(RecordRange(**fields))
            error = await refused(self, asked, errors.InvalidRequestError)
            self.assertEqual(error.field, field)
        for fields, kind in (
            ({"first": 5}, errors.OffsetOutOfRangeError),
            ({"first": 5, "consistency": Consistency.LOCAL}, errors.UnavailableError),
        ):
            await refused(self, self.connection.read(RecordRange(**fields)), kind)
        self.assertEqual(self.shares.followers.held, 0)
        self.assertEqual(await self.read(first=3), ([b"3"], 4))

    @asynchronous
    async def test_among_others(self):
        """Ranges, fetches and a stream that follows take turns on one connection."""
        got = []
        following = self.connection.follow(0, lambda frames: got.append(frames.next_offset))
        following.addErrback(lambda failure: failure.trap(CancelledError))
        asked = [self.connection.read(RecordRange(first=number)) for number in range(4)]
        fetched = [self.connection.fetch(number) for number in range(4)]
        for answers in (asked, fetched):
            self.assertEqual([(await answer).next_offset for answer in answers], [4] * 4)
        await until(lambda: got)
        following.cancel()

    @asynchronous
    async def test_permission(self):
        """Reading a range needs the permission to consume."""
        stranger = await self.connect("nobody")
        await refused(self, stranger.read(RecordRange()), errors.PermissionDeniedError)


class MessageTests(SessionCase):
    """The message and the range that it stands for."""

    def test_round_trip(self):
        """Nothing is lost on the way."""
        wanted = RecordRange(
            first=1,
            end=9,
            is_reverse=True,
            count_max=3,
            size_max=5,
            filter=RecordFilter(keys=(b"", b"k"), key_prefixes=(b"p",), headers=(("h", b""),)),
            consistency=Consistency.LOCAL,
        )
        self.assertEqual(Read.decode(b"".join(Read.of(wanted).encode())).wanted(), wanted)
        self.assertEqual(Read.decode(b"".join(Read().encode())).wanted(), RecordRange())
