"""The client processes of the peers, by the Python that has their libraries (`requirements/compare.txt`).

    python -m bench.compare.clients SYSTEM JOB TARGET CERTS LOG NUMBERS...

Jobs are those of `bench.compare.jobs`. Nothing of Loghouse is imported here.
"""

import asyncio
import contextlib
import functools
import os
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

from bench.compare.jobs import WARM_UP_COUNT, Client, figures_of, main

MAKE_SECONDS_MAX = 60.0
LIBRARY_SECONDS_MAX = 60.0
PAGE_COUNT = 512  # entries that Redis is asked for at once


async def until(condition: Callable[[], Any], what: str) -> None:
    """Ask again and again, until the answer is yes."""
    deadline = time.monotonic() + MAKE_SECONDS_MAX
    while not await condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"waited for {what}")
        await asyncio.sleep(0.1)


class Nats(Client):
    """JetStream by nats-py: a publish and its acknowledgement; reads by an ordered push consumer."""

    async def open(self, window: int) -> None:
        import nats as library

        servers = [f"tls://{target}" for target in self.targets]
        self._client = await library.connect(servers=servers, tls=self.tls(), reconnect_time_wait=0.05)
        self._streams = self._client.jetstream(
            timeout=LIBRARY_SECONDS_MAX, publish_async_max_pending=window + 1
        )

    async def close(self) -> None:
        await self._client.close()

    async def make(self) -> None:
        from nats.js.api import StorageType, StreamConfig
        from nats.js.errors import NotFoundError

        try:
            await self._streams.stream_info(self.log)
        except NotFoundError:
            wanted = StreamConfig(
                name=self.log, subjects=[self.log], num_replicas=3, storage=StorageType.FILE
            )
            await self._streams.add_stream(wanted)
        await until(self._is_whole, "three replicas of the stream")

    async def _is_whole(self) -> bool:
        found = (await self._streams.stream_info(self.log)).cluster
        replicas = (found and found.replicas) or []
        return bool(found and found.leader) and [one.current for one in replicas] == [True, True]

    async def append(self, body: bytes) -> None:
        await self._streams.publish(self.log, body)

    async def read_bulk(self, count: int) -> int:
        done, size, left = asyncio.get_running_loop().create_future(), 0, count

        async def seen(message: Any) -> None:
            nonlocal size, left
            size += len(message.data) if left > 0 else 0
            left -= 1
            if left == 0:
                done.set_result(None)

        found = await self._streams.subscribe(self.log, cb=seen, ordered_consumer=True)
        await asyncio.wait_for(done, LIBRARY_SECONDS_MAX)
        await found.unsubscribe()
        return size

    async def read_each(self, count: int) -> int:
        found = await self._streams.subscribe(self.log, ordered_consumer=True)
        size = 0
        for _ in range(count):
            size += len((await found.next_msg(timeout=LIBRARY_SECONDS_MAX)).data)
        await found.unsubscribe()
        return size

    async def leader(self) -> str:
        found = (await self._streams.stream_info(self.log)).cluster
        return str(found.leader).removeprefix("node-")


def _field(number: int, value: bytes) -> bytes:
    """Return a field of bytes, as protobuf encodes it."""
    size, length = len(value), bytearray()
    while size > 0x7F:
        length.append(size & 0x7F | 0x80)
        size >>= 7
    return bytes([number << 3 | 2, *length, size]) + value


class Etcd(Client):
    """A put of a new key by gRPC, without the classes of its messages. The first target leads."""

    async def open(self, window: int) -> None:
        import grpc

        names = ("ca.pem", "root.key", "root.pem")
        self._credentials = grpc.ssl_channel_credentials(
            *((self.certs / name).read_bytes() for name in names)
        )
        self._grpc, self._number, self._place = grpc, int(time.time() * 1e6), 0
        self._dial()

    def _dial(self) -> None:
        self._channel = self._grpc.aio.secure_channel(
            self.targets[self._place % len(self.targets)],
            self._credentials,
            [("grpc.use_local_subchannel_pool", 1), ("grpc.initial_reconnect_backoff_ms", 100)],
        )
        self._put = self._channel.unary_unary("/etcdserverpb.KV/Put")  # PutRequest: key 1, value 2

    async def close(self) -> None:
        await self._channel.close()

    async def recover(self) -> None:
        """Go to another node: the one that died may be this one."""
        await self.close()
        self._place += 1
        self._dial()

    async def make(self) -> None:
        """Keys need no log."""
        await self.append(b"")

    async def append(self, body: bytes) -> None:
        self._number += 1
        await self._put(_field(1, b"%020d" % self._number) + _field(2, body), timeout=LIBRARY_SECONDS_MAX)


