"""Runs parts of the tests, some at a time, each in a process of its own: `parts.py RUNNER JOBS PART...`.

RUNNER is `pytest` or `trial`; a part is a folder or a file, as `tests/raft`. Not all in one process: tests
run the reactor, which starts once. Each process is forked from one that has the libraries and the product
already: importing them takes longer than most parts, and so does reading all tests in every process, as
pytest's own workers do. Tells of each part how it ended and what it took, and shows all of one that failed;
no further part begins after that. At the end come the slowest tests, as far as the runner tells them.
"""

import importlib
import os
import pkgutil
import re
import shutil
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
OUTPUT = ROOT / "build"
SLOWEST = 15
FILES_MAX = 8
"""So many files at most share a process, unless they take long."""
LONG = (
    "tests/cluster",
    "tests/storage",
    "tests/e2e",
    "tests/sim",
    "tests/client",
    "tests/compat",
    "tests/test_driving_mutants.py",
    "tests/cli",
    "tests/fixtures",
    "tests/net",
    "tests/protocol",
    "tests/test_full_disks.py",
    "tests/test_elsewhere.py",
    "tests/gossip/test_regressions.py",
    "tests/test_door_mutants.py",
    "tests/test_log_mutants.py",
    "tests/raft",
)
"""Parts that take long, the longest first: none is to begin when all others have ended."""
NEEDED = {
    "pytest": ("pytest", "pytest_timeout", "_hypothesis_pytestplugin"),
    "trial": ("twisted.scripts.trial",),
}
HERE = "../../../"
"""The top, as pytest tells it from a folder in OUTPUT."""
DURATION = re.compile(r"(?m)^\s*([\d.]+)s (?:call|setup|teardown) +(\S+)$")


def import_all(runner):
    """Import what nearly every part needs; nothing of it may make a reactor, which the parts would share."""
    sys.path.insert(0, str(ROOT))
    from bench.mutate.child import import_libraries

    for module in pkgutil.walk_packages([str(ROOT / "loghouse")], "loghouse."):
        if not module.name.startswith(("loghouse.tap", "loghouse.testing")):
            importlib.import_module(module.name)
    for name in NEEDED[runner]:
        importlib.import_module(name)
    import_libraries()


def run_trial(parts, folder):
    """Run parts under trial, which ends the process."""
    from twisted.scripts import trial

    modules = [part.removesuffix(".py").replace("/", ".") for part in parts]
    sys.argv = ["trial", "--reporter", "text", "--temp-directory", str(folder), *modules]
    trial.run()


def run_pytest(parts, folder):
    """Run parts under pytest, and end the process."""
    import pytest

    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    os.chdir(folder)  # tests leave files where they run
    sys.argv = ["pytest"]
    paths = [str(ROOT / part) for part in parts]
    code = pytest.main(["-p", "no:cacheprovider", "-c", str(ROOT / "setup.cfg"), *paths])
    # Some folders have only what others' tests share.
    sys.exit(0 if code == pytest.ExitCode.NO_TESTS_COLLECTED else code)


RUNNERS = {"pytest": run_pytest, "trial": run_trial}


def run_group(runner, parts, log):
    """Run some parts, in the process that was forked for them, which ends with them."""
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
    os.dup2(output, 1)
    os.dup2(output, 2)
    os.close(output)
    RUNNERS[runner](parts, log.with_suffix(""))


def grouped(parts):
    """Return groups of parts, each for one process: what takes long first, and short files some together."""
    alone = [part for part in parts if part in LONG or not part.endswith(".py")]
    alone.sort(key=lambda part: LONG.index(part) if part in LONG else len(LONG))
    files = [part for part in parts if part not in alone]
    count = -(-len(files) // FILES_MAX)
    return [[part] for part in alone] + [files[number::count] for number in range(count)]


def name_of(parts):
    """Return what a group of parts is called."""
    return parts[0] if len(parts) == 1 else f"{parts[0]} and {len(parts) - 1} more"


def main(runner, jobs, parts):
    """Run all parts; returns the exit status."""
    output = OUTPUT / runner
    output.mkdir(parents=True, exist_ok=True)
    import_all(runner)
    waiting = grouped(parts)
    running, status, durations = {}, 0, []
    while running or (waiting and not status):
        while waiting and len(running) < jobs and not status:
            group, begun_at = waiting.pop(0), time.monotonic()
            log = output / f"{group[0].replace('/', '.')}.log"
            sys.stdout.flush()
            pid = os.fork()
            if pid == 0:
                run_group(runner, group, log)
            running[pid] = name_of(group), log, begun_at
        pid, ended, usage = os.wait4(-1, 0)
        name, log, begun_at = running.pop(pid)
        seconds, cpu = time.monotonic() - begun_at, usage.ru_utime + usage.ru_stime
        text = log.read_text(errors="replace").rstrip().replace(HERE, "")
        durations += [(float(one), test) for one, test in DURATION.findall(text)]
        if ended:
            status = 1
            sys.stdout.write(f"{text}\nFAILED under {runner}: {name}\n")
        else:
            verdict = text.rpartition("\n")[2]
            sys.stdout.write(f"{seconds:6.1f} s, {cpu:5.1f} s of processor  {name}: {verdict}\n")
        sys.stdout.flush()
    if durations:
        sys.stdout.write("the slowest tests:\n")
        for seconds, test in sorted(durations, reverse=True)[:SLOWEST]:
            sys.stdout.write(f"{seconds:6.1f} s  {test}\n")
    return status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], int(sys.argv[2]), sys.argv[3:]))
