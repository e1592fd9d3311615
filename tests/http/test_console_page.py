"""The console's page, without a browser: whole, small, and with a policy that runs its own scripts alone."""

import re
from base64 import b64encode
from hashlib import sha256

from twisted.trial.unittest import SynchronousTestCase

from loghouse.http.console.page import console_page
from tests.http.case import HttpCase

SIZE_MAX = 150_000


def inline(tag):
    """What the page has within a tag."""
    return re.search(f"<{tag}>(.*?)</{tag}>", console_page().body.decode(), re.DOTALL)[1]


class PageTests(SynchronousTestCase):
    """The page."""

    def test_size(self):
        """It loads in one answer of at most 150 kB, and asks no other machine for anything."""
        page = console_page().body.decode()
        self.assertLess(len(page.encode()), SIZE_MAX)
        self.assertEqual(re.findall(r"""(?:src|href)=["'](?!#|data:)[^"']*""", page), [])
        self.assertEqual(set(re.findall(r"https?://[^'\"/]+", page)), {"http://www.w3.org"})

    def test_policy(self):
        """Only the scripts and styles of the page run, by their hash; nothing may make markup of a text."""
        policy = console_page().policy
        for tag, kind in (("script", "script-src"), ("style", "style-src")):
            digest = b64encode(sha256(inline(tag).encode()).digest()).decode()
            self.assertIn(f"{kind} 'sha256-{digest}';", policy)
        for part in ("default-src 'none'", "frame-ancestors 'none'", "require-trusted-types-for 'script'"):
            self.assertIn(part, policy)
        self.assertNotIn("unsafe", policy)

    def test_no_markup_of_texts(self):
        """No script makes markup of a text, or runs one."""
        for word in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "Function("):
            self.assertNotIn(word, inline("script"))


class EndpointTests(HttpCase):
    """Its path."""

    async def test_served(self):
        """It is at the top, with its policy, for whoever may do anything here."""
        self.serve()
        client = await self.connect()
        client.send(f"GET / HTTP/1.1\r\nHost: 127.0.0.1:{self.port}\r\n\r\n".encode())
        status, headers, body = await client.answer()
        self.assertEqual((status, body), (200, console_page().body))
        self.assertEqual(headers["content-type"], "text/html; charset=utf-8")
        self.assertEqual(headers["content-security-policy"], console_page().policy)

    async def test_stranger(self):
        """Who may do nothing gets nothing."""
        self.serve(anonymous="ann")
        self.assertEqual((await self.get("/"))[0], 403)
