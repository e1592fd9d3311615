"""When an append passes which place in a node, and when its reactor is at work; see `sitecustomize`.

Each place is a method. A line of the file that LOGHOUSE_TIMESTAMPS names is a time in nanoseconds of the
machine's monotonic clock, which all processes share, the place, and numbers that say whom it is about, with
tabs between. Every tenth of a second there is one more of each thread: how long it ran, and how long it
waited for a processor, in nanoseconds.
"""

import collections
import functools
import importlib
import os
import time

FLUSH_SECONDS = 0.1


def stream_taken(arguments, _):
    return (arguments[2],)  # the append's stream


def ticket(_, found):
    return found.index, found.base_offset, found.record_count


def raft_message(arguments, _):
    """The highest entry it is about, how many entries it has, and the members that it is from and for."""
    envelope = arguments[1]
    message = envelope.message
    name = type(message).__name__
    if name == "AppendEntries" and message.entries:
        return message.entries[-1].index, len(message.entries), envelope.source, envelope.target
    if name == "AppendEntriesReply" and message.success:
        return message.index, 0, envelope.source, envelope.target
    return None  # nothing that an entry waits for


def group_given(arguments, _):
    write = arguments[0]._write
    return (write.last_index, write.entry_count) if write is not None and write.last_index else None


def group_begun(arguments, _):
    return (arguments[0].last_index,) if arguments[0].last_index else None


def entries_written(arguments, _):
    return (arguments[1][-1].index,) if arguments[1] else None


def group_back(arguments, _):
    return group_given(arguments, _) or (0, 0)


def entries_applied(arguments, _):
    return (arguments[1][-1].index,)


def answer(arguments, _):
    return arguments[1].stream, arguments[2]  # the append's stream, and its offset


def nothing(*_):
    return ()


# The name of a place, its module, class and method, whether it is passed when the method begins, and what
# tells whom it is about.
PLACES = (
    ("taken", "loghouse.net.appending", "Appends", "take", True, stream_taken),
    ("proposed", "loghouse.raft.core", "Raft", "propose", False, ticket),
    ("received", "loghouse.replica.driver", "RaftDriver", "receive", True, raft_message),
    ("sent", "loghouse.replica.replica", "Replica", "send", False, raft_message),
    ("given to the disk", "loghouse.replica.driver", "RaftDriver", "_run_write", True, group_given),
    ("disk's thread begins", "loghouse.replica.group_write", "GroupWrite", "__call__", True, group_begun),
    ("written", "loghouse.storage.log", "Log", "append", False, entries_written),
    ("sync begins", "loghouse.storage.writing", "SyncUnderWay", "sync", True, nothing),
    ("sync ends", "loghouse.storage.writing", "SyncUnderWay", "sync", False, nothing),
    ("watermark written", "loghouse.storage.writing", "SyncUnderWay", "publish", False, nothing),
    ("disk's thread done", "loghouse.replica.group_write", "GroupWrite", "__call__", False, group_begun),
    ("back on the loop", "loghouse.replica.driver", "RaftDriver", "_written", True, group_back),
    ("committed", "loghouse.replica.driver", "RaftDriver", "_apply", True, entries_applied),
    ("answered", "loghouse.net.appending", "Appends", "answer", True, answer),
    ("answers written", "loghouse.net.appending", "Appends", "flush", False, nothing),
)
# What the reactor calls where appends are: between these it looks for more, or sleeps.
TURNS = (
    ("twisted.internet.tcp", "Connection", "doRead"),
    ("loghouse.runtime.threads", "ThreadQueue", "_tell"),
    ("loghouse.replica.driver", "RaftDriver", "_turn"),
    ("loghouse.replica.driver", "RaftDriver", "_run_write"),
    ("loghouse.replica.driver", "RaftDriver", "_notify_commit"),
    ("loghouse.replica.coalescing", "Coalescer", "_end_turn"),
    ("loghouse.net.peer", "PeerLink", "_end_turn"),
)


def watch(name, cls, method, is_before, about, notes):
    inner = getattr(cls, method)

    @functools.wraps(inner)
    def noted(*arguments, **fields):
        if is_before:
            numbers = about(arguments, None)
            if numbers is not None:
                notes.append((time.monotonic_ns(), name, numbers))
            return inner(*arguments, **fields)
        found = inner(*arguments, **fields)
        numbers = about(arguments, found)
        if numbers is not None:
            notes.append((time.monotonic_ns(), name, numbers))
        return found

    setattr(cls, method, noted)


def watch_turn(cls, method, notes):
    inner = getattr(cls, method)

    @functools.wraps(inner)
    def noted(*arguments, **fields):
        begin = time.monotonic_ns()
        try:
            return inner(*arguments, **fields)
        finally:
            notes.append((begin, "at work", (time.monotonic_ns(),)))

    setattr(cls, method, noted)


def note_threads(notes):
    """Note of each thread how long it ran and how long it waited for a processor, where the kernel counts."""
    now = time.monotonic_ns()
    for name in os.listdir("/proc/self/task"):
        try:
            with open(f"/proc/self/task/{name}/schedstat") as file:
                ran, waited, _ = map(int, file.read().split())
        except OSError:
            continue  # it is gone, or there is no such file here
        notes.append((now, "thread", (0 if int(name) == os.getpid() else int(name), ran, waited)))


def begin(reactor, file):
    notes = collections.deque()  # the disk's thread takes notes, too: only the reactor's writes them
    for name, module, cls, method, is_before, about in PLACES:
        watch(name, getattr(importlib.import_module(module), cls), method, is_before, about, notes)
    for module, cls, method in TURNS:
        watch_turn(getattr(importlib.import_module(module), cls), method, notes)

    def flush():
        note_threads(notes)
        while notes:
            moment, name, numbers = notes.popleft()
            file.write(f"{moment}\t{name}\t{' '.join(map(str, numbers))}\n")
        file.flush()
        reactor.callLater(FLUSH_SECONDS, flush)

    flush()
