"""A synchronous gRPC connection to one node, for the command line and small scripts.

It gives the generated stubs a channel with the right certificates and limits, and turns failed calls into
`CallError`s that say what happened and what to do next.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import MappingProxyType, TracebackType
from typing import Any, Final

import grpc
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from loghouse.api.v1 import log_pb2, log_pb2_grpc
from loghouse.errors import LoghouseError, ProtocolError
from loghouse.limits import GRPC_MESSAGE_SIZE_MAX
from loghouse.protocol.batch import decode_batch
from loghouse.protocol.entry import CODEC_MASK, EntryKind, decode_entries, frame_seed

DEFAULT_GROUP: Final = 1  # the Raft group of the log named `default`

_NEXT_STEPS: Final[Mapping[str, str]] = {
    "UNAVAILABLE": "is a node running and ready there? try again, or another --server",
    "DEADLINE_EXCEEDED": "the node did not answer in time; an append may or may not have happened",
    "ABORTED": "the record may or may not have been appended; look at the log's end before trying again",
    "PERMISSION_DENIED": "ask for a rule in the node's policy, or use another certificate (--cert, --key)",
    "UNAUTHENTICATED": "give a client certificate of the cluster's CA (--cert, --key)",
    "RESOURCE_EXHAUSTED": "try again later, slower or smaller",
    "UNIMPLEMENTED": "the node's version does not serve this call",
}


_NEVER_SENT: Final = re.compile(
    r"failed to connect|resolution failed|Connection refused|[Hh]andshake|Ssl|SSL", re.ASCII
)


class CallError(LoghouseError):
    """A call failed: `status` is gRPC's name for how; `reason` and `details` are the server's ErrorInfo."""

    def __init__(
        self,
        server: str,
        status: str,
        message: str,
        reason: str = "",
        details: Mapping[str, str] | None = None,
        next_steps: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        # gRPC says UNAVAILABLE both for "never got there" and for "the link broke after the request left".
        # With a reason it is the node's own word that nothing happened.
        self.is_retryable = status == "UNAVAILABLE" and bool(reason or _NEVER_SENT.search(message))
        message = _plain_message(message)
        self.server = server
        self.status = status
        self.reason = reason
        self.details = dict(details or {})
        self.next_step = next_steps.get(status) or _NEXT_STEPS.get(status, "")
        super().__init__(f"{server}: {message}" + (f" ({self.next_step})" if self.next_step else ""))

    @property
    def is_outcome_unknown(self) -> bool:
        """Whether an append that failed so may still have happened."""
        if self.status == "UNAVAILABLE":
            return not self.is_retryable
        return self.status in ("ABORTED", "DEADLINE_EXCEEDED", "UNKNOWN", "CANCELLED", "INTERNAL")


def call_error(
    server: str, error: grpc.RpcError, next_steps: Mapping[str, str] = MappingProxyType({})
) -> CallError:
    """Return what a failed call means; `next_steps` say by status what to do, where this call has its own."""
    status = error.code().name
    reason, details = "", {}
    try:
        rich = rpc_status.from_call(error)
    except ValueError:  # details that contradict the call's own status: trust the status
        rich = None
    for packed in rich.details if rich is not None else ():
        found = error_details_pb2.ErrorInfo()
        if packed.Unpack(found):
            reason, details = found.reason, dict(found.metadata)
    return CallError(server, status, error.details() or status, reason, details, next_steps)


def _plain_message(details: str) -> str:
    """Cut gRPC's wording of a failed connection down to its cause."""
    _, found, cause = details.rpartition("last error: ")
    text = cause if found else details
    return text.strip().replace("\n", " ")


@dataclass(frozen=True, slots=True, kw_only=True)
class Credentials:
    """PEM texts of a client: the CA of the nodes, its certificate, and the certificate's key."""

    ca_pem: bytes
    certificate_pem: bytes
    key_pem: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class ReadRecord:
    """A record as it was read: its offset, the leader's append time in microseconds, and the record."""

    offset: int
    timestamp: int
    record: log_pb2.Record


