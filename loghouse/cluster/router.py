"""Which frame goes to whom: Raft messages and others, from this node to members and from them to it.

    out   member id (Raft) or name -> the key of a node -> its address -> its dialled link
    in    an accepted link -> the rule for who may send that kind (`protocol.senders`) -> the node

Members are known by name and disk, never by address or by name alone. Nobody is believed to be a member for
saying so: `roster.Roster` knows who may speak as which.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from loghouse.cluster.peers import PeerSet, key_of
from loghouse.cluster.roster import Roster, Standing, roster_reply
from loghouse.cluster.twins import Twins
from loghouse.errors import DamageError, IdentityError, ProtocolError
from loghouse.gossip.members import MemberKey
from loghouse.limits import MEMBERS_MAX
from loghouse.net.accept import AcceptedLink
from loghouse.node.node import Node
from loghouse.node.served_log import ServedLog
from loghouse.protocol.codec import decode_envelope
from loghouse.protocol.configuration import Configuration
from loghouse.protocol.entry import DEFAULT_GROUP
from loghouse.protocol.framing import Frame
from loghouse.protocol.message import Message
from loghouse.protocol.raft_messages import Envelope
from loghouse.protocol.roster_messages import RosterReply, RosterRequest
from loghouse.protocol.senders import SENDERS, Sender
from loghouse.protocol.session import Event, MessageReceived, RaftFrameReceived


class RoutedGroup:
    """Which node is which member of one group. A member's id means something in its group only."""

    def __init__(self, replica: ServedLog) -> None:
        """Know nobody before the first `look`."""
        self.replica = replica  # takes the group's messages, and has its configuration; fixed
        # The last configuration known to be committed; follows the log by `look`. Only this one may shut
        # anybody out: by one that is not committed, this node would refuse the very leader that replaces it.
        self.settled = Configuration()
        self.seen: Configuration | None = None  # the latest configuration when `look` was called last
        # Who spoke last as which member: a joiner must answer a leader that its own log does not know yet.
        self.speakers: dict[int, MemberKey] = {}

    @property
    def leads(self) -> bool:
        """Whether this node leads the group."""
        id_ = self.replica.member_id
        return id_ != 0 and id_ == self.replica.leader_id

    @property
    def authority(self) -> Configuration:
        """The configuration that says which node and disk a member is.

        Where this node does not lead it is the committed one: by an entry that is to be cut, the leader may
        have given a new member's id to another.
        """
        return self.replica.configuration if self.leads else self.settled

    def key_of(self, id_: int) -> MemberKey | None:
        """Return the node that is this member; None when that is not known."""
        member = self.authority.member(id_)
        if member is None and id_ not in self.speakers:
            member = self.replica.configuration.member(id_)
        if member is not None:
            return MemberKey(member.name, member.disk_uuid)
        return self.speakers.get(id_)

    def look(self) -> int | None:
        """Take what the log says now; return the index of the committed configuration, None on damage."""
        self.seen = self.replica.configuration
        try:
            self.settled, index = self.replica.settled
        except DamageError:
            return None  # it is being repaired; what was known before is still true
        return index


class RouterOwner(Protocol):
    """What a router tells and asks the cluster that it works for."""

    def find_address(self, key: MemberKey) -> str:
        """Where a node is, by gossip; empty when that is not known."""

    def gossip_received(self, key: MemberKey, message: Message) -> None:
        """Take a message of gossip, which any node of the cluster may send."""

    def configuration_changed(self) -> None:
        """Look at the configuration (`Router.look`): the log has another one than was seen last."""

    def known_changed(self) -> None:
        """Other nodes than before may be known as members (`Roster.known`)."""


