"""Clients of a real cluster that append and read at once, remember everything, and judge it afterwards."""

from __future__ import annotations

import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import count, pairwise
from typing import Any, Final

import grpc

from loghouse.api.v1 import log_pb2, log_pb2_grpc
from loghouse.client.failures import Effect, failure_of
from loghouse.errors import LoghouseError
from loghouse.protocol.batch import encode_batch
from loghouse.testing.history import Observations
from loghouse.testing.linearizability import NEVER, AppendOp, Operation, check_history
from loghouse.testing.process import NodeProcess, wait_until

ATTEMPT_SECONDS: Final = 3.0
PAUSE_SECONDS: Final = 0.02
JOIN_SECONDS: Final = 60.0


@dataclass(slots=True)
class Write:
    """Records a client wanted in the log, together, over all its attempts."""

    invoked: int
    values: tuple[bytes, ...]
    returned: float = NEVER
    base_offset: int = -1
    is_refused: bool = False  # every attempt was told: certainly not appended


class Recorder(Observations):
    """What clients asked and were told, stamped in the order it happened; for many threads."""

    def __init__(self) -> None:
        super().__init__()
        self.writes: list[Write] = []
        self.seen: list[tuple[int, bytes]] = []

    def write(self, *values: bytes) -> Write:
        """Note that a client begins to append."""
        write = Write(self.stamp(), values)
        self.writes.append(write)
        return write

    def acknowledge(self, write: Write, base_offset: int) -> None:
        """Note an acknowledgement."""
        write.base_offset = base_offset
        write.returned = self.stamp()

    def saw(self, invoked: int, offset: int, value: bytes) -> None:
        """Note that a read was given this record."""
        self.hit(invoked, offset)
        self.seen.append((offset, value))

    def problems(self, values: Sequence[bytes]) -> list[str]:
        """Return everything that the final log, a value an offset from 0, says is wrong."""
        places = {value: offset for offset, value in enumerate(values)}
        problems = [
            f"{value!r} is {times} times in the log" for value, times in Counter(values).items() if times > 1
        ]
        written = {value for write in self.writes for value in write.values}
        problems += [f"{value!r} is in the log, but nobody wrote it" for value in places.keys() - written]
        operations: list[Operation] = list(self.reads)
        for write in self.writes:
            problem = _problem(write, values, places)
            if problem:
                problems.append(problem)
            elif write.values[0] in places:
                offset = places[write.values[0]]
                # Appended in one go, but a Tail may only see whole appends: one Append for all of them.
                operations.append(AppendOp(write.invoked, write.returned, offset, len(write.values)))
        problems += [
            f"offset {offset} was read as {value!r}, but holds {values[offset : offset + 1]!r}"
            for offset, value in self.seen
            if values[offset : offset + 1] != [value]
        ]
        if not problems:
            verdict = check_history(operations)
            if verdict:
                problems.append(f"not linearizable: {verdict}")
        return problems


def _problem(write: Write, values: Sequence[bytes], places: dict[bytes, int]) -> str:
    first = write.values[0]
    offset = places.get(first)
    if write.base_offset >= 0 and offset != write.base_offset:
        return f"{first!r} was acknowledged at offset {write.base_offset}, but is at {offset}"
    if write.is_refused and offset is not None:
        return f"{first!r} was refused, but is at offset {offset}"
    if offset is not None and tuple(values[offset : offset + len(write.values)]) != write.values:
        return f"the records of {first!r} at offset {offset} are not together"
    return ""


