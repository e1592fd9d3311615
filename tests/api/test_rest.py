"""The JSON API: every path, by the OpenAPI document, against a fake node."""

import json
from base64 import b64encode

from loghouse import __version__
from loghouse.api.rest import service
from loghouse.api.v1.log_pb2 import Header, Record
from loghouse.catalogue.records import LogSettings
from loghouse.errors import (
    DiskFullError,
    NotLeaderError,
    OutcomeUnknownError,
    QuotaExceededError,
    ResourceExhaustedError,
    UnavailableError,
)
from loghouse.limits import REST_BODY_AT_ONCE_MAX, REST_COUNT_MAX, REST_RECORDS_MAX
from loghouse.protocol.cursor_messages import CursorOperation, CursorOrder
from loghouse.runtime.bridge import to_asyncio
from tests.api.rest import RestCase
from tests.api.schemas import schema_problems
from tests.fakes.cursors import move_with_records
from tests.fakes.node import FIRST_TIMESTAMP, HANG, FakeNode
from tests.fakes.tasks import asynchronous

BYTES = b"\xff\x00"


class ClusterTests(RestCase):
    """What there is to look at beside records."""

    @asynchronous
    async def test_cluster(self):
        """The answering node, who asks, and the nodes of the cluster."""
        FakeNode(self.node.cluster, "n2", grpc_address="127.0.0.1:8500")
        told = await self.get("/cluster", subject="ann")
        self.assertEqual((told["node"], told["version"], told["subject"]), ("n1", __version__, "ann"))
        self.assertEqual((told["cluster"], told["cluster_uuid"]), ("c1", bytes(range(16)).hex()))
        self.assertEqual(
            [(one["name"], one["is_leader"]) for one in told["servers"]], [("n1", True), ("n2", False)]
        )
        self.assertEqual(told["servers"][1]["grpc_address"], "127.0.0.1:8500")

    @asynchronous
    async def test_members(self):
        """The members of a group need the permission to administer."""
        told = await self.get("/members")
        self.assertEqual((told["term"], told["leader"], told["next_offset"]), (4, "n2", 7))
        self.assertEqual([one["liveness"] for one in told["members"]], ["alive", "suspect", ""])
        self.assertEqual(told["removed"], ["n4"])
        await self.refused("GET", "/members", 403, "PERMISSION_DENIED", subject="reader")
        await self.refused("GET", "/members", 404, "UNKNOWN_LOG", log="nothing")

    @asynchronous
    async def test_logs(self):
        """The logs that the caller may see come by name, a page at a time; one is described alone."""
        admin = self.node.log_administration
        for name in ("team-a-1", "team-b-1"):
            await to_asyncio(admin.create(name, LogSettings(replicas=1), on=(), by="root"))
        first = await self.get("/logs", count=2)
        self.assertEqual(
            ([log["name"] for log in first["logs"]], first["next"]), (["default", "team-a-1"], "team-a-1")
        )
        second = await self.get("/logs", count=2, after=first["next"])
        self.assertEqual((names(second), second["next"]), (["team-b-1"], ""))
        seen = await self.get("/logs", subject="ann")
        self.assertEqual(names(seen), ["team-a-1"])
        self.assertEqual(await self.get("/logs/team-a-1", subject="ann"), seen["logs"][0])
        await self.refused("GET", "/logs/team-b-1", 403, "PERMISSION_DENIED", subject="ann")
        await self.refused("GET", "/logs/none", 404, "UNKNOWN_LOG")

    @asynchronous
    async def test_bounds_and_offset(self):
        """Bounds are the leader's word; an offset is found by microseconds and by ISO 8601."""
        self.node.cluster.add_values(b"a", b"b")
        self.node.cluster.add_values(b"c")
        self.assertEqual(await self.get("/logs/default/bounds"), {"lowest": 0, "next": 3})
        found = {"offset": 2, "timestamp": FIRST_TIMESTAMP + 1}
        self.assertEqual(await self.get("/logs/default/offset", time=FIRST_TIMESTAMP + 1), found)
        for time in ("2023-11-14T22:13:20.000001Z", "2023-11-14T22:13:20.000001"):
            self.assertEqual(await self.get("/logs/default/offset", time=time), found)
        late = await self.get("/logs/default/offset", time="2030-01-01")
        self.assertEqual(late, {"offset": 3, "timestamp": 0})
        await self.refused("GET", "/logs/default/offset", 400, "INVALID_REQUEST")
        await self.refused("GET", "/logs/default/offset", 400, "INVALID_REQUEST", time="soon")


