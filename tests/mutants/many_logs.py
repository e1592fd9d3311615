"""Known bugs of named logs: births, places, the catalogue, ends; `tests/test_log_mutants.py` tries them."""

from tests.mutants.named import bug

ALONE = "test_named_logs:"
CLUSTER = "sim.test_named_logs:NamedLogsTests."
GROUPS = "storage.test_groups:"
NAMED = "loghouse.node.named_logs:NamedLogs."
CATALOGUE_LOG = "loghouse.node.catalogue_log:CatalogueLog."
ADMINISTRATION = "loghouse.node.log_administration:LogAdministration."
RECONCILE = "loghouse.cluster.reconcile:"
SERVED = "loghouse.node.served_log:ServedLog."
STATE = "loghouse.protocol.log_state:LogState."
FOLD = "loghouse.catalogue.catalogue:Catalogue."
ORDERS = "loghouse.node.administration:Administration."
ROUTER = "loghouse.cluster.router:Router."

BIRTHS = (
    bug(
        "birth-of-another-time",
        "many-logs: founders whose first entries differ are two logs of one name",
        "A founder takes its own time for the first entry.",
        (NAMED + "_open", "log.created_at) if founder", "log.created_at + len(self._node.name)) if founder"),
        (
            "loghouse.node.named_logs:configuration_of",
            "next_id=len(members) + 1",
            "next_id=len(members) + 1 + id(members) % 7",
        ),
        by=CLUSTER + "test_create",
    ),
    bug(
        "founder-begins-empty",
        "many-logs: nobody has the first entry, so nobody may stand for election",
        "A founder waits for a leader that cannot be.",
        (NAMED + "_open", "self.hosted.open(log.group, first,", "self.hosted.open(log.group, None,"),
        by=ALONE + "CreationTests.test_create",
    ),
    bug(
        "catalogue-born-by-everyone",
        "many-logs: who was no founder has another first entry than the founders agreed on",
        "A group is founded again by every administrator that asks.",
        (
            "loghouse.protocol.log_state:LogState._apply_control",
            "kind == EntryKind.BIRTH and self.birth is None",
            "kind == EntryKind.BIRTH",
        ),
        by="protocol.test_log_state:LogStateTests.test_birth",
    ),
    bug(
        "founded-with-old-members",
        "loghouse itself: Hello.entry_kinds was read by nobody",
        "A birth is written although a member cannot read it.",
        (
            "loghouse.node.administration:check_known",
            "if kind not in kinds:",
            "if False:",
        ),
        by="test_administration_rules:FoundingTests.test_too_old",
    ),
    bug(
        "first-does-not-stand",
        "many-logs: a new log waited for an election timeout",
        "The first replica of a new log waits like the others.",
        (NAMED + "_opened", "served.stand()", "pass"),
        by=CLUSTER + "test_first_lead",
    ),
)

CATALOGUE = (
    bug(
        "list-of-a-node-that-just-started",
        "found by killing leaders: members of a group dropped what a node that had just started did not list",
        "A node tells which logs there are before it knows them.",
        (ADMINISTRATION + "list", "if not self._node.knows_all_logs:", "if False:"),
        by="test_log_administration:DescribeTests.test_list_of_a_node_that_just_started",
    ),
    bug(
        "change-without-expectation",
        "many-logs: two changes that were decided at once are both in",
        "A change is appended wherever the catalogue ends by now.",
        (CATALOGUE_LOG + "change", "expect_offset=catalogue.next_offset", "expect_offset=None"),
        by="test_catalogue_log:ChangeTests.test_overtaken",
    ),
    bug(
        "checkpoint-forgets-the-dead",
        "many-logs: a node that was away kept what was deleted, or had it twice",
        "A checkpoint has no tombstones.",
        (
            "loghouse.catalogue.catalogue:Catalogue.checkpoint",
            "for group, when in self.tombstones.items()",
            "for group, when in ()",
        ),
        by="catalogue.test_exactly:FoldTests.test_whole",
    ),
    bug(
        "trimmed-without-a-checkpoint",
        "many-logs: a catalogue that cannot be read from its beginning",
        "The trim goes beyond the checkpoint.",
        (CATALOGUE_LOG + "_trim", "self._log.trim(offset)", "self._log.trim(offset + 1)"),
        by=ALONE + "CheckpointTests.test_checkpoint",
    ),
    bug(
        "unknown-before-it-is-known",
        "many-logs: clients took a node that had just started for the end of their log",
        "A node denies what it has not heard of yet.",
        ("loghouse.node.node:Node.log", "not self._named.knows_all", "False"),
        by=ALONE + "RestartTests.test_unknown_at_first",
    ),
    bug(
        "request-left-open",
        "found here by the simulator: a stop left who had asked for a log without an answer",
        "A stop answers nobody.",
        (ADMINISTRATION + "stop", "asked.cancel()", "pass"),
        by="test_catalogue_log:StopTests.test_answered",
    ),
)

