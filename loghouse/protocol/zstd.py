"""zstd as a payload may use it: one whole frame (RFC 8878) that every decoder reads, and all of them alike.

libzstd is more lenient than most: it reads on behind a frame, passes over skippable ones, and gives what it
has of one that is cut off. A batch that only some readers can read is not taken.
"""

from __future__ import annotations

import io
from typing import Final

import zstandard

from loghouse.errors import InvalidRequestError
from loghouse.limits import KIB, PAYLOAD_SIZE_MAX, ZSTD_BLOCKS_MAX, ZSTD_WINDOW_SIZE_MAX
from loghouse.protocol.entry import Buffer

_RLE: Final = 1  # a block of one byte, again and again
_BLOCK_SIZE_MAX: Final = 128 * KIB  # RFC 8878, 3.1.1.2.4
_NOT_SAID: Final = -1
_SAYS_SIZE: Final = 0x80  # in four bytes
MAGIC: Final = b"\x28\xb5\x2f\xfd"
_SKIPPABLE_MAGIC_END: Final = b"\x2a\x4d\x18"  # behind a byte from 0x50 to 0x5f


def _refused(problem: str) -> InvalidRequestError:
    return InvalidRequestError("batch", problem)


def unpacked_size(payload: Buffer) -> int:
    """Return how many bytes a frame says that it unpacks to; the most that are allowed when it does not say.

    Raises:
        InvalidRequestError: No frame begins here, or not one that a payload may be.
    """
    magic = bytes(payload[:4])
    if magic != MAGIC:
        if magic[1:] == _SKIPPABLE_MAGIC_END and magic[0] & 0xF0 == 0x50:
            raise _refused("begins with a skippable zstd frame; send one frame, which holds the batch")
        raise _refused("is not valid zstd: it does not begin with a frame's magic number")
    try:
        parameters = zstandard.get_frame_parameters(payload)
    except zstandard.ZstdError as error:
        raise _refused(f"is not valid zstd: {error}") from None
    if parameters.dict_id:
        raise _refused(f"is packed with zstd dictionary {parameters.dict_id}, which readers do not have")
    size: int = parameters.content_size
    if zstandard.frame_content_size(payload) == _NOT_SAID:
        size = PAYLOAD_SIZE_MAX
    elif size > PAYLOAD_SIZE_MAX:
        raise _refused(f"unpacks to {size} bytes; at most {PAYLOAD_SIZE_MAX} are allowed")
    if parameters.window_size > ZSTD_WINDOW_SIZE_MAX:
        raise _refused(
            f"needs a zstd window of {parameters.window_size} bytes; "
            f"at most {ZSTD_WINDOW_SIZE_MAX} are allowed"
        )
    if size == 0:
        raise _refused("is an empty zstd frame; a batch has at least 1 record")
    return size


def unpack_frame(payload: Buffer) -> bytes:
    """Return what a payload's one frame holds; never more than `PAYLOAD_SIZE_MAX` bytes are made.

    Raises:
        InvalidRequestError: It is not exactly one whole frame of standard meaning.
    """
    unpacked_size(payload)
    _check_blocks(payload)
    unpacker = zstandard.ZstdDecompressor(max_window_size=ZSTD_WINDOW_SIZE_MAX)
    try:
        unpacked: bytes = unpacker.decompress(payload, max_output_size=PAYLOAD_SIZE_MAX)
    except zstandard.ZstdError as error:
        if zstandard.frame_content_size(payload) == _NOT_SAID:
            raise _refused(f"is damaged, or unpacks to more than {PAYLOAD_SIZE_MAX} bytes: {error}") from None
        raise _refused(f"is not valid zstd: {error}") from None
    window_size = zstandard.get_frame_parameters(payload).window_size
    if len(unpacked) > window_size and _unpack_otherwise(unpacker, payload, len(unpacked)) != unpacked:
        raise _refused(f"repeats bytes from farther back than its zstd window of {window_size} bytes")
    return unpacked


def _unpack_otherwise(unpacker: zstandard.ZstdDecompressor, payload: Buffer, size: int) -> bytes | None:
    """Return what a frame larger than its window gives in libzstd's other way of unpacking; None if nothing.

    A whole frame that says its size is unpacked straight to its place, where it can repeat bytes from behind
    its window. Any other, and one that comes in parts, is unpacked by way of a ring of little more than a
    window: there such a frame fails, or gives other bytes without a word.
    """
    try:
        if zstandard.frame_content_size(payload) != _NOT_SAID:
            in_parts = unpacker.stream_reader(io.BytesIO(payload), read_size=len(payload) - 1)
            return in_parts.read(size + 1)
        head_size = zstandard.frame_header_size(payload)
        head = MAGIC + bytes([payload[4] | _SAYS_SIZE]) + payload[5:head_size] + size.to_bytes(4, "little")
        return unpacker.decompress(head + payload[head_size:], max_output_size=PAYLOAD_SIZE_MAX)
    except zstandard.ZstdError:
        return None


def _check_blocks(payload: Buffer) -> None:
    """Raise unless the frame's blocks, and its checksum if it has one, fill the payload.

    libzstd unpacks a frame that it has as a whole also if a block is larger than the frame's window allows;
    given it in parts, as by most readers, it does not.
    """
    parameters = zstandard.get_frame_parameters(payload)
    block_size_max = min(parameters.window_size, _BLOCK_SIZE_MAX)
    position, size = zstandard.frame_header_size(payload), len(payload)
    for _ in range(ZSTD_BLOCKS_MAX):
        if position + 3 > size:
            raise _refused("is cut off: it is not a whole zstd frame")
        head = payload[position] | payload[position + 1] << 8 | payload[position + 2] << 16
        block_size = head >> 3
        if block_size > block_size_max:
            raise _refused(f"has a zstd block of {block_size} bytes; its window allows {block_size_max}")
        position += 4 if head >> 1 & 3 == _RLE else 3 + block_size
        if head & 1:
            break
    else:
        raise _refused(f"has more than {ZSTD_BLOCKS_MAX} zstd blocks")
    position += 4 * parameters.has_checksum
    if position > size:
        raise _refused("is cut off: it is not a whole zstd frame")
    if position < size:
        raise _refused(f"has {size - position} bytes behind its zstd frame; send one frame and nothing else")
