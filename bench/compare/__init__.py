"""Loghouse beside other logs of three durable nodes: `make compare`."""
