"""The Dockerfile and the compose file, as far as they can be tried without an engine."""

import configparser
import http.server
import os
import re
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import yaml
from twisted.trial.unittest import SkipTest, SynchronousTestCase

from loghouse import __version__
from tests.deploy.recipes import (
    COMPOSE,
    DOCKERFILE,
    ROOT,
    health_command,
    instructions,
    settings_of,
    start_command,
)
from tests.processes import in_children

KNOWN = {"FROM", "WORKDIR", "COPY", "RUN", "ENV", "USER", "VOLUME", "EXPOSE", "STOPSIGNAL", "HEALTHCHECK",
         "ENTRYPOINT", "CMD"}  # fmt: skip


class DockerfileTests(SynchronousTestCase):
    """deploy/docker/Dockerfile."""

    def setUp(self):
        self.build, self.image = instructions()

    def test_instructions(self):
        """It has two stages, of the same Python, and only the first one has what builds."""
        self.assertEqual({word for stage in (self.build, self.image) for word, _ in stage} - KNOWN, set())
        self.assertEqual(
            [stage[0][1].split()[0] for stage in (self.build, self.image)], ["python:${PYTHON}-slim"] * 2
        )
        self.assertEqual(
            [text for word, text in self.image if word == "COPY"],
            ["--from=build /opt/loghouse /opt/loghouse"],
        )
        self.assertNotIn("pip", " ".join(text for word, text in self.image if word == "RUN"))

    def test_python(self):
        """Its Python is one that the package supports."""
        [version] = re.findall(r"(?m)^ARG PYTHON=3\.(\d+)$", DOCKERFILE.read_text())
        self.assertGreaterEqual(int(version), 11)

    def test_context(self):
        """What it copies is there, is let through to the engine, and is all that the package is made of."""
        allowed = {
            line[1:]
            for line in DOCKERFILE.with_name("Dockerfile.dockerignore").read_text().splitlines()
            if line.startswith("!")
        }
        copied = {name for word, text in self.build if word == "COPY" for name in text.split()[:-1]}
        self.assertEqual(copied, allowed)
        self.assertEqual([name for name in copied if not (ROOT / name).exists()], [])
        self.assertLessEqual({"loghouse", "twisted", "setup.cfg", "pyproject.toml"}, copied)

    def test_user(self):
        """A node is not root, by a number that an orchestrator can check, and owns its places."""
        last = dict(self.image)
        user, _, group = last["USER"].partition(":")
        self.assertGreater(int(user), 0)
        runs = [text for word, text in self.image if word == "RUN"]
        self.assertTrue(any(f"--uid {user}" in text and f"--gid {group}" in text for text in runs), runs)
        [owned] = [text for text in runs if text.startswith("install -d")]
        self.assertIn(f"-o {user} -g {group} -m 0700", owned)
        for place in ("/var/lib/loghouse", "/etc/loghouse", "/etc/loghouse/certs"):
            self.assertIn(place, owned.split())

    def test_start(self):
        """It runs twistd in the foreground, without a pid file: as process 1 it would meet its own number."""
        self.assertEqual(
            start_command(),
            ["twistd", "--nodaemon", "--pidfile=", "loghouse", "--config", "/etc/loghouse/node.yaml"],
        )
        self.assertEqual(dict(self.image)["STOPSIGNAL"], "SIGTERM")

    @in_children
    def test_versions(self):
        """The step that pins versions makes a line of each package that is to be installed."""
        folder = Path(self.mktemp())
        folder.mkdir(parents=True)
        shutil.copytree(ROOT / "requirements", folder / "requirements")
        [step] = [text for word, text in self.build if word == "RUN" and text.startswith("sed")]
        subprocess.run(["sh", "-ec", step], cwd=folder, check=True, timeout=60)
        lines = (folder / "versions.txt").read_text().splitlines()
        self.assertEqual([line for line in lines if not re.fullmatch(r"[a-z0-9-]+==[^\s\\;]+", line)], [])
        setup = configparser.ConfigParser()
        setup.read(ROOT / "setup.cfg")
        wanted = setup["options"]["install_requires"] + setup["options.extras_require"]["node"]
        needed = re.findall(r"(?m)^([A-Za-z0-9-]+)", wanted)
        self.assertEqual(
            {name.lower() for name in needed} - {line.partition("==")[0] for line in lines}, set()
        )

    @in_children
    def test_health_check(self):
        """The health check succeeds when /readyz says 200, and fails when it says 503 or nothing."""

        class Answers(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                self.send_response(status if self.path == "/readyz" else 404)
                self.end_headers()

            def log_message(self, *args):
                pass

        server = http.server.HTTPServer(("127.0.0.1", 0), Answers)
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        self.addCleanup(thread.join)
        self.addCleanup(server.server_close)
        self.addCleanup(server.shutdown)
        python, *rest = health_command()
        self.assertEqual(python, "python")
        self.assertIn(("ENV", "LOGHOUSE_HEALTH=http://127.0.0.1:8480/readyz"), self.image)
        environment = {**os.environ, "LOGHOUSE_HEALTH": f"http://127.0.0.1:{server.server_port}/readyz"}
        for answer, is_well in ((200, True), (503, False)):
            status = answer
            done = subprocess.run([sys.executable, *rest], env=environment, capture_output=True, timeout=60)
            self.assertEqual(done.returncode == 0, is_well, done.stderr)


class BuildTests(SynchronousTestCase):
    """The steps that build, done one by one in an empty folder."""

    timeout = 600

    def setUp(self):
        if not os.environ.get("LOGHOUSE_PACKAGING"):
            raise SkipTest("slow, and needs a package index; set LOGHOUSE_PACKAGING=1")
        self.folder = Path(self.mktemp()).absolute()
        (self.folder / "src").mkdir(parents=True)

    def run_step(self, text):
        """Run a RUN, with this Python, and an /opt of its own."""
        text = text.replace("/opt/loghouse", str(self.folder / "opt"))
        text = re.sub(r"^python ", f"{sys.executable} ", text)
        environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        done = subprocess.run(
            ["sh", "-ec", text], cwd=self.folder / "src", env=environment, capture_output=True, timeout=600
        )
        self.assertEqual(done.returncode, 0, f"{text}\n{done.stderr.decode()}")

    def copy(self, text):
        """Copy what a COPY copies."""
        *names, to = text.split()
        for name in names:
            target = self.folder / "src" / to
            if (ROOT / name).is_dir():
                shutil.copytree(ROOT / name, target, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copy(ROOT / name, target)

    def test_build(self):
        """They install node and command, in pinned versions, with twistd's list of plugins."""
        for word, text in instructions()[0]:
            if word == "RUN":
                self.run_step(text)
            elif word == "COPY":
                self.copy(text)
        programs = self.folder / "opt" / "bin"
        self.assertEqual(
            self.shown(programs / "twistd", "loghouse", "--version"), f"loghouse {__version__}\n"
        )
        self.assertEqual(self.shown(programs / "loghouse", "--version"), f"loghouse {__version__}\n")
        pinned = (self.folder / "src" / "versions.txt").read_text().splitlines()
        lines = [line.lower().split("==") for line in self.shown(programs / "pip", "freeze").splitlines()]
        installed = {f"{re.sub('[._]', '-', name)}=={version}" for name, *rest in lines for version in rest}
        self.assertGreater(len(installed), 20)
        self.assertEqual(installed - set(pinned), set())
        [plugins] = self.folder.glob("opt/lib/*/site-packages/twisted/plugins")
        self.assertTrue((plugins / "dropin.cache").exists())

    def shown(self, *words):
        """Return what a program prints."""
        return subprocess.run(words, capture_output=True, text=True, timeout=60, check=True).stdout


class ComposeTests(SynchronousTestCase):
    """deploy/compose/."""

    def setUp(self):
        self.compose = yaml.safe_load(COMPOSE.read_text())
        self.services = self.compose["services"]
        self.nodes = sorted(name for name in self.services if name.startswith("node-"))

    def settings(self, name):
        """Return a node's settings."""
        return settings_of(
            COMPOSE.with_name(f"{name}.yaml").read_text(), Path(self.mktemp()).absolute(), "certs/"
        )

    def test_image(self):
        """Every service is of the image that the Dockerfile beside it makes."""
        for name, service in self.services.items():
            build = service["build"]
            self.assertEqual(service["image"], "loghouse", name)
            self.assertEqual((COMPOSE.parent / build["context"]).resolve(), ROOT)
            self.assertEqual(ROOT / build["dockerfile"], DOCKERFILE)

    def test_volumes(self):
        """Each named volume is declared, each file is there, and no two nodes share one to write to."""
        written = []
        for name, service in self.services.items():
            for volume in service["volumes"]:
                source, _, *mode = volume.split(":")
                if source.startswith("."):
                    self.assertTrue((COMPOSE.parent / source).is_file(), volume)
                else:
                    self.assertIn(source, self.compose["volumes"])
                if mode != ["ro"]:
                    written.append((source, name))
        self.assertEqual(
            sorted(written),
            sorted([("certificates", "certificates"), *((f"data-{one[-1]}", one) for one in self.nodes)]),
        )

    def test_order(self):
        """Nodes wait for their certificates, and are left the time to stop."""
        for name in self.nodes:
            service = self.services[name]
            waits = service["depends_on"]["certificates"]["condition"]
            self.assertEqual((waits, service["stop_grace_period"]), ("service_completed_successfully", "60s"))

    def test_settings(self):
        """Each node's settings are right, and differ from the others' in what is its own."""
        settings = {name: self.settings(name) for name in self.nodes}
        self.assertEqual(len(settings), 3)
        for name, config in settings.items():
            self.assertEqual((config.name, config.cluster), (name, "loghouse"))
            self.assertEqual(str(config.public_address), f"{name}:8400")
            self.assertEqual([str(one) for one in config.join], [f"{one}:8400" for one in self.nodes])
            self.assertEqual(str(config.data_dir), "/var/lib/loghouse/data")
            self.assertTrue(config.http_listen.is_loopback)
            self.assertIn(name, config.tls.certificate.name)
        self.assertEqual([config.bootstrap for config in settings.values()], [True, False, False])

    @in_children
    def test_certificates(self):
        """The certificates service makes what nodes and command name, and nothing the second time."""
        folder = Path(self.mktemp()).absolute()
        tools = folder / "bin"
        tools.mkdir(parents=True)
        command = tools / "loghouse"
        command.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m loghouse.cli.main "$@"\n')
        command.chmod(0o755)
        service = self.services["certificates"]
        [script] = service["command"]
        script = script.replace("$$", "$").replace("/etc/loghouse/certs", str(folder / "certs"))
        environment = {
            **os.environ,
            "PATH": f"{tools}:{os.environ['PATH']}",
            "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
        }
        made = []
        for _ in range(2):
            subprocess.run(
                [*service["entrypoint"], script], env=environment, cwd=folder, check=True, timeout=60
            )
            made.append({path.name: path.read_bytes() for path in (folder / "certs").iterdir()})
        self.assertEqual(*made)
        config = self.settings("node-1")
        named = [config.tls.ca, config.tls.certificate, config.tls.key, config.acl.model, config.acl.policy]
        named += [
            Path(value)
            for key, value in self.services["loghouse"]["environment"].items()
            if key != "LOGHOUSE_SERVER"
        ]
        self.assertEqual({path.name for path in named} - set(made[0]), set())

    def test_command(self):
        """The service for the command is the command, and names every node."""
        service = self.services["loghouse"]
        self.assertEqual((service["entrypoint"], service["profiles"]), (["loghouse"], ["command"]))
        self.assertEqual(
            service["environment"]["LOGHOUSE_SERVER"], ",".join(f"{name}:8400" for name in self.nodes)
        )