class CursorTests(RestCase):
    """Cursors as JSON."""

    PATH = "/logs/default/cursor"

    async def order(self, name, operation, **fields):
        order = CursorOrder(operation=operation, name=name, subject="root", **fields)
        return (await to_asyncio(self.node.order_cursor(order))).cursors[0]

    @asynchronous
    async def test_list(self):
        """The cursors of a log come by name, a page at a time, with lag and holder."""
        self.node.cluster.add_values(*(b"x" for _ in range(9)))
        lease = {"holder": "<b>one</b>", "lease_milliseconds": 5000}
        epoch = (await self.order("bill/a b", CursorOperation.ACQUIRE, **lease)).epoch
        await self.order("bill/a b", CursorOperation.ADVANCE, epoch=epoch, position=4)
        for name, position in (("ahead", 99), ("end", 9)):
            await self.order(name, CursorOperation.SET, position=position)
        first = await self.get(self.PATH + "s", count=2)
        second = await self.get(self.PATH + "s", count=2, after=first["next"])
        self.assertEqual((first["next"], second["next"]), ("bill/a b", ""))
        told = [*first["cursors"], *second["cursors"]]
        self.assertEqual(
            [(one["name"], one["position"], one["lag"]) for one in told],
            [("ahead", 99, None), ("bill/a b", 4, 5), ("end", 9, 0)],
        )
        self.assertEqual(
            [(one["holder"], one["subject"], one["lease_milliseconds"]) for one in told],
            [("", "root", 0), ("<b>one</b>", "root", 5000), ("", "root", 0)],
        )
        self.assertEqual(told[1]["epoch"], epoch)
        self.assertEqual(await self.get(self.PATH, name="bill/a b"), told[1])
        move_with_records(self.node.cluster, "end", 10)
        end = await self.get(self.PATH, name="end")
        self.assertEqual((end["position"], end["lag"]), (10, None))

    @asynchronous
    async def test_refused(self):
        """Cursors are for those who may consume the log; what is not there is named."""
        self.assertEqual(await self.get(self.PATH + "s", subject="reader"), {"cursors": [], "next": ""})
        await self.refused("GET", self.PATH + "s", 403, "PERMISSION_DENIED", subject="ann")
        await self.refused("GET", self.PATH, 403, "PERMISSION_DENIED", subject="ann", name="a")
        problem = await self.refused("GET", self.PATH, 404, "UNKNOWN_CURSOR", name="a")
        self.assertIn("a", problem["detail"])
        await self.refused("GET", "/logs/none/cursors", 404, "UNKNOWN_LOG")
        for path, query, field in (
            (self.PATH, {}, "name"),
            (self.PATH, {"name": ""}, "cursor"),
            (self.PATH, {"name": "x" * 128}, "cursor"),
            (self.PATH + "s", {"count": 0}, "count"),
            (self.PATH + "s", {"name": "a"}, "name"),
        ):
            problem = await self.refused("GET", path, 400, "INVALID_REQUEST", **query)
            self.assertTrue(problem["detail"].startswith(field), problem)
        await self.refused("POST", self.PATH, 405, "METHOD_NOT_ALLOWED", body={})


