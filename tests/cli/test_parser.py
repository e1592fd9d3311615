"""The command line itself: what each command takes without an option, and what each option sets."""

import argparse
import shlex
from pathlib import Path

from loghouse.cli.main import make_parser
from loghouse.cli.parser import EXAMPLES, joined
from loghouse.config.values import Address
from loghouse.limits import KIB, UINT64_MAX
from tests.cli.support import CommandCase

CONNECTION = {
    "server": None,
    "cluster": None,
    "ca": None,
    "cert": None,
    "key": None,
    "config": None,
    "plaintext": False,
    "timeout": 10.0,
    "direct": False,
    "transport": "binary",
    "log": "",
}
OUTPUT = {"record_key": None, "header": [], "local": False, "reverse": False, "grep": None,
          "format": "lines", "offsets": False, "template": None,
          "output": None, "dir": None, **CONNECTION}  # fmt: skip
SETTINGS = {"retention_bytes": None, "retention_age": None, "record_max": None, "rate_max": None, "tag": None}
ISSUED = {"dir": Path("certs"), "key": "p256", "days": None, "force": False}

# Each command with no more words than it needs, and what it then takes.
DEFAULTS = {
    "produce": {"value": None, "file": None, "format": "lines", "record_key": None, "header": [],
                "rate": None, "batch": None, "codec": "none", "dir": None, **CONNECTION},
    "consume": {"start": "earliest", "last": None, "until": None, "follow": False, "count": None,
                "cursor": None, "commit_every": 1, "wait": False, **OUTPUT},
    "tail": {"start": "earliest", "last": 10, "until": None, "follow": True, "count": None,
             "cursor": None, "wait": False, **OUTPUT},
    "bench produce": {"size": 100, "batch": None, "codec": "none", "sync": False, "records": 100_000,
                      **CONNECTION},
    "bench consume": {"records": None, **CONNECTION},
    "servers": CONNECTION,
    "log create orders": {"name": "orders", "replicas": 3, "on": (), **SETTINGS, **CONNECTION},
    "log list": {"strays": False, "watch": False, **CONNECTION},
    "log describe orders": {"name": "orders", **CONNECTION},
    "log alter orders": {"name": "orders", **SETTINGS, **CONNECTION},
    "log delete orders": {"name": "orders", "yes": False, **CONNECTION},
    "log repair orders --replace n2 --with n4": {
        "name": "orders", "replace": "n2", "new": "n4", **CONNECTION,
    },
    "cursor list": {"all": False, **CONNECTION},
    "cursor get billing": {"name": "billing", **CONNECTION},
    "cursor set billing --position 7": {"name": "billing", "position": 7, **CONNECTION},
    "cursor delete billing": {"name": "billing", "yes": False, **CONNECTION},
    "cluster status": {"watch": False, **CONNECTION},
    "cluster health": {"wait": 0.0, **CONNECTION},
    "doctor": {"config": "node.yaml"},
    "node reload": {"nodes": [], "all": False, **CONNECTION},
    "cluster add n1": {"node": "n1", "learner": False, **CONNECTION},
    "cluster remove n1": {"node": "n1", **CONNECTION},
    "cluster leave": CONNECTION,
    "cluster transfer": {"node": "", **CONNECTION},
    "cluster trim --offset 7": {"offset": 7, **CONNECTION},
    "inspect data": {"data_dir": "data", "entries": False, "low": 0, "high": UINT64_MAX},
    "inspect --dir data": {"data_dir": "data", "entries": False, "low": 0, "high": UINT64_MAX},
    "verify data": {"data_dir": "data"},
    "verify --dir data": {"data_dir": "data"},
    "recover data": {"data_dir": "data", "accept_data_loss": False, "new_cluster": False},
    "backup dir": {"words": ["dir"], "names": [], "all": False, **CONNECTION},
    "restore dir --config node.yaml": {"path": "dir", "config": "node.yaml", "names": []},
    "dissect 00": {"what": "00", "form": None, "cluster": None, "group": 1},
    "certs init": {"name": "loghouse CA", **ISSUED},
    "certs node --cluster c1 n1": {"name": "n1", "cluster": "c1", "host": [], **ISSUED},
    "certs client root": {"name": "root", **ISSUED},
    "certs deny a.pem": {"files": [Path("a.pem")], "denylist": None},
    "config check node.yaml": {"file": "node.yaml", "client": False},
    "config example": {"client": False},
    "demo": {"dir": Path("dev"), "file": Path("README.md"), "nodes": 3, "listen": Address("127.0.0.1", 8400),
             "once": False},
    "completion bash": {"shell": "bash"},
}  # fmt: skip

