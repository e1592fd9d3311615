"""`loghouse cursor`: where the cursors of a log stand, who holds them, and how to put them elsewhere."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, Final

from loghouse.cli.failures import exit_code
from loghouse.cli.options import number
from loghouse.cli.output import CommandError, ExitCode, complain, write_json, write_result, write_table
from loghouse.cli.target import add_action, connect
from loghouse.client import Cursor
from loghouse.errors import LoghouseError, PermissionDeniedError, UnknownLogError
from loghouse.limits import CURSORS_LISTED_MAX, UINT64_MAX

_HEADER: Final = ("CURSOR", "POSITION", "LAG", "HOLDER", "LEASE", "OWNER")


def add_parser(commands: Any) -> None:
    """Add the command and its actions to the parser."""
    parser = commands.add_parser(
        "cursor",
        help="list the cursors of a log, and put them elsewhere",
        description="List, set and delete the cursors that a log keeps. It needs the permission to consume "
        "the log; to set or delete the cursor of another subject, also to administer the cluster.",
    )
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    listing = add_action(actions, "list", run_list, "the cursors of a log, and how far each is behind")
    listing.add_argument(
        "--all",
        action="store_true",
        help=f"those of all logs that you may consume: the first {CURSORS_LISTED_MAX} by log and name",
    )
    add_one = partial(add_action, actions, names="cursor")
    add_one("get", run_get, "one cursor")
    change = add_action(
        actions, "set", run_set, "put a cursor somewhere; whoever holds it is fenced", names="cursor"
    )
    change.add_argument(
        "--position",
        required=True,
        type=number("a position", lowest=0, highest=UINT64_MAX, allowed=f"0 to {UINT64_MAX}"),
        metavar="N",
        help="the next one to do: an offset, or what the cursor counts",
    )
    delete = add_action(
        actions, "delete", run_delete, "forget a cursor; whoever holds it is fenced", names="cursor"
    )
    delete.add_argument("--yes", action="store_true", help="yes, forget where it stands")


def run_list(args: argparse.Namespace) -> int | None:
    """List the cursors of a log, or of all."""
    if args.all:
        return run_list_all(args)
    with connect(args) as log:
        cursors = log.cursors().list()
    if args.json:
        write_json({"cursors": [as_json(cursor) for cursor in cursors]})
    else:
        show(cursors)
    return None


def run_list_all(args: argparse.Namespace) -> int:
    """List the cursors of all logs; a log whose leader does not answer is named, and the others are shown."""
    if args.log:
        raise CommandError("--all does not go with --log", ExitCode.USAGE)
    found: list[tuple[str, Cursor]] = []
    problems: list[tuple[str, LoghouseError]] = []
    with connect(args) as cluster:
        for log in cluster.logs():
            if len(found) > CURSORS_LISTED_MAX:
                break
            try:
                cursors = cluster.log(log.name).cursors().list()
            except (PermissionDeniedError, UnknownLogError):
                continue  # the caller may append to it, say; or it was deleted just now
            except LoghouseError as error:
                problems.append((log.name, error))
            else:
                found += [(log.name, cursor) for cursor in cursors]
    shown = found[:CURSORS_LISTED_MAX]
    is_complete = len(shown) == len(found) and not problems
    if args.json:
        listed = [{"log": log, **as_json(cursor)} for log, cursor in shown]
        write_json({"cursors": listed, "is_complete": is_complete})
    else:
        write_table(["LOG", *_HEADER], [[log, *_cells(cursor)] for log, cursor in shown])
    for name, problem in problems:
        complain(f"log {name}: {problem}")
    if len(shown) < len(found):
        complain(f"these are the first {len(shown)}, by log and name; --log NAME lists those of one log")
    return max((exit_code(problem) for _, problem in problems), default=ExitCode.OK)


def run_get(args: argparse.Namespace) -> None:
    """Show one cursor."""
    with connect(args) as log:
        cursor = log.cursors().get(args.name)
    if args.json:
        write_json(as_json(cursor))
    else:
        show([cursor])


def run_set(args: argparse.Namespace) -> None:
    """Put a cursor somewhere."""
    with connect(args) as log:
        cursor = log.cursors().set(args.name, args.position)
    write_result(args, as_json(cursor), f"cursor {cursor.name} stands at {cursor.position}")


def run_delete(args: argparse.Namespace) -> None:
    """Forget a cursor, if that is meant."""
    if not args.yes:
        raise CommandError(
            f"delete: this forgets where cursor {args.name} stands; if you mean that, add --yes",
            ExitCode.USAGE,
        )
    with connect(args) as log:
        log.cursors().delete(args.name)
    write_result(args, {"deleted": args.name}, f"cursor {args.name} is deleted")


def show(cursors: Sequence[Cursor]) -> None:
    """Print cursors."""
    write_table(_HEADER, [_cells(cursor) for cursor in cursors])


def _cells(cursor: Cursor) -> list[str]:
    return [
        cursor.name,
        str(cursor.position),
        "-" if cursor.lag is None else str(cursor.lag),
        cursor.holder or "nobody",
        f"{cursor.left_seconds:.1f}s" if cursor.left_seconds else "-",
        cursor.subject,
    ]


def as_json(cursor: Cursor) -> Mapping[str, Any]:
    """Return a cursor as scripts read it."""
    return cursor._asdict()
