"""Embedded logs over a simulated disk, with a clock that the test moves."""

import random

from twisted.trial.unittest import SynchronousTestCase

from loghouse.embedded.blocking import EmbeddedLog
from loghouse.embedded.lone_node import LoneNode
from loghouse.limits import KIB
from loghouse.protocol.configuration import Retention
from loghouse.testing.disk import SimDisk

PATH = "/data"


class EmbeddedTestCase(SynchronousTestCase):
    """Opens logs; the disk stays between one and the next."""

    def setUp(self):
        self.disk = SimDisk()
        self.monotonic = 50.0
        self.wall = 1_000_000.0

    def open(self, disk: SimDisk | None = None, path: str = PATH, **options) -> EmbeddedLog:
        settings = {
            "node_name": "a",
            "cluster_name": "test",
            "segment_size": 64 * KIB,
            "reserve_size": 0,
            "retention": Retention(),
            "rng": random.Random(7),
            "wall": lambda: self.wall,
            "monotonic": lambda: self.monotonic,
        }
        node = LoneNode(disk or self.disk, path, **{**settings, **options})
        return EmbeddedLog(node)

    def values(self, log: EmbeddedLog, **options) -> list[bytes]:
        return [record.value for record in log.read(**options)]