# For a command: words behind it, and what they set.
OPTIONS = {
    "produce": {
        "--value a --value b": {"value": ["a", "b"]},
        "--file a --file -": {"file": ["a", "-"]},
        "--format json": {"format": "json"},
        "--record-key k": {"record_key": "k"},
        "--header a=b --header c=": {"header": [("a", b"b"), ("c", b"")]},
        "--rate 0.5": {"rate": 0.5},
        "--rate 1000000": {"rate": 1e6},
        "--batch": {"batch": 256 * KIB},
        "--batch 1": {"batch": 1},
        "--batch 8MiB": {"batch": 8 << 20},
        "--codec zstd": {"codec": "zstd"},
        "--server a:1,b": {"server": "a:1,b"},
        "--cluster c1 --ca ca --cert cert --key key": {
            "cluster": "c1", "ca": "ca", "cert": "cert", "key": "key",
        },
        "--config client.yaml": {"config": "client.yaml"},
        "--plaintext --direct": {"plaintext": True, "direct": True},
        "--timeout 1.5s": {"timeout": 1.5},
        "--transport grpc --log other": {"transport": "grpc", "log": "other"},
        "--dir d": {"dir": "d"},
    },
    "consume": {
        "--from 7": {"start": 7},
        "--from latest --follow": {"start": "latest", "follow": True},
        "--last 0": {"last": 0},
        "--until 9": {"until": 9},
        "--cursor a --commit-every 5m --wait": {"cursor": "a", "commit_every": 300, "wait": True},
        "--record-key k": {"record_key": "k"},
        "--header a=1 --header b=": {"header": [("a", b"1"), ("b", b"")]},
        "--reverse --local": {"reverse": True, "local": True},
        "--count 0": {"count": 0},
        "--format length-prefixed --offsets": {"format": "length-prefixed", "offsets": True},
        "--output file": {"output": "file"},
        "--dir d": {"dir": "d"},
    },
    "bench produce": {
        "--size 1KiB --batch 2 --codec zstd --sync --records 3": {
            "size": 1024, "batch": 2, "codec": "zstd", "sync": True, "records": 3,
        },
    },
    "tail": {"-n 3 --offsets --json": {"last": 3, "offsets": True, "json": True}},
    "bench consume": {"--records 3": {"records": 3}},
    "log create orders": {
        "--replicas 5 --on n1,n2": {"replicas": 5, "on": ("n1", "n2")},
        "--retention-bytes 1GiB --retention-age 7d": {"retention_bytes": 1 << 30, "retention_age": 604_800},
        "--record-max 1KiB --rate-max 2KiB": {"record_max": 1024, "rate_max": 2048},
        "--tag a --tag b": {"tag": ["a", "b"]},
    },
    "log list": {"--strays --watch": {"strays": True, "watch": True}},
    "log alter orders": {
        "--retention-bytes unlimited --retention-age unlimited": {"retention_bytes": 0, "retention_age": 0},
    },
    "log delete orders": {"--yes": {"yes": True}},
    "cursor list": {"--all": {"all": True}},
    "cursor delete billing": {"--yes --log a": {"yes": True, "log": "a"}},
    "cluster status": {"--watch": {"watch": True}},
    "cluster add n1": {"--learner": {"learner": True}},
    "cluster transfer": {"n2": {"node": "n2"}},
    "inspect data": {"--entries --from 3 --to 4": {"entries": True, "low": 3, "high": 4}},
    "recover data": {"--accept-data-loss --new-cluster": {"accept_data_loss": True, "new_cluster": True}},
    "backup dir": {
        "--all": {"all": True},
        "--log a --log b": {"names": ["a", "b"]},
    },
    "restore dir --config node.yaml": {"--log a": {"names": ["a"]}},
    "dissect 00": {"--as entries --group 7": {"form": "entries", "group": 7}, "--as wire": {"form": "wire"}},
    "certs init": {
        "--name ca --dir d --key rsa2048 --days 7 --force": {
            "name": "ca", "dir": Path("d"), "key": "rsa2048", "days": 7, "force": True,
        },
    },
    "certs node --cluster c1 n1": {"--host a --host b --days 7": {"host": ["a", "b"], "days": 7}},
    "certs client root": {"--dir d --key rsa2048": {"dir": Path("d"), "key": "rsa2048"}},
    "certs deny a.pem": {
        "b.pem --denylist d": {"files": [Path("a.pem"), Path("b.pem")], "denylist": Path("d")},
    },
    "config check node.yaml": {"--client": {"client": True}},
    "config example": {"--client": {"client": True}},
    "demo": {
        "--dir d --file f --nodes 5 --once": {
            "dir": Path("d"), "file": Path("f"), "nodes": 5, "once": True,
        },
        "--nodes 1 --listen localhost:8500": {"nodes": 1, "listen": Address("localhost", 8500)},
    },
}  # fmt: skip

