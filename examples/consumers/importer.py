"""Imports a file into the log `orders`, a record a line: each line once, however often it is killed.

    python importer.py orders.txt

Its place in the file is a cursor of the log, `import:` and the file's name. The cursor moves with the
records, in one step: what was not imported is what lies behind it. Say `loghouse log create orders` first.
"""

import os
import sys
from pathlib import Path

from loghouse.client import Client, Tls, connect_blocking

CHUNK_SIZE = 65536


def open_cluster() -> Client:
    """Return a client of the cluster that the environment names; else of the one that `make run` starts."""
    folder = Path(os.environ.get("CERTS", "dev/certs"))
    tls = Tls(ca=folder / "ca.pem", certificate=folder / "root.pem", key=folder / "root.key")
    return connect_blocking(os.environ.get("LOGHOUSE", "loghouse://127.0.0.1:8400"), tls=tls)


def import_file(cluster: Client, path: Path) -> int:
    """Append what of a file is not in the log yet; return how many bytes of it are."""
    with cluster.log("orders").consumer(f"import:{path.name}") as importer, path.open("rb") as file:
        place = importer.acquire()  # 0 the first time
        file.seek(place)
        while lines := file.readlines(CHUNK_SIZE):
            if not lines[-1].endswith(b"\n"):
                lines.pop()  # somebody is writing it; the next run imports it when it is whole
            if not lines:
                break
            place += sum(map(len, lines))
            importer.emit([line[:-1] for line in lines], done=place)  # lines and place, or neither
            file.seek(place)
        importer.commit()  # all of it is in the log
        return importer.committed


if __name__ == "__main__":
    with open_cluster() as cluster:
        print("imported up to byte", import_file(cluster, Path(sys.argv[1])))
