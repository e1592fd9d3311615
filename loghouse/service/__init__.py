"""The service tree, and what is checked before it starts."""
