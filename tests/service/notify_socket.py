"""The end of the line at which systemd would listen."""

import contextlib
import socket
import tempfile
import uuid
from pathlib import Path


class NotifySocket:
    """A socket for sd_notify's messages: a file, or an abstract address."""

    def __init__(self, is_abstract=False):
        self._folder = None if is_abstract else tempfile.TemporaryDirectory()
        # A test's own folder would be too long for the address of a socket.
        self.address = f"@loghouse-{uuid.uuid4()}" if is_abstract else str(Path(self._folder.name, "notify"))
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(self.address.replace("@", "\0", 1) if is_abstract else self.address)
        self._socket.setblocking(False)
        self.heard = []

    def listen(self):
        """Return all messages so far, each as a dictionary."""
        with contextlib.suppress(BlockingIOError):
            while True:
                text = self._socket.recv(65536).decode()
                self.heard.append(dict(line.split("=", 1) for line in text.split("\n")))
        return self.heard

    def close(self):
        """Listen no more."""
        self._socket.close()
        if self._folder is not None:
            self._folder.cleanup()
