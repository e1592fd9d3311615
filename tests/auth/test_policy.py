"""What no rule allows is denied, a bad file changes nothing, and decisions are remembered within bounds."""

import ast
from pathlib import Path
from unittest import mock

from casbin import Enforcer
from casbin.model import Model
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from loghouse.auth import policy
from loghouse.auth.policy import ROLE_HOPS_MAX, Action, Authorizer
from loghouse.errors import ConfigError, PermissionDeniedError
from loghouse.limits import DECISIONS_MAX, NAME_SIZE_MAX, POLICY_RULES_MAX, POLICY_SIZE_MAX
from tests.processes import thorough
from tests.sources import tree_of

NAMES = st.sampled_from(("ann", "bob"))
LOGS = st.sampled_from(("a", "ab", "abc", "default", "*"))
PATTERNS = LOGS | st.sampled_from(("a*", "ab*", "abc*", "d*"))
ACTIONS = st.sampled_from(("produce", "consume", "admin", "manage"))
ROLE_NAMES = st.sampled_from([f"r{number}" for number in range(12)])
ROOT = Path(__file__).resolve().parent.parent.parent
MODEL = (ROOT / "certs" / "model.conf").read_text()
ROLES = MODEL.replace("r.sub == p.sub", "g(r.sub, p.sub)") + "\n[role_definition]\ng = _, _\n"
ORIGINAL_POLICY = "p, root, *, produce\np, root, *, consume\n"


