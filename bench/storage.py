"""Storage against the bare system calls: append and sync, sequential read, verify.

python -m bench.storage [--rounds N]
"""

import os
from pathlib import Path

from bench.measure import seconds
from loghouse.limits import KIB, MIB
from loghouse.protocol.entry import EntryKind, frame_seed, make_entry

CLUSTER = bytes(range(16))
SEED = frame_seed(CLUSTER, 1)
BATCH_SIZE = 64 * KIB
BATCHES = 400
READ_SIZE = 1 * MIB


def entries(first_index: int, count: int, payload: bytes, base_offset: int) -> list:
    return [
        make_entry(
            SEED,
            index=first_index + n,
            term=1,
            kind=EntryKind.RECORDS,
            base_offset=base_offset + n,
            timestamp=1,
            payload=payload,
            record_count=1,
        )
        for n in range(count)
    ]


def bare_append(folder: Path, payload: bytes) -> float:
    """Bytes per second of `pwrite` + `fdatasync` into a preallocated file."""
    fd = os.open(folder / "bare", os.O_RDWR | os.O_CREAT | os.O_TRUNC)
    try:
        os.posix_fallocate(fd, 0, BATCHES * len(payload))

        def work() -> None:
            position = 0
            for _ in range(BATCHES):
                os.pwrite(fd, payload, position)
                os.fdatasync(fd)
                position += len(payload)

        return BATCHES * len(payload) / seconds(work)
    finally:
        os.close(fd)


def bare_read(path: Path, size: int) -> float:
    fd = os.open(path, os.O_RDONLY)
    try:

        def work() -> None:
            for position in range(0, size, READ_SIZE):
                os.pread(fd, READ_SIZE, position)

        return size / seconds(work)
    finally:
        os.close(fd)
