"""`loghouse config`: check a node.yaml or client.yaml, or print a commented one."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import Any

from loghouse.cli.output import ExitCode, complain, write_json, write_result
from loghouse.config.settings import client_example_text, example_text, load, load_client
from loghouse.errors import CertificateError, ConfigError


def add_parser(commands: Any) -> None:
    """Add the command and its two actions to the parser."""
    parser = commands.add_parser("config", help="check a node.yaml, or print an example")
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    check = actions.add_parser("check", help="check a node.yaml; every problem is printed")
    check.add_argument("file", metavar="FILE", help="the node.yaml")
    check.add_argument("--client", action="store_true", help="it is a client.yaml")
    check.add_argument("--json", action="store_true", help="print JSON")
    check.set_defaults(run=run_check)
    example = actions.add_parser("example", help="print a commented node.yaml with every setting")
    example.add_argument("--client", action="store_true", help="a client.yaml instead")
    example.add_argument("--json", action="store_true", help="print it as a JSON string")
    example.set_defaults(run=run_example)


def run_check(args: argparse.Namespace) -> int:
    """Print all problems, or one line that there is none."""
    try:
        what = _check_client(args.file) if args.client else _check_node(args.file)
    except CertificateError as error:
        return _refuse(args, [str(error)])
    except ConfigError as error:
        return _refuse(args, error.problems)
    write_result(args, {"file": args.file, "problems": []}, f"{args.file}: fine; {what}")
    return ExitCode.OK


def _check_client(path: str) -> str:
    # Here and below: a machine without what a node needs prints examples, too.
    from loghouse.auth.certificates import load_certificates, read_issued, read_pem

    loaded = load_client(path)
    if loaded.tls is not None:
        read_issued(loaded.tls.certificate, loaded.tls.key)
        load_certificates(read_pem(loaded.tls.ca), loaded.tls.ca)
    return f"commands talk to {', '.join(map(str, loaded.server))}"


def _check_node(path: str) -> str:
    from loghouse.service.start_checks import check_start, read_policy

    loaded = load(path)
    checked = check_start(loaded)
    if checked.problems:
        raise ConfigError(list(checked.problems))
    for warning in read_policy(loaded).rules.warnings:
        complain(f"warning: {warning}")
    untried = "; it runs, so its ports and data directory were not tried" if checked.is_running else ""
    return f"node {loaded.name} of cluster {loaded.cluster} on {loaded.listen}{untried}"


def _refuse(args: argparse.Namespace, problems: Sequence[str]) -> int:
    if args.json:
        write_json({"file": args.file, "problems": list(problems)})
    else:
        for problem in problems:
            complain(problem)
    return ExitCode.USAGE


def run_example(args: argparse.Namespace) -> None:
    """Print the example."""
    text = client_example_text() if args.client else example_text()
    if args.json:
        write_json({"example": text})
    else:
        sys.stdout.write(text)
