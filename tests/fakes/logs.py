"""The logs of fake nodes, decided and folded as real nodes do it."""

from twisted.internet.defer import Deferred, fail, succeed

from loghouse.catalogue.catalogue import Catalogue
from loghouse.catalogue.changes import alter_log, create_log, delete_log, replace_replica
from loghouse.catalogue.records import CataloguedNode, LogCreated, LogSettings, NodeSet, PlacedReplica, Span
from loghouse.errors import UnknownLogError
from loghouse.node.api import LogDescription, ReplicaState
from loghouse.protocol.entry import DEFAULT_GROUP, DEFAULT_LOG

CREATED_AT = 1_700_000_000_000_000


class FakeCatalogue:
    """The catalogue of a `FakeCluster`; `log_created` and `log_deleted` are told to its nodes."""

    def __init__(self, cluster):
        self.cluster = cluster
        self.folded = Catalogue()
        self.records = []
        self.waiters = []  # of (after, Deferred)
        replicas = [self._replica(member, node.name) for member, node in enumerate(cluster.nodes, start=1)]
        for node in cluster.nodes:
            self.add_node(node.name)
        span = Span(group=DEFAULT_GROUP, replicas=tuple(replicas))
        self.append(LogCreated(name=DEFAULT_LOG, settings=LogSettings(replicas=len(replicas)), spans=(span,)))

    def _replica(self, member, name):
        return PlacedReplica(member=member, node=name, disk_uuid=_disk_of(name))

    def add_node(self, name):
        self.append(NodeSet(node=CataloguedNode(name=name, disk_uuid=_disk_of(name))))

    def append(self, record):
        """Take a record, and tell whoever waits for one."""
        if record is None:
            return
        assert self.folded.apply(self.folded.next_offset, record), self.folded.ignored
        self.records.append(record)
        waiters, self.waiters = self.waiters, []
        for after, waiter in waiters:
            self._tell(after, waiter)

    def changed(self, after):
        waiter = Deferred()
        self._tell(after, waiter)
        return waiter

    def _tell(self, after, waiter):
        last = self.folded.next_offset - 1
        if last > after and not waiter.called:
            waiter.callback(last)
        elif not waiter.called:
            self.waiters.append((after, waiter))


class FakeLogAdmin:
    """A `LogAdmin` of one fake node. `failure` is the error of all calls; `orders` notes them."""

    def __init__(self, node):
        self.node = node
        self.failure = None
        self.orders = []
        self.log_problems = []  # what needs attention; an error: it does not know
        self.stray_logs = []  # what does not belong on the node's disk; an error: it does not know

    @property
    def _catalogue(self):
        return self.node.cluster.catalogue

    @property
    def _folded(self):
        return self._catalogue.folded

    def _do(self, order, answer):
        self.orders.append(order)
        self.node.calls.append(f"Logs.{order[0]}")
        try:
            if self.failure is not None:
                raise self.failure
            return succeed(answer())
        except Exception as error:
            return fail(error)

    def create(self, name, settings, *, on, by):
        def answer():
            alive = [node.name for node in self.node.cluster.nodes]
            record = create_log(self._folded, name, settings, alive=alive, on=on, at=CREATED_AT, by=by)
            self._catalogue.append(record)
            if record is not None:
                self.node.cluster.log_created(self._folded.logs[name])
            return self._description(name)

        return self._do(("create", name, settings, tuple(on), by), answer)

    def alter(self, name, changes, *, by):
        def answer():
            self._catalogue.append(alter_log(self._folded, name, at=CREATED_AT, by=by, **changes))
            return self._description(name)

        return self._do(("alter", name, dict(changes), by), answer)

    def delete(self, name, *, by):
        def answer():
            record = delete_log(self._folded, name, at=CREATED_AT, by=by)
            self._catalogue.append(record)
            self.node.cluster.log_deleted(record.group)

        return self._do(("delete", name, by), answer)

    def replace(self, name, *, lost, new, by):
        def answer():
            record = replace_replica(self._folded, name, lost=lost, new=new, at=CREATED_AT, by=by)
            self._catalogue.append(record)
            return self._description(name)

        return self._do(("replace", name, lost, new, by), answer)

    def list(self):
        return self._do(("list",), self.known)

    def known(self):
        return [self._description(name) for name in self._folded.logs]

    def describe(self, name):
        return self._do(("describe", name), lambda: self._description(name or DEFAULT_LOG))

    def changed(self, after):
        return self._catalogue.changed(after)

    def problems(self):
        told = self.log_problems
        return fail(told) if isinstance(told, Exception) else succeed(told)

    def strays(self):
        told = self.stray_logs
        return fail(told) if isinstance(told, Exception) else succeed(told)

    def _description(self, name):
        log = self._folded.logs.get(name)
        if log is None:
            raise UnknownLogError(name)
        held = self.node.cluster.named.get(log.group, self.node.cluster)
        leader = held.leader.name if held.leader is not None else ""
        alive = {node.name for node in self.node.cluster.nodes}
        return LogDescription(
            name=name,
            group=log.group,
            epoch=log.epoch,
            settings=log.settings,
            replicas=tuple(
                ReplicaState(
                    node=one.node,
                    member=one.member,
                    is_leader=one.node == leader,
                    is_alive=one.node in alive,
                )
                for one in log.replicas
            ),
            leader=leader,
            created_at=CREATED_AT,
        )


def _disk_of(name):
    return name.encode().ljust(16, b"-")[:16]