class Load:
    """Clients at work until `stop`. A producer tries again elsewhere, when it may; a reader reads anywhere.

    `unknown` are the errors of appends whose outcome nobody told; their producers went on with others.
    """

    def __init__(
        self,
        nodes: Sequence[NodeProcess],
        *,
        name: str = "load",
        producer_count: int = 3,
        reader_count: int = 1,
        recorder: Recorder | None = None,
        attempt_seconds: float = ATTEMPT_SECONDS,
    ) -> None:
        """Begin at once.

        Args:
            nodes: Where clients go; each begins at another one.
            name: Part of each value, to be unique in a log.
            attempt_seconds: How long one call may take.
        """
        self.recorder = recorder or Recorder()
        self.unknown: list[LoghouseError] = []
        self.retry_count = 0
        self.answered_at: list[float] = []
        self.errors: list[BaseException] = []
        self._attempt_seconds = attempt_seconds
        self._stopping = threading.Event()
        self._channels = [node.channel() for node in nodes]
        self._stubs: list[Any] = [
            log_pb2_grpc.LogStub(channel)  # type: ignore[no-untyped-call]
            for channel in self._channels
        ]
        works = [(self._produce, number) for number in range(producer_count)]
        works += [(self._read, number) for number in range(reader_count)]
        self._threads = [
            threading.Thread(target=self._run, args=(work, f"{name}-{number}", number), daemon=True)
            for work, number in works
        ]
        for thread in self._threads:
            thread.start()

    @property
    def acknowledged_count(self) -> int:
        """Appends acknowledged so far."""
        return len(self.answered_at)

    def wait_acknowledged(self, more: int, what: str = "appends", seconds_max: float = 60.0) -> None:
        """Wait until so many more appends are acknowledged than now."""
        goal = self.acknowledged_count + more
        wait_until(
            lambda: self.acknowledged_count >= goal or bool(self.errors), f"{more} more {what}", seconds_max
        )
        if self.errors:
            raise self.errors[0]

    def longest_gap_seconds(self, since: float) -> float:
        """The longest time without an acknowledgement after a moment of `time.monotonic()`."""
        times = [since, *(moment for moment in sorted(self.answered_at) if moment > since)]
        return max((later - earlier for earlier, later in pairwise(times)), default=0.0)

    def stop(self) -> None:
        """End all clients, each after its call under way; raises what a client stumbled over."""
        self._stopping.set()
        for thread in self._threads:
            thread.join(JOIN_SECONDS)
            if thread.is_alive():
                raise TimeoutError(f"a client is stuck for {JOIN_SECONDS:g} s")
        for channel in self._channels:
            channel.close()
        if self.errors:
            raise self.errors[0]

    def _run(self, work: Callable[[str, int], None], name: str, number: int) -> None:
        try:
            work(name, number)
        except BaseException as error:  # told by `stop`, in the test's thread
            self.errors.append(error)

    # --- a producer ----------------------------------------------------------------------

    def _produce(self, name: str, at: int) -> None:
        for number in count():
            if self._stopping.is_set():
                return
            # Every third append is a batch, so that single records and batches meet.
            size = 1 if number % 3 else 5
            write = self.recorder.write(*(f"{name}/{number}/{place}".encode() for place in range(size)))
            at = self._append(write, at)

    def _append(self, write: Write, at: int) -> int:
        """Try until the outcome is known or cannot be known; return where to go on."""
        while True:
            stub = self._stubs[at % len(self._stubs)]
            try:
                offset = self._call(stub, write)
            except grpc.RpcError as error:
                failure = failure_of(error, "")
                at += 1
                if failure.effect is not Effect.NOTHING:
                    if failure.effect is Effect.REFUSED:
                        raise failure.error from None
                    self.unknown.append(failure.error)
                    self._stopping.wait(PAUSE_SECONDS)
                    return at
                self.retry_count += 1
                if self._stopping.wait(PAUSE_SECONDS):
                    write.is_refused = True
                    return at
                continue
            self.recorder.acknowledge(write, offset)
            self.answered_at.append(time.monotonic())
            return at

    def _call(self, stub: Any, write: Write) -> int:
        records = [log_pb2.Record(value=value) for value in write.values]
        if len(records) == 1:
            request = log_pb2.ProduceRequest(record=records[0])
            return int(stub.Produce(request, timeout=self._attempt_seconds).offset)
        batch = log_pb2.ProduceBatchRequest(batch=encode_batch(records), record_count=len(records))
        return int(stub.ProduceBatch(batch, timeout=self._attempt_seconds).base_offset)

    # --- a reader --------------------------------------------------------------------------

    def _read(self, name: str, at: int) -> None:
        rng = random.Random(name)
        tail = 0
        while not self._stopping.is_set():
            stub = rng.choice(self._stubs)
            invoked = self.recorder.stamp()
            try:
                if rng.random() < 0.3:
                    tail = int(stub.Bounds(log_pb2.BoundsRequest(), timeout=self._attempt_seconds).next)
                    self.recorder.tail(invoked, tail)
                else:
                    # About the tail: there hits and misses are interesting.
                    offset = max(0, tail + rng.randrange(-3, 6))
                    request = log_pb2.ConsumeRequest(offset=offset)
                    record = stub.Consume(request, timeout=self._attempt_seconds).record
                    self.recorder.saw(invoked, offset, record.value)
                    tail = max(tail, offset + 1)
            except grpc.RpcError as error:
                if error.code() == grpc.StatusCode.OUT_OF_RANGE:
                    self.recorder.miss(invoked, offset)
                else:
                    self._stopping.wait(PAUSE_SECONDS)
