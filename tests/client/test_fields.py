"""What callers give: taken with its obvious meaning, or refused by the name of its field; both flavours."""

import asyncio
import inspect
import math
from datetime import UTC, date, datetime, timedelta, timezone
from typing import get_type_hints

from twisted.trial.unittest import SynchronousTestCase

from loghouse.client import AsyncClient, Client, Tls, connect, connect_blocking
from loghouse.client.choice import PageOptions, ReadOptions
from loghouse.client.consumer_settings import ConsumerOptions
from loghouse.client.cursors import Advance
from loghouse.client.fields import (
    SECONDS_MAX,
    bytes_of,
    datetime_of,
    headers_of,
    integer_of,
    moment_of,
    number_of,
    seconds_of,
    text_of,
    timestamp_of,
    values_of,
)
from loghouse.client.records import Record
from loghouse.errors import InvalidRequestError
from tests.client.fake import FakeCase
from tests.fakes.tasks import asynchronous

NAIVE = datetime(2026, 1, 1)
NO_BYTES = ("text", "", 7, 1.5, object(), [b"a"], True)
NO_KEYS = ("text", "", 7, 0, False, [b"a"])
NO_HEADERS = (
    "ab",
    b"ab",
    7,
    0,
    ["ab"],
    [b"ab"],
    [("a",)],
    [("a", "b")],
    [(b"a", b"b")],
    [("a", b"b", b"c")],
    [("\ud800", b"b")],
    {"a": "b"},
    {1: b"b"},
    [None],
)
NO_TIMESTAMPS = (
    NAIVE,
    date(2026, 1, 1),
    True,
    False,
    1.5,
    "2026-01-01",
    -1,
    2**64,
    datetime(1969, 12, 31, tzinfo=UTC),
    datetime(1970, 1, 1, tzinfo=UTC),
    timedelta(1),
)
NO_OFFSETS = (True, False, 1.0, "1", -1, 2**64, b"1")
NO_SECONDS = (0, 0.0, -1, math.nan, math.inf, -math.inf, True, "1", SECONDS_MAX + 1)
NO_TEXTS = (b"a", 7, True, "\ud800")
NO_FLAGS = ("no", "", 0, 1, None)
NO_STARTS = (True, False, -1, 2**64, 1.0, "now", "", b"earliest", NAIVE, date(2026, 1, 1), None)
NO_VALUES = (
    b"ab",
    bytearray(b"ab"),
    "ab",
    b"",
    "",
    7,
    None,
    {b"k": b"v"},
    {},
    ["a"],
    [b"a", None],
    [(b"k", b"v")],
)

NO_ADVANCES = ("a", 7, True, {}, ("a", 1, 2), Advance(7, 1, 2), Advance("\ud800", 1, 2))
NO_NAMES = ("a", b"a", 7, [1], ["\ud800"])
NO_SETTINGS = {
    "retention_bytes": NO_OFFSETS,
    "retention_age": (*NO_OFFSETS, timedelta(seconds=0.5), timedelta(seconds=-1)),
    "record_bytes_max": NO_OFFSETS,
    "append_bytes_per_second_max": NO_OFFSETS,
    "tags": NO_NAMES,
}

NO_CHOICES = {
    "key": ("text", "", 7, 0, False, [], ["a"], [7]), "key_prefix": ("text", 7, [], [b"a", "b"]),
    "headers": NO_HEADERS, "consistency": (None, True, "eventual", b"local"), "timeout_seconds": NO_SECONDS,
}  # fmt: skip
NO_READS = {
    "from_": NO_STARTS, "follow": NO_FLAGS, "limit": (True, 0, -1, 1.5, "3", 2**32), "reverse": NO_FLAGS,
    "until": (NAIVE, True, 1.5, "noon", -1, 2**64), **NO_CHOICES,
}  # fmt: skip

