"""What a scan of frames takes and where it stops, headers and watermarks of stores, and who has others."""

from twisted.trial.unittest import SynchronousTestCase

from loghouse.errors import DataDirectoryError, EntryDamagedError
from loghouse.limits import ENTRY_HEADER_SIZE, ENTRY_SIZE_MAX, INDEX_ENTRY_SIZE, STORE_HEADER_SIZE
from loghouse.protocol.address_book import AddressBook, Contact, encode_address_book
from loghouse.protocol.configuration import Configuration, MemberRole
from loghouse.protocol.entry import CODEC_MASK, EntryKind, crc32c, frame_seed, make_entry, with_crc
from loghouse.protocol.log_state import LogState
from loghouse.storage import recovery
from loghouse.storage.index import INDEX_ENTRY, RELATIVE_OFFSET_MAX
from loghouse.storage.others import has_others, knows_others, last_configuration
from loghouse.storage.recovery import FrameScan, plan_directory, segment_name, stores_among
from loghouse.storage.start import write_start, write_state
from loghouse.storage.store import StoreHeader, Watermark, new_block, newest_watermark
from loghouse.testing.disk import SimDisk
from tests.storage.entries import CLUSTER, SEED, Writer, open_directory

DIRECTORY = "/data/logs/1"


def frame(**fields):
    """Return a frame that follows entry 4 of term 3, at offset 20 and time 100, unless told otherwise."""
    values = {
        "index": 5,
        "term": 3,
        "kind": EntryKind.RECORDS,
        "base_offset": 20,
        "timestamp": 100,
        "record_count": 2,
        "payload": b"payload",
    }
    return make_entry(SEED, **{**values, **fields}).frame


def scan(**fields):
    values = {
        "index": 4,
        "term": 3,
        "next_offset": 20,
        "base_offset": 10,
        "position": 5000,
        "timestamp": 100,
    }
    return FrameScan(SEED, **{**values, **fields})


