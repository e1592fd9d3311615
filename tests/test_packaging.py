"""What is in the wheel and the sdist, and that both work from a clean venv (slow: LOGHOUSE_PACKAGING=1)."""

import atexit
import configparser
import email
import functools
import os
import re
import shutil
import socket
import subprocess
import sys
import tarfile
import tempfile
import tomllib
import venv
import zipfile
from pathlib import Path

from packaging.specifiers import SpecifierSet
from twisted.trial.unittest import SkipTest, SynchronousTestCase

from loghouse.errors import NODE_MODULES
from loghouse.testing.process import Certificates, NodeProcess
from tests.processes import in_children, thorough
from tests.sources import tree_of
from tests.test_floors import MODULES, imports_of, room_of

ROOT = Path(__file__).resolve().parent.parent
# The distributions that bring modules of another name.
DISTRIBUTIONS = {
    "twisted": "Twisted",
    "zope": "Twisted",
    "OpenSSL": "pyOpenSSL",
    "grpc": "grpcio",
    "grpc_health": "grpcio-health-checking",
    "grpc_reflection": "grpcio-reflection",
    "google": "protobuf",
    "yaml": "PyYAML",
    "prometheus_client": "prometheus-client",
}
# What the extra `faststream` brings, of which more than FastStream itself is imported.
FASTSTREAM = {"faststream", "fast_depends"}
# What makes modules of this process missing, as they are where they were not installed.
MISSING = """
import sys

class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {names}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Missing())
"""


def run(*command, cwd, **more):
    """Run a command outside the checkout's reach, with more in its environment; return its output."""
    environment = {
        key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "VIRTUAL_ENV")
    } | more
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

    def names_of(self, section, key):
        """The distributions that a setting lists."""
        return set(re.findall(r"(?m)^([A-Za-z0-9-]+)", self.setup[section][key].strip()))

    def test_every_dependency_has_a_lower_bound(self):
        """A dependency without one breaks on machines that have an old version."""
        extras = self.setup["options.extras_require"]
        for line in f"{self.setup['options']['install_requires']}\n{extras['node']}".split("\n"):
            if line:
                self.assertRegex(line, r"^[A-Za-z0-9-]+(\[[a-z,]+\])?>=[0-9.]+(;.*)?$")

    def test_every_dependency_has_a_reason(self):
        """ADR 2 names each, where it belongs to."""
        text = (ROOT / "docs" / "adr" / "0002-dependencies.md").read_text()
        common, _, node = text.partition("| a node needs |")
        for names, part in (
            (self.names_of("options", "install_requires"), common),
            (self.names_of("options.extras_require", "node"), node),
        ):
            self.assertEqual([name for name in sorted(names) if not re.search(rf"\b{name}\b", part)], [])

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

    def test_faststream(self):
        """FastStream is an extra, of one minor version: one module imports what is private to it."""
        extra = self.setup["options.extras_require"]["faststream"].strip()
        self.assertRegex(extra, r"^faststream>=0\.(\d+)\.\d+,<0\.\d+$")
        pinned = re.search(r"(?m)^faststream==(\S+)", (ROOT / "requirements/dev.txt").read_text())[1]
        self.assertIn(pinned, SpecifierSet(extra.removeprefix("faststream")))
        users = {
            path.parent.name
            for path in (ROOT / "loghouse").rglob("*.py")
            for name in imports_of(tree_of(path))
            if name.startswith("loghouse.integrations") and path.parent.name != "faststream"
        }
        self.assertEqual(users, set())
        private = {
            path.name
            for path in (ROOT / "loghouse/integrations/faststream").rglob("*.py")
            for name in imports_of(tree_of(path))
            if name.startswith("faststream._")
        }
        self.assertEqual(private, {"private.py"})

    def test_twisted(self):
        """The client for Twisted programs is an extra, with a node's bound of Twisted."""
        extras = self.setup["options.extras_require"]
        self.assertIn(extras["twisted"].strip().replace("Twisted", "Twisted[tls]"), extras["node"])

    def test_every_import_is_a_dependency(self):
        """The package imports nothing that installing it, with a node's extra, does not bring."""
        node = self.names_of("options.extras_require", "node")
        required = self.names_of("options", "install_requires") | node
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
                if top in FASTSTREAM and path.parent == ROOT / "loghouse/integrations/faststream":
                    continue  # of the extra `faststream`; nobody else imports that package
                if top not in sys.stdlib_module_names and top != "loghouse":
                    found.add(top)
        self.assertEqual({DISTRIBUTIONS.get(name, name) for name in found} - required, set())
        self.assertEqual({name for name in found if DISTRIBUTIONS.get(name, name) in node}, NODE_MODULES)


