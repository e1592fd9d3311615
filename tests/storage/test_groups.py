"""Tests of loghouse.storage.groups: logs are born once, and die when somebody says so, whatever crashes."""

import random

from twisted.trial.unittest import SynchronousTestCase

from loghouse.errors import DamageError, DataDirectoryError, DiskFullError
from loghouse.protocol.configuration import Configuration
from loghouse.raft.membership import bootstrap_entry
from loghouse.storage import groups as groups_module
from loghouse.storage.directory import DataDirectory, DiskIdentity
from loghouse.storage.groups import BornGroups
from loghouse.testing.crash_states import crash_states
from loghouse.testing.disk import SimDisk
from tests.processes import thorough
from tests.storage.entries import CLUSTER
from tests.storage.test_crash_states import STATES_MAX

PATH = "/data"
NOW = 1000


def begin(log):
    """Write the first entry of a log, as each of its founders does."""
    log.save_hard_state(term=1, vote=0)
    log.append([bootstrap_entry(log.seed, Configuration(), 7)])
    log.sync(1)


def new_disk(capacity=None):
    """Return a disk that is a node's, with the default log."""
    disk = SimDisk(capacity)
    directory = open_directory(disk)
    identity = DiskIdentity(cluster_uuid=CLUSTER, disk_uuid=bytes(16), cluster_name="c", node_name="n")
    directory.create(identity, begin=begin)
    directory.close()
    return disk


def open_directory(disk):
    return DataDirectory.lock(disk, PATH, segment_size=5120, reserve_size=0)


def open_groups(disk, now=NOW):
    disk.stop_process()
    return BornGroups(disk, open_directory(disk), now)


def first_entries(disk, group):
    """Return (last index, term) of a group's log."""
    disk.stop_process()
    log = open_directory(disk).open_log(group)
    found = log.last_index, log.hard_state.term
    log.close()
    return found


class GroupsTests(SynchronousTestCase):
    """Births and deaths on one disk."""

    def setUp(self):
        self.disk = new_disk()
        self.groups = open_groups(self.disk)

    def names(self):
        return self.disk.list_directory(f"{PATH}/logs")

    def test_born(self):
        """A log that was born is there with its first entry, after each start."""
        self.groups.bear(16, begin)
        for groups in (self.groups, open_groups(self.disk)):
            self.assertEqual((groups.born, groups.missing), ([1, 16], []))
        self.assertEqual(first_entries(self.disk, 16), (1, 1))

    def test_born_once(self):
        """To be told again of a birth changes nothing, and the log keeps what it has."""
        self.groups.bear(16, begin)
        self.groups.bear(16, lambda log: self.fail("born twice"))

    def test_never_again(self):
        """A log that was born here and is gone is damage; one that died here stays dead."""
        self.groups.bear(16, begin)
        self.groups.bear(17, begin)
        self.disk.rename(f"{PATH}/logs/16", f"{PATH}/logs/elsewhere")
        groups = open_groups(self.disk)
        self.assertEqual((groups.born, groups.missing), ([1, 16, 17], [16]))
        self.assertRaises(DamageError, groups.bear, 16, begin)
        groups.bury(17, NOW)
        self.assertRaises(DataDirectoryError, groups.bear, 17, begin)
        self.assertRaises(DataDirectoryError, open_groups(self.disk).bear, 17, begin)

    def test_kept_and_removed(self):
        """A dead log is kept under another name, and removed when it was dead for long enough."""
        for group in (16, 17):
            self.groups.bear(group, begin)
        self.groups.bury(16, 100)
        self.groups.bury(17, 200)
        self.assertEqual(self.groups.gone(), {"gone-16-100": 100, "gone-17-200": 200})
        self.assertEqual(self.groups.born, [1])
        self.assertEqual(self.groups.remove_gone(200), ["gone-16-100"])
        self.assertEqual(self.names(), ["1", "gone-17-200"])
        self.assertEqual(open_groups(self.disk).remove_gone(201), ["gone-17-200"])

    def test_released(self):
        """A log that is given back is kept for a while like a dead one, and may be born anew."""
        for _ in range(3):
            self.groups.bear(16, begin)
            self.assertEqual(open_groups(self.disk).born, [1, 16])
            self.groups.release(16, 100)
            for groups in (self.groups, open_groups(self.disk)):
                self.assertEqual((groups.born, groups.missing), ([1], []))
        self.assertEqual(self.names(), ["1", "gone-16-100", "gone-16-101", "gone-16-102"])
        self.assertEqual(self.groups.remove_gone(102), ["gone-16-100", "gone-16-101"])
        self.groups.bury(16, 200)
        self.assertRaises(DataDirectoryError, open_groups(self.disk).bear, 16, begin)

    def test_size(self):
        """The size of a log is that of its files, as far as they can be read."""
        self.groups.bear(16, begin)
        directory = f"{PATH}/logs/16"
        sizes = [
            len(self.disk.content(f"{directory}/{name}")) for name in self.disk.list_directory(directory)
        ]
        self.assertEqual(groups_module.size_of(self.disk, PATH, 16), sum(sizes))
        self.assertEqual(groups_module.size_of(self.disk, PATH, 17), 0)
        self.disk.make_directory(f"{directory}/more")
        self.assertEqual(groups_module.size_of(self.disk, PATH, 16), sum(sizes))

    def test_strangers_are_kept(self):
        """What nobody knows is neither removed nor taken for dead."""
        self.disk.make_directory(f"{PATH}/logs/lost+found")
        self.disk.make_directory(f"{PATH}/logs/44")
        groups = open_groups(self.disk)
        groups.remove_gone(10**9)
        self.assertEqual(self.names(), ["1", "44", "lost+found"])
        self.assertEqual(groups.born, [1, 44])

    def test_full_disk(self):
        """On a full disk nothing is half born, and a log that cannot die yet is as it was."""
        self.groups.bear(16, begin)
        mend = self.disk.fill("everything")
        self.assertRaises(DiskFullError, self.groups.bear, 17, begin)
        self.assertRaises(DiskFullError, self.groups.bury, 16, NOW)
        self.assertEqual(self.names(), ["1", "16"])
        mend()
        self.groups.bear(17, begin)
        self.groups.bury(16, NOW)
        self.assertEqual(self.groups.born, [1, 17])

    def test_forgotten(self):
        """Of very many dead groups the oldest are forgotten."""
        self.patch(groups_module, "TOMBSTONES_MAX", 2)
        for group in (16, 17, 18):
            self.groups.bury(group, NOW)
        self.groups.bear(16, begin)
        self.assertRaises(DataDirectoryError, self.groups.bear, 17, begin)

    def test_damaged(self):
        """A list that is damaged, or of a later version, stops the node, and is not touched."""
        self.groups.bear(16, begin)
        path = f"{PATH}/groups"
        good = self.disk.content(path)
        for content, error, told in (
            (good[:-1] + b"?", DamageError, "checksum"),
            (b"", DamageError, "checksum"),
            (sealed(good[:8] + b"\0\2" + good[10:-4]), DataDirectoryError, "format 2"),
            (sealed(good[:-5]), DamageError, "not a list"),
            (sealed(good[:-5] + b"\4"), DamageError, "not a list"),
        ):
            self.disk.replace(path, content)
            self.assertIn(told, str(self.assertRaises(error, open_groups, self.disk)))
            self.assertEqual(self.disk.content(path), content)


