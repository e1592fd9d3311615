"""`loghouse log`: which logs there are, made, changed and deleted while the cluster runs.

Any node can be asked; what only the catalogue's leader can do, it passes on.
"""

from __future__ import annotations

import argparse
import threading
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final

from loghouse.api.v1 import log_pb2
from loghouse.cli.options import number
from loghouse.cli.output import (
    CommandError,
    ExitCode,
    complain,
    count_text,
    size_text,
    time_text,
    watch_reader,
    write_json,
    write_line,
    write_result,
    write_table,
)
from loghouse.cli.target import CONTACT_SECONDS, add_action, connect
from loghouse.cli.watching import show_again
from loghouse.client import Client
from loghouse.config.values import UNLIMITED, format_size, parse_size, read_age
from loghouse.errors import OutcomeUnknownError, UnavailableError
from loghouse.limits import REPLICAS_PER_LOG_MAX

_AGE_UNITS: Final = (("d", 86_400), ("h", 3600), ("m", 60))
_SETTINGS: Final = {
    "retention_bytes": "retention_bytes",
    "retention_age": "retention_age",
    "record_max": "record_bytes_max",
    "rate_max": "append_bytes_per_second_max",
}
"""The client's name of each setting, by that of its option."""


def add_parser(commands: Any) -> None:
    """Add the command and its actions to the parser."""
    parser = commands.add_parser(
        "log",
        help="list the logs of the cluster, make, change and delete them",
        description="List, make, change and delete logs. Ask any node. Changes need the permission to manage "
        "logs of such a name.",
    )
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    add_one = partial(add_action, actions, names="log", has_log=False)

    create = add_one("create", run_create, "make a log, and wait until it can be appended to")
    create.add_argument(
        "--replicas",
        type=number("a number of nodes", lowest=1, highest=REPLICAS_PER_LOG_MAX, allowed="1 to 5"),
        default=3,
        metavar="N",
        help="how many nodes hold it (3): of 3 one may fail, of 5 two",
    )
    _add_settings(create)
    create.add_argument(
        "--on",
        type=_names,
        default=(),
        metavar="NODE,...",
        help="the nodes to hold it (the least loaded)",
    )

    listing = add_action(actions, "list", run_list, "the logs that you may do anything with", has_log=False)
    listing.add_argument("--watch", action="store_true", help="again every second, until Ctrl-C")
    listing.add_argument(
        "--strays",
        action="store_true",
        help="instead, files of logs on nodes where they do not belong; needs the admin permission",
    )
    add_one("describe", run_describe, "a log's settings, where it is and who leads it")

    alter = add_one("alter", run_alter, "change settings of a log while it runs")
    _add_settings(alter)

    delete = add_one("delete", run_delete, "delete a log with all its records, for good")
    delete.add_argument("--yes", action="store_true", help="yes, delete it")

    repair = add_one("repair", run_repair, "give a log a replica for one on a node that is lost")
    repair.add_argument("--replace", required=True, metavar="NODE", help="the node that will not come back")
    repair.add_argument(
        "--with", required=True, dest="new", metavar="NODE", help="the node that gets a replica instead"
    )


def _add_settings(parser: Any) -> None:
    size, age = _quantity(_size), _quantity(partial(read_age, base=Path()))
    for option, read, metavar, what in (
        ("--retention-bytes", size, "SIZE", "how much of it is kept, such as 100GiB"),
        ("--retention-age", age, "TIME", "how long records are kept, such as 7d"),
        ("--record-max", size, "SIZE", "the largest record that is taken"),
        ("--rate-max", size, "SIZE", "how many bytes a second may be appended"),
    ):
        parser.add_argument(option, type=read, metavar=metavar, help=f"{what} ({UNLIMITED})")
    parser.add_argument("--tag", action="append", metavar="TEXT", help="a word for people; several times")


