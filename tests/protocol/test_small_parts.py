"""Back-offs, errors as fields, frames, payloads: values at their bounds, refusals in words."""

import random
import struct

from twisted.trial.unittest import SynchronousTestCase

from loghouse import errors, limits
from loghouse.api.v1.log_pb2 import EncodedRecords, Record
from loghouse.errors import (
    FrameTooLargeError,
    InvalidRequestError,
    MalformedMessageError,
    ProtocolError,
)
from loghouse.protocol import codec
from loghouse.protocol.backoff import Backoff
from loghouse.protocol.batch import decode_batch, encode_batch, plain_values, split_batch
from loghouse.protocol.client_messages import Bounds, Failure, Fetch, FetchReply, Produce
from loghouse.protocol.compression import compress, decompress
from loghouse.protocol.cursor_messages import ForwardProduceWithCursor
from loghouse.protocol.entry import (
    Codec,
    EntryKind,
    frame_seed,
    make_entry,
)
from loghouse.protocol.forward_messages import ForwardFailure, ForwardProduce
from loghouse.protocol.framing import ROOM_SIZE, Frame, FrameBuffer, pack_header
from loghouse.protocol.link_messages import Ping
from loghouse.protocol.raft_messages import (
    AppendEntries,
    Envelope,
    Heartbeat,
    InstallSnapshot,
    TimeoutNow,
    envelope_from_wire,
    from_wire,
)
from loghouse.protocol.range_messages import ForwardRangeReply
from loghouse.protocol.repair_messages import EntriesReply
from loghouse.protocol.routing_messages import ForwardFrames
from loghouse.protocol.varint import decode_varint, encode_varint, join_bytes_field

SEED = frame_seed(bytes(16), 1)
MOST = limits.PAYLOAD_SIZE_MAX


def entry(index=1, term=1, **fields):
    options = {"kind": EntryKind.NOOP, "base_offset": 0, "timestamp": 0, **fields}
    return make_entry(SEED, index=index, term=term, **options)


class ProduceTests(SynchronousTestCase):
    """A request to append, made anew for each attempt."""

    def test_another_timeout(self):
        """It is the same but for its timeout, whatever it has; the first one stays as it was."""
        plain = Produce(b"batch", 3)
        full = Produce(b"batch", 3, 1, 2, 4, 5, 6, 7)
        self.assertEqual(plain.within(9), Produce(b"batch", 3, timeout_milliseconds=9))
        self.assertEqual(full.within(9), Produce(b"batch", 3, 1, 2, 4, 5, 6, 9))
        self.assertEqual((plain.timeout_milliseconds, full.timeout_milliseconds), (0, 7))


class BackoffTests(SynchronousTestCase):
    """Pauses between attempts."""

    def test_doubles(self):
        """Each pause is twice the one before, up to the longest, whatever the number of failures."""
        backoff = Backoff(lambda: 1.0, 0.5, 20.0)
        self.assertEqual([backoff.next_seconds() for _ in range(8)], [0.5, 1, 2, 4, 8, 16, 20, 20])
        self.assertEqual(backoff.failures, 8)
        backoff.failures = 10**9
        self.assertEqual(backoff.next_seconds(), 20.0)

    def test_upper_half(self):
        """It is a random part of the upper half."""
        for chance, seconds in [(0.0, 2.0), (0.5, 3.0), (1.0, 4.0)]:
            self.assertEqual(Backoff(lambda chance=chance: chance, 4.0, 9.0).next_seconds(), seconds)

    def test_reset(self):
        """After a success it begins anew."""
        backoff = Backoff(lambda: 1.0, 1.0, 8.0)
        backoff.next_seconds()
        backoff.next_seconds()
        backoff.reset()
        self.assertEqual((backoff.failures, backoff.next_seconds()), (0, 1.0))

    def test_sixteen_doublings(self):
        """Behind the sixteenth doubling it stays, also if the longest is longer."""
        backoff = Backoff(lambda: 1.0, 1.0, 1e9)
        found = [backoff.next_seconds() for _ in range(19)]
        self.assertEqual(found, [2.0 ** min(number, 16) for number in range(19)])


