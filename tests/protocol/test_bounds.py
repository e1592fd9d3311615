"""Each bound of each message: the value at it is taken, the next one is refused, and the words say why."""

from dataclasses import replace

from twisted.trial.unittest import SynchronousTestCase

from loghouse import limits
from loghouse.errors import MalformedMessageError
from loghouse.protocol.address_book import (
    AddressBook,
    Contact,
    contact_size,
    decode_address_book,
    encode_address_book,
)
from loghouse.protocol.client_messages import DescribedServer, DescribeReply, Failure, LeaderHint, Produce
from loghouse.protocol.configuration import (
    Configuration,
    MemberRole,
    decode_configuration,
    decode_producer,
    decode_trim,
    encode_configuration,
    encode_producer,
)
from loghouse.protocol.entry import Codec, EntryKind
from loghouse.protocol.forward_messages import (
    AdminOperation,
    ForwardAdmin,
    ForwardAdminReply,
    ForwardFailure,
    ForwardProduce,
    Match,
)
from loghouse.protocol.gossip_messages import (
    Liveness,
    PushPull,
    PushPullReply,
    Statement,
    SwimAck,
    SwimBroadcast,
    SwimNack,
    SwimPing,
    SwimPingReq,
    statement_size,
)
from loghouse.protocol.link_messages import Goodbye, Hello, LinkError, LinkRole
from loghouse.protocol.message import NO_UUID, RequestIds, check_name, check_text
from loghouse.protocol.repair_messages import EntriesRequest
from loghouse.protocol.roster_messages import RosterEntry, RosterReply
from loghouse.protocol.routing_messages import Lead, Leads

DISK = bytes(range(16))
LONGEST = "n" * 63
NAMES = "is not 1 to 63 of a-z, 0-9 and -, no - at either end"
SENSELESS = ("", "A", "a b", "-a", "a-", "a" * 64, "a.b", "a/b", "a\n", "é")


def taken(message):
    """Raise unless a message is one that its receiver takes, and the same there."""
    body = b"".join(message.encode())
    found = type(message).decode(body)
    assert found == message, (found, message)


