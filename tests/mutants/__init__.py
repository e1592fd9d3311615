"""Known bugs, planted one at a time; the simulator must catch each (docs/simulation.md)."""

from tests.mutants.consuming import CONSUMING
from tests.mutants.core import CORE
from tests.mutants.driver import DRIVER
from tests.mutants.full import FULL
from tests.mutants.storage import STORAGE

BANK = (*CORE, *STORAGE, *DRIVER)

# For whole production nodes.
FULL_BANK = (*FULL, *CONSUMING)

# For whole production nodes with named logs.
NAMED_BANK = ()
