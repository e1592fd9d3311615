"""node.yaml: what is accepted, and how each mistake is told."""

import re
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from loghouse.config import settings as config
from loghouse.config.settings import NodeConfig, load
from loghouse.config.values import Address, format_size, parse_address, parse_seconds, parse_size
from loghouse.errors import ConfigError
from loghouse.limits import GIB, KIB, MIB
from tests.processes import thorough

PLAIN = """
node: node-1
cluster: loghouse
data_dir: data
listen: 127.0.0.1:8400
plaintext: true
acl: {model: certs/model.conf, policy: certs/policy.csv}
"""


class ConfigCase(SynchronousTestCase):
    """Writes node.yaml files into a folder of its own."""

    def setUp(self):
        self.folder = Path(self.mktemp()).absolute()
        certs = self.folder / "certs"
        certs.mkdir(parents=True)
        for name in ("ca.pem", "node-1.pem", "node-1.key", "denylist", "model.conf", "policy.csv"):
            (certs / name).write_text("not read here\n")

    def write(self, text):
        path = self.folder / "node.yaml"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return path

    def load(self, text) -> NodeConfig:
        return load(self.write(text))

    def problems(self, text):
        return self.assertRaises(ConfigError, self.load, text).problems


class LoadTests(ConfigCase):
    """A right file becomes frozen settings."""

    def test_smallest_file(self):
        """What is not given has the documented default."""
        loaded = self.load(PLAIN)
        self.assertEqual(loaded.name, "node-1")
        self.assertEqual(loaded.listen, Address("127.0.0.1", 8400))
        self.assertEqual(loaded.public_address, loaded.listen)
        self.assertEqual(loaded.storage.segment_size, 64 * MIB)
        self.assertEqual(loaded.retention.size_max, 0)
        self.assertTrue(loaded.bootstrap)
        self.assertIsNone(loaded.tls)
        self.assertIsNone(loaded.http_listen)
        self.assertEqual((loaded.http.loopback_subject, loaded.http.metrics_are_open), ("", False))
        self.assertEqual(loaded.shutdown.drain_seconds, 10)

    def test_every_setting(self):
        """Each setting arrives under its attribute, with sizes in bytes and spans in seconds."""
        loaded = self.load(
            PLAIN
            + "grpc_listen: '[::1]:8401'\nadvertise: node-1.example:9000\nbootstrap: false\njoin: []\n"
            + "storage: {segment_size: 128 KiB, reserve_size: 0}\nretention: {bytes: 1.5GiB, age: 7d}\n"
            + "limits: {record_bytes_max: 2MB, proposals_bytes_max: 16MiB}\n"
            + "http_listen: 127.0.0.1:8480\nhttp: {loopback_subject: ann, open_metrics: true}\n"
            + "logging: {format: json, level: debug}\nshutdown: {drain_seconds: 500ms}\n"
        )
        self.assertEqual(loaded.grpc_listen, Address("::1", 8401))
        self.assertEqual(loaded.http_listen, Address("127.0.0.1", 8480))
        self.assertEqual((loaded.http.loopback_subject, loaded.http.metrics_are_open), ("ann", True))
        self.assertEqual(str(loaded.public_address), "node-1.example:9000")
        self.assertFalse(loaded.bootstrap)
        self.assertEqual((loaded.storage.segment_size, loaded.storage.reserve_size), (128 * KIB, 0))
        self.assertEqual(
            (loaded.retention.size_max, loaded.retention.age_max_seconds), (3 * GIB // 2, 604800)
        )
        self.assertEqual(
            (loaded.limits.record_size_max, loaded.limits.proposals_size_max), (2_000_000, 16 * MIB)
        )
        self.assertEqual((loaded.logging.format, loaded.logging.level), ("json", "debug"))
        self.assertEqual(loaded.shutdown.drain_seconds, 0.5)

    def test_public_grpc_address(self):
        """A direct door on every interface is told by the host that others can dial; nobody dials 0.0.0.0."""
        tls = "tls: {ca: certs/ca.pem, certificate: certs/node-1.pem, key: certs/node-1.key}\n"
        advertised = PLAIN.replace("plaintext: true\n", tls) + "advertise: node-1.example:9000\n"
        for door, told in (("0.0.0.0:8401", "node-1.example:8401"), ("10.0.0.1:8401", "10.0.0.1:8401")):
            loaded = self.load(f"{advertised}grpc_listen: {door}\n")
            self.assertEqual(str(loaded.public_grpc_address), told)
        self.assertIsNone(self.load(PLAIN).public_grpc_address)

    def test_paths_start_from_the_files_folder(self):
        """Relative paths do not depend on where the command runs; absolute ones stay."""
        loaded = self.load(config.example_text())
        self.assertEqual(loaded.data_dir, self.folder / "data")
        self.assertEqual(loaded.tls.ca, self.folder / "certs" / "ca.pem")
        self.assertEqual(self.load(PLAIN.replace("data\n", "/srv/log\n")).data_dir, Path("/srv/log"))

    def test_client_servers_can_be_dialled(self):
        """client.yaml names servers, not doors: no port 0, and not every address."""
        for server in ("a.example:0", "0.0.0.0:8400", "a.example:8400,[::]:8400"):
            error = self.assertRaises(ConfigError, config.load_client, self.write(f"server: '{server}'\n"))
            self.assertIn("cannot be dialled at", error.problems[0])

    def test_missing_file(self):
        """A file that is not there is one problem that names it and the way to get one."""
        error = self.assertRaises(ConfigError, load, self.folder / "absent.yaml")
        self.assertIn("absent.yaml: No such file", error.problems[0])
        self.assertIn("loghouse config example", error.problems[0])


class ProblemTests(ConfigCase):
    """Every mistake says where, what, and what is allowed."""

    ROWS = [
        ("name", PLAIN.replace("node-1", "Node_1"), "node (line 2): 'Node_1' is not a name; allowed: 1 to 6"),
        ("name too long", PLAIN.replace("node-1", "n" * 64), "is not a name"),
        ("name a number", PLAIN.replace("node-1", "17"), "node (line 2): 17 is not a name"),
        ("subject", PLAIN + "plaintext_subject: ''\n", "'' is not a subject; allowed: 1 to 255"),
        ("no acl", PLAIN.replace("acl:", "acll:"), "acl: is missing; it is required"),
        ("missing", PLAIN.replace("cluster: loghouse\n", ""), "cluster: is missing; it is required"),
        ("empty value", PLAIN.replace("loghouse", ""), "cluster (line 3): None is not a name"),
        ("no port", PLAIN.replace(":8400", ""), "listen (line 5): '127.0.0.1' has no port; allowed: host:po"),
        ("port range", PLAIN.replace("8400", "70000"), "ports go from 0 to 65535"),
        ("bad IPv4", PLAIN.replace("127.0.0.1", "127.0.0.300"), "has no valid host"),
        ("bare IPv6", PLAIN.replace("127.0.0.1", "::1"), "has no valid host"),
        ("port alone", PLAIN.replace("127.0.0.1:8400", "8400"), "listen (line 5): 8400 is not an address"),
        ("not loopback", PLAIN.replace("127.0.0.1", "10.0.0.1"), "not a loopback address"),
        ("did you mean", PLAIN + "grpc_lisen: x\n", "grpc_lisen (line 8): is not a setting; did you mean gr"),
        ("wrong group", PLAIN + "segment_size: 64MiB\n", "did you mean storage.segment_size?"),
        ("unknown inside", PLAIN + "storage:\n  segmentsize: 1\n", "did you mean storage.segment_size?"),
        ("unknown", PLAIN + "zzz: 1\n", "zzz (line 8): is not a setting; allowed: node, cluster"),
        ("twice", PLAIN + "node: b\n", "node (line 8): is given twice, first on line 2"),
        ("size word", PLAIN + "storage: {segment_size: big}\n", "storage.segment_size (line 8): 'big' is no"),
        ("size small", PLAIN + "storage: {segment_size: 1}\n", "1 is out of range; allowed: 64KiB to 1GiB"),
        ("size bool", PLAIN + "storage: {segment_size: true}\n", "True is not a size"),
        ("negative", PLAIN + "storage: {reserve_size: -1}\n", "-1 is not a size"),
        ("age", PLAIN + "retention: {age: 7 parsecs}\n", "retention.age (line 8): '7 parsecs' is not a time"),
        ("age short", PLAIN + "retention: {age: 1ms}\n", "is too short"),
        ("drain", PLAIN + "shutdown: {drain_seconds: 1h}\n", "allowed: 0 to 600 seconds"),
        ("infinite", PLAIN + "shutdown: {drain_seconds: .inf}\n", "(line 8): `.inf` is a number in YAML; w"),
        ("format", PLAIN + "logging: {format: xml}\n", "logging.format (line 8): 'xml' is not known; allowe"),
        ("bool", PLAIN + "bootstrap: 1\n", "bootstrap (line 8): 1 is neither true nor false"),
        ("group a word", PLAIN + "storage: fast\n", "storage (line 8): is not a group"),
        ("join", PLAIN + "join: ['node-2:8400']\n", "a cluster needs tls"),
        ("join a word", PLAIN + "join: node-2\n", "is not a list"),
        ("tls and plaintext", PLAIN + "tls: {}\n", "tls (line 8): does not go with plaintext: true"),
        ("neither", PLAIN.replace("plaintext: true\n", ""), "tls: is missing; it is required unless plainte"),
        ("no file", PLAIN.replace("model.conf", "absent"), "names no file"),
        ("wildcard", PLAIN.replace("127.0.0.1", "0.0.0.0"), "add advertise: HOST:8400"),
        ("advertise", PLAIN + "advertise: 0.0.0.0:1\n", "'0.0.0.0:1' cannot be dialled"),
        ("same door", PLAIN + "grpc_listen: 127.0.0.1:8400\n", "is taken by listen, 127.0.0.1:8400; choose"),
        ("same by name", PLAIN + "grpc_listen: localhost:8400\n", "'localhost:8400' is taken by listen"),
        ("within all", PLAIN.replace("127.0.0.1", "0.0.0.0") + "grpc_listen: 127.0.0.1:8400\n", "is taken"),
        ("same as gRPC", PLAIN + "grpc_listen: '[::1]:1'\nhttp_listen: '[::1]:1'\n", "is taken by g"),
        ("HTTP for all", PLAIN + "http_listen: 10.0.0.1:1\n", "http_listen (line 8): '10.0.0.1:1' is no"),
        ("join port 0", PLAIN + "join: ['node-2.example:0']\n", "cannot be dialled at node-2.example:0"),
        ("join wildcard", PLAIN + "join: ['0.0.0.0:8400']\n", "cannot be dialled at 0.0.0.0:8400"),
        ("part of a byte", PLAIN + "storage: {reserve_size: '1.5'}\n", "'1.5' is not a whole number of"),
        ("part of a second", PLAIN + "retention: {age: 1.9}\n", "1.9 is not a whole number of seconds"),
        ("many digits", PLAIN + f"retention: {{bytes: {'9' * 400}.5GB}}\n", "is not a size"),
        ("scrub unlimited", PLAIN + "storage: {scrub_rate: unlimited}\n", "'unlimited' is not a size"),
        ("reserve unlimited", PLAIN + "storage: {reserve_size: unlimited}\n", "'unlimited' is not a size"),
        ("drain unlimited", PLAIN + "shutdown: {drain_seconds: unlimited}\n", "'unlimited' is not a time"),
        ("scrub zero", PLAIN + "storage: {scrub_rate: 1}\n", "allowed: 64KiB to 1GiB, or 0"),
        ("home of nobody", PLAIN.replace("data\n", "~nobody-here/x\n"), "begins with the home of a user"),
        ("long path", PLAIN.replace("certs/model.conf", "x" * 300), "acl.model (line 7): "),
        ("group tag", PLAIN + "storage: !!omap {segment_size: 1MiB}\n", "storage (line 8): has the tag"),
        ("file tag", "--- !x\n" + PLAIN, "the file (line 1): has the tag !x; leave it out"),
        ("key tag", PLAIN + "!!binary bootstrap: true\n", "bootstrap (line 8): has the tag !!binary"),
        ("group of quotes", PLAIN + "storage: ''\n", "storage (line 8): is not a group"),
        ("tag", PLAIN + "join: !!python/object:os.system x\n", "join (line 8): has the tag !!python/object:"),
        ("date", PLAIN.replace("loghouse", "2026-99-99"), "cluster (line 3): `2026-99-99` is a date in YAML"),
        ("not YAML", "node: [1\n", "is not YAML: line 2"),
        ("a list", "- 1\n", "the file: is not a group"),
        ("binary", b"\x80\x81\x00", "is not YAML"),
        ("two documents", PLAIN + "---\nnode: b\n", "is not YAML"),
        ("join bomb", PLAIN + "join: [&a [*a]]\n", "is not YAML: line 8, column 12: *a is an alias"),
        ("deep", "node: " + "[" * 5000, "is not YAML: it is nested too deeply"),
        ("huge", "#" * (2 * MIB), "has more than 1048576 bytes"),
    ]  # fmt: skip

    def test_hidden_lines(self):
        """A setting behind what YAML takes for the end of a line, and no editor shows as one, is refused."""
        for mark in "\x85\u2028\u2029\r":
            for encoding in ("utf-8", "utf-16"):
                data = f"{PLAIN}# ops{mark}plaintext_subject: evil\n".encode(encoding)
                error = self.assertRaises(ConfigError, config.parse, data, Path("/x/node.yaml"))
                self.assertIn(f"line {PLAIN.count(chr(10)) + 1}: holds", str(error))

    def test_rows(self):
        """Every row's file is refused with its text among the problems."""
        for name, text, expected in self.ROWS:
            problems = self.problems(text)
            self.assertTrue(any(expected in problem for problem in problems), f"{name}: {problems}")

    def test_all_at_once(self):
        """Six mistakes are six problems, in one go."""
        problems = self.problems(
            "node: A\ndata_dir: data\nlisten: nowhere\nplaintext: true\nlogging: {level: loud}\ntsl: 1\n"
        )
        keys = sorted(re.split(r"[ :]", problem)[0] for problem in problems)
        self.assertEqual(keys, ["acl", "cluster", "listen", "logging.level", "node", "tsl"])

    def test_values_are_shown_short(self):
        """A long value is shown cut off; a bomb of aliases is refused at the first alias."""
        many = "[" + ", ".join(["[1, [2, [3]]]"] * 500) + "]"
        problems = self.problems(PLAIN + f"join: {many}\nretention: {{age: {'x' * 500}}}\n")
        self.assertEqual(len(problems), 2)
        self.assertTrue(all(len(problem) < 400 for problem in problems), problems)
        bomb = "join: [&a0 [1, 1, 1, 1, 1, 1, 1, 1]"
        for level in range(1, 30):
            bomb += f", &a{level} [" + ", ".join([f"*a{level - 1}"] * 8) + "]"
        (problem,) = self.problems(PLAIN + bomb + "]\n")
        self.assertIn("*a0 is an alias; write the value out", problem)

    MEANINGS = [
        ("24:00", "counts in sixties"), ("168:00:00", "counts in sixties"), ("1:30.5", "counts in sixties"),
        ("01000000", "is octal"), ("-010", "is octal"), ("0x10", "is hexadecimal"), ("0b11", "is binary"),
        ("1_000", "has underscores"), ("1_0.5", "has underscores"), ("+5", "is a number"), (".5", "is a num"),
        ("5.", "is a number"), (".inf", "is a number"), ("-.INF", "is a number"), (".nan", "is a number"),
        ("1.5e+3", "is a number"), ("1e3", "is a number"), ("1.5e3", "is a number"), ("089", "is a number"),
        ("yes", "truth value"), ("No", "truth value"), ("on", "truth value"), ("OFF", "truth value"),
        ("~", "is nothing"), ("null", "is nothing"), ("NULL", "is nothing"), ("2024-01-01", "is a date"),
        ("2024-01-01 10:00:00", "is a date"), ("=", "a meaning of its own"), ("<<", "a meaning of its own"),
        ("0o17", "is a number to some"), ("-.5", "is a number to some"), ("+.5", "is a number to some"),
        ("1_0e3", "is a number to some"), ("1.e+3", "is a number"), ("08.5", "`08.5` is a number"),
        ("y", "is a truth value to some"), ("N", "is a truth value to some"),
        ("!!int '24:00'", "the tag !!int"), ("!!str 24", "the tag !!str"), ("!x 24", "the tag !x"),
        ("!!set {a, b}", "the tag !!set"), ("!!binary aGVsbG8=", "the tag !!binary"),
    ]  # fmt: skip

    def test_other_meanings(self):
        """What YAML 1.1 takes for something else is refused with its line, wherever a setting may stand."""
        for place in (
            "retention:\n  age:\n    {}\n",
            "plaintext_subject: {}\n",
            "storage: {{segment_size: {}}}\n",
            "bootstrap: {}\n",
            "join:\n- {}\n",
        ):
            for value, expected in self.MEANINGS:
                problems = self.problems(PLAIN + place.format(value))
                self.assertEqual(len(problems), 1, (place, value, problems))
                self.assertIn(expected, problems[0])
                line = 7 + place.count("\n") if "{}\n" in place else 8
                self.assertIn(f"(line {line})", problems[0], (place, value))

    def test_same_meaning(self):
        """Quotes make a text of anything; plain decimal digits, true and false mean themselves."""
        for value in ("24:00", "yes", "0x10", "null", "2024-01-01", "010", "1e3"):
            for quote in "'\"":
                loaded = self.load(PLAIN + f"plaintext_subject: {quote}{value}{quote}\n")
                self.assertEqual(loaded.plaintext_subject, value)
        loaded = self.load(
            PLAIN
            + "retention: {bytes: 1048576, age: 86400}\nshutdown: {drain_seconds: 0.5}\nbootstrap: True\n"
        )
        self.assertEqual((loaded.retention.age_max_seconds, loaded.shutdown.drain_seconds), (86400, 0.5))
        self.assertEqual(loaded.retention.size_max, MIB)

    def test_unlimited(self):
        """Retention may be unlimited, which is 0; nothing else may: there it would mean the contrary."""
        loaded = self.load(
            PLAIN
            + "retention: {bytes: unlimited, age: unlimited}\nstorage: {scrub_rate: 0, cold_read_rate: 0}\n"
        )
        self.assertEqual((loaded.retention.size_max, loaded.retention.age_max_seconds), (0, 0))
        self.assertEqual((loaded.storage.scrub_rate, loaded.storage.cold_read_rate), (0, 0))
        self.assertEqual(self.load(PLAIN + "retention: {age: 1.1d}\n").retention.age_max_seconds, 95040)

    def test_places(self):
        """Machine and rack are words of the operator's own; files of a deleted log are kept for a while."""
        loaded = self.load(PLAIN + "host: 'Machine 7'\nrack: b/12\nstorage: {keep_deleted: 7d}\n")
        self.assertEqual((loaded.host, loaded.rack), ("Machine 7", "b/12"))
        self.assertEqual(loaded.storage.keep_deleted_seconds, 7 * 86400)
        for wrong in ("''", "12", "x" * 300):
            (problem,) = self.problems(f"{PLAIN}rack: {wrong}\n")
            self.assertIn("is not a place; allowed: 1 to", problem)

    def test_merge_key(self):
        """A merge key is no setting, and merges nothing."""
        problems = self.problems(PLAIN + "<<: {bootstrap: true}\nstorage: {<<: {segment_size: 1MiB}}\n")
        self.assertEqual([p.partition(":")[0] for p in problems], ["<< (line 8)", "storage.<< (line 9)"])

    def test_wrong_group_does_not_hide_others(self):
        """A mistake inside a group is told beside one outside."""
        problems = self.problems(PLAIN + "limits: {record_bytes_max: 0}\nlogging: {format: xml}\n")
        self.assertEqual(len(problems), 2)


class ExampleTests(ConfigCase):
    """The printed example is the schema."""

    def test_example_is_accepted(self):
        """The example is valid as it is (the files it names exist here)."""
        loaded = self.load(config.example_text())
        self.assertEqual((loaded.name, loaded.plaintext), ("node-1", False))

    def test_uncommented_example_shows_the_defaults(self):
        """Every commented-out setting is valid, and shows its default."""
        lines = (line.removeprefix("# ") for line in config.example_text().splitlines())
        full = self.load("\n".join(line for line in lines if re.match(r" *[a-z_]+:( [^ ]*)?$", line)))
        short = self.load(config.example_text())
        for name in (
            "storage",
            "retention",
            "limits",
            "logging",
            "shutdown",
            "bootstrap",
            "join",
            "plaintext",
        ):
            self.assertEqual(getattr(full, name), getattr(short, name), name)

    def test_every_setting_is_in_the_example(self):
        """No setting is missing from the example."""
        text = config.example_text()
        for path in config.all_paths():
            self.assertRegex(text, rf"(?m)^(# )? *{path.rpartition('.')[2]}: ", path)


class ValueTests(SynchronousTestCase):
    """Sizes, spans and addresses, in any spelling."""

    def test_sizes(self):
        """Binary and decimal units, with or without a space."""
        rows = [
            (5, 5),
            ("5", 5),
            ("64KiB", 65536),
            ("1 kB", 1000),
            ("0.5MiB", 524288),
            ("1.5 GB", 1_500_000_000),
        ]
        for text, size in rows:
            self.assertEqual(parse_size(text), size, text)

    def test_spans(self):
        """Seconds, or a unit."""
        rows = [
            (5, 5),
            (0.5, 0.5),
            ("90s", 90),
            ("15m", 900),
            ("12h", 43200),
            ("7d", 604800),
            ("2w", 1209600),
        ]
        for text, seconds in rows:
            self.assertEqual(parse_seconds(text), seconds, text)

    @thorough
    @settings(deadline=None, derandomize=True, max_examples=200)
    @given(st.text(max_size=30))
    def test_any_text_is_read_or_refused(self, text):
        """No text makes a parser fail in another way than ValueError."""
        for parser in (parse_size, parse_seconds, parse_address):
            try:
                parser(text)
            except ValueError as error:
                self.assertIn("allowed: ", str(error))

    @thorough
    @settings(deadline=None, derandomize=True, max_examples=200)
    @given(st.integers(0, 2**64 - 1))
    def test_format_size_round_trips(self, size):
        """What is written for a size reads back as it."""
        self.assertEqual(parse_size(format_size(size)), size)

    def test_addresses(self):
        """IPv6 has brackets; loopback and wildcard are told apart from the rest."""
        self.assertEqual(str(parse_address("[::1]:1")), "[::1]:1")
        for text, loopback, wildcard in [
            ("127.9.9.9:1", True, False),
            ("localhost:1", True, False),
            ("[::1]:1", True, False),
            ("0.0.0.0:1", False, True),
            ("[::]:1", False, True),
            ("example.com:1", False, False),
            ("8.8.8.8:1", False, False),
        ]:
            address = parse_address(text)
            self.assertEqual((address.is_loopback, address.is_wildcard), (loopback, wildcard), text)