class Kafka(Client):
    """librdkafka by confluent-kafka: an idempotent producer without linger, acks=all."""

    attempt_seconds = None

    def _settings(self, **more: Any) -> dict[str, Any]:
        return {
            "bootstrap.servers": ",".join(self.targets),
            "security.protocol": "SSL",
            "ssl.ca.location": str(self.certs / "ca.pem"),
            "ssl.certificate.location": str(self.certs / "root.pem"),
            "ssl.key.location": str(self.certs / "root.key"),
            "log_level": 0,
            **more,
        }

    def _producer(self, **more: Any) -> Any:
        from confluent_kafka import Producer

        return Producer(self._settings(**{"acks": "all", "enable.idempotence": True, "linger.ms": 0, **more}))

    async def open(self, window: int) -> None:
        self._appending = self._producer()

    async def close(self) -> None:
        self._appending.flush(LIBRARY_SECONDS_MAX)

    def _partition(self) -> Any:
        """Return what the cluster says about the log, None while it does not know it."""
        from confluent_kafka import KafkaException

        try:
            topic = self._appending.list_topics(self.log, timeout=5).topics[self.log]
        except KafkaException:
            return None
        return topic.partitions.get(0) if topic.error is None else None

    async def _is_whole(self) -> bool:
        found = self._partition()
        return found is not None and len(found.isrs) == 3

    async def make(self) -> None:
        from confluent_kafka.admin import AdminClient, NewTopic

        await until(self._has_brokers, "three brokers")
        if self._partition() is None:
            settings = {"min.insync.replicas": "2", "flush.messages": "1"}
            wanted = NewTopic(self.log, num_partitions=1, replication_factor=3, config=settings)
            admin = AdminClient(self._settings())  # it must live until the answer is here
            for made in admin.create_topics([wanted]).values():
                made.result(LIBRARY_SECONDS_MAX)
        await until(self._is_whole, "three replicas in sync")

    async def _has_brokers(self) -> bool:
        from confluent_kafka import KafkaException

        try:
            return len(self._appending.list_topics(timeout=5).brokers) == 3
        except KafkaException:
            return False

    async def append(self, body: bytes) -> None:
        """Append one and wait for it, on this thread: nothing else runs on it."""
        self._run(self._appending, body, 1, 1, [])

    async def measure(self, size: int, window: int, count: int) -> dict[str, float]:
        body, latencies = os.urandom(size), list[float]()
        for number in (min(WARM_UP_COUNT, count), count):
            latencies.clear()
            begin = time.perf_counter()
            self._run(self._appending, body, window, number, latencies)
            seconds = time.perf_counter() - begin
        return figures_of(latencies, seconds)

    async def fill(self, size: int, count: int) -> None:
        producer = self._producer(**{"linger.ms": 5, "batch.size": 1 << 20})
        self._run(producer, os.urandom(size), 4 * max(1, (4 << 20) // size), count, [])

    def _run(self, producer: Any, body: bytes, window: int, count: int, latencies: list[float]) -> None:
        from confluent_kafka import KafkaException

        left, done = count, 0

        def send() -> None:
            nonlocal left
            left -= 1
            producer.produce(self.log, body, on_delivery=functools.partial(answered, time.perf_counter()))

        def answered(sent_at: float, error: Any, message: Any) -> None:
            nonlocal done
            if error is not None:
                raise KafkaException(error)
            done += 1
            latencies.append(time.perf_counter() - sent_at)
            if left:
                send()

        for _ in range(min(window, count)):
            send()
        while done < count:
            producer.poll(1.0)

    @functools.cached_property
    def _reading(self) -> Any:
        from confluent_kafka import Consumer

        # The last fetch of a pass waits for more, by default for 500 ms, and the next pass waits for that.
        mine = {"group.id": "compare", "enable.auto.commit": False, "fetch.wait.max.ms": 5}
        return Consumer(self._settings(**mine))

    def _rewind(self) -> None:
        from confluent_kafka import TopicPartition

        self._reading.unassign()
        self._reading.assign([TopicPartition(self.log, 0, 0)])

    async def read_bulk(self, count: int) -> int:
        self._rewind()
        size, left = 0, count
        while left > 0:
            found = self._reading.consume(min(left, 1000), LIBRARY_SECONDS_MAX)
            left -= len(found)
            size += sum(len(message.value()) for message in found)
        return size

    async def read_each(self, count: int) -> int:
        self._rewind()
        size = 0
        for _ in range(count):
            size += len(self._reading.poll(LIBRARY_SECONDS_MAX).value())
        return size

    async def leader(self) -> str:
        return str(self._partition().leader)


class Redis(Client):
    """redis-py with hiredis: XADD and WAIT, which holds its connection up: one for each append in flight."""

    async def open(self, window: int) -> None:
        from redis.asyncio import Redis as Connection

        host, _, port = self.targets[0].rpartition(":")
        self._open = [
            Connection(
                host=host,
                port=int(port),
                ssl=True,
                ssl_ca_certs=str(self.certs / "ca.pem"),
                ssl_certfile=str(self.certs / "root.pem"),
                ssl_keyfile=str(self.certs / "root.key"),
                single_connection_client=True,
            )
            for _ in range(window)
        ]
        await asyncio.gather(*(connection.initialize() for connection in self._open))
        self._free = list(self._open)

    async def close(self) -> None:
        for connection in self._open:
            await connection.aclose()

    async def make(self) -> None:
        """A stream begins with its first record."""
        await until(self._is_whole, "two replicas")

    async def _is_whole(self) -> bool:
        found = await self._open[0].info("replication")
        replicas = [found.get(f"slave{number}", {}) for number in (0, 1)]
        return all(replica.get("state") == "online" for replica in replicas)

    async def append(self, body: bytes) -> None:
        connection = self._free.pop()
        try:
            both = connection.pipeline(transaction=False)
            both.xadd(self.log, {b"v": body}).wait(1, 0)
            _, replica_count = await both.execute()
            assert replica_count >= 1
        finally:
            self._free.append(connection)

    async def fill(self, size: int, count: int) -> None:
        body, at_once = os.urandom(size), max(1, (4 << 20) // size)
        for begin in range(0, count, at_once):
            records = self._open[0].pipeline(transaction=False)
            for _ in range(min(at_once, count - begin)):
                records.xadd(self.log, {b"v": body})
            records.wait(2, 0)
            await records.execute()

    async def _pages(self, count: int) -> AsyncIterator[list[bytes]]:
        left, after = count, b"-"
        while left > 0:
            found = await self._open[0].xrange(self.log, min=after, count=min(left, PAGE_COUNT))
            yield [fields[b"v"] for _, fields in found]
            left -= len(found)
            after = b"(" + found[-1][0]

    async def read_bulk(self, count: int) -> int:
        return sum([sum(map(len, page)) async for page in self._pages(count)])

    async def read_each(self, count: int) -> int:
        """Pages, too: one record at a time would be a round trip for each."""
        size = 0
        async for page in self._pages(count):
            for value in page:
                size += len(value)
        return size


class RabbitMQ(Client):
    """aio-pika: a publish and its confirm."""

    attempt_seconds = 5.0  # a new leader confirms what the old one was sent; asking again would only add

    async def open(self, window: int) -> None:
        self._place = 0
        await self._dial()

    async def _dial(self) -> None:
        import aio_pika

        address = self.targets[self._place % len(self.targets)]
        self._message, self._mode = aio_pika.Message, aio_pika.DeliveryMode.PERSISTENT
        self._connection = await aio_pika.connect(
            f"amqps://guest:guest@{address}/", ssl_context=self.tls(), timeout=5
        )
        self._channel = await self._connection.channel(publisher_confirms=True)

    async def close(self) -> None:
        await self._connection.close()

    async def recover(self) -> None:
        """Go to another node, until one answers."""
        with contextlib.suppress(Exception):
            await asyncio.wait_for(self.close(), 0.5)
        self._place += 1
        with contextlib.suppress(Exception):
            await asyncio.wait_for(self._dial(), 2.0)

    async def make(self) -> None:
        arguments: dict[str, Any] = {"x-queue-type": "quorum", "x-quorum-initial-group-size": 3}
        await self._channel.declare_queue(self.log, durable=True, arguments=arguments)

    async def append(self, body: bytes) -> None:
        message = self._message(body, delivery_mode=self._mode)
        await self._channel.default_exchange.publish(
            message, routing_key=self.log, timeout=LIBRARY_SECONDS_MAX
        )


if __name__ == "__main__":
    main({"nats": Nats, "etcd": Etcd, "kafka": Kafka, "redis": Redis, "rabbitmq": RabbitMQ})
