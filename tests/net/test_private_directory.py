"""The private directory of gRPC's socket: where it is, who may enter, and what is left of dead nodes."""

import os
import stat
import tempfile
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from loghouse.errors import ConfigError
from loghouse.net.private_directory import SOCKET_PATH_SIZE_MAX, PrivateDirectory, remove_dead


class PrivateDirectoryTests(SynchronousTestCase):
    """`PrivateDirectory` and what it leaves."""

    def setUp(self):
        self.place = Path(tempfile.mkdtemp(prefix="place-"))
        self.addCleanup(lambda: self.place.exists() and self.empty())
        self.patch(os, "environ", {**os.environ, "XDG_RUNTIME_DIR": str(self.place)})

    def empty(self):
        for path in sorted(self.place.rglob("*"), reverse=True):
            path.rmdir() if path.is_dir() and not path.is_symlink() else path.unlink()
        self.place.rmdir()

    def make(self):
        made = PrivateDirectory()
        self.addCleanup(made.close)
        Path(made.socket_path).touch()
        return made

    def kill(self, directory):
        """What the end of a process does: its lock goes, its files stay."""
        os.close(directory._held)
        directory._held = os.open("/dev/null", os.O_RDONLY)

    def test_private(self):
        """Only this user may enter it, and nothing is left when it was removed."""
        made = self.make()
        path = Path(made.socket_path).parent
        self.assertEqual(path.parent, self.place)
        self.assertEqual(stat.S_IMODE(path.stat().st_mode), 0o700)
        made.close()
        made._held = os.open("/dev/null", os.O_RDONLY)
        self.assertEqual(list(self.place.iterdir()), [])

    def test_dead_nodes(self):
        """What a killed node left goes at the next start; a living one's stays."""
        dead, living = self.make(), self.make()
        self.kill(dead)
        self.make()
        self.assertFalse(os.path.exists(dead.socket_path))
        self.assertTrue(os.path.exists(living.socket_path))
        self.assertEqual(len(list(self.place.iterdir())), 2)

    def test_what_is_not_ours(self):
        """A directory that holds anything else, one without the file, and a link are left alone."""
        data = self.place / "loghouse-data"
        half_made = self.place / "loghouse-half"
        for path in (data, half_made):
            path.mkdir()
        for name in ("held", "grpc", "node"):
            (data / name).touch()
        (self.place / "loghouse-link").symlink_to(data)
        remove_dead(str(self.place))
        self.assertEqual(len(list(data.iterdir())), 3)
        self.assertTrue(half_made.exists())
        self.assertTrue((self.place / "loghouse-link").is_symlink())

    def test_another_place(self):
        """Where a socket's path would be too long, or nobody may write, the next place is taken."""
        long = self.place / ("x" * SOCKET_PATH_SIZE_MAX)
        long.mkdir()
        for place in (long, self.place / "absent"):
            os.environ["XDG_RUNTIME_DIR"] = str(place)
            made = self.make()
            self.assertLessEqual(len(made.socket_path), SOCKET_PATH_SIZE_MAX)
            self.assertTrue(made.socket_path.startswith(tempfile.gettempdir()))

    def test_nowhere(self):
        """No place at all is an error that says what to set."""

        def refuse(**where):
            raise PermissionError(13, "Permission denied")

        self.patch(tempfile, "mkdtemp", refuse)
        error = self.assertRaises(ConfigError, PrivateDirectory)
        self.assertIn("set XDG_RUNTIME_DIR", str(error))
        self.assertIn(f"{self.place}: Permission denied", str(error))
