"""Known bugs that the simulator must catch: how they are written down."""

from loghouse.testing.mutation import Edit, Mutant


def bug(name, citation, description, *edits, **hunt):
    """Return the bug of `edits`, (target, old, new) each; `hunt` are the other fields of `Mutant`."""
    made = tuple(Edit(*edit) for edit in edits)
    return Mutant(name=name, citation=citation, description=description, edits=made, **hunt)
