"""Kafka in KRaft mode: three nodes that are broker and controller, from Maven Central."""

import subprocess
from pathlib import Path

from bench.compare.install import UnavailableError, clients_python, jars
from bench.compare.peer import Strangers
from loghouse.testing.process import Certificates, free_port

NODES = (1, 2, 3)
CLUSTER_ID = "bG9naG91c2UtY29tcGFyZQ"  # 16 bytes in base 64
LOG4J = "2.24.3"  # as in Kafka's own distribution of this version
# What bin/kafka-server-start.sh and bin/kafka-run-class.sh say.
JAVA = ("-Xmx1G", "-Xms1G", "-server", "-XX:+UseG1GC", "-XX:MaxGCPauseMillis=20")
JAVA += (
    "-XX:InitiatingHeapOccupancyPercent=35",
    "-XX:+ExplicitGCInvokesConcurrent",
    "-Djava.awt.headless=true",
)


class Kafka(Strangers):
    """One partition of three replicas; all else as it comes."""

    name = "Kafka"
    version = "4.1.1"
    durability = "flush.messages=1, acks=all, min.insync.replicas=2: fsync on at least 2 of 3"

    def install(self) -> None:
        artifacts = [
            ("org.apache.kafka", "kafka_2.13", self.version),
            ("org.apache.logging.log4j", "log4j-slf4j-impl", LOG4J),
        ]
        self._java = ["java", *JAVA, "-cp", f"{jars('kafka', self.version, artifacts)}/*"]
        clients_python()

    def start(self, folder: Path, certificates: Certificates) -> None:
        self.certificates = certificates
        ports, controllers = [free_port() for _ in NODES], [free_port() for _ in NODES]
        self.targets = [f"127.0.0.1:{port}" for port in ports]
        voters = ",".join(
            f"{number}@127.0.0.1:{port}" for number, port in zip(NODES, controllers, strict=True)
        )
        for number, port, controller in zip(NODES, ports, controllers, strict=True):
            settings = folder / f"kafka-{number}.properties"
            lines = {
                "process.roles": "broker,controller",
                "node.id": number,
                "controller.quorum.voters": voters,
                "listeners": f"SSL://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller}",
                "listener.security.protocol.map": "SSL:SSL,CONTROLLER:SSL",
                "inter.broker.listener.name": "SSL",
                "controller.listener.names": "CONTROLLER",
                "log.dirs": folder / f"data-{number}",
                "auto.create.topics.enable": "false",
                "offsets.topic.num.partitions": 1,
                **tls_settings(certificates, f"node-{number}", folder),
            }
            settings.write_text("".join(f"{key}={value}\n" for key, value in lines.items()))
            self._format(settings)
            self.servers.start([*self._java, "kafka.Kafka", settings], folder / f"kafka-{number}.log")
        self.wait_log()

    def _format(self, settings: Path) -> None:
        command = [*self._java, "kafka.tools.StorageTool", "format", "-t", CLUSTER_ID, "-c", str(settings)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            said = (done.stderr.strip() or done.stdout.strip()).splitlines()
            raise UnavailableError(f"Kafka: format: {said[-1] if said else 'it says nothing'}")


def tls_settings(certificates: Certificates, node: str, folder: Path) -> dict[str, object]:
    """Return the settings for mTLS; Kafka wants key and certificate in one file."""
    both = folder / f"{node}.pem"
    both.touch(0o600)
    both.write_text(certificates.key_path(node).read_text() + certificates.path(node).read_text())
    return {
        "ssl.keystore.type": "PEM",
        "ssl.keystore.location": both,
        "ssl.truststore.type": "PEM",
        "ssl.truststore.location": certificates.path("ca"),
        "ssl.client.auth": "required",
    }
