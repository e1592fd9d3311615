"""Values of node.yaml at their bounds, every unit, and what is told of values that are none."""

import os
import re
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase
from yaml import Mark, MarkedYAMLError

from loghouse.config import settings as config
from loghouse.config import values
from loghouse.config.declaring import settings_of
from loghouse.config.strict_yaml import yaml_problem
from loghouse.config.values import Address, parse_address, parse_seconds, parse_size
from loghouse.errors import ConfigError
from loghouse.limits import GIB, KIB, MIB, PAYLOAD_SIZE_MAX, UINT64_MAX
from tests.test_config import PLAIN, ConfigCase

HERE = Path("/somewhere")


class BoundTests(ConfigCase):
    """The least and the largest value count; the next one does not."""

    def test_numbers(self):
        """Each number of the file, at both ends of what is allowed, and beyond them."""
        for path, low, high, beyond in (
            ("storage.segment_size", 64 * KIB, GIB, (0, 64 * KIB - 1, GIB + 1)),
            ("storage.reserve_size", 0, GIB, (GIB + 1,)),
            ("storage.scrub_rate", 64 * KIB, GIB, (64 * KIB - 1, GIB + 1)),
            ("storage.cold_read_rate", MIB, 16 * GIB, (1, MIB - 1, 16 * GIB + 1)),
            ("retention.bytes", MIB, UINT64_MAX, (MIB - 1, UINT64_MAX + 1)),
            ("retention.age", 1, 1 << 53, (0.5, UINT64_MAX + 1)),
            ("limits.record_bytes_max", 1, PAYLOAD_SIZE_MAX, (0, PAYLOAD_SIZE_MAX + 1)),
            ("limits.proposals_bytes_max", PAYLOAD_SIZE_MAX, 4 * GIB, (PAYLOAD_SIZE_MAX - 1, 4 * GIB + 1)),
            ("limits.replicas_max", 1, 10_000, (0, 10_001)),
            ("storage.keep_deleted", 0, 31_622_400, (31_622_401,)),
            ("shutdown.drain_seconds", 0, 600, (601,)),
        ):
            group, _, name = path.partition(".")
            for value in (low, high):
                section = getattr(self.load(f"{PLAIN}{group}: {{{name}: {value}}}\n"), group)
                found = [getattr(section, attribute) for attribute in section.__slots__]
                self.assertIn(value, found, path)
            for value in beyond:
                (problem,) = self.problems(f"{PLAIN}{group}: {{{name}: {value}}}\n")
                self.assertIn(f"{path} (line 8): {value} is", problem)

    def test_defaults(self):
        """What is left out, in numbers."""
        loaded = self.load(PLAIN)
        storage, limits = loaded.storage, loaded.limits
        self.assertEqual(
            (storage.segment_size, storage.reserve_size, storage.scrub_rate), (64 * MIB, 16 * MIB, 4 * MIB)
        )
        self.assertEqual(storage.cold_read_rate, 32 * MIB)
        self.assertEqual((limits.record_size_max, limits.proposals_size_max), (MIB, 64 * MIB))
        self.assertEqual((loaded.retention.size_max, loaded.retention.age_max_seconds), (0, 0))
        self.assertEqual((loaded.logging.format, loaded.logging.level), ("text", "info"))
        self.assertEqual((loaded.plaintext_subject, loaded.timing.network), ("root", "lan"))
        self.assertEqual((storage.keep_deleted_seconds, loaded.host, loaded.rack), (86400, "", ""))
        self.assertEqual((loaded.join, loaded.advertise, loaded.grpc_listen), ((), None, None))

    def test_bootstrap(self):
        """Without a word about it only a node that joins nobody begins a cluster."""
        tls = "tls: {ca: certs/ca.pem, certificate: certs/node-1.pem, key: certs/node-1.key}\n"
        text = PLAIN.replace("plaintext: true\n", tls)
        for join, said, bootstrap in (
            ("[]", "", True),
            ("['n2:1']", "", False),
            ("['n2:1']", "bootstrap: true\n", True),
            ("[]", "bootstrap: false\n", False),
        ):
            loaded = self.load(f"{text}join: {join}\n{said}")
            self.assertIs(loaded.bootstrap, bootstrap, (join, said))
            self.assertIsNone(loaded.tls.denylist)

    def test_size_of_the_file(self):
        """A file of a megabyte is read; one byte more is no settings file."""
        comment = "#" * (MIB - len(PLAIN))
        self.assertEqual(self.load(PLAIN + comment).name, "node-1")
        (problem,) = self.problems(PLAIN + comment + "#")
        self.assertIn(f"has more than {MIB} bytes", problem)

    def test_shown(self):
        """How much of a wrong value is shown: 80 characters, 4 items, 2 levels."""
        for value, shown in (
            ("x" * 78, f"'{'x' * 78}'"),
            ("x" * 79, f"'{'x' * 37}...{'x' * 38}'"),
            ("[1, 2, 3, 4]", "[1, 2, 3, 4]"),
            ("[1, 2, 3, 4, 5]", "[1, 2, 3, 4, ...]"),
            ("[[1]]", "[[1]]"),
            ("[[[1]]]", "[[[...]]]"),
        ):
            (problem,) = self.problems(f"{PLAIN}logging: {{level: {value}}}\n")
            self.assertIn(f"logging.level (line 8): {shown} is not known; allowed: debug, info,", problem)

    def test_keys(self):
        """What is no name of a setting, and what is no plain value, is told where it stands."""
        (problem,) = self.problems(f"{PLAIN}? [a]\n: b\n")
        self.assertIn("? (line 8): is not a setting; allowed: node, cluster, data_dir", problem)
        (problem,) = self.problems(f"{PLAIN}plaintext_subject: {{[1]: 2}}\n")
        self.assertIn("plaintext_subject (line 8): is not plain YAML: line ", problem)
        self.assertEqual(self.load(f"{PLAIN}storage:\n").storage.segment_size, 64 * MIB)

    def test_together(self):
        """What does not go together is told at the setting that is to change."""
        tls = "tls: {ca: certs/ca.pem, certificate: certs/node-1.pem, key: certs/node-1.key}\n"
        by_tls = PLAIN.replace("plaintext: true\n", tls)
        everywhere = by_tls.replace("127.0.0.1:8400", "0.0.0.0:8400")
        for text, *told in (
            (f"{PLAIN}join: ['n2:1']\n", "join (line 8): nodes tell each other by their certificates"),
            (f"{PLAIN}{tls}", "tls (line 8): does not go with plaintext: true"),
            (f"{PLAIN}grpc_listen: 10.0.0.1:1\n", "grpc_listen (line 8): '10.0.0.1:1' is not a loopback"),
            (by_tls.replace(tls, ""), "tls: is missing; it is required unless plaintext: true"),
            (everywhere, "listen (line 5): '0.0.0.0:8400' is every address of this machine"),
            (f"{everywhere}advertise: a.example:1\n",),
            (f"{by_tls}advertise: '[::]:1'\n", "advertise (line 8): '[::]:1' cannot be dialled"),
            (f"{by_tls}advertise: a.example:0\n", "advertise (line 8): 'a.example:0' cannot be dialled"),
            (f"{by_tls}grpc_listen: 127.0.0.1:8400\n", "grpc_listen (line 8): '127.0.0.1:8400' is taken by"),
            (f"{by_tls}grpc_listen: 127.0.0.1:8401\n",),
            (f"{by_tls}join: ['n2:1']\n",),
        ):
            problems = self.problems(text) if told else [self.load(text)]
            self.assertEqual(len(problems), 1)
            if told:
                self.assertEqual(problems[0][: len(told[0])], told[0])

    def test_every_word(self):
        """Each word that a setting may be is taken."""
        for group, name, words in (
            ("logging", "format", ("text", "json")),
            ("logging", "level", ("debug", "info", "warn", "error", "critical")),
            ("timing", "network", ("local", "lan", "wan")),
        ):
            for word in words:
                loaded = self.load(f"{PLAIN}{group}: {{{name}: {word}}}\n")
                self.assertEqual(getattr(getattr(loaded, group), name), word)

    def test_every_path(self):
        """The paths of all settings, group by group, in the order of the file."""
        paths = config.all_paths()
        self.assertEqual(paths[:6], ["node", "cluster", "data_dir", "listen", "advertise", "grpc_listen"])
        self.assertEqual(paths[6], "http_listen")
        self.assertEqual(paths[7:11], ["tls.ca", "tls.certificate", "tls.key", "tls.denylist"])
        self.assertEqual(len(paths), len(set(paths)))

    def test_examples(self):
        """The printed files: optional settings are behind a mark, required ones are not."""
        lines = config.client_example_text().splitlines()
        self.assertEqual(
            [line for line in lines if line and line[0] not in "# "], ["server: 127.0.0.1:8400", "tls:"]
        )
        self.assertIn("# cluster: loghouse", lines)
        self.assertIn("  certificate: certs/root.pem", lines)
        lines = config.example_text().splitlines()
        self.assertIn("#   denylist: certs/denylist", lines)
        self.assertIn("#   segment_size: 64MiB", lines)
        self.assertIn("#   drain_seconds: 10", lines)
        self.assertIn("# plaintext: false", lines)

    def test_examples_explain(self):
        """Above each setting of the printed files is what it is for, and between two of them is room."""
        for section, text in (
            (config.NodeConfig, config.example_text()),
            (config.ClientConfig, config.client_example_text()),
        ):
            lines = text.split("\n")
            for _, setting, _ in settings_of(section):
                [at] = [i for i, line in enumerate(lines) if re.match(rf"(# )?{setting.key}:( |$)", line)]
                self.assertEqual(lines[at - 2 : at], ["", f"# {setting.comment}"])
                for _, inner, _ in settings_of(setting.section) if setting.section else ():
                    part = lines[at : lines.index("", at)]
                    [at_inner] = [i for i, line in enumerate(part) if re.match(rf"(#)?  +{inner.key}:", line)]
                    self.assertEqual(part[at_inner - 1].removeprefix("# ").strip(), f"# {inner.comment}")
                    self.assertEqual(
                        part[at_inner].removeprefix("# ").strip(), f"{inner.key}: {inner.example}"
                    )

    def test_empty_file(self):
        """A file of nothing lacks what every file needs."""
        for text in ("", "# only a comment\n", "---\n"):
            self.assertEqual(self.problems(text), self.problems("{}\n"))


