"""Annotations by which handlers get what is handled, and the broker, as arguments."""

from typing import Annotated

from faststream import Context
from faststream.annotations import ContextRepo, Logger
from faststream.params import NoCast

from loghouse.client.asynchronous import AsyncClient
from loghouse.integrations.faststream.broker import LoghouseBroker as _Broker
from loghouse.integrations.faststream.message import LoghouseMessage as _Message

__all__ = ["Client", "ContextRepo", "Logger", "LoghouseBroker", "LoghouseMessage", "NoCast"]

Client = Annotated[AsyncClient, Context("broker.client")]
LoghouseBroker = Annotated[_Broker, Context("broker")]
LoghouseMessage = Annotated[_Message, Context("message")]
