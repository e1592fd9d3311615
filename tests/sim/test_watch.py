"""What the oracle is told of a core that begins over a log that is there already."""

from types import SimpleNamespace

from twisted.trial.unittest import SynchronousTestCase

from loghouse.protocol.configuration import encode_configuration
from loghouse.protocol.entry import EntryKind, make_entry
from loghouse.testing.checkers import Oracle, Violation
from loghouse.testing.watch import Watch
from tests.raft.group import configuration

MEMBER = 1


class BeginningTests(SynchronousTestCase):
    """A core says with its beginning what it calls committed, and that is served at once."""

    def follow(self, *, voters, commit_index):
        """Watch a core that begins over a configuration and a record, both on its disk."""
        payload = encode_configuration(configuration(voters))
        made = {"term": 1, "timestamp": 1, "base_offset": 0}
        first = make_entry(0, index=1, kind=EntryKind.CONFIGURATION, payload=payload, **made)
        self.record = make_entry(0, index=2, kind=EntryKind.RECORDS, payload=b"x", record_count=1, **made)
        oracle = self.oracle = Oracle()
        for member in configuration(voters).members:
            oracle.number(member.id, member.disk_uuid)
        oracle.opened(MEMBER, [first, self.record], 0, 1, MEMBER)
        run = SimpleNamespace(oracle=oracle, guarded=lambda check, *args: check(*args))
        watch = Watch(run, SimpleNamespace(is_alive=True), MEMBER, lambda point: None)
        watch.follow(SimpleNamespace(commit_index=commit_index, ready=lambda: None))

    def test_lone_voter(self):
        """All that a lone voter holds is committed when it begins, before it hands out anything."""
        self.follow(voters=1, commit_index=2)
        self.oracle.served(MEMBER, 0, self.record)

    def test_not_committed(self):
        """What it does not call committed must not be served, though its disk has it."""
        self.follow(voters=1, commit_index=1)
        violation = self.assertRaises(Violation, self.oracle.served, MEMBER, 0, self.record)
        self.assertEqual(violation.rule, "served")

    def test_not_alone(self):
        """One of several voters may not begin with what nobody committed before."""
        violation = self.assertRaises(Violation, self.follow, voters=3, commit_index=2)
        self.assertEqual(violation.rule, "durable-majority")
