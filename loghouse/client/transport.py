"""What a client's channels are made of: the binary protocol, or gRPC."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any, Final, Literal, get_args

from loghouse.client.binary_channel import BinaryChannel
from loghouse.client.channels import Channel, Hinted
from loghouse.client.connection import context_of
from loghouse.client.pin import ClusterPin
from loghouse.client.proving import Prover
from loghouse.client.target import Tls
from loghouse.client.tracing import connection_class, grpc_channel_class
from loghouse.errors import InvalidRequestError

Transport = Literal["binary", "grpc"]
TRANSPORTS: Final[tuple[str, ...]] = get_args(Transport)


def channel_maker(
    transport: Transport, tls: Tls | None, hinted: Hinted, pin: ClusterPin, tracing: Any = False
) -> Callable[[str], Channel]:
    """Return what makes a channel to an address.

    Args:
        tls: The client's certificates; None speaks plaintext, which nodes accept on loopback only.
        pin: The cluster that every server must be of.
        hinted: Called with the name and the group of a leader, when a node that is not it names it.
        tracing: False, or what the spans of appends go to.

    Raises:
        InvalidRequestError: There is no such transport.
        CertificateError: A certificate cannot be read.
    """
    if transport not in TRANSPORTS:
        raise InvalidRequestError("transport", f"{transport!r} is unknown; allowed: {', '.join(TRANSPORTS)}")
    if tls is not None:
        if not isinstance(tls, Tls):
            raise InvalidRequestError("tls", f"is a {type(tls).__name__}; give a Tls")
        ca, certificate, key = tls.pems()  # the files are read once, and now
        tls = Tls(ca=ca, certificate=certificate, key=key)
    prover = cache(lambda: Prover(tls, pin) if tls is not None else None)  # a binary client may never need it

    make_channel = grpc_channel_class(tracing)

    def make_grpc(address: str) -> Channel:
        return make_channel(address, prover(), hinted)

    if transport == "grpc":
        return make_grpc
    context = context_of(tls)
    make = connection_class(tracing)
    return lambda address: BinaryChannel(address, context, hinted, make_grpc, pin, make)
