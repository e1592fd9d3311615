"""Cursors: what entries do to them, what is refused, and their bytes."""

import random
from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from loghouse import limits
from loghouse.errors import (
    CursorFencedError,
    CursorRewindError,
    InvalidRequestError,
    MalformedMessageError,
    TooManyCursorsError,
    UnknownCursorError,
)
from loghouse.protocol import cursors as cursors_module
from loghouse.protocol.cursors import (
    REWIND,
    WITH_RECORDS,
    CursorAction,
    CursorChange,
    CursorState,
    check_cursor_change,
    decode_cursor_change,
    decode_cursors,
    encode_cursor_change,
    encode_cursors,
)
from loghouse.protocol.entry import EntryKind
from loghouse.protocol.log_state import LogState, decode_log_state, encode_log_state
from tests.protocol.test_log_state import follow, register

ACQUIRE, ADVANCE, RELEASE, SET, DELETE = CursorAction


def change(action, name="billing", **fields):
    return CursorChange(action=action, name=name, **fields)


def write(state, action, name="billing", **fields):
    """Append the entry of a change; return its index."""
    payload = encode_cursor_change(change(action, name, **fields))
    return follow(state, EntryKind.CURSOR, payload).index


def acquire(state, name="billing", holder="one", subject="ann", lease=5000):
    return write(state, ACQUIRE, name, holder=holder, subject=subject, lease_milliseconds=lease)


def advance_with(state, position, epoch, name="billing", **records):
    """Append an advance and the records that it comes with; return the entry that has them."""
    write(state, ADVANCE, name, epoch=epoch, position=position, flags=WITH_RECORDS)
    return follow(state, **records)


def position_of(state, name="billing"):
    return state.cursors.by_name[name].position


