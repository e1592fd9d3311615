"""Who may do what: a casbin policy in the files of the original, with every decision remembered.

Default deny. Subjects and actions match exactly, logs by their name, its beginning (`team-a-*`) or `*`.
A decision costs casbin some 2.5 µs a rule, so rules of the model that comes with Loghouse, and of the same
one with roles, are looked up in a table that says the same; with any other model casbin decides. Decisions
are remembered until a reload.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from enum import StrEnum
from pathlib import Path
from typing import Any, Final

from casbin import Enforcer
from casbin.model import Model
from casbin.persist import Adapter

from loghouse.auth.identity import is_name
from loghouse.errors import ConfigError, PermissionDeniedError
from loghouse.limits import (
    DECISIONS_MAX,
    NAME_SIZE_MAX,
    POLICY_RULES_MAX,
    POLICY_SIZE_MAX,
    SUBJECT_SIZE_MAX,
)
from loghouse.protocol.entry import CATALOGUE_LOG, DEFAULT_LOG
from loghouse.text import hidden_in, split_lines

ANY_OBJECT: Final = "*"
"""In a rule: every log. As the object of a request: the whole cluster."""

# The effect of the original's model: one allowing rule is enough, and nothing can take it back.
_ALLOW_OVERRIDE: Final = "some(where (p_eft == allow))"
_REQUEST_TOKENS: Final = ["r_sub", "r_obj", "r_act"]
_EXACT_SUBJECT: Final = "r_sub == p_sub"  # of a matcher, as casbin writes it
_EXACT_OBJECT: Final = "r_obj == p_obj"
_EXACT_ACTION: Final = "r_act == p_act"
_ROLE_SUBJECT: Final = "g(r_sub, p_sub)"
_EXACT_MATCHER: Final = {_EXACT_SUBJECT, _EXACT_OBJECT, _EXACT_ACTION}
_ROLE_MATCHER: Final = {_ROLE_SUBJECT, _EXACT_OBJECT, _EXACT_ACTION}
ROLE_HOPS_MAX: Final = 9
"""From a subject to a role of its roles' roles: casbin looks at ten names in a row, its own the first."""
_FORBIDDEN_IN_RULES: Final = frozenset("#\"'()[]")


class Action(StrEnum):
    """What a policy rule can allow."""

    PRODUCE = "produce"
    CONSUME = "consume"
    ADMIN = "admin"
    MANAGE = "manage"


class Rules:
    """A parsed and checked policy."""

    def __init__(
        self, enforcer: Enforcer, rules: Sequence[Sequence[str]], warnings: Sequence[str] = ()
    ) -> None:
        """Take rules as casbin has them: each its kind and its values.

        Args:
            warnings: What whoever wrote the rules should know, each with its line.
        """
        self.warnings = tuple(warnings)
        self.rules = tuple(map(tuple, rules))
        self.paths: tuple[Path, Path] | None = None  # of the model and the policy, when it came from files
        self.enforcer = enforcer  # decides with a model of the user's own; fixed
        # The objects of rules that end in `*`. With exact equalities none ever meets the name of a log, so
        # each that covers it is asked for as well: safe just because no rule of this effect can deny.
        self._patterns: frozenset[str] = frozenset()
        model = enforcer.get_model()
        if model["e"]["e"].value == _ALLOW_OVERRIDE:
            self._patterns = frozenset(
                rule[2] for rule in rules if rule[0] == "p" and len(rule) > 2 and rule[2].endswith(ANY_OBJECT)
            ) | {ANY_OBJECT}
        self._pattern_sizes = sorted({len(pattern) - 1 for pattern in self._patterns})
        self._objects: dict[str, set[str]] = {}  # the objects of each subject's rules
        # The objects that a subject has a rule for, by subject and action; None when casbin has to be asked.
        self._table: dict[tuple[str, str], set[str]] | None = {} if _has_table(model) else None
        self._roles: dict[str, set[str]] = {}  # the roles that rules give to a subject, or to a role
        has_roles = self._table is not None and _ROLE_SUBJECT in _parts_of(model)
        for kind, *values in rules:
            if kind == "g" and has_roles:
                self._roles.setdefault(values[0], set()).add(values[1])
            if kind == "p" and len(values) > 2:
                subject, object_, action = values[:3]
                self._objects.setdefault(subject, set()).add(object_)
                if self._table is not None:
                    self._table.setdefault((subject, action), set()).add(object_)

    @property
    def count(self) -> int:
        """How many rules there are."""
        return len(self.rules)

    def decide(self, subject: str, object_: str, action: str) -> bool:
        """Whether this subject may do this to this log. casbin needs milliseconds for a thousand rules."""
        candidates = [object_, *self._covering(object_)]
        table = self._table
        if table is not None:
            names = self._names_of(subject)
            return any(not table.get((name, action), _NOTHING).isdisjoint(candidates) for name in names)
        return any(self.enforcer.enforce(subject, candidate, action) for candidate in candidates)

    def decide_any(self, subject: str, object_: str) -> bool:
        """Whether there is an action that this subject may do to this log."""
        if self._table is not None:
            covering = [object_, *self._covering(object_)]
            return not self.objects_of(subject).isdisjoint(covering)
        return any(self.decide(subject, object_, action) for action in Action)

    def objects_of(self, subject: str) -> set[str]:
        """Return the objects of the rules for a subject and for its roles."""
        return set().union(*(self._objects.get(name, _NOTHING) for name in self._names_of(subject)))

    def _names_of(self, subject: str) -> set[str]:
        """Return the subject and every role that it has."""
        names = {subject}
        if self._table is None:
            if "g" in self.enforcer.get_model().model:
                names.update(self.enforcer.get_implicit_roles_for_user(subject))
            return names
        newest = names
        for _ in range(ROLE_HOPS_MAX if subject in self._roles else 0):
            newest = {role for name in newest for role in self._roles.get(name, _NOTHING)} - names
            names = names | newest
        return names

    def _covering(self, object_: str) -> list[str]:
        """Return the patterns that cover a log's name; the cluster, `*`, is covered by itself alone."""
        if object_ == ANY_OBJECT:
            return []
        beginnings = (object_[:size] + ANY_OBJECT for size in self._pattern_sizes if size <= len(object_))
        return [pattern for pattern in beginnings if pattern in self._patterns]


