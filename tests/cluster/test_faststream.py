"""The example program for FastStream on a real cluster, while its processes and the nodes die."""

import json
import os
import signal
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

from loghouse.client import Tls, connect_blocking
from loghouse.testing.process import wait_until
from tests.cluster.case import OwnClusterCase
from tests.processes import long

ROOT = Path(__file__).resolve().parent.parent.parent
ORDER_COUNT = 300
GROUP = """
import asyncio, os
from pathlib import Path

from faststream import FastStream

from loghouse.client import Tls
from loghouse.integrations.faststream import LoghouseBroker
from loghouse.integrations.faststream.annotations import LoghouseMessage

folder = Path(os.environ["CERTS"])
tls = Tls(ca=folder / "ca.pem", certificate=folder / "root.pem", key=folder / "root.key")
broker = LoghouseBroker(os.environ["LOGHOUSE"], tls=tls)

@broker.subscriber("shop-*", cursor="billing", into="bills", lease_seconds=2)
async def bill(order: int, message: LoghouseMessage) -> str:
    return f"{message.log} {order}"

asyncio.run(FastStream(broker).run())
"""


class ExampleTests(OwnClusterCase):
    """examples/faststream, as somebody runs it."""

    if find_spec("faststream") is None:
        skip = "FastStream is not installed"

    def begin(self, *logs):
        """Start the cluster, make the logs, and return a client that is closed at the end."""
        self.cluster.start()
        self.cluster.wait_voters()
        folder = self.cluster.certificates.folder
        tls = Tls(ca=folder / "ca.pem", certificate=folder / "root.pem", key=folder / "root.key")
        self.target = ",".join(node.address for node in self.cluster.nodes)
        client = connect_blocking(self.target, tls=tls, timeout_seconds=60)
        self.addCleanup(client.close)
        for name in logs:
            client.create_log(name)
        return client

    def start_app(self, program=ROOT / "examples/faststream/app.py"):
        """Start a program; it is killed at the end."""
        environment = {
            **os.environ,
            "LOGHOUSE": f"loghouse://{self.target}",
            "CERTS": str(self.cluster.certificates.folder),
            "PYTHONPATH": str(ROOT),
        }
        output = (self.folder / "app.log").open("ab")
        self.addCleanup(output.close)
        process = subprocess.Popen(
            [sys.executable, str(program)], env=environment, stdout=output, stderr=output
        )
        self.addCleanup(process.wait)
        self.addCleanup(process.kill)
        return process

    @long
    def test_exactly_once(self):
        """Every order gets one bill, though its program and a node are killed; the other one stops well."""
        client = self.begin("orders", "bills")
        orders, bills = client.log("orders"), client.log("bills")
        apps = {process.pid: process for process in (self.start_app(), self.start_app())}
        with orders.producer() as producer:
            for number in range(ORDER_COUNT):
                order = {"customer": f"customer-{number % 7}", "cents": number + 1}
                producer.append(json.dumps(order).encode())
                if number == ORDER_COUNT // 2:
                    producer.flush()
                    wait_until(lambda: bills.bounds().next_offset > 0, "a bill")
                    at_work = int(bills.cursors().get("billing").holder.split(":")[1])
                    apps.pop(at_work).kill()
                    self.cluster.wait_leader().kill()
        wait_until(lambda: bills.bounds().next_offset >= ORDER_COUNT, "all bills")
        found = [json.loads(record.value) for record in bills.read()]
        self.assertEqual([bill["order"] for bill in found], list(range(ORDER_COUNT)))
        self.assertEqual([bill["cents"] for bill in found], list(range(1, ORDER_COUNT + 1)))
        (app,) = apps.values()
        app.send_signal(signal.SIGTERM)
        self.assertEqual(app.wait(timeout=60), 0)
        cursor = bills.cursors().get("billing")
        self.assertEqual((cursor.position, cursor.holder), (ORDER_COUNT, ""))

    @long
    def test_group(self):
        """Each order of several logs gets one bill in another one, though a program and a node are killed."""
        names = [f"shop-{number}" for number in range(4)]
        client = self.begin(*names, "bills")
        bills = client.log("bills")
        program = self.folder / "group.py"
        program.write_text(GROUP)
        apps = {process.pid: process for process in (self.start_app(program), self.start_app(program))}
        for round_ in range(3):
            for name in names:
                client.log(name).append_batch([b"%d" % (round_ * 25 + number) for number in range(25)])
            if round_ == 1:
                wait_until(lambda: bills.bounds().next_offset > 0, "a bill")
                holder = bills.cursors().list()[0].holder
                if holder:  # it may be on its way to the other one
                    apps.pop(int(holder.split(":")[1])).kill()
                self.cluster.wait_leader().kill()
        wait_until(lambda: bills.bounds().next_offset >= 75 * len(names), "all bills")
        found = [record.value.decode().split() for record in bills.read()]
        for name in names:
            self.assertEqual([int(order) for log, order in found if log == name], list(range(75)))
        for app in apps.values():
            app.send_signal(signal.SIGTERM)
            self.assertEqual(app.wait(timeout=60), 0)
        cursors = bills.cursors().list()
        self.assertEqual(
            [(one.name, one.position, one.holder) for one in cursors],
            [(f"billing/{name}", 75, "") for name in names],
        )
