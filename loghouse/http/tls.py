"""TLS of the HTTP server, of the credentials in force. A client may come without a certificate."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from OpenSSL import SSL
from twisted.internet.interfaces import IOpenSSLServerConnectionCreator
from zope.interface import implementer

from loghouse.auth.credentials import Credentials
from loghouse.net.tls import http_context


@implementer(IOpenSSLServerConnectionCreator)
class HttpTls:
    """Makes the TLS connections. `credentials` and `clock` are what a shown certificate is checked by."""

    def __init__(self, credentials: Credentials, *, clock: Callable[[], float]) -> None:
        """Make the first context.

        Raises:
            CertificateError: OpenSSL cannot use the credentials.
        """
        self.credentials = credentials  # what is in force; fixed
        self.clock = clock  # seconds since the epoch; fixed
        self._used = credentials.material  # what the context is made of; follows `credentials`
        self._context = http_context(self._used)  # follows `_used`

    def serverConnectionForTLS(self, protocol: Any) -> SSL.Connection:
        """Twisted asks for an accepted connection."""
        material = self.credentials.material
        if material is not self._used:
            self._context, self._used = http_context(material), material
        return SSL.Connection(self._context, None)
