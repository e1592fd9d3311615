"""What each error says, with its number on the wire, and what its caller may do."""

import errno

from twisted.trial.unittest import SynchronousTestCase

from loghouse import errors
from loghouse.errors import LoghouseError, ResourceExhaustedError, short_of

NOTHING = "nothing was appended"


class TextTests(SynchronousTestCase):
    """An operator reads the text, a client the number; both say what happened, and what to do next."""

    # An error, its number on the wire, its text.
    ROWS = [
        (errors.InvalidRequestError("batch", "has no records"), 16, "batch: has no records"),
        (errors.OffsetOutOfRangeError(9, 2, 7), 17, "offset 9 is out of range; offsets held: 2 to 6"),
        (errors.OffsetOutOfRangeError(9, 2, 3), 17, "offset 9 is out of range; offsets held: 2 to 2"),
        (
            errors.OffsetOutOfRangeError(1, 2, 2),
            17,
            "offset 1 is out of range; offsets held: none yet; the next is 2",
        ),
        (errors.NotLeaderError("n2"), 18, "not the leader; ask n2"),
        (errors.NotLeaderError(), 18, "not the leader, and no leader is known; try again"),
        (errors.UnavailableError("text"), 19, "text"),
        (errors.DeadlineError("text"), 19, "text"),
        (errors.ClosedError("text"), 19, "text"),
        (errors.OutcomeUnknownError("text"), 20, "text"),
        (errors.ExpectOffsetError(3, 5), 21, f"expected next offset 3, but it is 5; {NOTHING}"),
        (errors.SequenceError(7, 4, 2), 22, f"producer 7 sent sequence 4, expected 2; {NOTHING}"),
        (
            errors.SequenceReusedError(7, 4),
            32,
            f"producer 7 sent other records as sequence 4, which is in the log; {NOTHING}: "
            "a retry must send the same bytes, and a new batch the next sequence",
        ),
        (errors.UnknownProducerError(7), 23, "producer 7 is not known for this subject; register again"),
        (errors.ResourceExhaustedError("calls", "at most 4"), 24, "calls: at most 4"),
        (
            errors.DiskFullError("/data"),
            25,
            "disk: no space left under /data; free some, appends resume by themselves",
        ),
        (errors.PermissionDeniedError("a", "produce", "log"), 26, "'a' is not permitted to produce 'log'"),
        (errors.UnauthenticatedError("text"), 27, "text"),
        (errors.UnknownLogError("b"), 28, "no log named 'b' on this cluster"),
        (errors.MembershipError("text"), 29, "text"),
        (errors.NotSupportedError("text"), 30, "text"),
        (errors.ReloadRefusedError("text"), 33, "text"),
        (errors.QuotaExceededError(1500, "calls", "too many"), 34, "calls: too many; try again in 1.5 s"),
        (
            errors.CursorHeldError(1500, "b", "h"),
            35,
            "cursor 'b' is held by 'h', whose lease has 1.5 s left; wait, or let that holder release it",
        ),
        (
            errors.CursorFencedError(7, 9, "b"),
            36,
            "cursor 'b' has epoch 9 by now, not 7: somebody else acquired or set it; nothing was done, "
            "acquire it again and go on from its position",
        ),
        (
            errors.CursorRewindError(3, 5, "b"),
            37,
            "cursor 'b' stands at 5 and does not go to 3; nothing was done: a position rises, with records "
            "by one at least, unless a rewind is asked for",
        ),
        (errors.UnknownCursorError("b"), 38, "this log has no cursor 'b'; acquire it, that makes it"),
        (
            errors.TooManyCursorsError(4, "b"),
            39,
            "cursor 'b' would be one more than the 4 that a log has at most; nothing was done: delete one "
            "that nobody uses",
        ),
        (errors.UnknownServiceError("s"), 31, "no gRPC service named 's' here"),
        (errors.ProtocolError("text"), 1, "text"),
        (
            errors.FrameTooLargeError(0x302, 9, 8),
            2,
            "frame kind 0x0302 announces 9 bytes; at most 8 are allowed",
        ),
        (errors.MalformedMessageError("text"), 3, "text"),
        (errors.IdentityError("text"), 4, "text"),
        (errors.VersionError("text"), 5, "text"),
        (errors.PeerTimeoutError("text"), 6, "text"),
        (errors.EntryTruncatedError(80), 40, "the entry frame needs 80 bytes"),
        (errors.EntryDamagedError("text"), 40, "text"),
        (errors.DamageError("f", 12, "bad crc"), 48, "f: damaged at byte 12: bad crc"),
        (
            errors.DamageError("f", 12, "bad crc", remedy="run recover"),
            48,
            "f: damaged at byte 12: bad crc; run recover",
        ),
        (
            errors.DivergenceError(1, 9, 3, 4),
            64,
            "group 1: the leader has term 4 at index 9, but this node committed term 3 there; "
            "one of the two logs was damaged or restored from a copy. Stop this node, "
            "compare the logs, and wipe the wrong one",
        ),
        (errors.ConfigError(["one: wrong", "two: worse"]), 0, "one: wrong\ntwo: worse"),
    ]

    def test_rows(self):
        """Every row of `ROWS` is as listed."""
        for error, code, text in self.ROWS:
            self.assertEqual((error.code, str(error)), (code, text))

    def test_details(self):
        """What a text is made of can be read from the error."""
        for error, details in (
            (errors.InvalidRequestError("f", "p"), {"field": "f", "problem": "p"}),
            (errors.OffsetOutOfRangeError(9, 2, 7), {"offset": 9, "lowest": 2, "next_offset": 7}),
            (errors.NotLeaderError("n2"), {"leader": "n2"}),
            (errors.NotLeaderError(), {"leader": None}),
            (errors.ExpectOffsetError(3, 5), {"expected": 3, "actual": 5}),
            (errors.SequenceError(7, 4, 2), {"producer_id": 7, "sequence": 4, "expected": 2}),
            (errors.SequenceReusedError(7, 4), {"producer_id": 7, "sequence": 4}),
            (errors.UnknownProducerError(7), {"producer_id": 7}),
            (errors.ResourceExhaustedError("r", "l"), {"resource": "r", "limit": "l"}),
            (errors.PermissionDeniedError("a", "b", "c"), {"subject": "a", "action": "b", "object": "c"}),
            (errors.UnknownLogError("b"), {"name": "b"}),
            (errors.UnknownServiceError("s"), {"name": "s"}),
            (errors.FrameTooLargeError(1, 2, 3), {"kind": 1, "size": 2, "size_max": 3}),
            (errors.EntryTruncatedError(80), {"needed": 80}),
            (errors.ConfigError(["a", "b"]), {"problems": ("a", "b")}),
            (
                errors.DivergenceError(1, 9, 3, 4),
                {"group": 1, "index": 9, "term": 3, "leader_term": 4},
            ),
            (
                errors.DamageError("f", 12, "bad"),
                {"file": "f", "position": 12, "problem": "bad", "last_index": 0, "last_term": 0},
            ),
            (
                errors.DamageError("f", 12, "bad", last_index=5, last_term=2),
                {"file": "f", "position": 12, "problem": "bad", "last_index": 5, "last_term": 2},
            ),
        ):
            self.assertEqual(vars(error), details)
        self.assertEqual(errors.DiskFullError("/data").directory, "/data")

    def test_was_appended(self):
        """Of errors of no request, too, it is known whether the record is in the log; by itself of none."""
        self.assertEqual(
            (LoghouseError.code, LoghouseError.may_retry, LoghouseError.was_appended), (0, False, None)
        )
        for kind in (
            errors.RequestError,
            errors.ProtocolError,
            errors.EntryError,
            errors.ConfigError,
            errors.CertificateError,
        ):
            self.assertIs(kind.was_appended, False, kind)
        for kind in (errors.StorageError, errors.ConsensusError, errors.OutcomeUnknownError):
            self.assertIsNone(kind.was_appended, kind)
        self.assertFalse(errors.ClosedError.may_retry)


class ShortTests(SynchronousTestCase):
    """Where memory or files do not suffice for a request."""

    def test_short_of(self):
        """Too few files, and too little memory, are refusals that may be tried again; nothing else is one."""
        for number in (errno.EMFILE, errno.ENFILE, errno.ENOMEM):
            refusal = short_of(OSError(number, "too many"))
            self.assertIs(type(refusal), ResourceExhaustedError)
            self.assertEqual(str(refusal), "files: too many on this node; try again, or another node")
        refusal = short_of(MemoryError())
        self.assertEqual(str(refusal), "memory: this node has none left for it; try again, or another node")
        for error in (
            OSError(errno.EIO, "broken"),
            OSError("?"),
            ValueError("?"),
            errors.UnavailableError("?"),
        ):
            self.assertIsNone(short_of(error))
