"""Loghouse beside other logs of three durable nodes, in alternating runs on this machine.

    python -m bench.compare [--peer nats] [--shape 1k64] [--rounds N] [--json FILE] [--docs]

One peer after the other: three nodes of it and three of Loghouse, mTLS, client and all on this machine. What
a peer needs is built or unpacked under build/compare the first time. With `--docs` the section of
docs/performance.md and its plots are made anew; a peer that cannot be had is named there, too. See BENCH_DIR
in docs/performance.md.
"""

import argparse
import json
import platform
import signal
import subprocess
import sys
import sysconfig
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from bench.compare import report
from bench.compare.install import BUILD, clients_python
from bench.compare.peer import Peer
from bench.compare.peers import Loghouse, all_peers
from bench.compare.runner import compare
from bench.compare.shape import SHAPES, Shape, shape_of
from bench.measure import scratch

DOCUMENT = Path("docs/performance.md")
IMAGES = Path("docs/images")


def interpreter() -> str:
    """Return which Python this is, and whether it was built with PGO."""
    has_pgo = "--enable-optimizations" in (sysconfig.get_config_var("CONFIG_ARGS") or "")
    return f"CPython {platform.python_version()} {'with' if has_pgo else 'without'} PGO"


def measure(chosen: Sequence[Peer], shapes: Sequence[Shape], rounds: int, path: Path) -> dict[str, Any]:
    """Return the figures, which are in a file, too, from the first cell on."""
    about = {"date": f"{datetime.now(UTC):%Y-%m-%d}", "interpreter": interpreter(), "rounds": rounds}
    path.parent.mkdir(parents=True, exist_ok=True)

    def keep(found: dict[str, Any]) -> None:
        path.write_text(json.dumps({**about, **found}, indent=1))

    signal.signal(signal.SIGTERM, end_in_order)
    with scratch() as folder:
        found = compare(Loghouse(), chosen, shapes, rounds, Path(folder), keep)
    keep(found)
    return {**about, **found}


def end_in_order(*_: object) -> None:
    """Leave, so that servers are stopped also when a time limit ends this; once, for that takes a while."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    sys.exit(1)


def main() -> None:
    peers = all_peers()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--peer", choices=peers, action="append", help="only this one; more than once")
    parser.add_argument(
        "--shape",
        type=shape_of,
        action="append",
        help="only this one, as 1k64, 1k64@512m, read-1k, failover; more than once",
    )
    parser.add_argument("--rounds", type=int, default=5, help="pairs to run; medians are of these")
    parser.add_argument("--json", type=Path, default=BUILD / "figures.json", help="where the figures go")
    parser.add_argument("--docs", action="store_true", help="make the section of docs/performance.md anew")
    parser.add_argument("--figures", type=Path, help="measure nothing: tell and draw those of this file")
    options = parser.parse_args()
    if options.figures:
        figures = json.loads(options.figures.read_text())
    else:
        chosen = [peers[name] for name in options.peer or peers]
        figures = measure(chosen, options.shape or SHAPES, options.rounds, options.json)
    print(report.text(figures))
    if options.docs:
        command = [clients_python(), "-m", "bench.compare.plots", options.figures or options.json, IMAGES]
        names = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout.split()
        section = report.markdown(figures, [f"images/{name}" for name in names])
        DOCUMENT.write_text(report.replaced(DOCUMENT.read_text(), section))


if __name__ == "__main__":
    main()
