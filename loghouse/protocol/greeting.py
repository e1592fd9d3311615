"""What two Hellos must have in common before anything else may pass. Pure.

Two clusters can never merge: nodes of different uuids refuse each other, and a node that has no uuid yet
may only describe and be described (`design.md` 7).
"""

from __future__ import annotations

from dataclasses import dataclass

from loghouse.errors import IdentityError, VersionError
from loghouse.protocol.link_messages import Hello, LinkRole
from loghouse.protocol.message import NO_UUID


@dataclass(frozen=True, slots=True, kw_only=True)
class Certified:
    """What TLS proved of the peer: `subject` always; `node` and `cluster` only for a node's certificate."""

    subject: str
    node: str = ""
    cluster: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Agreement:
    """What both sides now know: the protocol version, and whether only describing is allowed."""

    version: int
    is_restricted: bool


def agree(
    own: Hello,
    theirs: Hello,
    *,
    is_dialler: bool,
    certified: Certified | None,
    expected_node: str = "",
) -> Agreement:
    """Return what the two sides agree on.

    Args:
        own: The Hello of this side.
        theirs: The Hello of the other.
        is_dialler: Whether this side opened the connection.
        certified: What the peer's certificate says; None without TLS (loopback only), where its word counts.
        expected_node: The node that was dialled, when this side expects a certain one.

    Raises:
        VersionError: No common protocol version.
        IdentityError: The peer is not who it says, not who was dialled, or of another cluster.
    """
    version = min(own.version_max, theirs.version_max)
    if version < max(own.version_min, theirs.version_min):
        raise VersionError(
            f"no common protocol version: this side speaks {own.version_min} to {own.version_max},"
            f" the peer {theirs.version_min} to {theirs.version_max}"
        )
    if theirs.role == LinkRole.NODE:
        _check_node(own, theirs, certified, expected_node)
    elif is_dialler:
        raise IdentityError("dialled a node, but a client answered")
    return Agreement(version=version, is_restricted=_check_cluster(own, theirs))


def _check_node(own: Hello, theirs: Hello, certified: Certified | None, expected_node: str) -> None:
    claimed = f"node {theirs.node_name!r} of cluster {theirs.cluster_name!r}"
    if certified is not None:
        if not certified.node:
            raise IdentityError(
                f"{certified.subject!r} says it is {claimed}, but its certificate names no node"
            )
        if (certified.node, certified.cluster) != (theirs.node_name, theirs.cluster_name):
            raise IdentityError(
                f"the peer says it is {claimed}, but its certificate is of node {certified.node!r}"
                f" of cluster {certified.cluster!r}"
            )
    if expected_node and theirs.node_name != expected_node:
        raise IdentityError(f"dialled node {expected_node!r}, but {claimed} answered; check the addresses")
    if own.role == LinkRole.NODE and theirs.node_name == own.node_name:
        raise IdentityError(f"the peer has this node's own name, {own.node_name!r}")


def _check_cluster(own: Hello, theirs: Hello) -> bool:
    """Return whether the link is restricted: one of two nodes belongs to no cluster yet."""
    both_nodes = own.role == theirs.role == LinkRole.NODE
    names = {own.cluster_name, theirs.cluster_name} - ({""} if not both_nodes else set())
    if len(names) > 1:
        raise IdentityError(
            f"the peer is of cluster {theirs.cluster_name!r}, this side of {own.cluster_name!r}"
        )
    uuids = {own.cluster_uuid, theirs.cluster_uuid} - {NO_UUID}
    if len(uuids) > 1:
        raise IdentityError(
            f"the peer's cluster has uuid {theirs.cluster_uuid.hex()}, this side's {own.cluster_uuid.hex()}:"
            " two different clusters of one name"
        )
    return both_nodes and NO_UUID in (own.cluster_uuid, theirs.cluster_uuid)
