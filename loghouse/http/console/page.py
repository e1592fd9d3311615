"""The console's page: its files put together once, with a policy that runs these scripts and styles alone."""

from __future__ import annotations

from base64 import b64encode
from dataclasses import dataclass
from functools import cache
from hashlib import sha256
from importlib.resources import files
from typing import Final

SCRIPTS: Final = ("base.js", "views.js", "tail.js", "main.js")


@dataclass(frozen=True, slots=True)
class Page:
    """The page, and the Content-Security-Policy that it is served with."""

    body: bytes
    policy: str


@cache
def console_page() -> Page:
    """Return the page."""
    style = _read("style.css")
    script = "{\n" + "".join(_read(name) for name in SCRIPTS).replace('"use strict";\n', "", 1) + "}\n"
    script = f'"use strict";\n{script}'
    body = _read("page.html").replace("/*STYLE*/", style).replace("/*SCRIPT*/", script)
    return Page(body.encode(), "; ".join(_directives(style, script)))


def _directives(style: str, script: str) -> tuple[str, ...]:
    return (
        "default-src 'none'",
        f"script-src {_hash(script)}",
        f"style-src {_hash(style)}",
        "connect-src 'self'",
        "img-src data:",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
        "require-trusted-types-for 'script'",
    )


def _hash(text: str) -> str:
    return f"'sha256-{b64encode(sha256(text.encode()).digest()).decode()}'"


def _read(name: str) -> str:
    return files(__package__).joinpath(name).read_text(encoding="utf-8")
