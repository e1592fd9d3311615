"""Payloads that say they are zstd: those that are taken, and those refused though libzstd may read them.

Frames are put together here byte by byte (RFC 8878, 3.1.1), so they are the same under every libzstd.
"""

import dataclasses

BATCH = bytes.fromhex("0a070a0568656c6c6f0a070a05776f726c64")  # two records, "hello" and "world"
RECORD_COUNT = 2
CHECKSUM = bytes.fromhex("317a94a2")  # the low four bytes of BATCH's XXH64
MAGIC = bytes.fromhex("28b52ffd")
SKIPPABLE = bytes.fromhex("502a4d1804000000") + b"skip"
KIB = 1024
RAW, RLE, PACKED, RESERVED = 0, 1, 2, 3


def block(content, *, is_last=True, kind=RAW, size=None):
    """Return a block; `size` is what its header says, the content's own by default."""
    size = len(content) if size is None else size
    return (is_last | kind << 1 | size << 3).to_bytes(3, "little") + content


def frame(*blocks, size=18, window=None, dictionary=None, checksum=b"", flags=0):
    """Return a frame.

    Args:
        blocks: Its blocks; one raw one that holds BATCH by default.
        size: What it says that it unpacks to; None for nothing.
        window: The window descriptor; None for a frame of a single segment, which needs a size.
        dictionary: A dictionary's id of one byte.
        flags: More bits of the frame header's first byte.
    """
    if dictionary is not None:
        flags |= 0x01
    if checksum:
        flags |= 0x04
    if window is None:
        flags |= 0x20
    if size is not None:
        flags |= 0x80  # in four bytes
    return b"".join(
        (
            MAGIC,
            bytes([flags]),
            b"" if window is None else bytes([window]),
            b"" if dictionary is None else bytes([dictionary]),
            b"" if size is None else size.to_bytes(4, "little"),
            *(blocks or (block(BATCH),)),
            checksum,
        )
    )


def repeating(back):
    """Return the content of a packed block: three bytes again, from 4,093 to 8,188 bytes back.

    No literals, and one sequence, whose three codes stand for themselves: no literals, an offset with 12
    more bits, a match of 3.
    """
    return bytes.fromhex("00015400" + "0c00") + (1 << 12 | back - 4093).to_bytes(2, "little")


def repeating_from(back, size=5 * KIB + 3, **fields):
    """Return a frame that holds one record of 5,117 bytes, its last three repeated from so far back."""
    sizes = [KIB - 6, *[KIB] * 4]
    runs = [block(bytes([n]), is_last=False, kind=RLE, size=size) for n, size in enumerate(sizes)]
    begin = block(bytes.fromhex("0a80280afd27"), is_last=False)
    return frame(begin, *runs, block(repeating(back), kind=PACKED), size=size, **fields)


@dataclasses.dataclass(frozen=True)
class Payload:
    """A payload said to hold so many records; `is_read` says whether libzstd, the reference, reads it."""

    name: str
    data: bytes
    is_taken: bool = False
    is_read: bool = False
    codec: int = 1
    record_count: int = RECORD_COUNT


WHOLE = frame()
STREAMED = frame(size=None, window=0x00)
SUMMED = frame(checksum=CHECKSUM)
LAST_MISSING = frame(block(BATCH, is_last=False))


def taken(name, data):
    """Return a payload that is one whole frame."""
    return Payload(name, data, is_taken=True, is_read=True)


def refused(name, data, **fields):
    """Return a payload that is not."""
    return Payload(name, data, **fields)