# For each public method: what else it is given, and which values of which field it refuses.
METHODS = {
    "append": ((b"v",), {
        "value": (*NO_BYTES, None), "key": NO_KEYS, "headers": NO_HEADERS, "timestamp": NO_TIMESTAMPS,
        "expect_offset": NO_OFFSETS, "timeout_seconds": NO_SECONDS,
    }),
    "append_batch": (([b"v"],), {
        "values": NO_VALUES, "compression": (None, b"zstd", 7, "gzip", ""), "expect_offset": NO_OFFSETS,
        "cursor": NO_ADVANCES, "timeout_seconds": NO_SECONDS,
    }),
    "cursors": ((), {}),
    "consumer": (("billing",), {
        "name": (*NO_TEXTS, None), "logs": ("", [], 7, {}, [7], [b"a"]), "into": ("bills", 7, True),
        "from_": NO_STARTS, "on_trimmed": (None, True, "skip"),
        "commit_seconds": (-1, True, "1", math.nan, 3601),
        "commit_records": (-1, True, "1", 1.5, None), "lease_seconds": (*NO_SECONDS, 0.9, 601, None),
        "holder": NO_TEXTS, "compression": (None, b"zstd", "gzip"), "timeout_seconds": NO_SECONDS,
    }),
    "producer": ((), {
        "linger_ms": (True, "5", -1, math.nan, 60_001, None), "batch_bytes": (True, 1.5, "1", 0, 2**30, None),
        "compression": (None, b"zstd", "gzip"), "buffer_bytes": (True, 1.5, 0, None),
        "timeout_seconds": NO_SECONDS,
    }),
    "read": ((), NO_READS),
    "read_batches": ((), NO_READS),
    "read_answers": ((), NO_READS),
    "read_page": ((), {**NO_READS, "follow": (*NO_FLAGS, True)}),
    "newest": ((3,), {"count": (True, 0, -1, 1.5, "3", 2**32, None), **NO_CHOICES}),
    "find_range": ((0,), {"from_": NO_STARTS, "follow": NO_FLAGS, "timeout_seconds": NO_SECONDS}),
    "bounds": ((), {"consistency": NO_CHOICES["consistency"], "timeout_seconds": NO_SECONDS}),
    "find_offset": ((7,), {
        "time": (NAIVE, True, 1.5, "08:30", -1, 2**64, None), "timeout_seconds": NO_SECONDS,
    }),
    "servers": ((), {"timeout_seconds": NO_SECONDS}),
    "status": ((), {"server": (*NO_TEXTS, None), "timeout_seconds": NO_SECONDS}),
    "add": (("n1",), {"name": (*NO_TEXTS, None), "learner": NO_FLAGS, "timeout_seconds": NO_SECONDS}),
    "remove": (("n1",), {"name": (*NO_TEXTS, None), "timeout_seconds": NO_SECONDS}),
    "leave": (("n1",), {"server": (*NO_TEXTS, None), "timeout_seconds": NO_SECONDS}),
    "reload": ((), {"server": (*NO_TEXTS, None), "timeout_seconds": NO_SECONDS}),
    "transfer": (("n1",), {"name": (*NO_TEXTS, None), "timeout_seconds": NO_SECONDS}),
    "trim": ((0,), {"offset": (*NO_OFFSETS, None), "timeout_seconds": NO_SECONDS}),
    "log": (("orders",), {"name": (*NO_TEXTS, None)}),
    "create_log": (("orders",), {
        "name": (*NO_TEXTS, None), **{name: (*values, None) for name, values in NO_SETTINGS.items()},
        "replicas": (*NO_OFFSETS, 0, None), "on": (*NO_NAMES, None), "timeout_seconds": NO_SECONDS,
    }),
    "alter_log": (("orders",), {"name": (*NO_TEXTS, None), **NO_SETTINGS, "timeout_seconds": NO_SECONDS}),
    "delete_log": (("orders",), {"name": (*NO_TEXTS, None), "timeout_seconds": NO_SECONDS}),
    "replace_replica": (("orders", "n1", "n2"), {
        "name": (*NO_TEXTS, None), "lost": (*NO_TEXTS, None), "new": (*NO_TEXTS, None),
        "timeout_seconds": NO_SECONDS,
    }),
    "logs": ((), {"timeout_seconds": NO_SECONDS}),
    "describe_log": (("orders",), {"name": (*NO_TEXTS, None), "timeout_seconds": NO_SECONDS}),
}  # fmt: skip
NOT_CALLS = {"close", "timeout_of", "read_range", "read_entries", "read_state", "append_encoded"}
OPTIONS = {"newest": PageOptions, "consumer": ConsumerOptions}


