"""Who may send what: one rule for each kind of frame. Pure.

A certificate proves a name, not a part in the cluster: a node of the cluster that is no member (not yet, not
any more, never) may ask who is there and say where it is, nothing else. `session` refuses what may not come
on a connection at all; `cluster` goes by these rules for what nodes send.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Flag, auto
from types import MappingProxyType
from typing import Final

from loghouse.protocol import client_messages as client
from loghouse.protocol import forward_messages as forward
from loghouse.protocol import gossip_messages as gossip
from loghouse.protocol import link_messages as link
from loghouse.protocol import raft_messages as raft
from loghouse.protocol import repair_messages as repair
from loghouse.protocol import roster_messages as roster


class Sender(Flag):
    """Who may send a kind; a kind may have several."""

    CLIENT = auto()
    """A client that dialled; what it asks for is asked of the policy."""
    ACCEPTOR = auto()
    """The node that was dialled, in answer to the dialler."""
    NODE = auto()
    """Any node of this cluster, by certificate and Hello. Gossip of one that is no member counts for less."""
    MEMBER = auto()
    """A member of the configuration, by name and disk, as this node's own log has it."""
    SPEAKER = auto()
    """A member, or a node that the own log cannot know yet and members vouch for (`cluster/roster.py`)."""


_EITHER_END: Final = Sender.CLIENT | Sender.ACCEPTOR | Sender.NODE

SENDERS: Final[Mapping[int, Sender]] = MappingProxyType(
    {
        link.Hello.KIND: _EITHER_END,
        link.Ping.KIND: _EITHER_END,
        link.Pong.KIND: _EITHER_END,
        link.LinkError.KIND: _EITHER_END,
        link.Goodbye.KIND: _EITHER_END,
        # Consensus: whoever is believed here decides what is in the log.
        **dict.fromkeys(raft.BY_KIND, Sender.SPEAKER),
        # Requests in the name of clients, and records without a question to the policy.
        forward.ForwardProduce.KIND: Sender.MEMBER,
        forward.ForwardReply.KIND: Sender.MEMBER,
        forward.ForwardFailure.KIND: Sender.MEMBER,
        forward.ForwardAdmin.KIND: Sender.MEMBER,
        forward.ForwardAdminReply.KIND: Sender.MEMBER,
        repair.EntriesRequest.KIND: Sender.MEMBER,
        repair.EntriesReply.KIND: Sender.MEMBER,
        # What a node needs to become a member.
        roster.RosterRequest.KIND: Sender.NODE,
        roster.RosterReply.KIND: Sender.NODE,
        gossip.SwimPing.KIND: Sender.NODE,
        gossip.SwimPingReq.KIND: Sender.NODE,
        gossip.SwimAck.KIND: Sender.NODE,
        gossip.SwimNack.KIND: Sender.NODE,
        gossip.PushPull.KIND: Sender.NODE,
        gossip.PushPullReply.KIND: Sender.NODE,
        gossip.SwimBroadcast.KIND: Sender.NODE,
        # Nodes describe each other before they belong to a cluster.
        client.Describe.KIND: Sender.CLIENT | Sender.NODE,
        client.Cancel.KIND: Sender.CLIENT | Sender.NODE,
        client.Produce.KIND: Sender.CLIENT,
        client.Fetch.KIND: Sender.CLIENT,
        client.Follow.KIND: Sender.CLIENT,
        client.Credit.KIND: Sender.CLIENT,
        client.Bounds.KIND: Sender.CLIENT,
        client.FindOffset.KIND: Sender.CLIENT,
        client.RegisterProducer.KIND: Sender.CLIENT,
        client.DescribeReply.KIND: Sender.ACCEPTOR,
        client.ProduceReply.KIND: Sender.ACCEPTOR,
        client.FetchReply.KIND: Sender.ACCEPTOR,
        client.FollowFrames.KIND: Sender.ACCEPTOR,
        client.BoundsReply.KIND: Sender.ACCEPTOR,
        client.FindOffsetReply.KIND: Sender.ACCEPTOR,
        client.RegisterProducerReply.KIND: Sender.ACCEPTOR,
        client.LeaderHint.KIND: Sender.ACCEPTOR,
        client.Failure.KIND: Sender.ACCEPTOR,
    }
)

_OF_NODES: Final = Sender.NODE | Sender.MEMBER | Sender.SPEAKER


def _kinds(senders: Sender) -> frozenset[int]:
    return frozenset(kind for kind, may in SENDERS.items() if may & senders)


CLIENT_SENDS: Final = _kinds(Sender.CLIENT)
ACCEPTOR_SENDS: Final = _kinds(Sender.ACCEPTOR)
NODE_SENDS: Final = _kinds(_OF_NODES)
"""What may come from a node; what for it must be is `SENDERS`' rule."""
