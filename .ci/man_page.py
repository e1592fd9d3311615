"""Writes loghouse(1), a page of `man`, out of the command's own parser: `man_page.py > loghouse.1`."""

import argparse
import re
import sys
from collections.abc import Iterator

from loghouse import __version__
from loghouse.cli.main import make_parser
from loghouse.cli.output import EXIT_CODES_TEXT
from loghouse.cli.parser import EXAMPLES


def escaped(text: str) -> str:
    """Return text as roff shows it as it is."""
    text = text.replace("\\", "\\e").replace("-", "\\-")
    return re.sub(r"(?m)^(?=[.'])", r"\\&", text)


def verbatim(text: str) -> str:
    """Return lines that stay as they are."""
    return f".nf\n{escaped(text.strip())}\n.fi\n"


def described(action: argparse.Action, formatter: argparse.HelpFormatter) -> str:
    """Return an argument's entry: how it is written, and what it is."""
    shown = formatter._format_action_invocation(action)
    return (
        f".TP\n\\fB{escaped(shown)}\\fR\n{escaped(formatter._expand_help(action) if action.help else '')}\n"
    )


def subparsers_of(parser: argparse.ArgumentParser) -> Iterator[tuple[str, argparse.ArgumentParser]]:
    """Yield the parsers of a command's actions, each with its line of help."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            helps = {choice.dest: choice.help or "" for choice in action._choices_actions}
            for name, inner in action.choices.items():
                yield helps.get(name, ""), inner


def section(summary: str, parser: argparse.ArgumentParser) -> Iterator[str]:
    """Yield a command's part, then those of its actions."""
    formatter = parser._get_formatter()
    inner = list(subparsers_of(parser))
    if not inner:
        usage = " ".join(parser.format_usage().partition(" ")[2].split())
        yield f".SS {escaped(parser.prog)}\n{escaped(parser.description or summary)}\n.PP\n{escaped(usage)}\n"
        for action in parser._actions:
            if action.help != argparse.SUPPRESS and "--help" not in action.option_strings:
                yield described(action, formatter)
        examples = EXAMPLES.get(parser.prog.partition(" ")[2])
        if examples:
            yield f".PP\nExamples:\n.PP\n{verbatim(examples)}"
    for text, one in inner:
        yield from section(text, one)


def page() -> str:
    """Return the whole page."""
    parser = make_parser()
    parts = [
        f'.TH LOGHOUSE 1 "" "loghouse {__version__}"\n',
        ".SH NAME\nloghouse \\- a replicated append\\-only log: its command\n",
        ".SH SYNOPSIS\n.B loghouse\n\\fICOMMAND\\fR ...\n",
        f".SH DESCRIPTION\n{escaped(parser.description or '')}\n",
        ".SH COMMANDS\n",
        *(part for text, one in subparsers_of(parser) for part in section(text, one)),
        f".SH EXIT STATUS\n{verbatim(EXIT_CODES_TEXT)}",
    ]
    return "".join(parts)


sys.stdout.write(page())
