"""Simulated clock, network, disk and cluster; the product imports nothing of it."""
