"""What the leader proposes because of who is there."""

from twisted.trial.unittest import SynchronousTestCase

from loghouse.cluster.reconcile import next_configuration
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
