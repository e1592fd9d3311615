"""Known bugs of backups and of what is restored of them; `tests/test_backup_mutants.py` tries them."""

from tests.mutants.named import bug

TRIP = "backup.test_round_trip:RoundTripTests."
REFUSED = "backup.test_round_trip:RefusalTests."
DAMAGE = "backup.test_damage:DamageTests."
HOSTILE = "backup.test_damage:HostileNodeTests."
TARGET = "loghouse.backup.target:LogTarget."
WRITER = "loghouse.backup.restoring:_Writer."

WRITING = (
    bug(
        "backup-of-another-log",
        "backups: a log that was made again under its name has other records",
        "The group of a log is not compared.",
        ("loghouse.backup.plan:plan", "if held.group != group:", "if False:"),
        by=REFUSED + "test_made_again",
    ),
    bug(
        "backup-over-a-cut",
        "backups: a log that was cut and went on joins the backup by its offsets",
        "The record at the backup's end is not compared.",
        (
            "loghouse.backup.plan:is_wanted",
            "if (LastEntry.of(entry), entry.next_offset) != (held.last, held.next_offset):",
            "if False:",
        ),
        by=REFUSED + "test_cut_and_gone_on",
    ),
    bug(
        "backup-torn-tail",
        "backups: what stands behind the last good frame of an interrupted run is garbage",
        "A part that was not finished is gone on with behind the garbage.",
        (TARGET + "_go_on_with", "self._files.truncate(file.fd, position)", "pass"),
        by="backup.test_damage:InterruptedTests.test_garbage_behind",
    ),
    bug(
        "backup-of-any-offset",
        "backups: a node's answer is not to be believed",
        "Entries at other offsets are written.",
        ("loghouse.backup.chain:Chain.take", "if entry.base_offset != self.next_offset:", "if False:"),
        by=HOSTILE + "test_offset",
    ),
    bug(
        "backup-without-its-end",
        "backups: a part that is gone must not go unnoticed",
        "The manifest's end is not compared with the parts.",
        ("loghouse.backup.reading:open_log", "if expected != manifest.next_offset:", "if False:"),
        by=DAMAGE + "test_cut_off_and_gone",
    ),
)

RESTORING = (
    bug(
        "restored-without-producers",
        "backups: the exactly-once of a producer ends with the cluster",
        "Registrations that were left out come back as no-ops.",
        (WRITER + "_fill", "if subject is None:", "if True:"),
        by=TRIP + "test_producer_behind_the_last_record",
    ),
    bug(
        "restored-from-the-first-part",
        "backups: what was trimmed is not to be readable again",
        "The lowest offset is that of the first part.",
        (
            "loghouse.backup.restoring:Restoring._log",
            "start.lowest_offset = final.lowest_offset",
            "pass",
        ),
        by=TRIP + "test_trimmed_before",
    ),
    bug(
        "restored-too-short",
        "backups: a producer that registered last is known, too",
        "What lies behind the last record is left out.",
        (WRITER + "finish", "self._fill(self._end + 1)", "pass"),
        by=TRIP + "test_increments",
    ),
    bug(
        "replicas-for-ever",
        "backups: a log has as many replicas as its settings ask for",
        "Every log gets one more replica, and one more.",
        (
            "loghouse.catalogue.changes:complete_replicas",
            "len(log.replicas) >= log.settings.replicas",
            "False",
        ),
        by="catalogue.test_completing:CompletingTests.test_others_are_left_alone",
    ),
)
