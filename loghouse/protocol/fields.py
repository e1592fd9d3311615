"""The fields of a message, each declared once: its type in Python, with its layout on the wire.

A dataclass declares its fields in the order of the wire, with the types of this module. `@message(kind)`
makes such a dataclass of a class, and the compiled `construct` declaration of its body (`WIRE`).
Files on disk use `struct_of`, `plain` and `read_fields` on their own.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from enum import IntEnum
from functools import cache, partial
from typing import (
    Annotated,
    Any,
    Final,
    TypeAlias,
    TypeVar,
    dataclass_transform,
    get_args,
    get_origin,
    get_type_hints,
)

from construct import (
    Bytes,
    Construct,
    Flag,
    GreedyBytes,
    Int8ub,
    Int16ub,
    Int32ub,
    Int64ub,
    PascalString,
    PrefixedArray,
    Sequence,
    Struct,
)

from loghouse.limits import UUID_SIZE
from loghouse.protocol.entry import Buffer

_T = TypeVar("_T")

U8: TypeAlias = Annotated[int, Int8ub]
U16: TypeAlias = Annotated[int, Int16ub]
U32: TypeAlias = Annotated[int, Int32ub]
U64: TypeAlias = Annotated[int, Int64ub]
Truth: TypeAlias = Annotated[bool, Flag]
Uuid: TypeAlias = Annotated[bytes, Bytes(UUID_SIZE)]
# The size in bytes comes first, in 8 or 16 bits.
SHORT_TEXT: Final = PascalString(Int8ub, "utf8")
ShortText: TypeAlias = Annotated[str, SHORT_TEXT]
LongText: TypeAlias = Annotated[str, PascalString(Int16ub, "utf8")]
# The number of items comes first, in 8, 16 or 32 bits.
Items8: TypeAlias = Annotated[tuple[_T, ...], Int8ub]
Items16: TypeAlias = Annotated[tuple[_T, ...], Int16ub]
Items32: TypeAlias = Annotated[tuple[_T, ...], Int32ub]
# Everything behind the other fields: the message's tail.
Rest: TypeAlias = Annotated[Buffer, GreedyBytes]

Reader: TypeAlias = Callable[[Any], Any]


class _WhenAsked:
    """An attribute of a class that is made when it is first asked for, and then takes this one's place.

    Most processes use few of the messages; to compile all layouts takes a third of the import.
    """

    def __init__(self, cls: type, name: str, make: Callable[[type], Any]) -> None:
        self._cls = cls
        self._name = name
        self._make = make

    def __get__(self, instance: object, owner: type) -> Any:
        made = self._make(self._cls)
        setattr(self._cls, self._name, made)
        return made


def _compiled(cls: type) -> Construct:
    return struct_of(cls).compile()


def _tail_of(cls: type) -> str:
    return next((one.name for one in struct_of(cls).subcons if one.subcon is GreedyBytes), "")


@dataclass_transform(frozen_default=True, kw_only_default=True)
def message(
    kind: int, size_max: int | None = None, *, frozen: bool = True, kw_only: bool = True
) -> Callable[[type[_T]], type[_T]]:
    """Make a message of a class. A class that has a `WIRE` keeps it, and its `TAIL`.

    Args:
        kind: Its number in the frame header: append-only, never reused.
        size_max: The largest body in bytes; by default that of the base class.
        frozen: As for a dataclass.
        kw_only: As for a dataclass.
    """

    def declare(cls: type[_T]) -> Any:
        made: Any = dataclasses.dataclass(frozen=frozen, slots=True, kw_only=kw_only)(cls)
        made.KIND, made.READERS = kind, _WhenAsked(made, "READERS", readers_of)
        if size_max is not None:
            made.SIZE_MAX = size_max
        if "WIRE" not in vars(made):
            made.WIRE = _WhenAsked(made, "WIRE", _compiled)
            made.TAIL = _WhenAsked(made, "TAIL", _tail_of)
        return made

    return declare


def struct_of(cls: type) -> Construct:
    """Return the declared layout of a dataclass: of its fields, in their order, that have one."""
    return Struct(*(name / wire for name, (wire, _) in _declared(cls).items() if wire is not None))


def readers_of(cls: type) -> dict[str, Reader]:
    """Return for each field of a dataclass what makes its value of what `construct` parsed."""
    return {name: read for name, (_, read) in _declared(cls).items()}


def read_fields(cls: type[_T], parsed: Any) -> _T:
    """Return the dataclass whose fields `construct` parsed."""
    return cls(**{name: read(parsed[name]) for name, read in readers_of(cls).items()})


def plain(value: Any) -> Any:
    """Return a field's value as `construct` builds it: a dataclass as the dict of its fields."""
    if isinstance(value, tuple):
        return [plain(item) for item in value]
    if dataclasses.is_dataclass(value):
        return {field.name: plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    return value


@cache
def _declared(cls: type) -> dict[str, tuple[Construct | None, Reader]]:
    hints = get_type_hints(cls, include_extras=True)
    return {field.name: _of_type(hints[field.name]) for field in dataclasses.fields(cls)}


def _of_type(hint: Any) -> tuple[Construct | None, Reader]:
    """Return the layout of a type, None when it declares none, and the reader of its values."""
    if isinstance(hint, type) and dataclasses.is_dataclass(hint):
        return struct_of(hint), partial(read_fields, hint)
    if get_origin(hint) is tuple:  # one of several, each with a place
        wires, readings = zip(*map(_of_type, get_args(hint)), strict=True)
        return Sequence(*wires), lambda parsed: tuple(
            read(item) for read, item in zip(readings, parsed, strict=True)
        )
    if get_origin(hint) is not Annotated:
        return None, _as_it_is
    of, wire = get_args(hint)
    if get_origin(of) is tuple:
        item, read = _of_type(get_args(of)[0])
        return PrefixedArray(wire, item), lambda items: tuple(map(read, items))
    return wire, of if isinstance(of, type) and issubclass(of, IntEnum) else _as_it_is


def _as_it_is(value: Any) -> Any:
    return value
