"""Filters take records by their keys and headers, and never pass over a batch that holds one."""

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from loghouse.api.v1.log_pb2 import EncodedRecords, Header, Record
from loghouse.errors import InvalidRequestError
from loghouse.limits import FILTER_SIZE_MAX, FILTER_TERMS_MAX
from loghouse.protocol import record_matching
from loghouse.protocol.batch import encode_batch
from loghouse.protocol.record_filter import EVERYTHING, RecordFilter
from loghouse.protocol.record_matching import Matcher, encoded_records


def record(key=None, *headers, value=b"v"):
    return Record(
        value=value, key=key, headers=[Header(key=name, value=content) for name, content in headers]
    )


RECORDS = (
    record(),
    record(b""),
    record(b"a"),
    record(b"ab"),
    record(b"b", ("unit", b"mm")),
    record(None, ("unit", b"mm"), ("unit", b"cm")),
    record(b"a", ("unit", b""), ("", b"x")),
    record(b"z", value=b"\x2a\x01a, and unit mm"),
)


def places(records, **fields):
    """The places of the records that a filter takes; its look at the whole batch agrees."""
    matcher = Matcher(RecordFilter(**fields))
    payload = encode_batch(records)
    encoded = [one for piece in encoded_records(payload) for one in piece]
    found = matcher.places(encoded)
    assert matcher.may_be_in(payload) or not found, (fields, found)
    assert matcher.may_be_in(b"--" + payload + b"--", 2, 2 + len(payload)) == matcher.may_be_in(payload)
    return found


class FilterTests(SynchronousTestCase):
    """Which records are taken."""

    def test_keys(self):
        """One key, one of several, an empty one, which is not the same as none."""
        for keys, found in (
            ((b"a",), [2, 6]),
            ((b"",), [1]),
            ((b"ab", b"b"), [3, 4]),
            ((b"", b"a"), [1, 2, 6]),
            ((b"abc",), []),
            ((b"a", b"nowhere"), [2, 6]),
        ):
            self.assertEqual(places(RECORDS, keys=keys), found, keys)

    def test_prefixes(self):
        """A beginning of the key; an empty one takes whoever has a key. A key or a beginning is enough."""
        self.assertEqual(places(RECORDS, key_prefixes=(b"a",)), [2, 3, 6])
        self.assertEqual(places(RECORDS, key_prefixes=(b"",)), [1, 2, 3, 4, 6, 7])
        self.assertEqual(places(RECORDS, key_prefixes=(b"ab", b"z")), [3, 7])
        self.assertEqual(places(RECORDS, keys=(b"b",), key_prefixes=(b"ab",)), [3, 4])

    def test_headers(self):
        """All of the headers, by name and value, each wherever it stands."""
        for headers, found in (
            ((("unit", b"mm"),), [4, 5]),
            ((("unit", b"cm"),), [5]),
            ((("unit", b"mm"), ("unit", b"cm")), [5]),
            ((("unit", b""),), [6]),
            ((("", b"x"),), [6]),
            ((("", b""),), []),
            ((("mm", b"unit"),), []),
        ):
            self.assertEqual(places(RECORDS, headers=headers), found, headers)
        self.assertEqual(places(RECORDS, keys=(b"b",), headers=(("unit", b"mm"),)), [4])

    def test_the_last_key_counts(self):
        """A record that names its key twice has the last one, and lengths may be written in more bytes."""
        twice = b"\x2a\x01a\x2a\x01b"
        long = b"\x2a\x81\x00a"
        payload = EncodedRecords(records=[twice, long]).SerializeToString()
        for key, found in ((b"a", [1]), (b"b", [0])):
            matcher = Matcher(RecordFilter(keys=(key,)))
            self.assertTrue(matcher.may_be_in(payload))
            self.assertEqual(matcher.places([twice, long]), found)

    def test_passed_over(self):
        """A batch without the bytes is passed over, without a look at any record."""
        payload = encode_batch(RECORDS)
        for fields in (
            {"keys": (b"abc",)},
            {"keys": (b"no", b"nor")},
            {"key_prefixes": (b"no",)},
            {"headers": (("unit", b"m"), ("no", b""))},
            {"keys": (b"a",), "headers": (("unit", b"no"),)},
        ):
            self.assertFalse(Matcher(RecordFilter(**fields)).may_be_in(payload), fields)

    def test_likely(self):
        """A key as a record has it is found without a look at any record, unless more is asked for."""
        payload = encode_batch([record(b"a"), record(value=b"\x2a\x01c, b")])
        for fields, is_likely in (
            ({"keys": (b"a",)}, True),
            ({"keys": (b"no", b"a")}, True),
            ({"keys": (b"b",)}, False),
            ({"keys": (b"c",)}, True),
            ({"keys": (b"a",), "headers": (("h", b""),)}, False),
            ({"keys": (b"a",), "key_prefixes": (b"b",)}, False),
            ({"key_prefixes": (b"a",)}, False),
        ):
            self.assertEqual(Matcher(RecordFilter(**fields)).is_likely_in(payload), is_likely, fields)

    def test_any(self):
        """What is taken is what a look at every record takes."""
        text = st.text("ab", max_size=2)
        content = st.binary(max_size=2)
        records = st.lists(
            st.builds(
                lambda key, headers: record(key, *headers),
                st.none() | content,
                st.lists(st.tuples(text, content), max_size=2),
            ),
            min_size=1,
            max_size=6,
        )
        filters = st.fixed_dictionaries(
            {
                "keys": st.lists(content, max_size=2).map(tuple),
                "key_prefixes": st.lists(content, max_size=2).map(tuple),
                "headers": st.lists(st.tuples(text, content), max_size=2).map(tuple),
            }
        )

        @settings(deadline=None, derandomize=True, max_examples=60)
        @given(records, filters)
        def check(records, fields):
            expected = []
            for place, one in enumerate(records):
                key = one.key if one.HasField("key") else None
                by_key = not (fields["keys"] or fields["key_prefixes"])
                by_key |= key in fields["keys"]
                by_key |= key is not None and any(key.startswith(begin) for begin in fields["key_prefixes"])
                held = [(header.key, header.value) for header in one.headers]
                if by_key and all(header in held for header in fields["headers"]):
                    expected.append(place)
            self.assertEqual(places(records, **fields), expected)

        check()

    def test_empty(self):
        """A filter without words takes everything, and says so."""
        self.assertFalse(EVERYTHING)
        for fields in ({"keys": (b"",)}, {"key_prefixes": (b"",)}, {"headers": (("", b""),)}):
            self.assertTrue(RecordFilter(**fields))


