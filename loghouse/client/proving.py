"""How a gRPC channel gets to a node of the one cluster and to no other.

Python's gRPC shows a client neither the certificate of a server nor lets it judge. So a connection of ours
looks at the certificate first; then the channel is made to trust that one certificate alone, in place of the
CA. A server with another one (renewed, or of somebody else) is not spoken to, and is looked at anew.
"""

from __future__ import annotations

import asyncio
import ssl
from typing import Final

import grpc

from loghouse.client.connection import context_of
from loghouse.client.failures import CallFailedError, refused_link, unreached
from loghouse.client.pin import ClusterPin
from loghouse.client.target import Tls, split_address
from loghouse.client.tls import cause_of, failed_tls
from loghouse.errors import IdentityError

ALPN_GRPC: Final = "h2"


class Prover:
    """Looks at servers' certificates.

    Args:
        tls: The client's certificates.
        pin: The cluster that every server must be of.

    Raises:
        CertificateError: A certificate cannot be read.
    """

    def __init__(self, tls: Tls, pin: ClusterPin) -> None:
        self._context = context_of(tls)
        assert self._context is not None
        self._context.set_alpn_protocols([ALPN_GRPC])
        _, self._certificate, self._key = tls.pems()
        self._pin = pin

    async def credentials(self, address: str, seconds: float) -> grpc.ChannelCredentials:
        """Return credentials that trust the server there, as it is now, and no other.

        Raises:
            CallFailedError: There is none, or it is none of ours.
        """
        try:
            host, port = split_address(address)
            async with asyncio.timeout(seconds):
                _, writer = await asyncio.open_connection(host, port, ssl=self._context, server_hostname=host)
        except TimeoutError:
            raise unreached(address, f"no connection within {seconds:.3g} s") from None
        except ssl.SSLError as error:
            raise CallFailedError(failed_tls(error, address)) from None
        except (OSError, ValueError) as error:
            raise unreached(address, cause_of(error)) from None
        shown = writer.get_extra_info("ssl_object")
        certificate, encoded = shown.getpeercert(), shown.getpeercert(binary_form=True)
        writer.transport.abort()
        try:
            self._pin.check_certificate(certificate or {}, address)
        except IdentityError as error:
            raise CallFailedError(refused_link(error)) from None
        trusted = ssl.DER_cert_to_PEM_cert(encoded).encode()
        return grpc.ssl_channel_credentials(trusted, self._key, self._certificate)
