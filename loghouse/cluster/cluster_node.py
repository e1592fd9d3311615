"""What a cluster's links and gossip need of the node that they are for."""

from __future__ import annotations

from typing import Protocol

from twisted.python.failure import Failure

from loghouse.node.address_book import AddressBookFile
from loghouse.protocol.configuration import Configuration
from loghouse.protocol.message import Message
from loghouse.protocol.raft_messages import Envelope


class GroupLike(Protocol):
    """One group as its node takes part in it: its log says who is a member, and it takes their messages."""

    @property
    def seed(self) -> int:
        """The group's `frame_seed`, by which its frames are checked."""

    @property
    def configuration(self) -> Configuration:
        """The latest configuration of the log; empty while this node has none."""

    @property
    def settled(self) -> tuple[Configuration, int]:
        """The last configuration known to be committed, and its index. A new leader may cut a later one.

        Raises:
            DamageError: The disk damaged it.
        """

    @property
    def configuration_index(self) -> int:
        """The index of the latest configuration, 0 while this node has none."""

    @property
    def leader_id(self) -> int:
        """The member that leads, 0 when none is known."""

    @property
    def member_id(self) -> int:
        """This node's id in the group, 0 while it has none."""

    def receive(self, envelope: Envelope, *, is_member: bool) -> None:
        """Take a Raft message from a node that may send it.

        Args:
            is_member: Whether the own log knows its sender. What another one sends never ends this node.

        Raises:
            ProtocolError: The sender breaks the rules, or is no member and contradicts what is committed.
        """


class MembershipGroup(GroupLike, Protocol):
    """The group whose configuration says which nodes are members of the cluster."""

    def change_configuration(self, configuration: Configuration) -> None:
        """Propose a configuration on the leader; what is refused is tried again by the next look."""

    def is_caught_up(self, id: int) -> bool:
        """Whether a follower replicates close behind this leader."""

    def is_heard(self, id: int) -> bool:
        """Whether a member answered this leader within an election timeout, or is this node."""


class ClusterNode(Protocol):
    """What the cluster needs of its node."""

    name: str
    cluster_name: str
    cluster_uuid: bytes
    disk_uuid: bytes
    address_book: AddressBookFile

    @property
    def membership(self) -> MembershipGroup:
        """The group that says who is a member; the same one for life."""

    def message_received(self, source: str, message: Message) -> None:
        """Take another message between nodes: a forwarded request, or its answer."""

    def peer_lost(self, name: str) -> None:
        """A link with that node, dialled there or here, is gone."""

    def join_cluster(self, cluster_uuid: bytes) -> None:
        """Belong to a cluster from now on; the disk was empty."""

    def begin_cluster(self) -> None:
        """Make a new cluster; the disk was empty."""

    def fatal(self, failure: Failure) -> None:
        """The process must end."""