class WithoutNodeTests(SynchronousTestCase):
    """A machine on which `pip install loghouse` was said, and no extra."""

    def python(self, program, *words, there=frozenset(), missing=frozenset()):
        """Run a program on such a machine, in a folder of its own; some of what a node needs may be there."""
        folder = Path(self.mktemp()).absolute()
        folder.mkdir(parents=True)
        places = os.pathsep.join([str(ROOT), *filter(None, sys.path)])
        absent = NODE_MODULES - there | missing
        return subprocess.run(
            [sys.executable, "-c", MISSING.format(names=sorted(absent)) + program, *words],
            cwd=folder, env={**os.environ, "PYTHONPATH": places}, capture_output=True, text=True, timeout=60,
        )  # fmt: skip

    def command(self, *words):
        """Return how `loghouse` ends there, and what it prints."""
        done = self.python("from loghouse.cli.main import main\nsys.exit(main())", *words)
        return done.returncode, done.stdout, done.stderr

    @in_children
    def test_imports(self):
        """Client, embedded log and the plugin for pytest are there."""
        modules = sorted(
            module
            for module in MODULES
            if room_of(module)
            in ("client", "embedded", "backup", "catalogue", "storage", "protocol", "replica")
        )
        modules.append("loghouse.testing.fixtures.plugin")
        done = self.python("\n".join(f"import {module}" for module in modules))
        self.assertEqual((done.returncode, done.stderr), (0, ""))

    @in_children
    def test_deferred(self):
        """The client for Twisted programs needs nothing but Twisted, and says what brings it."""
        done = self.python("import loghouse.client.deferred")
        self.assertEqual(done.returncode, 1)
        self.assertIn("ModuleNotFoundError: loghouse.client.deferred needs Twisted", done.stderr)
        self.assertIn("pip install 'loghouse[twisted]' brings it\n", done.stderr)
        done = self.python("from loghouse.client.deferred import connect", there={"twisted", "zope"})
        self.assertEqual((done.returncode, done.stderr), (0, ""))

    @in_children
    def test_fixtures(self):
        """What forks nodes for the tests of users needs a node's packages, and no framework's."""
        program = "from loghouse.testing import forking\nforking._import_all()"
        done = self.python(program, there=NODE_MODULES, missing=FASTSTREAM)
        self.assertEqual((done.returncode, done.stderr), (0, ""))

    @in_children
    def test_commands(self):
        """The command works; what makes or judges a node's files says what to install."""
        code, out, err = self.command("--help")
        self.assertEqual((code, err), (0, ""))
        needy = set(re.findall(r"(?m)^    (\w+) +\w+ is not installed", re.sub(r"\n {24}", " ", out)))
        self.assertEqual(needy, {"certs", "doctor", "demo"})
        for words in (
            ("doctor", "--config", "x.yaml"),
            ("certs", "init"),
            ("demo", "--once", "--nodes", "1"),
        ):
            code, out, err = self.command(*words)
            self.assertEqual((code, out), (2, ""))
            self.assertRegex(err, rf"^loghouse {words[0]}: \w+ is not installed; .*'loghouse\[node\]'.*\n$")
            self.assertEqual(err.count("\n"), 1)
        code, out, err = self.command("config", "example", "--client")
        self.assertEqual((code, err), (0, ""))
        self.assertIn("server:", out)

    @in_children
    def test_twistd(self):
        """twistd, which is there for another program, says in a line what a node needs."""
        done = self.python(
            "from twisted.scripts.twistd import run\nrun()",
            *("-n", "loghouse", "--config", "node.yaml"),
            there={"twisted", "zope"},
        )
        self.assertEqual((done.returncode, done.stdout), (1, ""))
        self.assertRegex(done.stderr, r"^twistd loghouse: \w+ is not installed; .*'loghouse\[node\]'.*\n$")


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
        wanted = f"{setup['options']['install_requires']}\n{extras['dev']}"
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


