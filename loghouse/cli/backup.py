"""`loghouse backup`: copy logs into files while the cluster runs, and check such copies."""

from __future__ import annotations

import argparse
import asyncio
import os
import time
from collections.abc import Sequence
from contextlib import aclosing, closing
from dataclasses import dataclass
from typing import Any

from loghouse.api.v1 import log_pb2
from loghouse.backup.format import (
    BACKUP_NAME,
    LOCK_NAME,
    LOGS_NAME,
    BackupIdentity,
    LogManifest,
    checked_state,
    encode,
)
from loghouse.backup.plan import (
    BackedUp,
    Plan,
    check_cluster,
    check_is_backup,
    check_state_covers,
    is_wanted,
    plan,
)
from loghouse.backup.reading import CheckProgress, Good, Problem, logs_in, read_identity, verify
from loghouse.backup.restoring import settings_text
from loghouse.backup.target import LogTarget, writing
from loghouse.catalogue.records import LogSettings
from loghouse.cli.output import (
    CommandError,
    ExitCode,
    complain,
    count_text,
    progress_bar,
    size_text,
    time_text,
    write_json,
    write_line,
)
from loghouse.cli.target import add_options, connect_async, contact
from loghouse.client import AsyncClient
from loghouse.client.log import AsyncLog
from loghouse.client.loop_thread import let_calls_end
from loghouse.errors import (
    BackupError,
    BackupGapError,
    DamageError,
    EntryDamagedError,
    EntryError,
    LoghouseError,
    OffsetOutOfRangeError,
    ProtocolError,
)
from loghouse.limits import MICROSECONDS
from loghouse.protocol.entry import Entry
from loghouse.storage.files import Files, OpenFile, OsFiles, replace_file


