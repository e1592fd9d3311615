"""A log in the program that uses it: no server, no ports, no event loop. See `loghouse.open`."""
