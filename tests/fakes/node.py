"""Honest nodes in memory: what they acknowledge they keep, in real entry frames. They fail as told."""

import asyncio
import functools
from dataclasses import replace

from twisted.internet.defer import Deferred, fail, maybeDeferred, succeed

from loghouse.api.v1.log_pb2 import Record
from loghouse.errors import (
    ExpectOffsetError,
    OffsetOutOfRangeError,
    OutcomeUnknownError,
    UnavailableError,
    UnknownLogError,
)
from loghouse.node.api import ClusterStatus, MemberState, Reloaded
from loghouse.protocol.batch import decode_batch, encode_batch
from loghouse.protocol.client_messages import DescribedServer
from loghouse.protocol.configuration import MemberRole
from loghouse.protocol.cursor_messages import CursorOperation
from loghouse.protocol.entry import CODEC_MASK, DEFAULT_GROUP, DEFAULT_LOG, EntryKind, frame_seed, make_entry
from loghouse.protocol.gossip_messages import Liveness
from loghouse.protocol.log_state import LogState, ProducedBatch, ProducerState, encode_log_state
from loghouse.protocol.record_range import ReadPage
from loghouse.replica.api import Appended, Fetched, LogBounds
from loghouse.replica.cursor_waits import CursorWaits
from loghouse.storage.range_scan import RangeScan
from tests.fakes import cursors
from tests.fakes.logs import FakeCatalogue, FakeLogAdmin

FIRST_TIMESTAMP = 1_700_000_000_000_000
FLUSH_SECONDS = 0.01
HANG_SECONDS = 0.5
LOST = object()
"""A fault: the call is carried out, and then its connection breaks."""
BROKEN = object()
"""A fault: the connection breaks, and nothing is carried out."""
HANG = object()
"""A fault: nothing is carried out, and nothing is answered."""


class FakeCluster:
    """One log in real entry frames, and the nodes that serve it. `leader` is one of them, or None.

    `named` are the cluster's other logs, by group, each a cluster as well: of what its nodes say of it.
    """

    name = "c1"

    def __init__(self, uuid=bytes(range(16)), group=DEFAULT_GROUP):
        self.uuid = uuid
        self.seed = frame_seed(uuid, group)
        self.named = {}
        self.entries = []
        self.state = LogState()  # of producers
        self.waits = CursorWaits(lambda: 0.0)
        self.producer_count = 0
        self.lowest = 0
        self.next_offset = 0
        self.nodes = []
        self.leader = None

    @functools.cached_property
    def catalogue(self):
        """Which logs there are; the nodes are those of now."""
        return FakeCatalogue(self)

    def log_created(self, log):
        """Let every node serve a log, which its first replica leads."""
        held = self.named[log.group] = FakeCluster(self.uuid, log.group)
        leader = log.replicas[0].node
        for node in self.nodes:
            there = FakeNode(held, node.name)
            there.knows_producers = node.knows_producers
            there.cut = node.cut
            if node.name == leader:
                held.leader = there
            node.logs[log.group] = FakeLog(there, log.name, log.group)

    def log_deleted(self, group):
        """Let no node serve a log any more."""
        del self.named[group]
        for node in self.nodes:
            node.logs.pop(group).delete()

    def append(self, payload, record_count, attributes=0, payload_crc=None, kind=EntryKind.RECORDS):
        """Keep a batch, and tell those who wait for it; return its entry."""
        entry = make_entry(
            self.seed,
            index=len(self.entries) + 1,
            term=1,
            kind=kind,
            base_offset=self.next_offset,
            timestamp=FIRST_TIMESTAMP + len(self.entries),
            payload=payload,
            attributes=attributes,
            record_count=record_count,
            payload_crc=payload_crc,
        )
        self.entries.append(entry)
        self.next_offset = entry.next_offset
        for node in self.nodes:
            node.wake()
        return entry

    def add_values(self, *values):
        return self.add_records(*(Record(value=value) for value in values))

    def add_records(self, *records):
        return self.append(encode_batch(records), len(records))

    def forget(self, lowest):
        """Let records below an offset go."""
        self.lowest = lowest
        self.entries = [entry for entry in self.entries if entry.next_offset > lowest]

    @property
    def values(self):
        return [
            record.value
            for entry in self.entries
            if entry.record_count
            for record in decode_batch(entry.payload, entry.attributes & CODEC_MASK).records
        ]


