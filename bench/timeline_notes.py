"""What the notes of three nodes and of a client say of each entry: when it passed which place, and why then.

Pure: `bench.timeline` has the processes, `bench/inside/timestamps.py` takes the notes. All moments are
nanoseconds of one clock.
"""

from bisect import bisect_left, bisect_right
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import TypeAlias

Span: TypeAlias = tuple[int, int]
Place: TypeAlias = tuple[str, str]  # who, and what

CLIENT, LEADER = "client", "leader"
FOLLOWERS = ("follower 1", "follower 2")  # in the order in which the leader sends to them
DISK_PLACES = (
    "disk's thread begins",
    "written",
    "sync begins",
    "sync ends",
    "watermark written",
    "disk's thread done",
    "back on the loop",
)


@dataclass(frozen=True, slots=True)
class Note:
    """Somebody passed a place; the numbers say who."""

    moment: int
    place: str
    numbers: tuple[int, ...] = ()


@dataclass(slots=True)
class Entry:
    """An entry with the appends that share it, and when it passed which place for the first time."""

    index: int
    base_offset: int
    count: int
    passed: dict[Place, int] = field(default_factory=dict)

    def since(self, begin: Place, end: Place) -> int:
        return self.passed[end] - self.passed[begin]


def read_notes(text: str) -> list[Note]:
    """Return the notes of a node, in the order of their moments."""
    notes = []
    for line in text.splitlines():
        moment, place, numbers = line.split("\t")
        notes.append(Note(int(moment), place, tuple(map(int, numbers.split()))))
    return sorted(notes, key=lambda note: note.moment)


def in_order_of_sending(leader: Sequence[Note], nodes: Sequence[Sequence[Note]]) -> list[Sequence[Note]]:
    """Return the followers' notes, first of the one to which the leader sent most entries first."""
    firsts: dict[int, int] = defaultdict(int)
    seen = 0
    for note in leader:
        if note.place == "sent" and note.numbers[1] and note.numbers[0] > seen:
            seen = note.numbers[0]
            firsts[note.numbers[3]] += 1
    return sorted(nodes, key=lambda notes: -firsts[member_of(notes)])


def member_of(notes: Sequence[Note]) -> int:
    """Return the id of the member whose notes these are; 0 for one that nothing was sent to."""
    return next((note.numbers[3] for note in notes if note.place == "received"), 0)


class _Entries:
    """The entries that a leader proposed, by index."""

    def __init__(self, leader: Sequence[Note]) -> None:
        self.all: dict[int, Entry] = {}
        for note in leader:
            if note.place == "proposed":
                index, base_offset, count = note.numbers
                entry = self.all[index] = Entry(index, base_offset, count)
                entry.passed[LEADER, "proposed"] = note.moment
        self._offsets = {
            offset: entry
            for entry in self.all.values()
            for offset in range(entry.base_offset, entry.base_offset + entry.count)
        }

    def with_offset(self, offset: int) -> Entry | None:
        return self._offsets.get(offset)

    def note(self, who: str, what: str, moment: int, last: int, first: int) -> None:
        """Entries `first` to `last` passed a place, those that had not passed it before."""
        for index in range(last, first - 1, -1):
            entry = self.all.get(index)
            if entry is not None:
                entry.passed.setdefault((who, what), moment)


def entries_of(
    leader: Sequence[Note], followers: Sequence[Sequence[Note]], calls: Mapping[int, Span]
) -> list[Entry]:
    """Return the entries of which all is known, in order.

    Args:
        followers: Their notes, in the order of `FOLLOWERS`.
        calls: From when to when the append took whose record has an offset.
    """
    entries = _Entries(leader)
    _note_appends(entries, leader, calls)
    members = [member_of(notes) for notes in followers]
    _note_disk(entries, LEADER, leader)
    committed = 0
    for note in leader:
        if note.place == "sent" and note.numbers[1] and note.numbers[3] in members:
            last, count, _, target = note.numbers
            name = FOLLOWERS[members.index(target)]
            entries.note(LEADER, f"sent to {name}", note.moment, last, last - count + 1)
        elif note.place == "committed":
            entries.note(LEADER, "committed", note.moment, note.numbers[0], committed + 1)
            committed = note.numbers[0]
    for name, member, notes in zip(FOLLOWERS, members, followers, strict=True):
        replies = [note for note in leader if note.place == "received" and not note.numbers[1]]
        _note_replies(
            entries, (LEADER, f"answer of {name}"), [note for note in replies if note.numbers[2] == member]
        )
        for note in notes:
            if note.place == "received" and note.numbers[1]:
                last, count = note.numbers[:2]
                entries.note(name, "received", note.moment, last, last - count + 1)
        _note_disk(entries, name, notes)
        sent = [note for note in notes if note.place == "sent" and not note.numbers[1]]
        _note_replies(entries, (name, "answer sent"), sent)
    found = sorted(entries.all.values(), key=lambda entry: entry.index)
    places = {place for stage in STAGES for place in (stage.begin, stage.end)}
    return [entry for entry in found if places <= entry.passed.keys()]


