"""Storage against the bare system calls: append and sync, sequential read, verify, restart.

python -m bench.storage [--rounds N] [--only append|read|restart]
"""

import os
import time
from collections.abc import Callable
from pathlib import Path

from bench.measure import Table, arguments, finish, median, ratio, rounds, scratch, seconds
from loghouse.api.v1.log_pb2 import Record
from loghouse.limits import GIB, KIB, MIB, SEGMENT_SIZE_DEFAULT
from loghouse.protocol.batch import encode_batch
from loghouse.protocol.configuration import Configuration, MemberRole
from loghouse.protocol.entry import EntryKind, make_entry
from loghouse.raft.membership import bootstrap_entry
from loghouse.storage.directory import DataDirectory, DiskIdentity
from loghouse.storage.files import OsFiles
from loghouse.storage.log import Log
from loghouse.storage.verify import Checked, verify
from loghouse.testing.process import CLUSTER, Certificates, NodeProcess

BATCH_SIZE = 64 * KIB
BATCHES = 500
# Pieces that stay in the second-level cache, and pieces that do not.
READ_SIZES = (1 * MIB, 4 * MIB)
READ_LOG_SIZE = 512 * MIB
GROUP_SIZE = 4 * MIB


class OpenLog:
    """A log in a directory of its own, and entries for it."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.directory = DataDirectory.lock(OsFiles(), path)
        identity = DiskIdentity(
            cluster_uuid=os.urandom(16), disk_uuid=os.urandom(16), cluster_name=CLUSTER, node_name="node-1"
        )
        configuration = Configuration().with_member("node-1", identity.disk_uuid, MemberRole.VOTER)

        def begin(log: Log) -> None:
            log.save_hard_state(term=1, vote=0)
            log.append([bootstrap_entry(log.seed, configuration, 1)])
            log.sync(1)

        self.directory.create(identity, begin=begin)
        self.log: Log = self.directory.open_log()

    def entries(self, count: int, payload: bytes, record_count: int) -> list:
        log = self.log
        return [
            make_entry(
                log.seed,
                index=log.last_index + 1 + number,
                term=1,
                kind=EntryKind.RECORDS,
                base_offset=log.next_offset + number * record_count,
                timestamp=1,
                payload=payload,
                record_count=record_count,
            )
            for number in range(count)
        ]

    def fill(self, size: int, payload: bytes, record_count: int) -> None:
        """Append entries of about `size` bytes in all."""
        left = size // (len(payload) + 64)
        group = max(1, min(GROUP_SIZE // (len(payload) + 64), 4096))
        while left > 0:
            self.log.append(self.entries(min(group, left), payload, record_count))
            left -= group
        self.log.sync(self.log.last_index)

    def close(self) -> None:
        self.log.close()
        self.directory.close()


def batch_of(size: int, value_size: int = 1000) -> tuple[bytes, int]:
    """A batch of about `size` bytes, and its number of records."""
    count = max(1, size // (value_size + 3))
    return encode_batch([Record(value=os.urandom(value_size))] * count), count


def bare_append(folder: str, payload: bytes) -> float:
    """Bytes a second of `pwrite` + `fdatasync` into a preallocated file."""
    path = Path(folder) / "bare"
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC)
    try:
        os.posix_fallocate(fd, 0, SEGMENT_SIZE_DEFAULT)

        def work() -> None:
            for number in range(BATCHES):
                os.pwrite(fd, payload, number * len(payload))
                os.fdatasync(fd)

        return BATCHES * len(payload) / seconds(work)
    finally:
        os.close(fd)
        path.unlink()


def our_append(folder: str, payload: bytes, record_count: int) -> float:
    """The same through the log: headers, checksums, index, watermark."""
    opened = OpenLog(f"{folder}/append-{os.urandom(4).hex()}")
    entries = opened.entries(BATCHES, payload, record_count)

    def work() -> None:
        for entry in entries:
            opened.log.append([entry])
            opened.log.sync(entry.index)

    result = BATCHES * len(payload) / seconds(work)
    opened.close()
    return result


def bench_append(table: Table, folder: str, count: int) -> None:
    payload, records = batch_of(BATCH_SIZE)
    ours, bare = rounds(
        count, lambda: our_append(folder, payload, records), lambda: bare_append(folder, payload)
    )
    table.add("append + sync of 64 KiB batches", median(ours) / 1e6, "MB/s")
    table.add("  bare pwrite + fdatasync of the same bytes", median(bare) / 1e6, "MB/s")
    table.add("  ratio", ratio(ours, bare), "", bar=0.7)


def bench_read(table: Table, folder: str, count: int) -> None:
    opened = OpenLog(f"{folder}/read")
    opened.fill(READ_LOG_SIZE, *batch_of(BATCH_SIZE))
    log, end = opened.log, opened.log.sealed_segments()[-1].next_offset
    stores = sorted(Path(opened.path).rglob("0*.store"))[:-1]

    def read_ours(size: int) -> int:
        offset = got = 0
        while offset < end:
            frames, offset = log.read(offset, size, log.last_index)
            got += len(frames)
        return got

    def read_bare(size: int) -> int:
        got = 0
        for store in stores:
            fd = os.open(store, os.O_RDONLY)
            position = 0
            while chunk := os.pread(fd, size, position):
                position += len(chunk)
            got += position
            os.close(fd)
        return got

    for size in READ_SIZES:
        ours, bare = rounds(
            count,
            lambda size=size: rate(lambda: read_ours(size)),
            lambda size=size: rate(lambda: read_bare(size)),
        )
        table.add(f"sequential read with checks, {size // MIB} MiB at a time", median(ours) / 1e6, "MB/s")
        table.add("  bare pread of the same files", median(bare) / 1e6, "MB/s")
        table.add("  ratio", ratio(ours, bare), "", bar=0.5)
    opened.close()
    bench_verify(table, opened.path, "verify, 64 KiB batches", count, bar=500)
    singles = OpenLog(f"{folder}/singles")
    singles.fill(64 * MIB, encode_batch([Record(value=bytes(100))]), 1)
    singles.close()
    bench_verify(table, singles.path, "verify, single 100-byte records", count)


def rate(read: Callable[[], int]) -> float:
    """Bytes a second of a reader that returns how many it read."""
    begin = time.perf_counter()
    got = read()
    return got / (time.perf_counter() - begin)


def bench_verify(table: Table, path: str, name: str, count: int, bar: float | None = None) -> None:
    def check() -> int:
        *_, last = verify(OsFiles(), path)
        assert isinstance(last, Checked)
        return last.size

    (rates,) = rounds(count, lambda: rate(check))
    table.add(name, median(rates) / 1e6, "MB/s", bar=bar)


def start_after_kill(folder: Path, certificates: Certificates, fill: tuple[int, bytes, int] | None) -> tuple:
    """Seconds from the command to the first answer after kill -9, and private memory then, in MiB."""
    node = NodeProcess(folder, certificates)
    if fill is not None:
        opened = OpenLog(str(node.data_dir))
        opened.fill(*fill)
        opened.close()
    node.start()
    node.kill()
    times = []
    for _ in range(3):
        begin = time.perf_counter()
        node.start()
        times.append(time.perf_counter() - begin)
        memory = node.anonymous_size()
        node.kill()
    return median(times), memory / MIB


def bench_restart(table: Table, folder: str) -> None:
    certificates = Certificates(Path(folder) / "certs")
    empty, _ = start_after_kill(Path(folder) / "empty", certificates, None)
    table.add("start of an empty node after kill -9, to its first answer", empty, "s")
    for name, fill, bar in [
        ("1 GiB of 64 KiB batches", (GIB, *batch_of(BATCH_SIZE)), 0.5),
        ("1 GiB of single 100-byte records", (GIB, encode_batch([Record(value=bytes(100))]), 1), 3.0),
    ]:
        start, memory = start_after_kill(Path(folder) / name.replace(" ", "-"), certificates, fill)
        table.add(f"start later than an empty node, {name}", start - empty, "s", bar=bar, at_most=True)
        table.add("  private anonymous memory then", memory, "MiB", bar=150, at_most=True)


def main() -> None:
    options = arguments(__doc__)
    table = Table()
    with scratch() as folder:
        if options.only in "append":
            bench_append(table, folder, options.rounds)
        if options.only in "read":
            bench_read(table, folder, options.rounds)
        if options.only in "restart":
            bench_restart(table, folder)
    finish(table, options)


if __name__ == "__main__":
    main()
