"""One log on one node."""
