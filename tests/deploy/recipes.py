"""The files under deploy/, read as what runs them would read them."""

import json
import re
import shlex
from pathlib import Path

from loghouse.config.settings import load

ROOT = Path(__file__).resolve().parents[2]
DEPLOY = ROOT / "deploy"
UNIT = DEPLOY / "systemd" / "loghouse.service"
DOCKERFILE = DEPLOY / "docker" / "Dockerfile"
COMPOSE = DEPLOY / "compose" / "compose.yaml"
CHART = DEPLOY / "helm" / "loghouse"


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
