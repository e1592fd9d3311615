"""Copies of logs in files, made while the cluster runs, and data directories made of them."""
