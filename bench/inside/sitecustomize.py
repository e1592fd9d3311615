"""Loaded by a node's own Python when a benchmark asks for it: takes notes from the node's reactor on.

The benchmark puts this folder on the node's path, and names the file for the notes: in LOGHOUSE_HEARTBEAT or
LOGHOUSE_TIMESTAMPS, after the module that takes them.
"""

import importlib
import os
import sys
import threading
import time


def wait_for_reactor(module, path):
    while True:
        found = sys.modules.get("twisted.internet.reactor")
        if found is not None and getattr(found, "running", False):
            break
        time.sleep(0.05)
    file = open(path, "a")  # noqa: SIM115 - open as long as the process
    found.callFromThread(importlib.import_module(module).begin, found, file)


for name in ("heartbeat", "timestamps"):
    path = os.environ.get(f"LOGHOUSE_{name.upper()}")
    if path:
        threading.Thread(target=wait_for_reactor, args=(name, path), daemon=True).start()
