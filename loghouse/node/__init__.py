"""The process: what it hosts, and what others may ask of it."""
