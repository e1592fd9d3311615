"""Frames, entries and messages: bytes to values and back, without I/O."""
