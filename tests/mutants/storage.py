"""Known bugs of storage."""

from tests.mutants.hunted import bug

LOG = "loghouse.storage.log:Log."
SYNC = "loghouse.storage.writing:SyncUnderWay."
CRASHES = (("crash", 4.0), ("power_loss", 10.0))
SMALL = (("disk.index_size", 60), ("disk.keep", 0.3))

STORAGE = (
    bug(
        "no-sync",
        "NATS#7564 (fsync every two minutes); PySyncObj (no fsync)",
        "Entries are acknowledged without a sync.",
        (SYNC + "sync", "sync_written(self._log._files, self._fd)", "pass"),
    ),
    bug(
        "sync-error-ignored",
        "fsyncgate; CockroachDB#37102",
        "A failed sync counts as done.",
        (
            SYNC + "sync",
            "sync_written(self._log._files, self._fd)",
            "try:\n        sync_written(self._log._files, self._fd)\n    except OSError:\n        pass",
        ),
        faults=(("disk_error", 2.0), ("crash", 4.0)),
    ),
    bug(
        "roll-without-sync",
        "etcd#6378, #6379 (unsynced appends out of order)",
        "A segment is sealed without a sync of its last entries.",
        (
            LOG + "_roll",
            "self._sync_store(sealed, self._watermark.commit_index)",
            "self._view = self._view_to(sealed.end, sealed.last_index, sealed.end.next_offset)",
        ),
        options=SMALL,
        faults=CRASHES,
    ),
    bug(
        "new-segment-name-lost",
        "etcd#6368 (WAL rename without a directory sync)",
        "The directory is not synced when a segment is added.",
        ("loghouse.storage.creation:Rooms.create_segment", "files.sync_directory(directory)", "pass"),
        options=SMALL,
        faults=CRASHES,
    ),
    bug(
        "replace-without-directory-sync",
        "hashicorp/raft#229, consul#3362",
        "A renamed file is not made durable by its directory.",
        ("loghouse.storage.files:replace_file", "files.sync_directory(directory)", "pass"),
        options=(*SMALL, ("trim_seconds_mean", 0.3)),
        faults=CRASHES,
        first_seed=7,
    ),
    bug(
        "cut-leaves-later-segments",
        "Kafka 2013, KIP-101; the Go original deletes too much",
        "A cut leaves the segments behind it on the disk.",
        (LOG + "truncate_suffix", "self._rooms.remove_segment(segment)", "pass"),
        options=(*SMALL, ("raft.append_size_max", 220), ("disk.index_size", 24)),
        faults=(("crash_point", 3.0), ("partition", 5.0)),
    ),
    bug(
        "watermark-not-lowered",
        "design 5 (lower the watermark and sync, then cut)",
        "A crash after a cut finds a watermark behind the end: damage where there is none.",
        (LOG + "truncate_suffix", "self._lower_watermark(view, place, target)", "pass"),
        faults=(("crash_point", 3.0), ("partition", 5.0), ("power_loss", 8.0)),
    ),
    bug(
        "term-not-synced",
        "PySyncObj#84, #201, #202",
        "Term and vote are written, not synced.",
        (
            "loghouse.storage.hard_state:HardStateFile.save",
            "sync_written(self._files, self._file.fd)",
            "pass",
        ),
    ),
    bug(
        "torn-tail-trusted",
        "etcd#5230, #6515; LevelDB torn records",
        "The start trusts a frame's header and does not check its payload.",
        ("loghouse.storage.opening:_scan_active", "state=state)", "state=state, check_payloads=False)"),
        options=(
            ("disk.keep", 0.7),
            ("large_share", 0.8),
            ("disk.segment_size", 65536),
            ("disk.index_size", 1200),
            ("think_seconds_mean", 0.02),
            ("crash_points", ("written",)),
        ),
        faults=(("crash_point", 1.0), ("disk_full", 0)),
    ),
    bug(
        "torn-tail-is-damage",
        "etcd#5230, #6515, #11488 (torn writes called corruption)",
        "A torn write at the end of the log keeps the node from starting.",
        (
            "loghouse.storage.recovery:judge_tail",
            "return Tail.CLEAN if is_zero_behind else Tail.TORN",
            "return Tail.CLEAN if is_zero_behind else Tail.DAMAGED",
        ),
        options=(("disk.keep", 0.7),),
        faults=(*CRASHES, ("bit_rot", 0), ("wipe", 0)),
        first_seed=21,
    ),
    bug(
        "damage-is-torn-tail",
        "etcd isTornEntry; NATS#7549 (a damaged node led)",
        "Damage to acknowledged entries is cut off as if they were never written.",
        ("loghouse.storage.recovery:judge_tail", "scan.position < durable_position", "False"),
        options=(("voters", 3), ("spares", 0)),
        faults=(("bit_rot", 2.0), ("crash", 4.0), ("membership", 0), ("wipe", 0)),
    ),
    bug(
        "trim-too-far",
        "Liftbridge#244; design 5 (never delete because of metadata)",
        "A trim removes one segment more than it may.",
        (LOG + "trim_prefix", "view.base_offsets[place + 1] <= lowest", "view.base_offsets[place] <= lowest"),
        options=(*SMALL, ("trim_seconds_mean", 0.3)),
        first_seed=5,
    ),
    bug(
        "start-not-installed",
        "openraft#559; Redis-Raft (snapshot and log do not meet)",
        "The old log is deleted before the new start is there.",
        (
            LOG + "install_start",
            "write_start(self._files, self._directory, self.seed, start, installing=True)",
            "None",
        ),
        options=(
            ("trim_seconds_mean", 0.1),
            ("disk.index_size", 24),
            ("think_seconds_mean", 0.02),
            ("crash_points", ("disk_step",)),
        ),
        faults=(("crash_point", 1.0), ("partition", 4.0), ("pause", 4.0)),
        first_seed=36,
    ),
    bug(
        "empty-segment-kept",
        "found here: two segments of one name, and a trim removed the files of both",
        "An empty segment without room for its first entry stays before the one that has it.",
        (
            LOG + "_roll",
            "self._view.segments if sealed.end.count else self._view.segments[:-1]",
            "self._view.segments",
        ),
        options=(("trim_seconds_mean", 0.1), ("disk.segment_size", 4096 + 400), ("large_share", 0.5)),
        faults=(("crash", 4.0), ("partition", 4.0)),
        first_seed=8,
    ),
)
