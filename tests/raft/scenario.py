"""Readable scripts for a group: commands, and the trace each of them is expected to leave.

A script is a text file. Lines beginning with `#` are prose. A line beginning with `> ` is a command; the
lines behind it, up to the next command or prose, are what happened. Run the tests with
LOGHOUSE_REWRITE_SCENARIOS=1 to write what happened into the files instead of comparing it.

Members are numbered from 1. Nothing happens by itself: `settle` lets messages flow and disks write until
nothing is left to do, `deliver` and `turn` do one step of it.

    group voters=3 learners=1 log2=1,1,2 [setting=value ...]   begin; logs are terms behind the configuration
    campaign 1                  the others' leader grows old, and 1's election timer fires
    timeout 1                   only 1's timer fires: the others still remember their leader
    tick 1,2 5 / tick all 5     time passes, step by step, without settling
    propose 1 TEXT [producer=ID sequence=N] [expect=OFFSET] [count=N]
    register 1                  propose a producer (its id is the entry's index)
    configure 1 add NAME / learner NAME / promote ID / demote ID / remove ID
    join 4                      start a member with an empty log
    read 1 / transfer 1 2 / settle / turn 1 / deliver [N] / deliver 1>2 / drop [1>2]
    disk 1 slow / disk 1 fast / finish 1 [N]    writes wait / happen at once / the oldest N are done
    hold 1>2 / release          messages of a link wait / go on, behind all others
    repeat 1>2                  its messages are delivered, and stay in the queue
    cut 1>2 / isolate 1 / heal
    say 3>1 TERM holds 4        an append's acknowledgement out of nowhere (late, by another way)
    say 3>1 TERM granted / granted pre-vote / refused
    trim 1 5                    1 forgets its entries below index 5
    lose 1 5                    1 is down and loses its entries behind index 5
    damage 1 5                  the same, but it knows what it lost
    restart 1                   1 starts again from its disk; unfinished writes are lost
    quiet COMMAND               the same without its trace
    status / progress 1 / log 1
"""

from collections import Counter, deque
from dataclasses import replace

from loghouse.errors import LoghouseError
from loghouse.protocol.configuration import MemberRole, encode_producer
from loghouse.protocol.entry import EntryKind
from loghouse.protocol.log_state import decode_log_state
from loghouse.protocol.raft_messages import (
    AppendEntries,
    AppendEntriesReply,
    Envelope,
    InstallSnapshot,
    RequestVote,
    RequestVoteReply,
)
from loghouse.raft.config import RaftConfig
from loghouse.raft.ready import Damage, Proposal
from tests.raft.group import GROUP, Group


def describe(envelope):
    """One message in a few words."""
    message = envelope.message
    name = type(message).__name__
    text = f"{envelope.source} > {envelope.target} {name} term {message.term}"
    if isinstance(message, RequestVote):
        text += f" log ({message.last_log_index}, {message.last_log_term})"
        text += " pre-vote" * message.pre_vote + " transfer" * message.transfer
    elif isinstance(message, RequestVoteReply):
        text += " granted" if message.granted else " refused"
        text += " pre-vote" * message.pre_vote
    elif isinstance(message, AppendEntries):
        text += f" behind ({message.prev_log_index}, {message.prev_log_term}) commit {message.commit_index}"
        if message.entries:
            text += f" entries {span(message.entries)}"
    elif isinstance(message, AppendEntriesReply):
        if message.success:
            text += f" holds {message.index}"
        else:
            text += f" rejects {message.index} hint ({message.hint_index}, {message.hint_term})"
    elif isinstance(message, InstallSnapshot):
        state = decode_log_state(message.state)
        text += f" behind ({state.index}, {state.term})"
    else:
        for name in type(message).__slots__:
            if name not in ("term", "timestamp", "context"):
                text += f" {name.replace('_', ' ')} {getattr(message, name)}"
    return text


def span(entries):
    """Indices and terms of entries that follow each other."""
    first, last = entries[0], entries[-1]
    if first is last:
        return f"({first.index}, {first.term})"
    return f"({first.index}, {first.term})..({last.index}, {last.term})"


