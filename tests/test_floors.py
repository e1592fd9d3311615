"""The floors of the house: who may import whom, and what is forbidden where (docs/architecture.md)."""

import ast
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

ROOT = Path(__file__).resolve().parent.parent / "loghouse"

# A module may import its own unit and units of a lower number.
FLOORS = {
    "__init__": 0,
    "errors": 0,
    "limits": 0,
    "turns": 0,
    "text": 0,
    "shares": 1,
    "api.v1": 1,
    "protocol": 2,
    "raft": 3,
    "gossip": 3,
    "storage": 3,
    # The seam itself: what doors may ask of a node, without the node.
    "node_api": 4,
    "auth": 4,
    # Transports that know nothing of us, for both ends of a connection.
    "sockets": 4,
    "bulk_tls": 4.2,
    "net": 4.5,
    "node": 5,
    "bridge": 5,
    "api": 6,
    "client": 7,
    "service": 7,
    "config": 6,
    "diagnostics": 8,
    "daemon": 8,
    "cli": 10,
    "tap": 9,
    "_reactor": 8,
    "testing": 11,
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
    "grpc": {"api.v1", "api", "client", "bridge", "cli"},
    "asyncio": {"api", "client", "bridge", "_reactor", "cli"},
    "casbin": {"auth"},
    "yaml": {"config"},
}
BANNED = {"pickle", "marshal", "shelve"}


def unit_of(module: str) -> str:
    parts = module.split(".")[1:]
    if not parts:
        return "__init__"
    if parts[:2] == ["api", "v1"]:
        return "api.v1"
    name = parts[0]
    # Neighbours of node.py (node_*.py, disk.py, ...) share its floor.
    return NEIGHBOURS.get(name, name)


NEIGHBOURS = {
    "config_values": "config",
    "config_yaml": "config",
    "disk": "node",
    "repairing": "node",
    "read_ahead": "node",
    "group_write": "node",
    "replica": "node",
    "reads": "node",
    "reconcile": "node",
    "peers": "node",
    "cluster": "node",
    "cluster_node": "node",
    "joining_cluster": "node",
    "roster": "node",
    "twins": "node",
    "tail": "node",
    "under_way": "node",
    "administration": "node",
    "room": "node",
    "node_options": "node",
    "trimming": "node",
    "clock_watch": "node",
    "retention": "node",
    "forwarding": "node",
    "joining": "node_api",
    "long_checks": "node_api",
    "mending": "node",
    "scrubbing": "node",
    "proving": "service",
    "start_checks": "service",
}


def imports_of(tree: ast.Module):
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            yield node.module
            if node.module in ("loghouse", "loghouse.api"):
                for alias in node.names:
                    yield f"{node.module}.{alias.name}"


def violations():
    for path in sorted(ROOT.rglob("*.py")):
        if path.name.endswith(("_pb2.py", "_pb2_grpc.py")):
            continue
        relative = path.relative_to(ROOT.parent).with_suffix("")
        module = ".".join(p for p in relative.parts if p != "__init__")
        unit = unit_of(module)
        if unit not in FLOORS:
            yield f"{module}: unit {unit!r} has no floor"
            continue
        for name in imports_of(ast.parse(path.read_text())):
            top = name.split(".")[0]
            if top in BANNED:
                yield f"{module} imports {name}: banned everywhere"
            if unit == "testing":
                continue
            if top == "loghouse":
                target = unit_of(name)
                if target == "testing":
                    yield f"{module} imports {name}: testing is for tests"
                elif target in FLOORS and target != unit and FLOORS[target] >= FLOORS[unit]:
                    yield f"{module} imports {name}: {target} is not below {unit}"
            if FLOORS[unit] < 4 and unit != "api.v1":
                allowed = STORAGE_MAY if unit == "storage" else set()
                if top in PURE_FORBIDDEN - allowed:
                    yield f"{module} imports {name}: forbidden below net"
            if top in ONLY_IN and unit not in ONLY_IN[top]:
                yield f"{module} imports {name}: only in {sorted(ONLY_IN[top])}"


class FloorTests(SynchronousTestCase):
    """Imports go down, never up, and the pure floors touch no I/O."""

    def test_no_violations(self):
        """Every module imports only what its floor allows."""
        self.assertEqual(list(violations()), [])
