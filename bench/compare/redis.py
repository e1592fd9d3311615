"""Redis: a master and two replicas, from Debian's packages."""

from collections.abc import Mapping
from pathlib import Path

from bench.compare.install import clients_python, debian, debian_version, library_path
from bench.compare.peer import Strangers
from loghouse.testing.process import Certificates, free_port

NODES = (1, 2, 3)


class Redis(Strangers):
    """One stream, by XADD and WAIT. It has no consensus: who leads is in the settings."""

    name = "Redis"
    version = "7"
    durability = (
        "appendfsync always and WAIT 1: fsync on the master, and on a replica that answers after its own; "
        "no consensus"
    )
    lacks: Mapping[str, str] = {
        "failover": "no node takes over by itself; Sentinel would, without what it had not yet"
    }

    def install(self) -> None:
        self._folder = debian("redis", "redis-server")
        self.version = debian_version(self._folder)
        clients_python()

    def start(self, folder: Path, certificates: Certificates) -> None:
        self.certificates = certificates
        ports = [free_port() for _ in NODES]
        self.targets = [f"127.0.0.1:{ports[0]}"]
        program = self._folder / "usr/bin/redis-server"
        for number, port in zip(NODES, ports, strict=True):
            data = folder / f"data-{number}"
            data.mkdir()
            lines = [
                *(
                    "bind 127.0.0.1",
                    "port 0",
                    f"tls-port {port}",
                    "tls-replication yes",
                    "tls-auth-clients yes",
                ),
                f"tls-cert-file {certificates.path(f'node-{number}')}",
                f"tls-key-file {certificates.key_path(f'node-{number}')}",
                f"tls-ca-cert-file {certificates.path('ca')}",
                *(f"dir {data}", "appendonly yes", "appendfsync always", 'save ""'),
                # Both replicas are new when they come: no reason to wait for more of them.
                *("repl-diskless-sync-delay 0",) * (number == 1),
                *(f"replicaof 127.0.0.1 {ports[0]}",) * (number > 1),
            ]
            settings = folder / f"redis-{number}.conf"
            settings.write_text("\n".join(lines) + "\n")
            libraries = library_path(self._folder)
            self.servers.start([program, settings], folder / f"redis-{number}.log", LD_LIBRARY_PATH=libraries)
        self.wait_log()
