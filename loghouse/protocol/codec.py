"""Kind numbers to message classes, and frames to messages and back.

What a receiver does with a kind it does not know (`docs/wire_format.md`, "Unknown things"): kinds with
`OPTIONAL_KIND` set are dropped; a client's request is answered with NotSupportedError on its stream;
anything else closes the connection.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from loghouse.errors import MalformedMessageError
from loghouse.limits import UNKNOWN_SIZE_MAX
from loghouse.protocol import (
    beat_messages,
    client_messages,
    cursor_messages,
    forward_messages,
    gossip_messages,
    link_messages,
    raft_messages,
    range_messages,
    repair_messages,
    roster_messages,
    routing_messages,
    trace_messages,
)
from loghouse.protocol.cursor_messages import CURSOR_BULK_KINDS
from loghouse.protocol.entry import Buffer
from loghouse.protocol.forward_messages import FORWARD_BULK_KINDS
from loghouse.protocol.framing import Frame, pack_header
from loghouse.protocol.message import Message
from loghouse.protocol.range_messages import RANGE_BULK_KINDS
from loghouse.protocol.repair_messages import REPAIR_BULK_KINDS
from loghouse.protocol.routing_messages import ROUTING_BULK_KINDS

OPTIONAL_KIND: Final = 0x0080  # set in a kind: whoever does not know it drops the frame
CLIENT_KINDS: Final = range(0x0300, 0x0400)


_MODULES: Final = (
    link_messages,
    forward_messages,
    repair_messages,
    roster_messages,
    routing_messages,
    range_messages,
    beat_messages,
    gossip_messages,
    client_messages,
    trace_messages,
    cursor_messages,
)


def _registry() -> Mapping[int, type[Message]]:
    """Return every message that those modules declare, by its kind."""
    found: dict[int, type[Message]] = {}
    for module in _MODULES:
        for cls in vars(module).values():
            is_own = isinstance(cls, type) and cls.__module__ == module.__name__
            if is_own and issubclass(cls, Message) and "KIND" in vars(cls):
                assert cls.KIND not in found, f"kind {cls.KIND:#06x} twice"
                found[cls.KIND] = cls
    return MappingProxyType(found)


MESSAGES: Final = _registry()
# Raft's messages carry addresses before them and entries of a log in them, so they decode to envelopes.
RAFT_KINDS: Final = frozenset(raft_messages.BY_KIND)
BULK_KINDS: Final = (
    raft_messages.BULK_KINDS
    | FORWARD_BULK_KINDS
    | REPAIR_BULK_KINDS
    | ROUTING_BULK_KINDS
    | RANGE_BULK_KINDS
    | CURSOR_BULK_KINDS
)
_SIZE_MAX: Final = {
    **{kind: cls.SIZE_MAX for kind, cls in MESSAGES.items()},
    **{kind: cls.SIZE_MAX + raft_messages.ADDRESS_SIZE for kind, cls in raft_messages.BY_KIND.items()},
}
assert len(_SIZE_MAX) == len(MESSAGES) + len(RAFT_KINDS), "a kind twice"


def body_size_max(kind: int) -> int:
    """Return how many bytes the body of a frame of this kind may have."""
    return _SIZE_MAX.get(kind, UNKNOWN_SIZE_MAX)


def encode(message: Message, *, group: int = 0, stream: int = 0) -> tuple[Buffer, ...]:
    """Return the frame of a message in pieces: the header and the body's small parts, then any bulk."""
    head, *tail = message.encode()
    length = len(head) + sum(map(len, tail)) if tail else len(head)
    assert length <= message.SIZE_MAX, f"{type(message).__name__} has {length} bytes"
    header = pack_header(length, message.KIND, group=group, stream=stream)
    return (header + bytes(head), *tail)


def decode(frame: Frame) -> Message | None:
    """Return the message in a frame; None when its kind is not known (or is Raft's).

    Raises:
        MalformedMessageError: The body is not a message of that kind.
    """
    cls = MESSAGES.get(frame.kind)
    if cls is None:
        return None
    if len(frame.body) > cls.SIZE_MAX:
        raise MalformedMessageError(f"{cls.__name__} has {len(frame.body)} bytes, at most {cls.SIZE_MAX}")
    return cls.decode(frame.body)


def encode_envelope(envelope: raft_messages.Envelope) -> tuple[Buffer, ...]:
    """Return the frame of a Raft message in pieces; entry payloads are not copied."""
    kind, group, body = raft_messages.envelope_to_wire(envelope)
    header = pack_header(sum(map(len, body)), kind, group=group)
    return (b"".join((header, *body[:2])), *body[2:])


def decode_envelope(frame: Frame, seed: int) -> raft_messages.Envelope:
    """Return the Raft message in a frame of one of `RAFT_KINDS`.

    Args:
        frame: What came.
        seed: The `frame_seed` of its group.

    Raises:
        MalformedMessageError: The body is not a message of that kind, or an entry in it is damaged.
    """
    return raft_messages.envelope_from_wire(frame.kind, frame.group, frame.body, seed)
