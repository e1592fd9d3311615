"""`loghouse cluster`: who is in the cluster and how they are, and changes of both.

Any node can be asked; what only the leader can do, it passes on.
"""

from __future__ import annotations

import argparse
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

from loghouse.api.v1 import log_pb2
from loghouse.cli.copies import ALL_WELL, Copies, copies_of
from loghouse.cli.logs import why_stray
from loghouse.cli.options import number
from loghouse.cli.output import (
    CommandError,
    ExitCode,
    count_text,
    size_text,
    watch_reader,
    write_json,
    write_line,
    write_result,
    write_table,
)
from loghouse.cli.target import CONTACT_SECONDS, add_action, addresses, connect, seconds
from loghouse.cli.watching import show_again
from loghouse.client import Client
from loghouse.cluster.reconcile import FIRST_VOTERS
from loghouse.errors import OutcomeUnknownError, UnavailableError
from loghouse.limits import LAG_ENTRIES_MAX, VOTERS_MAX
from loghouse.protocol.configuration import ROLE_TEXTS, MemberRole
from loghouse.protocol.gossip_messages import LIVENESS_TEXTS, Liveness

HEALTH_SECONDS: Final = 0.5  # between two looks of `cluster health --wait`
_RUNNING: Final = {LIVENESS_TEXTS[one] for one in (Liveness.ALIVE, Liveness.SUSPECT)}


def add_parser(commands: Any) -> None:
    """Add the command and its actions to the parser."""
    parser = commands.add_parser(
        "cluster",
        help="show the nodes of the cluster and how they are, add, remove, hand over",
        description="Show and change the cluster. Ask any node; needs the admin permission.",
    )
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")

    status = add_action(actions, "status", run_status, "members, roles, who is reachable, how far behind")
    status.add_argument("--watch", action="store_true", help="again every second, until Ctrl-C")

    health = add_action(actions, "health", run_health, "whether all is well, as an exit code: 0, 6 or 3")
    health.add_argument(
        "--wait", type=seconds, default=0.0, metavar="TIME", help="try again for so long until all is well"
    )

    add = add_action(actions, "add", run_add, "let a node in, also one that was removed")
    add.add_argument("node", metavar="NODE", help="its name")
    add.add_argument("--learner", action="store_true", help="it only reads along and never votes")

    remove = add_action(actions, "remove", run_remove, "take a node out of the cluster and keep it out")
    remove.add_argument("node", metavar="NODE", help="its name; it need not be running")

    add_action(actions, "leave", run_leave, "take out the node that is asked (--server)")

    transfer = add_action(actions, "transfer", run_transfer, "hand leadership to another voter")
    transfer.add_argument("node", metavar="NODE", nargs="?", default="", help="its name (the best candidate)")

    trim = add_action(actions, "trim", run_trim, "let the oldest records go, on every node")
    trim.add_argument(
        "--offset",
        type=number("an offset"),
        required=True,
        metavar="N",
        help="records below this offset may go",
    )


# --- status ------------------------------------------------------------------------


def run_status(args: argparse.Namespace) -> int | None:
    """Ask and print, once or until interrupted."""
    with connect(args, is_direct=True) as log:
        if not args.watch:
            status = log.status()
            show(status, args.json, args.log, copies=_copies(status, args))
            return ExitCode.OK if can_append(status) else ExitCode.UNAVAILABLE
        gone = threading.Event()
        watch_reader(gone.set)
        watch(log, args.json, gone.wait, args.log, copies=partial(_copies, args=args))
    return None


def _copies(status: log_pb2.StatusResponse, args: argparse.Namespace) -> Copies:
    """Ask all nodes how the copies of logs are, where there are named logs; with --direct no others."""
    if args.direct or status.log_count <= 1:
        return copies_of(status, None)
    with connect(args) as cluster:
        return copies_of(status, partial(_ask, cluster, args))


def _ask(cluster: Client, args: argparse.Namespace, server: str) -> log_pb2.StatusResponse:
    return cluster.status(server=server, timeout_seconds=min(args.timeout, CONTACT_SECONDS))


