"""`loghouse restore`: make a node's data directory of a backup, the first of a new cluster."""

from __future__ import annotations

import argparse
import dataclasses
import os
import time
from typing import Any

from loghouse.backup.reading import logs_in, open_log, read_identity
from loghouse.backup.restoring import RestoredLog, Restoring, finish, is_whole
from loghouse.cli.output import count_text, progress_bar, write_json, write_line
from loghouse.config.settings import load
from loghouse.errors import BackupError
from loghouse.limits import MICROSECONDS, UUID_SIZE
from loghouse.storage.directory import RESTORING_NAME, DataDirectory, DiskIdentity
from loghouse.storage.files import OsFiles


def add_parser(commands: Any) -> None:
    """Add the command to the parser."""
    parser = commands.add_parser(
        "restore",
        help="make a node's empty data directory of a backup",
        description="Write the logs of a backup into the empty data directory that node.yaml names: the same "
        "records, offsets, times and producers, in a new cluster, of which that node is the first. Every "
        "checksum is checked on the way. The node must not run; start it afterwards.",
    )
    parser.add_argument("path", metavar="DIR", help="the backup")
    parser.add_argument("--config", required=True, metavar="FILE", help="the node.yaml of the first node")
    parser.add_argument(
        "--log",
        dest="names",
        action="append",
        default=[],
        metavar="NAME",
        help="this log alone; may be repeated",
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    """Restore, and say what there is."""
    files = OsFiles()
    path = args.path.rstrip("/") or "/"
    config = load(args.config)
    data_dir = str(config.data_dir)
    identity = read_identity(files, path)
    if identity is None:
        raise BackupError(f"{path} is no backup")
    names = args.names or logs_in(files, path)
    unknown = sorted(set(names) - set(logs_in(files, path)))
    if unknown or not names:
        raise BackupError(f"{path} holds no log {', '.join(unknown)}" if unknown else f"{path} holds no log")
    logs = [open_log(files, path, name, identity) for name in names]
    directory = DataDirectory.lock(files, data_dir, segment_size=config.storage.segment_size)
    try:
        if is_whole(files, data_dir):
            finish(files, data_dir)
            made, restored = directory.identity, []
        else:
            made = DiskIdentity(
                cluster_uuid=os.urandom(UUID_SIZE),
                disk_uuid=os.urandom(UUID_SIZE),
                cluster_name=config.cluster,
                node_name=config.name,
            )
            restoring = Restoring(
                files,
                directory,
                made,
                segment_size=config.storage.segment_size,
                now=int(time.time() * MICROSECONDS),
            )
            restored = _restore(restoring, logs)
    except BaseException:
        if files.exists(f"{data_dir}/{RESTORING_NAME}"):
            directory.close()  # what keeps starts away stays, with what it is about
        else:
            directory.undo()
        raise
    directory.close()
    _report(args, data_dir, made, restored)


def _restore(restoring: Restoring, logs: list[Any]) -> list[RestoredLog]:
    with progress_bar(None, "B", "restoring") as bar:

        def progress() -> None:
            bar.total = restoring.total_size
            bar.update(restoring.done_size - bar.n)

        return restoring.run(logs, progress)


def _report(args: argparse.Namespace, data_dir: str, made: DiskIdentity, restored: list[RestoredLog]) -> None:
    if args.json:
        write_json(
            {
                "data_dir": data_dir,
                "cluster_uuid": made.cluster_uuid.hex(),
                "node": made.node_name,
                "logs": [dataclasses.asdict(log) for log in restored],
            }
        )
        return
    for log in restored:
        count = count_text(log.next_offset - log.lowest_offset, "record")
        write_line(f"{log.name}: {count}; the next one gets offset {log.next_offset}")
    write_line(
        f"{data_dir}: node {made.node_name} of a new cluster {made.cluster_name}, uuid "
        f"{made.cluster_uuid.hex()}; start it, then the others with empty data directories"
    )
