"""A real Chromium without a window, for tests of the console. Where there is none, `NO_BROWSER` says why."""

import importlib.util
import os
import shutil
from contextlib import contextmanager
from pathlib import Path

from tests.processes import SKIP

CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome") or ""


def _missing():
    for module in ("playwright", "axe_playwright_python"):
        if importlib.util.find_spec(module) is None:
            return f"{module} is not installed; make venv installs what tests need"
    if not CHROMIUM:
        return "no chromium on this machine; apt-get install chromium, or name one in CHROMIUM"
    return None


NO_BROWSER = SKIP or _missing()
# What a user agent says of an answer of a node without a leader: on a laden machine that may be at any time.
NOT_NOW = "status of 503"
# What it says of a page that it could not ask: the node was killed on purpose.
LOST = (
    "ERR_CONNECTION_REFUSED",
    "ERR_INCOMPLETE_CHUNKED",
    "ERR_CONNECTION_RESET",
    "ERR_EMPTY_RESPONSE",
)


@contextmanager
def chromium():
    """A browser while the block runs."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        # Without its sandbox: where tests run as root, or in a container, it has none.
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        try:
            yield browser
        finally:
            browser.close()


def axe_violations(page):
    """What of a page is not as WCAG 2.2 AA wants it, a line each, by axe-core."""
    folder = Path(importlib.util.find_spec("axe_playwright_python").origin).parent
    page.evaluate((folder / "axe.min.js").read_text())
    tags = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]
    found = page.evaluate("tags => axe.run({runOnly: {type: 'tag', values: tags}})", tags)
    return [
        f"{one['id']}: {one['help']}: {node['target']} {node.get('failureSummary', '')}"
        for one in found["violations"]
        for node in one["nodes"]
    ]