# What the help calls the value of each option and place, by its commands.
WORDS = {
    "--batch": {"SIZE"},
    "--ca": {"FILE"},
    "--cert": {"FILE"},
    "--cluster": {"CLUSTER", "NAME", "UUID"},
    "--config": {"FILE"},
    "--commit-every": {"TIME"},
    "--count": {"N"},
    "--cursor": {"NAME"},
    "--days": {"DAYS"},
    "--denylist": {"PATH"},
    "--dir": {"DATA_DIR", "DIR"},
    "--file": {"FILE", "PATH"},
    "--from": {"INDEX", "WHERE"},
    "--grep": {"REGEX"},
    "--group": {"GROUP"},
    "--header": {"NAME=TEXT"},
    "--host": {"HOST"},
    "--key": {"FILE"},
    "--last": {"N"},
    "--listen": {"HOST:PORT"},
    "--log": {"NAME"},
    "--name": {"NAME"},
    "--offset": {"N"},
    "--on": {"NODE,..."},
    "--output": {"PATH"},
    "--position": {"N"},
    "--rate": {"N"},
    "--rate-max": {"SIZE"},
    "--record-key": {"TEXT"},
    "--record-max": {"SIZE"},
    "--records": {"N"},
    "--replace": {"NODE"},
    "--replicas": {"N"},
    "--retention-age": {"TIME"},
    "--retention-bytes": {"SIZE"},
    "--server": {"HOST:PORT,..."},
    "--size": {"SIZE"},
    "--tag": {"TEXT"},
    "--template": {"TEXT"},
    "--timeout": {"TIME"},
    "--to": {"INDEX"},
    "--until": {"WHERE"},
    "--value": {"TEXT"},
    "--wait": {"TIME"},
    "--with": {"NODE"},
    "data_dir": {"DATA_DIR"},
    "file": {"FILE"},
    "files": {"FILE"},
    "name": {"NAME"},
    "node": {"NODE"},
    "nodes": {"NODE"},
    "path": {"DIR"},
    "what": {"FILE|HEX|-"},
    "words": {"[verify] DIR"},
}

