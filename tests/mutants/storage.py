"""Known bugs of storage."""

from loghouse.testing.mutation import Edit, Mutant

LOG = "loghouse.storage.log:Log."
CRASHES = (("crash", 4.0), ("power_loss", 10.0))
SMALL = (("disk.index_size", 60), ("disk.keep", 0.3))

STORAGE = (
    Mutant(
        name="no-sync",
        citation="NATS#7564 (fsync every two minutes); PySyncObj (no fsync)",
        description="Entries are acknowledged without a sync.",
        edits=(Edit(LOG + "_sync_store", "sync_written(self._files, fd)", "pass"),),
    ),
    Mutant(
        name="sync-error-ignored",
        citation="fsyncgate; CockroachDB#37102",
        description="A failed sync counts as done.",
        edits=(
            Edit(
                LOG + "_sync_store",
                "sync_written(self._files, fd)",
                "try:\n        sync_written(self._files, fd)\n    except OSError:\n        pass",
            ),
        ),
        faults=(("disk_error", 2.0), ("crash", 4.0)),
    ),
    Mutant(
        name="roll-without-sync",
        citation="etcd#6378, #6379 (unsynced appends out of order)",
        description="A segment is sealed without a sync of its last entries.",
        edits=(
            Edit(
                LOG + "_roll",
                "self._sync_store(sealed, self._watermark.commit_index)",
                "self._view = self._view_to(sealed.end, sealed.last_index, sealed.end.next_offset)",
            ),
        ),
        options=SMALL,
        faults=CRASHES,
    ),
    Mutant(
        name="new-segment-name-lost",
        citation="etcd#6368 (WAL rename without a directory sync)",
        description="The directory is not synced when a segment is added.",
        edits=(
            Edit("loghouse.storage.creation:Rooms.create_segment", "files.sync_directory(directory)", "pass"),
        ),
        options=SMALL,
        faults=CRASHES,
    ),
    Mutant(
        name="names-not-settled",
        citation="found here: a name seen after kill -9 need not be durable",
        description="A start does not sync the directory whose names it builds on.",
        edits=(
            Edit(
                "loghouse.storage.opening:Settlement.run",
                "files.sync_directory(directory)\n    try:\n        hard_state.heal()",
                "try:\n        hard_state.heal()",
            ),
        ),
        options=SMALL,
        faults=(("disk_error", 2.0), ("crash", 6.0)),
        first_seed=144,
    ),
    Mutant(
        name="replace-without-directory-sync",
        citation="hashicorp/raft#229, consul#3362",
        description="A renamed file is not made durable by its directory.",
        edits=(Edit("loghouse.storage.files:replace_file", "files.sync_directory(directory)", "pass"),),
        options=(*SMALL, ("trim_seconds_mean", 0.3)),
        faults=CRASHES,
        first_seed=7,
    ),
    Mutant(
        name="cut-leaves-later-segments",
        citation="Kafka 2013, KIP-101; the Go original deletes too much",
        description="A cut leaves the segments behind it on the disk.",
        edits=(Edit(LOG + "truncate_suffix", "self._rooms.remove_segment(segment)", "pass"),),
        options=(*SMALL, ("raft.append_size_max", 220), ("disk.index_size", 24)),
        faults=(("crash_point", 3.0), ("partition", 5.0)),
    ),
    Mutant(
        name="watermark-not-lowered",
        citation="design 5 (lower the watermark and sync, then cut)",
        description="A crash after a cut finds a watermark behind the end: damage where there is none.",
        edits=(Edit(LOG + "truncate_suffix", "self._lower_watermark(view, place, target)", "pass"),),
        faults=(("crash_point", 3.0), ("partition", 5.0), ("power_loss", 8.0)),
    ),
    Mutant(
        name="term-not-synced",
        citation="PySyncObj#84, #201, #202",
        description="Term and vote are written, not synced.",
        edits=(
            Edit(
                "loghouse.storage.hard_state:HardStateFile.save",
                "sync_written(self._files, self._file.fd)",
                "pass",
            ),
        ),
    ),
    Mutant(
        name="torn-tail-trusted",
        citation="etcd#5230, #6515; LevelDB torn records",
        description="The start trusts a frame's header and does not check its payload.",
        edits=(
            Edit(
                "loghouse.storage.opening:_scan_active",
                "state=state)",
                "state=state, check_payloads=False)",
            ),
        ),
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
    Mutant(
        name="torn-tail-is-damage",
        citation="etcd#5230, #6515, #11488 (torn writes called corruption)",
        description="A torn write at the end of the log keeps the node from starting.",
        edits=(
            Edit(
                "loghouse.storage.recovery:judge_tail",
                "return Tail.CLEAN if is_zero_behind else Tail.TORN",
                "return Tail.CLEAN if is_zero_behind else Tail.DAMAGED",
            ),
        ),
        options=(("disk.keep", 0.7),),
        faults=(*CRASHES, ("bit_rot", 0), ("wipe", 0)),
        first_seed=21,
    ),
    Mutant(
        name="damage-is-torn-tail",
        citation="etcd isTornEntry; NATS#7549 (a damaged node led)",
        description="Damage to acknowledged entries is cut off as if they were never written.",
        edits=(Edit("loghouse.storage.recovery:judge_tail", "scan.position < durable_position", "False"),),
        options=(("voters", 3), ("spares", 0)),
        faults=(("bit_rot", 2.0), ("crash", 4.0), ("membership", 0), ("wipe", 0)),
    ),
    Mutant(
        name="trim-too-far",
        citation="Liftbridge#244; design 5 (never delete because of metadata)",
        description="A trim removes one segment more than it may.",
        edits=(
            Edit(
                LOG + "trim_prefix",
                "view.base_offsets[place + 1] <= lowest",
                "view.base_offsets[place] <= lowest",
            ),
        ),
        options=(*SMALL, ("trim_seconds_mean", 0.3)),
    ),
    Mutant(
        name="start-not-installed",
        citation="openraft#559; Redis-Raft (snapshot and log do not meet)",
        description="The old log is deleted before the new start is there.",
        edits=(
            Edit(
                LOG + "install_start",
                "write_start(self._files, self._directory, self.seed, start, installing=True)",
                "None",
            ),
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
    Mutant(
        name="empty-segment-kept",
        citation="found here: two segments of one name, and a trim removed the files of both",
        description="An empty segment without room for its first entry stays before the one that has it.",
        edits=(
            Edit(
                LOG + "_roll",
                "self._view.segments if sealed.end.count else self._view.segments[:-1]",
                "self._view.segments",
            ),
        ),
        options=(("trim_seconds_mean", 0.1), ("disk.segment_size", 4096 + 400), ("large_share", 0.5)),
        faults=(("crash", 4.0), ("partition", 4.0)),
        first_seed=5,
    ),
)
