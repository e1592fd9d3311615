"""What the leader does about each order of an operator: refused, done at once, or once others were heard."""

import dataclasses
from types import SimpleNamespace

from twisted.internet.defer import Deferred, succeed
from twisted.trial.unittest import SynchronousTestCase

from loghouse import __version__
from loghouse.errors import (
    InvalidRequestError,
    MembershipError,
    NotLeaderError,
    NotSupportedError,
    ResourceExhaustedError,
    UnavailableError,
)
from loghouse.gossip.members import MemberKey
from loghouse.limits import REGISTRATION_SECONDS, REGISTRATIONS_AT_ONCE_MAX, REMOVED_MAX
from loghouse.node.administration import Administration
from loghouse.node.api import MemberState
from loghouse.node.forwarding import AdminOrder, AdminResult
from loghouse.node.options import NoOthers
from loghouse.protocol.configuration import (
    Configuration,
    MemberRole,
    Retention,
    decode_birth,
    decode_producer,
    decode_trim,
)
from loghouse.protocol.entry import EntryKind
from loghouse.protocol.forward_messages import AdminOperation
from loghouse.protocol.gossip_messages import Liveness
from loghouse.raft.ready import Role
from loghouse.replica.api import Appended

LEARNER, REPLICA, VOTER = MemberRole.LEARNER, MemberRole.REPLICA, MemberRole.VOTER


def disk(name):
    return name.encode().ljust(16, b"-")


def members(*roles, removed=()):
    """Return a configuration of n1, n2, ... with these roles."""
    made = Configuration(removed=removed)
    for number, role in enumerate(roles, 1):
        made = made.with_member(f"n{number}", disk(f"n{number}"), role)
    return made


class Others(NoOthers):
    """The way to others who are only said to be there."""

    def __init__(self):
        self.reached, self.unknown = [], []

    def present(self):
        return self.reached

    def strangers(self):
        return self.unknown

    def address_of(self, key):
        return f"{key.name}.example:1"

    def version_of(self, key):
        return "9.9"

    def liveness_of(self, key):
        return Liveness.DEAD


class AdministrationCase(SynchronousTestCase):
    """The leader n1 of three voters; what it proposes is noted and is in force when the test says so."""

    def setUp(self):
        self.proposed = []  # configurations, each with what tells that it is in force
        self.appended = []  # proposals
        self.transfers = []
        self.heard = {1, 2, 3}  # ids of the voters that answer
        self.asked_within = []  # how lately they must have answered, at each look
        self.transport = Others()
        self.raft = SimpleNamespace(
            id=1,
            role=Role.LEADER,
            leader=1,
            term=7,
            commit_index=50,
            durable_index=60,
            followers={1: None, 2: SimpleNamespace(match_index=40), 3: SimpleNamespace(match_index=30)},
            transfer_target=0,
            config=SimpleNamespace(election_ticks=10),
            configuration=members(VOTER, VOTER, VOTER),
            is_heard=lambda id_: id_ in self.heard,
            check_voters=self.check_voters,
        )
        self.woken = []  # once for each time that the log was woken
        self.driver = SimpleNamespace(
            wake=lambda: self.woken.append(True),
            raft=self.raft,
            lowest_offset=5,
            readable_offset=99,
            propose=self.propose,
            propose_configuration=self.propose_configuration,
            transfer_leadership=lambda target=0: self.transfers.append(target),
        )
        self.log = SimpleNamespace(
            driver=self.driver,
            leader_name="n1",
            administer=self.administer,
            configuration=self.raft.configuration,
        )
        self.orders = []
        self.node = SimpleNamespace(name="n1", disk_uuid=disk("n1"), transport=self.transport)
        self.now = 0.0
        self.administration = Administration(self.log, self.node, monotonic=lambda: self.now)

    def administer(self, order):
        self.orders.append(order)
        return succeed(AdminResult(name="n2", number=8))

    def check_voters(self, configuration, *, within_ticks):
        self.asked_within.append(within_ticks)
        missing = configuration.voters - self.heard
        if 2 * len(missing) >= len(configuration.voters):
            raise MembershipError(f"not heard: {sorted(missing)}")

    def propose(self, proposal, appended, failed):
        self.appended.append(proposal)
        appended(Appended(base_offset=0, record_count=0, timestamp=0, index=77, term=7))
        return SimpleNamespace(cancel=lambda: None)

    def propose_configuration(self, configuration, appended, failed):
        self.proposed.append((configuration, appended))

    def do(self, operation, name="", number=0):
        return self.administration.administer_here(AdminOrder(operation=operation, name=name, number=number))

    def refused(self, text, operation, name="", number=0):
        error = self.failureResultOf(self.do(operation, name, number), MembershipError).value
        self.assertIn(text, str(error))
        self.assertEqual(self.proposed, [])

    def in_force(self):
        """Let the one configuration that was proposed be in force; return it."""
        [(configuration, appended)] = self.proposed
        self.proposed.clear()
        self.raft.configuration = configuration
        appended(None)
        return configuration