_NOTHING: Final[set[str]] = set()


def _parts_of(model: Model) -> set[str]:
    """Return what a model's matcher asks for, all of it at once."""
    return {part.strip() for part in model["m"]["m"].value.split("&&")}


def _has_table(model: Model) -> bool:
    """Whether a rule allows just the subject, object and action that it names, to its role's members, too."""
    parts = _parts_of(model)
    roles = model.model.get("g", {})
    return (
        model["e"]["e"].value == _ALLOW_OVERRIDE
        and (parts == _EXACT_MATCHER or (parts == _ROLE_MATCHER and "g" in roles and _arity(roles["g"]) == 2))
        and model["p"]["p"].tokens == ["p_sub", "p_obj", "p_act"]
        and list(model["p"]) == ["p"]
    )


def _arity(definition: Any) -> int:
    return len(definition.tokens)


class Authorizer:
    """Decides by a model file and a policy file; see `certs/README.md`.

    One instance serves every server, on one thread.
    """

    def __init__(self, model_path: Path, policy_path: Path) -> None:
        """Read both files; raises as `read`."""
        self._model_path = model_path
        self._policy_path = policy_path
        self._rules = self.read()
        self._decisions: dict[tuple[str, str, str], bool] = {}
        self._any: dict[str, bool] = {}
        self._on_any: dict[tuple[str, str], bool] = {}

    @property
    def rules(self) -> Rules:
        """What decides now."""
        return self._rules

    def read(self, model_path: Path | None = None, policy_path: Path | None = None) -> Rules:
        """Read both files; changes nothing, so it may be done on a thread: a thousand rules take 25 ms.

        Args:
            model_path, policy_path: Where they are by now; None: where they were.

        Raises:
            ConfigError: Lists what is wrong with them.
        """
        return _load(model_path or self._model_path, policy_path or self._policy_path)

    def take(self, rules: Rules) -> None:
        """Let these rules decide from now on; what was remembered is forgotten. On the thread that asks."""
        self._rules = rules
        if rules.paths is not None:
            self._model_path, self._policy_path = rules.paths
        self._decisions = {}
        self._any = {}
        self._on_any = {}

    def permits(self, subject: str, object_: str, action: str) -> bool:
        """Whether `subject` may do `action` on the log `object_` (`*`: on the cluster)."""
        key = (subject, object_, action)
        decision = self._decisions.get(key)
        if decision is None:
            decision = self._rules.decide(subject, object_, action)
            _remember(self._decisions, key, decision)
        return decision

    def check(self, subject: str, object_: str, action: str) -> None:
        """Raise PermissionDeniedError, which names all three, unless `permits`."""
        if not self.permits(subject, object_, action):
            raise PermissionDeniedError(subject, action, object_)

    def permits_anything(self, subject: str) -> bool:
        """Whether there is any action on any log, or on the cluster, that `subject` may do."""
        decision = self._any.get(subject)
        if decision is None:
            objects = [DEFAULT_LOG, ANY_OBJECT, *self._rules.objects_of(subject)]
            decision = any(
                self._rules.decide(subject, object_, action) for object_ in objects for action in Action
            )
            _remember(self._any, subject, decision)
        return decision

    def permits_on_any(self, subject: str, action: str) -> bool:
        """Whether there is any log, or the cluster, to which `subject` may do `action`."""
        key = (subject, action)
        decision = self._on_any.get(key)
        if decision is None:
            objects = [DEFAULT_LOG, ANY_OBJECT, *self._rules.objects_of(subject)]
            decision = any(self._rules.decide(subject, object_, action) for object_ in objects)
            _remember(self._on_any, key, decision)
        return decision

    def permits_some(self, subject: str, object_: str) -> bool:
        """Whether there is any action that `subject` may do on the log `object_`. Not remembered: cheap."""
        return self._rules.decide_any(subject, object_)

    def check_anything(self, subject: str) -> None:
        """Raise unless `permits_anything`.

        Raises:
            PermissionDeniedError: The subject may do nothing here; names the least that a rule could allow.
        """
        if not self.permits_anything(subject):
            raise PermissionDeniedError(subject, Action.CONSUME, DEFAULT_LOG)


