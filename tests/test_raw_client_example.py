"""The wire specification, the example client written from it, and the code are held against each other."""

import importlib.util
import json
from pathlib import Path

from twisted.internet.threads import deferToThread
from twisted.trial.unittest import SynchronousTestCase

from loghouse import limits
from loghouse.limits import KIB, MIB
from loghouse.net.appending import PRODUCE_SECONDS_DEFAULT
from loghouse.net.link import CLOSE_SECONDS_MAX
from loghouse.protocol.batch import decode_batch
from loghouse.protocol.codec import body_size_max
from loghouse.protocol.entry import crc32c
from loghouse.protocol.failures import FAILURE_FIELDS
from tests.net.wire import WireCase, asynchronous
from tests.vectors.generate import DIRECTORY
from tests.vectors.messages import CLUSTER, ENTRY, GROUP
from tests.vectors.sample_session import lines

ROOT = Path(__file__).resolve().parent.parent
PATH = ROOT / "examples" / "raw_client.py"
SPECIFICATION = ROOT / "docs" / "wire_format.md"
CLIENT_SPECIFICATION = ROOT / "docs" / "wire_client.md"


def load():
    """Import examples/raw_client.py, which is in no package."""
    spec = importlib.util.spec_from_file_location("raw_client", PATH)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


raw_client = load()


def cells_of(line):
    """Return the cells of a row of a table."""
    return [cell.strip() for cell in line.split("|")[1:-1]]


def block(name):
    """Return the text of a fenced block of the specification."""
    return SPECIFICATION.read_text().split(f"```{name}\n")[1].split("```")[0]


VECTORS = ("wire.json", "wire_raft.json")
DEADLINES = (
    ("is not there 10 s after TCP accepted", limits.GREETING_SECONDS),
    ("(ClientHello: 5 s)", limits.CLIENT_HELLO_SECONDS),
    ("is not whole 10 s, and 1 s more for each 64 KiB of it", limits.FRAME_SECONDS),
    ("it pings after 30 s", limits.SILENCE_SECONDS),
    ("60 s without a byte", limits.SILENCE_SECONDS_MAX),
    ("is not taken for 60 s", limits.STUCK_SECONDS_MAX),
    ("is not answered for 5 s", CLOSE_SECONDS_MAX),
    ("the node's own, 30 s", PRODUCE_SECONDS_DEFAULT),
)
CLIENT_LIMITS = {
    "a batch, as sent and unpacked": f"{limits.PAYLOAD_SIZE_MAX // MIB} MiB",
    "records in a batch": f"1 to {limits.RECORDS_PER_BATCH_MAX:,}, exactly `record_count`",
    "a record, encoded": f"{limits.RECORD_SIZE_MAX // MIB} MiB, or `limits.record_bytes_max` of the node",
    "headers of a record": f"{limits.HEADERS_PER_RECORD_MAX:,}",
    "zstd window; blocks": f"{limits.ZSTD_WINDOW_SIZE_MAX // MIB} MiB; {limits.ZSTD_BLOCKS_MAX:,}",
    "a read's answer": f"`size_max`, at most {limits.FETCH_SIZE_MAX // MIB} MiB, or one entry",
    "credit of a Follow": f"{limits.FOLLOW_CREDIT_MAX // MIB} MiB",
    "Follows of a connection": f"{limits.FOLLOWS_PER_CONNECTION_MAX}",
    "batches of a producer without an answer": f"{limits.PRODUCER_BATCHES_MAX}",
    "producers registered by a subject on one node": (
        f"{limits.REGISTRATIONS_AT_ONCE_MAX}, then one in {limits.REGISTRATION_SECONDS:g} s"
    ),
    "producers that the cluster knows": f"{limits.PRODUCERS_MAX}: the least recently used is forgotten",
    "connections of a subject on one node; of one without any rule": (
        f"{limits.CONNECTIONS_PER_CLIENT_MAX}; {limits.CONNECTIONS_WITHOUT_RULE_MAX}"
    ),
    "bytes of a subject's unfinished appends on one node": f"{limits.BODIES.share // MIB} MiB",
}
LIMITS = (
    ("| Hello | 4 KiB |", 0x0001, 4 * KIB),
    ("Failure | 8 KiB |", 0x030F, 8 * KIB),
    ("| 64 KiB; 256 KiB |", 0x0201, 64 * KIB),
    ("| 64 KiB; 256 KiB |", 0x0205, 256 * KIB),
    ("| Produce; ProduceWithCursor | 8 MiB + 64;", 0x0301, 8 * MIB + 64),
    ("| 8 MiB + 64; 8 MiB + 208 |", 0x0322, 8 * MIB + 208),
    ("| ForwardProduce; ForwardProduceWithCursor | 8 MiB + 319;", 0x0120, 8 * MIB + 319),
    ("| 8 MiB + 319; 8 MiB + 463 |", 0x0127, 8 * MIB + 463),
    ("| forwarding but ForwardProduce; EntriesRequest; Roster", 0x0124, 8 * KIB),
    ("| forwarding but ForwardProduce; EntriesRequest; Roster", 0x01A0, 8 * KIB),
    ("RosterReply; routing but Leads, ForwardFrames, ForwardRangeReply; link", 0x01B8, 8 * KIB),
    (
        "FollowFrames, ReadReply, EntriesReply, ForwardFrames, ForwardRangeReply | 8 MiB + 128 |",
        0x0306,
        8 * MIB + 128,
    ),
    ("EntriesReply, ForwardFrames, ForwardRangeReply | 8 MiB + 128 |", 0x01A1, 8 * MIB + 128),
    ("EntriesReply, ForwardFrames, ForwardRangeReply | 8 MiB + 128 |", 0x01B2, 8 * MIB + 128),
    ("ReadReply, EntriesReply, ForwardFrames, ForwardRangeReply | 8 MiB + 128 |", 0x0331, 8 * MIB + 128),
    ("EntriesReply, ForwardFrames, ForwardRangeReply | 8 MiB + 128 |", 0x01BA, 8 * MIB + 128),
    ("| Leads | 128 KiB |", 0x01B0, 128 * KIB),
    ("| DescribeReply, NodeBeat, AskCursorReply, ForwardCursorReply | 256 KiB |", 0x030A, 256 * KIB),
    ("| DescribeReply, NodeBeat, AskCursorReply, ForwardCursorReply | 256 KiB |", 0x01C0, 256 * KIB),
    ("AskCursorReply, ForwardCursorReply | 256 KiB |", 0x0126, 256 * KIB),
    ("9 MiB + 72; 10 MiB + 80; 80 |", 0x0103, 9 * MIB + 72),
    ("9 MiB + 72; 10 MiB + 80; 80 |", 0x0107, 10 * MIB + 80),
    ("9 MiB + 72; 10 MiB + 80; 80 |", 0x0105, 80),
    ("does not know | 64 KiB |", 0x7FFF, 64 * KIB),
)


