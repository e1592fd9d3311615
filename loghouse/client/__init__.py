"""Clients of a Loghouse cluster."""
