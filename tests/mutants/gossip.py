"""Known bugs of membership. Each names the test that must catch it; `tests/gossip/test_mutants.py` tries."""

from dataclasses import dataclass

from loghouse.testing.mutation import Edit, Mutant

CLAIMS = "loghouse.gossip.claims:Claims."
PROBING = "loghouse.gossip.probing:Probing."
CORE = "loghouse.gossip.core:Swim."


@dataclass(frozen=True, slots=True)
class Caught:
    """A known bug, and the test (`module:Class.method`, below `tests.gossip`) that catches it."""

    mutant: Mutant
    by: str


def bug(name, citation, description, target, old, new, by):
    edits = (Edit(target, old, new),)
    return Caught(Mutant(name=name, citation=citation, description=description, edits=edits), by)


GOSSIP = (
    bug(
        "said-before-durable",
        "memberlist#311",
        "A member speaks with an incarnation that a restart forgets.",
        CLAIMS + "_announce",
        "if self.incarnation > self._ceiling_durable:",
        "if False:",
        "test_claims:DurabilityTests.test_slow_disk",
    ),
    bug(
        "incarnation-from-one",
        "memberlist#345",
        "A restarted member begins at its first incarnation again.",
        CLAIMS + "__init__",
        "self.incarnation = book.incarnation + 1",
        "self.incarnation = 1",
        "test_claims:DurabilityTests.test_restart",
    ),
    bug(
        "book-not-read",
        "memberlist#311: after a restart of all nodes they need a seed",
        "Contacts of the address book are not tried.",
        CLAIMS + "_remember",
        "if key != self.key:",
        "if False:",
        "test_restart:FullRestartTests.test_restart",
    ),
    bug(
        "stale-alive-resurrects",
        "al8n/memberlist#197",
        "An older ALIVE counts.",
        CLAIMS + "_hear_alive",
        "elif said < member.incarnation:",
        "elif False:",
        "test_attacks:AttackTests.test_replay",
    ),
    bug(
        "nobody-tries-the-dead",
        "serf#333",
        "Members declared dead are not tried any more.",
        CORE + "_tick_reach_out",
        "lost = list(self._lost())",
        "lost = []",
        "test_failures:CutTests.test_halves",
    ),
    bug(
        "reclaimed-are-lost",
        "weaviate#10698",
        "A member dead for long is forgotten with its address.",
        CORE + "_reclaim",
        "member.is_forgotten = True",
        "member.is_forgotten, member.profile = True, None",
        "test_regressions:LongPartitionTests.test_long_partition",
    ),
    bug(
        "leave-told-again",
        "serf#606",
        "A leave heard twice is told again.",
        CLAIMS + "_hear_left",
        "return  # told once",
        "return self._broadcasts.tell(statement)  # told once",
        "test_regressions:LeaveTests.test_two_leaves_die_down",
    ),
    bug(
        "no-refutation",
        "SWIM 4.2",
        "An accused member says nothing.",
        CLAIMS + "_refute",
        "self._raise_above(self._accused_incarnation)",
        "pass",
        "test_attacks:AttackTests.test_forged_leave",
    ),
    bug(
        "dead-at-one-word",
        "memberlist SECURITY.md: one member can kill any other",
        "An accusation is believed without time to refute.",
        CLAIMS + "_hear_accusation",
        "self._suspect(member, statement.incarnation, statement.accuser)",
        "self._table.move(member, statement.liveness, self._tick)",
        "test_attacks:AttackTests.test_dead_storm",
    ),
    bug(
        "poison-followed",
        "memberlist#359",
        "A member follows any incarnation that others name.",
        CLAIMS + "_hear_of_self",
        "if said > self.incarnation + INCARNATION_JUMP_MAX:",
        "if False:",
        "test_claims:RefutationTests.test_absurd_accusation",
    ),
    bug(
        "poison-believed",
        "memberlist#359",
        "Hearsay may raise an incarnation without bound.",
        CLAIMS + "_hear",
        "if statement.incarnation > known:",
        "if False:",
        "test_claims:RefusalTests.test_absurd_hearsay",
    ),
    bug(
        "denial-not-believed",
        "memberlist#359",
        "A member cannot take back what was made up about it.",
        CLAIMS + "_hear_alive",
        "if not first_hand or said",
        "if True or said",
        "test_attacks:AttackTests.test_poisoned_newcomer",
    ),
    bug(
        "hearsay-is-first-hand",
        "memberlist SECURITY.md: alive messages are not authenticated",
        "What anybody says of a member counts as its own word.",
        CLAIMS + "_hear",
        "first_hand = key == source",
        "first_hand = True",
        "test_attacks:AttackTests.test_forged_address",
    ),
    bug(
        "old-address-dropped",
        "attack row 19 (forged alive)",
        "A member is looked for only where others say it is.",
        CLAIMS + "_take",
        "elif profile.address != before.address and not member.address_before:",
        "elif False:",
        "test_attacks:AttackTests.test_forged_address",
    ),
    bug(
        "tags-kept-on-rejoin",
        "serf#58",
        "A member that comes back is known by its old address and tags.",
        CLAIMS + "_take",
        "member.profile = profile",
        "member.profile = before or profile",
        "test_regressions:LeaveTests.test_rejoin_elsewhere",
    ),
    bug(
        "told-for-ever",
        "serf#78, consul#18078",
        "Statements have no transmit limit.",
        "loghouse.gossip.broadcasts:Broadcasts.take",
        "if told + 1 >= limit:",
        "if False:",
        "test_regressions:LeaveTests.test_two_leaves_die_down",
    ),
    bug(
        "members-without-bound",
        "consul#14200",
        "The table of members grows with what others invent.",
        "loghouse.gossip.members:MemberTable.is_full",
        "return len(self._members) >= GOSSIP_MEMBERS_MAX - 1",
        "return False",
        "test_claims:RefusalTests.test_graves_are_bounded",
    ),
    bug(
        "live-evicted",
        "attack row 17",
        "In a full table a live member gives way to an invented one.",
        "loghouse.gossip.members:MemberTable.least",
        "if not member.is_live]",
        "]",
        "test_claims:RefusalTests.test_too_many_members",
    ),
    bug(
        "no-indirect-probes",
        "SWIM 3.1",
        "Nobody else is asked before a member is suspected.",
        PROBING + "_ask_others",
        "count = min(self.config.indirect_probes, len(candidates))",
        "count = 0",
        "test_failures:CutTests.test_one_way_cut",
    ),
    bug(
        "ack-for-another",
        "memberlist#213, consul#2430",
        "Whoever is at the address acks for the member that was there before.",
        PROBING + "_on_ping",
        "if (message.name, message.disk_uuid) != self.key:",
        "if False:",
        "test_probing:AnswerTests.test_ping",
    ),
    bug(
        "anybody-acks",
        "attack row 17",
        "An ack counts whoever sends it.",
        PROBING + "_on_ack",
        "elif not (source in probe.asked and message.sequence == probe.sequence):",
        "elif message.sequence != probe.sequence:",
        "test_probing:CycleTests.test_acks",
    ),
    bug(
        "suspect-not-told",
        "Lifeguard 4.3 (buddy system)",
        "A suspect is not told of the suspicion by who probes it.",
        PROBING + "_carried",
        "if target.liveness is Liveness.ALIVE:",
        "if True:",
        "test_probing:CycleTests.test_suspect_is_told",
    ),
    bug(
        "no-local-health",
        "Lifeguard 4.1 (LHA-Probe), consul#5928",
        "A slow member probes and judges as fast as a healthy one.",
        "loghouse.gossip.awareness:Awareness.change",
        "min(max(self.score + by, 0), self._score_max)",
        "0",
        "test_slow_node:SlowNodeTests.test_delays",
    ),
    bug(
        "no-patience",
        "Lifeguard 4.2 (LHA-Suspicion), consul#5567",
        "A suspicion lasts its shortest time, confirmed or not.",
        "loghouse.gossip.suspicion:Suspicion.is_over",
        "len(self._accusers) - 1",
        "self._expected",
        "test_probing:SuspicionTests.test_same_accuser",
    ),
    bug(
        "no-stretched-suspicion",
        "consul#5567",
        "A member that hears late gives suspects no more time than others do.",
        "loghouse.gossip.suspicion:Suspicion.is_over",
        "allowed * stretch",
        "allowed",
        "test_slow_node:SlowNodeTests.test_delays",
    ),
)
