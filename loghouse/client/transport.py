"""What a client's channels are made of: the binary protocol, or gRPC."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, Literal, get_args

from loghouse.client.binary_channel import BinaryChannel
from loghouse.client.channels import Channel
from loghouse.client.connection import context_of
from loghouse.client.grpc_channel import GrpcChannel, credentials_of
from loghouse.client.target import Tls
from loghouse.errors import InvalidRequestError

Transport = Literal["binary", "grpc"]
TRANSPORTS: Final[tuple[str, ...]] = get_args(Transport)


def check_transport(transport: str) -> str:
    """Return a transport's name when it is one.

    Raises:
        InvalidRequestError: It is not.
    """
    if transport not in TRANSPORTS:
        raise InvalidRequestError("transport", f"{transport!r} is unknown; allowed: {', '.join(TRANSPORTS)}")
    return transport


def channel_maker(
    transport: Transport, tls: Tls | None, hinted: Callable[[str], None]
) -> Callable[[str], Channel]:
    """Return what makes a channel to an address.

    Args:
        tls: The client's certificates; None speaks plaintext, which nodes accept on loopback only.
        hinted: Called with the name of the leader, when a node that is not the leader names it.

    Raises:
        CertificateError: A certificate cannot be read.
    """
    credentials = credentials_of(tls)

    def make_grpc(address: str) -> Channel:
        return GrpcChannel(address, credentials, hinted)

    if transport == "grpc":
        return make_grpc
    context = context_of(tls)
    return lambda address: BinaryChannel(address, context, hinted, make_grpc)