def _note_appends(entries: _Entries, leader: Sequence[Note], calls: Mapping[int, Span]) -> None:
    taken = {note.numbers[0]: note.moment for note in leader if note.place == "taken"}
    written = [note.moment for note in leader if note.place == "answers written"]
    moments: dict[int, dict[Place, list[int]]] = defaultdict(lambda: defaultdict(list))
    for note in leader:
        if note.place == "answered":
            stream, offset = note.numbers
            entry = entries.with_offset(offset)
            if entry is None or stream not in taken or offset not in calls:
                continue
            of_entry = moments[entry.index]
            of_entry[LEADER, "taken"].append(taken[stream])
            of_entry[LEADER, "answered"].append(note.moment)
            of_entry[CLIENT, "asks"].append(calls[offset][0])
            of_entry[CLIENT, "has the answer"].append(calls[offset][1])
    for index, of_entry in moments.items():
        entry = entries.all[index]
        for (who, what), found in of_entry.items():
            if len(found) == entry.count:
                entry.passed[who, f"{what}, first"] = min(found)
                entry.passed[who, f"{what}, last"] = max(found)
        place = bisect_left(written, max(of_entry[LEADER, "answered"]))
        if place < len(written):
            entry.passed[LEADER, "answers written"] = written[place]


def _note_replies(entries: _Entries, place: Place, replies: Iterable[Note]) -> None:
    """A reply is about every entry up to its index."""
    told = 0
    for note in replies:
        index = note.numbers[0]
        if index > told:
            entries.note(*place, note.moment, index, max(told + 1, index - 1000))
            told = index


def _note_disk(entries: _Entries, who: str, notes: Iterable[Note]) -> None:
    """Note the way of each group of writes to the disk of a node and back."""
    group: Span = (1, 0)  # the first and the last entry of the group that the disk has
    for note in notes:
        if note.place == "given to the disk":
            last, count = note.numbers
            group = last - count + 1, last
        elif note.place not in DISK_PLACES:
            continue
        entries.note(who, note.place, note.moment, group[1], group[0])
        if note.place == "back on the loop":
            group = 1, 0


# --- what waits for what ----------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Stage:
    """A part of the way of an entry, and what it waits for.

    `loop`: whose reactor ends it, so that it also waits for what that one is at; empty: another thread does.
    """

    name: str
    begin: Place
    end: Place
    waits_for: str
    loop: str = ""


def _disk_stages(who: str) -> list[Stage]:
    def stage(name: str, begin: str, end: str, waits_for: str, loop: str = "") -> Stage:
        return Stage(f"  {name}", (who, begin), (who, end), waits_for, loop)

    return [
        stage("disk's thread wakes", "given to the disk", "disk's thread begins", "a processor"),
        stage("write", "disk's thread begins", "sync begins", "the interpreter"),
        stage("sync", "sync begins", "sync ends", "the disk"),
        stage("watermark", "sync ends", "watermark written", "the interpreter"),
        stage("zeroes ahead", "watermark written", "disk's thread done", "once in eight groups the disk"),
        stage("reactor wakes", "disk's thread done", "back on the loop", "a processor, its turn", who),
    ]


def _follower_stages(who: str) -> list[Stage]:
    sent, answer = (LEADER, f"sent to {who}"), (LEADER, f"answer of {who}")
    return [
        Stage(f"leader to {who}", sent, (who, "received"), "the wire, its reactor", who),
        Stage("  its turn", (who, "received"), (who, "given to the disk"), "the group before", who),
        *_disk_stages(who),
        Stage("  its answer", (who, "back on the loop"), (who, "answer sent"), "TLS, the kernel", who),
        Stage("  to the leader", (who, "answer sent"), answer, "the wire, the leader's reactor", LEADER),
    ]


def _leader_stage(name: str, begin: str, end: str, waits_for: str, loop: str = LEADER) -> Stage:
    return Stage(name, (LEADER, begin), (LEADER, end), waits_for, loop)


def _client_stage(name: str, begin: Place, end: Place, loop: str = "") -> Stage:
    return Stage(name, begin, end, "the wire, the reactor" if loop else "the wire, the client", loop)


