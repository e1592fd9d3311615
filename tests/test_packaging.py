"""What is in the wheel and the sdist, and that both work from a clean venv (slow: LOGHOUSE_PACKAGING=1)."""

import configparser
import os
import re
import socket
import subprocess
import sys
import tarfile
import tomllib
import venv
import zipfile
from pathlib import Path

from packaging.specifiers import SpecifierSet
from twisted.trial.unittest import SkipTest, SynchronousTestCase

from tests.processes import thorough
from tests.sources import tree_of
from tests.test_floors import imports_of

ROOT = Path(__file__).resolve().parent.parent


def run(*command, cwd):
    """Run a command outside the checkout's reach; return its output."""
    environment = {
        key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "VIRTUAL_ENV")
    }
    done = subprocess.run(
        [str(word) for word in command], cwd=cwd, env=environment, capture_output=True, text=True, timeout=600
    )
    if done.returncode:
        raise AssertionError(f"{command} ended with {done.returncode}:\n{done.stdout}\n{done.stderr}")
    return done.stdout


@thorough
class SettingsTests(SynchronousTestCase):
    """The packaging files, read as they are."""

    def setUp(self):
        self.setup = configparser.ConfigParser()
        self.setup.read(ROOT / "setup.cfg")

    def test_pyproject_is_the_build_system_only(self):
        """Everything but the build system is in setup.cfg."""
        self.assertEqual(list(tomllib.loads((ROOT / "pyproject.toml").read_text())), ["build-system"])

    def test_plugin_is_packaged(self):
        """twisted.plugins is listed by name, because a folder without __init__.py is not found otherwise."""
        included = self.setup["options.packages.find"]["include"].split()
        self.assertEqual(included, ["loghouse", "loghouse.*", "twisted.plugins"])

    def test_every_dependency_has_a_lower_bound(self):
        """A dependency without one breaks on machines that have an old version."""
        for line in self.setup["options"]["install_requires"].strip().splitlines():
            self.assertRegex(line, r"^[A-Za-z0-9-]+(\[[a-z,]+\])?>=[0-9.]+(;.*)?$")

    def test_pytest_plugin(self):
        """pytest finds the fixtures by the distribution's entry point, which names a module there is."""
        entry = self.setup["options.entry_points"]["pytest11"].strip()
        name, module = (part.strip() for part in entry.split("="))
        self.assertEqual(name, "loghouse")
        self.assertTrue((ROOT / module.replace(".", "/")).with_suffix(".py").exists(), module)
        self.assertIn("pytest", self.setup["options.extras_require"]["pytest"])

    def test_completion(self):
        """What completes a shell's line is an extra, which the command's refusal names."""
        self.assertIn("shtab", self.setup["options.extras_require"]["completion"])
        self.assertIn("'loghouse[completion]'", (ROOT / "loghouse/cli/completion.py").read_text())

    def test_every_import_is_a_dependency(self):
        """The package imports nothing that installing it does not bring."""
        names = {
            "twisted": "Twisted",
            "zope": "Twisted",
            "OpenSSL": "pyOpenSSL",
            "service_identity": "service-identity",
            "grpc": "grpcio",
            "grpc_health": "grpcio-health-checking",
            "grpc_reflection": "grpcio-reflection",
            "grpc_status": "grpcio-status",
            "google": "protobuf",
            "yaml": "PyYAML",
            "prometheus_client": "prometheus-client",
        }
        required = re.findall(r"(?m)^([A-Za-z0-9-]+)", self.setup["options"]["install_requires"].strip())
        found = set()
        for path in (ROOT / "loghouse").rglob("*.py"):
            for name in imports_of(tree_of(path)):
                top = name.split(".")[0]
                if top == "pytest" and path == ROOT / "loghouse/testing/fixtures/plugin.py":
                    continue  # of the extra of that name; pytest itself reads the plugin
                if top == "shtab" and path == ROOT / "loghouse/cli/completion.py":
                    continue  # of an extra; the command names it when it is not there
                if top == "opentelemetry" and path.parent == ROOT / "loghouse/tracing":
                    continue  # of the extra `otel`; nobody imports that package who does not trace
                if top not in sys.stdlib_module_names and top != "loghouse":
                    found.add(names.get(top, top))
        self.assertEqual(found - set(required), set())


@thorough
class PinTests(SynchronousTestCase):
    """What CI installs: `requirements/`."""

    def pins(self, name):
        """The packages of a file: name to version, every one with the hashes of its files."""
        text = (ROOT / "requirements" / name).read_text().replace("\\\n", " ")
        lines = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
        for line in lines:
            self.assertRegex(line, r"^[a-z0-9-]+==\S+ .*--hash=sha256:[0-9a-f]{64}\b")
        return dict(line.split()[0].split("==") for line in lines)

    def test_all_are_pinned(self):
        """Every package that tests and checks need is there, in a version that setup.cfg allows."""
        setup = configparser.ConfigParser()
        setup.read(ROOT / "setup.cfg")
        extras = setup["options.extras_require"]
        wanted = f"{setup['options']['install_requires']}\n{extras['test']}\n{extras['dev']}"
        pins = self.pins("dev.txt")
        missing = []
        for line in wanted.splitlines():
            found = re.match(r"([A-Za-z0-9-]+)(?:\[\w+\])?(\S*)", line.strip())
            if found is None:
                continue
            version = pins.get(found[1].lower())
            if version is None or not SpecifierSet(found[2].rstrip(";")).contains(version):
                missing.append(line)
        self.assertEqual(missing, [])

    def test_generator(self):
        """So is the generator of code, in the version that proto.in names."""
        wanted = [line for line in (ROOT / "requirements" / "proto.in").read_text().split() if "==" in line]
        pins = self.pins("proto.txt")
        self.assertEqual([f"{name}=={pins.get(name)}" for name in ("grpcio-tools",)], wanted)


