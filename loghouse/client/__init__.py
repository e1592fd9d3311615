"""Clients of a Loghouse cluster: `connect` for asyncio, `connect_blocking` where there is no event loop.

Needs neither Twisted nor anything of the server. For Twisted programs there is `loghouse.client.deferred`. A
name is imported when it is first asked for: the embedded log shares the records of this package and brings no
gRPC.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from loghouse.client.asynchronous import AsyncClient, connect
    from loghouse.client.balancing import ClusterView, Server
    from loghouse.client.blocking import Client, connect_blocking
    from loghouse.client.blocking_consumer import Consumer, GroupConsumer
    from loghouse.client.blocking_producer import BlockingDelivery, Producer
    from loghouse.client.choice import ReadOptions
    from loghouse.client.consumer_settings import ConsumerOptions
    from loghouse.client.consuming import AsyncConsumer
    from loghouse.client.cursors import Advance, AsyncCursors, BlockingCursors, Cursor
    from loghouse.client.group_consuming import AsyncGroupConsumer
    from loghouse.client.group_records import GroupBatch, GroupRecord
    from loghouse.client.pages import RecordPage
    from loghouse.client.producing import AsyncProducer, Delivery
    from loghouse.client.records import Batch, Bounds, NewRecord, Record
    from loghouse.client.target import Tls

__all__ = [
    "Advance",
    "AsyncClient",
    "AsyncConsumer",
    "AsyncCursors",
    "AsyncGroupConsumer",
    "AsyncProducer",
    "Batch",
    "BlockingCursors",
    "BlockingDelivery",
    "Bounds",
    "Client",
    "ClusterView",
    "Consumer",
    "ConsumerOptions",
    "Cursor",
    "Delivery",
    "GroupBatch",
    "GroupConsumer",
    "GroupRecord",
    "NewRecord",
    "Producer",
    "ReadOptions",
    "Record",
    "RecordPage",
    "Server",
    "Tls",
    "connect",
    "connect_blocking",
]

_MODULES = {
    "Advance": "cursors",
    "AsyncClient": "asynchronous",
    "AsyncConsumer": "consuming",
    "AsyncCursors": "cursors",
    "AsyncGroupConsumer": "group_consuming",
    "AsyncProducer": "producing",
    "Batch": "records",
    "BlockingCursors": "cursors",
    "BlockingDelivery": "blocking_producer",
    "Bounds": "records",
    "Client": "blocking",
    "ClusterView": "balancing",
    "Consumer": "blocking_consumer",
    "ConsumerOptions": "consumer_settings",
    "Cursor": "cursors",
    "Delivery": "producing",
    "GroupBatch": "group_records",
    "GroupConsumer": "blocking_consumer",
    "GroupRecord": "group_records",
    "NewRecord": "records",
    "Producer": "blocking_producer",
    "ReadOptions": "choice",
    "Record": "records",
    "RecordPage": "pages",
    "Server": "balancing",
    "Tls": "target",
    "connect": "asynchronous",
    "connect_blocking": "blocking",
}


def __getattr__(name: str) -> Any:
    module = _MODULES.get(name)
    if module is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found = globals()[name] = getattr(import_module(f"{__name__}.{module}"), name)
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
