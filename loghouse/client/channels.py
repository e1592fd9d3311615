"""One gRPC channel for each address, kept while somebody uses it, closed when the address is gone."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, Final

import grpc
from grpc import aio

from loghouse.api.v1 import log_pb2, log_pb2_grpc
from loghouse.client.target import Tls
from loghouse.errors import UnavailableError
from loghouse.limits import GRPC_MESSAGE_SIZE_MAX

_OPTIONS: Final = (
    ("grpc.max_receive_message_length", GRPC_MESSAGE_SIZE_MAX),
    ("grpc.max_send_message_length", GRPC_MESSAGE_SIZE_MAX),
    # Connections of this client only: another one in this process may have other certificates.
    ("grpc.use_local_subchannel_pool", 1),
    # Retries are ours: gRPC's own do not know what may be done twice.
    ("grpc.enable_retries", 0),
    # A node that comes back is dialled soon; a black hole is given up after a while.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 3_000),
    ("grpc.max_reconnect_backoff_ms", 2_000),
    # A server that vanished is noticed; nodes allow a ping every ten seconds.
    ("grpc.keepalive_time_ms", 20_000),
    ("grpc.keepalive_timeout_ms", 10_000),
)


class Channel:
    """A channel to one address: the stubs of both services."""

    def __init__(self, address: str, credentials: grpc.ChannelCredentials | None) -> None:
        if credentials is None:
            self.aio = aio.insecure_channel(address, _OPTIONS)
        else:
            self.aio = aio.secure_channel(address, credentials, _OPTIONS)
        self.address = address
        self.log: Any = log_pb2_grpc.LogStub(self.aio)  # type: ignore[no-untyped-call]
        self.cluster: Any = log_pb2_grpc.ClusterStub(self.aio)  # type: ignore[no-untyped-call]
        # As bytes both: frames and batches are large, and a message would copy them.
        self.produce_batch_stream: Any = self.aio.stream_stream(
            "/log.v1.Log/ProduceBatchStream",
            response_deserializer=log_pb2.ProduceBatchResponse.FromString,
        )
        self.fetch_stream: Any = self.aio.unary_stream(
            "/log.v1.Log/FetchStream", request_serializer=log_pb2.FetchRequest.SerializeToString
        )
        self.use_count = 0
        self.is_retired = False


class Channels:
    """The channels of one client, made as they are needed.

    Args:
        tls: The client's certificates; None speaks plaintext, which nodes accept on loopback only.
    """

    def __init__(self, tls: Tls | None) -> None:
        self._credentials: grpc.ChannelCredentials | None = None
        if tls is not None:
            ca, certificate, key = tls.pems()
            self._credentials = grpc.ssl_channel_credentials(ca, key, certificate)
        self._channels: dict[str, Channel] = {}
        self._closing: set[asyncio.Task[None]] = set()
        self.is_closed = False

    @contextmanager
    def lend(self, address: str) -> Iterator[Channel]:
        """Give a channel for the block; it is not closed under whoever uses it, except by `close`.

        Raises:
            UnavailableError: The client is closed.
        """
        if self.is_closed:
            raise UnavailableError("the client is closed")
        channel = self._channels.get(address)
        if channel is None:
            channel = self._channels[address] = Channel(address, self._credentials)
        channel.use_count += 1
        try:
            yield channel
        finally:
            channel.use_count -= 1
            if channel.is_retired and not channel.use_count:
                self._close_soon(channel)

    def keep(self, addresses: Iterable[str]) -> None:
        """Close the channels to all other addresses, each once nobody uses it."""
        for address in self._channels.keys() - set(addresses):
            self.retire(address)

    def retire(self, address: str) -> None:
        """Let the next call there dial anew."""
        channel = self._channels.pop(address, None)
        if channel is not None:
            channel.is_retired = True
            if not channel.use_count:
                self._close_soon(channel)

    @property
    def addresses(self) -> set[str]:
        """Where there is a channel to."""
        return set(self._channels)

    async def close(self) -> None:
        """Close everything; calls under way end."""
        self.is_closed = True
        channels, self._channels = list(self._channels.values()), {}
        for channel in channels:
            await channel.aio.close()
        if self._closing:
            await asyncio.gather(*self._closing)

    def _close_soon(self, channel: Channel) -> None:
        if self.is_closed:
            return  # `close` does it
        task = asyncio.ensure_future(channel.aio.close())
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)
