"""A log as it is served: who stands for election again, and what is done while it sleeps."""

from tests.test_named_parts import ServedCase


class AgainTests(ServedCase):
    """After a restart, and in quiet times."""

    def test_stand_again(self):
        """After a restart who voted for itself last stands at once, for longer, and is busy meanwhile."""
        self.log.administration.is_busy = False
        self.log.host(self.replica)
        self.log.stand_again()
        self.assertEqual((self.calls, self.log.is_busy), ([], False))
        self.replica.driver.raft.vote = 1
        self.log.stand_again()
        for _ in range(200):
            self.log.tick()
        self.assertEqual((self.calls, self.log.is_busy), (["stand"] * 101, False))
        self.log.stand_again()
        self.assertTrue(self.log.is_busy)
        self.replica.has_leader = True
        self.log.tick()
        self.assertFalse(self.log.is_busy)
        self.log.administration.is_busy = True
        self.assertTrue(self.log.is_busy)
        self.replica.driver = None
        self.log.stand_again()

    def test_asleep(self):
        """In a log that sleeps damage is looked for each second."""
        self.log.host(self.replica)
        for is_asleep, calls in ((False, ["room"]), (True, ["room", "damage"])):
            self.replica.driver.is_asleep = is_asleep
            self.log.look()
            self.assertEqual((self.log.is_asleep, self.calls), (is_asleep, calls))
            self.calls.clear()
