"""One client process of a peer: a closed loop of appends. Runs by the Python that has the peers' libraries.

    python -m bench.compare.clients SYSTEM TARGET CERTS SIZE WINDOW COUNT

Prints JSON: `per_second`, `p50_seconds`, `p99_seconds`. Nothing of Loghouse is imported here.
"""

import asyncio
import json
import os
import ssl
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

WARM_UP_COUNT = 50
STREAM = "compare"


async def measure(append: Callable[[], Awaitable[object]], window: int, count: int) -> dict[str, float]:
    """Keep `window` appends in flight until `count` are answered."""
    for number in (min(WARM_UP_COUNT, count), count):
        left, latencies = number, list[float]()

        async def caller(latencies: list[float] = latencies) -> None:
            nonlocal left
            while left > 0:
                left -= 1
                begin = time.perf_counter()
                await append()
                latencies.append(time.perf_counter() - begin)

        begin = time.perf_counter()
        await asyncio.gather(*(caller() for _ in range(window)))
        seconds = time.perf_counter() - begin
    latencies.sort()
    return {
        "per_second": count / seconds,
        "p50_seconds": latencies[count // 2],
        "p99_seconds": latencies[int(count * 0.99)],
    }


async def nats(target: str, certs: Path, size: int, window: int, count: int) -> dict[str, float]:
    import nats as library
    from nats.js.api import StorageType, StreamConfig
    from nats.js.errors import NotFoundError

    tls = ssl.create_default_context(cafile=certs / "ca.pem")
    tls.load_cert_chain(certs / "root.pem", certs / "root.key")
    client = await library.connect(servers=[f"tls://{one}" for one in target.split(",")], tls=tls)
    try:
        log = client.jetstream(timeout=60, publish_async_max_pending=window + 1)
        try:
            found = await log.stream_info(STREAM)
        except NotFoundError:
            wanted = StreamConfig(name=STREAM, subjects=[STREAM], num_replicas=3, storage=StorageType.FILE)
            found = await log.add_stream(wanted)
        assert found.config.num_replicas == 3
        body = os.urandom(size)
        return await measure(lambda: log.publish(STREAM, body), window, count)
    finally:
        await client.close()


def _field(number: int, value: bytes) -> bytes:
    """Return a field of bytes, as protobuf encodes it."""
    size, length = len(value), bytearray()
    while size > 0x7F:
        length.append(size & 0x7F | 0x80)
        size >>= 7
    return bytes([number << 3 | 2, *length, size]) + value


async def etcd(target: str, certs: Path, size: int, window: int, count: int) -> dict[str, float]:
    import grpc

    credentials = grpc.ssl_channel_credentials(
        *((certs / name).read_bytes() for name in ("ca.pem", "root.key", "root.pem"))
    )
    body, number = os.urandom(size), int(time.time() * 1e6)
    async with grpc.aio.secure_channel(target.split(",")[0], credentials) as channel:
        put = channel.unary_unary("/etcdserverpb.KV/Put")  # PutRequest: key 1, value 2

        async def append() -> None:
            nonlocal number
            number += 1
            await put(_field(1, b"%020d" % number) + _field(2, body), timeout=60)

        return await measure(append, window, count)


def main() -> None:
    system, target, certs, *numbers = sys.argv[1:]
    work = {"nats": nats, "etcd": etcd}[system]
    print(json.dumps(asyncio.run(work(target, Path(certs), *map(int, numbers)))))


if __name__ == "__main__":
    main()
