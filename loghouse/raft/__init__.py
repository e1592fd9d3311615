"""The consensus core: messages and ticks in, work out. No I/O, no clock."""
