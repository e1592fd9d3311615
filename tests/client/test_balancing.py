"""Which server is chosen: time is a number, chance is seeded."""

import random
from itertools import islice

from twisted.trial.unittest import SynchronousTestCase

from loghouse.client.balancing import (
    PROBATION_SECONDS_MAX,
    REFRESH_SECONDS,
    Balancer,
    ClusterView,
    Purpose,
    Server,
)
from loghouse.errors import IdentityError, UnavailableError

UUID = bytes(range(16))
SEEDS = ("s1:1", "s2:2")


def server(number, **fields):
    return Server(name=f"n{number}", address=f"h{number}:8400", **fields)


def view(*servers, uuid=UUID):
    return ClusterView(cluster_uuid=uuid, cluster_name="c", servers=servers)


def three(leader=1, **changed):
    return view(
        *(server(number, is_leader=number == leader, **changed.get(f"n{number}", {})) for number in (1, 2, 3))
    )


class NoAddressTests(SynchronousTestCase):
    """A node that just started tells of others whose addresses it does not know yet."""

    TOLD = ("", ":8400", "h9", "h9:0", "h9:port", "::1:8400", "a..b:1")

    def test_never_chosen(self):
        """What is no address is dialled for no purpose; the others and the given ones are."""
        for told in self.TOLD:
            balancer = Balancer(SEEDS, random.Random(1))
            nobody = Server(name="n9", address=told, is_leader=True)
            balancer.learned(view(nobody, server(2)), 0.0)
            for purpose in Purpose:
                self.assertEqual(
                    set(balancer.addresses_in_turn(purpose, 0.0)), {*SEEDS, "h2:8400"}, (told, purpose)
                )
            self.assertIsNone(balancer.leader_address(0.0))
            self.assertIsNone(balancer.address_of("n9", 0.0))
            self.assertFalse(balancer.shows_leader(balancer.view))

    def test_hint_to_it(self):
        """A leader without an address that is named is reason to ask again, not to dial."""
        balancer = Balancer(SEEDS, random.Random(1))
        balancer.learned(view(Server(name="n9", address=""), server(2)), 0.0)
        self.assertFalse(balancer.is_stale(0.0))
        balancer.hinted("n9")
        self.assertTrue(balancer.is_stale(0.0))

    def test_one_good_door(self):
        """By gRPC one good door of two is enough; a direct door alone is none for the binary protocol."""
        told = view(Server(name="n1", address="", grpc_address="h1:1", is_leader=True))
        by_grpc, binary = (Balancer(SEEDS, random.Random(1), is_grpc=is_grpc) for is_grpc in (True, False))
        by_grpc.learned(told, 0.0)
        binary.learned(told, 0.0)
        self.assertEqual(by_grpc.address(Purpose.APPEND, 0.0), "h1:1")
        self.assertIn(binary.address(Purpose.APPEND, 0.0), SEEDS)


class BalancerCase(SynchronousTestCase):
    """A balancer that knows three nodes, of which n1 leads."""

    def setUp(self):
        self.balancer = Balancer(SEEDS, random.Random(1))
        self.balancer.learned(three(), 0.0)

    def choices(self, purpose, count=12, now=0.0):
        return [self.balancer.address(purpose, now) for _ in range(count)]