def run_health(args: argparse.Namespace) -> ExitCode:
    """Say whether all is well; with --wait as soon as it is, or when that time is over."""
    health = until_healthy(partial(_health, args), args.wait, time.monotonic, time.sleep)
    if args.json:
        write_json(
            {"health": health.word, "problems": list(health.problems), "logs": health.copies.as_json()}
        )
    else:
        write_line(health.word)
        for problem in health.problems:
            write_line(problem)
    return health.code


def until_healthy(
    look: Callable[[], ClusterHealth],
    seconds_max: float,
    monotonic: Callable[[], float],
    sleep: Callable[[float], None],
) -> ClusterHealth:
    """Look again and again until all is well, or so many seconds are over; return what was seen last."""
    deadline = monotonic() + seconds_max
    while True:
        health = look()
        left = deadline - monotonic()
        if health.code is ExitCode.OK or left <= 0:
            return health
        sleep(min(HEALTH_SECONDS, left))


def _health(args: argparse.Namespace) -> ClusterHealth:
    """Ask once. Each node that is named may answer; a cluster that nobody answers for is not available."""
    try:
        with connect(args) as log:
            status = log.status()
            copies = copies_of(status, None if args.direct else partial(_ask, log, args))
            return health_of(status, args.log, copies)
    except (UnavailableError, OutcomeUnknownError) as error:
        return ClusterHealth(ExitCode.UNAVAILABLE, (str(error),))


def watch(
    log: Client,
    as_json: bool,
    wait: Callable[[float], bool],
    name: str = "",
    copies: Callable[[log_pb2.StatusResponse], Copies] = lambda status: ALL_WELL,
) -> None:
    """Show the status again and again; a node that is away for a while is no reason to stop.

    Args:
        wait: Waits so many seconds; True when there is nobody to show it to any more.
        name: The log's; empty for the default one.
        copies: Finds out how the copies of logs are.
    """

    def ask() -> tuple[log_pb2.StatusResponse, Copies]:
        status = log.status()
        return status, copies(status)

    show_again(
        "cluster",
        ask,
        lambda answer: show(answer[0], as_json, name, copies=answer[1]),
        as_json=as_json,
        wait=wait,
    )


def show(status: log_pb2.StatusResponse, as_json: bool, log: str = "", *, copies: Copies = ALL_WELL) -> None:
    """Print a status; `log` is whose it is, empty: the default one's."""
    if as_json:
        write_json(_as_json(status, log, copies))
        return
    held = (
        f"offsets {status.lowest_offset} to {status.next_offset - 1}"
        if status.next_offset > status.lowest_offset
        else f"no records, the next offset is {status.next_offset}"
    )
    which = f", log {log}" if log else ""
    write_line(
        f"cluster {status.cluster_name} ({status.cluster_uuid.hex()}){which}, as {status.node} sees it"
    )
    leader = f"leader {status.leader}" if status.leader else "no leader"
    write_line(f"term {status.term}, {leader}, committed up to index {status.commit_index}, {held}")
    write_line()
    rows = [
        [
            member.name,
            str(member.id) if member.id else "-",
            member.role if member.id else "not a member",
            "leader" if member.is_leader else "",
            member.liveness or "not seen",
            _lag_text(member, status.commit_index),
            member.address or "-",
            member.version or "-",
        ]
        for member in status.members
    ]
    write_table(["NODE", "ID", "ROLE", "LEADS", "STATE", "BEHIND", "ADDRESS", "VERSION"], rows)
    for note in (*notes_on(status, log), *copies.notes()):
        write_line()
        write_line(note)


def can_append(status: log_pb2.StatusResponse) -> bool:
    """Whether the asked node knows a leader and a majority of voters alive: else nothing can be appended."""
    voters, missing = _voters(status)
    return bool(status.leader) and len(voters) - len(missing) > len(voters) // 2


@dataclass(frozen=True, slots=True)
class ClusterHealth:
    """How a cluster is: OK, DEGRADED (it works, and something needs attention) or UNAVAILABLE.

    `problems` are lines for people, those of `copies` among them.
    """

    code: ExitCode
    problems: Sequence[str]
    copies: Copies = ALL_WELL

    @property
    def word(self) -> str:
        """The state in a word."""
        words = {ExitCode.OK: "healthy", ExitCode.DEGRADED: "degraded"}
        return words.get(self.code, "unavailable")


