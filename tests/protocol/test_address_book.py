"""The file `members`: what goes in comes out, damage is found, and it stays small enough for storage."""

from twisted.trial.unittest import SynchronousTestCase

from loghouse.errors import MalformedMessageError
from loghouse.limits import ADDRESS_BOOK_SIZE_MAX, GOSSIP_MEMBERS_MAX, INCARNATION_MAX
from loghouse.protocol.address_book import (
    AddressBook,
    Contact,
    contact_size,
    decode_address_book,
    encode_address_book,
)
from loghouse.protocol.entry import crc32c
from loghouse.storage.directory import MEMBERS_SIZE_MAX


def contact(number, *, incarnation=3, address="10.0.0.1:8400"):
    return Contact(
        name=f"node-{number}", disk_uuid=number.to_bytes(16, "big"), incarnation=incarnation, address=address
    )


class AddressBookTests(SynchronousTestCase):
    """`encode_address_book` and `decode_address_book`."""

    BOOK = AddressBook(incarnation=17, contacts=(contact(1), contact(2, address="näher.example:1")))
    # The layout of docs/membership.md, byte by byte.
    BYTES = bytes.fromhex(
        "4c4f4748424f4f4b 0001 0000000000000011 0002"  # LOGHBOOK, version, incarnation, contacts
        "06 6e6f64652d31 00000000000000000000000000000001 0000000000000003"
        "000d 31302e302e302e313a38343030"
        "06 6e6f64652d32 00000000000000000000000000000002 0000000000000003"
        "0010 6ec3a46865722e6578616d706c653a31"
    )

    def test_layout(self):
        """The bytes are those of the documented layout, with a CRC32C behind them."""
        content = encode_address_book(self.BOOK)
        self.assertEqual(content, self.BYTES + crc32c(self.BYTES).to_bytes(4, "big"))
        self.assertEqual(decode_address_book(content), self.BOOK)

    def test_empty(self):
        """No file is an empty book."""
        self.assertEqual(decode_address_book(b""), AddressBook())
        self.assertEqual(decode_address_book(encode_address_book(AddressBook())), AddressBook())

    def test_damage(self):
        """Every truncation and every flipped bit is found."""
        content = encode_address_book(self.BOOK)
        for length in range(1, len(content)):
            self.assertRaises(MalformedMessageError, decode_address_book, content[:length])
        for bit in range(8 * len(content)):
            flipped = bytearray(content)
            flipped[bit // 8] ^= 1 << bit % 8
            self.assertRaises(MalformedMessageError, decode_address_book, bytes(flipped))

    def test_false_content(self):
        """A proper checksum over improper content does not help it."""
        good = encode_address_book(self.BOOK)[:-4]
        for name, fields in (
            ("magic", b"LOGHSTRT" + good[8:]),
            ("version", good[:8] + b"\x00\x02" + good[10:]),
            ("incarnation", good[:10] + b"\xff" * 8 + good[18:]),
            ("count", good[:18] + b"\xff\xff" + good[20:]),
            ("name", good.replace(b"node-1", b"node 1")),
            ("address", good.replace(b"10.0.0.1", b"10.0.0\n1")),
            ("utf-8", good.replace("ä".encode(), b"\xc3\xc3")),
            ("bytes behind", good + b"\x00"),
            ("contact's incarnation", good.replace((3).to_bytes(8, "big"), bytes(8))),
        ):
            content = fields + crc32c(fields).to_bytes(4, "big")
            error = self.assertRaises(MalformedMessageError, decode_address_book, content)
            self.assertIn("address book", str(error), name)

    def test_size(self):
        """A book with the longest addresses is cut to what storage keeps; a larger file is refused."""
        longest = tuple(
            contact(number, incarnation=INCARNATION_MAX, address="x" * 261)
            for number in range(GOSSIP_MEMBERS_MAX)
        )
        content = encode_address_book(AddressBook(incarnation=1, contacts=longest))
        self.assertLessEqual(len(content), ADDRESS_BOOK_SIZE_MAX)
        self.assertGreater(len(content) + contact_size(longest[-1]), ADDRESS_BOOK_SIZE_MAX)
        contacts = decode_address_book(content).contacts
        self.assertEqual(contacts, longest[: len(contacts)])
        self.assertLessEqual(ADDRESS_BOOK_SIZE_MAX, MEMBERS_SIZE_MAX)
        self.assertRaises(MalformedMessageError, decode_address_book, bytes(ADDRESS_BOOK_SIZE_MAX + 1))

    def test_usual_size(self):
        """Two hundred members with addresses of usual length fit."""
        usual = tuple(contact(number, address="node-123.logs.example.com:8400") for number in range(200))
        book = AddressBook(incarnation=1, contacts=usual)
        self.assertEqual(decode_address_book(encode_address_book(book)), book)
