"""Gets what a peer needs, from registries that the machine reaches, into build/compare and nowhere else."""

import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

# Where what is installed stays from one run to the next.
BUILD = Path("build/compare").absolute()
_POM = """<project xmlns="http://maven.apache.org/POM/4.0.0"><modelVersion>4.0.0</modelVersion>
<groupId>compare</groupId><artifactId>compare</artifactId><version>1</version><packaging>pom</packaging>
<dependencies>{}</dependencies></project>
"""
_DEPENDENCY = "<dependency><groupId>{}</groupId><artifactId>{}</artifactId><version>{}</version></dependency>"
_COPY = "org.apache.maven.plugins:maven-dependency-plugin:3.8.1:copy-dependencies"
_NEW = re.compile(r"^Inst (\S+)", re.MULTILINE)


class UnavailableError(Exception):
    """A system that cannot be had here; the text says why."""


def _run(name: str, command: Sequence[object], folder: Path) -> str:
    """Return what a command printed.

    Raises:
        UnavailableError: It failed; with its last line.
    """
    words = list(map(str, command))
    done = subprocess.run(words, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode:
        said = (done.stderr.strip() or done.stdout.strip() or "it says nothing").splitlines()
        raise UnavailableError(f"{name}: {' '.join(words[:2])}: {said[-1]}")
    return done.stdout


def need(name: str, *programs: str) -> None:
    """Check that programs are here.

    Raises:
        UnavailableError: One is not.
    """
    for program in programs:
        if shutil.which(program) is None:
            raise UnavailableError(f"{name}: there is no {program} here")


def build_go(name: str, module: str, version: str, package: str) -> Path:
    """Return the program that a Go package is, built in a module of its own unless it is there.

    Raises:
        UnavailableError: There is no Go, or the module cannot be had or built.
    """
    program = BUILD / f"{name}-{version}"
    if program.exists():
        return program
    need(name, "go")
    folder = BUILD / f"{name}-module"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "go.mod").write_text("module compare\n\ngo 1.25\n")
    _run(name, ["go", "get", f"{module}@{version}"], folder)
    _run(name, ["go", "build", "-o", program, package], folder)
    return program


def jars(name: str, version: str, artifacts: Sequence[tuple[str, str, str]]) -> Path:
    """Return a folder with artifacts of Maven Central (group, name, version) and all that they need.

    Raises:
        UnavailableError: There is no Java or Maven, or an artifact cannot be had.
    """
    need(name, "java")
    folder = BUILD / f"{name}-{version}"
    if folder.exists():
        return folder
    need(name, "mvn")
    making = BUILD / f"{name}-project"
    shutil.rmtree(making, ignore_errors=True)
    making.mkdir(parents=True)
    wanted = "".join(_DEPENDENCY.format(*artifact) for artifact in artifacts)
    (making / "pom.xml").write_text(_POM.format(wanted))
    _run(name, ["mvn", "-q", "-B", _COPY, "-DincludeScope=runtime", "-DoutputDirectory=jars"], making)
    (making / "jars").rename(folder)
    return folder


def debian(name: str, package: str) -> Path:
    """Return a folder with a Debian package and those it needs, unpacked; no service of it is started.

    Raises:
        UnavailableError: This is no Debian, or a package cannot be had.
    """
    folder = BUILD / f"{name}-debian"
    if folder.exists():
        return folder
    need(name, "apt-get", "dpkg-deb")
    making = BUILD / f"{name}-packages"
    shutil.rmtree(making, ignore_errors=True)
    making.mkdir(parents=True)
    plan = _run(name, ["apt-get", "-s", "install", "--no-install-recommends", package], making)
    _run(name, ["apt-get", "download", *sorted({package, *_NEW.findall(plan)})], making)
    for file in sorted(making.glob("*.deb")):
        _run(name, ["dpkg-deb", "-x", file, making / "root"], making)
    found = _run(name, ["dpkg-deb", "-f", next(making.glob(f"{package}_*.deb")), "Version"], making)
    (making / "root/version").write_text(found.strip())
    (making / "root").rename(folder)
    return folder


def debian_version(folder: Path) -> str:
    """Return the upstream version of what `debian` unpacked: `7.0.15` of `5:7.0.15-1~deb12u10`."""
    return (folder / "version").read_text().rpartition(":")[2].partition("-")[0]


def library_path(folder: Path) -> str:
    """Return where the libraries are that `debian` unpacked, for LD_LIBRARY_PATH."""
    return ":".join(map(str, sorted(folder.glob("usr/lib/*-linux-gnu*"))))


def clients_python() -> Path:
    """Return the Python that has the peers' client libraries (`requirements/compare.txt`).

    Raises:
        UnavailableError: They cannot be installed.
    """
    python, wanted = BUILD / "venv/bin/python", Path("requirements/compare.txt")
    stamp = BUILD / "venv/.installed"
    if stamp.exists() and stamp.read_text() == wanted.read_text():
        return python
    subprocess.run([sys.executable, "-m", "venv", BUILD / "venv"], check=True)
    install = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    _run("client libraries", [*install, "-r", wanted.absolute()], Path())
    stamp.write_text(wanted.read_text())
    return python
