"""When an append passes which place in a node; see `sitecustomize`.

Each place is a method; the file that LOGHOUSE_TIMESTAMPS names gets its name and the time, in nanoseconds of
the machine's monotonic clock, which all processes share.
"""

import collections
import functools
import importlib
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


def begin(reactor, file):
    notes = collections.deque()  # the disk's thread takes notes, too: only the reactor's writes them
    for name, module, cls, method, is_before in PLACES:
        watch(name, getattr(importlib.import_module(module), cls), method, is_before, notes)

    def flush():
        while notes:
            file.write("{} {}\n".format(*notes.popleft()))
        file.flush()
        reactor.callLater(FLUSH_SECONDS, flush)

    flush()
