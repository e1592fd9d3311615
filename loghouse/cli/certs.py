"""`loghouse certs`: make a CA, and certificates of nodes and clients that it signs."""

from __future__ import annotations

import argparse
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from loghouse.auth.certificates import (
    Issued,
    KeyKind,
    check_same_holder,
    load_certificates,
    make_ca,
    make_client_certificate,
    make_node_certificate,
    read_issued,
    read_pem,
    write_issued,
)
from loghouse.auth.denylist import add_to_denylist, entry_of
from loghouse.cli.options import number
from loghouse.cli.output import CommandError, ExitCode, write_json, write_line, write_result

CA_FILE = "ca"
MODEL_FILE = "model.conf"
POLICY_FILE = "policy.csv"

# The same as in the repository's certs/ folder, for those who have only the package.
MODEL_TEXT = """[request_definition]
r = sub, obj, act

[policy_definition]
p = sub, obj, act

[policy_effect]
e = some(where (p.eft == allow))

[matchers]
m = r.sub == p.sub && r.obj == p.obj && r.act == p.act
"""
POLICY_TEXT = """p, root, *, produce
p, root, *, consume
p, root, *, admin
p, root, *, manage
"""


def add_parser(commands: Any) -> None:
    """Add the command and its actions to the parser."""
    parser = commands.add_parser("certs", help="make a CA and certificates of nodes and clients, or deny one")
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    init = actions.add_parser("init", help="make a certificate authority, and a policy to start from")
    init.add_argument("--name", default="loghouse CA", help="its common name")
    node = actions.add_parser("node", help="make a node's certificate: NAME.pem and NAME.key")
    node.add_argument("name", metavar="NAME", help="the node's name, as `node` in its node.yaml")
    node.add_argument("--cluster", required=True, help="the cluster's name, as in node.yaml")
    node.add_argument(
        "--host",
        action="append",
        default=[],
        help="a DNS name or IP address under which clients reach it (may be repeated)",
    )
    client = actions.add_parser("client", help="make a client's certificate: NAME.pem and NAME.key")
    client.add_argument("name", metavar="NAME", help="the subject that the policy names")
    deny = actions.add_parser(
        "deny",
        help="print the denylist's line for a certificate, or add it to the list",
        description="Deny a certificate and every other one of its key.",
    )
    deny.add_argument("files", metavar="FILE", type=Path, nargs="+", help="a certificate to deny (PEM)")
    deny.add_argument("--denylist", type=Path, metavar="PATH", help="add to this list, a node's tls.denylist")
    deny.add_argument("--json", action="store_true", help="print JSON")
    deny.set_defaults(run=run_deny)
    days = number("a number of days", lowest=1, highest=36500, allowed="1 to 36500")
    for action, run in ((init, run_init), (node, run_node), (client, run_client)):
        action.add_argument("--dir", type=Path, default=Path("certs"), help="where the files are (certs)")
        action.add_argument(
            "--key", choices=[kind.value for kind in KeyKind], default="p256", help="kind of key (p256)"
        )
        action.add_argument("--days", type=days, help="how long it is valid")
        action.add_argument("--force", action="store_true", help="replace files that are there")
        action.add_argument("--json", action="store_true", help="print JSON")
        action.set_defaults(run=run)


def run_init(args: argparse.Namespace) -> None:
    """Make a CA."""
    args.dir.mkdir(parents=True, exist_ok=True)
    write_policy(args.dir)
    _write(args, make_ca(args.name, **_making(args)), CA_FILE)


def run_node(args: argparse.Namespace) -> None:
    """Make a node's certificate."""
    ca = _read_ca(args.dir)
    issued = make_node_certificate(ca, cluster=args.cluster, node=args.name, hosts=args.host, **_making(args))
    _write(args, issued, args.name)


def run_client(args: argparse.Namespace) -> None:
    """Make a client's certificate."""
    _write(args, make_client_certificate(_read_ca(args.dir), name=args.name, **_making(args)), args.name)


def run_deny(args: argparse.Namespace) -> None:
    """Print or add the entries of the first certificate of each file, which is its holder's."""
    lines = [entry_of(load_certificates(read_pem(path), path)[0]) for path in args.files]
    if args.denylist is not None:
        add_to_denylist(args.denylist, lines)
    if args.json:
        write_json({"entries": [line.partition(" ")[0] for line in lines]})
        return
    for line in lines:
        write_line(line)
    if args.denylist is not None:
        write_line(f"added to {args.denylist}; nodes that read it act within seconds")


def write_policy(folder: Path) -> None:
    """Write the permissions to start from: `root` may do everything. Files that are there stay."""
    for name, text in ((MODEL_FILE, MODEL_TEXT), (POLICY_FILE, POLICY_TEXT)):
        if not (folder / name).exists():
            (folder / name).write_text(text)


def _making(args: argparse.Namespace) -> dict[str, Any]:
    """Return what every kind of certificate is made with."""
    days = {} if args.days is None else {"days": args.days}
    return {"now": datetime.now(UTC), "key": KeyKind(args.key), **days}


def _read_ca(folder: Path) -> Issued:
    return read_issued(folder / f"{CA_FILE}.pem", folder / f"{CA_FILE}.key")


def _write(args: argparse.Namespace, issued: Issued, name: str) -> None:
    # A name may hold what a file name must not; it is the certificate that says who it is.
    stem = "".join(c if c.isalnum() or c in "-_.@" else "_" for c in name).lstrip(".") or "_"
    certificate, key = args.dir / f"{stem}.pem", args.dir / f"{stem}.key"
    if args.run is not run_init:
        if stem == CA_FILE:
            raise CommandError(f"{certificate} is the CA's; choose another name", ExitCode.USAGE)
        check_same_holder(issued, certificate)
    write_issued(issued, certificate, key, may_replace=args.force)
    made = {"certificate": str(certificate), "key": str(key)}
    write_result(args, made, f"made {certificate} and {key}")
