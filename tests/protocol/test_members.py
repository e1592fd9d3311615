"""A configuration's members: ids, roles and names, and the limits of its bytes."""

from twisted.trial.unittest import SynchronousTestCase

from loghouse.errors import MalformedMessageError
from loghouse.limits import MEMBERS_MAX, NAME_SIZE_MAX
from loghouse.protocol.configuration import (
    Configuration,
    MemberRole,
    decode_configuration,
    encode_configuration,
)


class MemberTests(SynchronousTestCase):
    """Changing a configuration makes a new one."""

    def setUp(self):
        first = Configuration().with_member("a", bytes(16), MemberRole.VOTER)
        self.configuration = first.with_member("b", bytes(16), MemberRole.LEARNER)

    def test_roles(self):
        """Voters and learners are told apart; a promotion moves one of them."""
        self.assertEqual((self.configuration.voters, self.configuration.learners), ({1}, {2}))
        promoted = self.configuration.with_role(2, MemberRole.VOTER)
        self.assertEqual((promoted.voters, promoted.learners), ({1, 2}, set()))
        self.assertEqual(self.configuration.voters, {1})

    def test_ids_are_never_used_again(self):
        """A member that comes back under its name gets another id."""
        again = self.configuration.without(2).with_member("b", bytes(16), MemberRole.LEARNER)
        self.assertEqual([member.id for member in again.members], [1, 3])
        self.assertIsNone(again.member(2))
        self.assertEqual(again.member(3).name, "b")
        self.assertEqual([member.id for member in again.named("b")], [3])

    def test_limits(self):
        """Names without a byte or with too many, and too many members, are refused."""
        for name in ("", "n" * (NAME_SIZE_MAX + 1)):
            wrong = Configuration().with_member(name, bytes(16), MemberRole.VOTER)
            with self.assertRaises(MalformedMessageError):
                decode_configuration(encode_configuration(wrong))
        with self.assertRaises(MalformedMessageError):
            decode_configuration((MEMBERS_MAX + 1).to_bytes(4, "big") + bytes(100))
