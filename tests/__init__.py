"""One suite for two runners: `python -m pytest` and `python -m twisted.trial tests`."""

from loghouse import _reactor

_reactor.install()
