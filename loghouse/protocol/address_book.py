"""The file `members`: a node's own incarnation, and where it last knew the others.

With it a node finds its cluster again after a restart of all nodes, without seeds, and never says again
what it said before. Storage keeps the bytes and does not look into them. Layout in `docs/membership.md`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Final

from construct import Bytes, ConstructError, Int16ub, Struct, Terminated

from loghouse.errors import MalformedMessageError
from loghouse.limits import ADDRESS_BOOK_SIZE_MAX, ADDRESS_SIZE_MAX, INCARNATION_MAX
from loghouse.protocol.entry import with_crc, without_crc
from loghouse.protocol.fields import U64, Items16, LongText, ShortText, Uuid, plain, read_fields, struct_of
from loghouse.protocol.message import check_name, check_text

MAGIC: Final = b"LOGHBOOK"
FORMAT_VERSION: Final = 1
_FIXED_SIZE: Final = 8 + 2 + 8 + 2 + 4  # magic, version, incarnation, number of contacts, CRC


@dataclass(frozen=True, slots=True, kw_only=True)
class Contact:
    """A member that was known: who, where, and the highest incarnation heard of it."""

    name: ShortText
    disk_uuid: Uuid
    incarnation: U64
    address: LongText


@dataclass(frozen=True, slots=True, kw_only=True)
class AddressBook:
    """What a member must not forget: no message of it ever said more than `incarnation`; its contacts."""

    incarnation: U64 = 0
    contacts: Items16[Contact] = ()


# Not compiled: the slow parser is the one that checks lengths.
_WIRE: Final = Struct("magic" / Bytes(8), "version" / Int16ub, *struct_of(AddressBook).subcons, Terminated)


def contact_size(contact: Contact) -> int:
    """Return how many bytes a contact takes in the file."""
    return 1 + len(contact.name.encode()) + 16 + 8 + 2 + len(contact.address.encode())


def encode_address_book(book: AddressBook) -> bytes:
    """Return the content of the file; the last contacts are left out if it would be too large."""
    room = ADDRESS_BOOK_SIZE_MAX - _FIXED_SIZE
    contacts = []
    for contact in book.contacts:
        room -= contact_size(contact)
        if room < 0:
            break
        contacts.append(contact)
    kept = replace(book, contacts=tuple(contacts))
    return with_crc(_WIRE.build({"magic": MAGIC, "version": FORMAT_VERSION, **plain(kept)}))


def decode_address_book(content: bytes) -> AddressBook:
    """Return the book in a file's content; an empty file is an empty book.

    Raises:
        MalformedMessageError: It is damaged, or of another version. A node may go on with an empty book: it
            then needs a seed, and learns its incarnation from the others.
    """
    return _decoded(bytes(content)) if content else AddressBook()


@lru_cache(maxsize=1)  # each log that is opened looks whether there are others
def _decoded(content: bytes) -> AddressBook:
    if len(content) > ADDRESS_BOOK_SIZE_MAX:
        raise MalformedMessageError(f"address book of {len(content)} bytes, at most {ADDRESS_BOOK_SIZE_MAX}")
    fields = without_crc(content)
    if fields is None:
        raise MalformedMessageError("address book: checksum does not match")
    try:
        parsed = _WIRE.parse(fields)
        if parsed.magic != MAGIC or parsed.version != FORMAT_VERSION:
            raise ValueError(f"not an address book of version {FORMAT_VERSION}")
        book = read_fields(AddressBook, parsed)
        for contact in book.contacts:
            check_name("node", contact.name)
            check_text("address", contact.address, ADDRESS_SIZE_MAX)
            if not 0 < contact.incarnation <= INCARNATION_MAX:
                raise ValueError(f"incarnation {contact.incarnation}")
        if not 0 <= book.incarnation <= INCARNATION_MAX:
            raise ValueError(f"incarnation {book.incarnation}")
    except (ConstructError, UnicodeError, ValueError) as error:
        raise MalformedMessageError(f"address book: {error}") from error
    return book
