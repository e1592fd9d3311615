"""What it costs a node to be watched: CPU time of an append, with `http_listen` and without.

    python -m bench.watched

Two nodes, each alone, take the same appends of 1 kB, 64 in flight, in turns; the one that is watched is
scraped once a round, as every quarter of a minute would do.
"""

import argparse
import subprocess
import sys
import tempfile
import urllib.request
from pathlib import Path

from bench.measure import Table, median, rounds
from loghouse.testing.process import Certificates, NodeProcess, free_port

SIZE = 1000
WINDOW = 64


def cpu_seconds(node: NodeProcess) -> float:
    """What all threads of a node ran so far, to the nanosecond: clock ticks are too coarse for a percent."""
    tasks = Path(f"/proc/{node.pid}/task").iterdir()
    return sum(int((task / "schedstat").read_text().split()[0]) for task in tasks) / 1e9


def append(node: NodeProcess, options: argparse.Namespace) -> float:
    """Append so many records; return the node's CPU seconds for one."""
    before = cpu_seconds(node)
    words = ["--api", "binary", "--address", node.address, "--certs", str(node.certificates.folder)]
    words += ["--size", str(SIZE), "--count", str(options.count), "--window", str(WINDOW)]
    subprocess.run([sys.executable, "-m", "bench.append_load", *words], check=True, stdout=subprocess.DEVNULL)
    return (cpu_seconds(node) - before) / options.count


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--count", type=int, default=30_000)
    options = parser.parse_args()
    table = Table()
    with tempfile.TemporaryDirectory() as folder:
        certificates = Certificates(Path(folder) / "certs")
        port = free_port()
        plain = NodeProcess(Path(folder) / "plain", certificates)
        watched = NodeProcess(
            Path(folder) / "watched", certificates, settings=f"http_listen: 127.0.0.1:{port}\n"
        )
        try:
            for node in (plain, watched):
                node.start()
                append(node, options)  # warm

            def scraped() -> float:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics").read()
                return append(watched, options)

            without, with_it = rounds(options.rounds, lambda: append(plain, options), scraped)
        finally:
            plain.close()
            watched.close()
    table.add("an append of 1 kB, 64 in flight, not watched", median(without) * 1e6, "CPU us")
    table.add("  watched", median(with_it) * 1e6, "CPU us")
    pairs = [one / other for one, other in zip(with_it, without, strict=True)]
    table.add("  ratio", median(pairs), "", bar=1.02, at_most=True)


if __name__ == "__main__":
    main()
