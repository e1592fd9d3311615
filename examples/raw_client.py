"""A client of the binary protocol in plain Python: struct, ssl, socket, and docs/wire_format.md.

It imports nothing of Loghouse: it was written from the specification, and the tests hold it against the
published vectors and a real node. Use it as a start for a client in another language.

    python examples/raw_client.py HOST:PORT --ca ca.pem --cert client.pem --key client-key.pem follow 0
"""

import argparse
import socket
import ssl
import struct

HEADER = struct.Struct(">IHHII")  # length of the body, kind, flags, group, stream
ENTRY = struct.Struct(">IIBBHIQQQQQII")
HELLO, PING, PONG, LINK_ERROR, GOODBYE = 1, 2, 3, 4, 5
PRODUCE, FETCH, FOLLOW, CREDIT, FAILURE = 0x0301, 0x0303, 0x0305, 0x0307, 0x030F
OPTIONAL = 0x0080  # a kind with this bit may be ignored by those who do not know it
DEFAULT_GROUP, CLIENT_ROLE, CREDIT_SIZE, RECORDS = 1, 2, 1 << 20, 1

# The layouts of docs/wire_format.md that a client needs to read, in that document's notation.
LAYOUTS = """
0x0001  magic:I version_min:H version_max:H role:B capabilities:Q cluster_uuid:U disk_uuid:U cluster_name:S node_name:S software:S entry_kinds:O later:R
0x0002  token:Q
0x0004  code:H numbers:B*number texts:B*text text:T
0x0302  base_offset:Q record_count:I timestamp:Q
0x0304  next_offset:Q frames:R
0x0306  next_offset:Q frames:R
0x030A  cluster_uuid:U cluster_name:S node_name:S logs:H*log servers:H*server
0x030F  code:H numbers:B*number texts:B*text text:T
number  number:Q
text    text:T
log     group:I name:S
server  name:S address:T grpc_address:T role:B is_leader:F is_alive:F
"""  # noqa: E501


def parse_layouts(text):
    """Return {kind or name of an array's element: [(field, type)]}."""
    lines = [line.split() for line in text.splitlines() if line.strip()]
    return {line[0]: [tuple(item.split(":")) for item in line[1:]] for line in lines}


LAYOUTS = parse_layouts(LAYOUTS)


class Reader:
    """Takes fields off a body, and refuses to run over its end."""

    def __init__(self, body, layouts):
        self.body, self.layouts, self.position = body, layouts, 0

    def take(self, size):
        """Take so many bytes."""
        piece = self.body[self.position : self.position + size]
        if len(piece) < size:
            raise ValueError("the body is too short")
        self.position += size
        return piece

    def field(self, type_):
        """Take one field.

        B H I Q are unsigned integers of 1, 2, 4, 8 bytes; F a byte, 0 or 1; U 16 bytes; S and T UTF-8 text
        behind a length of 1 or 2 bytes; O and P bytes behind a length of 1 or 2 bytes; R the rest.
        """
        if type_ == "R":
            return self.take(len(self.body) - self.position)
        if type_ == "U":
            return self.take(16)
        if type_ in "OP":
            return self.take(self.field("B" if type_ == "O" else "H"))
        if type_ in "ST":
            return self.take(self.field("B" if type_ == "S" else "H")).decode("utf8")
        if type_ == "F":
            return bool(self.field("B"))
        return struct.unpack(">" + type_, self.take(struct.calcsize(type_)))[0]

    def fields(self, layout):
        """Take all fields of a layout. B*x is a count of type B, and as many elements of layout x."""
        found = {}
        for name, type_ in self.layouts[layout]:
            count, is_array, element = type_.partition("*")
            if is_array:
                values = [self.fields(element) for _ in range(self.field(count))]
                # An element of one field stands for itself.
                found[name] = [v.popitem()[1] if len(v) == 1 else v for v in values]
            else:
                found[name] = self.field(type_)
        return found


def decode(kind, body, layouts=LAYOUTS):
    """Return the fields of a message, or raise ValueError."""
    reader = Reader(body, layouts)
    found = reader.fields(f"0x{kind:04X}")
    if reader.position != len(body):
        raise ValueError("bytes are left over")
    if kind == HELLO and found["magic"] != 0x4C474853:
        raise ValueError("not a Hello")
    return found


def pack(kind, body, group=0, stream=0):
    """Return a frame."""
    return HEADER.pack(len(body), kind, 0, group, stream) + body


CRC_TABLE = []
for _byte in range(256):
    for _ in range(8):
        _byte = _byte >> 1 ^ (0x82F63B78 if _byte & 1 else 0)  # CRC32C, reflected
    CRC_TABLE.append(_byte)


def crc32c(data, crc=0):
    """Return the CRC32C of `data`, going on from `crc`."""
    crc ^= 0xFFFFFFFF
    for byte in data:
        crc = crc >> 8 ^ CRC_TABLE[(crc ^ byte) & 0xFF]
    return crc ^ 0xFFFFFFFF


