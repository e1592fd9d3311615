"""Fields that are declared once: their layout, and their values."""

from dataclasses import FrozenInstanceError, dataclass
from enum import IntEnum
from typing import Annotated

from construct import Int8ub, Struct
from twisted.trial.unittest import SynchronousTestCase

from loghouse.protocol.fields import (
    U16,
    Items8,
    Rest,
    ShortText,
    Truth,
    message,
    plain,
    read_fields,
    struct_of,
)
from loghouse.protocol.message import Message


class Colour(IntEnum):
    RED = 1
    BLUE = 2


@dataclass(frozen=True)
class Point:
    x: U16
    colour: Annotated[Colour, Int8ub] = Colour.RED


@dataclass(frozen=True)
class Drawing:
    origin: Point
    points: Items8[Point] = ()
    labels: Items8[tuple[U16, ShortText]] = ()
    is_shown: Truth = True
    notes: object = None


class LayoutTests(SynchronousTestCase):
    """What a dataclass declares, and what is read back."""

    def test_round_trip(self):
        """Values, tuples, enums and dataclasses within each other stand in the order of the fields."""
        drawing = Drawing(Point(1), (Point(2, Colour.BLUE), Point(3)), ((4, "a"),))
        encoded = bytes.fromhex("0001 01  02  0002 02  0003 01  01  0004 01 61  01")
        self.assertEqual(struct_of(Drawing).build(plain(drawing)), encoded)
        self.assertEqual(read_fields(Drawing, struct_of(Drawing).parse(encoded) | {"notes": None}), drawing)

    def test_unknown_member_of_an_enum(self):
        """A number that the enum does not have is an error, as in any constructor of it."""
        with self.assertRaisesRegex(ValueError, "3 is not a valid Colour"):
            read_fields(Point, {"x": 1, "colour": 3})

    def test_fields_without_a_layout(self):
        """A field of another type is none of the wire's."""
        names = [field.name for field in struct_of(Drawing).subcons]
        self.assertEqual(names, ["origin", "points", "labels", "is_shown"])


class MessageTests(SynchronousTestCase):
    """`@message`."""

    def test_declared(self):
        """Kind and cap are set, the layout is made, and the rest of the body is the tail."""

        @message(0x7F01, 99)
        class Tailed(Message):
            number: U16
            rest: Rest = b""

        self.assertEqual((Tailed.KIND, Tailed.SIZE_MAX, Tailed.TAIL), (0x7F01, 99, "rest"))
        self.assertEqual(b"".join(Tailed(number=1, rest=b"x").encode()), b"\0\x01x")
        self.assertEqual(Tailed.decode(b"\0\x01x"), Tailed(number=1, rest=b"x"))

    def test_values(self):
        """A message has no place for more, and unless it says so its fields are named and never changed."""

        @message(0x7F03)
        class Fixed(Message):
            number: U16

        @message(0x7F04, frozen=False, kw_only=False)
        class Loose(Message):
            number: U16

        self.assertRaises(TypeError, Fixed, 1)
        with self.assertRaises(FrozenInstanceError):
            Fixed(number=1).number = 2
        loose = Loose(1)
        loose.number = 2
        self.assertEqual(loose, Loose(number=2))
        for one in (Fixed(number=1), loose):
            self.assertFalse(hasattr(one, "__dict__"))

    def test_layout_of_its_own(self):
        """A class that has a layout keeps it."""

        @message(0x7F02)
        class Small(Message):
            WIRE = Struct("number" / Int8ub).compile()
            number: U16

        self.assertEqual(b"".join(Small(number=1).encode()), b"\x01")
