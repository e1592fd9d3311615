"""`loghouse node`: what is asked of one node, and is of that node alone."""

from __future__ import annotations

import argparse
from typing import Any

from loghouse.api.v1 import log_pb2
from loghouse.cli.output import ExitCode, complain, write_json, write_line
from loghouse.cli.target import add_options, connect
from loghouse.errors import LoghouseError


def add_parser(commands: Any) -> None:
    """Add the command and its actions to the parser."""
    parser = commands.add_parser(
        "node",
        help="let a node read its settings again",
        description="Ask a node for something of its own; needs the admin permission.",
    )
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    reload = actions.add_parser(
        "reload",
        help="read node.yaml, certificates and policy again",
        description="Let a node read node.yaml, certificates and policy again, as SIGHUP does. What can "
        "change does at once; what cannot is listed, and waits for a restart. When something is wrong, "
        "nothing is changed. Without a name it is the node that is asked (--server).",
    )
    reload.add_argument("nodes", metavar="NODE", nargs="*", help="its name (whoever is asked)")
    reload.add_argument("--all", action="store_true", help="every node of the cluster, one after the other")
    reload.add_argument("--json", action="store_true", help="print JSON, a line for each node")
    add_options(reload, has_log=False)
    reload.set_defaults(run=run_reload)


def run_reload(args: argparse.Namespace) -> int:
    """Let nodes read their settings again; go on with the others when one refuses."""
    code = ExitCode.OK
    with connect(args, is_direct=not (args.nodes or args.all)) as log:
        names = [server.name for server in log.servers().servers] if args.all else args.nodes or [""]
        for name in names:
            try:
                show(log.reload(name), args.json)
            except LoghouseError as error:
                if len(names) == 1:
                    raise
                complain(f"loghouse node: {name}: {error}")
                code = ExitCode.FAILED
    return code


def show(reply: log_pb2.ReloadResponse, as_json: bool) -> None:
    """Print what became of a node's settings."""
    changed, waiting, warnings = list(reply.changed), list(reply.waiting), list(reply.warnings)
    if as_json:
        lists = {"changed": changed, "needs_restart": waiting, "warnings": warnings}
        write_json({"node": reply.node, **lists})
        return
    if not changed and not waiting:
        write_line(f"{reply.node}: nothing is different")
    for line in changed:
        write_line(f"{reply.node}: {line}")
    for line in waiting:
        write_line(f"{reply.node}: needs a restart: {line}")
    for line in warnings:
        write_line(f"{reply.node}: warning: {line}")