class FailureTests(SynchronousTestCase):
    """Errors as fields of a message."""

    def test_numbers(self):
        """A number that no field can hold becomes the nearest that one can."""
        error = errors.OffsetOutOfRangeError(-5, 2**64 + 5, 2**64 - 1)
        self.assertEqual(Failure.of(error).numbers, (0, 2**64 - 1, 2**64 - 1))
        self.assertEqual(Failure.of(errors.OffsetOutOfRangeError(0, 1, 2)).numbers, (0, 1, 2))

    def test_texts(self):
        """A text is one line, of as many whole characters as fit."""
        most = limits.TEXT_SIZE_MAX
        for text, line in [
            ("a\nb\tc\x7f", "a b c "),
            ("x" * (most + 1), "x" * most),
            ("x" + "é" * most, "x" + "é" * ((most - 1) // 2)),
            ("\ud800", " "),
        ]:
            self.assertEqual(Failure.of(errors.UnknownLogError(text)).texts, (line,))

    def test_code_of_a_later_version(self):
        """An error of a later version keeps its text and tells its code."""
        error = Failure(code=999, numbers=(1,), text="new").error()
        self.assertIs(type(error), errors.RequestError)
        self.assertEqual(str(error), "new (error code 999, unknown to this version)")

    def test_wrong_details(self):
        """Of an error with other details than it has, the text is kept."""
        for failure in (
            Failure(code=17, numbers=(1, 2), text="odd"),
            Failure(code=17, numbers=(1, 2, 3), texts=("x",), text="odd"),
            Failure(code=19, numbers=(1,), text="odd"),
        ):
            error = failure.error()
            self.assertEqual((type(error), str(error)), (errors.RequestError, "odd"))

    def test_class_without_fields(self):
        """An error that is not in the table goes as its text under its code."""

        class OddError(errors.RequestError):
            code = 500

        failure = Failure.of(OddError("odd"))
        self.assertEqual((failure.code, failure.numbers, failure.texts, failure.text), (500, (), (), "odd"))

    def test_answers_to_forwarded(self):
        """A refusal of a forwarded request has its number, and all of the error."""
        failure = ForwardFailure.answering(7, errors.PermissionDeniedError("s", "a", "o"))
        self.assertEqual((failure.request_id, failure.code), (7, errors.PermissionDeniedError.code))
        self.assertEqual((failure.numbers, failure.texts), ((), ("s", "a", "o")))
        self.assertEqual(failure.text, str(errors.PermissionDeniedError("s", "a", "o")))
        numbered = ForwardFailure.answering(7, errors.ExpectOffsetError(5, 6))
        self.assertEqual((numbered.numbers, numbered.texts), ((5, 6), ()))


class FrameTests(SynchronousTestCase):
    """`FrameBuffer`: what it holds, what it waits for, and what it says."""

    def buffer(self, size_max=1 << 20):
        return FrameBuffer(lambda kind: size_max)

    def sizes(self, buffer):
        return buffer.pending_size, buffer.awaited_size

    def test_sizes(self):
        """What is pending, and what the whole frame will have, step by step."""
        buffer = self.buffer()
        frame = pack_header(4, 1) + b"body"
        steps = []
        for byte in frame:
            list(buffer.feed(bytes([byte])))
            steps.append(self.sizes(buffer))
        self.assertEqual(steps[:15], [(size, 16) for size in range(1, 16)])
        self.assertEqual(steps[15:], [(16, 20), (17, 20), (18, 20), (19, 20), (0, 16)])

    def test_sizes_of_a_large_frame(self):
        """They are the same for a frame that is received where it stays."""
        buffer = self.buffer()
        body = 3 * ROOM_SIZE
        start = pack_header(body, 1) + b"x" * 4
        buffer.room()[: len(start)] = start
        self.assertEqual(list(buffer.fill(len(start))), [])
        self.assertEqual(self.sizes(buffer), (20, 16 + body))
        self.assertEqual(len(buffer.room()), body - 4)
        self.assertEqual(list(buffer.fill(body - 5)), [])
        self.assertEqual((self.sizes(buffer), len(buffer.room())), ((15 + body, 16 + body), 1))
        [frame] = buffer.fill(1)
        self.assertEqual((frame.kind, len(frame.body), self.sizes(buffer)), (1, body, (0, 16)))

    def test_in_place_from_one_room_on(self):
        """A frame of which more than a room is missing is received where it stays; the others are joined."""
        for missing, is_large in [(ROOM_SIZE, False), (ROOM_SIZE + 1, True)]:
            buffer = self.buffer()
            list(buffer.feed(pack_header(missing, 1)))
            self.assertEqual(len(buffer.room()), missing if is_large else ROOM_SIZE)

    def test_fields(self):
        """Each field of the header comes with the frame, small or large."""
        for size in (0, 5, 3 * ROOM_SIZE):
            header = pack_header(size, 0x0301, flags=0x8100, group=7, stream=9)
            buffer = self.buffer()
            if size > ROOM_SIZE:
                list(buffer.feed(header))
                room = buffer.room()
                room[:] = b"y" * size
                [frame] = buffer.fill(size)
            else:
                [frame] = buffer.feed(header + b"y" * size)
            self.assertEqual(frame[:4], (0x0301, 0x8100, 7, 9))
            self.assertEqual(bytes(frame.body), b"y" * size)

    def test_refusals(self):
        """A frame too large, or with a flag that must be known, is refused in words."""
        error = self.assertRaises(FrameTooLargeError, list, self.buffer(9).feed(pack_header(10, 5)))
        self.assertEqual((error.kind, error.size, error.size_max), (5, 10, 9))
        for flags in (0x0001, 0x0080, 0xFF40):
            header = pack_header(0, 0x0301, flags=flags)
            error = self.assertRaises(ProtocolError, list, self.buffer().feed(header))
            self.assertEqual(str(error), f"frame kind 0x0301 has unknown critical flags {flags:#06x}")

    def test_asked_once(self):
        """About each body that is not here, whoever takes it is asked once, with the header's fields."""
        asked = []

        def takes(*header):
            asked.append(header)
            return True

        buffer = self.buffer()
        buffer.ask(takes)
        self.assertEqual(asked, [])
        data = pack_header(3, 1, group=5, stream=6) + b"abc" + pack_header(9, 2, group=7, stream=8)
        self.assertEqual(len(list(buffer.feed(data))), 1)
        self.assertEqual(asked, [(2, 9, 7, 8)])
        list(buffer.feed(b"x" * 8))
        [frame] = buffer.feed(b"x")
        self.assertEqual((frame.kind, frame.body, asked), (2, b"x" * 9, [(2, 9, 7, 8)]))

    def test_begins_to_ask(self):
        """Whoever begins to ask is asked about a body that is awaited, not about one that is received."""
        for answer in (True, False):
            asked = []

            def takes(*header, asked=asked, answer=answer):
                asked.append(header)
                return answer

            buffer = self.buffer()
            list(buffer.feed(pack_header(9, 2, group=7, stream=8) + b"x"))
            buffer.ask(takes)
            self.assertEqual(asked, [(2, 9, 7, 8)])
            found = list(buffer.feed(b"x" * 8 + pack_header(0, 3)))
            self.assertEqual([one.kind for one in found], [2, 3] if answer else [3])
        buffer = self.buffer()
        list(buffer.feed(pack_header(3 * ROOM_SIZE, 2)))
        buffer.room()
        buffer.ask(lambda *header: self.fail("it has its place already"))

    def test_skipped(self):
        """What is left of a body that is not taken counts until it came."""
        buffer = self.buffer()
        buffer.ask(lambda *header: False)
        list(buffer.feed(pack_header(100, 2) + b"x" * 30))
        self.assertEqual(self.sizes(buffer), (70, 86))
        list(buffer.feed(b"x" * 69))
        self.assertEqual(self.sizes(buffer), (1, 17))
        [frame] = buffer.feed(b"x" + pack_header(1, 3) + b"y")
        self.assertEqual((frame.kind, frame.body, self.sizes(buffer)), (3, b"y", (0, 16)))


class CodecTests(SynchronousTestCase):
    """Frames of messages."""

    def test_sizes(self):
        """A kind's largest body is its message's, with addresses for Raft's; 64 KiB when unknown."""
        for kind, size in [
            (Ping.KIND, limits.CONTROL_SIZE_MAX),
            (Produce.KIND, MOST + 64),
            (0x0106, 8 + 64 + 8),
            (0x0103, limits.ENTRY_SIZE_MAX + limits.MIB + 8),
            (0x0107, limits.STATE_SIZE_MAX + 72 + 8),
            (0x7F00, limits.UNKNOWN_SIZE_MAX),
        ]:
            self.assertEqual(codec.body_size_max(kind), size, hex(kind))

    def test_bulk(self):
        """Entries, snapshots, forwarded batches and repairs may be large."""
        large = {ForwardProduce.KIND, ForwardProduceWithCursor.KIND, EntriesReply.KIND, ForwardFrames.KIND}
        large.add(ForwardRangeReply.KIND)
        self.assertEqual(codec.BULK_KINDS, {0x0103, 0x0107, *large})

    def test_pieces(self):
        """A frame is its header and small fields in one piece, and bulk as it is."""
        frames = b"f" * 10
        message = FetchReply(next_offset=5, frames=frames)
        head, tail = codec.encode(message, group=3, stream=4)
        self.assertIs(tail, frames)
        self.assertEqual(head, pack_header(18, FetchReply.KIND, group=3, stream=4) + (5).to_bytes(8, "big"))
        [whole] = codec.encode(Bounds(), stream=9)
        self.assertEqual(whole, pack_header(0, Bounds.KIND, stream=9))

    def test_too_large(self):
        """A body beyond its kind's size is refused, one at it is looked at."""
        body = b"".join(FetchReply(next_offset=1, frames=bytes(FetchReply.SIZE_MAX - 8)).encode())
        self.assertIsInstance(codec.decode(Frame(FetchReply.KIND, 0, 1, 1, body)), FetchReply)
        most = FetchReply.SIZE_MAX
        with self.assertRaises(MalformedMessageError) as caught:
            codec.decode(Frame(FetchReply.KIND, 0, 1, 1, body + b"x"))
        self.assertEqual(str(caught.exception), f"FetchReply has {most + 1} bytes, at most {most}")
        self.assertRaises(AssertionError, codec.encode, FetchReply(next_offset=1, frames=body))
        codec.encode(FetchReply(next_offset=1, frames=body[8:]))

    def test_wrong_sizes(self):
        """A body of fixed size has that size; one with a tail has at least that."""
        for body in (bytes(11), bytes(13)):
            with self.assertRaises(MalformedMessageError) as caught:
                Fetch.decode(body)
            self.assertEqual(str(caught.exception), f"Fetch: {len(body)} bytes, expected 12")
        with self.assertRaises(MalformedMessageError) as caught:
            FetchReply.decode(bytes(7))
        self.assertEqual(str(caught.exception), "FetchReply: 7 bytes, expected 8")
        self.assertEqual(FetchReply.decode(bytes(8)), FetchReply(next_offset=0, frames=b""))

    def test_one_encoding(self):
        """A body that is cut, or says it in another way, is malformed."""
        body = b"".join(Failure(code=1, texts=("abc",)).encode())
        for wrong in (body[:-1], body + b"\0", body[:-3] + b"\0\1\0"):
            with self.assertRaises(MalformedMessageError):
                Failure.decode(wrong)

    def test_envelopes(self):
        """A Raft frame is its header with addresses and fixed fields, then the entries' own bytes."""
        one = entry(8, payload=b"p")
        message = AppendEntries(term=1, prev_log_index=7, prev_log_term=1, commit_index=6, entries=(one,))
        head, first, second = codec.encode_envelope(Envelope(4, 1, 2, message))
        self.assertIs(first, one.head)
        self.assertIs(second, one.payload)
        expected = struct.pack(">IHHII", 8 + 32 + 65, 0x0103, 0, 4, 0) + struct.pack(
            ">IIQQQQ", 1, 2, 1, 7, 1, 6
        )
        self.assertEqual(bytes(head), expected)
        body = b"".join((head, first, second))[16:]
        self.assertEqual(
            codec.decode_envelope(Frame(0x0103, 0, 4, 0, body), SEED), Envelope(4, 1, 2, message)
        )

    def test_raft_refusals(self):
        """What is no Raft message is malformed, in words."""
        for call, text in [
            (lambda: from_wire(0x0199, b"", SEED), "kind 0x0199 is not a Raft message"),
            (lambda: envelope_from_wire(0x0108, 1, b"1234567", SEED), "kind 0x0108: no source and target"),
            (lambda: TimeoutNow.decode(bytes(9), SEED), "TimeoutNow: 9 bytes, expected 8"),
            (lambda: Heartbeat.decode(bytes(23), SEED), "Heartbeat: 23 bytes, expected 24"),
            (lambda: AppendEntries.decode(bytes(31), SEED), "AppendEntries: 31 bytes, at least 32 expected"),
            (lambda: InstallSnapshot.decode(bytes(7), SEED), "InstallSnapshot: 7 bytes, at least 8 expected"),
        ]:
            with self.assertRaises(MalformedMessageError) as caught:
                call()
            self.assertEqual(str(caught.exception), text)
        self.assertEqual(InstallSnapshot.decode(bytes(8), SEED), InstallSnapshot(term=0, state=b""))

    def test_entries_follow(self):
        """Entries of an append have rising indices, and terms that rise up to its own."""
        for entries, problem in [
            ([(8, 2), (9, 3), (10, 3)], None),
            ([(8, 4)], None),
            ([(9, 2)], "entry (9, term 2) where index 8 and a term from 2 to 4 belong"),
            ([(7, 2)], "entry (7, term 2) where index 8 and a term from 2 to 4 belong"),
            ([(8, 1)], "entry (8, term 1) where index 8 and a term from 2 to 4 belong"),
            ([(8, 5)], "entry (8, term 5) where index 8 and a term from 2 to 4 belong"),
            ([(8, 3), (9, 2)], "entry (9, term 2) where index 9 and a term from 3 to 4 belong"),
            ([(8, 3), (8, 3)], "entry (8, term 3) where index 9 and a term from 3 to 4 belong"),
        ]:
            message = AppendEntries(
                term=4,
                prev_log_index=7,
                prev_log_term=2,
                commit_index=0,
                entries=tuple(entry(index, term) for index, term in entries),
            )
            if problem is None:
                message.check()
            else:
                with self.assertRaises(MalformedMessageError) as caught:
                    message.check()
                self.assertEqual(str(caught.exception), f"AppendEntries: {problem}")


class BatchTests(SynchronousTestCase):
    """Payloads of records."""

    def refused(self, text, call, *args):
        with self.assertRaises(InvalidRequestError) as caught:
            call(*args)
        self.assertEqual(str(caught.exception), text)

    def test_codecs(self):
        """None leaves the bytes, zstd packs them, others are unknown."""
        payload = encode_batch([Record(value=b"x" * 100)])
        self.assertIs(decompress(payload, Codec.NONE), payload)
        self.assertEqual(compress(memoryview(payload), Codec.NONE), payload)
        packed = compress(payload, Codec.ZSTD)
        self.assertLess(len(packed), len(payload))
        self.assertEqual(decompress(packed, Codec.ZSTD), payload)
        for code in (2, 7):
            text = f"codec: {code} is unknown; allowed: 0 (none), 1 (zstd)"
            self.refused(text, decompress, payload, code)
            self.refused(text, decode_batch, payload, code)
            self.refused(text, split_batch, payload, code)

    def test_unpacked_size(self):
        """As much as a payload may have is unpacked, and no byte more."""
        self.assertEqual(len(decompress(compress(bytes(MOST), Codec.ZSTD), Codec.ZSTD)), MOST)
        text = f"batch: unpacks to more than {MOST} bytes"
        self.refused(text, decompress, compress(bytes(MOST + 1), Codec.ZSTD), Codec.ZSTD)

    def test_no_batch(self):
        """What is no zstd and what is no batch is said."""
        with self.assertRaisesRegex(InvalidRequestError, "^batch: is not valid zstd: "):
            decompress(b"rubbish!", Codec.ZSTD)
        for call in (decode_batch, split_batch):
            self.refused("batch: is not a serialized RecordBatch", call, b"\xff\xff")
            self.assertEqual(len(call(b"").records), 0)

    def test_plain_values(self):
        """Values are taken out only of records that are nothing else, and none of which is empty."""
        plain = [b"\x0a\x01a", b"\x0a\x02bc"]
        self.assertEqual(plain_values(EncodedRecords(records=plain)), [b"a", b"bc"])
        for odd in (b"", b"\x0a\x00", b"\x0a\x01a\x10\x01", b"\x0a\x01a\x0a\x01b", b"\xff"):
            for records in ([odd], [odd, *plain], [*plain, odd]):
                values = plain_values(EncodedRecords(records=records))
                self.assertEqual(values, [b"a", b"bc", b""] if records == [*plain, b"\x0a\x00"] else None)


class VarintTests(SynchronousTestCase):
    """Protobuf's numbers."""

    def test_lengths(self):
        """Seven bits go into a byte; ten bytes are a number, eleven are none."""
        for number, encoded in [
            (0, b"\x00"),
            (127, b"\x7f"),
            (128, b"\x80\x01"),
            (16383, b"\xff\x7f"),
            (16384, b"\x80\x80\x01"),
            (2**64 - 1, b"\xff" * 9 + b"\x01"),
        ]:
            self.assertEqual(encode_varint(number), encoded)
            self.assertEqual(decode_varint(b"?" + encoded, 1), (number, 1 + len(encoded)))
        self.assertEqual(decode_varint(b"\x80" * 9 + b"\x00", 0), (0, 10))
        with self.assertRaisesRegex(ValueError, "^a varint of more than ten bytes$"):
            decode_varint(b"\x80" * 10 + b"\x00", 0)
        rng = random.Random(1)
        for _ in range(200):
            number = rng.getrandbits(rng.randrange(1, 65))
            self.assertEqual(decode_varint(encode_varint(number), 0)[0], number)

    def test_field(self):
        """A field of bytes is its number, its size and its bytes; an empty one is left out."""
        self.assertEqual(join_bytes_field(2, b"ab", b"rest"), b"\x12\x02abrest")
        self.assertEqual(join_bytes_field(2, b"", b"rest"), b"rest")
        self.assertEqual(join_bytes_field(16, memoryview(b"a"), b""), b"\x82\x01\x01a")
