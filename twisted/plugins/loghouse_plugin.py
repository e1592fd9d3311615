"""Adds `loghouse` to twistd. No __init__.py beside this file: it would hide Twisted's own package."""

from twisted.application.service import ServiceMaker

loghouse = ServiceMaker(
    "Loghouse",
    "loghouse.tap",
    "Run a node of Loghouse, a replicated append-only log.",
    "loghouse",
)
