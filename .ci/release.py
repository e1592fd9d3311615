"""Builds what is published: an sdist and a wheel whose README leads to the repository on the web.

    python .ci/release.py https://host.example/owner/loghouse [FOLDER]

The one thing that the tree does not know is where it can be read. From that address come the project's links,
and the absolute ones of the README, which package indexes show alone. Files are looked for below
ADDRESS/blob/v<version>/, as GitHub has it; FILES in the environment names another place.
"""

import os
import re
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
RELATIVE = re.compile(r"\]\((?![a-z]+:|#)([^)\s]+)\)")


def main() -> None:
    """Build both into FOLDER (dist)."""
    address, folder = [*sys.argv[1:], "dist"][:2] if len(sys.argv) > 1 else ("", "")
    if not address.startswith("https://"):
        sys.exit(
            "say where the repository can be read: make release ADDRESS=https://host.example/owner/loghouse"
        )
    with tempfile.TemporaryDirectory() as scratch:
        built = build("--sdist", ROOT, Path(scratch))
        with tarfile.open(built) as archive:
            archive.extractall(scratch, filter="data")
        tree = Path(scratch, built.name.removesuffix(".tar.gz"))
        version = built.name.removesuffix(".tar.gz").partition("-")[2]
        if not re.search(rf"(?m)^## {re.escape(version)}\b", (tree / "CHANGELOG.md").read_text()):
            sys.exit(f"CHANGELOG.md has no section {version}: call Unreleased by the version and its day")
        publish(tree, address.rstrip("/"), version)
        for kind in ("--sdist", "--wheel"):
            sys.stdout.write(f"{build(kind, tree, Path(folder))}\n")


def publish(tree: Path, address: str, version: str) -> None:
    """Write the address into a tree: the project's links, and those of the README."""
    files = os.environ.get("FILES", f"{address}/blob/v{version}").rstrip("/")
    readme, setup = tree / "README.md", tree / "setup.cfg"
    readme.write_text(RELATIVE.sub(rf"]({files}/\1)", readme.read_text()))
    links = {
        "Source": address,
        "Documentation": f"{files}/docs/README.md",
        "Changes": f"{files}/CHANGELOG.md",
        "Issues": f"{address}/issues",
    }
    lines = "".join(f"    {name} = {link}\n" for name, link in links.items())
    setup.write_text(
        setup.read_text().replace("[metadata]\n", f"[metadata]\nurl = {address}\nproject_urls =\n{lines}", 1)
    )


def build(kind: str, tree: Path, folder: Path) -> Path:
    """Build a distribution; return its file."""
    folder.mkdir(parents=True, exist_ok=True)
    before = set(folder.iterdir())
    command = [sys.executable, "-m", "build", "--no-isolation", kind, "--outdir", str(folder), str(tree)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    [made] = set(folder.iterdir()) - before
    return made


if __name__ == "__main__":
    main()
