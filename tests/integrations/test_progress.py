"""How far a subscriber is whose records are handled side by side."""

import random

from twisted.trial.unittest import SynchronousTestCase

from loghouse.client.records import Record
from loghouse.integrations.faststream.message import Received
from loghouse.integrations.faststream.progress import RETRY_SECONDS_MAX, HandledInOrder, retry_seconds


class OrderTests(SynchronousTestCase):
    """`HandledInOrder` lets a record pass when all before it are done."""

    def test_any_order(self):
        """In whatever order records are done, they pass in theirs, each once, and none before its time."""
        for seed in range(50):
            rng = random.Random(seed)
            given = [Received("log", (Record(offset, 0, b""),)) for offset in range(rng.randint(1, 30))]
            in_order, passed, done = HandledInOrder(), [], set()
            waiting, at_work = given[::-1], []
            while waiting or at_work:
                if waiting and (not at_work or rng.random() < 0.5):
                    at_work.append(waiting.pop())
                    in_order.give(at_work[-1])
                    continue
                one = at_work.pop(rng.randrange(len(at_work)))
                done.add(one.offset)
                passed += in_order.done(one)
                before = next((offset for offset in range(len(given)) if offset not in done), len(given))
                self.assertEqual([one.offset for one in passed], list(range(before)), seed)
            self.assertEqual(len(in_order), 0)


class PauseTests(SynchronousTestCase):
    """Pauses before something is tried again."""

    def test_pauses(self):
        """They double from the first one on, up to the longest; a longer first one is that."""
        self.assertEqual([retry_seconds(1, count) for count in (1, 2, 3, 5, 6)], [1, 2, 4, 16, 30])
        for first, count in ((0.5, 10_000), (100, 1)):
            self.assertEqual(retry_seconds(first, count), RETRY_SECONDS_MAX)
