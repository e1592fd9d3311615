"""Tests of loghouse.protocol.configuration: damaged payloads end in one typed error."""

from twisted.trial.unittest import SynchronousTestCase

from loghouse.errors import MalformedMessageError
from loghouse.protocol.configuration import (
    Configuration,
    MemberRole,
    decode_configuration,
    decode_producer,
    decode_trim,
    encode_configuration,
    encode_producer,
    encode_trim,
)

CONFIGURATION = Configuration(removed=("old",)).with_member("a", bytes(16), MemberRole.VOTER)


class DamageTests(SynchronousTestCase):
    """Truncated or lengthened payloads are refused, whole ones survive."""

    ROWS = [
        ("configuration", encode_configuration(CONFIGURATION), decode_configuration, CONFIGURATION),
        ("trim", encode_trim(7), decode_trim, 7),
        ("producer", encode_producer("root"), decode_producer, "root"),
    ]

    def test_rows(self):
        """Every truncation, and one byte more, of each payload is malformed."""
        for name, payload, decode, expected in self.ROWS:
            self.assertEqual(decode(payload), expected, name)
            for damaged in [*(payload[:size] for size in range(len(payload))), payload + b"\0"]:
                with self.assertRaises(MalformedMessageError, msg=f"{name}: {damaged!r}"):
                    decode(damaged)