def cases(flavour):
    """Yield (method, arguments, field, bad value) for every call of a flavour."""
    for name, method in inspect.getmembers(flavour, inspect.isfunction):
        if name.startswith("_") or name in NOT_CALLS:
            continue
        given, fields = METHODS[name]
        parameters = list(inspect.signature(method).parameters)[1:]
        if parameters[-1:] == ["options"]:
            parameters[-1:] = get_type_hints(OPTIONS.get(name, ReadOptions))
        assert set(fields) == set(parameters), (name, parameters)
        for field, values in fields.items():
            for value in values:
                arguments = {**dict(zip(parameters, given, strict=False)), field: value}
                yield name, arguments, field, value


class RefusedTests(FakeCase):
    """Every argument of every public method, in both flavours; nothing reaches the cluster."""

    def check(self, error, field, *what):
        self.assertEqual(error.field, field, what)
        self.assertNotEqual(error.problem, "", what)

    @asynchronous
    async def test_asyncio(self):
        """`AsyncClient` and its producer."""
        cluster, log = await self.connected(1)
        await log.bounds()
        before = len(cluster.nodes[0].calls)
        for name, arguments, field, value in cases(AsyncClient):

            async def call(name=name, arguments=arguments):
                result = getattr(log, name)(**arguments)
                if inspect.isasyncgen(result):
                    await anext(result)
                elif inspect.isawaitable(result):
                    await result

            self.check(await self.raises(InvalidRequestError, call()), field, name, value)
        producer = log.producer()
        for field, values in list(METHODS["append"][1].items())[:4]:
            for value in values:
                error = await self.raises(
                    InvalidRequestError, producer.append(**{"value": b"v", field: value})
                )
                self.check(error, field, value)
        self.assertEqual((len(cluster.nodes[0].calls), cluster.values), (before, []))

    @asynchronous
    async def test_blocking(self):
        """`Client`, its producer and its deliveries."""
        cluster = await self.cluster(1)

        def use():
            with connect_blocking(cluster.target, timeout_seconds=20) as log:
                log.bounds()
                before = len(cluster.nodes[0].calls)
                for name, arguments, field, value in cases(Client):

                    def call(name=name, arguments=arguments):
                        result = getattr(log, name)(**arguments)
                        if inspect.isgenerator(result):
                            next(result)

                    self.check(self.assertRaises(InvalidRequestError, call), field, name, value)
                self.assertEqual((len(cluster.nodes[0].calls), cluster.values), (before, []))
                with log.producer() as producer:
                    for field, values in list(METHODS["append"][1].items())[:4]:
                        for value in values:
                            error = self.assertRaises(
                                InvalidRequestError, producer.append, **{"value": b"v", field: value}
                            )
                            self.check(error, field, value)
                    delivery = producer.append(b"v")
                    for value in NO_SECONDS:
                        self.check(
                            self.assertRaises(InvalidRequestError, delivery.offset, value), "timeout_seconds"
                        )
                self.assertEqual(cluster.values, [b"v"])

        await asyncio.to_thread(use)

    @asynchronous
    async def test_connect(self):
        """What a client is made of."""
        tls = Tls(ca=b"", certificate=b"", key=b"")
        bad = {
            "target": (b"a", None, ["a:1"], 7),
            "tls": ({"ca": "x"}, "ca.pem", ("a", "b", "c")),
            "log": (b"a", None, 7),
            "timeout_seconds": (*NO_SECONDS, None),
            "is_direct": NO_FLAGS,
            "transport": ("http", None, b"grpc"),
            "cluster": (b"a", None, 7, "A", "a/b", "-a", "a b"),
        }
        for make in (connect, connect_blocking, AsyncClient, Client):
            for field, values in bad.items():
                for value in values:
                    error = self.assertRaises(InvalidRequestError, make, **{"target": "a:1", field: value})
                    self.check(error, field, make, value)
            for field in ("ca", "certificate", "key"):
                for value in (None, 7, "-----BEGIN CERTIFICATE-----\n"):
                    pem = b"-----BEGIN X-----\nAA==\n-----END X-----\n"
                    given = {"ca": pem, "certificate": pem, "key": pem, field: value}
                    error = self.assertRaises(InvalidRequestError, make, "a:1", tls=Tls(**given))
                    self.check(error, f"tls.{field}", value)
        self.assertNotIn("BEGIN", repr(tls))


