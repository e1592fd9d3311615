"""What must hold at every step of a run, whatever the nodes say of themselves.

`Oracle` sees what each node was given to write, what its simulated disk holds durably,
what it sends and what it calls committed, and keeps books of its own. It raises
`Violation` at the first step that breaks a rule, and names the rule.

A log's prefix is compared in O(1): every index has a rolling checksum of all entry
headers up to it (a header holds its payload's checksum).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Final

from loghouse.protocol.configuration import Configuration, MemberRole, decode_configuration
from loghouse.protocol.cursors import Cursors
from loghouse.protocol.entry import Entry, EntryKind, crc32c
from loghouse.protocol.log_state import LogState, check_follows, encode_log_state
from loghouse.protocol.raft_messages import AppendEntriesReply, Envelope, RequestVote, RequestVoteReply
from loghouse.raft.quorum import majority

GENESIS: Final = 0
# A member is known by its id; where a second disk got the same id, by what is above these bits, too.
ID_BITS: Final = 32


# The same few configurations are looked at again and again.
_configuration = lru_cache(maxsize=256)(decode_configuration)


def _voters(configuration: Configuration) -> tuple[tuple[int, bytes], ...]:
    members = configuration.members
    return tuple((member.id, member.disk_uuid) for member in members if member.role is MemberRole.VOTER)


class Violation(Exception):  # noqa: N818 - it is what is found, not what goes wrong with us
    """A rule was broken. `rule` is its short name."""

    def __init__(self, rule: str, text: str) -> None:
        super().__init__(f"{rule}: {text}")
        self.rule = rule


@dataclass(slots=True)
class LogView:
    """A member's log as the oracle knows it: what it was given to write, and how much of that is durable.

    `chains[k]` is the rolling checksum after index `start` + k; `start` is the index before the first entry.
    """

    member: int
    start: int = 0
    chains: list[int] = field(default_factory=lambda: [GENESIS])
    entries: list[Entry] = field(default_factory=list)
    durable_index: int = 0
    # The last entry on the disk; one that the member was told to cut may still be there for a moment.
    disk_index: int = 0
    durable_term: int = 0
    durable_vote: int = 0
    # The index this member acknowledged and has not been told to cut since; it must survive any crash.
    promised_index: int = 0
    promised_chain: int = GENESIS
    commit_index: int = 0
    applied_index: int = 0
    # Committed by this leader, and not yet found on a majority's disks.
    unproven_index: int = 0
    term: int = 0
    # Damaged or emptied on purpose: what it promised is lost, and it says so.
    excused: bool = False

    @property
    def id(self) -> int:
        """The member's id in the group."""
        return self.member & ((1 << ID_BITS) - 1)

    @property
    def last(self) -> int:
        """The last index."""
        return self.start + len(self.entries)

    def chain_at(self, index: int) -> int | None:
        """Return the checksum of the log up to an index, None when the index is not held."""
        if self.start <= index <= self.last:
            return self.chains[index - self.start]
        return None

    def term_at(self, index: int) -> int | None:
        """Return the term of an entry that is held; None at the start."""
        return self.entries[index - self.start - 1].term if self.start < index <= self.last else None

    def append(self, entry: Entry) -> int:
        """Add an entry; return the new checksum."""
        chain = crc32c(entry.head, self.chains[-1])
        self.chains.append(chain)
        self.entries.append(entry)
        return chain

    def cut(self, index: int) -> list[Entry]:
        """Keep entries up to an index; return those cut."""
        keep = max(0, index - self.start)
        gone = self.entries[keep:]
        del self.entries[keep:]
        del self.chains[keep + 1 :]
        self.durable_index = min(self.durable_index, index)
        if index < self.promised_index:
            self.promised_index = index
            self.promised_chain = self.chain_at(index) or GENESIS
        return gone

    def restart_at(self, index: int, chain: int) -> None:
        """Begin behind an index: a snapshot was installed."""
        self.start = index
        self.chains = [chain]
        self.entries = []