class ClientTests(ConfigCase):
    """client.yaml: where to, and as whom."""

    def test_servers(self):
        """One address, several in one text, or a list."""
        a, b = Address("a.example", 1), Address("b.example", 2)
        for text, servers in (
            ("a.example:1", (a,)),
            ("'a.example:1, b.example:2'", (a, b)),
            ("['a.example:1', 'b.example:2']", (a, b)),
        ):
            loaded = config.load_client(self.write(f"server: {text}\n"))
            self.assertEqual((loaded.server, loaded.cluster, loaded.tls), (servers, "", None))
        tls = "tls: {ca: certs/ca.pem, certificate: certs/node-1.pem, key: certs/node-1.key}\n"
        loaded = config.load_client(self.write(f"server: a.example:1\ncluster: c\n{tls}"))
        certs = self.folder / "certs"
        self.assertEqual((loaded.cluster, loaded.tls.ca), ("c", certs / "ca.pem"))
        self.assertEqual(
            (loaded.tls.certificate, loaded.tls.key), (certs / "node-1.pem", certs / "node-1.key")
        )
        for text in ("[]", "7", "''", "'a.example:1,'"):
            error = self.assertRaises(ConfigError, config.load_client, self.write(f"server: {text}\n"))
            self.assertIn("server (line 1): ", error.problems[0])