class Index:
    """As numbers of other libraries are."""

    def __index__(self):
        return 7


class TakenTests(FakeCase):
    """What has an obvious meaning is taken with it, whole."""

    @asynchronous
    async def test_records(self):
        """Other bytes, mappings, pairs that come one by one, and times of any zone."""
        cluster, log = await self.connected(1)
        changed = bytearray(b"before")
        moment = datetime(2026, 1, 1, 1, 0, 0, 123_457, tzinfo=timezone(timedelta(hours=1)))
        async with log.producer(linger_ms=1000) as producer:
            await producer.append(changed, key=memoryview(b"key"), headers={"b": b"2", "a": bytearray(b"1")})
            changed[:] = b"after-"
            await producer.append(b"", key=None, headers=None, timestamp=moment)
            await producer.append(
                b"", headers=(pair for pair in [("a", b"1"), ["a", b"2"]]), timestamp=Index()
            )
        await log.append(memoryview(b"ab")[::-1], expect_offset=None, timestamp=0)
        await log.append_batch(value for value in (b"x", bytearray(b"y")))
        first, second, third, fourth, *rest = [record async for record in log.read(0)]
        self.assertEqual((first.value, first.key), (b"before", b"key"))
        self.assertEqual(first.headers, (("b", b"2"), ("a", b"1")))
        self.assertEqual((second.time, second.key, second.headers), (moment, None, ()))
        self.assertEqual((third.timestamp, third.headers), (7, (("a", b"1"), ("a", b"2"))))
        self.assertEqual((fourth.value, fourth.timestamp), (b"ba", cluster.entries[1].timestamp))
        self.assertEqual([record.value for record in rest], [b"x", b"y"])

    @asynchronous
    async def test_offsets(self):
        """Whatever can be an index is an offset."""
        cluster, log = await self.connected(1)
        cluster.add_values(*[b"%d" % number for number in range(9)])
        self.assertEqual([record.offset async for record in log.read(Index())], [7, 8])
        self.assertEqual(await log.find_offset(datetime(1900, 1, 1, tzinfo=UTC)), 0)


class MomentTests(SynchronousTestCase):
    """Moments are exact to the microsecond, both ways."""

    def test_exact(self):
        """No float comes between: every microsecond comes back as it was, in any century."""
        for year in (1970, 1999, 2026, 2262, 9999):
            for microsecond in (1, 123_457, 499_999, 999_999):
                moment = datetime(year, 12, 31, 23, 59, 59, microsecond, tzinfo=UTC)
                microseconds = moment_of("time", moment)
                self.assertEqual(microseconds % 1_000_000, microsecond)
                self.assertEqual(datetime_of(microseconds), moment)
                self.assertEqual(Record(0, microseconds, b"").time, moment)

    def test_epoch(self):
        """Moments are counted from the beginning of 1970, UTC; before it they are negative."""
        for moment, microseconds in (
            (datetime(1970, 1, 1, tzinfo=UTC), 0),
            (datetime(1970, 1, 1, 0, 0, 1, 5, tzinfo=UTC), 1_000_005),
            (datetime(1969, 12, 31, 23, 59, 59, tzinfo=UTC), -1_000_000),
        ):
            self.assertEqual(moment_of("time", moment), microseconds)
            self.assertEqual(datetime_of(microseconds), moment)
        self.assertEqual(timestamp_of("timestamp", None), 0)
        self.assertEqual(timestamp_of("timestamp", datetime(1970, 1, 1, 0, 0, 0, 1, tzinfo=UTC)), 1)