class Router:
    """Sends to members what is for them, and gives this node what members sent to it."""

    def __init__(
        self,
        node: Node,
        peers: PeerSet,
        *,
        roster: Roster,
        twins: Twins,
        owner: RouterOwner,
        now: Callable[[], float],
    ) -> None:
        """Take nothing in before `is_open` is set."""
        self.node = node  # who takes messages that are not of a group; fixed
        self.peers = peers  # the dialled links, by node; the same object for life
        # The group that says who is a member of the cluster; fixed.
        self.group = RoutedGroup(node.membership)
        # The groups whose frames are routed, by the number that each frame and each envelope carries; follows
        # the node's logs. What is for another group is dropped: its sender knows more of the cluster yet.
        self.groups = {node.membership.group: self.group}
        self.roster = roster  # who may speak as which member; kept up to date here
        self.is_open = False  # whether what comes in is taken; set while this node takes part in a cluster
        self._twins = twins  # notes when members were heard; fixed
        self._owner = owner  # gossip and membership; fixed
        self._now = now  # seconds that only rise; fixed
        # Where nodes are: looked up for each message, forgotten whenever gossip may know better.
        self._addresses: dict[MemberKey, str] = {}
        # The members that asked something of this node, by name, the last one last. The oldest goes.
        self._askers: dict[str, MemberKey] = {}

    # --- who is a member ---------------------------------------------------------------

    def group_of(self, number: int) -> RoutedGroup | None:
        """Return what routes a group's messages; None when this node serves no such log."""
        group = self.groups.get(number)
        if group is None and number in self.node.logs:
            group = self.groups[number] = RoutedGroup(self.node.logs[number])
        return group

    def look(self) -> bool:
        """Know who is a member by what the log says now; False when damage hides that."""
        for deleted in self.groups.keys() - self.node.logs.keys():
            del self.groups[deleted]
        group = self.group
        index = group.look()
        if index is None:
            return False
        self.roster.update((group.replica.configuration, group.settled), index)
        self._owner.known_changed()
        if not self.roster.members:
            self._ask_for_introductions()
        return True

    def key_of(self, name: str) -> MemberKey | None:
        """Return the member of a name, never a stranger that has it, too.

        Of two, a voter and the one that is to replace it, the one that is there.
        """
        found: MemberKey | None = None
        for member in self.group.replica.configuration.members:
            if member.name == name:
                key = MemberKey(name, member.disk_uuid)
                if found is None or not self.peers.hello_of(found):
                    found = key
        return found if found is not None else self._askers.get(name)

    def address_of(self, key: MemberKey) -> str:
        """Return where a node is, as far as known: never the address of another one of its name."""
        found = self._addresses.get(key, "")
        if not found:
            found = self._addresses[key] = self._owner.find_address(key)
        return found

    def forget_addresses(self) -> None:
        """Ask gossip again where nodes are."""
        self._addresses.clear()

    # --- out --------------------------------------------------------------------------

    def send_raft(self, envelope: Envelope) -> None:
        """Send a Raft message to the member it is for, or drop it."""
        group = self.group_of(envelope.group)
        key = group.key_of(envelope.target) if group is not None else None
        if key is None:
            return
        address = self.address_of(key)
        if address:
            # Never to another disk: speaking as the member it was, it would break what that one promised.
            self.peers.send_raft(key, address, envelope)

    def send(self, name: str, message: Message, group: int) -> bool:
        """Send another message of a group to the member of that name; False: it certainly was not sent."""
        key = self.key_of(name)
        return key is not None and self._send_to(key, message, group)

    def _send_to(self, key: MemberKey, message: Message, group: int = 0) -> bool:
        address = self.address_of(key)
        return bool(address) and self.peers.send(key, address, message, group=group)

    # --- in ---------------------------------------------------------------------------

    def event_received(self, link: AcceptedLink, event: Event) -> None:
        """Take what a node sent, if the rule for that kind lets it (`protocol.senders`)."""
        if not self.is_open:
            return
        assert link.session is not None
        peer = link.session.peer
        assert peer is not None
        key = key_of(peer)
        group = self.group
        if group.replica.configuration is not group.seen:
            self._owner.configuration_changed()
        if key in self.roster.members:
            self._twins.heard(key, self._now())
        try:
            if isinstance(event, RaftFrameReceived):
                self._raft_received(key, event.frame)
            elif isinstance(event, MessageReceived):
                # Nodes of before many logs say 0 of what is the default log's.
                self._message_received(key, event.message, event.group or DEFAULT_GROUP)
        except ProtocolError as error:
            link.break_off(error)

    def _raft_received(self, key: MemberKey, frame: Frame) -> None:
        assert SENDERS[frame.kind] is Sender.SPEAKER
        if key not in self.roster.members and self.roster.standing(key) is Standing.STRANGER:
            self._meet_stranger(key)
            return
        group = self.group_of(frame.group)
        if group is None:
            return
        envelope = decode_envelope(frame, group.replica.seed)
        source = envelope.source
        if group.replica.configuration is not group.seen:
            group.look()
        member = group.authority.member(source)
        is_member = member is not None and (member.name, member.disk_uuid) == key
        if not is_member and group is not self.group:
            # A member of the cluster: who is which member of this group, its log may not say yet.
            if member is not None:
                raise IdentityError(
                    f"node {key.name!r} spoke as member {source} ({member.name!r}) of log "
                    f"{group.replica.name}"
                )
        elif not is_member:
            standing = self.roster.standing_as(key, source)
            if standing is Standing.STRANGER:
                if member is not None:
                    raise IdentityError(f"node {key.name!r} spoke as member {source} ({member.name!r})")
                self._meet_stranger(key)
                return
            is_member = standing is Standing.MEMBER
        group.speakers[source] = key
        try:
            group.replica.receive(envelope, is_member=is_member)
        except IdentityError:
            self.roster.contradicted(key)
            raise

    def _message_received(self, key: MemberKey, message: Message, group: int) -> None:
        if SENDERS[message.KIND] is Sender.MEMBER and key not in self.roster.members:
            self._meet_stranger(key)
        elif isinstance(message, RosterRequest):
            known = self.group
            configurations = known.replica.configuration, known.settled
            index = known.replica.configuration_index
            self._send_to(key, roster_reply(message.request_id, configurations, index))
        elif isinstance(message, RosterReply):
            if self.roster.introduce(key, message):
                self._owner.known_changed()
        elif message.KIND >> 8 == 2:
            self._owner.gossip_received(key, message)
        else:
            # Answered even when the configuration does not name it any more: it may have asked to leave.
            self._askers.pop(key.name, None)
            self._askers[key.name] = key
            if len(self._askers) > MEMBERS_MAX:
                del self._askers[next(iter(self._askers))]
            self.node.message_received(key.name, message, group)

    # --- strangers ----------------------------------------------------------------------

    def _meet_stranger(self, key: MemberKey) -> None:
        """A node that is no member here spoke as one: ask those who may know it.

        Raises:
            IdentityError: They do not.
        """
        if self.roster.doubt(key) or self.group.leads:
            raise IdentityError(
                f"node {key.name!r} (disk {key.disk_uuid.hex()[:8]}) is no member of this cluster, and spoke "
                f"as one; `loghouse cluster remove {key.name}` shuts it out"
            )
        self._ask_for_introductions()

    def _ask_for_introductions(self) -> None:
        """Ask those who may vouch for others who is a member, if that was not done just now."""
        request_id = self.roster.request(self._now())
        if request_id is None:
            return
        for voucher in sorted(self.roster.vouchers):
            if voucher != (self.node.name, self.node.disk_uuid):
                self._send_to(voucher, RosterRequest(request_id=request_id))
