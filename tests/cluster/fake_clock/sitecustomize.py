"""Python runs this as it starts: the process's wall clock is off by the seconds in the file CLOCK_FILE."""

import os
import time
from pathlib import Path

if "CLOCK_FILE" in os.environ:
    _path = Path(os.environ["CLOCK_FILE"])
    _time, _time_ns = time.time, time.time_ns

    def _shift() -> int:
        text = _path.read_text() if _path.exists() else ""
        return int(text or 0)

    time.time = lambda: _time() + _shift()
    time.time_ns = lambda: _time_ns() + _shift() * 10**9
