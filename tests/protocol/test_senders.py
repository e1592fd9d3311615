"""Every kind of frame has a rule about who may send it, and links go by it."""

from twisted.trial.unittest import SynchronousTestCase

from loghouse.errors import ProtocolError
from loghouse.protocol.client_messages import Cancel, Describe
from loghouse.protocol.codec import CLIENT_KINDS, MESSAGES, RAFT_KINDS
from loghouse.protocol.framing import pack_header
from loghouse.protocol.link_messages import Hello, LinkRole
from loghouse.protocol.senders import ACCEPTOR_SENDS, CLIENT_SENDS, NODE_SENDS, SENDERS, Sender
from loghouse.protocol.session import Session

UUID = b"u" * 16
KINDS = sorted({*MESSAGES, *RAFT_KINDS})
LINK_KINDS = {kind for kind in KINDS if kind < 0x0100}


def hello(role=LinkRole.NODE, name="b"):
    is_node = role is LinkRole.NODE
    return Hello(
        role=role,
        cluster_name="test" if is_node else "",
        cluster_uuid=UUID if is_node else bytes(16),
        node_name=name if is_node else "",
        disk_uuid=name.encode() * 16 if is_node else bytes(16),
        software="test",
    )


def accepted_from(role):
    """A session that accepted somebody of this role."""
    session = Session(hello(name="a"), is_dialler=False)
    dialler = Session(hello(role), is_dialler=True)
    session.receive(b"".join(dialler.bytes_to_send()))
    return session


class SendersTests(SynchronousTestCase):
    """The table, and what sessions make of it."""

    def test_every_kind_has_a_rule(self):
        """A kind without a rule, or a rule without a kind, is an error of whoever added it."""
        self.assertEqual(sorted(SENDERS), KINDS)

    def test_rules_of_nodes(self):
        """What changes the log, or asks in a client's name, is for members alone."""
        for kind in KINDS:
            rule = SENDERS[kind]
            if kind in RAFT_KINDS:
                self.assertEqual(rule, Sender.SPEAKER, hex(kind))
            elif 0x0120 <= kind < 0x0180 or 0x01A0 <= kind < 0x0200:
                self.assertEqual(rule, Sender.MEMBER, hex(kind))
            elif kind in CLIENT_KINDS:
                self.assertFalse(rule & (Sender.MEMBER | Sender.SPEAKER), hex(kind))

    def test_who_shares_a_kind(self):
        """Signs of life, goodbyes and errors come from either end; nodes describe and cancel, too."""
        shared = {kind: rule for kind, rule in SENDERS.items() if len(rule) > 1}
        either = Sender.CLIENT | Sender.ACCEPTOR | Sender.NODE
        described = dict.fromkeys((Describe.KIND, Cancel.KIND), Sender.CLIENT | Sender.NODE)
        self.assertEqual(shared, {**dict.fromkeys(LINK_KINDS, either), **described})

    def admitted(self, role):
        """The kinds of which a session takes a header from who has this role."""
        found = set()
        for kind in KINDS:
            session = accepted_from(role)
            try:
                session.receive(pack_header(1, kind, group=1, stream=1))
            except ProtocolError:
                continue
            found.add(kind)
        return found - LINK_KINDS

    def test_sessions(self):
        """A session lets in from clients and nodes exactly what the table says, by the frame's header."""
        self.assertEqual(self.admitted(LinkRole.CLIENT), CLIENT_SENDS - LINK_KINDS)
        self.assertEqual(self.admitted(LinkRole.NODE), NODE_SENDS - LINK_KINDS)

    def test_everybody_sends_something(self):
        """Each kind may be sent by somebody, and answers of the acceptor are no requests."""
        self.assertEqual(CLIENT_SENDS | ACCEPTOR_SENDS | NODE_SENDS, set(KINDS))
        self.assertEqual(CLIENT_SENDS & ACCEPTOR_SENDS, LINK_KINDS)
