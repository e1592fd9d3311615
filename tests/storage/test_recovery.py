"""The pure decisions of recovery: where frames end and why, and what names mean."""

from twisted.trial.unittest import SynchronousTestCase

from loghouse.limits import ENTRY_SIZE_MAX
from loghouse.protocol.entry import EntryKind, crc32c, make_entry
from loghouse.protocol.log_state import LogState
from loghouse.storage.recovery import FrameScan, Tail, judge_tail, parse_name, plan_directory
from tests.storage.entries import SEED, Writer


def scan_of(content, size=None, **options):
    fields = {"index": 0, "term": 0, "next_offset": 0, "base_offset": 0, "position": 0, **options}
    scan = FrameScan(SEED, **fields)
    scan.run(
        lambda size, position: content[position : position + size], len(content) if size is None else size
    )
    return scan


def frame(**fields):
    options = {"index": 2, "term": 1, "kind": EntryKind.RECORDS, "base_offset": 1, "timestamp": 10}
    return make_entry(SEED, **{**options, "record_count": 1, "payload": b"x", **fields}).frame


def with_length(whole, length):
    head = bytearray(whole)
    head[4:8] = length.to_bytes(4, "big")
    head[:4] = crc32c(bytes(head[4:64]), SEED).to_bytes(4, "big")
    return bytes(head)


class FrameScanTests(SynchronousTestCase):
    """`FrameScan` stops at the first byte that is no frame of this log, and says why."""

    FIRST = Writer().records(1, 30).frame
    ROWS = [
        ("wrong index", frame(index=3), "does not join"),
        ("same index", frame(index=1), "does not join"),
        ("wrong offset", frame(base_offset=2), "does not join"),
        ("back in time", frame(timestamp=9), "does not join"),
        ("records without a count", frame(record_count=0), "has 0 records"),
        ("no-op with a count", frame(kind=EntryKind.NOOP), "has 1 records"),
        ("no trim", frame(kind=EntryKind.TRIM, record_count=0), "trim"),
        ("unknown producer", frame(producer_id=9), "unknown producer"),
        ("rubbish", b"rubbish".ljust(64, b"?"), "no entry of this log"),
        ("a header's length", with_length(frame(), 63), "entry of 63 bytes"),
        ("too long", with_length(frame(), ENTRY_SIZE_MAX + 1), "entry of"),
        ("longer than the file", with_length(frame(), 1000), "ends inside an entry of 1000"),
        ("a stub", b"stub", "ends inside an entry"),
        ("another version", frame(kind=77), "kind 77"),
    ]

    def test_rows(self):
        """Every row ends behind the first frame, for its reason."""
        for name, second, problem in self.ROWS:
            scan = scan_of(self.FIRST + second, state=LogState())
            self.assertIn(problem, scan.problem, name)
            self.assertEqual((scan.position, scan.index, scan.count), (len(self.FIRST), 1, 1), name)
            self.assertEqual(scan.is_newer, name == "another version", name)

    def test_ends(self):
        """Nothing, zeroes, or a few zero bytes behind the last frame are its end."""
        for behind in (b"", bytes(1), bytes(63), bytes(64), bytes(5000)):
            scan = scan_of(self.FIRST + behind)
            self.assertEqual((scan.problem, scan.is_ended, scan.count), ("", True, 1))

    def test_file_shrinks_while_it_is_read(self):
        """A file that is shorter than it was is a problem, not an end."""
        self.assertIn("shorter", scan_of(self.FIRST, size=5000).problem)

    def test_offsets_too_far_apart(self):
        """A segment whose offsets do not fit its index is no segment."""
        scan = scan_of(frame(index=1, base_offset=2**33), next_offset=2**33)
        self.assertIn("at offset", scan.problem)

    def test_index_max(self):
        """A scan stops at the entry that was asked for."""
        writer = Writer()
        content = b"".join(writer.records().frame for _ in range(5))
        scan = scan_of(content, index_max=3)
        self.assertEqual((scan.index, scan.count, scan.problem, scan.is_done), (3, 3, "", True))

    def test_judge(self):
        """A tail is torn only at or behind the watermark, and clean only with zeroes behind it."""
        scan = scan_of(self.FIRST)
        end = scan.position
        self.assertEqual(judge_tail(scan, durable_position=end, is_zero_behind=True), Tail.CLEAN)
        self.assertEqual(judge_tail(scan, durable_position=end, is_zero_behind=False), Tail.TORN)
        for is_zero in (True, False):
            judged = judge_tail(scan, durable_position=end + 1, is_zero_behind=is_zero)
            self.assertEqual(judged, Tail.DAMAGED)


class PlanTests(SynchronousTestCase):
    """What the names in a directory mean."""

    def test_names(self):
        """Only 20 digits and one of three suffixes make a segment's file."""
        self.assertEqual(parse_name("0" * 19 + "7.store"), (7, ".store"))
        for name in (
            "7.store",
            "0" * 20 + ".stor",
            "0" * 20,
            "x" * 20 + ".store",
            "\u0660" * 20 + ".store",
            "start",
        ):
            self.assertIsNone(parse_name(name), name)

    def test_leftovers(self):
        """Old stores, companions without a store and temporary files are left over, stores last."""
        names = [f"{base:020d}{suffix}" for base in (1, 5, 9) for suffix in (".index", ".state", ".store")]
        names.remove(f"{9:020d}.store")
        plan = plan_directory(
            [*names, "start", "a.tmp", "spare-0.store", "mine"], first_index=5, is_installing=False
        )
        self.assertEqual(plan.bases, (5,))
        self.assertEqual(
            [name.lstrip("0") for name in plan.leftovers],
            ["1.index", "1.state", "9.index", "9.state", "a.tmp", "1.store", "spare-0.store"],
        )

    def test_installing(self):
        """While a start is being installed no segment counts."""
        name = f"{5:020d}.store"
        plan = plan_directory([name], first_index=5, is_installing=True)
        self.assertEqual((plan.bases, plan.leftovers), ((), (name,)))
