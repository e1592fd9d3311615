"""Disks that are full, that do not answer, or that give back other bytes than they were given."""

import shutil
import subprocess
from pathlib import Path

from twisted.trial.unittest import SkipTest

from loghouse.protocol.address_book import decode_address_book
from loghouse.testing.process import wait_until
from tests.cluster.case import ClusterCase, OwnClusterCase
from tests.processes import long

BETWEEN = 40  # acknowledged appends between two faults


class DamageTests(ClusterCase):
    """Bytes that changed on one disk while its node did not run."""

    def test_flipped_byte(self):
        """A flipped bit in an old entry is found, never served, and the entry fetched from the others."""
        load = self.load()
        load.wait_acknowledged(BETWEEN)
        load.stop()
        self.cluster.wait_caught_up()
        node = self.cluster.others(self.cluster.wait_leader())[0]
        wait_until(lambda: self.knows_others(node), "the node to note whom it can ask for a repair")
        frames = self.cluster.stored_frames(node)
        victim = frames[len(frames) // 2]
        node.kill()
        (store,) = [
            path for path in (node.data_dir / "logs" / "1").glob("*.store") if victim in path.read_bytes()
        ]
        whole = bytearray(store.read_bytes())
        whole[whole.index(victim) + len(victim) // 2] ^= 1
        store.write_bytes(whole)
        self.assertNotEqual(self.cluster.stored_frames(node), frames)
        node.start()
        wait_until(lambda: self.cluster.stored_frames(node).items() >= frames.items(), "the repair")
        self.judge()

    def knows_others(self, node) -> bool:
        """Whether its address book has the others; without it a damaged node takes itself for a lone one."""
        book = decode_address_book((node.data_dir / "members").read_bytes())
        return len(book.contacts) == len(self.cluster.others(node))


class DiskTests(OwnClusterCase):
    """One node's disk fails; the cluster does not."""

    def run_or_skip(self, *words: object) -> str:
        done = subprocess.run([*map(str, words)], capture_output=True, text=True, check=False)
        if done.returncode:
            raise SkipTest(f"{words[0]} is not possible here: {done.stderr.strip()}")
        return done.stdout.strip()

    def small_disk(self, node, size: str) -> Path:
        """Put a node's data directory on a memory disk of its own."""
        mount = self.folder / f"disk-of-{node.name}"
        mount.mkdir(parents=True)
        self.run_or_skip("mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", mount)
        self.addCleanup(subprocess.run, ["umount", "-l", str(mount)], check=True)
        self.addCleanup(node.close)
        node.data_dir = mount / "data"
        self.cluster.write_config(node)
        return mount

    @long
    def test_full_disk(self):
        """A node whose disk is full stands aside; the others go on, and it catches up once there is room."""
        self.cluster = self.make_cluster(self.folder / "small", settings="storage:\n  segment_size: 256KiB\n"
                                         "  reserve_size: 1MiB\n")  # fmt: skip
        node = self.cluster.nodes[2]
        mount = self.small_disk(node, "8m")
        self.cluster.start()
        self.cluster.wait_voters()
        ballast = mount / "ballast"
        load = self.load(attempt_seconds=5.0)
        load.wait_acknowledged(BETWEEN)
        free = shutil.disk_usage(mount).free
        with open(ballast, "wb") as file:
            file.write(bytes(free - 64 * 1024))
        wait_until(lambda: "full" in node.output(), "the node to notice that its disk is full")
        load.wait_acknowledged(BETWEEN, "appends with one full disk")
        ballast.unlink()
        load.wait_acknowledged(BETWEEN)
        self.judge(load)

    @long
    def test_frozen_disk(self):
        """The leader's disk stops answering, without an error: another leads, appends go on."""
        for tool in ("mkfs.ext4", "fsfreeze"):
            if shutil.which(tool) is None:
                raise SkipTest(f"{tool} is not installed")
        mounts = {node.name: self.own_filesystem(node) for node in self.cluster.nodes}
        self.cluster.start()
        self.cluster.wait_voters()
        leader = self.cluster.wait_leader()
        load = self.load(self.cluster.others(leader), attempt_seconds=2.0)
        load.wait_acknowledged(BETWEEN)
        self.freeze(mounts[leader.name])
        others = self.cluster.others(leader)
        successor = self.cluster.wait_leader(others)
        self.assertNotEqual(successor.name, leader.name)
        load.wait_acknowledged(BETWEEN, "appends without the leader whose disk is frozen")
        self.thaw(mounts[leader.name])
        self.judge(load)

    def own_filesystem(self, node) -> Path:
        image, mount = self.folder / f"{node.name}.image", self.folder / f"disk-of-{node.name}"
        mount.mkdir(parents=True)
        with open(image, "wb") as file:
            file.truncate(64 << 20)
        self.run_or_skip("mkfs.ext4", "-q", image)
        self.run_or_skip("mount", "-o", "loop", image, mount)
        self.addCleanup(subprocess.run, ["umount", "-l", str(mount)], check=True)
        self.addCleanup(node.close)
        node.data_dir = mount / "data"
        self.cluster.write_config(node)
        return mount

    def freeze(self, mount: Path) -> None:
        self.frozen = True
        self.addCleanup(self.thaw, mount)  # before anything is killed: a process on a frozen disk cannot end
        self.run_or_skip("fsfreeze", "-f", mount)

    def thaw(self, mount: Path) -> None:
        if self.frozen:
            self.frozen = False
            subprocess.run(["fsfreeze", "-u", str(mount)], check=True)
