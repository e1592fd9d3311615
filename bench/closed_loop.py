"""So many calls in flight, each followed by the next: what every client of a benchmark does.

Nothing but the standard library is imported, so that a Python without Loghouse can run it.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable


async def closed_loop(
    call: Callable[[], Awaitable[object]], window: int, count: int, latencies: list[float]
) -> None:
    """Keep `window` calls in flight until `count` are answered, and note what each took."""
    left = count

    async def caller() -> None:
        nonlocal left
        while left > 0:
            left -= 1
            begin = time.perf_counter()
            await call()
            latencies.append(time.perf_counter() - begin)

    await asyncio.gather(*(caller() for _ in range(min(window, count))))
