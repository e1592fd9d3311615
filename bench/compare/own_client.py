"""The client process of Loghouse, by its public asyncio client: `python -m bench.compare.own_client ...`.

Jobs and arguments are those of `bench.compare.jobs`. `bench.append_load` measures appends.
"""

from bench.client import tls_of
from bench.compare.jobs import Client, main
from loghouse.client import connect

CALL_SECONDS = 60.0
DEFAULT_LOG = "compare"


class Loghouse(Client):
    """The default log stands for that of appends; others are named logs."""

    attempt_seconds = None

    async def open(self, window: int) -> None:
        self._cluster = connect(",".join(self.targets), tls=tls_of(self.certs), timeout_seconds=CALL_SECONDS)
        await self._cluster.__aenter__()
        self._log = self._cluster if self.log == DEFAULT_LOG else self._cluster.log(self.log)

    async def close(self) -> None:
        await self._cluster.__aexit__(None, None, None)

    async def make(self) -> None:
        if self.log != DEFAULT_LOG and self.log not in {found.name for found in await self._cluster.logs()}:
            await self._cluster.create_log(self.log)

    async def append(self, body: bytes) -> None:
        await self._log.append(body)

    async def fill(self, size: int, count: int) -> None:
        async with self._log.producer() as producer:
            value = bytes(size)
            for _ in range(count):
                await producer.append(value)

    async def read_bulk(self, count: int) -> int:
        size, left = 0, count
        async for batch in self._log.read_batches("earliest"):
            values = batch.values()
            size += sum(map(len, values))
            left -= len(values)
            if left <= 0:
                break
        return size

    async def read_each(self, count: int) -> int:
        size, left = 0, count
        async for record in self._log.read("earliest"):
            size += len(record.value)
            left -= 1
            if left <= 0:
                break
        return size

    async def leader(self) -> str:
        view = await self._cluster.servers()
        if view.leader is None:
            raise RuntimeError("no leader is known")
        return view.leader.name


if __name__ == "__main__":
    main({"loghouse": Loghouse})
