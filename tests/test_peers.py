"""Addresses as other nodes tell them."""

from twisted.trial.unittest import SynchronousTestCase

from loghouse.cluster.peers import NOWHERE, split_address


class AddressTests(SynchronousTestCase):
    """Nothing that a node says of an address gets in the way of dialling."""

    def test_addresses(self):
        """Names and numbers with a port are dialled as they are."""
        for address, expected in {
            "n1.example:8400": ("n1.example", 8400),
            "10.0.0.1:1": ("10.0.0.1", 1),
            "[::1]:65535": ("::1", 65535),
        }.items():
            self.assertEqual(split_address(address), expected)

    def test_nonsense(self):
        """What cannot be dialled leads nowhere, without an error."""
        long = "a" * 255 + ":1"
        for address in (
            "",
            ":",
            "x:99999",
            "x:65536",
            "x:000080",
            "x:-1",
            "..:1",
            "x:",
            "x:0",
            "x",
            long,
            ":1",
            "x:\u0661",
            "\u00e9\u00e9..:80",
        ):
            self.assertEqual(split_address(address), NOWHERE, address)
