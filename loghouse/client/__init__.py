"""Clients of a Loghouse cluster: `connect` for asyncio, `connect_blocking` for everybody else.

Needs neither Twisted nor anything of the server. The client of the binary protocol for Twisted programs is
`loghouse.net.binary_client`.
"""

from loghouse.client.asynchronous import AsyncClient, connect
from loghouse.client.balancing import ClusterView, Server
from loghouse.client.blocking import Client, connect_blocking
from loghouse.client.blocking_producer import BlockingDelivery, Producer
from loghouse.client.producing import AsyncProducer, Delivery
from loghouse.client.records import Batch, Bounds, Record
from loghouse.client.target import Tls

__all__ = [
    "AsyncClient",
    "AsyncProducer",
    "Batch",
    "BlockingDelivery",
    "Bounds",
    "Client",
    "ClusterView",
    "Delivery",
    "Producer",
    "Record",
    "Server",
    "Tls",
    "connect",
    "connect_blocking",
]
