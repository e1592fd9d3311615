"""Whole production nodes in the simulator: the real driver, gossip, forwarding, links."""
