"""Real clusters for tests and benchmarks: several `twistd -n loghouse` on loopback, faults between them."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import grpc

from loghouse.api.v1 import log_pb2, log_pb2_grpc
from loghouse.errors import EntryDamagedError, LoghouseError
from loghouse.limits import STORE_HEADER_SIZE
from loghouse.protocol.batch import decode_batch
from loghouse.protocol.entry import (
    CODEC_MASK,
    DEFAULT_GROUP,
    Entry,
    EntryKind,
    decode_entries,
    decode_entry,
    frame_seed,
)
from loghouse.storage.store import StoreHeader
from loghouse.testing.patience import patiently
from loghouse.testing.process import (
    CLUSTER,
    DEADLINE_SECONDS,
    Certificates,
    NodeProcess,
    free_port,
    wait_until,
)
from loghouse.testing.proxy import Address, LinkProxy, Proxies, ProxyLink, process_of_socket

CALL_SECONDS: Final = 5.0


class ClusterProcess:
    """Nodes that list each other in `join`; the first one bootstraps.

    With `is_proxied` every node advertises a proxy of its own, so that what one node sends another passes a
    `ProxyLink` of that pair. Clients dial the nodes themselves.
    """

    def __init__(
        self,
        folder: Path,
        *,
        node_count: int = 3,
        cluster: str = CLUSTER,
        certificates: Certificates | None = None,
        settings: str = "",
        is_proxied: bool = False,
        has_grpc_ports: bool = False,
        has_http_ports: bool = False,
        is_forked: bool = False,
    ) -> None:
        """Write certificates and settings; nothing is started.

        Args:
            settings: More YAML for every node.yaml, at the top level.
            has_grpc_ports: Every node has a second port for gRPC alone, and tells clients of it.
            has_http_ports: Every node serves HTTP, without TLS, at its `http_port`.
            is_forked: As of every `NodeProcess`.
        """
        self.folder = folder
        self.cluster = cluster
        self.settings = settings
        self.has_grpc_ports = has_grpc_ports
        self.has_http_ports = has_http_ports
        self.is_forked = is_forked
        self.certificates = certificates or Certificates(folder / "certs", cluster)
        self.proxies = Proxies() if is_proxied else None
        self._proxy_of: dict[str, LinkProxy] = {}
        self.nodes: list[NodeProcess] = []
        self._seeds: list[NodeProcess] = []
        for number in range(1, node_count + 1):
            self._make(number)
        self._seeds = list(self.nodes)
        for node in self.nodes:
            self.write_config(node)

    # --- nodes --------------------------------------------------------------------------

    def _make(self, number: int) -> NodeProcess:
        name = f"node-{number}"
        port = f"grpc_listen: 127.0.0.1:{free_port()}\n" if self.has_grpc_ports else ""
        http_port = free_port() if self.has_http_ports else 0
        if http_port:
            port += f"http_listen: 127.0.0.1:{http_port}\n"
        node = NodeProcess(
            self.folder / name,
            self.certificates,
            name=name,
            cluster=self.cluster,
            settings=self.settings + port,
            is_forked=self.is_forked,
        )
        node.http_port = http_port
        if self.proxies is not None:
            target = ("127.0.0.1", node.port)
            self._proxy_of[name] = self.proxies.add(target, self._source_of, seed=number)
        self.nodes.append(node)
        return node

    def add(self) -> NodeProcess:
        """Make one more node that joins the others; it is not started."""
        node = self._make(len(self.nodes) + 1)
        self.write_config(node)
        return node

    def add_twin(self, node: NodeProcess) -> NodeProcess:
        """Make a second machine of a node's name and certificate, with a disk of its own."""
        twin = NodeProcess(
            self.folder / f"{node.name}-again",
            self.certificates,
            name=node.name,
            cluster=self.cluster,
            settings=self.settings,
            is_forked=self.is_forked,
        )
        twin.write_config(join=[seed.address for seed in self._seeds], bootstrap=False, advertise=None)
        return twin

    def write_config(self, node: NodeProcess, *, has_seeds: bool = True) -> None:
        """Write a node's node.yaml anew; without seeds, `join` is left out and nothing is bootstrapped."""
        alone = len(self._seeds) == 1 and node in self._seeds
        node.write_config(
            join=[self.advertised(seed) for seed in self._seeds] if has_seeds and not alone else (),
            bootstrap=has_seeds and node is self._seeds[0],
            advertise=self.advertised(node) if self.proxies is not None else None,
        )

    def advertised(self, node: NodeProcess) -> str:
        """Where other nodes dial this one."""
        if node.name in self._proxy_of:
            host, port = self._proxy_of[node.name].address
            return f"{host}:{port}"
        return node.address

    def _source_of(self, peer: Address, own: Address) -> str:
        pids = {node.pid: node.name for node in self.nodes if node.is_running}
        return pids.get(process_of_socket(peer, own, pids) or 0, "")

    def node(self, name: str) -> NodeProcess:
        """The node of that name."""
        return next(node for node in self.nodes if node.name == name)

    def others(self, *nodes: NodeProcess) -> list[NodeProcess]:
        """All nodes but these."""
        return [node for node in self.nodes if node not in nodes]

    def running(self) -> list[NodeProcess]:
        """The nodes whose process runs."""
        return [node for node in self.nodes if node.is_running]

    def start(self) -> None:
        """Start every node, and wait until all follow one leader."""
        for node in self.nodes:
            node.start(wait=False)
        self.wait_leader()

    def close(self) -> None:
        """End all processes in whatever state they are, and the proxies; for cleanups."""
        for node in self.nodes:
            node.close()
        if self.proxies is not None:
            self.proxies.close()

    def outputs(self) -> str:
        """What every node wrote, for a failed test."""
        return "\n".join(f"--- {node.name}\n{node.output()}" for node in self.nodes)

    def wipe(self, node: NodeProcess) -> None:
        """Empty the disk of a node that does not run."""
        assert not node.is_running
        shutil.rmtree(node.data_dir)

    # --- questions ----------------------------------------------------------------------

    @contextmanager
    def stub(self, node: NodeProcess, subject: str = "root") -> Iterator[Any]:
        """The Log service of one node, on a channel of its own."""
        with node.channel(subject) as channel:
            yield log_pb2_grpc.LogStub(channel)  # type: ignore[no-untyped-call]

    def leader_seen_by(self, node: NodeProcess) -> str:
        """The name of the leader as this node tells it; "" when it does not answer or knows none."""
        return next((server.id for server in self._servers(node) or () if server.is_leader), "")

    def roles_seen_by(self, node: NodeProcess) -> dict[str, str]:
        """Name -> role ("voter", "learner") as this node tells it; empty when it does not answer."""
        return {server.id: server.role for server in self._servers(node) or ()}

    def _servers(self, node: NodeProcess) -> Sequence[log_pb2.Server] | None:
        """Return the cluster as this node tells it; None when it does not answer."""
        try:
            with self.stub(node) as stub:
                reply: log_pb2.GetServersResponse = stub.GetServers(
                    log_pb2.GetServersRequest(), timeout=CALL_SECONDS
                )
        except grpc.RpcError:
            return None
        return reply.servers

    def bounds(self, node: NodeProcess, *, seconds_max: float = CALL_SECONDS) -> tuple[int, int]:
        """(lowest, next) as this node answers after asking the leader; raises RpcError when it cannot."""
        with self.stub(node) as stub:
            reply = stub.Bounds(log_pb2.BoundsRequest(), timeout=seconds_max)
        return int(reply.lowest), int(reply.next)

    def confirmed_end(self, node: NodeProcess) -> int:
        """Return the next offset as a node confirms it with the leader; -1 when it cannot."""
        try:
            return self.bounds(node)[1]
        except grpc.RpcError:
            return -1

    # --- conditions ---------------------------------------------------------------------

    def wait_leader(
        self, among: Sequence[NodeProcess] | None = None, *, seconds_max: float = DEADLINE_SECONDS
    ) -> NodeProcess:
        """Wait until these nodes (all running ones) name one leader among them, and it confirms it."""
        asked = list(among or self.running())
        found: list[NodeProcess] = []

        def agree() -> bool:
            self._check_alive(asked)
            names = {self.leader_seen_by(node) for node in asked}
            found[:] = [node for node in asked if names == {node.name}]
            return bool(found) and self.confirmed_end(found[0]) >= 0

        self._wait(agree, f"one leader of {_names(asked)}", seconds_max)
        return found[0]

    def wait_leaderless(self, node: NodeProcess, *, seconds_max: float = DEADLINE_SECONDS) -> None:
        """Wait until a node knows no leader."""

        def knows_none() -> bool:
            servers = self._servers(node)
            return servers is not None and not any(server.is_leader for server in servers)

        self._wait(knows_none, f"{node.name} to know no leader", seconds_max)

    def wait_caught_up(
        self, among: Sequence[NodeProcess] | None = None, *, seconds_max: float = DEADLINE_SECONDS
    ) -> int:
        """Wait until these nodes (all running ones) have what the leader has; return the next offset.

        Nothing may be appended meanwhile.
        """
        asked = list(among or self.running())
        ends: set[int] = set()

        def same() -> bool:
            self._check_alive(asked)
            ends.clear()
            ends.update(map(self.confirmed_end, asked))
            return len(ends) == 1 and -1 not in ends

        self._wait(same, f"{_names(asked)} to catch up", seconds_max)
        return ends.pop()

    def wait_roles(
        self, roles: dict[str, str], *, seen_by: NodeProcess, seconds_max: float = DEADLINE_SECONDS
    ) -> None:
        """Wait until a node tells exactly these roles (name -> role)."""
        self._wait(
            lambda: self.roles_seen_by(seen_by) == roles, f"{seen_by.name} to see {roles}", seconds_max
        )

    def wait_voters(self, *, seconds_max: float = DEADLINE_SECONDS) -> None:
        """Wait until every running node is a voter, in the eyes of each."""
        running = self.running()
        roles = {node.name: "voter" for node in running}
        for node in running:
            self._wait(
                lambda node=node: roles.items() <= self.roles_seen_by(node).items(),  # type: ignore[misc]
                f"{node.name} to see {_names(running)} as voters",
                seconds_max,
            )

    def _check_alive(self, nodes: Sequence[NodeProcess]) -> None:
        for node in nodes:
            if not node.is_running:
                code = node.process.returncode if node.process is not None else None
                raise RuntimeError(f"{node.name} ended with {code}:\n{node.output()}")

    def _wait(self, condition: Callable[[], bool], what: str, seconds_max: float) -> None:
        try:
            wait_until(condition, what, seconds_max)
        except TimeoutError as error:
            raise TimeoutError(f"{error}\n{self.outputs()}") from None

    # --- faults between nodes --------------------------------------------------------------

    def link(self, source: NodeProcess, target: NodeProcess) -> ProxyLink:
        """The link on which `source` sends to `target`."""
        return self._proxy_of[target.name].link(source.name)

    def client_link(self, target: NodeProcess) -> ProxyLink:
        """The link of everybody who is no node to the address that `target` advertises."""
        return self._proxy_of[target.name].link("")

    def cut_off(self, node: NodeProcess) -> None:
        """Blackhole every link to and from a node; clients still reach it."""
        self.partition([node], self.others(node))

    def partition(self, side: Sequence[NodeProcess], other: Sequence[NodeProcess]) -> None:
        """Blackhole every link between two sides."""
        for one in side:
            for two in other:
                self.link(one, two).blackhole()
                self.link(two, one).blackhole()

    def heal(self) -> None:
        """No fault on any link any more."""
        for proxy in self._proxy_of.values():
            for link in proxy.links():
                link.restore()

    # --- what is stored -------------------------------------------------------------------

    def entries(self, node: NodeProcess) -> list[Entry]:
        """Every entry that this node serves, of every kind, checked; offsets must be dense."""
        what = f"{node.name} to serve its entries"
        return patiently(lambda: self._read_entries(node), what, is_repeatable=True)

    def _read_entries(self, node: NodeProcess) -> list[Entry]:
        """Read once; `grpc.RpcError` when the node does not answer, or has no leader to ask."""
        with self.stub(node) as stub:
            # A node with much to do may be late for a handshake: dial again.
            request = log_pb2.GetServersRequest()
            servers = stub.GetServers(request, timeout=DEADLINE_SECONDS, wait_for_ready=True)
            seed = frame_seed(servers.cluster_uuid, DEFAULT_GROUP)
            end = stub.Bounds(log_pb2.BoundsRequest(), timeout=30).next
            entries: list[Entry] = []
            offset = 0
            while offset < end:
                reply = stub.Fetch(log_pb2.FetchRequest(offset=offset, size_max=4 << 20), timeout=30)
                for entry in decode_entries(seed, reply.frames):
                    if entry.kind == EntryKind.RECORDS and entry.base_offset != offset:
                        raise AssertionError(
                            f"{node.name}: offset {entry.base_offset} where {offset} belongs"
                        )
                    offset = entry.next_offset
                    entries.append(entry)
        return entries

    def values(self, node: NodeProcess) -> list[bytes]:
        """Every record's value, as this node serves them, in order of offsets from 0."""
        return [
            record.value
            for entry in self.entries(node)
            if entry.kind == EntryKind.RECORDS
            for record in decode_batch(entry.payload, entry.attributes & CODEC_MASK).records
        ]

    def stored_frames(self, node: NodeProcess) -> dict[int, bytes]:
        """Every whole entry frame in the store files of a node, by index; it may run meanwhile."""
        frames: dict[int, bytes] = {}
        for path in sorted((node.data_dir / "logs" / str(DEFAULT_GROUP)).glob("*.store")):
            stored = path.read_bytes()
            try:
                seed = StoreHeader.decode(stored[:STORE_HEADER_SIZE]).seed
            except EntryDamagedError:  # a segment just being made
                break
            position, index = STORE_HEADER_SIZE, int(path.stem)
            while True:
                try:
                    entry = decode_entry(seed, stored, position)
                except LoghouseError:  # the zeroes behind the last frame
                    break
                if entry.index != index:
                    break
                frames[index] = stored[position : position + entry.size]
                position += entry.size
                index += 1
        return frames

    def frame_problems(self, among: Sequence[NodeProcess] | None = None) -> list[str]:
        """Compare what these nodes (all) have on their disks, byte by byte; all must have caught up."""
        nodes = list(among or self.nodes)
        first, *others = [self.stored_frames(node) for node in nodes]
        problems = [] if first else [f"{nodes[0].name} has no entries"]
        for node, frames in zip(nodes[1:], others, strict=True):
            if first.keys() != frames.keys():
                problems.append(
                    f"{nodes[0].name} has the entries {_range(first)}, {node.name} {_range(frames)}"
                )
            different = [index for index in first.keys() & frames.keys() if first[index] != frames[index]]
            if different:
                problems.append(
                    f"entry {min(different)} is different on {nodes[0].name} and {node.name}, "
                    f"and {len(different) - 1} others"
                )
        return problems


def _range(frames: dict[int, bytes]) -> str:
    return f"{min(frames)} to {max(frames)} ({len(frames)})" if frames else "none"


def _names(nodes: Sequence[NodeProcess]) -> str:
    return ", ".join(node.name for node in nodes)