def as_published(found):
    """Return decoded fields in the form of the vectors, which show what is not given as null."""
    for extra in ("magic", "later"):
        found.pop(extra, None)
    if "given" in found:
        given = found.pop("given")
        found["batch_crc"] = found["batch_crc"] if given & 1 else None
        found["expect_offset"] = found["expect_offset"] if given & 2 else None
    if "logs" in found:
        found["logs"] = [[log["group"], log["name"]] for log in found["logs"]]
    if "headers" in found:
        found["headers"] = [[header["name"], header["value"]] for header in found["headers"]]
    return found


def as_json(value):
    """Return what the example decoded in the form of the vectors."""
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, list):
        return [as_json(item) for item in value]
    if isinstance(value, dict):
        return {name: as_json(item) for name, item in value.items()}
    return value


class SpecificationTests(SynchronousTestCase):
    """docs/wire_format.md says what the code does."""

    def test_layouts_read_every_vector(self):
        """By the document's layouts an independent decoder reads every vector as it is published."""
        layouts = raw_client.parse_layouts(block("layouts"))
        kinds = set()
        for vector in [vector for name in VECTORS for vector in json.loads((DIRECTORY / name).read_text())]:
            data = bytes.fromhex(vector["hex"])
            length, kind, flags, group, stream = raw_client.HEADER.unpack(data[:16])
            expected = (vector["kind"], 0, vector["group"], vector["stream"])
            self.assertEqual((kind, flags, group, stream), expected)
            self.assertEqual(length, len(data) - 16, vector["name"])
            found = as_json(raw_client.decode(kind, data[16:], layouts))
            self.assertEqual(as_published(found), vector["fields"], vector["name"])
            kinds.add(f"0x{kind:04X}")
        self.assertEqual(kinds, {name for name in layouts if name.startswith("0x")})

    def test_example_has_the_same_layouts(self):
        """The example's own layouts are the document's."""
        layouts = raw_client.parse_layouts(block("layouts"))
        for name, layout in raw_client.LAYOUTS.items():
            self.assertEqual(layout, layouts[name], name)

    def test_session(self):
        """The worked session is what the code sends."""
        self.assertEqual(block("session").splitlines(), lines())

    def test_error_codes(self):
        """Every error that can be on the wire has its row: details, again or not, appended or not."""
        rows = {
            int(cells[0]): (cells[2], cells[3].replace(", or empty", ""), cells[4] == "yes", cells[6])
            for cells in map(cells_of, SPECIFICATION.read_text().splitlines())
            if len(cells) == 7 and cells[0].isdigit()
        }
        expected = {
            cls.code: (
                ", ".join(numbers),
                ", ".join(texts),
                cls.may_retry,
                "perhaps" if cls.was_appended is None else "no",
            )
            for cls, (numbers, texts) in FAILURE_FIELDS.items()
        }
        self.assertEqual(rows, expected)

    def test_limits(self):
        """The limits it states are those of the code."""
        stated = SPECIFICATION.read_text()
        for text, kind, size in LIMITS:
            self.assertIn(text, stated)
            self.assertEqual(body_size_max(kind), size, text)

    def test_deadlines(self):
        """The deadlines of a connection are those of the code."""
        stated = SPECIFICATION.read_text()
        for text, seconds in DEADLINES:
            self.assertIn(text, stated)
            self.assertIn(f"{seconds:g} s", text)

    def test_what_a_client_may_send(self):
        """The limits that no frame announces are those of the code."""
        rows = {
            cells[0]: cells[1]
            for cells in map(cells_of, CLIENT_SPECIFICATION.read_text().splitlines())
            if len(cells) == 3
        }
        for what, stated in CLIENT_LIMITS.items():
            self.assertEqual(rows[what], stated)