class BoundTests(SynchronousTestCase):
    """What a reader may say."""

    def test_terms(self):
        """So many keys, prefixes and headers together, and not one more."""
        keys = (b"k",) * (FILTER_TERMS_MAX - 2)
        full = {"keys": keys, "key_prefixes": (b"p",)}
        RecordFilter(**full, headers=(("h", b"v"),)).check()
        error = self.assertRaises(InvalidRequestError, RecordFilter(**full, headers=(("h", b"v"),) * 2).check)
        self.assertEqual(error.field, "filter")
        self.assertIn(f"has {FILTER_TERMS_MAX + 1} keys, prefixes and headers", str(error))

    def test_size(self):
        """So many bytes of them, names of headers among them, and not one more."""
        quarter = FILTER_SIZE_MAX // 4
        for more in (0, 1):
            wanted = RecordFilter(
                keys=(bytes(quarter),),
                key_prefixes=(bytes(quarter),),
                headers=(("é" * (quarter // 2), bytes(quarter + more)),),
            )
            if more:
                self.assertIn("bytes", str(self.assertRaises(InvalidRequestError, wanted.check)))
            else:
                wanted.check()


class PieceTests(SynchronousTestCase):
    """Batches are parsed in pieces that are not long."""

    def test_pieces(self):
        """A batch of many records comes in pieces, with every record in its place."""
        records = [record(b"%d" % number) for number in range(1000)]
        payload = encode_batch(records)
        self.assertEqual(len(list(encoded_records(payload))), 1)
        self.patch(record_matching, "PARSED_ELEMENTS_MAX", 100)
        self.patch(record_matching, "WALKED_RECORDS_MAX", 64)
        pieces = list(encoded_records(payload))
        self.assertEqual(len(pieces), 16)
        self.assertEqual(
            [one for piece in pieces for one in piece], [one.SerializeToString() for one in records]
        )

    def test_no_batch(self):
        """What is no batch is told, in one piece or in several."""
        self.assertRaises(InvalidRequestError, list, encoded_records(b"\x0a\xff"))
        self.patch(record_matching, "PARSED_ELEMENTS_MAX", 1)
        self.assertRaises(InvalidRequestError, list, encoded_records(b"\x0a\x01a\x0a\x01b\x0a\xff"))
        matcher = Matcher(RecordFilter(keys=(b"k",)))
        self.assertRaises(InvalidRequestError, matcher.places, [b"\x2a\x7fk"])