class SpellingTests(SynchronousTestCase):
    """Units, addresses, names and paths, one by one."""

    def refused(self, read, value, text, base=HERE):
        error = self.assertRaises(ValueError, read, value, base)
        self.assertIn(text, str(error))

    def test_units(self):
        """Every unit of sizes and spans, in any case."""
        for unit, size in {
            "": 1, "B": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30, "TiB": 1 << 40,
            "kB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12,
        }.items():  # fmt: skip
            for spelled in (unit, unit.lower(), unit.upper()):
                self.assertEqual(parse_size(f"3{spelled}"), 3 * size, spelled)
        for unit, seconds in {
            "": 1, "ms": 0.001, "s": 1, "m": 60, "min": 60, "h": 3600, "d": 86_400, "w": 604_800,
        }.items():  # fmt: skip
            self.assertEqual(parse_seconds(f"4 {unit}"), 4 * seconds, unit)
        self.assertEqual(parse_size(str(UINT64_MAX)), UINT64_MAX)
        self.assertEqual(parse_seconds(str(UINT64_MAX)), float(UINT64_MAX))
        for parse in (parse_size, parse_seconds):
            self.assertRaisesRegex(ValueError, "is (beyond 64 bits|too long)", parse, str(UINT64_MAX + 1))
            for text in (None, True, [], "", "1 2", "1xb", "-1", "1e3", ".", "1" * 21):
                self.assertRaisesRegex(ValueError, "is not a (size|time span)", parse, text)

    def test_format(self):
        """A size is written in the largest unit that divides it."""
        for size, text in (
            (0, "0"), (1, "1"), (1023, "1023"), (KIB, "1KiB"), (1536, "1536"), (3 * MIB, "3MiB"),
            (GIB, "1GiB"), (1024 * GIB, "1TiB"), (1025 * GIB, "1025GiB"),
        ):  # fmt: skip
            self.assertEqual(values.format_size(size), text)

    def test_addresses(self):
        """Hosts and ports at their bounds."""
        host = ".".join(["a" * 62] * 4)  # 251 characters
        for text, expected in (
            ("a:0", Address("a", 0)),
            ("a:65535", Address("a", 65535)),
            ("a-b.c:00080", Address("a-b.c", 80)),
            (f"{host}bb:1", Address(f"{host}bb", 1)),
            ("[::1]:8", Address("::1", 8)),
        ):
            self.assertEqual(parse_address(text), expected)
        for text, told in (
            (None, "is not an address"),
            (8400, "is not an address"),
            ("a", "has no port"),
            (":1", "has no host"),
            ("a:", "has no valid port"),
            ("a:x", "has no valid port"),
            ("a:65536", "has no valid port"),
            ("a:000001", "has no valid port"),
            ("-a:1", "has no valid host"),
            ("a-:1", "has no valid host"),
            ("a_b:1", "has no valid host"),
            (f"{host}bbb:1", "has no valid host"),
            ("1.2.3:1", "has no valid host"),
            ("[1.2.3.4]:1", "has no valid host"),
            ("[::1:1", "has no valid host"),
            ("::1]:1", "has no valid host"),
        ):
            error = self.assertRaises(ValueError, parse_address, text)
            self.assertIn(f"{told}", str(error), text)

    def test_same_port(self):
        """Two listeners collide on one port of one address, or of all addresses."""
        for one, other, meets in (
            ("127.0.0.1:1", "127.0.0.1:1", True),
            ("127.0.0.1:1", "127.0.0.1:2", False),
            ("127.0.0.1:1", "127.0.0.2:1", False),
            ("127.0.0.1:1", "localhost:1", True),
            ("0.0.0.0:1", "127.0.0.2:1", True),
            ("[::]:1", "127.0.0.2:1", True),
            ("0.0.0.0:0", "127.0.0.1:0", False),
        ):
            a, b = parse_address(one), parse_address(other)
            self.assertEqual((a.meets(b), b.meets(a)), (meets, meets), (one, other))

    def test_dialled(self):
        """What is to be dialled has a port, and a host that is one."""
        self.assertEqual(values.read_addresses(["a:1"], HERE), (Address("a", 1),))
        self.assertEqual(values.read_addresses(None, HERE), ())
        for text in ("a:0", "0.0.0.0:1", "[::]:1"):
            self.refused(values.read_addresses, [text], f"cannot be dialled at {text}")
        self.refused(values.read_addresses, "a:1", "is not a list")

    def test_names(self):
        """Names of 1 to 63 small letters, digits and dashes, none of them at an end."""
        for name in ("a", "0", "a-b", "a--9", "n" * 63):
            self.assertEqual(values.read_name(name, HERE), name)
        for name in ("", "-a", "a-", "A", "a.b", "a_b", "é", "n" * 64, 5, None):
            self.refused(values.read_name, name, "is not a name; allowed: 1 to 63 of a-z")

    def test_subjects(self):
        """Subjects of 1 to 255 bytes that can be printed."""
        for subject in ("a", "Ann Ö.", "s" * 255, "é" * 127):
            self.assertEqual(values.read_subject(subject, HERE), subject)
        for subject in ("", "s" * 256, "é" * 128, "a\tb", "a\x1b", 5, None):
            self.refused(values.read_subject, subject, "is not a subject; allowed: 1 to 255 printable")

    def test_words(self):
        """true and false; one of some words."""
        for value in (True, False):
            self.assertIs(values.read_boolean(value, HERE), value)
        for value in (0, 1, "true", None):
            self.refused(values.read_boolean, value, "is neither true nor false")
        read = values.one_of("a", "b")
        self.assertEqual([read(word, HERE) for word in "ab"], ["a", "b"])
        for value in ("c", "", None, ["a"]):
            self.refused(read, value, "is not known; allowed: a, b")

    def test_ages(self):
        """Whole seconds, from one on; 0 and `unlimited` are without limit."""
        for text, seconds in (("unlimited", 0), (0, 0), (1, 1), ("1.5m", 90), (1000, 1000)):
            self.assertEqual(values.read_age(text, HERE), seconds)
        self.refused(values.read_age, "999ms", "is too short; allowed: 1s or longer, or unlimited")
        self.refused(values.read_age, 1.5, "is not a whole number of seconds")

    def test_zero(self):
        """0 goes where it has a name, and by that name where it is a word."""
        read = values.size_between(5, 9, zero="0")
        self.assertEqual([read(value, HERE) for value in (0, 5, 9)], [0, 5, 9])
        self.refused(read, 4, "is out of range; allowed: 5 to 9, or 0")
        self.refused(read, "unlimited", "is not a size")
        self.assertEqual(values.size_between(5, 9, zero="unlimited")("unlimited", HERE), 0)
        self.refused(values.size_between(5, 9), 0, "is out of range; allowed: 5 to 9")

    def test_paths(self):
        """Relative paths start from the file's folder; folders and files are what they are to be."""
        folder = Path(self.mktemp()).absolute()
        folder.mkdir()
        file = folder / "file"
        file.write_text("x")
        self.assertEqual(values.read_path("a/../b", HERE), HERE / "b")
        self.assertEqual(values.read_path("~/b", HERE), Path.home() / "b")
        for value in ("", "a\0b", 5, None):
            self.refused(values.read_path, value, "is not a path")
        self.assertEqual(values.read_folder("new", folder), folder / "new")
        self.assertEqual(values.read_folder(".", folder), folder)
        self.refused(values.read_folder, "file", f"is not a directory ({file})", folder)
        self.assertEqual(values.read_file("file", folder), file)
        for name in (".", "absent"):
            self.refused(values.read_file, name, "names no file", folder)
        self.patch(os, "access", lambda path, mode: mode != os.R_OK)  # root may read everything
        self.refused(values.read_file, "file", f"names a file that this user may not read ({file})", folder)

    def mark(self, line, column):
        return Mark("name", 0, line, column, None, None)

    def test_problems_of_yaml(self):
        """What a YAML parser raises is told in one line."""
        for error, text in (
            (RecursionError("deep"), "it is nested too deeply"),
            (ValueError("first\nsecond"), "first"),
            (ValueError(), "ValueError"),
            (MarkedYAMLError(problem="p", problem_mark=self.mark(4, 6)), "line 5, column 7: p"),
            (MarkedYAMLError("c", self.mark(1, 2), "p", self.mark(4, 6)), "line 5, column 7: p"),
            (MarkedYAMLError("c", self.mark(1, 2)), "line 2, column 3: c"),
            (MarkedYAMLError("c"), "c"),
        ):
            self.assertEqual(yaml_problem(error), text)
