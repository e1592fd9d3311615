"""Tests of the room `integrations`: they need the extra of each framework, which requirements/dev.txt has."""

from importlib.util import find_spec
from unittest import SkipTest

if find_spec("faststream") is None:
    raise SkipTest("FastStream is not installed")
