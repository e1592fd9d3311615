"""Who may speak as a member: by the own log, by introduction, or not at all."""

from twisted.trial.unittest import SynchronousTestCase

from loghouse.cluster.roster import ASK_SECONDS, Roster, Standing, roster_reply
from loghouse.gossip.members import MemberKey
from loghouse.limits import MEMBERS_MAX, STRANGERS_DOUBTED_MAX
from loghouse.protocol.configuration import Configuration, MemberRole
from loghouse.protocol.roster_messages import RosterReply

A, B, C, D, E, X = (MemberKey(name, name.encode() * 16) for name in "abcdex")
MEMBER, INTRODUCED, STRANGER = Standing.MEMBER, Standing.INTRODUCED, Standing.STRANGER


def configuration(*keys: MemberKey) -> Configuration:
    """Voters with ids from 1."""
    made = Configuration()
    for key in keys:
        made = made.with_member(key.name, key.disk_uuid, MemberRole.VOTER)
    return made


class RosterTests(SynchronousTestCase):
    """A node whose log has a, b and c."""

    def setUp(self):
        self.roster = Roster()
        self.now = 100.0
        self.roster.update([configuration(A, B, C)], 10)

    def ask(self) -> int:
        self.now += ASK_SECONDS
        return self.roster.request(self.now)

    def introduce(self, voucher, index, *keys, request_id=None):
        reply = roster_reply(request_id or self.ask(), [configuration(*keys)], index)
        return self.roster.introduce(voucher, reply)

    def test_own_log(self):
        """Members of the own log speak under their id; with another id or disk they are strangers."""
        self.assertEqual(self.roster.standing_as(B, 2), MEMBER)
        self.assertEqual(self.roster.standing_as(B, 3), STRANGER)
        self.assertEqual(self.roster.standing(MemberKey("b", b"y" * 16)), STRANGER)
        self.assertEqual(self.roster.standing(X), STRANGER)

    def test_introduced(self):
        """A member vouches for one that this log cannot know yet, under its id only."""
        self.assertTrue(self.introduce(A, 12, A, B, C, D))
        self.assertEqual(self.roster.standing_as(D, 4), INTRODUCED)
        self.assertEqual(self.roster.standing_as(D, 5), STRANGER)
        self.assertEqual(self.roster.standing_as(X, 4), STRANGER)
        self.assertIn(D, self.roster.known)
        self.assertNotIn(D, self.roster.members)

    def test_strangers_do_not_vouch(self):
        """Who is no member introduces nobody, introduced or not; who is at an operator's address does."""
        self.assertFalse(self.introduce(X, 12, A, B, C, X))
        self.assertTrue(self.introduce(A, 12, A, B, C, D))
        self.assertFalse(self.introduce(D, 12, A, B, C, X))
        self.assertEqual(self.roster.standing(X), STRANGER)
        self.roster.answered_at("e:1", E)
        self.assertTrue(self.introduce(E, 20, D, E))
        self.assertEqual(self.roster.standing_as(E, 2), INTRODUCED)

    def test_old_news(self):
        """An answer older than what is committed here, or that nobody asked for, introduces nobody."""
        self.introduce(A, 9, A, B, C, X)
        self.assertEqual(self.roster.standing(X), STRANGER)
        self.assertFalse(self.introduce(A, 12, A, X, request_id=99))
        self.assertEqual(self.roster.standing(X), STRANGER)

    def test_superseded(self):
        """Once the own log is as far, it alone counts."""
        self.introduce(A, 12, A, B, C, D)
        self.roster.update([configuration(A, B)], 12)
        self.assertEqual(self.roster.standing(D), STRANGER)

    def test_denied(self):
        """A stranger is in doubt until one that may vouch does not know it; a later answer still helps it."""
        self.assertFalse(self.roster.doubt(D))
        self.introduce(B, 9, A, B)  # older than this log: says nothing
        self.assertFalse(self.roster.doubt(D))
        self.introduce(B, 10, A, B, C)
        self.assertTrue(self.roster.doubt(D))
        self.introduce(A, 11, A, B, C, D)
        self.assertEqual(self.roster.standing(D), INTRODUCED)

    def test_contradicted(self):
        """One that contradicted what is committed is believed only once the own log knows it."""
        self.introduce(A, 12, A, B, C, D)
        self.roster.contradicted(D)
        self.assertEqual(self.roster.standing_as(D, 4), STRANGER)
        self.roster.update([configuration(A, B, C, D)], 12)
        self.assertEqual(self.roster.standing_as(D, 4), MEMBER)

    def test_asks_now_and_then(self):
        """However many strangers speak, questions go out twice a second."""
        self.assertEqual(self.roster.request(self.now), 1)
        self.assertIsNone(self.roster.request(self.now + ASK_SECONDS / 2))
        self.assertEqual(self.roster.request(self.now + ASK_SECONDS), 2)

    def test_bounds(self):
        """Doubts are bounded, and an answer of two configurations is no longer than one."""
        for number in range(3 * STRANGERS_DOUBTED_MAX):
            self.roster.doubt(MemberKey("x", number.to_bytes(16)))
            self.roster.contradicted(MemberKey("x", number.to_bytes(16)))
        self.assertEqual(len(self.roster._doubts), STRANGERS_DOUBTED_MAX)
        self.assertEqual(len(self.roster._contradicted), STRANGERS_DOUBTED_MAX)
        many = configuration(*(MemberKey(f"n{n}", bytes(16)) for n in range(MEMBERS_MAX)))
        renewed = many.without(1).with_member("n0", b"y" * 16, MemberRole.LEARNER)
        self.assertEqual(len(roster_reply(1, [renewed, many], 5).encode()), 1)
        self.assertEqual(len(roster_reply(1, [renewed, many], 5).members), MEMBERS_MAX)


class CoalescerTests(SynchronousTestCase):
    """A node without a configuration."""

    def test_operators_addresses(self):
        """Who answered at an address of `join` is believed, and whom it introduces; nobody else."""
        roster = Roster()
        self.assertEqual(roster.standing_as(A, 1), STRANGER)
        roster.answered_at("a:1", A)
        self.assertEqual(roster.standing_as(A, 7), INTRODUCED)
        self.assertEqual(roster.standing_as(X, 1), STRANGER)
        request_id = roster.request(0.0)
        members = roster_reply(request_id, [configuration(A, B)], 3)
        self.assertFalse(roster.introduce(X, members))
        self.assertTrue(roster.introduce(A, members))
        self.assertEqual(roster.standing_as(B, 2), INTRODUCED)

    def test_an_empty_answer(self):
        """A node at an address of `join` that is no member itself introduces nobody."""
        roster = Roster()
        roster.answered_at("a:1", A)
        self.assertTrue(roster.introduce(A, RosterReply(request_id=roster.request(0.0), index=0)))
        self.assertEqual(roster.known, {A})
