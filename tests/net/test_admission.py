"""Who gets in when many want to: strangers make room for strangers, clients and nodes have their places."""

from twisted.trial.unittest import SynchronousTestCase

from loghouse.errors import ResourceExhaustedError
from loghouse.limits import CONNECTIONS_MAX
from loghouse.net.admission import Admission, ConnectionLimits, limits_for, network_of
from tests.recording import RecordingMetrics


class AdmissionCase(SynchronousTestCase):
    """A port with few places."""

    limits = ConnectionLimits(
        all_max=11,
        per_address_max=8,
        strangers_max=4,
        strangers_per_address_max=2,
        nodes_max=2,
        per_client_max=3,
        per_node_max=1,
    )

    def setUp(self):
        self.metrics = RecordingMetrics()
        self.admission = Admission(self.limits, self.metrics)
        self.dropped = []

    def enter(self, address, name=""):
        return self.admission.enter(address, lambda: self.dropped.append(name or address))


class StrangerTests(AdmissionCase):
    """Those without a certificate, so far."""

    def test_own_address_first(self):
        """An address at its share loses its own oldest stranger, and nobody else's."""
        self.enter("10.0.0.1", "other")
        for number in range(5):
            self.enter("10.0.0.2", str(number))
        self.assertEqual(self.dropped, ["0", "1", "2"])
        self.assertEqual((self.admission.strangers, self.admission.all), (3, 3))

    def test_most_crowded_first(self):
        """When all places are taken a newcomer gets the oldest one of the address with most."""
        for address in ("10.0.0.1", "10.0.0.2", "10.0.0.2", "10.0.0.3"):
            self.enter(address)
        victim = self.enter("10.0.0.9")
        self.assertEqual(self.dropped, ["10.0.0.2"])
        victim.identify("root", is_node=False)
        self.assertEqual(self.admission.strangers, 3)

    def test_known_addresses_last(self):
        """A stranger from where somebody with a certificate came goes after those from nowhere."""
        self.enter("10.0.0.1").identify("root", is_node=False)
        self.enter("10.0.0.1", "known")
        self.enter("10.0.0.1", "known")
        self.enter("10.0.0.2")
        self.enter("10.0.0.3")
        self.enter("10.0.0.4")
        self.enter("10.0.0.5")
        self.assertEqual(self.dropped, ["10.0.0.2", "10.0.0.3"])

    def test_ipv6(self):
        """All addresses that one IPv6 host may choose count as one."""
        self.assertEqual(network_of("2001:db8::1"), network_of("2001:db8::ffff:1"))
        self.assertNotEqual(network_of("2001:db8::1"), network_of("2001:db8:0:1::1"))
        self.assertEqual(network_of("::ffff:10.0.0.1"), network_of("10.0.0.1"))
        self.assertEqual(network_of("fe80::1%eth0"), "fe80::/64")
        self.assertEqual(network_of("local"), "local")

    def test_dropped_counts_once(self):
        """Who was dropped is not counted again when its connection ends, and can be nobody any more."""
        first = self.enter("10.0.0.1")
        self.enter("10.0.0.1")
        self.enter("10.0.0.1")
        first.close()
        self.assertEqual(self.admission.all, 2)
        self.assertRaises(ResourceExhaustedError, first.identify, "root", is_node=False)


class ClientTests(AdmissionCase):
    """Those with one."""

    def test_clients_leave_places(self):
        """Clients have what strangers and nodes leave them; both still get in."""
        for number in range(4):
            self.enter(f"10.0.0.{number}").identify(f"client {number}", is_node=False)
        late = self.enter("10.0.1.1")
        self.assertRaises(ResourceExhaustedError, late.identify, "late", is_node=False)
        late.close()
        for name in ("n1", "n2"):
            self.enter("10.0.2.1").identify(f"node:{name}", is_node=True)
        for number in range(50):
            self.enter(f"10.0.3.{number}")
        self.assertFalse(self.admission.is_full)
        self.assertEqual((self.admission.all, self.metrics.count("connection_refused")), (10, 1))

    def test_share_of_one(self):
        """One client has its share, one node, too; a close makes room."""
        tickets = [self.enter(f"10.0.0.{number}") for number in range(3)]
        for ticket in tickets:
            ticket.identify("busy", is_node=False)
        late = self.enter("10.0.0.9")
        self.assertRaises(ResourceExhaustedError, late.identify, "busy", is_node=False)
        tickets[0].close()
        late.identify("busy", is_node=False)
        self.enter("10.0.0.10").identify("node:n1", is_node=True)
        second = self.enter("10.0.0.10")
        self.assertRaises(ResourceExhaustedError, second.identify, "node:n1", is_node=True)

    def test_few_files(self):
        """With few file descriptors every part is smaller, and clients still have most."""
        for all_max in (16, 100, CONNECTIONS_MAX):
            limits = limits_for(all_max)
            self.assertGreater(limits.clients_max, all_max // 2)
            self.assertGreater(limits.strangers_max, 0)
            self.assertGreater(limits.nodes_max, 0)
