"""What the leader proposes because of who is there."""

from twisted.trial.unittest import SynchronousTestCase

from loghouse.catalogue.records import PlacedReplica
from loghouse.cluster.reconcile import (
    next_configuration,
    next_configuration_of_catalogue,
    next_configuration_of_log,
)
from loghouse.gossip.members import MemberKey
from loghouse.protocol.configuration import Configuration, MemberRole

ROLES = {"V": MemberRole.VOTER, "L": MemberRole.LEARNER, "R": MemberRole.REPLICA}


def presence_of(text: str) -> MemberKey:
    """Return who `b` is, or `b'` with its emptied disk."""
    return MemberKey(text[0], (b"x" if text.endswith("'") else text[0].encode()) * 16)


def configuration(text: str, *, removed: tuple[str, ...] = ()) -> Configuration:
    """Return the configuration that `shape` shows as `text`."""
    made = Configuration(removed=removed)
    for word in text.split():
        presence = presence_of(word[:-1])
        made = made.with_member(presence.name, presence.disk_uuid, ROLES[word[-1]])
    return made


def shape(made: Configuration | None) -> str:
    """Names with V for voter and L for learner, as `aV bL`; a disk that is not the first shows as `b'`."""
    if made is None:
        return "-"
    return " ".join(
        member.name + ("" if member.disk_uuid == member.name.encode() * 16 else "'") + member.role.name[0]
        for member in made.members
    )


class NextConfigurationTests(SynchronousTestCase):
    """`next_configuration` makes one change at a time, and no failure shrinks the quorum."""

    ROWS = [
        ("nothing to do", "aV", "a", True, "-"),
        ("a new node is a learner first", "aV", "a b", True, "aV bL"),
        ("one at a time", "aV", "a b c", True, "aV bL"),
        ("a learner that lags waits", "aV bL", "a b", False, "-"),
        ("caught up, it votes", "aV bL", "a b", True, "aV bV"),
        ("a replica is never promoted", "aV bR", "a b", True, "-"),
        ("the third voter", "aV bV cL", "a b c", True, "aV bV cV"),
        ("a fourth alone stays a learner", "aV bV cV dL", "a b c d", True, "-"),
        ("a pair goes together", "aV bV cV dL eL", "a b c d e", True, "aV bV cV dV eL"),
        ("and its second half", "aV bV cV dV eL", "a b c d e", True, "aV bV cV dV eV"),
        ("a dead learner is not promoted", "aV bL", "a", True, "-"),
        ("a failed voter stays", "aV bV cV", "a", True, "-"),
        ("an emptied voter is a learner again", "aV bV cV", "a b' c", True, "aV bV cV b'L"),
        ("not before it is caught up", "aV bV cV b'L", "a b' c", False, "-"),
        ("then the old goes", "aV bV cV b'L", "a b' c", True, "aV cV b'L"),
        ("then the new votes", "aV cV b'L", "a b' c", True, "aV cV b'V"),
        ("nor while the old is alive: then it goes", "aV bV cV b'L", "a b c b'", True, "aV bV cV"),
        ("a machine with a living voter's name stays out", "aV bV cV", "a b c b'", True, "-"),
        ("and is in nobody's way", "aV bV cV", "a b c b' d", True, "aV bV cV dL"),
        ("a learner emptied again is renewed", "aV bL", "a b'", True, "aV b'L"),
        ("so is a replica", "aV bR", "a b'", True, "aV b'R"),
    ]

    def next(self, members: str, present: str, *, caught_up: bool = True, **options) -> Configuration | None:
        return next_configuration(
            configuration(members, removed=options.pop("removed", ())),
            [presence_of(word) for word in present.split()],
            is_caught_up=lambda _: caught_up,
            **options,
        )

    def test_rows(self):
        """Every row leads to the configuration listed."""
        for name, members, present, caught_up, expected in self.ROWS:
            self.assertEqual(shape(self.next(members, present, caught_up=caught_up)), expected, name)

    def test_removed_names_stay_out(self):
        """A name on the removed list is not added, however alive it is."""
        self.assertIsNone(self.next("aV", "a b", removed=("b",)))

    def test_voters_max(self):
        """Beyond the bound of voters, caught-up learners stay read replicas."""
        for most, shown in ((3, "-"), (4, "-"), (5, "aV bV cV dV eL")):
            self.assertEqual(shape(self.next("aV bV cV dL eL", "a b c d e", voters_max=most)), shown)
        for most, shown in ((1, "-"), (2, "aV bV")):
            self.assertEqual(shape(self.next("aV bL", "a b", voters_max=most)), shown)

    def test_ids_are_never_reused(self):
        """A node that comes back gets a new id."""
        made = configuration("aV bL").without(2)
        found = next_configuration(made, [presence_of("a"), presence_of("b")], is_caught_up=lambda _: True)
        self.assertEqual([member.id for member in found.members], [1, 3])


