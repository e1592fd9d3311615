"""Checks JSON by the schemas of the OpenAPI document: as much of JSON Schema as that uses."""

import re


def schema_problems(value, schema, schemas, where="$"):
    """Yield what of a value is not as its schema says; an unknown keyword of a schema is an error."""
    for keyword, given in schema.items():
        yield from CHECKS[keyword](value, given, schema, schemas, where)


def _reference(value, given, schema, schemas, where):
    yield from schema_problems(value, schemas[given.rpartition("/")[2]], schemas, where)


def _type(value, given, schema, schemas, where):
    kinds = {
        "object": dict,
        "array": list,
        "string": str,
        "boolean": bool,
        "null": type(None),
        "integer": int,
    }
    allowed = tuple(kinds[name] for name in ([given] if isinstance(given, str) else given))
    if not isinstance(value, allowed) or (isinstance(value, bool) and bool not in allowed):
        yield f"{where} is no {given}: {value!r}"


def _properties(value, given, schema, schemas, where):
    for name, one in given.items():
        if name in value:
            yield from schema_problems(value[name], one, schemas, f"{where}.{name}")


def _required(value, given, schema, schemas, where):
    yield from (f"{where} has no {name}" for name in given if name not in value)


def _additional(value, given, schema, schemas, where):
    assert given is False
    yield from (f"{where} has {name}" for name in value if name not in schema["properties"])


def _items(value, given, schema, schemas, where):
    for number, item in enumerate(value):
        yield from schema_problems(item, given, schemas, f"{where}[{number}]")


def _bound(is_kept):
    def check(value, given, schema, schemas, where):
        if not is_kept(value, given):
            yield f"{where} is beyond {given}: {value!r}"

    return check


KINDS = {
    "object": dict,
    "array": list,
    "string": str,
    "boolean": bool,
    "null": type(None),
    "integer": int,
}
CHECKS = {
    "$ref": _reference,
    "type": _type,
    "properties": _properties,
    "required": _required,
    "additionalProperties": _additional,
    "items": _items,
    "enum": _bound(lambda value, given: value in given),
    "pattern": _bound(lambda value, given: re.search(given, value) is not None),
    "minimum": _bound(lambda value, given: value >= given),
    "maximum": _bound(lambda value, given: value <= given),
    "maxLength": _bound(lambda value, given: len(value) <= given),
    "minItems": _bound(lambda value, given: len(value) >= given),
    "maxItems": _bound(lambda value, given: len(value) <= given),
    "contentEncoding": _bound(lambda value, given: True),
    "default": _bound(lambda value, given: True),
}
