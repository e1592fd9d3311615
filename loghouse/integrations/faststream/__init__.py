"""A broker for FastStream: subscribers on logs with cursors, publishers, a test broker without a cluster.

Needs `loghouse[faststream]`. See docs/faststream.md.
"""

from importlib.util import find_spec

if find_spec("faststream") is None:
    raise ModuleNotFoundError(
        "FastStream is not installed; pip install 'loghouse[faststream]' brings it", name="faststream"
    )

from loghouse.integrations.faststream.broker import LoghouseBroker
from loghouse.integrations.faststream.message import LoghouseMessage, Received
from loghouse.integrations.faststream.publisher import LoghousePublisher
from loghouse.integrations.faststream.response import LoghousePublishCommand, LoghouseResponse
from loghouse.integrations.faststream.router import LoghousePublisherRoute, LoghouseRoute, LoghouseRouter
from loghouse.integrations.faststream.subscriber import LoghouseSubscriber
from loghouse.integrations.faststream.testing import TestLoghouseBroker

__all__ = [
    "LoghouseBroker",
    "LoghouseMessage",
    "LoghousePublishCommand",
    "LoghousePublisher",
    "LoghousePublisherRoute",
    "LoghouseResponse",
    "LoghouseRoute",
    "LoghouseRouter",
    "LoghouseSubscriber",
    "Received",
    "TestLoghouseBroker",
]
