"""Known bugs in reading ranges: limits, directions, filters. Each names the test that must catch it.

`tests/test_range_mutants.py` tries them.
"""

from tests.mutants.named import bug

MATCHER = "loghouse.protocol.record_matching:Matcher."
RANGE = "loghouse.protocol.record_range:RecordRange."
SCAN = "loghouse.storage.range_scan:RangeScan."
SEGMENT = "loghouse.storage.segment:Segment."
READS = "loghouse.node.reads:LogReads."
FILTERS = "protocol.test_record_filter:FilterTests."
SCANS = "storage.test_range_scan:"

RANGES = (
    bug(
        "batch-with-one-of-the-keys",
        "a filter that hides records",
        "A batch is passed over unless it may hold every key that is looked for.",
        (MATCHER + "may_be_in", "and all(found", "and any(found"),
        by=FILTERS + "test_keys",
    ),
    bug(
        "empty-key-is-none",
        "proto3: a field that is there and empty",
        "A record with an empty key is taken for one without a key.",
        (MATCHER + "takes", 'not record.HasField("key")', "not record.key"),
        by=FILTERS + "test_keys",
    ),
    bug(
        "reader-stands-still",
        "a filter that hides where the reader is",
        "Where nothing is found the reader gets no further.",
        (SCAN + "_look_through", "max(self.next_offset, place.next_offset)", "self.next_offset"),
        by=SCANS + "RangeTests.test_small_answers",
    ),
    bug(
        "limit-at-the-batch's-end",
        "records skipped by whoever goes on behind a limit",
        "Behind a limit the reader goes on at the end of the batch.",
        (SCAN + "_stop_behind", "found[count - 1] + 1", "found[-1] + 1"),
        by=SCANS + "RangeTests.test_all",
    ),
    bug(
        "stored-bytes-looked-through",
        "a hundred bytes of zstd that unpack to 8 MiB",
        "What is looked through for one answer is counted as it is stored.",
        (SCAN + "_wanted_in", "max(len(payload), place.end - place.start)", "place.end - place.start"),
        by=SCANS + "RangeTests.test_unpacked_bytes_count",
    ),
    bug(
        "damage-served-backwards",
        "checksums that only one way of reading checks",
        "What is read backwards is given as it is on the disk.",
        (SEGMENT + "frames_up_to", "scan.index == header.index and scan.position == stop", "True"),
        by=SCANS + "BackwardsTests.test_damage_before",
    ),
    bug(
        "trimmed-in-silence",
        "KIP-320: a reader that skips what retention took",
        "A read backwards of what is trimmed is an empty answer.",
        (RANGE + "window", "if self.first < self.end <= lowest:", "if False:"),
        by="protocol.test_record_range:WindowTests.test_backwards",
    ),
    bug(
        "local-behind-is-the-end",
        "a replica that is behind ends a read that began at another one",
        "A local read that begins behind what a replica has is told that there is no such record.",
        (RANGE + "window", "(is_beyond and not self.is_local)", "is_beyond"),
        by="protocol.test_record_range:WindowTests.test_local",
    ),
    bug(
        "local-asks-the-leader",
        "reads that need a majority though they say that they do not",
        "A local read at the log's end waits for the leader.",
        (READS + "read_range", "wanted.is_local or ", ""),
        by="test_reads:RangeTests.test_local_needs_no_leader",
    ),
    bug(
        "filter-on-the-reactor",
        "one reader's filter that everybody waits for",
        "Batches of the active segment are looked through on the reactor's thread.",
        (READS + "_read_range", "not scan.is_filtered and ", ""),
        by="test_reads:RangeTests.test_filtered_reads_leave_the_reactor",
    ),
    bug(
        "gap-not-seen",
        "a server that leaves records out",
        "An answer without a filter may have gaps.",
        ("loghouse.client.pages:batches_in_range", "if found != place:", "if False:"),
        by="client.test_pages:RangeTests.test_gaps",
    ),
)