class EdgeTests(SynchronousTestCase):
    """The first and the last value that is taken, and what is said of others."""

    def test_taken(self):
        """Both ends of a range belong to it."""
        for found, expected in (
            (integer_of("f", 0), 0),
            (integer_of("f", 2**64 - 1), 2**64 - 1),
            (integer_of("f", 3, lowest=3, highest=4), 3),
            (integer_of("f", 4, lowest=3, highest=4), 4),
            (seconds_of(0.001), 0.001),
            (seconds_of(1), 1.0),
            (seconds_of(100_000_000), 100_000_000.0),
            (number_of("f", 0, 5), 0.0),
            (number_of("f", 0.25, 5), 0.25),
            (number_of("f", 5, 5), 5.0),
        ):
            self.assertEqual((found, type(found)), (expected, type(expected)))

    def test_words(self):
        """A refusal quotes the value, the first 40 characters of it, and says what to give."""
        naive = datetime(2026, 1, 1)
        long = "x" * 50
        for check, given, text in (
            (integer_of, ("f", None), "is None; give an int"),
            (integer_of, ("f", long), f"is str '{long[:40]}'; give an int"),
            (integer_of, ("f", True), "is bool 'True'; give an int"),
            (integer_of, ("f", -1), "-1 is out of range; allowed: 0 to 18446744073709551615"),
            (seconds_of, ("1",), "is str '1'; give seconds: a number above 0, at most 100000000"),
            (seconds_of, (-2,), "is -2; give seconds: a number above 0, at most 100000000"),
            (seconds_of, (10**9,), "is 1000000000; give seconds: a number above 0, at most 100000000"),
            (number_of, ("f", None, 5), "None is out of range; allowed: 0 to 5"),
            (number_of, ("f", True, 5), "bool 'True' is out of range; allowed: 0 to 5"),
            (number_of, ("f", 5.5, 5), "5.5 is out of range; allowed: 0 to 5"),
            (bytes_of, ("f", "a", "3: the key "), "3: the key is a str; give bytes, such as text.encode()"),
            (text_of, ("f", b"a", "3: the name "), "3: the name is bytes \"b'a'\"; give a str"),
            (text_of, ("f", "\ud800", "it "), "it is '\\ud800', which cannot be encoded as UTF-8"),
            (moment_of, ("f", "now"), "is str 'now'; give an int; or an aware datetime"),
            (moment_of, ("f", naive), f"{naive} has no time zone; give tzinfo, such as datetime.UTC, or use "
             ".astimezone()"),
            (timestamp_of, ("f", datetime(1970, 1, 1, tzinfo=UTC)), "1970-01-01 00:00:00+00:00 is not after "
             "1970-01-01T00:00:00Z; records hold no such time"),
            (headers_of, ("ab",), "is str 'ab'; give (name, value) pairs or a dict"),
            (headers_of, (b"",), "is bytes \"b''\"; give (name, value) pairs or a dict"),
            (headers_of, (7,), "is int '7'; give (name, value) pairs or a dict"),
            (headers_of, ([("a", b"b"), None],), "1 is None; give a pair of name and value"),
            (headers_of, ([("a", b"b", 1)],), "0 is tuple \"('a', b'b', 1)\"; give a pair of name and value"),
            (headers_of, ([("a", b"b"), (1, b"c")],), "1: the name is int '1'; give a str"),
            (headers_of, ({"a": "b"},), "0: the value is a str; give bytes, such as text.encode()"),
            (values_of, (b"ab",), "is a bytes; give a list of bytes, one for each record"),
        ):  # fmt: skip
            error = self.assertRaises(InvalidRequestError, check, *given)
            self.assertEqual(error.problem, text)