class OrderTests(AdministrationCase):
    """Orders that need no membership."""

    def test_not_joined(self):
        """Who has not joined does nothing, whatever the order, and has no status."""
        self.log.driver = None
        self.failureResultOf(self.do(AdminOperation.TRIM), NotLeaderError)  # the log is on other nodes
        self.log.leader_name = ""
        for operation in AdminOperation:
            error = self.failureResultOf(self.do(operation, "n2"), UnavailableError).value
            self.assertIn("has not joined its cluster yet; nothing was done", str(error))
        self.failureResultOf(self.administration.status(), UnavailableError)

    def test_unknown(self):
        """An order of a later version is refused."""
        error = self.failureResultOf(self.do(99), NotSupportedError).value
        self.assertIn("operation 99 is not known to this version", str(error))

    def test_progress(self):
        """How far each disk is: the own one is what is durable here."""
        result = self.successResultOf(self.do(AdminOperation.PROGRESS))
        self.assertEqual((result.number, result.matches), (50, ((1, 60), (2, 40), (3, 30))))

    def test_trim(self):
        """The answer is where the log begins then, which a smaller number does not change."""
        for number, lowest in ((3, 5), (9, 9)):
            result = self.successResultOf(self.do(AdminOperation.TRIM, number=number))
            self.assertEqual(result.number, lowest)
            proposal = self.appended.pop()
            self.assertEqual((proposal.kind, decode_trim(proposal.payload)), (EntryKind.TRIM, number))

    def test_register(self):
        """A producer's id is the index of its entry."""
        result = self.successResultOf(self.do(AdminOperation.REGISTER_PRODUCER, "ann"))
        self.assertEqual(result.number, 77)
        [proposal] = self.appended
        self.assertEqual((proposal.kind, decode_producer(proposal.payload)), (EntryKind.PRODUCER, "ann"))

    def test_rate_of_registrations(self):
        """So many at once for a subject, then one in so many seconds; others have turns of their own."""
        for _ in range(REGISTRATIONS_AT_ONCE_MAX):
            self.assertEqual(self.successResultOf(self.administration.register_producer("ann")), 8)
        self.failureResultOf(self.administration.register_producer("ann"), ResourceExhaustedError)
        self.successResultOf(self.administration.register_producer("bob"))
        self.now += REGISTRATION_SECONDS
        self.successResultOf(self.administration.register_producer("ann"))
        order = AdminOrder(operation=AdminOperation.REGISTER_PRODUCER, name="ann")
        self.assertEqual(self.orders[-1], order)

    def test_passed_on(self):
        """What is asked here goes to the leader, with what it needs."""
        asked = self.administration
        for done, order, result in (
            (asked.add("n4", True), AdminOrder(operation=AdminOperation.ADD, name="n4", number=1), None),
            (asked.add("n4", False), AdminOrder(operation=AdminOperation.ADD, name="n4"), None),
            (asked.remove("n4"), AdminOrder(operation=AdminOperation.REMOVE, name="n4"), None),
            (asked.leave(), AdminOrder(operation=AdminOperation.REMOVE, name="n1"), None),
            (asked.transfer("n2"), AdminOrder(operation=AdminOperation.TRANSFER, name="n2"), "n2"),
            (asked.trim(8), AdminOrder(operation=AdminOperation.TRIM, number=8), 8),
        ):
            self.assertEqual(self.orders.pop(0), order)
            self.assertEqual(self.successResultOf(done), result)


