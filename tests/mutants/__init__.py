"""Known bugs, planted one at a time; the simulator must catch each (docs/simulation.md)."""

from tests.mutants.core import CORE
from tests.mutants.driver import DRIVER
from tests.mutants.storage import STORAGE

BANK = (*CORE, *STORAGE, *DRIVER)
