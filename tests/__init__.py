"""One suite for two runners: `python -m pytest` and `python -m twisted.trial tests`."""

import signal

from hypothesis import HealthCheck, settings

from loghouse.runtime import reactor as _reactor

_reactor.install()

# How fast a loaded machine makes examples says nothing about the code.
settings.register_profile("loghouse", suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("loghouse")

# A shell that starts a run in the background lets it ignore Ctrl-C, and the processes that tests start
# and interrupt would inherit that.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
