"""docs/disk_format.md and the published vectors say what the code does."""

import json
import re
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from loghouse.errors import (
    DataDirectoryError,
    EntryDamagedError,
    EntryError,
    LoghouseError,
    MalformedMessageError,
)
from loghouse.protocol.address_book import decode_address_book
from loghouse.protocol.cursors import AwaitedAdvance, Cursors
from loghouse.protocol.entry import crc32c, decode_entry
from loghouse.protocol.hard_state import HardState
from loghouse.protocol.log_state import LogState
from loghouse.storage.directory import DiskIdentity
from loghouse.storage.hard_state import Slot
from loghouse.storage.held import Held
from loghouse.storage.loss import Loss
from loghouse.storage.recovery import FrameScan
from loghouse.storage.start import START_MAGIC, STATE_MAGIC, decode_state_file, encode_state_file
from loghouse.storage.store import StoreHeader, Watermark, new_block, newest_watermark
from tests.vectors import disk

ROOT = Path(__file__).parents[2]
VECTORS = {
    vector["name"]: vector
    for name in disk.FILES
    for vector in json.loads((ROOT / "tests" / "vectors" / name).read_text())
}


def raw(name):
    return bytes.fromhex(VECTORS[name]["hex"])


class DocumentTests(SynchronousTestCase):
    """The worked bytes of the document."""

    def test_worked_bytes_are_the_vectors(self):
        """Every block of hex in the document is the vector of its name."""
        text = (ROOT / "docs" / "disk_format.md").read_text()
        blocks = re.findall(r"^```hex (.*)\n((?:.*\n)*?)```$", text, re.MULTILINE)
        self.assertGreater(len(blocks), 7)
        for name, block in blocks:
            self.assertEqual("".join(block.split()), VECTORS[name]["hex"], name)


class VectorTests(SynchronousTestCase):
    """The code reads the vectors back."""

    def test_entries(self):
        """Every entry vector decodes to its fields."""
        for vector in json.loads((ROOT / "tests/vectors/entry.json").read_text()):
            entry = decode_entry(disk.SEED, bytes.fromhex(vector["hex"]))
            for field in ("index", "term", "kind", "record_count", "base_offset", "timestamp", "producer_id"):
                self.assertEqual(getattr(entry, field), vector["fields"][field], vector["name"])
            self.assertEqual(bytes(entry.payload).hex(), vector["fields"]["payload"])

    def test_header_block(self):
        """The header and both slots read back, and are written so."""
        header = StoreHeader.decode(raw("store header"))
        self.assertEqual((header.cluster, header.base_index), (disk.CLUSTER, 1))
        self.assertEqual(header.encode(), raw("store header")[: StoreHeader.SIZE])
        for name in ("watermark of a new store", "watermark after a sync"):
            fields = VECTORS[name]["fields"]
            watermark = Watermark.decode(raw(name), disk.SEED)
            self.assertEqual({field: getattr(watermark, field) for field in fields}, fields)
            self.assertEqual(watermark.encode(disk.SEED), raw(name))
        block = new_block(header)
        self.assertEqual(newest_watermark(block, disk.SEED).counter, 0)
        after = bytearray(block)
        after[2048 : 2048 + Watermark.SIZE] = raw("watermark after a sync")
        self.assertEqual(newest_watermark(bytes(after), disk.SEED).counter, 1)

    def test_small_files(self):
        """Slot, start, state and `held` read back; slot and `held` are written so."""
        slot = Slot.decode(raw("hard state slot"), disk.SEED)
        self.assertEqual((slot.counter, slot.state.term, slot.state.vote), (3, 7, 1))
        self.assertEqual(slot.encode(disk.SEED), raw("hard state slot"))
        state, flags = decode_state_file(
            START_MAGIC, disk.SEED, raw("start of an empty log, being installed")
        )
        self.assertEqual((state.index, flags), (0, 1))
        content = raw("state behind the entries of entry.json")
        state, flags = decode_state_file(STATE_MAGIC, disk.SEED, content)
        self.assertEqual(encode_state_file(STATE_MAGIC, disk.SEED, state, flags), content)
        self.assertEqual((state.index, state.next_offset, state.lowest_offset), (15, 9, 2))
        self.assertEqual(state.cursors.awaited, AwaitedAdvance("orders→bills", 5, 1))
        (cursor,) = state.cursors.by_name.values()
        self.assertEqual((cursor.epoch, cursor.position, cursor.batch_index), (9, 2, 11))
        before, _ = decode_state_file(
            STATE_MAGIC,
            disk.SEED,
            raw("state behind the first eight entries of entry.json: without cursors"),
        )
        self.assertEqual((before.index, before.cursors, before.birth), (8, Cursors(), state.birth))
        self.assertEqual(list(state.producers), [4])
        content = raw("held by a log that was closed")
        held = Held(6, 1, HardState(7, 1), is_closed=True)
        self.assertEqual(Held.decode(content, disk.SEED), held)
        self.assertEqual(held.encode(disk.SEED), content)
        for bit in range(8 * len(content)):
            flipped = int.from_bytes(content, "big") ^ (1 << bit)
            self.assertIsNone(Held.decode(flipped.to_bytes(len(content), "big"), disk.SEED))

    def test_refused(self):
        """Headers and files of another kind or a newer version are told from damaged ones."""

        def with_crc(fields, seed=0):
            return fields + crc32c(fields, seed).to_bytes(4, "big")

        header = raw("store header")[:-4]
        with self.assertRaises(EntryDamagedError):
            StoreHeader.decode(with_crc(b"LOGHOUSF" + header[8:]))
        with self.assertRaises(DataDirectoryError):
            StoreHeader.decode(with_crc(header[:8] + b"\0\2" + header[10:]))
        start = raw("start of an empty log, being installed")[:-4]
        for error, fields in (
            (DataDirectoryError, start[:8] + b"\0\2" + start[10:]),
            (MalformedMessageError, start + b"\0"),
            (MalformedMessageError, b"LOGHSTAT" + start[8:]),
        ):
            with self.assertRaises(error):
                decode_state_file(START_MAGIC, disk.SEED, with_crc(fields, disk.SEED))
        self.assertIsNone(Watermark.decode(b"", disk.SEED))
        self.assertIsNone(Slot.decode(bytes(32), disk.SEED))


