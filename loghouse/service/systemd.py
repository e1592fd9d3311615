"""Tells systemd how this process is: it serves, reads its settings again, stops, and is alive (sd_notify(3)).

A message is one datagram of `NAME=value` lines. Nobody answers; what goes wrong is a line in the diagnostics.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Mapping
from typing import Final

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import LoopingCall
from twisted.logger import Logger
from twisted.python.failure import Failure

from loghouse.text import visible

SOCKET: Final = "NOTIFY_SOCKET"
SEND_SECONDS_MAX: Final = 0.1  # the reactor waits no longer for systemd to take a message
_RELOAD_REFUSED: Final = "\nSTATUS=the last reload was refused; the log says why"


class SystemdNotifier:
    """The one who speaks to systemd in a process.

    Args:
        environment: With `NOTIFY_SOCKET`; with `WATCHDOG_USEC`, and `WATCHDOG_PID` of this process, too, when
            systemd wants to hear that the process is alive.
        clock: The reactor that has to be alive.
    """

    logger = Logger()

    def __init__(self, environment: Mapping[str, str], clock: IReactorTime) -> None:
        address = environment[SOCKET]
        self._address = "\0" + address[1:] if address.startswith("@") else address  # @: abstract; fixed
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)  # closed by `end`
        self._socket.settimeout(SEND_SECONDS_MAX)
        self._is_stopping = False  # whether the stop was told; then nothing else is
        self._beat_seconds = _beat_seconds(environment)  # between signs of life; 0: nobody asks; fixed
        self._beats = LoopingCall(self._send, "WATCHDOG=1")  # runs from `ready` to `end`
        self._beats.clock = clock

    def ready(self, status: str) -> None:
        """Tell that the node serves, and go on telling that it is alive.

        Args:
            status: One line for `systemctl status`.
        """
        if self._is_stopping:
            return
        self._send(f"READY=1\nSTATUS={visible(status)}")
        if self._beat_seconds:
            self._beats.start(self._beat_seconds)

    def reloading(self, done: Deferred[object]) -> None:
        """Tell that settings are read again, and when that is over, however it ended."""
        if not self._is_stopping:
            # `Type=notify-reload` compares the moment with that of its signal.
            self._send(f"RELOADING=1\nMONOTONIC_USEC={time.monotonic_ns() // 1000}")
            done.addBoth(self._reloaded)

    def _reloaded(self, outcome: object) -> object:
        if not self._is_stopping:
            self._send("READY=1" + (_RELOAD_REFUSED if isinstance(outcome, Failure) else ""))
        return outcome

    def stopping(self) -> None:
        """Tell that the node stops; it is alive for as long as that takes."""
        if not self._is_stopping:
            self._is_stopping = True
            self._send("STOPPING=1")

    def end(self) -> None:
        """Tell nothing more."""
        self._is_stopping = True
        if self._beats.running:
            self._beats.stop()
        self._socket.close()

    def _send(self, message: str) -> None:
        try:
            self._socket.sendto(message.encode(), self._address)
        except OSError as error:
            self.logger.warn(
                "systemd was not told {what}: {error}",
                what=message.partition("\n")[0],
                error=str(error),
            )


def _beat_seconds(environment: Mapping[str, str]) -> float:
    """Return half of the time after which systemd takes the process for dead; 0 when it does not watch it."""
    microseconds = environment.get("WATCHDOG_USEC", "")
    process_id = environment.get("WATCHDOG_PID", "")
    if not microseconds.isdecimal() or process_id not in ("", str(os.getpid())):
        return 0.0
    return int(microseconds) / 2e6
