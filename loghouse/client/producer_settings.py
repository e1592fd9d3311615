"""What every producer may be told, and what is said of one that nobody closed."""

from __future__ import annotations

import warnings
from typing import Final

from loghouse.client.batching import ProducerLedger
from loghouse.client.fields import integer_of, number_of
from loghouse.limits import KIB, MIB, PAYLOAD_SIZE_MAX

LINGER_MILLISECONDS: Final = 5.0
BATCH_SIZE: Final = 256 * KIB
BUFFER_SIZE: Final = 16 * MIB


def warn_of(ledger: ProducerLedger) -> None:
    """Warn of what a producer that nobody closed leaves behind.

    It is still sent while its client is there.
    """
    unreported = ledger.unreported()
    if unreported:
        text = f"a producer was dropped, not closed: {unreported}; use `with`, flush() or close()"
        warnings.warn(text, ResourceWarning, stacklevel=3)


def check_settings(*, linger_ms: float, batch_bytes: int, buffer_bytes: int) -> None:
    """Raise InvalidRequestError, which names it, for a setting that makes no sense."""
    number_of("linger_ms", linger_ms, 60_000)
    integer_of("batch_bytes", batch_bytes, lowest=1, highest=PAYLOAD_SIZE_MAX)
    integer_of("buffer_bytes", buffer_bytes, lowest=1)
