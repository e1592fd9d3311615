"""The gRPC ceiling: the same process set-up as a node, with handlers that do nothing.

Reactor, loop, TLS and options are the node's; the handlers answer from constants.
Prints its port and serves until its standard input closes.
"""

import asyncio
import sys

from loghouse.runtime import reactor as _reactor

_reactor.install()

import grpc
from twisted.internet import reactor

from loghouse.api.server import channel_options
from loghouse.api.v1 import log_pb2, log_pb2_grpc


class EmptyLog(log_pb2_grpc.LogServicer):
    """Answers from constants."""

    async def Produce(self, request, context):
        return log_pb2.ProduceResponse(offset=1)

    async def ProduceBatchStream(self, requests, context):
        async for request in requests:
            yield log_pb2.ProduceBatchResponse(base_offset=1, record_count=request.record_count)

    async def FetchStream(self, request, context):
        """Send `offset` messages of `size_max` bytes: the request's fields are the script."""
        message = log_pb2.FetchResponse(frames=bytes(request.size_max), next_offset=1)
        for _ in range(request.offset):
            yield message


async def serve(folder: str) -> None:
    server = grpc.aio.server(options=channel_options())
    log_pb2_grpc.add_LogServicer_to_server(EmptyLog(), server)

    def read(name: str) -> bytes:
        with open(f"{folder}/{name}", "rb") as file:
            return file.read()

    credentials = grpc.ssl_server_credentials(
        [(read("node-1.key"), read("node-1.pem"))], read("ca.pem"), require_client_auth=True
    )
    port = server.add_secure_port("127.0.0.1:0", credentials)
    await server.start()
    print(port, flush=True)
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
    await server.stop(0)
    reactor.stop()


serving = asyncio.ensure_future(serve(sys.argv[1]), loop=asyncio.get_event_loop())
reactor.run()
serving.result()
