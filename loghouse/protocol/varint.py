"""Protobuf's own framing of one field, for messages that are one large field of bytes and little else.

The generated classes copy such a field at every step; here it is joined once, or looked at where it is. What
is made and read is what they make and read: tests hold both against them.
"""

from __future__ import annotations

from loghouse.protocol.entry import Buffer


def encode_varint(number: int) -> bytes:
    """Return a number from 0 as protobuf writes it: seven bits a byte, the lowest first."""
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)


def decode_varint(message: Buffer, position: int) -> tuple[int, int]:
    """Return the number that begins at a position, and the position behind it.

    Raises:
        IndexError: It goes on behind the message's end.
        ValueError: It has more than ten bytes.
    """
    number = 0
    for shift in range(0, 70, 7):
        byte = message[position]
        position += 1
        number |= (byte & 0x7F) << shift
        if byte < 0x80:
            return number, position
    raise ValueError("a varint of more than ten bytes")


def join_bytes_field(field: int, content: Buffer, rest: bytes) -> bytes:
    """Return a message of one field of bytes and whatever `rest` holds of others, serialized.

    Args:
        field: The field's number.
    """
    if not content:
        return rest
    return b"".join((encode_varint(field << 3 | 2), encode_varint(len(content)), content, rest))