class InstallTests(SynchronousTestCase):
    """Both distributions, built and installed as a user would."""

    timeout = 900

    def setUp(self):
        if not os.environ.get("LOGHOUSE_PACKAGING"):
            raise SkipTest("slow, and needs a package index; set LOGHOUSE_PACKAGING=1")
        self.folder = Path(self.mktemp()).absolute()
        self.folder.mkdir(parents=True)
        run(sys.executable, "-m", "build", "--outdir", self.folder / "dist", ROOT, cwd=self.folder)
        (self.wheel,) = (self.folder / "dist").glob("*.whl")
        (self.sdist,) = (self.folder / "dist").glob("*.tar.gz")

    def test_distributions(self):
        """Each holds what it should, and installs, works and goes away again."""
        self.check_contents()
        for distribution in (self.wheel, self.sdist):
            self.check_install(distribution)

    def test_without_the_server(self):
        """By the lines of docs/embedded.md the README's program runs, and nothing of a server is there."""
        needed = re.search(
            r"pip install --no-deps loghouse\npip install (.+)", (ROOT / "docs" / "embedded.md").read_text()
        )
        program = re.search(
            r"```python\n(import loghouse\n.+?)```", (ROOT / "README.md").read_text(), re.DOTALL
        )
        home = self.folder / "venv-embedded"
        venv.create(home, with_pip=True)
        pip = [home / "bin" / "python", "-m", "pip", "--quiet", "--disable-pip-version-check"]
        run(*pip, "install", "--no-deps", self.wheel, cwd=self.folder)
        run(*pip, "install", *needed[1].split(), cwd=self.folder)
        shown = run(home / "bin" / "python", "-c", program[1], cwd=self.folder)
        self.assertEqual(shown.split(maxsplit=1)[1:], ["b'moved'\n"], shown)
        installed = {line.split("==")[0] for line in run(*pip, "freeze", cwd=self.folder).splitlines()}
        self.assertEqual(installed & {"Twisted", "grpcio", "casbin", "cryptography"}, set())

    def check_contents(self):
        wheel = zipfile.ZipFile(self.wheel)
        names = wheel.namelist()
        (entry_points,) = [name for name in names if name.endswith(".dist-info/entry_points.txt")]
        self.assertIn(b"[pytest11]\nloghouse = loghouse.testing.fixtures.plugin", wheel.read(entry_points))
        self.assertIn("loghouse/testing/hooks/sitecustomize.py", names)
        self.assertIn("twisted/plugins/loghouse_plugin.py", names)
        self.assertIn("loghouse/py.typed", names)
        self.assertIn("loghouse/api/v1/log_pb2_grpc.py", names)
        self.assertEqual(
            [name for name in names if re.match(r"twisted/(?!plugins/loghouse_plugin)", name)], []
        )
        self.assertEqual([name for name in names if name.startswith(("tests/", "bench/"))], [])
        self.assertTrue(any(name.endswith("/LICENSE") for name in names), names)
        with tarfile.open(self.sdist) as archive:
            inside = {name.split("/", 1)[-1] for name in archive.getnames()}
        for name in (
            "setup.cfg",
            "README.md",
            "LICENSE",
            "loghouse/tap.py",
            "twisted/plugins/loghouse_plugin.py",
        ):
            self.assertIn(name, inside)

    def check_install(self, distribution):
        home = self.folder / f"venv-{distribution.suffix.strip('.')}"
        venv.create(home, with_pip=True)
        python, scripts = home / "bin" / "python", home / "bin"
        pip = [python, "-m", "pip", "--quiet", "--disable-pip-version-check"]
        run(*pip, "install", distribution, cwd=self.folder)
        self.assertIn("Run a node of Loghouse", run(scripts / "twistd", "--help", cwd=self.folder))
        self.assertIn("--config", run(scripts / "twistd", "loghouse", "--help", cwd=self.folder))
        self.assertRegex(run(scripts / "loghouse", "--version", cwd=self.folder), r"^loghouse \d")
        self.assertIn("data_dir: data", run(scripts / "loghouse", "config", "example", cwd=self.folder))
        input_file = self.folder / "input"
        input_file.write_text("one\ntwo\n")
        with socket.create_server(("127.0.0.1", 0)) as free:
            address = f"127.0.0.1:{free.getsockname()[1]}"
        shown = run(
            *(scripts / "loghouse", "demo", "--once", "--file", input_file, "--listen", address),
            *("--dir", home / "dev"),
            cwd=self.folder,
        )
        self.assertIn("every byte came back as it went in", shown)
        run(*pip, "check", cwd=self.folder)
        run(*pip, "uninstall", "--yes", "loghouse", cwd=self.folder)
        self.assertNotIn("oghouse", run(scripts / "twistd", "--help", cwd=self.folder))
        run(python, "-c", "import twisted.plugins, twisted.application.service", cwd=self.folder)