ENDS = (
    bug(
        "put-away-without-tombstone",
        "nats-server#5382: streams were deleted because the metadata lacked them",
        "What the catalogue does not name goes, whether or not it was deleted.",
        (NAMED + "_put_away", "if group not in catalogue.tombstones:", "if False:"),
        by="test_catalogue_log:StrayTests.test_kept",
    ),
    bug(
        "given-back-before-it-is-committed",
        "many-logs: a member whose removal was cut off again had lost what it promised",
        "A leader answers by the configuration that it has proposed.",
        (
            "loghouse.node.administration:_has_left",
            "settled, _ = driver.raft.settled",
            "settled = driver.raft.configuration",
        ),
        by="test_administration_rules:FoundingTests.test_has_left",
    ),
    bug(
        "given-back-without-the-catalogue",
        "many-logs: a copy that the catalogue wanted here again was put away",
        "The group's word alone decides.",
        (NAMED + "_release", "group not in placed_elsewhere", "group not in self._served"),
        by="test_releases:AskingTests.test_wanted_again",
    ),
    bug(
        "given-back-unasked",
        "many-logs: a copy that still counted for the majority went by the catalogue's word alone",
        "What is placed elsewhere goes at once.",
        ("loghouse.node.releases:Releases._take", "if answer.number:", "if True:"),
        by="test_releases:AskingTests.test_still_a_member",
    ),
    bug(
        "given-back-while-an-old-id-may-come",
        "many-logs: a leader that lagged said that a member to come had left",
        "Ids that may still be added do not count.",
        ("loghouse.node.administration:_has_left", "settled.next_id >= next_id and", ""),
        by="test_administration_rules:FoundingTests.test_has_left",
    ),
    bug(
        "founder-again",
        "many-logs: a node that got its log back began it anew as the member that it had been",
        "A founder begins with the first entry, whichever member it is by now.",
        (
            NAMED + "_open",
            "own if own in log.founders else None",
            "next((one for one in log.founders if one.node == own.node), None)",
        ),
        by="test_releases:ComingBackTests.test_no_founder_any_more",
    ),
    bug(
        "deleted-while-away",
        "many-logs: the files of a log that was deleted while its node was away stayed for ever",
        "Only what this process served is put away.",
        (NAMED + "look", "self._look_for_ended(self.log.catalogue)", "pass"),
        by="test_releases:EndedTests.test_deleted_while_away",
    ),
    bug(
        "born-twice",
        "many-logs: a member that lost its log came back under its id and had forgotten its vote",
        "A log that was born here and is gone is made anew.",
        ("loghouse.storage.groups:BornGroups.bear", "if not self._files.exists(path):", "if False:"),
        by=GROUPS + "GroupsTests.test_never_again",
    ),
    bug(
        "waiters-of-the-dead",
        "many-logs: who followed a log that was deleted waited for ever",
        "Nobody tells those who wait for more of a deleted log.",
        (
            SERVED + "retire",
            "self._waiters.close(UnknownLogError(self.name))",
            "pass",
        ),
        by=ALONE + "EndTests.test_delete",
    ),
    bug(
        "damage-ends-the-node",
        "many-logs: one damaged log took all others of its node with it",
        "Damage in a named log ends the process.",
        (NAMED + "fail", "isinstance(error, DamageError | EntryError | ConsensusError)", "False"),
        by=ALONE + "DamageTests.test_contradiction",
    ),
    bug(
        "settings-stay",
        "many-logs: an altered retention was shown and never came into force",
        "The leader does not propose what the catalogue says.",
        (
            SERVED + "_look_at_settings",
            "replica.configuration.retention != kept",
            "False",
        ),
        by=ALONE + "EndTests.test_alter",
    ),
)

PLACES = (
    bug(
        "votes-before-it-has-learnt",
        "many-logs: a replica that lacked most of the log counted for the majority",
        "A new replica votes at once.",
        (RECONCILE + "next_configuration_of_log", "if is_caught_up(learner.id):", "if True:"),
        by="test_reconcile:PlacedLogTests.test_rows",
    ),
    bug(
        "removed-before-its-successor-votes",
        "many-logs: a log lost its majority while it moved",
        "What is not wanted goes at once.",
        (RECONCILE + "next_configuration_of_log", "if is_complete or member", "if True or member"),
        by="test_reconcile:PlacedLogTests.test_rows",
    ),
    bug(
        "used-id-again",
        "many-logs: a member id that came back had forgotten what it promised",
        "A replica gets an id that the group has used.",
        (RECONCILE + "next_configuration_of_log", "replica.member >= configuration.next_id", "True"),
        by="test_reconcile:PlacedLogTests.test_used_id",
    ),
    bug(
        "back-before-it-left",
        "test_replaced_and_back: a log of two, replaced twice in a second, never had a leader again",
        "A node that is a member still is told of its next id, and leaves the vote of the old one.",
        (RECONCILE + "next_configuration_of_log", "if old:", "if False:"),
        by="test_reconcile:PlacedLogTests.test_rows",
    ),
    bug(
        "who-left-stays-in-the-catalogue",
        "many-logs: a node that was removed still counted for the catalogue's majority",
        "Only additions are taken over from the cluster.",
        (RECONCILE + "next_configuration_of_catalogue", "if role is None and", "if False and"),
        by="test_reconcile:CatalogueTests.test_rows",
    ),
    bug(
        "rack-ignored",
        "redpanda and others: all replicas of a log in one rack",
        "Placement looks at load alone.",
        ("loghouse.catalogue.placement:_spread", "racks[best.rack] += bool(best.rack)", "pass"),
        by="catalogue.test_exactly:PlacementTests.test_racks",
    ),
    bug(
        "frame-with-another-seed",
        "loghouse itself: frames of all groups were decoded with the seed of one",
        "A frame is decoded with the default log's seed.",
        (
            ROUTER + "_raft_received",
            "decode_envelope(frame, group.replica.seed)",
            "decode_envelope(frame, self.group.replica.seed)",
        ),
        by=CLUSTER + "test_create",
    ),
    bug(
        "routed-by-member-id-alone",
        "loghouse itself: the routes of one group were taken for all",
        "An envelope goes to the member of the default log that has the id.",
        (ROUTER + "send_raft", "group = self.group_of(envelope.group)", "group = self.group"),
        by=CLUSTER + "test_create_on_two",
    ),
)

MANY_LOGS = (*BIRTHS, *CATALOGUE, *ENDS, *PLACES)