class CatalogueTests(SynchronousTestCase):
    """The catalogue's members are those of the cluster."""

    ROWS = [
        ("nothing to do", "aV bV", "aV bV", "a b", "-"),
        ("a member of the cluster learns first", "aV", "aV bV", "a b", "aV bL"),
        ("who is no member of the cluster stays out", "aV", "aV", "a b", "-"),
        ("who left the cluster goes, a learner first", "aV bV cL", "aV", "a b c", "aV bV"),
        ("then the voter", "aV bV", "aV", "a b", "aV"),
        ("never the last voter", "aV", "bV", "a b", "aV bL"),
        ("a replica of the cluster does not vote here either", "aV bL", "aV bR", "a b", "aV bR"),
        ("an emptied disk comes in by its new uuid", "aV bV cV", "aV bV cV c'L", "a b c'", "aV bV cV c'L"),
        ("and its old self goes with the cluster's", "aV bV cV c'L", "aV bV c'L", "a b c'", "aV bV c'L"),
    ]

    def test_rows(self):
        """One change at a time, as above."""
        for what, members, cluster, present, wanted in self.ROWS:
            found = next_configuration_of_catalogue(
                configuration(members),
                configuration(cluster),
                [presence_of(word) for word in present.split()],
                is_caught_up=lambda _: True,
                is_heard=lambda _: False,
            )
            self.assertEqual(shape(found), wanted, what)


class PlacedLogTests(SynchronousTestCase):
    """A named log's members are where it is placed."""

    # Members, the ids and nodes that are wanted, who is present, heard and caught up.
    ROWS = [
        ("nothing to do", "aV bV", "1a 2b", "a b", "12", "12", "-"),
        ("a dead voter that is wanted stays", "aV bV", "1a 2b", "a", "1", "1", "-"),
        ("a new replica learns first", "aV bV", "1a 3c", "a b c", "12", "12", "aV bV cL"),
        ("when it is there", "aV bV", "1a 3c", "a b", "12", "12", "-"),
        ("and votes when it is caught up", "aV bV cL", "1a 3c", "a b c", "123", "123", "aV bV cV"),
        ("not before", "aV bV cL", "1a 3c", "a b c", "123", "12", "-"),
        ("then the old one goes", "aV bV cV", "1a 3c", "a b c", "123", "123", "aV cV"),
        ("a dead one goes before the new one votes", "aV bV cL", "1a 3c", "a c", "13", "13", "aV cL"),
        ("but not before that is caught up", "aV bV cL", "1a 3c", "a c", "13", "1", "-"),
        ("a learner that is not wanted goes", "aV bL", "1a", "a b", "12", "12", "aV"),
        (
            "who is to come back before it left goes first",
            "aV bV cL",
            "1a 4b",
            "a b c",
            "123",
            "123",
            "aV cL",
        ),
        ("and only then comes back", "aV cL", "1a 4b", "a b c", "123", "123", "aV cL bL"),
        ("if others hold the log meanwhile", "aV", "2a", "a", "1", "1", "-"),
    ]

    def test_rows(self):
        """One change at a time, as above."""
        for what, members, wanted, present, heard, caught_up, after in self.ROWS:
            found = next_configuration_of_log(
                configuration(members),
                [
                    PlacedReplica(member=int(word[0]), node=word[1], disk_uuid=presence_of(word[1]).disk_uuid)
                    for word in wanted.split()
                ],
                [presence_of(word) for word in present.split()],
                is_caught_up=lambda id_, ids=caught_up: str(id_) in ids,
                is_heard=lambda id_, ids=heard: str(id_) in ids,
            )
            self.assertEqual(shape(found), after, what)

    def test_ids(self):
        """A new member has the id of its placement, and the next one a higher one."""
        placed = [PlacedReplica(member=7, node="c", disk_uuid=presence_of("c").disk_uuid)]
        found = next_configuration_of_log(
            configuration("aV"), placed, [presence_of("c")], is_caught_up=bool, is_heard=bool
        )
        self.assertEqual([member.id for member in found.members], [1, 7])
        self.assertEqual(found.next_id, 8)

    def test_used_id(self):
        """A replica whose id the group has given away before never comes in."""
        placed = [
            PlacedReplica(member=number, node=name, disk_uuid=presence_of(name).disk_uuid)
            for number, name in ((1, "a"), (2, "b"))
        ]
        without = configuration("aV bV cV").without(2)
        present = [presence_of(name) for name in "abc"]
        found = next_configuration_of_log(without, placed, present, is_caught_up=bool, is_heard=bool)
        self.assertIsNone(found)