class RefusalTests(SynchronousTestCase):
    """tests/vectors/disk_refused.json: what no reader may take."""

    def vectors(self, *kinds):
        text = (ROOT / "tests" / "vectors" / "disk_refused.json").read_text()
        found = [vector for vector in json.loads(text) if vector["of"] in kinds]
        self.assertGreater(len(found), 1)
        return [(vector, bytes.fromhex(vector["hex"])) for vector in found]

    def test_entries(self):
        """No such frame is an entry, alone or in a log, and what is from the future is told apart."""
        for vector, data in self.vectors("entry"):
            with self.assertRaises(EntryError, msg=vector["name"]):
                decode_entry(disk.SEED, data)
            index = max(int.from_bytes(data[16:24], "big") - 1, 0)
            scan = FrameScan(disk.SEED, index=index, term=1, next_offset=0, base_offset=0, position=0)
            scan.run(lambda size, position, data=data: data[position : position + size], len(data))
            self.assertTrue(scan.problem, vector["name"])
            self.assertEqual((scan.position, scan.is_newer), (0, vector["error"] == "newer"), vector["name"])

    def test_runs(self):
        """What does not join, or says what cannot be, ends the scan where it begins."""
        for vector, data in self.vectors("entries"):
            state = LogState()
            scan = FrameScan(
                disk.SEED, index=0, term=0, next_offset=0, base_offset=0, position=0, state=state
            )
            scan.run(lambda size, position, data=data: data[position : position + size], len(data))
            self.assertTrue(scan.problem, vector["name"])
            last = int.from_bytes(data[scan.position + 4 :][:4], "big")
            self.assertEqual(scan.position + last, len(data), vector["name"])

    def test_files(self):
        """Files that are damaged, newer, or count as none."""
        readers = {
            "store header": StoreHeader.decode,
            "start": lambda data: decode_state_file(START_MAGIC, disk.SEED, data),
            "node": lambda data: DiskIdentity.decode("node", data),
            "members": decode_address_book,
        }
        slots = {
            "watermark": Watermark.decode,
            "hard state slot": Slot.decode,
            "held": Held.decode,
            "damage": Loss.decode,  # a log with such a file is not opened
        }
        for vector, data in self.vectors(*readers, *slots):
            if vector["of"] in slots:
                self.assertIsNone(slots[vector["of"]](data, disk.SEED), vector["name"])
                continue
            with self.assertRaises(LoghouseError, msg=vector["name"]) as caught:
                readers[vector["of"]](data)
            is_newer = isinstance(caught.exception, DataDirectoryError)
            self.assertEqual(is_newer, vector["error"] == "newer", vector["name"])
