"""Tests of loghouse.catalogue."""