# Words that no command takes: which option, and what is said of it.
REFUSED = {
    "produce --value a --file b": "not allowed with",
    "produce --format xml": "invalid choice: 'xml'",
    "produce --codec gzip": "invalid choice: 'gzip'",
    "produce --header a": "'a' is no header; allowed: NAME=TEXT",
    "produce --header =a": "'=a' is no header; allowed: NAME=TEXT",
    "produce --rate 0": "'0' is no rate; allowed: records a second, above 0, at most 1000000",
    "produce --rate 1000001": "'1000001' is no rate",
    "produce --rate fast": "'fast' is no rate",
    "produce --batch 0": "'0' is out of range; allowed: 1 to 8388608 bytes",
    "produce --batch 8388609": "'8388609' is out of range",
    "produce --batch large": "'large' ",
    "produce --timeout 0": "'0' is no time to wait; allowed: more than 0",
    "produce --timeout soon": "'soon' ",
    "produce --transport http": "invalid choice: 'http'",
    "consume --count x": "'x' is not a count; allowed: a number from 0",
    "consume --count -1": "'-1' is not a count; allowed: a number from 0",
    "consume --from never": "'never'",
    "consume --format xml": "invalid choice: 'xml'",
    "bench": "ACTION",
    "bench produce --codec gzip": "invalid choice: 'gzip'",
    "log": "ACTION",
    "log create": "",
    "log create orders --replicas 6": "'6' is not a number of nodes; allowed: 1 to 5",
    "log create orders --retention-bytes much": "'much' is not a size",
    "log create orders --retention-age 1.5s": "'1.5s' is not a whole number of seconds",
    "log create orders --log orders": "unrecognized arguments",
    "log repair orders --replace n1": "--with",
    "log repair orders --with n1": "--replace",
    "cluster": "ACTION",
    "cluster add": "",
    "cluster trim": "--offset",
    "inspect": "",
    "inspect data --dir data": "not allowed with",
    "inspect data --from x": "'x' is not ",
    "consume --last 3 --from 2": "not allowed with",
    "consume --until x": "'x' is no place",
    "consume --grep (": "'(' is no regular expression",
    "consume --template %q": "'%q' in '%q' is unknown",
    "consume --template a\\b": "is unknown",
    "backup": "DIR",
    "restore dir": "--config",
    "dissect 00 --as text": "invalid choice: 'text'",
    "certs": "ACTION",
    "certs node n1": "--cluster",
    "certs init --key dsa": "invalid choice: 'dsa'",
    "certs init --days 0": "'0' ",
    "config": "ACTION",
    "demo --nodes 0": "invalid choice: 0",
    "demo --nodes 2": "invalid choice: 2",
    "demo --listen 127.0.0.1:0": "'127.0.0.1:0' ",
    "": "COMMAND",
}


def parsers(parser, words=()):
    """Yield each command's words and parser, those that only hold others included."""
    yield words, parser
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for name, command in action.choices.items():
                yield from parsers(command, (*words, name))