class ChoiceTests(BalancerCase):
    """Appends go to the leader, reads to the followers in turn."""

    def test_nothing_known(self):
        """Before anything is known, the given addresses are tried in turn, whatever for."""
        balancer = Balancer(SEEDS, random.Random(1))
        for purpose in Purpose:
            self.assertEqual({balancer.address(purpose, 0.0) for _ in range(4)}, set(SEEDS))
        self.assertTrue(balancer.is_stale(0.0))

    def test_append(self):
        """Every append goes to the leader."""
        self.assertEqual(set(self.choices(Purpose.APPEND)), {"h1:8400"})
        self.assertTrue(self.balancer.leads("h1:8400"))

    def test_read(self):
        """Reads go to the followers in turn, each as often as the other."""
        chosen = self.choices(Purpose.READ)
        self.assertEqual({address: chosen.count(address) for address in chosen}, {"h2:8400": 6, "h3:8400": 6})

    def test_lone_leader(self):
        """A leader without followers is read from."""
        self.balancer.learned(view(server(1, is_leader=True)), 0.0)
        self.assertEqual(set(self.choices(Purpose.READ)), {"h1:8400"})

    def test_turns_begin_by_chance(self):
        """Many clients do not all begin at the same follower."""
        first = set()
        for seed in range(10):
            balancer = Balancer(SEEDS, random.Random(seed))
            balancer.learned(three(), 0.0)
            first.add(balancer.address(Purpose.READ, 0.0))
        self.assertEqual(first, {"h2:8400", "h3:8400"})

    def test_dead_servers(self):
        """A server that its cluster believes dead is not chosen while another one is left."""
        self.balancer.learned(three(n2={"is_alive": False}), 0.0)
        self.assertEqual(set(self.choices(Purpose.READ)), {"h3:8400"})

    def test_direct_door(self):
        """By gRPC an advertised direct address is preferred; when it fails, the one port is used."""
        self.balancer.learned(three(n1={"grpc_address": "h1:9000"}), 0.0)
        self.assertEqual(set(self.choices(Purpose.APPEND)), {"h1:8400"})
        self.balancer = Balancer(SEEDS, random.Random(1), is_grpc=True)
        self.balancer.learned(three(n1={"grpc_address": "h1:9000"}), 0.0)
        self.assertEqual(set(self.choices(Purpose.APPEND)), {"h1:9000"})
        self.assertTrue(self.balancer.leads("h1:9000"))
        self.balancer.failed("h1:9000", 0.0)
        self.assertEqual(set(self.choices(Purpose.APPEND)), {"h1:8400"})

    def test_by_name(self):
        """A server is found by its name; one that is not there is not."""
        self.assertEqual(self.balancer.address_of("n3", 0.0), "h3:8400")
        self.assertEqual(self.balancer.address_of("n9", 0.0), None)

    def test_every_address_once(self):
        """All addresses come, each once, the preferred ones first."""
        found = list(self.balancer.addresses_in_turn(Purpose.APPEND, 0.0))
        self.assertEqual(found[0], "h1:8400")
        self.assertEqual(sorted(found), ["h1:8400", "h2:8400", "h3:8400", *SEEDS])


