"""Values of exactly the maximum: an entry of ENTRY_SIZE_MAX, a batch of RECORDS_PER_BATCH_MAX records."""

import os

from loghouse.errors import EntryDamagedError
from loghouse.limits import ENTRY_SIZE_MAX, MIB, PAYLOAD_SIZE_MAX, RECORDS_PER_BATCH_MAX, SUBJECT_SIZE_MAX
from loghouse.protocol import client_messages, codec, forward_messages, raft_messages, repair_messages
from loghouse.protocol.entry import decode_entries, decode_entry
from loghouse.storage.examination import Examination
from loghouse.storage.files import OsFiles
from tests.storage.entries import SEED, Writer
from tests.storage.test_log import LogCase, frames_of


class EntryTests(LogCase):
    """The largest entry there may be."""

    def setUp(self):
        super().setUp()
        writer = Writer(self.log.state)
        first = writer.records()
        self.large = writer.records(RECORDS_PER_BATCH_MAX, PAYLOAD_SIZE_MAX)
        self.entries = [first, self.large, writer.records()]
        self.assertEqual(self.large.size, ENTRY_SIZE_MAX)

    def test_log(self):
        """A log takes it, has it after a crash and after a clean stop, and serves it whole."""
        self.log.append(self.entries)
        self.log.sync(3)
        for _ in range(2):
            self.assertEqual([entry.frame for entry in frames_of(self.log)], [e.frame for e in self.entries])
            self.assertEqual(self.log.next_offset, RECORDS_PER_BATCH_MAX + 2)
            [entry] = self.log.entries(2, 3, ENTRY_SIZE_MAX)
            self.assertEqual(entry.frame, self.large.frame)
            self.reopen()
            self.assertEqual(self.log.warnings, ())

    def test_examination(self):
        """One in a sealed segment is good; a flipped bit in it is found, and the entry itself mends it."""
        self.log.append(self.entries)
        self.log.sync(3)
        segment = next(one for one in self.log.view.segments if one.base_index <= 2 <= one.last_index)
        self.assertIsNot(segment, self.log.view.segments[-1])
        number = 2 - segment.base_index
        position = segment.frame_header(number).position
        self.assertEqual(self.examined(segment).damage, None)
        with open(segment.path, "r+b") as file:
            file.seek(position + ENTRY_SIZE_MAX - 1)
            last = file.read(1)
            file.seek(-1, os.SEEK_CUR)
            file.write(bytes([last[0] ^ 1]))
        damage = self.examined(segment).damage
        self.assertEqual((damage.first_index, damage.last_index), (2, 2))
        self.assertEqual(damage.check(bytes(self.large.frame)), 1)

    def examined(self, segment):
        exam = Examination(OsFiles(), segment, is_end_exact=True)
        while not exam.is_done and exam.damage is None:
            exam.step()
        return exam

    def test_frame(self):
        """Its frame is decoded; one byte more is refused."""
        frame = bytes(self.large.frame)
        self.assertEqual(decode_entry(SEED, frame).size, ENTRY_SIZE_MAX)
        self.assertEqual(len(list(decode_entries(SEED, frame))), 1)
        longer = (ENTRY_SIZE_MAX + 1).to_bytes(4, "big") + frame[4:] + b"x"
        self.assertRaises(EntryDamagedError, decode_entry, SEED, longer)

    def test_messages(self):
        """Every message that carries entries carries it."""
        frames = bytes(self.large.frame)
        append = raft_messages.AppendEntries(
            term=1, prev_log_index=1, prev_log_term=1, commit_index=1, entries=(self.large,)
        )
        envelope = raft_messages.Envelope(1, 2, 3, append)
        kind, group, body = raft_messages.envelope_to_wire(envelope)
        self.assertLessEqual(sum(map(len, body)), codec.body_size_max(kind))
        found = raft_messages.envelope_from_wire(kind, group, b"".join(map(bytes, body)), SEED)
        self.assertEqual(found.message.entries[0].frame, frames)
        for message in (
            repair_messages.EntriesReply(request_id=1, frames=frames),
            client_messages.FetchReply(next_offset=9, frames=frames),
            client_messages.FollowFrames(next_offset=9, frames=frames),
        ):
            body = b"".join(map(bytes, message.encode()))
            self.assertLessEqual(len(body), codec.body_size_max(message.KIND), type(message).__name__)
            self.assertEqual(bytes(type(message).decode(body).frames), frames)


class BatchTests(LogCase):
    """The largest batch that is passed on to the leader."""

    def forwarded(self, **fields):
        given = {
            "request_id": 1,
            "subject": "s" * SUBJECT_SIZE_MAX,
            "batch": b"b",
            "record_count": RECORDS_PER_BATCH_MAX,
        }
        return forward_messages.ForwardProduce(**(given | fields))

    def test_records(self):
        """As many records as a batch may have, in as many bytes; no more, and not none."""
        self.forwarded(batch=bytes(PAYLOAD_SIZE_MAX)).check()
        self.forwarded(record_count=1).check()
        for fields in (
            {"record_count": RECORDS_PER_BATCH_MAX + 1},
            {"record_count": 0},
            {"batch": bytes(PAYLOAD_SIZE_MAX + 1)},
            {"subject": "s" * (SUBJECT_SIZE_MAX + 1)},
        ):
            self.assertRaises(ValueError, self.forwarded(**fields).check)
        self.assertLess(PAYLOAD_SIZE_MAX, codec.body_size_max(forward_messages.ForwardProduce.KIND))
        self.assertLess(codec.body_size_max(forward_messages.ForwardProduce.KIND), 2 * PAYLOAD_SIZE_MAX + MIB)
