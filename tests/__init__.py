"""One suite for two runners: `python -m pytest` and `python -m twisted.trial tests`."""

import functools
import signal

from hypothesis import HealthCheck, settings

from loghouse.runtime import reactor as _reactor

_reactor.install()

from twisted.internet import reactor  # noqa: E402 -- the one just installed

# How fast a loaded machine makes examples says nothing about the code.
settings.register_profile("loghouse", suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("loghouse")

# A signal that is to end a run ends it. Twisted's own handlers would stay in force from the first test on
# that runs the reactor: it would take a SIGTERM between two such tests for itself, stop in the next one, fail
# that and every one behind it.
reactor.run = functools.partial(reactor.run, installSignalHandlers=False)

# A shell that starts a run in the background lets it ignore Ctrl-C, and the processes that tests start
# and interrupt would inherit that.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
