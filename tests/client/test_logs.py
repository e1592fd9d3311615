"""Which logs there are, as clients ask for it and change it."""

from datetime import timedelta

from loghouse.catalogue.records import LogSettings
from loghouse.errors import InvalidRequestError, UnknownLogError
from tests.client.fake import FakeCase, over_grpc
from tests.fakes.tasks import asynchronous


class CatalogueTests(FakeCase):
    """`create_log` and its kin."""

    @asynchronous
    async def test_life(self):
        """A log is made, described, listed, changed and deleted."""
        _, client = await self.connected(count=4)
        made = await client.create_log("orders", retention_age=timedelta(days=7), on=["n1", "n2", "n3"])
        self.assertEqual((made.name, made.settings.replicas), ("orders", 3))
        again = await client.create_log("orders", retention_age=604_800)
        self.assertEqual(again.group, made.group)
        altered = await client.alter_log("orders", retention_bytes=5, tags=["a"])
        self.assertEqual((altered.settings.retention_seconds, altered.settings.retention_bytes), (604_800, 5))
        altered = await client.alter_log("orders", retention_age=0, tags=[])
        self.assertEqual((altered.settings.retention_seconds, list(altered.settings.tags)), (0, []))
        self.assertEqual(await client.describe_log("orders"), altered)
        placed = await client.replace_replica("orders", lost="n2", new="n4")
        self.assertEqual({one.node for one in placed.replicas}, {"n1", "n3", "n4"})
        self.assertEqual([log.name for log in await client.logs()], ["default", "orders"])
        await client.delete_log("orders")
        await self.raises(UnknownLogError, client.describe_log("orders"))
        await self.raises(UnknownLogError, client.delete_log("orders"))

    @asynchronous
    async def test_all_settings(self):
        """Every setting arrives."""
        cluster, client = await self.connected(count=2)
        await client.create_log(
            "orders",
            replicas=1,
            retention_bytes=2,
            retention_age=3,
            record_bytes_max=4,
            append_bytes_per_second_max=5,
            tags=["a"],
        )
        self.assertEqual(
            cluster.catalogue.folded.logs["orders"].settings,
            LogSettings(
                replicas=1,
                retention_bytes=2,
                retention_seconds=3,
                record_bytes_max=4,
                append_bytes_per_second_max=5,
                tags=("a",),
            ),
        )

    @asynchronous
    async def test_pages(self):
        """A list of many logs is asked for until its end."""
        cluster, client = await self.connected(count=1)
        for number in range(501):
            cluster.nodes[0].log_administration.create(
                f"log-{number:03}", LogSettings(replicas=1), on=(), by="root"
            )
        names = [log.name for log in await client.logs()]
        self.assertEqual(names, ["default", *(f"log-{number:03}" for number in range(501))])

    @asynchronous
    async def test_what_is_none(self):
        """What can be no setting is refused by its name, before anybody is asked."""
        cluster, client = await self.connected(count=1)
        for settings, field in (
            ({"replicas": 0}, "replicas"),
            ({"replicas": "3"}, "replicas"),
            ({"retention_age": timedelta(seconds=1.5)}, "retention_age"),
            ({"retention_age": -1}, "retention_age"),
            ({"retention_bytes": 1.5}, "retention_bytes"),
            ({"tags": "a"}, "tags"),
            ({"tags": [1]}, "tags"),
            ({"on": "n1"}, "on"),
            ({"on": 1}, "on"),
        ):
            error = await self.raises(InvalidRequestError, client.create_log("orders", **settings))
            self.assertEqual(error.field, field)
        error = await self.raises(InvalidRequestError, client.create_log(b"orders"))
        self.assertEqual(error.field, "name")
        self.assertEqual(cluster.nodes[0].log_administration.orders, [])
        error = await self.raises(InvalidRequestError, client.alter_log("default"))
        self.assertEqual(error.field, "changes")


CatalogueGrpcTests = over_grpc(CatalogueTests)
