"""How far another node's clock is away, by what something on a socket answers."""

import json
import socket
import threading
from email.utils import formatdate

from twisted.trial.unittest import SynchronousTestCase

from loghouse.config.settings import load
from loghouse.config.values import Address
from loghouse.limits import CLOCK_DIFFERENCE_SECONDS_MAX, NAME_SIZE_MAX
from loghouse.service import checkup, peer_clocks
from loghouse.service.checkup import OK, WARNING, Symptom
from loghouse.service.peer_clocks import PeerClock, ask_clock
from tests.service.test_checkup import CheckupCase

NOW = 1_700_000_000.0
NODE = json.dumps({"status": "ok", "node": "n2"}).encode()
DATE = f"Date: {formatdate(NOW, usegmt=True)}\r\n"


def answer(date=DATE, body=NODE, status="200 OK"):
    """Return the bytes of an answer."""
    return f"HTTP/1.1 {status}\r\n{date}Content-Length: {len(body)}\r\n\r\n".encode() + body


class AskTests(SynchronousTestCase):
    """What is certain of a clock."""

    def serve(self, answered):
        """Return the address of something that gives one answer to whatever it is asked."""
        listening = socket.create_server(("127.0.0.1", 0))
        self.addCleanup(listening.close)

        def run():
            connection, _ = listening.accept()
            with connection:
                connection.recv(4096)
                connection.sendall(answered)

        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        self.addCleanup(thread.join, 10)
        return Address("127.0.0.1", listening.getsockname()[1])

    def ask(self, answered, *moments):
        """Ask; `moments` are what the own clock says before and after."""
        times = iter(moments or (NOW, NOW))
        return ask_clock(self.serve(answered), None, lambda: next(times))

    def test_difference(self):
        """Neither the way of an answer nor a date without fractions makes a difference."""
        for moments, ahead in (
            ((NOW, NOW), 0.0),
            ((NOW + 0.9, NOW + 0.99), 0.0),  # the date's second is not over
            ((NOW - 5.0, NOW + 5.0), 0.0),  # it may have been made at any time meanwhile
            ((NOW - 10.0, NOW - 9.0), 9.0),
            ((NOW + 11.0, NOW + 12.0), -10.0),
        ):
            self.assertEqual(self.ask(answer(), *moments), PeerClock("n2", ahead), moments)

    def test_unwell(self):
        """A node that is not well has a clock, too."""
        self.assertEqual(self.ask(answer(status="503 Service Unavailable")), PeerClock("n2", 0.0))

    def test_no_node(self):
        """What is no answer of a node says nothing."""
        for answered in (
            b"",
            b"220 mail.example ESMTP\r\n",
            answer(date=""),
            answer(date="Date: soon\r\n"),
            answer(body=b"hello"),
            answer(body=b"[]"),
            answer(body=b"{}"),
            answer(body=b"\xff"),
            answer(body=b'{"node": "' + b"x" * peer_clocks.ANSWER_SIZE_MAX + b'"}'),
        ):
            self.assertIsNone(self.ask(answered), answered[:80])
        self.assertIsNone(ask_clock(Address("127.0.0.1", 1), None, lambda: NOW))

    def test_name(self):
        """A name cannot be more than a name, nor move the cursor."""
        found = self.ask(answer(body=json.dumps({"node": "\x1b[2J" + "x" * 1000}).encode()))
        self.assertEqual(len(found.node), NAME_SIZE_MAX)
        self.assertNotIn("\x1b", found.node)

    def test_text(self):
        """How far it is away, in words."""
        self.assertEqual(PeerClock("n2", 3700.9).text, "1:01:40 ahead of this machine's")
        self.assertEqual(PeerClock("n2", -90_000.0).text, "1 day, 1:00:00 behind this machine's")


class DoctorTests(CheckupCase):
    """What `loghouse doctor` says of it."""

    def look(self, found, *lines, level=OK):
        """Return what is said of clocks, when that of the other node, which is so well, is `found`."""
        self.asked = []

        def ask(address, tls, wall):
            self.asked.append((str(address), tls is not None))
            return found

        self.patch(checkup, "ask_clock", ask)
        self.patch(checkup, "_peer", lambda config, address: Symptom(level, "peers", "x"))
        config = load(self.write_settings(*lines, security=self.write_tls_files()))
        return [one for one in checkup._peers(config) if one.area == "clock"]

    def test_rows(self):
        """A clock that is away is a warning with what to do; else it is told what was compared."""
        bound = CLOCK_DIFFERENCE_SECONDS_MAX
        for found, level, text in (
            (PeerClock("n2", bound), OK, "that of n2 says the same"),
            (PeerClock("n2", -bound), OK, "that of n2 says the same"),
            (PeerClock("n2", bound + 1), WARNING, "that of n2 is 0:00:03 ahead of this machine's"),
            (PeerClock("n2", -bound - 1), WARNING, "that of n2 is 0:00:03 behind this machine's"),
            (PeerClock("n1", 99.0), OK, "no other node's HTTP there, its clock was not compared"),
            (None, OK, "no other node's HTTP there, its clock was not compared"),
        ):
            [told] = self.look(found, "join: ['127.0.0.1:1']", "http_listen: 127.0.0.1:8480")
            self.assertEqual((told.level, told.text), (level, f"127.0.0.1:8480: {text}"))
            self.assertEqual("NTP" in told.remedy, level == WARNING)
        self.assertEqual(self.asked, [("127.0.0.1:8480", False)])

    def test_where(self):
        """It is asked over TLS on another machine, and nowhere without HTTP or when it is not well."""
        self.look(None, "join: ['10.0.0.9:1']", "http_listen: 10.0.0.1:8480")
        self.assertEqual(self.asked, [("10.0.0.9:8480", True)])
        self.assertEqual(self.look(None, "join: ['127.0.0.1:1']"), [])
        here = ("join: ['127.0.0.1:1']", "http_listen: 127.0.0.1:8480")
        self.assertEqual((self.look(None, *here, level=WARNING), self.asked), ([], []))