def health_of(status: log_pb2.StatusResponse, log: str = "", copies: Copies = ALL_WELL) -> ClusterHealth:
    """Judge a cluster by its status; `log` is whose that is, empty: the default one's."""
    notes = (*notes_on(status, log), *copies.notes())
    if not can_append(status):
        return ClusterHealth(ExitCode.UNAVAILABLE, notes, copies)
    _, missing = _voters(status)
    alive = LIVENESS_TEXTS[Liveness.ALIVE]
    problems = [note for note in notes if missing and note.startswith("Not running")]
    for member in status.members:
        if not member.id or member.name in missing:
            continue
        lag = _lag(member, status.commit_index)
        if member.liveness != alive:
            problems.append(f"{member.name} does not answer at the moment ({member.liveness or 'not seen'}).")
        elif lag is None:
            problems.append(f"{member.name}: it is not known how far behind it is; ask again.")
        elif lag > LAG_ENTRIES_MAX:
            problems.append(f"{member.name} is {lag} entries behind.")
    problems += copies.notes()
    return ClusterHealth(ExitCode.DEGRADED if problems else ExitCode.OK, tuple(problems), copies)


def _voters(status: log_pb2.StatusResponse) -> tuple[list[log_pb2.MemberStatus], list[str]]:
    """Return the voters, and the names of those that do not run."""
    voters = _in_role(status, MemberRole.VOTER)
    return voters, [member.name for member in voters if member.liveness not in _RUNNING]


def _in_role(status: log_pb2.StatusResponse, role: MemberRole) -> list[log_pb2.MemberStatus]:
    return [member for member in status.members if member.role == ROLE_TEXTS[role]]


def notes_on(status: log_pb2.StatusResponse, log: str = "") -> Sequence[str]:
    """Return what an operator should know beyond the table, and do about it."""
    notes = []
    voters, missing = _voters(status)
    alive_count, needed = len(voters) - len(missing), len(voters) // 2 + 1
    who = ", ".join(missing)
    if alive_count < needed:
        notes.append(
            f"NO MAJORITY: {alive_count} of {count_text(len(voters), 'voter')} alive, {needed} needed. "
            f"Nothing can be appended until enough of them run again: {who}."
        )
    elif not status.leader:
        quiet = ", ".join(
            f"{m.name} ({m.liveness})" for m in voters if m.liveness != LIVENESS_TEXTS[Liveness.ALIVE]
        )
        notes.append(
            "No leader: nothing can be appended. While a majority of voters runs, one is elected in seconds"
            + (f"; not answering: {quiet}." if quiet else ".")
        )
    elif missing and alive_count == needed:
        remedy = (
            f"log repair {log} --replace {missing[0]} --with NODE" if log else f"cluster remove {missing[0]}"
        )
        notes.append(
            f"Not running: {who}. One failure more and nothing can be appended: start it again, or, if it is "
            f"gone for good, `loghouse {remedy}`."
        )
    elif missing:
        notes.append(f"Not running: {who}.")
    notes += _notes_on_learners(status)
    names_of_members = {member.name for member in status.members if member.id}
    notes += [
        f"A second machine calls itself {member.name}: at {member.address or 'an unknown address'}, with "
        "another disk than the member. It is not let in while that one lives: stop it, or rename it."
        for member in status.members
        if not member.id and member.name in names_of_members
    ]
    if not log:
        notes += [
            f"Files of {f'log {stray.name}' if stray.name else 'a log'}, number {stray.group}, are on "
            f"{status.node} ({size_text(stray.size)}): {why_stray(stray)}. They are kept "
            "(`loghouse log list --strays`)."
            for stray in status.strays
        ]
    if status.waiting_settings:
        notes.append(
            f"{status.node} runs with other settings than its node.yaml has: "
            f"{', '.join(status.waiting_settings)}. Restart it, or take them back "
            f"(`loghouse node reload {status.node}` tells both values)."
        )
    if status.removed:
        names = ", ".join(status.removed)
        notes.append(f"Removed and kept out: {names} (`loghouse cluster add NODE` lets a node back in).")
    return notes