class ParserTests(CommandCase):
    """`make_parser`."""

    def parse(self, words):
        parsed = vars(make_parser().parse_args(words.split()))
        self.assertTrue(callable(parsed.pop("run")))
        return parsed

    def test_defaults(self):
        """Without options each command takes what its help says, prints for people, and knows its name."""
        commands = {" ".join(words) for words, _ in parsers(make_parser())}
        for words, expected in DEFAULTS.items():
            parsed = self.parse(words)
            command, *rest = words.split()
            names = {"command": command, "json": False}
            if f"{command} {rest[0] if rest else ''}" in commands:
                names["action"] = rest[0]
            self.assertEqual(parsed, {**names, **expected}, words)
            self.assertEqual(self.parse(f"{words} --json"), {**parsed, "json": True})

    def test_options(self):
        """Each option sets what it names, and nothing else."""
        for words, options in OPTIONS.items():
            before = self.parse(words)
            for option, changed in options.items():
                self.assertEqual(self.parse(f"{words} {option}"), {**before, **changed}, (words, option))
        self.assertEqual(self.parse("consume -n 3")["count"], 3)

    def test_refused(self):
        """What no command takes: exit code 2, a line that says why, and nothing is done."""
        for words, text in REFUSED.items():
            code, out, err = self.run_command(*words.split())
            self.assertEqual((code, out, err.count("\n")), (2, "", 1), words)
            self.assertIn(text, err)

    def test_examples(self):
        """The help of each command ends with examples, and these are command lines."""
        commands = {
            " ".join(words): parser
            for words, parser in parsers(make_parser())
            if not any(isinstance(one, argparse._SubParsersAction) for one in parser._actions)
        }
        self.assertEqual(commands.keys(), EXAMPLES.keys())
        for command, parser in commands.items():
            for line in EXAMPLES[command].splitlines():
                self.assertIn(f"\n  {line}\n", parser.format_help())
                words = shlex.split(line, comments=True)
                own = words[words.index("loghouse") + 1 :]
                own = own[: own.index("|")] if "|" in own else own
                self.assertEqual(" ".join(own[: len(command.split())]), command, line)
                make_parser().parse_args(joined(own))

    def test_explained(self):
        """Every command says what it does, every option what it is for and what it takes."""
        listed = 0
        shown = {}
        for words, parser in parsers(make_parser()):
            is_group = any(isinstance(one, argparse._SubParsersAction) for one in parser._actions)
            self.assertTrue(is_group or len(words) > 1 or parser.description, words)
            for action in parser._actions:
                listed += 1
                if isinstance(action, argparse._SubParsersAction):
                    self.assertEqual([one.dest for one in action._choices_actions], list(action.choices))
                    for command in action._choices_actions:
                        self.assertTrue(command.help, (words, command.dest))
                    self.assertIn(action.metavar, ("COMMAND", "ACTION"), words)
                    self.assertTrue(action.required, words)
                    continue
                self.assertTrue(action.help, (words, action.dest))
                if action.nargs != 0 and not action.choices:
                    name = next(iter(action.option_strings), action.dest)
                    shown.setdefault(name, set()).add(action.metavar or action.dest.upper())
        self.assertGreater(listed, 200)
        self.assertEqual(shown, WORDS)

    def test_connection(self):
        """Where to connect is explained in one place, in every command that talks to a node."""
        count = 0
        for words, parser in parsers(make_parser()):
            options = {option for action in parser._actions for option in action.option_strings}
            if "--server" not in options:
                continue
            count += 1
            [group] = [group for group in parser._action_groups if group.title == "connection"]
            self.assertTrue(group.description.startswith("from here, LOGHOUSE_SERVER etc., or "), words)
            self.assertIn(
                "--server", {option for one in group._group_actions for option in one.option_strings}
            )
        self.assertGreaterEqual(count, 10)

    def test_loaded_when_used(self):
        """A command is the same when it alone is loaded; only help and mistakes load all of them."""
        every = dict(parsers(make_parser()))
        modules = {words[:1]: parser.get_default("run").__module__ for words, parser in every.items()
                   if parser.get_default("run")}  # fmt: skip
        for words, parser in every.items():
            alone = dict(parsers(make_parser(words)))
            self.assertEqual(alone[words].format_help(), parser.format_help(), words)
            if words:
                beside = {modules[other[:1]] for other in alone if other}
                self.assertEqual(beside, {modules[words[:1]]}, words)
        for words, count in (("--version",), 1), (("--help",), len(every)), (("produces",), len(every)):
            self.assertEqual(len(dict(parsers(make_parser(words)))), count, words)

    def test_version(self):
        """`--version` tells it, and `--help` lists the exit codes."""
        code, out, _ = self.run_command("--version")
        self.assertEqual((code, out.split()[0]), (0, "loghouse"))
        code, out, _ = self.run_command("--help")
        self.assertEqual(code, 0)
        for text in ("usage: loghouse ", "exit codes", "twistd -n loghouse --config node.yaml"):
            self.assertIn(text, out.lower() if text == "exit codes" else out)