class ChangeTests(BalancerCase):
    """What is learned changes the choice."""

    def test_hint(self):
        """The leader that a node named gets the appends, and the old one is read from."""
        self.balancer.hinted("n3")
        self.assertEqual(set(self.choices(Purpose.APPEND)), {"h3:8400"})
        self.assertEqual(set(self.choices(Purpose.READ)), {"h1:8400", "h2:8400"})

    def test_hint_of_a_stranger(self):
        """A leader that is not known yet makes the client ask again, and changes nothing else."""
        self.assertFalse(self.balancer.is_stale(1.0))
        self.balancer.hinted("n7")
        self.assertTrue(self.balancer.is_stale(1.0))
        self.assertEqual(set(self.choices(Purpose.APPEND)), {"h1:8400"})

    def test_leader_that_does_not_lead(self):
        """When the leader says that it cannot append, any other node is asked; it passes appends on."""
        self.balancer.does_not_lead("h1:8400")
        self.assertTrue(self.balancer.is_stale(1.0))
        self.assertEqual(set(self.choices(Purpose.APPEND)), {"h1:8400", "h2:8400", "h3:8400"})

    def test_follower_that_knows_no_leader(self):
        """A follower's word does not take the leader away."""
        self.balancer.does_not_lead("h2:8400")
        self.assertEqual(set(self.choices(Purpose.APPEND)), {"h1:8400"})

    def test_failed_leader(self):
        """Appends go to followers while the leader is away, and back to it when its time is over."""
        self.balancer.failed("h1:8400", 0.0)
        self.assertEqual(set(self.choices(Purpose.APPEND)), {"h2:8400", "h3:8400"})
        self.assertEqual(set(self.choices(Purpose.APPEND, now=0.2)), {"h1:8400"})

    def test_probation_doubles_up_to_a_limit(self):
        """Each failure doubles the time that an address is left alone; an answer ends it."""

        def seconds_avoided():
            now = 0.0
            while "h2:8400" not in islice(self.balancer.addresses_in_turn(Purpose.READ, now), 2):
                now += 0.05
            return now

        times = []
        for _ in range(12):
            self.balancer.failed("h2:8400", 0.0)
            times.append(seconds_avoided())
        self.assertLess(times[0], 0.25)
        self.assertGreater(times[-1], PROBATION_SECONDS_MAX / 2 - 0.1)
        self.assertLessEqual(times[-1], PROBATION_SECONDS_MAX + 0.1)
        self.balancer.succeeded("h2:8400")
        self.assertEqual(seconds_avoided(), 0.0)

    def test_all_failed(self):
        """When every address failed, the one whose time ends first is tried."""
        for number, address in enumerate(["h1:8400", "h3:8400", *SEEDS, "h2:8400"]):
            for _ in range(3 if address != "h3:8400" else 1):
                self.balancer.failed(address, float(number) / 1000)
        self.assertEqual(set(self.choices(Purpose.READ, count=3, now=0.01)), {"h3:8400"})

    def test_seeds_remain(self):
        """The given addresses are tried when no advertised one can be reached."""
        for number in (1, 2, 3):
            self.balancer.failed(f"h{number}:8400", 0.0)
        self.assertEqual(set(self.choices(Purpose.APPEND, now=0.05)), set(SEEDS))

    def test_removed_servers_are_forgotten(self):
        """A server that left is not chosen and not remembered."""
        self.balancer.failed("h3:8400", 0.0)
        self.balancer.learned(view(server(1, is_leader=True), server(2)), 1.0)
        self.assertEqual(set(self.choices(Purpose.READ, now=1.0)), {"h2:8400"})
        self.assertEqual(self.balancer.addresses(), {"h1:8400", "h2:8400", *SEEDS})

    def test_refresh(self):
        """What is known grows old, and a failure makes it old at once."""
        self.assertFalse(self.balancer.is_stale(REFRESH_SECONDS * 0.7))
        self.assertTrue(self.balancer.is_stale(REFRESH_SECONDS * 1.3))
        self.balancer.failed("h1:8400", 1.0)
        self.assertTrue(self.balancer.is_stale(1.0))

    def test_other_cluster(self):
        """A server of another cluster is refused, and so is one that tells no uuid."""
        self.balancer.check_cluster(UUID, "h1:8400")
        error = self.assertRaises(IdentityError, self.balancer.check_cluster, bytes([9] * 16), "h9:1")
        self.assertIn("h9:1 belongs to cluster 0909", str(error))
        self.assertRaises(IdentityError, self.balancer.check_cluster, b"short", "h9:1")


class Chance(random.Random):
    """Says the same number each time; turns begin at the first."""

    def __init__(self, number):
        super().__init__()
        self.number = number

    def random(self):
        return self.number

    def randrange(self, start, stop=None, step=1):
        return 0


class MomentTests(SynchronousTestCase):
    """Exactly when something begins and ends."""

    def test_asked_again(self):
        """What is known is old after 24 to 36 s, by chance: not all clients ask at once."""
        for chance, seconds in ((0.0, 24.0), (0.5, 30.0), (1.0, 36.0)):
            balancer = Balancer(SEEDS, Chance(chance))
            balancer.learned(three(), 100.0)
            self.assertFalse(balancer.is_stale(100.0 + seconds - 0.001))
            self.assertTrue(balancer.is_stale(100.0 + seconds))

    def test_left_alone(self):
        """An address that failed is left alone for 0.2 s, twice as long each time, up to 10 s."""
        balancer = Balancer(("s1:1", "s2:2"), Chance(1.0), is_direct=True)
        for seconds in (0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 10.0, 10.0):
            balancer.failed("s1:1", 50.0)
            for _ in range(2):
                self.assertEqual(balancer.address(Purpose.ASK, 50.0 + seconds - 0.001), "s2:2")
            found = {balancer.address(Purpose.ASK, 50.0 + seconds) for _ in range(2)}
            self.assertEqual(found, {"s1:1", "s2:2"})
        balancer.succeeded("s1:1")
        balancer.failed("s1:1", 50.0)
        self.assertEqual({balancer.address(Purpose.ASK, 50.2) for _ in range(2)}, {"s1:1", "s2:2"})

    def test_forgotten(self):
        """A server that comes back after it left is not held to its old failures; one that stayed is."""
        balancer = Balancer(SEEDS, Chance(1.0))
        balancer.learned(three(), 0.0)
        for number in (2, 3):
            balancer.failed(f"h{number}:8400", 0.0)
        balancer.learned(view(server(1, is_leader=True), server(2)), 0.0)
        balancer.learned(three(), 0.0)
        self.assertEqual({balancer.address(Purpose.READ, 0.1) for _ in range(4)}, {"h3:8400"})