class PolicyTests(SynchronousTestCase):
    """`Authorizer` over files."""

    def setUp(self):
        directory = Path(self.mktemp())
        directory.mkdir()
        self.model = directory / "model.conf"
        self.policy = directory / "policy.csv"
        self.model.write_text(MODEL)

    def authorizer(self, rules=ORIGINAL_POLICY):
        self.policy.write_text(rules)
        return Authorizer(self.model, self.policy)

    def test_original_policy(self):
        """The original's files work as they are: `*` is every log, everybody else is denied."""
        authorizer = self.authorizer()
        for action in ("produce", "consume"):
            self.assertTrue(authorizer.permits("root", "default", action), action)
            self.assertFalse(authorizer.permits("nobody", "default", action), action)
        self.assertFalse(authorizer.permits("root", "default", "admin"))
        self.assertFalse(authorizer.permits("", "default", "produce"))

    def test_committed_files(self):
        """The files in `certs/` let root do everything and nobody anything."""
        authorizer = Authorizer(ROOT / "certs" / "model.conf", ROOT / "certs" / "policy.csv")
        for action in Action:
            self.assertTrue(authorizer.permits("root", "*", action), action)
        self.assertTrue(authorizer.permits("root", "default", "produce"))
        self.assertFalse(authorizer.permits_anything("nobody"))

    def test_empty_policy_denies(self):
        """No rule, no permission."""
        authorizer = self.authorizer("")
        self.assertFalse(authorizer.permits("root", "default", "produce"))
        self.assertFalse(authorizer.permits_anything("root"))

    def test_exact_match_only(self):
        """Prefixes, patterns, cases and spaces inside never match."""
        authorizer = self.authorizer("p, bob, default, consume\np, .*, default, produce\n")
        for subject in ("bobby", "bo", "BOB", "bob ", "b.b", "*", ""):
            self.assertFalse(authorizer.permits(subject, "default", "consume"), subject)
        self.assertFalse(authorizer.permits("bob", "default", "produce"))
        self.assertFalse(authorizer.permits("bob", "defaults", "consume"))
        self.assertFalse(authorizer.permits("bob", "default", "consum"))
        # A rule for one log says nothing about the cluster.
        self.assertFalse(authorizer.permits("bob", "*", "consume"))

    def test_beginnings_of_names(self):
        """A rule whose log ends in `*` is for all logs whose names begin so, and never for the cluster."""
        authorizer = self.authorizer("p, ann, team-a-*, produce\np, ann, team-*, consume\n")
        for log, allowed in (("team-a-x", True), ("team-a-", True), ("team-a", False), ("team-b", False)):
            self.assertEqual(authorizer.permits("ann", log, "produce"), allowed, log)
        self.assertTrue(authorizer.permits("ann", "team-b", "consume"))
        for log in ("default", "tea", "*", ""):
            self.assertFalse(authorizer.permits("ann", log, "consume"), log)
        self.assertTrue(authorizer.permits_anything("ann"))

    def test_beginnings_of_names_with_roles(self):
        """What a role may do by the beginning of a name, its members may."""
        self.model.write_text(ROLES)
        authorizer = self.authorizer("p, writers, team-a-*, produce\ng, bob, writers\n")
        self.assertTrue(authorizer.permits("bob", "team-a-x", "produce"))
        self.assertFalse(authorizer.permits("bob", "team-b-x", "produce"))
        self.assertEqual([authorizer.permits_anything(one) for one in ("bob", "eve")], [True, False])

    def test_a_rule_for_a_log_named_like_the_request(self):
        """A rule for one log allows that log only."""
        authorizer = self.authorizer("p, eve, other, consume\n")
        self.assertTrue(authorizer.permits("eve", "other", "consume"))
        self.assertFalse(authorizer.permits("eve", "default", "consume"))

    def test_deny_rules_are_not_outvoted(self):
        """With a model that can deny, asking for `*` never takes a denial back."""
        self.model.write_text(
            MODEL.replace("p = sub, obj, act", "p = sub, obj, act, eft")
            .replace(
                "some(where (p.eft == allow))", "some(where (p.eft == allow)) && !some(where (p.eft == deny))"
            )
            .replace("r.obj == p.obj", '(r.obj == p.obj || p.obj == "*")')
        )
        authorizer = self.authorizer("p, eve, *, consume, allow\np, eve, default, consume, deny\n")
        self.assertTrue(authorizer.permits("eve", "other", "consume"))
        self.assertFalse(authorizer.permits("eve", "default", "consume"))

    def test_what_is_permitted_somewhere(self):
        """One log on which a subject may do something is enough to ask, and to see that log alone."""
        for model in (MODEL, ROLES):
            self.model.write_text(model)
            authorizer = self.authorizer("p, ann, team-a-*, manage\np, bob, orders, consume\n")
            asked = [
                authorizer.permits_on_any(subject, action)
                for subject in ("ann", "bob", "eve")
                for action in ("manage", "consume")
            ]
            self.assertEqual(asked, [True, False, False, True, False, False])
            seen = [
                authorizer.permits_some(subject, log)
                for subject in ("ann", "bob")
                for log in ("team-a-x", "team-a", "orders", "default")
            ]
            self.assertEqual(seen, [True, False, False, False, False, False, True, False])
        authorizer.permits_on_any("ann", "consume")
        self.policy.write_text("p, ann, orders, consume\n")
        authorizer.take(authorizer.read())
        self.assertTrue(authorizer.permits_on_any("ann", "consume"))

    def test_roles(self):
        """A model with roles gives a member what its role may do."""
        self.model.write_text(ROLES)
        authorizer = self.authorizer("p, writers, *, produce\ng, bob, writers\n")
        self.assertTrue(authorizer.permits("bob", "default", "produce"))
        self.assertFalse(authorizer.permits("bobby", "default", "produce"))

    def test_check_names_all_three(self):
        """The error carries subject, action and object."""
        error = self.assertRaises(PermissionDeniedError, self.authorizer().check, "eve", "default", "consume")
        self.assertEqual((error.subject, error.action, error.object), ("eve", "consume", "default"))
        self.authorizer().check("root", "default", "consume")

    def test_anything_at_all(self):
        """One permission is enough, on any log or on the cluster."""
        authorizer = self.authorizer("p, a, default, consume\np, b, *, admin\np, c, other, produce\n")
        self.assertEqual([authorizer.permits_anything(s) for s in "abcd"], [True, True, True, False])
        error = self.assertRaises(PermissionDeniedError, authorizer.check_anything, "d")
        # What it names can be granted: with that rule the subject passes.
        granted = self.authorizer(f"p, d, {error.object}, {error.action}\n")
        granted.check_anything("d")

    def test_comments_and_blank_lines(self):
        """Comments, blank lines and spaces around values mean nothing."""
        authorizer = self.authorizer("# who\n\n  p ,root,  * ,  produce  \r\n")
        self.assertTrue(authorizer.permits("root", "default", "produce"))


