"""What the documents show of the embedded log runs as it stands there."""

import re
import subprocess
import sys
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from tests.test_tidy import ROOT

BLOCK = re.compile(r"```python\n(.*?)```", re.DOTALL)
RUN = """
import sys
for path in sys.argv[1:]:
    exec(compile(open(path).read(), path, "exec"), {"__name__": "__main__"})
"""


class ExampleTests(SynchronousTestCase):
    """Each Python block that opens an embedded log is run, one behind the other, in one directory."""

    def test_examples(self):
        """They run, and print the records that they appended."""
        folder = Path(self.mktemp()).resolve()
        folder.mkdir(parents=True)
        blocks = [
            block
            for document in ("README.md", "docs/embedded.md")
            for block in BLOCK.findall((ROOT / document).read_text())
            if re.search(r"loghouse\.open\w*\(", block) and "connect_blocking" not in block
        ]
        self.assertEqual(len(blocks), 4)
        for number, block in enumerate(blocks):
            (folder / f"{number}.py").write_text(block)
        done = subprocess.run(
            [sys.executable, "-c", RUN, *(f"{number}.py" for number in range(len(blocks)))],
            cwd=folder,
            env={"PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        self.assertEqual(done.returncode, 0, done.stderr)
        lines = done.stdout.splitlines()
        self.assertEqual(lines[:3], ["0 b'moved'", "0 b'moved'", "1 b'moved'"])
        self.assertEqual(lines[3:103], [f"{number + 2} b'{number}'" for number in range(100)])
        self.assertEqual(lines[103:], ["0 b'moved'"])
