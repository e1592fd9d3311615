"""One suite for two runners: `python -m pytest` and `python -m twisted.trial tests`."""

import signal

from loghouse import _reactor

_reactor.install()

# A shell that starts a run in the background lets it ignore Ctrl-C, and the processes that tests start
# and interrupt would inherit that.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
