"""Whether tests of real processes run: they take minutes, and one of the two runners is enough for them."""

import os

# `make test` and CI run them under pytest only: 0 leaves them out under trial.
SKIP = None if os.environ.get("LOGHOUSE_PROCESS_TESTS", "1") != "0" else "LOGHOUSE_PROCESS_TESTS is 0"
