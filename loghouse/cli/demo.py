"""`loghouse demo`, which `make run` runs: nodes, a file through them and back, and what to try next.

Everything it makes is in one folder (./dev): delete the folder to start over.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final

from loghouse.cli.demo_cluster import Cast, print_members, show, trip
from loghouse.cli.demo_nodes import (
    HTTP_PORTS_BEHIND,
    DemoNode,
    check_port,
    demo_nodes,
    interruptible,
    prepare,
    serve_until_interrupted,
    shown,
    typed,
)
from loghouse.cli.demo_trip import figures
from loghouse.cli.output import CommandError, ExitCode, write_json, write_line
from loghouse.config.values import Address, parse_address

NODE_COUNTS: Final = (1, 3, 5)


def add_parser(commands: Any) -> None:
    """Add the command to the parser."""
    parser = commands.add_parser(
        "demo",
        help="run nodes of your own with certificates, and put a file through them",
        description="Make development certificates and settings, start three nodes, append every line of a "
        "file, read all back from each node, compare, kill the leader, go on, and keep serving until Ctrl-C.",
    )
    parser.add_argument("--dir", type=Path, default=Path("dev"), help="where everything is kept (dev)")
    parser.add_argument("--file", type=Path, default=Path("README.md"), help="the file (README.md)")
    parser.add_argument("--nodes", type=int, choices=NODE_COUNTS, default=3, help="how many nodes (3)")
    parser.add_argument(
        "--listen",
        type=_address,
        default=Address("127.0.0.1", 8400),
        metavar="HOST:PORT",
        help="where the first node listens (127.0.0.1:8400), the others on the ports behind it",
    )
    parser.add_argument("--once", action="store_true", help="stop when all was shown")
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    parser.set_defaults(run=run)


def _address(text: str) -> Address:
    try:
        address = parse_address(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} {error}") from None
    if not address.is_loopback or not address.port:
        raise argparse.ArgumentTypeError(
            f"{text!r} is not for development certificates; allowed: a port of 127.0.0.1 or localhost"
        )
    return address


def run(args: argparse.Namespace) -> None:
    """Do it all."""
    folder = Path(os.path.abspath(args.dir))
    if not args.file.is_file():
        raise CommandError(
            f"{args.file}: no such file; name one with --file (make run FILE=...)", ExitCode.USAGE
        )
    if args.listen.port + HTTP_PORTS_BEHIND + args.nodes - 1 > 65535:
        raise CommandError(f"--listen: {args.listen} leaves no port for node-{args.nodes}", ExitCode.USAGE)
    nodes = demo_nodes(folder, args.listen, args.nodes)
    for node in nodes:
        check_port(node.listen)
        check_port(node.http_listen)
    prepare(folder, nodes)
    say: Callable[[str], None] = (lambda text: None) if args.json else write_line
    with ExitStack() as stack:
        stack.enter_context(interruptible())
        cast = Cast(folder, nodes, stack)
        result = _show_one(cast, args.file, say) if args.nodes == 1 else show(cast, args.file, say)
        if args.json:
            write_json(result)
        elif args.nodes > 1:
            print_members(result["nodes"])
        if not args.once:
            _print_next(folder, nodes)
            sys.stdout.flush()
            serve_until_interrupted(list(cast.running.values()), say)
        say("stopping the node" if args.nodes == 1 else "stopping the nodes")


def _show_one(cast: Cast, path: Path, say: Callable[[str], None]) -> dict[str, Any]:
    """Put the file through one node; return the figures."""
    cast.start_all()
    (node,) = cast.nodes
    say(f"node {node.name} serves gRPC on {node.listen} (its diagnostics: {shown(node.log_path)})")
    return figures(*trip(cast, node, path, [node], say))


def _print_next(folder: Path, nodes: Sequence[DemoNode]) -> None:
    """Print commands that work as they are, in another terminal."""
    command = typed("loghouse")
    config = "" if folder == Path.cwd() / "dev" else f" --config {shown(folder / 'client.yaml')}"
    certs = shown(folder / "certs")
    addresses = ", ".join(f"http://{node.http_listen}/" for node in nodes)
    write_line(
        f"\nthe console, for everyone on this machine: {addresses}\n"
        f"\ntry, in another terminal:\n"
        f"  {command} consume{config} --offset 0 --count 5\n"
        f"  {command} consume{config} --offset latest --follow\n"
        f"  {command} produce{config} --value 'hello'\n"
        f"  {command} cluster status{config}\n"
        f"  {command} produce{config} --value 'hello' --cert {certs}/nobody.pem --key {certs}/nobody.key"
        "   # is refused\n"
        "\nserving until Ctrl-C"
    )
