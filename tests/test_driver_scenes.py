"""Scripts over three drivers with real logs: what each says, writes and answers, in order.

In the files of `tests/driver/scenes/` a line "> command arguments" is done; behind it is what came of it.
"disk" is a piece of work handed to the disk's thread, "readable" what readers are woken with, and answers
have the number of what was asked. LOGHOUSE_REWRITE_SCENARIOS=1 writes what happened into the files instead.
"""

from pathlib import Path

from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from loghouse.errors import DiskFailedError, LoghouseError
from loghouse.node.api import proposing
from loghouse.protocol.configuration import Configuration, encode_trim
from loghouse.protocol.entry import EntryKind
from loghouse.raft.ready import Proposal
from loghouse.replica.driver import RaftDriver
from loghouse.storage.log import Log
from tests.driver.group import Group
from tests.raft.scenario import describe
from tests.scripts import Scripts


class Scene:
    """A group of three, and the commands of scripts as methods."""

    def __init__(self):
        self.lines = []
        self.asked = 0
        self.frees = []
        self.group = Group(3)
        for member in self.group.members.values():
            self.watch(member)

    def watch(self, member):
        """Write down what a member's driver asks of its surroundings, and what it tells them."""

        def telling(name, text):
            does = getattr(member, name)

            def tell(*arguments):
                self.lines.append(f"{member.id} {text(*arguments)}")
                return does(*arguments)

            setattr(member, name, tell)

        def sent(envelope):
            self.lines.append(describe(envelope))
            send(envelope)

        send, member.send = member.send, sent
        telling(
            "role_changed", lambda state: f"is {state.role.value} in term {state.term}, leader {state.leader}"
        )
        telling("disk_filled", lambda is_full: "has no room" if is_full else "has room again")
        telling("damage_found", lambda error: f"damage: {error}")
        telling("fatal", lambda error: f"ends: {error}")
        driver = member.replica
        telling(
            "committed",
            lambda: (
                f"readable: to entry {driver.readable_index}, offsets {driver.lowest_offset} to "
                f"{driver.readable_offset}"
            ),
        )
        submit = member.disk.submit

        def submitted(*work):
            self.lines.append(f"{member.id} disk")
            submit(*work)

        member.disk.submit = submitted

    def run(self, text):
        """Do a script; return it with what happened."""
        lines = []
        for line in text.splitlines():
            if line.startswith("#"):
                lines.append(line)
            elif line.startswith("> "):
                self.lines.clear()
                name, *arguments = line[2:].split()
                try:
                    getattr(self, f"do_{name}")(*arguments)
                except LoghouseError as error:
                    self.lines.append(f"! {type(error).__name__}: {error}")
                lines += ["", line, *self.lines]
        return "\n".join(lines) + "\n"

    def driver(self, id_) -> RaftDriver:
        return self.group[int(id_)].replica

    def answer(self, done):
        """Let what comes of a question be told."""
        self.asked += 1
        number = self.asked

        def tell(outcome):
            if isinstance(outcome, Failure):
                outcome = f"{outcome.type.__name__}: {outcome.value}"
            self.lines.append(f"answer {number}: {outcome}")

        done.addBoth(tell)

    # --- commands ---------------------------------------------------------------------

    def do_settle(self):
        self.group.settle()

    def do_now(self):
        """Settle while no time passes."""
        self.group.settle_now()

    def do_turn(self):
        """Let the next thing that is due at the end of a turn of the reactor happen."""
        self.group.soons.popleft()()

    def do_tick(self, ids, count="1"):
        self.group.tick(*(int(id_) for id_ in ids.split(",")), count=int(count))

    def do_elect(self, id_):
        self.group.elect(int(id_))

    def do_propose(self, id_, size="10", kind="RECORDS", lowest="0"):
        is_trim = kind == "TRIM"
        proposal = Proposal(
            kind=EntryKind[kind],
            payload=encode_trim(int(lowest)) if is_trim else bytes(int(size)),
            record_count=0 if is_trim else 1,
        )
        self.answer(proposing(self.driver(id_).propose, proposal))

    def do_configure(self, id_, *removed):
        before = self.driver(id_).raft.configuration
        members = tuple(one for one in before.members if str(one.id) not in removed)
        change = Configuration(next_id=before.next_id, members=members)
        self.answer(self.group[int(id_)].change(change))

    def do_read(self, id_):
        self.answer(self.group[int(id_)].read_barrier())

    def do_idle(self, id_):
        self.answer(self.group[int(id_)].when_idle())

    def do_transfer(self, id_, target="0"):
        self.driver(id_).transfer_leadership(int(target))

    def do_stop(self, id_):
        self.driver(id_).stop()

    def do_go_back(self, id_):
        self.driver(id_).go_back("/data")

    def do_retry(self, id_):
        self.driver(id_).retry_write()

    def do_hold(self, id_):
        """Let a disk do nothing."""
        self.group[int(id_)].disk.is_held = True

    def do_release(self, id_):
        self.group[int(id_)].disk.is_held = False

    def do_full(self, id_):
        self.frees.append(self.group[int(id_)].fill_disk())

    def do_free(self):
        while self.frees:
            self.frees.pop()()

    def do_break(self, id_):
        """Let a disk fail from now on."""

        def fail(*_):
            raise DiskFailedError("broken")

        self.group[int(id_)].log.append = fail

    def do_silent(self, id_):
        self.group[int(id_)].is_silent = True

    def do_heard(self, id_):
        self.group[int(id_)].is_silent = False

    def do_status(self, id_):
        driver, log = self.driver(id_), self.group[int(id_)].log
        assert isinstance(log, Log)
        self.lines.append(
            f"{id_}: entries to {log.last_index}, durable {log.durable_index}; full {driver.is_full}, must "
            f"go back {driver.must_go_back}, readable {driver.readable_index} {driver.readable_offset}"
        )


class DriverSceneTests(SynchronousTestCase):
    """One test for each script; its first line says what it shows."""

    maxDiff = None
    test = Scripts(Path(__file__).parent / "driver" / "scenes", lambda text: Scene().run(text))
