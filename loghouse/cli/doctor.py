"""`loghouse doctor`: what is wrong with a node's settings, machine and neighbours, and what to do."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

from loghouse.cli.output import ExitCode, write_json, write_line
from loghouse.service.checkup import OK, PROBLEM, WARNING, Symptom, examine

_MARKS: Final = {OK: "ok      ", WARNING: "warning ", PROBLEM: "PROBLEM "}


def add_parser(commands: Any) -> None:
    """Add the command to the parser."""
    parser = commands.add_parser(
        "doctor",
        help="look for what is wrong with a node's settings, machine and neighbours",
        description="Read a node.yaml and look at certificates, policy, data directory, disk, clock, ports "
        "and the other nodes. Run it where the node runs, as its user; the node may run meanwhile. Exit "
        "code 0: all is well; 6: warnings; 1: a problem.",
    )
    parser.add_argument("--config", metavar="FILE", default="node.yaml", help="the node.yaml (./node.yaml)")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> ExitCode:
    """Print every finding as it is made; return the worst as an exit code."""
    findings: list[Symptom] = []
    for finding in examine(Path(args.config).absolute()):
        findings.append(finding)
        if not args.json:
            show(finding)
    levels = {finding.level for finding in findings}
    if args.json:
        write_json({"file": args.config, "findings": [asdict(finding) for finding in findings]})
    if PROBLEM in levels:
        return ExitCode.FAILED
    return ExitCode.DEGRADED if WARNING in levels else ExitCode.OK


def show(finding: Symptom) -> None:
    """Print one finding, with what to do about it on a line of its own."""
    write_line(f"{_MARKS[finding.level]}{finding.area}: {finding.text}")
    if finding.remedy:
        write_line(f"          {finding.remedy}")