class FrameTests(SynchronousTestCase):
    """`FrameScan.feed`."""

    def test_joined(self):
        """A frame may have the same term and time as the one before, or later ones, and no earlier."""
        for fields, is_taken in (
            ({}, True),
            ({"term": 4}, True),
            ({"term": 2}, False),
            ({"timestamp": 101}, True),
            ({"timestamp": 99}, False),
            ({"index": 4}, False),
            ({"index": 6}, False),
            ({"base_offset": 19}, False),
            ({"base_offset": 21}, False),
        ):
            found = scan()
            found.feed(frame(**fields))
            self.assertEqual(found.count, int(is_taken), fields)
            if not is_taken:
                values = {"index": 5, "term": 3, "base_offset": 20, **fields}
                self.assertEqual(
                    found.problem,
                    f"entry {values['index']} of term {values['term']} at offset {values['base_offset']} "
                    "does not join entry 4 of term 3",
                )

    def test_taken(self):
        """What is behind a good frame is told, and its index entry is made."""
        found, good = scan(), frame(term=7, timestamp=170)
        self.assertEqual(found.feed(good), ENTRY_HEADER_SIZE)
        self.assertEqual(
            (found.index, found.term, found.next_offset, found.timestamp, found.position, found.count),
            (5, 7, 22, 170, 5000 + len(good), 1),
        )
        self.assertEqual(bytes(found.entries), INDEX_ENTRY.pack(10, 5000))
        self.assertFalse(found.is_done)
        second = frame(index=6, base_offset=22, term=7, timestamp=170)
        found.feed(second)
        self.assertEqual((found.count, found.position), (2, 5000 + len(good) + len(second)))
        self.assertEqual(bytes(found.entries[INDEX_ENTRY_SIZE:]), INDEX_ENTRY.pack(12, 5000 + len(good)))

    def test_needed(self):
        """With a part of a frame it says how much it needs: a header, then the whole."""
        whole = frame()
        for size, needed in (
            (0, ENTRY_HEADER_SIZE),
            (ENTRY_HEADER_SIZE - 1, ENTRY_HEADER_SIZE),
            (ENTRY_HEADER_SIZE, len(whole)),
            (len(whole) - 1, len(whole)),
            (len(whole), ENTRY_HEADER_SIZE),
            (len(whole) + 5, ENTRY_HEADER_SIZE),
        ):
            found = scan()
            self.assertEqual(found.feed((whole + b"more.")[:size]), needed, size)
            self.assertEqual((found.problem, found.count), ("", int(size >= len(whole))))

    def with_head(self, **fields):
        """Return a frame with other fields in its header, whose checksum is right."""
        places = {"length": (4, 4), "version": (8, 1), "kind": (9, 1), "attributes": (10, 2)}
        head = bytearray(frame())
        for name, value in fields.items():
            at, size = places[name]
            head[at : at + size] = value.to_bytes(size, "big")
        head[:4] = crc32c(bytes(head[4:ENTRY_HEADER_SIZE]), SEED).to_bytes(4, "big")
        return bytes(head)

    def test_lengths(self):
        """An entry has at least its header, and at most the largest size."""
        for length, is_told in (
            (ENTRY_HEADER_SIZE - 1, True),
            (ENTRY_SIZE_MAX, False),
            (ENTRY_SIZE_MAX + 1, True),
        ):
            found = scan()
            needed = found.feed(self.with_head(length=length))
            self.assertEqual(found.problem, f"entry of {length} bytes" if is_told else "")
            self.assertEqual(needed, ENTRY_HEADER_SIZE if is_told else length)
        bare = frame(kind=EntryKind.NOOP, payload=b"", record_count=0)
        self.assertEqual(len(bare), ENTRY_HEADER_SIZE)
        found = scan()
        found.feed(bare)
        self.assertEqual(found.count, 1)

    def test_newer(self):
        """What this program does not know is told as newer: version, kind, and bits of attributes."""
        for fields, text in (
            ({"version": 2}, "version 2, kind 1, attributes 0x0000"),
            ({"kind": 99}, "version 1, kind 99, attributes 0x0000"),
            ({"attributes": CODEC_MASK + 1}, f"version 1, kind 1, attributes {CODEC_MASK + 1:#06x}"),
        ):
            found = scan()
            found.feed(self.with_head(**fields))
            self.assertEqual((found.problem, found.is_newer), (f"entry of {text} is not known", True))
            self.assertTrue(found.is_done)
        found = scan()
        found.feed(self.with_head(attributes=CODEC_MASK))
        self.assertEqual(found.count, 1)

    def test_offsets(self):
        """An offset may be as far from the segment's as its index can say, and no farther."""
        for far, is_taken in ((RELATIVE_OFFSET_MAX, True), (RELATIVE_OFFSET_MAX + 1, False)):
            found = scan(next_offset=10 + far)
            found.feed(frame(base_offset=10 + far))
            self.assertEqual(found.count, int(is_taken))
            self.assertEqual(found.problem, "" if is_taken else f"entry 5 has 2 records at offset {10 + far}")

    def test_records(self):
        """Records have a count, and nothing else has."""
        for kind, count, is_taken in (
            (EntryKind.RECORDS, 1, True),
            (EntryKind.RECORDS, 0, False),
            (EntryKind.NOOP, 0, True),
            (EntryKind.NOOP, 1, False),
        ):
            found = scan()
            found.feed(frame(kind=kind, record_count=count))
            self.assertEqual(found.count, int(is_taken), (kind, count))

    def test_zeroes(self):
        """A whole header of zeroes is the end; anything else there is no entry."""
        for content, is_ended in (
            (bytes(64), True),
            (bytes(64) + b"x", True),
            (bytes(63) + b"x", False),
            (bytes(63), False),
        ):
            found = scan()
            found.feed(content)
            self.assertIs(found.is_ended, is_ended)
            self.assertEqual(bool(found.problem), content[:64] == bytes(63) + b"x")

    def test_payload(self):
        """A damaged payload is told, and passed over on request; a scan of headers does not look."""
        damaged = frame()[:-1] + b"?"
        behind = frame(index=6, base_offset=22)
        found = scan(state=LogState(index=4, term=3, next_offset=20, timestamp=100))
        found.feed(damaged + behind)
        self.assertEqual(
            (found.problem, found.is_payload_damaged, found.position, found.index),
            ("payload checksum of entry 5 does not match", True, 5000, 4),
        )
        found.skip_payload()
        self.assertEqual(
            (found.problem, found.is_payload_damaged, found.state, found.is_done), ("", False, None, False)
        )
        self.assertEqual(
            (found.position, found.index, found.term, found.next_offset, found.timestamp),
            (5000 + len(damaged), 5, 3, 22, 100),
        )
        found.feed(behind)
        self.assertEqual((found.index, found.count), (6, 1))
        found = scan(check_payloads=False)
        found.feed(damaged)
        self.assertEqual((found.count, found.problem), (1, ""))

    def test_last(self):
        """It stops behind the last entry that is wanted."""
        frames = frame() + frame(index=6, base_offset=22)
        for last, count in ((4, 0), (5, 1), (6, 2), (7, 2)):
            found = scan(index_max=last)
            found.feed(frames)
            self.assertEqual((found.count, found.is_done), (count, last <= 6))

    def test_state(self):
        """A state goes along: by the entries that change it, and by where it is."""
        state = LogState(index=4, term=3, next_offset=20, timestamp=100)
        found = scan(state=state)
        found.feed(frame(term=5, timestamp=120))
        self.assertEqual((state.index, state.term, state.timestamp, state.next_offset), (5, 5, 120, 22))
        found.feed(frame(index=6, term=5, timestamp=120, base_offset=22, producer_id=9))
        self.assertEqual(found.problem, "entry 6 is of unknown producer 9")
        self.assertEqual((state.index, state.next_offset), (5, 22))

    def run_over(self, content, size=None, **fields):
        """Run over a file; return the scan and what was asked of the file."""
        asked = []

        def read(size, position):
            asked.append((size, position))
            return content[position - 5000 : position - 5000 + size]

        found = scan(**fields)
        found.run(read, 5000 + (len(content) if size is None else size))
        return found, asked

    def test_reads(self):
        """A file is read in pieces; one that is too small for an entry is read anew with all of it."""
        frames = frame() + frame(index=6, base_offset=22) + frame(index=7, base_offset=24)
        length = len(frame())
        found, asked = self.run_over(frames)
        self.assertEqual((found.count, found.is_ended, asked), (3, True, [(3 * length, 5000)]))
        self.patch(recovery, "SCAN_CHUNK_SIZE", length + 10)
        found, asked = self.run_over(frames)
        self.assertEqual(found.count, 3)
        self.assertEqual(asked[:2], [(length + 10, 5000), (length + 10, 5000 + length)])
        self.patch(recovery, "SCAN_CHUNK_SIZE", 1)
        found, asked = self.run_over(frames)
        self.assertEqual([size for size, _ in asked], [ENTRY_HEADER_SIZE, length] * 3)

    def test_ends(self):
        """A file ends between entries, with zeroes that fit none, or inside one."""
        whole = frame()
        for behind, problem in (
            (b"", ""),
            (bytes(63), ""),
            (bytes(62) + b"x", "the file ends inside an entry of 64 bytes"),
            (whole[:63], "the file ends inside an entry of 64 bytes"),
        ):
            found, _ = self.run_over(whole + behind)
            self.assertEqual((found.problem, found.is_ended), (problem, not problem), behind)
        second = frame(index=6, base_offset=22)
        for size in (64, len(second) - 1):
            found, _ = self.run_over(whole + second[:size])
            self.assertEqual(found.problem, f"the file ends inside an entry of {len(second)} bytes")
        found, _ = self.run_over(whole, size=len(whole) + 64)
        self.assertEqual(found.problem, "the file is shorter than it was")


