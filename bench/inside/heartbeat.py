"""How long the turns of a node's reactor take; see `sitecustomize`.

Every millisecond the reactor is asked to note the time, and what its thread has computed since the last note.
The longest of each tenth of a second goes into the file that LOGHOUSE_HEARTBEAT names: the time, the delay,
the computing, and how much of that was Python's garbage collector, all in seconds.
"""

import gc
import time

BEAT_SECONDS = 0.001
LINE_SECONDS = 0.1


def begin(reactor, file):
    last = [time.monotonic(), time.thread_time()]
    worst = [0.0, 0.0, 0.0]
    collecting = [0.0, 0.0]  # since when, and how long since the last note

    def collected(phase, _):
        if phase == "start":
            collecting[0] = time.thread_time()
        else:
            collecting[1] += time.thread_time() - collecting[0]

    written_at = [last[0]]

    def note():
        now, used = time.monotonic(), time.thread_time()
        worst[0] = max(worst[0], now - last[0] - BEAT_SECONDS)
        if used - last[1] > worst[1]:
            worst[1:] = used - last[1], collecting[1]
        last[:] = now, used
        collecting[1] = 0.0
        if now - written_at[0] >= LINE_SECONDS:
            file.write(f"{now} {worst[0]} {worst[1]} {worst[2]}\n")
            file.flush()
            written_at[0], worst[:] = now, [0.0, 0.0, 0.0]
        reactor.callLater(BEAT_SECONDS, note)

    gc.callbacks.append(collected)
    note()
