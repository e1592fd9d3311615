"""An honest node in memory: what it acknowledges it keeps, in real entry frames, and it forgets waiters."""

from twisted.internet.defer import Deferred, fail, succeed

from loghouse.errors import ExpectOffsetError, OffsetOutOfRangeError, UnknownLogError
from loghouse.node.api import ClusterStatus, MemberState, ServerView
from loghouse.protocol.configuration import MemberRole
from loghouse.protocol.entry import EntryKind, frame_seed, make_entry
from loghouse.protocol.gossip_messages import Liveness
from loghouse.replica.api import Appended, Fetched, LogBounds


class FakeLog:
    """The one log of a `FakeNode`, which does the work: a `LogLike`."""

    name = "default"
    group = 1

    def __init__(self, node):
        self._node = node

    def __getattr__(self, name):
        return getattr(self._node, name)


class FakeNode:
    """A `NodeLike` over a list of entries. `hold()` keeps proposals back until `release()`."""

    name = "n1"
    cluster_uuid = bytes(range(16))
    disk_uuid = b"1" * 16
    cluster_name = "c1"
    has_leader = True
    leader_name = "n1"
    is_writable = True
    liveness = Liveness.SUSPECT  # what it says of n2

    def __init__(self):
        self.orders = []
        self.administration = self
        self.seed = frame_seed(self.cluster_uuid, 1)
        self.entries = []
        self.lowest = 0
        self.next_offset = 0
        self.timestamp = 1_000_000
        self.proposals = []
        self.waiters = {}
        self.fetches = 0
        self.checks = 0
        self.sizes = []
        self.failure = None
        self.logs = {FakeLog.group: FakeLog(self)}
        self._held = None

    # --- what tests turn ----------------------------------------------------------

    def hold(self):
        self._held = []

    def release(self, count=None):
        held = self._held
        due = held[:count] if count is not None else held
        self._held = held[len(due) :] if count is not None else None
        for held_one in due:
            self._append(*held_one)

    @property
    def held_count(self):
        return len(self._held or ())

    def drop_below(self, lowest):
        self.lowest = lowest
        self.entries = [entry for entry in self.entries if entry.next_offset > lowest]

    # --- NodeLike -------------------------------------------------------------------

    def propose(self, proposal, appended, failed):
        self.proposals.append(proposal)
        if self._held is not None and self.failure is None:
            self._held.append((proposal, appended, failed))
        else:
            self._append(proposal, appended, failed)

    def _append(self, proposal, appended, failed):
        if self.failure is not None:
            failed(self.failure)
            return
        if proposal.expect_offset not in (None, self.next_offset):
            failed(ExpectOffsetError(proposal.expect_offset, self.next_offset))
            return
        self.timestamp += 1
        entry = make_entry(
            self.seed,
            index=len(self.entries) + 1,
            term=1,
            kind=EntryKind.RECORDS,
            base_offset=self.next_offset,
            timestamp=self.timestamp,
            payload=proposal.payload,
            attributes=proposal.attributes,
            record_count=proposal.record_count,
            payload_crc=proposal.payload_crc,
        )
        self.entries.append(entry)
        self.next_offset = entry.next_offset
        appended(
            Appended(
                base_offset=entry.base_offset,
                record_count=entry.record_count,
                timestamp=entry.timestamp,
                index=entry.index,
                term=1,
            )
        )
        for waiter, offset in list(self.waiters.items()):
            if offset < self.next_offset:
                del self.waiters[waiter]
                waiter.callback(None)

    def fetch(self, offset, size_max):
        self.fetches += 1
        self.sizes.append(size_max)
        if not self.lowest <= offset < self.next_offset:
            return fail(OffsetOutOfRangeError(offset, self.lowest, self.next_offset))
        frames = []
        size = 0
        next_offset = offset
        for entry in self.entries:
            if entry.next_offset <= offset:
                continue
            if frames and size + entry.size > size_max:
                break
            frames.append(entry.frame)
            size += entry.size
            next_offset = entry.next_offset
        return succeed(Fetched(frames=memoryview(b"".join(frames)), next_offset=next_offset))

    def wait_for(self, offset):
        if offset < self.next_offset:
            return succeed(None)
        waiter = Deferred(lambda cancelled: self.waiters.pop(cancelled))
        self.waiters[waiter] = offset
        return waiter

    def bounds(self):
        return succeed(LogBounds(lowest=self.lowest, next_offset=self.next_offset))

    def find_offset(self, timestamp):
        for entry in self.entries:
            if entry.timestamp >= timestamp:
                return succeed((entry.base_offset, entry.timestamp))
        return succeed((self.next_offset, 0))

    def servers(self):
        return [
            ServerView(name="n1", address="127.0.0.1:8400", is_leader=True),
            ServerView(
                name="n2",
                address="127.0.0.1:8410",
                grpc_address="127.0.0.1:8411",
                role=MemberRole.LEARNER,
                is_alive=False,
            ),
        ]

    @property
    def is_serving(self):
        return self.has_leader and self.is_writable

    def log(self, name):
        self.checks += 1
        if name not in ("", FakeLog.name):
            raise UnknownLogError(name)
        return self.logs[FakeLog.group]

    # --- administration: what it is asked for is in `orders` ---------------------------

    def _do(self, order, result=None):
        self.orders.append(order)
        return succeed(result) if self.failure is None else fail(self.failure)

    def register_producer(self, subject):
        return self._do(("register", subject), 17)

    def status(self):
        members = (
            MemberState(
                name="n1", id=1, role=MemberRole.VOTER, liveness=Liveness.ALIVE, match_index=8, version="0.1"
            ),
            MemberState(
                name="n2",
                id=2,
                role=MemberRole.VOTER,
                liveness=self.liveness,
                is_leader=True,
                match_index=9,
                address="127.0.0.1:8410",
            ),
            MemberState(name="n3"),
        )
        return self._do(
            ("status",),
            ClusterStatus(
                term=4,
                leader="n2",
                commit_index=9,
                lowest_offset=1,
                next_offset=7,
                members=members,
                removed=("n4",),
            ),
        )

    def add(self, name, learner):
        return self._do(("add", name, learner))

    def remove(self, name):
        return self._do(("remove", name))

    def leave(self):
        return self._do(("leave",))

    def transfer(self, name):
        return self._do(("transfer", name), name or "n3")

    def trim(self, offset):
        return self._do(("trim", offset), max(0, offset - 1))
