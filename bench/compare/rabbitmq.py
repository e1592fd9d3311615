"""RabbitMQ: three nodes with quorum queues, from Debian's packages."""

import json
import os
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bench.compare.install import UnavailableError, clients_python, debian, debian_version
from bench.compare.peer import Strangers
from bench.compare.shape import LOG
from loghouse.testing.process import Certificates, free_port, wait_until

NODES = (1, 2, 3)
COOKIE = "compare"
START_SECONDS_MAX = 120.0
ERLANG = "/usr/lib/erlang"


class RabbitMQ(Strangers):
    """One quorum queue of three replicas, by publisher confirms."""

    name = "RabbitMQ"
    version = "3"
    durability = "quorum queue, publisher confirms: fdatasync of the WAL on 2 of 3"
    lacks: Mapping[str, str] = {"read": "a quorum queue gives a record once, to one reader"}

    def install(self) -> None:
        self._folder = debian("rabbitmq", "rabbitmq-server")
        self.version = debian_version(self._folder)
        self._erlang = f"{self._folder}{ERLANG}"
        erl = Path(self._erlang) / "bin/erl"
        # The script knows one place alone, that of the package when it is installed.
        erl.write_text(erl.read_text().replace(f"ROOTDIR={ERLANG}", f"ROOTDIR={self._erlang}"))
        scripts = [*self._folder.glob("usr/lib/rabbitmq/lib/rabbitmq_server-*/sbin")]
        ssl = [*Path(self._erlang).glob("lib/ssl-*/ebin")]
        if not scripts or not ssl:
            raise UnavailableError(f"RabbitMQ: {self.version} is not packed as expected")
        self._scripts, self._ssl = scripts[0], ssl[0]
        clients_python()

    def start(self, folder: Path, certificates: Certificates) -> None:
        self.certificates = certificates
        ports, links, epmd = [free_port() for _ in NODES], [free_port() for _ in NODES], free_port()
        self.targets = [f"127.0.0.1:{port}" for port in ports]
        cookie = folder / ".erlang.cookie"
        cookie.touch(0o600)
        cookie.write_text(COOKIE)
        cookie.chmod(0o400)
        (folder / "plugins").write_text("[].\n")
        nodes = "".join(
            f"cluster_formation.classic_config.nodes.{number} = {node_name(number)}\n" for number in NODES
        )
        self._environments = [
            self._environment(folder, certificates, number, link, epmd)
            for number, link in zip(NODES, links, strict=True)
        ]
        # Else the first node leaves one behind. With it, the nodes are servers 1 to 3, as their names say.
        command = [Path(self._erlang) / "bin/epmd", "-port", epmd, "-address", "127.0.0.1"]
        self.servers.start(command, folder / "epmd.log")
        for number, port, environment in zip(NODES, ports, self._environments, strict=True):
            (folder / f"rabbitmq-{number}.conf").write_text(
                "listeners.tcp = none\n"
                f"listeners.ssl.1 = 127.0.0.1:{port}\n"
                f"ssl_options.cacertfile = {certificates.path('ca')}\n"
                f"ssl_options.certfile = {certificates.path(f'node-{number}')}\n"
                f"ssl_options.keyfile = {certificates.key_path(f'node-{number}')}\n"
                "ssl_options.verify = verify_peer\nssl_options.fail_if_no_peer_cert = true\n"
                "cluster_formation.peer_discovery_backend = classic_config\n"
                f"{nodes}"
            )
            command = [self._scripts / "rabbitmq-server"]
            self.servers.start(command, folder / f"rabbitmq-{number}.log", **environment)
        self.wait_log()

    def _environment(
        self, folder: Path, certificates: Certificates, number: int, link: int, epmd: int
    ) -> dict[str, str]:
        """Return the variables of a node; `rabbitmqctl` with them talks to it."""
        options = folder / f"links-{number}.config"
        files = (
            f'{{cacertfile, "{certificates.path("ca")}"}}, '
            f'{{certfile, "{certificates.path(f"node-{number}")}"}}, '
            f'{{keyfile, "{certificates.key_path(f"node-{number}")}"}}'
        )
        server = f"{{server, [{files}, {{verify, verify_peer}}, {{fail_if_no_peer_cert, true}}]}}"
        options.write_text(f"[{server}, {{client, [{files}, {{verify, verify_peer}}]}}].\n")
        link_tls = f"-pa {self._ssl} -proto_dist inet_tls -ssl_dist_optfile {options}"
        return {
            "HOME": str(folder),
            "PATH": f"{self._erlang}/bin:{os.environ['PATH']}",
            "ERL_EPMD_PORT": str(epmd),
            "RUNNING_UNDER_SYSTEMD": "1",  # else a shell stands between this process and the node
            "RABBITMQ_NODENAME": node_name(number),
            "RABBITMQ_CONF_ENV_FILE": "/dev/null",
            "RABBITMQ_CONFIG_FILE": str(folder / f"rabbitmq-{number}.conf"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(folder / "plugins"),
            "RABBITMQ_MNESIA_BASE": str(folder / f"data-{number}"),
            "RABBITMQ_LOG_BASE": str(folder / f"log-{number}"),
            "RABBITMQ_DIST_PORT": str(link),
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": link_tls,
            "RABBITMQ_CTL_ERL_ARGS": link_tls,
        }

    def wait_log(self, log: str = LOG) -> None:
        wait_until(self._is_whole, "three RabbitMQ nodes", START_SECONDS_MAX)
        super().wait_log(log)
        wait_until(lambda: is_whole(self._queues(), log), "three members of the queue", START_SECONDS_MAX)

    def _is_whole(self) -> bool:
        try:
            found = json.loads(self._ask("cluster_status"))
        except subprocess.CalledProcessError:
            return False
        return len(found["running_nodes"]) == len(NODES)

    def _queues(self) -> str:
        return self._ask("list_queues", "name", "leader", "online")

    def _ask(self, *words: str) -> str:
        """Return what `rabbitmqctl` prints as JSON, with the first node that answers."""
        command = [self._scripts / "rabbitmqctl", "--silent", "--formatter", "json", *words]
        for environment in self._environments:
            done = subprocess.run(
                command, env={**os.environ, **environment}, capture_output=True, text=True, check=False
            )
            if not done.returncode:
                return done.stdout
        raise subprocess.CalledProcessError(done.returncode, command, done.stdout, done.stderr)

    def client(self, job: str, log: str, *numbers: int) -> dict[str, Any]:
        if job == "leader":
            return {"leader": leader_of(self._queues(), log)}
        return super().client(job, log, *numbers)

    def pid_of(self, leader: str) -> int:
        return self.servers.pids[int(leader)]


def node_name(number: int) -> str:
    """Return what the nodes call one of them."""
    return f"rabbit-{number}@localhost"


def _found(listed: str, queue: str) -> dict[str, Any]:
    found: list[dict[str, Any]] = json.loads(listed)
    return next((one for one in found if one["name"] == queue), {})


def leader_of(listed: str, queue: str) -> str:
    """Return the number of the node that leads a queue, of what `rabbitmqctl list_queues` prints as JSON."""
    return str(_found(listed, queue)["leader"]).removeprefix("rabbit-").partition("@")[0]


def is_whole(listed: str, queue: str) -> bool:
    """Return whether all members of a queue are there, of the same."""
    return len(_found(listed, queue).get("online") or ()) == len(NODES)
