"""Simulated clock, network, disk and cluster; nothing outside tests imports this."""
