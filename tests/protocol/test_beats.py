"""The beat of a node: its bounds."""

from loghouse import limits
from loghouse.protocol.beat_messages import NodeBeat, decode_sleeping, encode_sleeping
from tests.protocol.test_bounds import BoundsTestCase, taken


class BeatTests(BoundsTestCase):
    """What a beat says."""

    def test_sleeping(self):
        """A beat has at most as many logs as there can be, and no part of one."""
        sleeping = encode_sleeping((group, 2, 3) for group in range(limits.LOGS_MAX))
        taken(NodeBeat(life=1, sleeping=sleeping))
        self.assertEqual(decode_sleeping(sleeping)[9], (2, 3))
        for size in (len(sleeping) + 20, 19, 21):
            message = NodeBeat(life=1, sleeping=bytes(size))
            self.refused(message, f"{size} bytes are not logs of 20 bytes, at most 10000")