class RecordTests(RestCase):
    """Records as JSON."""

    def setUp(self):
        super().setUp()
        self.node.cluster.add_records(
            Record(
                value=b"one", key=b"k", headers=[Header(key="h", value=b"v"), Header(key="b", value=BYTES)]
            ),
            Record(value=BYTES, key=BYTES, type=3, term=4, timestamp=5),
        )
        self.node.cluster.add_values(*(b"%d" % number for number in range(2, 10)))

    async def values(self, **query):
        page = await self.get("/logs/default/records", **query)
        return [record.get("value") for record in page["records"]], page["next_offset"]

    @asynchronous
    async def test_forms(self):
        """Bytes are text where they are UTF-8, else base64; what a record does not have is left out."""
        page = await self.get("/logs/default/records", count=3)
        encoded = b64encode(BYTES).decode()
        self.assertEqual(
            page["records"],
            [
                {
                    "offset": 0,
                    "timestamp": FIRST_TIMESTAMP,
                    "key": "k",
                    "value": "one",
                    "headers": [{"key": "h", "value": "v"}, {"key": "b", "value_base64": encoded}],
                },
                {
                    "offset": 1,
                    "timestamp": 5,
                    "key_base64": encoded,
                    "value_base64": encoded,
                    "type": 3,
                    "term": 4,
                },
                {"offset": 2, "timestamp": FIRST_TIMESTAMP + 1, "value": "2"},
            ],
        )
        self.assertEqual((page["next_offset"], page["bounds"]), (3, {"lowest": 0, "next": 10}))
        page = await self.get("/logs/default/records", count=1, encoding="base64")
        self.assertEqual(page["records"][0]["value_base64"], b64encode(b"one").decode())

    @asynchronous
    async def test_places(self):
        """Reading begins at an offset, a time, either end, or so many records before the end."""
        everything = [None if number == 1 else str(number) for number in range(10)]
        everything[0] = "one"
        self.assertEqual(await self.values(), (everything, 10))
        self.assertEqual(await self.values(offset=8), (["8", "9"], 10))
        self.assertEqual(await self.values(offset=3, count=2), (["3", "4"], 5))
        self.assertEqual(await self.values(last=1), (["9"], 10))
        self.assertEqual(await self.values(last=1000, count=1), (["one"], 1))
        self.assertEqual(await self.values(offset="latest"), ([], 10))
        self.assertEqual(await self.values(offset=10), ([], 10))
        self.assertEqual(await self.values(time=FIRST_TIMESTAMP + 1, count=1), (["2"], 3))
        problem = await self.refused("GET", "/logs/default/records", 416, "OFFSET_OUT_OF_RANGE", offset=11)
        self.assertEqual(problem["details"], {"lowest": 0, "next": 10, "highest": 9})
        self.node.cluster.forget(2)
        self.assertEqual((await self.values(offset="earliest", count=1))[0], ["2"])
        await self.refused("GET", "/logs/default/records", 416, "OFFSET_OUT_OF_RANGE", offset=1)
        await self.refused("GET", "/logs/default/records", 400, "INVALID_REQUEST", offset=1, last=2)

    @asynchronous
    async def test_choices(self):
        """Records are chosen by key, header and place, either way; the answer says where to go on."""
        unit = Header(key="unit", value=b"mm")
        for number in range(10, 16):
            headers = [unit] if number % 3 == 0 else []
            self.node.cluster.add_records(
                Record(value=b"%d" % number, key=b"odd" if number % 2 else b"even", headers=headers)
            )
        for query, found in (
            ({"key": "odd"}, (["11", "13", "15"], 16)),
            ({"key": "odd", "count": 2}, (["11", "13"], 14)),
            ({"key": "odd", "offset": 14}, (["15"], 16)),
            ({"key": "odd", "reverse": "true", "count": 2}, (["15", "13"], 13)),
            ({"key": "odd", "reverse": "true", "until": 13}, (["11"], 0)),
            ({"key": "odd", "newest": 2}, (["13", "15"], 13)),
            ({"key_prefix": "e"}, (["10", "12", "14"], 16)),
            ({"key_prefix": "ev", "key": "odd", "last": 2}, (["14", "15"], 16)),
            ({"headers": '{"unit":"mm"}'}, (["12", "15"], 16)),
            ({"headers": '{"unit":"mm"}', "key": "even"}, (["12"], 16)),
            ({"key": "nobody"}, ([], 16)),
            ({"offset": 3, "until": 5}, (["3", "4"], 5)),
            ({"until": 0}, ([], 0)),
            ({"reverse": "true", "count": 1}, (["15"], 15)),
            ({"newest": 3}, (["13", "14", "15"], 13)),
            ({"newest": 2, "until": 5}, (["3", "4"], 3)),
            ({"until": "2000-01-01"}, ([], 0)),
            ({"consistency": "local", "offset": 14}, (["14", "15"], 16)),
        ):
            self.assertEqual(await self.values(**query), found, query)

    @asynchronous
    async def test_local(self):
        """A local read asks no leader where the log ends, and says that nobody confirmed it."""
        self.node.faults["Bounds"] = [UnavailableError("no leader")] * 2
        page = await self.get("/logs/default/records", consistency="local", last=1)
        self.assertEqual(([one["offset"] for one in page["records"]], page["is_confirmed"]), ([9], False))
        await self.refused("GET", "/logs/default/records", 503, "UNAVAILABLE", reverse="true")

    @asynchronous
    async def test_wrong_choices(self):
        """What cannot be chosen is refused by the parameter's name."""
        for query in (
            {"until": "soon"},
            {"until": 3, "offset": 5},
            {"reverse": "yes"},
            {"newest": 0},
            {"newest": REST_COUNT_MAX + 1},
            {"newest": 1, "offset": 1},
            {"newest": 1, "reverse": "true"},
            {"consistency": "none"},
            {"headers": "{"},
            {"headers": "[]"},
            {"headers": '{"a":1}'},
            {"headers": '{"a":"\\ud800"}'},
        ):
            name = next(iter(query))
            problem = await self.refused("GET", "/logs/default/records", 400, "INVALID_REQUEST", **query)
            self.assertTrue(problem["detail"].startswith(f"{name}: "), (query, problem["detail"]))
        long = {"key": "x" * 5000}
        problem = await self.refused("GET", "/logs/default/records", 400, "INVALID_REQUEST", **long)
        self.assertTrue(problem["detail"].startswith("filter: "), problem)
        await self.refused(
            "GET", "/logs/default/records", 416, "OFFSET_OUT_OF_RANGE", offset=11, key="a", until=12
        )

    @asynchronous
    async def test_chosen_answer_is_bounded(self):
        """An answer with chosen records ends behind the one that makes it too large, either way."""
        self.patch(service.RecordShape, "size_of", lambda shape, record: 400_000)
        self.assertEqual((await self.values(until=9))[1], 3)
        self.assertEqual((await self.values(reverse="true"))[1], 7)
        self.assertEqual(self.shares.answers.held, 0)

    @asynchronous
    async def test_cut(self):
        """A long value is cut where a character ends, and its record says how long it is."""
        self.node.cluster.add_values("aé".encode(), b"x" * 100)
        page = await self.get("/logs/default/records", last=2, value_size_max=2)
        self.assertEqual(
            [(record["value"], record["value_size"]) for record in page["records"]], [("a", 3), ("xx", 100)]
        )

    @asynchronous
    async def test_answer_is_bounded(self):
        """An answer ends behind the record that makes it too large."""
        self.patch(service.RecordShape, "size_of", lambda shape, record: 400_000)
        self.assertEqual((await self.values())[1], 3)
        self.assertEqual(self.shares.answers.held, 0)

    @asynchronous
    async def test_wrong_parameters(self):
        """A parameter that nobody knows, or out of its range, is refused by name."""
        for query in (
            {"ofset": 1},
            {"offset": -1},
            {"offset": "9" * 30},
            {"count": 0},
            {"count": REST_COUNT_MAX + 1},
            {"count": "x"},
            {"encoding": "hex"},
            {"last": "all"},
            {"value_size_max": 2**30},
        ):
            (name,) = query
            problem = await self.refused("GET", "/logs/default/records", 400, "INVALID_REQUEST", **query)
            self.assertTrue(problem["detail"].startswith(name), problem)

    @asynchronous
    async def test_permissions(self):
        """Records are for who may consume that log, and appends for who may produce."""
        for path in ("records", "bounds", "follow"):
            await self.refused("GET", f"/logs/default/{path}", 403, "PERMISSION_DENIED", subject="ann")
        await self.get("/logs/default/records", subject="reader")
        body = {"records": [{"value": "x"}]}
        problem = await self.refused(
            "POST", "/logs/default/records", 403, "PERMISSION_DENIED", subject="reader", body=body
        )
        self.assertEqual(problem["details"], {"subject": "reader", "action": "produce", "object": "default"})
        self.assertEqual(self.node.proposals, [])


