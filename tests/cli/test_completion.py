"""What the command says about itself: completion for shells, its page for man, `python -m loghouse`."""

import builtins
import importlib.util
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from unittest import mock

from twisted.trial.unittest import SkipTest, SynchronousTestCase

from loghouse import __version__
from loghouse.cli.main import make_parser
from loghouse.cli.output import EXIT_CODES_TEXT, ExitCode
from loghouse.cli.parser import EXAMPLES
from tests.cli.support import CommandCase
from tests.processes import in_children

ROOT = Path(__file__).resolve().parents[2]
# Calls what completes `loghouse`, as bash does, for the words that follow; prints what there is to choose.
ASK = """
complete -p loghouse > /dev/null
function=$(complete -p loghouse | sed 's/.*-F \\([^ ]*\\).*/\\1/')
COMP_WORDS=("$@") COMP_CWORD=$(($# - 1))
$function loghouse "${COMP_WORDS[-1]}" "${COMP_WORDS[-2]}"
printf '%s\\n' "${COMPREPLY[@]}"
"""


def python(*words):
    """Run this Python, as the package's user would."""
    return subprocess.run(
        [sys.executable, *map(str, words)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), *filter(None, sys.path)])},
        capture_output=True,
        text=True,
        timeout=60,
    )


class CompletionTests(CommandCase):
    """`loghouse completion`."""

    def script(self, shell):
        if importlib.util.find_spec("shtab") is None:
            raise SkipTest("there is no shtab here")
        code, out, err = self.run_command("completion", shell)
        self.assertEqual((code, err), (0, ""))
        return out

    def completed(self, *words):
        """Return what bash offers behind these words of a line."""
        path = self.folder / "completion.bash"
        if not path.exists():
            path.write_text(self.script("bash") + ASK)
        done = subprocess.run(["bash", path, *words], capture_output=True, text=True, timeout=60)
        self.assertEqual((done.returncode, done.stderr), (0, ""))
        return done.stdout.split()

    @in_children
    def test_bash(self):
        """bash completes a command, its actions, options, values, files and folders."""
        if shutil.which("bash") is None:
            raise SkipTest("there is no bash here")
        self.assertEqual(self.completed("loghouse", "clu"), ["cluster"])
        self.assertEqual(self.completed("loghouse", "cluster", "h"), ["health"])
        self.assertEqual(self.completed("loghouse", "produce", "--co"), ["--codec", "--config"])
        self.assertEqual(self.completed("loghouse", "produce", "--codec", "z"), ["zstd"])
        (self.folder / "node.yaml").touch()
        (self.folder / "node-data").mkdir()
        self.assertEqual(self.completed("loghouse", "doctor", "--config", "nod"), ["node-data", "node.yaml"])
        self.assertEqual(self.completed("loghouse", "verify", "nod"), ["node-data"])

    def test_zsh(self):
        """The script for zsh names every command."""
        script = self.script("zsh")
        self.assertIn("#compdef loghouse", script)
        for name in ("produce", "consume", "cluster", "completion"):
            self.assertRegex(script, rf"(?m)^    {name}:'")

    def test_json(self):
        """With --json the same script is a text in an object."""
        script = self.script("zsh")
        code, out, _ = self.run_command("completion", "zsh", "--json")
        self.assertEqual((code, json.loads(out)), (0, {"shell": "zsh", "script": script}))

    def test_without_shtab(self):
        """Without shtab the refusal says what to install."""
        there = builtins.__import__

        def imported(name, *args, **kwargs):
            if name == "shtab":
                raise ImportError(name)
            return there(name, *args, **kwargs)

        with mock.patch.object(builtins, "__import__", imported):
            code, out, err = self.run_command("completion", "bash")
        self.assertEqual((code, out), (ExitCode.USAGE, ""))
        self.assertIn("pip install 'loghouse[completion]'", err)


class PageTests(SynchronousTestCase):
    """The page for man, and the module that is the command."""

    @in_children
    def test_man(self):
        """The page has every command with its examples and the exit codes, and roff finds nothing wrong."""
        made = python(ROOT / ".ci" / "man_page.py")
        self.assertEqual((made.returncode, made.stderr), (0, ""))
        text = made.stdout.replace("\\-", "-").replace("\\e", "\\")
        self.assertTrue(text.startswith(".TH LOGHOUSE 1"))
        for name, examples in EXAMPLES.items():
            self.assertIn(f".SS loghouse {name}\n", text)
            self.assertIn(examples.strip(), text)
        self.assertIn(EXIT_CODES_TEXT.strip(), text)
        for told in ("--cursor NAME", "--commit-every TIME", "--wait", "consume --cursor: another consumer"):
            self.assertIn(told, text)
        if shutil.which("groff") is not None:
            shown = subprocess.run(
                ["groff", "-man", "-Tascii", "-ww"],
                input=made.stdout,
                capture_output=True,
                text=True,
                timeout=60,
            )
            self.assertEqual((shown.returncode, shown.stderr), (0, ""))

    @in_children
    def test_module(self):
        """`python -m loghouse` is the command, under its own name."""
        self.assertEqual(python("-m", "loghouse", "--version").stdout, f"loghouse {__version__}\n")
        refused = python("-m", "loghouse", "nonsense")
        self.assertEqual(refused.returncode, ExitCode.USAGE)
        self.assertTrue(refused.stderr.startswith("loghouse: "), refused.stderr)
        self.assertIn("completion", make_parser().format_help())
