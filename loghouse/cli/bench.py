"""`loghouse bench`: how fast this cluster takes and gives records, as this client sees it."""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections import deque
from collections.abc import Sequence
from typing import Any, Final

from loghouse.cli.options import number
from loghouse.cli.output import CommandError, ExitCode, progress_bar, size_text, write_json, write_line
from loghouse.cli.produce import BATCH_SIZE_DEFAULT, BUFFER_SIZE, size_from
from loghouse.cli.target import add_options, connect

RECORDS_DEFAULT: Final = 100_000
SIZE_DEFAULT: Final = 100
PERCENTILES: Final = (50.0, 90.0, 99.0, 99.9)


def add_parser(commands: Any) -> None:
    """Add the command and its two actions to the parser."""
    parser = commands.add_parser(
        "bench", help="measure appending and reading", description="Measure this cluster from here."
    )
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    produce = actions.add_parser(
        "produce",
        help="append records and time each acknowledgement",
        description="Append records of one size and time each acknowledgement. THE RECORDS STAY IN THE LOG.",
    )
    produce.add_argument("--size", type=size_from(0), default=SIZE_DEFAULT, help="bytes of a record (100)")
    produce.add_argument("--batch", type=size_from(1), metavar="SIZE", help="as of produce (256KiB)")
    produce.add_argument("--codec", choices=["none", "zstd"], default="none", help="compress the batches")
    produce.add_argument(
        "--sync", action="store_true", help="one record at a time, each after the answer to the one before"
    )
    produce.set_defaults(run=run_produce)
    consume = actions.add_parser(
        "consume", help="read records from the beginning", description="Read records as fast as they come."
    )
    consume.set_defaults(run=run_consume)
    for action, default in ((produce, RECORDS_DEFAULT), (consume, None)):
        action.add_argument(
            "--records",
            type=number("a count", lowest=1, highest=2**32 - 1),
            default=default,
            metavar="N",
            help=f"how many ({default:,})" if default else "how many at most (all)",
        )
        action.add_argument("--json", action="store_true", help="print JSON")
        add_options(action)


def run_produce(args: argparse.Namespace) -> None:
    """Append and measure."""
    if args.sync and (args.batch or args.codec != "none"):
        option = "--batch" if args.batch else "--codec"
        raise CommandError(f"{option} is for batches; --sync appends each record by itself", ExitCode.USAGE)
    value = os.urandom(args.size)
    with connect(args) as log, progress_bar(args.records, " records", "appending") as bar:
        started = time.monotonic()
        if args.sync:
            latencies = []
            for _ in range(args.records):
                begun = time.monotonic()
                log.append(value)
                latencies.append(time.monotonic() - begun)
                bar.update(1)
        else:
            latencies = _append_in_batches(log, args, value, bar)
        seconds = time.monotonic() - started
    _report(args, args.records, args.records * args.size, seconds, latencies)


def _append_in_batches(log: Any, args: argparse.Namespace, value: bytes, bar: Any) -> list[float]:
    """Append as `produce` does; return how long each record waited, as seen when the next one is taken."""
    latencies: list[float] = []
    sent: deque[tuple[Any, float]] = deque()
    batch_size = args.batch or BATCH_SIZE_DEFAULT
    with log.producer(batch_bytes=batch_size, buffer_bytes=BUFFER_SIZE, compression=args.codec) as producer:
        for _ in range(args.records):
            sent.append((producer.append(value), time.monotonic()))
            now = sent[-1][1]
            before = len(latencies)
            while sent and sent[0][0].is_done:
                latencies.append(now - sent.popleft()[1])
            bar.update(len(latencies) - before)
        for delivery, begun in sent:
            delivery.offset()
            latencies.append(time.monotonic() - begun)
            bar.update(1)
    return latencies


def run_consume(args: argparse.Namespace) -> None:
    """Read and measure."""
    record_count = size = 0
    with connect(args) as log:
        bounds = log.bounds()
        total = bounds.next_offset - bounds.lowest
        if not total:
            raise CommandError("the log is empty; `loghouse bench produce` fills it")
        wanted = min(total, args.records or total)
        started = time.monotonic()
        with progress_bar(wanted, " records", "reading") as bar:
            for batch in log.read_batches(bounds.lowest):
                values = batch.values()[: wanted - record_count]
                record_count += len(values)
                size += sum(map(len, values))
                bar.update(len(values))
                if record_count >= wanted:
                    break
        seconds = time.monotonic() - started
    _report(args, record_count, size, seconds, ())


def percentile(ordered: Sequence[float], percent: float) -> float:
    """Return the value of a sorted sequence that `percent` of its values do not exceed."""
    rank = -(-len(ordered) * percent // 100)  # rounded up: the nearest rank
    return ordered[max(0, min(len(ordered), int(rank)) - 1)]


def _report(
    args: argparse.Namespace, record_count: int, size: int, seconds: float, latencies: Sequence[float]
) -> None:
    seconds = max(seconds, 1e-9)
    ordered = sorted(latencies)
    shares = {f"p{percent:g}": percentile(ordered, percent) for percent in PERCENTILES if ordered}
    if ordered:
        shares["max"] = ordered[-1]
    if args.json:
        result: dict[str, Any] = {
            "records": record_count,
            "bytes": size,
            "seconds": round(seconds, 6),
            "records_per_second": round(record_count / seconds, 1),
            "bytes_per_second": round(size / seconds, 1),
        }
        if shares:
            result["latency_seconds"] = {name: round(value, 6) for name, value in shares.items()}
        write_json(result)
        return
    verb = "appended" if args.action == "produce" else "read"
    write_line(
        f"{verb} {record_count:,} records ({size_text(size)}) in {seconds:.3f} s: "
        f"{record_count / seconds:,.0f} records/s, {size_text(size / seconds)}/s"
    )
    if shares:
        write_line("latency " + ", ".join(f"{name} {value * 1000:.2f} ms" for name, value in shares.items()))
    sys.stdout.flush()
