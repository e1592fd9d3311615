"""The `loghouse` command: its parts, and how each ends.

No traceback for a user's mistake: an error of ours is one line on stderr and an exit code (`ExitCode`).
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import Any, Final

from loghouse import __version__
from loghouse.cli.failures import exit_code, failure_as_json, next_step
from loghouse.cli.output import EXIT_CODES_TEXT, CommandError, ExitCode, complain
from loghouse.cli.parser import Parser, joined
from loghouse.errors import LoghouseError, what_brings
from loghouse.text import visible_json

_MODULES: Final[Mapping[str, str]] = {
    "produce": "produce",
    "consume": "consume",
    "tail": "consume",
    "bench": "bench",
    "servers": "servers",
    "log": "logs",
    "cursor": "cursors",
    "cluster": "cluster",
    "node": "node",
    "inspect": "disk",
    "verify": "disk",
    "recover": "disk",
    "backup": "backup",
    "restore": "restore",
    "dissect": "dissect",
    "certs": "certs",
    "config": "settings",
    "doctor": "doctor",
    "demo": "demo",
    "completion": "completion",
}
"""Where each command is, in the order of `loghouse --help`. All of them take most of a second to load."""


def make_parser(words: Sequence[str] = ()) -> argparse.ArgumentParser:
    """Return the parser of the whole command line, or of as much as these words need."""
    parser = Parser(
        prog="loghouse",
        description="Talk to a Loghouse node, and look after its files. The node itself runs under twistd: "
        "twistd -n loghouse --config node.yaml",
        epilog=EXIT_CODES_TEXT,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"loghouse {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for module in _needed(words):
        try:
            found = import_module(f"loghouse.cli.{module}")
        except ModuleNotFoundError as error:
            _stand_in(commands, module, what_brings(error))
        else:
            found.add_parser(commands)
    return parser


def _stand_in(commands: Any, module: str, text: str) -> None:
    """Add the commands of a module that needs what is not installed: they say so."""

    def refuse(args: argparse.Namespace) -> None:
        raise CommandError(text, ExitCode.USAGE)

    for name in (name for name, place in _MODULES.items() if place == module):
        # Without a character that begins options all that follows is words: nobody knows here what it means.
        parser = commands.add_parser(name, help=text, add_help=False, prefix_chars="\0")
        parser.add_argument("words", nargs="*")
        parser.set_defaults(run=refuse)


def _needed(words: Sequence[str]) -> Sequence[str]:
    """Return the modules to load. Options come behind a command: the first word is one, or all are needed."""
    first = words[0] if words else ""
    if first == "--version":
        return ()
    return (_MODULES[first],) if first in _MODULES else tuple(dict.fromkeys(_MODULES.values()))


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command, of these words or of this process's; return its exit code."""
    words = joined(sys.argv[1:] if arguments is None else arguments)
    args = make_parser(words).parse_args(words)
    try:
        code = args.run(args)  # None when all that can go wrong is raised
        sys.stdout.flush()
    except BrokenPipeError:
        # Whoever read our output has seen enough. Python would complain when it flushes stdout at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return ExitCode.OK
    except KeyboardInterrupt:
        return ExitCode.INTERRUPTED
    except ModuleNotFoundError as error:
        _complain(args, CommandError(what_brings(error), ExitCode.USAGE))
        return ExitCode.USAGE
    except (LoghouseError, OSError) as error:
        _complain(args, error)
        return exit_code(error)
    return ExitCode.OK if code is None else int(code)


def _complain(args: argparse.Namespace, error: Exception) -> None:
    """Say on stderr what went wrong; as JSON where the results would be."""
    text = str(error)
    if isinstance(error, OSError) and error.filename is not None:
        text = f"{error.filename}: {error.strerror}"
    step = next_step(error, args.command)
    if step:
        text = f"{text} ({step})"
    if getattr(args, "json", False):
        sys.stderr.write(visible_json(failure_as_json(error, text)) + "\n")
    else:
        complain(f"loghouse {args.command}: {text}")


if __name__ == "__main__":
    sys.exit(main())
