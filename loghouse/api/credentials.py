"""mTLS for the gRPC server, with the credentials in force."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from typing import Any, Final

import grpc
from cryptography import x509

from loghouse.auth.credentials import Credentials, Material, TlsPaths
from loghouse.auth.trust import extension_of
from loghouse.errors import CertificateError
from loghouse.net.private_directory import PrivateDirectory

PROOF_SECONDS_MAX: Final = 5.0  # of a handshake with ourselves, which takes 15 ms
_PROOF_SERVICE: Final = "loghouse"
_PROOF_METHOD: Final = "Proof"


def grpc_credentials(credentials: Credentials) -> Any:
    """Return grpc's server credentials for one port; a client certificate is required and verified.

    grpc asks at each handshake, so that new certificates count for new connections without a restart.
    """
    used = credentials.material

    def fetch() -> Any:
        # grpc calls this before each handshake, on threads of its own; None means nothing changed.
        nonlocal used
        material = credentials.material
        if used is material:
            return None
        used = material
        return _configuration(material)

    return grpc.dynamic_ssl_server_credentials(_configuration(used), fetch, True)


def _configuration(material: Material) -> Any:
    pair = (material.issued.key_pem, material.issued.certificate_pem)
    return grpc.ssl_server_certificate_configuration([pair], material.ca_pem)


async def _nothing(request: bytes, context: object) -> bytes:
    """Answer with nothing: that it was called shows that both ends took each other's certificate."""
    return b""


def prove_grpc(material: Material, paths: TlsPaths) -> None:
    """Make a call to ourselves over a socket in a private directory, as server and as client.

    Raises:
        CertificateError: gRPC refuses; names the files and says why.
        ConfigError: There is no place for a socket.
    """
    host = _host_of(x509.load_pem_x509_certificate(material.issued.certificate_pem))
    if not host:
        raise CertificateError(
            f"{paths.certificate}: names no host, so no client can check it; make one with `loghouse certs"
            " node ... --host HOST`"
        )
    # A loop and a thread of its own: the caller's thread may be the reactor's, whose loop stays as it is.
    with closing(PrivateDirectory()) as private, ThreadPoolExecutor(1, "loghouse-proof") as thread:
        calling = _call_ourselves(f"unix:{private.socket_path}", host, material)
        try:
            thread.submit(asyncio.run, calling).result()
        except grpc.aio.AioRpcError as error:
            raise _refusal(paths, error.details() or "") from None
        except TimeoutError:
            raise _refusal(paths, "no answer to ourselves") from None
        except RuntimeError:
            raise _refusal(paths, "it cannot make a server of them") from None


async def _call_ourselves(address: str, host: str, material: Material) -> None:
    """Serve one call, and make it.

    Nothing here waits by the wall clock, as grpc's own timeouts and the start of its threaded server do.
    """
    own = material.issued
    credentials = grpc.ssl_channel_credentials(material.ca_pem, own.key_pem, own.certificate_pem)
    options = (("grpc.use_local_subchannel_pool", 1), ("grpc.ssl_target_name_override", host))
    methods = {_PROOF_METHOD: grpc.unary_unary_rpc_method_handler(_nothing)}
    server = grpc.aio.server(handlers=[grpc.method_handlers_generic_handler(_PROOF_SERVICE, methods)])
    pair = (own.key_pem, own.certificate_pem)
    server.add_secure_port(address, grpc.ssl_server_credentials([pair], material.ca_pem, True))
    await server.start()
    try:
        async with grpc.aio.secure_channel(address, credentials, options) as channel:
            async with asyncio.timeout(PROOF_SECONDS_MAX):
                await channel.unary_unary(f"/{_PROOF_SERVICE}/{_PROOF_METHOD}")(b"")
    finally:
        await server.stop(None)


def _host_of(certificate: x509.Certificate) -> str:
    """Return a name under which clients may reach the holder; empty when there is none."""
    names = extension_of(certificate, x509.SubjectAlternativeName)
    if names is None:
        return ""
    hosts = names.get_values_for_type(x509.DNSName)
    addresses = map(str, names.get_values_for_type(x509.IPAddress))
    return next((host.replace("*", "any") for host in (*hosts, *addresses)), "")


def _refusal(paths: TlsPaths, reason: str) -> CertificateError:
    reason = reason.rpartition("last error: ")[2].rpartition("OPENSSL_internal:")[2].removesuffix(": OK")
    return CertificateError(f"{paths.certificate} with {paths.ca}: gRPC's TLS cannot use them: {reason}")
