"""What tests of group members share, of every flavour of the client."""

from loghouse.client import group_shares, membership
from loghouse.client.group_records import records_of
from loghouse.client.records import Record

LOGS = [f"orders-{number}" for number in range(4)]


def look_often(case):
    """Let members look for logs, for a share and for each other often, until a test ends."""
    case.patch(group_shares, "ASK_SECONDS", 0.02)
    case.patch(group_shares, "WAIT_SECONDS", 0.2)
    case.patch(membership, "ASK_SECONDS", 0.02)
    case.patch(membership, "DISCOVER_SECONDS", 0.05)


def held_anew():
    """Return a record of a log, and an earlier one of the same log that was given once it was held anew."""
    records = (Record(offset=offset, value=b"", timestamp=0) for offset in (2, 0))
    (before,), (again,) = (
        records_of([one], "orders-0", epoch) for one, epoch in zip(records, (1, 2), strict=True)
    )
    return before, again