class OrderTests(SynchronousTestCase):
    """In which order addresses are tried."""

    def order(self, balancer, purpose, now=0.0):
        return list(balancer.addresses_in_turn(purpose, now))

    def test_turns(self):
        """Each call begins one further, at the followers and at the given addresses; all others follow."""
        balancer = Balancer(("s1:1", "s2:2", "s3:3"), Chance(1.0))
        self.assertEqual(
            [self.order(balancer, Purpose.ASK) for _ in range(3)],
            [["s2:2", "s3:3", "s1:1"], ["s3:3", "s1:1", "s2:2"], ["s1:1", "s2:2", "s3:3"]],
        )
        balancer.learned(view(*(server(number, is_leader=number == 1) for number in (1, 2, 3, 4))), 0.0)
        for first in (3, 4, 2):
            followers = [f"h{2 + (first - 2 + place) % 3}:8400" for place in range(3)]
            self.assertEqual(self.order(balancer, Purpose.READ)[:4], [*followers, "h1:8400"])
            self.assertEqual(self.order(balancer, Purpose.APPEND)[:4], ["h1:8400", *followers])

    def test_second_doors(self):
        """A server's second door comes behind the first ones of all, and each address comes once."""
        told = view(
            server(1, is_leader=True, grpc_address="h1:9000"), server(2, grpc_address="h2:9000"),
            Server(name="n3", address="s1:1"),
        )  # fmt: skip
        balancer = Balancer(SEEDS, Chance(1.0), is_grpc=True)
        balancer.learned(told, 0.0)
        order = self.order(balancer, Purpose.APPEND)
        self.assertEqual(order[0], "h1:9000")
        self.assertEqual(set(order[1:4]), {"h2:9000", *SEEDS})
        self.assertEqual(set(order[4:]), {"h1:8400", "h2:8400"})
        self.assertEqual(len(order), 6)

    def test_beside(self):
        """Besides some the best of the others is found; none when all others failed a moment ago."""
        balancer = Balancer(("s1:1",), Chance(1.0))
        balancer.learned(three(), 0.0)
        self.assertIn(balancer.address_beside((), Purpose.STREAM, 0.0), ("h2:8400", "h3:8400"))
        self.assertEqual(balancer.address_beside({"h2:8400", "h3:8400"}, Purpose.STREAM, 0.0), "h1:8400")
        tried = {"h1:8400", "h2:8400", "h3:8400"}
        self.assertEqual(balancer.address_beside(tried, Purpose.STREAM, 0.0), "s1:1")
        balancer.failed("s1:1", 0.0)
        self.assertIsNone(balancer.address_beside(tried, Purpose.STREAM, 0.1))
        self.assertEqual(balancer.address_beside(tried, Purpose.STREAM, 0.2), "s1:1")


class DoorTests(SynchronousTestCase):
    """Where one certain server is dialled."""

    def setUp(self):
        self.balancer = Balancer(SEEDS, Chance(1.0), is_grpc=True)
        self.balancer.learned(view(server(1, is_leader=True, grpc_address="h1:9000"), server(2)), 0.0)

    def found(self, now=0.0):
        return self.balancer.leader_address(now), self.balancer.address_of("n1", now)

    def test_of_two(self):
        """The better door, the other one when it failed; of two that failed there is none to lead."""
        self.assertEqual(self.found(), ("h1:9000", "h1:9000"))
        self.balancer.failed("h1:9000", 0.0)
        self.assertEqual(self.found(), ("h1:8400", "h1:8400"))
        self.balancer.failed("h1:8400", 0.0)
        self.assertEqual(self.found(), (None, "h1:8400"))
        self.assertEqual(self.found(0.2), ("h1:9000", "h1:9000"))

    def test_nobody_leads(self):
        """Without a leader no address leads, not even that of a server without a name."""
        self.balancer.learned(view(server(1), Server(name="", address="h9:1")), 0.0)
        self.assertIsNone(self.balancer.leader_address(0.0))
        self.assertEqual([self.balancer.leads(address) for address in ("h1:8400", "h9:1")], [False, False])
        self.balancer.does_not_lead("h1:8400")
        self.assertTrue(self.balancer.is_stale(0.0))

    def test_who_leads(self):
        """Both doors of the leader lead, and no other address."""
        leads = [self.balancer.leads(address) for address in ("h1:9000", "h1:8400", "h2:8400", "s1:1")]
        self.assertEqual(leads, [True, True, False, False])


