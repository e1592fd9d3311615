"""The files under deploy/, read as what runs them would read them."""

import json
import os
import re
import shlex
import shutil
import subprocess
import tempfile
from pathlib import Path

from twisted.trial.unittest import SkipTest

from loghouse.config.settings import load

ROOT = Path(__file__).resolve().parents[2]
DEPLOY = ROOT / "deploy"
UNIT = DEPLOY / "systemd" / "loghouse.service"
DOCKERFILE = DEPLOY / "docker" / "Dockerfile"
COMPOSE = DEPLOY / "compose" / "compose.yaml"
CHART = DEPLOY / "helm" / "loghouse"
GO = Path(__file__).resolve().parent / "go"
BUILD_SECONDS = 280


def unit_settings(path=UNIT):
    """Return a unit's settings: name to values, in order."""
    settings = {}
    for line in path.read_text().splitlines():
        name, equals, value = line.partition("=")
        if equals and not line.startswith("#"):
            settings.setdefault(name, []).append(value)
    return settings


def instructions(path=DOCKERFILE):
    """Return a Dockerfile's stages: each a list of (instruction, its text) from its FROM on."""
    stages = []
    for line in re.sub(r"\\\n", "", path.read_text()).splitlines():
        if not line.strip() or line.startswith("#"):
            continue
        word, _, text = line.partition(" ")
        if word == "FROM":
            stages.append([])
        if stages:
            stages[-1].append((word, text.strip()))
    return stages


def words(text):
    """Return the words of a command, in either of its forms."""
    return json.loads(text) if text.startswith("[") else shlex.split(text)


def health_command():
    """Return what the image's health check runs."""
    [text] = [text for word, text in instructions()[-1] if word == "HEALTHCHECK"]
    return words(text.partition(" CMD ")[2])


def start_command():
    """Return what the image runs."""
    last = dict(instructions()[-1])
    return [*words(last["ENTRYPOINT"]), *words(last["CMD"])]


def settings_of(text, folder, place):
    """Read a node.yaml as the node would, with the files that it names under `place` in a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in re.findall(rf"{re.escape(place)}([\w.-]+)", text):
        (folder / name).touch()
    path = folder / "node.yaml"
    path.write_text(text.replace(place, f"{folder}/"))
    return load(path)


def go_program(case, name):
    """Compile a program of tests/deploy/go for a test; return its path, or skip where that cannot be."""
    go = shutil.which("go")
    if go is None:
        raise SkipTest("there is no Go here; the files are judged without it, too, only not as strictly")
    folder = tempfile.mkdtemp(prefix=f"loghouse-{name}-")
    case.addCleanup(shutil.rmtree, folder)
    environment = {**os.environ, "GOFLAGS": "-mod=readonly", "GOTOOLCHAIN": "local"}
    options = {"cwd": GO, "env": environment, "capture_output": True, "text": True}
    try:
        # Only what is compiled is fetched; an older Go, or no way to the modules, is told here.
        listed = subprocess.run([go, "list", "-deps", f"./{name}"], timeout=BUILD_SECONDS / 4, **options)
    except subprocess.TimeoutExpired:
        raise SkipTest("the modules of Go are not at hand, and take too long to come") from None
    if listed.returncode:
        raise SkipTest(f"the modules of Go cannot be had: {listed.stderr.strip()[-300:]}")
    program = Path(folder, name)
    built = subprocess.run([go, "build", "-o", program, f"./{name}"], timeout=BUILD_SECONDS, **options)
    case.assertEqual(built.returncode, 0, built.stderr)
    return program