class AppendTests(RestCase):
    """Appends."""

    PATH = "/logs/default/records"

    @property
    def kept(self):
        return self.node.cluster.values

    @asynchronous
    async def test_append(self):
        """All records of a request are one batch, in their order and with all they have."""
        records = [
            {
                "value": "one",
                "key": "k",
                "headers": [{"key": "h", "value_base64": b64encode(BYTES).decode()}],
            },
            {"value_base64": b64encode(BYTES).decode(), "timestamp": 7, "type": 3, "term": 4},
            {"key": ""},
            {"key": None},
        ]
        status, told = await self.post(self.PATH, {"records": records})
        self.assertEqual(
            (status, told), (201, {"base_offset": 0, "record_count": 4, "timestamp": FIRST_TIMESTAMP})
        )
        self.assertEqual(self.kept, [b"one", BYTES, b"", b""])
        page = await self.get(self.PATH)
        self.assertEqual(page["records"][1]["timestamp"], 7)
        self.assertEqual(page["records"][0]["headers"], records[0]["headers"])
        self.assertEqual([record.get("key") for record in page["records"]], ["k", None, "", None])

    @asynchronous
    async def test_octets(self):
        """A body of octets is the value of one record."""
        status, told = await self.post(
            self.PATH, BYTES * 10, content_type="application/octet-stream", key="k", expect_offset=0
        )
        self.assertEqual((status, told["base_offset"], self.kept), (201, 0, [BYTES * 10]))
        await self.refused(
            "POST",
            self.PATH,
            412,
            "EXPECT_OFFSET",
            body=b"x",
            content_type="application/octet-stream",
            expect_offset=0,
        )

    @asynchronous
    async def test_long_body(self):
        """A long body is parsed off the reactor's thread, and appended as a short one."""
        values = ["x" * 100] * (REST_BODY_AT_ONCE_MAX // 50)
        status, told = await self.post(self.PATH, {"records": [{"value": value} for value in values]})
        self.assertEqual((status, told["record_count"], len(self.kept)), (201, len(values), len(values)))

    @asynchronous
    async def test_exactly_once(self):
        """A producer's batch sent twice is appended once."""
        self.node.knows_producers = True
        status, told = await self.post("/logs/default/producers", b"")
        self.assertEqual(status, 201)
        body = {"records": [{"value": "x"}], "producer_sequence": 0, **told}
        first = await self.post(self.PATH, body)
        self.assertEqual((first, len(self.kept)), (await self.post(self.PATH, body), 1))

    @asynchronous
    async def test_expect_offset(self):
        """An append that is to be at an offset is refused when it would be at another."""
        self.node.cluster.add_values(b"a")
        body = {"records": [{"value": "x"}], "expect_offset": 0}
        problem = await self.refused("POST", self.PATH, 412, "EXPECT_OFFSET", body=body)
        self.assertEqual(problem["details"], {"expected": 0, "actual": 1})
        self.assertIs(problem["was_appended"], False)

    @asynchronous
    async def test_wrong_bodies(self):
        """What is wrong in a body is named by its place, and nothing is appended."""
        one = {"value": "x"}
        for body, place in (
            ({}, "records"),
            ([], "body"),
            ({"records": []}, "records"),
            ({"records": one}, "records"),
            ({"records": [one] * (REST_RECORDS_MAX + 1)}, "records"),
            ({"records": [one, 1]}, "records[1]"),
            ({"records": [{"vale": "x"}]}, "records[0].vale"),
            ({"records": [{"value": 1}]}, "records[0].value"),
            ({"records": [{"value": "x", "value_base64": "eA=="}]}, "records[0].value"),
            ({"records": [{"value_base64": "x"}]}, "records[0].value"),
            ({"records": [{"key": "\ud800"}]}, "records[0].key"),
            ({"records": [{"timestamp": -1}]}, "records[0].timestamp"),
            ({"records": [{"timestamp": True}]}, "records[0].timestamp"),
            ({"records": [{"type": 2**32}]}, "records[0].type"),
            ({"records": [{"headers": {}}]}, "records[0].headers"),
            ({"records": [{"headers": [{}]}]}, "records[0].headers[0].key"),
            ({"records": [{"headers": [{"key": "\ud800"}]}]}, "records"),
            ({"records": [one], "expect_offset": -1}, "expect_offset"),
            ({"records": [one], "log": "other"}, "body.log"),
            (b"{", "body"),
            (b"[" * 100_000, "body"),
            (b"\xff", "body"),
        ):
            problem = await self.refused(
                "POST", self.PATH, 400, "INVALID_REQUEST", body=body, content_type="application/json"
            )
            self.assertTrue(problem["detail"].startswith(f"{place}: "), (body, problem["detail"]))
        for kind in ("", "text/plain", "application/x-www-form-urlencoded"):
            await self.refused("POST", self.PATH, 415, "UNSUPPORTED_MEDIA_TYPE", body=b"x", content_type=kind)
        self.assertEqual(self.node.proposals, [])

    @asynchronous
    async def test_refusals(self):
        """Each refusal has its status, says what to do, and whether anything was appended."""
        body = {"records": [{"value": "x"}]}
        for error, status, reason, was_appended in (
            (UnavailableError("no leader"), 503, "UNAVAILABLE", False),
            (NotLeaderError("n2"), 503, "NOT_LEADER", False),
            (OutcomeUnknownError("late"), 504, "OUTCOME_UNKNOWN", None),
            (DiskFullError("/data"), 507, "DISK_FULL", False),
            (ResourceExhaustedError("proposals", "full"), 429, "RESOURCE_EXHAUSTED", False),
            (ValueError("a bug"), 500, "INTERNAL", None),
        ):
            self.node.failure = error
            problem = await self.refused("POST", self.PATH, status, reason, body=body)
            self.assertIs(problem["was_appended"], was_appended)
            self.assertEqual("Retry-After" in self.headers, status in (429, 503, 507))
            self.assertTrue(problem["remedy"])
            self.assertNotIn("a bug", json.dumps(problem))
        self.assertEqual(len(self.flushLoggedErrors(ValueError)), 1)
        await self.refused("POST", "/logs/none/records", 404, "UNKNOWN_LOG", body=body)

    @asynchronous
    async def test_retry_after(self):
        """A quota's refusal says after how many whole seconds, never too early; others a second."""
        for error, seconds in (
            (QuotaExceededError(1, "requests", "x"), "1"),
            (QuotaExceededError(2000, "bytes in", "x"), "2"),
            (QuotaExceededError(2001, "bytes in", "x"), "3"),
            (UnavailableError("no leader"), "1"),
        ):
            self.node.failure = error
            await self.post(self.PATH, {"records": [{"value": "x"}]})
            self.assertEqual(self.headers["Retry-After"], seconds, error)

    @asynchronous
    async def test_leader_is_named(self):
        """An answer names the leader when that is another node: asking there saves a hop."""
        await self.post(self.PATH, {"records": [{"value": "x"}]})
        self.assertEqual(dict(self.headers), {})
        self.node.cluster.leader = FakeNode(self.node.cluster, "n2")
        await self.post(self.PATH, {"records": [{"value": "x"}]})
        self.assertEqual(dict(self.headers), {"Loghouse-Leader": "n2"})

    @asynchronous
    async def test_late(self):
        """An append that is not answered in time may have been done, and a read has not."""
        self.serve(request_seconds=0)
        self.node.hold()
        await self.refused("POST", self.PATH, 504, "OUTCOME_UNKNOWN", body={"records": [{"value": "x"}]})
        self.node.faults["Bounds"] = [HANG]
        await self.refused("GET", "/logs/default/bounds", 503, "UNAVAILABLE")


class DocumentTests(RestCase):
    """The OpenAPI document, and what is not in it."""

    @asynchronous
    async def test_document(self):
        """It is served; each path of it is one of the table, and each schema it refers to is there."""
        told = await self.get("/openapi.json", subject="reader")
        operations = [
            operation["operationId"] for path in told["paths"].values() for operation in path.values()
        ]
        self.assertEqual(sorted(operations), sorted(bound.route.name for bound in self.rest._table))
        text = json.dumps(told)
        named = {part.split('"')[0] for part in text.split("#/components/schemas/")[1:]}
        self.assertEqual(named, set(told["components"]["schemas"]))

    @asynchronous
    async def test_unknown(self):
        """A path that is none is 404, a method that is none 405 with those that are."""
        for path in ("", "/", "/nothing", "/logs/", "/logs/a/b/records", "/logs//records"):
            await self.refused("GET", path, 404, "NO_SUCH_PATH")
        await self.refused("DELETE", "/logs/default/records", 405, "METHOD_NOT_ALLOWED")
        self.assertEqual(self.headers["Allow"], "GET, POST")
        await self.refused("GET", f"/logs/{'x' * 64}/records", 400, "INVALID_REQUEST")

    @asynchronous
    async def test_nobody(self):
        """Who may do nothing here learns nothing; one whose certificate expired neither."""
        for path in ("/openapi.json", "/cluster", "/logs", "/logs/default", "/logs/none/bounds"):
            await self.refused("GET", path, 403, "PERMISSION_DENIED", subject="nobody")
        self.wall_clock = lambda: float("inf")
        await self.refused("GET", "/cluster", 401, "UNAUTHENTICATED")

    def test_schemas_are_checked(self):
        """What is not as its schema says is found."""
        schema = {
            "type": "object",
            "properties": {"a": {"type": "integer", "minimum": 1}},
            "required": ["a"],
            "additionalProperties": False,
        }
        for value, count in (({"a": 1}, 0), ({"a": 0}, 1), ({}, 1), ({"a": 1, "b": 1}, 1), ({"a": True}, 1)):
            self.assertEqual(len(list(schema_problems(value, schema, {}))), count, value)


def names(page):
    """The names of the logs of a page."""
    return [log["name"] for log in page["logs"]]
