"""A catalogue with nodes, and what a test lets somebody change of it."""

from loghouse.catalogue.catalogue import Catalogue
from loghouse.catalogue.changes import create_log, delete_log
from loghouse.catalogue.records import CataloguedNode, LogSettings, NodeSet, decode_record, encode_record


def disk_of(name):
    return name.encode().ljust(16, b"-")


class Changer:
    """Appends to a catalogue's log what it decides, as somebody does who is never too late."""

    def __init__(self, *nodes, **fields):
        """Begin with nodes; `fields` are what all of them have."""
        self.catalogue = Catalogue()
        self.log = []
        for name in nodes:
            self.append(NodeSet(node=CataloguedNode(name=name, disk_uuid=disk_of(name), **fields)))

    def append(self, record):
        """Append a record, as it is read again; say whether it fitted."""
        self.log.append(encode_record(record))
        return self.catalogue.apply(len(self.log) - 1, decode_record(self.log[-1]))

    def create(self, name, replicas=3, *, on=(), alive=None, **settings):
        """Create a log; return the record, None when nothing was to be done."""
        alive = self.catalogue.nodes if alive is None else alive
        settings = LogSettings(replicas=replicas, **settings)
        record = create_log(self.catalogue, name, settings, alive=alive, on=on, at=7, by="root")
        if record is not None:
            assert self.append(record)
        return record

    def delete(self, name, at=9):
        """Delete a log."""
        assert self.append(delete_log(self.catalogue, name, at=at, by="root"))

    def nodes_of(self, name):
        """Return on which nodes a log is, the one that should lead first."""
        return [one.node for one in self.catalogue.logs[name].replicas]


def read(log, first=0):
    """Return the catalogue of a log that begins at an offset."""
    catalogue = Catalogue()
    for offset in range(first, len(log)):
        catalogue.apply(offset, decode_record(log[offset]))
    return catalogue


def everything(catalogue):
    """Return what a catalogue says, to be compared."""
    return catalogue.checkpoint()
