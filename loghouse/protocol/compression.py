"""Compressed payloads: a batch is compressed as a whole, or not at all.

The package is imported by the first batch that needs it: programs that compress nothing start sooner.
"""

from __future__ import annotations

from loghouse.errors import InvalidRequestError
from loghouse.limits import PAYLOAD_SIZE_MAX
from loghouse.protocol.entry import Buffer, Codec


def compress(payload: Buffer, codec: Codec) -> bytes:
    """Return the payload compressed by `codec`."""
    if codec == Codec.ZSTD:
        import zstandard

        return zstandard.ZstdCompressor().compress(payload)
    return bytes(payload)


def decompress(payload: Buffer, codec: int) -> Buffer:
    """Return the payload uncompressed; never more than `PAYLOAD_SIZE_MAX` bytes are made.

    For what is in the log: earlier versions took more zstd than `zstd.unpack_frame` does.

    Raises:
        InvalidRequestError: The codec is unknown, the bytes are not of it, or they unpack to too much.
    """
    if codec == Codec.NONE:
        return payload
    if codec != Codec.ZSTD:
        raise InvalidRequestError("codec", f"{codec} is unknown; allowed: 0 (none), 1 (zstd)")
    import zstandard

    try:
        reader = zstandard.ZstdDecompressor(max_window_size=PAYLOAD_SIZE_MAX).stream_reader(payload)
        unpacked = reader.read(PAYLOAD_SIZE_MAX + 1)
    except zstandard.ZstdError as error:
        raise InvalidRequestError("batch", f"is not valid zstd: {error}") from None
    if len(unpacked) > PAYLOAD_SIZE_MAX:
        raise InvalidRequestError("batch", f"unpacks to more than {PAYLOAD_SIZE_MAX} bytes")
    return unpacked