def entries(cluster_uuid, group, frames):
    """Yield each checked entry: (kind, base_offset, record_count, timestamp, attributes, payload)."""
    seed, position = crc32c(cluster_uuid + struct.pack(">I", group)), 0
    while position < len(frames):
        head = frames[position : position + ENTRY.size]
        crc, length, version, kind, attributes, count, *_, base, time, _, _, data_crc = ENTRY.unpack(head)
        payload = frames[position + ENTRY.size : position + length]
        if version != 1 or crc32c(head[4:], seed) != crc or crc32c(payload) != data_crc:
            raise ValueError(f"damaged entry frame at byte {position}")
        yield kind, base, count, time, attributes, payload
        position += length


def varint(value):
    """Return a protobuf varint."""
    out = b""
    while value > 127:
        out, value = out + bytes([value & 127 | 128]), value >> 7
    return out + bytes([value])


def encode_batch(values):
    """Return the serialized protobuf RecordBatch of records that have only a value."""
    records = [b"\x0a" + varint(len(value)) + value for value in values]
    return b"".join(b"\x0a" + varint(len(record)) + record for record in records)


class RefusedError(Exception):
    """The node answered with an error; its only argument has the fields."""


class RawClient:
    """One connection; one request at a time, which is enough for an example."""

    def __init__(self, sock):
        self.sock, self.file, self.stream = sock, sock.makefile("rb"), 0
        nobody = struct.pack(">IHHBQ", 0x4C474853, 1, 1, CLIENT_ROLE, 0) + bytes(16) + bytes(16)
        self.sock.sendall(pack(HELLO, nobody + b"\0\0\0" + b"\x05\x01\x02\x03\x04\x05"))
        hello = self.answer()
        self.cluster_uuid, self.node_name = hello["cluster_uuid"], hello["node_name"]

    def take(self, size):
        """Return so many bytes, waiting for them."""
        data = self.file.read(size)
        if len(data) < size:
            raise ConnectionError("the node closed the connection")
        return data

    def receive(self):
        """Return the next frame that is for us: kind, fields."""
        while True:
            length, kind, _, _, _ = HEADER.unpack(self.take(HEADER.size))
            body = self.take(length)
            if kind == PING:
                self.sock.sendall(pack(PONG, body))
            elif kind == LINK_ERROR:
                raise RefusedError(decode(kind, body))
            elif kind != GOODBYE and not kind & OPTIONAL:
                return kind, decode(kind, body)

    def ask(self, kind, body=b""):
        """Send a request and return its stream."""
        self.stream += 1
        self.sock.sendall(pack(kind, body, DEFAULT_GROUP, self.stream))
        return self.stream

    def answer(self):
        """Return the next answer's fields, or raise what the node refused."""
        kind, fields = self.receive()
        if kind == FAILURE:
            raise RefusedError(fields)
        return fields

    def produce(self, values):
        """Append records; return the offset of the first."""
        batch = encode_batch(values)
        fixed = struct.pack(">BHIIQQII", 1, 0, len(values), crc32c(batch), 0, 0, 0, 0)
        self.ask(PRODUCE, fixed + batch)
        return self.answer()["base_offset"]

    def fetch(self, offset, size_max=0):
        """Return (entries, next offset)."""
        self.ask(FETCH, struct.pack(">QI", offset, size_max))
        reply = self.answer()
        return list(entries(self.cluster_uuid, DEFAULT_GROUP, reply["frames"])), reply["next_offset"]

    def follow(self, offset):
        """Yield entries for ever; each answer's bytes are given back as credit."""
        stream = self.ask(FOLLOW, struct.pack(">QI", offset, CREDIT_SIZE))
        while True:
            frames = self.answer()["frames"]
            yield from entries(self.cluster_uuid, DEFAULT_GROUP, frames)
            self.sock.sendall(pack(CREDIT, struct.pack(">I", len(frames)), 0, stream))


def connect(address, ca, cert, key):
    """Return a client of the node at "host:port"."""
    host, port = address.rsplit(":", 1)
    context = ssl.create_default_context(cafile=ca)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.load_cert_chain(cert, key)
    context.set_alpn_protocols(["loghouse/1"])
    plain = socket.create_connection((host, int(port)))
    return RawClient(context.wrap_socket(plain, server_hostname=host))


def main():
    """Run the command."""
    parser = argparse.ArgumentParser()
    parser.add_argument("address")
    for option in ("--ca", "--cert", "--key"):
        parser.add_argument(option, required=True)
    parser.add_argument("action", choices=["produce", "fetch", "follow"])
    parser.add_argument("argument")
    arguments = parser.parse_args()
    client = connect(arguments.address, arguments.ca, arguments.cert, arguments.key)
    if arguments.action == "produce":
        return print(client.produce([arguments.argument.encode()]))
    read = {"fetch": lambda offset: client.fetch(offset)[0], "follow": client.follow}[arguments.action]
    for kind, base_offset, record_count, _, _, payload in read(int(arguments.argument)):
        if kind == RECORDS:
            print(base_offset, record_count, payload.hex(), flush=True)


if __name__ == "__main__":
    main()