class ChangeTests(SynchronousTestCase):
    """What each action comes to."""

    def setUp(self):
        self.state = LogState()

    def cursor(self, name="billing"):
        return self.state.cursors.by_name[name]

    def test_acquire(self):
        """Acquiring makes a cursor at 0, or keeps its position; its epoch is the index of the entry."""
        follow(self.state)
        epoch = acquire(self.state)
        made = CursorState(name="billing", epoch=epoch, holder="one", subject="ann", lease_milliseconds=5000)
        self.assertEqual((epoch, self.cursor()), (2, made))
        write(self.state, ADVANCE, epoch=epoch, position=7)
        again = acquire(self.state, holder="two", subject="bob", lease=9000)
        expected = replace(made, epoch=again, holder="two", position=7, lease_milliseconds=9000)
        self.assertEqual(self.cursor(), expected)

    def test_advance(self):
        """The position rises for the epoch that is current, and for no other one."""
        first = acquire(self.state)
        write(self.state, ADVANCE, epoch=first, position=4)
        self.assertEqual(position_of(self.state), 4)
        second = acquire(self.state, holder="two")
        write(self.state, ADVANCE, epoch=first, position=9)
        self.assertEqual(position_of(self.state), 4)
        write(self.state, ADVANCE, epoch=second, position=5)
        self.assertEqual((position_of(self.state), self.cursor().holder), (5, "two"))

    def test_rewind(self):
        """A position goes back only when a rewind is asked for."""
        epoch = acquire(self.state)
        write(self.state, ADVANCE, epoch=epoch, position=4)
        write(self.state, ADVANCE, epoch=epoch, position=3)
        self.assertEqual(position_of(self.state), 4)
        write(self.state, ADVANCE, epoch=epoch, position=3, flags=REWIND)
        self.assertEqual((position_of(self.state), self.cursor().epoch), (3, epoch))

    def test_release_and_set(self):
        """Both end the epoch: whoever held the cursor is fenced."""
        epoch = acquire(self.state)
        write(self.state, RELEASE, epoch=epoch + 1)
        self.assertEqual(self.cursor().holder, "one")
        released = write(self.state, RELEASE, epoch=epoch)
        self.assertEqual((self.cursor().holder, self.cursor().epoch), ("", released))
        epoch = acquire(self.state)
        at = write(self.state, SET, position=2, subject="root")
        self.assertEqual(self.cursor(), CursorState(name="billing", position=2, epoch=at, subject="ann"))
        write(self.state, ADVANCE, epoch=epoch, position=9)
        self.assertEqual(position_of(self.state), 2)
        write(self.state, SET, "new", position=8, subject="root")
        self.assertEqual((self.cursor("new").subject, position_of(self.state, "new")), ("root", 8))

    def test_delete(self):
        """A deleted cursor is not there; one of its name begins anew, and has another epoch."""
        epoch = acquire(self.state)
        write(self.state, ADVANCE, epoch=epoch, position=4)
        write(self.state, DELETE)
        self.assertEqual(self.state.cursors.by_name, {})
        again = acquire(self.state)
        self.assertEqual((position_of(self.state), again > epoch), (0, True))
        write(self.state, ADVANCE, epoch=epoch, position=9)
        self.assertEqual(position_of(self.state), 0)

    def test_with_records(self):
        """An advance with records counts with the entry that has them, which it then names."""
        epoch = acquire(self.state)
        write(self.state, ADVANCE, epoch=epoch, position=4, flags=WITH_RECORDS)
        self.assertEqual(position_of(self.state), 0)
        entry = follow(self.state, record_count=3)
        cursor = self.cursor()
        self.assertEqual(cursor.position, 4)
        self.assertEqual((cursor.batch_index, cursor.batch_offset, cursor.batch_count), (entry.index, 0, 3))
        follow(self.state, record_count=3)  # of somebody else
        self.assertEqual(self.cursor(), cursor)

    def test_lag(self):
        """The lag is to the log's end; a position behind it, or that ever moved with records, has none."""
        epoch = acquire(self.state)
        write(self.state, ADVANCE, epoch=epoch, position=7)
        self.assertEqual([self.cursor().lag(end) for end in (9, 7, 6)], [2, 0, None])
        advance_with(self.state, 8, epoch)
        self.assertIsNone(self.cursor().lag(9))
        again = acquire(self.state, holder="two")
        self.assertIsNone(self.cursor().lag(9))
        write(self.state, ADVANCE, epoch=again, position=9)  # a pipeline that made nothing of a record
        self.assertIsNone(self.cursor().lag(9))
        write(self.state, RELEASE, epoch=again)
        write(self.state, SET, position=2, subject="root")
        self.assertIsNone(self.cursor().lag(9))
        self.assertIsNone(self.state.cursors.find_batch(change(ADVANCE, epoch=again, position=9)))
        self.assertEqual(decode_cursors(encode_cursors(self.state.cursors)), self.state.cursors)
        write(self.state, DELETE)
        acquire(self.state)
        self.assertEqual(self.cursor().lag(9), 9)

    def test_without_its_records(self):
        """An advance whose records did not come counts for nothing, also when records come later."""
        epoch = acquire(self.state)
        write(self.state, ADVANCE, epoch=epoch, position=4, flags=WITH_RECORDS)
        follow(self.state, EntryKind.NOOP, term=2)
        follow(self.state, term=2)
        self.assertEqual((position_of(self.state), self.state.cursors.awaited), (0, None))
        write(self.state, ADVANCE, epoch=epoch, position=4, flags=WITH_RECORDS)
        follow(self.state, term=3)  # nobody's: a leader begins its term with a no-op
        self.assertEqual(position_of(self.state), 0)
        write(self.state, ADVANCE, epoch=epoch, position=4, flags=WITH_RECORDS)
        follow(self.state, EntryKind.TRIM, bytes(8))
        follow(self.state)
        self.assertEqual(position_of(self.state), 0)

    def test_refused_with_records(self):
        """A fenced advance moves nothing; the records behind it are plain ones."""
        epoch = acquire(self.state)
        acquire(self.state, holder="two")
        advance_with(self.state, 4, epoch)
        self.assertEqual((position_of(self.state), self.state.next_offset), (0, 1))

    def test_batch_is_found(self):
        """The records of the last advance are found again by cursor, epoch and position."""
        epoch = acquire(self.state)
        entry = advance_with(self.state, 4, epoch, record_count=2)
        same = change(ADVANCE, epoch=epoch, position=4, flags=WITH_RECORDS)
        find = self.state.cursors.find_batch
        self.assertEqual(find(same).batch_index, entry.index)
        for other in (
            replace(same, position=5),
            replace(same, epoch=epoch + 1),
            replace(same, name="other"),
        ):
            self.assertIsNone(find(other))
        acquire(self.state, "other")
        self.assertIsNone(find(change(ADVANCE, "other", epoch=entry.index + 1)))
        write(self.state, ADVANCE, epoch=epoch, position=4)
        self.assertIsNone(find(same))

    def test_position_at_its_end(self):
        """A position may be the largest number there is, and stays there."""
        epoch = acquire(self.state)
        write(self.state, ADVANCE, epoch=epoch, position=limits.UINT64_MAX)
        advance_with(self.state, limits.UINT64_MAX, epoch)
        self.assertEqual(position_of(self.state), limits.UINT64_MAX)

    def test_last_index(self):
        """The state knows its last cursor entry, whatever came of it."""
        self.assertEqual(self.state.later_index, 0)
        write(self.state, DELETE)
        follow(self.state)
        self.assertEqual((self.state.cursors.last_index, self.state.later_index), (1, 1))