class TracedGroup(Group):
    """A group that writes down what happens."""

    def __init__(self, *args, **fields):
        self.trace = []
        super().__init__(*args, **fields)

    def turn(self, id_):
        node = self.nodes[id_]
        seen = len(node.readies)
        writing = node.disk
        node.disk = False
        worked = super().turn(id_)
        node.disk = writing
        for ready in node.readies[seen:]:
            self._trace_ready(id_, ready)
        if node.disk:
            self.finish_writes(id_)
        return worked

    def _trace_ready(self, id_, ready):
        if ready.soft_state is not None:
            state = ready.soft_state
            leader = f", leader {state.leader}" if state.leader else ""
            self.trace.append(f"{id_} is {state.role.value} in term {state.term}{leader}")
        parts = []
        if ready.hard_state is not None:
            parts.append(f"term {ready.hard_state.term} vote {ready.hard_state.vote}")
        if ready.snapshot is not None:
            parts.append(f"start behind ({ready.snapshot.index}, {ready.snapshot.term})")
        if ready.truncate_after is not None:
            parts.append(f"cut behind {ready.truncate_after}")
        if ready.entries:
            parts.append(f"entries {span(ready.entries)}")
        if parts:
            self.trace.append(f"{id_} writes {'; '.join(parts)}")
        if ready.committed:
            self.trace.append(f"{id_} commits {span(ready.committed)}")
        self.trace += [
            f"{id_} read {'may read at ' + str(state.index) if state.index is not None else 'failed'}"
            for state in ready.read_states
        ]

    def deliver_one(self, envelope):
        dropped = len(self.dropped)
        refusals = self.nodes[envelope.target].refusals if envelope.target in self.nodes else Counter()
        text = describe(envelope)
        try:
            super().deliver_one(envelope)
        except LoghouseError as error:
            text += f": {type(error).__name__}"
        if len(self.dropped) > dropped:
            text += ": lost"
        elif envelope.target in self.nodes:
            for reason in self.nodes[envelope.target].refusals - refusals:
                text += f": {reason}"
        self.trace.append(text)

    def finish_writes(self, id_, count=None):
        node = self.nodes[id_]
        if not node.disk:
            self.trace.append(f"{id_} finishes {len(node.writing) if count is None else count} writes")
        super().finish_writes(id_, count)