def _notes_on_learners(status: log_pb2.StatusResponse) -> Sequence[str]:
    """Explain members that follow and do not vote, where that is no passing state."""
    voters = _in_role(status, MemberRole.VOTER)
    learners = [member.name for member in _in_role(status, MemberRole.LEARNER)]
    notes = []
    if learners and len(voters) >= VOTERS_MAX:
        notes.append(
            f"Without a vote: {', '.join(learners)}. At most {VOTERS_MAX} members vote; these hold "
            "everything, and get a vote when a voter is removed."
        )
    elif len(learners) == 1 and len(voters) >= FIRST_VOTERS and len(voters) % 2 == 1:
        notes.append(
            f"Waits without a vote: {learners[0]}. {len(voters) + 1} voters bear no more failures than "
            f"{len(voters)}: it gets its vote together with one more node, or in the place of a voter that "
            "is removed. It holds everything meanwhile."
        )
    replicas = [member.name for member in _in_role(status, MemberRole.REPLICA)]
    if replicas:
        notes.append(f"Replicas (`cluster add --learner`), never given a vote: {', '.join(replicas)}.")
    return notes


def _lag(member: log_pb2.MemberStatus, commit_index: int) -> int | None:
    """Return how many committed entries are not yet on a member's disk; None when that is not known."""
    if not member.id or not member.match_index:
        return None
    return max(0, commit_index - member.match_index)


def _lag_text(member: log_pb2.MemberStatus, commit_index: int) -> str:
    lag = _lag(member, commit_index)
    if lag is None:
        return "?" if member.id else "-"
    return f"{lag} entries" if lag != 1 else "1 entry"


def _fields(message: Any, *names: str) -> dict[str, Any]:
    return {name: getattr(message, name) for name in names}


def _as_json(status: log_pb2.StatusResponse, log: str, copies: Copies) -> dict[str, Any]:
    return {
        "cluster": status.cluster_name,
        "cluster_uuid": status.cluster_uuid.hex(),
        **({"log": log} if log else {}),
        **_fields(
            status, "node", "version", "term", "leader", "commit_index", "lowest_offset", "next_offset"
        ),
        "members": [
            {
                **_fields(member, "name", "id", "role", "liveness", "is_leader", "match_index"),
                "entries_behind": _lag(member, status.commit_index),
                **_fields(member, "address", "version"),
            }
            for member in status.members
        ],
        "removed": list(status.removed),
        "strays": [_fields(stray, "group", "name", "size") for stray in status.strays],
        "waiting_settings": list(status.waiting_settings),
        "logs": copies.as_json(),
        "notes": [*notes_on(status, log), *copies.notes()],
    }


# --- changes ------------------------------------------------------------------------


def run_add(args: argparse.Namespace) -> None:
    """Let a node in."""
    with connect(args) as log:
        log.add(args.node, learner=args.learner)
    then = "reads along" if args.learner else "votes once it has caught up"
    text = f"{args.node} is let in: start it, it joins by itself and {then}"
    write_result(args, {"added": args.node}, text)


def run_remove(args: argparse.Namespace) -> None:
    """Take a node out."""
    with connect(args) as log:
        was_member = any(member.id and member.name == args.node for member in log.status().members)
        log.remove(args.node)
    stop = "is removed: stop it" if was_member else "was no member; it is kept out from now on"
    text = f"{args.node} {stop} (`loghouse cluster add {args.node}` would let it in)"
    write_result(args, {"removed": args.node}, text)


def run_leave(args: argparse.Namespace) -> None:
    """Take out the node that is asked; say which one that was."""
    if len(addresses(args)) > 1:
        raise CommandError("leave: give one --server: the node that is to leave", ExitCode.USAGE)
    with connect(args, is_direct=True) as log:
        name = log.status().node
        log.leave("")  # whoever is asked
    text = f"{name} has left: stop it (`loghouse cluster add {name}` would let it back in)"
    write_result(args, {"left": name}, text)


def run_transfer(args: argparse.Namespace) -> None:
    """Hand leadership over."""
    with connect(args) as log:
        leader = log.transfer(args.node)
    write_result(args, {"leader": leader}, f"{leader} leads now")


def run_trim(args: argparse.Namespace) -> None:
    """Let the oldest records go."""
    with connect(args) as log:
        lowest = log.trim(args.offset)
    write_result(args, {"lowest_offset": lowest}, f"the lowest offset is {lowest} now")
