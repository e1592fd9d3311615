"""Our own bad network: TCP proxies whose links can be slowed, held, cut and dropped.

A `LinkProxy` stands before one listener. Who dialled decides which `ProxyLink` a connection
belongs to, so that each directed pair of nodes has faults of its own although a node has
one address for all. A `ProxyLink` has two `Way`s: `forward` from the dialler, `backward` to it.

Held bytes are not lost: as TCP would after a real partition, they go on once the way is
open again. Nothing is ever reset unless a test says so (`drop`, `cut`, `refuse`).
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import socket
import struct
import threading
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Final, TypeVar

CHUNK_SIZE: Final = 64 * 1024
CHUNKS_HELD_MAX: Final = 64  # then the sender meets back-pressure, as it would with full socket buffers
Result = TypeVar("Result")
Address = tuple[str, int]


class Way:
    """One direction of a link, for all its connections; counts bytes."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self._opened = asyncio.Event()
        self._opened.set()
        self.delay_seconds = 0.0
        self.jitter_seconds = 0.0
        self.size_per_second = 0
        self.cut_after_size: int | None = None
        self.received_size = 0
        self.passed_size = 0

    def hold(self) -> None:
        """Pass nothing on from now; no reset, no end of stream."""
        self._opened.clear()

    def restore(self) -> None:
        """No fault any more; what was held goes on."""
        self.delay_seconds = self.jitter_seconds = 0.0
        self.size_per_second = 0
        self.cut_after_size = None
        self._opened.set()

    async def wait_open(self) -> None:
        """Return while nothing holds this way."""
        await self._opened.wait()

    def due(self, now: float) -> float:
        """When what arrives now is to go on."""
        return now + self.delay_seconds + self._rng.uniform(0, self.jitter_seconds)


class _Connection:
    """Two sockets and the four tasks between them."""

    def __init__(self, link: ProxyLink, near: socket.socket) -> None:
        self._link = link
        self._near = near
        self._far: socket.socket | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self._is_closed = False

    def start(self, target: Address) -> None:
        """Connect to the target and pass bytes until both sides ended."""
        self._tasks.append(asyncio.ensure_future(self._run(target)))

    async def _run(self, target: Address) -> None:
        loop = asyncio.get_running_loop()
        try:
            await self._link.forward.wait_open()  # a SYN into a black hole is not answered either
            self._far = socket.socket()
            self._far.setblocking(False)
            self._far.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            await loop.sock_connect(self._far, target)
            ways = [
                asyncio.ensure_future(self._pass(self._near, self._far, self._link.forward)),
                asyncio.ensure_future(self._pass(self._far, self._near, self._link.backward)),
            ]
            self._tasks += ways
            await asyncio.gather(*ways)
        except OSError:
            await self._link.backward.wait_open()
        self.abort()

    async def _pass(self, source: socket.socket, sink: socket.socket, way: Way) -> None:
        """Pass bytes one way; its reader runs ahead, so that a delay does not lower the rate."""
        loop = asyncio.get_running_loop()
        chunks: asyncio.Queue[tuple[float, bytes | None]] = asyncio.Queue(CHUNKS_HELD_MAX)
        reader = asyncio.ensure_future(self._read(source, way, chunks))
        self._tasks.append(reader)
        due = 0.0
        try:
            while True:
                arrived_due, chunk = await chunks.get()
                due = max(due, arrived_due)  # jitter never reorders a stream
                if due > loop.time():
                    await asyncio.sleep(due - loop.time())
                await way.wait_open()
                if chunk is None:
                    self.abort()
                    return
                if not chunk:
                    with contextlib.suppress(OSError):
                        sink.shutdown(socket.SHUT_WR)
                    return
                await self._write(sink, chunk, way)
        except OSError:
            return  # the sink is gone; its own reader sees that, and tells the source when its way is open
        finally:
            reader.cancel()

    async def _read(
        self, source: socket.socket, way: Way, chunks: asyncio.Queue[tuple[float, bytes | None]]
    ) -> None:
        """Queue what arrives; b"" is the end of the stream, None a reset."""
        loop = asyncio.get_running_loop()
        chunk: bytes | None = b"-"
        while chunk:
            try:
                chunk = await loop.sock_recv(source, CHUNK_SIZE)
            except OSError:
                chunk = None
            way.received_size += len(chunk or b"")
            await chunks.put((way.due(loop.time()), chunk))

    async def _write(self, sink: socket.socket, chunk: bytes, way: Way) -> None:
        loop = asyncio.get_running_loop()
        if way.cut_after_size is not None:
            part = chunk[: way.cut_after_size]
            way.cut_after_size -= len(part)
            await loop.sock_sendall(sink, part)
            way.passed_size += len(part)
            if way.cut_after_size == 0:
                way.cut_after_size = None
                self.abort(orderly=True)
            return
        await loop.sock_sendall(sink, chunk)
        way.passed_size += len(chunk)
        if way.size_per_second:
            await asyncio.sleep(len(chunk) / way.size_per_second)

    def abort(self, *, orderly: bool = False) -> None:
        """End both sides: by reset, or (`orderly`) so that what was written still arrives."""
        if self._is_closed:
            return
        self._is_closed = True
        self._link.forget(self)
        current = asyncio.current_task()
        for task in self._tasks:
            if task is not current:
                task.cancel()
        for side in (self._near, self._far):
            if side is not None:
                if not orderly:
                    with contextlib.suppress(OSError):
                        side.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                # Not at once: a cancelled task still has to take the socket from the loop.
                asyncio.get_running_loop().call_soon(side.close)