class Oracle:
    """The books of a run: who led, what is committed, and what each member promised."""

    def __init__(self) -> None:
        self.views: dict[int, LogView] = {}
        self.committed: list[Entry] = []
        self.committed_chains: list[int] = [GENESIS]
        self.state = LogState()
        self._matches: dict[tuple[int, int], int] = {(0, 0): GENESIS}
        self._leaders: dict[int, int] = {}
        self._votes: dict[tuple[int, int], int] = {}
        # (term, highest index committed by its leader), terms growing.
        self._commits: list[tuple[int, int]] = [(0, 0)]
        # Which disks had an id. A configuration entry that was cut may have given it to another one.
        self._disks: dict[int, list[bytes]] = {}
        self.checks = 0
        # (member, index, term, the cursors after that entry) of each state that a member found or was given.
        self.recovered_cursors: list[tuple[int, int, int, Cursors]] = []

    def number(self, id_: int, disk_uuid: bytes) -> int:
        """Return what a member is called here: its id, unless another disk had that before."""
        disks = self._disks.setdefault(id_, [])
        if disk_uuid not in disks:
            disks.append(disk_uuid)
        return id_ | disks.index(disk_uuid) << ID_BITS

    def numbers_of(self, disk_uuid: bytes) -> list[int]:
        """Return every member number that a disk had."""
        return [self.number(id_, disk_uuid) for id_, disks in self._disks.items() if disk_uuid in disks]

    def view(self, member: int) -> LogView:
        """Return the books of a member."""
        found = self.views.get(member)
        if found is None:
            found = self.views[member] = LogView(member)
        return found

    @property
    def committed_index(self) -> int:
        """The highest index that any member called committed."""
        return len(self.committed)

    def configuration(self, member: int) -> Configuration:
        """Return the latest configuration in a member's log, committed or not."""
        view = self.view(member)
        for entry in reversed(view.entries):
            if entry.kind == EntryKind.CONFIGURATION:
                return _configuration(bytes(entry.payload))
        for entry in reversed(self.committed[: view.start]):
            if entry.kind == EntryKind.CONFIGURATION:
                return _configuration(bytes(entry.payload))
        return Configuration()

    @property
    def leader_count(self) -> int:
        """How many terms had a leader."""
        return len(self._leaders)

    def bootstrap(self, entry: Entry) -> None:
        """Note the first entry, which is on every voter's disk before anything runs."""
        self._matches[(entry.index, entry.term)] = crc32c(entry.head, GENESIS)

    def born(self, entry: Entry) -> None:
        """Note the first entry of a group, with which all its founders begin: nobody has to commit it."""
        if not self.committed:
            self.bootstrap(entry)
            self.committed.append(entry)
            self.committed_chains.append(crc32c(entry.head, GENESIS))
            self._commits.append((entry.term, entry.index))
            self.state.apply(entry)

    def served(self, member: int, offset: int, entry: Entry) -> None:
        """Check a record that a node gave to a client: committed, and at its offset."""
        known = self.committed[entry.index - 1] if entry.index <= len(self.committed) else None
        if known is None or known.frame != entry.frame or not entry.base_offset <= offset < entry.next_offset:
            raise Violation(
                "served", f"member {member} serves entry {entry.index} for offset {offset}, which is not it"
            )

    def not_held(self, member: int, offset: int) -> None:
        """Check that a record that a node says is trimmed was."""
        if self.state.lowest_offset <= offset < self.state.next_offset:
            raise Violation(
                "retention",
                f"member {member} has not {offset}, trimmed is only below {self.state.lowest_offset}",
            )

    # --- what a member writes -------------------------------------------------------

    def opened(self, member: int, entries: Sequence[Entry], start: int, term: int, vote: int) -> None:
        """Check a member's log as recovered from its disk, behind `start`; begin its books anew from it."""
        view = self.view(member)
        chain = self._chain_of_start(member, start)
        promised_index, promised_chain = view.promised_index, view.promised_chain
        if not view.excused:
            if term < view.durable_term:
                raise Violation(
                    "monotone-term", f"member {member} came back in {term}, was in {view.durable_term}"
                )
            if term == view.durable_term and view.durable_vote not in (0, vote):
                raise Violation(
                    "vote-once", f"member {member} forgot its vote for {view.durable_vote} in term {term}"
                )
        view.restart_at(start, chain)
        for entry in entries:
            self._note_match(member, entry, view.append(entry))
        if not view.excused and promised_index > start:
            kept = view.chain_at(promised_index)
            if kept != promised_chain:
                raise Violation(
                    "durable-promise",
                    f"member {member} acknowledged index {promised_index} and lost it in a crash "
                    f"(its log is {start + 1} to {view.last})",
                )
        view.durable_index = view.disk_index = view.last
        view.durable_term, view.durable_vote = term, vote
        view.commit_index = view.applied_index = 0
        view.term = term

    def _chain_of_start(self, member: int, start: int) -> int:
        if start >= len(self.committed_chains):
            raise Violation(
                "snapshot-committed", f"member {member} starts behind {start}, which is not committed"
            )
        return self.committed_chains[start]

    def _note_match(self, member: int, entry: Entry, chain: int) -> None:
        key = (entry.index, entry.term)
        known = self._matches.setdefault(key, chain)
        if known != chain:
            raise Violation(
                "log-matching",
                f"member {member} has another log up to entry {entry.index} of term {entry.term} than others",
            )

    def recovered(self, member: int, state: LogState) -> None:
        """Note the state that a member has, to be compared with the log once that is committed."""
        if state.cursors.last_index:
            self.recovered_cursors.append((member, state.index, state.term, state.cursors.copy()))

    def installed(self, member: int, state: LogState) -> None:
        """Note that a member was told its log starts behind `state`."""
        view = self.view(member)
        chain = self._chain_of_start(member, state.index)
        if state.index and self.committed[state.index - 1].term != state.term:
            raise Violation(
                "snapshot-committed", f"member {member} took a snapshot of a term that never was there"
            )
        if view.commit_index > state.index:
            raise Violation(
                "snapshot-stale", f"member {member} went back from {view.commit_index} to {state.index}"
            )
        self.recovered(member, state)
        view.restart_at(state.index, chain)
        view.durable_index = min(view.durable_index, state.index)
        if view.promised_index > state.index:
            view.promised_index, view.promised_chain = state.index, chain

    def truncated(self, member: int, index: int) -> None:
        """Note that a member was told to keep entries up to `index` only."""
        view = self.view(member)
        if index < view.commit_index:
            raise Violation(
                "cut-committed", f"member {member} cuts behind {index}, committed to {view.commit_index}"
            )
        for entry in view.cut(index):
            # Its own entry of a term it led: only fine once a later leader overruled it.
            if self._leaders.get(entry.term) == member and view.term <= entry.term:
                raise Violation("leader-append-only", f"leader {member} cut its own entry {entry.index}")

    def appended(self, member: int, entries: Sequence[Entry]) -> None:
        """Note entries that a member was given to write."""
        view = self.view(member)
        for entry in entries:
            if entry.index != view.last + 1:
                raise Violation("log-dense", f"member {member} writes {entry.index} behind {view.last}")
            if entry.kind == EntryKind.CONFIGURATION and self._leaders.get(entry.term) == member:
                self._check_change(view, entry)
            self._note_match(member, entry, view.append(entry))

    def _check_change(self, view: LogView, entry: Entry) -> None:
        """One membership change at a time, and one voter in it (Raft 6)."""
        if view.term != entry.term:
            return
        for earlier in reversed(view.entries):
            if earlier.index <= view.commit_index:
                break
            if earlier.kind == EntryKind.CONFIGURATION:
                raise Violation(
                    "one-change",
                    f"leader {view.member}: {entry.index} while {earlier.index} is not committed",
                )
        if view.term_at(view.commit_index) != entry.term:
            raise Violation(
                "change-too-early",
                f"leader {view.member}: {entry.index} before it committed in term {entry.term}",
            )
        before = self.configuration(view.member).voters
        after = _configuration(bytes(entry.payload)).voters
        if len(before ^ after) > 1 and before:
            raise Violation(
                "one-change", f"leader {view.member} goes from voters {set(before)} to {set(after)}"
            )

    def persisted(self, member: int, last_index: int, last_term: int) -> None:
        """Note that a member's disk holds a log that ends in this entry.

        It counts only as far as the member's books still say the same: what was cut meanwhile does not.
        """
        view = self.view(member)
        view.disk_index = last_index
        chain = view.chain_at(last_index)
        if last_index < view.start:
            # A snapshot is on its way to the disk; what it replaces counts as far as it is the same.
            is_same = self._matches.get((last_index, last_term)) == self.committed_chains[last_index]
        else:
            is_same = chain is not None and view.term_at(last_index) in (last_term, None)
        if is_same:
            view.durable_index = last_index

    def saved(self, member: int, term: int, vote: int) -> None:
        """Note the hard state that a member's disk now holds durably."""
        view = self.view(member)
        if term < view.durable_term or (term == view.durable_term and view.durable_vote not in (0, vote)):
            raise Violation(
                "vote-once",
                f"member {member} saved term {term} vote {vote} over term {view.durable_term} "
                f"vote {view.durable_vote}",
            )
        view.durable_term, view.durable_vote = term, vote

    # --- what a member says -----------------------------------------------------------

    def sent(self, envelope: Envelope, member: int | None = None) -> None:
        """Check that a message promises nothing that is not durable (Raft figure 2; thesis 3.8)."""
        self.checks += 1
        message = envelope.message
        view = self.view(envelope.source if member is None else member)
        kind = type(message)
        if message.term > view.durable_term and not getattr(message, "pre_vote", False):
            raise Violation(
                "durable-term",
                f"member {view.member} says term {message.term}, its disk {view.durable_term}: {message}",
            )
        if kind is AppendEntriesReply:
            assert isinstance(message, AppendEntriesReply)
            if message.success:
                self._check_acknowledgement(view, message.index, message.term)
        elif kind is RequestVoteReply:
            assert isinstance(message, RequestVoteReply)
            if message.granted and not message.pre_vote:
                self._check_vote(view, message.term, envelope.target)
        elif kind is RequestVote:
            assert isinstance(message, RequestVote)
            if not message.pre_vote:
                self._check_vote(view, message.term, view.id)

    def _check_vote(self, view: LogView, term: int, candidate: int) -> None:
        known = self._votes.setdefault((view.member, term), candidate)
        if known != candidate:
            raise Violation(
                "vote-once", f"member {view.member} voted for {known} and {candidate} in term {term}"
            )
        if term == view.durable_term and view.durable_vote != candidate:
            raise Violation(
                "durable-vote", f"member {view.member} votes for {candidate}, which its disk does not know"
            )

    def _check_acknowledgement(self, view: LogView, index: int, term: int) -> None:
        if term < view.durable_term:
            # It was true before the member followed a newer leader, which may have cut it since; Raft
            # allows such a message to be late. No vote of the newer term can depend on it.
            return
        if index > max(view.durable_index, view.disk_index):
            raise Violation(
                "durable-ack", f"member {view.member} acknowledges {index}, durable is {view.durable_index}"
            )
        if term < view.term:
            # The core follows a newer leader by now, and may have replaced what it acknowledges; the disk has
            # that still.
            return
        if index > view.promised_index:
            chain = view.chain_at(index)
            if chain is not None:
                view.promised_index, view.promised_chain = index, chain

    # --- what a member is --------------------------------------------------------------

    def stepped(self, member: int, term: int) -> None:
        """Check a member's term after a step."""
        view = self.view(member)
        if term < view.term:
            raise Violation("monotone-term", f"member {member} went from term {view.term} to {term}")
        view.term = term

    def elected(self, member: int, term: int) -> None:
        """Check a new leader: alone in its term, its own vote durable, and with all that is committed."""
        known = self._leaders.setdefault(term, member)
        if known != member:
            raise Violation("election-safety", f"members {known} and {member} both lead term {term}")
        view = self.view(member)
        if view.durable_term < term or (view.durable_term == term and view.durable_vote != view.id):
            raise Violation(
                "durable-vote", f"member {member} leads term {term}, its disk knows {view.durable_term}"
            )
        required = max(index for commit_term, index in self._commits if commit_term < term)
        if view.last < required or (
            required >= view.start and view.chain_at(required) != self.committed_chains[required]
        ):
            raise Violation(
                "leader-completeness",
                f"member {member} leads term {term} without the committed {required}; its last: {view.last}",
            )

    def committed_to(self, member: int, commit_index: int, leading_term: int) -> None:
        """Check and note a member's commit index. `leading_term` is its term while it leads, else 0."""
        view = self.view(member)
        if commit_index < view.commit_index:
            raise Violation(
                "monotone-commit", f"member {member} went back from {view.commit_index} to {commit_index}"
            )
        if commit_index == view.commit_index:
            return
        self.checks += 1
        if commit_index > view.last:
            raise Violation("commit-beyond-end", f"member {member}: commit {commit_index}, last {view.last}")
        view.commit_index = commit_index
        for index in range(len(self.committed) + 1, commit_index + 1):
            self._commit(view, index)
        if commit_index >= view.start and view.chain_at(commit_index) != self.committed_chains[commit_index]:
            raise Violation(
                "state-machine-safety",
                f"member {member} calls entry {commit_index} committed, but another one is",
            )
        if leading_term:
            view.unproven_index = 0 if self._is_held_by_majority(view, commit_index) else commit_index
            if self._commits[-1][0] == leading_term:
                self._commits[-1] = (leading_term, commit_index)
            else:
                self._commits.append((leading_term, commit_index))
                self._commits.sort()

    def _commit(self, view: LogView, index: int) -> None:
        if index <= view.start:
            raise Violation(
                "state-machine-safety", f"member {view.member} commits {index}, which it does not hold"
            )
        entry = view.entries[index - view.start - 1]
        self.committed.append(entry)
        self.committed_chains.append(view.chains[index - view.start])
        check_follows(self.state, entry)
        self.state.apply(entry)

    def check_quorum(self, member: int) -> None:
        """What a leader commits is on the disks of a majority, now (Raft 5.3, and "durable by default").

        Asked after the turn's entries are noted, too: a configuration among them counts at once (Raft 6), and
        the commit may have been counted before or after it.
        """
        view = self.view(member)
        index, view.unproven_index = view.unproven_index, 0
        if index and not self._is_held_by_majority(view, index):
            raise Violation("durable-majority", f"leader {member} commits {index}, not durable on a majority")

    def check_first_commit(self, member: int, index: int) -> None:
        """Who does not lead may be the first to know of a commit only where its own disk is the majority."""
        if not self._is_held_by_majority(self.view(member), index):
            raise Violation(
                "durable-majority", f"member {member} calls {index} committed, and no leader ever did"
            )

    def _is_held_by_majority(self, view: LogView, index: int) -> bool:
        voters = _voters(self.configuration(view.member))
        chain = self.committed_chains[index]
        holding = sum(1 for id_, disk in voters if self._holds(self.number(id_, disk), index, chain))
        return holding >= majority(len(voters))

    def _holds(self, voter: int, index: int, chain: int) -> bool:
        view = self.views.get(voter)
        if view is None:
            return False
        if view.excused and view.promised_index >= index:
            return True  # it had it when it said so; what took it since is within the atlas
        return view.durable_index >= index and (view.start >= index or view.chain_at(index) == chain)

    def applied(self, member: int, entries: Sequence[Entry]) -> None:
        """Check what a member applies: the committed log, in order, without gap."""
        view = self.view(member)
        for entry in entries:
            if view.applied_index and entry.index != view.applied_index + 1 and entry.index != view.start + 1:
                raise Violation(
                    "apply-order", f"member {member} applies {entry.index} after {view.applied_index}"
                )
            view.applied_index = entry.index
            if entry.index > len(self.committed) or self.committed[entry.index - 1].head != entry.head:
                raise Violation(
                    "state-machine-safety", f"member {member} applies {entry.index}, which is not committed"
                )

    # --- the end -------------------------------------------------------------------------

    def check_replica(
        self, member: int, entries: Sequence[Entry], state: LogState, core_state: LogState
    ) -> None:
        """Check that a member's disk, at the end, holds the committed log and its state."""
        view = self.view(member)
        if state.index != len(self.committed):
            raise Violation(
                "convergence", f"member {member} ends at {state.index}, committed is {len(self.committed)}"
            )
        for entry in entries:
            if self.committed[entry.index - 1].frame != entry.frame:
                raise Violation("convergence", f"member {view.member} holds another entry {entry.index}")
        if any(encode_log_state(one) != encode_log_state(self.state) for one in (state, core_state)):
            raise Violation("replicated-state", f"member {member}'s state is not the one that the log says")
