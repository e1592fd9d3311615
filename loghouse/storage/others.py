"""Whether a node has others to ask: what its address book and its log's small files tell of its cluster."""

from __future__ import annotations

from loghouse.errors import DamageError, MalformedMessageError
from loghouse.protocol.address_book import decode_address_book
from loghouse.protocol.configuration import Configuration
from loghouse.protocol.entry import frame_seed
from loghouse.storage.directory import DataDirectory
from loghouse.storage.files import Files
from loghouse.storage.recovery import stores_among
from loghouse.storage.start import read_start, read_state


def last_configuration(files: Files, directory: str, seed: int) -> Configuration:
    """Return the latest configuration that a log's small files tell, damaged or not; maybe an old one."""
    for base in reversed(stores_among(files.list_directory(directory))):
        state = read_state(files, directory, seed, base)
        if state is not None and state.configuration.members:
            return state.configuration
    try:
        return read_start(files, directory, seed, "")[0].configuration
    except DamageError:
        return Configuration()


def has_others(configuration: Configuration, name: str) -> bool:
    """Whether a configuration has members besides this node."""
    return any(member.name != name for member in configuration.members)


def knows_others(files: Files, data: DataDirectory, group: int) -> bool:
    """Whether a node has others to ask, by its address book or its log's small files."""
    name, seed = data.identity.node_name, frame_seed(data.identity.cluster_uuid, group)
    try:
        contacts = decode_address_book(data.read_members()).contacts
    except MalformedMessageError:
        contacts = ()
    if any(contact.name != name for contact in contacts):
        return True
    return has_others(last_configuration(files, data.log_directory(group), seed), name)
