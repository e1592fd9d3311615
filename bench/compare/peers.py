"""The systems that are compared, Loghouse first."""

import socket
import ssl
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

from bench.cluster import append_load
from bench.compare.install import build_go, clients_python
from bench.compare.kafka import Kafka
from bench.compare.peer import Peer, Strangers, run_client
from bench.compare.rabbitmq import RabbitMQ
from bench.compare.redis import Redis
from bench.compare.shape import LOG, Append
from loghouse import __version__
from loghouse.testing.cluster_process import ClusterProcess
from loghouse.testing.process import Certificates, free_port, wait_until

NODES = (1, 2, 3)
CLUSTER_SECRET = "compare"


class Loghouse(Peer):
    """This tree, by one bare connection of the binary protocol."""

    name = "Loghouse"
    version = __version__
    durability = "fdatasync on 2 of 3"

    def install(self) -> None:
        """It is here."""

    def start(self, folder: Path, certificates: Certificates) -> None:
        self._certificates = certificates
        self._cluster = ClusterProcess(folder, certificates=certificates)
        self._cluster.start()
        self._cluster.wait_voters()

    def client(self, job: str, log: str, *numbers: int) -> dict[str, Any]:
        targets = ",".join(node.address for node in self._cluster.nodes)
        program = [sys.executable, "-m", "bench.compare.own_client", "loghouse"]
        return run_client(program, [job, targets, self._certificates.folder, log, *numbers])

    def append(self, shape: Append) -> dict[str, float]:
        leader = self._cluster.wait_leader()
        found = append_load(leader, "binary", shape.size, shape.count, shape.window)
        found["per_second"] = found.pop("batches_per_second")
        return found

    def pids(self) -> Sequence[int]:
        return [node.pid for node in self._cluster.nodes]

    def pid_of(self, leader: str) -> int:
        return self._cluster.node(leader).pid

    def mend(self) -> None:
        for node in self._cluster.nodes:
            if not node.is_running:
                node.kill()  # it is dead: this collects it
                node.start()
        self._cluster.wait_caught_up()

    def stop(self) -> None:
        if hasattr(self, "_cluster"):
            self._cluster.close()


class Nats(Strangers):
    """JetStream with three replicas of a stream of files; TLS for clients and between servers."""

    name = "NATS"
    version = "v2.15.3"
    durability = "sync_interval: always, on 2 of 3"

    def install(self) -> None:
        module = "github.com/nats-io/nats-server/v2"
        self._program = build_go("nats-server", module, self.version, module)
        clients_python()

    def start(self, folder: Path, certificates: Certificates) -> None:
        self.certificates = certificates
        self._ports = [free_port() for _ in NODES]
        routes = [free_port() for _ in NODES]
        urls = ", ".join(f'"tls://127.0.0.1:{port}"' for port in routes)
        for number, port, route in zip(NODES, self._ports, routes, strict=True):
            tls = (
                f'tls {{ cert_file: "{certificates.path(f"node-{number}")}", '
                f'key_file: "{certificates.key_path(f"node-{number}")}", '
                f'ca_file: "{certificates.path("ca")}", verify: true, timeout: 10 }}'
            )
            settings = folder / f"nats-{number}.conf"
            settings.write_text(
                f"server_name: node-{number}\nlisten: 127.0.0.1:{port}\n{tls}\n"
                f'jetstream {{ store_dir: "{folder}/data-{number}", sync_interval: always }}\n'
                f"cluster {{ name: compare, listen: 127.0.0.1:{route}, routes: [{urls}], {tls} }}\n"
            )
            self.servers.start([self._program, "-c", settings], folder / f"nats-{number}.log")
        logs = [folder / f"nats-{number}.log" for number in NODES]
        wait_until(
            lambda: any("JetStream cluster new metadata leader" in log.read_text() for log in logs),
            "NATS to elect a leader",
        )
        self.targets = [f"127.0.0.1:{port}" for port in self._ports]
        self.wait_log()


class Etcd(Strangers):
    """Puts of one key each; TLS for clients and between servers. Reads and history are not what it is for."""

    name = "etcd"
    version = "v3.7.3"
    durability = "fdatasync of the WAL on 2 of 3"
    lacks: ClassVar = {"read": "it reads keys, not a log"}

    def install(self) -> None:
        module = "go.etcd.io/etcd/server/v3"
        self._program = build_go("etcd", module, self.version, module)
        clients_python()

    def start(self, folder: Path, certificates: Certificates) -> None:
        self.certificates = certificates
        self._ports = [free_port() for _ in NODES]
        peers = [f"https://127.0.0.1:{free_port()}" for _ in NODES]
        members = ",".join(f"node-{number}={url}" for number, url in zip(NODES, peers, strict=True))
        for number, port, peer in zip(NODES, self._ports, peers, strict=True):
            name, client = f"node-{number}", f"https://127.0.0.1:{port}"
            files = (certificates.path(name), certificates.key_path(name), certificates.path("ca"))
            command = [self._program, "--name", name, "--data-dir", folder / f"data-{number}"]
            command += ["--listen-client-urls", client, "--advertise-client-urls", client]
            command += ["--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer]
            command += ["--initial-cluster", members, "--quota-backend-bytes", 8 << 30]
            command += ["--initial-cluster-token", CLUSTER_SECRET, "--log-level", "warn"]
            for side in ("", "peer-"):
                command += [f"--{side}cert-file", files[0], f"--{side}key-file", files[1]]
                command += [f"--{side}trusted-ca-file", files[2], f"--{side}client-cert-auth"]
            self.servers.start(command, folder / f"etcd-{number}.log")
        self.wait_log()

    def wait_log(self, log: str = LOG) -> None:
        wait_until(lambda: all(map(self._is_healthy, self._ports)), "etcd to be healthy")
        first = sorted(self._ports, key=self._leads, reverse=True)
        self.targets = [f"127.0.0.1:{port}" for port in first]

    def client(self, job: str, log: str, *numbers: int) -> dict[str, Any]:
        if job == "leader":
            leaders = [number for number, port in zip(NODES, self._ports, strict=True) if self._leads(port)]
            return {"leader": str(leaders[0])}
        return super().client(job, log, *numbers)

    def _is_healthy(self, port: int) -> bool:
        return '"health":"true"' in self._get(port, "/health")

    def _leads(self, port: int) -> bool:
        return "\netcd_server_is_leader 1" in self._get(port, "/metrics")

    def _get(self, port: int, path: str) -> str:
        certificates = self.certificates
        assert certificates is not None
        tls = ssl.create_default_context(cafile=certificates.path("ca"))
        tls.load_cert_chain(certificates.path("root"), certificates.key_path("root"))
        try:
            with (
                socket.create_connection(("127.0.0.1", port), timeout=5) as plain,
                tls.wrap_socket(plain, server_hostname="127.0.0.1") as connection,
            ):
                connection.sendall(f"GET {path} HTTP/1.0\r\nHost: 127.0.0.1\r\n\r\n".encode())
                return b"".join(iter(lambda: connection.recv(65536), b"")).decode()
        except OSError:
            return ""


def all_peers() -> dict[str, Peer]:
    """Return the peers by the name that `PEER=` takes."""
    peers: list[Peer] = [Nats(), Etcd(), Kafka(), Redis(), RabbitMQ()]
    return {peer.name.lower(): peer for peer in peers}
