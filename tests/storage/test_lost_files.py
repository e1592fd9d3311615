"""Every file of a data directory removed, emptied, cut, duplicated, renamed, or put back as it once was.

What happens is a table in docs/operations.md, "A file is gone, or older than the others"; the test computes
it and compares. No row may end in lost records or in offsets given twice without a word, but those that are
called "not noticed".
"""

import os
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from loghouse.errors import DamageError, DataDirectoryError
from loghouse.protocol.address_book import AddressBook, Contact, encode_address_book
from loghouse.protocol.entry import DEFAULT_GROUP
from loghouse.protocol.log_state import LogState
from loghouse.replica.damage import LogRepair
from loghouse.storage import opening, recovery
from loghouse.storage.directory import DataDirectory
from loghouse.storage.files import OsFiles
from loghouse.storage.inspect import inspect
from loghouse.storage.loss import NAME as DAMAGE_NAME
from loghouse.storage.loss import Loss, read_loss
from loghouse.storage.repair import accept_data_loss
from loghouse.storage.start import FLAG_INSTALLING, START_MAGIC, encode_state_file
from loghouse.storage.verify import Finding, verify
from loghouse.testing.disk import SimDisk
from tests.processes import thorough
from tests.storage.entries import Writer, frames_of, open_directory

DIRECTORY = "/data/logs/1"
TERM, VOTE = 2, 2
HARMS = ("removed", "emptied", "cut", "duplicated", "renamed", "older copy")
# From harmless to worst: what several older copies of a file end in is the worst of them.
OUTCOMES = ("harmless", "rebuilt", "repaired", "refused", "not noticed")
OTHERS = encode_address_book(
    AddressBook(
        incarnation=1,
        contacts=(Contact(name="other", disk_uuid=bytes(16), incarnation=1, address="127.0.0.1:1"),),
    )
)


def boot(disk):
    return open_directory(disk, segment_size=4096 + 1024, reserve_size=512)