class ViewTests(SynchronousTestCase):
    """What a view says."""

    def test_leader(self):
        """The leader is the server that says so; by default a server is a living voter that follows."""
        told = three(leader=2)
        self.assertEqual(told.leader, told.servers[1])
        self.assertIsNone(three(leader=0).leader)
        plain = Server(name="n1", address="h1:1")
        self.assertEqual(
            (plain.grpc_address, plain.is_leader, plain.role, plain.is_alive), ("", False, "voter", True)
        )

    def test_shows_leader(self):
        """A view is good when its leader can be dialled; who calls certain addresses needs that not."""
        hidden = view(Server(name="n1", address="", is_leader=True))
        for is_direct in (False, True):
            balancer = Balancer(SEEDS, Chance(1.0), is_direct=is_direct)
            found = [balancer.shows_leader(told) for told in (three(), three(leader=0), hidden)]
            self.assertEqual(found, [True, False, is_direct])

    def test_uuids(self):
        """Sixteen bytes, not all 0, are a cluster's uuid; what else a server tells is told in the error."""
        balancer = Balancer(SEEDS, Chance(1.0))
        for size in (0, 1, 15, 17):
            for byte in (b"\0", b"x"):
                error = self.assertRaises(IdentityError, balancer.check_cluster, byte * size, "h9:1")
                self.assertEqual(str(error), f"h9:1: its cluster uuid has {size} bytes, not 16")
        error = self.assertRaises(UnavailableError, balancer.check_cluster, bytes(16), "h9:1")
        self.assertEqual(str(error), "h9:1: the node has not joined its cluster yet")

    def test_hopeless(self):
        """Nothing is left to try when every address failed for good; one that may come back is hope."""
        balancer = Balancer(("s1:1", "s2:2"), Chance(1.0))
        self.assertFalse(balancer.is_hopeless)
        balancer.failed("s1:1", 0.0, is_permanent=True)
        self.assertFalse(balancer.is_hopeless)
        balancer.failed("s2:2", 0.0)
        self.assertFalse(balancer.is_hopeless)
        balancer.failed("s2:2", 0.0, is_permanent=True)
        self.assertTrue(balancer.is_hopeless)
        balancer.failed("s1:1", 0.0)
        self.assertFalse(balancer.is_hopeless)


class JoiningTests(SynchronousTestCase):
    """A node that is of no cluster yet."""

    def test_no_cluster_yet(self):
        """A joining node's uuid of zeros is no cluster's: never taken for the client's own."""
        balancer = Balancer(SEEDS, random.Random(1))
        self.assertRaises(UnavailableError, balancer.check_cluster, bytes(16), "s1:1")
        balancer.check_cluster(UUID, "s1:1")


class DirectTests(SynchronousTestCase):
    """A client of certain addresses."""

    def test_only_the_seeds(self):
        """Whatever the nodes tell of leaders and addresses, only the seeds are called, in turn."""
        balancer = Balancer(SEEDS, random.Random(1), is_direct=True)
        balancer.learned(three(), 0.0)
        balancer.hinted("n2")
        self.assertFalse(balancer.is_stale(1.0), "a hint is no reason to ask for the servers")
        for purpose in Purpose:
            chosen = [balancer.address(purpose, 1.0) for _ in range(4)]
            self.assertEqual(sorted(chosen), ["s1:1", "s1:1", "s2:2", "s2:2"])
        self.assertEqual(balancer.addresses(), set(SEEDS))
        balancer.failed("s1:1", 1.0)
        self.assertEqual({balancer.address(Purpose.ASK, 1.0) for _ in range(4)}, {"s2:2"})
