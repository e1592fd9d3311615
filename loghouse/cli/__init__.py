"""The `loghouse` command."""
