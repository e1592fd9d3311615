"""`loghouse inspect`, `verify` and `recover`: what is in a data directory, and what to do when it is bad.

They read the files themselves; no node needs to run. `recover` refuses while one does.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from tqdm import tqdm

from loghouse.cli.options import number
from loghouse.cli.output import (
    CommandError,
    ExitCode,
    count_text,
    progress_bar,
    size_text,
    time_text,
    write_json,
    write_line,
    write_table,
)
from loghouse.errors import DamageError
from loghouse.limits import MICROSECONDS, UINT64_MAX, UUID_SIZE
from loghouse.protocol.entry import DEFAULT_GROUP, Entry, EntryKind
from loghouse.storage.directory import LOGS_NAME, DataDirectory
from loghouse.storage.files import Files, OsFiles
from loghouse.storage.groups import groups_of
from loghouse.storage.inspect import DirectorySummary, LogSummary, SegmentSummary, dump, inspect
from loghouse.storage.new_cluster import Rewrite
from loghouse.storage.others import knows_others
from loghouse.storage.repair import Repair, accept_data_loss, cut_for_refetch
from loghouse.storage.verify import (
    Checked,
    Finding,
    VerifyProgress,
    read_identity,
    stores_size,
    verify,
)


def add_parser(commands: Any) -> None:
    """Add the three commands to the parser."""
    index = number("an entry's index")
    looking = commands.add_parser(
        "inspect",
        help="show the segments of a data directory, or dump its entries",
        description="Show whose a data directory is, its segments, ranges and sizes. Changes nothing; a "
        "running node does not mind. Payloads are not checked (`verify` does).",
    )
    looking.add_argument("--entries", action="store_true", help="list the entries, too")
    looking.add_argument("--from", dest="low", type=index, default=0, metavar="INDEX", help="first entry")
    looking.add_argument(
        "--to", dest="high", type=index, default=UINT64_MAX, metavar="INDEX", help="last entry"
    )
    looking.set_defaults(run=run_inspect)
    checking = commands.add_parser(
        "verify",
        help="read and check everything in a data directory",
        description="Read every byte and check every checksum. Changes nothing. Exit code 5: damage. "
        "The tail of a log that is being written may look torn.",
    )
    checking.set_defaults(run=run_verify)
    cutting = commands.add_parser(
        "recover",
        help="cut a damaged log at the damage, or go on alone after most nodes are lost for good",
        description="Cut the log at its first damage. What is cut is kept aside in the log's lost+found. "
        "With --new-cluster: make the log of a survivor a cluster of its own. The node must be stopped.",
    )
    cutting.add_argument(
        "--accept-data-loss", action="store_true", help="needed: records that are not here are given up"
    )
    cutting.add_argument(
        "--new-cluster",
        action="store_true",
        help="make this node the only voter of a new cluster with its log, when most nodes are lost",
    )
    cutting.set_defaults(run=run_recover)
    for parser in (looking, checking, cutting):
        place = parser.add_mutually_exclusive_group(required=True)
        # Suppressed: else the one that is left out would overwrite the other.
        left_out = argparse.SUPPRESS
        place.add_argument(
            "data_dir", nargs="?", default=left_out, metavar="DATA_DIR", help="the node's data_dir"
        )
        place.add_argument(
            "--dir", dest="data_dir", default=left_out, metavar="DATA_DIR", help="the same, by its name"
        )
        parser.add_argument("--json", action="store_true", help="print JSON")


# --- inspect ----------------------------------------------------------------------


def run_inspect(args: argparse.Namespace) -> int:
    """Print the segments, then the entries if asked for; damage seen on the way is exit code 5."""
    with _reading(args.data_dir) as (files, _):
        summary = inspect(files, args.data_dir)
    identity = summary.identity
    if args.json:
        write_json(
            {
                "path": summary.path,
                "cluster": identity.cluster_name,
                "cluster_uuid": identity.cluster_uuid.hex(),
                "node": identity.node_name,
                "disk_uuid": identity.disk_uuid.hex(),
                "logs": [dataclasses.asdict(log) for log in summary.logs],
            }
        )
    else:
        write_line(f"{summary.path}: node {identity.node_name} of cluster {identity.cluster_name}")
        write_line(f"cluster uuid {identity.cluster_uuid.hex()}, disk uuid {identity.disk_uuid.hex()}")
        for log in summary.logs:
            _print_log(log)
    if args.entries:
        _print_entries(OsFiles(), args, summary)
    is_damaged = any(log.problems or _problems(log.segments) for log in summary.logs)
    return ExitCode.DAMAGED if is_damaged else ExitCode.OK


class _CountingFiles(OsFiles):
    """The real disk, which moves a bar by what is read."""

    def __init__(self, bar: tqdm[Any], size: int) -> None:
        self._bar = bar
        self._left = size  # bytes that the bar has not moved by; some places are read twice

    def pread(self, fd: int, size: int, position: int) -> bytes:
        """Read, and count."""
        chunk = super().pread(fd, size, position)
        step = min(len(chunk), self._left)
        self._left -= step
        self._bar.update(step)
        return chunk


@contextmanager
def _reading(path: str) -> Iterator[tuple[Files, tqdm[Any]]]:
    """Give a disk for work that reads all stores once, and a bar that shows how far it is."""
    files, path, size = OsFiles(), path.rstrip("/"), 0
    with suppress(OSError):  # the work says better what is wrong
        for group in groups_of(files, path):
            size += stores_size(files, f"{path}/{LOGS_NAME}/{group}")
    with progress_bar(size, "B", "reading") as bar:
        yield _CountingFiles(bar, size), bar


def _problems(segments: tuple[SegmentSummary, ...]) -> list[str]:
    """Return what is damaged; a torn tail of the last segment is not, if it is behind the durable mark."""
    found = [f"{segment.file}: {segment.problem}" for segment in segments[:-1] if segment.problem]
    last = segments[-1] if segments else None
    if last is not None and last.problem and last.last_index < last.durable_index:
        found.append(f"{last.file}: {last.problem}")
    return found


def _print_log(log: LogSummary) -> None:
    state = log.hard_state
    term = f"term {state.term}, vote {state.vote or 'none'}" if state else "term and vote not known"
    write_line(f"\nlog {log.group}: begins at entry {log.first_index}, offset {log.first_offset}; {term}")
    rows = [
        [
            segment.file.rpartition("/")[2],
            _range(segment.base_index, segment.last_index + 1),
            _range(segment.base_offset, segment.next_offset),
            size_text(segment.used_size),
            size_text(segment.file_size),
            time_text(segment.first_timestamp) if segment.first_timestamp else "-",
            time_text(segment.last_timestamp) if segment.last_timestamp else "-",
        ]
        for segment in log.segments
    ]
    write_table(["SEGMENT", "ENTRIES", "OFFSETS", "USED", "FILE", "FIRST", "LAST"], rows)
    for segment in log.segments[-1:]:
        write_line(f"durable up to entry {segment.durable_index}, committed up to {segment.commit_index}")
    for problem in (*log.problems, *_problems(log.segments)):
        write_line(f"DAMAGED: {problem}")


def _range(low: int, high: int) -> str:
    return f"{low} to {high - 1}" if high > low else "none"


def _print_entries(files: Files, args: argparse.Namespace, summary: DirectorySummary) -> None:
    if not args.json:
        write_line()
    low, high = args.low, args.high + 1
    count = sum(
        max(min(segment.last_index + 1, high) - max(segment.base_index, low), 0)
        for log in summary.logs
        for segment in log.segments
    )
    with progress_bar(count, " entries", "writing", is_alone=not sys.stdout.isatty()) as bar:
        for log in summary.logs:
            for file, position, entry in dump(files, summary, log, low=low, high=high):
                if args.json:
                    write_json(_entry_as_json(file, position, entry))
                else:
                    write_line(_entry_as_text(position, entry))
                bar.update()


def _kind(entry: Entry) -> str:
    return EntryKind(entry.kind).name.lower()


def _entry_as_text(position: int, entry: Entry) -> str:
    text = f"entry {entry.index}  term {entry.term}  {_kind(entry)}"
    if entry.record_count:
        text += f"  offsets {_range(entry.base_offset, entry.next_offset)}"
    if entry.producer_id:
        text += f"  producer {entry.producer_id}:{entry.producer_sequence}"
    return f"{text}  {entry.size} bytes at {position}  {time_text(entry.timestamp)}"


def _entry_as_json(file: str, position: int, entry: Entry) -> dict[str, Any]:
    return {
        "file": file,
        "position": position,
        "index": entry.index,
        "term": entry.term,
        "kind": _kind(entry),
        "attributes": entry.attributes,
        "record_count": entry.record_count,
        "base_offset": entry.base_offset,
        "timestamp": entry.timestamp,
        "producer_id": entry.producer_id,
        "producer_sequence": entry.producer_sequence,
        "payload_crc": entry.payload_crc,
        "size": entry.size,
    }


# --- verify -----------------------------------------------------------------------


def run_verify(args: argparse.Namespace) -> int:
    """Check everything; print each finding as it comes, and the totals."""
    findings: list[Finding] = []
    checked = Checked(0, 0, 0, 0)
    with progress_bar(None, "B", "checking") as bar:
        for step in verify(OsFiles(), args.data_dir):
            if isinstance(step, VerifyProgress):
                bar.total = step.total_size
                bar.update(step.done_size - bar.n)
            elif isinstance(step, Finding):
                findings.append(step)
                if not args.json:
                    bar.clear()
                    mark = "DAMAGED" if step.is_damage else "UNREADABLE" if step.is_unreadable else "note"
                    write_line(f"{mark}: {step.file}: at byte {step.position}: {step.problem}")
                    sys.stdout.flush()
            else:
                checked = step
    is_damaged = any(finding.is_damage for finding in findings)
    is_unreadable = any(finding.is_unreadable for finding in findings)
    if args.json:
        write_json(
            {
                "is_damaged": is_damaged,
                "is_unreadable": is_unreadable,
                "findings": [dataclasses.asdict(finding) for finding in findings],
                **dataclasses.asdict(checked),
            }
        )
    else:
        verdict = "DAMAGED" if is_damaged else "UNREADABLE BATCHES" if is_unreadable else "all good"
        write_line(
            f"checked {count_text(checked.segments, 'segment')}, {checked.entries} entries, "
            f"{count_text(checked.records, 'record')}, "
            f"{size_text(checked.size)}: {verdict}"
        )
        if is_damaged:
            write_line(
                "a member of a cluster gets what is lost from the others; a lone node starts again after: "
                f"loghouse recover {args.data_dir} --accept-data-loss"
            )
        if is_unreadable:
            write_line(
                "an earlier version took these batches; the disk is well, and nothing is lost on it. Some "
                "readers stop there: read the records with `loghouse consume`, append them again, and let "
                "the old ones go with `loghouse cluster trim`"
            )
    return ExitCode.DAMAGED if is_damaged or is_unreadable else ExitCode.OK


# --- recover ----------------------------------------------------------------------


def run_recover(args: argparse.Namespace) -> None:
    """Cut at the damage, or make a new cluster, and say what was done."""
    if args.new_cluster:
        _run_new_cluster(args)
        return
    if not args.accept_data_loss:
        raise CommandError(
            "this gives up every record behind the first damage (kept aside, not served any more); "
            f"to see what is damaged: loghouse verify {args.data_dir}; "
            "to go on, add --accept-data-loss",
            ExitCode.USAGE,
        )
    path = args.data_dir.rstrip("/") or "/"
    results = []
    with _reading(path) as (files, bar), _locked(files, path) as directory:
        directory.check_finished()
        for group in groups_of(files, path):
            repair = _give_up(files, directory, group)
            results.append({"group": group, **dataclasses.asdict(repair)})
            if not args.json:
                bar.clear()
                for action in repair.actions or ("nothing to do: the log is as it should be",):
                    write_line(action)
                lost = repair.lost_index - repair.last_index
                write_line(
                    f"log {group} ends at entry {repair.last_index}; the next record gets offset "
                    f"{repair.next_offset}; {lost or 'no'} acknowledged entries are known to be lost"
                )
    if not results:
        raise CommandError(f"{path} holds no log; restore it from a backup, or start with an empty directory")
    if args.json:
        write_json({"logs": results})


@contextmanager
def _locked(files: Files, path: str) -> Iterator[DataDirectory]:
    """Take a data directory for the block; refuses while a node runs on it."""
    read_identity(files, path)  # says it well when this is no data directory
    directory = DataDirectory.lock(files, path)
    try:
        yield directory
    finally:
        directory.close()


def _give_up(files: Files, directory: DataDirectory, group: int) -> Repair:
    """Cut a log at its damage; a member of a cluster remembers what it held, and gets it back."""
    log, cluster = directory.log_directory(group), directory.identity.cluster_uuid
    if knows_others(files, directory, group):
        try:
            repair = cut_for_refetch(files, log, cluster=cluster, group=group)
        except DamageError:
            pass  # not even that is known any more: what can be cut, is
        else:
            action = "this node is a member of a cluster: started, it gets what was cut from the others"
            return dataclasses.replace(repair, actions=(*repair.actions, action))
    return accept_data_loss(files, log, cluster=cluster, group=group)


NEW_CLUSTER_WARNING = (
    "this makes the log in {path} a NEW cluster with this node as its only voter. Whatever the others "
    "acknowledged and this one does not hold is lost. Do it once, on one node: the one with the highest "
    "entry (compare `loghouse inspect`), and only when most nodes are lost for good: as long as they can "
    "come back, start them instead. Stop every other node of the old cluster first; they cannot talk to the "
    "new one, and join it with an empty disk. The old log is kept beside. "
    "To go on: --new-cluster --accept-data-loss"
)


def _run_new_cluster(args: argparse.Namespace) -> None:
    """Write the log anew as a cluster of its own, and say where the old one is."""
    files = OsFiles()
    path = args.data_dir.rstrip("/") or "/"
    if not args.accept_data_loss:
        raise CommandError(NEW_CLUSTER_WARNING.format(path=path), ExitCode.USAGE)
    with _locked(files, path), progress_bar(None, "B", "rewriting") as bar:
        rewrite = Rewrite(files, path, group=DEFAULT_GROUP)

        def progress() -> None:
            bar.total = rewrite.total_size
            bar.update(rewrite.done_size - bar.n)

        made = rewrite.run(os.urandom(UUID_SIZE), int(time.time() * MICROSECONDS), progress)
    if args.json:
        write_json(dataclasses.asdict(made))
        return
    for warning in made.warnings:
        write_line(f"note: {warning}")
    write_line(
        f"new cluster {made.cluster_uuid}: log {made.group} ends at entry {made.last_index}; the next record "
        f"gets offset {made.next_offset}"
    )
    write_line(f"the old log is in {made.kept}; remove it when all is well")
    write_line("start this node, then every other one with an empty data directory")
