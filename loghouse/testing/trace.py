"""The trace of a run: a hash of everything that happened, and the lines when somebody wants to read them."""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Callable

_STEP = struct.Struct(">dHHHQQQ")
_FLUSH_SIZE = 64 * 1024
_MASK = (1 << 64) - 1


class RunTrace:
    """A rolling hash over the steps of a run; two runs are the same run when their digests are equal."""

    def __init__(self, now: Callable[[], float], write: Callable[[str], object] | None = None) -> None:
        self._now = now
        self._write = write
        self._hash = hashlib.blake2b(digest_size=16)
        self._unhashed = bytearray()
        self.steps = 0

    @property
    def loud(self) -> bool:
        """Whether lines are wanted; making them costs time."""
        return self._write is not None

    def step(self, kind: int, source: int, target: int, a: int = 0, b: int = 0, c: int = 0) -> None:
        """Note a step by numbers only: the cheap way, for every message."""
        self.steps += 1
        self._unhashed += _STEP.pack(self._now(), kind, source, target, a & _MASK, b & _MASK, c & _MASK)
        if len(self._unhashed) > _FLUSH_SIZE:
            self._flush()

    def note(self, text: str) -> None:
        """Note a rare step in words: a fault, an election, an outcome."""
        self.steps += 1
        self._unhashed += text.encode()
        if self._write is not None:
            self._write(f"{self._now():12.6f} {text}")

    def line(self, text: str) -> None:
        """Write a line without hashing it: the readable form of a `step`."""
        if self._write is not None:
            self._write(f"{self._now():12.6f} {text}")

    def _flush(self) -> None:
        self._hash.update(self._unhashed)
        self._unhashed.clear()

    def digest(self) -> str:
        """Return the hash so far, in hex."""
        self._flush()
        return self._hash.hexdigest()
