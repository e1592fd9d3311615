"""Runs parts of the tests under trial, some at a time, each in a process of its own: `trial.py JOBS PART...`.

Not all in one: tests run the reactor, which starts once. Each process is forked from one that has the
libraries and the product already: importing them takes longer than most parts. Tells of each part how it
ended and what it took, and shows all of one that failed; no further part begins after that.
"""

import importlib
import os
import pkgutil
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
OUTPUT = Path("build/trial")


def import_all():
    """Import what nearly every part needs; nothing of it may make a reactor, which the parts would share."""
    sys.path.insert(0, str(ROOT))
    from bench.mutate.child import import_libraries

    for module in pkgutil.walk_packages([str(ROOT / "loghouse")], "loghouse."):
        if not module.name.startswith(("loghouse.tap", "loghouse.testing")):
            importlib.import_module(module.name)
    import twisted.scripts.trial  # noqa: F401

    import_libraries()


def run_part(part):
    """Run one part, in the process that was forked for it, which ends with it."""
    output = os.open(OUTPUT / f"{part}.log", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
    os.dup2(output, 1)
    os.dup2(output, 2)
    sys.argv = ["trial", "--reporter", "text", "--temp-directory", str(OUTPUT / part), part]
    from twisted.scripts import trial

    trial.run()


def main(jobs, parts):
    """Run all parts; returns the exit status."""
    OUTPUT.mkdir(parents=True, exist_ok=True)
    import_all()
    # Whole folders first: they take longest, and none is to begin when all others have ended.
    waiting = sorted(parts, key=lambda part: not (ROOT / part.replace(".", "/")).is_dir())
    running, status = {}, 0
    while running or (waiting and not status):
        while waiting and len(running) < jobs and not status:
            part, begun_at = waiting.pop(0), time.monotonic()
            sys.stdout.flush()
            pid = os.fork()
            if pid == 0:
                run_part(part)
            running[pid] = part, begun_at
        pid, ended, usage = os.wait4(-1, 0)
        part, begun_at = running.pop(pid)
        seconds, cpu = time.monotonic() - begun_at, usage.ru_utime + usage.ru_stime
        text = (OUTPUT / f"{part}.log").read_text(errors="replace").rstrip()
        if ended:
            status = 1
            sys.stdout.write(f"{text}\nFAILED under trial: {part}\n")
        else:
            verdict = text.rpartition("\n")[2]
            sys.stdout.write(f"{seconds:6.1f} s, {cpu:5.1f} s of processor  {part}: {verdict}\n")
        sys.stdout.flush()
    return status


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), sys.argv[2:]))
