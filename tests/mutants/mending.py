"""Known bugs of mending and scrubbing. Each names the test that must catch it, as those of the driver."""

from tests.mutants.named import bug

MENDER = "loghouse.replica.entry_repair:EntryRepair."
SCRUBBER = "loghouse.replica.scrubber:Scrubber."
DAMAGED = "loghouse.storage.examination:DamagedEntries."
EXAMINATION = "loghouse.storage.examination:Examination."
WRITE_OVER = "loghouse.storage.examination:write_over"

CHECKS = "storage.test_examination:CheckTests."
FINDING = "storage.test_examination:FindingTests."
WRITING = "storage.test_examination:WritingTests."

TAKING = (
    bug(
        "other-length",
        "an entry that does not fill its hole moves all behind it",
        "Entries are taken whose bytes do not end where the next good entry begins.",
        (DAMAGED + "check", "if not fits or", "if"),
        by=CHECKS + "test_header_damaged",
    ),
    bug(
        "no-room-for-the-rest",
        "a part that is written must leave room for the other parts",
        "The first of several entries may fill the place of all.",
        (DAMAGED + "check", "behind + missing * ENTRY_HEADER_SIZE <= self.end", "True"),
        by=CHECKS + "test_a_part",
    ),
    bug(
        "other-index",
        "protocol-aware recovery: the right entry, not any good one",
        "Any entry with good checksums is taken, whatever its index.",
        (DAMAGED + "check", "index=self.first_index - 1", "index=HEADER.unpack(frames[:64])[6] - 1"),
        by=CHECKS + "test_a_part",
    ),
    bug(
        "term-of-the-future",
        "Raft: terms never fall in a log",
        "An entry of a higher term than the one behind it is taken.",
        (DAMAGED + "check", "scan.term > self.next_term", "False"),
        by=CHECKS + "test_header_damaged",
    ),
    bug(
        "other-header",
        "the header that is still good says which entry it was",
        "While only the payload is damaged, another entry that fits is taken.",
        (DAMAGED + "check", "if self.head and", "if False and"),
        by=CHECKS + "test_payload_damaged",
    ),
    bug(
        "more-than-asked",
        "bytes behind the last entry that was asked for",
        "What follows the entries in an answer is written with them.",
        (DAMAGED + "check", "or scan.position != behind", ""),
        by=CHECKS + "test_a_part",
    ),
    bug(
        "not-checked",
        "damage spreads from disk to disk",
        "What another member gives is written without a look.",
        (MENDER + "reply_received", "damage.check(frames)", "damage.last_index - damage.first_index + 1"),
        by="test_entry_repair:LyingTests.test_nobody_has_what_fits",
    ),
    bug(
        "anybodys-answer",
        "an answer to a question of a former life",
        "An answer is taken from whoever sends one.",
        (MENDER + "reply_received", "asked is None or", "asked is None or False and"),
        by="test_entry_repair:ServingTests.test_unasked_answer",
    ),
    bug(
        "perhaps-not-committed",
        "only a committed entry is the same everywhere",
        "Entries are mended though they may not be committed.",
        (MENDER + "_found", "damage.last_index > self._owner.committed_index", "False"),
        by="test_entry_repair:OthersTests.test_not_known_to_be_committed",
    ),
    bug(
        "opened-perhaps-not-committed",
        "the only copy of an entry that nobody acknowledged",
        "A start leaves damage to mending though its entries may not be committed.",
        ("loghouse.storage.opening:survey", "> found.watermark.commit_index", "> 2**63"),
        by="storage.test_examination:OpeningTests.test_not_committed",
    ),
)

