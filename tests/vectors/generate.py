"""Write the published test vectors: `python -m tests.vectors.generate`.

Each file under `tests/vectors/` is made by one function here; a test regenerates them all and compares.
Bytes are hex; integers are decimal, up to 64 bits.
"""

import dataclasses
import json
from pathlib import Path

from loghouse.protocol import codec
from tests.vectors import disk, disk_refusals, refusals
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
    """Bytes that a receiver must refuse, where it can tell first, and the code of the error."""
    return [
        {"name": name, "stage": stage, "place": place, "hex": data.hex(), "code": error.code}
        for name, stage, place, data, error in refusals.rows()
    ]


def batch_vectors():
    """Batches that a node refuses with code 16, and the field that it names."""
    return [
        {
            "name": name,
            "place": place,
            "codec": codec_,
            "record_count": record_count,
            "batch_crc": batch_crc,
            "hex": data.hex(),
        }
        for name, place, codec_, record_count, batch_crc, data in refusals.batches()
    ]


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
    "batch_refused.json": batch_vectors,
    "disk_refused.json": disk_refusals.refused_vectors,
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
