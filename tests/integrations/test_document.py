"""docs/faststream.md: its program and its test run as they stand there."""

import asyncio
import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from loghouse.integrations.faststream import TestLoghouseBroker
from tests.test_tidy import ROOT

BLOCK = re.compile(r"```python\n(.*?)```", re.DOTALL)


class DocumentTests(SynchronousTestCase):
    """Whoever copies the page gets what it says."""

    def test_blocks(self):
        """The program is one, its test passes, and what it publishes gets where the page says."""
        program = "\n".join(BLOCK.findall((ROOT / "docs" / "faststream.md").read_text()))
        names = {"__name__": "billing"}
        path = Path(self.mktemp())  # FastStream looks at the source of who calls it
        path.write_text(program)
        exec(compile(program, str(path), "exec"), names)
        test = TestLoghouseBroker(names["broker"])

        async def publish():
            async with test:
                await names["publish_some"]()

        def run():
            names["test_bill"]()
            asyncio.run(publish())

        # In a thread of its own: afterwards it has no event loop, and this one is to keep it.
        with ThreadPoolExecutor(1) as pool:
            pool.submit(run).result()
        self.assertEqual([record.key for record in test.records("bills")], [b"ann", b"bob", b"eve", None])
