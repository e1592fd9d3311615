"""The floors of the house: who may import whom, and what is forbidden where (docs/architecture.md)."""

import ast
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from tests.processes import thorough
from tests.sources import tree_of

ROOT = Path(__file__).resolve().parent.parent / "loghouse"
ARCHITECTURE = ROOT.parent / "docs" / "architecture.md"

# From the top down, each room with what it is for: a folder, or a module beside the folders. A room imports
# from lower floors only, never from one of its own floor.
FLOORS = (
    {
        "testing": "simulated clusters, fault injection, test processes, pytest fixtures",
        "integrations": "Loghouse within frameworks",
    },
    {"tap": "the twistd plugin", "cli": "the loghouse command"},
    {
        "service": "the service tree",
        "diagnostics": "log files, signals",
        "embedded": "a log in the program that uses it",
        "client.deferred": "the client for Twisted programs",
    },
    {"http": "the HTTP server: health, metrics, the console"},
    {"api": "the gRPC server", "cluster": "membership, peers", "client": "the Python client"},
    {"net": "the one TLS port, links, the binary server"},
    {"node": "the process: what it hosts and what others may ask of it"},
    {"replica": "one log on one node"},
    {
        "backup": "logs in files",
        "runtime": "the reactor, threads, TLS transport",
        "auth": "identities, permissions",
        "config": "node.yaml",
    },
    {
        "raft": "consensus",
        "gossip": "who is alive",
        "storage": "segments, recovery",
        "catalogue": "which logs there are",
    },
    {"protocol": "entries, messages, replicated state"},
    {
        "api.v1": "generated stubs",
        "shares": "what one subject, or log, may hold",
        "tracing": "spans, by OpenTelemetry",
    },
    {"errors": "", "limits": "", "metrics": "", "text": ""},
)
LEVELS = {room: -index for index, floor in enumerate(FLOORS) for room in floor}
ROOT_MODULES_MAX = 7

# Pure: no input, no output, no clock, no chance; time and randomness are handed in.
PURE = {
    "backup",
    "raft",
    "gossip",
    "storage",
    "catalogue",
    "protocol",
    "shares",
    "errors",
    "limits",
    "metrics",
    "text",
}
PURE_FORBIDDEN = {
    "twisted",
    "grpc",
    "asyncio",
    "socket",
    "threading",
    "time",
    "logging",
    "random",
    "os",
    "mmap",
}
STORAGE_MAY = {"os", "mmap"}
ONLY_IN = {
    "grpc": {"api.v1", "api", "client", "cli", "testing"},
    "asyncio": {"api", "client", "client.deferred", "embedded", "integrations", "runtime", "cli", "testing"},
    "casbin": {"auth"},
    "faststream": {"integrations"},
    "opentelemetry": {"tracing"},
    "prometheus_client": {"http"},
    "yaml": {"config", "testing"},
    "twisted": set(LEVELS)
    - PURE
    - {"client", "cli", "config", "embedded", "integrations", "replica", "tracing"},
}
# Rooms that stand high and need little: what they may import of the house. A program that uses a log imports
# the client, which therefore brings nothing of the server.
NEEDS_ONLY = {
    "client": {"api.v1", "protocol", "errors", "limits", "tracing"},
    "integrations": {"client", "errors", "limits"},
    "client.deferred": {"client", "errors", "limits"},
    "embedded": {
        "client",
        "replica",
        "runtime",
        "raft",
        "storage",
        "protocol",
        "errors",
        "limits",
        "metrics",
    },
}
# Folders within a folder that are rooms of their own.
WITHIN = {"api.v1", "client.deferred"}
BANNED = {"pickle", "marshal", "shelve"}


def room_of(module: str) -> str:
    """Return the room of a dotted name below `loghouse`."""
    parts = module.split(".")[1:]
    if parts == ["__main__"]:
        return "cli"  # the command by another name, where Python wants it
    inner = ".".join(parts[:2])
    return inner if inner in WITHIN else parts[0]


def imports_of(tree: ast.Module):
    """Yield the dotted names that a module imports, also those for type checkers alone."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            for alias in node.names:
                whole = f"{node.module}.{alias.name}"
                yield whole if whole in MODULES else node.module


def modules():
    """Yield each module's dotted name and file, the package itself and generated ones left out."""
    for path in sorted(ROOT.rglob("*.py")):
        if not path.name.endswith(("_pb2.py", "_pb2_grpc.py")) and path != ROOT / "__init__.py":
            relative = path.relative_to(ROOT.parent).with_suffix("")
            yield ".".join(part for part in relative.parts if part != "__init__"), path


MODULES = dict(modules())


def violations():
    """Yield what breaks a rule, a line each."""
    for module, path in MODULES.items():
        room = room_of(module)
        if room not in LEVELS:
            yield f"{module}: {room!r} has no floor"
            continue
        allowed = STORAGE_MAY if room == "storage" else set()
        for name in imports_of(tree_of(path)):
            top = name.split(".")[0]
            if top in BANNED:
                yield f"{module} imports {name}: banned everywhere"
            if top == "loghouse" and name != "loghouse":
                target = room_of(name)
                if target != room and LEVELS[target] >= LEVELS[room]:
                    yield f"{module} imports {name}: {target} is not below {room}"
                if target not in NEEDS_ONLY.get(room, set(LEVELS)) | {room}:
                    yield f"{module} imports {name}: {room} needs only {sorted(NEEDS_ONLY[room])}"
            if room in PURE and top in PURE_FORBIDDEN - allowed:
                yield f"{module} imports {name}: {room} is pure"
            if top in ONLY_IN and room not in ONLY_IN[top]:
                yield f"{module} imports {name}: only in {sorted(ONLY_IN[top])}"


def picture() -> str:
    """Return the table as docs/architecture.md shows it."""
    rows = [
        "  ".join(f"{room} ({what})" if what else room for room, what in floor.items()) for floor in FLOORS
    ]
    return "\n".join(rows)


@thorough
class FloorTests(SynchronousTestCase):
    """Imports go down, never up, and the pure floors touch no I/O."""

    def test_no_violations(self):
        """Every module imports only what its floor allows."""
        self.assertEqual(list(violations()), [])

    def test_no_circles(self):
        """No module imports itself by way of others, not even for type checkers."""
        graph = {
            module: {name for name in imports_of(tree_of(path)) if name in MODULES} - {module}
            for module, path in MODULES.items()
        }
        try:
            TopologicalSorter(graph).prepare()
        except CycleError as error:
            self.fail(" -> ".join(error.args[1]))

    def test_rooms(self):
        """Few modules stand beside the folders, and every room of the table exists."""
        beside = {path.stem for path in ROOT.glob("*.py")} - {"__init__", "__main__"}
        self.assertLessEqual(len(beside), ROOT_MODULES_MAX)
        self.assertEqual(
            beside | {path.parent.name for path in ROOT.glob("*/__init__.py")}, set(LEVELS) - WITHIN
        )

    def test_picture(self):
        """The architecture page shows this table."""
        self.assertIn(f"```\n{picture()}\n```", ARCHITECTURE.read_text())
