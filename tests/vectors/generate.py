"""Write the published test vectors: `python -m tests.vectors.generate`.

Each file under `tests/vectors/` is made by one function here; a test regenerates them all and compares.
Bytes are hex; integers are decimal, up to 64 bits.
"""

import dataclasses
import json
from pathlib import Path

from loghouse import errors
from loghouse.protocol import codec
from loghouse.protocol.framing import pack_header
from tests.vectors import disk
from tests.vectors.messages import ENVELOPES, GROUP, MESSAGES
from tests.vectors.payloads import PAYLOADS

DIRECTORY = Path(__file__).resolve().parent


def plain(value):
    """Return a field's value as JSON has it."""
    if dataclasses.is_dataclass(value):
        return {field.name: plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, bytes | bytearray | memoryview):
        return bytes(value).hex()
    if isinstance(value, tuple):
        return [plain(item) for item in value]
    if isinstance(value, bool) or value is None or isinstance(value, str):
        return value
    return int(value)


def wire_vectors():
    """Every message of the wire: its fields, and the frame that carries it."""
    return [
        {
            "name": name,
            "message": type(message).__name__,
            "kind": message.KIND,
            "group": GROUP if stream else 0,
            "stream": stream,
            "fields": plain(message),
            "hex": b"".join(codec.encode(message, group=GROUP if stream else 0, stream=stream)).hex(),
        }
        for name, message, stream in MESSAGES
    ]


def raft_fields(envelope):
    """Return an envelope's fields; entries as the bytes of their frames."""
    fields = {"source": envelope.source, "target": envelope.target}
    for field in dataclasses.fields(envelope.message):
        value = getattr(envelope.message, field.name)
        if field.name == "entries":
            value = b"".join(entry.frame for entry in value)
        fields[field.name] = plain(value)
    return fields


def raft_vectors():
    """Every Raft message, from member 1 to member 2 of the default log's group."""
    return [
        {
            "name": name,
            "message": type(envelope.message).__name__,
            "kind": envelope.message.KIND,
            "group": envelope.group,
            "stream": 0,
            "fields": raft_fields(envelope),
            "hex": b"".join(codec.encode_envelope(envelope)).hex(),
        }
        for name, envelope in ENVELOPES
    ]


def refused_vectors():
    """Frames that a receiver of a client's connection must refuse, and the code of the error."""
    too_large = errors.FrameTooLargeError.code
    malformed = errors.MalformedMessageError.code
    rows = [
        ("hello of 4097 bytes", pack_header(4097, 0x0001), too_large),
        ("produce of 2^32 - 1 bytes", pack_header(2**32 - 1, 0x0301, stream=1), too_large),
        ("unknown kind of 65537 bytes", pack_header(65_537, 0x0077), too_large),
        ("unknown critical flag", pack_header(0, 0x0001, flags=0x0001), errors.ProtocolError.code),
        ("hello without its magic", pack_header(1, 0x0001) + b"x", malformed),
        ("ping of 7 bytes", pack_header(7, 0x0002) + bytes(7), malformed),
        ("ping of 9 bytes", pack_header(9, 0x0002) + bytes(9), malformed),
        ("produce without its fields", pack_header(3, 0x0301, stream=1) + bytes(3), malformed),
        (
            "produce with a reserved bit",
            pack_header(35, 0x0301, stream=1) + b"\x04" + bytes(34),
            malformed,
        ),
        ("goodbye longer than it says", pack_header(3, 0x0005) + b"\x00\x00x", malformed),
        ("goodbye shorter than it says", pack_header(3, 0x0005) + b"\x00\x05x", malformed),
        ("goodbye that is not UTF-8", pack_header(3, 0x0005) + b"\x00\x01\xff", malformed),
        (
            "describe reply of 65535 logs",
            pack_header(22, 0x030A) + bytes(16) + b"\x01a\x01a\xff\xff",
            malformed,
        ),
    ]
    return [{"name": name, "hex": data.hex(), "code": code} for name, data, code in rows]


def payload_vectors():
    """Payloads that say they are compressed: whether a node takes them, and whether libzstd alone would."""
    return [
        {
            "name": payload.name,
            "codec": payload.codec,
            "record_count": payload.record_count,
            "is_taken": payload.is_taken,
            "is_read_by_libzstd": payload.is_read,
            "hex": payload.data.hex(),
        }
        for payload in PAYLOADS
    ]


FILES = {
    "wire.json": wire_vectors,
    "wire_raft.json": raft_vectors,
    "wire_refused.json": refused_vectors,
    "payloads.json": payload_vectors,
    **disk.FILES,
}


def text_of(make):
    """Return the text of a vector file."""
    return json.dumps(make(), indent=1) + "\n"


def main():
    for name, make in FILES.items():
        (DIRECTORY / name).write_text(text_of(make))


if __name__ == "__main__":
    main()