def _quantity(read: Callable[[str], int]) -> Callable[[str], int]:
    def checked(text: str) -> int:
        try:
            return read(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(f"{text!r} {error}") from None

    return checked


def _size(text: str) -> int:
    return 0 if text == UNLIMITED else parse_size(text)


def _names(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(",") if name.strip())


def _given(args: argparse.Namespace) -> dict[str, Any]:
    """Return the settings that the options name."""
    values = {setting: getattr(args, option) for option, setting in _SETTINGS.items()}
    values["tags"] = args.tag
    return {setting: value for setting, value in values.items() if value is not None}


# --- changes ------------------------------------------------------------------------


def run_create(args: argparse.Namespace) -> None:
    """Make a log."""
    with connect(args) as cluster:
        log = cluster.create_log(args.name, replicas=args.replicas, on=args.on, **_given(args))
    write_result(args, as_json(log), f"log {log.name} is there, on {nodes_text(log)}")


def run_alter(args: argparse.Namespace) -> None:
    """Change settings."""
    given = _given(args)
    if not given:
        raise CommandError("alter: name a setting, such as --retention-age 30d", ExitCode.USAGE)
    with connect(args) as cluster:
        log = cluster.alter_log(args.name, **given)
    write_result(args, as_json(log), f"log {log.name} keeps {keeps_text(log.settings)}")


def run_delete(args: argparse.Namespace) -> None:
    """Delete a log, if that is meant."""
    if not args.yes:
        raise CommandError(
            f"delete: this deletes all records of log {args.name} on every node; if you mean that, add --yes",
            ExitCode.USAGE,
        )
    with connect(args) as cluster:
        cluster.delete_log(args.name)
    write_result(args, {"deleted": args.name}, f"log {args.name} is deleted")


def run_repair(args: argparse.Namespace) -> None:
    """Place a replica elsewhere."""
    with connect(args) as cluster:
        log = cluster.replace_replica(args.name, lost=args.replace, new=args.new)
    text = f"log {log.name} belongs on {nodes_text(log)}: {args.new} gets its copy from the others"
    write_result(args, as_json(log), text)


# --- looking ------------------------------------------------------------------------


def run_list(args: argparse.Namespace) -> None:
    """List the logs, or what lies about; once, or until interrupted."""
    if args.strays:
        list_strays(args)
        return
    with connect(args) as cluster:
        if not args.watch:
            show_logs(cluster.logs(), args.json)
            return
        gone = threading.Event()
        watch_reader(gone.set)
        watch(cluster, args.json, gone.wait)


def watch(cluster: Client, as_json: bool, wait: Callable[[float], bool]) -> None:
    """Show the logs again and again.

    Args:
        wait: Waits so many seconds; True when there is nobody to show them to any more.
    """
    show_again("log", cluster.logs, lambda logs: show_logs(logs, as_json), as_json=as_json, wait=wait)


def show_logs(logs: Sequence[log_pb2.LogDescription], as_json_: bool) -> None:
    """Print all logs."""
    if as_json_:
        write_json({"logs": [as_json(log) for log in logs]})
        return
    rows = [
        [
            log.name,
            str(log.group),
            log.leader or "none",
            ", ".join(one.node if one.is_alive else f"{one.node} (away)" for one in log.replicas),
            keeps_text(log.settings),
        ]
        for log in logs
    ]
    write_table(["LOG", "NUMBER", "LEADER", "ON", "KEEPS"], rows)


def list_strays(args: argparse.Namespace) -> None:
    """Ask each node of the cluster what it has that does not belong there."""
    found, silent = [], []
    with connect(args) as cluster:
        for server in cluster.servers().servers:
            try:
                status = cluster.status(
                    server=server.name, timeout_seconds=min(args.timeout, CONTACT_SECONDS)
                )
            except (UnavailableError, OutcomeUnknownError) as error:
                complain(f"loghouse log: {error}")
                silent.append(server.name)
            else:
                found += [(server.name, stray) for stray in status.strays]
                if not status.knows_strays:
                    silent.append(server.name)
    if args.json:
        strays = [
            {"node": node, "group": stray.group, "log": stray.name, "size": stray.size}
            for node, stray in found
        ]
        write_json({"strays": strays, "not_known_of": silent})
        return
    if found:
        rows = [
            [node, str(stray.group), stray.name or "-", size_text(stray.size), why_stray(stray)]
            for node, stray in found
        ]
        write_table(["NODE", "NUMBER", "LOG", "SIZE", "WHY"], rows)
    elif not silent:
        write_line("no strays")
    if silent:
        write_line(
            f"{', '.join(silent)} did not tell: away, just started, or of a version that does not look"
        )


def why_stray(stray: log_pb2.StrayLog) -> str:
    """Return why files are where they do not belong."""
    return "replaced, its group is not rid of it yet" if stray.name else "not in the catalogue"


def run_describe(args: argparse.Namespace) -> None:
    """Describe one log."""
    with connect(args) as cluster:
        log = cluster.describe_log(args.name)
    if args.json:
        write_json(as_json(log))
        return
    made = f", made {time_text(log.created_at)}" if log.created_at else ""
    write_line(f"log {log.name}, number {log.group}{made}")
    write_line(f"keeps {keeps_text(log.settings)}{_limits_text(log.settings)}")
    if log.settings.tags:
        write_line(f"tags {', '.join(log.settings.tags)}")
    write_line()
    rows = [
        [one.node, str(one.member), "leader" if one.is_leader else "", "alive" if one.is_alive else "away"]
        for one in log.replicas
    ]
    write_table(["NODE", "ID", "LEADS", "STATE"], rows)
    for note in notes_on(log):
        write_line()
        write_line(note)


def notes_on(log: log_pb2.LogDescription) -> list[str]:
    """Return what an operator should know beyond the table, and do about it."""
    away = [one.node for one in log.replicas if not one.is_alive]
    count, needed = len(log.replicas) - len(away), len(log.replicas) // 2 + 1
    who = ", ".join(away)
    notes = []
    if count < needed:
        notes.append(
            f"NO MAJORITY: {count} of {count_text(len(log.replicas), 'replica')} alive, {needed} needed. "
            f"Nothing can be appended until enough of these run again: {who}."
        )
    elif not log.leader:
        notes.append("No leader is known: while a majority of its nodes runs, one is elected in seconds.")
    elif away:
        notes.append(
            f"Away: {who}. Start it again, or, if it is gone for good, "
            f"`loghouse log repair {log.name} --replace {away[0]} --with NODE`."
        )
    return notes


# --- texts --------------------------------------------------------------------------


def nodes_text(log: log_pb2.LogDescription) -> str:
    """Return where a log is, and who leads it."""
    return ", ".join(f"{one.node} (leader)" if one.is_leader else one.node for one in log.replicas)


def keeps_text(settings: log_pb2.LogSettings) -> str:
    """Return how much of a log is kept."""
    limits = []
    if settings.retention_seconds:
        limits.append(age_text(settings.retention_seconds))
    if settings.retention_bytes:
        limits.append(format_size(settings.retention_bytes))
    return ", at most ".join(limits) if limits else "everything"


def age_text(seconds: int) -> str:
    """Return a time span as it can be given: 604800 is `7d`."""
    for unit, size in _AGE_UNITS:
        if seconds % size == 0:
            return f"{seconds // size}{unit}"
    return f"{seconds}s"


def _limits_text(settings: log_pb2.LogSettings) -> str:
    text = ""
    if settings.record_bytes_max:
        text += f", records of at most {format_size(settings.record_bytes_max)}"
    if settings.append_bytes_per_second_max:
        text += f", at most {format_size(settings.append_bytes_per_second_max)} a second"
    return text


def as_json(log: log_pb2.LogDescription) -> Mapping[str, Any]:
    """Return a log as scripts read it."""
    settings = log.settings
    return {
        "name": log.name,
        "group": log.group,
        "epoch": log.epoch,
        "created_at": log.created_at,
        "leader": log.leader,
        "replicas": [
            {
                "node": one.node,
                "member": one.member,
                "is_leader": one.is_leader,
                "is_alive": one.is_alive,
            }
            for one in log.replicas
        ],
        "settings": {
            "replicas": settings.replicas,
            "retention_bytes": settings.retention_bytes,
            "retention_seconds": settings.retention_seconds,
            "record_bytes_max": settings.record_bytes_max,
            "append_bytes_per_second_max": settings.append_bytes_per_second_max,
            "tags": list(settings.tags),
        },
        "notes": notes_on(log),
    }