def _remember(decisions: dict[Any, bool], key: object, decision: bool) -> None:
    if len(decisions) >= DECISIONS_MAX:
        # The oldest goes: it costs one decision to know again, and nobody can make the table grow.
        del decisions[next(iter(decisions))]
    decisions[key] = decision


# --- reading and checking the two files ----------------------------------------------


class _CheckedRules(Adapter):  # type: ignore[misc]
    """Hands casbin rules that were parsed here: its own reader skips what it does not understand."""

    def __init__(self, rules: list[list[str]]) -> None:
        self._rules = rules

    def load_policy(self, model: Model) -> None:
        for kind, *values in self._rules:
            model[kind[0]][kind].policy.append(values)


def _load(model_path: Path, policy_path: Path) -> Rules:
    model = _load_model(model_path)
    numbered = _parse_rules(_read(policy_path), policy_path, model)
    rules = [values for _, values in numbered]
    try:
        enforcer = Enforcer(model, _CheckedRules(rules))
        # Meets every rule once: a matcher that cannot be evaluated shows now, not at the first call.
        enforcer.enforce("", "", "")
    except Exception as error:
        raise ConfigError([f"{model_path} with {policy_path}: casbin cannot use them: {error}"]) from error
    warnings = [f"{policy_path}:{number}: {text}" for number, text in _warnings(numbered, model)]
    loaded = Rules(enforcer, rules, warnings)
    loaded.paths = model_path, policy_path
    return loaded


def _load_model(path: Path) -> Model:
    model = Model()
    lines = _lines(_read(path), path)
    for number, line in enumerate(lines, start=1):
        if problem := _hidden_problem(line.partition("#")[0]):
            raise ConfigError([f"{path}:{number}: {problem}"])
    try:
        model.load_model_from_text("\n".join(lines))
    except Exception as error:
        raise ConfigError([f"{path}: is not a casbin model: {error}"]) from error
    missing = [section for section in "rpem" if section not in model.model]
    if missing:
        names = ", ".join(Model.section_name_map[section] for section in missing)
        raise ConfigError([f"{path}: is not a casbin model: missing or empty: {names}"])
    if model["r"]["r"].tokens != _REQUEST_TOKENS:
        raise ConfigError([f"{path}: request_definition must be r = sub, obj, act"])
    return model


def _parse_rules(text: str, path: Path, model: Model) -> list[tuple[int, list[str]]]:
    """Return every rule's line, kind and values, or raise with everything that is wrong."""
    rules: list[tuple[int, list[str]]] = []
    problems: list[str] = []
    for number, line in enumerate(_lines(text, path), start=1):
        line = line.strip(" \t")
        if not line or line.startswith("#"):
            continue
        values = [value.strip(" \t") for value in line.split(",")]
        problem = _hidden_problem(line) or _rule_problem(values, model)
        if problem:
            problems.append(f"{path}:{number}: {problem}")
        rules.append((number, values))
    if len(rules) > POLICY_RULES_MAX:
        problems.append(f"{path}: has {len(rules)} rules; at most {POLICY_RULES_MAX} are allowed")
    if problems:
        raise ConfigError(problems)
    return rules


def _hidden_problem(line: str) -> str:
    hidden = hidden_in(line)
    return f"holds the character U+{ord(hidden):04X}, which nobody sees; remove it" if hidden else ""


