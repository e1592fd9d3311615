"""What the nodes of a cluster say of the copies of its logs, and what to do about it.

A leader knows of every copy of its log, any node of its own: so each node is asked.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from loghouse.api.v1 import log_pb2
from loghouse.errors import OutcomeUnknownError, UnavailableError
from loghouse.protocol.gossip_messages import LIVENESS_TEXTS, Liveness

NAMES_MAX: Final = 20  # logs that one note names; JSON has them all
_OF_A_LOG: Final = ("lost", "no_leader")
_OF_A_COPY: Final = ("damaged", "repairing", "no_copy", "away", "behind")  # the worst first
_JUST_STARTED: Final = "it has just started, and does not know all logs yet"

_NOTES: Final = {
    "lost": "Lost: {logs}. The disks of half of the copies and more are gone, so nobody can lead there. "
    "Start a node with the disk that it had; if that is gone for good, `loghouse log delete {first} --yes` "
    "takes the log away.",
    "no_leader": "No leader: {logs}. Nothing can be appended there while no majority of the nodes that hold "
    "it runs (`loghouse log describe {first}`).",
    "damaged": "Closed on {node}, damaged: {logs}. Nobody could mend that; the node's log says why. "
    "`loghouse log repair {first} --replace {node} --with NODE` makes a copy elsewhere; started with an "
    "empty data directory, {node} gets all its copies anew.",
    "repairing": "Being repaired on {node}: {logs}. The other nodes give what is damaged there; look at its "
    "disk.",
    "no_copy": "No full copy on {node} yet: {logs}. It gets what it lacks by itself, while it runs; "
    "`loghouse cluster health --wait 10m` waits for that.",
    "away": "Away with {node}: {logs}. Start it again, or, if it is gone for good, `loghouse log repair "
    "{first} --replace {node} --with NODE`, for each log.",
    "behind": "Behind on {node}, without getting on: {logs}. Look at its disk and its log; `loghouse doctor` "
    "there.",
}


@dataclass(frozen=True, slots=True)
class Copies:
    """What needs attention of the copies of logs.

    `silent` has the nodes that did not tell, and why.
    """

    problems: Sequence[log_pb2.LogProblem] = ()
    silent: Mapping[str, str] = field(default_factory=dict)

    def notes(self) -> list[str]:
        """Return all of it for people, with what to do."""
        logs = defaultdict(list)
        for problem in self.problems:
            node = "" if problem.reason in _OF_A_LOG else problem.node
            logs[problem.reason, node].append(problem)
        notes = [_note(reason, node, found) for (reason, node), found in logs.items()]
        return [
            *notes,
            *(f"{name} did not tell how its logs are: {why}." for name, why in self.silent.items()),
        ]

    def as_json(self) -> list[dict[str, Any]]:
        """Return the problems for scripts."""
        return [
            {"log": one.log, "node": one.node, "problem": one.reason, "entries": one.entries}
            for one in self.problems
        ]


ALL_WELL: Final = Copies()


def copies_of(status: log_pb2.StatusResponse, ask: Callable[[str], log_pb2.StatusResponse] | None) -> Copies:
    """Gather what a node, and every other one that is alive, says of the copies of logs.

    Args:
        status: What the first one said.
        ask: Asks another one by its name; None: no other one may be asked.
    """
    told, silent = {status.node: status}, {}
    alive = LIVENESS_TEXTS[Liveness.ALIVE]
    others = [one.name for one in status.members if one.id and one.liveness == alive]
    if ask is not None and status.log_count > 1:
        for name in dict.fromkeys(others):
            if name not in told:
                try:
                    told[name] = ask(name)
                except (UnavailableError, OutcomeUnknownError) as error:
                    silent[name] = str(error)
    # One that knows of strays and of no log is of an earlier version, which cannot tell.
    young = [name for name, one in told.items() if not (one.log_count or one.knows_strays)]
    silent.update(dict.fromkeys(young, _JUST_STARTED))
    return Copies(_merged([one for one in told.values() if one.log_count]), silent)


def _merged(told: Sequence[log_pb2.StatusResponse]) -> list[log_pb2.LogProblem]:
    """Return each problem once: of a copy the worst; no leader has a log of which nobody knows one."""
    copies: dict[tuple[str, str], log_pb2.LogProblem] = {}
    logs: dict[tuple[str, str], list[log_pb2.LogProblem]] = defaultdict(list)
    for problem in (problem for one in told for problem in one.problems):
        if problem.reason in _OF_A_LOG:
            logs[problem.reason, problem.log].append(problem)
        else:
            known = copies.get((problem.log, problem.node))
            if known is None or _rank(problem) < _rank(known):
                copies[problem.log, problem.node] = problem
    found = [
        problems[0]
        for (reason, _), problems in logs.items()
        if reason != "no_leader" or len(problems) == len(told)
    ]
    return sorted([*found, *copies.values()], key=lambda one: (_rank(one), one.node, one.log))


def _rank(problem: log_pb2.LogProblem) -> int:
    known = (*_OF_A_LOG, *_OF_A_COPY)
    return known.index(problem.reason) if problem.reason in known else len(known)


def _note(reason: str, node: str, problems: Sequence[log_pb2.LogProblem]) -> str:
    names = [
        f"{one.log} ({one.entries} {'entry' if one.entries == 1 else 'entries'})"
        if reason == "behind" and one.entries
        else one.log
        for one in problems
    ]
    logs = ", ".join(names[:NAMES_MAX])
    if len(names) > NAMES_MAX:
        logs += f" and {len(names) - NAMES_MAX} more (--json names all)"
    text = _NOTES.get(reason, f"{reason.replace('_', ' ')} on {{node}}: {{logs}}.")
    return text.format(logs=logs, node=node, first=problems[0].log)