class BadFileTests(SynchronousTestCase):
    """Files that are refused."""

    setUp = PolicyTests.setUp
    authorizer = PolicyTests.authorizer

    def test_every_bad_line_is_named(self):
        """All problems are reported at once, each with its line."""
        error = self.assertRaises(
            ConfigError,
            self.authorizer,
            "p, root, *\np, root, *, produce\nx, a, b, c\np, a, , c\np,a,b,c # d\n",
        )
        self.assertEqual([problem.split(":")[1] for problem in error.problems], ["1", "3", "4", "5"])

    def test_bad_policies(self):
        """Quotes, brackets, too many values, too many rules, too many bytes, no text, no file: refused."""
        rows = [
            ("quotes", 'p, "root", *, produce'),
            ("brackets", "p, (root, *, produce)"),
            ("too many values", "p, root, *, produce, allow"),
            ("too many rules", "p, a, b, consume\n" * (POLICY_RULES_MAX + 1)),
            ("no action", "p, root, *, prduce"),
            ("an action in capitals", "p, root, *, Produce"),
            ("every action", "p, root, *, *"),
            ("everybody", "p, *, default, consume"),
            ("a pattern inside", "p, root, a*b, consume"),
            ("two patterns", "p, root, a**, consume"),
            ("a hidden character", "p, ro\u200bot, *, produce"),
            ("a space that is none", "p, root\xa0, *, produce"),
            ("too large", "#" * (POLICY_SIZE_MAX + 1)),
        ]
        for row, rules in rows:
            with self.assertRaises(ConfigError, msg=row):
                self.authorizer(rules)
        self.policy.write_bytes(b"\xff")
        self.assertRaises(ConfigError, Authorizer, self.model, self.policy)
        self.policy.unlink()
        self.assertRaises(ConfigError, Authorizer, self.model, self.policy)

    def test_hidden_lines(self):
        """A line is what an editor shows: what ends one elsewhere, or hides it, is refused with the line."""
        for mark in "\x0b\x0c\r\x1c\x1d\x1e\x85\u2028\u2029\u202e\x1b":
            error = self.assertRaises(
                ConfigError, self.authorizer, f"# one\n# ops{mark}p, evil, *, admin\np, root, *, consume\n"
            )
            self.assertIn(f"policy.csv:2: holds the character U+{ord(mark):04X}", str(error))
            self.model.write_text(MODEL.replace("[matchers]", f"# x{mark}y\n[matchers]"))
            self.assertRaises(ConfigError, self.authorizer)
            self.model.write_text(MODEL)

    def test_blank_characters(self):
        """A letter or mark that shows as nothing would be a part of a name: refused with its line."""
        for blank in "\u200b\u00ad\ufeff\u034f\u115f\u180b\u2800\u3164\ufe0f\uffa0\U000e0100\U000e0041":
            error = self.assertRaises(ConfigError, self.authorizer, f"p, ops{blank}, *, admin\n")
            self.assertIn(f"policy.csv:1: holds the character U+{ord(blank):04X}", str(error))
            self.model.write_text(MODEL.replace("r.sub == p.sub", f'r.sub == "root{blank}"'))
            self.assertIn(f"U+{ord(blank):04X}", str(self.assertRaises(ConfigError, self.authorizer)))
            self.model.write_text(MODEL)

    def test_lines_of_a_model(self):
        """A bad line of a model is named, whichever it is; what casbin cannot read is told as its problem."""
        count = len(MODEL.splitlines())
        for place in range(count):
            lines = MODEL.splitlines()
            lines[place] = f"\u200b{lines[place]}"
            self.model.write_text("\n".join(lines))
            error = self.assertRaises(ConfigError, self.authorizer)
            self.assertIn(f"{self.model}:{place + 1}: holds the character U+200B", str(error))
        self.model.write_text(f"{MODEL}\nno section and no value\n")
        error = self.assertRaises(ConfigError, self.authorizer)
        self.assertIn(f"{self.model}: is not a casbin model: ", str(error))
        self.assertNotIn("missing or empty", str(error))

    def test_other_matchers(self):
        """What a value means to another matcher is up to that: its actions and subjects may be patterns."""
        self.model.write_text(
            MODEL.replace("r.sub == p.sub", "keyMatch(r.sub, p.sub)").replace(
                "r.act == p.act", "keyMatch(r.act, p.act)"
            )
        )
        self.assertTrue(self.authorizer("p, *, default, con*\n").permits("eve", "default", "consume"))

    def test_the_largest_policy(self):
        """As many rules as allowed are accepted and the last one counts."""
        authorizer = self.authorizer("p, a, b, consume\n" * (POLICY_RULES_MAX - 1) + "p, z, *, produce")
        self.assertTrue(authorizer.permits("z", "default", "produce"))

    def test_bad_models(self):
        """A model with a part missing, other requests, or a matcher that cannot be evaluated is refused."""
        rows = [
            ("empty", ""),
            ("no text", "garbage"),
            ("no matcher", MODEL.split("[matchers]")[0]),
            ("other request", MODEL.replace("r = sub, obj, act", "r = sub, act")),
            ("unknown effect", MODEL.replace("some(where (p.eft == allow))", "whatever")),
            ("unknown name", MODEL.replace("r.sub == p.sub", "r.who == p.sub")),
            ("syntax", MODEL.replace("r.sub == p.sub", "r.sub ==")),
        ]
        for row, model in rows:
            self.model.write_text(model)
            with self.assertRaises(ConfigError, msg=row):
                self.authorizer()


