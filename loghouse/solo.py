"""A group of one voter: what Raft does when there is nobody to ask.

Pure. It writes what Raft would write (a configuration entry at bootstrap, a new
term and a no-op at each start), so a log made alone is opened unchanged by a
cluster later.
"""

from __future__ import annotations

from loghouse.errors import ExpectOffsetError
from loghouse.node_api import Proposal
from loghouse.protocol.configuration import Configuration, Retention, Role, encode_configuration, encode_trim
from loghouse.protocol.entry import Entry, EntryKind, make_entry
from loghouse.protocol.log_state import LogState, ProducedBatch


class Solo:
    """Turns proposals into entries; `state` is the replicated state after the last one made."""

    def __init__(self, seed: int, state: LogState, term: int) -> None:
        """Lead from `state` on.

        Args:
            seed: `frame_seed` of the log.
            state: The replicated state at the end of the durable log; copied.
            term: This start's term, above every term in the log.
        """
        assert term > state.term
        self._seed = seed
        self._term = term
        self.state = state.copy()

    @property
    def term(self) -> int:
        """The term that entries get."""
        return self._term

    def rewind(self, state: LogState) -> None:
        """Go on from `state`: the entries made behind it were not written."""
        self.state = state.copy()

    def first_entries(self, name: str, disk_uuid: bytes, retention: Retention, now: int) -> list[Entry]:
        """Return what a new leader writes first: a configuration if the log has none, and a no-op.

        Args:
            name, disk_uuid: Of this node, the only voter at bootstrap.
            retention: Seeds the replicated setting at bootstrap, and only then.
            now: Microseconds since the epoch.
        """
        entries = []
        if not self.state.configuration.members:
            configuration = Configuration(retention=retention).with_member(name, disk_uuid, Role.VOTER)
            payload = encode_configuration(configuration)
            entries.append(self._append(EntryKind.CONFIGURATION, now, payload=payload))
        entries.append(self._append(EntryKind.NOOP, now))
        return entries

    def propose(self, proposal: Proposal, now: int) -> Entry | ProducedBatch:
        """Return the proposal's entry, or where the same batch of its producer already is.

        Raises:
            ExpectOffsetError: `expect_offset` is not the next offset.
            UnknownProducerError, SequenceError: As `LogState.find_batch`.
        """
        if proposal.producer_id:
            earlier = self.state.find_batch(
                proposal.producer_id, proposal.subject, proposal.producer_sequence
            )
            if earlier is not None:
                return earlier
        if proposal.expect_offset is not None and proposal.expect_offset != self.state.next_offset:
            raise ExpectOffsetError(proposal.expect_offset, self.state.next_offset)
        return self._append(
            EntryKind.RECORDS,
            now,
            payload=proposal.payload,
            attributes=proposal.codec,
            record_count=proposal.record_count,
            producer_id=proposal.producer_id,
            producer_sequence=proposal.producer_sequence,
            payload_crc=proposal.payload_crc,
        )

    def trim(self, lowest_offset: int, now: int) -> Entry:
        """Return the entry that raises the lowest offset."""
        return self._append(EntryKind.TRIM, now, payload=encode_trim(lowest_offset))

    def noop(self, now: int) -> Entry:
        """Return an entry without meaning."""
        return self._append(EntryKind.NOOP, now)

    def _append(self, kind: EntryKind, now: int, **fields: object) -> Entry:
        entry = make_entry(
            self._seed,
            index=self.state.index + 1,
            term=self._term,
            kind=int(kind),
            base_offset=self.state.next_offset,
            # A clock that went back must not take timestamps with it: time look-up bisects them.
            timestamp=max(now, self.state.timestamp),
            **fields,  # type: ignore[arg-type]
        )
        self.state.apply(entry)
        return entry
