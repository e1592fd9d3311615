"""What a member must remember beside its log: the term, and its vote in it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class HardState:
    """What a member must never forget: its term, and whom it gave its vote in it (0: nobody)."""

    term: int = 0
    vote: int = 0