class AddTests(AdministrationCase):
    """Letting nodes in."""

    def test_refused(self):
        """Only who was removed is let in again; others come by themselves."""
        self.refused("'n2' is a member already", AdminOperation.ADD, "n2")
        self.refused("'n9' was not removed: start it, it joins by itself", AdminOperation.ADD, "n9")

    def test_removed(self):
        """A name is taken off the list of those kept out, and no other one."""
        self.raft.configuration = members(VOTER, removed=("a", "b", "c"))
        done = self.do(AdminOperation.ADD, "b")
        self.assertNoResult(done)
        changed = self.in_force()
        self.assertEqual(changed, members(VOTER, removed=("a", "c")))
        self.assertEqual(self.successResultOf(done), AdminResult())

    def test_learner_for_ever(self):
        """A learner becomes one that is never promoted, as does who is reached and no member yet."""
        self.raft.configuration = before = members(VOTER, LEARNER, removed=("gone",))
        self.refused("'n1' votes; remove it first", AdminOperation.ADD, "n1", 1)
        self.refused("'gone' was removed and cannot connect", AdminOperation.ADD, "gone", 1)
        self.transport.reached = [MemberKey("n8", disk("n8")), MemberKey("n9", disk("n9"))]
        self.refused("'n7' is not reached by the leader", AdminOperation.ADD, "n7", 1)
        done = self.do(AdminOperation.ADD, "n2", 1)
        self.assertEqual(self.in_force(), before.with_role(2, REPLICA))
        self.successResultOf(done)
        done = self.do(AdminOperation.ADD, "n9", 1)
        self.assertEqual(self.in_force().members[-1].disk_uuid, disk("n9"))
        self.assertIs(self.raft.configuration.members[-1].role, REPLICA)
        self.successResultOf(done)


