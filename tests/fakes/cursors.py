"""The cursors of fake nodes: changed by the product's rules, without leases."""

from dataclasses import replace

from loghouse.errors import CursorFencedError, CursorHeldError, UnknownCursorError
from loghouse.protocol.cursor_messages import (
    CHANGES,
    NO_LAG,
    CursorOperation,
    CursorPage,
    DescribedCursor,
    check_order,
)
from loghouse.protocol.cursors import advance_with_records, check_cursor_change, encode_cursor_change
from loghouse.protocol.entry import EntryKind


def described(cluster, cursor):
    left = cursor.lease_milliseconds
    lag = cursor.lag(cluster.next_offset)
    return DescribedCursor(
        name=cursor.name,
        position=cursor.position,
        epoch=cursor.epoch,
        holder=cursor.holder,
        subject=cursor.subject,
        lease_milliseconds=left,
        left_milliseconds=left,
        lag=NO_LAG if lag is None else lag,
    )


def page_of(cluster, cursor):
    """Return the answer that tells of one cursor."""
    if cursor.holder:
        cluster.waits.acquired(cursor.name, cursor.holder)
    waiting = cluster.waits.of(cursor.name)
    found = replace(described(cluster, cursor), waiting_count=len(waiting))
    return CursorPage(cursors=(found,), waiting=waiting)


def carry_out(cluster, order):
    """Do what is asked of the cursors of a `FakeCluster`'s log; leases and waits never run out."""
    check_order(order)
    cursors = cluster.state.cursors
    found = cursors.by_name.get(order.name)
    if order.operation in CHANGES:
        if order.operation == CursorOperation.ACQUIRE and found and found.holder not in ("", order.holder):
            cluster.waits.refused(found.name, order.holder)
            raise CursorHeldError(found.lease_milliseconds, found.name, found.holder)
        change(cluster, order.change)
        found = cursors.by_name.get(order.name)
        return page_of(cluster, found) if found else CursorPage()
    if order.operation == CursorOperation.LIST:
        names = sorted(name for name in cursors.by_name if name > order.name)
        size = order.count_max or 2
        page = tuple(described(cluster, cursors.by_name[name]) for name in names[:size])
        return CursorPage(cursors=page, next=names[size - 1] if len(names) > size else "")
    if found is None:
        raise UnknownCursorError(order.name)
    if order.operation == CursorOperation.RENEW and found.epoch != order.epoch:
        raise CursorFencedError(order.epoch, found.epoch, order.name)
    return page_of(cluster, found)


def move_with_records(cluster, name, position):
    """Append a record together with an advance of a cursor."""
    epoch = cluster.state.cursors.by_name[name].epoch
    change(cluster, advance_with_records(name, epoch, position))
    entry = cluster.add_values(b"made of it")
    cluster.state.cursors.take_records(entry.index, entry.term, entry.base_offset, 1)


def change(cluster, wanted):
    """Append the entry of a change that does something."""
    check_cursor_change(wanted)
    cluster.state.cursors.check(wanted)
    entry = cluster.append(encode_cursor_change(wanted), 0, kind=EntryKind.CURSOR)
    cluster.state.cursors.apply(entry)
