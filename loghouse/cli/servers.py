"""`loghouse servers`: the nodes of the cluster, and the readable range of the log."""

from __future__ import annotations

import argparse
from typing import Any

from loghouse.cli.output import write_json, write_line, write_table
from loghouse.cli.target import add_options, connect


def add_parser(commands: Any) -> None:
    """Add the command to the parser."""
    parser = commands.add_parser(
        "servers", help="list the nodes of the cluster", description="List the nodes of the cluster."
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    add_options(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    """Ask and print."""
    with connect(args) as log:
        view = log.servers()
    uuid = view.cluster_uuid.hex()
    if args.json:
        servers = [
            {
                "id": server.name,
                "address": server.address,
                "grpc_address": server.grpc_address,
                "is_leader": server.is_leader,
                "role": server.role,
                "is_alive": server.is_alive,
            }
            for server in view.servers
        ]
        write_json({"cluster": view.cluster_name, "cluster_uuid": uuid, "servers": servers})
        return
    write_line(f"cluster {view.cluster_name} ({uuid})")
    rows = [
        [
            server.name,
            server.address,
            server.grpc_address or "-",
            server.role or "-",
            "leader" if server.is_leader else "",
            "alive" if server.is_alive else "not alive",
        ]
        for server in view.servers
    ]
    write_table(["NODE", "ADDRESS", "GRPC", "ROLE", "LEADS", "STATE"], rows)
