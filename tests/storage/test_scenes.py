"""Scripts over a data directory on a simulated disk: what the disk is asked to do, and what comes of it.

In the files of `scenes/` a line "> command arguments" is done; behind it is what changed the disk, in order,
and the outcome. Names are short: 7.store is of the segment that begins with entry 7. `#` and four digits
stand for bytes. Long outcomes have a number, [7], and are written out where they come first.
LOGHOUSE_REWRITE_SCENARIOS=1 writes what happened into the files instead of comparing it: read the difference.
"""

import errno
import re
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from loghouse.errors import LoghouseError
from loghouse.protocol.address_book import AddressBook, Contact, encode_address_book
from loghouse.protocol.configuration import Configuration, MemberRole, encode_configuration
from loghouse.protocol.entry import EntryKind, crc32c, frame_seed
from loghouse.protocol.log_state import LogState
from loghouse.storage.directory import DataDirectory, DiskIdentity
from loghouse.storage.inspect import dump, inspect
from loghouse.storage.loss import Loss, read_loss, write_loss
from loghouse.storage.new_cluster import Rewrite
from loghouse.storage.opening import survey
from loghouse.storage.others import knows_others
from loghouse.storage.repair import accept_data_loss, cut_for_refetch
from loghouse.storage.start import write_start
from loghouse.storage.verify import verify
from loghouse.testing.disk import CHANGING, SimDisk
from tests.scripts import Scripts
from tests.storage.entries import Writer

CLUSTER, DISK_UUID = b"the-cluster-uuid", b"this-disk's-uuid"
DATA, LOG = "/data", "/data/logs/1"
GROUP = 1
SEED = frame_seed(CLUSTER, GROUP)


def short(text: str) -> str:
    """Return a text with the paths and names of the log's files in short."""
    text = re.sub(r"\b(\d{20})\b", lambda found: str(int(found[1])), text.replace(f"{LOG}/", ""))
    return text.replace(LOG, "LOG")


def mark(content: bytes) -> str:
    """Return what stands for some bytes."""
    return f"#{crc32c(content) & 0xFFFF:04x}"