class NameTests(SynchronousTestCase):
    """Names in a log's directory."""

    def test_stores(self):
        """Stores are found in their order, and nothing else is."""
        names = [segment_name(base, ".store") for base in (20, 3, 100)]
        self.assertEqual(names[1], "00000000000000000003.store")
        self.assertEqual(stores_among([*names, segment_name(7, ".index"), "x.store", "start"]), [3, 20, 100])

    def test_plan(self):
        """Segments count from the log's first index on."""
        names = [segment_name(base, ".store") for base in (4, 5, 6)]
        plan = plan_directory(names, first_index=5, is_installing=False)
        self.assertEqual((plan.bases, plan.leftovers), ((5, 6), (names[0],)))


class StoreTests(SynchronousTestCase):
    """Header block and watermarks."""

    HEADER = StoreHeader(group=1, cluster=CLUSTER, base_index=5, base_offset=20, previous_term=3)

    def test_header(self):
        """A header is read back from its block; one that is short, damaged or newer is told as that."""
        block = new_block(self.HEADER)
        self.assertEqual(len(block), STORE_HEADER_SIZE)
        self.assertEqual(StoreHeader.decode(block), self.HEADER)
        self.assertEqual(StoreHeader.decode(block[: StoreHeader.SIZE]), self.HEADER)
        self.assertEqual(self.HEADER.seed, frame_seed(CLUSTER, 1))
        for short in (b"", block[:59], block[:56] + crc32c(block[:52]).to_bytes(4, "big")):
            error = self.assertRaises(EntryDamagedError, StoreHeader.decode, short)
            self.assertEqual(str(error), "store header checksum does not match")
        fields = block[:56]
        shorter = with_crc(fields[:20])
        self.assertEqual(
            str(self.assertRaises(EntryDamagedError, StoreHeader.decode, shorter)),
            "store header checksum does not match",
        )
        error = self.assertRaises(EntryDamagedError, StoreHeader.decode, with_crc(b"x" + fields[1:]))
        self.assertEqual(str(error), "not a store header")
        for version in (0, 2, 256, 258):
            newer = with_crc(fields[:8] + version.to_bytes(2, "big") + fields[10:])
            error = self.assertRaises(DataDirectoryError, StoreHeader.decode, newer, "/x")
            self.assertEqual(str(error), f"/x: format {version}, this version reads 1; use a newer Loghouse")

    def test_first_watermark(self):
        """A new store is durable up to the entry before it, and knows nothing of commits."""
        found = newest_watermark(new_block(self.HEADER), self.HEADER.seed)
        self.assertEqual(found, Watermark(0, 4, 3, STORE_HEADER_SIZE, 0))

    def test_newest(self):
        """Of two good slots the one with the higher counter counts; a damaged one is none."""
        seed = self.HEADER.seed
        block = bytearray(new_block(self.HEADER))
        for counter in (1, 2, 3):
            mark = Watermark(counter, 10 + counter, 3, 5000 + counter, counter)
            self.assertEqual(mark.slot_position, 2048 if counter % 2 else 1024)
            block[mark.slot_position : mark.slot_position + Watermark.SIZE] = mark.encode(seed)
            self.assertEqual(newest_watermark(bytes(block), seed), mark)
        block[2048] ^= 1
        self.assertEqual(newest_watermark(bytes(block), seed).counter, 2)
        block[1024] ^= 1
        self.assertIsNone(newest_watermark(bytes(block), seed))
        self.assertIsNone(newest_watermark(bytes(block[:2000]), seed))

    def test_lengths(self):
        """A slot that is cut short is none, also with a checksum of its own."""
        encoded = Watermark(1, 2, 3, 4, 5).encode(SEED)
        self.assertEqual(len(encoded), Watermark.SIZE)
        self.assertEqual(Watermark.decode(encoded + b"more", SEED), Watermark(1, 2, 3, 4, 5))
        for short in (encoded[:43], with_crc(encoded[:30], SEED)):
            self.assertIsNone(Watermark.decode(short, SEED))


