"""What `loghouse demo` shows of several nodes: any of them takes the file, all have it, one may die."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final

from loghouse.cli.demo_nodes import (
    APPEND_SECONDS_MAX,
    ASK_SECONDS,
    POLL_SECONDS,
    START_SECONDS_MAX,
    DemoNode,
    Running,
    connect_to,
    run_node,
    shown,
    wait_until_serving,
)
from loghouse.cli.demo_trip import append_file, compare_file, figures, tell_trip
from loghouse.cli.output import CommandError, count_text, write_table
from loghouse.client import Client, Server
from loghouse.errors import OutcomeUnknownError, UnavailableError
from loghouse.protocol.configuration import ROLE_TEXTS, MemberRole

MARK: Final = b"the leader was killed"
MARK_SECONDS: Final = 0.3  # how long one node is tried


class Cast:
    """The nodes of a demo, running or not, and a client of each alone; `stack` ends them all."""

    def __init__(self, folder: Path, nodes: Sequence[DemoNode], stack: ExitStack) -> None:
        self.folder = folder
        self.nodes = nodes
        self.running: dict[str, Running] = {}
        self.clients: dict[str, Client] = {}
        self._stack = stack

    def start(self, node: DemoNode) -> None:
        """Start a node; it may take a while until it serves."""
        self.running[node.name] = self._stack.enter_context(run_node(node))
        if node.name not in self.clients:
            self.clients[node.name] = self._stack.enter_context(connect_to(node, self.folder))

    def start_all(self) -> None:
        """Start every node, and return when all serve."""
        for node in self.nodes:
            self.start(node)
        for node in self.nodes:
            self.wait_serving(node)

    def wait_serving(self, node: DemoNode) -> None:
        """Return when a node answers what its leader confirmed."""
        wait_until_serving(self.running[node.name], self.clients[node.name])

    def wait(self, condition: Callable[[], bool], what: str) -> None:
        """Return once a condition holds; calls that fail meanwhile only mean: not yet.

        Raises:
            CommandError: It took too long, or a node ended.
        """
        deadline = time.monotonic() + START_SECONDS_MAX
        pause = threading.Event()
        while True:
            for running in self.running.values():
                running.check()
            try:
                if condition():
                    return
            except UnavailableError:
                pass
            if time.monotonic() > deadline:
                raise CommandError(f"waited {START_SECONDS_MAX:.0f} s for {what}")
            pause.wait(POLL_SECONDS)  # the nodes tell nobody: ask again

    def servers(self, asked: DemoNode) -> Iterable[Server]:
        """The cluster as one node sees it."""
        return self.clients[asked.name].servers(timeout_seconds=ASK_SECONDS).servers

    def wait_voters(self) -> None:
        """Return when every node is a voter, in the eyes of each: from then on one may die."""

        def all_vote() -> bool:
            return all(
                sum(server.role == ROLE_TEXTS[MemberRole.VOTER] for server in self.servers(node))
                == len(self.nodes)
                for node in self.nodes
            )

        self.wait(all_vote, "all nodes to become voters")

    def wait_leader(self, among: Sequence[DemoNode]) -> DemoNode:
        """Return the leader that these nodes agree on; it is one of them."""
        found: list[DemoNode] = []

        def agree() -> bool:
            names = {server.name for node in among for server in self.servers(node) if server.is_leader}
            found[:] = [node for node in among if names == {node.name}]
            return bool(found)

        self.wait(agree, "a leader")
        return found[0]


def show(cast: Cast, path: Path, say: Callable[[str], None]) -> dict[str, Any]:
    """Show it all; return the figures.

    Raises:
        CommandError: A node ended, or what came back differs.
        LoghouseError: A call failed.
    """
    cast.start_all()
    cast.wait_voters()
    leader = cast.wait_leader(cast.nodes)
    names = ", ".join(f"{node.name} on {node.listen}" for node in cast.nodes)
    say(f"{len(cast.nodes)} nodes serve: {names}; {leader.name} leads")
    say(f"(their diagnostics: {shown(leader.log_path).replace(leader.name, 'node-*')})")
    follower = next(node for node in cast.nodes if node is not leader)
    say(f"\nappending through {follower.name}, a follower, and reading back from every node")
    first = trip(cast, follower, path, cast.nodes, say)
    rest = [node for node in cast.nodes if node is not leader]
    say(f"\nkilling {leader.name}, the leader, with kill -9")
    cast.running.pop(leader.name).kill()
    killed_at = time.monotonic()
    _append_mark(cast, rest)
    gap = time.monotonic() - killed_at
    successor = cast.wait_leader(rest)
    say(f"{gap:.2f} s later appends go on; {successor.name} leads; once more through {rest[0].name}")
    second = trip(cast, rest[0], path, rest, say)
    say(f"\nstarting {leader.name} again")
    started_at = time.monotonic()
    cast.start(leader)
    cast.wait_serving(leader)
    cast.wait_leader(cast.nodes)
    compare_file(cast.clients[leader.name], path, second[0])
    back = time.monotonic() - started_at
    say(f"{back:.2f} s later it has caught up: what was appended without it came back from it, too\n")
    return {
        **figures(*first),
        "killed": leader.name,
        "leader": successor.name,
        "gap_seconds": round(gap, 6),
        "catch_up_seconds": round(back, 6),
        "after": figures(*second),
        "nodes": _members(cast),
    }


def trip(
    cast: Cast, through: DemoNode, path: Path, readers: Sequence[DemoNode], say: Callable[[str], None]
) -> tuple[Any, float]:
    """Append the file through one node, read it back from others and compare; return what was appended."""
    appended = append_file(cast.clients[through.name], path)
    seconds = [compare_file(cast.clients[node.name], path, appended) for node in readers]
    tell_trip(path, figures(appended, max(seconds)), say)
    if len(readers) > 1:
        say(f"the same from {count_text(len(readers), 'node')}: {', '.join(node.name for node in readers)}")
    return appended, max(seconds)


def _append_mark(cast: Cast, nodes: Sequence[DemoNode]) -> None:
    """Append one record as a patient client does: again, elsewhere, until it is acknowledged."""
    deadline = time.monotonic() + APPEND_SECONDS_MAX
    attempt = 0
    while True:
        log = cast.clients[nodes[attempt % len(nodes)].name]
        attempt += 1
        try:
            log.append(MARK, timeout_seconds=MARK_SECONDS)
            return
        except (UnavailableError, OutcomeUnknownError):
            # An unknown outcome may leave the mark twice: two marks do no harm here.
            if time.monotonic() > deadline:
                raise


def _members(cast: Cast) -> list[dict[str, Any]]:
    """Return what each node says of itself."""
    members = []
    for node in cast.nodes:
        status = cast.clients[node.name].status()
        role = next((member.role for member in status.members if member.name == node.name), "none")
        members.append(
            {
                "node": node.name,
                "role": "leader" if status.leader == node.name else role,
                "term": status.term,
                "highest_offset": status.next_offset - 1,
            }
        )
    return members


def print_members(members: list[dict[str, Any]]) -> None:
    """Print the table of nodes."""
    rows = [[str(value) for value in member.values()] for member in members]
    write_table(["NODE", "ROLE", "TERM", "HIGHEST OFFSET"], rows)
