"""Known bugs of emptied disks, and of what is told of copies; `tests/test_log_mutants.py` tries them."""

from tests.mutants.named import bug

RENEWALS = "loghouse.node.renewals:Renewals."
WATCH = "loghouse.node.copy_watch:CopyWatch."
COPIES = "loghouse.cli.copies:"
REPLICA = "loghouse.replica.replica:Replica."
EMPTIED = "sim.test_named_logs:EmptiedDiskTests."
DUE = "test_renewals:DueTests."
GATHERING = "cli.test_copies:GatheringTests."

RENEWED = (
    bug(
        "emptied-founder-begins-again",
        "elections: a voter that forgot its vote votes a second time",
        "A copy belongs to a node of its name, whatever disk it has: an emptied founder is one once more.",
        (
            "loghouse.catalogue.catalogue:Catalogue.placed_on",
            "if (replica.node, replica.disk_uuid) == (node, disk_uuid)",
            "if replica.node == node",
        ),
        by=EMPTIED + "test_no_vote_for_who_forgot",
    ),
    bug(
        "renewed-under-its-old-id",
        "many-logs: a member id that came back had forgotten what it promised",
        "The copy on the new disk is to be the member that the old one was.",
        (
            "loghouse.catalogue.changes:renew_replica",
            "member=log.next_member",
            "member=lost[0].member",
        ),
        by="catalogue.test_renewing:RenewingTests.test_renewed",
    ),
    bug(
        "who-it-was-by-its-first-entry",
        "elections: a voter that forgot its vote votes a second time",
        "A copy that came back empty is the member that the group's first entry names.",
        (REPLICA + "_own_member", " and one.id >= options.member_min", ""),
        by="test_replica_alone:FormerMemberTests.test_own_log",
    ),
    bug(
        "who-it-was-by-a-message",
        "elections: a voter that forgot its vote votes a second time",
        "Whoever calls an empty copy by the number that it had is believed.",
        (REPLICA + "receive", "if envelope.target < self.options.member_min:", "if False:"),
        by="test_replica_alone:JoiningTests.test_former_member",
    ),
    bug(
        "not-renewed",
        "loghouse itself: only the default log came back to an emptied disk",
        "Nobody looks for copies whose disks are gone.",
        (RENEWALS + "look", "if not due:", "if True:"),
        by=EMPTIED + "test_all_copies_again",
    ),
    bug(
        "renewed-though-the-disk-is-a-member",
        "a data directory that was not mounted: the old disk comes back a minute later",
        "A second machine of a member's name is given that member's copies.",
        (RENEWALS + "due", "key not in disks and key.name in back", "key.name in back"),
        (RENEWALS + "due", "if named[key.name] == 1\n", "if named[key.name] >= 1\n"),
        by=DUE + "test_old_disk_is_a_member",
    ),
    bug(
        "renewed-though-heard",
        "a node with a copy of another's certificate",
        "Who speaks from the old disk is no reason to wait.",
        (RENEWALS + "due", "if any(log.is_heard(member) for member, _ in lost):", "if False:"),
        by=DUE + "test_heard",
    ),
    bug(
        "all-renewed-at-once",
        "many-logs: catch-up of many copies drowns appends",
        "All logs of an emptied node get their copies at a time.",
        (RENEWALS + "due", "due[: max(0, room)]", "due"),
        by="test_renewals:ManyTests.test_some_at_a_time",
    ),
)

TOLD = (
    bug(
        "healthy-without-a-copy",
        "loghouse itself: `cluster health` said healthy while named logs lacked a copy",
        "A copy on a disk that the cluster knows no more is not looked for.",
        (WATCH + "_of_copies", "elif key not in disks and key.name in names:", "elif False:"),
        (WATCH + "_of_copies", "elif not is_alive:", "elif False:"),
        (WATCH + "_of_copies", "elif member not in voters:", "elif False:"),
        by="test_copy_watch:LedHereTests.test_emptied",
    ),
    bug(
        "health-of-the-default-log-alone",
        "loghouse itself: `cluster health` said healthy while named logs lacked a copy",
        "What is told of named logs is not a problem.",
        ("loghouse.cli.cluster:health_of", "problems += copies.notes()", "pass"),
        by="cli.test_copies:CommandTests.test_health",
    ),
    bug(
        "one-node-asked",
        "a leader knows of its own logs alone",
        "The first node's word stands for all.",
        (COPIES + "copies_of", "if ask is not None and status.log_count > 1:", "if False:"),
        by=GATHERING + "test_all_asked",
    ),
    bug(
        "silence-is-health",
        "a node that does not answer is not well",
        "A node that did not tell is left out.",
        (COPIES + "copies_of", "silent[name] = str(error)", "pass"),
        by=GATHERING + "test_silent",
    ),
    bug(
        "stuck-counts-as-busy",
        "a copy that never gets on looks like one that is a moment behind",
        "Every look begins to count anew.",
        (WATCH + "look", "now if is_further else since", "now"),
        by="test_copy_watch:LedHereTests.test_behind",
    ),
    bug(
        "closed-and-not-told",
        "loghouse itself: a log that nobody could mend was told in the node's own log alone",
        "A copy that stays closed is not told.",
        (WATCH + "_of_log", "if log.group in node.set_aside:", "if False:"),
        by="test_copy_watch:AnyNodeTests.test_damaged",
    ),
)
