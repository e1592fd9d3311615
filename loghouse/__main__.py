"""`python -m loghouse`: the `loghouse` command, where its script is not in the path."""

import sys

from loghouse.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
