"""The client for Twisted programs: its calls give Deferreds, on any reactor.

    log = connect("loghouse://a.example:8400,b.example:8400", tls=tls)
    appending = log.append(b"hello")  # a Deferred of the offset

It needs Twisted, which `pip install 'loghouse[twisted]'` brings; `loghouse.client` alone does without.
"""

try:
    import twisted.internet.defer  # noqa: F401
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        f"loghouse.client.deferred needs Twisted ({error}); pip install 'loghouse[twisted]' brings it",
        name=error.name,
    ) from None

from loghouse.client.deferred.client import DeferredClient, connect
from loghouse.client.deferred.consumer import DeferredConsumer, DeferredGroupConsumer
from loghouse.client.deferred.cursors import DeferredCursors
from loghouse.client.deferred.log import DeferredLog
from loghouse.client.deferred.producer import DeferredDelivery, DeferredProducer

__all__ = [
    "DeferredClient",
    "DeferredConsumer",
    "DeferredCursors",
    "DeferredDelivery",
    "DeferredGroupConsumer",
    "DeferredLog",
    "DeferredProducer",
    "connect",
]