class RefusalTests(SynchronousTestCase):
    """What a leader appends no entry for."""

    def setUp(self):
        self.state = LogState()
        self.epoch = acquire(self.state)
        write(self.state, ADVANCE, epoch=self.epoch, position=5)

    def refused(self, kind, action, *arguments, **fields):
        with self.assertRaises(kind) as caught:
            self.state.cursors.check(change(action, *arguments, **fields))
        return caught.exception

    def test_unknown(self):
        """What is not there is neither advanced, nor released, nor deleted."""
        for action in (ADVANCE, RELEASE, DELETE):
            self.assertEqual(self.refused(UnknownCursorError, action, "other", epoch=0).name, "other")

    def test_fenced(self):
        """An epoch that is not the current one is told which one is."""
        for action in (ADVANCE, RELEASE):
            for epoch in (self.epoch - 1, self.epoch + 1):
                error = self.refused(CursorFencedError, action, epoch=epoch, position=9)
                self.assertEqual((error.epoch, error.current), (epoch, self.epoch))

    def test_back(self):
        """A position may stay or rise; with records it rises."""
        check = self.state.cursors.check
        error = self.refused(CursorRewindError, ADVANCE, epoch=self.epoch, position=4)
        self.assertEqual((error.position, error.current), (4, 5))
        check(change(ADVANCE, epoch=self.epoch, position=5))
        check(change(ADVANCE, epoch=self.epoch, position=4, flags=REWIND))
        self.refused(CursorRewindError, ADVANCE, epoch=self.epoch, position=5, flags=WITH_RECORDS)
        check(change(ADVANCE, epoch=self.epoch, position=6, flags=WITH_RECORDS))

    def test_too_many(self):
        """A log has so many cursors and not one more; those that are there go on."""
        for number in range(limits.CURSORS_MAX - 1):
            acquire(self.state, f"c{number}")
        self.assertEqual(len(self.state.cursors.by_name), limits.CURSORS_MAX)
        for action in (ACQUIRE, SET):
            error = self.refused(TooManyCursorsError, action, "more", holder="one")
            self.assertEqual((error.count, error.name), (limits.CURSORS_MAX, "more"))
            self.state.cursors.check(change(action, "c5", holder="two"))
        acquire(self.state, "more")
        self.assertEqual(len(self.state.cursors.by_name), limits.CURSORS_MAX)
        write(self.state, DELETE, "c5")
        acquire(self.state, "more")
        self.assertIn("more", self.state.cursors.by_name)

    def test_texts(self):
        """What cannot be shown, and what is too long, is not proposed; at its limit it is."""
        for field, of, size_max in (
            ("cursor", "name", limits.CURSOR_NAME_SIZE_MAX),
            ("holder", "holder", limits.CURSOR_HOLDER_SIZE_MAX),
            ("subject", "subject", limits.SUBJECT_SIZE_MAX),
        ):
            good = change(ACQUIRE, holder="one", subject="ann")
            check_cursor_change(replace(good, **{of: "é" * (size_max // 2)}))
            for text in ("x" * (size_max + 1), "é" * (size_max // 2) + "éé", "a\nb"):
                with self.assertRaises(InvalidRequestError) as caught:
                    check_cursor_change(replace(good, **{of: text}))
                self.assertEqual(caught.exception.field, field)

    def test_fields(self):
        """An action has its own fields and no others."""
        for wrong in (
            change(ACQUIRE),
            change(ACQUIRE, "", holder="one"),
            change(ACQUIRE, holder="one", position=1),
            change(ADVANCE, epoch=1, holder="one"),
            change(ADVANCE, epoch=1, flags=REWIND | WITH_RECORDS),
            change(ADVANCE, epoch=1, flags=4),
            change(RELEASE, epoch=1, position=1),
            change(RELEASE, epoch=1, flags=REWIND),
            change(SET, epoch=1),
            change(SET, lease_milliseconds=1),
            change(DELETE, subject="ann"),
        ):
            with self.assertRaises(InvalidRequestError):
                check_cursor_change(wrong)
            with self.assertRaises(MalformedMessageError):
                decode_cursor_change(encode_cursor_change(wrong))


class ByteTests(SynchronousTestCase):
    """The payload of an entry, and cursors in a state."""

    def test_changes(self):
        """Every change comes back from its bytes."""
        for one in (
            change(ACQUIRE, "orders→bills", holder="h" * limits.CURSOR_HOLDER_SIZE_MAX, lease_milliseconds=9),
            change(ACQUIRE, holder="one", subject="s" * limits.SUBJECT_SIZE_MAX),
            change(ADVANCE, epoch=3, position=limits.UINT64_MAX, flags=WITH_RECORDS),
            change(RELEASE, epoch=limits.UINT64_MAX),
            change(SET, position=9, subject="ann"),
            change(DELETE, "n" * limits.CURSOR_NAME_SIZE_MAX),
        ):
            self.assertEqual(decode_cursor_change(encode_cursor_change(one)), one)

    def test_no_change(self):
        """Bytes that are cut, too many, too long, of no action or not UTF-8 are none."""
        good = encode_cursor_change(change(ACQUIRE, "é", holder="one", subject="ann"))
        wrong = [good[:size] for size in range(len(good))]
        wrong += [good + b"\0", b"\0" + good[1:], b"\6" + good[1:], good.replace("é".encode(), b"\xc3(")]
        wrong += [
            encode_cursor_change(change(DELETE, "n" * (limits.CURSOR_NAME_SIZE_MAX + 1))),
            encode_cursor_change(change(ACQUIRE, holder="h" * (limits.CURSOR_HOLDER_SIZE_MAX + 1))),
        ]
        for payload in wrong:
            with self.assertRaises(MalformedMessageError):
                decode_cursor_change(payload)

    def test_none(self):
        """A state without cursors has the bytes that it had before there were any."""
        state = LogState()
        follow(state, producer_id=register(state, "alice"))
        content = encode_log_state(state)
        write(state, DELETE)
        self.assertEqual(len(encode_log_state(state)), len(content) + 20 + 4 + 13)

    def test_state(self):
        """Cursors, an advance that waits for its records, and a birth come back with the state."""
        for birth in (False, True):
            state = LogState()
            if birth:
                # Group 2, with one voter.
                follow(
                    state,
                    EntryKind.BIRTH,
                    bytes.fromhex("00000002 00000001 00000001 01") + bytes(16) + b"\1a" + bytes(24),
                )
            epoch = acquire(state)
            advance_with(state, 5, epoch, record_count=2)
            acquire(state, "other", lease=1)
            write(state, ADVANCE, epoch=epoch, position=9, flags=WITH_RECORDS)
            found = decode_log_state(encode_log_state(state))
            self.assertEqual(found, state)
            self.assertEqual(list(found.cursors.by_name), ["billing", "other"])
            follow(found)
            self.assertEqual(position_of(found), 9)
            self.assertEqual(position_of(state), 5)

    def test_copy(self):
        """A copy does not follow the original."""
        state = LogState()
        epoch = acquire(state)
        copied = state.copy()
        self.assertEqual(copied, state)
        write(state, ADVANCE, epoch=epoch, position=3)
        self.assertEqual(position_of(copied), 0)
        self.assertNotEqual(copied.cursors, state.cursors)

    def test_damaged(self):
        """Bytes of cursors that are cut, or say what cannot be, are none."""
        state = LogState()
        epoch = acquire(state)
        acquire(state, "other")
        write(state, ADVANCE, epoch=epoch, position=9, flags=WITH_RECORDS)
        good = encode_cursors(state.cursors)
        self.assertEqual(decode_cursors(good), state.cursors)
        wrong = [good[:size] for size in range(len(good))] + [good + b"\0"]
        wrong.append(good.replace(b"\5other", b"\7billing"))
        wrong.append(good[:-24] + b"\7bilLing" + good[-16:])
        for content in wrong:
            with self.assertRaises(MalformedMessageError):
                decode_cursors(content)
        whole = encode_log_state(state)
        without = len(whole) - len(good) - 4 - 20  # that is a state, of a log that has none
        for size in [*range(without), *range(without + 1, len(whole))]:
            with self.assertRaises(MalformedMessageError):
                decode_log_state(whole[:size])
        with self.assertRaises(MalformedMessageError):
            decode_log_state(whole + b"\0")

    def test_more_than_there_may_be(self):
        """More cursors than the bound are refused."""
        state = LogState()
        for name in "abc":
            acquire(state, name)
        content = encode_log_state(state)
        self.patch(cursors_module, "CURSORS_MAX", 3)
        self.assertEqual(decode_log_state(content), state)
        self.patch(cursors_module, "CURSORS_MAX", 2)
        with self.assertRaises(MalformedMessageError):
            decode_log_state(content)

    def test_sizes(self):
        """A thousand cursors take less than a mebibyte, and as many as there may be fit a state."""
        state = LogState()
        name, holder = "n" * (limits.CURSOR_NAME_SIZE_MAX - 4), "h" * limits.CURSOR_HOLDER_SIZE_MAX
        for number in range(1000):
            acquire(state, f"{name}{number:04}", holder, "s" * limits.SUBJECT_SIZE_MAX)
        size = len(encode_cursors(state.cursors))
        self.assertLess(size, 2**20)
        producers = limits.PRODUCERS_MAX * (10 + limits.SUBJECT_SIZE_MAX + 24 * limits.PRODUCER_BATCHES_MAX)
        others = 2 * limits.REMOVED_MAX * (limits.NAME_SIZE_MAX + 1)
        self.assertLess(producers + size * limits.CURSORS_MAX // 1000 + others, limits.STATE_SIZE_MAX)


class Model:
    """The rules in the plainest words: a dict of lists, and what the last entry brought."""

    def __init__(self):
        self.cursors = {}  # name: [position, epoch, holder]
        self.waiting = None

    def entry(self, index, one):
        """Take the entry of a change, or None for records."""
        waiting, self.waiting = self.waiting, None
        if one is None:
            if waiting:
                self.cursors[waiting[0]][0] = waiting[1]
            return
        held = self.cursors.get(one.name)
        match one.action:
            case CursorAction.ACQUIRE:
                self.cursors[one.name] = [held[0] if held else 0, index, one.holder]
            case CursorAction.SET:
                self.cursors[one.name] = [one.position, index, ""]
            case CursorAction.DELETE:
                self.cursors.pop(one.name, None)
            case CursorAction.RELEASE if held and held[1] == one.epoch:
                held[1:] = index, ""
            case CursorAction.ADVANCE if held and held[1] == one.epoch:
                if one.flags == WITH_RECORDS and one.position > held[0]:
                    self.waiting = one.name, one.position
                elif one.flags == REWIND or (not one.flags and one.position >= held[0]):
                    held[0] = one.position


class PropertyTests(SynchronousTestCase):
    """Random operations against the model, over snapshots and replays at random places."""

    def random_change(self, rng, state):
        name = rng.choice("abc")
        held = state.cursors.by_name.get(name, CursorState(name=name))
        epoch = held.epoch if rng.random() < 0.7 else rng.randrange(state.index + 2)
        match rng.choice(list(CursorAction) + [ADVANCE] * 6):
            case CursorAction.ACQUIRE:
                return change(ACQUIRE, name, holder=rng.choice(["h1", "h2"]), subject=rng.choice("st"))
            case CursorAction.ADVANCE:
                position = max(0, held.position + rng.randrange(-2, 5))
                flags = rng.choice((0, 0, REWIND, WITH_RECORDS, WITH_RECORDS))
                return change(ADVANCE, name, epoch=epoch, position=position, flags=flags)
            case CursorAction.RELEASE:
                return change(RELEASE, name, epoch=epoch)
            case CursorAction.SET:
                return change(SET, name, position=rng.randrange(20), subject="root")
            case _:
                return change(DELETE, name)

    def test_model(self):
        """Every replica has the state of the model, whichever way it came to it."""

        @settings(deadline=None, derandomize=True, max_examples=60)
        @given(st.integers(0, 2**32), st.integers(1, 60))
        def check(seed, steps):
            rng, state, model, entries = random.Random(seed), LogState(), Model(), []
            kept = state.copy()  # of another replica, behind by some entries
            for _ in range(steps):
                one = self.random_change(rng, state) if rng.random() < 0.7 else None
                if one is None:
                    entries.append(follow(state, record_count=rng.randrange(1, 4)))
                else:
                    entries.append(follow(state, EntryKind.CURSOR, encode_cursor_change(one)))
                model.entry(state.index, one)
                found = {
                    name: [cursor.position, cursor.epoch, cursor.holder]
                    for name, cursor in state.cursors.by_name.items()
                }
                self.assertEqual(found, model.cursors)
                if rng.random() < 0.2:
                    state = decode_log_state(encode_log_state(state))  # a snapshot, or a restart
                if rng.random() < 0.2:
                    for entry in entries[kept.index :]:
                        kept.apply(entry)
                    self.assertEqual(encode_log_state(kept), encode_log_state(state))
            replayed = LogState()
            for entry in entries:
                replayed.apply(entry)
            self.assertEqual(replayed, state)

        check()