WRITTEN = (
    bug(
        "not-read-back",
        "a disk that says yes and keeps nothing",
        "What was written is not looked at again.",
        (WRITE_OVER, "!= frames:", "is None:"),
        by=WRITING + "test_disk_that_does_not_keep_it",
    ),
    bug(
        "not-synced",
        "mended in the page cache only",
        "A mended entry is not made durable.",
        (WRITE_OVER, "files.fdatasync(store.fd)", "pass"),
        by=WRITING + "test_crash_anywhere",
    ),
    bug(
        "written-into-the-active-segment",
        "a cut made the segment the last one again",
        "A segment is written to though it takes appends by now.",
        ("loghouse.storage.log:Log.mend", "if self.sealed_segment(damage.base_index) is None:", "if False:"),
        by=WRITING + "test_not_sealed_any_more",
    ),
    bug(
        "mended-for-ever",
        "a dying disk that is written to again and again",
        "A place that does not stay mended is mended without an end.",
        (MENDER + "_found", "job.attempts[damage.position] >= ATTEMPTS_MAX", "False"),
        by="test_entry_repair:LyingTests.test_disk_that_keeps_nothing",
    ),
    bug(
        "newer-is-damage",
        "a downgrade must not write over what it does not know",
        "A whole entry of a kind from the future is taken for damage.",
        (EXAMINATION + "_read_frames", "if scan.is_newer:", "if False:"),
        by=FINDING + "test_newer_entry",
    ),
    bug(
        "any-header-is-good",
        "an index that leads elsewhere",
        "The end of damage is wherever the index says, without a look at what is there.",
        (EXAMINATION + "_good_header", "is_good = (", "is_good = True or ("),
        by=FINDING + "test_index_that_lies",
    ),
)

GIVING = (
    bug(
        "gives-uncommitted",
        "an entry that another leader replaces",
        "Entries are given to others before they are known to be committed.",
        (MENDER + "serve", "last > self._owner.committed_index", "False"),
        by="test_entry_repair:ServingTests.test_not_committed",
    ),
    bug(
        "gives-without-end",
        "one member's repair must not stop another's readers",
        "Any number of requests is served at a time.",
        (MENDER + "serve", "or self._serving >= ENTRIES_SERVED_MAX", ""),
        by="test_entry_repair:ServingTests.test_bounded",
    ),
    bug(
        "own-damage-ignored",
        "reliability: damage that is met is mended",
        "Damage met while reading for another member is forgotten.",
        (MENDER + "serve", "self._owner.damage_found(outcome)", "pass"),
        by="test_entry_repair:ServingTests.test_damaged_here",
    ),
    bug(
        "gives-up",
        "a repair that was tried once",
        "After all were asked in vain nobody is asked again.",
        (MENDER + "_asked_in_vain", "self._now + job.delay", "float('inf')"),
        by="test_entry_repair:OthersTests.test_nobody_reachable",
    ),
    bug(
        "silent-member-blocks",
        "a member that never answers",
        "An answer is waited for without an end.",
        (MENDER + "look", "now >= self._asked.deadline", "False"),
        by="test_entry_repair:OthersTests.test_silent_member",
    ),
)

SCRUBBED = (
    bug(
        "scrubs-without-pause",
        "a scrub that starves readers",
        "The rate does not bound the scrubber.",
        (SCRUBBER + "_step", "size / self.rate", "0"),
        by="test_scrubber:ScrubberTests.test_rate",
    ),
    bug(
        "scrubs-a-slow-disk",
        "a scrub that takes a slow disk's whole time",
        "The disk's own time does not bound the scrubber.",
        (SCRUBBER + "_step", "now + REST_FACTOR * (now - began)", "0"),
        by="test_scrubber:ScrubberTests.test_slow_disk",
    ),
    bug(
        "scrubs-the-first-segment",
        "a scrub that never gets past what it finds",
        "Behind damage a scrub does not go on.",
        (SCRUBBER + "_judge", "exam.skip()", "self._exam = None"),
        by="test_scrubber:ScrubberTests.test_damage",
    ),
    bug(
        "index-not-compared",
        "an index is never trusted",
        "The scrubber does not look at indexes.",
        (EXAMINATION + "_compare_index", "if found != expected:", "if False:"),
        by="test_scrubber:ScrubberTests.test_index",
    ),
)

MENDING = (*TAKING, *WRITTEN, *GIVING, *SCRUBBED)