class Course:
    """A data directory with a past: segments, votes, a trim, restarts; and every file as it was at times."""

    def __init__(self, *, is_member, is_closed, is_under_repair=False):
        self.is_member = is_member
        self.disk = SimDisk()
        self.history = {}
        self.entries = []
        self._live(is_closed=is_closed)
        if is_under_repair:
            newest = max(path for path in self.disk.contents() if path.endswith(".store"))
            self.disk.flip(newest, 8 * (4096 + 70))
            log = self.open()
            if is_closed:
                log.close()
            self.disk.stop_process()
        self.image = self.disk.contents()
        self.before = {path: self._older(path) for path in self.image}
        self.after = self._untouched()

    def _live(self, *, is_closed):
        directory = boot(self.disk)
        if self.is_member:
            directory.write_members(encode_address_book(AddressBook(incarnation=1, contacts=())))
            self.note()
            directory.write_members(OTHERS)
        log = directory.open_log()
        self.cluster, self.seed = directory.identity.cluster_uuid, log.seed
        self.vote(log, 1, 1)
        self.append(log, 14, term=1)
        log.close()
        self.note()
        log = directory.open_log()
        self.vote(log, 2, 0)
        self.vote(log, TERM, VOTE)
        self.append(log, 9, term=TERM)
        log.trim_prefix(log.sealed_segments()[0].next_offset, log.last_index)
        self.first_index = log.first_index
        self.append(log, 3, term=TERM)
        while log.last_index - log.view.base_indexes[-1] < 3:
            self.append(log, 1, term=TERM)
        if is_closed:
            log.close()
        self.disk.stop_process()
        self.note()

    def vote(self, log, term, vote):
        log.save_hard_state(term=term, vote=vote)
        self.note()

    def append(self, log, count, *, term):
        writer = Writer(log.state, seed=log.seed)
        for _ in range(count):
            entry = writer.records(1, 120, term=term)
            log.append([entry])
            log.sync(entry.index)
            log.sync(entry.index)
            self.entries.append(entry)
            self.note()

    def note(self):
        for path, content in self.disk.contents().items():
            past = self.history.setdefault(path, [])
            if not past or past[-1] != content:
                past.append(content)

    def _older(self, path):
        """Return what a file was before, each that differs from what it is now."""
        past = list(self.history.get(path, ()))
        if path.endswith("/start"):
            past.insert(0, encode_state_file(START_MAGIC, self.seed, LogState(), FLAG_INSTALLING))
        if path.endswith(f"/{DAMAGE_NAME}"):
            past += [Loss(3, 1, is_cut=True).encode(self.seed), Loss(3, 1).encode(self.seed)]
        return [content for content in dict.fromkeys(past) if content != self.image[path]]

    def restore(self):
        self.disk.stop_process()
        for path in set(self.disk.contents()) - set(self.image):
            self.disk.unlink(path)
        for path, content in self.image.items():
            if not self.disk.exists(path) or self.disk.content(path) != content:
                self.disk.replace(path, content)

    def open(self):
        directory = boot(self.disk)
        if not self.is_member:
            return directory.open_log()
        return LogRepair(self.disk, directory, DEFAULT_GROUP).open_log()

    def _untouched(self):
        """Return every file after a start and a clean stop that nothing harmed."""
        self.open().close()
        contents = self.disk.contents()
        self.restore()
        return contents

    @property
    def last(self):
        return self.entries[-1]

    def files(self):
        """Return the path of each file of the table, by its name there."""
        bases = sorted({int(path[-26:-6]) for path in self.image if path.endswith(".store")})
        found = {
            "`lock`": "/data/lock",
            "`node`": "/data/node",
            "`members`": "/data/members",
            "`start`": f"{DIRECTORY}/start",
            "`hard_state`": f"{DIRECTORY}/hard_state",
            "`held`": f"{DIRECTORY}/held",
            "`reserve`": "/data/reserve",
        }
        for word, base in (("first", bases[0]), ("middle", bases[len(bases) // 2]), ("newest", bases[-1])):
            for suffix in ("store", "index", "state"):
                found[f"{word} `.{suffix}`"] = f"{DIRECTORY}/{base:020d}.{suffix}"
        found["`damage`"] = f"{DIRECTORY}/{DAMAGE_NAME}"
        return {name: path for name, path in found.items() if path in self.image}

    def other_name(self, path):
        """Return a name that a copy of a file could get by mistake, and that the log takes for its own."""
        parsed = recovery.parse_name(path.rpartition("/")[2])
        if parsed is None:
            return f"{path}.copy"
        return f"{DIRECTORY}/{recovery.segment_name(parsed[0] + 1000, parsed[1])}"

    def harms(self, path, harm):
        """Yield functions that harm a file, in each of the ways that have one name."""
        disk, content = self.disk, self.image[path]

        def move():
            disk.replace(self.other_name(path), content)
            disk.unlink(path)

        if harm == "removed":
            yield lambda: disk.unlink(path)
        elif harm == "emptied" and content:
            yield lambda: disk.replace(path, b"")
        elif harm == "cut" and content:
            used = len(content.rstrip(b"\0")) or len(content)
            for size in {used // 2, used - 1}:
                yield lambda size=size: disk.replace(path, content[:size])
        elif harm == "duplicated":
            yield lambda: disk.replace(self.other_name(path), content)
        elif harm == "renamed":
            yield move
        elif harm == "older copy":
            for older in self.before[path]:
                yield lambda older=older: disk.replace(path, older)


class LostFilesTests(SynchronousTestCase):
    """Compare what happens with the table in the document."""

    def outcome(self, course, path, harm):
        """Return what the harms of one name end in, the worst of them; "" when there is none."""
        found = []
        for apply in course.harms(path, harm):
            apply()
            found.append(self.outcome_of(course, path, harm))
            course.restore()
        return max(found, key=OUTCOMES.index, default="")

    def outcome_of(self, course, path, harm):
        disk, harmed = course.disk, course.disk.contents()
        is_refused_by_verify = self.verify_refuses(disk)
        self.assertEqual(disk.contents(), harmed)
        try:
            log = course.open()
        except (DamageError, DataDirectoryError) as error:
            return self.refused(course, harmed, error, is_refused_by_verify)
        loss = read_loss(disk, DIRECTORY, course.seed)
        if log.unknown_ends:
            # Mended in its place once the node runs.
            self.assertTrue(course.is_member and is_refused_by_verify)
            return "repaired"
        frames, wanted = frames_of(log), [entry.frame for entry in course.entries[log.first_index - 1 :]]
        self.assertEqual(frames, wanted[: len(frames)])
        if loss is not None:
            self.assertGreaterEqual(loss.pair, (course.last.term, course.last.index))
            self.assertTrue(loss.is_cut)
            if len(frames) < len(wanted) or log.first_index != course.first_index:
                self.assertTrue(is_refused_by_verify or DAMAGE_NAME in path or harm == "duplicated", path)
            is_as_before = course.after.get(f"{DIRECTORY}/{DAMAGE_NAME}") == disk.content(
                f"{DIRECTORY}/{DAMAGE_NAME}"
            )
            return "harmless" if is_as_before and harm == "duplicated" else "repaired"
        hard_state = (log.hard_state.term, log.hard_state.vote)
        if frames != wanted or log.first_index != course.first_index or hard_state != (TERM, VOTE):
            return "not noticed"
        log.close()
        self.assertFalse(is_refused_by_verify, (path, harm))
        # An index that was made anew has no room behind its entries.
        is_same = disk.exists(path) and disk.content(path).rstrip(b"\0") == course.after[path].rstrip(b"\0")
        return "rebuilt" if is_same and harm != "duplicated" else "harmless"

    def verify_refuses(self, disk):
        try:
            found = [step for step in verify(disk, "/data") if isinstance(step, Finding) and step.is_damage]
            problems = [problem for log in inspect(disk, "/data").logs for problem in log.problems]
        except (DamageError, DataDirectoryError):
            return True
        if found and not any("payload" in finding.problem for finding in found):
            self.assertTrue(problems, found)
        return bool(found)

    def refused(self, course, harmed, error, is_refused_by_verify):
        disk = course.disk
        self.assertTrue(is_refused_by_verify, str(error))
        self.assertIn("/data", str(error))
        self.assertTrue(any(word in str(error) for word in ("recover", "restore", "empty")), str(error))
        for name in ("/data/lock", "/data/node"):
            harmed.setdefault(name, b"")
        after = disk.contents()
        self.assertEqual({path: after.get(path, b"") for path in harmed}, harmed)
        disk.stop_process()
        if isinstance(error, DamageError) and not course.is_member and error.file != "/data/node":
            self.recover(course)
        return "refused"

    def recover(self, course):
        """What a lone node refuses, `recover` makes one that starts, with a prefix of what there was."""
        disk = course.disk
        try:
            repair = accept_data_loss(disk, DIRECTORY, cluster=course.cluster, group=1)
        except DamageError as error:
            self.assertIn("restore", str(error))
            return
        log = course.open()
        self.assertEqual(log.last_index, repair.last_index)
        frames = frames_of(log)
        self.assertEqual(
            frames, [entry.frame for entry in course.entries[log.first_index - 1 : log.last_index]]
        )
        self.assertGreaterEqual(log.hard_state.term, TERM)
        log.close()
        self.assertFalse(self.verify_refuses(disk))

    def table(self, *, is_closed):
        """Compute the table: outcome for a lone node, and for a member where that is another."""
        rows = {}
        for is_member in (False, True):
            course = Course(is_member=is_member, is_closed=is_closed)
            for name, path in course.files().items():
                for harm in HARMS:
                    rows.setdefault(name, {}).setdefault(harm, []).append(self.outcome(course, path, harm))
        course = Course(is_member=True, is_closed=is_closed, is_under_repair=True)
        path = course.files()["`damage`"]
        rows["`damage`"] = {harm: [self.outcome(course, path, harm)] for harm in HARMS}
        return {
            name: {harm: " / ".join(dict.fromkeys(cell)) or "-" for harm, cell in row.items()}
            for name, row in rows.items()
        }

    def documented(self, heading):
        text = (Path(__file__).parents[2] / "docs" / "operations.md").read_text()
        part = text.partition(f"**{heading}**")[2]
        rows = {}
        for line in part.splitlines():
            cells = [cell.strip() for cell in line.strip().strip("|").split("|")]
            if line.startswith("|") and len(cells) == len(HARMS) + 1 and "`" in cells[0]:
                rows[cells[0]] = dict(zip(HARMS, cells[1:], strict=True))
            elif rows:
                break
        return rows

    @thorough
    def test_after_a_clean_stop(self):
        """After a clean stop nothing is lost without a word."""
        table = self.table(is_closed=True)
        self.assertNotIn("not noticed", str(table))
        self.assertEqual(table, self.documented("After a clean stop"), text_of(table))

    @thorough
    def test_after_a_kill(self):
        """After `kill -9` what only `held` could tell is not noticed; the rest is as after a clean stop."""
        table, stopped = self.table(is_closed=False), self.documented("After a clean stop")
        others = {name: row for name, row in table.items() if row != stopped[name]}
        self.assertEqual(others, self.documented("After `kill -9`"), text_of(others))

    def test_node_of_a_trimmed_log(self):
        """Without `node`, an empty log that does not begin with the first entry is no new disk."""
        disk = SimDisk()
        log = boot(disk).open_log()
        log.save_hard_state(term=TERM, vote=0)
        log.install_start(LogState(index=100, term=TERM, next_offset=400, timestamp=1))
        log.close()
        disk.stop_process()
        disk.unlink("/data/node")
        before = disk.contents()
        with self.assertRaises(DamageError) as caught:
            boot(disk)
        self.assertIn("identity is gone", str(caught.exception))
        self.assertEqual(disk.contents(), before)

    def test_interrupted_new_cluster(self):
        """What no start touches until `recover --new-cluster` is finished, `verify` does not call good."""
        course = Course(is_member=False, is_closed=True)
        course.disk.replace("/data/node.new", course.image["/data/node"])
        self.assertRaises(DataDirectoryError, course.open)
        found = [step for step in verify(course.disk, "/data") if isinstance(step, Finding)]
        self.assertEqual([(step.file, step.is_damage) for step in found], [("/data/node.new", True)])

    def test_under_a_running_log(self):
        """A file that goes while the log is open is made anew, or its loss is noticed at the next start."""
        course = Course(is_member=False, is_closed=True)
        found = {}
        for name, path in course.files().items():
            if not path.startswith(DIRECTORY) or path.endswith("held"):
                continue
            log = course.open()
            course.disk.unlink(path)
            count = len(course.entries)
            course.append(log, 2, term=TERM)
            log.close()
            course.disk.stop_process()
            try:
                again = course.open()
                self.assertEqual((again.last_index, again.hard_state), (count + 2, log.hard_state))
                outcome = "as it was"
            except DamageError as error:
                self.assertIn("recover", str(error))
                outcome = "refused"
            found.setdefault(outcome, []).append(name)
            del course.entries[count:]
            course.restore()
        self.assertEqual(
            found["refused"],
            ["`start`", "`hard_state`", "first `.store`", "middle `.store`", "newest `.store`"],
        )

    def test_planted_bugs(self):
        """Without one of the traces the table is another: each of them is needed."""
        course = Course(is_member=False, is_closed=False)
        newest = course.files()["newest `.store`"]
        self.assertEqual(self.outcome(course, newest, "removed"), "refused")
        self.patch(opening, "traces_behind", lambda *_, **__: [])
        with self.assertRaises(self.failureException):
            # `verify` and the start agree that nothing is missing, and a segment of records is.
            self.assertEqual(self.outcome(course, newest, "removed"), "refused")
        closed = Course(is_member=False, is_closed=True)
        self.assertEqual(self.outcome(closed, newest, "older copy"), "refused")
        self.patch(opening, "read_held", lambda *_: None)  # outdated_problem gets none, either
        self.assertEqual(self.outcome(closed, newest, "older copy"), "not noticed")
        self.assertEqual(self.outcome(closed, f"{DIRECTORY}/hard_state", "older copy"), "not noticed")

    def test_lock_that_is_removed(self):
        """Without the file `lock` a second process still does not get a directory that is in use."""
        path = self.mktemp()
        first = DataDirectory.lock(OsFiles(), path)
        os.unlink(os.path.join(path, "lock"))
        with self.assertRaises(DataDirectoryError) as caught:
            DataDirectory.lock(OsFiles(), path)
        self.assertIn("in use", str(caught.exception))
        first.close()
        DataDirectory.lock(OsFiles(), path).close()


def text_of(table):
    """Return a table as the document has it."""
    lines = [f"| file | {' | '.join(HARMS)} |", "|---" * (len(HARMS) + 1) + "|"]
    lines += [f"| {name} | {' | '.join(row[harm] for harm in HARMS)} |" for name, row in table.items()]
    return "\n".join(["", *lines, ""])