class ExampleTests(SynchronousTestCase):
    """The example's batches and entries are ours."""

    def test_entry(self):
        """It checks an entry frame as we do, and finds damage."""
        [(kind, base, count, _, _, payload)] = raw_client.entries(CLUSTER, GROUP, ENTRY.frame)
        self.assertEqual((kind, base, count, payload), (1, 0, 2, ENTRY.payload))
        with self.assertRaises(ValueError):
            list(raw_client.entries(CLUSTER, GROUP + 1, ENTRY.frame))
        with self.assertRaises(ValueError):
            list(raw_client.entries(CLUSTER, GROUP, ENTRY.frame[:-1] + b"x"))

    def test_batch(self):
        """Its batches and checksums are ours."""
        values = [b"", b"hello", b"x" * 300]
        batch = raw_client.encode_batch(values)
        self.assertEqual([record.value for record in decode_batch(batch).records], values)
        self.assertEqual(raw_client.crc32c(batch), crc32c(batch))

    def test_size(self):
        """It stays small enough to be read in one go, and imports nothing of ours."""
        text = PATH.read_text()
        self.assertLessEqual(len(text.splitlines()), 250)
        self.assertNotIn("import loghouse", text)
        self.assertNotIn("from loghouse", text)


class RealNodeTests(WireCase):
    """The example talks to a real door: real TLS, real frames."""

    @asynchronous
    async def test_produce_fetch_follow(self):
        """It appends, reads back and follows; what it is refused it says."""
        self.open_port()
        tls = self.client_tls()

        def use():
            client = raw_client.connect(
                f"127.0.0.1:{self.port}", str(tls.ca), str(tls.certificate), str(tls.key)
            )
            offset = client.produce([b"one", b"two"])
            entries, next_offset = client.fetch(1)
            following = client.follow(0)
            followed = next(following)
            try:
                raw_client.connect(
                    f"127.0.0.1:{self.port}", str(tls.ca), str(tls.certificate), str(tls.key)
                ).fetch(7)
            except raw_client.RefusedError as refused:
                return offset, entries, next_offset, followed, refused.args[0]

        offset, entries, next_offset, followed, refused = await deferToThread(use)
        self.assertEqual((offset, next_offset), (0, 2))
        [(kind, base_offset, record_count, _, _, payload)] = entries
        self.assertEqual((kind, base_offset, record_count), (1, 0, 2))
        self.assertEqual([record.value for record in decode_batch(payload).records], [b"one", b"two"])
        self.assertEqual(followed, entries[0])
        self.assertEqual((refused["code"], refused["numbers"]), (17, [7, 0, 2]))
