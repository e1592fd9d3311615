"""Tests of every message of the wire: one encoding, typed errors, bounded fields."""

from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from loghouse import errors, limits
from loghouse.errors import LoghouseError, MalformedMessageError, ProtocolError
from loghouse.protocol import codec
from loghouse.protocol.client_messages import DescribeReply, Failure, Produce
from loghouse.protocol.failures import FAILURE_FIELDS
from loghouse.protocol.framing import Frame, FrameBuffer
from loghouse.protocol.gossip_messages import PushPull, SwimAck, SwimBroadcast, SwimPing
from loghouse.protocol.link_messages import Goodbye, Hello, LinkRole
from tests.fuzzing import EXAMPLES
from tests.processes import thorough
from tests.vectors.messages import ALIVE, CLUSTER, DISK_A, MESSAGES, SUSPECT


def body_of(message):
    return b"".join(message.encode())


def decode_stream(data):
    """Return the messages in `data` as a receiver finds them."""
    return [codec.decode(frame) for frame in FrameBuffer(codec.body_size_max).feed(data)]


class RegistryTests(SynchronousTestCase):
    """Kinds are unique, in their range, and all sampled."""

    def test_every_kind_has_a_sample(self):
        """The vectors hold every message there is."""
        sampled = {message.KIND for _, message, _ in MESSAGES}
        self.assertEqual(sampled, set(codec.MESSAGES))

    def test_caps_hold_the_largest_messages(self):
        """The caps of bulk kinds fit the largest batch and the largest entry."""
        fixed = len(body_of(Produce(batch=b"", record_count=1)))
        self.assertLessEqual(fixed + limits.PAYLOAD_SIZE_MAX, Produce.SIZE_MAX)
        self.assertLessEqual(8 + limits.ENTRY_SIZE_MAX, codec.body_size_max(0x0304))

    def test_full_push_pull_fits(self):
        """As many members as are allowed, each with long fields, fit the frame."""
        member = replace(
            ALIVE, name="n" * 63, address="h" * 255 + ":65535", grpc_address="h" * 255 + ":65535"
        )
        message = PushPull(members=(member,) * limits.GOSSIP_MEMBERS_MAX)
        self.assertLessEqual(len(body_of(message)), PushPull.SIZE_MAX)

    def test_unknown_kind(self):
        """A kind that is not registered decodes to nothing, and may have 64 KiB."""
        self.assertIs(codec.decode(Frame(0x7FFF, 0, 0, 0, b"x")), None)
        self.assertEqual(codec.body_size_max(0x7FFF), limits.UNKNOWN_SIZE_MAX)


class RoundTripTests(SynchronousTestCase):
    """What goes in comes out."""

    def test_samples(self):
        """Every sampled message survives encoding and decoding, and encodes the same again."""
        for name, message, stream in MESSAGES:
            wire = b"".join(codec.encode(message, group=1, stream=stream))
            [decoded] = decode_stream(wire)
            self.assertEqual(decoded, message, name)
            self.assertEqual(b"".join(codec.encode(decoded, group=1, stream=stream)), wire, name)

    @settings(deadline=None, derandomize=True, max_examples=100)
    @given(
        st.binary(max_size=64),
        st.integers(0, 2**32 - 1),
        st.none() | st.integers(0, 2**32 - 1),
        st.none() | st.integers(0, 2**64 - 1),
        st.integers(0, 2**64 - 1),
        st.integers(0, 2**32 - 1),
    )
    def test_produce(self, batch, count, crc, expect, producer, sequence):
        """Produce keeps the difference between not given and zero."""
        message = Produce(
            batch=batch,
            record_count=count,
            batch_crc=crc,
            expect_offset=expect,
            producer_id=producer,
            producer_sequence=sequence,
        )
        self.assertEqual(Produce.decode(body_of(message)), message)

    def test_bulk_is_not_copied(self):
        """The batch leaves as the object it came in."""
        batch = b"x" * 1000
        pieces = codec.encode(Produce(batch=batch, record_count=1))
        self.assertIs(pieces[-1], batch)

    def test_hello_ignores_what_a_later_version_appends(self):
        """Bytes behind the known fields of a Hello are ignored; in any other message they are an error."""
        hello = MESSAGES[0][1]
        self.assertEqual(Hello.decode(body_of(hello) + b"later"), hello)
        for name, message, _ in MESSAGES:
            if not message.EXTENSIBLE and not message.TAIL:
                with self.assertRaises(MalformedMessageError, msg=name):
                    type(message).decode(body_of(message) + b"\0")