class ProxyLink:
    """What one dialler has to one target.

    Every public method may be called from any thread, and has acted when it returns.
    """

    def __init__(self, proxies: Proxies, source: str, rng: random.Random) -> None:
        self._proxies = proxies
        self.source = source
        self.forward = Way(rng)
        self.backward = Way(rng)
        self.is_refused = False
        self._connections: set[_Connection] = set()

    @property
    def connection_count(self) -> int:
        """Connections open now."""
        return len(self._connections)

    def delay(self, seconds: float, jitter_seconds: float = 0.0) -> None:
        """Let each byte wait, in each direction, up to `jitter_seconds` longer."""

        def act() -> None:
            for way in (self.forward, self.backward):
                way.delay_seconds, way.jitter_seconds = seconds, jitter_seconds

        self._proxies.call(act)

    def throttle(self, size_per_second: int) -> None:
        """Pass at most so many bytes a second in each direction, per connection."""

        def act() -> None:
            self.forward.size_per_second = self.backward.size_per_second = size_per_second

        self._proxies.call(act)

    def blackhole(self, *, forward: bool = True, backward: bool = True) -> None:
        """Pass nothing, and tell nobody: no reset, no end, and new connections get no answer."""

        def act() -> None:
            if forward:
                self.forward.hold()
            if backward:
                self.backward.hold()

        self._proxies.call(act)

    def cut(self, after_size: int) -> None:
        """Pass so many more bytes forward, then end the connection they were on: in the middle of a frame."""

        def act() -> None:
            self.forward.cut_after_size = after_size

        self._proxies.call(act)

    def drop(self) -> None:
        """Reset the connections of now."""

        def act() -> None:
            for connection in list(self._connections):
                connection.abort()

        self._proxies.call(act)

    def refuse(self) -> None:
        """Reset the connections of now and every new one."""
        self.is_refused = True
        self.drop()

    def restore(self) -> None:
        """No fault any more; held bytes go on."""

        def act() -> None:
            self.is_refused = False
            self.forward.restore()
            self.backward.restore()

        self._proxies.call(act)

    def accept(self, near: socket.socket, target: Address) -> None:
        """Take a connection that was dialled; in the loop's thread."""
        connection = _Connection(self, near)
        self._connections.add(connection)
        if self.is_refused:
            connection.abort()
        else:
            connection.start(target)

    def forget(self, connection: _Connection) -> None:
        """Know a connection no longer; in the loop's thread."""
        self._connections.discard(connection)