class BoundsTestCase(SynchronousTestCase):
    """What the tests share."""

    def refused(self, message, text):
        """Check that whoever receives this message refuses it in these words."""
        body = b"".join(message.encode())
        with self.assertRaises(MalformedMessageError) as caught:
            type(message).decode(body)
        self.assertEqual(str(caught.exception), f"{type(message).__name__}: {text}")

    def refused_names(self, make, what, *, empty=False):
        """Check that `make` takes the names that are some, and no others."""
        for name in ("a", "0", "a-b", "a--b", LONGEST, *([""] if empty else [])):
            taken(make(name))
        for name in SENSELESS[empty:]:
            self.refused(make(name), f"{what} {name!r} {NAMES}")

    def refused_text(self, make, what, size_max, *, longer=True):
        """Check that `make` takes texts of so many bytes, and neither longer nor unprintable ones."""
        taken(make("x" * size_max))
        taken(make("é" * (size_max // 2)))
        self.refused(make("a\x00b"), f"{what} holds unprintable characters")
        if longer:
            self.refused(make("x" * (size_max + 1)), f"{what} has more than {size_max} bytes")
            self.refused(make("é" * (size_max // 2 + 1)), f"{what} has more than {size_max} bytes")


class SharedTests(SynchronousTestCase):
    """Names, texts and numbers that many messages have."""

    def test_numbers(self):
        """What a number means is never changed: others wrote it, to their disks as well."""
        for enum, names in [
            (LinkRole, "NODE CLIENT"),
            (MemberRole, "VOTER LEARNER REPLICA"),
            (Liveness, "ALIVE SUSPECT DEAD LEFT"),
            (AdminOperation, "ADD REMOVE TRANSFER TRIM REGISTER_PRODUCER PROGRESS FOUND_CATALOGUE HAS_LEFT"),
            (EntryKind, "RECORDS NOOP CONFIGURATION TRIM PRODUCER BIRTH CURSOR"),
        ]:
            self.assertEqual(
                [(one.name, one.value) for one in enum], [(n, i) for i, n in enumerate(names.split(), 1)]
            )
        self.assertEqual([(one.name, one.value) for one in Codec], [("NONE", 0), ("ZSTD", 1)])

    def test_names(self):
        """A name is a DNS label in lower case."""
        for name in ("a", "9", "a1", "a-1", LONGEST, "0" + "-" * 61 + "0"):
            check_name("node", name)
        for name in SENSELESS:
            with self.assertRaises(ValueError) as caught:
                check_name("node", name)
            self.assertEqual(str(caught.exception), f"node {name!r} {NAMES}")
        check_name("node", "", empty=True)
        self.assertRaises(ValueError, check_name, "node", "-", empty=True)

    def test_texts(self):
        """A text has so many bytes in UTF-8, and is printable."""
        check_text("tag", "ab", 2)
        check_text("tag", "é", 2)
        check_text("tag", "", 0)
        for text, size_max, problem in [
            ("abc", 2, "has more than 2 bytes"),
            ("éa", 2, "has more than 2 bytes"),
            ("a\n", 2, "holds unprintable characters"),
        ]:
            with self.assertRaises(ValueError) as caught:
                check_text("tag", text, size_max)
            self.assertEqual(str(caught.exception), f"tag {problem}")

    def test_request_ids(self):
        """Numbers of requests rise by one, and begin anew behind the last of 64 bits."""
        ids = RequestIds(2**64 - 2)
        self.assertEqual([ids.take() for _ in range(4)], [2**64 - 2, 2**64 - 1, 0, 1])
        self.assertEqual(ids.following, 2)


class LinkTests(BoundsTestCase):
    """Kinds 0x00xx."""

    NODE = Hello(role=LinkRole.NODE, cluster_name="logs", node_name="a", disk_uuid=DISK)
    CLIENT = Hello(role=LinkRole.CLIENT)

    def test_versions(self):
        """Versions are a range from 1 on."""
        for low, high in [(1, 1), (1, 2), (65535, 65535)]:
            taken(replace(self.NODE, version_min=low, version_max=high))
        for low, high in [(0, 1), (2, 1), (0, 0)]:
            hello = replace(self.NODE, version_min=low, version_max=high)
            self.refused(hello, f"versions {low} to {high} are not a range")

    def test_names_of_a_node(self):
        """A node names itself and its cluster."""
        self.refused_names(lambda name: replace(self.NODE, node_name=name), "node")
        self.refused_names(lambda name: replace(self.NODE, cluster_name=name), "cluster")

    def test_names_of_a_client(self):
        """A client may name a cluster, and has no name and no disk."""
        self.refused_names(lambda name: replace(self.CLIENT, cluster_name=name), "cluster", empty=True)
        problem = "a client has no node name and no disk uuid"
        self.refused(replace(self.CLIENT, node_name="a"), problem)
        self.refused(replace(self.CLIENT, disk_uuid=DISK), problem)

    def test_roles(self):
        """There are two roles."""
        for role in (0, 3):
            self.refused(replace(self.NODE, role=role), f"{role} is not a valid LinkRole")

    def test_software(self):
        """Whatever a length of one byte can say may be said of the software."""
        self.refused_text(lambda text: replace(self.NODE, software=text), "software", 255, longer=False)

    def test_defaults(self):
        """A Hello says version 1, no capabilities, every kind of entry, and no cluster."""
        hello = self.CLIENT
        found = (hello.version_min, hello.version_max, hello.capabilities, hello.entry_kinds)
        self.assertEqual(found, (1, 1, 0, bytes([1, 2, 3, 4, 5, 6, 7])))
        self.assertEqual((hello.cluster_uuid, hello.disk_uuid, hello.software), (NO_UUID, NO_UUID, ""))

    def test_layout(self):
        """The bytes of a Hello are those of docs/wire_format.md."""
        hello = replace(
            self.NODE,
            version_min=2,
            version_max=3,
            capabilities=4,
            cluster_uuid=DISK[::-1],
            software="s",
            entry_kinds=b"ek",
        )
        expected = b"LGHS" + b"\0\2\0\3\1" + b"\0\0\0\0\0\0\0\4" + DISK[::-1] + DISK
        self.assertEqual(b"".join(hello.encode()), expected + b"\4logs\1a\1s\2ek")
        self.assertEqual(Hello.decode(b"".join(hello.encode())), hello)

    def test_what_a_later_version_appends(self):
        """Bytes behind a Hello are ignored; one byte less is an error."""
        body = b"".join(self.NODE.encode())
        self.assertEqual(Hello.decode(body + b"\0"), self.NODE)
        self.assertRaises(MalformedMessageError, Hello.decode, body[:-1])

    def test_goodbye(self):
        """A reason is a text of bounded size."""
        self.refused_text(lambda text: Goodbye(reason=text), "reason", limits.TEXT_SIZE_MAX)

    def test_errors(self):
        """Each kind of error has so many details, all of bounded size."""
        for make in (
            lambda **fields: LinkError(code=2, **fields),
            lambda **fields: Failure(code=2, **fields),
            lambda **fields: ForwardFailure(code=2, request_id=7, **fields),
        ):
            taken(make(numbers=(1,) * 8, texts=("t",) * 8))
            self.refused(make(numbers=(1,) * 9), "more than 8 details")
            self.refused(make(texts=("t",) * 9), "more than 8 details")
            self.refused_text(lambda text, make=make: make(text=text), "text", limits.TEXT_SIZE_MAX)
            self.refused_text(lambda text, make=make: make(texts=("t", text)), "text", limits.TEXT_SIZE_MAX)


class ClientTests(BoundsTestCase):
    """Kinds 0x03xx."""

    REPLY = DescribeReply(cluster_uuid=DISK, cluster_name="logs", node_name="a")
    SERVER = DescribedServer(name="b", address="b:1")

    def test_described(self):
        """Names, addresses and numbers of what is described."""
        self.refused_names(lambda name: replace(self.REPLY, cluster_name=name), "cluster")
        self.refused_names(lambda name: replace(self.REPLY, node_name=name), "node")
        self.refused_names(lambda name: replace(self.REPLY, logs=((1, "x"), (2, name))), "log")

        def with_server(**fields):
            return replace(self.REPLY, servers=(self.SERVER, replace(self.SERVER, **fields)))

        self.refused_names(lambda name: with_server(name=name), "node")
        self.refused_text(lambda text: with_server(address=text), "address", 261)
        self.refused_text(lambda text: with_server(grpc_address=text), "address", 261)
        logs, servers = ((1, "x"),) * 1024, (self.SERVER,) * 256
        taken(replace(self.REPLY, logs=logs, servers=servers))
        self.refused(replace(self.REPLY, logs=(*logs, (1, "x"))), "too many logs or servers")
        self.refused(replace(self.REPLY, servers=(*servers, self.SERVER)), "too many logs or servers")

    def test_described_server(self):
        """A server is a voter that is alive and does not lead, unless it says otherwise."""
        server = self.SERVER
        found = (server.grpc_address, server.role, server.is_leader, server.is_alive)
        self.assertEqual(found, ("", MemberRole.VOTER, False, True))

    def test_leader_hint(self):
        """A leader has a node's name."""
        self.refused_names(lambda name: LeaderHint(name=name), "node")

    def test_produce(self):
        """Bits that mean nothing are zero, and so is what is not given."""
        body = bytearray(b"".join(Produce(batch=b"ab", record_count=1, attributes=7).encode()))
        self.assertEqual(Produce.decode(bytes(body)).attributes, 7)
        for position, value, problem in [
            (0, 0x04, "reserved bits set in given: 0x04"),
            (0, 0x80, "reserved bits set in given: 0x80"),
            (2, 0x08, "reserved attribute bits set: 0x0008"),
            (1, 0x01, "reserved attribute bits set: 0x0107"),
            (10, 1, "a field that is not given must be zero"),
            (18, 1, "a field that is not given must be zero"),
        ]:
            wrong = body.copy()
            wrong[position] = value
            with self.assertRaises(MalformedMessageError) as caught:
                Produce.decode(bytes(wrong))
            self.assertEqual(str(caught.exception), f"Produce: {problem}")

    def test_what_is_given(self):
        """A checksum and an expected offset are told apart, also when they are zero."""
        for crc, expect, given in [(None, None, 0), (0, None, 1), (None, 0, 2), (5, 6, 3), (0, 0, 3)]:
            for message in (
                Produce(batch=b"ab", record_count=1, batch_crc=crc, expect_offset=expect),
                ForwardProduce(
                    request_id=1,
                    subject="s",
                    batch=b"ab",
                    record_count=1,
                    batch_crc=crc,
                    expect_offset=expect,
                ),
            ):
                taken(message)
                place = 0 if isinstance(message, Produce) else 8
                self.assertEqual(b"".join(message.encode())[place], given)


class ForwardTests(BoundsTestCase):
    """Kinds 0x012x, 0x019x, 0x01Ax and 0x01Bx."""

    PRODUCE = ForwardProduce(request_id=1, subject="root", batch=b"ab", record_count=1)

    def test_produce(self):
        """A batch that is passed on is bounded as one that comes in."""
        most = limits.RECORDS_PER_BATCH_MAX
        taken(replace(self.PRODUCE, record_count=most, attributes=7))
        for count in (0, most + 1):
            message = replace(self.PRODUCE, record_count=count)
            self.refused(message, f"{count} records, allowed: 1 to {most}")
        self.refused(replace(self.PRODUCE, attributes=8), "reserved attribute bits set: 0x0008")
        size = limits.PAYLOAD_SIZE_MAX
        taken(replace(self.PRODUCE, batch=bytes(size)))
        self.refused(
            replace(self.PRODUCE, batch=bytes(size + 1)), f"a batch of {size + 1} bytes, allowed: {size}"
        )
        self.refused_text(lambda text: replace(self.PRODUCE, subject=text), "subject", 255, longer=False)

    def test_bits(self):
        """Bits that mean nothing are zero, and so is what is not given."""
        body = bytearray(b"".join(self.PRODUCE.encode()))
        for position, value, problem in [
            (8, 0x04, "reserved bits set in given: 0x04"),
            (18, 1, "a field that is not given must be zero"),
            (26, 1, "a field that is not given must be zero"),
        ]:
            wrong = body.copy()
            wrong[position] = value
            with self.assertRaises(MalformedMessageError) as caught:
                ForwardProduce.decode(bytes(wrong))
            self.assertEqual(str(caught.exception), f"ForwardProduce: {problem}")

    def test_administration(self):
        """Each operation has a name or none, and a number up to its own bound."""
        operation = AdminOperation
        for which, name, number_max in [
            (operation.ADD, "b", 1),
            (operation.REMOVE, "b", 0),
            (operation.TRANSFER, "b", 0),
            (operation.TRANSFER, "", 0),
            (operation.TRIM, "", 2**64 - 1),
            (operation.REGISTER_PRODUCER, "CN=Any One", 0),
            (operation.PROGRESS, "", 0),
            (operation.HAS_LEFT, "b", 2**32 - 1),
        ]:
            message = ForwardAdmin(request_id=1, operation=which, name=name, number=number_max)
            taken(message)
            taken(replace(message, number=0))
            if number_max < 2**64 - 1:
                more = number_max + 1
                problem = f"number {more} of {which.name}, allowed: 0 to {number_max}"
                self.refused(replace(message, number=more), problem)

        def asking(which):
            return lambda name: ForwardAdmin(request_id=1, operation=which, name=name)

        self.refused_names(asking(operation.ADD), "node")
        self.refused_names(asking(operation.REMOVE), "node")
        self.refused_names(asking(operation.HAS_LEFT), "node")
        self.refused_names(asking(operation.TRANSFER), "node", empty=True)
        self.refused_text(asking(operation.REGISTER_PRODUCER), "subject", 255, longer=False)
        for which in (operation.TRIM, operation.PROGRESS):
            self.refused(asking(which)("a"), "name has more than 0 bytes")

    def test_administration_reply(self):
        """Its matches are as many as members can be."""
        reply = ForwardAdminReply(request_id=1, matches=(Match(member=1, index=2),) * 64)
        taken(reply)
        self.refused(replace(reply, matches=(*reply.matches, reply.matches[0])), "65 members, at most 64")
        self.refused_names(lambda name: ForwardAdminReply(request_id=1, name=name), "node", empty=True)

    def test_entries(self):
        """Entries are asked for from 1 on, at least one."""
        for first, last in [(1, 1), (1, 2), (5, 5)]:
            taken(EntriesRequest(request_id=1, first_index=first, last_index=last))
        for first, last in [(0, 1), (0, 0), (2, 1)]:
            message = EntriesRequest(request_id=1, first_index=first, last_index=last)
            self.refused(message, f"entries {first} to {last}")

    def test_leads(self):
        """A node leads at most as many groups as there can be logs, each with a number and in a term."""
        lead = Lead(group=1, term=1)
        taken(Leads(leads=(lead,) * limits.LOGS_MAX))
        self.refused(Leads(leads=(lead,) * (limits.LOGS_MAX + 1)), "10001 groups, at most 10000")
        self.refused(Leads(leads=(lead, replace(lead, group=0))), "leads group 0 in term 1")
        self.refused(Leads(leads=(replace(lead, term=0),)), "leads group 1 in term 0")

    def test_roster(self):
        """Members are as many as there can be, each with a name and a whole uuid."""
        entry = RosterEntry(id=1, name="a", disk_uuid=DISK)
        reply = RosterReply(request_id=1, index=2, members=(entry,) * 64)
        taken(reply)
        self.refused(replace(reply, members=(entry,) * 65), "65 members, at most 64")
        self.refused_names(lambda name: replace(reply, members=(entry, replace(entry, name=name))), "node")
        body = b"".join(reply.encode())
        for cut in range(1, 17):
            with self.assertRaises(MalformedMessageError):
                RosterReply.decode(body[:-cut])


class GossipTests(BoundsTestCase):
    """Kinds 0x02xx."""

    ALIVE = Statement(liveness=Liveness.ALIVE, name="a", disk_uuid=DISK, incarnation=1)
    ALL = (ALIVE,) * limits.GOSSIP_BROADCASTS_MAX

    def carrying(self, *statements):
        """Every message that carries these."""
        fields = {"sequence": 1, "broadcasts": statements}
        return [
            SwimPing(name="b", disk_uuid=DISK, **fields),
            SwimPingReq(name="b", disk_uuid=DISK, **fields),
            SwimAck(**fields),
            SwimNack(**fields),
            SwimBroadcast(broadcasts=statements),
            PushPull(members=statements),
            PushPullReply(members=statements),
        ]

    def test_broadcasts(self):
        """So many statements may ride on a message, and no more; a message of them alone has one at least."""
        for message in self.carrying(*self.ALL)[:4]:
            taken(message)
            taken(replace(message, broadcasts=()))
            self.refused(replace(message, broadcasts=(*self.ALL, self.ALIVE)), "more than 32 broadcasts")
        taken(SwimBroadcast(broadcasts=self.ALL))
        taken(SwimBroadcast(broadcasts=(self.ALIVE,)))
        self.refused(SwimBroadcast(broadcasts=()), "0 broadcasts, allowed: 1 to 32")
        self.refused(SwimBroadcast(broadcasts=(*self.ALL, self.ALIVE)), "33 broadcasts, allowed: 1 to 32")

    def test_views(self):
        """A view has so many members, and no more."""
        for cls in (PushPull, PushPullReply):
            taken(cls(members=()))
            taken(cls(members=(self.ALIVE,) * 256))
            self.refused(cls(members=(self.ALIVE,) * 257), "more than 256 members")

    def test_statements_are_looked_at(self):
        """Whatever carries a statement refuses a false one, also behind a good one."""
        wrong = replace(self.ALIVE, name="")
        for message in self.carrying(self.ALIVE, wrong):
            self.refused(message, f"node '' {NAMES}")

    def test_statement(self):
        """Each field of a statement is bounded."""

        def ack(**fields):
            return SwimAck(sequence=1, broadcasts=(replace(self.ALIVE, **fields),))

        self.refused_names(lambda name: ack(name=name), "node")
        self.refused_text(lambda text: ack(address=text), "address", 261)
        self.refused_text(lambda text: ack(grpc_address=text), "address", 261)
        self.refused_text(lambda text: ack(tags=("x", text)), "tag", 63)
        taken(ack(tags=("x",) * 16))
        self.refused(ack(tags=("x",) * 17), "more than 16 tags")

    def test_accusers(self):
        """Who is suspect or dead is so by somebody's word; who is alive or left, by its own."""
        for liveness in Liveness:

            def said(accuser, liveness=liveness):
                statement = replace(self.ALIVE, liveness=liveness, accuser=accuser)
                return SwimAck(sequence=1, broadcasts=(statement,))

            may_lack = liveness in (Liveness.ALIVE, Liveness.LEFT)
            self.refused_names(said, "accuser", empty=may_lack)

    def test_probes(self):
        """A probe names a node."""
        for cls in (SwimPing, SwimPingReq):
            self.refused_names(lambda name, cls=cls: cls(sequence=1, name=name, disk_uuid=DISK), "node")

    def test_size(self):
        """A statement's size is that of its bytes."""
        bare = len(b"".join(SwimAck(sequence=1).encode()))
        for statement in (
            self.ALIVE,
            replace(self.ALIVE, name=LONGEST, accuser="é", address="x" * 261, tags=("a", "zone=é")),
            replace(self.ALIVE, grpc_address="é:1", version_min=1, version_max=65535, incarnation=2**64 - 1),
        ):
            body = b"".join(SwimAck(sequence=1, broadcasts=(statement,)).encode())
            self.assertEqual(statement_size(statement), len(body) - bare)


class PayloadTests(SynchronousTestCase):
    """Payloads of entries that are no records."""

    def test_names_of_members(self):
        """A member's name has 1 to 63 bytes, whatever they are."""
        for name in ("a", "x" * 63, "é" * 31):
            configuration = Configuration().with_member(name, DISK, MemberRole.VOTER)
            self.assertEqual(decode_configuration(encode_configuration(configuration)), configuration)
        for name in ("", "x" * 64, "é" * 32):
            configuration = Configuration().with_member("a", DISK, MemberRole.VOTER)
            configuration = configuration.with_member(name, DISK, MemberRole.VOTER)
            with self.assertRaises(MalformedMessageError) as caught:
                decode_configuration(encode_configuration(configuration))
            self.assertEqual(str(caught.exception), "a member's name has 1 to 63 bytes")

    def test_number_of_members(self):
        """A configuration has up to 64 members; of more not one is read."""
        configuration = Configuration()
        for _ in range(64):
            configuration = configuration.with_member("a", DISK, MemberRole.LEARNER)
        self.assertEqual(decode_configuration(encode_configuration(configuration)), configuration)
        for content in (
            encode_configuration(configuration.with_member("a", DISK, MemberRole.LEARNER)),
            b"\0\0\0\x41",
            b"\xff\0\0\0",
        ):
            with self.assertRaises(MalformedMessageError) as caught:
                decode_configuration(content)
            self.assertEqual(str(caught.exception), "a configuration has at most 64 members")

    def test_first_id(self):
        """Ids begin at 1."""
        configuration = Configuration().with_member("a", DISK, MemberRole.VOTER)
        self.assertEqual((configuration.members[0].id, configuration.next_id), (1, 2))
        self.assertEqual(Configuration().next_id, 1)
        self.assertEqual(
            (Configuration().retention.size_max, Configuration().retention.age_max_seconds), (0, 0)
        )

    def test_producer(self):
        """A producer's subject has 1 to 255 bytes."""
        for subject in ("a", "x" * 255, "é" * 127):
            self.assertEqual(decode_producer(encode_producer(subject)), subject)

    def test_what_is_wrong(self):
        """A payload that is none names its kind."""
        for decode, word in (
            (decode_configuration, "configuration"),
            (decode_trim, "trim"),
            (decode_producer, "producer"),
        ):
            with self.assertRaisesRegex(MalformedMessageError, f"^{word}: "):
                decode(b"\0\0\0")
        self.assertRaises(MalformedMessageError, decode_producer, b"\x01\xff")
        self.assertRaises(MalformedMessageError, decode_producer, b"\x01aa")
        self.assertRaises(MalformedMessageError, decode_trim, bytes(9))


class AddressBookTests(SynchronousTestCase):
    """The file `members`."""

    CONTACT = Contact(name="a", disk_uuid=DISK, incarnation=1, address="a:1")

    def refused(self, book, problem):
        with self.assertRaises(MalformedMessageError) as caught:
            decode_address_book(encode_address_book(book))
        self.assertEqual(str(caught.exception), f"address book: {problem}")

    def with_contact(self, **fields):
        return AddressBook(contacts=(self.CONTACT, replace(self.CONTACT, **fields)))

    def test_incarnations(self):
        """The own one is up to 2^63, that of a contact from 1 up to that."""
        most = limits.INCARNATION_MAX
        for incarnation in (0, 1, most):
            book = AddressBook(incarnation=incarnation)
            self.assertEqual(decode_address_book(encode_address_book(book)), book)
        self.refused(AddressBook(incarnation=most + 1), f"incarnation {most + 1}")
        for incarnation in (1, most):
            book = self.with_contact(incarnation=incarnation)
            self.assertEqual(decode_address_book(encode_address_book(book)), book)
        for incarnation in (0, most + 1):
            self.refused(self.with_contact(incarnation=incarnation), f"incarnation {incarnation}")

    def test_names_and_addresses(self):
        """A contact has a node's name and an address of up to 261 bytes."""
        book = self.with_contact(name=LONGEST, address="x" * 261)
        self.assertEqual(decode_address_book(encode_address_book(book)), book)
        self.refused(self.with_contact(name="A"), f"node 'A' {NAMES}")
        self.refused(self.with_contact(address="x" * 262), "address has more than 261 bytes")

    def test_largest(self):
        """Contacts are kept as long as they fit, to the byte; of the first that does not fit on, none."""
        size = contact_size(self.CONTACT)
        self.assertEqual(size, 1 + 1 + 16 + 8 + 2 + 3)
        self.assertEqual(contact_size(replace(self.CONTACT, name="éé", address="é")), 1 + 4 + 16 + 8 + 2 + 2)
        room = limits.ADDRESS_BOOK_SIZE_MAX - 24
        count, rest = divmod(room, size)
        for longer, kept in [(rest, count), (rest + 1, count - 1)]:
            last = replace(self.CONTACT, address="x" * (3 + longer))
            contacts = (*[self.CONTACT] * (count - 1), last, self.CONTACT)
            content = encode_address_book(AddressBook(contacts=contacts))
            self.assertEqual(len(decode_address_book(content).contacts), kept)
            if longer == rest:
                self.assertEqual(len(content), limits.ADDRESS_BOOK_SIZE_MAX)
        beyond = limits.ADDRESS_BOOK_SIZE_MAX + 1
        with self.assertRaises(MalformedMessageError) as caught:
            decode_address_book(bytes(beyond))
        self.assertEqual(
            str(caught.exception), f"address book of {beyond} bytes, at most {limits.ADDRESS_BOOK_SIZE_MAX}"
        )
        with self.assertRaises(MalformedMessageError) as caught:
            decode_address_book(bytes(beyond - 1))
        self.assertEqual(str(caught.exception), "address book: checksum does not match")