def add_parser(commands: Any) -> None:
    """Add the command to the parser."""
    parser = commands.add_parser(
        "backup",
        help="copy logs into files while the cluster runs, or check such copies",
        description="Copy logs through any node into DIR: every entry as the nodes store it, with offset, "
        "time and checksum. The same command again adds what is new, and goes on with one that was "
        "interrupted. `backup verify DIR` checks every byte. `loghouse restore` makes a new cluster of it.",
    )
    parser.add_argument("words", nargs="+", metavar="[verify] DIR", help="where the backup is, or is to be")
    parser.add_argument(
        "--log", dest="names", action="append", default=[], metavar="NAME", help="this log; may be repeated"
    )
    parser.add_argument("--all", action="store_true", help="all logs that you may read")
    parser.add_argument("--json", action="store_true", help="print JSON")
    add_options(parser, has_log=False)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Back up, or check."""
    *action, path = args.words
    path = path.rstrip("/") or "/"
    if action not in ([], ["verify"]):
        raise CommandError(f"give one DIR, or verify and one DIR, not {' '.join(args.words)}", ExitCode.USAGE)
    if args.all and args.names:
        raise CommandError("--all and --log contradict each other", ExitCode.USAGE)
    if action:
        return _verify(args, path)
    if not (args.all or args.names):
        raise CommandError("say which logs: --log NAME, or --all", ExitCode.USAGE)
    return asyncio.run(_run(args, path))


# --- backing up -----------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Outcome:
    """What a run did for one log: the offsets that can be restored, and how many records are new."""

    name: str
    first_offset: int
    next_offset: int
    new_records: int


async def _run(args: argparse.Namespace, path: str) -> int:
    try:
        async with connect_async(args) as client:
            await contact(client, args)
            return await _back_up(args, client, path)
    finally:
        await let_calls_end()


async def _back_up(args: argparse.Namespace, client: AsyncClient, path: str) -> int:
    files = OsFiles()
    cluster = await client.servers()
    identity = BackupIdentity(cluster_uuid=cluster.cluster_uuid, cluster_name=cluster.cluster_name)
    logs = await client.logs() if args.all else [await client.describe_log(name) for name in args.names]
    lock = _take(files, path, identity)
    done, failed = [], []
    with closing(lock):
        for number, described in enumerate(logs, 1):
            label = f"{described.name} ({number} of {len(logs)})"
            try:
                done.append(
                    await back_up_log(files, client.log(described.name), described, path, identity, label)
                )
            except (BackupError, DamageError, ProtocolError) as error:
                # One log is not worth the others.
                failed.append((described.name, error))
                if not args.json:
                    complain(f"loghouse backup: {error}")
    gone = sorted(set(logs_in(files, path)) - {log.name for log in logs}) if args.all else []
    _report(args, done, failed, gone)
    if not failed:
        return ExitCode.OK
    return ExitCode.DAMAGED if any(isinstance(error, DamageError) for _, error in failed) else ExitCode.FAILED


def _report(
    args: argparse.Namespace,
    done: list[_Outcome],
    failed: Sequence[tuple[str, LoghouseError]],
    gone: list[str],
) -> None:
    if args.json:
        write_json(
            {
                "logs": [
                    {
                        "name": one.name,
                        "first_offset": one.first_offset,
                        "next_offset": one.next_offset,
                        "new_records": one.new_records,
                    }
                    for one in done
                ],
                "failed": [{"name": name, "error": str(error)} for name, error in failed],
                "gone": gone,
            }
        )
        return
    for one in done:
        new = count_text(one.new_records, "new record")
        write_line(f"{one.name}: {new}, {_range(one.first_offset, one.next_offset)}")
    for name in gone:
        write_line(f"note: log {name} is not there any more; what is backed up of it is kept")


def _range(first: int, following: int) -> str:
    return f"offsets {first} to {following - 1}" if following > first else f"no records; the next is {first}"


def _take(files: Files, path: str, identity: BackupIdentity) -> OpenFile:
    """Make a directory a backup of the cluster, or see that it is one, and lock it."""
    with writing(path):
        if not files.exists(path):
            files.make_directory(path)
            files.sync_directory(os.path.dirname(os.path.abspath(path)))
        kept = read_identity(files, path)
        names = [
            name for name in files.list_directory(path) if name != LOCK_NAME and not name.endswith(".tmp")
        ]
        check_is_backup(has_identity=kept is not None, names=names, path=path)
        lock_path = f"{path}/{LOCK_NAME}"
        try:
            lock = OpenFile(files, files.lock(lock_path), lock_path)
        except BlockingIOError:
            raise BackupError(f"{path}: another backup into it is under way") from None
        if kept is not None:
            check_cluster(path, kept, identity)
        else:
            replace_file(files, path, BACKUP_NAME, encode(identity))
        if not files.exists(f"{path}/{LOGS_NAME}"):
            files.make_directory(f"{path}/{LOGS_NAME}")
            files.sync_directory(path)
    return lock


async def back_up_log(
    files: Files,
    log: AsyncLog,
    described: log_pb2.LogDescription,
    path: str,
    identity: BackupIdentity,
    label: str,
    **options: int,
) -> _Outcome:
    """Bring the backup of one log up to where the log ends now.

    Args:
        label: Names it at the progress bar.
        options: Of `LogTarget`.

    Raises:
        BackupError, DamageError: See `LogTarget` and `plan`; what is there is kept.
        ProtocolError: What a node sent is wrong.
    """
    name, directory = described.name, f"{path}/{LOGS_NAME}/{described.name}"
    taken_at = int(time.time() * MICROSECONDS)
    bounds = await log.bounds()
    group = log.calls.group
    with writing(directory):
        if not files.exists(directory):
            files.make_directory(directory)
            files.sync_directory(f"{path}/{LOGS_NAME}")
    uuid = identity.cluster_uuid
    target = await asyncio.to_thread(lambda: LogTarget(files, directory, uuid, group, **options))
    try:
        held = target.held
        wanted = plan(name, group, *bounds, held)
        begun_at = held.next_offset if held is not None else wanted.begin_at
        state = await _bring_up(log, name, target, wanted, label)
        next_offset = checked_state(state).next_offset
        first_offset = target.manifest.first_offset if target.manifest is not None else target.first_offset
        if first_offset is None:  # no record yet
            first_offset = next_offset
        target.commit(
            LogManifest(
                cluster_uuid=uuid,
                group=group,
                name=name,
                settings=settings_text(_settings_of(described.settings)),
                created_at=described.created_at,
                taken_at=taken_at,
                is_finished=True,
                first_offset=first_offset,
                next_offset=next_offset,
                state=state,
            )
        )
    finally:
        target.close()
    # What a restore would begin with; the first part may hold records below it.
    lowest = max(first_offset, checked_state(state).lowest_offset)
    return _Outcome(name, lowest, next_offset, max(0, next_offset - max(begun_at, first_offset)))


async def _bring_up(log: AsyncLog, name: str, target: LogTarget, wanted: Plan, label: str) -> bytes:
    """Fetch what is new, and return the log's state behind it; all parts are finished then.

    Raises:
        BackupGapError: It was trimmed meanwhile.
        ProtocolError: What a node sent is wrong.
    """
    try:
        await _fetch(log, name, target, target.held, wanted, label)
        if target.has_part:
            await asyncio.to_thread(target.end_part)
        at = target.chain.next_offset if target.chain is not None else wanted.begin_at
        state = await log.read_state(at)
        found = checked_state(state)
        if target.chain is not None:
            target.chain.check_state(found)
        elif found.next_offset != at:
            raise EntryDamagedError(f"the state is that at offset {found.next_offset}, not at {at}")
        return state
    except OffsetOutOfRangeError as error:
        at = target.chain.next_offset if target.chain is not None else wanted.begin_at
        raise BackupGapError(name, at, error.lowest) from error
    except EntryError as error:
        raise ProtocolError(
            f"log {name}: what a node sent is wrong: {error}; nothing of it is in the backup. Check the "
            "nodes with `loghouse verify`, and run this again"
        ) from error


async def _fetch(
    log: AsyncLog, name: str, target: LogTarget, held: BackedUp | None, wanted: Plan, label: str
) -> None:
    """Fetch what is new and write it."""
    if not wanted.record_count:
        return
    with progress_bar(wanted.record_count, " records", label) as bar:
        async with aclosing(log.read_entries(wanted.fetch_from, wanted.end)) as answers:
            async for answer in answers:
                entries = [entry for entry in answer if is_wanted(name, target.chain, held, entry)]
                await _write(log, target, wanted, entries)
                assert target.chain is not None
                bar.update(min(target.chain.next_offset, wanted.end) - wanted.begin_at - bar.n)


async def _write(log: AsyncLog, target: LogTarget, wanted: Plan, entries: list[Entry]) -> None:
    if target.has_part and target.is_part_full:
        await asyncio.to_thread(target.end_part)
    if not target.has_part:
        at = target.chain.next_offset if target.chain is not None else wanted.begin_at
        state = await log.read_state(at)
        if target.chain is None:
            check_state_covers(checked_state(state), at)
        target.begin_part(state)
        assert target.chain is not None
        entries = [entry for entry in entries if entry.index > target.chain.index or entry.record_count]
    target.append(entries)


def _settings_of(settings: log_pb2.LogSettings) -> LogSettings:
    return LogSettings(
        replicas=settings.replicas or 1,
        retention_bytes=settings.retention_bytes,
        retention_seconds=settings.retention_seconds,
        record_bytes_max=settings.record_bytes_max,
        append_bytes_per_second_max=settings.append_bytes_per_second_max,
        tags=tuple(settings.tags),
    )


# --- checking ---------------------------------------------------------------------------


def _verify(args: argparse.Namespace, path: str) -> int:
    """Check every byte; print a line for each log and each problem."""
    files = OsFiles()
    names = args.names or logs_in(files, path)
    good: list[Good] = []
    problems: list[Problem] = []
    with progress_bar(None, "B", "checking") as bar:
        for step in verify(files, path, names):
            if isinstance(step, CheckProgress):
                bar.total = step.total_size
                bar.update(step.done_size - bar.n)
            elif isinstance(step, Problem):
                problems.append(step)
            else:
                good.append(step)
    if args.json:
        write_json(
            {
                "is_damaged": bool(problems),
                "logs": [
                    {
                        "name": one.log,
                        "first_offset": one.first_offset,
                        "lowest_offset": one.lowest_offset,
                        "next_offset": one.next_offset,
                        "taken_at": one.taken_at,
                        "size": one.size,
                    }
                    for one in good
                ],
                "problems": [{"name": one.log, "error": str(one.error)} for one in problems],
            }
        )
    else:
        for one in good:
            write_line(
                f"{one.log}: {_range(one.lowest_offset, one.next_offset)}, {size_text(one.size)}, as of "
                f"{time_text(one.taken_at)}: all good"
            )
        for problem in problems:
            mark = "DAMAGED" if isinstance(problem.error, DamageError) else "UNFINISHED"
            write_line(f"{mark}: {problem.error}")
    return ExitCode.DAMAGED if problems else ExitCode.OK