class LinkProxy:
    """A listener in front of one target. `address` is what others dial instead."""

    def __init__(
        self, proxies: Proxies, target: Address, source_of: Callable[[Address, Address], str], seed: int
    ) -> None:
        self._proxies = proxies
        self._target = target
        self._source_of = source_of
        self._seed = seed
        self._links: dict[str, ProxyLink] = {}
        self._lock = threading.Lock()
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=128)
        self._listener.setblocking(False)
        self.address: Address = self._listener.getsockname()
        self._task: asyncio.Task[None] | None = None

    def link(self, source: str) -> ProxyLink:
        """The link from a dialler; made at the first question, faultless."""
        with self._lock:
            if source not in self._links:
                rng = random.Random(f"{self._seed}/{source}")
                self._links[source] = ProxyLink(self._proxies, source, rng)
            return self._links[source]

    def links(self) -> list[ProxyLink]:
        """The links that were used or asked for."""
        with self._lock:
            return list(self._links.values())

    def start(self) -> None:
        """Begin to accept; in the loop's thread."""
        self._task = asyncio.ensure_future(self._accept())

    async def _accept(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            near, peer = await loop.sock_accept(self._listener)
            near.setblocking(False)
            near.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self.link(self._source_of(peer, self.address)).accept(near, self._target)

    def stop(self) -> None:
        """Accept no more and reset everything; in the loop's thread."""
        if self._task is not None:
            self._task.cancel()
        for link in self.links():
            for connection in list(link._connections):
                connection.abort()
        asyncio.get_running_loop().call_soon(self._listener.close)


class Proxies:
    """The thread that all proxies of a test live in."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="proxies", daemon=True)
        self._thread.start()
        self._proxies: list[LinkProxy] = []

    def add(
        self,
        target: Address,
        source_of: Callable[[Address, Address], str] = lambda peer, own: "",
        *,
        seed: int = 0,
    ) -> LinkProxy:
        """Put a proxy before `target`.

        Args:
            source_of: Names who dialled, by the dialler's and the proxy's address; "" is anybody.
        """
        proxy = LinkProxy(self, target, source_of, seed)
        self._proxies.append(proxy)
        self.call(proxy.start)
        return proxy

    def call(self, act: Callable[[], Result]) -> Result:
        """Run `act` in the proxies' thread and return what it returns."""

        async def run() -> Result:
            return act()

        return asyncio.run_coroutine_threadsafe(run(), self._loop).result(30)

    def close(self) -> None:
        """Reset everything, and end the thread."""
        if not self._thread.is_alive():
            return
        for proxy in self._proxies:
            self.call(proxy.stop)
        asyncio.run_coroutine_threadsafe(_finish_others(), self._loop).result(30)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(30)
        self._loop.close()


async def _finish_others() -> None:
    others: list[asyncio.Task[Any]] = [
        task for task in asyncio.all_tasks() if task is not asyncio.current_task()
    ]
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)


def process_of_socket(peer: Address, own: Address, pids: Iterable[int]) -> int | None:
    """Return which of these processes of this machine holds the IPv4 TCP socket `peer` -> `own`.

    TLS 1.3 hides the dialler's certificate, and every node dials from 127.0.0.1; the kernel knows.
    Source: `proc_pid_net(5)`, `/proc/net/tcp`.
    """
    inode = _inode_of(peer, own)
    if inode is None:
        return None
    wanted = f"socket:[{inode}]"
    for pid in pids:
        folder = Path(f"/proc/{pid}/fd")
        with contextlib.suppress(OSError):  # the process, or a descriptor, is gone meanwhile
            for descriptor in os.listdir(folder):
                with contextlib.suppress(OSError):
                    if os.readlink(folder / descriptor) == wanted:
                        return pid
    return None


def _inode_of(peer: Address, own: Address) -> str | None:
    local, remote = _as_in_proc(peer), _as_in_proc(own)
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        fields = line.split()
        if fields[1] == local and fields[2] == remote:
            return fields[9]
    return None


def _as_in_proc(address: Address) -> str:
    host = int.from_bytes(socket.inet_aton(address[0]), "little")
    return f"{host:08X}:{address[1]:04X}"
