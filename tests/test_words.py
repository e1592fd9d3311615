"""Words of the code: state is explained where it is made, and a class name means one thing."""

import ast
import inspect
import textwrap
from collections import defaultdict
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from loghouse.cluster.cluster import Cluster
from loghouse.cluster.discovery import Discovery
from loghouse.cluster.peers import AcceptedPeers, PeerSet
from loghouse.cluster.roster import Roster
from loghouse.cluster.router import RoutedGroup, Router
from loghouse.cluster.twins import Twins
from loghouse.embedded.lone_node import LoneNode
from loghouse.embedded.requests import Rounds
from loghouse.http.channel import HttpChannel
from loghouse.http.server import HttpServer
from loghouse.http.site import HttpSite
from loghouse.net.accept import AcceptedLink
from loghouse.net.admission import Admission
from loghouse.net.appending import Appends
from loghouse.net.binary_client import BinaryConnection
from loghouse.net.binary_server import BinarySession
from loghouse.net.callers import Caller
from loghouse.net.listener import AcceptedConnection, Listener
from loghouse.net.one_port import OnePort
from loghouse.net.peer import DialledLink, PeerLink
from loghouse.net.splice import SpliceFront
from loghouse.node.elsewhere import Elsewhere
from loghouse.node.forwarded_reads import ReadForwarder
from loghouse.node.leaders import LeaderNews, LeaderTable
from loghouse.node.node import Node
from loghouse.node.remote_log import RemoteLog
from loghouse.node.remote_reads import RemoteReads
from loghouse.node.served_log import ServedLog
from loghouse.protocol.session import Session
from loghouse.raft.core import Raft
from loghouse.replica.cursor_waits import CursorWaits
from loghouse.replica.driver import RaftDriver
from loghouse.replica.leases import Leases
from loghouse.replica.led_cursors import LedCursors
from loghouse.replica.replica import Replica
from loghouse.service.systemd import SystemdNotifier
from tests.processes import thorough
from tests.sources import tree_of

# Long-lived state that many methods change: each attribute has a comment that says what it means, and when it
# changes. Bases of ours belong to their class.
STATEFUL = (
    Raft,
    RaftDriver,
    Replica,
    LedCursors,
    Leases,
    CursorWaits,
    LoneNode,
    Rounds,
    ServedLog,
    RemoteLog,
    RemoteReads,
    ReadForwarder,
    LeaderTable,
    LeaderNews,
    Elsewhere,
    Node,
    Cluster,
    Router,
    RoutedGroup,
    Roster,
    Twins,
    Discovery,
    PeerSet,
    AcceptedPeers,
    Session,
    PeerLink,
    DialledLink,
    AcceptedLink,
    BinarySession,
    Appends,
    Listener,
    AcceptedConnection,
    SpliceFront,
    Caller,
    Admission,
    OnePort,
    BinaryConnection,
    HttpChannel,
    HttpServer,
    HttpSite,
    SystemdNotifier,
)

ROOT = Path(__file__).resolve().parent.parent
METHODS_MAX = 40
# Cores in layers, one class below the other, each with a text of its own.
LAYERED = {"Raft", "Swim", "Log"}
# Class names that mean more than one thing, each with the reason.
SHARED_NAMES = {
    "Bounds": "the request on the wire, and what the public client answers",
}


def layers(stateful):
    """Return the classes of ours that make up one, the lowest first."""
    return [one for one in reversed(stateful.__mro__) if one.__module__.startswith("loghouse.")]


def assignments(definition):
    """Yield each plain assignment of an attribute, name and line: of the class first, then of its methods."""
    nodes = [node for node in ast.walk(definition) if isinstance(node, ast.Assign | ast.AnnAssign)]
    for node in sorted(nodes, key=lambda node: (node not in definition.body, node.lineno)):
        targets = node.targets if isinstance(node, ast.Assign) else [node.target]
        for target in [one for some in targets for one in getattr(some, "elts", [some])]:
            if isinstance(target, ast.Name) and node in definition.body:
                yield target.id, node
            elif isinstance(target, ast.Attribute) and getattr(target.value, "id", "") == "self":
                yield target.attr, node


def without_comment(source, known=()):
    """Return the attributes that a class makes, beside those known, without a comment behind or above."""
    lines = source.splitlines()
    seen = {"logger", *known}
    bare = []
    for name, node in assignments(ast.parse(source).body[0]):
        if name not in seen:
            seen.add(name)
            behind = any("  # " in line for line in lines[node.lineno - 1 : node.end_lineno])
            if not (behind or lines[node.lineno - 2].lstrip().startswith("# ")):
                bare.append(name)
    return bare, seen


@thorough
class StateTests(SynchronousTestCase):
    """Whoever reads a class with much state learns what each piece of it means."""

    def test_attributes(self):
        """Each attribute has a comment where it is made."""
        for stateful in STATEFUL:
            known = {name for base in stateful.__mro__ if base not in layers(stateful) for name in dir(base)}
            for layer in layers(stateful):
                bare, known = without_comment(textwrap.dedent(inspect.getsource(layer)), known)
                self.assertEqual(bare, [], layer.__name__)

    def test_bare_attributes_are_found(self):
        """The rule sees an attribute without a comment, wherever it is made."""
        source = '''
            class Counted:
                """Doc."""

                limit = 3
                size = 3  # bytes

                def __init__(self):
                    self.a = 1  # behind
                    # Above.
                    self.b: int = 2
                    self.c: int = 3
                    self.d, self.e = 4, 5

                def grow(self):
                    self.a = 2
                    self.f = 6
        '''
        bare, _ = without_comment(textwrap.dedent(source).strip())
        self.assertEqual(bare, ["limit", "c", "d", "e", "f"])


def classes():
    """Yield each class of the house and its file, generated ones left out."""
    for path in sorted((ROOT / "loghouse").rglob("*.py")):
        if not path.name.endswith(("_pb2.py", "_pb2_grpc.py")):
            for node in ast.walk(tree_of(path)):
                if isinstance(node, ast.ClassDef):
                    yield node, path.relative_to(ROOT).as_posix()


@thorough
class ClassTests(SynchronousTestCase):
    """A class does one thing, and its public name means one thing in the house."""

    def test_unique(self):
        """No two modules have a public class of one name; generated ones do not count."""
        places = defaultdict(list)
        for node, path in classes():
            if not node.name.startswith("_"):
                places[node.name].append(path)
        shared = {name: found for name, found in places.items() if len(found) > 1}
        self.assertEqual({name: found for name, found in shared.items() if name not in SHARED_NAMES}, {})
        self.assertEqual(sorted(SHARED_NAMES), sorted(shared))