class FakeStorage:
    """The files of a fake log, as far as `RangeScan` reads them."""

    def __init__(self, entries):
        self._entries = [entry for entry in entries if entry.record_count]

    def read(self, offset, size_max, high_index):
        found = [entry for entry in self._entries if entry.next_offset > offset]
        taken = _fitting(found, size_max)
        return b"".join(entry.frame for entry in taken), taken[-1].next_offset if taken else offset

    def read_before(self, offset, size_max, high_index, low_offset=0):
        found = [entry for entry in self._entries if entry.base_offset < offset]
        wanted = [entry for entry in found[:-1] if entry.next_offset > low_offset] + found[-1:]
        taken = _fitting(wanted[::-1], size_max)[::-1]
        return b"".join(entry.frame for entry in taken), taken[0].base_offset if taken else offset


def _fitting(entries, size_max):
    """The first entries, as many as fit; one at least."""
    taken, size = [], 0
    for entry in entries:
        size += entry.size
        if taken and size > size_max:
            break
        taken.append(entry)
    return taken


class FakeLog:
    """A log of a `FakeNode`, which does the work: a `LogLike`."""

    def __init__(self, node, name=DEFAULT_LOG, group=DEFAULT_GROUP):
        self._node = node
        self.name = name
        self.group = group
        self._is_deleted = False

    def __getattr__(self, name):
        if self._is_deleted and name in ("fetch", "read_range", "wait_for", "bounds", "find_offset", "trim"):
            return lambda *arguments: fail(UnknownLogError(self.name))
        return getattr(self._node, name)

    def propose(self, proposal, appended, failed):
        if self._is_deleted:
            failed(UnknownLogError(self.name))
        else:
            self._node.propose(proposal, appended, failed)

    def delete(self):
        """Be no log any more, and say so to those who ask from now on, and to those who wait."""
        self._is_deleted = True
        for waiter in list(self._node.waiters):
            waiter.errback(UnknownLogError(self.name))
        self._node.waiters.clear()