class RemoveTests(AdministrationCase):
    """Taking nodes out, and keeping them out."""

    def test_voter(self):
        """A voter goes at once when the others answer; its name is kept out."""
        done = self.do(AdminOperation.REMOVE, "n3")
        self.assertNoResult(done)
        changed = self.in_force()
        self.assertEqual((changed.voters, changed.removed), ({1, 2}, ("n3",)))
        self.assertEqual(self.successResultOf(done), AdminResult())
        self.assertEqual(self.asked_within, [0])

    def test_only_voter(self):
        """The last voter stays."""
        self.raft.configuration = members(VOTER, LEARNER)
        self.refused("'n1' is the only voter; a cluster needs one", AdminOperation.REMOVE, "n1")
        self.do(AdminOperation.REMOVE, "n2")
        self.assertEqual(self.in_force().voters, {1})

    def test_learner_first(self):
        """Of a name's two members the learner that was to replace the voter goes first, then the voter."""
        before = members(VOTER, VOTER, VOTER)
        self.raft.configuration = before.with_member("n3", disk("new"), LEARNER)
        done = self.do(AdminOperation.REMOVE, "n3")
        changed = self.in_force()
        self.assertEqual((changed.voters, len(changed.members), changed.removed), ({1, 2, 3}, 3, ()))
        self.assertNoResult(done)
        changed = self.in_force()
        self.assertEqual((changed.voters, changed.removed), ({1, 2}, ("n3",)))
        self.successResultOf(done)

    def test_gone_meanwhile(self):
        """A member that went away while the others were waited for is kept out all the same."""
        self.heard = {1}
        done = self.do(AdminOperation.REMOVE, "n3")
        self.raft.configuration = members(VOTER, VOTER)
        self.heard = {1, 2}
        self.administration.tick()
        changed = self.in_force()
        self.assertEqual((changed.voters, changed.removed), ({1, 2}, ("n3",)))
        self.assertEqual(self.successResultOf(done), AdminResult())

    def test_kept_out_before(self):
        """A name that is on the list already is not put there twice."""
        self.raft.configuration = members(VOTER, VOTER, VOTER, removed=("n3",))
        self.do(AdminOperation.REMOVE, "n3")
        self.assertEqual(self.in_force().removed, ("n3",))

    def test_no_member(self):
        """Who is no member is kept out all the same, once."""
        done = self.do(AdminOperation.REMOVE, "stolen")
        self.assertEqual(self.in_force().removed, ("stolen",))
        self.successResultOf(done)
        self.successResultOf(self.do(AdminOperation.REMOVE, "stolen"))
        self.assertEqual(self.proposed, [])

    def test_list_is_full(self):
        """The list of names kept out has an end."""
        names = tuple(f"x{number}" for number in range(REMOVED_MAX))
        self.raft.configuration = members(VOTER, VOTER, VOTER, removed=names)
        self.refused(f"{REMOVED_MAX} names are kept out already", AdminOperation.REMOVE, "stolen")
        self.raft.configuration = members(VOTER, VOTER, VOTER, removed=names[1:])
        self.do(AdminOperation.REMOVE, "stolen")
        self.assertEqual(len(self.in_force().removed), REMOVED_MAX)

    def test_two_machines(self):
        """Nobody goes while two machines have the name and both answer."""
        profile = SimpleNamespace(address="there.example:1")
        for given, told in (
            (profile, "one at there.example:1 with"),
            (None, "one at an unknown address with"),
        ):
            stranger = SimpleNamespace(name="n3", disk_uuid=bytes(range(16)), profile=given)
            self.transport.unknown = [stranger]
            self.refused(f"call themselves 'n3': the member, and {told}", AdminOperation.REMOVE, "n3")
            self.refused("another disk (00010203)", AdminOperation.REMOVE, "n3")
        self.transport.unknown = [SimpleNamespace(name="n4", disk_uuid=disk("x"), profile=None), stranger]
        self.heard = {1, 2}  # the member is gone: it is the one that is meant
        self.do(AdminOperation.REMOVE, "n3")
        self.assertEqual(self.in_force().voters, {1, 2})

    def test_waits_to_hear_others(self):
        """A removal waits for the voters that remain, for one election timeout, and asks for newer words."""
        self.heard = {1}
        done = self.do(AdminOperation.REMOVE, "n3")
        for _ in range(3):
            self.administration.tick()
        self.assertNoResult(done)
        self.heard = {1, 2}
        self.administration.tick()
        self.in_force()
        self.successResultOf(done)
        self.assertEqual(self.asked_within, [0, 1, 2, 3, 4])

    def test_not_heard_in_time(self):
        """Then it is refused, and the text names who was not heard."""
        self.heard = {1}
        done = self.do(AdminOperation.REMOVE, "n3")
        for _ in range(10):
            self.administration.tick()
            self.assertNoResult(done)
        self.administration.tick()
        self.assertIn("not heard: [2]", str(self.failureResultOf(done, MembershipError).value))

    def test_wakes_the_log(self):
        """A log that sleeps is woken: its voters say nothing while they sleep."""
        self.heard = {1}
        self.do(AdminOperation.REMOVE, "n3")
        self.assertEqual(self.woken, [True])

    def test_does_not_lead_any_more(self):
        """Who lost the lead while it waited does nothing."""
        self.heard = {1}
        for lost in ({"role": Role.FOLLOWER}, {}):
            done = self.do(AdminOperation.REMOVE, "n3")
            vars(self.raft).update(lost)
            if not lost:
                self.log.driver = None
            self.administration.tick()
            error = self.failureResultOf(done, UnavailableError).value
            self.assertIn("does not lead any more; nothing was done", str(error))
            self.raft.role = Role.LEADER

    def test_stop(self):
        """A stop tells who waits; who went away is not told."""
        self.heard = {1}
        gone, waiting = (self.do(AdminOperation.REMOVE, "n3") for _ in range(2))
        gone.cancel()
        self.failureResultOf(gone)
        self.administration.stop()
        self.assertIn("is stopping", str(self.failureResultOf(waiting, UnavailableError).value))
        self.assertEqual(self.proposed, [])


