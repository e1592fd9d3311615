"""Known bugs, planted one at a time; the simulator must catch each (docs/simulation.md)."""

from loghouse.testing.mutation import Mutant

BANK: tuple[Mutant, ...] = ()