class TellingDisk(SimDisk):
    """A simulated disk that writes down, in short, what changes it."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def _operate(self, kind, path, size, *arguments):
        super()._operate(kind, path, size, *arguments)
        if kind not in CHANGING:
            return
        what = {
            "pwritev": lambda: f"write {path} {arguments[-1]}+{size} {mark(arguments[1][0])}",
            "allocate": lambda: f"allocate {path} {arguments[1]}+{size}",
            "truncate": lambda: f"truncate {path} {size}",
            "rename": lambda: f"rename {arguments[0]} {path}",
        }.get(kind, lambda: f"{kind} {path}")()
        self.lines.append(short(what))

    def mark(self) -> str:
        """Return what stands for all names and bytes."""
        return mark(b"".join(b"%s %s" % (path.encode(), seen) for path, seen in self.contents().items()))

    def twin(self) -> "TellingDisk":
        """Return an independent disk of the same bytes, for a process that has opened nothing yet."""
        twin = TellingDisk()
        twin.root = self.copy().root
        return twin


class Scene:
    """A data directory, its log if it is open, and the commands of scripts as methods."""

    def __init__(self) -> None:
        self.disk = TellingDisk()
        self.directory = None
        self.log = None
        self.is_loud = True
        self.sizes = {"segment_size": 5120, "reserve_size": 512}
        self.frees = []
        self.known: dict[str, int] = {}  # the numbers of long outcomes

    def run(self, text: str) -> str:
        """Do a script; return it with what happened."""
        lines = []
        for line in text.splitlines():
            if line.startswith("#"):
                lines.append(line)
            elif line.startswith("> "):
                lines += ["", line, *self.told(line[2:])]
        return "\n".join(lines) + "\n"

    def once(self, outcome: str) -> str:
        """Return an outcome, or its number when it is long and was told before."""
        if len(outcome) < 24:
            return outcome
        is_new = outcome not in self.known
        number = self.known.setdefault(outcome, len(self.known) + 1)
        return f"[{number}]{f' {outcome}' if is_new else ''}"

    def told(self, command: str) -> list[str]:
        """Do one command; return what it made the disk do, and its outcome."""
        name, *arguments = command.split()
        self.disk.lines.clear()
        try:
            result = list(getattr(self, f"do_{name.replace('-', '_')}")(*arguments) or ())
        except (LoghouseError, OSError, LookupError) as error:
            detail = [
                f"{key} {value}" for key in ("last_index", "last_term") if (value := getattr(error, key, 0))
            ]
            result = [f"! {type(error).__name__}: {short(str(error))}{' | '.join(['', *detail])}"]
        return [*(self.disk.lines if self.is_loud else ()), *result]

    # --- the scene itself ------------------------------------------------------------------

    def do_quiet(self):
        """Do not tell what happens on the disk from here on."""
        self.is_loud = False

    def do_loud(self):
        self.is_loud = True

    def do_open_files(self):
        """Tell which files the process has open."""
        yield "= " + (" ".join(sorted(short(path) for _, path in self.disk._open.values())) or "none")

    def do_files(self):
        """Tell every file's size."""
        for path, content in self.disk.contents().items():
            yield f"= {short(path)} {len(content)} {mark(content)}"

    def do_kill(self):
        self.log = self.directory = None
        self.disk.stop_process()

    # --- the directory -----------------------------------------------------------------------

    def take(self):
        if self.directory is None:
            self.directory = DataDirectory.lock(self.disk, f"{DATA}/", **self.sizes)
        return self.directory

    def do_boot(self):
        """Make a new disk of a new cluster."""
        self.take().create(
            DiskIdentity(cluster_uuid=CLUSTER, disk_uuid=DISK_UUID, cluster_name="c", node_name="n")
        )

    def do_take(self):
        self.take()

    def do_take_again(self):
        """Try to take it while it is taken."""
        DataDirectory.lock(self.disk, DATA)

    def do_claim(self, cluster, node):
        """Take what somebody took before; a refusal leaves it to others."""
        directory = DataDirectory.claim(
            self.disk, f"{DATA}/", cluster_name=cluster, node_name=node, **self.sizes
        )
        yield f"= {directory and directory.is_empty}"
        self.directory = directory

    def do_undo(self):
        self.directory.undo()
        self.directory = None

    def do_let_go(self):
        self.directory.close()
        self.directory = None

    def do_members(self, *names):
        contacts = tuple(
            Contact(name=name, disk_uuid=bytes(16), incarnation=1, address="127.0.0.1:1") for name in names
        )
        self.take().write_members(encode_address_book(AddressBook(incarnation=1, contacts=contacts)))

    def do_others(self):
        """Tell whether the node knows of others."""
        yield f"= {knows_others(self.disk, self.take(), GROUP)}"

    # --- the log -----------------------------------------------------------------------------

    def do_open(self, how=""):
        """Open the log, as a lone node or as a "member" that can mend it."""
        if self.take().is_empty:
            raise LookupError("the disk is nobody's")
        self.log = self.directory.open_log(GROUP, leaves_damage=how == "member")
        yield from (f"warning: {short(text)}" for text in self.log.warnings)
        yield from self.do_log()

    def do_log(self):
        """Tell what the log says of itself."""
        log = self.log
        yield (
            f"= entries {log.first_index} to {log.last_index} of term {log.last_term}, durable "
            f"{log.durable_index}, committed {log.commit_index}; offsets {log.first_offset} "
            f"({log.lowest_offset}) to {log.next_offset}; {log.hard_state}"
        )
        sealed = [
            f"{one.base_index} {one.base_offset}-{one.next_offset} {one.size} @{one.newest_timestamp}"
            for one in log.sealed_segments()
        ]
        yield f"= sealed {sealed}, active {log.active_size}, room {log.record_room}"
        if log.unknown_ends:
            yield f"= unknown ends of {sorted(log.unknown_ends)}"
        if log.failure:
            yield f"= failed: {short(log.failure)}"

    def do_append(self, count, size="100", term="1", records="1", kind="records"):
        writer = Writer(self.log.state, seed=SEED)
        makers = {
            "records": lambda: writer.records(int(records), int(size), term=int(term)),
            "noop": lambda: writer.noop(term=int(term)),
            "trim": lambda: writer.trim(int(records), term=int(term)),
            "producer": lambda: writer.producer("root", term=int(term)),
            "members": lambda: writer._make(
                EntryKind.CONFIGURATION,
                encode_configuration(
                    Configuration()
                    .with_member("n", DISK_UUID, MemberRole.VOTER)
                    .with_member("m", bytes(16), MemberRole.VOTER)
                ),
                term=int(term),
            ),
        }
        self.log.append([makers[kind]() for _ in range(int(count))])

    def do_sync(self, commit_index):
        self.log.sync(int(commit_index))

    def do_vote(self, term, vote):
        self.log.save_hard_state(term=int(term), vote=int(vote))

    def do_prepare(self):
        self.log.prepare()

    def do_cut(self, index):
        self.log.truncate_suffix(int(index))

    def do_trim(self, *where):
        yield f"= begins at {self.log.trim_prefix(*map(int, where))}"

    def do_install(self, index, term, next_offset):
        self.log.install_start(
            LogState(index=int(index), term=int(term), next_offset=int(next_offset), timestamp=int(index))
        )

    def do_close(self):
        log, self.log = self.log, None
        log.close()

    def do_state(self, index):
        state = self.log.state_at(int(index))
        yield f"= {state.index} of term {state.term}, next offset {state.next_offset}, at {state.timestamp}"

    # --- harm ----------------------------------------------------------------------------------

    def path(self, name):
        base, dot, suffix = name.partition(".")
        if name.startswith("/"):
            return f"{DATA}{name}"
        return f"{LOG}/{int(base):020d}{dot}{suffix}" if base.isdecimal() else f"{LOG}/{name}"

    def change(self, name, changed):
        self.disk.replace(self.path(name), changed(self.disk.content(self.path(name))))

    def do_flip(self, name, position):
        self.disk.flip(self.path(name), 8 * int(position))

    def do_zero(self, name, begin, end):
        size = int(end) - int(begin)
        self.change(name, lambda old: old[: int(begin)] + bytes(size) + old[int(end) :])

    def do_shorten(self, name, size):
        self.change(name, lambda old: old[: int(size)])

    def do_put(self, name, position, text):
        self.change(name, lambda old: old[: int(position)] + text.encode() + old[int(position) + len(text) :])

    def do_remove(self, name):
        self.disk.unlink(self.path(name))

    def do_copy(self, name, target):
        self.disk.replace(self.path(target), self.disk.content(self.path(name)))

    def do_start(self, index, term, next_offset, how=""):
        """Replace the file that says where the log begins."""
        state = LogState(index=int(index), term=int(term), next_offset=int(next_offset))
        write_start(self.disk, LOG, SEED, state, installing=how == "installing")

    def do_loss(self, index, term, how=""):
        write_loss(self.disk, LOG, SEED, Loss(int(index), int(term), is_cut=how == "cut"))

    def do_fail(self, number, kind, after):
        """Let one operation of a kind fail, so many from now."""
        self.disk.fail(int(number), kinds=[kind], after=int(after))

    def do_no_room(self, *what):
        """Leave no room for a part of the log (`FILLED`)."""
        self.frees.append(self.disk.fill(" ".join(what)))

    def do_sizes(self, segment, reserve):
        """Let segments and the reserve be as large as this from the next start on."""
        self.sizes = {"segment_size": int(segment), "reserve_size": int(reserve)}

    def do_capacity(self, free):
        """Leave only so many bytes of the disk."""
        self.disk.capacity = self.disk.used_size() + int(free)

    def do_room(self):
        self.disk.capacity = None
        while self.frees:
            self.frees.pop()()

    # --- what is said of it --------------------------------------------------------------------

    def do_survey(self):
        found = survey(self.disk, LOG, cluster=CLUSTER, group=GROUP)
        yield (
            f"= {found.plan}, tail {found.tail.value} to {found.tail_end}, entry {found.state.index} of term "
            f"{found.state.term}, rebuilt {sorted(found.indexes)}, {found.loss}, {found.watermark}"
        )

    def do_verify(self):
        for step in verify(self.disk, f"{DATA}/"):
            yield f"= {short(str(step))}"

    def do_inspect(self):
        summary = inspect(self.disk, f"{DATA}/")
        for log in summary.logs:
            yield f"= from entry {log.first_index}, offset {log.first_offset}; {log.hard_state}"
            yield from (f"= {short(problem)}" for problem in log.problems)
            yield from (f"= {short(str(segment))}" for segment in log.segments)

    def do_dump(self, low, high):
        summary = inspect(self.disk, DATA)
        for log in summary.logs:
            for file, position, entry in dump(self.disk, summary, log, low=int(low), high=int(high)):
                yield f"= {short(file)} {position}: entry {entry.index}, {len(entry.payload)} bytes"

    def do_recover(self):
        yield from self._repaired(accept_data_loss)

    def do_refetch(self):
        yield from self._repaired(cut_for_refetch)
        yield f"= {read_loss(self.disk, LOG, SEED)}"

    def _repaired(self, repair):
        done = repair(self.disk, LOG, cluster=CLUSTER, group=GROUP)
        yield from (f"= {short(action)}" for action in done.actions)
        yield f"= ends at {done.last_index}, next offset {done.next_offset}, once {done.lost_index}"

    def do_new_cluster(self):
        rewrite, sizes = Rewrite(self.disk, DATA, group=GROUP), []
        done = rewrite.run(b"a-newer-cluster!", 5_000_000, lambda: sizes.append(rewrite.done_size))
        yield f"= {done}"
        yield f"= {sizes} of {rewrite.total_size}"

    def do_judge(self, *harm):
        """Do some harm, parted by commas; say what everybody makes of it, each on a disk of its own."""
        harmed = self._twin()
        for command in " ".join(harm).split(", "):
            yield from harmed.told(command)
        judges = ("survey", "open", "open member", "verify", "inspect", "refetch", "recover", "new-cluster")
        for judge in judges:
            scene = harmed._twin()
            before = scene.disk.mark()
            told = [line for line in scene.told(judge) if "VerifyProgress" not in line]
            yield from (f"{judge:>11} {self.once(line)}" for line in told)
            if judge in ("survey", "verify", "inspect"):
                assert scene.disk.mark() == before, "it changed what it looked at"
            elif scene.disk.mark() != before:
                scene.do_kill()
                yield from (f"{'then':>11} {self.once(line)}" for line in scene.told("open"))

    # --- faults --------------------------------------------------------------------------------

    def do_faults(self, *command):
        """Do a command with an error at each change, each time on a disk of its own; then again, and restart.

        "no room" lasts from there on until the second try; the others strike once.
        """
        text = " ".join(command)
        clean = self._twin()
        clean.told(text)
        for place, line in enumerate(list(clean.disk.lines)):
            yield f"at {line}"
            for number, times in ((errno.ENOSPC, 1 << 62), (errno.EMFILE, 1), (errno.EIO, 1)):
                scene = self._twin()
                fault = scene.disk.fail(number, after=place, kinds=sorted(CHANGING), times=times)
                outcomes = [scene.outcome(text)]
                scene.disk.faults.remove(fault)
                if scene.log is not None:
                    outcomes.append(scene.outcome(text))
                scene.do_kill()
                outcomes.append(scene.outcome("open"))
                marks = " ".join(mark for _, mark in outcomes)
                texts = " / ".join(self.once(text) for text, _ in outcomes)
                yield f"  {errno.errorcode[number]} {marks}: {texts}"

    def _twin(self):
        """The same scene on a disk of its own, opened anew."""
        twin = Scene()
        twin.disk = self.disk.twin()
        twin.is_loud = False
        if self.log is not None:
            twin.do_take()
            list(twin.do_open())
        return twin

    def outcome(self, command):
        """Do a command; return its outcome, and what stands for the disk's bytes then."""
        return "; ".join(self.told(command)) or "done", self.disk.mark()


class SceneTests(SynchronousTestCase):
    """One test for each script; its first line says what it shows."""

    maxDiff = None
    test = Scripts(Path(__file__).parent / "scenes", lambda text: Scene().run(text))
