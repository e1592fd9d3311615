"""Named substreams of one seed, so that dropping one kind of randomness does not shift the others."""

from __future__ import annotations

import random


def substream(seed: int, name: str) -> random.Random:
    """Return the generator of one concern (`network`, `node.3`, ...) under a seed.

    The text seeds through SHA-512, not through `hash`, so it is the same in every process.
    """
    return random.Random(f"{seed}/{name}")