FIRST, SECOND = (f"sent to {who}" for who in FOLLOWERS)
STAGES = [
    _client_stage("call to leader, first append", (CLIENT, "asks, first"), (LEADER, "taken, first"), LEADER),
    _client_stage("call to leader, last append", (CLIENT, "asks, last"), (LEADER, "taken, last"), LEADER),
    _leader_stage("gathers, first append", "taken, first", "proposed", "entries under way", ""),
    _leader_stage("gathers, last append", "taken, last", "proposed", "entries under way", ""),
    _leader_stage("proposal to first socket", "proposed", FIRST, "its turn"),
    _leader_stage("  and to the second", FIRST, SECOND, "TLS, the kernel"),
    _leader_stage("leader's own disk", SECOND, "given to the disk", "its turn, the group before"),
    *_disk_stages(LEADER),
    *_follower_stages(FOLLOWERS[0]),
    *_follower_stages(FOLLOWERS[1]),
    _leader_stage("proposal to commit", "proposed", "committed", "a majority"),
    _leader_stage("commit to first answer", "committed", "answered, first", "its turn"),
    _leader_stage("  to the last answer", "answered, first", "answered, last", "the answers before"),
    _leader_stage("  to the socket", "answered, last", "answers written", "TLS, the kernel"),
    _client_stage("to the client, first", (LEADER, "answers written"), (CLIENT, "has the answer, first")),
    _client_stage("to the client, last", (LEADER, "answers written"), (CLIENT, "has the answer, last")),
]

# What an entry can be committed by: the last of a majority.
VOTES = {
    "answer of follower 1": (LEADER, f"answer of {FOLLOWERS[0]}"),
    "answer of follower 2": (LEADER, f"answer of {FOLLOWERS[1]}"),
    "the leader's own disk": (LEADER, "back on the loop"),
}


class AtWork:
    """When somebody was at work: spans that are joined where they overlap."""

    def __init__(self, spans: Iterable[Span]) -> None:
        self._begins: list[int] = []
        self._ends: list[int] = []
        for begin, end in sorted(spans):
            if self._ends and begin <= self._ends[-1]:
                self._ends[-1] = max(self._ends[-1], end)
            else:
                self._begins.append(begin)
                self._ends.append(end)
        lengths = (end - begin for begin, end in zip(self._begins, self._ends, strict=True))
        self._sums = [0, *accumulate(lengths)]

    def within(self, begin: int, end: int) -> int:
        """Return how long of this time."""
        return self._until(end) - self._until(begin)

    def _until(self, moment: int) -> int:
        place = bisect_right(self._begins, moment)
        if not place:
            return 0
        return self._sums[place] - max(0, self._ends[place - 1] - moment)

    def spans(self, begin: int, end: int) -> list[Span]:
        """Return the spans that touch this time."""
        first, last = bisect_right(self._ends, begin), bisect_left(self._begins, end)
        return list(zip(self._begins[first:last], self._ends[first:last], strict=True))


def at_work(notes: Iterable[Note]) -> AtWork:
    """Return when the reactor of a node was at work."""
    return AtWork((note.moment, note.numbers[0]) for note in notes if note.place == "at work")


def syncs_of(notes: Iterable[Note]) -> list[Span]:
    """Return when the disk of a node synced."""
    begin, spans = 0, []
    for note in notes:
        if note.place == "sync begins":
            begin = note.moment
        elif note.place == "sync ends" and begin:
            spans.append((begin, note.moment))
            begin = 0
    return spans


def quantile(values: Sequence[float], part: float) -> float:
    """Return the value below which so great a part of them is."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(part * len(ordered)))]


@dataclass(frozen=True, slots=True)
class UnderWay:
    """How many were under way at a time: by time, not by their number."""

    mean: float
    p50: int
    p99: int


def under_way(spans: Iterable[Span], begin: int, end: int) -> UnderWay:
    """Count the spans that are open at a time, from `begin` to `end`."""
    changes: dict[int, int] = defaultdict(int)
    count = 0
    for opens, closes in spans:
        if opens <= begin < closes:
            count += 1
        elif begin < opens < end:
            changes[opens] += 1
        if begin < closes < end:
            changes[closes] -= 1
    lengths: dict[int, int] = defaultdict(int)
    last = begin
    for moment in sorted(changes):
        lengths[count] += moment - last
        count += changes[moment]
        last = moment
    lengths[count] += end - last
    whole = end - begin

    def at(part: float) -> int:
        left = part * whole
        for count in sorted(lengths):
            left -= lengths[count]
            if left < 0:
                return count
        return max(lengths)

    return UnderWay(sum(count * length for count, length in lengths.items()) / whole, at(0.5), at(0.99))


def committed_by(entry: Entry) -> str:
    """Return what made a majority: the last that came before the commit."""
    committed = entry.passed[LEADER, "committed"]
    came = {name: entry.passed[place] for name, place in VOTES.items() if entry.passed[place] <= committed}
    return max(came, key=lambda name: came[name], default="nothing")


def thread_times(notes: Sequence[Note], begin: int, end: int) -> dict[int, tuple[float, float]]:
    """Return which part of the time each thread, 0 is the reactor's, ran and waited for a processor."""
    seen: dict[int, list[Note]] = defaultdict(list)
    for note in notes:
        if note.place == "thread" and begin <= note.moment <= end:
            seen[note.numbers[0]].append(note)
    found = {}
    for thread, (first, *rest) in seen.items():
        if rest:
            took = rest[-1].moment - first.moment
            ran, waited = (rest[-1].numbers[place] - first.numbers[place] for place in (1, 2))
            found[thread] = ran / took, waited / took
    return found