class OthersTests(SynchronousTestCase):
    """Whether a node has others to ask."""

    def setUp(self):
        self.disk = SimDisk()
        self.data = open_directory(self.disk, segment_size=5120, reserve_size=0)
        self.seed = frame_seed(self.data.identity.cluster_uuid, 1)

    def knows(self):
        return knows_others(self.disk, self.data, 1)

    def configuration(self, *names):
        found = Configuration()
        for name in names:
            found = found.with_member(name, bytes(16), MemberRole.VOTER)
        return found

    def test_configuration(self):
        """Members of other names are others."""
        for names, has in (((), False), (("n",), False), (("n", "o"), True), (("o",), True)):
            self.assertIs(has_others(self.configuration(*names), "n"), has)

    def contacts(self, *names):
        contacts = tuple(
            Contact(name=name, disk_uuid=bytes(16), incarnation=1, address="127.0.0.1:1") for name in names
        )
        self.data.write_members(encode_address_book(AddressBook(incarnation=1, contacts=contacts)))

    def test_address_book(self):
        """So are contacts; an address book that is damaged tells nothing."""
        self.assertIs(self.knows(), False)
        for names, knows in ((("n",), False), (("n", "o"), True), ((), False)):
            self.contacts(*names)
            self.assertIs(self.knows(), knows, names)
        self.data.write_members(b"rubbish")
        self.assertIs(self.knows(), False)

    def test_small_files(self):
        """The newest state file with members tells, else `start`."""
        state = LogState(index=30, term=1, configuration=self.configuration("n", "o"))
        write_state(self.disk, DIRECTORY, self.seed, state)
        self.assertIs(self.knows(), False)  # its store is not there
        self.disk.replace(f"{DIRECTORY}/{31:020d}.store", b"")
        self.assertIs(self.knows(), True)
        write_state(
            self.disk, DIRECTORY, self.seed, LogState(index=60, configuration=self.configuration("n"))
        )
        self.disk.replace(f"{DIRECTORY}/{61:020d}.store", b"")
        self.assertIs(self.knows(), False)
        write_state(self.disk, DIRECTORY, self.seed, LogState(index=60))
        self.assertIs(self.knows(), True)
        for base in (31, 61):
            self.disk.unlink(f"{DIRECTORY}/{base:020d}.state")
        start = LogState(configuration=self.configuration("p"))
        write_start(self.disk, DIRECTORY, self.seed, start, installing=False)
        self.assertEqual(last_configuration(self.disk, DIRECTORY, self.seed), start.configuration)
        self.assertIs(self.knows(), True)


class WriterTests(SynchronousTestCase):
    """What may follow a state."""

    def test_followed(self):
        """Entries that join are taken; a payload is looked at by its kind."""
        writer = Writer()
        state = writer.state.copy()
        entries = [writer.records(), writer.noop(), writer.trim(1), writer.producer("me")]
        entries.append(writer.records(1, 20, producer_id=4, producer_sequence=0))
        recovery.check_entries(state, entries)
        self.assertEqual(state.index, 0)
        self.assertRaises(EntryDamagedError, recovery.check_entries, state, entries[1:])
        self.assertRaises(EntryDamagedError, recovery.check_entries, state, [entries[0], entries[2]])
        for entry in entries[:4]:
            state.apply(entry)
        recovery.check_entries(state, entries[4:])
