"""`loghouse completion`: what lets a shell complete commands, options and files with the tab key."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from loghouse.cli.output import CommandError, ExitCode, write_json

SHELLS: Final = ("bash", "zsh")
# What stands for a file or a folder in the help of a command.
_FILES: Final = {"FILE", "PATH"}
_FOLDERS: Final = {"DIR", "DATA_DIR"}


def add_parser(commands: Any) -> None:
    """Add the command to the parser."""
    parser = commands.add_parser(
        "completion",
        help="print what lets a shell complete this command line",
        description="Print a script for a shell. It needs shtab: pip install 'loghouse[completion]'",
    )
    parser.add_argument("shell", choices=SHELLS, help="whose script")
    parser.add_argument("--json", action="store_true", help="print JSON: the script is a text in it")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    """Print the script."""
    try:
        import shtab
    except ImportError:
        raise CommandError(
            "shtab is not installed; pip install 'loghouse[completion]' brings it", ExitCode.USAGE
        ) from None
    from loghouse.cli.main import make_parser

    parser = make_parser()
    for action in _actions(parser):
        if action.metavar in _FILES:
            action.complete = shtab.FILE  # type: ignore[attr-defined]
        elif action.metavar in _FOLDERS or action.type is Path:
            action.complete = shtab.DIRECTORY  # type: ignore[attr-defined]
    script = shtab.complete(parser, args.shell)
    if args.json:
        write_json({"shell": args.shell, "script": script})
    else:
        sys.stdout.write(script)


def _actions(parser: argparse.ArgumentParser) -> Iterator[argparse.Action]:
    for action in parser._actions:
        yield action
        if isinstance(action, argparse._SubParsersAction):
            for inner in dict.fromkeys(action.choices.values()):
                yield from _actions(inner)
