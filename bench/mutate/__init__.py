"""Random mutants: small changes of the product, one at a time, that its tests must notice. See ADR 29."""