PAYLOADS = [
    taken("one frame that says its size", WHOLE),
    taken("one frame that does not say its size", STREAMED),
    taken("with a checksum", SUMMED),
    taken("two blocks, the last one empty", frame(block(BATCH, is_last=False), block(b""))),
    taken("a window of 8 MiB", frame(size=None, window=0x68)),
    taken("dictionary 0, which means none", frame(dictionary=0)),
    refused("nothing", b""),
    refused("not compressed", BATCH),
    refused("gzip", bytes.fromhex("1f8b0800000000000003")),
    refused("the magic number of zstd 0.7", bytes.fromhex("27") + WHOLE[1:]),
    refused("the magic number alone", MAGIC),
    refused("cut in the frame header", WHOLE[:6]),
    refused("cut in a block header", WHOLE[:11]),
    refused("cut in a block", WHOLE[:-1]),
    refused("cut in a block, size not said", STREAMED[:-1]),
    refused("cut in the checksum", SUMMED[:-1]),
    refused("cut before the checksum", SUMMED[:-4]),
    refused("no last block", LAST_MISSING),
    refused("no last block, size not said", frame(block(BATCH, is_last=False), size=None, window=0)),
    refused("a byte behind the frame", WHOLE + b"\x00"),
    refused("a byte behind the frame, size not said", STREAMED + b"\x00"),
    refused("two frames", WHOLE + WHOLE, is_read=True, record_count=4),
    refused("two frames, counted as one", WHOLE + WHOLE, is_read=True),
    refused("two frames, sizes not said", STREAMED + STREAMED, is_read=True, record_count=4),
    refused("a frame and an empty one", STREAMED + frame(block(b""), size=0), is_read=True),
    refused("an empty frame and one", frame(block(b""), size=0) + WHOLE, is_read=True),
    refused("a skippable frame first", SKIPPABLE + WHOLE, is_read=True),
    refused("a skippable frame behind", WHOLE + SKIPPABLE, is_read=True),
    refused("a skippable frame behind, size not said", STREAMED + SKIPPABLE, is_read=True),
    refused("a skippable frame alone", SKIPPABLE, is_read=True),
    refused("an empty frame", frame(block(b""), size=0), is_read=True),
    refused("an empty frame that does not say so", frame(block(b""), size=None, window=0), is_read=True),
    refused("says less than it holds", frame(size=len(BATCH) - 1)),
    refused("says more than it holds", frame(size=len(BATCH) + 1)),
    refused("says 0 and holds a batch", frame(size=0)),
    refused("a wrong checksum", frame(checksum=bytes(4))),
    refused("a dictionary", frame(dictionary=7)),
    refused("the reserved bit", frame(flags=0x08)),
    refused("a reserved block type", frame(block(BATCH, kind=RESERVED))),
    refused("a window of 9 MiB", frame(size=None, window=0x69), is_read=True),
    refused("a window of 9 MiB, and its size", frame(window=0x69), is_read=True),
    refused("a block larger than its window", frame(block(b"\n" * 2000), size=2000, window=0), is_read=True),
    refused("repeats from behind its window", repeating_from(5000, window=0), is_read=True, record_count=1),
    refused(
        "repeats from behind its window, size not said",
        repeating_from(5000, window=0, size=None),
        is_read=True,
        record_count=1,
    ),
    refused("repeats from before its beginning", repeating_from(5121), record_count=1),
    refused(
        "a block of 128 KiB and a byte",
        frame(block(b"\n", kind=RLE, size=128 * KIB + 1), size=None, window=0x50),
    ),
    refused("a window of 256 MiB", frame(size=None, window=0x90)),
    refused("says 8 MiB and a byte", frame(block(b"\n", kind=RLE, size=1), size=8 * KIB * KIB + 1)),
    refused(
        "unpacks to more than 8 MiB",
        frame(
            *(block(b"\n", kind=RLE, size=128 * KIB, is_last=n == 64) for n in range(65)),
            size=None,
            window=0x50,
        ),
        is_read=True,
    ),
    refused(
        "eight million bytes that are no records",
        frame(
            *(block(b"\x00", kind=RLE, size=128 * KIB, is_last=n == 63) for n in range(64)),
            size=None,
            window=0x50,
        ),
        is_read=True,
    ),
    refused("fewer records than said", WHOLE, is_read=True, record_count=3),
    refused("more records than said", WHOLE, is_read=True, record_count=1),
    *(
        refused(f"codec {codec}, which is not given out", WHOLE, codec=codec, is_read=True)
        for codec in range(2, 8)
    ),
]