class TransferTests(AdministrationCase):
    """Handing over the lead."""

    def test_to_a_voter(self):
        """It is done when the other one leads."""
        done = self.do(AdminOperation.TRANSFER, "n2")
        self.assertEqual(self.transfers, [2])
        self.raft.transfer_target = 2
        self.administration.look_at_hand_over()
        self.assertNoResult(done)
        self.raft.role, self.raft.transfer_target, self.raft.leader = Role.FOLLOWER, 0, 0
        self.administration.look_at_hand_over()
        self.assertNoResult(done)  # nobody is heard to lead yet
        self.raft.leader, self.log.leader_name = 2, "n2"
        self.administration.tick()
        self.assertEqual(self.successResultOf(done).name, "n2")

    def test_refused(self):
        """Not to a learner, nor to a stranger."""
        self.raft.configuration = members(VOTER, LEARNER)
        for name in ("n2", "n9"):
            self.refused(f"{name!r} is no voter; leadership cannot go there", AdminOperation.TRANSFER, name)
        self.assertEqual(self.transfers, [])

    def test_to_anybody(self):
        """Without a name the best one takes over, whoever that is."""
        done = self.do(AdminOperation.TRANSFER)
        self.assertEqual(self.transfers, [0])
        self.raft.role, self.raft.leader, self.log.leader_name = Role.FOLLOWER, 3, "n3"
        self.administration.tick()
        self.assertEqual(self.successResultOf(done).name, "n3")

    def test_to_itself(self):
        """To itself takes back what is pending; who waits for that is told that this one leads on."""
        waiting = self.do(AdminOperation.TRANSFER, "n2")
        self.assertEqual(self.successResultOf(self.do(AdminOperation.TRANSFER, "n1")).name, "n1")
        self.assertEqual(self.transfers, [2, 1])
        self.assertIn("this one leads on", str(self.failureResultOf(waiting, UnavailableError).value))

    def test_another_wins(self):
        """Who asked for one and got another is told so."""
        done = self.do(AdminOperation.TRANSFER, "n2")
        self.raft.role, self.raft.leader, self.log.leader_name = Role.FOLLOWER, 3, "n3"
        self.administration.tick()
        error = self.failureResultOf(done, UnavailableError).value
        self.assertIn("'n3' leads now, not 'n2'", str(error))

    def test_before_a_stop(self):
        """A leader that stops hands over if it can; others have nothing to hand over."""
        done = self.administration.hand_over()
        self.assertNoResult(done)
        self.administration.stop()
        self.assertIsNone(self.successResultOf(done))  # it tried

        def nobody(target=0):
            raise MembershipError("nobody")

        self.driver.transfer_leadership = nobody
        self.successResultOf(self.administration.hand_over())
        self.raft.role = Role.FOLLOWER
        self.successResultOf(self.administration.hand_over())
        self.log.driver = None
        self.successResultOf(self.administration.hand_over())
        self.administration.look_at_hand_over()