class Connection:
    """A channel to one node. Use it as a context manager; `log` and `cluster` are the generated stubs."""

    def __init__(
        self, server: str, credentials: Credentials | None, *, timeout_seconds: float = 10.0
    ) -> None:
        """Make the channel; nothing is dialled until the first call.

        Args:
            server: host:port.
            credentials: None speaks plaintext, which nodes accept on loopback only.
            timeout_seconds: How long calls that answer once may take.
        """
        options = [
            ("grpc.max_receive_message_length", GRPC_MESSAGE_SIZE_MAX),
            ("grpc.max_send_message_length", GRPC_MESSAGE_SIZE_MAX),
        ]
        if credentials is None:
            self._channel = grpc.insecure_channel(server, options)
        else:
            tls = grpc.ssl_channel_credentials(
                credentials.ca_pem, credentials.key_pem, credentials.certificate_pem
            )
            self._channel = grpc.secure_channel(server, tls, options)
        self.server = server
        self.timeout_seconds = timeout_seconds
        self.log: Any = log_pb2_grpc.LogStub(self._channel)  # type: ignore[no-untyped-call]
        self.cluster: Any = log_pb2_grpc.ClusterStub(self._channel)  # type: ignore[no-untyped-call]

    def __enter__(self) -> Connection:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the channel; calls under way end."""
        self._channel.close()

    @contextmanager
    def errors(self, next_steps: Mapping[str, str] = MappingProxyType({})) -> Iterator[None]:
        """Turn gRPC's errors inside the block into `CallError`s; `next_steps` as in `call_error`."""
        try:
            yield
        except grpc.RpcError as error:
            raise call_error(self.server, error, next_steps) from None

    def servers(self) -> log_pb2.GetServersResponse:
        """Return the nodes of the cluster, its uuid and its name."""
        with self.errors():
            reply: log_pb2.GetServersResponse = self.log.GetServers(
                log_pb2.GetServersRequest(), timeout=self.timeout_seconds
            )
        return reply

    def bounds(self, log: str = "", *, wait_for_ready: bool = False) -> tuple[int, int]:
        """Return (lowest readable offset, next offset to be given out).

        With `wait_for_ready` it goes on dialling a node that is not there yet, until the timeout.
        """
        request = log_pb2.BoundsRequest(log=log)
        with self.errors():
            reply = self.log.Bounds(request, timeout=self.timeout_seconds, wait_for_ready=wait_for_ready)
        return reply.lowest, reply.next

    def read(self, offset: int, *, log: str = "", size_max: int = 0) -> Iterator[list[ReadRecord]]:
        """Yield records from `offset` on, following the tail for ever; every checksum is checked here.

        Each list is one answer of the node, so it holds what had been appended when it was sent.

        Args:
            offset: Of the first record; one not yet given out is waited for.
            log: Its name; empty means the default one.
            size_max: Bytes in one answer; 0 means the server's default.

        Raises:
            CallError: The call failed.
            ProtocolError: The server's cluster uuid is not one.
            EntryError: Bytes arrived damaged.
        """
        seed = self._seed()
        request = log_pb2.FetchRequest(offset=offset, size_max=size_max, log=log)
        call = self.log.FetchStream(request)
        try:
            with self.errors():
                for reply in call:
                    yield list(records_of(seed, reply.frames, offset))
        finally:
            call.cancel()

    def _seed(self) -> int:
        cluster = self.servers().cluster_uuid
        if len(cluster) != 16:
            raise ProtocolError(f"{self.server}: its cluster uuid has {len(cluster)} bytes, not 16")
        return frame_seed(cluster, DEFAULT_GROUP)


def records_of(seed: int, frames: bytes, offset: int) -> Iterator[ReadRecord]:
    """Yield the records at or above `offset` of whole entry frames.

    Raises:
        EntryError: A frame is damaged or cut off.
        InvalidRequestError: A payload is not a batch.
    """
    for entry in decode_entries(seed, frames):
        if entry.kind != EntryKind.RECORDS or entry.next_offset <= offset:
            continue
        batch = decode_batch(entry.payload, entry.attributes & CODEC_MASK)
        for place, record in enumerate(batch.records):
            if entry.base_offset + place >= offset:
                yield ReadRecord(entry.base_offset + place, record.timestamp or entry.timestamp, record)
