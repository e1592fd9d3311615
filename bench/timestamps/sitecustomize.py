"""Loaded by a node's own Python when `bench.timeline` asks for it: when an append passes which place.

Each place is a method; the file that LOGHOUSE_TIMESTAMPS names gets its name and the time, in nanoseconds of
the machine's monotonic clock, which all processes share.
"""

import collections
import functools
import importlib
import os
import sys
import threading
import time

FLUSH_SECONDS = 0.1
# The name of a place, its module, class and method, and whether it is passed when the method begins.
PLACES = (
    ("taken", "loghouse.net.appending", "Appends", "take", True),
    ("proposed", "loghouse.replica.driver", "RaftDriver", "propose", True),
    ("received", "loghouse.replica.driver", "RaftDriver", "receive", True),
    ("sent", "loghouse.replica.replica", "Replica", "send", False),
    ("given to the disk", "loghouse.replica.driver", "RaftDriver", "_run_write", True),
    ("disk's thread begins", "loghouse.replica.group_write", "GroupWrite", "__call__", True),
    ("sync begins", "loghouse.storage.log", "Log", "sync", True),
    ("sync ends", "loghouse.storage.log", "Log", "sync", False),
    ("back on the loop", "loghouse.replica.driver", "RaftDriver", "_written", True),
    ("answered", "loghouse.net.appending", "Appends", "answer", True),
)


def watch(name, cls, method, is_before, notes):
    inner = getattr(cls, method)

    @functools.wraps(inner)
    def noted(*arguments, **fields):
        if is_before:
            notes.append((time.monotonic_ns(), name))
            return inner(*arguments, **fields)
        try:
            return inner(*arguments, **fields)
        finally:
            notes.append((time.monotonic_ns(), name))

    setattr(cls, method, noted)


def begin(reactor, path):
    file = open(path, "a")  # noqa: SIM115
    notes = collections.deque()  # the disk's thread takes notes, too: only the reactor's writes them
    for name, module, cls, method, is_before in PLACES:
        watch(name, getattr(importlib.import_module(module), cls), method, is_before, notes)

    def flush():
        while notes:
            file.write("{} {}\n".format(*notes.popleft()))
        file.flush()
        reactor.callLater(FLUSH_SECONDS, flush)

    flush()


def wait_for_reactor(path):
    while True:
        module = sys.modules.get("twisted.internet.reactor")
        if module is not None and getattr(module, "running", False):
            break
        time.sleep(0.05)
    sys.modules["twisted.internet.reactor"].callFromThread(
        begin, sys.modules["twisted.internet.reactor"], path
    )


if os.environ.get("LOGHOUSE_TIMESTAMPS"):
    threading.Thread(target=wait_for_reactor, args=(os.environ["LOGHOUSE_TIMESTAMPS"],), daemon=True).start()
