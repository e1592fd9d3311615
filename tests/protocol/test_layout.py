"""The struct twins of the declared layouts build and parse the same bytes as the declarations."""

import random
import struct

from construct import Bytes, Flag, GreedyBytes, Int16ub, Int32ul, PascalString, Struct
from twisted.trial.unittest import SynchronousTestCase

from loghouse.protocol import raft_messages
from loghouse.protocol.client_messages import Produce, ProduceReply
from loghouse.protocol.codec import MESSAGES
from loghouse.protocol.layout import fixed_layout
from loghouse.protocol.message import layout_of


class LayoutTests(SynchronousTestCase):
    """`fixed_layout` of every message there is."""

    def check(self, wire, layout, tail):
        rng = random.Random(1)
        for _ in range(20):
            head = bytes(rng.choice((0, 1, 127, 128, 255)) for _ in range(layout.size))
            values = dict(zip(layout.names, layout.packing.unpack(head), strict=True))
            parsed = wire.parse(head)
            self.assertEqual({name: parsed[name] for name in layout.names}, values)
            built = wire.build(values | ({tail: b""} if tail else {}))
            self.assertEqual(layout.packing.pack(*values.values()), built)

    def test_messages(self):
        """Every message with fields of fixed size has a twin that agrees with its declaration."""
        twins = {cls: layout for cls in MESSAGES.values() if (layout := layout_of(cls)) is not None}
        self.assertIn(Produce, twins)
        self.assertIn(ProduceReply, twins)
        for cls, layout in twins.items():
            self.check(cls.WIRE, layout, cls.TAIL)
        for cls in raft_messages.MESSAGES:
            self.check(cls.WIRE, fixed_layout(cls.WIRE), "")

    def test_other_declarations(self):
        """What has no fixed size, or is not big-endian, has no twin; a tail is left out."""
        text = Struct("a" / Int16ub, "b" / PascalString(Int16ub, "utf8")).compile()
        self.assertIsNone(fixed_layout(text))
        self.assertIsNone(fixed_layout(Struct("a" / Int32ul).compile()))
        tailed = Struct("a" / Int16ub, "f" / Flag, "u" / Bytes(4), "rest" / GreedyBytes).compile()
        self.assertIsNone(fixed_layout(tailed))
        layout = fixed_layout(tailed, "rest")
        self.assertEqual((layout.names, layout.size), (("a", "f", "u"), 7))
        self.assertEqual(layout.packing.pack(1, True, b"abcd"), struct.pack(">H", 1) + b"\x01abcd")