def _rule_problem(values: list[str], model: Model) -> str:
    kind = values[0]
    kinds = {
        name: len(rule.tokens) for section in "pg" for name, rule in model.model.get(section, {}).items()
    }
    if kind not in kinds:
        return f"{kind!r} begins no rule of this model; allowed: {', '.join(kinds)}"
    if len(values) - 1 != kinds[kind]:
        return f"a rule {kind!r} has {kinds[kind]} values, this one has {len(values) - 1}"
    if not all(values):
        return "a value is empty"
    # Of other matchers nobody can tell here what a value means.
    given = dict(zip(model.model["p"][kind].tokens, values[1:], strict=True)) if kind == "p" else {}
    matcher = model["m"]["m"].value
    action, subject = given.get("p_act"), given.get("p_sub")
    if action is not None and _EXACT_ACTION in matcher and action not in set(Action):
        return f"{action!r} is no action; allowed: {', '.join(Action)}"
    if subject == ANY_OBJECT and _EXACT_SUBJECT in matcher:
        return f"{subject!r} is nobody's name, and no rule is for everybody; write a rule for each subject"
    object_ = given.get("p_obj", "")
    if ANY_OBJECT in object_[:-1] and _EXACT_OBJECT in matcher:
        return f"{object_!r} is no log's name; {ANY_OBJECT} stands only at the end, for all that begin so"
    forbidden = _FORBIDDEN_IN_RULES.intersection("".join(values))
    if forbidden:
        return f"a value holds {' '.join(sorted(forbidden))}, which would be a part of the name"
    return ""


# --- rules that are right and do nothing ----------------------------------------------


def _warnings(numbered: Sequence[tuple[int, list[str]]], model: Model) -> Iterator[tuple[int, str]]:
    """Yield the line of each rule that can never match, and why."""
    matcher, has_table = model["m"]["m"].value, _has_table(model)
    giving = _giving(numbered)
    for number, (kind, *values) in numbered:
        problem = ""
        if kind.startswith("g"):
            if f"{kind}(" not in matcher:
                problem = f"the matcher of this model does not ask for {kind!r}; the rule does nothing"
            elif has_table:
                problem = _role_problem(values[0], values[1], giving)
        else:
            given = dict(zip(model.model["p"][kind].tokens, values, strict=True))
            problem = _unmet(given, has_table=has_table)
        if problem:
            yield number, problem


def _giving(numbered: Sequence[tuple[int, list[str]]]) -> set[str]:
    """Return the names to which some rule gives something, itself or by a role."""
    giving = {values[1] for _, values in numbered if values[0].startswith("p")}
    members: dict[str, list[str]] = {}
    for _, values in numbered:
        if values[0] == "g":
            members.setdefault(values[2], []).append(values[1])
    newest = giving
    while newest:
        newest = {member for role in newest for member in members.get(role, ())} - giving
        giving = giving | newest
    return giving


def _role_problem(member: str, role: str, giving: set[str]) -> str:
    if member == role:
        return f"{role!r} is a role of itself, which changes nothing"
    if role not in giving:
        return f"the role {role!r} gives nothing: no rule `p, {role}, ...` is there; is the name right?"
    return ""


def _unmet(given: dict[str, str], *, has_table: bool) -> str:
    """Return why no request can ever meet a rule; empty when one can, or nobody can tell."""
    action, subject, object_ = given.get("p_act", ""), given.get("p_sub", ""), given.get("p_obj", "")
    if action.replace("-", "").isalpha() and action not in set(Action):
        return f"{action!r} is no action, so the rule matches nothing; allowed: {', '.join(Action)}"
    if not has_table:
        return ""
    if subject == ANY_OBJECT:
        return f"{subject!r} is nobody's name, so the rule matches nothing; write one for a role"
    if len(subject.encode()) > SUBJECT_SIZE_MAX:
        return (
            f"no certificate names a subject of more than {SUBJECT_SIZE_MAX} bytes; the rule matches nothing"
        )
    if object_ == CATALOGUE_LOG:
        return (
            f"no rule counts for {CATALOGUE_LOG!r}: who may administer the cluster (`*`) reads it, "
            "and nobody changes it"
        )
    beginning = object_.removesuffix(ANY_OBJECT)
    is_pattern = beginning != object_
    # The beginning of a name may end in `-`, as a whole one may not.
    name = f"{beginning}x"[: max(NAME_SIZE_MAX, len(beginning))] if is_pattern else beginning
    if beginning and not is_name(name):
        return (
            "no log can be called so, so the rule matches nothing; allowed in names: "
            f"1 to {NAME_SIZE_MAX} of a-z, 0-9 and -"
        )
    return ""


def _lines(text: str, path: Path) -> list[str]:
    try:
        return split_lines(text)
    except ValueError as error:
        raise ConfigError([f"{path}:{error}"]) from None


def _read(path: Path) -> str:
    try:
        with path.open("rb") as file:
            content = file.read(POLICY_SIZE_MAX + 1)
    except OSError as error:
        raise ConfigError([f"{path}: cannot be read: {error.strerror or error}"]) from None
    if len(content) > POLICY_SIZE_MAX:
        raise ConfigError([f"{path}: is larger than {POLICY_SIZE_MAX} bytes"])
    try:
        return content.decode()
    except UnicodeDecodeError:
        raise ConfigError([f"{path}: is not UTF-8 text"]) from None