@functools.cache
def built():
    """Return the wheel and the sdist, in a folder that lasts as long as this process."""
    folder = Path(tempfile.mkdtemp())
    atexit.register(shutil.rmtree, folder)
    run(sys.executable, "-m", "build", "--outdir", folder, ROOT, cwd=folder)
    return next(folder.glob("*.whl")), next(folder.glob("*.tar.gz"))


class BuiltCase(SynchronousTestCase):
    """Both distributions, and an empty folder."""

    timeout = 900

    def setUp(self):
        if not os.environ.get("LOGHOUSE_PACKAGING"):
            raise SkipTest("slow, and needs a package index; set LOGHOUSE_PACKAGING=1")
        self.folder = Path(self.mktemp()).absolute()
        self.folder.mkdir(parents=True)
        self.wheel, self.sdist = built()

    def unpacked(self):
        """Return the folder that the sdist is, unpacked."""
        with tarfile.open(self.sdist) as archive:
            archive.extractall(self.folder, filter="data")
        return self.folder / self.sdist.name.removesuffix(".tar.gz")


class ReleaseTests(BuiltCase):
    """What is published."""

    ADDRESS = "https://host.example/owner/loghouse"

    def test_whole(self):
        """The sdist has every file of the repository, and none beside, such as keys that lie around."""
        if not (ROOT / ".git").exists():
            raise SkipTest("this is no clone")
        tree = self.unpacked()
        found = {path.relative_to(tree).as_posix() for path in tree.rglob("*") if path.is_file()}
        found = {name for name in found if not name.startswith("loghouse.egg-info/")} - {"PKG-INFO"}
        tracked = set(run("git", "ls-files", cwd=ROOT).splitlines())
        there = {name for name in tracked if (ROOT / name).exists()}
        self.assertEqual((sorted(there - found), sorted(found - tracked)), ([], []))

    def test_its_tests(self):
        """Its tests run from it: those that read files of the repository do; all others can be read."""
        tree = self.unpacked()
        self.assertIn(
            str(tree), run(sys.executable, "-c", "import loghouse; print(loghouse.__file__)", cwd=tree)
        )
        some = ("deploy", "http/test_deploy.py", "test_docs.py", "test_packaging.py")
        pytest = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"]
        less = {"LOGHOUSE_PACKAGING": "", "LOGHOUSE_CHILD_TESTS": "0"}
        run(*pytest, *(f"tests/{name}" for name in some), cwd=tree, **less)
        collected = run(*pytest, "--collect-only", "tests", cwd=tree)
        self.assertGreater(sum(map(int, re.findall(r"(?m)^tests/\S+: (\d+)$", collected))), 3000)

    def test_links(self):
        """With an address no link of the README is relative, and there are links to it; else it refuses."""
        tree = self.unpacked()
        version = self.sdist.name.removesuffix(".tar.gz").partition("-")[2]
        program = (sys.executable, ".ci/release.py")
        for words, text in (((), "say where"), ((self.ADDRESS, "out"), f"has no section {version}")):
            self.assertIn(text, str(self.assertRaises(AssertionError, run, *program, *words, cwd=tree)))
        changes = tree / "CHANGELOG.md"
        changes.write_text(changes.read_text().replace("## Unreleased", f"## {version} (2026-11-30)"))
        run(*program, self.ADDRESS, "out", cwd=tree)
        [wheel] = (tree / "out").glob("*.whl")
        archive = zipfile.ZipFile(wheel)
        [name] = [name for name in archive.namelist() if name.endswith(".dist-info/METADATA")]
        metadata = email.message_from_bytes(archive.read(name))
        links = re.findall(r"\]\(([^)\s]+)\)", metadata.get_payload())
        files = f"{self.ADDRESS}/blob/v{version}/"
        self.assertGreater(len(links), 20)
        self.assertEqual([link for link in links if not link.startswith(("https://", "#"))], [])
        places = {link.removeprefix(files).partition("#")[0] for link in links if link.startswith(files)}
        self.assertEqual([place for place in places if not (tree / place).exists()], [])
        urls = dict(line.split(", ") for line in metadata.get_all("Project-URL"))
        self.assertEqual(urls["Source"], self.ADDRESS)
        self.assertEqual(urls["Changes"], f"{files}CHANGELOG.md")
        self.assertEqual(len(list((tree / "out").glob("*.tar.gz"))), 1)