class StatusTests(AdministrationCase):
    """The cluster as this node sees it."""

    def test_members(self):
        """Members with what the leader knows of them, strangers behind them."""
        profile = SimpleNamespace(address="far:1")
        self.transport.unknown = [
            SimpleNamespace(name="x", liveness=Liveness.ALIVE, profile=profile),
            SimpleNamespace(name="y", liveness=Liveness.SUSPECT, profile=None),
        ]
        self.raft.configuration = self.log.configuration = members(VOTER, LEARNER, removed=("z",))
        progress = AdminResult(number=70, matches=((1, 60),))
        self.log.administer = lambda order: succeed(progress)
        status = self.successResultOf(self.administration.status())
        self.assertEqual(
            status.members,
            (
                MemberState(
                    name="n1", id=1, role=VOTER, liveness=Liveness.ALIVE, is_leader=True, match_index=60,
                    address="n1.example:1", version=__version__,
                ),
                MemberState(
                    name="n2", id=2, role=LEARNER, liveness=Liveness.DEAD, match_index=0,
                    address="n2.example:1", version="9.9",
                ),
                MemberState(name="x", liveness=Liveness.ALIVE, address="far:1"),
                MemberState(name="y", liveness=Liveness.SUSPECT),
            ),
        )  # fmt: skip
        self.assertEqual((status.term, status.leader, status.commit_index), (7, "n1", 70))
        self.assertEqual((status.lowest_offset, status.next_offset, status.removed), (5, 99, ("z",)))

    def test_without_the_leader(self):
        """When the leader cannot be asked, the rest is told; other failures are bugs, and told."""
        self.log.configuration = members(VOTER)

        def fail_with(error):
            done = Deferred()
            done.errback(error)
            return done

        self.log.administer = lambda order: fail_with(NotLeaderError(""))
        status = self.successResultOf(self.administration.status())
        self.assertEqual((status.commit_index, status.members[0].match_index), (50, 0))
        self.log.administer = lambda order: fail_with(ValueError("bug"))
        self.failureResultOf(self.administration.status(), ValueError)


class FoundingTests(AdministrationCase):
    """The catalogue is brought into being once, and only where every member can read that."""

    def setUp(self):
        super().setUp()
        self.raft.birth = None
        self.kinds = {"n2": bytes(EntryKind), "n3": bytes(EntryKind)}
        self.patch(self.transport, "entry_kinds_of", lambda key: self.kinds.get(key.name, b""))

    def found(self):
        return self.administration.administer_here(AdminOrder(operation=AdminOperation.FOUND_CATALOGUE))

    def test_founded(self):
        """The birth names the catalogue's group, and the members of now as its founders."""
        self.raft.configuration = dataclasses.replace(
            members(VOTER, VOTER, LEARNER), retention=Retention(size_max=9)
        )
        self.successResultOf(self.found())
        [proposal] = self.appended
        birth = decode_birth(bytes(proposal.payload), index=1, timestamp=1)
        self.assertEqual((proposal.kind, birth.group), (EntryKind.BIRTH, 2))
        self.assertEqual(birth.configuration, members(VOTER, VOTER, LEARNER))

    def test_once(self):
        """Where there is a catalogue, or will be in a moment, nothing is left to do."""
        self.raft.birth = "there"
        self.assertEqual(self.successResultOf(self.found()), AdminResult())
        self.assertEqual(self.appended, [])
        self.raft.birth = None

        def refuse(proposal, appended, failed):
            failed(InvalidRequestError("group", "2: a log brings one group into being"))

        self.driver.propose = refuse
        self.assertEqual(self.successResultOf(self.found()), AdminResult())

    def test_has_left(self):
        """A node has left when the committed configuration has none of its members, and can get none."""

        def has_left(name, next_id):
            order = AdminOrder(operation=AdminOperation.HAS_LEFT, name=name, number=next_id)
            return self.successResultOf(self.administration.administer_here(order)).number

        self.raft.configuration = members(VOTER, VOTER)
        self.raft.settled = members(VOTER, VOTER, VOTER), 7
        self.assertEqual(has_left("n3", 4), 0, "its removal is not committed")
        self.raft.settled = members(VOTER, VOTER).without(2), 9
        self.assertEqual((has_left("n2", 3), has_left("n1", 3)), (1, 0))
        self.assertEqual(has_left("n2", 4), 0, "member 3 may be it, and come")

    def test_too_old(self):
        """A member that could not read its own log any more is named, and nothing is done."""
        self.kinds["n3"] = bytes([1, 2, 3, 4, 5])
        error = self.failureResultOf(self.found(), NotSupportedError).value
        self.assertIn("n3 runs a version without named logs; upgrade it", str(error))
        del self.kinds["n2"]
        error = self.failureResultOf(self.found(), UnavailableError).value
        self.assertIn("n2 is not reached", str(error))
        self.assertEqual(self.appended, [])