class Script:
    """Runs the commands of one file."""

    def __init__(self):
        self.group = None
        self.held = []

    def run(self, text):
        """Return the text with what happened in place of what was expected."""
        out = []
        for line in text.splitlines():
            if line.startswith("> "):
                out.append(line)
                out += self.command(line[2:])
            elif line.startswith("#") or not line:
                out.append(line)
        return "\n".join(out) + "\n"

    def command(self, line):
        words = line.split()
        quiet = words[0] == "quiet"
        name, *rest = words[1:] if quiet else words
        args = [word for word in rest if "=" not in word]
        fields = dict(word.split("=") for word in rest if "=" in word)
        if name == "group":
            self._group(**fields)
            return []
        try:
            extra = getattr(self, f"do_{name}")(*args, **fields) or []
        except LoghouseError as error:
            extra = [f"{type(error).__name__}: {error}"]
        trace, self.group.trace = self.group.trace, []
        return [] if quiet else [*trace, *extra]

    def _group(self, voters="3", learners="0", **fields):
        terms = {
            int(key[3:]): [int(term) for term in value.split(",")]
            for key, value in fields.items()
            if key.startswith("log")
        }
        config = replace(
            RaftConfig(), **{key: int(value) for key, value in fields.items() if not key.startswith("log")}
        )
        self.group = TracedGroup(int(voters), int(learners), config=config, terms=terms)

    # --- time and messages --------------------------------------------------------

    def do_campaign(self, id_):
        self.group.forget_leaders(int(id_))
        self.group.campaign(int(id_), settle=False)

    def do_timeout(self, id_):
        self.group.campaign(int(id_), settle=False)

    def do_tick(self, ids, ticks="1"):
        chosen = None if ids == "all" else [int(id_) for id_ in ids.split(",")]
        for _ in range(int(ticks)):
            self.group.tick(1, chosen, settle=False)

    def do_settle(self):
        self.group.settle()

    def do_turn(self, id_):
        self.group.turn(int(id_))

    def _pick(self, which):
        """Take the messages of a link (`1>2`), the oldest N, or all out of the queue."""
        queue = self.group.queue
        if which is not None and ">" in which:
            source, target = map(int, which.split(">"))
            picked = [e for e in queue if (e.source, e.target) == (source, target)]
        else:
            picked = list(queue)[: int(which) if which else len(queue)]
        ids = {id(envelope) for envelope in picked}
        self.group.queue = deque(e for e in queue if id(e) not in ids)
        return picked

    def do_deliver(self, which=None):
        for envelope in self._pick(which):
            self.group.deliver_one(envelope)

    def do_drop(self, which=None):
        return [describe(envelope) + ": lost" for envelope in self._pick(which)]

    def do_hold(self, link):
        self.held = self._pick(link)

    def do_release(self):
        self.group.queue.extend(self.held)
        self.held = []

    def do_repeat(self, link):
        picked = self._pick(link)
        for envelope in picked:
            self.group.deliver_one(envelope)
        self.group.queue.extend(picked)

    def do_cut(self, link):
        source, target = map(int, link.split(">"))
        self.group.cut.add((source, target))

    def do_isolate(self, id_):
        self.group.isolate(int(id_))

    def do_heal(self):
        self.group.heal()

    def do_say(self, link, term, what, which=""):
        source, target = map(int, link.split(">"))
        if what == "holds":
            message = AppendEntriesReply(term=int(term), success=True, index=int(which))
        else:
            message = RequestVoteReply(
                term=int(term), granted=what == "granted", pre_vote=which == "pre-vote"
            )
        self.group.deliver_one(Envelope(GROUP, source, target, message))

    # --- disks ----------------------------------------------------------------------

    def do_disk(self, id_, speed):
        self.group.nodes[int(id_)].disk = speed == "fast"

    def do_finish(self, id_, count=None):
        self.group.finish_writes(int(id_), int(count) if count else None)

    def do_trim(self, id_, index):
        self.group.nodes[int(id_)].log.trim_prefix(int(index))

    def do_restart(self, id_):
        self.group.start(int(id_))

    def do_lose(self, id_, index):
        self.group.nodes[int(id_)].log.truncate_suffix(int(index))
        self.group.start(int(id_))

    def do_damage(self, id_, index):
        log = self.group.nodes[int(id_)].log
        damage = Damage(log.last_index, log.term_at(log.last_index))
        log.truncate_suffix(int(index))
        self.group.start(int(id_), damage=damage)

    def do_join(self, id_):
        self.group.start(int(id_), type(self.group.nodes[1].log)())

    # --- requests -------------------------------------------------------------------

    def do_propose(self, id_, text, producer="0", sequence="0", expect=None, count="1"):
        proposal = Proposal(
            payload=text.encode(),
            record_count=int(count),
            producer_id=int(producer),
            producer_sequence=int(sequence),
            subject="root" if int(producer) else "",
            expect_offset=None if expect is None else int(expect),
        )
        ticket = self.group[int(id_)].propose(proposal, 0)
        again = " again" if ticket.duplicate else ""
        return [f"{id_} has it at ({ticket.index}, {ticket.term}), offset {ticket.base_offset}{again}"]

    def do_register(self, id_):
        proposal = Proposal(kind=EntryKind.PRODUCER, payload=encode_producer("root"))
        return [f"producer {self.group[int(id_)].propose(proposal, 0).index}"]

    def do_configure(self, id_, change, what):
        old = self.group[int(id_)].configuration
        new = {
            "add": lambda: old.with_member(what, what.encode().ljust(16), MemberRole.VOTER),
            "learner": lambda: old.with_member(what, what.encode().ljust(16), MemberRole.LEARNER),
            "promote": lambda: old.with_role(int(what), MemberRole.VOTER),
            "demote": lambda: old.with_role(int(what), MemberRole.LEARNER),
            "remove": lambda: old.without(int(what)),
        }[change]()
        ticket = self.group[int(id_)].propose_configuration(new, 0)
        return [f"{id_} has it at ({ticket.index}, {ticket.term})"]

    def do_read(self, id_):
        self.group[int(id_)].read_index()

    def do_transfer(self, id_, target):
        self.group[int(id_)].transfer_leadership(int(target))

    # --- looking --------------------------------------------------------------------

    def do_status(self):
        return [f"{id_} {node.describe()}" for id_, node in self.group.nodes.items()]

    def do_progress(self, id_):
        return [
            f"{other}: {p.state.value} match {p.match_index} next {p.next_index}"
            + " paused" * p.paused
            + (f" in flight {len(p.inflights)}" if len(p.inflights) else "")
            for other, p in self.group[int(id_)].followers.items()
        ]

    def do_log(self, id_):
        return [f"{id_} {' '.join(map(str, self.group.terms(int(id_))))}"]
