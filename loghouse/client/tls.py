"""What it means that TLS to a server failed."""

from __future__ import annotations

import ssl
from typing import Final

from loghouse.client.failures import CallFailure, refused_link, unmade_call
from loghouse.errors import IdentityError, UnauthenticatedError

_NOT_TLS: Final = frozenset({"WRONG_VERSION_NUMBER", "HTTP_REQUEST", "PACKET_LENGTH_TOO_LONG"})


def failed_tls(error: ssl.SSLError, address: str) -> CallFailure:
    """Return what it means that TLS failed: mostly that it always will."""
    cause, reason = cause_of(error), error.reason or ""
    if isinstance(error, ssl.SSLCertVerificationError):
        return refused_link(IdentityError(f"{address}: {cause}; check the address, and the CA (`ca`, --ca)"))
    if reason in _NOT_TLS:
        text = (
            f"{address} does not speak TLS; a node with plaintext: true wants a client without (--plaintext)"
        )
        return refused_link(IdentityError(text))
    if ("ALERT" in reason and "CERTIFICATE" in reason) or reason.endswith(("UNKNOWN_CA", "ACCESS_DENIED")):
        text = f"{address} does not accept this client's certificate: {cause}; check --cert and --key"
        return refused_link(UnauthenticatedError(text))
    return unmade_call(f"{address}: {cause}")


def cause_of(error: BaseException) -> str:
    """Return why a connection failed, in words."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate is not accepted: {error.verify_message}"
    if isinstance(error, ssl.SSLError):
        return f"TLS failed: {(error.reason or str(error)).lower().replace('_', ' ')}"
    if isinstance(error, ConnectionError) and not str(error):
        return "the server cut the connection"
    if isinstance(error, OSError):
        return error.strerror or str(error) or type(error).__name__
    return str(error) or type(error).__name__