class FakeNode:
    """A `NodeLike`. `hold()` keeps proposals back until `release()`.

    `faults` maps a call, by gRPC's name for it, to what its next ones do: None, an error, LOST, BROKEN, HANG.
    `failure` is the error of all appends and orders. `calls` notes each call's name. `is_mute` keeps new
    records from readers. `cut` breaks the node's connections.
    """

    cluster_name = FakeCluster.name
    disk_uuid = b"1" * 16
    is_writable = True
    is_mute = False
    record_size_max = 0
    later_index = 0
    failure = None
    knows_producers = False  # whether it refuses those that are not registered, and finds their batches again

    def __init__(self, cluster=None, name="n1", **shown):
        self.cluster = cluster or FakeCluster()
        self.cluster.nodes.append(self)
        if cluster is None:
            self.cluster.leader = self
        self.name = name
        self.shown = DescribedServer(
            name=name, **{"address": "127.0.0.1:8400", **shown}
        )  # what nodes tell of this one
        self.cut = lambda: None
        self.faults = {}
        self.calls = []
        self.proposals = []
        self.waiters = {}
        self.checks = 0
        self.sizes = []  # of fetches: how much was asked for
        self.ranges = []  # what was asked for by reads of a range
        self.sent_size = 0
        self.change_frames = lambda frames: frames
        self.orders = []  # what it was asked about the cluster
        self.reloaded = Reloaded()  # what becomes of settings read again, or an error
        self.view = ClusterStatus(
            term=4,
            leader="n2",
            commit_index=9,
            lowest_offset=1,
            next_offset=7,
            members=(
                MemberState(
                    name="n1",
                    id=1,
                    role=MemberRole.VOTER,
                    liveness=Liveness.ALIVE,
                    match_index=8,
                    version="0.1",
                ),
                MemberState(
                    name="n2",
                    id=2,
                    role=MemberRole.VOTER,
                    liveness=Liveness.SUSPECT,
                    is_leader=True,
                    match_index=9,
                    address="127.0.0.1:8410",
                ),
                MemberState(name="n3"),
            ),
            removed=("n4",),
        )
        self.administration = self
        self.log_administration = FakeLogAdmin(self)
        self.logs = {DEFAULT_GROUP: FakeLog(self)}  # by group
        self._held = None

    cluster_uuid = property(lambda self: self.cluster.uuid)
    seed = property(lambda self: self.cluster.seed)
    entries = property(lambda self: self.cluster.entries)
    next_offset = property(lambda self: self.cluster.next_offset)
    has_leader = property(lambda self: self.cluster.leader is not None)
    leader_name = property(lambda self: self.cluster.leader.name if self.has_leader else "")

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

    def count(self, call):
        return self.calls.count(call)

    def wake(self):
        """Tell those who wait for records that are here by now."""
        for waiter, offset in list(self.waiters.items()):
            if offset < self.next_offset and not self.is_mute:
                del self.waiters[waiter]
                waiter.callback(None)

    def _begin(self, call):
        """Note a call; return its fault."""
        self.calls.append(call)
        faults = self.faults.get(call)
        return faults.pop(0) if faults else None

    def _answer(self, call, answer):
        """Answer a call, unless it is to fail."""
        fault = self._begin(call)
        if isinstance(fault, Exception):
            return fail(fault)
        if fault is HANG:
            return Deferred()
        result = fail(OutcomeUnknownError("cut")) if fault is BROKEN else maybeDeferred(answer)
        if fault is not None:
            self.cut()
        return result

    # --- NodeLike -------------------------------------------------------------------

    def propose(self, proposal, appended, failed):
        self.proposals.append(proposal)
        if self._held is not None and self.failure is None:
            self._held.append((proposal, appended, failed))
        else:
            self._append(proposal, appended, failed)

    def _append(self, proposal, appended, failed):
        made = self._answer(
            "ProduceBatchStream" if proposal.producer_id else "ProduceBatch", lambda: self._keep(proposal)
        )
        made.addCallbacks(appended, lambda failure: failed(failure.value))
        if not made.called:  # no proposal waits for ever: others may wait behind it
            asyncio.get_running_loop().call_later(HANG_SECONDS, made.errback, OutcomeUnknownError("hung"))

    def _keep(self, proposal):
        if self.failure is not None:
            raise self.failure
        if not self.has_leader:
            raise UnavailableError("no leader is known; nothing was done, try again")
        knows_producer = self.knows_producers and proposal.producer_id
        if knows_producer:
            producer = proposal.producer_id, proposal.subject, proposal.producer_sequence
            found = self.cluster.state.find_batch(*producer)
            if found is not None:
                return self._appended(self.cluster.entries[found.index - 1])
        if proposal.expect_offset not in (None, self.next_offset):
            raise ExpectOffsetError(proposal.expect_offset, self.next_offset)
        if proposal.cursor is not None:
            found = self.cluster.state.cursors.find_batch(proposal.cursor)
            if found is not None:
                return self._appended(self.cluster.entries[found.batch_index - 1])
            cursors.change(self.cluster, proposal.cursor)
        entry = self.cluster.append(
            proposal.payload, proposal.record_count, proposal.attributes, proposal.payload_crc
        )
        if proposal.cursor is not None:
            self.cluster.state.cursors.take_records(entry.index, entry.term, entry.base_offset, 1)
        if knows_producer:
            self.cluster.state.producers[proposal.producer_id].batches.append(
                ProducedBatch(proposal.producer_sequence, entry.base_offset, entry.record_count, entry.index)
            )
        return self._appended(entry)

    def _appended(self, entry):
        return Appended(
            base_offset=entry.base_offset,
            record_count=entry.record_count,
            timestamp=entry.timestamp,
            index=entry.index,
            term=1,
        )

    def fetch(self, offset, size_max):
        self.sizes.append(size_max)
        if not self.cluster.lowest <= offset < self.next_offset:
            return fail(OffsetOutOfRangeError(offset, self.cluster.lowest, self.next_offset))
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
        self.sent_size += size
        return succeed(
            Fetched(frames=memoryview(self.change_frames(b"".join(frames))), next_offset=next_offset)
        )

    def read_range(self, wanted):
        self.ranges.append(wanted)

        def answer():
            lowest, committed = self.cluster.lowest, self.next_offset
            window = wanted.window(lowest, committed)
            scanned = RangeScan(FakeStorage(self.entries), wanted, *window, 0).run()
            frames = self.change_frames(bytes(scanned.frames))
            self.sent_size += len(frames)
            return ReadPage(
                frames=memoryview(frames),
                next_offset=scanned.next_offset,
                lowest=lowest,
                committed=committed,
                is_confirmed=not (wanted.is_local or wanted.is_hit(lowest, committed)),
            )

        return self._answer("Read", answer)

    @property
    def fetches(self):
        return len(self.sizes)

    def wait_for(self, offset):
        fault = self._begin("FetchStream")
        if fault is BROKEN:  # behind the answer before
            asyncio.get_running_loop().call_later(FLUSH_SECONDS, self.cut)
        if fault is None and offset < self.next_offset and not self.is_mute:
            return succeed(None)
        waiter = Deferred(self.waiters.pop)
        self.waiters[waiter] = offset if fault is None else float("inf")
        return waiter

    def bounds(self):
        return self._answer(
            "Bounds", lambda: LogBounds(lowest=self.cluster.lowest, next_offset=self.next_offset)
        )

    def read_state(self, offset):
        def answer():
            if not self.cluster.lowest <= offset <= self.next_offset:
                raise OffsetOutOfRangeError(offset, self.cluster.lowest, self.next_offset)
            state = LogState()
            for entry in self.entries:
                if entry.next_offset > offset and entry.record_count:
                    break
                state.apply(entry)
            return Fetched(frames=encode_log_state(state), next_offset=state.next_offset)

        return self._answer("FetchState", answer)

    def find_offset(self, timestamp):
        later = (
            (entry.base_offset, entry.timestamp)
            for entry in self.entries
            if entry.record_count and entry.timestamp >= timestamp
        )
        return self._answer("FindOffset", lambda: next(later, (self.next_offset, 0)))

    waiting_settings = ()

    def reload(self, by):
        self.orders.append(("reload", by))
        return fail(self.reloaded) if isinstance(self.reloaded, Exception) else succeed(self.reloaded)

    def servers(self):
        fault = self._begin("GetServers")
        if fault is not None:
            raise fault
        return [replace(node.shown, is_leader=node is self.cluster.leader) for node in self.cluster.nodes]

    @property
    def is_serving(self):
        return self.has_leader and self.is_writable

    def log(self, name):
        self.checks += 1
        for log in self.logs.values():
            if log.name == (name or DEFAULT_LOG):
                return log
        raise UnknownLogError(name)

    # --- administration -------------------------------------------------------------

    def _do(self, call, *arguments, result=None):
        def answer():
            self.orders.append((call.lower(), *arguments))
            if self.failure is not None:
                raise self.failure
            return result

        return self._answer(call, answer)

    def register_producer(self, subject):
        def answer():
            if self.failure is not None:
                raise self.failure
            self.cluster.producer_count += 1
            self.cluster.state.producers[self.cluster.producer_count] = ProducerState(subject)
            return self.cluster.producer_count

        return self._answer("RegisterProducer", answer)

    def status(self):
        return self._do("Status", result=self.view)

    def add(self, name, learner):
        return self._do("Add", name, learner)

    def remove(self, name):
        return self._do("Remove", name)

    def leave(self):
        return self._do("Leave")

    def transfer(self, name):
        for node in self.cluster.nodes:
            if node.name == name:
                self.cluster.leader = node
        return self._do("Transfer", name, result=name or "n3")

    def order_cursor(self, order):
        def answer():
            self.orders.append(("cursor", order))
            if self.failure is not None:
                raise self.failure
            return cursors.carry_out(self.cluster, order)

        return self._answer(CursorOperation(order.operation).name.title(), answer)

    def trim(self, offset):
        return self._do("Trim", offset, result=max(0, offset - 1))
