"""Tests from scripts: a file says what is done and what comes of it, and must leave the text that it is."""

import os

REWRITE = os.environ.get("LOGHOUSE_REWRITE_SCENARIOS") == "1"


class Scripts:
    """Makes one test, `test_<name>`, of each script in a folder; its first line says what it shows.

    With LOGHOUSE_REWRITE_SCENARIOS=1 what happened is written into the file instead: read the difference.

    Args:
        folder: Where the scripts are, `<name>.txt`.
        run: Does a script; returns it with what happened.
    """

    def __init__(self, folder, run):
        self._paths = sorted(folder.glob("*.txt"))
        self._run = run

    def __set_name__(self, owner, name):
        delattr(owner, name)
        for path in self._paths:
            setattr(owner, f"{name}_{path.stem}", self._test_of(path))

    def _test_of(self, path):
        text = path.read_text()

        def test(case):
            happened = self._run(text)
            if REWRITE:
                path.write_text(happened)
            else:
                case.assertEqual(happened, text, path.name)

        test.__doc__ = text.splitlines()[0].lstrip("# ")
        return test
