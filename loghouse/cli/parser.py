"""The command line's parser: a mistake is one line, and the help of each command ends with examples."""

from __future__ import annotations

import argparse
import re
from collections.abc import Mapping, Sequence
from typing import Final, NoReturn

from loghouse.cli.output import ExitCode

AGO: Final = re.compile(r"-?(\d+(?:\.\d+)?(?:ms|s|m|h|d|w))")
"""A time span that says how long ago: `2h`, `-2h`."""
_TAKE_PLACES: Final = ("--from", "--offset", "--until")

EXAMPLES: Final[Mapping[str, str]] = {
    "produce": """\
loghouse produce --value hello --record-key greetings
tail -F app.log | loghouse produce --log orders
loghouse produce --file events.jsonl --format json --codec zstd""",
    "consume": """\
loghouse consume --log orders --from 2h                       # the last two hours
loghouse consume --from 2026-11-23T08:30:00Z --until 2026-11-23T09:00:00Z
loghouse consume --last 100 --grep 'error|warn' --template '%o %t %k %v'
loghouse consume --json --follow | jq .value
loghouse consume --cursor billing --count 100                 # the next hundred that nobody has written yet
loghouse consume --cursor billing --follow --wait             # for ever; a second one takes over""",
    "tail": """\
loghouse tail --log orders
loghouse tail -n 50 --offsets --record-key sensor-7""",
    "bench produce": "loghouse bench produce --records 1000000 --size 1KiB --batch 64KiB",
    "bench consume": "loghouse bench consume --records 1000000",
    "servers": "loghouse servers --server 10.0.0.1:8400 --json",
    "log create": """\
loghouse log create orders --retention-age 7d
loghouse log create audit --replicas 5 --on n1,n2,n3,n4,n5 --retention-bytes 100GiB""",
    "log list": "loghouse log list --json",
    "log describe": "loghouse log describe orders",
    "log alter": "loghouse log alter orders --retention-age 30d --record-max 64KiB",
    "log delete": "loghouse log delete orders --yes",
    "log repair": "loghouse log repair orders --replace n2 --with n4",
    "cursor list": "loghouse cursor list --log orders --json\nloghouse cursor list --all",
    "cursor get": "loghouse cursor get billing --log orders",
    "cursor set": "loghouse cursor set billing --log orders --position 1000",
    "cursor delete": "loghouse cursor delete billing --log orders --yes",
    "cluster status": """\
loghouse cluster status --watch
loghouse cluster status --log orders""",
    "cluster health": "loghouse cluster health --wait 60s",
    "cluster add": "loghouse cluster add n4 --learner",
    "cluster remove": "loghouse cluster remove n2",
    "cluster leave": "loghouse cluster leave --server 10.0.0.2:8400",
    "cluster transfer": "loghouse cluster transfer n2",
    "cluster trim": "loghouse cluster trim --log orders --offset 1000",
    "node reload": """\
loghouse node reload n1
loghouse node reload --all""",
    "inspect": """\
loghouse inspect data
loghouse inspect data --entries --from 1000 --to 1010""",
    "verify": "loghouse verify /var/lib/loghouse",
    "recover": """\
loghouse recover data --accept-data-loss
loghouse recover data --new-cluster --accept-data-loss        # most nodes are lost for good""",
    "backup": """\
loghouse backup --all /backups/prod                           # run it again for what is new since
loghouse backup --log orders --log audit /backups/prod
loghouse backup verify /backups/prod                          # reads and checks every byte; needs no node""",
    "restore": """\
loghouse restore /backups/prod --config node.yaml             # on one node, which is stopped; then start it
loghouse restore /backups/prod --config scratch.yaml --log orders""",
    "dissect": """\
loghouse dissect data/logs/1/00000000000000000001.store
loghouse dissect --as wire -""",
    "certs init": "loghouse certs init --dir certs",
    "certs node": "loghouse certs node n1 --cluster prod --host n1.example --host 10.0.0.1",
    "certs client": "loghouse certs client root",
    "certs deny": "loghouse certs deny lost.pem --denylist certs/denylist.txt",
    "config check": "loghouse config check node.yaml",
    "config example": "loghouse config example",
    "doctor": "loghouse doctor --config node.yaml",
    "demo": "loghouse demo --nodes 3 --file README.md",
    "completion": """\
loghouse completion bash | sudo tee /etc/bash_completion.d/loghouse
loghouse completion zsh | tee ~/.zfunc/_loghouse              # with ~/.zfunc in $fpath, before compinit""",
}
"""For each command, ways to use it, a line each."""


class Parser(argparse.ArgumentParser):
    """A parser of the command line, or of one command."""

    @property
    def command(self) -> str:
        """The words of the command that this parses; empty: of all."""
        return self.prog.partition(" ")[2]

    def error(self, message: str) -> NoReturn:
        """End with a line that says what is wrong."""
        self.exit(ExitCode.USAGE, f"{self.prog}: {message}; `{self.prog} --help` shows how\n")

    def format_help(self) -> str:
        """Return the help, with examples."""
        examples = EXAMPLES.get(self.command)
        text = super().format_help()
        if examples is None:
            return text
        lines = "".join(f"  {line}\n" for line in examples.splitlines())
        return f"{text}\nexamples:\n{lines}"


def joined(words: Sequence[str]) -> list[str]:
    """Return the words of a command line with `--from -1h` as one word, which would look like an option."""
    result: list[str] = []
    for word in words:
        if result and result[-1] in _TAKE_PLACES and AGO.fullmatch(word):
            result[-1] += f"={word}"
        else:
            result.append(word)
    return result