class WarningTests(SynchronousTestCase):
    """Rules that are taken, and can never match."""

    setUp = PolicyTests.setUp
    authorizer = PolicyTests.authorizer

    def warnings(self, rules, model=ROLES):
        """Return the line and the text of each warning about a policy."""
        self.model.write_text(model)
        told = [one.partition("policy.csv:")[2] for one in self.authorizer(rules).read().warnings]
        return [(int(one.partition(":")[0]), one.partition(": ")[2]) for one in told]

    def test_nothing_to_say(self):
        """Rules that can match cause none."""
        rules = "p, w, team-a-*, produce\np, bob, *, admin\np, w, default, manage\ng, ann, w\ng, x, ann\n"
        self.assertEqual(self.warnings(rules), [])
        self.assertEqual(self.warnings("p, root, *, produce\n", MODEL), [])
        longest = "a" * NAME_SIZE_MAX
        self.assertEqual(self.warnings(f"p, a, {longest}, produce\np, a, {longest}*, produce\n"), [])

    def test_roles(self):
        """A role that gives nothing, and one of itself."""
        rules = "# roles\np, writers, *, produce\ng, bob, writerz\ng, writers, writers\ng, c, bob\n"
        told = self.warnings(rules)
        self.assertEqual([line for line, _ in told], [3, 4, 5])
        self.assertIn("the role 'writerz' gives nothing", told[0][1])
        self.assertIn("a role of itself", told[1][1])

    def test_role_that_nobody_asks_for(self):
        """With a matcher that does not ask for roles, a rule about them does nothing."""
        model = MODEL + "\n[role_definition]\ng = _, _\n"
        [(line, text)] = self.warnings("p, w, *, produce\ng, bob, w\n", model)
        self.assertEqual(line, 2)
        self.assertIn("does not ask for 'g'", text)

    def test_names_that_no_log_has(self):
        """Of objects that no log can be called, the catalogue, everybody, and names that are too long."""
        rows = [
            ("a", "Orders", "no log can be called so"),
            ("a", "Team-*", "no log can be called so"),
            ("a", "-x", "no log can be called so"),
            ("a", "x-", "no log can be called so"),
            ("a", "a" * (NAME_SIZE_MAX + 1), "no log can be called so"),
            ("a", "a" * (NAME_SIZE_MAX + 1) + "*", "no log can be called so"),
            ("a", "_catalog", "no rule counts for '_catalog'"),
            ("*", "default", "is nobody's name"),
            ("a" * 256, "default", "no certificate names"),
        ]
        for subject, object_, text in rows:
            [(line, told)] = self.warnings(f"# one\np, {subject}, {object_}, consume\n")
            self.assertEqual(line, 2)
            self.assertIn(text, told)

    def test_wrong_action(self):
        """A word that is no action, where the matcher is another and might take it for one."""
        model = MODEL.replace("r.act == p.act", "keyMatch(r.act, p.act)")
        [(line, text)] = self.warnings("p, a, default, con*\np, a, default, prduce\n", model)
        self.assertEqual(line, 2)
        self.assertIn("'prduce' is no action", text)