class DamageTests(SynchronousTestCase):
    """Damaged bytes end in a typed error or in another well-formed message, never in anything else."""

    def test_every_truncation(self):
        """No message's body decodes when bytes are missing, unless the rest is bulk."""
        for name, message, _ in MESSAGES:
            body = body_of(message)
            tail = len(message.encode()[-1]) if message.TAIL else 0
            for size in range(len(body) - tail):
                with self.assertRaises(MalformedMessageError, msg=f"{name} cut at {size}"):
                    type(message).decode(body[:size])

    @thorough
    def test_every_bit_flip(self):
        """Each flipped bit of each frame is refused, waits for more bytes, or decodes to another message."""
        for name, message, stream in MESSAGES:
            wire = bytearray(b"".join(codec.encode(message, group=1, stream=stream)))
            for bit in range(8 * len(wire)):
                wire[bit // 8] ^= 1 << bit % 8
                try:
                    found = decode_stream(bytes(wire))
                except ProtocolError:
                    found = []
                wire[bit // 8] ^= 1 << bit % 8
                for decoded in found:
                    header_bits = 96 <= bit < 128 or 64 <= bit < 96 or 48 <= bit < 56
                    if not header_bits:
                        self.assertNotEqual(decoded, message, f"{name}, bit {bit}")

    def test_counts_that_promise_too_much(self):
        """A count of 2^16 - 1 members in a body of a few bytes is refused at once."""
        with self.assertRaises(MalformedMessageError):
            PushPull.decode(b"\xff\xff" + bytes(20))
        with self.assertRaises(MalformedMessageError):
            DescribeReply.decode(bytes(16) + b"\x01a\x01a\xff\xff")


class FieldTests(SynchronousTestCase):
    """Fields beyond their bounds are refused."""

    def test_hello(self):
        """Each false Hello is refused."""
        good = {"role": LinkRole.NODE, "cluster_name": "logs", "node_name": "a", "disk_uuid": DISK_A}
        rows = [
            ("role", {"role": 9}),
            ("no node name", {"node_name": ""}),
            ("newline in a name", {"node_name": "a\nb"}),
            ("path as a name", {"node_name": "../a"}),
            ("upper case", {"cluster_name": "Logs"}),
            ("64 characters", {"node_name": "a" * 64}),
            ("confusable", {"node_name": "\u0430"}),
            ("versions the wrong way round", {"version_min": 2, "version_max": 1}),
            ("version 0", {"version_min": 0}),
            ("client with a node's name", {"role": LinkRole.CLIENT}),
            ("control character", {"software": "x\x1b[2J"}),
        ]
        self.assertEqual(Hello.decode(body_of(Hello(**good))), Hello(**good))
        for name, changed in rows:
            with self.assertRaises(MalformedMessageError, msg=name):
                Hello.decode(body_of(Hello(**{**good, **changed})))
        with self.assertRaises(MalformedMessageError):
            Hello.decode(b"HTTP" + body_of(Hello(**good))[4:])

    def test_gossip(self):
        """Too many statements, an accusation without accuser, an unknown liveness are refused."""
        many = SwimAck(sequence=1, broadcasts=(SUSPECT,) * (limits.GOSSIP_BROADCASTS_MAX + 1))
        rows = [
            many,
            SwimAck(sequence=1, broadcasts=(replace(SUSPECT, accuser=""),)),
            SwimAck(sequence=1, broadcasts=(replace(SUSPECT, liveness=5),)),
            SwimAck(sequence=1, broadcasts=(replace(ALIVE, tags=("x",) * (limits.TAGS_MAX + 1)),)),
            SwimAck(sequence=1, broadcasts=(replace(ALIVE, address="a\r\nb"),)),
            SwimPing(sequence=1, name="", disk_uuid=DISK_A),
            SwimBroadcast(broadcasts=()),
        ]
        for message in rows:
            with self.assertRaises(MalformedMessageError, msg=str(message)[:80]):
                type(message).decode(body_of(message))

    def test_produce(self):
        """Reserved bits, and values where none is given, are refused."""
        body = bytearray(body_of(Produce(batch=b"", record_count=1)))
        for position, value in ((0, 0x04), (1, 0x80), (7, 1), (11, 1)):
            damaged = body.copy()
            damaged[position] = value
            with self.assertRaises(MalformedMessageError, msg=str(position)):
                Produce.decode(bytes(damaged))

    def test_long_goodbye(self):
        """A reason longer than its cap is refused."""
        with self.assertRaises(MalformedMessageError):
            Goodbye.decode(body_of(Goodbye(reason="x" * (limits.TEXT_SIZE_MAX + 1))))


class FailureTests(SynchronousTestCase):
    """Errors survive the wire."""

    ERRORS = [
        errors.InvalidRequestError("batch", "is odd"),
        errors.OffsetOutOfRangeError(5, 6, 7),
        errors.NotLeaderError("b"),
        errors.NotLeaderError(None),
        errors.UnavailableError("later"),
        errors.OutcomeUnknownError("who knows"),
        errors.ExpectOffsetError(1, 2),
        errors.SequenceError(1, 2, 3),
        errors.SequenceReusedError(1, 2),
        errors.UnknownProducerError(1),
        errors.ResourceExhaustedError("requests", "at most 3"),
        errors.DiskFullError("somewhere"),
        errors.PermissionDeniedError("nobody", "produce", "default"),
        errors.UnauthenticatedError("no certificate"),
        errors.UnknownLogError("x"),
        errors.UnknownServiceError("x"),
        errors.MembershipError("no"),
        errors.NotSupportedError("not yet"),
        errors.ReloadRefusedError("nothing was changed"),
        errors.QuotaExceededError(1500, "bytes in", "'ann' used its quota"),
        errors.CursorHeldError(1500, "billing", "host-2"),
        errors.CursorFencedError(7, 9, "billing"),
        errors.CursorRewindError(3, 5, "billing"),
        errors.UnknownCursorError("billing"),
        errors.TooManyCursorsError(4096, "billing"),
        errors.FrameTooLargeError(1, 2, 3),
        errors.IdentityError("who?"),
    ]

    def test_same_class_same_text(self):
        """The receiver gets an error of the same class, with the same text and details."""
        for error in self.ERRORS:
            received = Failure.decode(body_of(Failure.of(error))).error()
            self.assertEqual((type(received), str(received)), (type(error), str(error)))
            self.assertEqual(vars(received), vars(error))

    def test_every_request_error_is_known(self):
        """Every request error with a code of its own is in the table."""

        def leaves(cls):
            yield cls
            for sub in cls.__subclasses__():
                yield from leaves(sub)

        wanted = {
            cls
            for base in (errors.RequestError, errors.ProtocolError)
            for cls in leaves(base)
            if "code" in vars(cls)
        }
        self.assertEqual(wanted - set(FAILURE_FIELDS), set())

    def test_unknown_code(self):
        """A code of a later version becomes a plain request error that keeps the text."""
        error = Failure(code=999, text="something new").error()
        self.assertIs(type(error), errors.RequestError)
        self.assertIn("something new", str(error))

    def test_wrong_details(self):
        """A known code with the wrong details keeps its text, and nothing breaks."""
        error = Failure(code=17, numbers=(1,), text="odd").error()
        self.assertIs(type(error), errors.RequestError)

    def test_texts_become_one_printable_line(self):
        """Newlines in a detail cannot break a log; texts are cut to their cap."""
        failure = Failure.of(errors.UnknownLogError("a\nb" + "\u00e9" * limits.TEXT_SIZE_MAX))
        self.assertEqual(Failure.decode(body_of(failure)), failure)
        self.assertNotIn("\n", failure.texts[0])


class FuzzTests(SynchronousTestCase):
    """Random bytes end in typed errors."""

    @settings(deadline=None, derandomize=True, max_examples=EXAMPLES)
    @given(st.sampled_from(sorted(codec.MESSAGES)), st.binary(max_size=200))
    def test_decoders(self, kind, body):
        """Every decoder takes any bytes: a message that encodes to them, or MalformedMessageError."""
        try:
            message = codec.MESSAGES[kind].decode(body)
        except MalformedMessageError:
            return
        encoded = body_of(message)
        self.assertEqual(encoded, body[: len(encoded)] if message.EXTENSIBLE else body)

    def test_errors_are_ours(self):
        """The error is one of the tree, so the driver's one `except` is enough."""
        self.assertTrue(issubclass(MalformedMessageError, ProtocolError))
        self.assertTrue(issubclass(ProtocolError, LoghouseError))
        self.assertEqual(len(CLUSTER), 16)
