"""Who may send what: one rule for each kind of frame. Pure.

A certificate proves a name, not a part in the cluster: a node of the cluster that is no member (not yet, not
any more, never) may ask who is there and say where it is, nothing else. `session` refuses what may not come
on a connection at all; `cluster` goes by these rules for what nodes send.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Flag, auto
from types import MappingProxyType
from typing import Any, Final

from loghouse.protocol import beat_messages as beat
from loghouse.protocol import client_messages as client
from loghouse.protocol import cursor_messages as cursor
from loghouse.protocol import forward_messages as forward
from loghouse.protocol import gossip_messages as gossip
from loghouse.protocol import link_messages as link
from loghouse.protocol import raft_messages as raft
from loghouse.protocol import range_messages as ranges
from loghouse.protocol import repair_messages as repair
from loghouse.protocol import roster_messages as roster
from loghouse.protocol import routing_messages as routing
from loghouse.protocol import trace_messages as trace


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


_RULES: Final[tuple[tuple[Sender, tuple[Any, ...]], ...]] = (
    (
        Sender.CLIENT | Sender.ACCEPTOR | Sender.NODE,
        (link.Hello, link.Ping, link.Pong, link.LinkError, link.Goodbye),
    ),
    # Consensus: whoever is believed here decides what is in the log.
    (Sender.SPEAKER, raft.MESSAGES),
    # Requests in the name of clients, and records without a question to the policy.
    (Sender.MEMBER, (forward.ForwardProduce, forward.ForwardReply, forward.ForwardFailure)),
    (Sender.MEMBER, (trace.ForwardTrace,)),
    (Sender.MEMBER, (forward.ForwardAdmin, forward.ForwardAdminReply)),
    (Sender.MEMBER, (cursor.ForwardCursor, cursor.ForwardCursorReply, cursor.ForwardProduceWithCursor)),
    (Sender.MEMBER, (repair.EntriesRequest, repair.EntriesReply)),
    # Records without a question to the policy, too, and where appends go.
    (Sender.MEMBER, (routing.Leads, routing.ForwardRead, routing.ForwardFrames)),
    (Sender.MEMBER, (routing.ForwardWait, routing.ForwardWaitReply)),
    (Sender.MEMBER, (routing.ForwardBounds, routing.ForwardBoundsReply)),
    (Sender.MEMBER, (routing.ForwardFindOffset, routing.ForwardFindOffsetReply)),
    (Sender.MEMBER, (ranges.ForwardRange, ranges.ForwardRangeReply)),
    # Whoever is believed here keeps logs asleep.
    (Sender.MEMBER, (beat.NodeBeat,)),
    # What a node needs to become a member.
    (Sender.NODE, (roster.RosterRequest, roster.RosterReply)),
    (Sender.NODE, (gossip.SwimPing, gossip.SwimPingReq, gossip.SwimAck, gossip.SwimNack)),
    (Sender.NODE, (gossip.PushPull, gossip.PushPullReply, gossip.SwimBroadcast)),
    # Nodes describe each other before they belong to a cluster.
    (Sender.CLIENT | Sender.NODE, (client.Describe, client.Cancel)),
    (Sender.CLIENT, (client.Produce, client.RegisterProducer, client.Fetch, client.Follow, client.Credit)),
    (Sender.CLIENT, (client.Bounds, client.FindOffset, client.DescribeLog, client.DescribeLogs)),
    (Sender.CLIENT, (client.FetchState, ranges.Read, trace.RequestTrace)),
    (Sender.ACCEPTOR, (client.DescribeReply, client.ProduceReply, client.RegisterProducerReply)),
    (Sender.ACCEPTOR, (client.FetchReply, client.FollowFrames, client.BoundsReply, client.FindOffsetReply)),
    (Sender.ACCEPTOR, (client.DescribeLogReply, client.DescribeLogsReply, client.FetchStateReply)),
    (Sender.ACCEPTOR, (ranges.ReadReply,)),
    (Sender.ACCEPTOR, (client.LeaderHint, client.Failure, cursor.AskCursorReply)),
    (Sender.CLIENT, (cursor.AskCursor, cursor.ProduceWithCursor)),
)
SENDERS: Final[Mapping[int, Sender]] = MappingProxyType(
    {message.KIND: sender for sender, messages in _RULES for message in messages}
)
assert len(SENDERS) == sum(len(messages) for _, messages in _RULES), "two rules for a kind"

_OF_NODES: Final = Sender.NODE | Sender.MEMBER | Sender.SPEAKER


def _kinds(senders: Sender) -> frozenset[int]:
    return frozenset(kind for kind, may in SENDERS.items() if may & senders)


CLIENT_SENDS: Final = _kinds(Sender.CLIENT)
ACCEPTOR_SENDS: Final = _kinds(Sender.ACCEPTOR)
NODE_SENDS: Final = _kinds(_OF_NODES)
"""What may come from a node; what for it must be is `SENDERS`' rule."""