class InstallTests(BuiltCase):
    """Both distributions, installed as a user would."""

    def test_wheel(self):
        """The wheel holds what it should, installs, works and goes away again."""
        self.check_contents()
        self.check_install(self.wheel)

    def test_sdist(self):
        """So does the sdist."""
        self.check_install(self.sdist)

    def install(self, name, *words):
        """Make an environment with what pip installs by these words; return its folder of programs."""
        home = self.folder / f"venv-{name}"
        venv.create(home, with_pip=True)
        pip = [home / "bin" / "python", "-m", "pip", "--quiet", "--disable-pip-version-check"]
        run(*pip, "install", *words, cwd=self.folder)
        run(*pip, "check", cwd=self.folder)
        return home / "bin"

    def installed(self, programs):
        """Return the distributions of an environment."""
        lines = run(programs / "python", "-m", "pip", "freeze", cwd=self.folder).splitlines()
        return {re.split("[=@ ]", line)[0] for line in lines}

    def test_without_the_node(self):
        """`pip install loghouse` is the log in a program, the client and the command: no part of a node."""
        programs = self.install("client", self.wheel)
        self.assertEqual(self.installed(programs) & {"Twisted", "casbin", "cryptography"}, set())
        program = re.search(
            r"```python\n(import loghouse\n.+?)```", (ROOT / "README.md").read_text(), re.DOTALL
        )
        shown = run(programs / "python", "-c", program[1], cwd=self.folder)
        self.assertEqual(shown.split(maxsplit=1)[1:], ["b'moved'\n"], shown)
        certificates = Certificates(self.folder / "certs")
        node = NodeProcess(self.folder / "node", certificates)
        self.addCleanup(node.close)
        node.start()

        def command(*words):
            names = {"--server": node.address, "--ca": "ca.pem", "--cert": "root.pem", "--key": "root.key"}
            places = [
                word
                for option, value in names.items()
                for word in (option, value if option == "--server" else certificates.folder / value)
            ]
            return run(programs / "loghouse", *words, *places, cwd=self.folder)

        self.assertIn("offset 0", command("produce", "--value", "hello"))
        self.assertEqual(command("consume"), "hello\n")
        self.assertEqual(command("consume", "--transport", "grpc"), "hello\n")
        self.assertIn("1 new record", command("backup", "--all", "backup"))
        self.assertIn("node-1", command("cluster", "status"))

    def test_log_alone(self):
        """By the other lines of docs/embedded.md not even the client's gRPC comes along."""
        needed = re.search(
            r"pip install --no-deps loghouse\npip install (.+)", (ROOT / "docs" / "embedded.md").read_text()
        )
        programs = self.install("log", *needed[1].split())
        run(programs / "pip", "--quiet", "install", "--no-deps", self.wheel, cwd=self.folder)
        program = "import loghouse\nwith loghouse.open('log-alone') as log: print(log.append(b'x'))"
        self.assertEqual(run(programs / "python", "-c", program, cwd=self.folder), "0\n")
        self.assertNotIn("grpcio", self.installed(programs))

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

    def check_install(self, distribution):
        scripts = self.install(distribution.suffix.strip("."), f"{distribution}[node]")
        python, home = scripts / "python", scripts.parent
        pip = [python, "-m", "pip", "--quiet", "--disable-pip-version-check"]
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
        run(*pip, "uninstall", "--yes", "loghouse", cwd=self.folder)
        self.assertNotIn("oghouse", run(scripts / "twistd", "--help", cwd=self.folder))
        run(python, "-c", "import twisted.plugins, twisted.application.service", cwd=self.folder)