class ReloadTests(SynchronousTestCase):
    """Changing the rules of a running node."""

    setUp = PolicyTests.setUp
    authorizer = PolicyTests.authorizer

    def test_reload_forgets_decisions(self):
        """After a reload the new file decides, also about what was remembered."""
        authorizer = self.authorizer()
        self.assertTrue(authorizer.permits("root", "default", "produce"))
        self.assertFalse(authorizer.permits_anything("eve"))
        self.policy.write_text("p, eve, *, consume\n")
        self.assertTrue(authorizer.permits("root", "default", "produce"))
        authorizer.take(authorizer.read())
        self.assertFalse(authorizer.permits("root", "default", "produce"))
        self.assertTrue(authorizer.permits_anything("eve"))

    def test_a_bad_file_keeps_the_old_rules(self):
        """A reload that fails says why and changes nothing."""
        authorizer = self.authorizer()
        self.policy.write_text("p, eve, *\n")
        error = self.assertRaises(ConfigError, authorizer.read)
        self.assertIn("policy.csv:1", str(error))
        self.assertTrue(authorizer.permits("root", "default", "produce"))
        self.assertFalse(authorizer.permits("eve", "default", "consume"))


class DecisionTests(SynchronousTestCase):
    """Decisions are remembered, and enforcement is never switched off."""

    setUp = PolicyTests.setUp
    authorizer = PolicyTests.authorizer

    def test_each_decision_is_made_once(self):
        """casbin is asked once for an allowed triple, and (for the log, for `*`) twice for a denied one."""
        self.model.write_text(MODEL.replace("r.sub == p.sub", "keyMatch(r.sub, p.sub)"))
        authorizer = self.authorizer("p, root, default, produce\n")
        with mock.patch.object(Enforcer, "enforce", autospec=True, side_effect=Enforcer.enforce) as enforce:
            for _ in range(3):
                self.assertTrue(authorizer.permits("root", "default", "produce"))
                self.assertFalse(authorizer.permits("eve", "default", "produce"))
        self.assertEqual(enforce.call_count, 3)

    def test_casbin_is_not_asked(self):
        """The rules of the model that comes with Loghouse are looked up, however many they are."""
        rules = "".join(f"p, s{number}, team-{number}-*, produce\n" for number in range(POLICY_RULES_MAX))
        authorizer = self.authorizer(rules)
        with mock.patch.object(Enforcer, "enforce", autospec=True, side_effect=AssertionError):
            for number in range(POLICY_RULES_MAX):
                self.assertTrue(authorizer.permits(f"s{number}", f"team-{number}-x", "produce"))
                self.assertFalse(authorizer.permits(f"s{number}", f"team-{number + 1}-x", "produce"))
                self.assertTrue(authorizer.permits_anything(f"s{number}"))

    @thorough
    @settings(deadline=None)
    @given(st.lists(st.tuples(NAMES, PATTERNS, ACTIONS), max_size=12), NAMES, LOGS, ACTIONS)
    def test_decides_as_casbin(self, rules, subject, log, action):
        """The table allows what casbin allows for the log's name or for a pattern that covers it."""
        model = Model()
        model.load_model_from_text(MODEL)
        enforcer = Enforcer(model)
        for rule in rules:
            enforcer.add_policy(*rule)
        covering = {log, *(log[:size] + "*" for size in range(len(log) + 1))} if log != "*" else {log}
        expected = any(enforcer.enforce(subject, one, action) for one in covering)
        lines = "".join(f"p, {', '.join(rule)}\n" for rule in rules)
        authorizer = self.authorizer(lines)
        self.assertEqual(authorizer.permits(subject, log, action), expected)
        self.assertEqual(authorizer.permits_anything(subject), any(rule[0] == subject for rule in rules))
        self.assertEqual(
            authorizer.permits_on_any(subject, action),
            any((one[0], one[2]) == (subject, action) for one in rules),
        )
        self.assertEqual(
            authorizer.permits_some(subject, log),
            any(authorizer.permits(subject, log, one) for one in Action),
        )

    def test_casbin_is_not_asked_about_roles(self):
        """Nor with roles: casbin would remember every name that it was ever asked about."""
        self.model.write_text(ROLES)
        authorizer = self.authorizer("p, writers, team-*, produce\ng, bob, writers\n")
        with mock.patch.object(Enforcer, "enforce", autospec=True, side_effect=AssertionError):
            self.assertTrue(authorizer.permits("bob", "team-x", "produce"))
            for number in range(10):
                self.assertFalse(authorizer.permits(f"s{number}", "team-x", "produce"))
                self.assertFalse(authorizer.permits_anything(f"s{number}"))

    @settings(deadline=None)
    @given(
        st.lists(st.tuples(NAMES | ROLE_NAMES, PATTERNS, ACTIONS), max_size=8),
        st.lists(st.tuples(NAMES | ROLE_NAMES, ROLE_NAMES | NAMES), max_size=24),
        NAMES | ROLE_NAMES,
        LOGS,
        ACTIONS,
    )
    def test_decides_as_casbin_with_roles(self, rules, links, subject, log, action):
        """With roles, of roles, in circles and in long chains, it is the same."""
        model = Model()
        model.load_model_from_text(ROLES)
        enforcer = Enforcer(model)
        for rule in rules:
            enforcer.add_policy(*rule)
        for link in links:
            enforcer.add_grouping_policy(*link)
        enforcer.build_role_links()

        def decides(name, log, action):
            covering = {log, *(log[:size] + "*" for size in range(len(log) + 1))} if log != "*" else {log}
            return any(enforcer.enforce(name, one, action) for one in covering)

        lines = [f"p, {', '.join(rule)}\n" for rule in rules] + [f"g, {', '.join(link)}\n" for link in links]
        self.model.write_text(ROLES)
        authorizer = self.authorizer("".join(lines))
        self.assertEqual(authorizer.permits(subject, log, action), decides(subject, log, action))
        self.assertEqual(
            authorizer.permits_some(subject, log), any(decides(subject, log, one) for one in Action)
        )
        # What is named in a rule stands for every log that it covers.
        objects = {rule[1] for rule in rules} | {"*", "default"}
        allowed = {(o, a) for o in objects for a in Action if decides(subject, o, a)}
        self.assertEqual(authorizer.permits_anything(subject), bool(allowed))
        self.assertEqual(authorizer.permits_on_any(subject, action), any(a == action for _, a in allowed))

    def test_long_chain(self):
        """A role counts nine steps away, and not ten, as casbin has it."""
        self.model.write_text(ROLES)
        for count, is_permitted in ((ROLE_HOPS_MAX, True), (ROLE_HOPS_MAX + 1, False)):
            links = "".join(f"g, n{number}, n{number + 1}\n" for number in range(count))
            authorizer = self.authorizer(f"p, n{count}, default, produce\n{links}")
            self.assertEqual(authorizer.permits("n0", "default", "produce"), is_permitted)
            self.assertEqual(authorizer._rules.enforcer.enforce("n0", "default", "produce"), is_permitted)

    def test_the_memory_is_bounded(self):
        """More subjects than are remembered make the oldest go, and every answer is still right."""
        authorizer = self.authorizer("p, s7, *, produce\n")
        for number in range(DECISIONS_MAX + 10):
            subject = f"s{number}"
            self.assertEqual(authorizer.permits(subject, "default", "produce"), number == 7)
        self.assertEqual(len(authorizer._decisions), DECISIONS_MAX)
        self.assertTrue(authorizer.permits("s7", "default", "produce"))

    @thorough
    def test_enforcement_is_never_switched_off(self):
        """No code of ours calls casbin's switch that allows everything."""
        self.assertTrue(self.authorizer()._rules.enforcer.enabled)
        for path in sorted((ROOT / "loghouse").rglob("*.py")):
            names = {node.attr for node in ast.walk(tree_of(path)) if isinstance(node, ast.Attribute)}
            self.assertFalse(
                names & {"enable_enforce", "enabled"} and "casbin" in path.read_text(), str(path)
            )
        self.assertIn("Enforcer", vars(policy))