def sealed(fields):
    return groups_module.with_crc(fields)


class Step:
    """What must be true once so many operations on the disk are done, or while they are."""

    def __init__(self, done, born, maybe):
        self.done, self.born, self.maybe = done, set(born), set(maybe)


def lived(disk_type=SimDisk):
    """Let logs be born and die; return the image before, the trace, and what is known at each step."""
    disk = new_disk()
    groups = open_groups(disk)
    image = disk.start_trace()
    born, steps = {1}, []
    for change, group in (
        ("bear", 16),
        ("bear", 17),
        ("bury", 16),
        ("remove", 0),
        ("bear", 18),
        ("bury", 18),
        ("release", 17),
        ("bear", 17),
    ):
        steps.append(Step(len(disk.trace), born, {group}))
        if change == "bear":
            groups.bear(group, begin)
            born = born | {group}
        elif change in ("bury", "release"):
            getattr(groups, change)(group, NOW)
            born = born - {group}
        else:
            groups.remove_gone(NOW + 1)
        steps.append(Step(len(disk.trace), born, ()))
    trace, disk.trace = disk.trace, None
    return image, trace, steps


def problem_of(state, step):
    """Start on a crashed disk; say what is wrong, "" when nothing is."""
    try:
        groups = open_groups(state)
        if groups.missing:
            return f"{groups.missing} are taken for damage"
        if ({*groups.born} ^ step.born) - step.maybe:
            return f"born {groups.born}, should be {step.born}"
        for group in groups.born:
            if first_entries(state, group) != (1, 1):
                return f"group {group} was not born whole"
        names = state.list_directory(f"{PATH}/logs")
        if any(name.endswith(".new") for name in names):
            return f"left over: {names}"
        groups = open_groups(state.crashed([]))
        groups.bear(30, begin)
        if 30 not in groups.born:
            return "nothing can be born any more"
    except (DamageError, DataDirectoryError, OSError) as error:
        return f"{type(error).__name__}: {error}"
    return ""


def find_violation():
    """Try crash states of a life; return what went wrong in the first bad one, or ""."""
    image, trace, steps = lived()

    def step_at(done):
        return [step for step in steps if step.done <= done][-1]

    states = list(crash_states(image, trace, rng=random.Random(1), expected=lambda done: step_at(done).done))
    assert len(states) > 50
    for done, state in random.Random(2).sample(states, min(len(states), STATES_MAX)):
        problem = problem_of(state, step_at(done))
        if problem:
            return f"after {done} operations ({trace[done - 1][0] if done else 'none'}): {problem}"
    return ""


@thorough
class CrashTests(SynchronousTestCase):
    """A power loss at any step of births and deaths."""

    def test_crash_states(self):
        """Each log is born whole or not at all, dead or not; none is taken for damage or left half done."""
        self.assertEqual(find_violation(), "")

    def test_said_before_it_is_there(self):
        """A birth that is written down before its name is durable is found."""
        real = BornGroups._make

        def early(groups, group, new, begin):
            groups._note(group, groups_module.GroupState.BORN)
            real(groups, group, new, begin)

        self.patch(BornGroups, "_make", early)
        self.assertIn("taken for damage", find_violation())

    def test_gone_before_it_is_said(self):
        """A log whose name goes before its death is written down is found."""
        real = BornGroups._note

        def late(groups, group, state):
            if state is not groups_module.GroupState.BORN:
                groups._put_away(group, NOW)
            real(groups, group, state)

        self.patch(BornGroups, "_note", late)
        self.assertIn("taken for damage", find_violation())

    def test_born_in_its_place(self):
        """A log that is made under its own name is found half born."""
        self.patch(groups_module, "NEW_SUFFIX", "")
        self.patch(SimDisk, "rename", renamed_elsewhere)
        self.assertNotEqual(find_violation(), "")

    def test_left_over(self):
        """A start that leaves what was half made is found."""
        self.patch(BornGroups, "_settle", lambda *_: None)
        self.assertNotEqual(find_violation(), "")


_rename = SimDisk.rename


def renamed_elsewhere(disk, source, target):
    if source != target:
        _rename(disk, source, target)
