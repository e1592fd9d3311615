"""As much of PromQL as the alert rules use: selectors, rates, arithmetic and comparisons that all hold.

A series is a name with labels. What a range function sees are two scrapes, `SECONDS` apart.
"""

import re

SECONDS = 60.0
SELECTOR = re.compile(r"([a-z_]+)(?:\{([^}]*)\})?(?:\[\w+\])?$")
MATCHER = re.compile(r'(\w+)(=~|=)"([^"]*)"')


def series_of(families, **labels):
    """Return the samples of parsed families as series, with more labels."""
    return {
        (sample.name, frozenset({**sample.labels, **labels}.items())): sample.value
        for family in families
        for sample in family.samples
    }


def firing(expression, before, after, now=0.0):
    """Return the labels of the series for which the expression of an alert holds."""
    found = [_holding(part, before, after, now) for part in expression.split(" and ")]
    return [dict(labels) for labels in found[0] if all(labels in one for one in found)]


def _holding(comparison, before, after, now):
    """Return the labels for which one comparison holds."""
    left, sign, right = re.fullmatch(r"(.+) (==|>|<) (.+)", comparison).groups()
    values, bound = _sum(left, before, after, now), _sum(right, before, after, now)
    holds = {"==": lambda a: a == bound, ">": lambda a: a > bound, "<": lambda a: a < bound}[sign]
    return [labels for labels, value in values.items() if holds(value)]


def _sum(expression, before, after, now):
    """Evaluate what stands on one side: numbers, or series with the same labels."""
    for sign, apply in (
        (" - ", lambda a, b: a - b),
        (" / ", lambda a, b: a / b if b else float("nan")),
        (" * ", lambda a, b: a * b),
    ):
        if sign in expression:
            left, right = (_sum(part, before, after, now) for part in expression.split(sign, 1))
            if isinstance(left, dict) and isinstance(right, dict):
                return {labels: apply(left[labels], right[labels]) for labels in left.keys() & right.keys()}
            if isinstance(left, dict):
                return {labels: apply(value, right) for labels, value in left.items()}
            return apply(left, right)
    if expression == "time()":
        return now
    if re.fullmatch(r"[\d.]+", expression):
        return float(expression)
    called = re.fullmatch(r"(rate|increase|delta)\((.+)\)", expression)
    if called is None:
        return _select(expression, after)
    old, new = _select(called[2], before), _select(called[2], after)
    if called[1] == "delta":
        return {labels: new[labels] - old[labels] for labels in new.keys() & old.keys()}
    seconds = SECONDS if called[1] == "rate" else 1.0
    return {labels: (value - old.get(labels, 0.0)) / seconds for labels, value in new.items()}


def _select(expression, series):
    name, matchers = SELECTOR.fullmatch(expression).groups()
    found = {}
    for (one, labels), value in series.items():
        given = dict(labels)
        if one == name and all(
            re.fullmatch(wanted if sign == "=~" else re.escape(wanted), given.get(label, ""))
            for label, sign, wanted in MATCHER.findall(matchers or "")
        ):
            found[labels] = value
    return found
